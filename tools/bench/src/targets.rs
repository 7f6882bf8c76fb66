//! `bench targets`: compares the claim path with its targets.
//!
//! The speed of a machine varies, so nothing is compared with old measurements: every case runs once in each round, in
//! alternating order, the baseline is measured before the first round and after each, and the median of all rounds
//! counts. Pools are refilled before each case.

use super::baseline::{self, CONCURRENT_CALLERS, ROUND_TRIP, TWO_WRITES};
use super::calls::Call;
use super::fleet::{Fleet, FleetSpec, Servers, interruptible};
use super::load::{Limit, Plan, Shape};
use super::rounds::{Figures, closed, median};
use super::{Output, Ports, check_violations};
use anyhow::{Context as _, bail};
use runtime::settings::Env;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

mod cases;
mod report;
pub mod verdict;

pub use cases::Name;
use cases::{BenchPools, Case, POOLS};
pub use report::Report;
pub(super) use report::table_of;
use verdict::{Baseline, Burst, Engine, Measured, Open};

/// Allocators in this process, as in the suite.
const ALLOCATORS: u16 = 2;
/// Claims before each case: they open connections and fill the candidate buffer of a pool that has changed.
const WARM_UP_CLAIMS: u64 = 64;
/// Callers at once that the predecessor was measured with.
const PREDECESSOR_CALLERS: usize = 100;
/// Free sandboxes that must remain at the end of a case: claims in a nearly empty pool are contended, which is another
/// measurement.
const SPARE: u64 = 100;
/// Warm-up of the open loop, at most: in its first moments every caller opens a connection and the candidate buffer is
/// empty, which is what the burst measures.
const OPEN_WARM_UP: Duration = Duration::from_secs(2);
/// Longest open loop of the bare writes, because its sandboxes are created and removed one by one.
const BARE_SPAN_MAX: Duration = Duration::from_secs(20);
/// Share of the rate of many callers that the open loop is run at.
const OPEN_SHARE: f64 = 0.5;
/// Free sandboxes for the open loop beyond those that its schedule has on average, in standard deviations of that number.
const OPEN_SPARE_DEVIATIONS: f64 = 10.0;

/// The options of `bench targets`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Length of the open loop.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// What it stands on.
    #[command(flatten)]
    pub servers: Servers,
    /// The sizes.
    #[command(flatten)]
    pub sizes: Sizes,
    /// How the summary looks.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// The sizes. The targets are meant for the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::Args)]
#[group(skip)]
pub struct Sizes {
    /// Rounds over all cases; their median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    pub rounds: u64,
    /// Claims of each case in a round.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(2..=100_000))]
    pub claims: u64,
    /// Free sandboxes of the plain case, and of the one with a name prefix.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub pool: u64,
    /// Free sandboxes of the large pool.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub large_pool: u64,
    /// Free sandboxes of the open loop; more, if its schedule takes more.
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub open_pool: u64,
    /// Callers of the burst, and free sandboxes for it.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub burst: u64,
    /// NATS round trips of the baseline at each number in flight.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    pub round_trips: u64,
}

/// What the rounds have brought so far.
#[derive(Default)]
struct Rounds {
    baselines: Vec<baseline::Report>,
    claims: BTreeMap<Name, Vec<Figures>>,
    repeats: BTreeMap<Name, Vec<Figures>>,
    served: Vec<u64>,
    burst_seconds: Vec<f64>,
    burst_refusals: BTreeMap<&'static str, u64>,
    winners: u64,
    violations: Vec<String>,
}

