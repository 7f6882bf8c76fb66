//! A process with a wrong clock, on a server with a right one. The memory bus has one clock for all processes, so these
//! tests run on NATS only.

use crate::engines::{Bus, Engine};
use crate::fixtures::{
    SHORT, announce, answer, ask_later, consume, context, in_ms, report, run_on_ticks, serve, until,
};
use bytes::Bytes;
use contract::{FaultBody, FaultCode, TickKind, Verb, headers};
use domain::SandboxId;
use harness::clock::ShiftedClock;
use harness::wait::TIMEOUT;
use nats::NatsBus;
use ports::bus::{Admission, CallOutcome, Context, DeletionControl as _, ProviderThrottle as _, Verdict};
use ports::clock::{Clock as _, SystemClock};
use prometheus::Registry;
use runtime::skew::ClockMetrics;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const MAX: Option<Duration> = Some(Duration::from_secs(10));
const AHEAD: Duration = Duration::from_secs(600);

/// Keeps measuring the server's time from now on.
async fn keep_time(bus: &Arc<NatsBus>) {
    let metrics = ClockMetrics::register(&Registry::new()).unwrap();
    tokio::spawn({
        let bus = Arc::clone(bus);
        async move { bus.keep_time(metrics, CancellationToken::new()).await }
    });
    until("a measurement", || bus.server_time().skew_ms().is_some()).await;
}

#[tokio::test]
async fn request_in_time_is_served_by_a_worker_with_a_fast_clock() {
    let world = Engine::Nats.world().await;
    let clock = ShiftedClock::default();
    clock.advance(AHEAD);
    let worker: Arc<dyn Bus> = world.connect_at(Arc::new(clock), None).await;
    let (mut inbox, _running) = serve(&worker, 4);
    let sent = Context { deadline_ms: Some(in_ms(TIMEOUT)), ..context("r") };
    let asked = ask_later(&world.bus, sent, "{}");
    inbox.next().await.answer(answer("{}"));
    assert!(!asked.await.unwrap().unwrap().is_fault);
}

#[tokio::test]
async fn skewed_process_takes_no_work_until_corrected() {
    let world = Engine::Nats.world().await;
    let clock = ShiftedClock::default();
    let bus = world.connect_at(Arc::new(clock.clone()), MAX).await;
    keep_time(&bus).await;
    clock.advance(AHEAD);
    // No new measurement is needed: the step shows against the monotonic clock.
    assert!(bus.server_time().problem().unwrap().contains("600 s ahead of"));
    let off: Arc<dyn Bus> = bus;
    let (mut requests, _serving) = serve(&off, 4);
    let (mut deletions, consuming) = consume(&off, 4);
    let (mut runs, running) = run_on_ticks(&off, TickKind::EXPIRY);
    let reply = ask_later(&world.bus, context("r"), "{}").await.unwrap().unwrap();
    let fault = serde_json::from_slice::<FaultBody>(&reply.body).unwrap().detail;
    assert_eq!((reply.is_fault, fault.code), (true, FaultCode::NoWorkers));
    announce(&world, [7]).await;
    world.bus.tick(TickKind::EXPIRY, None).await.unwrap();
    // Another process gets both at once: this one has fetched neither.
    let (mut other_deletions, _consuming) = consume(&world.bus, 4);
    let (mut other_runs, _running) = run_on_ticks(&world.bus, TickKind::EXPIRY);
    other_deletions.next().await.answer(Verdict::Done);
    other_runs.next().await.answer(report(0));
    world.until_empty().await;
    world.until_no_tick(TickKind::EXPIRY).await;
    assert!(requests.poll().is_none() && deletions.poll().is_none() && runs.poll().is_none());
    clock.set_right();
    let asked = ask_later(&world.bus, context("r"), "{}");
    requests.next().await.answer(answer("{}"));
    assert!(!asked.await.unwrap().unwrap().is_fault);
    consuming.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn run_is_handed_to_another_process_after_a_clock_step() {
    let world = Engine::Nats.world().await;
    let clock = ShiftedClock::default();
    let bus = world.connect_at(Arc::new(clock.clone()), MAX).await;
    keep_time(&bus).await;
    let off: Arc<dyn Bus> = bus;
    let (mut runs, _running) = run_on_ticks(&off, TickKind::EXPIRY);
    world.bus.tick(TickKind::EXPIRY, None).await.unwrap();
    let begun = runs.next().await;
    clock.advance(AHEAD);
    let (mut other, _other_running) = run_on_ticks(&world.bus, TickKind::EXPIRY);
    other.next().await.answer(report(0));
    assert!(begun.is_abandoned());
}

#[tokio::test]
async fn throttle_advanced_by_a_fast_clock_blocks_no_worker() {
    let world = Engine::Nats.world_with(|config| config.throttle.per_minute_max = 600).await;
    let clock = ShiftedClock::default();
    clock.advance(AHEAD);
    // This process does not measure the server's time: it writes the state, with `written_ms`, by its own clock.
    let off = world.connect_at(Arc::new(clock), MAX).await;
    let right = world.connect_at(Arc::new(SystemClock), MAX).await;
    keep_time(&right).await;
    let permit = match off.acquire().await.unwrap() {
        Admission::Go { permit, .. } => permit,
        later => panic!("{later:?}"),
    };
    let Admission::Go { wait, .. } = right.acquire().await.unwrap() else { panic!("no slot") };
    assert!(wait < Duration::from_secs(3), "{wait:?}");
    let end = CallOutcome::SlowDown { span: Duration::from_secs(30) };
    off.report_outcome(permit, &SandboxId::parse("7").unwrap(), end).await.unwrap();
    let Admission::Later { is_closed: true, .. } = right.acquire().await.unwrap() else { panic!("a slot") };
    let held_until = right.status().await.unwrap().held_until.unwrap();
    assert!(
        held_until.abs_diff(SystemClock.now().get() + 30) <= 3,
        "what the provider wished is kept: {held_until}"
    );
}

#[tokio::test]
async fn request_delayed_past_its_deadline_is_dropped() {
    let world = Engine::Nats.world().await;
    let bus = world.connect_at(Arc::new(SystemClock), MAX).await;
    keep_time(&bus).await;
    let bus: Arc<dyn Bus> = bus;
    let (mut inbox, _running) = serve(&bus, 4);
    let asked = ask_later(&bus, Context { deadline_ms: Some(in_ms(TIMEOUT)), ..context("first") }, "{}");
    inbox.next().await.answer(answer("{}"));
    assert!(!asked.await.unwrap().unwrap().is_fault, "what was sent just now is in time");
    let (subjects, client) = world.nats();
    let mut map = async_nats::HeaderMap::new();
    map.insert(headers::REMAINING_MS, "4000");
    map.insert(headers::SENT_AT_MS, (in_ms(Duration::ZERO) - 5_000).to_string());
    let request = async_nats::Request::new().headers(map).payload(Bytes::from_static(b"{}"));
    let request = request.timeout(Some(SHORT));
    assert!(client.send_request(subjects.request(Verb::Get), request).await.is_err());
    let asked = ask_later(&bus, context("next"), "{}");
    let case = inbox.next().await;
    assert_eq!(case.what.context.request_id, "next", "the worker never saw the late one");
    case.answer(answer("{}"));
    asked.await.unwrap().unwrap();
}
