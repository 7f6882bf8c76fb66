//! A fleet for one test.

use crate::clock::ShiftedClock;
use crate::http::Api;
use crate::process::Broker;
use crate::servers;
use crate::wait::{TIMEOUT, eventually};
use broker::fleet::{Configs, Counts, Fleet, Shared};
use bytes::Bytes;
use contract::{
    CensusReport, FillReport, NodesReport, Report, RunReport, StaleReport, SweepReport, SyncReport, TickKind,
    Verb,
};
use domain::{Sandbox, SandboxId, StateName};
use futures_util::FutureExt as _;
use nats::{NatsBus, NatsConfig};
use ops::listen;
use ports::bus::{Context, Reply, RequestError, Requests, Ticks};
use ports::random::Rng;
use ports::store::Store;
use prometheus::Registry;
use runtime::settings::{Secret, Settings};
use runtime::shutdown::{Lifecycle, LifecycleError};
use serde_json::Value;
use simulator::{Operation, Simulator, SimulatorHandle};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The lab token of every fleet.
pub const LAB_TOKEN: &str = "lab-token-of-the-test";
/// The admin token of every fleet.
pub const ADMIN_TOKEN: &str = "admin-token-of-the-test";
/// The broker's token at every simulator.
pub const CSP_TOKEN: &str = "csp-token-of-the-test";

/// The settings of a test's fleet.
pub struct Plan {
    env: BTreeMap<String, String>,
    accounts: usize,
    counts: Counts,
    prefix: String,
    provision_ack_wait: Option<Duration>,
}

/// A fleet that runs in this process, with its provider.
pub struct Rig {
    /// The running fleet.
    pub running: Running,
    /// The provider's controls.
    pub csp: SimulatorHandle,
    /// The fleet's clock.
    pub clock: ShiftedClock,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    counts: Counts,
    provision_ack_wait: Option<Duration>,
    simulator: simulator::Running,
}

/// The part that stops and starts again. A rig dereferences to it.
pub struct Running {
    /// The HTTP API.
    pub api: Api,
    /// A connection for the test.
    pub bus: NatsBus,
    /// The table.
    pub store: Arc<dyn Store>,
    /// The fleet's metrics.
    pub registry: Registry,
    asked: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<(), LifecycleError>>,
}

impl std::ops::Deref for Rig {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

// === impl Plan ===

impl Plan {
    /// A fleet with `accounts` sandboxes: two allocators, one of every other role, a CSP without latency, and a
    /// deletion rate that delays nothing.
    pub fn new(accounts: usize) -> Self {
        let id = uuid::Uuid::now_v7().simple().to_string();
        let prefix = format!("t{}", &id[16..]);
        let env = [
            ("BROKER_API_TOKEN", LAB_TOKEN),
            ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN),
            ("CSP_API_TOKEN", CSP_TOKEN),
            ("DELETIONS_PER_MINUTE", "60000"),
            ("DELETION_ACK_WAIT_SECONDS", "3"),
            ("DELETION_RETRY_SECONDS_MIN", "1"),
            ("DELETION_RETRY_SECONDS_MAX", "1"),
            ("SWEEP_AFTER_SECONDS", "0"),
            // Each stream reserves its space, and one server holds those of all tests.
            ("EVENTS_BYTES_MAX", "8388608"),
            // The test sends ticks, except the first of each kind.
            ("SYNC_INTERVAL_SECONDS", "3600"),
            ("EXPIRY_INTERVAL_SECONDS", "3600"),
            ("SWEEP_INTERVAL_SECONDS", "3600"),
            ("CENSUS_INTERVAL_SECONDS", "3600"),
            ("STALE_INTERVAL_SECONDS", "3600"),
            // Tests move the clock; only tests of wrong clocks compare it.
            ("CLOCK_SKEW_MAX_SECONDS", "0"),
            // Counts are of the moment of the request.
            ("STATS_CENSUS_AGE_SECONDS_MAX", "0"),
            ("STORE_ATTEMPT_TIMEOUT_MS", "10000"),
            ("STORE_OPERATION_TIMEOUT_MS", "30000"),
            ("SUBJECT_PREFIX", &prefix),
            ("DYNAMODB_TABLE", &format!("broker-{prefix}")),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let counts = Counts { allocators: 2, reapers: 1, schedulers: 1 };
        Self { env: BTreeMap::from(env), accounts, counts, prefix, provision_ack_wait: None }
    }

    /// Sets a variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// Changes the number of services of each kind.
    #[must_use]
    pub fn counts(mut self, change: impl FnOnce(&mut Counts)) -> Self {
        change(&mut self.counts);
        self
    }

    /// Changes how long work to create a sandbox waits for a runner that is silent.
    #[must_use]
    pub fn provision_ack_wait(mut self, span: Duration) -> Self {
        self.provision_ack_wait = Some(span);
        self
    }

