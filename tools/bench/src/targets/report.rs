//! What `bench targets` prints.

use super::verdict::{Baseline, Bound, Engine, Measured, Open, Verdict};
use super::{PREDECESSOR_CALLERS, Sizes};
use crate::rounds::Figures;
use crate::summary::Table;
use serde::Serialize;
use std::fmt::Write as _;

/// What was measured, and which targets it meets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What the table was kept in.
    pub engine: Engine,
    /// How much of everything.
    pub sizes: Sizes,
    /// The medians that are judged.
    pub measured: Measured,
    /// Every target.
    pub verdicts: Vec<Verdict>,
    /// Owners that were given a sandbox, in all of it.
    pub winners: u64,
    /// Broken promises, the first of each measurement.
    pub violations: Vec<String>,
}

/// The table of targets, for people.
pub(crate) fn table_of(verdicts: &[Verdict]) -> String {
    let mut table = Table::new(["measure", "target", "measured", "met"]);
    for Verdict { part, measure, target, measured, is_met } in verdicts {
        let (sign, limit) = match target {
            Bound::AtMost(limit) => ("<=", limit),
            Bound::AtLeast(limit) => (">=", limit),
        };
        let found = measured.map_or_else(|| "-".to_owned(), number);
        let met = if *is_met { "yes" } else { "NO" };
        table.push([
            format!("{part}  {measure}"),
            format!("{sign} {}", number(*limit)),
            found,
            met.to_owned(),
        ]);
    }
    table.text()
}

/// As many digits as say something.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

// === impl Report ===

impl Report {
    /// Whether every target is met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.is_met)
    }

    /// The summary for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { engine, sizes, measured, verdicts, winners, violations } = self;
        let Measured { baseline, claims, repeats, burst, open, distinct: _ } = measured;
        let mut cases = Table::new(["medians of the rounds", "call", "per s", "p50 ms", "p99 ms"]);
        for (calls, call) in [(claims, "claim"), (repeats, "replay")] {
            for (name, figures) in calls {
                let head = [name.as_str().to_owned(), call.to_owned()];
                cases.push(head.into_iter().chain(figures.cells()));
            }
        }
        let Open { pool, rate_per_second, figures, granted, not_granted: _, refusals, late_p99_us, bare } =
            open;
        let head = ["open loop".to_owned(), "claim".to_owned()];
        let figures = Figures { rate_per_second: *rate_per_second, ..*figures };
        cases.push(head.into_iter().chain(figures.cells()));
        let Baseline { round_trip_p50_us, writes_p50_us, concurrent_writes_per_second } = baseline;
        let mut text = format!("\n{}", cases.text());
        // Writing into a String cannot fail, here and below.
        let _ = writeln!(
            text,
            "\n  baseline, medians of {} measurements: round trip {:.2} ms, two writes {:.2} ms; {:.0} such pairs a second \
             with 64 in flight",
            sizes.rounds + 1,
            round_trip_p50_us / 1_000.0,
            writes_p50_us / 1_000.0,
            concurrent_writes_per_second,
        );
        let _ = writeln!(
            text,
            "  {} rounds of {} claims in a case; {} free, {} in the large pool, {pool} for the open loop's {granted}, whose \
             callers were sent at most {:.2} ms late (99 %)",
            sizes.rounds,
            sizes.claims,
            sizes.pool,
            sizes.large_pool,
            late_p99_us / 1_000.0,
        );
        let _ = writeln!(
            text,
            "  the bare writes in an open loop at the same rate: p50 {:.2} ms, p99 {:.2} ms",
            bare.p50_us as f64 / 1_000.0,
            bare.p99_us as f64 / 1_000.0,
        );
        for (what, refusals) in [("open loop", refusals), ("bursts", &burst.refusals)] {
            for (answer, count) in refusals {
                let _ = writeln!(text, "  {what}: {count} without a sandbox, answered {answer}");
            }
        }
        let _ = writeln!(text, "  burst: {} callers in {:.3} s", burst.callers, burst.seconds);
        let predecessor = match engine {
            Engine::Dynoxide => "the embedded engine",
            Engine::DynamodbLocal => "DynamoDB Local",
        };
        let _ = writeln!(
            text,
            "  g: against the predecessor on {predecessor}, with {PREDECESSOR_CALLERS} callers where it says so\n"
        );
        text.push_str(&table_of(verdicts));
        let (met, all) = (verdicts.iter().filter(|verdict| verdict.is_met).count(), verdicts.len());
        let broken = violations.len();
        let _ =
            writeln!(text, "\n  {met} of {all} met; checked: {winners} winners, {broken} broken promises");
        for violation in violations {
            let _ = writeln!(text, "  BROKEN: {violation}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_target_value_and_verdict() {
        let verdicts = [
            Verdict::new('a', "one", Bound::AtMost(1.5), Some(1.234)),
            Verdict::new('b', "two", Bound::AtLeast(760.0), Some(759.6)),
            Verdict::new('c', "three", Bound::AtMost(1.2), None),
        ];
        let text = table_of(&verdicts);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["a", "one", "<=", "1.50", "1.23", "yes"]);
        assert_eq!(lines[2], ["b", "two", ">=", "760", "760", "NO"]);
        assert_eq!(lines[3], ["c", "three", "<=", "1.20", "-", "NO"]);
    }
}
