//! Statistics of samples: HDR quantiles for each kind of call and outcome, as a table.

use super::calls::{Call, Sample};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Longest latency that a histogram can distinguish, in microseconds: ten minutes, longer than any time-out.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Significant digits that a histogram keeps: a quantile is right to a thousandth.
const DIGITS: u8 = 3;
/// Microseconds in a millisecond, as tables show it.
const MILLI_US: f64 = 1_000.0;

/// How latencies spread, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many there are.
    pub count: u64,
    /// Their mean, exactly.
    pub mean_us: f64,
    /// Half of them are at most this.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// 99 of a hundred.
    pub p99_us: u64,
    /// 999 of a thousand.
    pub p999_us: u64,
    /// The longest, exactly.
    pub max_us: u64,
}

/// All calls of a kind with the same outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was asked.
    pub call: Call,
    /// What became of it.
    pub outcome: &'static str,
    /// How many of them in a second.
    pub rate_per_second: f64,
    /// How long they took, from their intended start.
    #[serde(flatten)]
    pub spread: Spread,
}

/// A table of text for people.
#[derive(Debug, Default)]
pub struct Table(Vec<Vec<String>>);

// === impl Spread ===

impl Spread {
    /// The spread of `latencies_us`.
    #[must_use]
    pub fn of(latencies_us: impl IntoIterator<Item = u64>) -> Self {
        // The bounds are sound, so there is always a histogram; without one nothing would be counted.
        let Ok(mut histogram) = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_US, DIGITS) else {
            return Self::default();
        };
        // A histogram keeps buckets; sum and maximum can be had exactly.
        let (mut sum_us, mut max_us) = (0.0, 0);
        for latency_us in latencies_us {
            histogram.saturating_record(latency_us);
            sum_us += latency_us as f64;
            max_us = latency_us.max(max_us);
        }
        // It returns the upper end of a bucket, which may exceed the maximum.
        let quantile = |quantile| histogram.value_at_quantile(quantile).min(max_us);
        Self {
            count: histogram.len(),
            mean_us: sum_us / (histogram.len().max(1) as f64),
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us,
        }
    }

    /// The cells of a table: p50, p90, p99, p99.9, max and mean, in milliseconds.
    #[must_use]
    pub fn cells(&self) -> [String; 6] {
        let Self { count: _, mean_us, p50_us, p90_us, p99_us, p999_us, max_us } = *self;
        let mean = format!("{:.2}", mean_us / MILLI_US);
        let [p50, p90, p99, p999, max] = [p50_us, p90_us, p99_us, p999_us, max_us].map(milliseconds);
        [p50, p90, p99, p999, max, mean]
    }
}

