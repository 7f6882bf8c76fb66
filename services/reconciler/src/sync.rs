//! Sync: the pool follows the provider's listing.
//!
//! The listing is read first and the index after it, the plan is made without I/O, and every write states its starting
//! point. So a concurrent claim or deletion wins, and the next sync checks again. Before anything is marked stale, a
//! second listing has to agree, because pages shift while accounts are deleted, and a listing may lag.

use crate::Reconciler;
use crate::plan::{Belief, Listed, Plan, Planner, Refusal};
use crate::sweep::Due;
use contract::RunStatus;
use contract::{ProviderSync, SyncReport, TickOrder};
use domain::{
    Candidate, Description, NewSandbox, PoolKind, PoolName, ProviderName, Sandbox, SandboxId, StateName,
    UnixSeconds, Version,
};
use futures_util::stream::{self, StreamExt as _};
use ports::store::{SortRange, Store, StoreError, Write};
use runtime::telemetry::Chain;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::Mutex;

use crate::listing::{ListingError, Skipped, Source};

/// Concurrent writes: enough to hide their latency, few enough to leave capacity for claims.
const WRITES_IN_FLIGHT_MAX: usize = 16;
/// Why a sync did not complete.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("no listing")]
    Listing(#[from] ListingError),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Refused(Refusal),
    #[error("forced too late: the operator had given up {}.{:03} s before it could begin", .late_ms / 1_000, .late_ms % 1_000)]
    TooLate { late_ms: u64 },
}

/// One write of a plan.
enum Step {
    Insert(NewSandbox),
    Restore(Candidate),
    Renew(Candidate, NewSandbox),
    Describe(SandboxId, Version, Description),
    MarkMissing(Candidate),
}

/// The result of one write.
pub(crate) enum Stepped {
    Inserted,
    Restored,
    Renewed,
    Described,
    MarkedStale,
    Tombstoned,
    /// The provider has accepted its deletion and still lists it.
    Relisted,
    /// Another record represents its account.
    Taken,
    Raced,
}

/// Notes in the table that this sync makes sandboxes free: once a second for each pool, so that no allocator calls a
/// pool exhausted while the index does not show them yet.
#[derive(Default)]
struct SupplyNotes(Mutex<HashMap<PoolName, UnixSeconds>>);

// === impl SupplyNotes ===

impl SupplyNotes {
    async fn note(&self, store: &dyn Store, pool: &PoolName, now: UnixSeconds) -> Result<(), StoreError> {
        // Held during the write, so that a reader that finds the note may rely on it.
        let mut noted = self.0.lock().await;
        if noted.get(pool).is_none_or(|at| *at < now) {
            store.note_supply(pool, now).await?;
            noted.insert(pool.clone(), now);
        }
        Ok(())
    }
}

// === impl Reconciler ===

impl Reconciler {
    /// One sync. A forced sync follows a listing that is empty or would cost too much of the pool, and nothing else is
    /// forced. It is refused if its caller has stopped waiting.
    pub(crate) async fn sync(&self, order: &TickOrder) -> SyncReport {
        let mut report =
            SyncReport { forced_by: order.forced_by().map(ToOwned::to_owned), ..SyncReport::default() };
        if let Some(by) = &report.forced_by {
            tracing::warn!(by, order.wanted_until_ms, "{by} forces a sync, whatever is listed");
        }
        let mut skipped = Skipped::default();
        match order.late_by_ms(self.ports.clock.now_ms()) {
            Some(late_ms) => {
                let error = SyncError::TooLate { late_ms };
                (report.status, report.reason) = (RunStatus::Refused, Some(error.to_string()));
            }
            None => self.sync_providers(order, &mut report, &mut skipped).await,
        }
        report.unreadable = skipped.count();
        report.synced =
            report.inserted + report.restored + report.renewed + report.refreshed + report.unchanged;
        if report.allocated_missing > 0 {
            tracing::error!(
                count = report.allocated_missing,
                "{} held sandboxes are not listed any more: their owners work in deleted accounts",
                report.allocated_missing,
            );
        }
        tracing::info!(
            status = report.status.as_str(),
            listed = report.listed,
            inserted = report.inserted,
            restored = report.restored,
            refreshed = report.refreshed,
            marked_stale = report.marked_stale,
            skipped = report.skipped,
            raced = report.raced,
            unreadable = report.unreadable,
            "sync {}: {} listed",
            report.status.as_str(),
            report.listed,
        );
        report
    }

