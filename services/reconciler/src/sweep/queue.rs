//! The deletion queue: one message for each wanted deletion, and none for anything else.

use super::{MESSAGES_PAGE, SweepError};
use crate::Reconciler;
use crate::listing::{LISTING_MAX, Skipped};
use contract::{DeletionWork, SweepReport};
use domain::{Epoch, PoolName, SandboxId, State, StateName, UnixSeconds};
use ports::bus::{Announced, QueuedMessage};
use ports::store::SortRange;
use std::collections::{BTreeMap, BTreeSet};

/// Deletions that the index shows as wanted.
pub(super) type Wanted = BTreeMap<SandboxId, DeletionWork>;

// === impl Reconciler ===

impl Reconciler {
    /// The index is read before the queue: a sandbox that is in the index and not in the queue has no message.
    pub(super) async fn sweep_queue(
        &self,
        report: &mut SweepReport,
        skipped: &mut Skipped,
    ) -> Result<Wanted, SweepError> {
        let wanted = self.wanted(skipped).await?;
        let queued = self.clear_queue(&wanted, report, skipped).await?;
        self.announce_missing(&wanted, &queued, report).await?;
        Ok(wanted)
    }

    /// Counts the deletions that ended since the run has read which are wanted.
    pub(super) async fn count_ended(
        &self,
        wanted: &Wanted,
        report: &mut SweepReport,
        skipped: &mut Skipped,
    ) -> Result<(), SweepError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let still_wanted = self.wanted(skipped).await?;
        for id in wanted.keys().filter(|id| !still_wanted.contains_key(*id)) {
            let found = self.ports.store.sandbox(id).await;
            match skipped.unless_unreadable(found)?.flatten().map(|sandbox| sandbox.state) {
                Some(State::Deleted(_)) => report.deleted += 1,
                Some(State::DeletionFailed(_)) => report.failed += 1,
                _ => {}
            }
        }
        Ok(())
    }

    async fn wanted(&self, skipped: &mut Skipped) -> Result<Wanted, SweepError> {
        let mut wanted = Wanted::new();
        let mut pending = self.walk(StateName::PendingDeletion, &SortRange::All).await?;
        while let Some(page) = pending.next(skipped).await? {
            let works =
                page.iter().filter_map(|sandbox| Some((sandbox.id.clone(), DeletionWork::of(sandbox)?)));
            wanted.extend(works);
        }
        Ok(wanted)
    }

    /// Removes messages of sandboxes that moved on, and returns the sandboxes with a correct message.
    async fn clear_queue(
        &self,
        wanted: &Wanted,
        report: &mut SweepReport,
        skipped: &mut Skipped,
    ) -> Result<BTreeSet<SandboxId>, SweepError> {
        let mut queued = BTreeSet::new();
        let mut given_up = BTreeMap::new();
        let mut after = 0;
        loop {
            let page = self.ports.upkeep.queued(after, MESSAGES_PAGE).await?;
            let is_last = page.len() < MESSAGES_PAGE || queued.len() > LISTING_MAX;
            for message in page {
                after = message.sequence;
                // The reapers park messages that cannot be read.
                let Some((id, pool, epoch)) = message.work.as_ref().and_then(|work| work.parts().ok()) else {
                    continue;
                };
                let is_wanted = wanted.get(&id).is_some_and(|work| work.epoch == epoch.get());
                if is_wanted || self.is_still_wanted(&id, epoch, &message, skipped).await? {
                    if !self.is_given_up(&message, &pool, &mut given_up).await? {
                        queued.insert(id);
                    } else if self.ports.upkeep.unqueue(message.sequence).await? {
                        report.unqueued += 1;
                    }
                } else if self.ports.upkeep.unqueue(message.sequence).await? {
                    report.unqueued += 1;
                }
            }
            if is_last {
                return Ok(queued);
            }
        }
    }

    /// Whether the queue has the message but will never deliver it again. Such a message prevents others of its
    /// sandbox, so it is removed and the deletion is announced again.
    async fn is_given_up(
        &self,
        message: &QueuedMessage,
        pool: &PoolName,
        known: &mut BTreeMap<PoolName, u64>,
    ) -> Result<bool, SweepError> {
        // A scheduled message reaches a consumer only when it is due, as another message.
        if message.is_put_off {
            return Ok(false);
        }
        let up_to = match known.get(pool) {
            Some(up_to) => *up_to,
            None => {
                let up_to = self.ports.upkeep.given_up(pool).await?;
                known.insert(pool.clone(), up_to);
                up_to
            }
        };
        if message.sequence > up_to {
            return Ok(false);
        }
        tracing::warn!(
            nats.sequence = message.sequence,
            "a deletion in the queue would never be delivered again; announcing it again"
        );
        Ok(true)
    }

    /// Reads the table, because the index lags behind it.
    async fn is_still_wanted(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        message: &QueuedMessage,
        skipped: &mut Skipped,
    ) -> Result<bool, SweepError> {
        let found = self.ports.store.sandbox(id).await;
        // It may be wanted all the same.
        let Some(found) = skipped.unless_unreadable(found)? else { return Ok(true) };
        let Some(sandbox) = found else { return Ok(false) };
        if matches!(sandbox.state, State::PendingDeletion(_)) && sandbox.epoch == epoch {
            return Ok(true);
        }
        // No process reads a tombstone again after its message is gone.
        self.ports.recorder.complete(&sandbox).await?;
        tracing::info!(
            sandbox.id = id.as_str(),
            nats.sequence = message.sequence,
            sandbox.state = sandbox.state.name().as_str(),
            "{id} is not to be deleted any more; removing its message",
        );
        Ok(false)
    }

    /// Announces deletions that should have a message by now and have none; the queue prevents a second one.
    pub(super) async fn announce_missing(
        &self,
        wanted: &Wanted,
        queued: &BTreeSet<SandboxId>,
        report: &mut SweepReport,
    ) -> Result<(), SweepError> {
        let requested_by = self.ports.clock.now().before(self.config.sweep_after);
        for (id, work) in wanted {
            if UnixSeconds::new(work.requested_at) > requested_by {
                continue;
            }
            report.pending += 1;
            if queued.contains(id) {
                report.waiting += 1;
                continue;
            }
            match self.ports.deletions.announce(work).await? {
                Announced::Queued => report.reannounced += 1,
                Announced::AlreadyQueued => report.waiting += 1,
            }
        }
        Ok(())
    }
}
