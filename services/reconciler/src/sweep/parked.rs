//! Parked copies: one for each sandbox that is `deletion_failed`, and none for any other.

use super::{MESSAGES_PAGE, PARKED_PROVISION_KEPT, SweepError};
use crate::Reconciler;
use crate::listing::{LISTING_MAX, Skipped};
use contract::{ParkedDeletion, SweepReport};
use domain::{Sandbox, SandboxId, State, StateName};
use ports::bus::{Announced, ParkedKey, ParkedMessage};
use ports::store::SortRange;
use std::collections::{BTreeMap, BTreeSet};

// === impl Reconciler ===

impl Reconciler {
    /// Each difference is checked against the table, because index and stream may both lag behind it.
    pub(super) async fn sweep_parked(
        &self,
        report: &mut SweepReport,
        skipped: &mut Skipped,
    ) -> Result<(), SweepError> {
        let copies = self.parked_copies().await?;
        report.parked = u64::try_from(copies.len()).unwrap_or(u64::MAX);
        let mut failed = BTreeSet::new();
        let mut walk = self.walk(StateName::DeletionFailed, &SortRange::All).await?;
        while let Some(page) = walk.next(skipped).await? {
            for Sandbox { id, .. } in page {
                if !copies.contains_key(&id) {
                    self.park_again(&id, report, skipped).await?;
                }
                failed.insert(id);
            }
        }
        for (id, copy) in copies {
            if !failed.contains(&id) {
                self.remove_copy(&id, &copy, report, skipped).await?;
            }
        }
        Ok(())
    }

    /// Removes old messages of creations. Nothing else reads or removes them.
    pub(super) async fn sweep_parked_provisions(&self) -> Result<(), SweepError> {
        let before = self.ports.clock.now().before(PARKED_PROVISION_KEPT);
        let count = self.ports.upkeep.drop_parked_provisions(before, MESSAGES_PAGE).await?;
        if count > 0 {
            tracing::info!(count, "{count} old messages of parked creations were removed");
        }
        Ok(())
    }

    async fn parked_copies(&self) -> Result<BTreeMap<SandboxId, ParkedMessage>, SweepError> {
        let mut copies = BTreeMap::new();
        let mut after = 0;
        loop {
            let page = self.ports.upkeep.parked(None, after, MESSAGES_PAGE).await?;
            let is_last = page.len() < MESSAGES_PAGE || copies.len() > LISTING_MAX;
            for message in page {
                after = message.sequence;
                if let ParkedKey::Sandbox { pool: _, id } = &message.key {
                    copies.insert(id.clone(), message);
                }
            }
            if is_last {
                return Ok(copies);
            }
        }
    }

    async fn park_again(
        &self,
        id: &SandboxId,
        report: &mut SweepReport,
        skipped: &mut Skipped,
    ) -> Result<(), SweepError> {
        let found = self.ports.store.sandbox(id).await;
        let Some(sandbox) = skipped.unless_unreadable(found)? else { return Ok(()) };
        let Some(parked) = sandbox.as_ref().and_then(ParkedDeletion::of) else { return Ok(()) };
        if self.ports.upkeep.park_again(&parked).await? == Announced::Queued {
            report.reparked += 1;
        }
        Ok(())
    }

    /// A recent copy may belong to a reaper that is about to update the table.
    async fn remove_copy(
        &self,
        id: &SandboxId,
        copy: &ParkedMessage,
        report: &mut SweepReport,
        skipped: &mut Skipped,
    ) -> Result<(), SweepError> {
        if copy.parked_at > self.ports.clock.now().before(self.config.sweep_after) {
            return Ok(());
        }
        let found = self.ports.store.sandbox(id).await;
        // It may be parked all the same.
        let Some(sandbox) = skipped.unless_unreadable(found)? else { return Ok(()) };
        let is_failed = sandbox.is_some_and(|sandbox| matches!(sandbox.state, State::DeletionFailed(_)));
        if !is_failed && self.ports.upkeep.unpark(copy.sequence).await? {
            report.unparked += 1;
        }
        Ok(())
    }
}
