//! `bench overload`: how much of the claim rate remains when far more claims arrive than can be served.
//!
//! The capacity is measured first, with callers that wait for their answers. Then 25 seconds of the capacity arrive at
//! once, with callers that repeat as advised and with callers that give up, and in an open loop ten times the capacity.
//! A proxy limits the rate of the table, or busy loops take the cores.

use super::calls::{Call, Requester, Selector};
use super::fleet::{Fleet, FleetSpec, Servers, interruptible};
use super::load::{Limit, Plan, Shape};
use super::rounds::Figures;
use super::summary::Table;
use super::targets::table_of;
use super::targets::verdict::{Bound, Verdict};
use super::{Output, Ports, claim, fresh_run};
use broker::embedded::EmbeddedTable;
use broker::up::Overlay;
use domain::{ClaimKey, IdempotencyKey, OwnerId};
use ports::store::Store as _;
use runtime::settings::Env;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod callers;
mod limiter;

use callers::{Behavior, CallerGroup, Tally};
use limiter::Limiter;

/// Claims of the burst, in seconds of the capacity.
const BURST_SECONDS: f64 = 25.0;
/// Claims of the open loop in a second, in multiples of the capacity.
const OPEN_FACTOR: f64 = 10.0;
/// Target: share of the capacity that remains.
const GOODPUT_MIN: f64 = 0.9;
/// Target: share of the answers that may have left a lease although the caller got an error.
const UNDELIVERED_MAX: f64 = 0.005;
/// Target: waiting time of a caller until it is served, in multiples of its first retry time.
const ADVICE_FACTOR_MAX: f64 = 2.0;
/// The share of the callers for which that has to hold.
const ADVICE_QUANTILE: f64 = 0.99;
/// Time-out of one answer: longer than the ingress needs.
const TIMEOUT: Duration = Duration::from_secs(15);
/// What the names of all sandboxes begin with.
const NAME: &str = "overload-";
/// Free sandboxes that are left at the end of a measurement.
const SPARE: u64 = 1_000;
/// Threads of all callers.
const CALLER_THREADS: usize = 2;
/// Claims of the warm-up: they open connections.
const WARM_UP_CLAIMS: u64 = 200;

/// The options of `bench overload`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Requests per second that the table serves; 0 means unlimited. A claim takes two and some reads.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub table_rate: u64,
    /// Number of busy loops beside the fleet.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub busy: u16,
    /// Callers for measuring the capacity.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(2..=2_000))]
    pub callers: u64,
    /// Time in which the capacity is measured, in seconds.
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Time in which callers of the open loop come, in seconds; none with 0.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub open_seconds: u64,
    /// Longest time that a caller repeats, in seconds.
    #[arg(long, value_name = "S", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub patience: u64,
    /// Allocators.
    #[arg(long, value_name = "K", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub allocators: u16,
    /// How the summary looks.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// The result of one load.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    case: &'static str,
    callers: u64,
    served: u64,
    given_up: u64,
    seconds: f64,
    goodput: f64,
    answers: std::collections::BTreeMap<&'static str, u64>,
    /// Waiting times in multiples of the first retry time: median, p99, maximum.
    advice: Option<[f64; 3]>,
    undelivered: Option<u64>,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    capacity_per_second: f64,
    lines: Vec<Line>,
    /// Targets, and whether they are met.
    pub verdicts: Vec<Verdict>,
    twice_granted: u64,
}

struct Overload<'a> {
    options: &'a Options,
    fleet: &'a Fleet,
    limiter: &'a Limiter,
    ports: &'a Ports,
    twice_granted: u64,
}

