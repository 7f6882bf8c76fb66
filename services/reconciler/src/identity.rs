//! Identities during a sync: an account that another record already represents, one that was deleted and is still
//! listed, and an id under which another account is listed.
//!
//! A used account never becomes free again while the provider lists it: its tombstone returns to `pending_deletion`,
//! and its identity outlives the tombstone.

use crate::Reconciler;
use crate::sync::Stepped;
use contract::{DeletionWork, SyncReport};
use domain::{NewSandbox, ProviderName, Sandbox, SandboxId, State, UnixSeconds};
use futures_util::stream::{self, StreamExt as _};
use ports::store::{IDENTITY_ABSENCES_MAX, IDENTITY_SHARDS, Identity, Insert, PageCursor, StoreError, Write};
use runtime::telemetry::Chain;
use std::collections::{BTreeSet, HashSet};

use crate::listing::PAGE_LIMIT;

/// Identity items that are read or written concurrently.
const IDENTITIES_AT_ONCE_MAX: usize = 16;

/// The result for the identity of an account that is not listed.
enum Absent {
    /// A record still represents it.
    Kept,
    Noted,
    Dropped,
}

// === impl Reconciler ===

impl Reconciler {
    /// Decides about a listed account whose insert failed.
    pub(crate) async fn after_insert(
        &self,
        inserted: Insert,
        listed: &NewSandbox,
        now: UnixSeconds,
    ) -> Result<Stepped, StoreError> {
        let found = match inserted {
            Insert::Inserted(entered) => {
                self.ports.recorder.note(&entered, None);
                return Ok(Stepped::Inserted);
            }
            Insert::Exists(found) => *found,
            Insert::Taken(id) => match self.ports.store.sandbox(&id).await? {
                Some(found) => found,
                None => return Ok(taken(listed, &id, "its record no longer exists")),
            },
        };
        let is_same_account = found.external_id == listed.external_id;
        match &found.state {
            State::Deleted(_) if is_same_account => self.after_tombstone(&found, now).await,
            State::Deleted(_) if found.id == listed.id => self.renew(&found, listed, now).await,
            // The index does not show it yet, or an older build did not add its pool to the table.
            _ if is_same_account => {
                if !self.ports.pools.current().contains(&found.pool) {
                    self.ports.store.note_pools(&BTreeSet::from([found.pool])).await?;
                }
                Ok(Stepped::Raced)
            }
            _ => Ok(taken(listed, &found.id, "it represents another account")),
        }
    }

    /// The provider lists an account that it has deleted: the listing lags, or the account was not deleted.
    async fn after_tombstone(&self, gone: &Sandbox, now: UnixSeconds) -> Result<Stepped, StoreError> {
        let State::Deleted(tombstone) = &gone.state else { return Ok(Stepped::Raced) };
        if tombstone.deletion.is_none() {
            return Ok(Stepped::Tombstoned);
        }
        // A tombstone of an older build has no identity, and its purge would make the account free.
        self.ports.store.name_identity(&gone.external_id, &gone.id).await?;
        if now < tombstone.deleted_at.after(self.config.listed_grace) {
            return Ok(Stepped::Tombstoned);
        }
        let Write::Done(relisted) = self.ports.store.relist(gone, now).await? else {
            return Ok(Stepped::Raced);
        };
        tracing::error!(
            sandbox.id = relisted.id.as_str(),
            sandbox.state = relisted.state.name().as_str(),
            "the provider still lists {} although it has accepted its deletion",
            relisted.id,
        );
        self.ports.recorder.note(&relisted, None);
        if let (State::PendingDeletion(_), Some(work)) = (&relisted.state, DeletionWork::of(&relisted))
            && let Err(error) = self.ports.deletions.announce(&work).await
        {
            tracing::warn!(error = %Chain(&error), "not announced; the sweep will");
        }
        Ok(Stepped::Relisted)
    }

