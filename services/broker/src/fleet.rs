//! A fleet, or a part of one, in this process: connections, services and the order in which they stop.

use crate::notes::ListingNote;
use crate::opening::Opening;
use crate::readiness::{DeletionsNote, NatsAnswers, RoleReadiness, StreamsThere, TableAnswers};
use anyhow::Context as _;
use client::{Client, DeletionControlClient, Timeouts};
use csp::CspProvider;
use domain::ProviderName;
use dynamodb::DynamoStore;
use nats::{Maintenance, NatsBus};
use ports::bus::{
    CensusStore, DeletionControl, Deletions, Discovery, EventFeed, EventLog, NodeRequests, ProviderThrottle,
    Provisions, Requests, ServiceInfo, SwitchCache, TickTurns, Ticks, Upkeep,
};
use ports::clock::Clock;
use ports::engine::Engine;
use ports::provider::{Provider, Providers};
use ports::random::Random;
use ports::secrets::Secrets;
use ports::store::Store;
use prometheus::Registry;
use runtime::check::Check;
use runtime::pools::PoolWatch;
use runtime::recorder::Recorder;
use runtime::restored::{TableCheck, TableGuard, TableWatch};
use runtime::shutdown::Lifecycle;
use runtime::skew::ClockCheck;
use runtime::switch::{SwitchRestoringThrottle, Switchboard};
use secretsmanager::AwsSecrets;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

mod answering;
mod configs;
mod metrics;
mod nodes;
mod providers;

pub use configs::{Backends, Configs};
pub use nodes::{EngineKind, NodeConfig, NodeError};

use metrics::WorkerMetrics;

/// What a role waits for when its table exists but has not been compared yet.
const COMPARISON: &str = "comparison of the table with what NATS knows of it";

/// What the services of this process share.
#[derive(Clone)]
pub struct Shared {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
    /// The process's metrics.
    pub registry: Registry,
}

/// The number of services of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Allocators.
    pub allocators: u16,
    /// Reapers.
    pub reapers: u16,
    /// Schedulers.
    pub schedulers: u16,
}

/// The threads that an ingress runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Separate threads, so that a flood of connections does not delay the workers of the process.
    Own,
    /// Those of the process, which has no workers.
    Shared,
}

/// The services of this process, and their connections.
pub struct Fleet {
    shared: Shared,
    backends: Backends,
    store: Option<Arc<DynamoStore>>,
    providers: Providers,
    buses: Vec<NatsBus>,
    role_readiness: RoleReadiness,
    /// Whether the table may be used; one of this process's connections watches it.
    guard: TableGuard,
    is_watched: bool,
    streams: StreamsThere,
    /// Controls deletions, if this process has a reaper.
    deletion_control: Option<Arc<dyn DeletionControl>>,
    /// The engines of the nodes of this process.
    engines: Vec<Arc<dyn Engine>>,
    /// Further readiness checks of the ingress.
    further: Vec<Arc<dyn Check>>,
    /// Notes in the readiness of the ingress.
    notes: Vec<Arc<dyn Check>>,
    metrics: WorkerMetrics,
    /// Shared by the allocators of this process.
    admission: Option<allocator::Admission>,
    /// Cancelled after the ingress has answered its last request, because it needs the workers until then.
    workers_stop: CancellationToken,
}

// === impl Fleet ===

impl Fleet {
    /// A fleet without services. It works before NATS and the table are reachable.
    ///
    /// # Errors
    /// When the settings of a client are invalid.
    pub async fn new(backends: Backends, shared: Shared) -> anyhow::Result<Self> {
        crypto::install_crypto();
        let store = match &backends.table {
            Some(config) => Some(Arc::new(DynamoStore::connect(config).await)),
            None => None,
        };
        let mut providers = Vec::new();
        for (name, config) in &backends.providers {
            let provider = CspProvider::new(config.clone(), Arc::clone(&shared.clock))
                .with_context(|| format!("no client for the provider {name}"))?;
            providers.push((name.clone(), Arc::new(provider) as Arc<dyn Provider>));
        }
        let providers = Providers::new(providers);
        let metrics = WorkerMetrics::register(&shared.registry)?;
        let workers_stop = CancellationToken::new();
        Ok(Self {
            shared,
            backends,
            store,
            providers,
            buses: Vec::new(),
            role_readiness: RoleReadiness::default(),
            guard: TableGuard::default(),
            is_watched: false,
            streams: StreamsThere { needed_by: Vec::new(), noted_by: Vec::new() },
            deletion_control: None,
            engines: Vec::new(),
            further: Vec::new(),
            notes: Vec::new(),
            metrics,
            admission: None,
            workers_stop,
        })
    }

