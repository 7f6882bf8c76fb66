//! Checks that an account has at most one live record.
//!
//! A record of an older build has no identity. The census creates missing identities repeatedly, until every record has
//! one. If two records represent one account, the one in use stays, and free ones are quarantined; nothing is deleted.
//! As with claims, a violation has to be proved: records that kept their versions over two rounds of strongly
//! consistent reads existed at the same time.

use super::CensusError;
use crate::Reconciler;
use crate::listing::{PAGE_LIMIT, Skipped};
use contract::{CensusReport, Violation};
use domain::{Actor, ExternalId, Order, Reason, Sandbox, SandboxId, State, StateName, UnixSeconds};
use futures_util::{StreamExt as _, stream};
use parking_lot::{Mutex, MutexGuard};
use ports::store::{IDENTITY_SHARDS, Identity, SortRange, StoreError, Write};
use std::collections::HashMap;
use std::time::Duration;
use strum::IntoEnumIterator as _;

/// How often all records are compared with the identities, which reads the whole index.
const CHECK_PERIOD: Duration = Duration::from_secs(600);
/// Identities that one census creates; the next one continues.
const IDENTITIES_MADE_MAX: usize = 2_000;
/// Accounts with several records that one census checks.
const DUPLICATES_READ_MAX: usize = 200;
/// Identities that are read or written concurrently.
const AT_ONCE_MAX: usize = 16;
/// The actor that quarantines duplicate records.
const ACTOR: &str = "census";

/// The time and the result of the last complete check.
#[derive(Debug, Default)]
pub(crate) struct IdentitiesChecked(Mutex<Last>);

#[derive(Clone, Copy, Debug, Default)]
struct Last {
    at: Option<UnixSeconds>,
    violations: u64,
}

// === impl IdentitiesChecked ===

impl IdentitiesChecked {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.0.lock()
    }
}

// === impl Reconciler ===

impl Reconciler {
    /// The number of accounts with several records in use.
    pub(super) async fn check_identities(
        &self,
        report: &mut CensusReport,
        skipped: &mut Skipped,
    ) -> Result<u64, CensusError> {
        let now = self.ports.clock.now();
        let last = *self.identities.last();
        if last.at.is_some_and(|at| now < at.after(CHECK_PERIOD)) {
            return Ok(last.violations);
        }
        let (doubtful, is_complete) = self.complete_identities(report, skipped).await?;
        let mut violations = 0;
        for identity in doubtful.into_iter().take(DUPLICATES_READ_MAX) {
            violations += u64::from(
                skipped
                    .unless_unreadable(self.settle_duplicates(&identity, report).await)?
                    .unwrap_or_default(),
            );
        }
        // If a run could not create all identities, the next census continues.
        *self.identities.last() = Last { at: is_complete.then_some(now), violations };
        Ok(violations)
    }

    /// Creates missing identities; returns those with several records, and whether all were created.
    async fn complete_identities(
        &self,
        report: &mut CensusReport,
        skipped: &mut Skipped,
    ) -> Result<(Vec<Identity>, bool), StoreError> {
        let (mut first, mut doubtful) = self.first_records().await?;
        let mut is_complete = true;
        // Tombstones are in no index; the sync handles deleted accounts.
        for state in StateName::iter().filter(|state| *state != StateName::Deleted) {
            let mut walk = self.walk(state, &SortRange::All).await?;
            while let Some(page) = walk.next(skipped).await? {
                let unnamed =
                    page.into_iter().filter(|sandbox| !sandbox.external_id.is_own_of(&sandbox.id)).filter(
                        |sandbox| first.get(&sandbox.external_id).is_none_or(|named| *named != sandbox.id),
                    );
                let left =
                    IDENTITIES_MADE_MAX.saturating_sub(usize::try_from(report.identities_made).unwrap_or(0));
                let mut unnamed: Vec<Sandbox> = unnamed.collect();
                is_complete &= unnamed.len() <= left;
                unnamed.truncate(left);
                let namings = stream::iter(unnamed).map(|sandbox| self.name(sandbox));
                let mut namings = namings.buffer_unordered(AT_ONCE_MAX);
                while let Some(named) = namings.next().await {
                    let identity = named?;
                    report.identities_made += 1;
                    if !identity.duplicates.is_empty() {
                        doubtful.insert(identity.external_id.clone(), identity.clone());
                    }
                    first.insert(identity.external_id, identity.sandbox_id);
                }
            }
        }
        Ok((doubtful.into_values().collect(), is_complete))
    }

