//! Listings: pages, filtered entries, and failures.

use crate::rig::{
    Rig, TOKEN, client, csp_config, ids, list_all, simulator_config, start_at, status_fault, target,
};
use csp::{CspConfig, LISTING_BODY_BYTES_MAX};
use domain::UnixSeconds;
use ports::provider::{Provider, ProviderError};
use simulator::{BrokenEntry, FaultKind, Faults, Operation};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use testkit::clock::ManualClock;

/// Entries of every listing that are not usable sandboxes.
const BYSTANDERS: usize = 4;

#[tokio::test]
async fn a_thousand_accounts_come_in_pages_each_exactly_once() {
    let rig = Rig::new(1_050, &[]).await;
    let all = rig.list_all().await.unwrap();
    assert_eq!(all.accounts.len(), 1_050);
    assert_eq!(all.ignored, BYSTANDERS);
    assert!(all.malformed.is_empty());
    assert_eq!(rig.count(Operation::List), 11);
    let unique: BTreeSet<&str> = ids(&all.accounts).into_iter().collect();
    assert_eq!(unique.len(), 1_050);
    let expected = rig.handle.accounts();
    assert!(all.accounts.iter().zip(&expected).all(|(account, view)| {
        account.id == view.csp_id.to_string()
            && account.external_id == view.id
            && account.name == view.name
            && account.descriptor.first().map(|(_, id)| id) == view.sfdc_account_id.as_ref()
    }));
    assert_eq!(all.accounts.iter().filter(|account| account.descriptor.is_empty()).count(), 210);
}

#[tokio::test]
async fn full_last_page_ends_the_listing() {
    let rig = Rig::new(16, &[("CSP_PAGE_SIZE", "10")]).await;
    let all = rig.list_all().await.unwrap();
    assert_eq!((all.accounts.len(), all.ignored), (16, BYSTANDERS));
    assert_eq!(rig.count(Operation::List), 3);
}

#[tokio::test]
async fn empty_or_short_listing_is_returned_as_it_is() {
    let rig = Rig::new(46, &[("CSP_PAGE_SIZE", "10")]).await;
    rig.fail_next(Operation::List, FaultKind::EmptyList);
    let empty = rig.list_all().await.unwrap();
    assert_eq!((empty.accounts.len(), empty.ignored), (0, 0));
    let short = FaultKind::ShortList { pages: 2 };
    rig.handle.fail(Operation::List, simulator::Fault::always(short)).unwrap();
    let short = rig.list_all().await.unwrap();
    assert_eq!(short.accounts.len() + short.ignored, 20);
    rig.handle.clear_faults();
    assert_eq!(rig.list_all().await.unwrap().accounts.len(), 46);
}

#[tokio::test]
async fn bad_entry_does_not_fail_its_page() {
    let rig = Rig::new(5, &[]).await;
    let page = async |entry| {
        rig.fail_next(Operation::List, FaultKind::MalformedEntry(entry));
        rig.provider.list(0).await.unwrap()
    };
    let no_id = page(BrokenEntry::NoId).await;
    assert_eq!(no_id.accounts.len(), 4);
    assert_eq!(no_id.malformed[0].reason, "account without id (csp_id 2000001)");
    assert_eq!((no_id.malformed.len(), no_id.malformed[0].id.as_deref()), (1, Some("2000001")));
    let null = page(BrokenEntry::NullCspId).await;
    assert_eq!(null.accounts.len(), 5);
    let first = &rig.handle.accounts()[0];
    assert_eq!(Some(null.accounts[0].id.as_str()), first.id.rsplit('/').next());
    let twins = page(BrokenEntry::DuplicateCspId).await;
    assert_eq!(twins.accounts[0].id, twins.accounts[1].id);
    assert_ne!(twins.accounts[0].external_id, twins.accounts[1].external_id);
    // The client passes names on unchanged: the reconciler, which stores them, checks them.
    let line_break = page(BrokenEntry::NameWithLineBreak).await;
    assert_eq!(line_break.accounts[0].name, "lab\nbroken");
    assert!(line_break.malformed.is_empty());
}

