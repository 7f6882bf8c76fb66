//! One role in a separate process, configured by the environment.

use crate::fleet::{Backends, Fleet, NodeConfig, Shared, Threads};
use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use contract::WorkerRole;
use ops::{Ops, listen};
use ports::clock::SystemClock;
use ports::random::Rng;
use prometheus::{IntGaugeVec, Opts, Registry};
use runtime::metrics::{Collectors, register_all};
use runtime::policy::{read_stop_grace, read_worker_threads};
use runtime::predecessor::metrics::{Exporter, read_former_names};
use runtime::predecessor::warn_of_settings;
use runtime::settings::{Env, Settings, Variable};
use runtime::shutdown::Lifecycle;
use runtime::telemetry::{LogFormat, TelemetryConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use strum::IntoEnumIterator as _;

/// The commit of a build without (`BROKER_COMMIT`).
const UNKNOWN_COMMIT: &str = "unknown";

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A part of the fleet.
    Worker(WorkerRole),
    /// The simulated CSP, which is no part of the fleet.
    Simulator,
}

/// The configuration of one role.
enum RoleConfig {
    Ingress(Box<ingress::Config>),
    Allocator(allocator::Config),
    Registry(registry::Config),
    Reaper(reaper::Config),
    Runner(Box<NodeConfig>),
    Reconciler(reconciler::Config),
    Scheduler(scheduler::Config),
    Simulator(simulator::Config),
}

/// The settings that every role has.
struct ProcessConfig {
    telemetry: TelemetryConfig,
    ops_listen: SocketAddr,
    former_metric_names: bool,
    grace: Duration,
}

// === impl Role ===

impl Role {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        WorkerRole::iter().map(Self::Worker).chain([Self::Simulator])
    }

    /// Its command.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker(role) => role.as_str(),
            Self::Simulator => "simulator",
        }
    }

    const fn description(self) -> &'static str {
        match self {
            Self::Worker(role) => role.description(),
            Self::Simulator => "Behaves like the CSP, for tests and `up`",
        }
    }

    /// Every variable that it reads.
    #[must_use]
    pub fn variables(self, env: &dyn Env) -> Vec<Variable> {
        let mut settings = Settings::new(env);
        let _ = self.read(&mut settings);
        settings.variables().to_vec()
    }

    /// Runs it until a signal.
    ///
    /// # Errors
    /// All mistakes in the environment; an address in use; a part that failed.
    pub async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        let mut settings = Settings::new(env);
        let read = self.read(&mut settings);
        let (process, backends, config) = settings.finish(read)?;
        process.telemetry.install();
        warn_of_settings(env);
        let shared = Shared {
            clock: Arc::new(SystemClock),
            random: Arc::new(Rng::unseeded()),
            registry: Registry::new(),
        };
        register_process_metrics(&shared.registry)?;
        let ops_listener = listen(process.ops_listen).await?;
        tracing::info!(role = self.as_str(), ops = %ops_listener.local_addr()?, "{} starts", self.as_str());
        let mut lifecycle = Lifecycle::new(process.grace);
        let mut fleet = match backends {
            Some(backends) => Some(Fleet::new(backends, shared.clone()).await?),
            None => None,
        };
        start(config, fleet.as_mut(), &mut lifecycle, &shared).await?;
        let checks = match fleet.as_mut() {
            Some(fleet) => fleet.checks().await?,
            None => Vec::new(),
        };
        let Shared { clock, registry, .. } = shared;
        let metrics = Exporter::new(registry, process.former_metric_names);
        let ops = Ops { metrics, checks: checks.into(), stop: lifecycle.stop(), clock };
        lifecycle.start("ops", ops.serve(ops_listener));
        let ended = lifecycle.run().await;
        if let Some(fleet) = fleet {
            fleet.close().await;
        }
        Ok(ended?)
    }

    fn read(self, settings: &mut Settings<'_>) -> (ProcessConfig, Option<Backends>, RoleConfig) {
        let process = ProcessConfig::read(settings);
        let mut backends = None;
        let secrets = self == Self::Worker(WorkerRole::Ingress);
        let mut stand_on = |settings: &mut Settings<'_>, table: bool, provider: bool| {
            backends = Some(Backends::read_parts(settings, table, provider, secrets));
        };
        let config = match self {
            Self::Worker(WorkerRole::Ingress) => {
                stand_on(settings, false, false);
                RoleConfig::Ingress(Box::new(ingress::Config::read(settings)))
            }
            Self::Worker(WorkerRole::Allocator) => {
                let config = allocator::Config::read(settings);
                // It needs the provider only for health checks of candidates.
                stand_on(settings, true, config.health.is_some());
                RoleConfig::Allocator(config)
            }
            Self::Worker(WorkerRole::Registry) => {
                stand_on(settings, true, false);
                RoleConfig::Registry(registry::Config::read(settings))
            }
            Self::Worker(WorkerRole::Reaper) => {
                stand_on(settings, true, true);
                RoleConfig::Reaper(reaper::Config::read(settings))
            }
            Self::Worker(WorkerRole::Runner) => {
                stand_on(settings, false, false);
                RoleConfig::Runner(Box::new(NodeConfig::read(settings)))
            }
            Self::Worker(WorkerRole::Reconciler) => {
                stand_on(settings, true, true);
                RoleConfig::Reconciler(reconciler::Config::read(settings))
            }
            Self::Worker(WorkerRole::Scheduler) => {
                stand_on(settings, false, false);
                RoleConfig::Scheduler(scheduler::Config::read(settings, &crate::ticks::registered()))
            }
            Self::Simulator => RoleConfig::Simulator(simulator::Config::read(settings)),
        };
        if let Some(backends) = &mut backends {
            backends.shown.clone_from(settings.plain());
        }
        (process, backends, config)
    }
}

