//! Two workers with the same work, because one of them seemed to be dead: the late one does no harm.

use super::*;

/// Starts the work and waits until the provider has been called.
async fn under_way(rig: &Rig, work: &DeletionWork) -> tokio::task::JoinHandle<Verdict> {
    rig.provider.hold();
    let working = rig.begin(work);
    settle().await;
    assert_eq!(rig.provider.in_flight(), 1);
    working
}

#[tokio::test]
async fn attempt_counted_by_another_worker_is_not_counted_again() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.provider.script_delete(Err(failed("late")));
    let working = under_way(&rig, &work).await;
    rig.store.note_attempt(&id(), Epoch::new(1), 0, "the twin's", None).await.unwrap();
    rig.provider.let_go();
    assert_eq!(working.await.unwrap(), Verdict::Retry { delay: CONFIG.retry_delay_min });
    assert_eq!(rig.attempts().await, 1);
    assert_eq!(rig.sandbox().await.deletion().unwrap().last_error.as_deref(), Some("the twin's"));
    rig.assert_outcomes(&[]);
}

#[tokio::test]
async fn deletion_finished_by_another_worker_is_done() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    let working = under_way(&rig, &work).await;
    rig.store.finish_deletion(&id(), Epoch::new(1), NOW, NOW.after(DAY), None).await.unwrap();
    let tombstone = rig.sandbox().await;
    rig.provider.let_go();
    assert_eq!(working.await.unwrap(), Verdict::Done);
    assert_eq!(rig.sandbox().await, tombstone, "one tombstone, the first");
    rig.assert_outcomes(&[]);
}

#[tokio::test]
async fn failure_after_another_worker_finished_changes_nothing() {
    let rig = Rig::with(Config { attempts_max: 1, ..CONFIG }, |store| store).await;
    let work = rig.released().await;
    rig.provider.script_delete(Err(failed("late")));
    let working = under_way(&rig, &work).await;
    rig.store.finish_deletion(&id(), Epoch::new(1), NOW, NOW.after(DAY), None).await.unwrap();
    rig.provider.let_go();
    assert_eq!(working.await.unwrap(), Verdict::Retry { delay: CONFIG.retry_delay_min });
    assert_eq!((rig.state().await, rig.bus.all_parked()), (StateName::Deleted, vec![]));
    // The next look finds out.
    assert_eq!(rig.reaper.work(delivery(&work)).await, Verdict::Done);
}

#[tokio::test]
async fn concurrent_workers_leave_one_tombstone() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    let first = under_way(&rig, &work).await;
    let second = rig.begin(&work);
    settle().await;
    rig.clock.advance(SECOND);
    settle().await;
    rig.provider.let_go();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Verdict::Done, Verdict::Done));
    let sandbox = rig.sandbox().await;
    assert_eq!(sandbox.state.name(), StateName::Deleted);
    assert_eq!(sandbox.history.len(), 4, "available, allocated, pending, deleted: {:?}", sandbox.history);
    rig.assert_outcomes(&[("deleted", 1)]);
}