    /// A new connection to NATS, closed when the process ends.
    ///
    /// # Errors
    /// When the address or the credentials cannot be read.
    pub async fn bus(&mut self, name: &str) -> anyhow::Result<NatsBus> {
        let bus = NatsBus::connect(
            name,
            self.backends.nats.clone(),
            Arc::clone(&self.shared.clock),
            Arc::clone(&self.shared.random),
        )
        .await?
        .guarded_by(self.guard.clone())
        .showing(self.backends.shown.clone())
        .following(self.backends.pools.clone());
        self.buses.push(bus.clone());
        Ok(bus)
    }

    /// A connection of a worker, which maintains the streams.
    async fn worker_bus(&mut self, name: &str) -> anyhow::Result<NatsBus> {
        let upkeep = self.metrics.upkeep()?;
        Ok(self.bus(name).await?.counting(upkeep))
    }

    /// The store.
    ///
    /// # Errors
    /// When this process has none.
    pub fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(Arc::clone(self.table()?) as Arc<dyn Store>)
    }

    /// What its subjects begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.backends.nats.subjects.prefix()
    }

    /// The time.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.shared.clock)
    }

    /// Adds a readiness check to an ingress that is started later.
    pub fn depends_on(&mut self, check: Arc<dyn Check>) {
        self.further.push(check);
    }

    /// Starts every service; the ingress serves `listener`.
    ///
    /// # Errors
    /// When one cannot be created.
    pub async fn start_all(
        &mut self,
        lifecycle: &mut Lifecycle,
        configs: Configs,
        counts: Counts,
        listener: TcpListener,
    ) -> anyhow::Result<()> {
        self.start_ingress(lifecycle, configs.ingress, listener, Threads::Own).await?;
        for _ in 0..counts.allocators {
            self.start_allocator(lifecycle, configs.allocator.clone()).await?;
        }
        self.start_registry(lifecycle, configs.registry).await?;
        for _ in 0..counts.reapers {
            self.start_reaper(lifecycle, configs.reaper.clone()).await?;
        }
        self.start_reconciler(lifecycle, configs.reconciler).await?;
        for _ in 0..counts.schedulers {
            self.start_scheduler(lifecycle, configs.scheduler.clone()).await?;
        }
        Ok(())
    }

    /// Starts the ingress on `listener`. The workers of this process stop after it.
    ///
    /// # Errors
    /// When it cannot be created.
    pub async fn start_ingress(
        &mut self,
        lifecycle: &mut Lifecycle,
        mut config: ingress::Config,
        listener: TcpListener,
        threads: Threads,
    ) -> anyhow::Result<()> {
        crate::descriptors::make_room(config.connections.connections_max);
        let secrets = self.secrets().await;
        config.tokens.fetch(secrets.as_deref()).await.context("no tokens")?;
        let bus = Arc::new(self.bus("ingress").await?);
        let ports = ingress::Ports {
            requests: Arc::clone(&bus) as Arc<dyn Requests>,
            ticks: Arc::clone(&bus) as Arc<dyn Ticks>,
            deletion_control: self.deletion_control(&bus, config.admin_wait),
            events: Arc::clone(&bus) as Arc<dyn EventFeed>,
            discovery: Arc::clone(&bus) as Arc<dyn Discovery>,
            secrets,
            checks: self.checks_of(&bus).into_iter().chain(self.further.iter().map(Arc::clone)).collect(),
            clock: Arc::clone(&self.shared.clock),
            random: Arc::clone(&self.shared.random),
        };
        let ingress = ingress::Ingress::new(config, ports, self.shared.registry.clone())?;
        self.notes.extend(ingress.notes());
        self.show(lifecycle, &bus, ingress.service_info());
        self.keep_spread(lifecycle, &bus);
        let (stop, workers_stop) = (lifecycle.stop(), self.workers_stop.clone());
        let run = async move {
            let ended = ingress.run(listener, stop).await;
            workers_stop.cancel();
            ended
        };
        match threads {
            Threads::Own => {
                lifecycle.start_on_own_threads("ingress", run).context("no threads for the ingress")?
            }
            Threads::Shared => lifecycle.start("ingress", run),
        }
        Ok(())
    }

    /// The control of deletions for an ingress, which has no table.
    fn deletion_control(&self, bus: &Arc<NatsBus>, wait: Duration) -> Arc<dyn DeletionControl> {
        let transport = Arc::clone(bus) as Arc<dyn Requests>;
        let (clock, random) = (Arc::clone(&self.shared.clock), Arc::clone(&self.shared.random));
        let timeouts = Timeouts { call: wait, attempt: wait };
        let client = Client::new(Arc::clone(&transport), Arc::clone(&clock), random, timeouts);
        Arc::new(DeletionControlClient::new(
            client,
            transport,
            Arc::clone(bus) as Arc<dyn DeletionControl>,
            clock,
        ))
    }

    /// Starts a reaper.
    ///
    /// # Errors
    /// When it cannot be created.
    pub async fn start_reaper(
        &mut self,
        lifecycle: &mut Lifecycle,
        config: reaper::Config,
    ) -> anyhow::Result<()> {
        let bus = Arc::new(self.worker_bus("reaper").await?);
        self.deletion_control = Some(Arc::clone(&bus) as Arc<dyn DeletionControl>);
        let table = Arc::clone(self.table()?);
        let switch = Switchboard::new(
            Arc::clone(&table) as Arc<dyn Store>,
            Arc::clone(&bus) as Arc<dyn SwitchCache>,
            Arc::clone(&self.shared.clock),
        );
        let ports = reaper::Ports {
            clock: Arc::clone(&self.shared.clock),
            random: Arc::clone(&self.shared.random),
            store: Arc::clone(&table) as Arc<dyn Store>,
            providers: self.provider_ports(&bus, &switch, Arc::clone(&table) as Arc<dyn Store>),
            pools: self.pools()?,
            deletions: Arc::clone(&bus) as Arc<dyn Deletions>,
            deletion_control: Arc::clone(&bus) as Arc<dyn DeletionControl>,
            recorder: self.recorder(Arc::clone(&bus) as Arc<dyn EventLog>)?,
        };
        let metrics = self.metrics.reaper()?;
        self.show(lifecycle, &bus, Arc::new(metrics.clone()));
        let reaper = reaper::Reaper::new(config, ports, metrics);
        let opening = self.opening(lifecycle, &bus)?;
        let ready = self.ready(lifecycle, "reaper", &bus, Some(opening), Maintenance::CreateMissing);
        let stop = self.workers_stop.clone();
        lifecycle.start("reaper", async move {
            if ready.await? {
                reaper.run(bus.as_ref(), stop).await?;
            }
            anyhow::Ok(())
        });
        Ok(())
    }

    /// Starts a reconciler.
    ///
    /// # Errors
    /// When it cannot be created.
    pub async fn start_reconciler(
        &mut self,
        lifecycle: &mut Lifecycle,
        config: reconciler::Config,
    ) -> anyhow::Result<()> {
        let bus = Arc::new(self.worker_bus("reconciler").await?);
        let table = Arc::clone(self.table()?);
        let ports = reconciler::Ports {
            clock: Arc::clone(&self.shared.clock),
            store: Arc::clone(&table) as Arc<dyn Store>,
            providers: self.providers.clone(),
            pools: self.pools()?,
            deletions: Arc::clone(&bus) as Arc<dyn Deletions>,
            provisions: Arc::clone(&bus) as Arc<dyn Provisions>,
            nodes: Arc::clone(&bus) as Arc<dyn NodeRequests>,
            random: Arc::clone(&self.shared.random),
            upkeep: Arc::clone(&bus) as Arc<dyn Upkeep>,
            switch: Arc::clone(&bus) as Arc<dyn SwitchCache>,
            census: Arc::clone(&bus) as Arc<dyn CensusStore>,
            turns: Arc::clone(&bus) as Arc<dyn TickTurns>,
            ticks: Arc::clone(&bus) as Arc<dyn Ticks>,
            recorder: self.recorder(Arc::clone(&bus) as Arc<dyn EventLog>)?,
        };
        self.notes.push(Arc::new(ListingNote(Arc::clone(&bus) as Arc<dyn Ticks>)));
        let metrics = self.metrics.reconciler()?;
        self.show(lifecycle, &bus, Arc::new(metrics.clone()));
        let reconciler = reconciler::Reconciler::new(config, ports, metrics);
        let opening = self.opening(lifecycle, &bus)?;
        let ready = self.ready(lifecycle, "reconciler", &bus, Some(opening), Maintenance::CorrectAll);
        let stop = self.workers_stop.clone();
        lifecycle.start("reconciler", async move {
            if ready.await? {
                reconciler.run(bus, stop).await?;
            }
            anyhow::Ok(())
        });
        Ok(())
    }

    /// Starts a scheduler.
    ///
    /// # Errors
    /// When it cannot be created.
    pub async fn start_scheduler(
        &mut self,
        lifecycle: &mut Lifecycle,
        config: scheduler::Config,
    ) -> anyhow::Result<()> {
        let bus = self.worker_bus("scheduler").await?;
        let clock = Arc::clone(&self.shared.clock);
        let ticks = Arc::new(bus.clone()) as Arc<dyn Ticks>;
        let metrics = self.metrics.scheduler()?;
        self.show(lifecycle, &bus, Arc::new(metrics.clone()));
        let turns = Arc::new(bus.clone()) as Arc<dyn TickTurns>;
        let scheduler = scheduler::Scheduler::new(config, clock, ticks, turns, metrics);
        let ready = self.ready(lifecycle, "scheduler", &bus, None, Maintenance::CreateMissing);
        let stop = self.workers_stop.clone();
        lifecycle.start("scheduler", async move {
            if ready.await? {
                scheduler.run(stop).await?;
            }
            anyhow::Ok(())
        });
        Ok(())
    }

    /// Makes the workers stop together with a process that has no ingress.
    pub fn stop_workers_with(&self, lifecycle: &mut Lifecycle) {
        let (stop, workers_stop) = (lifecycle.stop(), self.workers_stop.clone());
        lifecycle.start("stop", async move {
            stop.cancelled().await;
            workers_stop.cancel();
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// The readiness checks of this process's workers.
    ///
    /// # Errors
    /// When a connection cannot be made.
    pub async fn checks(&mut self) -> anyhow::Result<Vec<Arc<dyn Check>>> {
        if self.buses.is_empty() {
            self.bus("readiness").await?;
        }
        let streams = StreamsThere {
            needed_by: self.streams.needed_by.clone(),
            noted_by: self.streams.noted_by.clone(),
        };
        let mut checks: Vec<Arc<dyn Check>> = vec![
            Arc::new(NatsAnswers(self.buses.clone())),
            Arc::new(self.role_readiness.clone()),
            Arc::new(streams),
        ];
        if let Some(bus) = self.buses.first() {
            checks.extend(self.checks_of(bus));
        }
        if let Some(table) = &self.store {
            checks.push(Arc::new(TableAnswers(Arc::clone(table) as Arc<dyn Store>)));
        }
        if let Some(control) = &self.deletion_control {
            checks.push(Arc::new(DeletionsNote(Arc::clone(control))));
        }
        checks.extend(self.notes.iter().map(Arc::clone));
        Ok(checks)
    }

    /// Checks of the clock and of the table, which every role needs.
    fn checks_of(&self, bus: &NatsBus) -> Vec<Arc<dyn Check>> {
        let mut checks: Vec<Arc<dyn Check>> = vec![Arc::new(ClockCheck(Arc::clone(bus.server_time())))];
        if self.store.is_some() {
            checks.push(Arc::new(TableCheck(self.guard.clone())));
        }
        checks
    }

    /// Closes the connections. Nothing may use the fleet afterwards.
    pub async fn close(self) {
        for bus in &self.buses {
            bus.close().await;
        }
    }

    /// Makes a worker answer discovery requests and measure its clock.
    fn show(&self, lifecycle: &mut Lifecycle, bus: &NatsBus, service: Arc<dyn ServiceInfo>) {
        let (clocked, metrics) = (bus.clone(), self.metrics.clock.clone());
        let stop = self.workers_stop.clone();
        lifecycle.start("clock", async move {
            clocked.keep_time(metrics, stop.clone()).await;
            stop.cancelled().await;
            Ok::<(), std::convert::Infallible>(())
        });
        let (bus, stop) = (bus.clone(), self.workers_stop.clone());
        lifecycle.start("discovery", async move { bus.answer_discovery(service, stop).await });
    }

    /// Maintains the streams in the background, for a role that works without them.
    fn keep_streams(&self, lifecycle: &mut Lifecycle, bus: &NatsBus, maintenance: Maintenance) {
        let (kept, stop) = (bus.clone(), self.workers_stop.clone());
        lifecycle.start("streams", async move {
            kept.keep_whole(maintenance, &stop).await;
            Ok::<(), std::convert::Infallible>(())
        });
        self.keep_spread(lifecycle, bus);
    }

    fn keep_spread(&self, lifecycle: &mut Lifecycle, bus: &NatsBus) {
        let (bus, stop) = (bus.clone(), self.workers_stop.clone());
        lifecycle.start("connection", async move {
            bus.stay_spread(&stop).await;
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// Waits until table and streams exist, for a role that needs both; false if the stop came first. Until then the
    /// role is not ready.
    fn ready(
        &mut self,
        lifecycle: &mut Lifecycle,
        role: &'static str,
        bus: &NatsBus,
        opening: Option<Opening>,
        maintenance: Maintenance,
    ) -> impl Future<Output = anyhow::Result<bool>> + Send + use<> {
        self.streams.needed_by.push(bus.clone());
        self.keep_streams(lifecycle, bus, maintenance);
        let (bus, role_readiness, stop) =
            (bus.clone(), self.role_readiness.clone(), self.workers_stop.clone());
        role_readiness.waits(role, if opening.is_some() { "table" } else { "streams" });
        async move {
            if let Some(opening) = &opening {
                if !opening.open(&stop).await? {
                    return Ok(false);
                }
                role_readiness.waits(role, "streams");
            }
            let mut is_ready = bus.until_whole(&stop).await;
            if let Some(opening) = opening.filter(|_| is_ready) {
                role_readiness.waits(role, COMPARISON);
                is_ready = opening.compared(false, &stop).await;
            }
            if is_ready {
                role_readiness.works(role);
            }
            Ok(is_ready)
        }
    }

    fn recorder(&mut self, event_log: Arc<dyn EventLog>) -> anyhow::Result<Recorder> {
        Ok(Recorder::new(Arc::clone(&self.shared.clock), event_log, self.metrics.event_log()?))
    }

    /// The table for a role on this connection. The first call starts the watch of the table.
    fn opening(&mut self, lifecycle: &mut Lifecycle, bus: &NatsBus) -> anyhow::Result<Opening> {
        let (table, guard) = (Arc::clone(self.table()?), self.guard.clone());
        if !std::mem::replace(&mut self.is_watched, true) {
            let (bus, clock) = (Arc::new(bus.clone()), Arc::clone(&self.shared.clock));
            let watch = TableWatch::new(Arc::clone(&table) as Arc<dyn Store>, bus.clone(), bus, clock);
            let (pools, followed, stop) = (self.pools()?, Arc::clone(&table), self.workers_stop.clone());
            lifecycle.start("pools", async move {
                pools.keep(followed.as_ref(), &stop).await;
                Ok::<(), std::convert::Infallible>(())
            });
            let (guard, metrics, stop) = (guard.clone(), self.metrics.table()?, self.workers_stop.clone());
            lifecycle.start("table watch", async move {
                watch.keep(&guard, &metrics, &stop).await;
                stop.cancelled().await;
                Ok::<(), std::convert::Infallible>(())
            });
        }
        Ok(Opening { table, agreed: self.backends.agreed.clone(), guard, pools: self.pools()? })
    }

    fn table(&self) -> anyhow::Result<&Arc<DynamoStore>> {
        self.store.as_ref().context("this process has no table")
    }

    async fn secrets(&self) -> Option<Arc<dyn Secrets>> {
        let config = self.backends.secrets.as_ref()?;
        // A large future, for a call that is made once.
        Some(Arc::new(Box::pin(AwsSecrets::connect(config)).await) as Arc<dyn Secrets>)
    }

    fn pools(&self) -> anyhow::Result<PoolWatch> {
        self.backends.pools.clone().context("this process has no pools")
    }

    /// Each provider with its throttle in the fleet.
    fn provider_ports(
        &self,
        bus: &Arc<NatsBus>,
        switch: &Switchboard,
        store: Arc<dyn Store>,
    ) -> BTreeMap<ProviderName, reaper::ProviderPorts> {
        let throttle_of = |name: &ProviderName| {
            let throttle = Arc::new(bus.throttle_of(name)) as Arc<dyn ProviderThrottle>;
            Arc::new(SwitchRestoringThrottle::new(throttle, switch.clone())) as Arc<dyn ProviderThrottle>
        };
        let with_throttle = |(name, provider): (&ProviderName, &Arc<dyn Provider>)| {
            let (provider, throttle) = (Arc::clone(provider), throttle_of(name));
            (name.clone(), reaper::ProviderPorts { provider, throttle })
        };
        let Shared { clock, random, .. } = &self.shared;
        let requests = Arc::clone(bus) as Arc<dyn NodeRequests>;
        let nodes = reaper::Nodes::new(requests, store, Arc::clone(clock), Arc::clone(random));
        let nodes = reaper::ProviderPorts {
            provider: Arc::new(nodes),
            throttle: Arc::new(reaper::Unthrottled::paused_with(throttle_of(&ProviderName::csp()))),
        };
        self.providers.iter().map(with_throttle).chain([(ProviderName::nodes(), nodes)]).collect()
    }
}
