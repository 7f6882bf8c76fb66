//! Time as a port: nothing in the fleet asks the machine for the time by itself.

use crate::domain::UnixSeconds;
use async_trait::async_trait;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

mod server_time;

pub use server_time::ServerTime;

/// The current time, and waiting.
#[async_trait]
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since the Unix epoch: deadlines and durations.
    fn now_ms(&self) -> u64;

    /// Time since some fixed moment of this process. It never steps, whatever is done to the wall clock.
    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    /// Waits until `span` has gone by on this clock.
    async fn sleep(&self, span: Duration);

    /// Waits until this clock shows `moment_ms`, in milliseconds since the Unix epoch; not at all if it does.
    async fn sleep_until(&self, moment_ms: u64) {
        self.sleep(Duration::from_millis(moment_ms.saturating_sub(self.now_ms()))).await;
    }

    /// Whole seconds since the Unix epoch: what states record.
    fn now(&self) -> UnixSeconds {
        UnixSeconds::new(self.now_ms() / 1_000)
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// A clock that stands still until it is moved: time in tests and simulations.
#[derive(Clone, Debug)]
pub struct ManualClock {
    now_ms: watch::Sender<u64>,
}

// === impl SystemClock ===

#[async_trait]
impl Clock for SystemClock {
    // The one place that reads the machine's clock; everything else goes through the port.
    #[expect(clippy::disallowed_methods, reason = "this is the adapter behind the Clock port")]
    fn now_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }

    async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: UnixSeconds) -> Self {
        Self { now_ms: watch::Sender::new(now.get().saturating_mul(1_000)) }
    }

    /// Moves the clock on and wakes every sleeper whose time has come.
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

    // It is moved forward only.
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now_ms())
    }

    async fn sleep(&self, span: Duration) {
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.sleep_until(self.now_ms().saturating_add(span_ms)).await;
    }

    // By the moment and not by a span, or a clock that is moved meanwhile would make it too late.
    async fn sleep_until(&self, moment_ms: u64) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.now_ms.subscribe().wait_for(|now_ms| *now_ms >= moment_ms).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_sleepers_when_their_time_has_come() {
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
    async fn a_moment_that_has_come_is_not_waited_for() {
        let clock = ManualClock::at(UnixSeconds::new(100));
        clock.sleep_until(100_000).await;
        SystemClock.sleep_until(SystemClock.now_ms()).await;
    }
}
