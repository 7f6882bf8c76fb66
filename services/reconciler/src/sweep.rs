//! Sweep: the table is the truth; the sweep corrects everything that is derived from it.
//!
//! Afterwards every wanted deletion has a message and every parked one a copy, no message of another sandbox remains,
//! and the event log is complete. Missing streams are created first.

use crate::listing::Skipped;
use crate::{Ports, Reconciler};
use contract::RunStatus;
use contract::SweepReport;
use ports::bus::BusError;
use ports::store::StoreError;
use runtime::switch::{SwitchError, Switchboard};
use runtime::telemetry::Chain;
use std::sync::Arc;
use std::time::Duration;

mod event_log;
mod parked;
mod queue;
mod tombstones;

pub(crate) use event_log::{Due, Verified};

/// Messages read from a stream at once.
const MESSAGES_PAGE: usize = 500;
/// How long parked messages of creations are kept. They are for people only: the record of the sandbox has all that a replay
/// needs.
const PARKED_PROVISION_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Why a sweep did not complete.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the queue failed")]
    Bus(#[from] BusError),
    #[error("the operators' switch could not be brought in line")]
    Switch(#[from] SwitchError),
}

// === impl Reconciler ===

impl Reconciler {
    pub(crate) async fn sweep(&self) -> SweepReport {
        let mut report = SweepReport::default();
        let mut skipped = Skipped::default();
        let ended = self.try_sweep(&mut report, &mut skipped).await;
        report.unreadable = skipped.count();
        if let Err(error) = &ended {
            tracing::error!(error = %Chain(error), "the sweep did not complete");
        }
        report.status = if ended.is_ok() { RunStatus::Completed } else { RunStatus::Failed };
        let mended = report.reannounced + report.unqueued + report.reparked + report.unparked;
        if mended > 0 || report.events_filled > 0 {
            tracing::warn!(
                pending = report.pending,
                reannounced = report.reannounced,
                unqueued = report.unqueued,
                parked = report.parked,
                reparked = report.reparked,
                unparked = report.unparked,
                events_filled = report.events_filled,
                "the sweep repaired {mended} messages and added {} missing events",
                report.events_filled,
            );
        }
        report
    }

    async fn try_sweep(&self, report: &mut SweepReport, skipped: &mut Skipped) -> Result<(), SweepError> {
        self.ports.upkeep.mend().await?;
        self.sweep_switch().await?;
        self.request_periods().await?;
        let wanted = self.sweep_queue(report, skipped).await?;
        self.sweep_parked(report, skipped).await?;
        self.sweep_parked_provisions().await?;
        let event_log = self.ports.upkeep.event_log_state().await?;
        self.verified.compare(&event_log.made);
        self.sweep_event_log(report, skipped).await?;
        self.sweep_tombstones(event_log, report, skipped).await?;
        self.count_ended(&wanted, report, skipped).await
    }
}

impl Reconciler {
    /// Repairs the copy of the operators' switch after a lost bucket or an interrupted change.
    async fn sweep_switch(&self) -> Result<(), SweepError> {
        let Ports { store, switch, clock, .. } = &self.ports;
        let switchboard = Switchboard::new(Arc::clone(store), Arc::clone(switch), Arc::clone(clock));
        if switchboard.settle().await? {
            tracing::info!("the copy of the operators' switch in NATS was corrected");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
