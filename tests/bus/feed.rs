//! Reading the event log while it grows, and seeing which workers are there.

use crate::engines::{Engine, World};
use crate::event_log::{event, kept, life, now};
use contract::{FaultCode, Verb, WorkerRole, WorkerView};
use domain::{Cause, SandboxId, UnixSeconds};
use futures_util::StreamExt as _;
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{EventsFrom, EventsWanted, KeptEvent, SINCE_SECONDS_MAX, ServiceInfo, WorkCounts};
use std::sync::Arc;
use std::time::Duration;
use strum::IntoEnumIterator as _;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3_600);

/// Three life cycles, published one after the other: twelve events.
async fn publish_events(world: &World) {
    for number in 1..=3 {
        tell_life(world, number).await;
    }
}

async fn tell_life(world: &World, number: usize) {
    let gone = life(number).pop().unwrap();
    let mut mark = None;
    for version in 1..=gone.history.len() {
        mark = Some(kept(world.bus.append(&gone.id, &event(&gone, version), mark).await.unwrap()));
    }
}

fn ids(events: &[KeptEvent]) -> Vec<&str> {
    events.iter().map(|kept| kept.event.as_ref().expect("an event").id.as_str()).collect()
}

fn places(events: &[KeptEvent]) -> Vec<u64> {
    events.iter().map(|kept| kept.sequence).collect()
}

/// The first read that finds `expected` events; reads may lag behind writes.
async fn read(world: &World, from: EventsFrom, wanted: &EventsWanted, expected: usize) -> Vec<KeptEvent> {
    eventually("the events", TIMEOUT, || async {
        let found = world.bus.events_from(from, wanted, 100).await.unwrap();
        if found.len() == expected { Ok(found) } else { Err(found) }
    })
    .await
}

pub(crate) async fn event_log_is_read_from_any_sequence(engine: Engine) {
    let world = engine.world().await;
    let all = EventsWanted::default();
    let ends = world.bus.event_log_range().await.unwrap();
    assert_eq!((ends.first, ends.last), (1, 0), "nothing yet");
    assert!(world.bus.events_from(EventsFrom::After(0), &all, 10).await.unwrap().is_empty());
    publish_events(&world).await;
    let ends = world.bus.event_log_range().await.unwrap();
    assert_eq!((ends.first, ends.last), (1, 12));
    let everything = read(&world, EventsFrom::After(0), &all, 12).await;
    assert_eq!(places(&everything), (1..=12).collect::<Vec<_>>());
    // Page by page, each from the end of the last one.
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = world.bus.events_from(EventsFrom::After(after), &all, 5).await.unwrap();
        assert!(page.len() <= 5);
        let Some(last) = page.last() else { break };
        after = last.sequence;
        seen.extend(page);
    }
    assert_eq!(seen, everything);
    for beyond in [12, 13, 1_000_000, u64::MAX] {
        let found = world.bus.events_from(EventsFrom::After(beyond), &all, 5).await.unwrap();
        assert!(found.is_empty(), "{beyond}");
    }
}

pub(crate) async fn event_log_is_read_from_a_time(engine: Engine) {
    let world = engine.world().await;
    publish_events(&world).await;
    let all = EventsWanted::default();
    let earlier = EventsFrom::Since(now().before(HOUR));
    assert_eq!(places(&read(&world, earlier, &all, 12).await), (1..=12).collect::<Vec<_>>());
    let later = EventsFrom::Since(now().after(HOUR));
    assert!(world.bus.events_from(later, &all, 100).await.unwrap().is_empty());
    // Also times where the server's nanoseconds overflow, or that have no date text.
    for beyond in [SINCE_SECONDS_MAX, SINCE_SECONDS_MAX + 1, 253_402_300_799, 253_402_300_800, u64::MAX] {
        let beyond = EventsFrom::Since(UnixSeconds::new(beyond));
        assert_eq!(world.bus.events_from(beyond, &all, 100).await.unwrap(), [], "{beyond:?}");
    }
}

pub(crate) async fn only_matching_events_are_read(engine: Engine) {
    let world = engine.world().await;
    publish_events(&world).await;
    let sandbox = Some(SandboxId::parse("2").unwrap());
    let of_one = EventsWanted { sandbox: sandbox.clone(), cause: None };
    let found = read(&world, EventsFrom::After(0), &of_one, 4).await;
    assert_eq!(ids(&found), ["2:1", "2:2", "2:3", "2:4"]);
    let of_kind = EventsWanted { sandbox: None, cause: Some(Cause::Claimed) };
    let found = read(&world, EventsFrom::After(0), &of_kind, 3).await;
    assert_eq!(ids(&found), ["1:2", "2:2", "3:2"]);
    let of_both = EventsWanted { sandbox, cause: Some(Cause::Deleted) };
    assert_eq!(ids(&read(&world, EventsFrom::After(0), &of_both, 1).await), ["2:4"]);
    let of_none = EventsWanted { sandbox: None, cause: Some(Cause::Parked) };
    assert!(world.bus.events_from(EventsFrom::After(0), &of_none, 100).await.unwrap().is_empty());
}

