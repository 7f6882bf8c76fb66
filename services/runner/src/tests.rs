//! A runner on ports in memory: an engine with faults, a control plane of a few records, a clock that the tests move.

use super::*;
use crate::state::Entry;
use contract::nodes::NodeLease;
use domain::{NodeId, PoolName, SandboxId, UnixSeconds};
use ports::bus::{Delivery, ServedPools, Verdict};
use ports::engine::{Container, Incarnation};
use ports::random::Rng;
use prometheus::Registry;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::bus::{MemoryBus, MemoryConfig};
use testkit::clock::{ManualClock, settle};
use testkit::engine::{FakeEngine, Operation};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

pub(crate) mod control;
mod fleet;

pub(crate) use control::{FakeControl, Loss, Record};

/// The time at which tests begin.
pub(crate) const NOW: UnixSeconds = UnixSeconds::new(1_763_683_200);
/// The pool of most tests.
pub(crate) const POOL: &str = "shells";
/// What the node offers: room for four usual containers.
pub(crate) const OFFERED: Demand = Demand { cpu_milli: 8_000, memory_mb: 2_048, sandboxes: 100 };
/// Step in which time passes: shorter than every pause that tests care about.
const STEP: Duration = Duration::from_millis(100);

/// A node and its ports.
pub(crate) struct Rig {
    pub(crate) node: Arc<Node>,
    pub(crate) clock: ManualClock,
    pub(crate) engine: FakeEngine,
    pub(crate) control: Arc<FakeControl>,
    pub(crate) bus: MemoryBus,
    data: Arc<tempfile::TempDir>,
    /// What runs beside the work: registrations and timers.
    background: AbortOnDropHandle<()>,
    /// Whether the clock of the process is off.
    pub(crate) is_clock_off: Arc<AtomicBool>,
}

/// A node that gets no requests.
struct NoRequests;

#[async_trait::async_trait]
impl ServeNode for NoRequests {
    async fn serve_node(
        &self,
        _node: &NodeId,
        _handler: Arc<dyn Handler<NodeVerb>>,
        _in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        stop.cancelled().await;
        Ok(())
    }
}

/// Runs a test on one thread, with one further thread for files, so that [`everything`] can wait for both.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(1).build().unwrap().block_on(test);
}

/// Lets every task run until it waits for the clock.
pub(crate) async fn everything() {
    for _ in 0..3 {
        settle().await;
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }
    settle().await;
}

pub(crate) fn sandbox(id: &str) -> SandboxId {
    SandboxId::parse(id).unwrap()
}

pub(crate) fn pool() -> PoolName {
    PoolName::parse(POOL).unwrap()
}

/// A lease that ends after that many seconds, with a minute of grace.
pub(crate) fn lease(epoch: u64, seconds: u64) -> NodeLease {
    NodeLease { epoch, ends_at: NOW.get() + seconds, grace_seconds: 60, ..NodeLease::default() }
}

/// A request to the node, as the bus delivers it.
pub(crate) fn request(verb: NodeVerb, body: &serde_json::Value) -> ports::bus::Request<NodeVerb> {
    let context = ports::bus::Context {
        request_id: "r-1".to_owned(),
        deadline_ms: None,
        traceparent: None,
        idempotency_key: None,
        attempt: None,
        principal: contract::Principal::default(),
    };
    ports::bus::Request { verb, context, body: serde_json::to_vec(body).unwrap().into() }
}

// === impl Rig ===

impl Rig {
    /// A node that has started and serves [`POOL`].
    pub(crate) async fn new() -> Self {
        Self::offering(OFFERED).await
    }

    pub(crate) async fn offering(offered: Demand) -> Self {
        let clock = ManualClock::at(NOW);
        let engine = FakeEngine::new(Arc::new(clock.clone()));
        let data = Arc::new(tempfile::tempdir().unwrap());
        let rig = Self::on(clock, engine, Arc::new(FakeControl::new()), data, offered);
        rig.start().await;
        rig
    }

    /// The same node after its process has ended and another one has begun. It has not started yet.
    pub(crate) async fn restarted(self) -> Self {
        let Self { node, clock, engine, control, bus: _, data, background, is_clock_off: _ } = self;
        background.abort();
        let _ = background.await;
        let offered = node.containers.offered();
        assert_eq!(Arc::strong_count(&node), 1, "nothing of the former process goes on");
        drop(node);
        Self::on(clock, engine.reopened(), control, data, offered)
    }

