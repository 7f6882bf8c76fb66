//! The measured fleet: ingress and allocators, with a separate NATS server and table. Without a provider, so that
//! nothing else runs. Roles in separate processes can join it.

use super::seed::{self, Filling, fill};
use super::{Ports, fresh_run};
use anyhow::Context as _;
use broker::data::DataDir;
use broker::embedded::EmbeddedTable;
use broker::fleet::{self, Backends, Shared, Threads};
use broker::nats_server::{self, NatsServer};
use broker::role::Role;
use broker::transport::connect;
use broker::up::{API_TOKEN_FILE, Overlay};
use contract::Verb;
use domain::Pools;
use dynamodb::{DynamoConfig, DynamoStore};
use futures_util::FutureExt as _;
use http_client::HttpRequests;
use nats::{NatsBus, NatsConfig};
use ops::listen;
use ports::bus::{Context, Requests, Ticks};
use ports::store::Store;
use prometheus::Registry;
use runtime::pools::PoolWatch;
use runtime::settings::{Env, Secret, Settings};
use runtime::shutdown::{Lifecycle, LifecycleError};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(super) mod process;

/// Time-out until the fleet is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two checks.
const READY_POLL_PAUSE: Duration = Duration::from_millis(20);
/// Time-out of one check.
const READY_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for every role to finish at the end.
const GRACE: Duration = Duration::from_secs(10);
/// Time for the NATS server to end after that.
const NATS_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Time-out of one attempt of a call to the table: a slow one is measured, not retried.
const ATTEMPT_TIMEOUT_MS: &str = "10000";
/// Time-out of a call to the table with all its attempts.
const OPERATION_TIMEOUT_MS: &str = "30000";
/// The same for calls that fill or inspect the table.
const FILL_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const FILL_OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
/// The rate limits, which no load here reaches.
pub(super) const RATE_SETTINGS: [&str; 6] = [
    "PEER_RATE_PER_SECOND",
    "PEER_RATE_BURST",
    "TOKEN_RATE_PER_SECOND",
    "TOKEN_RATE_BURST",
    "OWNER_RATE_PER_SECOND",
    "OWNER_RATE_BURST",
];
pub(super) const RATE_MAX: &str = "1000000";

/// External servers of a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub struct Servers {
    /// A DynamoDB engine instead of the embedded one.
    #[arg(long, value_name = "URL")]
    pub dynamodb_endpoint: Option<String>,
    /// A NATS server instead of a child process.
    #[arg(long, value_name = "URL")]
    pub nats_url: Option<String>,
}

/// The configuration of a fleet.
#[derive(Clone, Copy, Debug)]
pub(super) struct FleetSpec<'a> {
    /// Allocators in this process.
    pub(super) allocators: u16,
    /// Its servers.
    pub(super) servers: &'a Servers,
    /// Its pools.
    pub(super) pools: Option<&'static str>,
}

/// A running fleet, with a caller at each of its transports.
pub(super) struct Fleet {
    pub(super) nats: NatsConfig,
    pub(super) store: Arc<DynamoStore>,
    pub(super) pools: Arc<Pools>,
    pub(super) http: Arc<dyn Requests>,
    pub(super) http_address: SocketAddr,
    pub(super) over_nats: Arc<dyn Requests>,
    /// Every variable that a role would read, so that a process of it is independent of the environment.
    environment: BTreeMap<String, String>,
    caller: NatsBus,
    asked: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), LifecycleError>>,
    parts: Parts,
}

/// The connections of the fleet.
struct Parts {
    nats: Option<NatsServer>,
    table: Option<EmbeddedTable>,
    data: DataDir,
}

/// The settings of the fleet.
struct Config {
    backends: Backends,
    pools: Arc<Pools>,
    ingress: ingress::Config,
    allocator: allocator::Config,
}

// === impl Fleet ===

