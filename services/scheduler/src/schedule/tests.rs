//! Schedulers on the memory bus, with a clock that the test moves.

use super::*;
use crate::{Config, Metrics};
use async_trait::async_trait;
use contract::RunReport;
use domain::UnixSeconds;
use parking_lot::Mutex;
use ports::bus::{TickReceipt, TickTurns, Ticks};
use ports::clock::Clock;
use ports::random::Rng;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::bus::{MemoryBus, MemoryConfig};
use testkit::clock::{ManualClock, settle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const KIND: TickKind = TickKind::EXPIRY;
/// A scheduler needs no list of kinds: the last one is known to nothing else.
const KINDS: [TickKind; 5] =
    [TickKind::SYNC, KIND, TickKind::SWEEP, TickKind::CENSUS, TickKind::new("of_another_service")];
const SECOND: Duration = Duration::from_secs(1);

/// A stream that stores the first tick of each turn.
#[derive(Default)]
struct Stream {
    kept: Mutex<(HashSet<(TickKind, u64)>, u64)>,
    is_broken: AtomicBool,
}

#[async_trait]
impl Ticks for Stream {
    async fn tick(&self, kind: TickKind, turn: Option<(u64, Duration)>) -> Result<TickReceipt, BusError> {
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(BusError { operation: "publish a tick", source: "broken".into() });
        }
        let mut kept = self.kept.lock();
        let duplicate = !kept.0.insert((kind, turn.unwrap().0));
        kept.1 += 1;
        Ok(TickReceipt { sequence: kept.1, duplicate })
    }

    async fn tick_and_wait(
        &self,
        kind: TickKind,
        _patience: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        Ok((self.tick(kind, Some((0, SECOND))).await?, None))
    }

    async fn last_report(&self, _kind: TickKind) -> Result<Option<RunReport>, BusError> {
        Ok(None)
    }
}

impl Stream {
    fn kept(&self, kind: TickKind) -> usize {
        self.kept.lock().0.iter().filter(|(of, _)| *of == kind).count()
    }
}

/// A clock whose wall time is 90 s ahead.
#[derive(Clone, Debug)]
struct Ahead(ManualClock);

#[async_trait]
impl Clock for Ahead {
    fn now_ms(&self) -> u64 {
        self.0.now_ms() + 90_000
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    async fn sleep(&self, span: Duration) {
        self.0.sleep(span).await;
    }
}

/// Schedulers and what they share.
struct World {
    clock: ManualClock,
    bus: MemoryBus,
    stream: Arc<Stream>,
    metrics: Metrics,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::at(UnixSeconds::new(1_000_000));
        let rng = Arc::new(Rng::seeded(7));
        let bus = MemoryBus::new(MemoryConfig::default(), Arc::new(clock.clone()), rng);
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        Self { clock, bus, stream: Arc::default(), metrics }
    }

    /// Starts a scheduler with that clock and that connection to the stream. Dropping the token does not stop it.
    fn start(&self, clock: Arc<dyn Clock>, stream: &Arc<Stream>) -> (CancellationToken, JoinHandle<()>) {
        let every = |seconds, offset| Rhythm {
            period: Duration::from_secs(seconds),
            offset: Duration::from_secs(offset),
        };
        let rhythms = KINDS
            .into_iter()
            .zip([every(600, 0), every(10, 0), every(60, 33), every(15, 0), every(3_600, 0)])
            .collect();
        let config = Config { rhythms };
        let turns = Arc::new(self.bus.clone()) as Arc<dyn TickTurns>;
        let ticks = Arc::clone(stream) as Arc<dyn Ticks>;
        let scheduler = Scheduler::new(config, clock, ticks, turns, self.metrics.clone());
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { scheduler.run(stop).await.unwrap() }
        });
        (stop, running)
    }

    /// Lets that number of seconds pass, one by one.
    async fn wait(&self, seconds: usize) {
        settle().await;
        for _ in 0..seconds {
            self.clock.advance(SECOND);
            settle().await;
        }
    }
}

#[tokio::test]
async fn three_schedulers_leave_one_tick_in_each_period() {
    let world = World::new();
    let running: Vec<_> = (0..3).map(|_| world.start(Arc::new(world.clock.clone()), &world.stream)).collect();
    world.wait(600).await;
    for (stop, ended) in running {
        stop.cancel();
        ended.await.unwrap();
    }
    // One at once, then ten minutes without a gap; the first period of the sweep is longer by its offset.
    let expected = [2, 61, 10, 41, 1];
    assert_eq!(KINDS.map(|kind| world.stream.kept(kind)), expected);
    assert_eq!(world.stream.kept.lock().1, 3 * expected.iter().sum::<usize>() as u64, "by all of them");
    let last = |kind: TickKind| world.metrics.last_tick.with_label_values(&[kind.as_str()]).get();
    assert_eq!(KINDS.map(last), [1_000_600, 1_000_600, 1_000_573, 1_000_600, 1_000_000]);
}

#[tokio::test]
async fn a_scheduler_whose_clock_was_ahead_leaves_no_gap() {
    let world = World::new();
    let (stop, ended) = world.start(Arc::new(Ahead(world.clock.clone())), &world.stream);
    world.wait(25).await;
    stop.cancel();
    ended.await.unwrap();
    assert_eq!(world.stream.kept(KIND), 3);
    let _running = world.start(Arc::new(world.clock.clone()), &world.stream);
    world.wait(4).await;
    assert_eq!(world.stream.kept(KIND), 3, "the last turn is 9 s old, and is not taken again");
    let last = world.metrics.last_tick.with_label_values(&[KIND.as_str()]).get();
    assert_eq!(last, 1_000_020, "a scheduler that starts does not make the last tick look new");
    world.wait(1).await;
    assert_eq!(world.stream.kept(KIND), 4);
    world.wait(100).await;
    assert_eq!(world.stream.kept(KIND), 14);
}

#[tokio::test]
async fn failed_publish_is_taken_over_by_another_scheduler() {
    let world = World::new();
    let broken = Arc::new(Stream::default());
    broken.is_broken.store(true, Ordering::SeqCst);
    let (stop, ended) = world.start(Arc::new(world.clock.clone()), &broken);
    world.wait(3).await;
    let _running = world.start(Arc::new(world.clock.clone()), &world.stream);
    settle().await;
    assert_eq!(world.stream.kept(KIND), 1, "the turn that the first one took");
    stop.cancel();
    ended.await.unwrap();
    world.wait(7).await;
    assert_eq!(world.stream.kept(KIND), 2);
}

#[tokio::test]
async fn pools_shorten_the_period_while_a_scheduler_runs() {
    let world = World::new();
    let _running = world.start(Arc::new(world.clock.clone()), &world.stream);
    let sync = TickKind::SYNC;
    world.wait(100).await;
    assert_eq!(world.stream.kept(sync), 1, "the period of the settings is ten minutes");
    world.bus.request_period(sync, Some(20 * SECOND)).await.unwrap();
    world.wait(66).await;
    assert_eq!(world.stream.kept(sync), 5, "one at once, because the last one is older, then one each 20 s");
    assert_eq!(world.stream.kept(KIND), 17, "other kinds as before");
    world.bus.request_period(sync, Some(3_600 * SECOND)).await.unwrap();
    world.wait(594).await;
    assert_eq!(world.stream.kept(sync), 5, "a longer period than that of the settings changes nothing");
    world.wait(20).await;
    assert_eq!(world.stream.kept(sync), 6);
    world.bus.request_period(sync, None).await.unwrap();
    world.wait(600).await;
    assert_eq!(world.stream.kept(sync), 7);
}
