//! Completes the event log for every sandbox.

use super::SweepError;
use crate::Reconciler;
use crate::listing::Skipped;
use contract::SweepReport;
use domain::{Sandbox, SandboxId, StateName, Version};
use futures_util::{StreamExt as _, stream};
use parking_lot::{Mutex, MutexGuard};
use ports::bus::BusError;
use ports::store::{SortRange, StoreError};
use runtime::telemetry::Chain;
use std::collections::BTreeMap;

/// Sandboxes with a remembered version, about 100 bytes each.
const VERIFIED_MAX: usize = 200_000;
/// Sandboxes that are compared with the event log concurrently.
pub(super) const READS_AT_ONCE_MAX: usize = 16;
/// Sandboxes that a sync keeps for comparing them with the event log after its writes, about 2 KiB each. If there are
/// more, it reads the index of the free ones again.
const DUE_MAX: usize = 2_000;
/// States of sandboxes that are in use or being deleted. The sync checks the free ones.
const STATES: [StateName; 7] = [
    StateName::PendingDeletion,
    StateName::DeletionFailed,
    StateName::Allocated,
    StateName::Stale,
    StateName::Quarantined,
    StateName::Provisioning,
    StateName::ProvisionFailed,
];

/// The version up to which the events of a sandbox were found in the event log, so that unchanged sandboxes cost
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    versions: Mutex<BTreeMap<SandboxId, Version>>,
    /// The event log that these versions are about.
    event_log: Mutex<String>,
}

/// Sandboxes of a sync that have to be compared with the event log.
#[derive(Debug, Default)]
pub(crate) struct Due {
    sandboxes: Vec<Sandbox>,
    overflowed: bool,
}

// === impl Verified ===

impl Verified {
    /// Forgets everything if the event log was recreated, whichever process did it.
    pub(crate) fn compare(&self, event_log: &str) {
        let mut known = self.event_log.lock();
        if *known != event_log {
            event_log.clone_into(&mut known);
            self.versions().clear();
        }
    }

    fn has(&self, sandbox: &Sandbox) -> bool {
        self.versions().get(&sandbox.id).is_some_and(|version| *version >= sandbox.version)
    }

    fn note(&self, sandbox: &Sandbox) {
        let mut versions = self.versions();
        if versions.len() >= VERIFIED_MAX {
            // Deleted sandboxes are never removed one by one; the others are soon verified again.
            versions.clear();
        }
        versions.insert(sandbox.id.clone(), sandbox.version);
    }

    fn versions(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Version>> {
        self.versions.lock()
    }
}

// === impl Reconciler ===

impl Reconciler {
    /// Continues with the other sandboxes after a failure and reports it at the end.
    pub(super) async fn sweep_event_log(
        &self,
        report: &mut SweepReport,
        skipped: &mut Skipped,
    ) -> Result<(), SweepError> {
        let mut failure = None;
        let mut walk = self.walk_ranges(&STATES, |_, _| SortRange::All).await?;
        while let Some(page) = walk.next(skipped).await? {
            let (filled, error) = self.complete_event_log(page).await;
            report.events_filled += filled;
            failure = failure.or(error);
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Keeps those sandboxes of a page that have to be compared with the event log; a sync has read the page anyway.
    pub(crate) fn note_due(&self, page: Vec<Sandbox>, due: &mut Due) {
        let place = DUE_MAX.saturating_sub(due.sandboxes.len());
        let mut found = page.into_iter().filter(|sandbox| self.is_due(sandbox));
        due.sandboxes.extend(found.by_ref().take(place));
        due.overflowed |= found.next().is_some();
    }

    /// Completes the event log for the sandboxes of a sync. Nothing depends on it.
    pub(crate) async fn complete_event_log_on_the_way(&self, due: Due) {
        let (mut filled, mut error) = self.complete_event_log(due.sandboxes).await;
        if due.overflowed && error.is_none() {
            match self.complete_free().await {
                Ok((more, failure)) => {
                    filled += more;
                    error = failure;
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the free sandboxes could not be read again")
                }
            }
        }
        if filled > 0 {
            tracing::warn!(events_filled = filled, "{filled} events were missing");
        }
        if let Some(error) = error {
            tracing::warn!(error = %Chain(&error), "the event log could not be completed; the next run continues");
        }
    }

    /// Completes the free sandboxes page by page, until a failure; the sweep checks all others.
    async fn complete_free(&self) -> Result<(u64, Option<BusError>), StoreError> {
        let mut filled = 0;
        let mut walk = self.walk(StateName::Available, &SortRange::All).await?;
        // The sync has counted them.
        let mut skipped = Skipped::default();
        while let Some(page) = walk.next(&mut skipped).await? {
            let (more, failure) = self.complete_event_log(page).await;
            filled += more;
            if failure.is_some() {
                return Ok((filled, failure));
            }
        }
        Ok((filled, None))
    }

    /// Whether the event log may lack an event of it. The writer of a recent change may be about to publish.
    fn is_due(&self, sandbox: &Sandbox) -> bool {
        let published_by = self.ports.clock.now().before(self.config.sweep_after);
        let is_settled = sandbox.history.last().is_none_or(|entry| entry.at <= published_by);
        is_settled && !self.verified.has(sandbox)
    }

    async fn complete_one(&self, sandbox: Sandbox) -> Result<u64, BusError> {
        let added = self.ports.recorder.complete(&sandbox).await?;
        self.verified.note(&sandbox);
        Ok(added)
    }

    /// The number of missing events, and the first failure.
    async fn complete_event_log(&self, sandboxes: Vec<Sandbox>) -> (u64, Option<BusError>) {
        let due: Vec<Sandbox> = sandboxes.into_iter().filter(|sandbox| self.is_due(sandbox)).collect();
        let looks = stream::iter(due).map(|sandbox| self.complete_one(sandbox));
        let (mut filled, mut failure) = (0, None);
        let mut looks = looks.buffer_unordered(READS_AT_ONCE_MAX);
        while let Some(looked) = looks.next().await {
            match looked {
                Ok(added) => filled += added,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        (filled, failure)
    }
}
