//! The back-off of everything that repeats: each pause may be twice as long as the one before it, up to a maximum.

use backon::{BackoffBuilder as _, ExponentialBuilder};
use std::time::Duration;

/// Doublings after which every pause has reached its maximum.
const DOUBLINGS_MAX: u32 = 20;

/// The longest pause after `failures` in a row: `min` after the first, doubled with each further one, at most `max`.
/// Callers that may have failed together add jitter ([`crate::random::full_jitter`]).
#[must_use]
pub fn longest_pause(min: Duration, max: Duration, failures: u32) -> Duration {
    let mut pauses =
        ExponentialBuilder::default().with_min_delay(min).with_max_delay(max).without_max_times().build();
    let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
    let pause = pauses.nth(doublings as usize).unwrap_or(max).min(max);
    // `backon` multiplies by an `f32`, which leaves a few nanoseconds too much.
    Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_the_minimum_to_the_maximum() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let pauses = [0, 1, 2, 3, 4, 5, u32::MAX].map(|failures| longest_pause(min, max, failures));
        assert_eq!(pauses, [100, 100, 200, 400, 800, 1_000, 1_000].map(Duration::from_millis));
        assert_eq!(longest_pause(max, min, 1), min);
        assert_eq!(longest_pause(Duration::ZERO, max, 9), Duration::ZERO);
    }
}
