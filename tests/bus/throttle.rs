//! The provider throttle of the whole fleet. The clock is the test's own, so slots are exact. The rules are tested with
//! the rules; here is tested that all connections share one throttle and that its state is kept.

use crate::engines::{Bus, Engine, World};
use crate::fixtures::{announce, consume, consume_closed, until, work};
use contract::{DeletionsState, Pause, ThrottleState};
use domain::{SandboxId, UnixSeconds};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{Admission, CallOutcome, Confirmed, Permit, Verdict};
use ports::clock::{Clock as _, SystemClock};
use runtime::throttle::ThrottleRules;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use testkit::clock::ManualClock;

const SECOND: Duration = Duration::from_secs(1);
/// From one slot to the next at 600 a minute, in microseconds.
const SPACING_US: u64 = 102_000;

async fn world(engine: Engine) -> (World, ManualClock) {
    let clock = ManualClock::at(UnixSeconds::new(1_763_683_200));
    let change = |config: &mut testkit::bus::MemoryConfig| {
        config.throttle = ThrottleRules { per_minute_max: 600, ..ThrottleRules::default() };
    };
    (engine.world_at(Arc::new(clock.clone()), change).await, clock)
}

fn sandbox(number: usize) -> SandboxId {
    SandboxId::parse(&number.to_string()).unwrap()
}

async fn slot(bus: &dyn Bus) -> Permit {
    match bus.acquire().await.unwrap() {
        Admission::Go { permit, .. } => permit,
        Admission::Later { wait, .. } => panic!("no slot for {wait:?}"),
    }
}

/// Fails the calls of that many sandboxes, alternately on the two connections.
async fn break_down(buses: [&Arc<dyn Bus>; 2], clock: &ManualClock) {
    for number in 0..5 {
        let bus = buses[number % 2].as_ref();
        bus.report_outcome(slot(bus).await, &sandbox(number), CallOutcome::Failed).await.unwrap();
        clock.advance(10 * SECOND);
    }
}

pub(crate) async fn throttle_is_shared_by_all_workers(engine: Engine) {
    let (world, clock) = world(engine).await;
    let other = world.connect().await;
    for number in 0..6 {
        let bus = if number % 2 == 0 { &world.bus } else { &other };
        assert_eq!(slot(bus.as_ref()).await.slot_us, clock.now_ms() * 1_000 + number * SPACING_US);
    }
    clock.advance(3_600 * SECOND);
    let now_us = clock.now_ms() * 1_000;
    assert_eq!(slot(other.as_ref()).await.slot_us, now_us, "time without work is not saved up");
    assert_eq!(slot(world.bus.as_ref()).await.slot_us, now_us + SPACING_US);
}

pub(crate) async fn concurrent_callers_get_distinct_slots(engine: Engine) {
    const TAKERS: u64 = 24;
    let (world, clock) = world(engine).await;
    let buses = [Arc::clone(&world.bus), world.connect().await, world.connect().await];
    let taking: Vec<_> = (0..TAKERS)
        .map(|number| {
            let bus = Arc::clone(&buses[usize::try_from(number % 3).unwrap()]);
            tokio::spawn(async move { slot(bus.as_ref()).await.slot_us })
        })
        .collect();
    let mut slots = BTreeSet::new();
    for taking in taking {
        slots.insert(taking.await.unwrap());
    }
    let expected = (0..TAKERS).map(|number| clock.now_ms() * 1_000 + number * SPACING_US);
    assert_eq!(slots, expected.collect());
}

pub(crate) async fn hold_stops_all_workers(engine: Engine) {
    let (world, clock) = world(engine).await;
    let other = world.connect().await;
    let (refused, waiting) = (slot(other.as_ref()).await, slot(world.bus.as_ref()).await);
    let end = CallOutcome::SlowDown { span: 30 * SECOND };
    other.report_outcome(refused, &sandbox(1), end).await.unwrap();
    assert!(matches!(world.bus.confirm(waiting).await.unwrap(), Confirmed::Later { .. }));
    clock.advance(30 * SECOND - Duration::from_millis(1));
    for bus in [&world.bus, &other] {
        assert_eq!(
            bus.acquire().await.unwrap(),
            Admission::Later { wait: Duration::from_millis(1), is_closed: true }
        );
        assert_eq!(bus.view().await.unwrap().calls, 0);
        assert_eq!(bus.status().await.unwrap().state, DeletionsState::Held.into());
    }
    clock.advance(Duration::from_millis(1));
    assert_eq!(slot(world.bus.as_ref()).await.slot_us, clock.now_ms() * 1_000);
}

