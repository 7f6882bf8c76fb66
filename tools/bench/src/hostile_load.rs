//! `bench hostile-load`: how much of the claim rate remains while a hostile client attacks the HTTP API.
//!
//! Each attack is compared with a calm phase: in every round the same callers claim once without and once under attack,
//! in alternating order, and the median of the ratios counts. Attackers are separate processes on this machine and
//! share its cores; their usage is shown.

use super::calls::Call;
use super::fleet::process::this_program;
use super::fleet::{Fleet, FleetSpec, Servers, interruptible};
use super::rounds::{BenchPool, Figures, closed, median};
use super::summary::Table;
use super::targets::table_of;
use super::targets::verdict::{Bound, Verdict};
use super::{Output, Ports, check_violations, usage};
use anyhow::{Context as _, bail};
use broker::child::{Child, Program};
use runtime::settings::Env;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strum::IntoEnumIterator as _;

pub mod attacker;
mod shapes;

use attacker::{Attack, AttackStats, READY};

/// Target: share of the calm rate that remains.
const SHARE_MIN: f64 = 0.90;
/// Allocators in this process, as in the suite.
const ALLOCATORS: u16 = 2;
/// Claims before each measurement, which open connections and fill the candidate buffer.
const WARM_UP_CLAIMS: u64 = 64;
/// What the names of all sandboxes begin with.
const NAME: &str = "hostile-";
/// Free sandboxes that are left at the end of a measurement.
const SPARE: u64 = 200;
/// Time-out until an attack is complete.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two checks.
const READY_POLL_PAUSE: Duration = Duration::from_millis(20);
/// Time for an attacker to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the effects of an attack to end.
const SETTLE: Duration = Duration::from_millis(500);
/// Longest time of one attack.
const ATTACK_SECONDS: &str = "120";

/// The options of `bench hostile-load`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds over all attacks; the median of their ratios counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    pub rounds: u64,
    /// Claims of each measurement.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(2..=100_000))]
    pub claims: u64,
    /// Callers.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub callers: u64,
    /// Connections that send their heads byte by byte.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub slow: u64,
    /// Silent connections.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub idle: u64,
    /// Large heads, large bodies, and the others, per second.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub per_second: u64,
    /// Only these attacks.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub attacks: Vec<Attack>,
    /// The `bench` binary for attackers, instead of this one.
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// The servers.
    #[command(flatten)]
    pub servers: Servers,
    /// The format of the summary.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// One attack, over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Which.
    pub attack: Attack,
    /// Claims without attack, medians.
    pub calm: Figures,
    /// The claims under attack, medians.
    pub attacked: Figures,
    /// Median of the rounds' ratios of the two rates.
    pub share: Option<f64>,
    /// CPU usage of the attacker, in percent of a core; none if the system does not show it.
    pub attacker_percent: Option<f64>,
    /// What it did in the last round.
    pub stats: AttackStats,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Every attack.
    pub lines: Vec<Line>,
    /// Its target.
    pub verdicts: Vec<Verdict>,
    /// Claims that were not granted, with or without an attack.
    pub not_granted: u64,
    /// Broken promises.
    pub violations: Vec<String>,
}

/// What the rounds of one attack have brought so far.
#[derive(Default)]
struct Rounds {
    calm: Vec<Figures>,
    attacked: Vec<Figures>,
    shares: Vec<f64>,
    percents: Vec<f64>,
    stats: AttackStats,
}

/// A process that attacks.
struct Attacker {
    child: Child,
    log: PathBuf,
}

/// A running measurement.
struct HostileLoad<'a> {
    options: &'a Options,
    fleet: &'a Fleet,
    ports: &'a Ports,
    binary: PathBuf,
    bench_pool: BenchPool,
    not_granted: u64,
    violations: Vec<String>,
}

