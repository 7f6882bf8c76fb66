//! The event log: the events of a sandbox in order, each exactly once.

use crate::engines::Engine;
use contract::Event;
use domain::{
    ClaimKey, Epoch, ExternalId, Grant, IdempotencyKey, LabId, NewSandbox, OwnerId, PoolName, Sandbox,
    SandboxId, SandboxName, StateName, Transition, UnixSeconds,
};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{Appended, EventMark};
use ports::random::Rng;
use prometheus::Registry;
use runtime::recorder::{EventLogMetrics, Recorder};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A moment ago; the recorder does not look for older events.
pub(crate) fn now() -> UnixSeconds {
    use ports::clock::Clock as _;
    ports::clock::SystemClock.now()
}

fn free(number: usize) -> Sandbox {
    NewSandbox {
        id: SandboxId::parse(&number.to_string()).unwrap(),
        name: SandboxName::parse(&format!("lab-{number}")).unwrap(),
        external_id: ExternalId::parse(&format!("identity/accounts/{number}")).unwrap(),
        pool: PoolName::parse("main").unwrap(),
        descriptor: domain::Descriptor::default(),
    }
    .enter(now())
}

fn owner() -> OwnerId {
    OwnerId::parse("student-1").unwrap()
}

/// A whole life cycle, from available to deleted: the sandbox after each state change, with its history so far.
pub(crate) fn life(number: usize) -> Vec<Sandbox> {
    let free = free(number);
    let grant = Grant {
        claim: ClaimKey { owner: owner(), key: IdempotencyKey::from(&owner()) },
        candidate: free.candidate(),
        lab: Some(LabId::parse("dns-basics").unwrap()),
        by: None,
        request: None,
        granted_at: now(),
        expires_at: now().after(Duration::from_secs(3_600)),
        options: None,
    };
    let held = free.clone().apply(&Transition::grant(&grant)).unwrap();
    let ending = held.clone().apply(&Transition::release(&owner(), None, None, now())).unwrap();
    let gone = ending.clone().apply(&Transition::finish_deletion(Epoch::new(1), now(), now(), None)).unwrap();
    vec![free, held, ending, gone]
}

pub(crate) fn event(sandbox: &Sandbox, version: usize) -> Event {
    Event::of(sandbox, &sandbox.history[version - 1], None)
}

pub(crate) fn kept(appended: Appended) -> EventMark {
    match appended {
        Appended::Kept(mark) => mark,
        other => panic!("{other:?}"),
    }
}

fn recorder(world: &crate::engines::World, event_log: Arc<dyn crate::engines::Bus>) -> (Recorder, Registry) {
    let _ = world;
    let registry = Registry::new();
    let metrics = EventLogMetrics::register(&registry).unwrap();
    (Recorder::new(Arc::new(ports::clock::SystemClock), event_log, metrics), registry)
}

fn count(registry: &Registry, name: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).expect("a metric");
    family.get_metric()[0].get_counter().get_value() as u64
}

pub(crate) async fn event_is_appended_after_its_predecessor(engine: Engine) {
    let world = engine.world().await;
    let gone = life(1).pop().unwrap();
    assert_eq!(world.bus.last_event(&gone.id).await.unwrap(), None);
    let first = kept(world.bus.append(&gone.id, &event(&gone, 1), None).await.unwrap());
    assert_eq!(world.bus.last_event(&gone.id).await.unwrap(), Some(first));
    let second = kept(world.bus.append(&gone.id, &event(&gone, 2), Some(first)).await.unwrap());
    assert_eq!((first.version.get(), second.version.get()), (1, 2));
    // A late writer, and one that has seen no event.
    for after in [Some(first), None] {
        let refused = world.bus.append(&gone.id, &event(&gone, 3), after).await.unwrap();
        assert_eq!(refused, Appended::Moved);
    }
    let third = kept(world.bus.append(&gone.id, &event(&gone, 3), Some(second)).await.unwrap());
    assert_eq!(world.bus.last_event(&gone.id).await.unwrap(), Some(third));
}

pub(crate) async fn existing_event_is_not_appended_again(engine: Engine) {
    let world = engine.world().await;
    let gone = life(1).pop().unwrap();
    let first = kept(world.bus.append(&gone.id, &event(&gone, 1), None).await.unwrap());
    let again = world.bus.append(&gone.id, &event(&gone, 1), None).await.unwrap();
    assert_eq!(again, Appended::Moved, "also right after the first, whose answer may have been lost");
    assert_eq!(world.bus.last_event(&gone.id).await.unwrap(), Some(first));
    assert_eq!(world.events().await.len(), 1);
}

