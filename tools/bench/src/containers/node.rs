//! A node in this process: a runner on the fake engine.

use crate::Ports;
use anyhow::Context as _;
use broker::transport::connect;
use domain::NodeId;
use nats::{NatsBus, NatsConfig};
use ports::bus::BusError;
use ports::engine::{Engine as _, Incarnation};
use prometheus::Registry;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use testkit::engine::{FakeEngine, Play};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// More than any measurement uses.
const OFFERED: runner::Demand =
    runner::Demand { cpu_milli: 100_000_000, memory_mb: 100_000_000, sandboxes: 10_000 };
/// Concurrent requests to a node; that of a real one.
const IN_FLIGHT_MAX: usize = 64;
/// What every command writes.
const OUTPUT: &str = "ready\n";

/// A runner and its engine.
pub(super) struct FakeNode {
    pub(super) id: NodeId,
    engine: FakeEngine,
    bus: NatsBus,
    stop: CancellationToken,
    running: JoinHandle<Result<(), BusError>>,
}

// === impl FakeNode ===

impl FakeNode {
    pub(super) async fn start(
        id: NodeId,
        folder: &Path,
        nats: NatsConfig,
        ports: &Ports,
    ) -> anyhow::Result<Self> {
        let bus = connect(nats, ports, "runner").await?;
        let engine = FakeEngine::new(Arc::clone(&ports.clock));
        engine.set_jobs(|_| Play::printing(OUTPUT));
        let data = folder.join(id.as_str());
        let config = runner::Config {
            node: id.clone(),
            images: data.join("images"),
            data,
            offered: OFFERED,
            in_flight_max: IN_FLIGHT_MAX,
        };
        let shared = Arc::new(bus.clone());
        let ports = runner::Ports {
            clock: Arc::clone(&ports.clock),
            random: Arc::clone(&ports.random),
            engine: Arc::new(engine.clone()),
            requests: Arc::clone(&shared) as _,
            provisions: Arc::clone(&shared) as _,
            serve: shared,
            is_clock_off: Arc::new(|| false),
        };
        let metrics = runner::Metrics::register(&Registry::new())?;
        let runner = runner::Runner::new(config, ports, metrics).context("no runner")?;
        let stop = CancellationToken::new();
        let running = tokio::spawn(runner.run(stop.clone()));
        Ok(Self { id, engine, bus, stop, running })
    }

    /// Its containers.
    pub(super) async fn containers(&self) -> anyhow::Result<BTreeSet<Incarnation>> {
        Ok(self.engine.list().await?.into_iter().map(|container| container.incarnation).collect())
    }

    /// Stops the runner. Its containers go on.
    pub(super) async fn stop(self) {
        let Self { bus, stop, running, .. } = self;
        stop.cancel();
        // Its result does not matter any more: a runner that failed earlier has served no container since.
        let _ = running.await;
        bus.close().await;
    }
}
