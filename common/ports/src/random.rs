//! Randomness as a port, so that a whole run can be repeated from its seed.

use parking_lot::Mutex;
use std::time::Duration;

/// Random numbers.
pub trait Random: Send + Sync + std::fmt::Debug {
    /// A number below `bound`, each equally likely; zero when `bound` is zero.
    fn below(&self, bound: usize) -> usize;

    /// A fresh id, unique across the fleet and ordered by time of making (UUIDv7 text).
    fn fresh_id(&self) -> String {
        uuid::Uuid::now_v7().to_string()
    }
}

/// A seeded generator. Not for secrets.
#[derive(Debug)]
pub struct Rng(Mutex<fastrand::Rng>);

/// Puts `items` into a random order.
pub fn shuffle<T>(random: &dyn Random, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last + 1));
    }
}

/// A random time between zero and `longest`, in whole milliseconds: full jitter, so that callers that failed together
/// do not return together.
#[must_use]
pub fn full_jitter(random: &dyn Random, longest: Duration) -> Duration {
    let longest_ms = usize::try_from(longest.as_millis()).unwrap_or(usize::MAX - 1);
    Duration::from_millis(random.below(longest_ms + 1) as u64)
}

// === impl Rng ===

impl Rng {
    /// A generator with different numbers in every process.
    #[must_use]
    pub fn unseeded() -> Self {
        Self(Mutex::new(fastrand::Rng::new()))
    }

    /// A generator that repeats its numbers after the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }
}

impl Random for Rng {
    fn below(&self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        self.0.lock().usize(..bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        shuffle(&Rng::seeded(7), &mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn jitter_stays_within_its_bound() {
        let rng = Rng::seeded(7);
        let longest = Duration::from_millis(20);
        assert!((0..1_000).all(|_| full_jitter(&rng, longest) <= longest));
        assert_eq!(full_jitter(&rng, Duration::ZERO), Duration::ZERO);
    }
}