pub(crate) async fn breaker_is_shared_and_admits_one_probe(engine: Engine) {
    let (world, clock) = world(engine).await;
    let other = world.connect().await;
    break_down([&world.bus, &other], &clock).await;
    for bus in [&world.bus, &other] {
        assert!(matches!(bus.acquire().await.unwrap(), Admission::Later { .. }));
        assert!(bus.view().await.unwrap().is_broken);
    }
    clock.advance(30 * SECOND);
    let trying: Vec<_> = (0..8)
        .map(|number| {
            let bus = Arc::clone(if number % 2 == 0 { &world.bus } else { &other });
            tokio::spawn(async move { bus.acquire().await.unwrap() })
        })
        .collect();
    let mut probes = Vec::new();
    for trying in trying {
        if let Admission::Go { permit, .. } = trying.await.unwrap() {
            probes.push(permit);
        }
    }
    assert!(matches!(probes.as_slice(), [Permit { is_probe: true, .. }]), "{probes:?}");
    assert!(other.report_outcome(probes[0], &sandbox(9), CallOutcome::Deleted).await.unwrap().is_closed);
    let status = world.bus.status().await.unwrap();
    assert_eq!((status.state.as_str(), status.breaker.failures), ("running", 0));
    assert!(status.rate_per_minute < 600 && status.rate_per_minute_max == 600, "{status:?}");
}

pub(crate) async fn pause_is_shared_and_expires(engine: Engine) {
    let (world, clock) = world(engine).await;
    let other = world.connect().await;
    let waiting = slot(world.bus.as_ref()).await;
    let pause = Pause {
        by: "operator".to_owned(),
        since: clock.now().get(),
        until: Some(clock.now().get() + 60),
        reason: Some("maintenance".to_owned()),
    };
    other.pause(&pause).await.unwrap();
    assert!(matches!(world.bus.confirm(waiting).await.unwrap(), Confirmed::Later { .. }));
    for bus in [&world.bus, &other, &world.connect().await] {
        assert!(matches!(bus.acquire().await.unwrap(), Admission::Later { .. }));
        let status = bus.status().await.unwrap();
        assert_eq!((status.state.as_str(), status.paused.as_ref()), ("paused", Some(&pause)));
    }
    clock.advance(60 * SECOND);
    slot(world.bus.as_ref()).await;
    assert_eq!(world.bus.status().await.unwrap().paused, None);
    assert_eq!(world.bus.resume("test").await.unwrap(), None, "it was over");

    let endless = Pause { until: None, ..pause };
    world.bus.pause(&endless).await.unwrap();
    assert_eq!(other.resume("test").await.unwrap(), Some(endless));
    assert_eq!(other.resume("test").await.unwrap(), None);
    clock.advance(SECOND);
    slot(world.bus.as_ref()).await;
}

pub(crate) async fn worker_that_admits_no_work_gets_none(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, running) = consume_closed(&world.bus, 4);
    announce(&world, [1, 2, 3]).await;
    until("further looks at the worker", || inbox.admissions() >= 3).await;
    assert!(inbox.poll().is_none());
    assert_eq!(world.queued().await, 3);
    inbox.admit_all();
    for number in 1..=3 {
        let case = inbox.next().await;
        assert_eq!((&case.what.work, case.what.deliveries), (&work(number), 1), "it lay where it was");
        case.answer(Verdict::Done);
    }
    world.until_empty().await;
    running.stop().await;
}

pub(crate) async fn the_queue_is_counted_by_pool(engine: Engine) {
    let world = engine.world().await;
    announce(&world, 0..5).await;
    let (mut inbox, _running) = consume(&world.bus, 2);
    let _held = [inbox.next().await, inbox.next().await];
    let status = world.bus.status().await.unwrap();
    let counts: Vec<_> = status.pools.values().map(|pool| (pool.waiting, pool.under_way)).collect();
    assert_eq!(counts, [(3, 2)], "{status:?}");
    assert_eq!(status.consumer_paused_until, None);
}

pub(crate) async fn throttle_state_too_far_ahead_is_bounded(engine: Engine) {
    let world = engine.world_with(|config| config.throttle.per_minute_max = 600).await;
    // The state that a worker of an older build with a clock 240 s ahead leaves behind.
    let next_us = (SystemClock.now_ms() + 240_000) * 1_000;
    world.put_throttle_state(&ThrottleState { next_us, ..ThrottleState::default() }).await;
    let Admission::Later { wait, is_closed: false } = world.bus.acquire().await.unwrap() else {
        panic!("a slot")
    };
    assert!(wait < 4 * SECOND, "{wait:?}");
    eventually("a slot", TIMEOUT, || async {
        match world.bus.acquire().await.unwrap() {
            Admission::Go { .. } => Ok(()),
            later => Err(later),
        }
    })
    .await;
}
