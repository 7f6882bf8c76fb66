//! A queue of work that creates sandboxes and only records it.

use async_trait::async_trait;
use contract::ProvisionWork;
use parking_lot::Mutex;
use ports::bus::{Announced, BusError, Provisions};

/// Work in the order of its announcements. Like the real queue it keeps one message per sandbox; no runner consumes them.
#[derive(Debug, Default)]
pub struct RecordedProvisions(Mutex<Vec<ProvisionWork>>);

impl RecordedProvisions {
    /// The messages.
    #[must_use]
    pub fn queued(&self) -> Vec<ProvisionWork> {
        self.0.lock().clone()
    }
}

#[async_trait]
impl Provisions for RecordedProvisions {
    async fn announce(&self, work: &ProvisionWork) -> Result<Announced, BusError> {
        let mut queued = self.0.lock();
        if queued.iter().any(|known| known.sandbox_id == work.sandbox_id) {
            return Ok(Announced::AlreadyQueued);
        }
        queued.push(work.clone());
        Ok(Announced::Queued)
    }
}
