//! Nodes of a fleet: real runners on engines in memory. Each runner has a thread of its own, so that a test can stop it in
//! order, kill it and freeze it like a process.

use crate::rig::Rig;
use async_trait::async_trait;
use bytes::Bytes;
use contract::Verb;
use domain::NodeId;
use nats::NatsBus;
use parking_lot::Mutex;
use ports::bus::{BusError, Context, Reply, RequestError, Requests};
use ports::engine::{Container, Engine as _};
use ports::random::Rng;
use prometheus::Registry;
use runner::{Config, Demand, Metrics, Runner};
use serde_json::Value;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use testkit::engine::FakeEngine;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// Processor time and memory that a node offers: more than the sandboxes of a test use.
const CPU_MILLI: u64 = 1_000_000;
const MEMORY_MB: u64 = 1_000_000;
/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";
/// Concurrent requests to a node.
const IN_FLIGHT_MAX: usize = 16;

/// A node of a fleet.
pub struct Node {
    /// Its engine, which goes on when its runner ends.
    pub engine: FakeEngine,
    name: NodeId,
    sandboxes_max: u64,
    folder: tempfile::TempDir,
    lost_replies: Arc<Mutex<Vec<Verb>>>,
    process: Option<Process>,
}

/// A runner in a thread of its own.
struct Process {
    orders: UnboundedSender<Order>,
    thread: JoinHandle<Result<(), BusError>>,
}

/// What a test does to a runner.
enum Order {
    /// As by SIGTERM.
    Stop,
    /// As by SIGSTOP, until the sender of this is dropped.
    Freeze(mpsc::Receiver<()>),
}

/// A frozen runner, which goes on when this is dropped.
pub struct Frozen {
    _thaws: mpsc::Sender<()>,
}

/// The way to the control plane, on which a test loses replies.
struct LossyRequests {
    bus: Arc<NatsBus>,
    lost: Arc<Mutex<Vec<Verb>>>,
}

// === impl Node ===

impl Node {
    /// A node that runs for a fleet, with room for so many sandboxes.
    pub fn start(rig: &Rig, name: &str, sandboxes_max: u64) -> Self {
        let engine = FakeEngine::new(Arc::new(rig.clock.clone()));
        let name = NodeId::parse(name).expect("the name of a node");
        let folder = folder_in_memory();
        let lost_replies = Arc::default();
        let mut node = Self { engine, name, sandboxes_max, folder, lost_replies, process: None };
        node.start_again(rig);
        node
    }

    /// Starts its runner again, with the same folder and engine.
    pub fn start_again(&mut self, rig: &Rig) {
        assert!(self.process.is_none(), "its runner runs");
        self.engine = self.engine.reopened();
        let config = self.config();
        let (orders, received) = unbounded_channel();
        let run = Box::pin(run(rig, config, self.engine.clone(), Arc::clone(&self.lost_replies), received));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let thread = std::thread::spawn(move || runtime.block_on(run));
        self.process = Some(Process { orders, thread });
    }

    /// Stops its runner in order.
    pub async fn stop(&mut self) {
        let Process { orders, thread } = self.process.take().expect("a runner that runs");
        orders.send(Order::Stop).expect("a runner that runs");
        joined(thread).await.expect("the runner ends in order");
    }

    /// Ends its runner as SIGKILL does: nothing of it goes on.
    pub async fn kill(&mut self) {
        let Process { orders, thread } = self.process.take().expect("a runner that runs");
        drop(orders);
        joined(thread).await.expect("the thread ends");
    }

    /// Freezes its runner.
    pub fn freeze(&self) -> Frozen {
        let (thaws, frozen) = mpsc::channel();
        let process = self.process.as_ref().expect("a runner that runs");
        process.orders.send(Order::Freeze(frozen)).expect("a runner that runs");
        Frozen { _thaws: thaws }
    }

    /// Loses the reply to its next report of that kind.
    pub fn lose_reply(&self, verb: Verb) {
        self.lost_replies.lock().push(verb);
    }

    /// Whether a reply is still to be lost.
    pub fn has_replies_to_lose(&self) -> bool {
        !self.lost_replies.lock().is_empty()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The file of what its runner knows.
    pub fn state(&self) -> Value {
        let text = std::fs::read(self.folder.path().join("state.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// The containers that its engine has.
    pub async fn containers(&self) -> Vec<Container> {
        self.engine.list().await.expect("the engine answers")
    }

    fn config(&self) -> Config {
        let data = self.folder.path().to_owned();
        Config {
            node: self.name.clone(),
            images: data.join("images"),
            data,
            offered: Demand { cpu_milli: CPU_MILLI, memory_mb: MEMORY_MB, sandboxes: self.sandboxes_max },
            in_flight_max: IN_FLIGHT_MAX,
        }
    }
}

/// A folder for what a runner writes. It waits until that is on the disk, which takes seconds while others write much.
fn folder_in_memory() -> tempfile::TempDir {
    let memory = Path::new(MEMORY);
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder")
}

/// Waits for the end of a thread.
async fn joined<T: Send + 'static>(thread: JoinHandle<T>) -> T {
    let ended = tokio::task::spawn_blocking(move || thread.join());
    ended.await.expect("the wait ends").expect("the runner did not panic")
}

/// Runs a runner until an order or the end of the orders, which kills it.
fn run(
    rig: &Rig,
    config: Config,
    engine: FakeEngine,
    lost: Arc<Mutex<Vec<Verb>>>,
    mut orders: UnboundedReceiver<Order>,
) -> impl Future<Output = Result<(), BusError>> + Send + use<> {
    let (nats, clock, random) = (rig.nats_config(), Arc::new(rig.clock.clone()), Arc::new(Rng::unseeded()));
    async move {
        let connected = NatsBus::connect("runner", nats, clock.clone(), random.clone()).await;
        let bus = Arc::new(connected.expect("the address of the server is sound"));
        let ports = runner::Ports {
            clock,
            random,
            engine: Arc::new(engine),
            requests: Arc::new(LossyRequests { bus: Arc::clone(&bus), lost }),
            provisions: Arc::clone(&bus) as _,
            serve: Arc::clone(&bus) as _,
            is_clock_off: Arc::new(|| false),
        };
        let metrics = Metrics::register(&Registry::new()).expect("metrics");
        let runner = Runner::new(config, ports, metrics).expect("a folder of its own");
        let stop = CancellationToken::new();
        let mut running = Box::pin(runner.run(stop.clone()));
        loop {
            tokio::select! {
                ended = &mut running => {
                    bus.close().await;
                    return ended;
                }
                order = orders.recv() => match order {
                    Some(Order::Stop) => stop.cancel(),
                    // This thread does everything of the runner, so all of it waits.
                    Some(Order::Freeze(frozen)) => drop(frozen.recv()),
                    None => return Ok(()),
                },
            }
        }
    }
}

// === impl LossyRequests ===

#[async_trait]
impl Requests for LossyRequests {
    async fn request(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let reply = self.bus.request(verb, context, body, timeout).await?;
        let mut lost = self.lost.lock();
        if let Some(found) = lost.iter().position(|other| *other == verb) {
            lost.remove(found);
            return Err(RequestError::TimedOut);
        }
        Ok(reply)
    }

    fn is_connected(&self) -> bool {
        self.bus.is_connected()
    }
}
