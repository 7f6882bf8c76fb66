//! A queue of deletion work that only records announcements.

use async_trait::async_trait;
use contract::{DeletionWork, ParkedDeletion};
use domain::SandboxId;
use parking_lot::{Mutex, MutexGuard};
use ports::bus::{Announced, BusError, Deletions};

/// Deletion work in the order of its announcements. Like the real queue it keeps one message per sandbox; no worker
/// consumes them.
#[derive(Debug, Default)]
pub struct RecordedDeletions {
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    queued: Vec<DeletionWork>,
    repeated: usize,
    failures_left: usize,
    failed: usize,
}

/// The answer of a queue that fails on demand.
#[derive(Debug, thiserror::Error)]
#[error("the queue fails on purpose")]
struct Failing;

// === impl RecordedDeletions ===

impl RecordedDeletions {
    /// Makes the next `count` announcements fail.
    pub fn fail(&self, count: usize) {
        self.record().failures_left = count;
    }

    /// The messages.
    #[must_use]
    pub fn queued(&self) -> Vec<DeletionWork> {
        self.record().queued.clone()
    }

    /// The message of that sandbox.
    #[must_use]
    pub fn of(&self, id: &SandboxId) -> Option<DeletionWork> {
        self.record().queued.iter().find(|work| work.sandbox_id == id.as_str()).cloned()
    }

    /// Number of announcements whose sandbox had a message already.
    #[must_use]
    pub fn repeated(&self) -> usize {
        self.record().repeated
    }

    /// Number of failed announcements.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.record().failed
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock()
    }
}

#[async_trait]
impl Deletions for RecordedDeletions {
    async fn announce(&self, work: &DeletionWork) -> Result<Announced, BusError> {
        let mut record = self.record();
        if record.failures_left > 0 {
            record.failures_left -= 1;
            record.failed += 1;
            return Err(BusError { operation: "announce", source: Box::new(Failing) });
        }
        if record.queued.iter().any(|queued| queued.sandbox_id == work.sandbox_id) {
            record.repeated += 1;
            return Ok(Announced::AlreadyQueued);
        }
        record.queued.push(work.clone());
        Ok(Announced::Queued)
    }

    /// Without workers, no deletion can be parked.
    async fn park(&self, _parked: &ParkedDeletion) -> Result<(), BusError> {
        Err(BusError { operation: "park", source: Box::new(Failing) })
    }
}
