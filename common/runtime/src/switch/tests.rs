use super::*;
use ports::bus::DeletionControl;
use ports::random::Rng;
use ports::store::Layout;
use std::time::Duration;
use testkit::bus::{Call, Loss, MemoryBus, MemoryConfig};
use testkit::clock::ManualClock;
use testkit::store::MemoryStore;

const NOW: UnixSeconds = UnixSeconds::new(1_000_000);

struct Rig {
    bus: MemoryBus,
    store: Arc<MemoryStore>,
    clock: ManualClock,
    switch: Switchboard,
    throttle: SwitchRestoringThrottle,
}

fn rig() -> Rig {
    let clock = ManualClock::at(NOW);
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let bus = MemoryBus::new(MemoryConfig::default(), Arc::clone(&shared), Arc::new(Rng::seeded(7)));
    let store = Arc::new(MemoryStore::new(2));
    let switch = Switchboard::new(store.clone(), Arc::new(bus.clone()), shared);
    let throttle = SwitchRestoringThrottle::new(Arc::new(bus.clone()), switch.clone());
    Rig { bus, store, clock, switch, throttle }
}

fn pause(by: &str, until: Option<u64>) -> Pause {
    Pause { by: by.to_owned(), since: NOW.get(), until, reason: Some("maintenance".to_owned()) }
}

async fn shown(rig: &Rig) -> Option<Pause> {
    rig.bus.status().await.unwrap().paused
}

#[tokio::test]
async fn pause_and_resume_are_stored_in_table_and_bucket() {
    let rig = rig();
    rig.switch.pause(&pause("alice", None)).await.unwrap();
    assert_eq!(shown(&rig).await, Some(pause("alice", None)));
    let kept = rig.store.deletion_switch().await.unwrap().unwrap();
    assert_eq!((kept.version, kept.is_paused, kept.by.as_str()), (1, true, "alice"));
    rig.switch.pause(&pause("bob", Some(NOW.get() + 60))).await.unwrap();
    assert_eq!(shown(&rig).await, Some(pause("bob", Some(NOW.get() + 60))));
    assert_eq!(rig.switch.resume("carol").await.unwrap(), Some(pause("bob", Some(NOW.get() + 60))));
    assert_eq!((shown(&rig).await, rig.switch.resume("carol").await.unwrap()), (None, None));
    let kept = rig.store.deletion_switch().await.unwrap().unwrap();
    assert_eq!((kept.version, kept.is_paused, kept.by.as_str()), (4, false, "carol"));
}

#[tokio::test]
async fn lost_bucket_is_restored_from_the_table() {
    let rig = rig();
    rig.switch.pause(&pause("alice", None)).await.unwrap();
    rig.bus.lose_throttle_state();
    assert!(rig.throttle.view().await.unwrap().is_paused);
    rig.bus.lose_throttle_state();
    assert!(matches!(rig.throttle.acquire().await.unwrap(), Admission::Later { is_closed: true, .. }));
    rig.switch.resume("alice").await.unwrap();
    let Admission::Go { permit, .. } = rig.throttle.acquire().await.unwrap() else {
        panic!("nothing is paused")
    };
    rig.switch.pause(&pause("bob", None)).await.unwrap();
    rig.bus.lose_throttle_state();
    assert!(matches!(rig.throttle.confirm(permit).await.unwrap(), Confirmed::Later { .. }));
    // A bucket that was lost while nothing was paused is restored once.
    rig.switch.resume("bob").await.unwrap();
    rig.bus.lose_throttle_state();
    assert!(!rig.throttle.view().await.unwrap().is_paused);
    assert_eq!(rig.bus.cached_switch().await.unwrap().1, CachedSwitch::Off);
}

#[tokio::test]
async fn manual_bucket_entry_is_adopted_once() {
    let rig = rig();
    DeletionControl::pause(&rig.bus, &pause("by hand", None)).await.unwrap();
    assert!(rig.switch.settle().await.unwrap());
    assert!(!rig.switch.settle().await.unwrap(), "once");
    assert_eq!(rig.store.deletion_switch().await.unwrap().unwrap().by, "by hand");
    rig.bus.lose_throttle_state();
    assert!(rig.switch.settle().await.unwrap());
    assert_eq!(shown(&rig).await, Some(pause("by hand", None)));
    // It precedes the change that ends it, even if nothing has added it to the table yet.
    DeletionControl::pause(&rig.bus, &pause("again", None)).await.unwrap();
    assert_eq!(rig.switch.resume("alice").await.unwrap(), Some(pause("again", None)));
    assert!(!rig.switch.settle().await.unwrap());
    assert_eq!(shown(&rig).await, None);
    // A pause that has ended is ignored.
    DeletionControl::pause(&rig.bus, &pause("over", Some(NOW.get() + 1))).await.unwrap();
    rig.clock.advance(Duration::from_secs(2));
    assert!(!rig.switch.settle().await.unwrap());
    assert!(!rig.store.deletion_switch().await.unwrap().unwrap().is_paused);
}

#[tokio::test]
async fn interrupted_switch_change_is_completed_by_the_sweep() {
    let rig = rig();
    rig.switch.resume("alice").await.unwrap();
    rig.bus.lose(Call::Switch, Loss::Message);
    assert!(rig.switch.pause(&pause("alice", None)).await.is_err());
    assert_eq!(shown(&rig).await, None, "the copy was not reached");
    assert!(rig.switch.settle().await.unwrap());
    assert_eq!(shown(&rig).await, Some(pause("alice", None)));
    rig.bus.lose(Call::Switch, Loss::Message);
    assert!(rig.switch.resume("alice").await.is_err());
    assert!(rig.switch.settle().await.unwrap());
    assert_eq!(shown(&rig).await, None);
}

#[tokio::test]
async fn late_bucket_write_does_not_undo_a_later_change() {
    let rig = rig();
    rig.switch.resume("alice").await.unwrap();
    let (revision, _) = rig.bus.cached_switch().await.unwrap();
    rig.switch.pause(&pause("bob", None)).await.unwrap();
    assert!(!rig.bus.cache_switch(revision, None).await.unwrap(), "it starts from what was there before");
    assert_eq!(shown(&rig).await, Some(pause("bob", None)));
}
