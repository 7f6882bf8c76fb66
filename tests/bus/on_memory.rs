//! Tests that only the bus in memory allows: time that the test moves, and calls that are lost on purpose.

use crate::fixtures::{answer, context, report, work};
use crate::manual_worker::WorkInbox;
use bytes::Bytes;
use contract::{ParkedDeletion, TickKind, Verb, WorkerRole};
use domain::UnixSeconds;
use ports::bus::{
    Admission, Announced, CallOutcome, DeletionQueue as _, Deletions as _, ProviderThrottle as _,
    RequestError, Requests as _, Serve as _, TickQueue as _, Ticks as _, Verdict,
};
use ports::clock::Clock as _;
use ports::random::Rng;
use std::sync::Arc;
use std::time::Duration;
use testkit::bus::{Call, Loss, MemoryBus, MemoryConfig};
use testkit::clock::{ManualClock, settle};
use tokio_util::sync::CancellationToken;

const SWEEP: TickKind = TickKind::SWEEP;
/// Period of the kind in a scheduler's settings.
const PERIOD: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

fn bus() -> (MemoryBus, ManualClock) {
    let clock = ManualClock::at(UnixSeconds::new(1_763_683_200));
    let bus = MemoryBus::new(MemoryConfig::default(), Arc::new(clock.clone()), Arc::new(Rng::seeded(7)));
    (bus, clock)
}

fn consume(bus: &MemoryBus, stop: &CancellationToken) -> WorkInbox {
    let (worker, inbox) = crate::manual_worker::manual_worker();
    let (bus, stop) = (bus.clone(), stop.clone());
    tokio::spawn(async move { bus.consume(worker, 100, stop).await });
    inbox
}

#[tokio::test]
async fn a_retry_is_due_to_the_millisecond() {
    let (bus, clock) = bus();
    bus.announce(&work(1)).await.unwrap();
    let mut inbox = consume(&bus, &CancellationToken::new());
    inbox.next().await.answer(Verdict::Retry { delay: HOUR });
    settle().await;
    clock.advance(HOUR - Duration::from_millis(1));
    settle().await;
    assert!(inbox.poll().is_none());
    assert_eq!(bus.announce(&work(1)).await.unwrap(), Announced::AlreadyQueued);
    clock.advance(Duration::from_millis(1));
    inbox.next().await.answer(Verdict::Done);
    settle().await;
    assert_eq!(bus.queued(), []);
}

#[tokio::test]
async fn retries_are_redelivered_by_due_time() {
    let (bus, clock) = bus();
    let mut inbox = consume(&bus, &CancellationToken::new());
    for (number, seconds) in [(1, 30), (2, 10), (3, 20)] {
        bus.announce(&work(number)).await.unwrap();
        inbox.next().await.answer(Verdict::Retry { delay: Duration::from_secs(seconds) });
    }
    settle().await;
    clock.advance(HOUR);
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(inbox.next().await.what.work.sandbox_id);
    }
    assert_eq!(order, ["2", "3", "1"]);
}

#[tokio::test]
async fn message_of_a_dead_worker_is_redelivered_after_ack_wait() {
    let (bus, clock) = bus();
    bus.announce(&work(1)).await.unwrap();
    let mut inbox = consume(&bus, &CancellationToken::new());
    drop(inbox.next().await);
    settle().await;
    clock.advance(Duration::from_millis(14_999));
    settle().await;
    assert!(inbox.poll().is_none());
    clock.advance(Duration::from_millis(1));
    assert_eq!(inbox.next().await.what.deliveries, 2);
}

#[tokio::test]
async fn tick_of_a_dead_reconciler_is_redelivered_after_ack_wait() {
    let (bus, clock) = bus();
    let (runner, mut inbox) = crate::manual_worker::manual_worker();
    let run = || {
        let (bus, runner) = (bus.clone(), Arc::clone(&runner));
        tokio::spawn(async move { bus.run_on_ticks(SWEEP, runner, CancellationToken::new()).await })
    };
    bus.tick(SWEEP, None).await.unwrap();
    let died = run();
    drop(inbox.next().await);
    assert!(died.await.unwrap_err().is_panic());
    let waiting = {
        let bus = bus.clone();
        tokio::spawn(async move { bus.tick_and_wait(SWEEP, HOUR).await })
    };
    let _next = run();
    settle().await;
    assert!(inbox.poll().is_none(), "the tick that waits does not overtake it");
    clock.advance(Duration::from_secs(15));
    inbox.next().await.answer(report(1));
    inbox.next().await.answer(report(2));
    let (_, reported) = waiting.await.unwrap().unwrap();
    assert_eq!(reported.unwrap().report, report(2));
}

