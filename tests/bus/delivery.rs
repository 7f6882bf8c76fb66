//! Delivery of deletion work: to one worker at a time, within the limits in flight, and again until there is a verdict.

use crate::engines::Engine;
use crate::fixtures::{announce, consume, until, work};
use contract::DeletionWork;
use harness::wait::moment;
use ports::bus::{Announced, Verdict};
use ports::random::{Random as _, Rng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) async fn retry_is_redelivered_after_its_delay_without_blocking(engine: Engine) {
    let world = engine.world_with(|config| config.deletions_in_flight_max = 1).await;
    announce(&world, [1, 2]).await;
    let (mut inbox, _running) = consume(&world.bus, 4);
    let case = inbox.next().await;
    assert_eq!(case.what.work, work(1));
    let delay = Duration::from_secs(1);
    let since = Instant::now();
    case.answer(Verdict::Retry { delay });
    let other = inbox.next().await;
    assert_eq!(other.what.work, work(2), "the only place is free while the first one waits");
    assert!(since.elapsed() < delay, "it was not held up");
    other.answer(Verdict::Done);
    let again = inbox.next().await;
    assert!(since.elapsed() >= delay, "after {:?}", since.elapsed());
    assert_eq!((&again.what.work, again.what.deliveries), (&work(1), 1), "a retry is a new message");
    again.answer(Verdict::Done);
    world.until_empty().await;
}

pub(crate) async fn global_in_flight_limit_is_enforced(engine: Engine) {
    let world = engine.world_with(|config| config.deletions_in_flight_max = 3).await;
    announce(&world, 0..12).await;
    let other = world.connect().await;
    let (mut one, _one) = consume(&world.bus, 8);
    let (mut two, _two) = consume(&other, 8);
    let mut done = 0;
    while done < 12 {
        let expected = 3.min(12 - done);
        let at_once = world.in_hand(|| one.at_once() + two.at_once(), expected, 2).await;
        assert_eq!(at_once, expected, "with {done} done");
        for inbox in [&mut one, &mut two] {
            while let Some(case) = inbox.poll() {
                case.answer(Verdict::Done);
                done += 1;
            }
        }
    }
    world.until_empty().await;
}

pub(crate) async fn in_flight_limit_of_a_process_is_enforced(engine: Engine) {
    let world = engine.world().await;
    announce(&world, 0..6).await;
    let (mut busy, _busy) = consume(&world.bus, 2);
    let held = [busy.next().await, busy.next().await];
    let other = world.connect().await;
    let (mut free, _free) = consume(&other, 4);
    for _ in 0..4 {
        free.next().await.answer(Verdict::Done);
    }
    assert!(busy.poll().is_none(), "the busy one took no third");
    assert_eq!(busy.at_once_max(), 2);
    for case in held {
        case.answer(Verdict::Done);
    }
    world.until_empty().await;
}

pub(crate) async fn slow_work_is_kept_alive(engine: Engine) {
    let world = engine.world().await;
    announce(&world, [1]).await;
    let other = world.connect().await;
    let (mut one, _one) = consume(&world.bus, 4);
    let case = one.next().await;
    let (mut two, _two) = consume(&other, 4);
    // Twice the acknowledgement wait.
    moment(Duration::from_secs(2)).await;
    assert!(two.poll().is_none() && one.poll().is_none(), "it was given to no other worker");
    assert!(!case.is_abandoned());
    case.answer(Verdict::Done);
    world.until_empty().await;
    assert_eq!(one.at_once_max() + two.at_once_max(), 1);
}

pub(crate) async fn work_of_a_panicked_worker_is_redelivered(engine: Engine) {
    let world = engine.world().await;
    announce(&world, [1]).await;
    let (mut inbox, _running) = consume(&world.bus, 4);
    for deliveries in 1..=3 {
        let case = inbox.next().await;
        assert_eq!((&case.what.work, case.what.deliveries), (&work(1), deliveries));
        // Dropping the case makes the worker panic.
        drop(case);
    }
    inbox.next().await.answer(Verdict::Done);
    world.until_empty().await;
}

pub(crate) async fn work_of_a_dead_process_is_redelivered(engine: Engine) {
    let world = engine.world().await;
    announce(&world, 0..3).await;
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // The connection belongs to this runtime and ends with it.
    let (connected, connection) = tokio::sync::oneshot::channel();
    let world = Arc::new(world);
    process.spawn({
        let world = Arc::clone(&world);
        async move { drop(connected.send(world.connect().await)) }
    });
    let bus = connection.await.unwrap();
    let (mut inbox, _running) = {
        let _inside = process.enter();
        consume(&bus, 4)
    };
    let mut lost = Vec::new();
    for _ in 0..3 {
        lost.push(inbox.next().await);
    }
    let (mut survivor, _survivor) = consume(&world.bus, 4);
    process.shutdown_background();
    for _ in 0..3 {
        let case = survivor.next().await;
        assert_eq!(case.what.deliveries, 2);
        case.answer(Verdict::Done);
    }
    world.until_empty().await;
    assert!(lost.iter().all(crate::manual_worker::Case::is_abandoned));
}