pub(crate) async fn new_events_are_notified(engine: Engine) {
    let world = engine.world().await;
    let wanted = EventsWanted { cause: Some(Cause::Deleted), sandbox: None };
    let mut bell = world.connect().await.event_notifications(&wanted).await.unwrap();
    for number in 1..=3 {
        tell_life(&world, number).await;
        let ring = tokio::time::timeout(TIMEOUT, bell.next()).await.expect("a ring");
        ring.expect("a bell that still rings");
    }
}

/// A worker that has run.
struct Busy(WorkerRole);

impl ServiceInfo for Busy {
    fn role(&self) -> WorkerRole {
        self.0
    }

    fn in_flight(&self) -> Option<u64> {
        (self.0 != WorkerRole::Scheduler).then_some(3)
    }

    fn counts(&self, verb: Verb) -> WorkCounts {
        let is_allocate = verb == Verb::Allocate;
        let last_error = is_allocate.then_some(FaultCode::PoolExhausted);
        WorkCounts { requests: 7, errors: u64::from(is_allocate), last_error, processing_ns: 7_000_000 }
    }

    fn total(&self) -> WorkCounts {
        WorkCounts::of(9, 2)
    }

    fn further(&self) -> Vec<(String, u64)> {
        vec![("cups".to_owned(), 5)]
    }
}

async fn until_there(world: &World, expected: usize) -> Vec<WorkerView> {
    eventually("the workers", TIMEOUT, || async {
        let workers = world.bus.workers(Duration::from_secs(2)).await.unwrap();
        if workers.len() == expected { Ok(workers) } else { Err(workers) }
    })
    .await
}

pub(crate) async fn running_workers_are_discovered(engine: Engine) {
    let world = engine.world().await;
    assert!(world.bus.workers(Duration::from_secs(2)).await.unwrap().is_empty());
    let (stop, other_stop) = (CancellationToken::new(), CancellationToken::new());
    let bus = world.connect().await;
    let mut answering = tokio::task::JoinSet::new();
    for role in WorkerRole::iter() {
        let (bus, stop) = (Arc::clone(&bus), stop.clone());
        answering.spawn(async move { bus.answer_discovery(Arc::new(Busy(role)), stop).await });
    }
    let (second, second_stop) = (world.connect().await, other_stop.clone());
    answering
        .spawn(async move { second.answer_discovery(Arc::new(Busy(WorkerRole::Reaper)), second_stop).await });
    let expected = WorkerRole::iter().count() + 1;
    let workers = until_there(&world, expected).await;
    let ids: std::collections::BTreeSet<_> = workers.iter().map(|worker| worker.id.as_str()).collect();
    assert_eq!(ids.len(), expected, "each has an id of its own");
    let of = |role| workers.iter().filter(|worker| worker.role == role).collect::<Vec<_>>();
    assert_eq!(of(WorkerRole::Reaper).len(), 2);
    let allocator = of(WorkerRole::Allocator)[0];
    assert_eq!(allocator.work.len(), Verb::of(WorkerRole::Allocator).count());
    let allocate = &allocator.work["allocate"];
    assert_eq!((allocate.requests, allocate.errors, allocate.mean_us), (7, 1, 1_000));
    assert_eq!(allocate.last_error.as_deref(), Some("409:POOL_EXHAUSTED"));
    assert_eq!(allocator.work["get"].last_error, None);
    let ingress = of(WorkerRole::Ingress)[0];
    assert_eq!((ingress.work["work"].requests, ingress.work["work"].errors), (9, 2));
    for worker in &workers {
        let in_flight = (worker.role != WorkerRole::Scheduler).then_some(3);
        assert_eq!((worker.in_flight, worker.numbers["cups"]), (in_flight, 5));
        assert_eq!(worker.version, env!("CARGO_PKG_VERSION"));
        assert!(worker.started_at.abs_diff(now().get()) < HOUR.as_secs());
    }
    other_stop.cancel();
    until_there(&world, expected - 1).await;
    stop.cancel();
    until_there(&world, 0).await;
    while let Some(ended) = answering.join_next().await {
        ended.unwrap().unwrap();
    }
}