#[tokio::test]
async fn a_failed_listing_is_an_error_and_never_an_empty_one() {
    let rig = Rig::new(5, &[]).await;
    let flood = FaultKind::Flood { bytes: LISTING_BODY_BYTES_MAX as u64 + 1 };
    for kind in [FaultKind::Garbage, flood, status_fault(204, None), FaultKind::Flood { bytes: 10 }] {
        rig.fail_next(Operation::List, kind.clone());
        let result = rig.provider.list(0).await;
        assert!(matches!(result, Err(ProviderError::Malformed { .. })), "{kind:?}: {result:?}");
    }
    for (kind, status) in [(status_fault(500, None), 500), (status_fault(503, None), 503)] {
        rig.fail_next(Operation::List, kind);
        let result = rig.provider.list(0).await;
        let begin = format!("status {status}: ");
        assert!(
            matches!(&result, Err(ProviderError::Failed { message }) if message.starts_with(&begin)),
            "{result:?}"
        );
    }
    rig.answer_next(Operation::List, 404);
    let result = rig.provider.list(0).await;
    assert!(matches!(result, Err(ProviderError::Refused { .. })), "{result:?}");
    rig.fail_next(Operation::List, FaultKind::Reset);
    let result = rig.provider.list(0).await;
    assert!(matches!(result, Err(ProviderError::Unreachable { .. })), "{result:?}");
    rig.fail_next(Operation::List, FaultKind::Hang);
    let result = rig.impatient().list(0).await;
    assert_eq!(result, Err(ProviderError::UnknownOutcome { waited_seconds: 1 }));
    assert_eq!(rig.list_all().await.unwrap().accounts.len(), 5);
}

#[tokio::test]
async fn lagging_listing_shows_deleted_accounts_for_a_while() {
    let clock = ManualClock::at(UnixSeconds::new(1_000_000));
    let simulator = start_at(simulator_config(5), Arc::new(clock.clone())).await;
    let provider = client(csp_config(&simulator.base_url(), &[]));
    let handle = simulator.handle();
    handle.set_faults(Faults { list_shows_deleted_for_ms: 60_000, ..Faults::default() }).unwrap();
    provider.delete(&target(&handle.accounts()[2])).await.unwrap();
    assert_eq!(list_all(&provider).await.unwrap().accounts.len(), 5);
    clock.advance(Duration::from_secs(59));
    assert_eq!(list_all(&provider).await.unwrap().accounts.len(), 5);
    clock.advance(Duration::from_secs(1));
    let left = list_all(&provider).await.unwrap().accounts;
    assert_eq!(ids(&left), ["2000001", "2000002", "2000004", "2000005"]);
}

#[tokio::test]
async fn listing_without_paging_parameters_is_complete() {
    let rig = Rig::new(300, &[]).await;
    let get = async |query: &str| {
        let url = format!("{}/current_user/accounts{query}", rig.simulator.base_url());
        let request = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap().get(url);
        let response = request.header("authorization", format!("Token {TOKEN}")).send().await.unwrap();
        response.json::<serde_json::Value>().await.unwrap()
    };
    let whole = get("").await;
    assert_eq!(whole["results"].as_array().unwrap().len(), 304);
    assert_eq!(whole["page"], serde_json::json!({"offset": 0, "size": 304, "total": 304}));
    let part = get("?_limit=10&_offset=300").await;
    assert_eq!(part["results"].as_array().unwrap().len(), 4);
    let entry = &part["results"][3];
    for field in ["account_type", "state", "id", "name", "csp_id", "created_at", "parent_account_id"] {
        assert!(!entry[field].is_null(), "{field} of {entry}");
    }
    assert!(entry["created_at"].as_str().unwrap().ends_with('Z'));
    assert!(get("?_limit=x").await["error"][0]["message"].is_string());
    // A client with a page size above the total gets everything in one page.
    let config = csp_config(&rig.simulator.base_url(), &[]);
    let greedy = client(CspConfig { page_size: 1_000, ..config });
    let all = greedy.list(0).await.unwrap();
    assert_eq!((all.accounts.len(), all.next), (300, None));
}
