//! Ticks: one for each slot, one run at a time, and reliable reports.

use crate::engines::Engine;
use crate::fixtures::{SHORT, report, run_on_ticks, until};
use async_trait::async_trait;
use contract::{Census, KnownMark, PoolStats, Report, TickKind, TickOrder, Violation};
use domain::ProviderName;
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{Periodic, Runner};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SWEEP: TickKind = TickKind::SWEEP;
/// Period of the kind in a scheduler's settings.
const PERIOD: Duration = Duration::from_secs(60);

pub(crate) async fn a_slot_is_published_once(engine: Engine) {
    let world = engine.world().await;
    let other = world.connect().await;
    let first = world.bus.tick(SWEEP, Some((7, PERIOD))).await.unwrap();
    let second = other.tick(SWEEP, Some((7, PERIOD))).await.unwrap();
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    assert_eq!(first.sequence, second.sequence);
    let other_kind = world.bus.tick(TickKind::EXPIRY, Some((7, PERIOD))).await.unwrap();
    let other_slot = world.bus.tick(SWEEP, Some((8, PERIOD))).await.unwrap();
    assert_eq!((other_kind.duplicate, other_slot.duplicate), (false, false));
    assert!(first.sequence < other_kind.sequence && other_kind.sequence < other_slot.sequence);
}

pub(crate) async fn finished_slot_is_not_published_again(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = run_on_ticks(&world.bus, SWEEP);
    let first = world.bus.tick(SWEEP, Some((7, PERIOD))).await.unwrap();
    inbox.next().await.answer(report(1));
    eventually("the end of the run", TIMEOUT, || async {
        world.bus.last_report(SWEEP).await.unwrap().ok_or("no report")
    })
    .await;
    let again = world.bus.tick(SWEEP, Some((7, PERIOD))).await.unwrap();
    assert_eq!((again.duplicate, again.sequence), (true, first.sequence));
    assert!(!world.bus.tick(SWEEP, Some((8, PERIOD))).await.unwrap().duplicate);
    inbox.next().await.answer(report(2));
}

pub(crate) async fn third_tick_is_merged_into_the_waiting_one(engine: Engine) {
    let world = engine.world().await;
    let before = world.bus.last_tick().await.unwrap().expect("a number, also before the first tick");
    let first = world.bus.tick(SWEEP, None).await.unwrap();
    assert_eq!(first.sequence, before + 1);
    let second = world.bus.tick(SWEEP, None).await.unwrap();
    assert_eq!((first.duplicate, second.duplicate), (false, false));
    assert_eq!(world.bus.last_tick().await.unwrap(), Some(second.sequence));
    for slot in [None, Some((7, PERIOD)), None, Some((7, PERIOD))] {
        let folded = world.bus.tick(SWEEP, slot).await.unwrap();
        assert_eq!((folded.duplicate, folded.sequence), (true, second.sequence), "{slot:?}");
    }
    assert!(!world.bus.tick(TickKind::SYNC, None).await.unwrap().duplicate, "another kind has its own");
    let (mut inbox, _running) = run_on_ticks(&world.bus, SWEEP);
    inbox.next().await.answer(report(1));
    inbox.next().await.answer(report(2));
    // The tick of a folded slot was not published, so it still can be.
    let later = eventually("room for a tick", TIMEOUT, || async {
        let receipt = world.bus.tick(SWEEP, Some((7, PERIOD))).await.unwrap();
        if receipt.duplicate { Err(receipt) } else { Ok(receipt) }
    })
    .await;
    assert!(later.sequence > second.sequence);
    inbox.next().await.answer(report(3));
}

/// Reports the order with which each run began.
struct Ordered(mpsc::UnboundedSender<TickOrder>);

#[async_trait]
impl Runner for Ordered {
    async fn run(&self, order: &TickOrder) -> Report {
        self.0.send(order.clone()).unwrap();
        report(1)
    }
}

pub(crate) async fn forced_tick_is_not_merged_into_another(engine: Engine) {
    let world = engine.world().await;
    for _ in 0..2 {
        assert!(!world.bus.tick(SWEEP, None).await.unwrap().duplicate);
    }
    let order = TickOrder::forced("alice");
    let (receipt, reported) = world.bus.order_and_wait(SWEEP, &order, TIMEOUT).await.unwrap();
    assert!(receipt.duplicate && reported.is_none(), "one without it waits already: {receipt:?}");
    let (sender, mut orders) = mpsc::unbounded_channel();
    let (bus, stop) = (Arc::clone(&world.bus), CancellationToken::new());
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { bus.run_on_ticks(SWEEP, Arc::new(Ordered(sender)), stop).await }
    });
    for _ in 0..2 {
        assert_eq!(orders.recv().await, Some(TickOrder::default()));
    }
    let (_, reported) = eventually("room for the order", TIMEOUT, || async {
        match world.bus.order_and_wait(SWEEP, &order, TIMEOUT).await.unwrap() {
            (receipt, _) if receipt.duplicate => Err(receipt),
            taken => Ok(taken),
        }
    })
    .await;
    assert!(reported.is_some(), "its run is reported");
    assert_eq!(orders.recv().await, Some(order));
    stop.cancel();
    running.await.unwrap().unwrap();
}