#[tokio::test]
async fn slots_deduplicate_for_two_hours_and_copies_for_two_minutes() {
    let (bus, clock) = bus();
    let copy = ParkedDeletion { work: work(1), attempts: 8, reason: "first".to_owned(), parked_at: 7 };
    let (id, pool, _) = work(1).parts().unwrap();
    let reason = || bus.parked(&pool, &id).unwrap().reason;
    bus.park(&copy).await.unwrap();
    bus.park(&ParkedDeletion { reason: "repeat".to_owned(), ..copy.clone() }).await.unwrap();
    assert_eq!(reason(), "first");
    assert!(!bus.tick(SWEEP, Some((7, PERIOD))).await.unwrap().duplicate);
    clock.advance(Duration::from_secs(120));
    bus.park(&ParkedDeletion { reason: "much later".to_owned(), ..copy }).await.unwrap();
    assert_eq!(reason(), "much later");
    assert!(bus.tick(SWEEP, Some((7, PERIOD))).await.unwrap().duplicate);
    clock.advance(2 * HOUR);
    assert!(!bus.tick(SWEEP, Some((7, PERIOD))).await.unwrap().duplicate);
}

#[tokio::test]
async fn wait_and_run_duration_use_the_manual_clock() {
    let (bus, clock) = bus();
    let waiting = {
        let bus = bus.clone();
        tokio::spawn(async move { bus.tick_and_wait(SWEEP, HOUR).await })
    };
    settle().await;
    assert!(!waiting.is_finished());
    clock.advance(HOUR);
    assert_eq!(waiting.await.unwrap().unwrap().1, None);
    let (runner, mut inbox) = crate::manual_worker::manual_worker();
    tokio::spawn({
        let bus = bus.clone();
        async move { bus.run_on_ticks(SWEEP, runner, CancellationToken::new()).await }
    });
    let case = inbox.next().await;
    clock.advance(Duration::from_millis(1_234));
    case.answer(report(1));
    settle().await;
    assert_eq!(bus.last_report(SWEEP).await.unwrap().unwrap().duration_ms, 1_234);
}

#[tokio::test]
async fn stop_grace_uses_the_manual_clock() {
    let (bus, clock) = bus();
    bus.announce(&work(1)).await.unwrap();
    let (worker, mut inbox) = crate::manual_worker::manual_worker();
    let stop = CancellationToken::new();
    let consuming = tokio::spawn({
        let (bus, stop) = (bus.clone(), stop.clone());
        async move { bus.consume(worker, 1, stop).await }
    });
    let case = inbox.next().await;
    stop.cancel();
    settle().await;
    clock.advance(Duration::from_secs(17));
    settle().await;
    assert!(!case.is_abandoned() && !consuming.is_finished());
    clock.advance(Duration::from_secs(1));
    consuming.await.unwrap().unwrap();
    assert!(case.is_abandoned());
    assert_eq!(bus.queued(), [work(1)]);
}

#[tokio::test]
async fn lost_message_has_no_effect_and_a_lost_reply_hides_it() {
    let (bus, _clock) = bus();
    for (loss, after) in [(Loss::Message, Announced::Queued), (Loss::Answer, Announced::AlreadyQueued)] {
        bus.purge_deletions();
        bus.lose(Call::Announce, loss);
        assert!(bus.announce(&work(1)).await.is_err());
        assert_eq!(bus.announce(&work(1)).await.unwrap(), after);
        bus.lose(Call::Tick, loss);
        assert!(bus.tick(SWEEP, Some((7, PERIOD))).await.is_err());
        let slot_is_taken = bus.tick(SWEEP, Some((7, PERIOD))).await.unwrap().duplicate;
        assert_eq!(slot_is_taken, loss == Loss::Answer || after == Announced::AlreadyQueued);
    }
    bus.lose(Call::AcquirePermit, Loss::Message);
    assert!(bus.acquire().await.is_err());
    let Admission::Go { permit, wait: Duration::ZERO } = bus.acquire().await.unwrap() else {
        panic!("no slot")
    };
    bus.lose(Call::ReportOutcome, Loss::Answer);
    let (id, _, _) = work(1).parts().unwrap();
    assert!(bus.report_outcome(permit, &id, CallOutcome::SlowDown { span: HOUR }).await.is_err());
    assert!(matches!(bus.acquire().await.unwrap(), Admission::Later { .. }));
}

