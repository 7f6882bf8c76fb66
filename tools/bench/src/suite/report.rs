//! The table of the suite: every measurement with its baseline.

use crate::calls::Call;
use crate::summary::{Row, Spread, Table, milliseconds};
use crate::{baseline, claim, seed};
use serde::Serialize;
use std::fmt::Write as _;

/// One kind of call in one measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Which measurement.
    pub case: &'static str,
    /// What was asked.
    pub call: Call,
    /// What became of it.
    pub outcome: &'static str,
    /// How many of them in a second.
    pub rate_per_second: f64,
    /// How long they took, from their intended start.
    #[serde(flatten)]
    pub spread: Spread,
    /// The concurrency of the baseline; none if there is no such baseline.
    pub in_flight: Option<usize>,
    /// Its median in multiples of the baseline's: one NATS round trip and the two bare writes at the same concurrency.
    pub baseline_medians: Option<f64>,
    /// Its rate as a share of that of the two bare writes.
    pub baseline_rate_share: Option<f64>,
}

/// What the suite has shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Allocators in the queue group.
    pub allocators: u16,
    /// The best values of the machine: each row is the better one of a measurement before and one after the claims,
    /// because the speed of a shared machine varies.
    pub baseline: baseline::Report,
    /// How fast the table was filled.
    pub seeded: Option<seed::Report>,
    /// Every measurement.
    pub lines: Vec<Line>,
    /// Owners that were given a sandbox, in all of it.
    pub winners: u64,
    /// Repeats with the same answer as the first claim.
    pub same_repeats: u64,
    /// Broken promises, the first of each measurement.
    pub violations: Vec<String>,
}

// === impl Report ===

impl Report {
    pub(super) fn new(allocators: u16) -> Self {
        Self {
            allocators,
            baseline: baseline::Report::default(),
            seeded: None,
            lines: Vec::new(),
            winners: 0,
            same_repeats: 0,
            violations: Vec::new(),
        }
    }

    /// Adds a measurement, for comparison with the baseline at `in_flight`.
    pub(super) fn add(&mut self, case: &'static str, in_flight: Option<usize>, measured: &claim::Report) {
        for Row { call, outcome, rate_per_second, spread } in &measured.calls {
            self.lines.push(Line {
                case,
                call: *call,
                outcome,
                rate_per_second: *rate_per_second,
                spread: *spread,
                in_flight,
                baseline_medians: None,
                baseline_rate_share: None,
            });
        }
        self.winners += measured.check.winners;
        self.same_repeats += measured.check.same_repeats;
        self.violations.extend(measured.check.shown.iter().map(|shown| format!("{case}: {shown}")));
    }

    /// Compares every measurement with the better of two baselines.
    pub(super) fn hold_against(&mut self, before: baseline::Report, after: baseline::Report) {
        self.baseline = before.or_better(after);
        for line in &mut self.lines {
            let Some(in_flight) = line.in_flight else { continue };
            let writes = self.baseline.line(baseline::TWO_WRITES, in_flight);
            let round_trip = self.baseline.line(baseline::ROUND_TRIP, in_flight);
            if let Some((writes, round_trip)) = writes.zip(round_trip) {
                let median_us = writes.spread.p50_us + round_trip.spread.p50_us;
                line.baseline_medians = Some(line.spread.p50_us as f64 / median_us as f64);
                line.baseline_rate_share = Some(line.rate_per_second / writes.rate_per_second);
            }
        }
    }

    /// The suite for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { allocators, baseline, seeded, lines, winners, same_repeats, violations } = self;
        let mut text = baseline.text();
        // Writing into a String cannot fail, here and below.
        let _ = writeln!(text, "  (each line the better one of before and after the claims)");
        let _ = writeln!(text, "\n{allocators} allocators");
        if let Some(seeded) = seeded {
            let _ = writeln!(text, "{}", seeded.text());
        }
        let mut table = Table::new([
            "claims",
            "call",
            "outcome",
            "count",
            "per s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
            "× baseline p50",
            "% of baseline rate",
        ]);
        for line in lines {
            let Spread { count, mean_us: _, p50_us, p90_us: _, p99_us, p999_us, max_us } = line.spread;
            let ratio = |ratio: Option<f64>, digits: usize| {
                ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.digits$}"))
            };
            table.push([
                line.case.to_owned(),
                line.call.as_str().to_owned(),
                line.outcome.to_owned(),
                count.to_string(),
                format!("{:.0}", line.rate_per_second),
                milliseconds(p50_us),
                milliseconds(p99_us),
                milliseconds(p999_us),
                milliseconds(max_us),
                ratio(line.baseline_medians, 2),
                ratio(line.baseline_rate_share.map(|share| share * 100.0), 0),
            ]);
        }
        let _ = writeln!(text, "\n{}", table.text());
        let broken = violations.len();
        let _ = writeln!(
            text,
            "  checked: {winners} winners, {same_repeats} equal repeats, {broken} broken promises"
        );
        for violation in violations {
            let _ = writeln!(text, "  BROKEN: {violation}");
        }
        text
    }
}
