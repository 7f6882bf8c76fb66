//! Parking: first the copy, then the table, then the message; nothing is lost when one of them fails.

use super::*;
use testkit::bus::{Call as BusCall, Loss, ParkedCopy};
use testkit::faulty::Fault;

/// Calls of the store: reads the sandbox, counts the attempt, parks the deletion.
const PARK_CALL: usize = 3;
const OWN_FAILURE: Verdict = Verdict::Retry { delay: OWN_FAILURE_DELAY };

/// A rig whose next failure is the last one.
async fn at_the_last_attempt(faults: impl FnOnce(FaultyStore) -> FaultyStore) -> (Rig, DeletionWork) {
    let rig = Rig::with(Config { attempts_max: 1, ..CONFIG }, faults).await;
    let work = rig.released().await;
    rig.provider.script_delete(Err(failed("no licence")));
    (rig, work)
}

fn only_copy(rig: &Rig) -> ParkedCopy {
    let copies = rig.bus.all_parked();
    assert_eq!(copies.len(), 1, "{copies:?}");
    rig.bus.parked(&pool(), &id()).expect("a copy under the sandbox's own name")
}

#[tokio::test]
async fn the_last_attempt_parks_the_deletion_with_its_reason() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    for number in 1..=3 {
        rig.provider.script_delete(Err(failed(&format!("failure {number}"))));
    }
    let mut verdicts = Vec::new();
    for _ in 0..3 {
        verdicts.push(rig.again(&work).await);
    }
    assert!(
        matches!(verdicts.as_slice(), [Verdict::Retry { .. }, Verdict::Retry { .. }, Verdict::GiveUp { reason }]
        if reason.contains("failure 3")),
        "{verdicts:?}"
    );
    assert_eq!((rig.state().await, rig.attempts().await), (StateName::DeletionFailed, 3));
    let copy = only_copy(&rig);
    assert_eq!((copy.attempts, copy.parked_at), (Some(3), NOW.after(3 * SECOND)));
    assert!(copy.reason.contains("failure 3"));
    let parked: ParkedDeletion = serde_json::from_slice(&copy.payload).unwrap();
    assert_eq!(parked.work, work, "fit to be replayed as it stands");
    rig.assert_outcomes(&[("attempt_failed", 3), ("parked", 1)]);
}

#[tokio::test]
async fn work_without_attempts_left_is_parked_without_a_call() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    // The worker that counted the last attempt crashed before it could park.
    for attempts in 0..3 {
        let last = format!("failure {attempts}");
        rig.store.note_attempt(&id(), Epoch::new(1), attempts, &last, None).await.unwrap();
    }
    let verdict = rig.reaper.work(delivery(&work)).await;
    assert_eq!(verdict, Verdict::GiveUp { reason: "failure 2".to_owned() });
    assert_eq!(rig.provider.calls(), []);
    assert_eq!((only_copy(&rig).attempts, rig.state().await), (Some(3), StateName::DeletionFailed));
}

#[tokio::test]
async fn message_that_crashes_its_workers_is_parked() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    let verdict = rig.reaper.work(Delivery { work: work.clone(), deliveries: DELIVERIES_MAX + 1 }).await;
    assert!(matches!(&verdict, Verdict::GiveUp { reason } if reason.contains("101 times")), "{verdict:?}");
    assert_eq!(rig.provider.calls(), []);
    assert_eq!((only_copy(&rig).attempts, rig.state().await), (Some(0), StateName::DeletionFailed));

    let rig = Rig::new().await;
    let work = rig.released().await;
    let verdict = rig.reaper.work(Delivery { work, deliveries: DELIVERIES_MAX }).await;
    assert_eq!(verdict, Verdict::Done, "as often as that it may be tried");
}

#[tokio::test]
async fn table_is_not_updated_without_a_parked_copy() {
    for loss in [Loss::Message, Loss::Answer] {
        let (rig, work) = at_the_last_attempt(|store| store).await;
        rig.bus.lose(BusCall::Park, loss);
        assert_eq!(rig.reaper.work(delivery(&work)).await, OWN_FAILURE);
        assert_eq!((rig.state().await, rig.attempts().await), (StateName::PendingDeletion, 1));
        assert_eq!(rig.bus.all_parked().len(), usize::from(loss == Loss::Answer));
        let verdict = rig.again(&work).await;
        assert!(
            matches!(&verdict, Verdict::GiveUp { reason } if reason.contains("no licence")),
            "{verdict:?}"
        );
        assert_eq!(rig.deletes(), 1, "there was no attempt left");
        assert!(only_copy(&rig).reason.contains("no licence"));
        assert_eq!(rig.state().await, StateName::DeletionFailed);
        rig.assert_outcomes(&[("attempt_failed", 1), ("parked", 1)]);
    }
}

#[tokio::test]
async fn message_stays_queued_if_the_table_write_fails() {
    for fault in [Fault::FailBefore, Fault::FailAfter] {
        let (rig, work) = at_the_last_attempt(|store| store.with(PARK_CALL, fault)).await;
        assert_eq!(rig.reaper.work(delivery(&work)).await, OWN_FAILURE);
        assert_eq!(rig.faulty.calls(), ["sandbox", "identity", "note_attempt", "park_deletion"]);
        assert!(
            only_copy(&rig).reason.contains("no licence"),
            "the copy is kept before the table is written"
        );
        let verdict = rig.again(&work).await;
        match fault {
            Fault::FailBefore => assert!(matches!(verdict, Verdict::GiveUp { .. }), "{verdict:?}"),
            // The table had been updated: the work is not wanted any more.
            _ => assert_eq!(verdict, Verdict::Done),
        }
        assert_eq!(rig.state().await, StateName::DeletionFailed);
        assert!(only_copy(&rig).reason.contains("no licence"));
        assert_eq!(rig.deletes(), 1);
    }
}

#[tokio::test]
async fn long_reason_is_truncated_in_the_table_and_one_line_in_the_copy() {
    let rig = Rig::with(Config { attempts_max: 1, ..CONFIG }, |store| store).await;
    let work = rig.released().await;
    let long = format!("first line\nsecond line {}", "x".repeat(5_000));
    rig.provider.script_delete(Err(failed(&long)));
    assert!(matches!(rig.reaper.work(delivery(&work)).await, Verdict::GiveUp { .. }));
    let kept = rig.sandbox().await.deletion().unwrap().last_error.clone().unwrap();
    assert_eq!(kept.len(), domain::LAST_ERROR_BYTES_MAX);
    assert!(only_copy(&rig).reason.lines().count() == 1);
}
