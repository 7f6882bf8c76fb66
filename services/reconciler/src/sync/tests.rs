//! A sync: its changes, its refusals, and concurrent writers.

use super::*;
use crate::listing::LISTING_MAX;
use crate::plan::Belief;
use crate::tests::{HOUR, NOW, Rig, account, done, every_provider_error, id};
use contract::{Report, TickKind};
use domain::{Descriptor, Epoch, ExternalId, ProviderName, SandboxName, StateName};
use ports::clock::Clock as _;
use ports::provider::{Abilities, Account, Listing, Malformed, Provider, Providers};
use std::sync::Arc;
use std::time::Duration;
use testkit::faulty::Fault;
use testkit::provider::{Call, FakeProvider};

/// Pages of the index that a sync of a small pool reads before its first write: two pools, two shards, each state.
const PAGES_READ: usize = 2 * 2 * StateName::indexed(Some(PoolKind::Account)).len();
/// Calls before the first sandbox becomes free: reads the number of shards, and notes the supply.
const CALLS_BEFORE_INSERT: usize = PAGES_READ + 2;

/// A sync as started by a tick.
async fn run(rig: &Rig) -> SyncReport {
    match rig.run(TickKind::SYNC).await {
        Report::Sync(report) => report,
        other => panic!("{other:?}"),
    }
}

async fn free(rig: &Rig) -> usize {
    rig.in_state(StateName::Available).await.len()
}

/// Calls that changed the store.
fn writes(rig: &Rig) -> Vec<&'static str> {
    rig.faulty.calls().into_iter().filter(|call| !["page", "follow_size", "sandbox"].contains(call)).collect()
}

/// A sync with that result and without a single write.
async fn assert_nothing_is_done(rig: &Rig, status: RunStatus, reason: &str) {
    let report = run(rig).await;
    assert_eq!((report.status, report.reason.as_deref()), (status, Some(reason)));
    assert_eq!(report.synced + report.marked_stale + report.tombstoned + report.raced, 0, "{report:?}");
    assert_eq!(writes(rig), Vec::<&str>::new());
    assert_eq!(rig.metric("broker_runs_total", &["sync", status.as_str()]), 1);
}

/// The plan of a sync that starts now.
async fn plan_of(rig: &Rig) -> Plan {
    let (listed, name) = (rig.listed().await, ProviderName::csp());
    let source = Source { name: &name, provider: rig.provider.as_ref() };
    let (mut due, mut skipped) = (Due::default(), Skipped::default());
    rig.reconciler.plan(&source, listed, Belief::Careful, &mut due, &mut skipped).await.unwrap()
}

#[tokio::test]
async fn the_pool_follows_the_listing() {
    let rig = Rig::new();
    rig.provider.set_page_size(2);
    rig.list(0..4);
    let report = run(&rig).await;
    let expected = SyncReport {
        status: RunStatus::Completed,
        listed: 4,
        synced: 4,
        inserted: 4,
        ..SyncReport::default()
    };
    assert_eq!(report, expected);
    assert_eq!(rig.provider.calls(), [0, 2, 4].map(|offset| Call::List { offset }));

    // One is renamed, one is missing, one is new.
    let renamed = Account { name: "lab-renamed".to_owned(), ..account(0) };
    rig.provider.set_accounts([account(1), account(2), account(4), renamed].into());
    let report = run(&rig).await;
    let expected = SyncReport {
        status: RunStatus::Completed,
        listed: 4,
        synced: 4,
        inserted: 1,
        refreshed: 1,
        unchanged: 2,
        marked_stale: 1,
        ..SyncReport::default()
    };
    assert_eq!(report, expected);
    assert_eq!(rig.sandbox(0).await.name.as_str(), "lab-renamed");
    assert_eq!((rig.state(3).await, free(&rig).await), (StateName::Stale, 4));

    // It returns.
    rig.list(0..5);
    let report = run(&rig).await;
    assert_eq!((report.restored, report.refreshed, report.unchanged), (1, 1, 3), "{report:?}");
    assert_eq!(free(&rig).await, 5);
    let count = |what| rig.metric("broker_reconciled_total", &["sync", what]);
    assert_eq!(["inserted", "restored", "refreshed", "marked_stale"].map(count), [5, 1, 2, 1]);
    assert_eq!(rig.metric("broker_runs_total", &["sync", RunStatus::Completed.as_str()]), 3);
}

