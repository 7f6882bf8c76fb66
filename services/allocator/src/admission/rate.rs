//! How many requests a process finishes in a second while it has all that it can do.

use std::time::{Duration, Instant};

/// Time over which requests are counted.
const WINDOW: Duration = Duration::from_millis(500);
/// Weight of a window that finished more than the average: that more can be done is a fact.
const RISE_WEIGHT: f64 = 0.5;
/// Weight of a window that finished less: it may have been disturbed.
const FALL_WEIGHT: f64 = 0.25;
/// Share of the best rate that is forgotten with each window: half of it in 35 s. What a process could do a moment ago it
/// can do again once the flood of requests that it has to refuse is over.
const BEST_DECAY: f64 = 0.01;
/// Windows from which on the average is trusted.
const TRUSTED_WINDOWS: u32 = 3;
/// How much faster than measured requests are assumed to be finished: a caller who comes somewhat early costs an answer,
/// one that comes late leaves capacity idle.
const HOPE: f64 = 1.05;
/// The same before the average is trusted: work has only begun, and the first of it is slow.
const FIRST_HOPE: f64 = 1.25;

/// The measured rate.
#[derive(Debug, Default)]
pub(super) struct Rate {
    per_second: Option<f64>,
    /// The highest average of the last minute or so.
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
    /// Counts a request that is finished. Says whether that closed a window, so that the rate is a new one.
    pub(super) fn finished(&mut self, now: Instant) -> bool {
        let window = self.window.get_or_insert(Window { began: now, finished: 0 });
        let span = now.saturating_duration_since(window.began);
        window.finished = window.finished.saturating_add(1);
        if span < WINDOW {
            return false;
        }
        // The first of a window began it, so that it is no part of what came within the span.
        let measured = f64::from(window.finished.saturating_sub(1)).max(1.0) / span.as_secs_f64();
        self.window = Some(Window { began: now, finished: 1 });
        self.windows = self.windows.saturating_add(1);
        let average = self.per_second.get_or_insert(measured);
        let weight = if measured > *average { RISE_WEIGHT } else { FALL_WEIGHT };
        *average += weight * (measured - *average);
        self.best_per_second = average.max(self.best_per_second * (1.0 - BEST_DECAY));
        true
    }

    /// There was nothing to wait for: what is counted now is what is asked for, not what can be done.
    pub(super) fn is_idle(&mut self) {
        self.window = None;
    }

    /// The time between two callers who come back, on the short side; none while nothing was measured. They come back
    /// later, so that it follows the best rate and not the present one, which suffers from what is refused now.
    pub(super) fn spacing(&self) -> Option<Duration> {
        let factor = if self.windows < TRUSTED_WINDOWS { FIRST_HOPE } else { HOPE };
        self.per_second.map(|_| Duration::from_secs_f64(1.0 / (self.best_per_second * factor)))
    }

    /// The time until `requests` are finished; none while nothing was measured.
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
