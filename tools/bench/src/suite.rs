//! `bench suite`: a fleet on embedded parts, compared as a whole with the baseline of this machine.
//!
//! Fleet, table and load share the machine, and fleet and load share one process: the results show the cost of the
//! parts together, and not the capacity of a fleet on separate machines.

use super::calls::{Requester, Selector};
use super::claim::{Report as ClaimReport, measure};
use super::fleet::{Fleet, FleetSpec, Servers, interruptible};
use super::load::{Limit, Plan, Shape};
use super::{Output, Ports, baseline, check_violations, plot};
use anyhow::Context as _;
use domain::NamePrefix;
use runtime::settings::Env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod report;

pub use report::{Line, Report};

/// Claims before each measurement: they open connections and fill the allocators' candidate buffers.
const WARM_UP_CLAIMS: u64 = 200;
/// Free sandboxes beyond those that will be claimed: claims in a nearly empty pool are contended, which is another
/// measurement.
const SPARE: u64 = 2_000;
/// Rate of the open loop as a share of the rate of many callers: busy, but not overloaded.
const OPEN_SHARE: f64 = 0.5;
/// The case that the open loop takes its rate from.
const HTTP_CONCURRENT: &str = "HTTP, many callers";
/// What the names of most sandboxes begin with.
const NAME: &str = "lab-";
/// What the names that a narrowed claim asks for begin with.
const NARROW_NAME: &str = "exam-";
/// Time-out of an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The options of `bench suite`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Allocators in the queue group.
    #[arg(long, value_name = "K", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub allocators: u16,
    /// Callers at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(2..=1_000))]
    pub callers: u64,
    /// Claims of all callers in each measurement; one caller alone makes a quarter.
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = clap::value_parser!(u64).range(8..=100_000))]
    pub claims: u64,
    /// Callers of a burst.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub burst: u64,
    /// NATS round trips at each number in flight.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    pub round_trips: u64,
    /// What it stands on.
    #[command(flatten)]
    pub servers: Servers,
    /// Write a picture of every measurement to this directory.
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
    /// How the summary looks.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// One measurement of claims.
struct Case {
    name: &'static str,
    is_http: bool,
    shape: Shape,
    is_narrow: bool,
    replay: bool,
}

/// Runs the suite, prints it, and fails if a promise was broken.
///
/// # Errors
/// What [`run`] says, and a broken promise.
pub async fn command(options: Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<()> {
    let report = run(&options, env, ports).await?;
    options.output.print(&report, Report::text)?;
    check_violations(&report.violations)
}

/// Starts the fleet, measures it, and stops it.
///
/// # Errors
/// When a part cannot be started, or a measurement fails.
pub async fn run(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Report> {
    let spec = FleetSpec { allocators: options.allocators, servers: &options.servers, pools: None };
    let fleet = Box::pin(Fleet::start(spec, env, ports)).await?;
    let measured = interruptible(measure_all(options, &fleet, ports)).await;
    fleet.end(measured).await
}

async fn measure_all(options: &Options, fleet: &Fleet, ports: &Ports) -> anyhow::Result<Report> {
    fleet.ready(ports).await?;
    let before = measure_baseline(options, fleet, ports).await?;
    let mut report = Report::new(options.allocators);
    report.seeded = Some(fleet.seed(ports, NAME, options.needed()).await?);
    let mut concurrent_rate = 0.0;
    for case in options.cases() {
        if case.is_narrow {
            fleet.seed(ports, NARROW_NAME, options.claims + WARM_UP_CLAIMS + SPARE).await?;
        }
        let measured = case.run(fleet, ports).await;
        if case.name == HTTP_CONCURRENT {
            concurrent_rate = measured.granted().map_or(0.0, |row| row.rate_per_second);
        }
        report.add(case.name, case.in_flight(), &measured);
        save_picture(options, case.name, &measured)?;
    }
    let rate_per_second = (concurrent_rate * OPEN_SHARE).max(1.0);
    let span = Duration::from_secs_f64(options.claims as f64 / rate_per_second);
    let shape = Shape::Open { rate_per_second, span };
    let case = Case {
        name: "HTTP, at half that rate, open loop",
        is_http: true,
        shape,
        is_narrow: false,
        replay: false,
    };
    let measured = case.run(fleet, ports).await;
    report.add(case.name, None, &measured);
    save_picture(options, case.name, &measured)?;
    report.hold_against(before, measure_baseline(options, fleet, ports).await?);
    Ok(report)
}

async fn measure_baseline(
    options: &Options,
    fleet: &Fleet,
    ports: &Ports,
) -> anyhow::Result<baseline::Report> {
    let (round_trips, claims) = (options.round_trips, options.claims.div_ceil(2));
    baseline::measure(&fleet.nats, Arc::clone(&fleet.store), round_trips, claims, ports).await
}

fn save_picture(options: &Options, name: &str, measured: &ClaimReport) -> anyhow::Result<()> {
    let Some(folder) = &options.svg else { return Ok(()) };
    let file = folder.join(format!("{}.svg", name.to_lowercase().replace(", ", "-").replace(' ', "-")));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&file, plot::svg(name, &measured.samples)))
        .with_context(|| format!("cannot write the picture to {}", file.display()))
}

