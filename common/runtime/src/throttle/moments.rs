//! Corrects the times in the state of the throttle, which its last writer wrote by its local clock. The server states
//! when that was, so that a wrong clock delays the others no longer than a right one could.

use super::{PROBE_LEASE_MS, SLOT_WAIT_MAX_US, ThrottleRules, after};
use contract::ThrottleState;
use contract::throttle::Breaker;

/// Clock difference between writer and server that is ignored. It is less than the allowed delay of a call, and most of
/// it is network time.
const SKEW_LEFT_ALONE_MS: u64 = 1_000;
/// Longest hold requested by a provider that is followed, as in the adapter.
const HELD_MAX_MS: u64 = 3_600_000;

impl ThrottleRules {
    /// Limits every time in the state to what the rules allow after `base_ms`, when it was written.
    pub fn bounded(&self, throttle: &ThrottleState, base_ms: u64) -> ThrottleState {
        let mut throttle = throttle.clone();
        let base_us = base_ms.saturating_add(SKEW_LEFT_ALONE_MS).saturating_mul(1_000);
        let next_max_us = base_us.saturating_add(SLOT_WAIT_MAX_US).saturating_add(self.spacing_us(&throttle));
        throttle.next_us = throttle.next_us.min(next_max_us);
        throttle.slowed_ms = throttle.slowed_ms.min(base_ms.saturating_add(1));
        throttle.held_until_ms = throttle.held_until_ms.min(base_ms.saturating_add(HELD_MAX_MS));
        throttle.failing_since_ms = throttle.failing_since_ms.min(base_ms);
        throttle.good_ms = throttle.good_ms.min(next_max_us / 1_000);
        for forbidden in &mut throttle.forbidden {
            forbidden.since_ms = forbidden.since_ms.min(base_ms);
        }
        match &mut throttle.breaker {
            Breaker::Closed => {}
            Breaker::Open { until_ms } => {
                *until_ms = (*until_ms).min(after(base_ms, self.open_max).max(throttle.held_until_ms));
            }
            Breaker::HalfOpen { until_ms, .. } => {
                *until_ms = (*until_ms).min((next_max_us / 1_000).saturating_add(PROBE_LEASE_MS));
            }
        }
        throttle
    }
}

/// The state as its writer would have written it by a clock that showed `base_ms` at that moment.
#[must_use]
pub fn by_the_clock_of(mut throttle: ThrottleState, base_ms: u64) -> ThrottleState {
    // Older builds do not record their clock.
    if throttle.written_ms == 0 || throttle.written_ms.abs_diff(base_ms) <= SKEW_LEFT_ALONE_MS {
        return throttle;
    }
    let written_ms = throttle.written_ms;
    let ms = |moment_ms: u64| match moment_ms {
        // Not set.
        0 => 0,
        _ => moment_ms.saturating_add(base_ms).saturating_sub(written_ms),
    };
    throttle.next_us = throttle
        .next_us
        .saturating_add(base_ms.saturating_mul(1_000))
        .saturating_sub(written_ms.saturating_mul(1_000));
    throttle.slowed_ms = ms(throttle.slowed_ms);
    throttle.held_until_ms = ms(throttle.held_until_ms);
    throttle.failing_since_ms = ms(throttle.failing_since_ms);
    throttle.good_ms = ms(throttle.good_ms);
    for forbidden in &mut throttle.forbidden {
        forbidden.since_ms = ms(forbidden.since_ms);
    }
    match &mut throttle.breaker {
        Breaker::Closed => {}
        // The slot of a probe is its identity and must not change.
        Breaker::Open { until_ms } | Breaker::HalfOpen { until_ms, .. } => *until_ms = ms(*until_ms),
    }
    throttle.written_ms = base_ms;
    throttle
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::bus::{Admission, CallOutcome};
    use std::time::Duration;

    const NOW_MS: u64 = 1_763_683_200_000;
    const AHEAD_MS: u64 = 240_000;
    const RULES: ThrottleRules = ThrottleRules {
        per_minute_max: 60,
        per_minute_min: 6,
        failures_max: 1,
        open_min: Duration::from_secs(10),
        open_max: Duration::from_secs(60),
    };

    /// The state after a writer whose clock is ahead reported that outcome.
    fn left_by_one_ahead(end: CallOutcome) -> ThrottleState {
        let now_ms = NOW_MS + AHEAD_MS;
        let (admission, throttle) = RULES.acquire(&ThrottleState::default(), None, now_ms);
        let Admission::Go { permit, .. } = admission else { panic!("{admission:?}") };
        let throttle = throttle.unwrap();
        let throttle = RULES.report_outcome(&throttle, permit, "7", end, now_ms).1.unwrap_or(throttle);
        ThrottleState { written_ms: now_ms, ..throttle }
    }

    fn wait(throttle: &ThrottleState, now_ms: u64) -> Duration {
        match RULES.acquire(throttle, None, now_ms).0 {
            Admission::Go { wait, .. } | Admission::Later { wait, .. } => wait,
        }
    }

    #[test]
    fn deadlines_of_a_fast_clock_count_from_their_write_time() {
        for (end, until_ms) in [
            (CallOutcome::Deleted, 1_020),
            (CallOutcome::Failed, 10_000),
            (CallOutcome::SlowDown { span: Duration::from_secs(30) }, 30_000),
        ] {
            let throttle = by_the_clock_of(left_by_one_ahead(end), NOW_MS);
            assert_eq!(
                RULES.bounded(&throttle, NOW_MS),
                throttle,
                "nothing is left to be bounded after {end:?}"
            );
            assert!(wait(&throttle, NOW_MS + until_ms - 1) >= Duration::from_millis(1), "{end:?}");
            assert_eq!(wait(&throttle, NOW_MS + until_ms), Duration::ZERO, "{end:?}");
        }
    }

    #[test]
    fn state_of_an_older_version_is_bounded() {
        let old = |end| by_the_clock_of(ThrottleState { written_ms: 0, ..left_by_one_ahead(end) }, NOW_MS);
        let throttle = RULES.bounded(&old(CallOutcome::Deleted), NOW_MS);
        assert!(wait(&throttle, NOW_MS) <= Duration::from_millis(4_100), "{throttle:?}");
        assert_eq!(wait(&throttle, NOW_MS + 5_100), Duration::ZERO, "it does not move on with the time");
        let throttle = RULES.bounded(&old(CallOutcome::Failed), NOW_MS);
        assert_eq!(wait(&throttle, NOW_MS + 60_000), Duration::ZERO);
    }

    #[test]
    fn state_of_a_correct_clock_is_unchanged() {
        let mut throttle = ThrottleState::default();
        while let (Admission::Go { .. }, Some(next)) = RULES.acquire(&throttle, None, NOW_MS) {
            throttle = ThrottleState { written_ms: NOW_MS, ..next };
        }
        for base_ms in [NOW_MS, NOW_MS + 20] {
            assert_eq!(RULES.bounded(&by_the_clock_of(throttle.clone(), base_ms), base_ms), throttle);
        }
    }
}
