//! A watch over tables and a bus in memory. A restored table is another table in an earlier state.

use super::*;
use domain::{ExternalId, NewSandbox, PoolName, Sandbox, SandboxName};
use ports::bus::{Appended, EventLog as _};
use ports::random::Rng;
use ports::store::{Insert, Write};
use testkit::bus::{MemoryBus, MemoryConfig};
use testkit::clock::ManualClock;
use testkit::store::MemoryStore;

const NOW: UnixSeconds = UnixSeconds::new(1_763_683_200);

struct Rig {
    bus: MemoryBus,
    clock: ManualClock,
}

impl Rig {
    fn new() -> Self {
        let clock = ManualClock::at(NOW);
        let rng = Arc::new(Rng::seeded(7));
        let bus = MemoryBus::new(MemoryConfig::default(), Arc::new(clock.clone()), rng);
        Self { bus, clock }
    }

    /// The watch of a process on that table.
    fn watch(&self, store: &Arc<dyn Store>) -> TableWatch {
        let bus = Arc::new(self.bus.clone());
        TableWatch::new(store.clone(), bus.clone(), bus, Arc::new(self.clock.clone()))
    }

    async fn known(&self) -> Option<u64> {
        self.bus.known_mark().await.unwrap().map(|known| known.number)
    }

    /// Adds the last event of that sandbox.
    async fn publish(&self, sandbox: &Sandbox) {
        let event = Event::of(sandbox, sandbox.history.last().unwrap(), None);
        let last = self.bus.last_event(&sandbox.id).await.unwrap();
        let appended = self.bus.append(&sandbox.id, &event, last).await.unwrap();
        assert!(matches!(appended, Appended::Kept(_)), "{appended:?}");
    }
}

fn table() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(1))
}

async fn added(store: &dyn Store, at: UnixSeconds) -> Sandbox {
    let new = NewSandbox {
        id: SandboxId::parse("7").unwrap(),
        name: SandboxName::parse("lab-7").unwrap(),
        external_id: ExternalId::parse("identity/accounts/7").unwrap(),
        pool: PoolName::parse("main").unwrap(),
        descriptor: domain::Descriptor::default(),
    };
    match store.insert(&new, at).await.unwrap() {
        Insert::Inserted(sandbox) => *sandbox,
        other => panic!("{other:?}"),
    }
}

async fn changed(store: &dyn Store, seen: &Sandbox, at: UnixSeconds) -> Sandbox {
    match store.mark_missing(seen, at).await.unwrap() {
        Write::Done(sandbox) => *sandbox,
        other @ Write::Lost(_) => panic!("{other:?}"),
    }
}

async fn problem(watch: &TableWatch) -> Option<String> {
    watch.look(true).await.unwrap().problem
}

#[tokio::test]
async fn processes_advance_the_mark_alternately() {
    let (rig, store, guard) = (Rig::new(), table(), TableGuard::default());
    let (one, two) = (rig.watch(&store), rig.watch(&store));
    let sandbox = added(store.as_ref(), NOW).await;
    rig.publish(&sandbox).await;
    let first = one.round(true, None, &guard).await.unwrap();
    assert_eq!((first, rig.known().await), (1, Some(1)), "at the start, and at once");
    let second = two.round(true, None, &guard).await.unwrap();
    assert_eq!(second, 2, "so is that of any other");
    assert_eq!(one.round(false, Some(first), &guard).await.unwrap(), 2, "it was moved since: not its turn");
    assert_eq!(one.round(false, Some(2), &guard).await.unwrap(), 3);
    assert_eq!((rig.known().await, guard.problem()), (Some(3), None));
}

#[tokio::test]
async fn lower_table_mark_is_a_problem_until_acknowledged() {
    let (rig, store, guard) = (Rig::new(), table(), TableGuard::default());
    let watch = rig.watch(&store);
    let mut seen = None;
    for _ in 0..3 {
        seen = Some(watch.round(true, seen, &guard).await.unwrap());
    }
    let before = table();
    let restored = rig.watch(&before);
    for _ in 0..2 {
        assert_eq!(restored.round(false, None, &guard).await.unwrap(), 0, "it is not moved on");
        let problem = guard.problem().unwrap();
        assert!(problem.contains("its mark is 0") && problem.contains("NATS knows 3"), "{problem}");
    }
    assert_eq!((before.mark().await.unwrap().number, rig.known().await), (0, Some(3)));
    let accepted = restored.accept().await.unwrap().number;
    assert!(accepted > 3 + 100, "beyond marks that were on their way");
    assert_eq!(restored.round(true, None, &guard).await.unwrap(), accepted + 1);
    assert_eq!((guard.problem(), rig.known().await), (None, Some(accepted + 1)));
}

