//! A clock that tests move.

use async_trait::async_trait;
use domain::UnixSeconds;
use ports::clock::Clock;
use std::time::Duration;
use tokio::sync::watch;

/// More turns than the longest chain of tasks that wake each other.
const SETTLE_YIELDS: usize = 100;

/// A clock that changes only when it is moved, for tests and simulations.
#[derive(Clone, Debug)]
pub struct ManualClock {
    now_ms: watch::Sender<u64>,
}

/// Lets every task of a test run until it waits for the clock, or for another task that does.
pub async fn settle() {
    for _ in 0..SETTLE_YIELDS {
        tokio::task::yield_now().await;
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: UnixSeconds) -> Self {
        Self { now_ms: watch::Sender::new(now.get().saturating_mul(1_000)) }
    }

    /// Advances the clock and wakes every sleeper whose time has come.
    pub fn advance(&self, span: Duration) {
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.now_ms.send_modify(|now_ms| *now_ms = now_ms.saturating_add(span_ms));
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        *self.now_ms.borrow()
    }

    // It only moves forward.
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now_ms())
    }

    async fn sleep(&self, span: Duration) {
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.sleep_until(self.now_ms().saturating_add(span_ms)).await;
    }

    // By the moment and not by a span, which would be too late if the clock is moved in the meantime.
    async fn sleep_until(&self, moment_ms: u64) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.now_ms.subscribe().wait_for(|now_ms| *now_ms >= moment_ms).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::clock::SystemClock;

    #[tokio::test]
    async fn manual_clock_wakes_sleepers_when_due() {
        let clock = ManualClock::at(UnixSeconds::new(100));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_secs(5)).await;
                clock.now()
            }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        assert_eq!(sleeper.await.unwrap(), UnixSeconds::new(105));
    }

    #[tokio::test]
    async fn past_deadline_is_not_awaited() {
        let clock = ManualClock::at(UnixSeconds::new(100));
        clock.sleep_until(100_000).await;
        SystemClock.sleep_until(SystemClock.now_ms()).await;
    }
}
