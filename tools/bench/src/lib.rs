//! `bench`: the load tool. It says how fast a broker is, against what it could be at best on this
//! machine, and whether its answers were right while it was fast (`docs/benchmarks.md`).

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

/// Log lines that a load tool writes by default: one for each claim, refusal or condition that does not hold would be
/// measured too.
const FILTER: &str = "warn,aws_config=error,dynoxide=error,ingress=error";

/// What is to be measured.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Claim sandboxes of a broker, over HTTP or NATS, and check its answers. The claims are real: each one uses
    /// up a sandbox.
    Claim(claim::Options),
    /// What this machine, NATS and the table could do at best: round trips, and the bare writes of a claim.
    Baseline(baseline::Options),
    /// Fill a table with free sandboxes that no provider knows (a sync would mark them stale).
    Seed(seed::Options),
    /// Start a fleet on embedded parts, fill it, and measure all of it against the baseline.
    Suite(suite::Options),
    /// Hold the claim path against its targets: a separate fleet, and for every target whether it is met.
    Targets(targets::Options),
    /// How claims change with the size of the pool and with the number of allocator processes.
    Growth(growth::Options),
    /// Memory of an allocator with a large pool, and what an idle fleet of processes costs (Linux).
    Footprint(footprint::Options),
    /// What is left of the rate of claims while a hostile client attacks the HTTP API of a separate fleet.
    HostileLoad(hostile_load::Options),
    /// What is left of the rate of claims when far more come than can be served: a separate fleet on a limited table.
    Overload(overload::Options),
    /// One attack on a broker of this machine.
    #[command(hide = true)]
    Attack(hostile_load::attacker::Options),
    /// Become a program that dies with its parent.
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

/// Fails if answers broke a promise: however fast they were, they are worth nothing then.
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
    /// Measures, and prints what was found.
    ///
    /// # Errors
    /// When it could not be measured, or an answer broke a promise.
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
