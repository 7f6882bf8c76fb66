//! Slots of ticks while a server crashes: three schedulers, a clock that the test moves, and a NATS server that is
//! killed and started again with the same streams.

use async_trait::async_trait;
use contract::RunStatus;
use contract::{Report, RunReport, SweepReport, TickKind, TickOrder};
use domain::UnixSeconds;
use harness::servers;
use harness::wait::eventually;
use nats::{NatsBus, NatsConfig};
use parking_lot::Mutex;
use ports::bus::{BusError, Periodic, Runner, TickQueue as _, TickReceipt, TickTurn, TickTurns, Ticks};
use ports::clock::SystemClock;
use ports::random::Rng;
use prometheus::Registry;
use runtime::settings::Settings;
use runtime::ticks::Rhythm;
use scheduler::{Config, Metrics, Scheduler};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use testkit::clock::ManualClock;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const KIND: TickKind = TickKind::SWEEP;
const SCHEDULERS: usize = 3;
const TURNS: u64 = 1_000;
/// The server is killed once in that many slots.
const TURNS_BETWEEN_KILLS: u64 = 200;
/// Periods that end while it is down.
const PERIODS_AWAY: u64 = 3;
const PERIOD: Duration = Duration::from_secs(3_600);
/// A delivery of a killed server comes back after 15 s, and a publish is retried for longer than that.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How far each check moves the clock.
const NUDGE: Duration = Duration::from_millis(100);

/// The stream's acknowledgements to every scheduler: the slots in their order, each with its receipt.
#[derive(Default)]
struct Book(Mutex<Vec<(u64, Vec<TickReceipt>)>>);

/// A scheduler's connection, and the record of its receipts.
struct Recorded {
    bus: NatsBus,
    book: Arc<Book>,
}

/// Runs that are counted, and that wait while the gate is shut.
struct Runs {
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    begun: AtomicUsize,
    is_open: watch::Sender<bool>,
}

#[async_trait]
impl Ticks for Recorded {
    async fn tick(&self, kind: TickKind, turn: Option<(u64, Duration)>) -> Result<TickReceipt, BusError> {
        let receipt = self.bus.tick(kind, turn).await?;
        if let Some((turn, _)) = turn.filter(|_| kind == KIND) {
            let mut book = self.book.0.lock();
            match book.iter_mut().find(|(number, _)| *number == turn) {
                Some((_, receipts)) => receipts.push(receipt),
                None => book.push((turn, vec![receipt])),
            }
        }
        Ok(receipt)
    }

    async fn tick_and_wait(
        &self,
        kind: TickKind,
        timeout: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        self.bus.tick_and_wait(kind, timeout).await
    }

    async fn last_report(&self, kind: TickKind) -> Result<Option<RunReport>, BusError> {
        self.bus.last_report(kind).await
    }
}

#[async_trait]
impl TickTurns for Recorded {
    async fn last_turn(&self, of: Periodic<'_>) -> Result<Option<TickTurn>, BusError> {
        self.bus.last_turn(of).await
    }

    async fn take_turn(&self, of: Periodic<'_>, last: Option<&TickTurn>) -> Result<TickTurn, BusError> {
        self.bus.take_turn(of, last).await
    }

    async fn requested_period(&self, kind: TickKind) -> Result<Option<Duration>, BusError> {
        self.bus.requested_period(kind).await
    }

    async fn request_period(&self, kind: TickKind, period: Option<Duration>) -> Result<(), BusError> {
        self.bus.request_period(kind, period).await
    }
}

