//! The rate at which a fully loaded process finishes requests.

use std::time::{Duration, Instant};

/// Length of a window in which requests are counted.
const WINDOW: Duration = Duration::from_millis(500);
/// Weight of a window above the average: a higher rate is proven to be possible.
const RISE_WEIGHT: f64 = 0.5;
/// Weight of a window below the average, which may have been disturbed.
const FALL_WEIGHT: f64 = 0.25;
/// Decay of the best rate per window: half of it in 35 s. A process can reach its earlier rate again once the flood of
/// requests to refuse is over.
const BEST_DECAY: f64 = 0.01;
/// Windows after which the average is trusted.
const TRUSTED_WINDOWS: u32 = 3;
/// Factor by which the assumed rate exceeds the measured one: a caller that returns slightly early costs an answer, one
/// that returns late leaves capacity idle.
const HOPE: f64 = 1.05;
/// The same factor before the average is trusted, because the first requests are slow.
const FIRST_HOPE: f64 = 1.25;

/// The measured rate.
#[derive(Debug, Default)]
pub(super) struct Rate {
    per_second: Option<f64>,
    /// The highest average of about the last minute.
    best_per_second: f64,
    windows: u32,
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    finished: u32,
}

// === impl Rate ===

impl Rate {
    /// Counts a finished request. Returns whether a window was closed, which updates the rate.
    pub(super) fn finished(&mut self, now: Instant) -> bool {
        let window = self.window.get_or_insert(Window { began: now, finished: 0 });
        let span = now.saturating_duration_since(window.began);
        window.finished = window.finished.saturating_add(1);
        if span < WINDOW {
            return false;
        }
        // The first request opened the window, so it does not count.
        let measured = f64::from(window.finished.saturating_sub(1)).max(1.0) / span.as_secs_f64();
        self.window = Some(Window { began: now, finished: 1 });
        self.windows = self.windows.saturating_add(1);
        let average = self.per_second.get_or_insert(measured);
        let weight = if measured > *average { RISE_WEIGHT } else { FALL_WEIGHT };
        *average += weight * (measured - *average);
        self.best_per_second = average.max(self.best_per_second * (1.0 - BEST_DECAY));
        true
    }

    /// No request waits: the next counts show the demand and not the capacity.
    pub(super) fn is_idle(&mut self) {
        self.window = None;
    }

    /// The time between two returning callers, rather too short; none while nothing was measured. It follows the best
    /// rate, because the current one suffers from the refusals.
    pub(super) fn spacing(&self) -> Option<Duration> {
        let factor = if self.windows < TRUSTED_WINDOWS { FIRST_HOPE } else { HOPE };
        self.per_second.map(|_| Duration::from_secs_f64(1.0 / (self.best_per_second * factor)))
    }

    /// The time in which `requests` are finished; none while nothing was measured.
    pub(super) fn time_for(&self, requests: usize) -> Option<Duration> {
        self.per_second.map(|per_second| Duration::from_secs_f64(requests as f64 / per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rate: &mut Rate, from: Instant, per_second: u32, seconds: u32) -> Instant {
        let step = Duration::from_secs(1) / per_second;
        (1..=per_second * seconds).fold(from, |_, number| {
            let now = from + step * number;
            rate.finished(now);
            now
        })
    }

    #[test]
    fn rate_follows_completions() {
        let mut rate = Rate::default();
        assert_eq!((rate.time_for(1), rate.spacing()), (None, None));
        let now = run(&mut rate, Instant::now(), 100, 10);
        let second = rate.time_for(100).unwrap().as_secs_f64();
        assert!((0.98..1.02).contains(&second), "{second}");
        assert!(rate.spacing().unwrap() < Duration::from_millis(10));
        run(&mut rate, now, 200, 10);
        let second = rate.time_for(200).unwrap().as_secs_f64();
        assert!((0.95..1.05).contains(&second), "{second}");
    }

    #[test]
    fn spacing_follows_the_best_rate_and_forgets_it() {
        let mut rate = Rate::default();
        let now = run(&mut rate, Instant::now(), 100, 10);
        let before = rate.spacing().unwrap();
        let now = run(&mut rate, now, 20, 5);
        assert!(rate.time_for(1).unwrap() > 2 * before);
        assert!(rate.spacing().unwrap() < before.mul_f64(1.2));
        run(&mut rate, now, 20, 200);
        assert!(rate.spacing().unwrap() > 4 * before);
    }

    #[test]
    fn idle_time_is_not_counted() {
        let mut rate = Rate::default();
        let now = run(&mut rate, Instant::now(), 100, 10);
        let before = rate.time_for(100);
        rate.is_idle();
        rate.finished(now + Duration::from_secs(60));
        assert_eq!(rate.time_for(100), before);
    }
}