#[tokio::test]
async fn record_older_than_its_event_is_a_problem_until_acknowledged() {
    let (rig, before, after) = (Rig::new(), table(), table());
    rig.publish(&added(before.as_ref(), NOW).await).await;
    let sandbox = added(after.as_ref(), NOW).await;
    let missing = changed(after.as_ref(), &sandbox, NOW).await;
    rig.publish(&missing).await;
    assert_eq!(problem(&rig.watch(&after)).await, None);
    let restored = rig.watch(&before);
    let found = problem(&restored).await.unwrap();
    assert!(
        found.contains("sandbox 7 is at version 1 in the table, and NATS has its event of version 2"),
        "{found}"
    );
    assert_eq!(restored.look(false).await.unwrap().problem, None, "only where events are compared");
    let lost = problem(&rig.watch(&table())).await.unwrap();
    assert!(lost.contains("sandbox 7 is not in the table"), "{lost}");

    restored.accept().await.unwrap();
    assert_eq!(problem(&restored).await, None);
    // Events that are published afterwards count.
    let found = match after.mark_found(&missing, NOW).await.unwrap() {
        Write::Done(sandbox) => sandbox,
        other @ Write::Lost(_) => panic!("{other:?}"),
    };
    rig.publish(&found).await;
    assert!(problem(&restored).await.unwrap().contains("version 3"));
    // A recreated stream counts from the beginning, so nothing in it is accepted.
    rig.bus.forget_events();
    assert_eq!(problem(&restored).await, None);
    rig.publish(&missing).await;
    assert!(problem(&restored).await.unwrap().contains("version 2"));
}

#[tokio::test]
async fn old_events_and_final_events_are_no_evidence() {
    let (rig, store) = (Rig::new(), table());
    let sandbox = added(store.as_ref(), NOW).await;
    rig.publish(&changed(store.as_ref(), &sandbox, NOW).await).await;
    let (empty, watch) = (table(), rig.watch(&table()));
    assert!(problem(&rig.watch(&empty)).await.is_some());
    let later = NOW.after(EVENT_PROVES).after(Duration::from_secs(1));
    rig.bus.raise_mark(KnownMark { number: 1, at: later.get() }).await.unwrap();
    let marked = TableMark { number: 1, at: later, accepted_event: 0 };
    assert!(watch.store.advance_mark(&TableMark::default(), &marked).await.unwrap());
    assert_eq!(problem(&watch).await, None, "the tombstone may have been purged, and the id be another's");

    let (rig, store) = (Rig::new(), table());
    let missing = changed(store.as_ref(), &added(store.as_ref(), NOW).await, NOW).await;
    let purge_at = NOW.after(Duration::from_secs(24 * 3_600));
    let Write::Done(gone) = store.forget(&missing, None, NOW, purge_at).await.unwrap() else {
        panic!("raced")
    };
    rig.publish(&gone).await;
    assert_eq!(problem(&rig.watch(&table())).await, None, "the tombstone was purged while nothing ran");
}

#[tokio::test]
async fn mark_lost_in_nats_is_restored_from_the_table() {
    let (rig, store, guard) = (Rig::new(), table(), TableGuard::default());
    let watch = rig.watch(&store);
    let first = watch.round(true, None, &guard).await.unwrap();
    rig.bus.forget_mark();
    // Although another process moves the mark.
    assert_eq!(watch.round(true, Some(first + 9), &guard).await.unwrap(), first);
    assert_eq!((guard.problem(), rig.known().await), (None, Some(first)));
}

#[tokio::test]
async fn guard_is_unknown_until_connected_and_follows_findings() {
    let (rig, store, guard) = (Rig::new(), table(), TableGuard::default());
    let metrics = TableMetrics::register(&Registry::new()).unwrap();
    let stop = CancellationToken::new();
    rig.bus.raise_mark(KnownMark { number: 5, at: NOW.get() }).await.unwrap();
    rig.bus.set_connected(false);
    let watching = tokio::spawn({
        let (watch, guard, metrics, stop) = (rig.watch(&store), guard.clone(), metrics.clone(), stop.clone());
        async move { watch.keep(&guard, &metrics, &stop).await }
    });
    for _ in 0..3 * FAILED_CHECKS_MAX {
        rig.clock.advance(CHECK_PAUSE);
        tokio::task::yield_now().await;
    }
    assert_eq!(*guard.0.borrow(), Finding::Unknown, "a role is not let go on before there is a connection");
    rig.bus.set_connected(true);
    rig.clock.advance(CHECK_PAUSE);
    guard.compared(false).await;
    assert!(guard.problem().is_some());
    assert!(TableCheck(guard.clone()).check().await.unwrap_err().contains("broker table acknowledge"));
    rig.watch(&store).accept().await.unwrap();
    let mut finding = guard.0.subscribe();
    rig.clock.advance(WATCH_PERIOD);
    finding.wait_for(|finding| *finding == Finding::Sound).await.unwrap();
    stop.cancel();
    watching.await.unwrap();
    assert_eq!((guard.problem(), metrics.restored.get()), (None, 0));
}