pub(crate) async fn events_of_sandboxes_are_independent(engine: Engine) {
    let world = engine.world().await;
    for number in [1, 11, 111] {
        let sandbox = free(number);
        kept(world.bus.append(&sandbox.id, &event(&sandbox, 1), None).await.unwrap());
    }
    assert_eq!(world.events().await.len(), 3);
}

pub(crate) async fn event_describes_the_transition(engine: Engine) {
    let world = engine.world().await;
    let gone = life(7).pop().unwrap();
    let (recorder, _) = recorder(&world, Arc::clone(&world.bus));
    assert_eq!(recorder.complete(&gone).await.unwrap(), 4);
    let events = world.events().await;
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["listed", "claimed", "released", "deleted"]);
    let claimed = &events[1];
    assert_eq!((claimed.id.as_str(), claimed.subject.as_str()), ("7:2", "7"));
    let data = &claimed.data;
    assert_eq!((&data.from, &data.to), (&Some(StateName::Available.into()), &StateName::Allocated.into()));
    assert_eq!((data.owner.as_deref(), data.lab.as_deref()), (Some("student-1"), Some("dns-basics")));
    assert_eq!((data.epoch, data.version, data.by.as_str()), (1, 2, "student-1"));
    let listed = &events[0].data;
    assert_eq!((&listed.from, &listed.owner, listed.by.as_str()), (&None, &None, "sync"));
    assert_eq!(events[3].data.by, "reaper");
}

pub(crate) async fn lifecycle_is_published_once_by_any_number_of_writers(engine: Engine) {
    let world = engine.world().await;
    let another = world.connect().await;
    let (one, _) = recorder(&world, Arc::clone(&world.bus));
    let (other, _) = recorder(&world, another);
    let stages = life(1);
    // In both orders, concurrently, from two processes.
    let looks =
        stages.iter().rev().chain(&stages).flat_map(|stage| [one.complete(stage), other.complete(stage)]);
    for looked in futures_util::future::join_all(looks).await {
        looked.unwrap();
    }
    let ids: Vec<_> = world.events().await.into_iter().map(|event| event.id).collect();
    assert_eq!(ids, ["1:1", "1:2", "1:3", "1:4"]);
}

pub(crate) async fn noted_events_are_published_in_the_background(engine: Engine) {
    let world = engine.world().await;
    let (recorder, registry) = recorder(&world, Arc::clone(&world.bus));
    let stages = life(1);
    for (stage, request) in stages.iter().zip([None, Some("r-2"), Some("r-3"), None]) {
        recorder.note(stage, request);
    }
    let recorder_stop = CancellationToken::new();
    let publishing = tokio::spawn({
        let (recorder, recorder_stop) = (recorder.clone(), recorder_stop.clone());
        async move { recorder.publish_until(recorder_stop).await }
    });
    // In whatever order they are noted, none is left out and none is published twice.
    eventually("four events", TIMEOUT, || async {
        let events = world.events().await;
        if events.len() == 4 { Ok(()) } else { Err(events) }
    })
    .await;
    recorder_stop.cancel();
    publishing.await.unwrap();
    assert_eq!(count(&registry, "broker_events_published_total"), 4);
    assert_eq!(count(&registry, "broker_events_left_total"), 0);
}

pub(crate) async fn pending_events_are_published_before_shutdown(engine: Engine) {
    let world = engine.world().await;
    let (recorder, _) = recorder(&world, Arc::clone(&world.bus));
    for number in 1..=20 {
        recorder.note(&free(number), None);
    }
    let recorder_stop = CancellationToken::new();
    recorder_stop.cancel();
    recorder.publish_until(recorder_stop).await;
    assert_eq!(world.events().await.len(), 20);
}

pub(crate) async fn random_lifecycles_are_published_in_order(engine: Engine) {
    use ports::random::Random as _;
    let world = engine.world().await;
    let rng = Rng::seeded(20_261_121);
    let (recorder, _) = recorder(&world, Arc::clone(&world.bus));
    let lives: Vec<_> = (1..=12).map(life).collect();
    let mut looks = Vec::new();
    for _ in 0..100 {
        let stages = &lives[rng.below(lives.len())];
        looks.push(recorder.complete(&stages[rng.below(stages.len())]));
    }
    for looked in futures_util::future::join_all(looks).await {
        looked.unwrap();
    }
    for stages in &lives {
        recorder.complete(stages.last().unwrap()).await.unwrap();
        let of_it = |event: &Event| event.subject == stages[0].id.as_str();
        let events = world.events().await.into_iter().filter(of_it).map(|event| event.data.version);
        assert_eq!(events.collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}