/// Measures, prints, and fails if a guarantee was violated. A missed target is no failure.
///
/// # Errors
/// The errors of [`run`], and a violated guarantee.
pub async fn command(options: Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<()> {
    let report = run(&options, env, ports).await?;
    options.output.print(&report, Report::text)?;
    check_violations(&report.violations)
}

/// Starts a fleet, attacks it, stops it.
///
/// # Errors
/// When a part cannot be started or an attacker does not attack.
pub async fn run(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Report> {
    let spec = FleetSpec { allocators: ALLOCATORS, servers: &options.servers, pools: Some("main") };
    let fleet = Box::pin(Fleet::start(spec, env, ports)).await?;
    let measured = interruptible(measure_under_attack(options, &fleet, ports)).await;
    fleet.end(measured).await
}

async fn measure_under_attack(options: &Options, fleet: &Fleet, ports: &Ports) -> anyhow::Result<Report> {
    fleet.ready(ports).await?;
    let size = options.claims + options.warm_up() + SPARE;
    let mut load = HostileLoad {
        options,
        fleet,
        ports,
        binary: options.program.clone().map_or_else(this_program, Ok)?,
        bench_pool: BenchPool::new(None, NAME, size),
        not_granted: 0,
        violations: Vec::new(),
    };
    let attacks = if options.attacks.is_empty() { Attack::iter().collect() } else { options.attacks.clone() };
    let mut rounds: BTreeMap<Attack, Rounds> = BTreeMap::new();
    for round in 0..options.rounds {
        for attack in &attacks {
            load.round(*attack, round % 2 == 1, rounds.entry(*attack).or_default()).await?;
        }
    }
    let lines: Vec<_> = rounds.into_iter().map(|(attack, rounds)| rounds.into_line(attack)).collect();
    let verdicts = lines.iter().map(Line::verdict).collect();
    let HostileLoad { not_granted, violations, .. } = load;
    Ok(Report { lines, verdicts, not_granted, violations })
}

// === impl Options ===

impl Options {
    fn warm_up(&self) -> u64 {
        WARM_UP_CLAIMS.min(self.claims)
    }
}

// === impl HostileLoad ===

impl HostileLoad<'_> {
    /// The callers once without and once under attack.
    async fn round(&mut self, attack: Attack, attack_first: bool, rounds: &mut Rounds) -> anyhow::Result<()> {
        let (calm, attacked) = if attack_first {
            let attacked = self.under(attack, rounds).await?;
            (self.claims().await?, attacked)
        } else {
            let calm = self.claims().await?;
            (calm, self.under(attack, rounds).await?)
        };
        if calm.rate_per_second > 0.0 {
            rounds.shares.push(attacked.rate_per_second / calm.rate_per_second);
        }
        rounds.calm.push(calm);
        rounds.attacked.push(attacked);
        Ok(())
    }

    async fn under(&mut self, attack: Attack, rounds: &mut Rounds) -> anyhow::Result<Figures> {
        // Filling the pool is not measured.
        self.bench_pool.fill(self.fleet, self.ports).await?;
        let attacker = Attacker::start(attack, self.options, self.fleet, &self.binary).await?;
        let id = attacker.child.id();
        let ticks = || usage::is_shown().then(|| usage::ticks(id)).transpose();
        let (began, before) = (Instant::now(), ticks()?);
        let figures = self.claims().await?;
        if let Some((before, after)) = before.zip(ticks()?) {
            let seconds = before_zero(began.elapsed());
            rounds
                .percents
                .push(100.0 * after.saturating_sub(before) as f64 / (usage::TICKS_PER_SECOND * seconds));
        }
        rounds.stats = attacker.stop().await?;
        tokio::time::sleep(SETTLE).await;
        Ok(figures)
    }

    async fn claims(&mut self) -> anyhow::Result<Figures> {
        let plan = closed(
            usize::try_from(self.options.callers)?,
            self.options.claims,
            self.options.warm_up(),
            false,
        );
        let report = self.bench_pool.run(self.fleet, self.ports, plan).await?;
        let granted = report.granted().map_or(0, |row| row.spread.count);
        self.not_granted += report.samples.len() as u64 - granted;
        self.violations.extend(report.check.shown.iter().cloned());
        Ok(Figures::of(&report, Call::Claim, "created").unwrap_or_default())
    }
}

/// Never zero, because it is a divisor.
fn before_zero(span: Duration) -> f64 {
    span.as_secs_f64().max(f64::MIN_POSITIVE)
}

// === impl Attacker ===

impl Attacker {
    async fn start(attack: Attack, options: &Options, fleet: &Fleet, binary: &Path) -> anyhow::Result<Self> {
        let log = fleet.folder().join(format!("attack-{}.log", uuid::Uuid::now_v7()));
        let connections = if attack == Attack::Idle { options.idle } else { options.slow };
        let (address, connections) = (fleet.http_address.to_string(), connections.to_string());
        let per_second = options.per_second.to_string();
        let arguments = [
            "attack",
            "--attack",
            attack.as_str(),
            "--address",
            &address,
            "--connections",
            &connections,
            "--per-second",
            &per_second,
            "--seconds",
            ATTACK_SECONDS,
        ];
        let program = Program {
            guard: binary.to_owned(),
            path: binary.to_owned(),
            arguments: arguments.iter().map(Into::into).collect(),
            // One thread, so that it takes at most one core.
            variables: vec![("WORKER_THREADS".into(), "1".into())],
            log: log.clone(),
        };
        let child = Child::start(program).await?;
        let ready = async {
            while !read(&log).await.lines().any(|line| line == READY) {
                tokio::time::sleep(READY_POLL_PAUSE).await;
            }
        };
        tokio::select! {
            () = ready => return Ok(Self { child, log }),
            _ = child.ended() => {}
            () = tokio::time::sleep(READY_TIMEOUT) => child.kill().await,
        }
        bail!("the attack {} does not begin: {}", attack.as_str(), read(&log).await);
    }

    /// Ends it; returns what it did.
    async fn stop(self) -> anyhow::Result<AttackStats> {
        self.child.stop(STOP_TIMEOUT).await;
        let text = read(&self.log).await;
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("the attacker does not say what it did: {last}"))
    }
}