/// Threads that only use CPU time.
struct BusyLoops {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// Measures, and prints what was found.
///
/// # Errors
/// The errors of [`run`], and a sandbox that was granted twice.
pub async fn command(options: Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<()> {
    let report = run(&options, env, ports).await?;
    options.output.print(&report, Report::text)?;
    anyhow::ensure!(report.twice_granted == 0, "{} sandboxes were granted twice", report.twice_granted);
    Ok(())
}

/// Starts a fleet, overloads it, stops it.
///
/// # Errors
/// When a part cannot be started.
pub async fn run(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Report> {
    let table = EmbeddedTable::start(None).await?;
    let limiter = Limiter::start(&table.endpoint).await?;
    let mut overlay = Overlay::over(env);
    // As in production: the load tool's default waits for a slow table instead of retrying.
    overlay.set_default("STORE_ATTEMPT_TIMEOUT_MS", "1000");
    overlay.set_default("STORE_OPERATION_TIMEOUT_MS", "3000");
    overlay.set_default("HTTP_CONNECTIONS_MAX", "10000");
    let servers = Servers { dynamodb_endpoint: Some(limiter.endpoint.clone()), nats_url: None };
    let spec = FleetSpec { allocators: options.allocators, servers: &servers, pools: Some("main") };
    let fleet = Box::pin(Fleet::start(spec, &overlay, ports)).await?;
    let overload = Overload { options, fleet: &fleet, limiter: &limiter, ports, twice_granted: 0 };
    // Callers have separate threads, as they would have separate machines; otherwise the answers of the table would
    // wait in one queue with the work of the callers.
    let callers =
        tokio::runtime::Builder::new_multi_thread().worker_threads(CALLER_THREADS).enable_all().build()?;
    let measured = tokio::task::block_in_place(|| callers.block_on(interruptible(overload.measure())));
    callers.shutdown_background();
    let report = fleet.end(measured).await;
    table.stop().await;
    report
}

impl Overload<'_> {
    async fn measure(mut self) -> anyhow::Result<Report> {
        self.fleet.ready(self.ports).await?;
        let capacity = self.capacity().await?;
        let callers = (capacity * BURST_SECONDS).ceil() as u64;
        let mut lines = Vec::new();
        for (case, repeats) in [("burst, as advised", true), ("burst, giving up", false)] {
            lines.push(self.burst(case, callers, repeats, capacity).await?);
        }
        if self.options.open_seconds > 0 {
            lines.push(self.open(capacity).await?);
        }
        let verdicts = lines.iter().flat_map(Line::verdicts).collect();
        Ok(Report { capacity_per_second: capacity, lines, verdicts, twice_granted: self.twice_granted })
    }

    /// Claims a second of callers that wait for their answers.
    async fn capacity(&self) -> anyhow::Result<f64> {
        // Its speed is unknown yet; remaining sandboxes are claimed later.
        self.fill(self.options.callers + self.options.seconds * 1_000).await?;
        let span = Duration::from_secs(self.options.seconds);
        let callers = usize::try_from(self.options.callers)?;
        let shape = Shape::Closed { callers, limit: Limit::Time(span) };
        let plan =
            Plan { shape, warm_up: Some(Limit::Claims(WARM_UP_CLAIMS)), replay: false, release: false };
        let _busy = BusyLoops::start(self.options.busy);
        let report = claim::measure(self.requester(), self.ports, "HTTP", plan).await;
        Ok(Figures::of(&report, Call::Claim, "created").unwrap_or_default().rate_per_second)
    }

    async fn burst(
        &mut self,
        case: &'static str,
        callers: u64,
        repeats: bool,
        capacity: f64,
    ) -> anyhow::Result<Line> {
        self.fill(callers + SPARE).await?;
        let busy = BusyLoops::start(self.options.busy);
        let group = self.group(repeats, Duration::MAX);
        let runtime = tokio::runtime::Handle::current();
        for number in 0..callers {
            group.come(usize::try_from(number)?, &runtime);
        }
        let tally = group.end().await;
        drop(busy);
        let undelivered = if repeats { None } else { Some(self.undelivered(&tally.refused_owners).await?) };
        let goodput = tally.served as f64 / tally.last_served.as_secs_f64() / capacity;
        Ok(self.line(case, callers, goodput, tally, undelivered))
    }

    /// Callers at ten times the capacity. The rate is measured while they arrive, and all of them are waited for.
    async fn open(&mut self, capacity: f64) -> anyhow::Result<Line> {
        let span = Duration::from_secs(self.options.open_seconds);
        let schedule = super::arrivals::poisson(&*self.ports.random, capacity * OPEN_FACTOR, span);
        let callers = schedule.len() as u64;
        self.fill(callers + SPARE).await?;
        let _busy = BusyLoops::start(self.options.busy);
        let group = self.group(true, span);
        let runtime = tokio::runtime::Handle::current();
        let mut number = 0;
        let coming = group.clone();
        super::arrivals::send_by(schedule, move |_, _| {
            coming.come(number, &runtime);
            number += 1;
        })
        .await;
        let tally = group.end().await;
        let goodput = tally.served_in_time as f64 / span.as_secs_f64() / capacity;
        Ok(self.line("open loop, ten times the capacity", callers, goodput, tally, None))
    }

    fn line(
        &mut self,
        case: &'static str,
        callers: u64,
        goodput: f64,
        tally: Tally,
        undelivered: Option<u64>,
    ) -> Line {
        self.twice_granted += tally.sandboxes.values().filter(|count| **count > 1).count() as u64;
        let mut advice = tally.advice;
        advice.sort_by(f64::total_cmp);
        let at =
            |part: f64| advice.get(((advice.len() as f64 * part) as usize).min(advice.len() - 1)).copied();
        let advice = if advice.is_empty() { None } else { Some([at(0.5), at(ADVICE_QUANTILE), at(1.0)]) };
        Line {
            case,
            callers,
            served: tally.served,
            given_up: tally.given_up,
            seconds: tally.last_served.as_secs_f64(),
            goodput,
            answers: tally.answers,
            advice: advice.map(|quantiles| quantiles.map(Option::unwrap_or_default)),
            undelivered,
        }
    }

    /// Those of these callers, which all got an error, that hold a sandbox.
    async fn undelivered(&self, owners: &[String]) -> anyhow::Result<u64> {
        self.limiter.limit(0);
        let mut count = 0;
        for owner in owners {
            let owner = OwnerId::parse(owner)?;
            let key = ClaimKey { key: IdempotencyKey::from(&owner), owner };
            let Some(record) = self.fleet.store.find_claim(&key).await? else { continue };
            let sandbox = self.fleet.store.sandbox(&record.candidate.id).await?;
            let holds = |lease: &domain::Lease| lease.claim == key;
            count += u64::from(sandbox.as_ref().and_then(|sandbox| sandbox.lease()).is_some_and(holds));
        }
        self.limiter.limit(self.options.table_rate);
        Ok(count)
    }

    async fn fill(&self, count: u64) -> anyhow::Result<()> {
        self.limiter.limit(0);
        self.fleet.seed(self.ports, NAME, count).await?;
        self.limiter.limit(self.options.table_rate);
        Ok(())
    }

    fn requester(&self) -> Requester {
        Requester {
            transport: Arc::clone(&self.fleet.http),
            clock: Arc::clone(&self.ports.clock),
            selector: Selector::default(),
            patience: TIMEOUT,
        }
    }

    fn group(&self, repeats: bool, span: Duration) -> CallerGroup {
        let patience = Duration::from_secs(self.options.patience);
        CallerGroup::new(self.requester(), fresh_run(self.ports), Behavior { repeats, patience, span })
    }
}

// === impl BusyLoops ===

impl BusyLoops {
    fn start(count: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It only spins.
            let _ = thread.join();
        }
    }
}

// === impl Line ===

impl Line {
    fn count(&self, answers: &[&str]) -> f64 {
        answers.iter().filter_map(|answer| self.answers.get(answer)).sum::<u64>() as f64
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let name = |what: &str| format!("{}: {what}", self.case);
        let mut verdicts = vec![
            Verdict::new(
                'o',
                name("goodput, share of the capacity"),
                Bound::AtLeast(GOODPUT_MIN),
                Some(self.goodput),
            ),
            Verdict::new(
                'o',
                name("new leases answered 200"),
                Bound::AtMost(0.0),
                Some(self.count(&["existing"])),
            ),
            Verdict::new(
                'o',
                name("TIMEOUT, STORE_UNAVAILABLE, no answer"),
                Bound::AtMost(0.0),
                Some(self.count(&[
                    "TIMEOUT",
                    "STORE_UNAVAILABLE",
                    "timed_out",
                    "disconnected",
                    "unreadable",
                ])),
            ),
        ];
        match self.undelivered {
            Some(undelivered) => verdicts.push(Verdict::new(
                'o',
                name("undelivered leases, share of the answers"),
                Bound::AtMost(UNDELIVERED_MAX),
                Some(undelivered as f64 / self.callers as f64),
            )),
            None => {
                let waited = self.advice.map(|[_, most, _]| most).unwrap_or_default();
                verdicts.push(Verdict::new(
                    'o',
                    name("99 % waited, in parts of the first advice"),
                    Bound::AtMost(ADVICE_FACTOR_MAX),
                    Some(waited),
                ));
                let unserved = (self.callers - self.served) as f64;
                verdicts.push(Verdict::new('o', name("not served"), Bound::AtMost(0.0), Some(unserved)));
            }
        }
        verdicts
    }
}

// === impl Report ===

impl Report {
    /// The summary for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut table = Table::new([
            "case",
            "callers",
            "served",
            "s",
            "goodput",
            "waited/advised p50 p99 max",
            "answers",
        ]);
        for line in &self.lines {
            let answers: Vec<_> =
                line.answers.iter().map(|(answer, count)| format!("{answer}: {count}")).collect();
            let advice = line
                .advice
                .map_or_else(|| "-".to_owned(), |[p50, p99, most]| format!("{p50:.2} {p99:.2} {most:.2}"));
            table.push([
                line.case.to_owned(),
                line.callers.to_string(),
                line.served.to_string(),
                format!("{:.1}", line.seconds),
                format!("{:.2}", line.goodput),
                advice,
                answers.join(", "),
            ]);
        }
        format!(
            "\ncapacity {:.0} claims/s\n\n{}\n{}\n  {} granted twice\n",
            self.capacity_per_second,
            table.text(),
            table_of(&self.verdicts),
            self.twice_granted
        )
    }
}