    /// Turns a free sandbox, a stale one or a tombstone into the account that is now listed under its id.
    pub(crate) async fn renew(
        &self,
        seen: &Sandbox,
        listed: &NewSandbox,
        now: UnixSeconds,
    ) -> Result<Stepped, StoreError> {
        let store = &self.ports.store;
        match store.reidentify(seen, listed, now).await? {
            Insert::Inserted(renewed) => {
                tracing::warn!(sandbox.id = renewed.id.as_str(), "{} is another account now", renewed.id);
                self.ports.recorder.note(&renewed, None);
                // A used account keeps its identity until it has not been listed for long.
                if !matches!(seen.state, State::Deleted(_))
                    && let Some(former) = store.identity(&seen.external_id).await?
                    && former.named().all(|id| *id == seen.id)
                {
                    store.drop_identity(&former).await?;
                }
                Ok(Stepped::Renewed)
            }
            Insert::Exists(_) => Ok(Stepped::Raced),
            Insert::Taken(id) => {
                // The old account is not listed, and the listed one is not free.
                if seen.state == State::Available
                    && let Write::Done(stale) = store.mark_missing(seen, now).await?
                {
                    self.ports.recorder.note(&stale, None);
                }
                Ok(taken(listed, &id, "it represents the account already"))
            }
        }
    }

    /// Whether a stale sandbox may become free again: it represents its account, and no other record of the account, as
    /// an older build may have made it, is in use or was used.
    pub(crate) async fn may_come_back(&self, stale: &Sandbox) -> Result<bool, StoreError> {
        let store = &self.ports.store;
        let identity = store.name_identity(&stale.external_id, &stale.id).await?;
        for id in identity.named().filter(|id| **id != stale.id) {
            let found = store.sandbox(id).await?;
            let was_used = found.is_some_and(|other| {
                let is_out_of_use = matches!(other.state, State::Stale { .. } | State::Quarantined { .. });
                other.external_id == stale.external_id && !is_out_of_use
            });
            if was_used {
                return Ok(false);
            }
        }
        Ok(identity.sandbox_id == stale.id)
    }

    /// Counts, for each identity, the complete listings in a row without its account, and removes those that no listing
    /// has shown for long and no record represents. `shown` contains what this listing shows.
    pub(crate) async fn drop_absent_identities(
        &self,
        provider: &ProviderName,
        shown: &HashSet<u64>,
        report: &mut SyncReport,
    ) -> Result<(), StoreError> {
        for shard in 0..IDENTITY_SHARDS {
            let mut after: Option<PageCursor> = None;
            // Terminates: every round moves on within one shard.
            loop {
                let page = self.ports.store.identities(provider, shard, after.as_ref(), PAGE_LIMIT).await?;
                let looks =
                    stream::iter(page.identities).map(|identity| self.look_at_identity(identity, shown));
                let mut looks = looks.buffer_unordered(IDENTITIES_AT_ONCE_MAX);
                while let Some(looked) = looks.next().await {
                    report.identities_dropped += u64::from(matches!(looked?, Absent::Dropped));
                }
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn look_at_identity(&self, identity: Identity, shown: &HashSet<u64>) -> Result<Absent, StoreError> {
        let store = &self.ports.store;
        if shown.contains(&crate::plan::mark_of(identity.external_id.as_str())) {
            if identity.absences > 0 {
                store.note_absences(&identity, 0).await?;
            }
            return Ok(Absent::Noted);
        }
        for id in identity.named() {
            let stands_for_it = match store.sandbox(id).await.map_err(StoreError::into_unreadable) {
                Ok(found) => found.is_some_and(|sandbox| {
                    sandbox.external_id == identity.external_id && !matches!(sandbox.state, State::Deleted(_))
                }),
                // An unreadable record may represent the account.
                Err(Ok(_)) => true,
                Err(Err(failure)) => return Err(failure),
            };
            if stands_for_it {
                return Ok(Absent::Kept);
            }
        }
        let absences = identity.absences.saturating_add(1);
        if absences < IDENTITY_ABSENCES_MAX {
            store.note_absences(&identity, absences).await?;
            return Ok(Absent::Noted);
        }
        Ok(if store.drop_identity(&identity).await? { Absent::Dropped } else { Absent::Noted })
    }
}

fn taken(listed: &NewSandbox, by: &SandboxId, why: &str) -> Stepped {
    tracing::error!(
        sandbox.id = listed.id.as_str(),
        "the account listed as {} is not handed out, because of {by}: {why}",
        listed.id,
    );
    Stepped::Taken
}

#[cfg(test)]
mod tests;
