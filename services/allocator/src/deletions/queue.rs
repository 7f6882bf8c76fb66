//! Lists the deletion queue page by page. The index of the table shows which deletions exist; the message of each shows
//! its progress.

use super::bus_fault;
use crate::listing::Which;
use crate::{Allocator, decode, page_limit, store_fault};
use contract::{
    DeletionEntry, DeletionPlace, DeletionTotals, DeletionsReply, DeletionsRequest, Fault, PreCleanView,
    SandboxStatus, Scope,
};
use domain::{PoolName, Sandbox, StateName};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ports::bus::{BusError, Request};
use ports::store::{SortRange, StateQuery, StoreError};
use std::collections::BTreeMap;

/// Messages that are read concurrently.
const READS_AT_ONCE_MAX: usize = 8;
/// The states of a deletion, in the order of the list.
const STATES: [StateName; 2] = [StateName::PendingDeletion, StateName::DeletionFailed];

/// The states of the filter.
fn states_of(status: Option<&SandboxStatus>) -> Result<Vec<StateName>, Fault> {
    let states =
        STATES.into_iter().filter(|state| status.is_none_or(|status| status.known() == Some(*state)));
    let states: Vec<_> = states.collect();
    if states.is_empty() {
        return Err(Fault::invalid("status", "must be pending_deletion or deletion_failed"));
    }
    Ok(states)
}

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn deletions(&self, request: &Request) -> Result<DeletionsReply, Fault> {
        let DeletionsRequest { pool, status, cursor, limit } = decode(&request.body)?;
        let (pools, is_narrowed) = self.pools_of(request, pool.as_deref(), &Scope::Every).await?;
        let which = Which {
            purpose: "deletions",
            states: states_of(status.as_ref())?,
            pools,
            is_narrowed,
            lab: None,
            owner: None,
            prefix: None,
            cursor,
            limit: page_limit(limit)?,
        };
        let (sandboxes, cursor) = self.page_of_sandboxes(&which, request).await?;
        let totals = match which.cursor {
            None => Some(self.totals(&which.pools).await.map_err(|error| store_fault(request, &error))?),
            Some(_) => None,
        };
        let deletions = self.entries(&sandboxes).await.map_err(|error| bus_fault(request, &error))?;
        let count = u64::try_from(deletions.len()).unwrap_or(u64::MAX);
        Ok(DeletionsReply { deletions, count, cursor, totals })
    }

    async fn entries(&self, sandboxes: &[Sandbox]) -> Result<Vec<DeletionEntry>, BusError> {
        let mut handed_out = BTreeMap::new();
        for sandbox in sandboxes {
            if !handed_out.contains_key(&sandbox.pool) {
                let sequence = self.ports.upkeep.handed_out(&sandbox.pool).await?;
                handed_out.insert(sandbox.pool.clone(), sequence);
            }
        }
        let handed_out = &handed_out;
        let looks = sandboxes.iter().map(|sandbox| async move {
            let up_to = handed_out.get(&sandbox.pool).copied().unwrap_or_default();
            self.entry(sandbox, up_to).await
        });
        let looks: Vec<_> = looks.collect();
        stream::iter(looks)
            .buffered(READS_AT_ONCE_MAX)
            .try_filter_map(|entry| async { Ok(entry) })
            .try_collect()
            .await
    }

    /// One deletion; none for a sandbox without one, which a lagging index may show.
    async fn entry(&self, sandbox: &Sandbox, handed_out: u64) -> Result<Option<DeletionEntry>, BusError> {
        let Some(deletion) = sandbox.deletion() else { return Ok(None) };
        let (place, retry_at) = if sandbox.state.name() == StateName::DeletionFailed {
            (DeletionPlace::Parked, None)
        } else {
            let messages = self.ports.upkeep.queued_of(&sandbox.pool, &sandbox.id).await?;
            // There are two for the moment in which one replaces the other.
            match messages.last() {
                None => (DeletionPlace::Unannounced, None),
                Some(message) if message.is_put_off => (DeletionPlace::Retrying, message.due_at),
                Some(message) if message.sequence <= handed_out => (DeletionPlace::Running, None),
                Some(_) => (DeletionPlace::Waiting, None),
            }
        };
        let now = self.ports.clock.now();
        Ok(Some(DeletionEntry {
            sandbox_id: sandbox.id.to_string(),
            name: sandbox.name.to_string(),
            pool: sandbox.pool.to_string(),
            status: sandbox.state.name().into(),
            place,
            requested_at: deletion.requested_at.get(),
            age_seconds: now.get().saturating_sub(deletion.requested_at.get()),
            attempts: deletion.attempts,
            last_error: deletion.last_error.clone(),
            retry_at: retry_at.map(domain::UnixSeconds::get),
            pre_clean: deletion.preparation.as_ref().map(PreCleanView::from),
        }))
    }

    /// Counts the parts of the index with deletions, whatever the state filter.
    async fn totals(&self, pools: &[PoolName]) -> Result<DeletionTotals, StoreError> {
        let shards = self.ports.store.shards().await?;
        let mut totals = DeletionTotals::default();
        for pool in pools {
            for shard in 0..shards {
                let part = |state| StateQuery { pool: pool.clone(), state, shard, range: SortRange::All };
                let pending = part(StateName::PendingDeletion);
                totals.pending += self.ports.store.count(&pending).await?;
                totals.parked += self.ports.store.count(&part(StateName::DeletionFailed)).await?;
                // The parts are in the order of the requests.
                let first = self.ports.store.page(&pending, None, 1).await?.sandboxes.pop();
                let requested_at =
                    first.as_ref().and_then(Sandbox::deletion).map(|one| one.requested_at.get());
                totals.oldest_requested_at = totals.oldest_requested_at.into_iter().chain(requested_at).min();
            }
        }
        let now = self.ports.clock.now().get();
        totals.oldest_age_seconds = totals.oldest_requested_at.map(|at| now.saturating_sub(at));
        if let Some(status) = self.deletions_status().await {
            let of_pools = || {
                let queues = status.pools.iter();
                queues.filter(|(name, _)| pools.iter().any(|pool| pool.as_str() == name.as_str()))
            };
            let waiting: u64 = of_pools().map(|(_, queue)| queue.waiting).sum();
            let running: u64 = of_pools().map(|(_, queue)| queue.under_way).sum();
            totals.retrying = Some(totals.pending.saturating_sub(waiting).saturating_sub(running));
            (totals.waiting, totals.running) = (Some(waiting), Some(running));
        }
        Ok(totals)
    }
}