pub(crate) async fn stopping_consumer_finishes_its_work(engine: Engine) {
    let world = engine.world().await;
    announce(&world, 0..3).await;
    let (mut inbox, running) = consume(&world.bus, 2);
    let cases = [inbox.next().await, inbox.next().await];
    running.stop.cancel();
    for case in cases {
        assert!(!case.is_abandoned());
        case.answer(Verdict::Done);
    }
    running.ended().await;
    assert!(inbox.poll().is_none(), "it took no more");
    assert_eq!(world.queued().await, 1);
    let (mut next, _next) = consume(&world.bus, 2);
    let case = next.next().await;
    assert_eq!((&case.what.work, case.what.deliveries), (&work(2), 1));
    case.answer(Verdict::Done);
    world.until_empty().await;
}

pub(crate) async fn stopping_consumer_returns_unfinished_work(engine: Engine) {
    let change = |config: &mut testkit::bus::MemoryConfig| {
        config.finish_timeout = Duration::from_millis(100);
        // Far longer than the test: a message that is delivered again was returned by its worker.
        config.deletion_ack_wait = Duration::from_secs(600);
    };
    let world = engine.world_with(change).await;
    announce(&world, [1]).await;
    let (mut inbox, running) = consume(&world.bus, 4);
    let case = inbox.next().await;
    running.stop().await;
    assert!(case.is_abandoned(), "it was cut off");
    let (mut next, _next) = consume(&world.bus, 4);
    let again = next.next().await;
    assert_eq!((&again.what.work, again.what.deliveries), (&work(1), 2));
    again.answer(Verdict::Done);
    world.until_empty().await;
}

pub(crate) async fn every_message_gets_a_verdict(engine: Engine) {
    const WORKS: usize = 100;
    let world = engine.world().await;
    let rng = Rng::seeded(7);
    let mut finished = 0;
    let buses = [world.connect().await, world.connect().await, world.connect().await];
    let mut tallies: BTreeMap<String, usize> = BTreeMap::new();
    let mut consumers: Vec<_> = buses.iter().map(|bus| consume(bus, 4)).collect();
    announce(&world, 0..WORKS).await;
    while finished < WORKS {
        for (inbox, _running) in &mut consumers {
            while let Some(case) = inbox.poll() {
                let tries = tallies.entry(case.what.work.sandbox_id.clone()).or_default();
                *tries += 1;
                // Half of them need a second attempt.
                if *tries == 1 && rng.below(2) == 0 {
                    case.answer(Verdict::Retry { delay: Duration::from_millis(10) });
                } else {
                    finished += 1;
                    case.answer(Verdict::Done);
                }
            }
        }
        let is_over = finished == WORKS;
        until("the next work", || is_over || consumers.iter().any(|(inbox, _)| inbox.has_case())).await;
    }
    world.until_empty().await;
    assert_eq!(tallies.len(), WORKS);
    assert!(tallies.values().all(|tries| *tries <= 2), "{tallies:?}");
}

pub(crate) async fn busy_pool_does_not_block_others(engine: Engine) {
    const CROWD: usize = 500;
    let world = engine.world().await;
    announce(&world, 0..CROWD).await;
    for number in 0..5 {
        let few = DeletionWork { pool: "few".to_owned(), ..work(number) };
        assert_eq!(world.bus.announce(&few).await.unwrap(), Announced::Queued);
    }
    let (mut inbox, running) = consume(&world.bus, 2);
    let (mut crowd, mut few) = (0, 0);
    while few < 5 {
        let case = inbox.next().await;
        *(if case.what.work.pool == "few" { &mut few } else { &mut crowd }) += 1;
        case.answer(Verdict::Done);
    }
    assert!(crowd < CROWD / 2, "{crowd} of the crowd went before the five that came last");
    running.stop().await;
    world.purge_deletions().await;
}

pub(crate) async fn work_of_an_unannounced_pool_is_consumed(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, running) = consume(&world.bus, 2);
    let elsewhere = DeletionWork { pool: "elsewhere".to_owned(), ..work(1) };
    world.publish_raw_deletion(&elsewhere, &serde_json::to_string(&elsewhere).unwrap()).await;
    let case = inbox.next().await;
    assert_eq!(case.what.work, elsewhere);
    case.answer(Verdict::Done);
    world.until_empty().await;
    running.stop().await;
}