/// Headings of [`Spread::cells`].
pub const SPREAD_HEADINGS: [&str; 6] = ["p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "mean ms"];

/// Microseconds as milliseconds, to the hundredth.
#[must_use]
pub fn milliseconds(span_us: u64) -> String {
    format!("{:.2}", span_us as f64 / MILLI_US)
}

/// From the first intended start to the last answer: the time that rates are counted over.
#[must_use]
pub fn span_of(samples: &[Sample]) -> Duration {
    let first_us = samples.iter().map(|sample| sample.intended_start_us).min().unwrap_or_default();
    let last_us = samples.iter().map(|sample| sample.intended_start_us + sample.latency_us).max();
    Duration::from_micros(last_us.unwrap_or_default().saturating_sub(first_us))
}

/// One row for each kind of call and outcome, granted ones first.
#[must_use]
pub fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut groups: BTreeMap<(Call, bool, &'static str), Vec<u64>> = BTreeMap::new();
    for sample in samples {
        let key = (sample.call, !sample.ending.is_granted(), sample.ending.as_str());
        groups.entry(key).or_default().push(sample.latency_us);
    }
    let seconds = span_of(samples).as_secs_f64();
    let row = |((call, _, outcome), latencies_us): ((Call, bool, &'static str), Vec<u64>)| {
        let spread = Spread::of(latencies_us);
        Row { call, outcome, rate_per_second: per_second(spread.count, seconds), spread }
    };
    groups.into_iter().map(row).collect()
}

/// How many in a second; zero if there was no time.
#[must_use]
pub fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

// === impl Table ===

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(vec![headings.into_iter().map(Into::into).collect()])
    }

    /// Adds a row.
    pub fn push(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.0.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as text: as wide as need be, words to the left and numbers to the right.
    #[must_use]
    pub fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or_default();
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.0.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or_default()
            })
            .collect();
        let is_number = |column: usize| {
            let mut below = self.0.iter().skip(1).map(|row| cell(row, column));
            below.all(|text| !text.starts_with(char::is_alphabetic))
        };
        let numbers: Vec<bool> = (0..columns).map(is_number).collect();
        let mut text = String::new();
        for row in &self.0 {
            let mut line = String::new();
            for (column, (&width, &is_number)) in widths.iter().zip(&numbers).enumerate() {
                let cell = cell(row, column);
                // Writing into a String cannot fail.
                let _ = if is_number {
                    write!(line, "  {cell:>width$}")
                } else {
                    write!(line, "  {cell:<width$}")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Ending;
    use contract::FaultCode;

    fn sample(call: Call, ending: Ending, intended_start_us: u64, latency_us: u64) -> Sample {
        Sample { call, ending, intended_start_us, start_us: intended_start_us, latency_us }
    }

    #[test]
    fn quantiles_are_accurate_to_a_thousandth() {
        let spread = Spread::of(1..=100_000);
        assert_eq!((spread.count, spread.max_us), (100_000, 100_000));
        for (quantile_us, exact_us) in [
            (spread.p50_us, 50_000.0),
            (spread.p90_us, 90_000.0),
            (spread.p99_us, 99_000.0),
            (spread.p999_us, 99_900.0),
        ] {
            assert!((quantile_us as f64 - exact_us).abs() <= exact_us / 1_000.0, "{quantile_us} {exact_us}");
        }
        assert_eq!(spread.mean_us, 50_000.5);
    }

    #[test]
    fn zero_and_overlong_latencies_are_counted() {
        assert_eq!(Spread::of([]), Spread::default());
        let spread = Spread::of([0, LATENCY_MAX_US * 10]);
        assert_eq!((spread.count, spread.max_us), (2, LATENCY_MAX_US * 10));
        assert_eq!(spread.p50_us, 0);
    }

    #[test]
    fn summary_has_a_row_per_call_and_outcome() {
        let exhausted = Ending::Refused(FaultCode::PoolExhausted);
        let samples = [
            sample(Call::Replay, Ending::Existing, 1_000_000, 1_000),
            sample(Call::Claim, exhausted, 0, 10),
            sample(Call::Claim, Ending::Created, 0, 3_000),
            sample(Call::Claim, Ending::Created, 1_990_000, 10_000),
        ];
        assert_eq!(span_of(&samples), Duration::from_secs(2));
        let rows = rows(&samples);
        let names: Vec<_> = rows.iter().map(|row| (row.call, row.outcome, row.spread.count)).collect();
        let wanted =
            [(Call::Claim, "created", 2), (Call::Claim, "POOL_EXHAUSTED", 1), (Call::Replay, "existing", 1)];
        assert_eq!(names, wanted);
        let created = rows[0].clone();
        assert_eq!((created.rate_per_second, created.spread.max_us), (1.0, 10_000));
        assert_eq!(created.spread.mean_us, 6_500.0);
    }

    #[test]
    fn table_columns_are_aligned() {
        let mut table = Table::new(["what", "ms"]);
        table.push(["a claim", "1.50"]);
        table.push(["b", "10.25"]);
        assert_eq!(table.text(), "  what        ms\n  a claim   1.50\n  b        10.25\n");
    }
}
