//! Evaluates the targets. No I/O.

use super::cases::Name;
use crate::rounds::Figures;
use crate::summary::Spread;
use serde::Serialize;
use std::collections::BTreeMap;

/// Microseconds in a millisecond, as targets name it.
const MILLI_US: f64 = 1_000.0;

/// One caller: medians of the baseline (a round trip and two writes) that a claim may take.
const ALONE_BASELINES_MAX: f64 = 1.5;
/// Many callers: share of the rate of the bare writes that it has to reach.
const CONCURRENT_SHARE_MIN: f64 = 0.6;
/// What a name prefix or a large pool may cost, as a multiple of the plain small case.
const GROWTH_MAX: f64 = 1.2;
/// What a repeat may take, as a multiple of the claim that it repeats.
const REPEAT_MAX: f64 = 1.0;
/// What a burst may take, as a multiple of the time that the bare writes of its claims take.
const BURST_MAX: f64 = 1.5;
/// p99 of the open loop, in medians of the baseline.
const OPEN_BASELINES_MAX: f64 = 10.0;
/// The predecessor's p50 of one caller is to be divided by this.
const PREDECESSOR_ALONE_DIVISOR: f64 = 6.0;
/// Its p99 of a hundred callers is to be divided by this.
const PREDECESSOR_CONCURRENT_DIVISOR: f64 = 8.0;
/// Its rate with a name prefix is to be multiplied by this.
const PREDECESSOR_NARROW_FACTOR: f64 = 80.0;

/// One number of some calls.
type Figure = fn(&Figures) -> f64;

/// What the table is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// The embedded one.
    Dynoxide,
    /// Amazon's, or whatever else was named.
    DynamodbLocal,
}

/// What the predecessor achieved over HTTP on such a machine, the better end of each range.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Predecessor {
    claims_per_second: f64,
    /// What its rate is to be multiplied by.
    factor: f64,
    alone_p50_ms: f64,
    /// Of a hundred callers.
    concurrent_p99_ms: f64,
    narrow_per_second: f64,
}

/// The best values of the machine, medians of all measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Baseline {
    /// One NATS round trip.
    pub round_trip_p50_us: f64,
    /// The two bare writes of a claim, one claim at a time.
    pub writes_p50_us: f64,
    /// How many such pairs in a second with 64 in flight.
    pub concurrent_writes_per_second: f64,
}

/// All callers at once, on as many free sandboxes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Burst {
    /// How many they were.
    pub callers: u64,
    /// How many of them were served, in the worst round.
    pub served_least: u64,
    /// From the start to the last answer, the median of all rounds.
    pub seconds: f64,
    /// The answers to those without a sandbox, and how many of them in all rounds.
    pub refusals: BTreeMap<&'static str, u64>,
}

/// Callers by a schedule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Open {
    /// Free sandboxes at the beginning.
    pub pool: u64,
    /// How many callers came in a second, on average.
    pub rate_per_second: f64,
    /// The latencies of served callers.
    pub figures: Figures,
    /// How many were served.
    pub granted: u64,
    /// How many were not, whatever the answer was.
    pub not_granted: u64,
    /// The answers to these, and how many of them.
    pub refusals: BTreeMap<&'static str, u64>,
    /// p99 of the delay with which this tool sent claims.
    pub late_p99_us: f64,
    /// The latencies that the engine alone, with the bare writes, causes at the same rate.
    pub bare: Spread,
}

/// Everything that targets are about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The baseline.
    pub baseline: Baseline,
    /// New claims of each case.
    pub claims: BTreeMap<Name, Figures>,
    /// Repeats of the cases that have some.
    pub repeats: BTreeMap<Name, Figures>,
    /// The burst.
    pub burst: Burst,
    /// The open loop.
    pub open: Open,
    /// Whether no guarantee was violated: above all, that no two callers got the same sandbox.
    pub distinct: bool,
}

/// The required relation of a value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Not above.
    AtMost(f64),
    /// Not below.
    AtLeast(f64),
}

/// One target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Which part of the table.
    pub part: char,
    /// What was measured, with its unit.
    pub measure: String,
    /// What is wanted.
    pub target: Bound,
    /// What was found; none if nothing was granted that could have been measured.
    pub measured: Option<f64>,
    /// Whether the one is within the other.
    pub is_met: bool,
}

/// Compares all measurements with the targets.
#[must_use]
pub fn judge(measured: &Measured, engine: Engine) -> Vec<Verdict> {
    let mut verdicts = of_baseline(measured);
    verdicts.extend(of_growth(measured));
    verdicts.extend(of_repeats(measured));
    verdicts.extend(of_burst(measured));
    verdicts.extend(of_open_loop(measured));
    verdicts.extend(of_predecessor(measured, engine));
    verdicts
}

fn of_baseline(measured: &Measured) -> Vec<Verdict> {
    let alone = measured.figure(Name::SmallAlone, |figures| figures.p50_us);
    let concurrent = measured.figure(Name::SmallConcurrent, |figures| figures.rate_per_second);
    vec![
        Verdict::new(
            'a',
            "1 caller: p50, in baselines",
            Bound::AtMost(ALONE_BASELINES_MAX),
            alone.map(|p50_us| p50_us / measured.baseline.p50_us()),
        ),
        Verdict::new(
            'b',
            "64 callers: rate, share of the bare writes",
            Bound::AtLeast(CONCURRENT_SHARE_MIN),
            concurrent.map(|rate| rate / measured.baseline.concurrent_writes_per_second),
        ),
    ]
}

