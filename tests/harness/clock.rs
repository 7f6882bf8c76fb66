//! A clock that follows the machine's and can be moved forward: hours pass at once in a test, while real waiting
//! (deadlines, rates) still works.

use async_trait::async_trait;
use ports::clock::{Clock, SystemClock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The machine's clock with an offset.
#[derive(Clone, Debug, Default)]
pub struct ShiftedClock {
    ahead_ms: Arc<AtomicU64>,
}

// === impl ShiftedClock ===

impl ShiftedClock {
    /// Moves the clock forward.
    pub fn advance(&self, span: Duration) {
        self.ahead_ms.fetch_add(span.as_millis() as u64, Ordering::SeqCst);
    }

    /// Removes the offset.
    pub fn set_right(&self) {
        self.ahead_ms.store(0, Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for ShiftedClock {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms() + self.ahead_ms.load(Ordering::SeqCst)
    }

    async fn sleep(&self, span: Duration) {
        SystemClock.sleep(span).await;
    }
}