    /// Each provider in turn; a failure at one leaves the others as they are.
    async fn sync_providers(&self, order: &TickOrder, report: &mut SyncReport, skipped: &mut Skipped) {
        let every = self.every_provider();
        let mut parts = self.without_listing(&every);
        let (mut largest_pool, mut is_whole) = (0, parts.is_empty());
        for (name, provider) in self.ports.providers.listing() {
            let is_due = self.is_listing_due(name, order).await.unwrap_or_else(|error| {
                tracing::warn!(provider = name.as_str(), error = %Chain(&error), "the last listing of {name} is unknown");
                true
            });
            if !is_due {
                is_whole = false;
                report.not_due.push(name.to_string());
                continue;
            }
            let source = Source { name, provider: provider.as_ref() };
            let mut part = ProviderSync::default();
            let synced = match order.late_by_ms(self.ports.clock.now_ms()) {
                Some(late_ms) => Err(SyncError::TooLate { late_ms }),
                None => self.try_sync(&source, report, &mut part, skipped).await,
            };
            match synced {
                Ok(largest) => {
                    largest_pool = largest_pool.max(largest);
                    part.status = RunStatus::Completed;
                }
                Err(error) => {
                    is_whole = false;
                    tracing::error!(provider = name.as_str(), error = %Chain(&error), "the sync of {name} did not complete");
                    part.reason = Some(public_reason(&error));
                    let is_refused = matches!(
                        error,
                        SyncError::Refused(_)
                            | SyncError::TooLate { .. }
                            | SyncError::Listing(ListingError::Overlapping)
                    );
                    part.status = if is_refused { RunStatus::Refused } else { RunStatus::Failed };
                }
            }
            parts.insert(name, part);
        }
        // With a part of the listings, the largest pool is unknown.
        if is_whole
            && let Err(error) = self.ports.store.follow_size(largest_pool, self.ports.clock.now()).await
            && let Some(mut part) = parts.last_entry()
        {
            tracing::error!(error = %Chain(&error), "the number of shards could not be adjusted");
            let reason = Some(public_reason(&SyncError::Store(error)));
            (part.get_mut().status, part.get_mut().reason) = (RunStatus::Failed, reason);
        }
        let is_any = |status| parts.values().any(|part: &ProviderSync| part.status == status);
        report.status = match () {
            () if is_any(RunStatus::Failed) => RunStatus::Failed,
            () if is_any(RunStatus::Refused) => RunStatus::Refused,
            () => RunStatus::Completed,
        };
        report.listed = parts.values().map(|part| part.listed).sum();
        let is_one = every.len() == 1;
        let reasons = parts.iter().filter_map(|(name, part)| {
            let reason = part.reason.as_ref()?;
            Some(if is_one { reason.clone() } else { format!("{name}: {reason}") })
        });
        report.reason = Some(reasons.collect::<Vec<_>>().join("; ")).filter(|reasons| !reasons.is_empty());
        if !is_one {
            report.providers = parts.into_iter().map(|(name, part)| (name.to_string(), part)).collect();
        }
    }

