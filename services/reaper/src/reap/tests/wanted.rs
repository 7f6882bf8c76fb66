//! Whether a deletion is wanted: the table decides, at that epoch.

use super::*;
use strum::IntoEnumIterator as _;

/// Work that must be skipped, whatever the provider would answer.
async fn assert_left_alone(rig: &Rig, work: &DeletionWork) {
    let before = rig.store.sandbox(&id()).await.unwrap();
    for deliveries in [1, DELIVERIES_MAX + 1] {
        let verdict = rig.reaper.work(Delivery { work: work.clone(), deliveries }).await;
        assert_eq!(verdict, Verdict::Done, "{work:?}");
    }
    assert_eq!(rig.provider.calls(), []);
    assert_eq!(rig.store.sandbox(&id()).await.unwrap(), before);
    assert_eq!(rig.bus.all_parked(), []);
    rig.assert_outcomes(&[("skipped", 2)]);
}

#[tokio::test]
async fn work_of_another_epoch_does_nothing() {
    for epoch in [0, 2, u64::MAX] {
        let rig = Rig::new().await;
        let work = rig.released().await;
        assert_eq!(work.epoch, 1);
        assert_left_alone(&rig, &DeletionWork { epoch, ..work }).await;
    }
}

#[tokio::test]
async fn work_for_a_sandbox_in_another_state_does_nothing() {
    let work = {
        let rig = Rig::new().await;
        rig.released().await
    };
    for state in StateName::iter() {
        let rig = Rig::new().await;
        match state {
            StateName::Available => {}
            // The state that wants it, and those that no transition leads to here.
            StateName::PendingDeletion
            | StateName::Quarantined
            | StateName::Provisioning
            | StateName::ProvisionFailed => continue,
            StateName::Allocated => rig.allocate().await,
            StateName::Stale => {
                rig.store.mark_missing(&rig.sandbox().await, NOW).await.unwrap();
            }
            StateName::DeletionFailed => {
                rig.released().await;
                rig.store.park_deletion(&id(), Epoch::new(1), NOW).await.unwrap();
            }
            StateName::Deleted => {
                rig.released().await;
                rig.store.finish_deletion(&id(), Epoch::new(1), NOW, NOW, None).await.unwrap();
            }
        }
        assert_eq!(rig.state().await, state);
        let epoch = rig.sandbox().await.epoch.get();
        assert_left_alone(&rig, &DeletionWork { epoch, ..work.clone() }).await;
    }
}

#[tokio::test]
async fn work_without_a_record_does_nothing() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    assert_left_alone(&rig, &DeletionWork { sandbox_id: "4711".to_owned(), ..work }).await;
}

#[tokio::test]
async fn work_without_a_sandbox_id_is_given_up() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    let verdict = rig.reaper.work(delivery(&DeletionWork { sandbox_id: String::new(), ..work })).await;
    assert!(matches!(verdict, Verdict::GiveUp { .. }), "{verdict:?}");
    assert_eq!((rig.provider.calls(), rig.state().await), (vec![], StateName::PendingDeletion));
}
