//! Slots over a server that dies: three schedulers, a clock that the test moves, and a NATS server that is killed
//! and started again over the same streams.

use async_trait::async_trait;
use common::bus::nats::{NatsBus, NatsConfig};
use common::bus::{BusError, Runner, TickQueue as _, TickReceipt, Ticks};
use common::clock::{Clock as _, ManualClock, SystemClock};
use common::contract::reports::COMPLETED;
use common::contract::{Report, RunReport, SweepReport, TickKind};
use common::domain::UnixSeconds;
use common::random::Dice;
use common::runtime::settings::Settings;
use harness::servers;
use harness::wait::eventually;
use prometheus::Registry;
use scheduler::{Config, Metrics, Rhythm, Scheduler};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const KIND: TickKind = TickKind::Sweep;
const SCHEDULERS: usize = 3;
const SLOTS: u64 = 1_000;
/// Every so many slots the server is killed.
const SLOTS_BETWEEN_KILLS: u64 = 200;
/// Slots that begin and end while it is away.
const SLOTS_AWAY: u64 = 3;
const PERIOD: Duration = Duration::from_secs(3_600);
const OFFSET: Duration = Duration::from_secs(7);
/// A delivery whose server was killed comes back after 15 s, and a publish is tried again for longer than that.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the stream said to every scheduler, by slot.
#[derive(Default)]
struct Book(Mutex<BTreeMap<u64, Vec<TickReceipt>>>);

/// A scheduler's connection, and the book that its receipts go into.
struct Recorded {
    bus: NatsBus,
    book: Arc<Book>,
}

/// Runs that count, and take as long as the gate is shut.
struct Runs {
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    begun: AtomicUsize,
    is_open: watch::Sender<bool>,
}

#[async_trait]
impl Ticks for Recorded {
    async fn tick(&self, kind: TickKind, slot: Option<u64>) -> Result<TickReceipt, BusError> {
        let receipt = self.bus.tick(kind, slot).await?;
        if let Some(slot) = slot.filter(|_| kind == KIND) {
            self.book.0.lock().unwrap().entry(slot).or_default().push(receipt);
        }
        Ok(receipt)
    }

    async fn tick_and_wait(
        &self,
        kind: TickKind,
        patience: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        self.bus.tick_and_wait(kind, patience).await
    }

    async fn last_report(&self, kind: TickKind) -> Result<Option<RunReport>, BusError> {
        self.bus.last_report(kind).await
    }
}

