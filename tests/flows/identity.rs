//! One account is one sandbox, whatever the provider lists: seen by owners, on a whole fleet.

use contract::SyncReport;
use domain::{ExternalId, STILL_LISTED, SandboxId, StateName};
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use simulator::{BrokenEntry, Fault, FaultKind, Operation};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);

/// The account of the record of `id`.
async fn account_of(rig: &Rig, id: &str) -> ExternalId {
    rig.sandbox(id).await.expect("a record").external_id
}

/// A sync one hour later: the provider may no longer list what it deleted before.
async fn sync_much_later(rig: &Rig) -> SyncReport {
    rig.clock.advance(HOUR);
    rig.sync().await
}

#[tokio::test]
async fn account_that_gets_its_number_later_is_allocated_once() {
    let plan = Plan::new(0);
    let rig = plan.start_unsynced().await;
    rig.csp.add_accounts(1, None).unwrap();
    rig.csp.fail(Operation::List, Fault::always(FaultKind::MalformedEntry(BrokenEntry::NullCspId))).unwrap();
    eventually("the account without a number", TIMEOUT, || async {
        let report = rig.sync().await;
        match rig.count(StateName::Available).await {
            1 => Ok(()),
            other => Err(format!("{other} after {report:?}")),
        }
    })
    .await;
    let first = rig.api.allocate("student-1").await;
    assert_eq!(first.status, 201, "{first:?}");
    rig.csp.clear_faults();
    let report = rig.sync().await;
    assert_eq!(
        (report.status.as_str(), report.inserted, report.unchanged),
        ("completed", 0, 1),
        "{report:?}"
    );
    let second = rig.api.allocate("student-2").await;
    assert_eq!(second.status, 409, "one account is one sandbox: {second:?}");
    rig.stop().await;
}

#[tokio::test]
async fn recreated_account_is_allocated_and_deleted() {
    let rig = Plan::new(1).start().await;
    let number = rig.csp.accounts()[0].csp_id.to_string();
    let former = account_of(&rig, &number).await;
    let again = rig.csp.recreate(&former).unwrap().expect("the account was there");
    let report = rig.sync().await;
    assert_eq!((report.renewed, report.marked_stale), (1, 0), "{report:?}");
    let claim = rig.api.allocate("student-1").await;
    assert_eq!((claim.status, claim.sandbox()), (201, number.as_str()), "{claim:?}");
    assert_eq!(account_of(&rig, &number).await.as_str(), again.id);
    rig.api.release(&number, "student-1").await;
    rig.until_state(&number, StateName::Deleted).await;
    assert_eq!(rig.csp.census().live, 0, "nothing leaks");

    // The number appears once more, with an account that no owner has used.
    let rig = {
        rig.stop().await;
        Plan::new(2).start().await
    };
    let claim = rig.api.allocate("student-1").await;
    let number = claim.sandbox().to_owned();
    let again = rig.csp.recreate(&account_of(&rig, &number).await).unwrap().expect("it was there");
    let report = rig.sync().await;
    assert_eq!((report.identity_changed, report.renewed), (1, 0), "{report:?}");
    assert_eq!(rig.count(StateName::Allocated).await, 1, "it is reported and not ended");
    rig.api.release(&number, "student-1").await;
    rig.until_state(&number, StateName::Deleted).await;
    assert_eq!(rig.sync().await.renewed, 1);
    let renewed = rig.sandbox(&number).await.unwrap();
    assert_eq!(
        (renewed.state.name(), renewed.external_id.as_str()),
        (StateName::Available, again.id.as_str())
    );
    rig.stop().await;
}

#[tokio::test]
async fn falsely_confirmed_deletion_is_retried_and_then_parked() {
    for status in [200, 202] {
        let rig = Plan::new(1).start().await;
        rig.csp.fail(Operation::Delete, Fault::always(FaultKind::status(status))).unwrap();
        let claim = rig.api.allocate("student-1").await;
        let id = claim.sandbox().to_owned();
        rig.api.release(&id, "student-1").await;
        rig.until_state(&id, StateName::Deleted).await;
        assert_eq!(rig.sync().await.tombstoned, 1, "the listing may lag");
        for deletes in 2..=4 {
            let report = sync_much_later(&rig).await;
            assert_eq!(report.relisted, 1, "{report:?}");
            rig.until_state(&id, StateName::Deleted).await;
            assert_eq!(rig.deletes_at_csp(), deletes);
            assert_eq!(rig.api.allocate("student-2").await.status, 409, "a used account is not handed out");
        }
        assert_eq!(sync_much_later(&rig).await.relisted, 1);
        let parked = rig.sandbox(&id).await.unwrap();
        assert_eq!(parked.state.name(), StateName::DeletionFailed);
        assert_eq!(parked.deletion().unwrap().last_error.as_deref(), Some(STILL_LISTED));
        rig.sweep().await;
        let shown = rig.api.admin(reqwest::Method::GET, "/v1/admin/deletions/parked").await;
        assert_eq!((shown.status, &shown.body["count"]), (200, &serde_json::json!(1)), "{shown:?}");
        // Once the provider deletes reliably, the operator replays the deletion.
        rig.csp.clear_faults();
        let path = format!("/v1/admin/deletions/{id}/replay");
        let replayed = rig.api.admin(reqwest::Method::POST, &path).await;
        assert_eq!(replayed.status, 200, "{replayed:?}");
        rig.until_state(&id, StateName::Deleted).await;
        assert_eq!(rig.csp.census().live, 0);
        rig.stop().await;
    }
}

#[tokio::test]
async fn used_account_is_not_reallocated_after_tombstone_purge() {
    let rig = Plan::new(2).start().await;
    let claim = rig.api.allocate("student-1").await;
    let used = account_of(&rig, claim.sandbox()).await;
    // The table after a time without syncs that is longer than the life of a tombstone: only the identity item is left.
    let gone = ExternalId::parse("identity/accounts/00000000-0000-4000-8000-000000000000").unwrap();
    rig.store.name_identity(&gone, &SandboxId::parse("1").unwrap()).await.unwrap();
    assert!(rig.store.identity(&used).await.unwrap().is_some_and(|identity| identity.absences == 0));
    for absences in 1..3 {
        rig.sync().await;
        assert_eq!(rig.store.identity(&gone).await.unwrap().unwrap().absences, absences);
    }
    assert_eq!(rig.sync().await.identities_dropped, 1);
    assert_eq!(rig.store.identity(&gone).await.unwrap(), None);
    assert!(rig.store.identity(&used).await.unwrap().is_some(), "that of a live record stays");
    rig.stop().await;
}

#[tokio::test]
async fn overlapping_pages_mark_nothing_stale() {
    let rig = Plan::new(40).set("CSP_PAGE_SIZE", 10).set("SYNC_STALE_PERCENT_MAX", 100).start().await;
    rig.csp.fail(Operation::List, Fault::always(FaultKind::OverlappingPages)).unwrap();
    for _ in 0..2 {
        let report = rig.sync().await;
        assert_eq!((report.status.as_str(), report.marked_stale), ("refused", 0), "{report:?}");
        assert!(report.reason.as_deref().is_some_and(|reason| reason.contains("overlap")), "{report:?}");
        assert_eq!(rig.count(StateName::Available).await, 40);
    }
    rig.csp.clear_faults();
    // A single listing with overlapping pages is read again.
    rig.csp.fail(Operation::List, Fault::next(2, FaultKind::OverlappingPages)).unwrap();
    let report = rig.sync().await;
    assert_eq!((report.status.as_str(), report.unchanged), ("completed", 40), "{report:?}");
    rig.stop().await;
}
