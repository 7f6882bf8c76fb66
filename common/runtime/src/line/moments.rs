//! The moments in the state of the line, which its last writer wrote by its own clock. The server says when that was, so
//! a writer whose clock is off holds up the others for no longer than a right one could.

use super::{LineRules, PROBE_LEASE_MS, SLOT_WAIT_MAX_US, after};
use contract::LineState;
use contract::line::Breaker;

/// Difference between a writer's clock and the server's that is left alone: it is smaller than what a call may be
/// late by, and most of it is the way to the server.
const SKEW_LEFT_ALONE_MS: u64 = 1_000;
/// Longest time for which a provider's wish is believed, as the adapter does.
const HELD_MAX_MS: u64 = 3_600_000;

impl LineRules {
    /// The line with nothing in it that lies further from `base_ms`, when it was written, than the rules allow.
    pub fn bounded(&self, line: &LineState, base_ms: u64) -> LineState {
        let mut line = line.clone();
        let base_us = base_ms.saturating_add(SKEW_LEFT_ALONE_MS).saturating_mul(1_000);
        let next_max_us = base_us.saturating_add(SLOT_WAIT_MAX_US).saturating_add(self.spacing_us(&line));
        line.next_us = line.next_us.min(next_max_us);
        line.slowed_ms = line.slowed_ms.min(base_ms.saturating_add(1));
        line.held_until_ms = line.held_until_ms.min(base_ms.saturating_add(HELD_MAX_MS));
        line.failing_since_ms = line.failing_since_ms.min(base_ms);
        line.good_ms = line.good_ms.min(next_max_us / 1_000);
        for forbidden in &mut line.forbidden {
            forbidden.since_ms = forbidden.since_ms.min(base_ms);
        }
        match &mut line.breaker {
            Breaker::Closed => {}
            Breaker::Open { until_ms } => {
                *until_ms = (*until_ms).min(after(base_ms, self.open_max).max(line.held_until_ms));
            }
            Breaker::HalfOpen { until_ms, .. } => {
                *until_ms = (*until_ms).min((next_max_us / 1_000).saturating_add(PROBE_LEASE_MS));
            }
        }
        line
    }
}

/// The line as its writer would have written it by the clock that showed `base_ms` when it did.
#[must_use]
pub fn by_the_clock_of(mut line: LineState, base_ms: u64) -> LineState {
    // Former builds do not say what their clock showed.
    if line.written_ms == 0 || line.written_ms.abs_diff(base_ms) <= SKEW_LEFT_ALONE_MS {
        return line;
    }
    let written_ms = line.written_ms;
    let ms = |moment_ms: u64| match moment_ms {
        // Not set.
        0 => 0,
        _ => moment_ms.saturating_add(base_ms).saturating_sub(written_ms),
    };
    line.next_us = line
        .next_us
        .saturating_add(base_ms.saturating_mul(1_000))
        .saturating_sub(written_ms.saturating_mul(1_000));
    line.slowed_ms = ms(line.slowed_ms);
    line.held_until_ms = ms(line.held_until_ms);
    line.failing_since_ms = ms(line.failing_since_ms);
    line.good_ms = ms(line.good_ms);
    for forbidden in &mut line.forbidden {
        forbidden.since_ms = ms(forbidden.since_ms);
    }
    match &mut line.breaker {
        Breaker::Closed => {}
        // The slot of a probe is its name, and stays.
        Breaker::Open { until_ms } | Breaker::HalfOpen { until_ms, .. } => *until_ms = ms(*until_ms),
    }
    line.written_ms = base_ms;
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::bus::{CallEnd, Turn};
    use std::time::Duration;

    const NOW_MS: u64 = 1_763_683_200_000;
    const AHEAD_MS: u64 = 240_000;
    const RULES: LineRules = LineRules {
        per_minute_max: 60,
        per_minute_min: 6,
        failures_max: 1,
        open_min: Duration::from_secs(10),
        open_max: Duration::from_secs(60),
    };

    /// What a writer leaves whose clock is ahead: a call that ended like that.
    fn left_by_one_ahead(end: CallEnd) -> LineState {
        let now_ms = NOW_MS + AHEAD_MS;
        let (turn, line) = RULES.take(&LineState::default(), None, now_ms);
        let Turn::Go { ticket, .. } = turn else { panic!("{turn:?}") };
        let line = line.unwrap();
        let line = RULES.tell(&line, ticket, "7", end, now_ms).1.unwrap_or(line);
        LineState { written_ms: now_ms, ..line }
    }

    fn wait(line: &LineState, now_ms: u64) -> Duration {
        match RULES.take(line, None, now_ms).0 {
            Turn::Go { wait, .. } | Turn::Later { wait, .. } => wait,
        }
    }

    #[test]
    fn what_a_clock_ahead_has_written_counts_from_when_it_was_written() {
        for (end, until_ms) in [
            (CallEnd::Deleted, 1_020),
            (CallEnd::Failed, 10_000),
            (CallEnd::SlowDown { span: Duration::from_secs(30) }, 30_000),
        ] {
            let line = by_the_clock_of(left_by_one_ahead(end), NOW_MS);
            assert_eq!(RULES.bounded(&line, NOW_MS), line, "nothing is left to be bounded after {end:?}");
            assert!(wait(&line, NOW_MS + until_ms - 1) >= Duration::from_millis(1), "{end:?}");
            assert_eq!(wait(&line, NOW_MS + until_ms), Duration::ZERO, "{end:?}");
        }
    }

    #[test]
    fn what_a_former_build_has_written_is_bounded() {
        let old = |end| by_the_clock_of(LineState { written_ms: 0, ..left_by_one_ahead(end) }, NOW_MS);
        let line = RULES.bounded(&old(CallEnd::Deleted), NOW_MS);
        assert!(wait(&line, NOW_MS) <= Duration::from_millis(4_100), "{line:?}");
        assert_eq!(wait(&line, NOW_MS + 5_100), Duration::ZERO, "it does not move on with the time");
        let line = RULES.bounded(&old(CallEnd::Failed), NOW_MS);
        assert_eq!(wait(&line, NOW_MS + 60_000), Duration::ZERO);
    }

    #[test]
    fn what_a_right_clock_has_written_stays_as_it_is() {
        let mut line = LineState::default();
        while let (Turn::Go { .. }, Some(next)) = RULES.take(&line, None, NOW_MS) {
            line = LineState { written_ms: NOW_MS, ..next };
        }
        for base_ms in [NOW_MS, NOW_MS + 20] {
            assert_eq!(RULES.bounded(&by_the_clock_of(line.clone(), base_ms), base_ms), line);
        }
    }
}
