//! Stale removal: sandboxes that the provider has not listed for long become tombstones; found by due time in the
//! index, never by a scan.

use crate::Reconciler;
use crate::listing::Skipped;
use contract::RunStatus;
use contract::{StaleReport, TickOrder};
use domain::{Sandbox, SandboxId, StateName};
use parking_lot::{Mutex, MutexGuard};
use ports::store::{SortRange, StoreError, Write};
use runtime::policy::HOUR_SECONDS;
use runtime::telemetry::Chain;
use std::collections::BTreeSet;
use std::time::Duration;

/// Sandboxes that are remembered for their events; only an outage of days reaches this.
const UNPUBLISHED_MAX: usize = 100_000;

/// Sandboxes that may be tombstones without an event in the event log. They are in no index, so they are remembered
/// until the event is published.
#[derive(Debug, Default)]
pub(crate) struct Unpublished(Mutex<BTreeSet<SandboxId>>);

// === impl Unpublished ===

impl Unpublished {
    fn ids(&self) -> MutexGuard<'_, BTreeSet<SandboxId>> {
        self.0.lock()
    }

    fn note(&self, id: &SandboxId) {
        let mut ids = self.ids();
        if ids.len() < UNPUBLISHED_MAX {
            ids.insert(id.clone());
        }
    }

    fn forget(&self, id: &SandboxId) {
        self.ids().remove(id);
    }
}

// === impl Reconciler ===

impl Reconciler {
    /// One removal. An order may name another grace period than the set one; it is refused if its caller has stopped waiting.
    pub(crate) async fn remove_stale(&self, order: &TickOrder) -> StaleReport {
        let set_hours = self.config.stale_kept.as_secs() / HOUR_SECONDS;
        let grace_period_hours = order.grace_period_hours.unwrap_or(set_hours);
        let mut report = StaleReport { grace_period_hours, ..StaleReport::default() };
        if order.late_by_ms(self.ports.clock.now_ms()).is_some() {
            report.status = RunStatus::Refused;
            report.reason =
                Some("ordered too late: the operator had given up before it could begin".to_owned());
            return report;
        }
        if let (Some(hours), Some(by)) = (order.grace_period_hours, &order.by) {
            tracing::warn!(%by, "{by} has the records removed that were stale for {hours} h");
        }
        let mut skipped = Skipped::default();
        let ended = self.try_remove_stale(&mut report, &mut skipped).await;
        report.unreadable = skipped.count();
        report.deleted = report.removed;
        if let Err(error) = &ended {
            tracing::error!(error = %Chain(error), "the removal of stale sandboxes did not complete");
        }
        report.status = if ended.is_ok() { RunStatus::Completed } else { RunStatus::Failed };
        report.untold = u64::try_from(self.unpublished.ids().len()).unwrap_or(u64::MAX);
        if report.due > 0 {
            tracing::info!(
                due = report.due,
                removed = report.removed,
                raced = report.raced,
                untold = report.untold,
                "{} of {} stale sandboxes removed",
                report.removed,
                report.due,
            );
        }
        report
    }

    async fn try_remove_stale(
        &self,
        report: &mut StaleReport,
        skipped: &mut Skipped,
    ) -> Result<(), StoreError> {
        self.publish_of_former_runs(skipped).await?;
        let grace = Duration::from_secs(report.grace_period_hours.saturating_mul(HOUR_SECONDS));
        let since = self.ports.clock.now().before(grace);
        let mut due = self.walk(StateName::Stale, &SortRange::DueBy(since)).await?;
        while let Some(batch) = due.next(skipped).await? {
            self.remove_batch(batch, report, skipped).await?;
        }
        Ok(())
    }

    /// Turns one page into tombstones, each only if the sandbox is still as the index showed it.
    async fn remove_batch(
        &self,
        batch: Vec<Sandbox>,
        report: &mut StaleReport,
        skipped: &mut Skipped,
    ) -> Result<(), StoreError> {
        for sandbox in batch {
            report.due += 1;
            let now = self.ports.clock.now();
            let purge_at = now.after(self.config.tombstone_kept);
            // Noted first, because a write whose answer is lost may have happened.
            self.unpublished.note(&sandbox.id);
            let write = self.ports.store.forget(&sandbox, None, now, purge_at).await;
            let Some(write) = skipped.unless_unreadable(write)? else { continue };
            let Write::Done(gone) = write else {
                self.unpublished.forget(&sandbox.id);
                report.raced += 1;
                continue;
            };
            report.removed += 1;
            match self.ports.recorder.publish_now(&gone).await {
                Ok(()) => self.unpublished.forget(&gone.id),
                Err(error) => tracing::warn!(
                    sandbox.id = gone.id.as_str(),
                    error = %Chain(&error),
                    "the removal of {} is not in the event log yet; the next run adds it",
                    gone.id,
                ),
            }
        }
        Ok(())
    }

    /// Publishes events that earlier runs could not publish, and only of sandboxes that really became tombstones.
    async fn publish_of_former_runs(&self, skipped: &mut Skipped) -> Result<(), StoreError> {
        let ids: Vec<SandboxId> = self.unpublished.ids().iter().cloned().collect();
        for id in ids {
            let found = self.ports.store.sandbox(&id).await;
            let Some(sandbox) = skipped.unless_unreadable(found)? else { continue };
            let gone = sandbox.filter(|sandbox| sandbox.state.name() == StateName::Deleted);
            let published = match &gone {
                Some(gone) => self.ports.recorder.complete(gone).await,
                None => Ok(0),
            };
            match published {
                Ok(_) => self.unpublished.forget(&id),
                Err(error) => {
                    tracing::warn!(sandbox.id = id.as_str(), error = %Chain(&error), "not published yet");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
