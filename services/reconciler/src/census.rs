//! Census: counts the pools by the index, and compares every lease with its claim item.
//!
//! Free sandboxes are only counted. Sandboxes that are held or being deleted are read: they name the lab, and the claim
//! item that has to exist, or must not exist any more.

use crate::Reconciler;
use contract::RunStatus;
use contract::census::LABS_MAX;
use contract::{Census, CensusReport, PoolStats, Violation};
use domain::{PoolName, Sandbox, State, StateName, UnixSeconds};
use futures_util::{StreamExt as _, stream};
use ports::bus::BusError;
use ports::store::{SortRange, StateQuery, StoreError, Unreadable};
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

mod claims;
mod identities;

use claims::Case;
pub(crate) use claims::Checked;
pub(crate) use identities::IdentitiesChecked;

use crate::listing::{PAGE_LIMIT, Skipped};

/// Index shards that are read at once.
const SHARDS_AT_ONCE_MAX: usize = 8;
/// Time between two reads of the stored census, for the metrics of a reconciler that did not take it.
const SHOW_PERIOD: Duration = Duration::from_secs(5);

/// Why a census did not complete.
#[derive(Debug, thiserror::Error)]
enum CensusError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the queue failed")]
    Bus(#[from] BusError),
}

/// The contents of one shard.
struct Part {
    pool: PoolName,
    state: StateName,
    count: u64,
    labs: BTreeMap<String, u64>,
    /// When the oldest pending deletion was asked for.
    oldest_deletion: Option<UnixSeconds>,
    cases: Vec<Case>,
    unreadable: Vec<Unreadable>,
}

// === impl Reconciler ===

impl Reconciler {
    pub(crate) async fn take_census(&self) -> CensusReport {
        let mut report = CensusReport::default();
        let mut skipped = Skipped::default();
        let _counting = self.counting.lock().await;
        let ended = self.try_census(&mut report, &mut skipped).await;
        report.unreadable = skipped.count();
        if let Err(error) = &ended {
            tracing::error!(error = %Chain(error), "the census did not complete");
        }
        report.status = if ended.is_ok() { RunStatus::Completed } else { RunStatus::Failed };
        if report.claims_removed > 0 {
            tracing::info!(
                claims_removed = report.claims_removed,
                "{} claims of leases that have ended were removed",
                report.claims_removed,
            );
        }
        report
    }

