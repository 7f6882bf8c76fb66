//! The recorder on a memory event log: missing events, expired events, and failures.

use super::*;
use domain::{
    ExternalId, HISTORY_ENTRIES_MAX, NewSandbox, PoolName, SandboxId, SandboxName, StateName, Transition,
};
use ports::random::Rng;
use testkit::bus::{Call, Loss, MemoryBus, MemoryConfig};
use testkit::clock::ManualClock;

const NOW: UnixSeconds = UnixSeconds::new(1_763_683_200);
const DAY: Duration = Duration::from_secs(24 * 3_600);

struct Rig {
    recorder: Recorder,
    bus: MemoryBus,
    clock: ManualClock,
}

impl Rig {
    fn new() -> Self {
        let clock = ManualClock::at(NOW);
        let rng = Arc::new(Rng::seeded(7));
        let bus = MemoryBus::new(MemoryConfig::default(), Arc::new(clock.clone()), rng);
        let metrics = EventLogMetrics::register(&Registry::new()).unwrap();
        let recorder = Recorder::new(Arc::new(clock.clone()), Arc::new(bus.clone()), metrics);
        Self { recorder, bus, clock }
    }

    fn versions(&self) -> Vec<u64> {
        self.bus.events().iter().map(|event| event.data.version).collect()
    }

    fn counts(&self) -> (u64, u64, u64) {
        let EventLogMetrics { published, filled, left } = &self.recorder.inside.metrics;
        (published.get(), filled.get(), left.get())
    }
}

fn free() -> Sandbox {
    NewSandbox {
        id: SandboxId::parse("7").unwrap(),
        name: SandboxName::parse("lab-7").unwrap(),
        external_id: ExternalId::parse("identity/accounts/7").unwrap(),
        pool: PoolName::parse("main").unwrap(),
        descriptor: domain::Descriptor::default(),
    }
    .enter(NOW)
}

/// The sandbox after that number of further changes, one second apart.
fn changed(mut sandbox: Sandbox, changes: usize) -> Sandbox {
    for _ in 0..changes {
        let at = NOW.after(Duration::from_secs(sandbox.version.get()));
        let is_free = sandbox.state.name() == StateName::Available;
        let step = if is_free {
            sandbox.clone().apply(&Transition::mark_missing(&sandbox, at))
        } else {
            sandbox.clone().apply(&Transition::mark_found(&sandbox, at))
        };
        sandbox = step.unwrap();
    }
    sandbox
}

#[tokio::test]
async fn missing_events_are_filled_once() {
    let rig = Rig::new();
    let sandbox = changed(free(), 2);
    assert_eq!(rig.recorder.complete(&sandbox).await.unwrap(), 3);
    assert_eq!(rig.recorder.complete(&sandbox).await.unwrap(), 0);
    assert_eq!(rig.recorder.complete(&free()).await.unwrap(), 0, "an older sight adds nothing");
    let next = changed(sandbox, 2);
    rig.recorder.publish_now(&next).await.unwrap();
    assert_eq!(rig.versions(), [1, 2, 3, 4, 5]);
    assert_eq!(rig.counts(), (5, 4, 0), "the last one was published by its writer");
}

#[tokio::test]
async fn events_beyond_the_retention_are_not_added() {
    let rig = Rig::new();
    let sandbox = changed(free(), 3);
    // The first two changes are older than the retention.
    rig.clock.advance(30 * DAY + Duration::from_secs(2));
    assert_eq!(rig.recorder.complete(&sandbox).await.unwrap(), 2);
    assert_eq!(rig.versions(), [3, 4]);
    rig.clock.advance(DAY);
    let later = changed(sandbox, 1);
    assert_eq!(rig.recorder.complete(&later).await.unwrap(), 1, "what follows a known event is added");
}

#[tokio::test]
async fn truncated_history_is_published_as_far_as_it_goes() {
    let rig = Rig::new();
    let sandbox = changed(free(), HISTORY_ENTRIES_MAX + 4);
    let added = rig.recorder.complete(&sandbox).await.unwrap();
    assert_eq!(added, u64::try_from(HISTORY_ENTRIES_MAX).unwrap());
    assert_eq!((rig.versions()[0], rig.bus.events()[0].data.from.clone()), (6, None));
}

#[tokio::test]
async fn lost_reply_causes_no_duplicate_event() {
    for loss in [Loss::Message, Loss::Answer] {
        let rig = Rig::new();
        let sandbox = changed(free(), 1);
        rig.bus.lose(Call::Append, loss);
        assert!(rig.recorder.complete(&sandbox).await.is_err());
        rig.recorder.complete(&sandbox).await.unwrap();
        assert_eq!(rig.versions(), [1, 2], "{loss:?}");
    }
}

#[tokio::test]
async fn unpublished_event_is_counted_and_published_with_the_next() {
    let rig = Rig::new();
    rig.bus.set_connected(false);
    let sandbox = free();
    rig.recorder.note(&sandbox, None);
    let stop = CancellationToken::new();
    stop.cancel();
    rig.recorder.publish_until(stop).await;
    assert_eq!(rig.counts(), (0, 0, 1));
    rig.bus.set_connected(true);
    rig.recorder.publish_now(&changed(sandbox, 1)).await.unwrap();
    assert_eq!((rig.versions(), rig.counts()), (vec![1, 2], (2, 1, 1)));
}