    async fn name(&self, sandbox: Sandbox) -> Result<Identity, StoreError> {
        self.ports.store.name_identity(&sandbox.external_id, &sandbox.id).await
    }

    /// The first record of each identity, and the identities with several records.
    async fn first_records(
        &self,
    ) -> Result<(HashMap<ExternalId, SandboxId>, HashMap<ExternalId, Identity>), StoreError> {
        let (mut first, mut doubtful) = (HashMap::new(), HashMap::new());
        let providers = self.every_provider();
        let shards =
            providers.iter().flat_map(|provider| (0..IDENTITY_SHARDS).map(move |shard| (provider, shard)));
        for (provider, shard) in shards {
            let mut after = None;
            // Terminates: every round moves on within one shard.
            loop {
                let page = self.ports.store.identities(provider, shard, after.as_ref(), PAGE_LIMIT).await?;
                for identity in page.identities {
                    let account = identity.external_id.clone();
                    first.insert(account.clone(), identity.sandbox_id.clone());
                    if !identity.duplicates.is_empty() {
                        doubtful.insert(account, identity);
                    }
                }
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok((first, doubtful))
    }

    /// Whether several records of one account were in use at one moment. Quarantines free ones.
    async fn settle_duplicates(
        &self,
        identity: &Identity,
        report: &mut CensusReport,
    ) -> Result<bool, StoreError> {
        let first = self.records_in_use(identity).await?;
        let mut both = self.records_in_use(identity).await?;
        both.retain(|sandbox| {
            first.iter().any(|before| before.id == sandbox.id && before.version == sandbox.version)
        });
        if both.len() < 2 {
            return Ok(false);
        }
        // The record in use stays; if all are free, the first one of the identity.
        both.sort_by_key(|sandbox| (sandbox.state == State::Available, sandbox.id != identity.sandbox_id));
        let mut both = both.into_iter();
        let Some(kept) = both.next() else { return Ok(false) };
        for other in both {
            tracing::error!(
                violation = Violation::IdentityTwice.as_str(),
                sandbox.id = other.id.as_str(),
                sandbox.state = other.state.name().as_str(),
                "{} and {} are one account of the provider",
                kept.id,
                other.id,
            );
            if other.state == State::Available {
                self.quarantine_duplicate(&other, &kept.id, report).await?;
            }
        }
        Ok(true)
    }

    async fn quarantine_duplicate(
        &self,
        duplicate: &Sandbox,
        kept: &SandboxId,
        report: &mut CensusReport,
    ) -> Result<(), StoreError> {
        let Ok(by) = Actor::parse(ACTOR) else { return Ok(()) };
        let order = Order { by, reason: Reason::cut(&format!("the same account as {kept}")) };
        let now = self.ports.clock.now();
        let written = self.ports.store.quarantine(&duplicate.candidate(), &order, now).await?;
        if let Write::Done(quarantined) = written {
            self.ports.recorder.note(&quarantined, None);
            report.duplicates_quarantined += 1;
        }
        Ok(())
    }

    /// The records of an account that are free, held, or to be deleted.
    async fn records_in_use(&self, identity: &Identity) -> Result<Vec<Sandbox>, StoreError> {
        let mut records = Vec::new();
        for id in identity.named() {
            let found = self.ports.store.sandbox(id).await?;
            records.extend(found.filter(|sandbox| {
                let is_out_of_use = matches!(
                    sandbox.state,
                    State::Deleted(_) | State::Quarantined { .. } | State::Stale { .. }
                );
                sandbox.external_id == identity.external_id && !is_out_of_use
            }));
        }
        Ok(records)
    }
}
