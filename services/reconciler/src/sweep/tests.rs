//! The sweep: afterwards every wanted deletion has a message, and never two.

use super::*;
use crate::listing::PAGE_LIMIT;
use crate::tests::{HOUR, NOW, Rig, done, id, owner};
use contract::{DeletionWork, ParkedDeletion, ProvisionWork, Report, TickKind};
use domain::{Cause, Epoch, PoolName, SandboxId, StateName};
use ports::bus::{DeletionQueue as _, Deletions as _, Delivery, Verdict, Worker};
use ports::clock::Clock as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use testkit::bus::{Call, Loss};
use testkit::faulty::Fault;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Age from which the sweep expects a message.
const SWEEP_AFTER: Duration = Duration::from_secs(30);

/// A run as started by a tick.
async fn run(rig: &Rig) -> SweepReport {
    // Missing events are the subject of other tests.
    match rig.run(TickKind::SWEEP).await {
        Report::Sweep(report) => SweepReport { events_filled: 0, ..report },
        other => panic!("{other:?}"),
    }
}

fn completed(pending: u64, reannounced: u64, waiting: u64) -> SweepReport {
    SweepReport { status: RunStatus::Completed, pending, reannounced, waiting, ..SweepReport::default() }
}

/// A worker that retries everything later.
struct Later;

#[async_trait::async_trait]
impl Worker for Later {
    async fn work(&self, _delivery: Delivery) -> Verdict {
        Verdict::Retry { delay: HOUR }
    }
}

/// A runner that can create nothing.
struct GivesUp;

#[async_trait::async_trait]
impl Worker<ProvisionWork> for GivesUp {
    async fn work(&self, _delivery: Delivery<ProvisionWork>) -> Verdict {
        Verdict::GiveUp { reason: "no image".to_owned() }
    }
}

