//! `bench`: the load tool. It measures how fast a broker is, compared with the best possible speed on this machine, and
//! checks whether its answers were right (`docs/benchmarks.md`).

use broker::child;
use broker::up::Overlay;
use clap::{Parser, Subcommand};
use ports::clock::SystemClock;
use ports::random::Rng;
use runtime::policy::read_worker_threads;
use runtime::settings::{Env, ProcessEnv, Settings};
use runtime::telemetry::{LogFormat, TelemetryConfig};
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

pub use broker::transport::Ports;

pub mod baseline;
pub mod claim;
pub mod seed;
pub mod suite;

pub mod containers;
pub mod footprint;
pub mod growth;
pub mod hostile_load;
pub mod overload;
pub mod targets;

pub mod table;

pub mod answers;
pub mod arrivals;
pub mod calls;
pub mod load;

pub mod plot;
pub mod rounds;
pub mod samples;
pub mod summary;

pub mod fleet;
mod progress;
mod usage;
mod workers;

/// Default log filter: a line for each claim, refusal or failed condition would be measured too.
const FILTER: &str = "warn,aws_config=error,dynoxide=error,ingress=error";

/// The measurement.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Claim sandboxes of a broker, over HTTP or NATS, and check its answers. The claims are real: each one uses
    /// up a sandbox.
    Claim(claim::Options),
    /// The best possible speed of this machine, NATS and the table: round trips, and the bare writes of a claim.
    Baseline(baseline::Options),
    /// Fill a table with free sandboxes that no provider knows (a sync would mark them stale).
    Seed(seed::Options),
    /// Start a fleet on embedded parts, fill it, and compare it with the baseline.
    Suite(suite::Options),
    /// Compare the claim path with its targets, on a separate fleet.
    Targets(targets::Options),
    /// Claims by size of the pool and by number of allocator processes.
    Growth(growth::Options),
    /// Memory of an allocator with a large pool, and the cost of an idle fleet of processes (Linux).
    Footprint(footprint::Options),
    /// The claim rate while a hostile client attacks the HTTP API of a separate fleet.
    HostileLoad(hostile_load::Options),
    /// The claim rate under overload, on a separate fleet with a limited table.
    Overload(overload::Options),
    /// Containers: claims beside those of accounts, creations, commands, and nodes, on a separate fleet (Linux).
    Containers(containers::Options),
    /// One attack on a broker of this machine.
    #[command(hide = true)]
    Attack(hostile_load::attacker::Options),
    /// Execute a program that dies with its parent.
    #[command(name = child::GUARD_COMMAND, hide = true)]
    Guard {
        /// Process id of the parent.
        parent: i32,
        /// The program.
        program: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// How a summary looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table for people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Fails if answers violated a guarantee, whatever their speed.
fn check_violations(violations: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(violations.is_empty(), "broken promises: {}", violations.join("; "));
    Ok(())
}

/// Measures a broker under load.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

// === impl Command ===

impl Command {
    /// Measures and prints the result.
    ///
    /// # Errors
    /// When a measurement fails, or an answer violated a guarantee.
    pub async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        if let Self::Guard { parent, program, arguments } = self {
            return child::become_guarded(parent, &program, &arguments);
        }
        let mut overlay = Overlay::over(env);
        overlay.set_default("LOG_FILTER", FILTER);
        let mut settings = Settings::new(&overlay);
        let telemetry = TelemetryConfig::read(&mut settings, LogFormat::Text);
        let _ = read_worker_threads(&mut settings);
        settings.finish(telemetry)?.install();
        let ports = Ports { clock: Arc::new(SystemClock), random: Arc::new(Rng::unseeded()) };
        match self {
            Self::Claim(options) => claim::command(options, env, &ports).await,
            Self::Baseline(options) => baseline::command(options, env, &ports).await,
            Self::Seed(options) => seed::command(options, env, &ports).await,
            Self::Suite(options) => suite::command(options, env, &ports).await,
            Self::Targets(options) => targets::command(options, env, &ports).await,
            Self::Growth(options) => growth::command(options, env, &ports).await,
            Self::Footprint(options) => footprint::command(options, env, &ports).await,
            Self::HostileLoad(options) => hostile_load::command(options, env, &ports).await,
            Self::Overload(options) => overload::command(options, env, &ports).await,
            Self::Containers(options) => containers::command(options, env, &ports).await,
            Self::Attack(options) => hostile_load::attacker::command(options).await,
            Self::Guard { .. } => Ok(()),
        }
    }
}

// === impl Output ===

impl Output {
    fn print<T: Serialize>(self, report: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        match self {
            Self::Text => println!("{}", text(report)),
            Self::Json => println!("{}", serde_json::to_string_pretty(report)?),
        }
        Ok(())
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Line { command } = Line::parse();
    match broker::cli::block_on(command.run(&ProcessEnv)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the arguments of `bench`; the first is the program's name.
///
/// # Errors
/// What clap has to say about them.
pub fn parse<T>(arguments: impl IntoIterator<Item = T>) -> anyhow::Result<Command>
where
    T: Into<OsString> + Clone,
{
    Ok(Line::try_parse_from(arguments)?.command)
}

/// What the owners or the sandboxes of a run begin with; no other run has it.
fn fresh_run(ports: &Ports) -> String {
    // The end of the id is the random part; its beginning is the time.
    let id: String = ports.random.fresh_id().chars().filter(|character| *character != '-').collect();
    format!("bench-{}", id.get(id.len().saturating_sub(12)..).unwrap_or(&id))
}
