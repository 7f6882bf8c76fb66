//! `broker up`: the whole fleet in one process, with embedded parts unless real ones are given.

use crate::data::DataDir;
use crate::disk::{Disk, KeptNats};
use crate::embedded::EmbeddedTable;
use crate::fleet::{Configs, Counts, Fleet, Shared};
use crate::nats_server;
use crate::role::register_process_metrics;
use anyhow::Context as _;
use contract::{TickKind, Verb};
use ops::listen;
use ports::bus::Ticks;
use ports::clock::SystemClock;
use ports::random::Rng;
use prometheus::Registry;
use runtime::policy::read_worker_threads;
use runtime::predecessor::warn_of_settings;
use runtime::settings::{Env, Settings};
use runtime::shutdown::{Lifecycle, LifecycleError};
use runtime::telemetry::{Chain, LogFormat, TelemetryConfig};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

mod containers;
mod welcome;

/// Time for every role to finish. The whole process has to end within 5 s.
const GRACE: Duration = Duration::from_secs(4);
/// Time for the NATS server to stop after that.
const NATS_STOP_TIMEOUT: Duration = Duration::from_millis(700);
/// How long to wait for the first sync before the fleet counts as ready anyway, because a provider may be slow.
const FIRST_SYNC_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between two checks for it.
const FIRST_SYNC_POLL_PAUSE: Duration = Duration::from_millis(50);
/// File of the lab token of a fleet whose environment has none.
pub const API_TOKEN_FILE: &str = "api-token";
/// File of the admin token of a fleet whose environment has none.
pub const ADMIN_TOKEN_FILE: &str = "admin-token";
/// File of the token between provider client and simulator.
pub const CSP_TOKEN_FILE: &str = "csp-token";

/// The options of `broker up`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Listen address of the HTTP API (port 0: a free one).
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// Listen address of the embedded NATS server.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4222")]
    pub nats_listen: SocketAddr,
    /// Listen address of the CSP simulator.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    pub simulator_listen: SocketAddr,
    /// Folder of the state.
    #[arg(long, value_name = "DIR", default_value = ".broker")]
    pub data: PathBuf,
    /// Keep nothing: use a new directory and remove it at the end.
    #[arg(long, conflicts_with = "data")]
    pub ephemeral: bool,
    /// Number of accounts of a new simulator.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub pool: u32,
    /// Number of allocators.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub allocators: u16,
    /// Number of reapers.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub reapers: u16,
    /// Number of nodes on this machine, which run containers; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=16))]
    pub nodes: u16,
    /// Address of a real NATS server instead of the embedded one.
    #[arg(long, value_name = "URL")]
    pub nats_url: Option<String>,
    /// Address of a DynamoDB engine instead of the embedded one.
    #[arg(long, value_name = "URL", conflicts_with = "dynamodb")]
    pub dynamodb_endpoint: Option<String>,
    /// Use DynamoDB of AWS instead of the embedded engine.
    #[arg(long, value_name = "aws", value_parser = ["aws"])]
    pub dynamodb: Option<String>,
    /// Address of the real CSP (or another simulator) instead of the embedded simulator; needs `CSP_API_TOKEN`.
    #[arg(long, value_name = "URL")]
    pub csp_url: Option<String>,
}

/// The environment, with some variables set by `broker up`.
pub struct Overlay<'a> {
    base: &'a dyn Env,
    set: BTreeMap<&'static str, String>,
}

/// The embedded parts.
struct Embedded {
    /// Their disk.
    disk: Disk,
    nats: Option<Arc<KeptNats>>,
    table: Option<EmbeddedTable>,
    simulator: Option<(simulator::Simulator, TcpListener)>,
}

// === impl Overlay ===

impl Env for Overlay<'_> {
    fn get(&self, name: &str) -> Option<String> {
        // An empty value means unset, whatever the environment says.
        let value = self.set.get(name).cloned().or_else(|| self.base.get(name));
        value.filter(|value| !value.trim().is_empty())
    }
}

impl<'a> Overlay<'a> {
    /// An overlay that sets nothing yet.
    pub fn over(base: &'a dyn Env) -> Self {
        Self { base, set: BTreeMap::new() }
    }

    /// Sets a variable, whatever the environment says.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.set.insert(name, value.into());
    }

    /// Sets a variable unless the environment does.
    pub fn set_default(&mut self, name: &'static str, value: impl Into<String>) {
        if self.base.get(name).is_none() {
            self.set(name, value);
        }
    }
}

