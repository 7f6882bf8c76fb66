//! `bench containers`: claims of containers beside those of accounts, creations and removals, and the cost and the loss of
//! nodes. Each part has a fleet of its own. Targets are ratios within one run where the machine's speed matters.

use super::summary::{SPREAD_HEADINGS, Spread, Table};
use super::targets::verdict::{Bound, Verdict};
use super::{Output, Ports, check_violations, targets, usage};
use anyhow::bail;
use claims::{Burst, Claims, WARM_UP};
use cycles::{Cycles, DESCRIPTORS_SPARE, Traces};
use docker::Alone;
use fleet::{ContainerFleet, Spec};
use nodes::{Loss, Steady};
use runtime::settings::Env;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;
use strum::IntoEnumIterator as _;

pub mod claims;
pub mod cycles;
pub mod docker;
pub mod nodes;

mod fleet;
mod node;

pub use fleet::Engine;

/// A claim of a free container, in claims of an account.
const CLAIM_ACCOUNTS_MAX: f64 = 1.2;
/// Claim and first output, in claims of a container …
const OUTPUT_CLAIMS_MAX: f64 = 1.5;
/// … and beyond that.
const OUTPUT_MS_MAX: f64 = 5.0;
/// A claim whose container is created first.
const COLD_MS_MAX: f64 = 60.0;
/// Creations, claims and removals in a second.
const CYCLES_PER_SECOND_MIN: f64 = 20.0;
/// p99 of a burst on containers, in those of one on accounts.
const BURST_ACCOUNTS_MAX: f64 = 2.0;
/// Processor time of a steady fleet with its runners, in percent of a core.
const STEADY_PERCENT_MAX: f64 = 5.0;
/// Memory of an allocator, in MB.
const MEMORY_MB_MAX: f64 = 150.0;
/// Detection of a lost node.
const DETECTED_SECONDS_MAX: f64 = 35.0;
/// Replacement of its free containers after that.
const RESTORED_SECONDS_MAX: f64 = 60.0;
/// A claim whose container Docker creates first, beyond creation and start by Docker alone.
const DOCKER_COLD_MS_MAX: f64 = 25.0;
/// A command after a claim, in those of Docker alone.
const DOCKER_OUTPUT_MAX: f64 = 0.25;
/// Bytes in a megabyte, as the target counts it.
const MEGABYTE_BYTES: f64 = 1_000_000.0;
/// Microseconds in a millisecond.
const MILLI_US: f64 = 1_000.0;
/// Nodes of the steady fleet.
const STEADY_NODES: u16 = 4;
/// Nodes of the fleet that loses one.
const LOSS_NODES: u16 = 3;
/// Accounts of a fleet that needs none.
const ACCOUNTS_FEW: u64 = 10;
/// Fill runs only when this tool asks for it, and not while something else is measured.
const FILL_ON_REQUEST: [(&str, &str); 1] = [("FILL_INTERVAL_SECONDS", "3600")];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, strum::EnumIter)]
pub enum Part {
    /// Claims of free containers by turns with those of accounts, and a command in each.
    Warm,
    /// Claims of containers that are created first.
    Cold,
    /// Creation, claim and removal, and what they leave.
    Cycles,
    /// Claims that come at once.
    Burst,
    /// Creations and commands by Docker alone, by turns with claims of its containers and commands in them (Docker).
    Docker,
    /// Processor time and memory with many leases (fake engine).
    Steady,
    /// The loss of a node (fake engine).
    Loss,
}