#[async_trait]
impl Runner for Runs {
    async fn run(&self, _order: &TickOrder) -> Report {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once_max.fetch_max(now, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        Report::Sweep(SweepReport { status: RunStatus::Completed, ..SweepReport::default() })
    }
}

/// The server, the schedulers and two reconcilers' consumers.
struct World {
    server: Option<broker::child::Child>,
    address: std::net::SocketAddr,
    folder: std::path::PathBuf,
    clock: ManualClock,
    book: Arc<Book>,
    runs: Arc<Runs>,
    /// The test's own connection, on the machine's clock.
    eye: NatsBus,
    stop: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

async fn connect(url: &str) -> NatsBus {
    let env = BTreeMap::from([
        ("NATS_URL".to_owned(), url.to_owned()),
        ("EVENTS_BYTES_MAX".to_owned(), "1048576".to_owned()),
    ]);
    let mut settings = Settings::new(&env);
    let config = NatsConfig::read(&mut settings);
    let config = settings.finish(config).unwrap();
    let bus = NatsBus::connect("test", config, Arc::new(SystemClock), Arc::new(Rng::unseeded())).await;
    bus.expect("a connection")
}

impl World {
    async fn start() -> Self {
        let (server, folder) = servers::start_nats().await;
        let url = servers::nats_url(server.address);
        let eye = connect(&url).await;
        let stop = CancellationToken::new();
        eye.set_up(&stop).await.unwrap();
        let clock = ManualClock::at(UnixSeconds::new(1_800_000_000));
        let config = Config { rhythms: vec![(KIND, Rhythm { period: PERIOD, offset: Duration::ZERO })] };
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let book = Arc::new(Book::default());
        let runs = Arc::new(Runs {
            at_once: AtomicUsize::new(0),
            at_once_max: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            is_open: watch::Sender::new(true),
        });
        let mut running = Vec::new();
        for _ in 0..SCHEDULERS {
            let ticks = Arc::new(Recorded { bus: connect(&url).await, book: Arc::clone(&book) });
            let turns = Arc::clone(&ticks) as Arc<dyn TickTurns>;
            let scheduler =
                Scheduler::new(config.clone(), Arc::new(clock.clone()), ticks, turns, metrics.clone());
            let stop = stop.clone();
            running.push(tokio::spawn(async move { scheduler.run(stop).await.unwrap() }));
        }
        for _ in 0..2 {
            let (bus, runner, stop) = (connect(&url).await, Arc::clone(&runs), stop.clone());
            running.push(tokio::spawn(async move { bus.run_on_ticks(KIND, runner, stop).await.unwrap() }));
        }
        Self {
            server: Some(server.child),
            address: server.address,
            folder,
            clock,
            book,
            runs,
            eye,
            stop,
            running,
        }
    }

    fn receipts(&self, turn: u64) -> Vec<TickReceipt> {
        let book = self.book.0.lock();
        book.get(turn as usize).map(|(_, receipts)| receipts.clone()).unwrap_or_default()
    }

    /// Waits until the stream has acknowledged the slot's tick to every scheduler. Each check moves the clock a little,
    /// and all together by less than a period, because a scheduler waits a second of this clock after a failed publish.
    async fn until_published(&self, turn: u64) -> Vec<TickReceipt> {
        let mut nudges_left = PERIOD.as_millis() / 2 / NUDGE.as_millis();
        eventually("the turn to be published by all", TIMEOUT, || {
            let receipts = self.receipts(turn);
            if receipts.len() < SCHEDULERS && nudges_left > 0 {
                nudges_left -= 1;
                self.clock.advance(NUDGE);
            }
            async move { if receipts.len() >= SCHEDULERS { Ok(receipts) } else { Err((turn, receipts)) } }
        })
        .await
    }

    /// Waits for the report of a run that began after all these ticks were stored.
    async fn until_handled(&self, receipts: &[TickReceipt]) {
        let last = receipts.iter().map(|receipt| receipt.sequence).max().unwrap();
        eventually("a run for the turn", TIMEOUT, || async {
            match self.eye.last_report(KIND).await {
                Ok(Some(report)) if report.tick >= last => Ok(()),
                other => Err(format!("{other:?} for {receipts:?}")),
            }
        })
        .await;
    }