/// Runs the fleet until a signal.
///
/// # Errors
/// All mistakes in the settings; a port in use; a directory that is unusable; a part that failed.
pub async fn run(options: Options, env: &dyn Env) -> anyhow::Result<()> {
    let mut settings = Settings::new(env);
    let telemetry = TelemetryConfig::read(&mut settings, LogFormat::Text);
    let _ = read_worker_threads(&mut settings);
    settings.finish(telemetry)?.install();
    warn_of_settings(env);
    let directory = if options.ephemeral {
        std::env::temp_dir().join(format!("broker-{}", uuid::Uuid::now_v7()))
    } else {
        options.data.clone()
    };
    let data = DataDir::open(&directory, options.ephemeral)?;
    let mut overlay = Overlay::over(env);
    // Tokens have one source: with a list of the operator, the environment has none.
    let token_list = token_list(env);
    let of_environment = [("BROKER_API_TOKEN", API_TOKEN_FILE), ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN_FILE)];
    for (variable, file) in of_environment.into_iter().filter(|_| token_list.is_none()) {
        // Written even if the environment has tokens, so that the printed commands work.
        let token = data.token(file)?;
        let named = env.get(variable).map_or(token.clone(), |named| format!("{named},{token}"));
        overlay.set(variable, named);
    }
    let shared =
        Shared { clock: Arc::new(SystemClock), random: Arc::new(Rng::unseeded()), registry: Registry::new() };
    register_process_metrics(&shared.registry)?;
    // The port that users type is bound first, so that the error comes before anything has started.
    let http = listen(options.http).await?;
    overlay.set("HTTP_LISTEN", http.local_addr()?.to_string());
    overlay.set("STOP_GRACE_SECONDS", GRACE.as_secs().to_string());
    overlay.set_default("RUNNER_DATA", data.path().join("nodes").display().to_string());
    let state = containers::state_folder(data.path());
    overlay.set_default("RUNNER_STATE", state.display().to_string());
    let mut embedded = Embedded { disk: Disk::of(data.path()), nats: None, table: None, simulator: None };
    let ended = match embedded.start(&options, &data, &mut overlay, &shared).await {
        Ok(()) => Box::pin(serve(&options, &data, &overlay, &mut embedded, shared, http)).await,
        Err(error) => Err(error),
    };
    embedded.stop().await;
    if options.ephemeral {
        // Empty of containers by now. Without nodes there is none.
        let _ = std::fs::remove_dir_all(&state);
    }
    ended
}

async fn serve(
    options: &Options,
    data: &DataDir,
    overlay: &Overlay<'_>,
    embedded: &mut Embedded,
    shared: Shared,
    http: TcpListener,
) -> anyhow::Result<()> {
    let mut configs = Configs::read(overlay)?;
    let nodes = containers::probe(&configs, options.nodes, &shared).await?;
    if nodes.of_pool() > 0 {
        configs.backends.pools = configs.backends.pools.map(|pools| pools.with_seed(containers::pool()));
    }
    let mut lifecycle = Lifecycle::new(GRACE);
    let address = http.local_addr()?;
    let nats = &configs.backends.nats;
    let (nats_url, claim_subject) =
        (nats::without_credentials(&nats.url), nats.subjects.request(Verb::Allocate));
    let scheme = if configs.ingress.tls.is_some() { "https" } else { "http" };
    let mut simulator_address = None;
    let providers_stop = tokio_util::sync::CancellationToken::new();
    if let Some((simulator, listener)) = embedded.simulator.take() {
        simulator_address = Some(listener.local_addr()?);
        // After the workers, which may be in the middle of a deletion there.
        lifecycle.start("simulator", simulator.run(listener, providers_stop.clone()));
    }
    let mut fleet = Fleet::new(configs.backends.clone(), shared).await?;
    if embedded.nats.is_some() || embedded.table.is_some() {
        fleet.depends_on(Arc::new(embedded.disk.clone()));
    }
    let reports = fleet.bus("operator").await?;
    let counts = Counts { allocators: options.allocators, reapers: options.reapers, schedulers: 1 };
    fleet.start_all(&mut lifecycle, configs, counts, http).await?;
    let containers = containers::start(&mut fleet, &mut lifecycle, nodes).await?;
    let stop = lifecycle.stop();
    lifecycle.start("simulator stop", async move {
        stop.cancelled().await;
        providers_stop.cancel();
        Ok::<(), std::convert::Infallible>(())
    });
    let welcome = welcome::Welcome {
        root: format!("{scheme}://{address}"),
        nats_url,
        claim_subject,
        table: embedded.table.as_ref().map(|table| table.endpoint.clone()),
        simulator: simulator_address,
        data: data.path().to_owned(),
        ephemeral: options.ephemeral,
        token_list: token_list(overlay),
        containers,
    };
    let ready_stop = lifecycle.stop();
    lifecycle.start("welcome", async move {
        tokio::select! {
            () = first_sync(&reports) => welcome.print(),
            () = ready_stop.cancelled() => return Ok(()),
        }
        ready_stop.cancelled().await;
        Ok::<(), std::convert::Infallible>(())
    });
    if let Some(nats) = &embedded.nats {
        let (nats, stop) = (Arc::clone(nats), lifecycle.stop());
        lifecycle.start("nats-server", async move { nats.keep(stop).await });
    }
    let ended = lifecycle.run().await;
    fleet.remove_containers().await;
    fleet.close().await;
    match ended {
        // Work that was cut off is safe to repeat; ending in time matters more.
        Err(error @ LifecycleError::CutOff { .. }) => {
            tracing::warn!("{}", Chain(&error));
            Ok(())
        }
        other => Ok(other?),
    }
}