#[async_trait]
impl Runner for Runs {
    async fn run(&self, _kind: TickKind) -> Report {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once_max.fetch_max(now, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        Report::Sweep(SweepReport { status: COMPLETED.to_owned(), ..SweepReport::default() })
    }
}

/// The server, the schedulers and two reconcilers' consumers.
struct World {
    server: Option<broker::child::Child>,
    address: std::net::SocketAddr,
    folder: std::path::PathBuf,
    clock: ManualClock,
    rhythm: Rhythm,
    book: Arc<Book>,
    runs: Arc<Runs>,
    /// A connection of the test's own, on the machine's clock.
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
    let bus = NatsBus::connect("test", config, Arc::new(SystemClock), Arc::new(Dice::unseeded())).await;
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
        // Of the other kinds there is one slot that outlasts the test.
        let never = Rhythm { period: PERIOD * 1_000_000, offset: Duration::ZERO };
        let rhythm = Rhythm { period: PERIOD, offset: OFFSET };
        let config = Config { sync: never, expiry: never, sweep: rhythm, census: never, stale: never };
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
            let scheduler = Scheduler::new(config, Arc::new(clock.clone()), ticks, metrics.clone());
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
            rhythm,
            book,
            runs,
            eye,
            stop,
            running,
        }
    }

    fn slot(&self) -> u64 {
        self.rhythm.slot_at(self.clock.now_ms())
    }

    fn receipts(&self, slot: u64) -> Vec<TickReceipt> {
        self.book.0.lock().unwrap().get(&slot).cloned().unwrap_or_default()
    }

    /// Waits until the stream has told every scheduler that it has the slot. The clock goes on a little with each
    /// look, and never to the end of the slot, because who could not publish waits for a second of it.
    async fn until_published(&self, slot: u64) -> Vec<TickReceipt> {
        let end_ms = self.rhythm.start_ms(slot + 1);
        eventually("the slot to be published by all", PATIENCE, || {
            let receipts = self.receipts(slot);
            if receipts.len() < SCHEDULERS && self.clock.now_ms() + 1_000 < end_ms {
                self.clock.advance(Duration::from_millis(100));
            }
            async move { if receipts.len() >= SCHEDULERS { Ok(receipts) } else { Err((slot, receipts)) } }
        })
        .await
    }

    /// Waits for the report of a run that began after every one of these ticks was taken.
    async fn until_handled(&self, receipts: &[TickReceipt]) {
        let last = receipts.iter().map(|receipt| receipt.sequence).max().unwrap();
        eventually("a run for the slot", PATIENCE, || async {
            match self.eye.last_report(KIND).await {
                Ok(Some(report)) if report.tick >= last => Ok(()),
                other => Err(format!("{other:?} for {receipts:?}")),
            }
        })
        .await;
    }

    async fn kill(&mut self) {
        // As by a crash: nothing is written on the way out.
        self.server.take().expect("a server that runs").kill().await;
    }

    async fn start_again(&mut self) {
        let (server, _) = servers::start_nats_on(self.address, Some(self.folder.clone())).await;
        self.server = Some(server.child);
    }

    /// Slots that begin and end while there is no server; nobody can be told of them.
    async fn let_slots_go_by(&self) {
        for _ in 0..SLOTS_AWAY {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_slot_is_lost_that_the_server_was_up_for_and_none_runs_twice_at_once() {
    let mut world = World::start().await;
    let (mut handled, mut kills, mut shared) = (0, 0_u64, 0);
    while handled < SLOTS {
        let slot = world.slot();
        let is_kill = handled % SLOTS_BETWEEN_KILLS == SLOTS_BETWEEN_KILLS / 2;
        if is_kill {
            kills += 1;
            // Each time somewhere else: as the slot begins; with a run under way that outlives the server; between
            // two slots, with slots that nobody can hear of.
            match kills % 3 {
                1 => world.kill().await,
                2 => {
                    world.runs.is_open.send_replace(false);
                    let begun = world.runs.begun.load(Ordering::SeqCst);
                    world.until_published(slot).await;
                    eventually("a run to be under way", PATIENCE, || async {
                        let now = world.runs.begun.load(Ordering::SeqCst);
                        if now > begun || world.runs.at_once.load(Ordering::SeqCst) == 1 {
                            Ok(())
                        } else {
                            Err(now)
                        }
                    })
                    .await;
                    world.kill().await;
                }
                _ => {
                    let receipts = world.until_published(slot).await;
                    world.until_handled(&receipts).await;
                    world.kill().await;
                    world.let_slots_go_by().await;
                }
            }
            world.start_again().await;
            world.runs.is_open.send_replace(true);
        }
        // The slot of now: the one that the server died in, or the first one after it came back.
        let slot = world.slot();
        let receipts = world.until_published(slot).await;
        world.until_handled(&receipts).await;
        if !is_kill {
            // Without an outage the stream takes the first and knows the others, which are the same tick.
            let fresh = receipts.iter().filter(|receipt| !receipt.duplicate).count();
            assert!(fresh <= 1, "slot {slot}: {receipts:?}");
            shared += 1;
        }
        handled += 1;
        // To the very start of the next slot, however far this one went.
        let next_ms = world.rhythm.start_ms(slot + 1);
        world.clock.advance(Duration::from_millis(next_ms - world.clock.now_ms()));
    }
    assert_eq!((handled, kills), (SLOTS, SLOTS / SLOTS_BETWEEN_KILLS));
    assert_eq!(shared, SLOTS - kills);
    assert_eq!(world.runs.at_once_max.load(Ordering::SeqCst), 1, "two runs at once");
    assert!(world.runs.begun.load(Ordering::SeqCst) as u64 >= SLOTS);
    world.end().await;
}
