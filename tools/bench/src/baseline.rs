//! `bench baseline`: the lowest possible cost of a claim on this machine, measured in the same run.
//!
//! A claim is one NATS round trip and two conditional writes; anything beyond that is the broker's overhead. One
//! transaction, which could replace the two writes, is measured alternately, so that changes of the machine's speed
//! affect both.

use super::arrivals::poisson;
use super::progress::{Progress, Total};
use super::summary::{SPREAD_HEADINGS, Spread, Table, per_second};
use super::workers::work;
use super::{Output, Ports, table};
use anyhow::Context as _;
use broker::up::Overlay;
use bytes::Bytes;
use dynamodb::DynamoStore;
use dynamodb::baseline::WriteUnits;
use nats::NatsConfig;
use nats::baseline::NatsBaseline;
use runtime::settings::{Env, Settings};
use serde::Serialize;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use writes::{Stock, Way};

mod writes;

/// US dollars for a million write request units of an on-demand table in us-east-1 (Standard class), as AWS has
/// listed it since November 2024: <https://aws.amazon.com/dynamodb/pricing/on-demand/>.
pub const MILLION_WRITE_UNITS_USD: f64 = 0.625;

/// Concurrent callers.
pub(super) const CONCURRENT_CALLERS: usize = 64;
/// One caller alone, and many at once.
const IN_FLIGHT: [usize; 2] = [1, CONCURRENT_CALLERS];
/// Bytes of a request: about those of a claim.
const REQUEST_BYTES: usize = 96;
/// Round trips of the warm-up.
const ROUND_TRIPS_WARM_UP: u64 = 1_000;

/// The options of `bench baseline`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The NATS server (`NATS_URL` without it).
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    /// Round trips at each number in flight.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    pub round_trips: u64,
    /// Claims of each way at each number in flight.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(2..=100_000))]
    pub claims: u64,
    /// The table. The sandboxes are in a separate pool and are removed afterwards.
    #[command(flatten)]
    pub table: table::Options,
    /// The format of the summary.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// One measured thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What was done.
    pub what: &'static str,
    /// How many at once.
    pub in_flight: usize,
    /// How many in a second.
    pub rate_per_second: f64,
    /// How long they took.
    #[serde(flatten)]
    pub spread: Spread,
}

/// The cost of a claim by one of the two ways.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Which way.
    pub what: &'static str,
    /// Write units of a claim on the table, as reported by the engine.
    pub table_units: f64,
    /// Write units of a claim on the indexes.
    pub index_units: f64,
    /// The cost of a million claims at AWS; none if the engine reports no units.
    pub million_claims_usd: Option<f64>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Every measurement.
    pub lines: Vec<Line>,
    /// The prices of both ways.
    pub costs: Vec<Cost>,
}

/// What the two writes of a claim are called in a report.
pub const TWO_WRITES: &str = "claim item, then sandbox";
/// What the transaction is called.
pub const TRANSACTION: &str = "both in one transaction";
/// What a round trip is called.
pub const ROUND_TRIP: &str = "NATS round trip";