#[tokio::test]
async fn work_with_a_lost_verdict_is_redelivered() {
    for call in [Call::Finish, Call::ScheduleRetry] {
        for loss in [Loss::Message, Loss::Answer] {
            let (bus, clock) = bus();
            bus.announce(&work(1)).await.unwrap();
            let mut inbox = consume(&bus, &CancellationToken::new());
            bus.lose(call, loss);
            inbox.next().await.answer(Verdict::Retry { delay: HOUR });
            settle().await;
            let left = bus.queued().len();
            assert!(left >= 1, "{call:?} {loss:?}");
            // The unacknowledged message is delivered again first, and then the retry.
            clock.advance(HOUR);
            for _ in 0..left {
                inbox.next().await.answer(Verdict::Done);
                settle().await;
            }
            assert_eq!(bus.queued(), [], "{call:?} {loss:?}");
        }
    }
}

#[tokio::test]
async fn lost_request_times_out() {
    let (bus, clock) = bus();
    let (handler, mut inbox) = crate::manual_worker::manual_worker();
    tokio::spawn({
        let bus = bus.clone();
        async move { bus.serve(WorkerRole::Allocator, handler, 4, CancellationToken::new()).await }
    });
    settle().await;
    for loss in [Loss::Message, Loss::Answer] {
        bus.lose(Call::Request, loss);
        let asked = tokio::spawn({
            let bus = bus.clone();
            async move { bus.request(Verb::Get, &context("r"), Bytes::new(), HOUR).await }
        });
        settle().await;
        match loss {
            Loss::Message => assert!(inbox.poll().is_none()),
            Loss::Answer => inbox.next().await.answer(answer("{}")),
        }
        settle().await;
        assert!(!asked.is_finished());
        clock.advance(HOUR);
        assert_eq!(asked.await.unwrap().unwrap_err(), RequestError::TimedOut);
    }
}

#[tokio::test]
async fn deadline_uses_the_manual_clock() {
    let (bus, clock) = bus();
    let (handler, mut inbox) =
        crate::manual_worker::manual_worker::<ports::bus::Request, ports::bus::Answer>();
    tokio::spawn({
        let bus = bus.clone();
        async move { bus.serve(WorkerRole::Allocator, handler, 4, CancellationToken::new()).await }
    });
    settle().await;
    let deadline_ms = Some(clock.now_ms() + 1_000);
    let asked = tokio::spawn({
        let (bus, context) = (bus.clone(), ports::bus::Context { deadline_ms, ..context("r") });
        async move { bus.request(Verb::Get, &context, Bytes::new(), HOUR).await }
    });
    let case = inbox.next().await;
    clock.advance(Duration::from_secs(1));
    let reply = asked.await.unwrap().unwrap();
    assert!(reply.is_fault && case.is_abandoned());
}

#[tokio::test]
async fn the_same_seed_picks_the_same_workers() {
    let mut picked = Vec::new();
    for _ in 0..2 {
        let (bus, _clock) = bus();
        let inboxes: Vec<_> = (0..3)
            .map(|_| {
                let (handler, inbox) =
                    crate::manual_worker::manual_worker::<ports::bus::Request, ports::bus::Answer>();
                let bus = bus.clone();
                tokio::spawn(async move {
                    bus.serve(WorkerRole::Allocator, handler, 100, CancellationToken::new()).await
                });
                inbox
            })
            .collect();
        settle().await;
        let mut order = Vec::new();
        for _ in 0..20 {
            let before: Vec<_> = inboxes.iter().map(crate::manual_worker::Inbox::at_once).collect();
            let bus = bus.clone();
            tokio::spawn(async move { bus.request(Verb::Get, &context("r"), Bytes::new(), HOUR).await });
            settle().await;
            order.push(inboxes.iter().zip(before).position(|(inbox, before)| inbox.at_once() > before));
        }
        picked.push(order);
    }
    assert_eq!(picked[0], picked[1]);
    assert!((0..3).all(|worker| picked[0].contains(&Some(worker))), "{picked:?}");
}