async fn read(log: &Path) -> String {
    tokio::fs::read_to_string(log).await.unwrap_or_default()
}

// === impl Rounds ===

impl Rounds {
    fn into_line(self, attack: Attack) -> Line {
        Line {
            attack,
            calm: Figures::median(&self.calm).unwrap_or_default(),
            attacked: Figures::median(&self.attacked).unwrap_or_default(),
            share: median(self.shares),
            attacker_percent: median(self.percents),
            stats: self.stats,
        }
    }
}

// === impl Line ===

impl Line {
    fn verdict(&self) -> Verdict {
        let what = format!("{}: rate, share of the calm one", self.attack.as_str());
        Verdict::new('i', what, Bound::AtLeast(SHARE_MIN), self.share)
    }
}

// === impl Report ===

impl Report {
    /// The summary for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { lines, verdicts, not_granted, violations } = self;
        let mut table = Table::new([
            "attack",
            "calm /s",
            "p50 ms",
            "p99 ms",
            "attacked /s",
            "p50 ms",
            "p99 ms",
            "attacker % of a core",
            "opened",
            "sent MB",
            "answers",
        ]);
        for Line { attack, calm, attacked, share: _, attacker_percent, stats } in lines {
            let statuses: Vec<_> =
                stats.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
            let percent = attacker_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0}"));
            let sent = format!("{:.1}", stats.sent_bytes as f64 / 1e6);
            let ends = [percent, stats.opened.to_string(), sent, statuses.join(", ")];
            let name = [attack.as_str().to_owned()];
            table.push(name.into_iter().chain(calm.cells()).chain(attacked.cells()).chain(ends));
        }
        format!(
            "\n{}\n{}\n  {not_granted} claim(s) not granted, {} broken promises\n",
            table.text(),
            table_of(verdicts),
            violations.len()
        )
    }
}
