//! Pools that keep their size between measurements, and medians over rounds.

use super::calls::{Call, Requester, Sample, Selector};
use super::claim::{Report as ClaimReport, measure};
use super::fleet::Fleet;
use super::load::{Limit, Plan, Shape};
use super::summary::{Spread, per_second};
use super::{Ports, claim};
use domain::{NamePrefix, PoolName};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// Time-out of an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A pool that is refilled to its size before each measurement, because the number of free sandboxes affects the
/// result.
#[derive(Debug)]
pub(super) struct BenchPool {
    /// Its pool; none if the fleet has but one.
    pub(super) pool: Option<&'static str>,
    /// Prefix of the names that are claimed.
    pub(super) name_prefix: &'static str,
    /// Whether claims ask for that prefix.
    pub(super) is_narrow: bool,
    /// The intended number of free sandboxes.
    pub(super) size: u64,
    /// The current number of free sandboxes.
    pub(super) free: u64,
}

/// The result of one round, or the median of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// How many in a second.
    pub rate_per_second: f64,
    /// Half of them took at most this.
    pub p50_us: f64,
    /// 99 of a hundred.
    pub p99_us: f64,
}

/// The median of `values`; the mean of the middle two for an even number.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(*upper);
    }
    values.get(middle.checked_sub(1)?).map(|lower| f64::midpoint(*lower, *upper))
}

/// The plan of a closed loop by count.
pub(super) fn closed(callers: usize, claims: u64, warm_up: u64, replay: bool) -> Plan {
    let warm_up = (warm_up > 0).then_some(Limit::Claims(warm_up));
    Plan { shape: Shape::Closed { callers, limit: Limit::Claims(claims) }, warm_up, replay, release: false }
}

// === impl BenchPool ===

impl BenchPool {
    /// An empty one.
    pub(super) const fn new(pool: Option<&'static str>, name_prefix: &'static str, size: u64) -> Self {
        Self { pool, name_prefix, is_narrow: false, size, free: 0 }
    }

    /// Fills it up to its size.
    pub(super) async fn fill(&mut self, fleet: &Fleet, ports: &Ports) -> anyhow::Result<()> {
        let missing = self.size.saturating_sub(self.free);
        if missing > 0 {
            fleet.seed(ports, self.name_prefix, missing).await?;
            self.free = self.size;
        }
        Ok(())
    }

    /// Fills it up, and runs `plan` on it over HTTP.
    pub(super) async fn run(
        &mut self,
        fleet: &Fleet,
        ports: &Ports,
        plan: Plan,
    ) -> anyhow::Result<ClaimReport> {
        self.fill(fleet, ports).await?;
        let name_prefix = self.is_narrow.then(|| NamePrefix::parse(self.name_prefix)).transpose()?;
        let selector = Selector { pool: self.pool.map(PoolName::parse).transpose()?, name_prefix };
        let (transport, clock) = (Arc::clone(&fleet.http), Arc::clone(&ports.clock));
        let report =
            measure(Requester { transport, clock, selector, patience: TIMEOUT }, ports, "HTTP", plan).await;
        self.free = self.free.saturating_sub(report.check.winners);
        Ok(report)
    }
}

// === impl Figures ===

impl Figures {
    /// Those of the calls of a kind that ended so; none if there are none.
    pub(super) fn of(report: &claim::Report, call: Call, outcome: &str) -> Option<Self> {
        let row = report.calls.iter().find(|row| row.call == call && row.outcome == outcome)?;
        Some(Self::new(row.rate_per_second, &row.spread))
    }

    /// The result of samples from several runs, `seconds` long in total.
    pub(super) fn of_samples(samples: &[Sample], seconds: f64) -> Self {
        let spread = Spread::of(samples.iter().map(|sample| sample.latency_us));
        Self::new(per_second(spread.count, seconds), &spread)
    }

    /// Number by number, the median of all.
    pub(super) fn median(rounds: &[Self]) -> Option<Self> {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure));
        Some(Self {
            rate_per_second: of(|round| round.rate_per_second)?,
            p50_us: of(|round| round.p50_us)?,
            p99_us: of(|round| round.p99_us)?,
        })
    }

    fn new(rate_per_second: f64, spread: &Spread) -> Self {
        Self { rate_per_second, p50_us: spread.p50_us as f64, p99_us: spread.p99_us as f64 }
    }

    /// The cells of a table: a rate, and two times in milliseconds.
    pub(super) fn cells(&self) -> [String; 3] {
        let Self { rate_per_second, p50_us, p99_us } = self;
        [
            format!("{rate_per_second:.0}"),
            format!("{:.2}", p50_us / 1_000.0),
            format!("{:.2}", p99_us / 1_000.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_of_unsorted_values() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 100.0, 2.0]), Some(3.0));
    }

    #[test]
    fn median_of_rounds_is_taken_per_figure() {
        let round = |rate_per_second, p50_us, p99_us| Figures { rate_per_second, p50_us, p99_us };
        let rounds = [round(10.0, 3.0, 9.0), round(30.0, 1.0, 90.0), round(20.0, 2.0, 8.0)];
        assert_eq!(Figures::median(&rounds), Some(round(20.0, 2.0, 9.0)));
        assert_eq!(Figures::median(&[]), None);
    }
}