    /// The failures of providers whose listing cannot be read by this process.
    fn without_listing<'a>(
        &self,
        every: &'a BTreeSet<ProviderName>,
    ) -> BTreeMap<&'a ProviderName, ProviderSync> {
        let failures = every.iter().filter_map(|name| {
            let problem = match self.ports.providers.get(name) {
                None => "it is not in PROVIDERS_FILE of this process",
                Some(provider) if !provider.abilities().list => "it has no listing",
                Some(_) => return None,
            };
            let reason = Some(problem.to_owned());
            Some((name, ProviderSync { status: RunStatus::Failed, reason, listed: 0 }))
        });
        failures.collect()
    }

    /// Syncs the sandboxes of one provider; returns the size of its largest pool.
    async fn try_sync(
        &self,
        source: &Source<'_>,
        report: &mut SyncReport,
        part: &mut ProviderSync,
        skipped: &mut Skipped,
    ) -> Result<u64, SyncError> {
        let listed = self.list(source).await?;
        part.listed = u64::try_from(listed.len()).unwrap_or(u64::MAX);
        report.skipped += listed.skipped();
        if listed.unselected > 0 {
            tracing::warn!(
                provider = source.name.as_str(),
                count = listed.unselected,
                "{} accounts of {} are in no pool, because no pool takes their names",
                listed.unselected,
                source.name,
            );
        }
        let largest_pool = largest_pool(&listed);
        let unclear = listed.unclear_entries();
        let shown = (!listed.unclear).then(|| listed.shown());
        let belief = if report.forced_by.is_some() { Belief::Forced } else { Belief::Careful };
        let mut due = Due::default();
        let mut plan = self.plan(source, listed, belief, &mut due, skipped).await?;
        if plan.needs_second_listing() {
            plan.confirm_missing(&self.list_again(source).await?);
        }
        if let Some(refusal) = &plan.overridden {
            tracing::warn!(%refusal, "proceeding because the sync is forced: {refusal}");
            part.reason = Some(format!("forced although {refusal}"));
        }
        let is_believed = plan.overridden.is_none();
        report.allocated_missing += u64::try_from(plan.allocated_missing.len()).unwrap_or(u64::MAX);
        report.unchanged += plan.unchanged;
        note_what_is_odd(&plan, unclear, report, part);
        self.apply(plan, report, skipped).await.map_err(SyncError::Store)?;
        if let Some(shown) = shown.filter(|_| is_believed) {
            self.drop_absent_identities(source.name, &shown, report).await?;
        }
        self.complete_event_log_on_the_way(due).await;
        Ok(largest_pool)
    }

    /// Compares the sandboxes of one provider, page by page from the index, with its listing.
    async fn plan(
        &self,
        source: &Source<'_>,
        listed: Listed,
        belief: Belief,
        due: &mut Due,
        skipped: &mut Skipped,
    ) -> Result<Plan, SyncError> {
        let mut planner = Planner::new(listed);
        for &state in StateName::indexed(Some(PoolKind::Account)) {
            // Every pool: one that was removed may have sandboxes of any provider.
            let mut walk = self.walk(state, &SortRange::All).await?;
            while let Some(page) = walk.next(skipped).await? {
                let of_source = page.iter().filter(|sandbox| sandbox.external_id.is_of(source.name));
                of_source.for_each(|sandbox| planner.see(sandbox));
                self.note_due(page, due);
            }
        }
        skipped.sandboxes().for_each(|id| planner.leave_alone(id));
        planner.finish(self.config.limits, belief).map_err(SyncError::Refused)
    }

    /// Executes the plan. A failure of the store stops it; the next sync continues.
    async fn apply(
        &self,
        plan: Plan,
        report: &mut SyncReport,
        skipped: &mut Skipped,
    ) -> Result<(), StoreError> {
        let Plan { insert, restore, renew, describe, missing, .. } = plan;
        let steps = insert
            .into_iter()
            .map(Step::Insert)
            .chain(restore.into_iter().map(Step::Restore))
            .chain(renew.into_iter().map(|(seen, listed)| Step::Renew(seen, listed)))
            .chain(describe.into_iter().map(|(id, version, to)| Step::Describe(id, version, to)))
            .chain(missing.into_iter().map(Step::MarkMissing));
        let supply = SupplyNotes::default();
        let mut done =
            stream::iter(steps).map(|step| self.step(step, &supply)).buffer_unordered(WRITES_IN_FLIGHT_MAX);
        while let Some(stepped) = done.next().await {
            let Some(stepped) = skipped.unless_unreadable(stepped)? else { continue };
            let count = match stepped {
                Stepped::Inserted => &mut report.inserted,
                Stepped::Restored => &mut report.restored,
                Stepped::Renewed => &mut report.renewed,
                Stepped::Relisted => &mut report.relisted,
                Stepped::Taken => &mut report.identity_taken,
                Stepped::Described => &mut report.refreshed,
                Stepped::MarkedStale => &mut report.marked_stale,
                Stepped::Tombstoned => &mut report.tombstoned,
                Stepped::Raced => &mut report.raced,
            };
            *count += 1;
        }
        Ok(())
    }

    /// The whole sandbox, if it still has the version that was read. This avoids lost writes, and keeping all histories
    /// in memory.
    async fn still(&self, seen: &Candidate) -> Result<Option<Sandbox>, StoreError> {
        let found = self.ports.store.sandbox(&seen.id).await?;
        Ok(found.filter(|sandbox| sandbox.version == seen.version))
    }

    async fn step(&self, step: Step, supply: &SupplyNotes) -> Result<Stepped, StoreError> {
        let store = &self.ports.store;
        let now = self.ports.clock.now();
        let (write, done) = match step {
            Step::Insert(sandbox) => {
                supply.note(store.as_ref(), &sandbox.pool, now).await?;
                let inserted = store.insert(&sandbox, now).await?;
                return self.after_insert(inserted, &sandbox, now).await;
            }
            Step::Restore(seen) => {
                let Some(stale) = self.still(&seen).await? else { return Ok(Stepped::Raced) };
                if !self.may_come_back(&stale).await? {
                    return Ok(Stepped::Taken);
                }
                supply.note(store.as_ref(), &seen.pool, now).await?;
                (store.mark_found(&stale, now).await?, Stepped::Restored)
            }
            Step::Renew(seen, listed) => {
                let Some(former) = self.still(&seen).await? else { return Ok(Stepped::Raced) };
                supply.note(store.as_ref(), &listed.pool, now).await?;
                return self.renew(&former, &listed, now).await;
            }
            Step::Describe(id, version, to) => (store.describe(&id, version, &to).await?, Stepped::Described),
            Step::MarkMissing(seen) => {
                let Some(free) = self.still(&seen).await? else { return Ok(Stepped::Raced) };
                (store.mark_missing(&free, now).await?, Stepped::MarkedStale)
            }
        };
        Ok(match write {
            Write::Done(changed) => {
                if !matches!(done, Stepped::Described) {
                    self.ports.recorder.note(&changed, None);
                }
                done
            }
            Write::Lost(_) => Stepped::Raced,
        })
    }
}

