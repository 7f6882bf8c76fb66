//! Lists the deletion queue page by page. The index of the table shows which deletions exist; the message of each shows
//! its progress.

use super::bus_fault;
use crate::{Allocator, decode, store_fault};
use contract::queue::PAGE_LIMIT_MAX;
use contract::{
    DeletionEntry, DeletionPlace, DeletionTotals, DeletionsReply, DeletionsRequest, Fault, PreCleanView,
};
use domain::{PoolName, Sandbox, StateName};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ports::bus::{BusError, Request};
use ports::store::{PageCursor, SortRange, StateQuery, StoreError};
use std::collections::BTreeMap;

/// Entries per page by default.
const PAGE_LIMIT_DEFAULT: u32 = 50;
/// Most parts of the index that one page reads, so that many empty ones result in several short pages.
const PARTS_OF_PAGE_MAX: usize = 64;
/// Messages that are read concurrently.
const READS_AT_ONCE_MAX: usize = 8;
/// The states of a deletion, in the order of the list.
const STATES: [StateName; 2] = [StateName::PendingDeletion, StateName::DeletionFailed];

/// A part of the index, and the position in it.
struct Place {
    pool: PoolName,
    state: StateName,
    shard: u16,
    after: Option<PageCursor>,
}

/// Which page, and the filter.
struct Which {
    pools: Vec<PoolName>,
    states: Vec<StateName>,
    cursor: Option<String>,
    limit: u16,
}

// === impl Place ===

impl Place {
    /// The cursor after a page that ended here.
    fn cursor(&self) -> String {
        let Self { pool, state, shard, after } = self;
        format!("{pool}.{state}.{shard}.{}", after.as_ref().map(PageCursor::to_text).unwrap_or_default())
    }

    fn is_at(&self, pool: &str, state: &str, shard: &str) -> bool {
        self.pool.as_str() == pool && self.state.as_str() == state && self.shard.to_string() == shard
    }

    fn query(&self) -> StateQuery {
        let Self { pool, state, shard, after: _ } = self;
        StateQuery { pool: pool.clone(), state: *state, shard: *shard, range: SortRange::All }
    }
}

// === impl Which ===

impl Which {
    fn parse(request: DeletionsRequest, known: Vec<PoolName>) -> Result<Self, Fault> {
        let DeletionsRequest { pool, status, cursor, limit } = request;
        let pools = match pool {
            None => known,
            Some(pool) => vec![PoolName::parse(&pool).map_err(|problem| Fault::invalid("pool", problem))?],
        };
        let states = match status {
            None => STATES.to_vec(),
            Some(status) => {
                let of_that_name = STATES.into_iter().find(|state| state.as_str() == status);
                let state = of_that_name
                    .ok_or_else(|| Fault::invalid("status", "must be pending_deletion or deletion_failed"))?;
                vec![state]
            }
        };
        let limit = match limit.unwrap_or(PAGE_LIMIT_DEFAULT) {
            limit @ 1..=PAGE_LIMIT_MAX => u16::try_from(limit).unwrap_or(u16::MAX),
            _ => return Err(Fault::invalid("limit", format!("must be from 1 to {PAGE_LIMIT_MAX}"))),
        };
        Ok(Self { pools, states, cursor, limit })
    }

    /// The remaining parts of the index, in the order of the list.
    fn places(&self, shards: u16) -> Result<Vec<Place>, Fault> {
        let mut places = Vec::new();
        for state in &self.states {
            for pool in &self.pools {
                for shard in 0..shards {
                    places.push(Place { pool: pool.clone(), state: *state, shard, after: None });
                }
            }
        }
        let Some(cursor) = &self.cursor else { return Ok(places) };
        let invalid = || Fault::invalid("cursor", "is not one of this listing");
        let mut parts = cursor.split('.');
        let (Some(pool), Some(state), Some(shard), Some(after), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        let at = places.iter().position(|place| place.is_at(pool, state, shard)).ok_or_else(invalid)?;
        let mut left = places.split_off(at);
        if let (Some(first), false) = (left.first_mut(), after.is_empty()) {
            first.after = Some(PageCursor::parse(after).ok_or_else(invalid)?);
        }
        Ok(left)
    }
}

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn deletions(&self, request: &Request) -> Result<DeletionsReply, Fault> {
        let asked = decode(&request.body)?;
        let known = self.every_pool().await.map_err(|error| store_fault(request, &error))?;
        let which = Which::parse(asked, known.into_iter().collect())?;
        let shards = self.ports.store.shards().await.map_err(|error| store_fault(request, &error))?;
        let places = which.places(shards)?;
        let totals = match which.cursor {
            None => Some(self.totals(&which, shards).await.map_err(|error| store_fault(request, &error))?),
            Some(_) => None,
        };
        let (sandboxes, cursor) =
            self.page_of(places, which.limit).await.map_err(|error| store_fault(request, &error))?;
        let deletions = self.entries(&sandboxes).await.map_err(|error| bus_fault(request, &error))?;
        let count = u64::try_from(deletions.len()).unwrap_or(u64::MAX);
        Ok(DeletionsReply { deletions, count, cursor, totals })
    }

    /// At most `limit` sandboxes of these parts, and where to continue.
    async fn page_of(
        &self,
        places: Vec<Place>,
        limit: u16,
    ) -> Result<(Vec<Sandbox>, Option<String>), StoreError> {
        let mut found = Vec::new();
        for (looked, mut place) in places.into_iter().enumerate() {
            let left = limit.saturating_sub(u16::try_from(found.len()).unwrap_or(u16::MAX));
            if left == 0 || looked >= PARTS_OF_PAGE_MAX {
                return Ok((found, Some(place.cursor())));
            }
            let page = self.ports.store.page(&place.query(), place.after.as_ref(), left).await?;
            found.extend(page.sandboxes);
            if page.next.is_some() {
                place.after = page.next;
                return Ok((found, Some(place.cursor())));
            }
        }
        Ok((found, None))
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
            status: sandbox.state.name().to_string(),
            place,
            requested_at: deletion.requested_at.get(),
            age_seconds: now.get().saturating_sub(deletion.requested_at.get()),
            attempts: deletion.attempts,
            last_error: deletion.last_error.clone(),
            retry_at: retry_at.map(domain::UnixSeconds::get),
            pre_clean: deletion.pre_clean.as_ref().map(PreCleanView::from),
        }))
    }

    /// Counts the parts of the index with deletions, whatever the state filter.
    async fn totals(&self, which: &Which, shards: u16) -> Result<DeletionTotals, StoreError> {
        let mut totals = DeletionTotals::default();
        for pool in &which.pools {
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
                queues.filter(|(name, _)| which.pools.iter().any(|pool| pool.as_str() == name.as_str()))
            };
            let waiting: u64 = of_pools().map(|(_, queue)| queue.waiting).sum();
            let running: u64 = of_pools().map(|(_, queue)| queue.under_way).sum();
            totals.retrying = Some(totals.pending.saturating_sub(waiting).saturating_sub(running));
            (totals.waiting, totals.running) = (Some(waiting), Some(running));
        }
        Ok(totals)
    }
}