// === impl Options ===

impl Options {
    fn cases(&self) -> Vec<Case> {
        let closed = |callers: u64, claims: u64| Shape::Closed {
            callers: callers as usize,
            limit: Limit::Claims(claims),
        };
        let alone = || closed(1, self.claims.div_ceil(4));
        let concurrent = || closed(self.callers, self.claims);
        let burst = || Shape::Burst { callers: self.burst as usize };
        let case = |name, is_http, shape| Case { name, is_http, shape, is_narrow: false, replay: false };
        vec![
            case("HTTP, one caller", true, alone()),
            case("NATS, one caller", false, alone()),
            case(HTTP_CONCURRENT, true, concurrent()),
            case("NATS, many callers", false, concurrent()),
            Case { is_narrow: true, ..case("HTTP, many callers, name prefix", true, concurrent()) },
            Case { replay: true, ..case("HTTP, many callers, with replays", true, concurrent()) },
            case("HTTP, burst", true, burst()),
            case("NATS, burst", false, burst()),
        ]
    }

    /// Sandboxes that all cases but the narrow one need together, the open loop included.
    fn needed(&self) -> u64 {
        let of_cases: u64 = self.cases().iter().filter(|case| !case.is_narrow).map(Case::claims).sum();
        // The open loop's claims are as many as the schedule happens to have.
        of_cases + 2 * self.claims + SPARE
    }
}

// === impl Case ===

impl Case {
    async fn run(&self, fleet: &Fleet, ports: &Ports) -> ClaimReport {
        let transport = if self.is_http { Arc::clone(&fleet.http) } else { Arc::clone(&fleet.over_nats) };
        let name_prefix = self.is_narrow.then(|| NamePrefix::parse(NARROW_NAME).ok()).flatten();
        let requester = Requester {
            transport,
            clock: Arc::clone(&ports.clock),
            selector: Selector { pool: None, name_prefix },
            patience: TIMEOUT,
        };
        let warm_up = (!matches!(self.shape, Shape::Burst { .. })).then_some(Limit::Claims(WARM_UP_CLAIMS));
        let plan = Plan { shape: self.shape.clone(), warm_up, replay: self.replay, release: false };
        measure(requester, ports, if self.is_http { "HTTP" } else { "NATS" }, plan).await
    }

    /// The concurrency of the baseline for comparison.
    fn in_flight(&self) -> Option<usize> {
        match self.shape {
            Shape::Closed { callers: 1, .. } => Some(1),
            Shape::Closed { .. } => Some(baseline::CONCURRENT_CALLERS),
            Shape::Open { .. } | Shape::Burst { .. } => None,
        }
    }

    fn claims(&self) -> u64 {
        match self.shape {
            Shape::Closed { limit: Limit::Claims(claims), .. } => claims + WARM_UP_CLAIMS,
            Shape::Burst { callers } => callers as u64,
            Shape::Closed { .. } | Shape::Open { .. } => 0,
        }
    }
}
