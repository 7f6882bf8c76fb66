//! Promises: when refused callers are asked to return, and that they are admitted then.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Refused requests that are remembered, at about 40 bytes each; a further one gets the same advice, and no precedence
/// when it comes back.
const PROMISES_MAX: usize = 262_144;
/// Pause between two searches for promises that are too old, while there are too many.
const PURGE_PAUSE: Duration = Duration::from_secs(1);
/// Callers come early by as much: advice is in whole seconds.
const EARLY: Duration = Duration::from_secs(1);
/// How long after its time a promise is kept.
const LATE_MAX: Duration = Duration::from_secs(60);
/// Part of the current queue that is finished before the first refused caller returns. The queue has to be short then
/// but not empty, or capacity would be idle.
const QUEUE_PART: f64 = 0.75;

/// The schedule of returning callers.
#[derive(Debug, Default)]
pub(super) struct Promises {
    by_key: HashMap<u64, Instant>,
    /// The return time of the last of them.
    last: Option<Instant>,
    purged: Option<Instant>,
}

/// What was promised to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// Nothing.
    None,
    /// Its time has come.
    Due,
    /// It came early, by this much.
    Early(Duration),
}

// === impl Promises ===

impl Promises {
    /// What was promised to the request with that key.
    pub(super) fn of(&self, now: Instant, key: u64) -> Promise {
        let Some(at) = self.by_key.get(&key).filter(|at| now <= **at + LATE_MAX) else {
            return Promise::None;
        };
        match at.saturating_duration_since(now) {
            left if left <= EARLY => Promise::Due,
            left => Promise::Early(left),
        }
    }

    /// The length of the schedule, which is the waiting time of a new request without a promise.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(now))
    }

    /// The request was admitted.
    pub(super) fn kept(&mut self, key: u64) {
        self.by_key.remove(&key);
    }

    /// Adds a refused request to the schedule and returns the time until its turn. `queue` is the time that the waiting
    /// requests will take, `spacing` the time per request.
    pub(super) fn make(&mut self, now: Instant, key: u64, queue: Duration, spacing: Duration) -> Duration {
        let earliest = now + queue.mul_f64(QUEUE_PART);
        // A request whose time had come was counted when it was refused first.
        let at = match self.of(now, key) {
            Promise::Due => earliest,
            Promise::Early(left) => now + left,
            Promise::None => {
                let at = self.last.map_or(earliest, |last| last.max(earliest)) + spacing;
                self.last = Some(at);
                at
            }
        };
        if self.by_key.len() >= PROMISES_MAX && self.purged.is_none_or(|at| now >= at + PURGE_PAUSE) {
            self.purged = Some(now);
            self.by_key.retain(|_, at| now <= *at + LATE_MAX);
        }
        if self.by_key.len() < PROMISES_MAX || self.by_key.contains_key(&key) {
            self.by_key.insert(key, at);
        }
        at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn refused_callers_get_staggered_retry_times() {
        let now = Instant::now();
        let mut promises = Promises::default();
        let waits: Vec<_> = (0..3).map(|key| promises.make(now, key, 4 * SECOND, SECOND)).collect();
        assert_eq!(waits, [4 * SECOND, 5 * SECOND, 6 * SECOND]);
        assert_eq!(promises.wait(now), 6 * SECOND);
        assert_eq!(promises.of(now, 0), Promise::Early(4 * SECOND));
        assert_eq!(promises.of(now + 3 * SECOND, 0), Promise::Due);
        assert_eq!(promises.of(now, 9), Promise::None);
    }

    #[test]
    fn missed_promise_is_renewed_without_a_longer_queue() {
        let now = Instant::now();
        let mut promises = Promises::default();
        promises.make(now, 1, 4 * SECOND, SECOND);
        let later = now + 4 * SECOND;
        assert_eq!(promises.make(later, 1, 4 * SECOND, SECOND), 3 * SECOND);
        assert_eq!(promises.wait(now), 4 * SECOND, "no further place");
        assert_eq!(promises.make(later, 1, 8 * SECOND, SECOND), 3 * SECOND, "it came early");
        promises.kept(1);
        assert_eq!(promises.of(later, 1), Promise::None);
    }

    #[test]
    fn old_promises_expire_and_their_number_is_bounded() {
        let now = Instant::now();
        let mut promises = Promises::default();
        for key in 0..=PROMISES_MAX as u64 {
            promises.make(now, key, SECOND, Duration::ZERO);
        }
        assert_eq!(promises.by_key.len(), PROMISES_MAX);
        let later = now + LATE_MAX + 2 * SECOND;
        assert_eq!(promises.of(later, 1), Promise::None);
        promises.make(later, 1, SECOND, SECOND);
        assert_eq!(promises.by_key.len(), 1);
    }
}