    fn on(
        clock: ManualClock,
        engine: FakeEngine,
        control: Arc<FakeControl>,
        data: Arc<tempfile::TempDir>,
        offered: Demand,
    ) -> Self {
        let random = Arc::new(Rng::seeded(7));
        let is_clock_off = Arc::new(AtomicBool::new(false));
        let bus = MemoryBus::new(MemoryConfig::default(), Arc::new(clock.clone()), random.clone());
        let ports = Ports {
            clock: Arc::new(clock.clone()),
            random,
            engine: Arc::new(engine.clone()),
            requests: control.clone(),
            provisions: Arc::new(bus.clone()),
            serve: Arc::new(NoRequests),
            is_clock_off: Arc::new({
                let is_off = Arc::clone(&is_clock_off);
                move || is_off.load(Ordering::SeqCst)
            }),
        };
        let config = config(data.path(), offered);
        let runner = Runner::new(config, ports, Metrics::register(&Registry::new()).unwrap()).unwrap();
        let node = runner.node;
        let of_task = Arc::clone(&node);
        let background = AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::select! {
                never = of_task.keep_registered() => match never {},
                never = of_task.watch_leases() => match never {},
            }
        }));
        Self { node, clock, engine, control, bus, data, background, is_clock_off }
    }

    /// Starts as [`Runner::run`] does. Registering is left to the background.
    pub(crate) async fn start(&self) {
        let node = Arc::clone(&self.node);
        let started = tokio::spawn(async move {
            node.reconcile_first().await;
            node.refresh_pools_once().await;
        });
        assert!(self.pass_until(Duration::from_secs(60), || started.is_finished()).await);
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, span: Duration) {
        self.pass_until(span, || false).await;
    }

    /// Lets time pass until something is so, at most `span`; returns whether it is.
    pub(crate) async fn pass_until(&self, span: Duration, is_so: impl Fn() -> bool) -> bool {
        everything().await;
        let mut left = span;
        while !is_so() && !left.is_zero() {
            let step = left.min(STEP);
            self.clock.advance(step);
            left -= step;
            everything().await;
        }
        is_so()
    }

    /// Adds a wanted sandbox to the control plane, and returns its work.
    pub(crate) fn wanted(&self, id: &str, lease: Option<NodeLease>) -> ProvisionWork {
        let is_leased = lease.is_some();
        self.control.put(id, Record::Provisioning { epoch: 1, attempts: 0, lease });
        ProvisionWork {
            version: contract::provisions::PROVISION_WORK_VERSION,
            sandbox_id: id.to_owned(),
            pool: POOL.to_owned(),
            epoch: 1,
            template: "shell@1".to_owned(),
            is_leased,
            requested_at: NOW.get(),
        }
    }

    /// Works on a delivery with a place of its own, as the queue does. Time passes meanwhile.
    pub(crate) async fn work(&self, work: &ProvisionWork) -> Verdict {
        self.deliver(work, 1).await
    }

    pub(crate) async fn deliver(&self, work: &ProvisionWork, deliveries: u64) -> Verdict {
        let task = self.begin(work, deliveries);
        self.pass_until(Duration::from_secs(900), || task.is_finished()).await;
        task.await.unwrap()
    }

    /// Begins to work on a delivery.
    pub(crate) fn begin(&self, work: &ProvisionWork, deliveries: u64) -> JoinHandle<Verdict> {
        let (node, delivery) = (Arc::clone(&self.node), Delivery { work: work.clone(), deliveries });
        let lane = contract::ProvisionLane { priority: work.priority(), pool: pool() };
        tokio::spawn(async move {
            let one = node.pools.demand(&lane.pool).unwrap_or_default();
            node.containers.reserve(&lane, one, 1);
            let verdict = node.work(delivery).await;
            node.release(&lane);
            verdict
        })
    }

    /// Creates a sandbox and returns its container.
    pub(crate) async fn created(&self, id: &str, lease: Option<NodeLease>) -> Incarnation {
        let work = self.wanted(id, lease);
        assert_eq!(self.work(&work).await, Verdict::Done);
        self.control.incarnation(id).unwrap()
    }

    /// The containers of the engine.
    pub(crate) async fn containers(&self) -> Vec<Container> {
        self.engine.list().await.unwrap()
    }

    pub(crate) async fn container(&self, incarnation: &Incarnation) -> Option<Container> {
        self.containers().await.into_iter().find(|container| container.incarnation == *incarnation)
    }

    pub(crate) fn entry(&self, incarnation: &Incarnation) -> Option<Entry> {
        self.node.containers.entry(incarnation)
    }

    /// How often the engine was called so.
    pub(crate) fn calls(&self, operation: Operation) -> usize {
        self.engine.calls().iter().filter(|(called, _)| *called == operation).count()
    }

    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }
}

fn config(data: &Path, offered: Demand) -> Config {
    Config {
        node: NodeId::parse("a").unwrap(),
        data: data.to_owned(),
        images: data.join("images"),
        offered,
        in_flight_max: 4,
    }
}

/// The pools that a runner serves, by name.
pub(crate) fn names(pools: &ServedPools) -> Vec<&str> {
    pools.keys().map(PoolName::as_str).collect()
}