impl Fleet {
    pub(super) async fn start(spec: FleetSpec<'_>, env: &dyn Env, ports: &Ports) -> anyhow::Result<Self> {
        let run = fresh_run(ports);
        let data = DataDir::open(&std::env::temp_dir().join(&run), true)?;
        let token = data.token(API_TOKEN_FILE)?;
        let mut overlay = Overlay::over(env);
        overlay.set("BROKER_API_TOKEN", &token);
        overlay.set("BROKER_ADMIN_TOKEN", data.token("admin-token")?);
        // Tokens have one source.
        for name in ["TOKENS_FILE", "TOKENS_SECRET"] {
            overlay.set(name, "");
        }
        // All requests come from one address with one token. The limits are active but out of reach.
        for name in RATE_SETTINGS {
            overlay.set_default(name, RATE_MAX);
        }
        // The load tool trusts only the authorities of the system.
        for name in ["TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"] {
            overlay.set(name, "");
        }
        // Separate names, in case the server or the engine is shared.
        overlay.set("SUBJECT_PREFIX", &run);
        overlay.set("DYNAMODB_TABLE", &run);
        overlay.set_default("STORE_ATTEMPT_TIMEOUT_MS", ATTEMPT_TIMEOUT_MS);
        overlay.set_default("STORE_OPERATION_TIMEOUT_MS", OPERATION_TIMEOUT_MS);
        if let Some(pools) = spec.pools {
            overlay.set("POOLS", pools);
        }
        let parts = Parts::start(spec, env, data, &mut overlay).await?;
        let started = Box::pin(Self::start_on(&overlay, spec.allocators, &token, ports)).await;
        match started {
            Ok(start) => Ok(start(parts)),
            Err(error) => {
                parts.stop().await;
                Err(error)
            }
        }
    }

    async fn start_on(
        env: &dyn Env,
        allocators: u16,
        token: &str,
        ports: &Ports,
    ) -> anyhow::Result<impl FnOnce(Parts) -> Self + use<>> {
        let Config { backends, pools, ingress, allocator } = Config::read(env)?;
        let (nats, table) = (backends.nats.clone(), backends.table.clone().context("no table")?);
        let shared = Shared {
            clock: Arc::clone(&ports.clock),
            random: Arc::clone(&ports.random),
            registry: Registry::new(),
        };
        let mut lifecycle = Lifecycle::new(GRACE);
        let mut fleet = fleet::Fleet::new(backends, shared).await?;
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let http_address = listener.local_addr()?;
        let root = format!("http://{http_address}");
        fleet.start_ingress(&mut lifecycle, ingress, listener, Threads::Own).await?;
        for _ in 0..allocators {
            fleet.start_allocator(&mut lifecycle, allocator.clone()).await?;
        }
        let (asked, asking) = oneshot::channel::<()>();
        let ended = tokio::spawn(async move {
            // The sender is dropped when the measuring is over; there is no second signal.
            let asked = asking.map(|_| std::future::pending::<()>());
            let ended = lifecycle.run_until(asked).await;
            fleet.close().await;
            ended
        });
        let caller = connect(nats.clone(), ports, "bench").await?;
        // Filling the table is not measured: a slow insert is waited for, not repeated.
        let (attempt_timeout, operation_timeout) = (FILL_ATTEMPT_TIMEOUT, FILL_OPERATION_TIMEOUT);
        let store = DynamoStore::connect(&DynamoConfig { attempt_timeout, operation_timeout, ..table }).await;
        store.ensure_table().await?;
        let http = HttpRequests::new(&root, Secret::new(token))?;
        let environment = environment_of_roles(env);
        Ok(move |parts| Self {
            nats,
            store: Arc::new(store),
            pools,
            http: Arc::new(http),
            http_address,
            over_nats: Arc::new(caller.clone()),
            environment,
            caller,
            asked,
            ended,
            parts,
        })
    }

    /// Waits until a worker is ready for claims.
    pub(super) async fn ready(&self, ports: &Ports) -> anyhow::Result<()> {
        let context = Context {
            request_id: fresh_run(ports),
            deadline_ms: None,
            traceparent: None,
            idempotency_key: None,
            attempt: None,
            principal: contract::Principal::default(),
        };
        let answers = async {
            loop {
                let asked =
                    self.http.request(Verb::Health, &context, bytes::Bytes::new(), READY_ANSWER_TIMEOUT);
                if asked.await.is_ok_and(|reply| !reply.is_fault) {
                    return;
                }
                tokio::time::sleep(READY_POLL_PAUSE).await;
            }
        };
        tokio::time::timeout(READY_TIMEOUT, answers).await.context("the fleet does not get ready")
    }