/// The options of `bench containers`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Only these parts; without it all, that of Docker only with this engine.
    #[arg(long = "part", value_name = "PART", value_enum)]
    pub parts: Vec<Part>,
    /// What runs the containers of the first four parts.
    #[arg(long, value_enum, default_value_t)]
    pub engine: Engine,
    /// Claims of free containers, and as many of accounts.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=900))]
    pub claims: u64,
    /// Claims of containers that are created first.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub cold: u64,
    /// Cycles.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub cycles: u64,
    /// Concurrent callers of the cycles.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub callers: u16,
    /// Callers of a burst.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=900))]
    pub burst: u64,
    /// Bursts of each kind.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=20))]
    pub rounds: u64,
    /// Creations by Docker alone, and as many commands and claims of each kind.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub docker: u64,
    /// Leases of the steady fleet.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub leased: u64,
    /// How long the steady fleet is measured.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub steady_seconds: u64,
    /// Free containers of the fleet that loses a node.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub warm: u32,
    /// The `broker` binary, instead of the one next to this one.
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// The format of the summary.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// What was found; parts that were not asked for are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// What ran the containers of most parts.
    pub engine: Engine,
    /// Claims of free containers.
    pub warm: Option<Claims>,
    /// Claims of containers that are created first.
    pub cold: Option<Spread>,
    /// Cycles.
    pub cycles: Option<Cycles>,
    /// Docker alone and with the broker.
    pub docker: Option<Alone>,
    /// Bursts.
    pub burst: Option<Burst>,
    /// The steady fleet.
    pub steady: Option<Steady>,
    /// The loss of a node.
    pub loss: Option<Loss>,
    /// Load averages of the machine before the first part and after each, because others may use it.
    pub load: Vec<String>,
    /// The targets.
    pub verdicts: Vec<Verdict>,
    /// Broken promises.
    pub violations: Vec<String>,
}