#[tokio::test]
async fn pool_is_chosen_by_name() {
    let rig = Rig::new();
    rig.provider.set_accounts([account(0), Account { name: "dns-1".to_owned(), ..account(1) }].into());
    run(&rig).await;
    assert_eq!((rig.sandbox(0).await.pool.as_str(), rig.sandbox(1).await.pool.as_str()), ("main", "dns"));
}

#[tokio::test]
async fn marking_stale_needs_a_second_listing() {
    let rig = Rig::new();
    rig.fill(10).await;
    let page = |numbers: std::ops::Range<usize>| {
        Ok(Listing { accounts: numbers.map(account).collect(), ..Listing::default() })
    };
    rig.provider.script_list(page(0..8));
    rig.provider.script_list(page(0..9));
    let report = run(&rig).await;
    assert_eq!((report.marked_stale, report.unchanged), (1, 8), "{report:?}");
    assert_eq!((rig.state(8).await, rig.state(9).await), (StateName::Available, StateName::Stale));
}

#[tokio::test]
async fn provider_failure_changes_nothing_and_is_reported() {
    for (error, reason) in every_provider_error() {
        let rig = Rig::new();
        rig.fill(3).await;
        rig.list([0]);
        rig.provider.script_list(Err(error.clone()));
        assert_nothing_is_done(&rig, RunStatus::Failed, reason).await;

        // On the second page.
        let rig = Rig::new();
        rig.fill(3).await;
        rig.provider.script_list(Ok(Listing {
            accounts: vec![account(0)],
            next: Some(1),
            ..Listing::default()
        }));
        rig.provider.script_list(Err(error.clone()));
        assert_nothing_is_done(&rig, RunStatus::Failed, reason).await;

        // In the listing that should have agreed.
        let rig = Rig::new();
        rig.fill(3).await;
        rig.provider
            .script_list(Ok(Listing { accounts: vec![account(0), account(7)], ..Listing::default() }));
        rig.provider.script_list(Err(error));
        assert_nothing_is_done(&rig, RunStatus::Failed, reason).await;
        assert_eq!(free(&rig).await, 3);
    }
}

#[tokio::test]
async fn endless_listing_is_refused() {
    let page = |next, ignored| Listing { accounts: vec![account(7)], next, ignored, ..Listing::default() };
    let endless = [
        // The same offset again, at once or later, and an earlier offset.
        vec![page(Some(0), 0)],
        vec![page(Some(1), 0), page(Some(1), 0)],
        vec![page(Some(5), 0), page(Some(3), 0)],
        // More than any provider has.
        vec![page(Some(1), LISTING_MAX)],
        vec![page(Some(1), LISTING_MAX / 2), page(None, LISTING_MAX / 2)],
    ];
    for pages in endless {
        let rig = Rig::new();
        rig.fill(3).await;
        for (number, page) in pages.into_iter().enumerate() {
            // A different account on each page: endless, without overlaps.
            rig.provider.script_list(Ok(Listing { accounts: vec![account(7 + number)], ..page }));
        }
        assert_nothing_is_done(&rig, RunStatus::Failed, "the provider's listing does not end").await;
    }
    let rig = Rig::new();
    rig.provider.script_list(Ok(page(None, LISTING_MAX - 1)));
    assert_eq!(run(&rig).await.inserted, 1, "as many as allowed are read");
}

