//! Expiry: ends leases whose end and grace period have passed; found by due time in the index, never by a scan.

use crate::Reconciler;
use crate::listing::Skipped;
use contract::RunStatus;
use contract::{DeletionWork, ExpiryReport};
use domain::{CLOSED_CLAIM_KEPT, PoolName, Sandbox, StateName};
use ports::store::{SortRange, StoreError, Write};
use runtime::telemetry::Chain;

// === impl Reconciler ===

impl Reconciler {
    pub(crate) async fn expire_leases(&self) -> ExpiryReport {
        let mut report = ExpiryReport::default();
        let mut skipped = Skipped::default();
        let ended = self.try_expire(&mut report, &mut skipped).await;
        report.unreadable = skipped.count();
        if let Err(error) = &ended {
            tracing::error!(error = %Chain(error), "the expiry run did not complete");
        }
        report.status = if ended.is_ok() { RunStatus::Completed } else { RunStatus::Failed };
        if report.due > 0 {
            tracing::info!(
                due = report.due,
                expired = report.expired,
                raced = report.raced,
                "{} of {} leases ended",
                report.expired,
                report.due,
            );
        }
        report
    }

    async fn try_expire(&self, report: &mut ExpiryReport, skipped: &mut Skipped) -> Result<(), StoreError> {
        let (pools, now) = (self.ports.pools.current(), self.ports.clock.now());
        let states = [StateName::Allocated, StateName::Provisioning, StateName::ProvisionFailed];
        let due = |state, pool: &PoolName| match state {
            StateName::Allocated => SortRange::DueBy(pools.leases_of(pool).ended_by(now)),
            // What is being created sorts by the time of its request. There is little of it.
            _ => SortRange::All,
        };
        let mut due = self.walk_ranges(&states, due).await?;
        while let Some(mut batch) = due.next(skipped).await? {
            batch.retain(|sandbox| {
                let grace = pools.leases_of(&sandbox.pool).grace;
                let is_over = || sandbox.lease().is_some_and(|lease| lease.is_over(now, grace));
                sandbox.provision().is_none() || is_over()
            });
            self.expire_batch(batch, report, skipped).await?;
        }
        Ok(())
    }

    /// Ends the leases of one page, each only if it is still the lease that the index showed.
    async fn expire_batch(
        &self,
        batch: Vec<Sandbox>,
        report: &mut ExpiryReport,
        skipped: &mut Skipped,
    ) -> Result<(), StoreError> {
        for sandbox in batch {
            report.due += 1;
            let now = self.ports.clock.now();
            let ended_by = self.ports.pools.current().leases_of(&sandbox.pool).ended_by(now);
            let write = self.ports.store.expire(&sandbox.id, sandbox.epoch, ended_by, now).await;
            let Some(write) = skipped.unless_unreadable(write)? else { continue };
            let Write::Done(expired) = write else {
                report.raced += 1;
                continue;
            };
            report.expired += 1;
            report.unannounced += u64::from(!self.after_lease(&expired).await?);
        }
        Ok(())
    }

    /// What follows the end of a lease: the event, the work for its deletion, and the end of its claim item. False if the work
    /// could not be announced; the sweep will.
    pub(crate) async fn after_lease(&self, ended: &Sandbox) -> Result<bool, StoreError> {
        self.ports.recorder.note(ended, None);
        let Some(work) = DeletionWork::of(ended) else { return Ok(true) };
        let announced = self.ports.deletions.announce(&work).await;
        if let Err(error) = &announced {
            tracing::warn!(sandbox.id = ended.id.as_str(), error = %Chain(error), "not announced yet");
        }
        if let Some(record) = ended.last_claim() {
            let keep_until = self.ports.clock.now().after(CLOSED_CLAIM_KEPT);
            self.ports.store.close_claim(&record, keep_until).await?;
        }
        Ok(announced.is_ok())
    }
}

#[cfg(test)]
mod tests;