#[tokio::test]
async fn old_message_of_a_parked_creation_is_removed() {
    let rig = Rig::new();
    let pool = PoolName::parse("shells").unwrap();
    rig.bus.publish_raw_provision(&pool, &SandboxId::parse("ctr_1").unwrap(), "this is no work");
    let (_pools, served) = watch::channel([(pool, 1)].into());
    let stop = CancellationToken::new();
    let parked = async {
        while rig.bus.parked_provisions().is_empty() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let (consumed, ()) = tokio::join!(
        ports::bus::ProvisionQueue::consume(&rig.bus, Arc::new(GivesUp), served, stop.clone()),
        parked
    );
    consumed.unwrap();
    rig.clock.advance(PARKED_PROVISION_KEPT);
    run(&rig).await;
    assert_eq!(rig.bus.parked_provisions().len(), 1);
    rig.clock.advance(Duration::from_secs(1));
    run(&rig).await;
    assert_eq!(rig.bus.parked_provisions(), []);
}

#[tokio::test]
async fn old_deletion_without_a_message_is_reannounced() {
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
    assert_eq!(rig.metric("broker_runs_total", &["sweep", RunStatus::Completed.as_str()]), 4);
}

#[tokio::test]
async fn scheduled_retry_counts_as_a_message() {
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
    done(rig.store.finish_deletion(&id(1), Epoch::new(1), NOW, NOW.after(HOUR), None).await.unwrap());
    rig.clock.advance(HOUR);
    assert_eq!(run(&rig).await, SweepReport { reparked: 1, ..completed(0, 0, 0) });
    assert_eq!(rig.bus.queued_count(), 0);
}

#[tokio::test]
async fn outdated_message_is_removed() {
    let rig = Rig::new();
    rig.fill(5).await;
    let works = [rig.release(0, NOW).await, rig.release(1, NOW).await, rig.release(2, NOW).await];
    for work in &works {
        rig.bus.announce(work).await.unwrap();
    }
    let older = DeletionWork { epoch: 0, ..rig.release(3, NOW).await };
    let unknown = DeletionWork { sandbox_id: "4711".to_owned(), ..older.clone() };
    let free = DeletionWork { sandbox_id: id(4).to_string(), epoch: 0, ..older.clone() };
    for work in [&older, &unknown, &free] {
        rig.bus.announce(work).await.unwrap();
    }
    done(rig.store.finish_deletion(&id(0), Epoch::new(1), NOW, NOW.after(HOUR), None).await.unwrap());
    done(rig.store.park_deletion(&id(1), Epoch::new(1), NOW).await.unwrap());
    rig.clock.advance(SWEEP_AFTER);
    let report = run(&rig).await;
    assert_eq!((report.unqueued, report.reannounced, report.waiting), (5, 1, 1), "{report:?}");
    let queued: BTreeSet<_> =
        rig.bus.queued().into_iter().map(|work| (work.sandbox_id, work.epoch)).collect();
    let expected = [2, 3].map(|number| (id(number).to_string(), 1));
    assert_eq!(queued, BTreeSet::from(expected), "the older epoch made room for the one of today");
    let events = rig.bus.events();
    assert!(events.iter().any(|event| event.id == "0:4"), "the event log of a tombstone is complete first");
    assert_eq!(run(&rig).await.unqueued, 0);
}

#[tokio::test]
async fn parked_sandboxes_and_copies_are_reconciled() {
    let rig = Rig::new();
    rig.fill(3).await;
    for number in 0..3 {
        rig.release(number, NOW).await;
        rig.store.note_attempt(&id(number), Epoch::new(1), 0, "status 500", None).await.unwrap();
    }
    // One has lost its copy, one has it, and one has been deleted after all.
    let lost = done(rig.store.park_deletion(&id(0), Epoch::new(1), NOW).await.unwrap());
    let kept = done(rig.store.park_deletion(&id(1), Epoch::new(1), NOW).await.unwrap());
    let gone = ParkedDeletion {
        work: DeletionWork::of(&rig.sandbox(2).await).unwrap(),
        attempts: 1,
        reason: "status 500".to_owned(),
        parked_at: NOW.get(),
    };
    rig.bus.park(&gone).await.unwrap();
    rig.bus.park(&ParkedDeletion::of(&kept).unwrap()).await.unwrap();
    done(rig.store.finish_deletion(&id(2), Epoch::new(1), NOW, NOW.after(HOUR), None).await.unwrap());
    let report = run(&rig).await;
    assert_eq!((report.parked, report.reparked, report.unparked), (2, 1, 0), "a young copy is left alone");
    rig.clock.advance(SWEEP_AFTER);
    let report = run(&rig).await;
    assert_eq!((report.parked, report.reparked, report.unparked), (3, 0, 1));
    let copy = rig.bus.parked(&lost.pool, &lost.id).expect("a copy");
    assert_eq!((copy.attempts, copy.reason.as_str(), copy.parked_at), (Some(1), "status 500", NOW));
    assert!(rig.bus.parked(&lost.pool, &id(2)).is_none());
    let report = run(&rig).await;
    assert_eq!((report.parked, report.reparked, report.unparked), (2, 0, 0), "once is enough");
}

#[tokio::test]
async fn event_log_gaps_are_filled_in_order_and_once() {
    let rig = Rig::new();
    rig.fill(2).await;
    rig.release(0, NOW).await;
    let held = rig.allocate(1).await;
    let sweep = || async {
        match rig.run(TickKind::SWEEP).await {
            Report::Sweep(report) => report.events_filled,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(sweep().await, 0, "the writer of a recent change may be about to publish it");
    rig.clock.advance(SWEEP_AFTER);
    assert_eq!(sweep().await, 5);
    assert_eq!(sweep().await, 0);
    let ids: Vec<_> = rig.bus.events().into_iter().map(|event| event.id).collect();
    let of = |number: &str| ids.iter().filter(|id| id.starts_with(number)).cloned().collect::<Vec<_>>();
    assert_eq!(
        (of("0:"), of("1:")),
        (["0:1", "0:2", "0:3"].map(str::to_owned).into(), ["1:1", "1:2"].map(str::to_owned).into())
    );
    let claimed = rig.bus.events().into_iter().find(|event| event.id == "1:2").unwrap();
    assert_eq!(
        (&claimed.kind, &claimed.data.from),
        (&Cause::Claimed.into(), &Some(StateName::Available.into()))
    );
    assert_eq!(claimed.data.owner.as_deref(), Some(held.lease().unwrap().claim.owner.as_str()));
    // Verified events are not read again until something changes.
    rig.bus.set_connected(false);
    assert_eq!(
        rig.reconciler
            .sweep_event_log(&mut SweepReport::default(), &mut Skipped::default())
            .await
            .map_err(|_| ()),
        Ok(())
    );
    rig.bus.set_connected(true);
    rig.bus.lose(Call::Append, Loss::Message);
    rig.store.release(&held.id, &owner(1), None, None, NOW).await.unwrap();
    assert_eq!(
        rig.run(TickKind::SWEEP).await,
        Report::Sweep(SweepReport {
            status: RunStatus::Failed,
            pending: 2,
            reannounced: 1,
            waiting: 1,
            ..SweepReport::default()
        })
    );
    assert_eq!(sweep().await, 1);
    assert_eq!(rig.bus.events().len(), 6);
}

#[tokio::test]
async fn sync_completes_the_event_log_of_available_sandboxes() {
    let rig = Rig::new();
    rig.fill(3).await;
    rig.clock.advance(SWEEP_AFTER);
    rig.run(TickKind::SYNC).await;
    let ids: BTreeSet<_> = rig.bus.events().into_iter().map(|event| event.id).collect();
    assert_eq!(ids, BTreeSet::from(["0:1", "1:1", "2:1"].map(str::to_owned)));
}

#[tokio::test]
async fn change_between_read_and_announcement_is_harmless() {
    let rig = Rig::new();
    rig.fill(3).await;
    let mut batch = Vec::new();
    for number in 0..3 {
        rig.release(number, NOW).await;
        batch.push(rig.sandbox(number).await);
    }
    // One is announced after all, one is finished, one is unchanged.
    rig.bus.announce(&DeletionWork::of(&batch[0]).unwrap()).await.unwrap();
    done(rig.store.finish_deletion(&id(1), Epoch::new(1), NOW, NOW.after(HOUR), None).await.unwrap());
    let mut report = SweepReport::default();
    let wanted: BTreeMap<_, _> =
        batch.iter().map(|sandbox| (sandbox.id.clone(), DeletionWork::of(sandbox).unwrap())).collect();
    rig.clock.advance(SWEEP_AFTER);
    rig.reconciler.announce_missing(&wanted, &BTreeSet::new(), &mut report).await.unwrap();
    assert_eq!((report.pending, report.waiting, report.reannounced), (3, 1, 2));
    let queued = rig.bus.queued();
    let expected: Vec<_> = batch.iter().filter_map(DeletionWork::of).collect();
    assert_eq!(queued, expected, "one message each; the table tells the worker that one is done already");
    // The next one removes the unnecessary message.
    let report = run(&rig).await;
    assert_eq!((report.pending, report.waiting, report.unqueued), (2, 2, 1));
}

#[tokio::test]
async fn deletions_that_end_during_the_run_are_counted() {
    let rig = Rig::new();
    rig.fill(4).await;
    let mut wanted = BTreeMap::new();
    for number in 0..3 {
        wanted.insert(id(number), rig.release(number, NOW).await);
    }
    done(rig.store.finish_deletion(&id(0), Epoch::new(1), NOW, NOW.after(HOUR), None).await.unwrap());
    done(rig.store.park_deletion(&id(1), Epoch::new(1), NOW).await.unwrap());
    // One that was not wanted when the run began.
    finish(&rig, 3).await;
    let mut report = SweepReport::default();
    rig.reconciler.count_ended(&wanted, &mut report, &mut Skipped::default()).await.unwrap();
    assert_eq!((report.deleted, report.failed), (1, 1));
    let report = run(&rig).await;
    assert_eq!((report.deleted, report.failed), (0, 0), "they had ended before this one began");
}

#[tokio::test]
async fn run_announces_more_than_one_page() {
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
async fn queue_failure_is_reported_and_the_next_run_resumes() {
    for loss in [Loss::Message, Loss::Answer] {
        let rig = Rig::new();
        rig.fill(3).await;
        for number in 0..3 {
            rig.release(number, NOW).await;
        }
        rig.clock.advance(SWEEP_AFTER);
        rig.bus.lose(Call::Announce, loss);
        assert_eq!(run(&rig).await.status, RunStatus::Failed);
        assert_eq!(rig.metric("broker_runs_total", &["sweep", RunStatus::Failed.as_str()]), 1);
        let report = run(&rig).await;
        assert_eq!((report.status, report.pending), (RunStatus::Completed, 3));
        assert_eq!(report.waiting, u64::from(loss == Loss::Answer), "{report:?}");
        assert_eq!(rig.bus.queued_count(), 3);
    }
}

#[tokio::test]
async fn store_failure_is_reported_and_the_next_run_resumes() {
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
        assert_eq!(report.status, RunStatus::Failed);
        assert_eq!(run(&rig).await.status, RunStatus::Completed);
        assert_eq!(rig.bus.queued_count(), 3);
        broken += 1;
    }
    assert_eq!(
        broken, 32,
        "a page of each shard of both pools, in two states for the queue, five for the event log, and one to count"
    );
}

/// A sweep; returns the number of events that it added.
async fn filled(rig: &Rig) -> u64 {
    match rig.run(TickKind::SWEEP).await {
        Report::Sweep(report) if report.status == RunStatus::Completed => report.events_filled,
        other => panic!("{other:?}"),
    }
}

async fn finish(rig: &Rig, number: usize) {
    rig.release(number, NOW).await;
    done(rig.store.finish_deletion(&id(number), Epoch::new(1), NOW, NOW.after(HOUR), None).await.unwrap());
}

#[tokio::test]
async fn recreated_event_log_gets_tombstone_events_once() {
    let rig = Rig::new();
    rig.fill(2).await;
    finish(&rig, 0).await;
    assert_eq!([filled(&rig).await, filled(&rig).await], [4, 0]);
    finish(&rig, 1).await;
    assert_eq!(filled(&rig).await, 0, "the table is not looked through again");
    rig.bus.lose_events();
    assert_eq!([filled(&rig).await, filled(&rig).await], [8, 0]);
    let versions = |number: usize| {
        let events = rig.bus.events().into_iter().filter(move |event| event.subject == id(number).as_str());
        events.map(|event| event.data.version).collect::<Vec<_>>()
    };
    assert_eq!((versions(0), versions(1)), (vec![1, 2, 3, 4], vec![1, 2, 3, 4]));
}

#[tokio::test]
async fn large_table_is_scanned_by_several_sweeps() {
    let rig = Rig::new();
    let in_one_sweep = tombstones::PAGES_MAX * usize::from(PAGE_LIMIT);
    // In the order of the store, the last one has only nines.
    rig.fill(in_one_sweep + 1).await;
    finish(&rig, 9_999).await;
    assert_eq!([filled(&rig).await, filled(&rig).await, filled(&rig).await], [0, 4, 0]);
}

#[tokio::test]
async fn interrupted_rebuild_resumes_without_duplicates() {
    let rig = Rig::new();
    rig.fill(2).await;
    finish(&rig, 0).await;
    finish(&rig, 1).await;
    rig.bus.lose(Call::Append, Loss::Answer);
    assert!(
        matches!(rig.run(TickKind::SWEEP).await, Report::Sweep(report) if report.status == RunStatus::Failed)
    );
    filled(&rig).await;
    let mut ids: Vec<_> = rig.bus.events().into_iter().map(|event| event.id).collect();
    ids.sort_unstable();
    let mut each_once = ids.clone();
    each_once.dedup();
    assert_eq!((ids.len(), ids), (8, each_once));
}