    /// Adds free sandboxes to the pool that takes such names.
    pub(super) async fn seed(
        &self,
        ports: &Ports,
        name_prefix: &str,
        count: u64,
    ) -> anyhow::Result<seed::Report> {
        let filling = Filling::by_rules(&self.pools, fresh_run(ports), name_prefix, count)?;
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        let (_, report) = fill(store, Arc::clone(&ports.clock), filling).await?;
        Ok(report)
    }

    /// Where the runs of its reconciler are reported.
    pub(super) fn reports(&self) -> &dyn Ticks {
        &self.caller
    }

    /// The process id of its NATS server, if that is a child.
    pub(super) fn nats_id(&self) -> Option<i32> {
        self.parts.nats.as_ref().map(|nats| nats.child.id())
    }

    /// The folder of its files, which is removed with it.
    pub(super) fn folder(&self) -> &Path {
        self.parts.data.path()
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let Self { caller, asked, ended, parts, .. } = self;
        drop(asked);
        let ended = ended.await;
        caller.close().await;
        parts.stop().await;
        Ok(ended??)
    }

    /// Stops everything and returns the result of the measurement.
    pub(super) async fn end<T>(self, measured: anyhow::Result<T>) -> anyhow::Result<T> {
        let stopped = self.stop().await;
        let measured = measured?;
        stopped.map(|()| measured)
    }
}

/// Measures until the end or an interrupt. What was started has to be stopped in both cases.
pub(super) async fn interruptible<T>(
    measuring: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        measured = Box::pin(measuring) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    }
}

/// What `env` says of every variable that some role reads; empty, which is as good as unset, where it says nothing.
fn environment_of_roles(env: &dyn Env) -> BTreeMap<String, String> {
    let variables = Role::all().flat_map(|role| role.variables(env));
    variables.map(|variable| (variable.name.to_owned(), env.get(variable.name).unwrap_or_default())).collect()
}

// === impl Parts ===

impl Parts {
    async fn start(
        spec: FleetSpec<'_>,
        env: &dyn Env,
        data: DataDir,
        overlay: &mut Overlay<'_>,
    ) -> anyhow::Result<Self> {
        let mut parts = Self { nats: None, table: None, data };
        if let Some(url) = spec.servers.nats_url.as_deref() {
            overlay.set("NATS_URL", url);
        } else {
            let binary = nats_server::find(env).await?;
            let guard = process::this_program()?;
            let folder = parts.data.path().join("nats");
            let server =
                NatsServer::start(&binary, &guard, &folder, SocketAddr::from(([127, 0, 0, 1], 0))).await?;
            overlay.set("NATS_URL", format!("nats://{}", server.address));
            parts.nats = Some(server);
        }
        if let Some(endpoint) = spec.servers.dynamodb_endpoint.as_deref() {
            overlay.set("DYNAMODB_ENDPOINT", endpoint);
        } else {
            let table = EmbeddedTable::start(None).await?;
            overlay.set("DYNAMODB_ENDPOINT", &table.endpoint);
            parts.table = Some(table);
        }
        Ok(parts)
    }

    async fn stop(self) {
        if let Some(nats) = self.nats {
            nats.child.stop(NATS_STOP_TIMEOUT).await;
        }
        if let Some(table) = self.table {
            table.stop().await;
        }
    }
}

// === impl Config ===

impl Config {
    fn read(env: &dyn Env) -> anyhow::Result<Self> {
        let mut settings = Settings::new(env);
        let backends = Backends::read_parts(&mut settings, true, false, false);
        let ingress = ingress::Config::read(&mut settings);
        let allocator = allocator::Config::read(&mut settings);
        let (backends, ingress, allocator) = settings.finish((backends, ingress, allocator))?;
        let pools = backends.pools.as_ref().map(PoolWatch::current).context("the fleet has no pools")?;
        Ok(Self { backends, pools, ingress, allocator })
    }
}