/// Logs what the plan leaves unchanged and an operator should know.
fn note_what_is_odd(plan: &Plan, unclear: u64, report: &mut SyncReport, part: &mut ProviderSync) {
    let count = |ids: &[SandboxId]| u64::try_from(ids.len()).unwrap_or(u64::MAX);
    report.identity_changed += count(&plan.changed);
    report.identity_taken += count(&plan.duplicates);
    report.withheld += plan.withheld;
    report.unclear += unclear;
    for id in &plan.changed {
        tracing::error!(sandbox.id = id.as_str(), "{id} is in use, and another account is listed as {id}");
    }
    for id in &plan.duplicates {
        tracing::error!(sandbox.id = id.as_str(), "the account of {id} is that of another record");
    }
    if unclear > 0 {
        let reason = format!(
            "{unclear} entries of the listing may be any sandbox; {} that are not listed were not marked stale",
            plan.withheld,
        );
        tracing::error!(unclear, withheld = plan.withheld, "{reason}");
        part.reason.get_or_insert(reason);
    }
}

/// The size of the largest pool in the listing.
fn largest_pool(listed: &Listed) -> u64 {
    let mut sizes: HashMap<&PoolName, u64> = HashMap::new();
    for sandbox in listed.usable.values() {
        *sizes.entry(&sandbox.pool).or_default() += 1;
    }
    sizes.into_values().max().unwrap_or_default()
}

/// The reason for operators: which side failed, and the provider's message.
fn public_reason(error: &SyncError) -> String {
    match error {
        SyncError::Refused(_) | SyncError::TooLate { .. } => error.to_string(),
        SyncError::Store(_) => "the table does not answer".to_owned(),
        SyncError::Listing(ListingError::Endless) => "the provider's listing does not end".to_owned(),
        SyncError::Listing(error @ ListingError::Overlapping) => error.to_string(),
        SyncError::Listing(ListingError::Provider(error)) => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