    /// The fleet's subject prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Starts the fleet and waits until its first sync has filled the pool.
    pub async fn start(self) -> Rig {
        let accounts = self.accounts;
        let rig = Box::pin(self.start_unsynced()).await;
        eventually("the first sync", TIMEOUT, || async {
            match rig.bus.last_report(TickKind::SYNC).await {
                Ok(Some(report)) => Ok(report),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!(rig.count(StateName::Available).await, accounts, "the first sync fills the pool");
        rig
    }

    /// Starts the fleet without waiting.
    pub async fn start_unsynced(self) -> Rig {
        let Self { mut env, accounts, counts, prefix: _, provision_ack_wait } = self;
        let shared = servers::shared().await;
        let clock = ShiftedClock::default();
        let config = simulator::Config { accounts, ..simulator::Config::local(Secret::new(CSP_TOKEN)) };
        let simulator = Simulator::start(config, Arc::new(clock.clone()), Arc::new(Rng::unseeded()))
            .await
            .expect("the simulator starts");
        let nats_of_roles = shared.nats_of_roles.clone();
        for (name, value) in nats_of_roles.into_iter().chain([
            ("DYNAMODB_ENDPOINT", shared.table_endpoint.clone()),
            ("CSP_BASE_URL", simulator.base_url()),
            ("HTTP_LISTEN", "127.0.0.1:0".to_owned()),
        ]) {
            env.entry(name.to_owned()).or_insert(value);
        }
        let running = Box::pin(Running::start(&env, provision_ack_wait, counts, &clock)).await;
        let csp = simulator.handle();
        Rig { running, csp, clock, env, counts, provision_ack_wait, simulator }
    }
}

// === impl Running ===

impl Running {
    async fn start(
        env: &BTreeMap<String, String>,
        provision_ack_wait: Option<Duration>,
        counts: Counts,
        clock: &ShiftedClock,
    ) -> Self {
        let mut configs = Configs::read(env).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let nats = &mut configs.backends.nats;
        nats.provision_ack_wait = provision_ack_wait.unwrap_or(nats.provision_ack_wait);
        let registry = Registry::new();
        let shared = Shared {
            clock: Arc::new(clock.clone()),
            random: Arc::new(Rng::unseeded()),
            registry: registry.clone(),
        };
        let listener = listen(configs.ingress.listen).await.expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let mut lifecycle = Lifecycle::new(Duration::from_secs(20));
        let mut fleet = Fleet::new(configs.backends.clone(), shared).await.expect("the fleet is sound");
        let bus = fleet.bus("test").await.expect("a connection");
        let store = fleet.store().expect("a table");
        fleet.start_all(&mut lifecycle, configs, counts, listener).await.expect("the services start");
        let (asked, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(async move {
            let second_signal = std::future::pending::<()>();
            let ended = lifecycle.run_until(stopped.map(|_| second_signal)).await;
            fleet.close().await;
            ended
        });
        let api = Api::new(address, LAB_TOKEN, ADMIN_TOKEN);
        Self { api, bus, store, registry, asked: Some(asked), ended }
    }
}

// === impl Rig ===

impl Rig {
    /// Stops the fleet in order and checks that it ended well.
    pub async fn stop(mut self) {
        self.stop_fleet().await.expect("the fleet ends in order");
        self.simulator.stop().await.expect("the simulator ends");
    }

    /// Stops the fleet in order and returns the result; the provider keeps running.
    pub async fn stop_fleet(&mut self) -> Result<(), LifecycleError> {
        self.ask_to_stop();
        (&mut self.running.ended).await.expect("the fleet did not panic")
    }

    /// Changes the number of services of each kind for the next start.
    pub fn change_counts(&mut self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts);
    }

    /// Asks the fleet to stop.
    pub fn ask_to_stop(&mut self) {
        drop(self.running.asked.take());
    }

    /// Starts the fleet again, with the same table, streams and provider.
    pub async fn start_again(&mut self) {
        let started = Running::start(&self.env, self.provision_ack_wait, self.counts, &self.clock);
        self.running = Box::pin(started).await;
    }

    /// Starts a reaper as a separate process, with these two servers.
    pub async fn start_reaper(&self, folder: &std::path::Path, nats: &str, table: &str) -> Broker {
        self.start_role("reaper", folder, nats, table).await
    }

    /// Starts any role as a process, with these two servers.
    pub async fn start_role(
        &self,
        role: &'static str,
        folder: &std::path::Path,
        nats: &str,
        table: &str,
    ) -> Broker {
        let mut env = self.env.clone();
        env.insert("NATS_URL".to_owned(), nats.to_owned());
        env.insert("DYNAMODB_ENDPOINT".to_owned(), table.to_owned());
        env.insert("OPS_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
        let variables: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Broker::start(folder, &[role], &variables).await
    }

    /// Sends one request over NATS.
    pub async fn ask(&self, verb: Verb, body: Value) -> Result<Reply, RequestError> {
        self.ask_within(verb, &body, None, Duration::from_secs(20)).await
    }

    /// Sends one request over NATS, with a deadline, and waits at most `patience`.
    pub async fn ask_within(
        &self,
        verb: Verb,
        body: &Value,
        deadline_ms: Option<u64>,
        patience: Duration,
    ) -> Result<Reply, RequestError> {
        let context = Context {
            request_id: "test-request".to_owned(),
            deadline_ms,
            traceparent: None,
            idempotency_key: None,
            attempt: None,
            principal: contract::Principal::default(),
        };
        self.bus.request(verb, &context, Bytes::from(body.to_string()), patience).await
    }

    /// Sends one request over NATS, with any body.
    pub async fn ask_raw(
        &self,
        verb: Verb,
        body: String,
        deadline_ms: Option<u64>,
    ) -> Result<Reply, RequestError> {
        let context = Context {
            request_id: "test-request".to_owned(),
            deadline_ms,
            traceparent: None,
            idempotency_key: None,
            attempt: None,
            principal: contract::Principal::default(),
        };
        self.bus.request(verb, &context, Bytes::from(body), Duration::from_secs(20)).await
    }

    /// Sends a tick and waits for the report of its run.
    pub async fn run(&self, kind: TickKind) -> RunReport {
        // Without a connection the tick would be refused.
        connected(&self.bus).await;
        let (_, report) = self.bus.tick_and_wait(kind, TIMEOUT).await.expect("the tick is taken");
        report.unwrap_or_else(|| panic!("no report of {kind:?}"))
    }

    /// Runs a sync.
    pub async fn sync(&self) -> SyncReport {
        match self.run(TickKind::SYNC).await.report {
            Report::Sync(report) => report,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a sweep.
    pub async fn sweep(&self) -> SweepReport {
        match self.run(TickKind::SWEEP).await.report {
            Report::Sweep(report) => report,
            other => panic!("{other:?}"),
        }
    }

    /// Takes a census.
    pub async fn census(&self) -> CensusReport {
        match self.run(TickKind::CENSUS).await.report {
            Report::Census(report) => report,
            other => panic!("{other:?}"),
        }
    }

    /// Removes records that have been stale for too long.
    pub async fn remove_stale(&self) -> StaleReport {
        match self.run(TickKind::STALE).await.report {
            Report::Stale(report) => report,
            other => panic!("{other:?}"),
        }
    }

    /// Number of sandboxes in `state`, counted by the broker.
    pub async fn count(&self, state: StateName) -> usize {
        self.api.stats().await[state.as_str()].as_u64().expect("a count") as usize
    }

    /// The sandbox, read from the table.
    pub async fn sandbox(&self, id: &str) -> Option<Sandbox> {
        let id = SandboxId::parse(id).expect("a sandbox id");
        self.store.sandbox(&id).await.expect("the table answers")
    }

    /// Waits until the sandbox is in `state`.
    pub async fn until_state(&self, id: &str, state: StateName) -> Sandbox {
        eventually(&format!("{id} to be {state}"), TIMEOUT, || async {
            let sandbox = self.sandbox(id).await.expect("the sandbox is there");
            if sandbox.state.name() == state { Ok(sandbox) } else { Err(sandbox.state) }
        })
        .await
    }

    /// The value of a gauge without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("a metric of that name");
        family.get_metric()[0].get_gauge().get_value()
    }

    /// Deletions that the CSP received, whatever it answered.
    pub fn deletes_at_csp(&self) -> usize {
        self.csp.log().iter().filter(|call| call.operation == Operation::Delete).count()
    }

    /// Deletes an account directly at the CSP.
    pub async fn delete_at_csp(&self, id: &str) {
        let sandbox = self.sandbox(id).await.expect("the sandbox is there");
        let url = format!("{}/sandbox/accounts/{}", self.env["CSP_BASE_URL"], sandbox.external_id.bare());
        let request = self.api.client.delete(url).header("Authorization", format!("Token {CSP_TOKEN}"));
        assert!(request.send().await.expect("the simulator answers").status().is_success());
        self.csp.clear_log();
    }

    /// Looks at the nodes.
    pub async fn look_at_nodes(&self) -> NodesReport {
        match self.run(TickKind::NODES).await.report {
            Report::Nodes(report) => report,
            other => panic!("{other:?}"),
        }
    }

    /// Fills the pools whose sandboxes are created.
    pub async fn fill(&self) -> FillReport {
        match self.run(TickKind::FILL).await.report {
            Report::Fill(report) => report,
            other => panic!("{other:?}"),
        }
    }

    /// How parts of the fleet reach NATS.
    pub fn nats_config(&self) -> NatsConfig {
        let mut config = NatsConfig::read(&mut Settings::new(&self.env));
        config.provision_ack_wait = self.provision_ack_wait.unwrap_or(config.provision_ack_wait);
        config
    }

    /// A connection that outlives the fleet.
    pub async fn another_bus(&self) -> NatsBus {
        let (config, clock) = (self.nats_config(), Arc::new(self.clock.clone()));
        let bus = NatsBus::connect("test", config, clock, Arc::new(Rng::unseeded())).await;
        let bus = bus.expect("a connection");
        connected(&bus).await;
        bus
    }
}

async fn connected(bus: &NatsBus) {
    eventually("a connection to NATS", TIMEOUT, || async {
        if bus.connected() { Ok(()) } else { Err("not connected") }
    })
    .await;
}
