//! `bench claim`: claims against any broker, measured and checked.

use super::answers::Check;
use super::calls::{Requester, Sample, Selector};
use super::load::{self, Limit, Plan, Shape};
use super::summary::{Row, SPREAD_HEADINGS, Spread, Table, rows, span_of};
use super::{Output, Ports, fresh_run, plot, samples};
use anyhow::{Context as _, bail};
use broker::transport::{self, Transport};
use domain::{InvalidId, NamePrefix, PoolName};
use runtime::settings::Env;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Most callers of a closed loop or a burst: more connections and ports than one machine has.
const CALLERS_MAX: u64 = 20_000;
/// Longest run.
const SECONDS_MAX: u64 = 3_600;
/// Most claims of a closed loop: their answers are kept in memory.
const CLAIMS_MAX: u64 = 1_000_000;
/// Most claims in a second of an open loop; the schedule is made beforehand and kept in memory.
const RATE_MAX: f64 = 20_000.0;
/// Default length of a run.
const SECONDS_DEFAULT: u64 = 10;

/// The options of `bench claim`.
#[derive(Clone, Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("address").args(["http", "nats"]).required(true)))]
pub struct Options {
    /// The transport.
    #[command(flatten)]
    pub transport: transport::Options,
    /// The kind of load.
    #[command(flatten)]
    pub mode: Mode,
    /// Length of a closed or an open loop (10 without --claims).
    #[arg(long, value_name = "S", conflicts_with = "burst", value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub seconds: Option<u64>,
    /// Claims of a closed loop, instead of a length.
    #[arg(long, value_name = "N", conflicts_with_all = ["seconds", "rate", "burst"], value_parser = clap::value_parser!(u64).range(1..=CLAIMS_MAX))]
    pub claims: Option<u64>,
    /// Duration of the same load before the measurement, checked but not measured.
    #[arg(long, value_name = "S", default_value_t = 0, conflicts_with = "burst", value_parser = clap::value_parser!(u64).range(0..=SECONDS_MAX))]
    pub warm_up_seconds: u64,
    /// Only sandboxes whose name has this prefix.
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    pub name_prefix: Option<NamePrefix>,
    /// The pool.
    #[arg(long, value_name = "POOL", value_parser = parse_pool)]
    pub pool: Option<PoolName>,
    /// Repeat the claim of every owner that got a sandbox; measured separately.
    #[arg(long)]
    pub replay: bool,
    /// Release every sandbox; measured separately.
    #[arg(long)]
    pub release: bool,
    /// Time-out of an answer.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub patience_ms: u64,
    /// Write every measured call to this CSV file.
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
    /// Write latency over time and its distribution to this SVG file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// The format of the summary.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// The kind of load; exactly one of them.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Mode {
    /// Closed loop: this many callers, each claims again when it has its answer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=CALLERS_MAX))]
    pub callers: Option<u64>,
    /// Open loop: this many claims per second by a Poisson schedule, whatever the broker does.
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Burst: this many callers at once, one claim each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=CALLERS_MAX))]
    pub burst: Option<u64>,
}

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Prefix of every owner of this run.
    pub run: String,
    /// The transport.
    pub transport: String,
    /// The load, as text.
    pub mode: String,
    /// From the first intended start to the last answer.
    pub elapsed_seconds: f64,
    /// Why a closed loop ended before its limit.
    pub ended_early: Option<String>,
    /// Every kind of call and how it ended.
    pub calls: Vec<Row>,
    /// How late this tool sent claims: if it is a large share of the latencies, the tool is the bottleneck.
    pub sent_late: Spread,
    /// The check of the answers.
    pub check: Check,
    /// Every measured call.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

fn parse_prefix(text: &str) -> Result<NamePrefix, InvalidId> {
    NamePrefix::parse(text)
}

fn parse_pool(text: &str) -> Result<PoolName, InvalidId> {
    PoolName::parse(text)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(rate),
        _ => Err(format!("must be a number above 0 and at most {RATE_MAX}")),
    }
}

