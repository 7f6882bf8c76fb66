//! Time as a port: nothing in the fleet asks the machine for the time by itself.

use async_trait::async_trait;
use domain::UnixSeconds;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