    async fn kill(&mut self) {
        // As in a crash: the server writes nothing before it exits.
        self.server.take().expect("a server that runs").kill().await;
    }

    async fn start_again(&mut self) {
        let (server, _) = servers::start_nats_on(self.address, Some(self.folder.clone())).await;
        self.server = Some(server.child);
    }

    /// Periods that end while there is no server; no scheduler can publish their ticks.
    async fn let_periods_go_by(&self) {
        for _ in 0..PERIODS_AWAY {
            self.clock.advance(PERIOD);
            tokio::task::yield_now().await;
        }
    }

    async fn end(mut self) {
        self.stop.cancel();
        for running in self.running.drain(..) {
            running.await.unwrap();
        }
        self.eye.close().await;
        self.kill().await;
    }
}

/// When the server is killed.
#[derive(Clone, Copy, PartialEq)]
enum Death {
    /// When the slot begins.
    AtItsBegin,
    /// During a run that lasts longer than the server's outage.
    DuringARun,
    /// Between two slots, with periods in which no scheduler can publish.
    BeforeOthers,
}

/// When the server is killed in the slot after `handled` others, if at all.
fn death_after(handled: u64) -> Option<Death> {
    let deaths = [Death::AtItsBegin, Death::DuringARun, Death::BeforeOthers];
    let is_one = handled % TURNS_BETWEEN_KILLS == TURNS_BETWEEN_KILLS / 2;
    deaths.into_iter().cycle().nth((handled / TURNS_BETWEEN_KILLS) as usize).filter(|_| is_one)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_period_has_a_run_and_runs_never_overlap() {
    let mut world = World::start().await;
    let (mut handled, mut kills) = (0, 0_u64);
    let mut begun_before = 0;
    while handled < TURNS {
        let turn = handled;
        let death = death_after(handled);
        if let Some(death) = death {
            kills += 1;
            match death {
                Death::AtItsBegin => world.kill().await,
                Death::DuringARun => {
                    world.until_published(turn).await;
                    eventually("a run to be under way", TIMEOUT, || async {
                        let now = world.runs.begun.load(Ordering::SeqCst);
                        if now > begun_before && world.runs.at_once.load(Ordering::SeqCst) == 1 {
                            Ok(())
                        } else {
                            Err((begun_before, now))
                        }
                    })
                    .await;
                    world.kill().await;
                }
                Death::BeforeOthers => {
                    let receipts = world.until_published(turn).await;
                    world.until_handled(&receipts).await;
                    world.kill().await;
                    world.let_periods_go_by().await;
                }
            }
            world.start_again().await;
            world.runs.is_open.send_replace(true);
        }
        // The slot in which the server was killed; after periods without a server, the one slot for all of them.
        let turn = if death == Some(Death::BeforeOthers) { turn + 1 } else { turn };
        let receipts = world.until_published(turn).await;
        world.until_handled(&receipts).await;
        if death.is_none() {
            // Without an outage the stream stores the first tick and recognises the others as duplicates.
            let fresh = receipts.iter().filter(|receipt| !receipt.duplicate).count();
            assert!(fresh <= 1, "turn {turn}: {receipts:?}");
        }
        handled = turn + 1;
        if death_after(handled) == Some(Death::DuringARun) {
            // Shut the gate before the slot begins, because a run may end as soon as it has begun.
            world.runs.is_open.send_replace(false);
            begun_before = world.runs.begun.load(Ordering::SeqCst);
        }
        world.clock.advance(PERIOD);
    }
    assert_eq!(kills, TURNS / TURNS_BETWEEN_KILLS);
    let book = world.book.0.lock().len() as u64;
    assert!((handled..=handled + 1).contains(&book), "{book} turns in {handled} periods");
    assert_eq!(world.runs.at_once_max.load(Ordering::SeqCst), 1, "two runs at once");
    assert!(world.runs.begun.load(Ordering::SeqCst) as u64 >= TURNS);
    world.end().await;
}