#[tokio::test]
async fn implausible_listing_is_refused() {
    let rig = Rig::new();
    rig.fill(3).await;
    rig.list([]);
    assert_nothing_is_done(&rig, RunStatus::Refused, "the provider's listing is empty").await;

    let rig = Rig::new();
    rig.fill(100).await;
    rig.list((0..79).chain([200]));
    let reason = "21 of 100 free sandboxes are not listed, more than the 20 that one sync may mark stale";
    assert_nothing_is_done(&rig, RunStatus::Refused, reason).await;
    assert_eq!(free(&rig).await, 100);
}

#[tokio::test]
async fn forced_sync_follows_a_refused_listing_and_names_its_actor() {
    let forced = async |rig: &Rig| rig.reconciler.sync(&TickOrder::forced("alice")).await;
    let rig = Rig::new();
    rig.fill(100).await;
    rig.allocate(7).await;
    rig.list(0..10);
    assert_eq!(run(&rig).await.status, RunStatus::Refused);
    let report = forced(&rig).await;
    let reason = "forced although 90 of 99 free sandboxes are not listed, more than the 19 that one sync may mark stale";
    assert_eq!((report.status, report.reason.as_deref()), (RunStatus::Completed, Some(reason)));
    assert_eq!((report.forced_by.as_deref(), report.marked_stale), (Some("alice"), 90));
    assert_eq!(rig.state(7).await, StateName::Allocated);

    // An empty listing as well; the report names a held sandbox, and the sync does not change it.
    rig.list([]);
    let report = forced(&rig).await;
    assert_eq!(report.reason.as_deref(), Some("forced although the provider's listing is empty"));
    assert_eq!((report.marked_stale, report.allocated_missing, free(&rig).await), (9, 1, 0));

    // Nothing else is forced: a failed listing, an entry without a sandbox, and a contradicting second listing.
    let rig = Rig::new();
    rig.fill(100).await;
    rig.provider.script_list(Err(ports::provider::ProviderError::Malformed { message: "no".to_owned() }));
    assert_eq!(forced(&rig).await.status, RunStatus::Failed);
    rig.provider.script_list(Ok(Listing { malformed: vec![Malformed::default()], ..Listing::default() }));
    assert_eq!(forced(&rig).await.marked_stale, 0);
    rig.provider.script_list(Ok(Listing::default()));
    assert_eq!((forced(&rig).await.marked_stale, free(&rig).await), (0, 100));
}

#[tokio::test]
async fn expired_forced_sync_is_refused() {
    let rig = Rig::new();
    rig.fill(100).await;
    rig.list(0..10);
    let until_ms = rig.clock.now_ms();
    rig.clock.advance(Duration::from_millis(77_000));
    let order = TickOrder::forced("alice");
    let report = rig.reconciler.sync(&order.clone().until(until_ms)).await;
    let reason = "forced too late: the operator had given up 77.000 s before it could begin";
    assert_eq!((report.status, report.reason.as_deref()), (RunStatus::Refused, Some(reason)));
    assert_eq!((report.forced_by.as_deref(), report.listed, free(&rig).await), (Some("alice"), 0, 100));
    let report = rig.reconciler.sync(&order.until(rig.clock.now_ms())).await;
    assert_eq!(
        (report.status, report.marked_stale),
        (RunStatus::Completed, 90),
        "the last moment is in time"
    );
}

#[tokio::test]
async fn unusable_entry_is_counted_and_marks_nothing_stale() {
    let rig = Rig::new();
    rig.fill(3).await;
    let listing = Listing {
        accounts: vec![account(0), Account { name: "a\nb".to_owned(), ..account(1) }],
        malformed: vec![Malformed::default()],
        ..Listing::default()
    };
    rig.provider.script_list(Ok(listing));
    let report = run(&rig).await;
    assert_eq!((report.status, report.listed, report.skipped), (RunStatus::Completed, 2, 2), "{report:?}");
    assert_eq!((report.marked_stale, free(&rig).await), (0, 3), "any sandbox may be the one without an id");
    assert_eq!(rig.metric("broker_reconciled_total", &["sync", "skipped"]), 2);
}