pub(crate) async fn runs_of_a_kind_never_overlap(engine: Engine) {
    let world = engine.world().await;
    let other = world.connect().await;
    let (mut one, _one) = run_on_ticks(&world.bus, SWEEP);
    let (mut two, _two) = run_on_ticks(&other, SWEEP);
    let mut runs = 0;
    let mut last = 0;
    while runs < 4 {
        for _ in 0..5 {
            last = world.bus.tick(SWEEP, None).await.unwrap().sequence;
        }
        until("a run", || one.has_case() || two.has_case()).await;
        assert_eq!(one.at_once() + two.at_once(), 1);
        for inbox in [&mut one, &mut two] {
            while let Some(case) = inbox.poll() {
                runs += 1;
                case.answer(report(runs));
            }
        }
    }
    one.answer_all(|_| report(99));
    two.answer_all(|_| report(99));
    let after = eventually("a run after the last tick", TIMEOUT, || async {
        match world.bus.last_report(SWEEP).await.unwrap() {
            Some(found) if found.tick >= last => Ok(found),
            other => Err(other),
        }
    })
    .await;
    assert!(after.tick <= last, "a slow run builds no backlog: {after:?}, {last}");
}

pub(crate) async fn tick_kinds_are_independent(engine: Engine) {
    let world = engine.world().await;
    let mut running: Vec<_> = Report::kinds().map(|kind| run_on_ticks(&world.bus, kind)).collect();
    for kind in Report::kinds() {
        world.bus.tick(kind, None).await.unwrap();
    }
    let mut cases = Vec::new();
    // Every kind runs, although none of the others has ended.
    for (inbox, _) in &mut running {
        cases.push(inbox.next().await);
    }
    for case in cases {
        case.answer(report(1));
    }
}

pub(crate) async fn report_is_stored_and_returned(engine: Engine) {
    let world = engine.world().await;
    assert_eq!(world.bus.last_report(SWEEP).await.unwrap(), None);
    let (mut inbox, _running) = run_on_ticks(&world.bus, SWEEP);
    for number in 1..=2 {
        let (reported, ()) = tokio::join!(world.bus.tick_and_wait(SWEEP, TIMEOUT), async {
            inbox.next().await.answer(report(number));
        });
        let (receipt, reported) = reported.unwrap();
        let reported = reported.expect("a report");
        assert_eq!(
            (reported.kind(), reported.tick, &reported.report),
            (SWEEP, receipt.sequence, &report(number))
        );
        assert!(reported.duration_ms < 10_000, "{reported:?}");
        assert_eq!(world.bus.last_report(SWEEP).await.unwrap(), Some(reported));
    }
    assert_eq!(world.bus.last_report(TickKind::SYNC).await.unwrap(), None);
}

pub(crate) async fn waiter_gets_the_report_of_a_later_run(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = run_on_ticks(&world.bus, SWEEP);
    let first = world.bus.tick(SWEEP, None).await.unwrap();
    let under_way = inbox.next().await;
    // All of these arrive during the first run, which may have read its data already.
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let bus = Arc::clone(&world.bus);
            tokio::spawn(async move { bus.tick_and_wait(SWEEP, TIMEOUT).await })
        })
        .collect();
    // Ticks fold into the next sequence as soon as the first of the waiting ones is stored.
    eventually("a tick that waits", TIMEOUT, || async {
        let folded = world.bus.tick(SWEEP, None).await.unwrap();
        if folded.duplicate && folded.sequence > first.sequence { Ok(()) } else { Err(folded) }
    })
    .await;
    under_way.answer(report(1));
    inbox.answer_all(|_| report(2));
    for waiting in waiting {
        let (receipt, reported) = waiting.await.unwrap().unwrap();
        let reported = reported.expect("a report");
        assert!(receipt.sequence > first.sequence);
        assert!(
            reported.tick >= receipt.sequence && reported.report == report(2),
            "{receipt:?} {reported:?}"
        );
    }
}

pub(crate) async fn waiter_without_a_run_times_out(engine: Engine) {
    let world = engine.world().await;
    let (receipt, reported) = world.bus.tick_and_wait(SWEEP, SHORT).await.unwrap();
    assert_eq!((receipt.duplicate, reported), (false, None));
}

