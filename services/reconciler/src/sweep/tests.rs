//! The sweep: every wanted deletion has a message afterwards, and never two.

use super::*;
use crate::listing::PAGE_LIMIT;
use crate::tests::{HOUR, NOW, Rig, done, id};
use common::bus::memory::{Call, Loss};
use common::bus::{DeletionQueue as _, Deletions as _, Delivery, Verdict, Worker};
use common::clock::Clock as _;
use common::contract::{Report, TickKind};
use common::domain::Epoch;
use common::store::faulty::Fault;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Age from which the sweep expects a message.
const SWEEP_AFTER: Duration = Duration::from_secs(30);

/// A run as a tick starts it.
async fn run(rig: &Rig) -> SweepReport {
    match rig.run(TickKind::Sweep).await {
        Report::Sweep(report) => report,
        other => panic!("{other:?}"),
    }
}

fn completed(pending: u64, reannounced: u64, waiting: u64) -> SweepReport {
    SweepReport { status: COMPLETED.to_owned(), pending, reannounced, waiting }
}

/// A worker that puts everything off.
struct Later;

#[async_trait::async_trait]
impl Worker for Later {
    async fn work(&self, _delivery: Delivery) -> Verdict {
        Verdict::Retry { delay: HOUR }
    }
}

#[tokio::test]
async fn a_deletion_without_a_message_gets_one_once_it_is_old_enough() {
    let rig = Rig::new();
    rig.fill(3).await;
    let lost = rig.release(0, NOW).await;
    let waiting = rig.release(1, NOW).await;
    rig.bus.announce(&waiting).await.unwrap();
    rig.clock.advance(SWEEP_AFTER - Duration::from_secs(1));
    assert_eq!(run(&rig).await, completed(0, 0, 0), "who released it may still be about to announce it");
    rig.clock.advance(Duration::from_secs(1));
    let young = rig.release(2, rig.clock.now()).await;
    assert_eq!(run(&rig).await, completed(2, 1, 1));
    assert_eq!(rig.bus.queued(), [waiting, lost]);
    assert_eq!(run(&rig).await, completed(2, 0, 2), "once is enough");
    rig.clock.advance(SWEEP_AFTER);
    assert_eq!(run(&rig).await, completed(3, 1, 2));
    assert_eq!(rig.bus.queued().last(), Some(&young));
    assert_eq!(rig.metric("broker_reconciled_total", &["sweep", "reannounced"]), 2);
    assert_eq!(rig.metric("broker_runs_total", &["sweep", COMPLETED]), 4);
}

#[tokio::test]
async fn a_deletion_that_waits_for_its_next_attempt_has_a_message() {
    let rig = Rig::new();
    rig.fill(1).await;
    rig.bus.announce(&rig.release(0, NOW).await).await.unwrap();
    let stop = CancellationToken::new();
    let consuming = tokio::spawn({
        let (bus, stop) = (rig.bus.clone(), stop.clone());
        async move { bus.consume(Arc::new(Later), 1, stop).await }
    });
    while rig.bus.retries_scheduled() == 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    consuming.await.unwrap().unwrap();
    rig.clock.advance(SWEEP_AFTER);
    assert_eq!(run(&rig).await, completed(1, 0, 1));
    assert_eq!(rig.bus.queued_count(), 1);
}

#[tokio::test]
async fn parked_and_finished_deletions_are_not_announced() {
    let rig = Rig::new();
    rig.fill(2).await;
    rig.release(0, NOW).await;
    rig.release(1, NOW).await;
    done(rig.store.park_deletion(&id(0), Epoch::new(1), NOW).await.unwrap());
    done(rig.store.finish_deletion(&id(1), Epoch::new(1), NOW, NOW.after(HOUR)).await.unwrap());
    rig.clock.advance(HOUR);
    assert_eq!(run(&rig).await, completed(0, 0, 0));
    assert_eq!(rig.bus.queued_count(), 0);
}

#[tokio::test]
async fn what_happens_between_the_look_and_the_announcement_does_no_harm() {
    let rig = Rig::new();
    rig.fill(3).await;
    let mut batch = Vec::new();
    for number in 0..3 {
        rig.release(number, NOW).await;
        batch.push(rig.sandbox(number).await);
    }
    // One is announced after all, one is finished, one is still as it was read.
    rig.bus.announce(&DeletionWork::of(&batch[0]).unwrap()).await.unwrap();
    done(rig.store.finish_deletion(&id(1), Epoch::new(1), NOW, NOW.after(HOUR)).await.unwrap());
    let mut report = SweepReport::default();
    rig.reconciler.announce_batch(batch.clone(), &mut report).await.unwrap();
    assert_eq!((report.pending, report.waiting, report.reannounced), (3, 1, 2));
    let queued = rig.bus.queued();
    let expected: Vec<_> = batch.iter().filter_map(DeletionWork::of).collect();
    assert_eq!(queued, expected, "one message each; the table tells the worker that one is done already");
    // A sandbox that wants no deletion makes no work, whatever the index says.
    rig.fill(4).await;
    let mut report = SweepReport::default();
    rig.reconciler.announce_batch(vec![rig.sandbox(3).await], &mut report).await.unwrap();
    assert_eq!(report, SweepReport::default());
}

#[tokio::test]
async fn more_deletions_than_a_page_holds_are_announced_in_one_run() {
    let count = 2 * usize::from(PAGE_LIMIT) + 300;
    let rig = Rig::new();
    rig.fill(count).await;
    for number in 0..count {
        rig.release(number, NOW).await;
    }
    rig.clock.advance(SWEEP_AFTER);
    let all = count as u64;
    assert_eq!(run(&rig).await, completed(all, all, 0));
    rig.bus.purge_deletions();
    assert_eq!(run(&rig).await, completed(all, all, 0), "a lost queue is rebuilt");
    assert_eq!(run(&rig).await, completed(all, 0, all));
}

#[tokio::test]
async fn a_queue_that_fails_is_told_and_the_next_run_goes_on() {
    for loss in [Loss::Message, Loss::Answer] {
        let rig = Rig::new();
        rig.fill(3).await;
        for number in 0..3 {
            rig.release(number, NOW).await;
        }
        rig.clock.advance(SWEEP_AFTER);
        rig.bus.lose(Call::Announce, loss);
        assert_eq!(run(&rig).await.status, FAILED);
        assert_eq!(rig.metric("broker_runs_total", &["sweep", FAILED]), 1);
        let report = run(&rig).await;
        assert_eq!((report.status.as_str(), report.pending), (COMPLETED, 3));
        assert_eq!(report.waiting, u64::from(loss == Loss::Answer), "{report:?}");
        assert_eq!(rig.bus.queued_count(), 3);
    }
}

#[tokio::test]
async fn a_store_that_breaks_off_at_any_call_is_told_and_the_next_run_goes_on() {
    let mut broken = 0;
    for call in 0.. {
        let rig = Rig::with(|store| store.with(call, Fault::FailBefore));
        rig.fill(3).await;
        for number in 0..3 {
            rig.release(number, NOW).await;
        }
        rig.clock.advance(SWEEP_AFTER);
        let report = run(&rig).await;
        if rig.faulty.calls().get(call).is_none() {
            break;
        }
        assert_eq!(report.status, FAILED);
        assert_eq!(run(&rig).await.status, COMPLETED);
        assert_eq!(rig.bus.queued_count(), 3);
        broken += 1;
    }
    assert_eq!(broken, 4, "a page of each shard of both pools");
}