/// Runs, prints the summary, and fails if a guarantee was violated or no call was answered.
///
/// # Errors
/// The errors of [`run`]; a violated guarantee; no answer at all.
pub async fn command(options: Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<()> {
    let report = run(&options, env, ports).await?;
    options.output.print(&report, Report::text)?;
    if report.check.violations > 0 {
        bail!("{} broken promise(s): {}", report.check.violations, report.check.shown.join("; "));
    }
    if report.samples.iter().all(|sample| matches!(sample.ending, super::calls::Ending::Lost(_))) {
        bail!("no worker answered at {}", report.transport);
    }
    Ok(())
}

/// Runs, and writes the requested files.
///
/// # Errors
/// When the transport cannot be opened or a file cannot be written. Violations are in the report.
pub async fn run(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Report> {
    let plan = options.plan()?;
    let transport = Transport::open(&options.transport, env, ports, "bench").await?;
    let requester = Requester {
        transport: transport.requests(),
        clock: ports.clock.clone(),
        selector: Selector { pool: options.pool.clone(), name_prefix: options.name_prefix.clone() },
        patience: Duration::from_millis(options.patience_ms),
    };
    let report = measure(requester, ports, &options.transport.name(), plan).await;
    transport.close().await;
    if let Some(file) = &options.samples {
        samples::write(file, &report.samples)?;
    }
    if let Some(file) = &options.svg {
        let title = format!("{}, {}", report.mode, report.transport);
        std::fs::write(file, plot::svg(&title, &report.samples))
            .with_context(|| format!("cannot write the picture to {}", file.display()))?;
    }
    Ok(report)
}

/// Runs a plan over an open transport, `transport` by name.
pub async fn measure(requester: Requester, ports: &Ports, transport: &str, plan: Plan) -> Report {
    let run = fresh_run(ports);
    let mode = plan.words();
    let load::Outcome { samples, check, ended_early } =
        load::run(requester, ports.random.as_ref(), &run, plan).await;
    let late = samples.iter().map(|sample| sample.start_us.saturating_sub(sample.intended_start_us));
    Report {
        transport: transport.to_owned(),
        mode,
        elapsed_seconds: span_of(&samples).as_secs_f64(),
        ended_early,
        calls: rows(&samples),
        sent_late: Spread::of(late),
        check,
        run,
        samples,
    }
}

// === impl Options ===

impl Options {
    fn plan(&self) -> anyhow::Result<Plan> {
        let span = Duration::from_secs(self.seconds.unwrap_or(SECONDS_DEFAULT));
        let shape = match self.mode {
            Mode { callers: Some(callers), .. } => {
                let limit = self.claims.map_or(Limit::Time(span), Limit::Claims);
                Shape::Closed { callers: usize::try_from(callers)?, limit }
            }
            Mode { rate: Some(rate_per_second), .. } => Shape::Open { rate_per_second, span },
            Mode { burst: Some(callers), .. } => Shape::Burst { callers: usize::try_from(callers)? },
            Mode { callers: None, rate: None, burst: None } => {
                bail!("--callers, --rate or --burst is needed")
            }
        };
        let warm_up = Duration::from_secs(self.warm_up_seconds);
        let warm_up = (!warm_up.is_zero()).then_some(Limit::Time(warm_up));
        Ok(Plan { shape, warm_up, replay: self.replay, release: self.release })
    }
}

// === impl Report ===

impl Report {
    /// The summary for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { run, transport, mode, elapsed_seconds, ended_early, calls, sent_late, check, samples: _ } =
            self;
        let mut text = format!("\n{mode}, {transport}, run {run}: {elapsed_seconds:.2} s\n\n");
        let mut table = Table::new(["call", "outcome", "count", "per s"].into_iter().chain(SPREAD_HEADINGS));
        for Row { call, outcome, rate_per_second, spread } in calls {
            let head = [
                call.as_str().to_owned(),
                (*outcome).to_owned(),
                spread.count.to_string(),
                format!("{rate_per_second:.1}"),
            ];
            table.push(head.into_iter().chain(spread.cells()));
        }
        text.push_str(&table.text());
        let late = super::summary::milliseconds(sent_late.p99_us);
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "\n  latencies count from the intended start; 99 % were sent at most {late} ms late"
        );
        if let Some(reason) = ended_early {
            let _ = writeln!(text, "  ended early: {reason}");
        }
        let Check { winners, same_repeats, violations, shown } = check;
        let _ = writeln!(
            text,
            "  checked: {winners} winners, {same_repeats} equal repeats, {violations} broken promises"
        );
        for violation in shown {
            let _ = writeln!(text, "  BROKEN: {violation}");
        }
        text
    }

    /// The row of granted claims; none if none was granted.
    #[must_use]
    pub fn granted(&self) -> Option<&Row> {
        self.claimed("created")
    }

    /// Claims of new owners that found a lease: an attempt timed out although its work was done.
    #[must_use]
    pub fn found_again(&self) -> Option<&Row> {
        self.claimed("existing")
    }

    fn claimed(&self, outcome: &str) -> Option<&Row> {
        self.calls.iter().find(|row| row.call == super::calls::Call::Claim && row.outcome == outcome)
    }
}
