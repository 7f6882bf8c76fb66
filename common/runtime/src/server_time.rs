//! The time of the NATS server, measured against the clock of this process.
//!
//! Between two measurements the server's time advances by the monotonic clock. So a jump of the wall clock is noticed
//! at once, and values that use the server's time are not affected.

use parking_lot::Mutex;
use ports::clock::Clock;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// How fast the monotonic clock may drift from the server's: a millisecond per second, ten times a poor crystal.
const DRIFT_PER_MILLE: u32 = 1;
/// The server's time is compared in whole milliseconds.
const RESOLUTION: Duration = Duration::from_millis(1);

/// The measured time of the server.
#[derive(Debug)]
pub struct ServerTime {
    clock: Arc<dyn Clock>,
    skew_max: Option<Duration>,
    last: Mutex<Option<Measurement>>,
}

/// The server's time at one moment of the monotonic clock, with its error bound.
#[derive(Clone, Copy, Debug)]
struct Measurement {
    server_ms: u64,
    at: Duration,
    bound: Duration,
}

// === impl ServerTime ===

impl ServerTime {
    /// A state without measurements. With `skew_max`, a clock that differs by more is not trusted; without it, nothing
    /// is compared, and the clock of this process counts as the server's.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, skew_max: Option<Duration>) -> Self {
        Self { clock, skew_max, last: Mutex::new(None) }
    }

    /// Whether clocks are compared.
    #[must_use]
    pub const fn is_compared(&self) -> bool {
        self.skew_max.is_some()
    }

    /// Adds a measurement: an answer that states `server_ms` has just arrived; it was requested at `asked` on the
    /// monotonic clock.
    pub fn note(&self, asked: Duration, server_ms: u64) {
        let half = self.clock.monotonic().saturating_sub(asked) / 2;
        let new = Measurement { server_ms, at: asked.saturating_add(half), bound: half + RESOLUTION };
        let mut last = self.lock();
        // A slow answer is less precise than an older quick one; it replaces the old one only if both cannot be right.
        let is_better = last.is_none_or(|old| {
            let (guess_ms, bound) = old.at(new.at);
            new.bound <= bound || guess_ms.abs_diff(server_ms) > millis(bound + new.bound)
        });
        if is_better {
            *last = Some(new);
        }
    }

    /// The server's time, in milliseconds since the Unix epoch; that of this process while it is not measured.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.measured().map_or_else(|| self.clock.now_ms(), |(server_ms, _)| server_ms)
    }

    /// The earliest and latest possible time of the server now; none while it is not measured.
    #[must_use]
    pub fn range_ms(&self) -> Option<(u64, u64)> {
        self.measured().map(|(server_ms, bound)| {
            (server_ms.saturating_sub(millis(bound)), server_ms.saturating_add(millis(bound)))
        })
    }

    /// By how many milliseconds this process's clock is ahead of the server's; negative if it is behind.
    #[must_use]
    pub fn skew_ms(&self) -> Option<i64> {
        let (server_ms, _) = self.measured()?;
        let ahead = i128::from(self.clock.now_ms()) - i128::from(server_ms);
        i64::try_from(ahead).ok()
    }

    /// Why the clock of this process is not trusted; none if it is, or if nothing has been measured.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let skew_max = self.skew_max?;
        let (_, bound) = self.measured()?;
        let skew_ms = self.skew_ms()?;
        let is_beyond = skew_ms.unsigned_abs() > millis(skew_max.saturating_add(bound));
        is_beyond.then(|| {
            let seconds = skew_ms.unsigned_abs().saturating_add(500) / 1_000;
            let side = if skew_ms > 0 { "ahead of" } else { "behind" };
            let max = skew_max.as_secs();
            format!("the clock is {seconds} s {side} the clock of NATS (CLOCK_SKEW_MAX_SECONDS is {max})")
        })
    }

    fn measured(&self) -> Option<(u64, Duration)> {
        self.skew_max?;
        let last = (*self.lock())?;
        Some(last.at(self.clock.monotonic()))
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Option<Measurement>> {
        self.last.lock()
    }
}

// === impl Measurement ===

impl Measurement {
    /// The server's time at a later moment, with its bound then.
    fn at(self, moment: Duration) -> (u64, Duration) {
        let since = moment.saturating_sub(self.at);
        (self.server_ms.saturating_add(millis(since)), self.bound + since * DRIFT_PER_MILLE / 1_000)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::UnixSeconds;
    use testkit::clock::ManualClock;

    const MAX: Duration = Duration::from_secs(10);

    fn measured(server_ms: u64) -> (ManualClock, ServerTime) {
        let clock = ManualClock::at(UnixSeconds::new(1_000));
        let time = ServerTime::new(Arc::new(clock.clone()), Some(MAX));
        time.note(clock.monotonic(), server_ms);
        (clock, time)
    }

    #[test]
    fn clock_is_trusted_only_within_the_skew_limit() {
        for (server_ms, skew_ms, is_trusted) in [
            (1_000_000, 0, true),
            (990_000, 10_000, true),
            (989_998, 10_002, false),
            (400_000, 600_000, false),
            (1_010_000, -10_000, true),
            (1_010_002, -10_002, false),
        ] {
            let (_, time) = measured(server_ms);
            assert_eq!(
                (time.skew_ms(), time.problem().is_none()),
                (Some(skew_ms), is_trusted),
                "{server_ms}"
            );
            assert_eq!(time.now_ms(), server_ms);
        }
        let (_, time) = measured(400_000);
        assert!(time.problem().unwrap().contains("600 s ahead of"));
    }

    #[test]
    fn unmeasured_skew_is_no_problem() {
        let clock = ManualClock::at(UnixSeconds::new(1_000));
        let unmeasured = ServerTime::new(Arc::new(clock.clone()), Some(MAX));
        let off = ServerTime::new(Arc::new(clock.clone()), None);
        off.note(clock.monotonic(), 1);
        for time in [unmeasured, off] {
            assert_eq!((time.now_ms(), time.range_ms(), time.problem()), (1_000_000, None, None));
        }
    }

    #[test]
    fn error_bound_is_half_the_round_trip_and_grows_with_time() {
        let clock = ManualClock::at(UnixSeconds::new(1_000));
        let time = ServerTime::new(Arc::new(clock.clone()), Some(MAX));
        let asked = clock.monotonic();
        clock.advance(Duration::from_millis(200));
        time.note(asked, 1_000_100);
        assert_eq!(time.range_ms(), Some((1_000_099, 1_000_301)));
        clock.advance(Duration::from_secs(100));
        assert_eq!(time.range_ms(), Some((1_099_999, 1_100_401)));
    }

    #[test]
    fn slow_sample_replaces_a_quick_one_only_if_they_conflict() {
        let (clock, time) = measured(1_000_000);
        let asked = clock.monotonic();
        clock.advance(Duration::from_secs(2));
        time.note(asked, 1_000_500);
        assert_eq!(time.now_ms(), 1_002_000, "the quick answer counts");
        time.note(asked, 700_000);
        assert_eq!(time.now_ms(), 701_000, "the server's clock was set back");
    }
}