impl Subcommand for Role {
    fn augment_subcommands(command: Command) -> Command {
        let own = |role: Self| Command::new(role.as_str()).about(role.description());
        command.subcommands(Self::all().map(own))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Self::all().any(|role| role.as_str() == name)
    }
}

impl FromArgMatches for Role {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let named = Self::all().find(|role| matches.subcommand_name() == Some(role.as_str()));
        named.ok_or_else(|| clap::Error::new(ErrorKind::MissingSubcommand))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

// === impl ProcessConfig ===

impl ProcessConfig {
    fn read(settings: &mut Settings<'_>) -> Self {
        let telemetry = TelemetryConfig::read(settings, LogFormat::Json);
        let ops_listen = settings
            .parsed(
                "OPS_LISTEN",
                "127.0.0.1:9100",
                "listen address of `/healthz`, `/readyz` and `/metrics`",
                |text| text.parse().map_err(|_| "must be address:port".to_owned()),
            )
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let former_metric_names = read_former_names(settings);
        let grace = read_stop_grace(settings);
        // Applied earlier, before the other settings were read; this reads it for the checks and the documentation.
        let _ = read_worker_threads(settings);
        Self { telemetry, ops_listen, former_metric_names, grace }
    }
}

async fn start(
    config: RoleConfig,
    fleet: Option<&mut Fleet>,
    lifecycle: &mut Lifecycle,
    shared: &Shared,
) -> anyhow::Result<()> {
    if let RoleConfig::Simulator(config) = config {
        let listener = listen(config.listen).await?;
        tracing::info!(listen = %listener.local_addr()?, "the simulator listens");
        let simulator =
            simulator::Simulator::open(config, Arc::clone(&shared.clock), Arc::clone(&shared.random))?;
        let stop = lifecycle.stop();
        lifecycle.start("simulator", simulator.run(listener, stop));
        return Ok(());
    }
    let fleet = fleet.context("a role without a message queue")?;
    match config {
        RoleConfig::Ingress(config) => {
            let listener = listen(config.listen).await?;
            tracing::info!(listen = %listener.local_addr()?, "the HTTP API listens");
            return fleet.start_ingress(lifecycle, *config, listener, Threads::Shared).await;
        }
        RoleConfig::Allocator(config) => fleet.start_allocator(lifecycle, config).await?,
        RoleConfig::Registry(config) => fleet.start_registry(lifecycle, config).await?,
        RoleConfig::Reaper(config) => fleet.start_reaper(lifecycle, config).await?,
        RoleConfig::Runner(config) => {
            let engine = config.probe(fleet.prefix(), Arc::clone(&shared.clock)).await?;
            fleet.start_runner(lifecycle, *config, engine).await?;
        }
        RoleConfig::Reconciler(config) => fleet.start_reconciler(lifecycle, config).await?,
        RoleConfig::Scheduler(config) => fleet.start_scheduler(lifecycle, config).await?,
        RoleConfig::Simulator(_) => {}
    }
    fleet.stop_workers_with(lifecycle);
    Ok(())
}

/// Registers the metrics of the process: its build; on Linux also CPU, memory and file descriptors.
///
/// # Errors
/// When they are registered already.
pub fn register_process_metrics(registry: &Registry) -> Result<(), prometheus::Error> {
    #[cfg(target_os = "linux")]
    {
        let collector = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(collector))?;
    }
    register_all(registry, build_info()?)
}

/// The build of this process as a metric.
///
/// # Errors
/// Never; the name and the labels are valid.
pub fn build_info() -> Result<Collectors, prometheus::Error> {
    let opts =
        Opts::new("broker_build_info", "Always 1; the labels are the version and the commit of the build");
    let build = IntGaugeVec::new(opts, &["version", "commit"])?;
    let commit = option_env!("BROKER_COMMIT").unwrap_or(UNKNOWN_COMMIT);
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), commit]).set(1);
    Ok(vec![Box::new(build)])
}