pub(crate) async fn current_run_is_finished_before_the_stop(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, running) = run_on_ticks(&world.bus, SWEEP);
    world.bus.tick(SWEEP, None).await.unwrap();
    let waits = world.bus.tick(SWEEP, None).await.unwrap();
    let case = inbox.next().await;
    running.stop.cancel();
    assert!(!case.is_abandoned());
    case.answer(report(1));
    running.ended().await;
    assert_eq!(world.bus.last_report(SWEEP).await.unwrap().unwrap().report, report(1));
    assert!(inbox.poll().is_none(), "it began no other");
    let (mut next, _next) = run_on_ticks(&world.bus, SWEEP);
    next.next().await.answer(report(2));
    eventually("the run of the tick that waited", TIMEOUT, || async {
        match world.bus.last_report(SWEEP).await.unwrap() {
            Some(found) if found.tick == waits.sequence => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

pub(crate) async fn run_aborted_by_the_stop_is_repeated(engine: Engine) {
    let world = engine.world_with(|config| config.finish_timeout = Duration::from_millis(100)).await;
    let tick = world.bus.tick(SWEEP, None).await.unwrap();
    let (mut inbox, running) = run_on_ticks(&world.bus, SWEEP);
    let case = inbox.next().await;
    running.stop().await;
    assert!(case.is_abandoned());
    assert_eq!(world.bus.last_report(SWEEP).await.unwrap(), None);
    // Immediately: the silence after which the server redelivers a tick is longer than this timeout.
    let (inbox, _running) = run_on_ticks(&world.bus, SWEEP);
    inbox.answer_all(|_| report(2));
    let again = eventually("the second run", Duration::from_secs(10), || async {
        world.bus.last_report(SWEEP).await.unwrap().ok_or("no report")
    })
    .await;
    assert_eq!((again.tick, again.report), (tick.sequence, report(2)));
}

pub(crate) async fn last_census_is_shared_by_all_processes(engine: Engine) {
    let world = engine.world().await;
    let other = world.connect().await;
    assert_eq!(other.last_census().await.unwrap(), None);
    for taken_at in [7, 8] {
        let all = PoolStats { total: taken_at, available: taken_at, ..PoolStats::default() };
        let labs = BTreeMap::from([("main".to_owned(), BTreeMap::from([("lab".to_owned(), 3)]))]);
        let census = Census {
            taken_at,
            all,
            pools: BTreeMap::from([("main".to_owned(), all)]),
            labs,
            labs_left_out: 2,
            violations: BTreeMap::from([(Violation::HeldTwice.into(), 1)]),
            oldest_deletions: BTreeMap::from([("main".to_owned(), taken_at - 5)]),
        };
        world.bus.keep_census(&census).await.unwrap();
        assert_eq!(other.last_census().await.unwrap(), Some(census));
    }
}

pub(crate) async fn table_mark_never_decreases(engine: Engine) {
    let world = engine.world().await;
    let other = world.connect().await;
    let mark = |number| KnownMark { number, at: 1_763_683_200 };
    assert_eq!(other.known_mark().await.unwrap(), None);
    let raised =
        tokio::join!(world.bus.raise_mark(mark(7)), other.raise_mark(mark(9)), other.raise_mark(mark(8)));
    assert!(matches!(raised, (Ok(()), Ok(()), Ok(()))), "{raised:?}");
    for late in [9, 1] {
        world.bus.raise_mark(mark(late)).await.unwrap();
        assert_eq!(other.known_mark().await.unwrap(), Some(mark(9)));
    }
}

pub(crate) async fn turns_and_periods_are_shared(engine: Engine) {
    let world = engine.world().await;
    let other = world.connect().await;
    let (csp, europe) = (ProviderName::csp(), ProviderName::parse("csp-eu").unwrap());
    let of = Periodic::Listing(&europe);
    assert_eq!(world.bus.last_turn(of).await.unwrap(), None);
    let first = world.bus.take_turn(of, None).await.unwrap();
    assert!(first.is_first && first.age.is_zero(), "{first:?}");
    let seen = other.last_turn(of).await.unwrap().unwrap();
    assert_eq!((seen.revision, seen.number), (first.revision, first.number));
    assert_eq!(other.last_turn(Periodic::Listing(&csp)).await.unwrap(), None, "of another provider");
    let second = other.take_turn(of, Some(&seen)).await.unwrap();
    let late = world.bus.take_turn(of, Some(&first)).await.unwrap();
    assert_eq!((late.revision, late.number), (second.revision, second.number), "the other one was faster");

    let sync = TickKind::SYNC;
    assert_eq!(other.requested_period(sync).await.unwrap(), None);
    world.bus.request_period(sync, Some(PERIOD)).await.unwrap();
    assert_eq!(other.requested_period(sync).await.unwrap(), Some(PERIOD));
    assert_eq!(other.requested_period(SWEEP).await.unwrap(), None, "of another kind");
    world.bus.request_period(sync, None).await.unwrap();
    assert_eq!(other.requested_period(sync).await.unwrap(), None);
}

pub(crate) async fn scheduled_tick_carries_the_period_of_its_kind(engine: Engine) {
    let world = engine.world().await;
    let (sender, mut orders) = mpsc::unbounded_channel();
    let (bus, stop) = (Arc::clone(&world.bus), CancellationToken::new());
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { bus.run_on_ticks(SWEEP, Arc::new(Ordered(sender)), stop).await }
    });
    world.bus.tick(SWEEP, Some((7, PERIOD))).await.unwrap();
    assert_eq!(orders.recv().await, Some(TickOrder::scheduled(PERIOD)));
    world.bus.tick(SWEEP, None).await.unwrap();
    assert_eq!(orders.recv().await, Some(TickOrder::default()));
    stop.cancel();
    running.await.unwrap().unwrap();
}
