//! Time as a port: no code reads the machine's clock directly.

use async_trait::async_trait;
use domain::UnixSeconds;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The current time, and waiting.
#[async_trait]
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since the Unix epoch: deadlines and durations.
    fn now_ms(&self) -> u64;

    /// Time since a fixed moment of this process. It never jumps, even if the wall clock is set.
    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    /// Waits until `span` has passed on this clock.
    async fn sleep(&self, span: Duration);

    /// Waits until this clock shows `moment_ms`, in milliseconds since the Unix epoch; returns at once if it is later.
    async fn sleep_until(&self, moment_ms: u64) {
        self.sleep(Duration::from_millis(moment_ms.saturating_sub(self.now_ms()))).await;
    }

    /// Whole seconds since the Unix epoch, the unit of stored states.
    fn now(&self) -> UnixSeconds {
        UnixSeconds::new(self.now_ms() / 1_000)
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

// === impl SystemClock ===

#[async_trait]
impl Clock for SystemClock {
    // The only code that reads the machine's clock.
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