    /// Exports the stored census as metrics until `stop`, whichever reconciler took it.
    pub(crate) async fn show_census_until(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.ports.clock.sleep(SHOW_PERIOD) => {}
                () = stop.cancelled() => return,
            }
            match self.ports.census.last_census().await {
                Ok(Some(census)) => self.metrics.show(&census),
                Ok(None) => {}
                Err(error) => tracing::debug!(error = %Chain(&error), "the census cannot be read"),
            }
        }
    }

    async fn try_census(&self, report: &mut CensusReport, skipped: &mut Skipped) -> Result<(), CensusError> {
        let taken_at = self.ports.clock.now().get();
        let (census, cases) = self.count_pools(skipped).await?;
        report.census = Census { taken_at, ..census };
        report.census.violations = self.check_claims(cases, report, skipped).await?;
        let twice = self.check_identities(report, skipped).await?;
        report.census.violations.insert(Violation::IdentityTwice.into(), twice);
        self.ports.census.keep_census(&report.census).await?;
        self.metrics.show(&report.census);
        Ok(())
    }

    async fn count_pools(&self, skipped: &mut Skipped) -> Result<(Census, Vec<Case>), StoreError> {
        let shards = self.ports.store.shards().await?;
        let mut queries = Vec::new();
        let mut census = Census::default();
        for pool in &self.every_pool().await? {
            if self.ports.pools.current().contains(pool) {
                census.pools.insert(pool.to_string(), PoolStats::default());
            }
            for &state in StateName::indexed(self.ports.pools.current().kind_of(pool)) {
                let of_shard = |shard| StateQuery { pool: pool.clone(), state, shard, range: SortRange::All };
                queries.extend((0..shards).map(of_shard));
            }
        }
        let mut cases = Vec::new();
        let parts = stream::iter(queries).map(|query| self.count_shard(query));
        let mut parts = parts.buffer_unordered(SHARDS_AT_ONCE_MAX);
        while let Some(part) = parts.next().await {
            let Part { pool, state, count, labs, oldest_deletion, cases: more, unreadable } = part?;
            skipped.take(unreadable);
            if count == 0 {
                // An empty pool that is not configured is not shown.
                continue;
            }
            let stats = census.pools.entry(pool.to_string()).or_default();
            if let Some(of_state) = stats.of_mut(state) {
                *of_state += count;
                stats.total += count;
            }
            if let Some(asked) = oldest_deletion {
                let oldest = census.oldest_deletions.entry(pool.to_string()).or_insert(u64::MAX);
                *oldest = asked.get().min(*oldest);
            }
            for (lab, held) in labs {
                *census.labs.entry(pool.to_string()).or_default().entry(lab).or_default() += held;
            }
            cases.extend(more);
        }
        for stats in census.pools.values() {
            census.all.add(stats);
        }
        census.labs_left_out = leave_out_small_labs(&mut census.labs, LABS_MAX);
        Ok((census, cases))
    }

    async fn count_shard(&self, query: StateQuery) -> Result<Part, StoreError> {
        let StateQuery { pool, state, .. } = query.clone();
        let mut part = Part {
            pool,
            state,
            count: 0,
            labs: BTreeMap::new(),
            oldest_deletion: None,
            cases: Vec::new(),
            unreadable: Vec::new(),
        };
        if !Case::is_in(state) {
            part.count = self.ports.store.count(&query).await?;
            return Ok(part);
        }
        let mut after = None;
        // Terminates: every round moves on within one shard.
        loop {
            let page = self.ports.store.page(&query, after.as_ref(), PAGE_LIMIT).await?;
            for sandbox in &page.sandboxes {
                part.take(sandbox);
            }
            // An unreadable item counts by its position in the index.
            part.count += u64::try_from(page.unreadable.len()).unwrap_or(u64::MAX);
            part.unreadable.extend(page.unreadable);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(part),
            }
        }
    }
}

// === impl Part ===

impl Part {
    fn take(&mut self, sandbox: &Sandbox) {
        self.count += 1;
        if let Some(lab) = sandbox.lease().and_then(|lease| lease.lab.as_ref()) {
            *self.labs.entry(lab.to_string()).or_default() += 1;
        }
        if let State::PendingDeletion(deletion) = &sandbox.state {
            let oldest = self.oldest_deletion.unwrap_or(deletion.requested_at);
            self.oldest_deletion = Some(deletion.requested_at.min(oldest));
        }
        self.cases.extend(Case::of(sandbox));
    }
}

/// Keeps the `kept` labs with the most sandboxes, and returns the number of sandboxes of the others.
fn leave_out_small_labs(labs: &mut BTreeMap<String, BTreeMap<String, u64>>, kept: usize) -> u64 {
    let mut counts: Vec<u64> = labs.values().flat_map(BTreeMap::values).copied().collect();
    if counts.len() <= kept {
        return 0;
    }
    counts.sort_unstable_by(|one, other| other.cmp(one));
    let least = counts.get(kept.saturating_sub(1)).copied().unwrap_or(u64::MAX);
    // Of the labs that have as many as the last one that is kept, only some fit.
    let mut places = counts.iter().take(kept).filter(|count| **count == least).count();
    let mut left_out = 0;
    for of_pool in labs.values_mut() {
        of_pool.retain(|_, held| {
            let has_place = *held == least && places > 0;
            if has_place {
                places -= 1;
            }
            let stays = *held > least || has_place;
            if !stays {
                left_out += *held;
            }
            stays
        });
    }
    labs.retain(|_, of_pool| !of_pool.is_empty());
    left_out
}

#[cfg(test)]
mod tests;