/// Measures, prints the result for each target, and fails if a guarantee was violated. A missed target is no failure,
/// because other users of the machine may be the cause.
///
/// # Errors
/// What [`run`] says, and a broken promise.
pub async fn command(options: Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<()> {
    let report = run(&options, env, ports).await?;
    options.output.print(&report, Report::text)?;
    check_violations(&report.violations)
}

/// Starts a fleet, measures it, stops it, and evaluates the targets.
///
/// # Errors
/// When sizes do not fit together, a part cannot be started, or a measurement fails.
pub async fn run(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Report> {
    options.sizes.check()?;
    let spec = FleetSpec { allocators: ALLOCATORS, servers: &options.servers, pools: Some(POOLS) };
    let fleet = Box::pin(Fleet::start(spec, env, ports)).await?;
    let measured = interruptible(measure_all(options, &fleet, ports)).await;
    fleet.end(measured).await
}

async fn measure_all(options: &Options, fleet: &Fleet, ports: &Ports) -> anyhow::Result<Report> {
    let sizes = options.sizes;
    fleet.ready(ports).await?;
    let mut bench_pools = BenchPools::new(sizes);
    for bench_pool in bench_pools.of_the_rounds() {
        bench_pool.fill(fleet, ports).await?;
    }
    let mut rounds = Rounds::default();
    rounds.measure_baseline(sizes, fleet, ports).await?;
    for round in 0..sizes.rounds {
        let mut cases = Case::all();
        if round % 2 == 1 {
            cases.reverse();
        }
        for case in cases {
            rounds.run(case, sizes, &mut bench_pools, fleet, ports).await?;
        }
        rounds.burst(sizes, &mut bench_pools, fleet, ports).await?;
        rounds.measure_baseline(sizes, fleet, ports).await?;
    }
    let open = rounds.open(options, &mut bench_pools, fleet, ports).await?;
    let engine = match options.servers.dynamodb_endpoint {
        None => Engine::Dynoxide,
        Some(_) => Engine::DynamodbLocal,
    };
    rounds.into_report(sizes, engine, open)
}

/// The answers to callers without a sandbox, and how many.
fn refusals(report: &super::claim::Report) -> impl Iterator<Item = (&'static str, u64)> {
    let refused = report.calls.iter().filter(|row| row.outcome != "created");
    refused.map(|row| (row.outcome, row.spread.count))
}

// === impl Sizes ===

impl Sizes {
    fn check(self) -> anyhow::Result<()> {
        let needed = self.claims + WARM_UP_CLAIMS + SPARE;
        if self.pool.min(self.large_pool) < needed {
            bail!(
                "a pool of {} may run dry with {} claims in a case: it needs {needed}",
                self.pool.min(self.large_pool),
                self.claims
            );
        }
        Ok(())
    }
}

// === impl Rounds ===

impl Rounds {
    async fn measure_baseline(&mut self, sizes: Sizes, fleet: &Fleet, ports: &Ports) -> anyhow::Result<()> {
        // It writes twice, each for as long as a case.
        let claims = 2 * sizes.claims;
        let store = Arc::clone(&fleet.store);
        self.baselines.push(baseline::measure(&fleet.nats, store, sizes.round_trips, claims, ports).await?);
        Ok(())
    }

    async fn run(
        &mut self,
        case: Case,
        sizes: Sizes,
        bench_pools: &mut BenchPools,
        fleet: &Fleet,
        ports: &Ports,
    ) -> anyhow::Result<()> {
        let plan = closed(case.callers, sizes.claims, WARM_UP_CLAIMS, case.is_repeated);
        let report = bench_pools.of(case.name).run(fleet, ports, plan).await?;
        self.note(case.name.as_str(), &report);
        // A case without grants has no figures, so all its targets are missed.
        self.claims.entry(case.name).or_default().extend(Figures::of(&report, Call::Claim, "created"));
        if case.is_repeated {
            let repeats = Figures::of(&report, Call::Replay, "existing");
            self.repeats.entry(case.name).or_default().extend(repeats);
        }
        Ok(())
    }

    async fn burst(
        &mut self,
        sizes: Sizes,
        bench_pools: &mut BenchPools,
        fleet: &Fleet,
        ports: &Ports,
    ) -> anyhow::Result<()> {
        let shape = Shape::Burst { callers: usize::try_from(sizes.burst)? };
        let plan = Plan { shape, warm_up: None, replay: false, release: false };
        let report = bench_pools.burst.run(fleet, ports, plan).await?;
        self.note("burst", &report);
        let served = [report.granted(), report.found_again()];
        self.served.push(served.into_iter().flatten().map(|row| row.spread.count).sum());
        self.burst_seconds.push(report.elapsed_seconds);
        for (answer, count) in refusals(&report).filter(|(answer, _)| *answer != "existing") {
            *self.burst_refusals.entry(answer).or_default() += count;
        }
        Ok(())
    }

    async fn open(
        &mut self,
        options: &Options,
        bench_pools: &mut BenchPools,
        fleet: &Fleet,
        ports: &Ports,
    ) -> anyhow::Result<Open> {
        let concurrent = self.claims.get(&Name::SmallConcurrent).and_then(|rounds| Figures::median(rounds));
        let rate_per_second =
            (concurrent.context("the callers got nothing")?.rate_per_second * OPEN_SHARE).max(1.0);
        let span = Duration::from_secs(options.seconds);
        let warm_up = OPEN_WARM_UP.min(span);
        let taken = rate_per_second * (span + warm_up).as_secs_f64();
        // Arrivals are a Poisson process, so their variance is their mean.
        let needed = (taken + OPEN_SPARE_DEVIATIONS * taken.sqrt()).ceil() as u64;
        bench_pools.open.size = options.sizes.open_pool.max(needed);
        let (shape, warm_up) = (Shape::Open { rate_per_second, span }, Some(Limit::Time(warm_up)));
        let plan = Plan { shape, warm_up, replay: false, release: false };
        let report = bench_pools.open.run(fleet, ports, plan).await?;
        self.note("open loop", &report);
        let granted = report.granted().map_or(0, |row| row.spread.count);
        let figures = Figures::of(&report, Call::Claim, "created").unwrap_or_default();
        let not_granted = report.samples.len() as u64 - granted;
        let refusals = refusals(&report).collect();
        let late_us = report.sent_late.p99_us as f64;
        let store = Arc::clone(&fleet.store);
        let bare = baseline::measure_open(store, rate_per_second, span.min(BARE_SPAN_MAX), ports).await?;
        Ok(Open {
            pool: bench_pools.open.size,
            rate_per_second,
            figures,
            granted,
            not_granted,
            refusals,
            late_p99_us: late_us,
            bare,
        })
    }

    fn note(&mut self, what: &str, report: &super::claim::Report) {
        self.winners += report.check.winners;
        self.violations.extend(report.check.shown.iter().map(|shown| format!("{what}: {shown}")));
    }

    fn into_report(self, sizes: Sizes, engine: Engine, open: Open) -> anyhow::Result<Report> {
        let of_baselines = |what: &str, in_flight: usize, figure: fn(&baseline::Line) -> f64| {
            median(self.baselines.iter().filter_map(|baseline| baseline.line(what, in_flight)).map(figure))
                .with_context(|| format!("no baseline of {what}"))
        };
        let baseline = Baseline {
            round_trip_p50_us: of_baselines(ROUND_TRIP, 1, |line| line.spread.p50_us as f64)?,
            writes_p50_us: of_baselines(TWO_WRITES, 1, |line| line.spread.p50_us as f64)?,
            concurrent_writes_per_second: of_baselines(TWO_WRITES, CONCURRENT_CALLERS, |line| {
                line.rate_per_second
            })?,
        };
        let medians = |rounds: BTreeMap<Name, Vec<Figures>>| {
            let each = |(name, rounds): (Name, Vec<Figures>)| Some((name, Figures::median(&rounds)?));
            rounds.into_iter().filter_map(each).collect::<BTreeMap<_, _>>()
        };
        let burst = Burst {
            callers: sizes.burst,
            served_least: self.served.iter().copied().min().unwrap_or_default(),
            seconds: median(self.burst_seconds).context("no burst")?,
            refusals: self.burst_refusals,
        };
        let (claims, repeats) = (medians(self.claims), medians(self.repeats));
        let distinct = self.violations.is_empty();
        let measured = Measured { baseline, claims, repeats, burst, open, distinct };
        let verdicts = verdict::judge(&measured, engine);
        let (winners, violations) = (self.winners, self.violations);
        Ok(Report { engine, sizes, measured, verdicts, winners, violations })
    }
}