/// Measures and prints.
///
/// # Errors
/// As [`run`]; when a guarantee was violated.
pub async fn command(options: Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<()> {
    let report = run(&options, env, ports).await?;
    options.output.print(&report, Report::text)?;
    check_violations(&report.violations)
}

/// Measures every part, each on a fleet of its own.
///
/// # Errors
/// On a system without `/proc`; when a fleet cannot be started, or a call fails.
pub async fn run(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Report> {
    if !usage::is_shown() {
        bail!("only Linux shows what a process uses in the way that this command reads it (/proc)");
    }
    let mut report = Report { engine: options.engine, load: vec![load()], ..Report::default() };
    for part in Part::iter().filter(|part| options.has(*part)) {
        let fleet = Box::pin(ContainerFleet::start(options.spec(part), env, ports)).await?;
        Box::pin(report.measure(part, options, fleet, ports)).await?;
        report.load.push(load());
    }
    report.verdicts = report.judge();
    Ok(report)
}

/// The load averages.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

// === impl Options ===

impl Options {
    fn has(&self, part: Part) -> bool {
        let by_default = self.parts.is_empty() && (part != Part::Docker || self.engine == Engine::Docker);
        by_default || self.parts.contains(&part)
    }

    fn spec(&self, part: Part) -> Spec<'_> {
        let one = |accounts, variables| Spec {
            engine: self.engine,
            nodes: 1,
            accounts,
            program: self.program.as_deref(),
            variables,
        };
        let fake = |nodes| Spec { engine: Engine::Fake, nodes, ..one(ACCOUNTS_FEW, &[]) };
        match part {
            Part::Warm => one(self.claims + WARM_UP + ACCOUNTS_FEW, &FILL_ON_REQUEST),
            Part::Burst => one(self.burst * self.rounds + ACCOUNTS_FEW, &FILL_ON_REQUEST),
            Part::Docker => Spec { engine: Engine::Docker, ..one(ACCOUNTS_FEW, &FILL_ON_REQUEST) },
            Part::Cold | Part::Cycles => one(ACCOUNTS_FEW, &[]),
            Part::Steady => fake(STEADY_NODES),
            Part::Loss => fake(LOSS_NODES),
        }
    }
}

// === impl Report ===

impl Report {
    async fn measure(
        &mut self,
        part: Part,
        options: &Options,
        mut fleet: ContainerFleet,
        ports: &Ports,
    ) -> anyhow::Result<()> {
        let measuring = async {
            match part {
                Part::Warm => {
                    let (claims, violations) = claims::warm(&fleet, options.claims).await?;
                    self.warm = Some(claims);
                    self.violations.extend(violations);
                }
                Part::Cold => {
                    let (spread, violations) = claims::cold(&fleet, options.cold).await?;
                    self.cold = Some(spread);
                    self.violations.extend(violations);
                }
                Part::Cycles => {
                    let cycles = cycles::run(&fleet, options.callers.into(), options.cycles).await?;
                    self.violations.extend(cycles.left());
                    self.cycles = Some(cycles);
                }
                Part::Docker => self.docker = Some(docker::rounds(&fleet, options.docker).await?),
                Part::Burst => {
                    let (burst, violations) =
                        claims::burst(&fleet, ports, options.burst, options.rounds).await?;
                    self.burst = Some(burst);
                    self.violations.extend(violations);
                }
                Part::Steady => {
                    let span = Duration::from_secs(options.steady_seconds);
                    self.steady = Some(nodes::steady(&fleet, options.leased, span).await?);
                }
                Part::Loss => self.loss = Some(nodes::loss(&mut fleet, options.warm).await?),
            }
            anyhow::Ok(())
        };
        let measured = super::fleet::interruptible(measuring).await;
        fleet.end(measured).await
    }

    fn judge(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let mut add = |part, measure: &str, target, value| {
            verdicts.push(Verdict::new(part, measure, target, Some(value)));
        };
        if let Some(Claims { accounts, containers, first_output }) = &self.warm {
            let ratio = containers.p50_us as f64 / accounts.p50_us as f64;
            add(
                '1',
                "free container: p50, in claims of an account",
                Bound::AtMost(CLAIM_ACCOUNTS_MAX),
                ratio,
            );
            let limit_ms = OUTPUT_CLAIMS_MAX * containers.p50_us as f64 / MILLI_US + OUTPUT_MS_MAX;
            let output_ms = first_output.p50_us as f64 / MILLI_US;
            add('2', "claim and first output: p50 in ms", Bound::AtMost(limit_ms), output_ms);
        }
        // These targets are those of a machine without a daemon.
        let has_daemon = self.engine == Engine::Docker;
        if let Some(cold) = self.cold.as_ref().filter(|_| !has_daemon) {
            let cold_ms = cold.p50_us as f64 / MILLI_US;
            add('3', "created first: p50 in ms until ready", Bound::AtMost(COLD_MS_MAX), cold_ms);
        }
        if let Some(Cycles { rate_per_second, before, after, .. }) = &self.cycles {
            if !has_daemon {
                add('4', "cycles in a second", Bound::AtLeast(CYCLES_PER_SECOND_MIN), *rate_per_second);
            }
            add('4', "left by the cycles", Bound::AtMost(0.0), after.left_since(before) as f64);
            let descriptors = after.descriptors.saturating_sub(before.descriptors) as f64;
            let spare = Bound::AtMost(DESCRIPTORS_SPARE as f64);
            add('4', "descriptors more than before the cycles", spare, descriptors);
        }
        if let Some(burst) = &self.burst {
            let served = burst.served_least as f64;
            add('5', "burst: served, in the worst round", Bound::AtLeast(burst.callers as f64), served);
            let ratio = burst.p99_ratio.unwrap_or(f64::NAN);
            add('5', "burst: p99, in those of accounts", Bound::AtMost(BURST_ACCOUNTS_MAX), ratio);
        }
        if let Some(Alone { created, cold, executed, warm, first_output }) = &self.docker {
            let ms = |spread: &Spread| spread.p50_us as f64 / MILLI_US;
            let beyond_ms = ms(cold) - ms(created);
            let cold_max = Bound::AtMost(DOCKER_COLD_MS_MAX);
            add('8', "Docker: created first, p50 in ms beyond Docker alone", cold_max, beyond_ms);
            let ratio = (ms(first_output) - ms(warm)) / ms(executed);
            let output_max = Bound::AtMost(DOCKER_OUTPUT_MAX);
            add('8', "Docker: output after a claim, p50 in those of Docker alone", output_max, ratio);
        }
        if let Some(steady) = &self.steady {
            let percent = steady.fleet_percent + steady.runners_percent;
            add('6', "steady: percent of a core", Bound::AtMost(STEADY_PERCENT_MAX), percent);
            let megabytes = steady.fleet_memory.peak_bytes as f64 / MEGABYTE_BYTES;
            add('6', "steady: most memory of the fleet in MB", Bound::AtMost(MEMORY_MB_MAX), megabytes);
        }
        if let Some(loss) = &self.loss {
            let (detected, restored) = (loss.detected_seconds, loss.restored_seconds);
            add('7', "loss: seconds until detected", Bound::AtMost(DETECTED_SECONDS_MAX), detected);
            add('7', "loss: seconds until restored", Bound::AtMost(RESTORED_SECONDS_MAX), restored);
            add('7', "loss: containers of other nodes gone", Bound::AtMost(0.0), loss.others_gone as f64);
        }
        verdicts
    }

    /// The summary for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut spreads = Table::new(["calls", "count"].into_iter().chain(SPREAD_HEADINGS));
        let mut row = |name: &str, spread: &Spread| {
            spreads.push([name.to_owned(), spread.count.to_string()].into_iter().chain(spread.cells()));
        };
        if let Some(Claims { accounts, containers, first_output }) = &self.warm {
            row("claim of an account", accounts);
            row("claim of a free container", containers);
            row("claim and first output", first_output);
        }
        if let Some(cold) = &self.cold {
            row("claim until created", cold);
        }
        if let Some(Alone { created, cold, executed, warm, first_output }) = &self.docker {
            row("creation and start by Docker alone", created);
            row("claim until created", cold);
            row("command by Docker alone", executed);
            row("claim of a free container", warm);
            row("claim and first output", first_output);
        }
        let mut text = format!("\n{}\n", spreads.text());
        // Writing into a String cannot fail.
        if let Some(Cycles { count, callers, rate_per_second, before, after }) = &self.cycles {
            let _ = writeln!(text, "  {count} cycles of {callers} callers: {rate_per_second:.1} in a second");
            let _ = writeln!(text, "  before: {}\n  after:  {}", before.text(), after.text());
        }
        if let Some(Burst { callers, accounts_p99_us, containers_p99_us, .. }) = &self.burst {
            let _ = writeln!(
                text,
                "  bursts of {callers}: p99 in us of accounts {accounts_p99_us:?}, of containers {containers_p99_us:?}"
            );
        }
        if let Some(Steady { leased, nodes, seconds, fleet_percent, runners_percent, .. }) = &self.steady {
            let _ = writeln!(
                text,
                "  {leased} leases on {nodes} nodes, {seconds:.0} s: fleet {fleet_percent:.2} %, runners {runners_percent:.2} % of a core"
            );
        }
        if let Some(Loss { warm, on_lost_node, .. }) = &self.loss {
            let _ = writeln!(text, "  loss of a node with {on_lost_node} of {warm} free containers");
        }
        let _ = writeln!(
            text,
            "  load averages: {}\n\n{}",
            self.load.join("; "),
            targets::table_of(&self.verdicts)
        );
        for violation in &self.violations {
            let _ = writeln!(text, "  BROKEN: {violation}");
        }
        text
    }
}

// === impl Traces ===

impl Traces {
    fn text(&self) -> String {
        let Self { containers, cgroups, mounts, descriptors, records, memory_bytes } = self;
        let megabytes = *memory_bytes as f64 / MEGABYTE_BYTES;
        format!(
            "{containers} containers, {cgroups} control groups, {mounts} mounts, {descriptors} descriptors, {records} records, {megabytes:.0} MB"
        )
    }
}
