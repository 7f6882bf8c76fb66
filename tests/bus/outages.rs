//! The bus fails during the work and returns: every worker continues, and nothing is lost.

use crate::engines::Engine;
use crate::fixtures::{announce, answer, ask, consume, context, report, run_on_ticks, serve, work};
use bytes::Bytes;
use contract::{Pause, TickKind, TickOrder, Verb};
use futures_util::FutureExt as _;
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{Announced, RequestError, Verdict};
use std::collections::BTreeSet;
use std::time::Duration;

pub(crate) async fn deletions_resume_after_an_outage(engine: Engine) {
    const WORKS: usize = 10;
    let mut world = engine.world_that_stops(|config| config.deletions_in_flight_max = 2).await;
    announce(&world, 0..WORKS).await;
    let other = world.connect().await;
    let (mut inbox, _running) = consume(&other, 4);
    inbox.next().await.answer(Verdict::Retry { delay: Duration::from_secs(1) });
    world.until_a_retry_waits().await;
    let under_way = [inbox.next().await, inbox.next().await];
    world.stop_server().await;
    for case in under_way {
        case.answer(Verdict::Done);
    }
    world.start_server().await;
    let mut done = BTreeSet::new();
    eventually("every work to be done", TIMEOUT, || {
        while let Some(case) = inbox.poll() {
            done.insert(case.what.work.sandbox_id.clone());
            case.answer(Verdict::Done);
        }
        async {
            match world.queued().await {
                0 => Ok(()),
                left => Err(left),
            }
        }
    })
    .await;
    assert!(done.len() >= WORKS - 2, "all but those that were answered during the outage: {done:?}");
    announce(&world, [0]).await;
    let case = inbox.next().await;
    assert_eq!(case.what.work, work(0));
    case.answer(Verdict::Done);
    world.until_empty().await;
}

pub(crate) async fn announcement_during_an_outage_fails(engine: Engine) {
    let mut world = engine.world_that_stops(|_| {}).await;
    world.stop_server().await;
    eventually("the outage to be noticed", TIMEOUT, || async {
        if world.bus.is_connected() { Err("connected") } else { Ok(()) }
    })
    .await;
    let refused = world.bus.request(Verb::Get, &context("r"), Bytes::new(), TIMEOUT).await;
    assert_eq!(refused.unwrap_err(), RequestError::Disconnected, "and not after its patience");
    world.start_server().await;
    let announced = eventually("the queue", TIMEOUT, || async { world.bus.announce(&work(1)).await }).await;
    assert_eq!(announced, Announced::Queued);
    assert_eq!(world.queued().await, 1);
}

pub(crate) async fn requests_and_ticks_resume_after_an_outage(engine: Engine) {
    let mut world = engine.world_that_stops(|_| {}).await;
    let other = world.connect().await;
    let (requests, _serving) = serve(&other, 4);
    let (mut runs, _running) = run_on_ticks(&other, TickKind::SWEEP);
    requests.answer_all(|_| answer("{}"));
    ask(world.bus.as_ref(), Verb::Get, &context("r"), "{}").await.unwrap();
    world.bus.tick(TickKind::SWEEP, Some((7, Duration::from_secs(60)))).await.unwrap();
    runs.next().await.answer(report(1));
    // The run's acknowledgement must have arrived, or the same tick would be delivered again after the acknowledgement
    // wait.
    world.until_no_tick(TickKind::SWEEP).await;
    world.stop_server().await;
    world.start_server().await;
    let reply = eventually("an answer", TIMEOUT, || async {
        world.bus.request(Verb::Get, &context("r"), Bytes::new(), Duration::from_secs(1)).await
    })
    .await;
    assert!(!reply.is_fault);
    let kept = world.bus.last_report(TickKind::SWEEP).await.unwrap().unwrap();
    assert_eq!(kept.report, report(1), "the report outlives the server");
    runs.answer_all(|_| report(2));
    let (_, reported) =
        eventually("a tick", TIMEOUT, || async { world.bus.tick_and_wait(TickKind::SWEEP, TIMEOUT).await })
            .await;
    assert_eq!(reported.unwrap().report, report(2));
}

pub(crate) async fn action_refused_in_an_outage_is_not_executed_later(engine: Engine) {
    const SYNC: TickKind = TickKind::SYNC;
    let mut world = engine.world_that_stops(|_| {}).await;
    world.bus.pause(&Pause::default()).await.unwrap();
    let before = world.bus.last_tick().await.unwrap().unwrap_or_default();
    world.stop_server().await;
    eventually("the outage to be noticed", TIMEOUT, || async {
        if world.bus.is_connected() { Err("connected") } else { Ok(()) }
    })
    .await;
    // Polled once: a call that is not refused at once would wait for the connection, and be sent after the reconnect.
    let order = TickOrder::forced("alice");
    let ordered = world.bus.order_and_wait(SYNC, &order, TIMEOUT).now_or_never();
    assert!(ordered.is_some_and(|answer| answer.is_err()));
    let ticked = world.bus.tick_and_wait(SYNC, TIMEOUT).now_or_never();
    assert!(ticked.is_some_and(|answer| answer.is_err()));
    let resumed = world.bus.resume("test").now_or_never();
    assert!(resumed.is_some_and(|answer| answer.is_err()));
    let late = Pause { by: "late".to_owned(), ..Pause::default() };
    assert!(world.bus.pause(&late).now_or_never().is_some_and(|answer| answer.is_err()));
    world.start_server().await;
    // Published after everything that this connection may have buffered.
    let after = eventually("a tick", TIMEOUT, || async {
        world.bus.tick(SYNC, Some((1, Duration::from_secs(60)))).await
    })
    .await;
    assert_eq!((after.sequence, after.duplicate), (before + 1, false), "the first that the stream has seen");
    assert_eq!(world.bus.status().await.unwrap().paused, Some(Pause::default()));
}
