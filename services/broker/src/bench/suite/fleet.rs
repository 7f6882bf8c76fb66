//! The fleet of the suite: an HTTP face and allocators, over a NATS server and a table of their own. No provider:
//! nothing is to run beside what is measured.

use super::Options;
use crate::bench::door::connect;
use crate::bench::{Ports, fresh_run};
use crate::data::DataDir;
use crate::embedded::EmbeddedTable;
use crate::fleet::{self, Backends, Shared};
use crate::nats_server::{self, NatsServer};
use crate::up::{API_TOKEN_FILE, Overlay};
use anyhow::Context as _;
use common::bus::Requests;
use common::bus::http::HttpRequests;
use common::bus::nats::{NatsBus, NatsConfig};
use common::domain::PoolRules;
use common::runtime::ops::listen;
use common::runtime::policy::read_pools;
use common::runtime::settings::{Env, Secret, Settings};
use common::runtime::shutdown::{Lifecycle, LifecycleError};
use common::store::dynamodb::{DynamoConfig, DynamoStore};
use futures_util::FutureExt as _;
use prometheus::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Time for everybody to finish at the end.
const GRACE: Duration = Duration::from_secs(10);
/// Time for the NATS server to end after that.
const NATS_STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Time for one try of a call to the table: a slow one is to be measured, not tried again.
const ATTEMPT_TIMEOUT_MS: &str = "10000";
/// Time for a call to the table with all its tries.
const OPERATION_TIMEOUT_MS: &str = "30000";

/// A running fleet, with a caller at each of its doors.
pub(super) struct Fleet {
    pub(super) nats: NatsConfig,
    pub(super) store: Arc<DynamoStore>,
    pub(super) pools: PoolRules,
    pub(super) http: Arc<dyn Requests>,
    pub(super) over_nats: Arc<dyn Requests>,
    caller: NatsBus,
    asked: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), LifecycleError>>,
    parts: Parts,
}

/// What the fleet stands on.
struct Parts {
    nats: Option<NatsServer>,
    table: Option<EmbeddedTable>,
    _data: DataDir,
}

/// The settings of the fleet.
struct Config {
    nats: NatsConfig,
    table: DynamoConfig,
    pools: PoolRules,
    ingress: ingress::Config,
    allocator: allocator::Config,
}

// === impl Fleet ===

impl Fleet {
    pub(super) async fn start(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Self> {
        let run = fresh_run(ports);
        let data = DataDir::open(&std::env::temp_dir().join(&run), true)?;
        let token = data.token(API_TOKEN_FILE)?;
        let mut overlay = Overlay::over(env);
        overlay.set("BROKER_API_TOKEN", &token);
        overlay.set("BROKER_ADMIN_TOKEN", data.token("admin-token")?);
        // Its own names, should the server or the engine be somebody's.
        overlay.set("SUBJECT_PREFIX", &run);
        overlay.set("DYNAMODB_TABLE", &run);
        overlay.set_default("STORE_ATTEMPT_TIMEOUT_MS", ATTEMPT_TIMEOUT_MS);
        overlay.set_default("STORE_OPERATION_TIMEOUT_MS", OPERATION_TIMEOUT_MS);
        let parts = Parts::start(options, env, data, &mut overlay).await?;
        let started = Self::start_on(&overlay, options.allocators, &token, ports).await;
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
        let Config { nats, table, pools, ingress, allocator } = Config::read(env)?;
        let shared = Shared {
            clock: Arc::clone(&ports.clock),
            random: Arc::clone(&ports.random),
            registry: Registry::new(),
        };
        let backends = Backends { nats: nats.clone(), table: Some(table.clone()), provider: None };
        let mut lifecycle = Lifecycle::new(GRACE);
        let mut fleet = fleet::Fleet::new(backends, shared).await?;
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let root = format!("http://{}", listener.local_addr()?);
        fleet.start_ingress(&mut lifecycle, ingress, listener).await?;
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
        let caller = connect(nats.clone(), ports).await?;
        let store = DynamoStore::connect(&table).await;
        store.ensure_table().await?;
        let http = HttpRequests::new(&root, Secret::new(token))?;
        Ok(move |parts| Self {
            nats,
            store: Arc::new(store),
            pools,
            http: Arc::new(http),
            over_nats: Arc::new(caller.clone()),
            caller,
            asked,
            ended,
            parts,
        })
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let Self { caller, asked, ended, parts, .. } = self;
        drop(asked);
        let ended = ended.await;
        caller.close().await;
        parts.stop().await;
        Ok(ended??)
    }
}

// === impl Parts ===

impl Parts {
    async fn start(
        options: &Options,
        env: &dyn Env,
        data: DataDir,
        overlay: &mut Overlay<'_>,
    ) -> anyhow::Result<Self> {
        let mut parts = Self { nats: None, table: None, _data: data };
        if let Some(url) = &options.nats_url {
            overlay.set("NATS_URL", url);
        } else {
            let binary = nats_server::find(env).await?;
            let guard = std::env::current_exe().context("this program cannot find itself")?;
            let folder = parts._data.path().join("nats");
            let server =
                NatsServer::start(&binary, &guard, &folder, SocketAddr::from(([127, 0, 0, 1], 0))).await?;
            overlay.set("NATS_URL", format!("nats://{}", server.address));
            parts.nats = Some(server);
        }
        if let Some(endpoint) = &options.dynamodb_endpoint {
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
            nats.child.stop(NATS_STOP_PATIENCE).await;
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
        let nats = NatsConfig::read(&mut settings);
        let table = DynamoConfig::read(&mut settings);
        let ingress = ingress::Config::read(&mut settings);
        let allocator = allocator::Config::read(&mut settings);
        let pools = read_pools(&mut settings);
        let read = (nats, table, ingress, allocator, pools);
        let (nats, table, ingress, allocator, pools) = settings.finish(read)?;
        let (allocator, pools) = allocator.zip(pools).context("POOLS cannot be read")?;
        Ok(Self { nats, table, pools, ingress, allocator })
    }
}