fn of_growth(measured: &Measured) -> Vec<Verdict> {
    let pairs = [
        (Name::NarrowAlone, Name::SmallAlone),
        (Name::LargeAlone, Name::SmallAlone),
        (Name::NarrowConcurrent, Name::SmallConcurrent),
        (Name::LargeConcurrent, Name::SmallConcurrent),
    ];
    let quantiles: [(&str, Figure); 2] =
        [("p50", |figures| figures.p50_us), ("p99", |figures| figures.p99_us)];
    let verdict = |(grown, plain): (Name, Name), (quantile, figure): (&str, Figure)| {
        let ratio = measured
            .figure(grown, figure)
            .zip(measured.figure(plain, figure))
            .map(|(grown, plain)| grown / plain);
        let what = format!("{}: {quantile}, times the plain case", grown.as_str());
        Verdict::new('c', what, Bound::AtMost(GROWTH_MAX), ratio)
    };
    pairs
        .into_iter()
        .flat_map(|pair| quantiles.into_iter().map(move |quantile| verdict(pair, quantile)))
        .collect()
}

fn of_repeats(measured: &Measured) -> Vec<Verdict> {
    let verdict = |name: Name| {
        let repeat = measured.repeats.get(&name).map(|figures| figures.p50_us);
        let ratio =
            repeat.zip(measured.figure(name, |figures| figures.p50_us)).map(|(repeat, claim)| repeat / claim);
        let what = format!("{}: p50 of repeats, times that of claims", name.as_str());
        Verdict::new('d', what, Bound::AtMost(REPEAT_MAX), ratio)
    };
    [Name::RepeatedAlone, Name::RepeatedConcurrent].into_iter().map(verdict).collect()
}

fn of_burst(measured: &Measured) -> Vec<Verdict> {
    let Burst { callers, served_least, seconds, .. } = measured.burst;
    // Two callers with the same sandbox are not both served.
    let served = if measured.distinct { served_least } else { 0 };
    let bare_seconds = callers as f64 / measured.baseline.concurrent_writes_per_second;
    vec![
        Verdict::new(
            'e',
            format!("burst of {callers}: callers with a sandbox of their own"),
            Bound::AtLeast(callers as f64),
            Some(served as f64),
        ),
        Verdict::new(
            'e',
            format!("burst of {callers}: time, times that of the bare writes"),
            Bound::AtMost(BURST_MAX),
            Some(seconds / bare_seconds),
        ),
    ]
}

fn of_open_loop(measured: &Measured) -> Vec<Verdict> {
    let Open { figures, granted, not_granted, .. } = measured.open;
    let p99_baselines = (granted > 0).then(|| figures.p99_us / measured.baseline.p50_us());
    vec![
        Verdict::new('f', "open loop: p99, in baselines", Bound::AtMost(OPEN_BASELINES_MAX), p99_baselines),
        Verdict::new(
            'f',
            "open loop: callers without a sandbox",
            Bound::AtMost(0.0),
            Some(not_granted as f64),
        ),
    ]
}

fn of_predecessor(measured: &Measured, engine: Engine) -> Vec<Verdict> {
    let old = engine.predecessor();
    let rate = |figures: &Figures| figures.rate_per_second;
    let p50_ms = |figures: &Figures| figures.p50_us / MILLI_US;
    let p99_ms = |figures: &Figures| figures.p99_us / MILLI_US;
    vec![
        Verdict::new(
            'g',
            "100 callers: claims in a second",
            Bound::AtLeast(old.factor * old.claims_per_second),
            measured.figure(Name::SmallHundred, rate),
        ),
        Verdict::new(
            'g',
            "100 callers: p99 in ms",
            Bound::AtMost(old.concurrent_p99_ms / PREDECESSOR_CONCURRENT_DIVISOR),
            measured.figure(Name::SmallHundred, p99_ms),
        ),
        Verdict::new(
            'g',
            "1 caller: p50 in ms",
            Bound::AtMost(old.alone_p50_ms / PREDECESSOR_ALONE_DIVISOR),
            measured.figure(Name::SmallAlone, p50_ms),
        ),
        Verdict::new(
            'g',
            "100 callers, name prefix: claims in a second",
            Bound::AtLeast(PREDECESSOR_NARROW_FACTOR * old.narrow_per_second),
            measured.figure(Name::NarrowHundred, rate),
        ),
    ]
}

// === impl Engine ===

impl Engine {
    const fn predecessor(self) -> Predecessor {
        match self {
            Self::Dynoxide => Predecessor {
                claims_per_second: 76.0,
                factor: 10.0,
                alone_p50_ms: 14.0,
                concurrent_p99_ms: 1_900.0,
                narrow_per_second: 6.0,
            },
            Self::DynamodbLocal => Predecessor {
                claims_per_second: 41.0,
                factor: 8.0,
                alone_p50_ms: 29.0,
                // Its median; its p99 is unknown and can only be longer, so this is the stricter limit.
                concurrent_p99_ms: 2_400.0,
                narrow_per_second: 4.0,
            },
        }
    }
}

// === impl Baseline ===

impl Baseline {
    /// A claim at best: one round trip and two writes, one after the other.
    #[must_use]
    pub fn p50_us(&self) -> f64 {
        self.round_trip_p50_us + self.writes_p50_us
    }
}

// === impl Measured ===

impl Measured {
    fn figure(&self, name: Name, figure: Figure) -> Option<f64> {
        self.claims.get(&name).map(figure)
    }
}

// === impl Bound ===

impl Bound {
    /// Whether a value meets its target. NaN never does.
    #[must_use]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Evaluates one value; a missing one meets no target.
    #[must_use]
    pub fn new(part: char, measure: impl Into<String>, target: Bound, measured: Option<f64>) -> Self {
        let is_met = measured.is_some_and(|value| target.holds(value));
        Self { part, measure: measure.into(), target, measured, is_met }
    }
}