#[tokio::test]
async fn unlisted_allocated_sandbox_is_reported_and_unchanged() {
    let rig = Rig::new();
    rig.fill(3).await;
    let held = rig.allocate(2).await;
    rig.list(0..2);
    let report = run(&rig).await;
    assert_eq!((report.allocated_missing, report.marked_stale), (1, 0), "{report:?}");
    assert_eq!(rig.sandbox(2).await, held);
    assert_eq!(rig.metric("broker_allocated_missing", &[]), 1);
    rig.list(0..3);
    assert_eq!(run(&rig).await.allocated_missing, 0);
    assert_eq!(rig.metric("broker_allocated_missing", &[]), 0);
}

#[tokio::test]
async fn lagging_listing_restores_no_deleted_sandbox() {
    let rig = Rig::new();
    rig.fill(3).await;
    rig.release(1, NOW).await;
    done(rig.store.finish_deletion(&id(1), Epoch::new(1), NOW, NOW.after(HOUR), None).await.unwrap());
    let report = run(&rig).await;
    assert_eq!((report.tombstoned, report.inserted, report.raced), (1, 0, 0), "{report:?}");
    assert_eq!((rig.state(1).await, free(&rig).await), (StateName::Deleted, 2));
}

#[tokio::test]
async fn concurrent_write_wins_over_the_plan() {
    let rig = Rig::new();
    rig.fill(8).await;
    let stale = rig.sandbox(0).await;
    done(rig.store.mark_missing(&stale, NOW).await.unwrap());
    // 0 is back, 1 has another name, 2 and 3 are missing, 8 and 9 are new.
    let renamed = Account { name: "lab-renamed".to_owned(), ..account(1) };
    rig.list((4..10).chain([0]));
    rig.provider.add(renamed);
    let plan = plan_of(&rig).await;
    assert_eq!(
        (plan.insert.len(), plan.restore.len(), plan.describe.len(), plan.missing.len(), plan.unchanged),
        (2, 1, 1, 2, 4)
    );
    let new = plan.insert.clone();

    // Another process restores 0 and adds 8; 1 and 2 are claimed; 9 was added, used and deleted.
    done(rig.store.mark_found(&rig.sandbox(0).await, NOW).await.unwrap());
    for sandbox in &new {
        rig.store.insert(sandbox, NOW).await.unwrap();
    }
    rig.allocate(1).await;
    rig.allocate(2).await;
    rig.release(9, NOW).await;
    done(rig.store.finish_deletion(&id(9), Epoch::new(1), NOW, NOW.after(HOUR), None).await.unwrap());
    let before = [rig.sandbox(0).await, rig.sandbox(1).await, rig.sandbox(2).await, rig.sandbox(9).await];

    let mut report = SyncReport::default();
    rig.reconciler.apply(plan, &mut report, &mut Skipped::default()).await.unwrap();
    let expected = SyncReport { marked_stale: 1, raced: 4, tombstoned: 1, ..SyncReport::default() };
    assert_eq!(report, expected);
    let after = [rig.sandbox(0).await, rig.sandbox(1).await, rig.sandbox(2).await, rig.sandbox(9).await];
    assert_eq!(after, before, "a lost write changes nothing");
    assert_eq!(rig.state(3).await, StateName::Stale, "the one that was not touched");
}

