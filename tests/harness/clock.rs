//! A clock that follows the machine's and can be moved forward: hours pass at once in a test, while real waiting
//! (deadlines, rates) still works.

use async_trait::async_trait;
use ports::clock::{Clock, SystemClock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// The machine's clock with an offset.
#[derive(Clone, Debug)]
pub struct ShiftedClock {
    ahead_ms: Arc<AtomicU64>,
    /// What passed at once, which ends waits.
    passed: Arc<watch::Sender<Duration>>,
}

// === impl ShiftedClock ===

impl Default for ShiftedClock {
    fn default() -> Self {
        Self { ahead_ms: Arc::default(), passed: Arc::new(watch::Sender::new(Duration::ZERO)) }
    }
}

impl ShiftedClock {
    /// Moves the clock forward. Waits go on as they were.
    pub fn advance(&self, span: Duration) {
        self.ahead_ms.fetch_add(span.as_millis() as u64, Ordering::SeqCst);
    }

    /// Lets time pass at once, also for those who wait on this clock.
    pub fn pass(&self, span: Duration) {
        self.passed.send_modify(|passed| *passed += span);
    }

    /// Removes the offset.
    pub fn set_right(&self) {
        self.ahead_ms.store(0, Ordering::SeqCst);
    }

    fn passed(&self) -> Duration {
        *self.passed.borrow()
    }
}

#[async_trait]
impl Clock for ShiftedClock {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms() + self.ahead_ms.load(Ordering::SeqCst) + self.passed().as_millis() as u64
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + self.passed()
    }

    async fn sleep(&self, span: Duration) {
        let mut passed = self.passed.subscribe();
        let until = self.monotonic().saturating_add(span);
        loop {
            passed.borrow_and_update();
            let left = until.saturating_sub(self.monotonic());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = SystemClock.sleep(left) => {}
                // The sender lives as long as `self`.
                _ = passed.changed() => {}
            }
        }
    }
}
