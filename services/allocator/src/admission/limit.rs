//! The limit of concurrent requests: additive increase, multiplicative decrease on measured latency.

use std::time::{Duration, Instant};

/// Lowest limit: enough to notice that the store is fast again.
const LIMIT_MIN: usize = 4;
/// Limit before anything was measured. It doubles in each round, so that a fast store soon has as many requests as it
/// can serve, and a slow one is not flooded before its first answer.
const LIMIT_START: usize = 16;
/// Factor of a mild decrease.
const DECREASE: f64 = 0.85;
/// Factor of the strongest decrease, however far the latency is above the target.
const DECREASE_MAX: f64 = 0.4;
/// Time until a decrease shows in the latency; an earlier second decrease would react to the same congestion.
const DECREASE_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Weight of one request in the average latency.
const LATENCY_WEIGHT: f64 = 0.1;

/// The adaptive limit of one process.
#[derive(Debug)]
pub(super) struct Limit {
    current: f64,
    max: f64,
    target: Duration,
    latency_seconds: Option<f64>,
    decreased_at: Option<Instant>,
    /// Until the first sign of congestion the limit doubles in each round, later it grows by one.
    has_seen_congestion: bool,
}

// === impl Limit ===

impl Limit {
    pub(super) fn new(max: usize, target: Duration) -> Self {
        let max = max.max(1);
        Self {
            current: LIMIT_START.min(max) as f64,
            max: max as f64,
            target,
            latency_seconds: None,
            decreased_at: None,
            has_seen_congestion: false,
        }
    }

    pub(super) fn current(&self) -> usize {
        self.current as usize
    }

    /// The average latency of the last requests; none before the first.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency_seconds.map(Duration::from_secs_f64)
    }

    /// Learns from one request. `failed`: the store was too slow or refused it. `is_used`: as many requests as the
    /// limit allows were running; otherwise the request says nothing about a higher limit.
    pub(super) fn observe(&mut self, now: Instant, latency: Duration, failed: bool, is_used: bool) {
        let seconds = latency.as_secs_f64();
        let average = self.latency_seconds.get_or_insert(seconds);
        *average += LATENCY_WEIGHT * (seconds - *average);
        if failed || Duration::from_secs_f64(*average) > self.target {
            self.decrease(now, latency);
        } else if is_used {
            let step = if self.has_seen_congestion { 1.0 / self.current } else { 1.0 };
            self.current = (self.current + step).min(self.max);
        }
    }

    fn decrease(&mut self, now: Instant, latency: Duration) {
        let pause = latency.max(DECREASE_PAUSE_MIN);
        if self.decreased_at.is_some_and(|at| now.saturating_duration_since(at) < pause) {
            return;
        }
        self.has_seen_congestion = true;
        self.decreased_at = Some(now);
        let average = self.latency_seconds.unwrap_or_default();
        let part = (self.target.as_secs_f64() / average).clamp(DECREASE_MAX, DECREASE);
        self.current = (self.current * part).max((LIMIT_MIN as f64).min(self.max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(300);
    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn limit_grows_under_load_at_low_latency() {
        let now = Instant::now();
        let mut limit = Limit::new(512, TARGET);
        limit.observe(now, 10 * MS, false, false);
        assert_eq!(limit.current(), LIMIT_START);
        for _ in 0..1_000 {
            limit.observe(now, 10 * MS, false, true);
        }
        assert_eq!(limit.current(), 512);
    }

    #[test]
    fn latency_and_failures_lower_the_limit_once_per_round() {
        let mut now = Instant::now();
        let mut limit = Limit::new(512, TARGET);
        for _ in 0..10 {
            limit.observe(now, 310 * MS, false, true);
        }
        assert_eq!(limit.current(), (LIMIT_START as f64 * DECREASE) as usize);
        now += 61 * SECOND;
        limit.observe(now, 60 * SECOND, false, true);
        assert_eq!(limit.current(), (LIMIT_START as f64 * DECREASE * DECREASE_MAX) as usize);
        for _ in 0..100 {
            now += 500 * MS;
            limit.observe(now, MS, true, true);
        }
        assert_eq!(limit.current(), LIMIT_MIN);
        assert_eq!(Limit::new(1, TARGET).current(), 1);
    }

    /// A store that answers `rate` requests per second: latency = concurrent requests / rate.
    #[test]
    fn limit_settles_at_the_target_latency() {
        let rate = 140.0;
        let mut now = Instant::now();
        let mut limit = Limit::new(512, TARGET);
        let mut highest: f64 = 0.0;
        for step in 0..5_000 {
            now += Duration::from_secs_f64(1.0 / rate);
            let latency = limit.current() as f64 / rate;
            limit.observe(now, Duration::from_secs_f64(latency), false, true);
            if step > 1_000 {
                highest = highest.max(latency);
            }
        }
        assert!(highest < 0.45, "{highest}");
        assert!(limit.current() >= 25, "{}", limit.current());
    }
}