/// The variable that names a list of tokens, if one does.
fn token_list(env: &dyn Env) -> Option<&'static str> {
    ["TOKENS_FILE", "TOKENS_SECRET"].into_iter().find(|name| env.get(name).is_some())
}

/// Waits until a sync has run, so that the first claim finds a pool.
pub async fn first_sync(reports: &dyn Ticks) {
    let done = async {
        while !matches!(reports.last_report(TickKind::SYNC).await, Ok(Some(_))) {
            tokio::time::sleep(FIRST_SYNC_POLL_PAUSE).await;
        }
    };
    if tokio::time::timeout(FIRST_SYNC_TIMEOUT, done).await.is_err() {
        tracing::warn!("there was no sync yet; the pool fills when the provider answers");
    }
}

// === impl Embedded ===

impl Embedded {
    async fn start(
        &mut self,
        options: &Options,
        data: &DataDir,
        overlay: &mut Overlay<'_>,
        shared: &Shared,
    ) -> anyhow::Result<()> {
        if let Some(url) = &options.csp_url {
            overlay.set("CSP_BASE_URL", url);
        } else {
            self.start_simulator(options, data, overlay, shared).await?;
        }
        match (&options.dynamodb_endpoint, &options.dynamodb) {
            (Some(endpoint), _) => overlay.set("DYNAMODB_ENDPOINT", endpoint),
            (None, Some(_)) => overlay.set("DYNAMODB_ENDPOINT", ""),
            (None, None) => {
                let path = data.table();
                let table = EmbeddedTable::start((!options.ephemeral).then_some(path.as_path())).await?;
                overlay.set("DYNAMODB_ENDPOINT", &table.endpoint);
                self.table = Some(table);
            }
        }
        // After the table, because the first writer to a broken disk reports it.
        if let Some(url) = &options.nats_url {
            overlay.set("NATS_URL", url);
        } else {
            let start = nats_server::Start {
                binary: nats_server::find(overlay.base).await?,
                guard: std::env::current_exe().context("this program cannot find itself")?,
                folder: data.path().join("nats"),
                address: options.nats_listen,
            };
            let server = start.start().await?;
            overlay.set("NATS_URL", format!("nats://{}", server.address));
            self.nats = Some(Arc::new(KeptNats::new(start, server, self.disk.clone())));
        }
        Ok(())
    }

    async fn start_simulator(
        &mut self,
        options: &Options,
        data: &DataDir,
        overlay: &mut Overlay<'_>,
        shared: &Shared,
    ) -> anyhow::Result<()> {
        overlay.set_default("CSP_API_TOKEN", data.token(CSP_TOKEN_FILE)?);
        // The file is for the real CSP.
        overlay.set("CSP_API_TOKEN_FILE", "");
        overlay.set("SIMULATOR_ACCOUNTS", options.pool.to_string());
        overlay.set("SIMULATOR_LISTEN", options.simulator_listen.to_string());
        overlay.set("SIMULATOR_DATA", data.path().join("simulator").display().to_string());
        let mut settings = Settings::new(overlay);
        let config = simulator::Config::read(&mut settings);
        let config = settings.finish(config)?;
        let listener = listen(config.listen).await?;
        let root = format!("http://{}", listener.local_addr()?);
        overlay.set("CSP_BASE_URL", format!("{root}/v2"));
        overlay.set_default("NIOSXAAS_BASE_URL", root);
        let (clock, random) = (Arc::clone(&shared.clock), Arc::clone(&shared.random));
        self.simulator = Some((simulator::Simulator::open(config, clock, random)?, listener));
        Ok(())
    }

    async fn stop(self) {
        if let Some(nats) = self.nats {
            nats.stop(NATS_STOP_TIMEOUT).await;
        }
        if let Some(table) = self.table {
            table.stop().await;
        }
    }
}
