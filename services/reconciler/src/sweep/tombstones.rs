//! The events of deleted sandboxes. Only tombstones contain them, so they are added once after the event log was
//! recreated.

use super::SweepError;
use super::event_log::READS_AT_ONCE_MAX;
use crate::Reconciler;
use crate::listing::{PAGE_LIMIT, Skipped};
use contract::SweepReport;
use domain::Sandbox;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ports::bus::{BusError, EventLogState, Rebuilt};
use ports::store::PageCursor;

/// Pages of the table that one sweep reads; the next sweep continues. With [`PAGE_LIMIT`] items each, a table of
/// 100,000 items takes five sweeps.
pub(super) const PAGES_MAX: usize = 40;

// === impl Reconciler ===

impl Reconciler {
    /// Adds the missing events of tombstones to `event_log`, if it was not rebuilt yet.
    pub(super) async fn sweep_tombstones(
        &self,
        event_log: EventLogState,
        report: &mut SweepReport,
        skipped: &mut Skipped,
    ) -> Result<(), SweepError> {
        let mut after = match &event_log.rebuilt {
            Rebuilt::Done => return Ok(()),
            Rebuilt::Wanted => None,
            // Starts at the beginning if the position is invalid; existing events are not added again.
            Rebuilt::UpTo(place) => PageCursor::parse(place),
        };
        for _ in 0..PAGES_MAX {
            let page = self.ports.store.tombstones(after.as_ref(), PAGE_LIMIT).await?;
            skipped.take(page.unreadable);
            // After a failure the next sweep starts at the same position.
            report.events_filled += self.complete_tombstones(page.sandboxes).await?;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let rebuilt = after.map_or(Rebuilt::Done, |place| Rebuilt::UpTo(place.to_text()));
        // If the event log was recreated again, the next sweep starts from the beginning.
        self.ports.upkeep.note_rebuilt(&EventLogState { rebuilt, ..event_log }).await?;
        Ok(())
    }

    /// The number of missing events. These sandboxes are not remembered as verified, because nothing reads tombstones
    /// again.
    async fn complete_tombstones(&self, tombstones: Vec<Sandbox>) -> Result<u64, BusError> {
        stream::iter(tombstones)
            .map(async |tombstone| self.ports.recorder.complete(&tombstone).await)
            .buffer_unordered(READS_AT_ONCE_MAX)
            .try_fold(0, async |filled, added| Ok(filled + added))
            .await
    }
}
