//! Sweep: every wanted deletion has a message, because the state is the truth and messages can be lost.

use crate::Reconciler;
use common::bus::{Announced, BusError};
use common::contract::reports::{COMPLETED, FAILED};
use common::contract::{DeletionWork, SweepReport};
use common::domain::{Sandbox, StateName};
use common::runtime::telemetry::Chain;
use common::store::{SortRange, StoreError};

/// Why a sweep did not complete.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the queue failed")]
    Bus(#[from] BusError),
}

// === impl Reconciler ===

impl Reconciler {
    pub(crate) async fn sweep(&self) -> SweepReport {
        let mut report = SweepReport::default();
        let ended = self.try_sweep(&mut report).await;
        if let Err(error) = &ended {
            tracing::error!(error = %Chain(error), "the sweep did not complete");
        }
        report.status = if ended.is_ok() { COMPLETED } else { FAILED }.to_owned();
        if report.reannounced > 0 {
            tracing::warn!(
                pending = report.pending,
                reannounced = report.reannounced,
                "{} deletions had no message and were announced again",
                report.reannounced,
            );
        }
        report
    }

    async fn try_sweep(&self, report: &mut SweepReport) -> Result<(), SweepError> {
        let requested_by = self.ports.clock.now().before(self.config.sweep_after);
        let mut pending = self.walk(StateName::PendingDeletion, &SortRange::DueBy(requested_by)).await?;
        while let Some(batch) = pending.next().await? {
            self.announce_batch(batch, report).await?;
        }
        Ok(())
    }

    /// Announces the deletions of one page; the queue itself keeps out a second message of the same sandbox.
    async fn announce_batch(&self, batch: Vec<Sandbox>, report: &mut SweepReport) -> Result<(), SweepError> {
        for sandbox in batch {
            let Some(work) = DeletionWork::of(&sandbox) else { continue };
            report.pending += 1;
            match self.ports.deletions.announce(&work).await? {
                Announced::Queued => report.reannounced += 1,
                Announced::AlreadyQueued => report.waiting += 1,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
