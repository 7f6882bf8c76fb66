//! The runner: creates, watches and ends the containers of one node.
//!
//! # Consumes
//! Work to create sandboxes from PROVISIONS, for the pools that the node can serve and while it has capacity; requests to
//! the node on `<prefix>.node.<node>.*`.
//!
//! # Produces
//! Containers; replies; scheduled retries.
//!
//! # Calls
//! The engine; the allocator, which knows what is wanted and what becomes of containers; the supervisors of its containers.
//!
//! # Guarantees
//! Work leaves the queue only when the record of its sandbox names a container that is ready, when it is not wanted any more,
//! or when it was parked. A container whose record has ended, or names another one, is removed within one reconciliation. A
//! lease that is over ends here even if the control plane is down. Containers never use more than the node offers, except
//! for those that it finds at its start. A runner that starts again finds its containers, their leases and what they use.
//!
//! # Never
//! Reads the table, decides about a lease by itself while the control plane answers, removes a container about which it got
//! no answer, or logs the environment, the input or the output of a command.

mod admission;
mod capacity;
mod config;
mod containers;
mod control;
mod execute;
mod inventory;
mod lifecycle;
mod metrics;
mod network;
mod node_requests;
mod pools;
mod provision;
mod ready;
mod reconcile;
mod removal;
mod spec;
mod state;
mod timers;
mod turns;

use admission::Admission;
use containers::Containers;
use contract::nodes::RegisterNodeRequest;
use contract::{NodeVerb, ProvisionWork};
use control::Control;
use pools::Pools;
use ports::bus::{BusError, Handler, ProvisionQueue, Requests, ServeNode, Worker};
use ports::clock::Clock;
use ports::engine::Engine;
use ports::random::Random;
use state::StateFolder;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use turns::Turns;

pub use capacity::Demand;
pub use config::Config;
pub use metrics::Metrics;
pub use state::StateError;

/// The ports of a runner.
#[derive(Clone)]
pub struct Ports {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
    /// Creates and ends containers.
    pub engine: Arc<dyn Engine>,
    /// Carries reports to the control plane.
    pub requests: Arc<dyn Requests>,
    /// Delivers work.
    pub provisions: Arc<dyn ProvisionQueue>,
    /// Delivers requests to the node.
    pub serve: Arc<dyn ServeNode>,
    /// Whether the clock of this process differs from that of the fleet.
    pub is_clock_off: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// A runner.
pub struct Runner {
    node: Arc<Node>,
    provisions: Arc<dyn ProvisionQueue>,
    serve: Arc<dyn ServeNode>,
}

/// What the parts of a runner share.
pub(crate) struct Node {
    config: Config,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    engine: Arc<dyn Engine>,
    control: Control,
    containers: Containers,
    pools: Pools,
    admission: Admission,
    turns: Turns,
    is_clock_off: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Notified when the node was registered again.
    registered: Notify,
    metrics: Metrics,
}

// === impl Runner ===

impl Runner {
    /// A runner that counts into `metrics`. It takes the folder of its state for this process.
    ///
    /// # Errors
    /// [`StateError`] when another runner has the folder, or it cannot be used.
    pub fn new(config: Config, ports: Ports, metrics: Metrics) -> Result<Self, StateError> {
        let Ports { clock, random, engine, requests, provisions, serve, is_clock_off } = ports;
        let (folder, entries) = StateFolder::open(&config.data)?;
        let control = Control::new(config.node.clone(), Arc::clone(&clock), Arc::clone(&random), requests);
        let node = Node {
            containers: Containers::new(config.offered, folder, entries),
            config,
            clock,
            random,
            engine,
            control,
            pools: Pools::default(),
            admission: Admission::default(),
            turns: Turns::default(),
            is_clock_off,
            registered: Notify::new(),
            metrics,
        };
        Ok(Self { node: Arc::new(node), provisions, serve })
    }

    /// Works until `stop`; then takes nothing more, finishes what it has and returns. Containers go on.
    ///
    /// # Errors
    /// [`BusError`] when the queue or the requests cannot be served.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BusError> {
        let Self { node, provisions, serve } = self;
        let serving = async {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = node.start() => {}
            }
            let worker = Arc::clone(&node) as Arc<dyn Worker<ProvisionWork>>;
            let handler = Arc::clone(&node) as Arc<dyn Handler<NodeVerb>>;
            let work = provisions.consume(worker, node.pools.served(), stop.clone());
            let answer =
                serve.serve_node(node.control.node(), handler, node.config.in_flight_max, stop.clone());
            let served = async { tokio::try_join!(work, answer) };
            tokio::select! {
                ended = served => ended.map(|_| ()),
                never = node.keep_registered() => match never {},
                never = node.keep_reconciled() => match never {},
                never = node.refresh_pools() => match never {},
            }
        };
        tokio::select! {
            ended = serving => ended,
            // From the first moment: the control plane may be down while leases end.
            never = node.watch_leases() => match never {},
        }
    }
}

// === impl Node ===

impl Node {
    /// Registers the node and finds out what it has.
    async fn start(&self) {
        self.metrics.show_capacity(&self.containers);
        self.control.register(&self.registration()).await;
        tokio::select! {
            () = self.reconcile_first() => {}
            never = self.keep_registered() => match never {},
        }
    }

    /// Registers the node whenever its generation is over.
    async fn keep_registered(&self) -> Infallible {
        loop {
            self.control.generation_over().await;
            self.control.register(&self.registration()).await;
            self.registered.notify_one();
        }
    }

    fn registration(&self) -> RegisterNodeRequest {
        let info = self.engine.info();
        let isolation: &str = info.isolation.into();
        RegisterNodeRequest {
            node: self.config.node.to_string(),
            engine: info.name.to_owned(),
            isolation: isolation.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What comes of `future`; none if it takes longer than `span`.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    span: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = clock.sleep(span) => None,
    }
}

#[cfg(test)]
mod tests;
