//! Stale removal: sandboxes that were missing for long become tombstones; those that returned stay.

use super::*;
use crate::listing::PAGE_LIMIT;
use crate::tests::{HOUR, NOW, Rig, account, done, id};
use contract::{Report, TickKind};
use domain::{Cause, State};
use ports::clock::Clock as _;
use ports::store::Insert;
use std::sync::Arc;
use std::time::Duration;
use testkit::bus::{Call, Loss};
use testkit::faulty::Fault;

/// A run as started by a tick.
async fn run(rig: &Rig) -> StaleReport {
    match rig.run(TickKind::STALE).await {
        Report::Stale(report) => report,
        other => panic!("{other:?}"),
    }
}

fn completed(due: u64, removed: u64, raced: u64) -> StaleReport {
    let (status, grace_period_hours, deleted) = (RunStatus::Completed, 24, removed);
    StaleReport { status, grace_period_hours, due, removed, deleted, raced, ..StaleReport::default() }
}

/// Makes a sandbox missing at the current time.
async fn miss(rig: &Rig, number: usize) -> Sandbox {
    done(rig.store.mark_missing(&rig.sandbox(number).await, rig.clock.now()).await.unwrap())
}

#[tokio::test]
async fn stale_sandbox_becomes_a_tombstone_after_exactly_a_day() {
    let rig = Rig::new();
    rig.fill(4).await;
    miss(&rig, 0).await;
    rig.clock.advance(Duration::from_secs(1));
    miss(&rig, 1).await;
    rig.clock.advance(24 * HOUR - Duration::from_secs(2));
    assert_eq!(run(&rig).await, completed(0, 0, 0));
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(run(&rig).await, completed(1, 1, 0));
    let gone = rig.sandbox(0).await;
    let State::Deleted(tombstone) = &gone.state else { panic!("{gone:?}") };
    let now = NOW.after(24 * HOUR);
    assert_eq!((tombstone.deleted_at, tombstone.purge_at), (now, now.after(30 * 24 * HOUR)));
    assert_eq!(tombstone.deletion, None);
    assert_eq!(gone.history.last().unwrap().cause, Cause::Forgotten);
    assert_eq!([rig.state(1).await, rig.state(2).await], [StateName::Stale, StateName::Available]);
    // A lagging listing does not bring it back, and the event log has its whole life.
    let listed = rig.listed().await.usable;
    let again = rig.store.insert(&listed[&id(0)], now).await.unwrap();
    assert_eq!(again, Insert::Exists(Box::new(gone.clone())));
    let events: Vec<_> = rig.bus.events().into_iter().filter(|event| event.subject == "0").collect();
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["listed", "missing", "forgotten"]);
    assert_eq!(events[2].data.by, "stale");
    let count = |what| rig.metric("broker_reconciled_total", &["stale", what]);
    assert_eq!(["removed", "raced"].map(count), [1, 0]);
    assert_eq!(rig.metric("broker_runs_total", &["stale", RunStatus::Completed.as_str()]), 2);
}

#[tokio::test]
async fn order_names_another_grace_period_for_one_run() {
    let rig = Rig::new();
    rig.fill(4).await;
    miss(&rig, 0).await;
    rig.clock.advance(2 * HOUR);
    miss(&rig, 1).await;
    let ordered = async |hours, until_ms| {
        rig.reconciler.remove_stale(&TickOrder::with_grace(hours, "alice").until(until_ms)).await
    };
    let now_ms = rig.clock.now_ms();
    let late = ordered(1, now_ms - 1).await;
    assert_eq!((late.status, late.due), (RunStatus::Refused, 0), "its caller has gone");
    assert!(late.reason.is_some_and(|reason| reason.contains("too late")));
    assert_eq!(ordered(48, now_ms).await, StaleReport { grace_period_hours: 48, ..completed(0, 0, 0) });
    assert_eq!(ordered(1, now_ms).await, StaleReport { grace_period_hours: 1, ..completed(1, 1, 0) });
    assert_eq!([rig.state(0).await, rig.state(1).await], [StateName::Deleted, StateName::Stale]);
    assert_eq!(run(&rig).await, completed(0, 0, 0), "the next run has the set one");
    assert_eq!(ordered(0, now_ms).await, StaleReport { grace_period_hours: 0, ..completed(1, 1, 0) });
    assert_eq!(ordered(u64::MAX, now_ms).await.due, 0);
}