/// Measures the baseline and prints it.
///
/// # Errors
/// As [`run`].
pub async fn command(options: Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<()> {
    let report = run(&options, env, ports).await?;
    options.output.print(&report, Report::text)
}

/// Measures the baseline.
///
/// # Errors
/// When NATS or the table cannot be reached, or a call fails.
pub async fn run(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Report> {
    let mut overlay = Overlay::over(env);
    if let Some(url) = &options.nats {
        overlay.set("NATS_URL", url);
    }
    let mut settings = Settings::new(&overlay);
    let nats = NatsConfig::read(&mut settings);
    let nats = settings.finish(nats)?;
    let table = options.table.open(env).await?;
    measure(&nats, table.store, options.round_trips, options.claims, ports).await
}

/// Measures round trips and writes.
pub(super) async fn measure(
    nats: &NatsConfig,
    store: Arc<DynamoStore>,
    round_trips: u64,
    claims: u64,
    ports: &Ports,
) -> anyhow::Result<Report> {
    let mut report = Report { lines: measure_nats(nats, round_trips, ports).await?, costs: Vec::new() };
    let stock = Stock::fill(store, claims, ports).await?;
    let measured = writes::measure(&stock, claims, &mut report).await;
    let cleared = stock.clear(ports).await;
    measured?;
    cleared.context("the items of the baseline were not all cleared away")?;
    Ok(report)
}

/// The two writes in an open loop: how long callers wait at that rate because of the engine alone.
pub(super) async fn measure_open(
    store: Arc<DynamoStore>,
    rate_per_second: f64,
    span: Duration,
    ports: &Ports,
) -> anyhow::Result<Spread> {
    let schedule = poisson(ports.random.as_ref(), rate_per_second, span);
    let stock = Stock::with(store, schedule.len() as u64, ports).await?;
    let measured = writes::measure_open(&stock, schedule).await;
    let cleared = stock.clear(ports).await;
    let latencies_us = measured?;
    cleared.context("the items of the baseline were not all cleared away")?;
    Ok(Spread::of(latencies_us))
}

async fn measure_nats(nats: &NatsConfig, count: u64, ports: &Ports) -> anyhow::Result<Vec<Line>> {
    let baseline =
        Arc::new(NatsBaseline::start(nats, Arc::clone(&ports.clock), Arc::clone(&ports.random)).await?);
    let mut lines = Vec::new();
    for in_flight in IN_FLIGHT {
        round_trips(&baseline, in_flight, ROUND_TRIPS_WARM_UP).await?;
        lines.push(round_trips(&baseline, in_flight, count).await?);
    }
    if let Some(baseline) = Arc::into_inner(baseline) {
        baseline.stop().await;
    }
    Ok(lines)
}

async fn round_trips(baseline: &Arc<NatsBaseline>, in_flight: usize, count: u64) -> anyhow::Result<Line> {
    let body = Bytes::from_static(&[b'x'; REQUEST_BYTES]);
    let baseline = Arc::clone(baseline);
    let timed = timed(ROUND_TRIP, in_flight, count, move |_| {
        let (baseline, body) = (Arc::clone(&baseline), body.clone());
        async move { Ok(baseline.round_trip(body).await?) }
    });
    Ok(timed.await?.line())
}

/// Latencies of some calls, and how long all of them took.
struct Timed {
    what: &'static str,
    in_flight: usize,
    latencies_us: Vec<u64>,
    elapsed: Duration,
}

async fn timed<F, Fut>(what: &'static str, in_flight: usize, count: u64, job: F) -> anyhow::Result<Timed>
where
    F: Fn(u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let done = Arc::new(AtomicU64::new(0));
    let progress = Progress::show(what, Total::Count(count), &done);
    let began = Instant::now();
    let latencies_us = work(in_flight, count, &done, move |number| {
        let job = job(number);
        async move {
            let began = Instant::now();
            job.await?;
            Ok(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
        }
    })
    .await;
    let elapsed = began.elapsed();
    progress.end();
    Ok(Timed { what, in_flight, latencies_us: latencies_us?, elapsed })
}

// === impl Timed ===

impl Timed {
    fn new(what: &'static str, in_flight: usize) -> Self {
        Self { what, in_flight, latencies_us: Vec::new(), elapsed: Duration::ZERO }
    }

    fn add(&mut self, mut more: Self) {
        self.latencies_us.append(&mut more.latencies_us);
        self.elapsed += more.elapsed;
    }

    fn line(self) -> Line {
        let Self { what, in_flight, latencies_us, elapsed } = self;
        let spread = Spread::of(latencies_us);
        let rate_per_second = per_second(spread.count, elapsed.as_secs_f64());
        Line { what, in_flight, rate_per_second, spread }
    }
}

// === impl Cost ===

impl Cost {
    fn of(way: Way, units: WriteUnits, claims: u64) -> Self {
        let each = |units: f64| units / claims as f64;
        let usd = each(units.total()) * MILLION_WRITE_UNITS_USD;
        Self {
            what: way.as_str(),
            table_units: each(units.table),
            index_units: each(units.indexes),
            million_claims_usd: (usd > 0.0).then_some(usd),
        }
    }
}

// === impl Report ===

impl Report {
    /// A measurement.
    #[must_use]
    pub fn line(&self, what: &str, in_flight: usize) -> Option<&Line> {
        self.lines.iter().find(|line| line.what == what && line.in_flight == in_flight)
    }

    /// The faster of both, row by row. The costs are the same.
    #[must_use]
    pub fn or_better(mut self, other: Self) -> Self {
        for line in &mut self.lines {
            if let Some(better) = other.line(line.what, line.in_flight)
                && better.rate_per_second > line.rate_per_second
            {
                *line = better.clone();
            }
        }
        self
    }

    /// The summary for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut table =
            Table::new(["baseline", "in flight", "count", "per s"].into_iter().chain(SPREAD_HEADINGS));
        for Line { what, in_flight, rate_per_second, spread } in &self.lines {
            let head = [
                (*what).to_owned(),
                in_flight.to_string(),
                spread.count.to_string(),
                format!("{rate_per_second:.0}"),
            ];
            table.push(head.into_iter().chain(spread.cells()));
        }
        let mut text = format!("\n{}\n", table.text());
        for Cost { what, table_units, index_units, million_claims_usd } in &self.costs {
            let price = million_claims_usd.map_or_else(
                || "no price: the engine names no units".to_owned(),
                |usd| format!("${usd:.2} for a million claims"),
            );
            // Writing into a String cannot fail.
            let _ = writeln!(
                text,
                "  {what}: {table_units:.2} write units on the table and {index_units:.2} on the indexes, {price}"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_covers_all_units_and_is_none_without_units() {
        let cost = Cost::of(Way::TwoWrites, WriteUnits { table: 200.0, indexes: 200.0 }, 100);
        assert_eq!((cost.table_units, cost.index_units), (2.0, 2.0));
        assert_eq!(cost.million_claims_usd, Some(2.5));
        assert_eq!(Cost::of(Way::Transaction, WriteUnits::default(), 100).million_claims_usd, None);
    }

    #[test]
    fn best_of_two_baselines_is_chosen_per_row() {
        let line =
            |what, rate_per_second| Line { what, in_flight: 1, rate_per_second, spread: Spread::default() };
        let report = |lines: [Line; 2]| Report { lines: lines.into(), costs: Vec::new() };
        let before = report([line(ROUND_TRIP, 5.0), line(TWO_WRITES, 1.0)]);
        let after = report([line(ROUND_TRIP, 4.0), line(TWO_WRITES, 2.0)]);
        assert_eq!(before.or_better(after), report([line(ROUND_TRIP, 5.0), line(TWO_WRITES, 2.0)]));
    }

    #[test]
    fn halves_are_merged_into_one_measurement() {
        let half = |latency_us| Timed {
            what: TWO_WRITES,
            in_flight: 1,
            latencies_us: vec![latency_us; 50],
            elapsed: Duration::from_secs(1),
        };
        let mut all = Timed::new(TWO_WRITES, 1);
        all.add(half(1_000));
        all.add(half(3_000));
        let line = all.line();
        assert_eq!((line.rate_per_second, line.spread.count, line.spread.mean_us), (50.0, 100, 2_000.0));
    }
}