#[tokio::test]
async fn provider_without_a_listing_is_not_asked_for_one() {
    let mut rig = Rig::new();
    let (name, nodes) = (ProviderName::nodes(), Arc::new(FakeProvider::new()));
    let none = Abilities { list: false, delete: true, prepare_delete: false, check: false };
    nodes.set_abilities(none);
    let (first, further) = (rig.provider.clone() as Arc<dyn Provider>, nodes.clone() as Arc<dyn Provider>);
    let providers = Providers::new([(ProviderName::csp(), first), (name.clone(), further)]);
    Arc::get_mut(&mut rig.reconciler).expect("it has no other owner").ports.providers = providers;
    rig.fill(3).await;
    let container = NewSandbox {
        id: id(900),
        name: SandboxName::parse("ctr-900").unwrap(),
        external_id: ExternalId::of(&name, "900").unwrap(),
        pool: PoolName::parse("main").unwrap(),
        descriptor: Descriptor::default(),
    };
    rig.store.insert(&container, NOW).await.unwrap();
    let report = run(&rig).await;
    assert_eq!((report.status, report.reason, report.listed), (RunStatus::Completed, None, 3));
    assert_eq!((report.unchanged, report.providers.len()), (3, 0));
    assert_eq!(rig.state(900).await, StateName::Available, "no listing says anything about it");
    assert_eq!(nodes.calls(), []);
    // The first provider always is one of accounts: its listing is missed.
    rig.provider.set_abilities(none);
    let asked = rig.provider.calls();
    let report = run(&rig).await;
    assert_eq!((report.status, report.reason.as_deref()), (RunStatus::Failed, Some("it has no listing")));
    assert_eq!(rig.provider.calls(), asked);
}

#[tokio::test]
async fn claim_wins_over_a_concurrent_sync() {
    let rig = Rig::with(|store| store.with(PAGES_READ + 1, Fault::PauseBefore));
    rig.fill(10).await;
    rig.list(0..9);
    let syncing = tokio::spawn({
        let reconciler = Arc::clone(&rig.reconciler);
        async move { reconciler.sync(&TickOrder::default()).await }
    });
    rig.faulty.paused().await;
    assert_eq!(rig.faulty.calls().last(), Some(&"mark_missing"));
    let held = rig.allocate(9).await;
    rig.faulty.resume();
    let report = syncing.await.unwrap();
    assert_eq!(
        (report.status, report.raced, report.marked_stale),
        (RunStatus::Completed, 1, 0),
        "{report:?}"
    );
    assert_eq!(rig.sandbox(9).await, held);
}

#[tokio::test]
async fn concurrent_syncs_add_every_sandbox_once() {
    let rig = Rig::with(|store| store.with(CALLS_BEFORE_INSERT, Fault::PauseBefore));
    rig.list(0..60);
    let first = tokio::spawn({
        let reconciler = Arc::clone(&rig.reconciler);
        async move { reconciler.sync(&TickOrder::default()).await }
    });
    rig.faulty.paused().await;
    assert_eq!(rig.faulty.calls().get(CALLS_BEFORE_INSERT), Some(&"insert"));
    let second = rig.reconciler.sync(&TickOrder::default()).await;
    rig.faulty.resume();
    let first = first.await.unwrap();
    assert_eq!((first.status, second.status), (RunStatus::Completed, RunStatus::Completed));
    assert_eq!(first.inserted + second.inserted, 60, "{first:?} {second:?}");
    assert!(first.raced >= 1 && second.inserted >= 1, "{first:?} {second:?}");
    assert_eq!(free(&rig).await, 60);
}

#[tokio::test]
async fn store_failure_is_reported_and_the_next_sync_resumes() {
    let mut broken = 0;
    for fault in [Fault::FailBefore, Fault::FailAfter] {
        for call in 0.. {
            let rig = Rig::with(|store| store.with(call, fault));
            rig.fill(6).await;
            rig.list([0, 1, 2, 3, 6, 7]);
            let report = run(&rig).await;
            let calls = rig.faulty.calls();
            let Some(name) = calls.get(call) else { break };
            let shown = (report.status, report.reason.as_deref());
            assert_eq!(shown, (RunStatus::Failed, Some("the table does not answer")), "{fault:?} at {name}");
            let report = run(&rig).await;
            assert_eq!(report.status, RunStatus::Completed, "{fault:?} at {name}: {report:?}");
            assert_eq!(free(&rig).await, 6, "{fault:?} at {name}");
            assert_eq!((rig.state(4).await, rig.state(5).await), (StateName::Stale, StateName::Stale));
            broken += 1;
        }
    }
    assert!(broken >= 2 * (CALLS_BEFORE_INSERT + 4), "only {broken} calls were broken");
}