#[tokio::test]
async fn sandbox_restored_before_the_write_is_kept() {
    let rig = Rig::new();
    rig.fill(4).await;
    for number in 0..4 {
        miss(&rig, number).await;
    }
    rig.clock.advance(25 * HOUR);
    let now = rig.clock.now();
    let mut walk =
        rig.reconciler.walk(StateName::Stale, &SortRange::DueBy(now.before(24 * HOUR))).await.unwrap();
    let mut batch = Vec::new();
    while let Some(page) = walk.next(&mut Skipped::default()).await.unwrap() {
        batch.extend(page);
    }
    assert_eq!(batch.len(), 4);
    // One is listed again, one is listed and claimed, one returned and disappeared: each after the index was read.
    let back = |number| {
        let rig = &rig;
        async move { done(rig.store.mark_found(&rig.sandbox(number).await, now).await.unwrap()) }
    };
    back(0).await;
    back(1).await;
    rig.allocate(1).await;
    back(2).await;
    miss(&rig, 2).await;
    let before = [rig.sandbox(0).await, rig.sandbox(1).await, rig.sandbox(2).await];
    let mut report = StaleReport::default();
    rig.reconciler.remove_batch(batch, &mut report, &mut Skipped::default()).await.unwrap();
    assert_eq!((report.due, report.removed, report.raced), (4, 1, 3));
    assert_eq!([rig.sandbox(0).await, rig.sandbox(1).await, rig.sandbox(2).await], before);
    assert_eq!(rig.state(3).await, StateName::Deleted);
}

#[tokio::test]
async fn concurrent_run_and_sync_have_one_winner_per_sandbox() {
    // The run has read its first page and is about to write, when the sandboxes are listed again.
    let rig = Rig::with(|store| store.with(1, Fault::PauseBefore));
    rig.fill(40).await;
    for number in 0..40 {
        miss(&rig, number).await;
    }
    rig.clock.advance(25 * HOUR);
    let running = tokio::spawn({
        let reconciler = Arc::clone(&rig.reconciler);
        async move { reconciler.remove_stale(&TickOrder::default()).await }
    });
    rig.faulty.paused().await;
    assert_eq!(rig.faulty.calls(), ["page", "forget"]);
    for number in 0..40 {
        done(rig.store.mark_found(&rig.sandbox(number).await, rig.clock.now()).await.unwrap());
    }
    rig.faulty.resume();
    let report = running.await.unwrap();
    assert!(report.removed == 0 && report.raced > 0, "{report:?}");
    assert_eq!(rig.in_state(StateName::Available).await.len(), 40);
}

#[tokio::test]
async fn run_removes_more_than_one_page() {
    let count = 2 * usize::from(PAGE_LIMIT) + 100;
    let rig = Rig::new();
    rig.fill(count).await;
    for number in 0..count {
        miss(&rig, number).await;
    }
    rig.provider.set_accounts(vec![account(count)]);
    rig.clock.advance(24 * HOUR);
    assert_eq!(run(&rig).await, completed(count as u64, count as u64, 0));
    assert_eq!(run(&rig).await, completed(0, 0, 0));
}

#[tokio::test]
async fn store_failure_is_reported_and_the_next_run_resumes() {
    let mut broken = 0;
    for fault in [Fault::FailBefore, Fault::FailAfter] {
        for call in 0.. {
            let rig = Rig::with(|store| store.with(call, fault));
            rig.fill(3).await;
            for number in 0..3 {
                miss(&rig, number).await;
            }
            rig.clock.advance(25 * HOUR);
            let report = run(&rig).await;
            let calls = rig.faulty.calls();
            let Some(name) = calls.get(call) else { break };
            assert_eq!(report.status, RunStatus::Failed, "{fault:?} at {name}");
            assert_eq!(run(&rig).await.status, RunStatus::Completed, "{fault:?} at {name}");
            for number in 0..3 {
                assert_eq!(rig.state(number).await, StateName::Deleted, "{fault:?} at {name}");
            }
            // Also those whose write had happened when its answer was lost.
            let events =
                rig.bus.events().into_iter().filter(|event| event.kind == Cause::Forgotten.into()).count();
            assert_eq!(events, 3, "{fault:?} at {name}");
            broken += 1;
        }
    }
    assert!(broken >= 2 * 5, "only {broken} calls were broken");
}

#[tokio::test]
async fn unavailable_event_log_delays_only_the_events() {
    let rig = Rig::new();
    rig.fill(1).await;
    miss(&rig, 0).await;
    rig.clock.advance(25 * HOUR);
    rig.bus.lose(Call::Append, Loss::Message);
    let report = run(&rig).await;
    assert_eq!((report.status, report.removed, report.untold), (RunStatus::Completed, 1, 1));
    assert!(rig.bus.events().is_empty());
    let report = run(&rig).await;
    assert_eq!((report.status, report.due, report.untold), (RunStatus::Completed, 0, 0));
    assert_eq!(rig.bus.events().last().unwrap().kind, Cause::Forgotten.into());
}
