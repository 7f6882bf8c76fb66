//! The store in memory: for tests and simulations.
//!
//! It applies the domain's transitions directly ([`Sandbox::apply`]), under one lock, and gives the same answers as the
//! DynamoDB adapter: `tests/store` runs one suite on both. Nothing is persistent.

use async_trait::async_trait;
use domain::{
    ClaimKey, ClaimRecord, DeletionSwitch, InvalidTransition, LabId, NewSandbox, Node, NodeId, OwnerId,
    PoolName, PoolSpec, ProviderName, Sandbox, SandboxId, State, StateName, Template, TemplateHead,
    TemplateId, Transition, UnixSeconds,
};
use parking_lot::{Mutex, MutexGuard};
use ports::store::index::{due_sort, scan_cursor, shard_of, state_shard, state_sort};
use ports::store::layout::{Agreed, Layout, Shards, Supply, TableMark, settles_at, wanted_shards};
use ports::store::{
    ClaimPage, Insert, MoveClaim, OpenClaim, Page, PageCursor, StateQuery, Store, StoreError, Write,
};
use ports::store::{Identity, PoolItems};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

mod identity;
mod nodes;
mod templates;

/// Sandboxes and claims in memory.
#[derive(Debug)]
pub struct MemoryStore {
    shards_set: u16,
    index_lag: Duration,
    tables: Arc<Mutex<Tables>>,
}

#[derive(Debug, Default)]
struct Tables {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    claims: BTreeMap<ClaimKey, StoredClaim>,
    /// By provider, shard and external id.
    identities: BTreeMap<(ProviderName, u16, String), Identity>,
    /// Shard key → (sort key, id), like `StateIndex`.
    index: BTreeMap<String, BTreeSet<(String, SandboxId)>>,
    /// The index entry of each sandbox; the number of shards may have changed since it was written.
    places: BTreeMap<SandboxId, (String, String)>,
    shards: Option<Shards>,
    supplied_at: BTreeMap<PoolName, UnixSeconds>,
    pools: BTreeSet<PoolName>,
    specs: BTreeMap<PoolName, PoolSpec>,
    template_heads: BTreeMap<TemplateId, TemplateHead>,
    templates: BTreeMap<(TemplateId, u64), Template>,
    nodes: BTreeMap<NodeId, Node>,
    deletion_switch: Option<DeletionSwitch>,
    agreed: Agreed,
    mark: TableMark,
}

#[derive(Clone, Debug)]
struct StoredClaim {
    record: ClaimRecord,
    keep_until: UnixSeconds,
}

// === impl Tables ===

impl Tables {
    fn put(&mut self, sandbox: Sandbox, shards: u16) {
        if let Some((key, sort)) = self.places.remove(&sandbox.id)
            && let Some(entries) = self.index.get_mut(&key)
        {
            entries.remove(&(sort, sandbox.id.clone()));
        }
        if let Some(sort) = state_sort(&sandbox) {
            let key = state_shard(&sandbox.pool, sandbox.state.name(), shard_of(&sandbox.id, shards));
            self.index.entry(key.clone()).or_default().insert((sort.clone(), sandbox.id.clone()));
            self.places.insert(sandbox.id.clone(), (key, sort));
        }
        self.sandboxes.insert(sandbox.id.clone(), sandbox);
    }

    /// Inserts a sandbox whose account has no identity yet.
    fn put_with_identity(&mut self, sandbox: Sandbox, shards: u16) {
        let identity = Identity::new(sandbox.external_id.clone(), sandbox.id.clone());
        self.identities.insert(identity::place(&sandbox.external_id), identity);
        self.put(sandbox, shards);
    }

    fn shards(&mut self, set: u16) -> Shards {
        *self.shards.get_or_insert_with(|| Shards::fresh(set, UnixSeconds::new(0)))
    }

    fn claim_record(&self, claim: &ClaimKey) -> Option<ClaimRecord> {
        self.claims.get(claim).map(|stored| stored.record.clone())
    }

    fn put_claim(&mut self, record: ClaimRecord, keep_until: UnixSeconds) {
        self.claims.insert(record.claim.clone(), StoredClaim { record, keep_until });
    }
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store with `shards` shards (at least one) of each pool and state.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self { shards_set: shards, index_lag: Duration::ZERO, tables: Arc::default() }
    }

    /// A process with other settings on the same tables.
    #[must_use]
    pub fn set_otherwise(&self, shards: u16, index_lag: Duration) -> Self {
        Self { shards_set: shards, index_lag, tables: Arc::clone(&self.tables) }
    }

    /// Removes what DynamoDB's time to live would have removed by `now`, and returns the number of records.
    pub fn purge(&self, now: UnixSeconds) -> usize {
        let mut tables = self.tables();
        let before = tables.claims.len() + tables.sandboxes.len();
        tables.claims.retain(|_, stored| stored.keep_until > now);
        tables.sandboxes.retain(|_, sandbox| match &sandbox.state {
            State::Deleted(tombstone) => tombstone.purge_at > now,
            _ => true,
        });
        before.saturating_sub(tables.claims.len() + tables.sandboxes.len())
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock()
    }
}

#[async_trait]
impl PoolItems for MemoryStore {
    async fn pool_spec(&self, pool: &PoolName) -> Result<Option<PoolSpec>, StoreError> {
        Ok(self.tables().specs.get(pool).cloned())
    }

    async fn write_pool(&self, seen: Option<u64>, next: &PoolSpec) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let is_as_seen = tables.specs.get(&next.name).map(|spec| spec.version) == seen;
        if is_as_seen {
            tables.pools.insert(next.name.clone());
            tables.specs.insert(next.name.clone(), next.clone());
        }
        Ok(is_as_seen)
    }

    async fn remove_pool(&self, pool: &PoolName, seen: u64) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let is_as_seen = tables.specs.get(pool).is_some_and(|spec| spec.version == seen);
        if is_as_seen {
            tables.specs.remove(pool);
        }
        Ok(is_as_seen)
    }
}

#[async_trait]
impl Layout for MemoryStore {
    async fn shards(&self) -> Result<u16, StoreError> {
        Ok(self.tables().shards(self.shards_set).read)
    }

    async fn follow_size(&self, sandboxes: u64, now: UnixSeconds) -> Result<Shards, StoreError> {
        let mut tables = self.tables();
        let seen = tables.shards(self.shards_set);
        let next = seen.towards(wanted_shards(self.shards_set, sandboxes), now).unwrap_or(seen);
        tables.shards = Some(next);
        Ok(next)
    }

    async fn note_supply(&self, pool: &PoolName, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let at = tables.supplied_at.entry(pool.clone()).or_insert(now);
        *at = now.max(*at);
        Ok(())
    }

    async fn supply(&self, pool: &PoolName) -> Result<Supply, StoreError> {
        let mut tables = self.tables();
        let supplied_at = tables.supplied_at.get(pool).copied();
        let shards = tables.shards(self.shards_set).read;
        Ok(Supply { shards, settles_at: settles_at(supplied_at, self.index_lag) })
    }

    async fn pools(&self) -> Result<BTreeSet<PoolName>, StoreError> {
        Ok(self.tables().pools.clone())
    }

    async fn note_pools(&self, pools: &BTreeSet<PoolName>) -> Result<(), StoreError> {
        self.tables().pools.extend(pools.iter().cloned());
        Ok(())
    }

    async fn deletion_switch(&self) -> Result<Option<DeletionSwitch>, StoreError> {
        Ok(self.tables().deletion_switch.clone())
    }

    async fn set_deletion_switch(&self, next: &DeletionSwitch) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        if tables.deletion_switch.as_ref().is_none_or(|there| there.version < next.version) {
            tables.deletion_switch = Some(next.clone());
        }
        Ok(tables.deletion_switch.as_ref() == Some(next))
    }

    async fn agreed(&self) -> Result<Agreed, StoreError> {
        Ok(self.tables().agreed.clone())
    }

    async fn agree(&self, own: &Agreed, replaces: bool) -> Result<Agreed, StoreError> {
        let mut tables = self.tables();
        for (name, value) in own {
            if replaces || !tables.agreed.contains_key(name) {
                tables.agreed.insert(name.clone(), value.clone());
            }
        }
        Ok(tables.agreed.clone())
    }

    async fn mark(&self) -> Result<TableMark, StoreError> {
        Ok(self.tables().mark)
    }

    async fn advance_mark(&self, seen: &TableMark, next: &TableMark) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let is_seen = tables.mark.number == seen.number;
        if is_seen {
            tables.mark = *next;
        }
        Ok(is_seen)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn open_claim(
        &self,
        record: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<OpenClaim, StoreError> {
        let mut tables = self.tables();
        match tables.claim_record(&record.claim) {
            Some(held) if held == *record => Ok(OpenClaim::Opened),
            Some(held) => Ok(OpenClaim::Held(held)),
            None => {
                tables.put_claim(record.clone(), keep_until);
                Ok(OpenClaim::Opened)
            }
        }
    }

    async fn move_claim(
        &self,
        from: &ClaimRecord,
        to: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<MoveClaim, StoreError> {
        let mut tables = self.tables();
        match tables.claim_record(&from.claim) {
            Some(held) if held == *from => {
                tables.put_claim(to.clone(), keep_until);
                Ok(MoveClaim::Moved)
            }
            Some(held) if held == *to => Ok(MoveClaim::Moved),
            Some(held) => Ok(MoveClaim::Held(held)),
            None => Ok(MoveClaim::Absent),
        }
    }

    async fn close_claim(&self, record: &ClaimRecord, keep_until: UnixSeconds) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let open = tables.claim_record(&record.claim).filter(|held| !held.is_closed);
        if let Some(open) = open.filter(|open| open.candidate.is(&record.candidate)) {
            tables.put_claim(open.closed(&record.answered), keep_until);
        }
        Ok(())
    }

    async fn find_claim(&self, claim: &ClaimKey) -> Result<Option<ClaimRecord>, StoreError> {
        Ok(self.tables().claim_record(claim))
    }

    async fn apply(&self, id: &SandboxId, transition: &Transition) -> Result<Write, StoreError> {
        let mut tables = self.tables();
        let Some(sandbox) = tables.sandboxes.get(id).cloned() else { return Ok(Write::Lost(None)) };
        match sandbox.apply(transition) {
            Ok(changed) => {
                let shards = tables.shards(self.shards_set).write;
                tables.put(changed.clone(), shards);
                Ok(Write::Done(Box::new(changed)))
            }
            Err(InvalidTransition { transition: _, from: _, sandbox }) => Ok(Write::Lost(Some(sandbox))),
        }
    }

    async fn insert(&self, sandbox: &NewSandbox, now: UnixSeconds) -> Result<Insert, StoreError> {
        let mut tables = self.tables();
        if let Some(existing) = tables.sandboxes.get(&sandbox.id) {
            return Ok(Insert::Exists(Box::new(existing.clone())));
        }
        if let Some(identity) = tables.identities.get(&identity::place(&sandbox.external_id)) {
            return Ok(Insert::Taken(identity.sandbox_id.clone()));
        }
        let entered = sandbox.clone().enter(now);
        let shards = tables.shards(self.shards_set).write;
        tables.put_with_identity(entered.clone(), shards);
        Ok(Insert::Inserted(Box::new(entered)))
    }

    async fn create(&self, sandbox: &Sandbox) -> Result<Insert, StoreError> {
        let mut tables = self.tables();
        if let Some(existing) = tables.sandboxes.get(&sandbox.id) {
            return Ok(Insert::Exists(Box::new(existing.clone())));
        }
        let shards = tables.shards(self.shards_set).write;
        tables.put(sandbox.clone(), shards);
        Ok(Insert::Inserted(Box::new(sandbox.clone())))
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        Ok(self.tables().sandboxes.get(id).cloned())
    }

    async fn page(
        &self,
        query: &StateQuery,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        let tables = self.tables();
        let limit = usize::from(limit.max(1));
        let mut page = Page::default();
        let Some(entries) = tables.index.get(&state_shard(&query.pool, query.state, query.shard)) else {
            return Ok(page);
        };
        let start = match after {
            Some(cursor) => Bound::Excluded(position(cursor)?),
            None => Bound::Unbounded,
        };
        for (sort, id) in entries.range((start, Bound::Unbounded)) {
            if !query.range.contains(sort) {
                continue;
            }
            page.sandboxes.extend(tables.sandboxes.get(id).cloned());
            if page.sandboxes.len() == limit {
                // Like DynamoDB: a full page has a cursor, even if nothing follows.
                page.next = Some(cursor_at(sort, id));
                break;
            }
        }
        Ok(page)
    }

    async fn held_by_lab(
        &self,
        lab: &LabId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        let tables = self.tables();
        let after = after.map(position).transpose()?;
        let granted = |sandbox: &Sandbox| {
            let lease = sandbox.lease().filter(|lease| lease.lab.as_ref() == Some(lab))?;
            Some((due_sort(lease.granted_at), sandbox.id.clone()))
        };
        let mut held: Vec<_> = tables.sandboxes.values().filter_map(granted).collect();
        held.retain(|place| after.as_ref().is_none_or(|after| place > after));
        held.sort_unstable();
        held.truncate(usize::from(limit.max(1)));
        let full = held.len() == usize::from(limit.max(1));
        let next = held.last().filter(|_| full).map(|(sort, id)| cursor_at(sort, id));
        let sandboxes = held.iter().filter_map(|(_, id)| tables.sandboxes.get(id).cloned()).collect();
        Ok(Page { sandboxes, unreadable: Vec::new(), next })
    }

    async fn claims_of(
        &self,
        owner: &OwnerId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<ClaimPage, StoreError> {
        let tables = self.tables();
        let limit = usize::from(limit.max(1));
        let after = after.map(|cursor| cursor.key.as_str());
        let keys = tables.claims.keys().filter(|claim| claim.owner == *owner);
        let keys = keys.filter(|claim| after.is_none_or(|after| claim.key.as_str() > after)).take(limit);
        let claims: Vec<_> = keys.filter_map(|claim| tables.claim_record(claim)).collect();
        let last = claims.last().filter(|_| claims.len() == limit);
        let next = last.map(|last| PageCursor { sort: String::new(), key: last.claim.key.to_string() });
        Ok(ClaimPage { claims, unreadable: Vec::new(), next })
    }

    async fn tombstones(&self, after: Option<&PageCursor>, limit: u16) -> Result<Page, StoreError> {
        let tables = self.tables();
        let is_behind = |id: &SandboxId| after.is_none_or(|after| scan_cursor(id).key > after.key);
        let rest = tables.sandboxes.iter().filter(|(id, _)| is_behind(id));
        let looked_at: Vec<_> = rest.map(|(_, sandbox)| sandbox).take(usize::from(limit.max(1))).collect();
        let is_full = looked_at.len() == usize::from(limit.max(1));
        let next = looked_at.last().filter(|_| is_full).map(|last| scan_cursor(&last.id));
        let is_tombstone = |sandbox: &&Sandbox| sandbox.state.name() == StateName::Deleted;
        let sandboxes = looked_at.into_iter().filter(is_tombstone).cloned().collect();
        Ok(Page { sandboxes, unreadable: Vec::new(), next })
    }

    async fn last(&self, query: &StateQuery) -> Result<Option<Sandbox>, StoreError> {
        let tables = self.tables();
        let entries = tables.index.get(&state_shard(&query.pool, query.state, query.shard));
        let last = entries.and_then(|entries| entries.iter().rfind(|(sort, _)| query.range.contains(sort)));
        Ok(last.and_then(|(_, id)| tables.sandboxes.get(id).cloned()))
    }

    async fn count(&self, query: &StateQuery) -> Result<u64, StoreError> {
        let tables = self.tables();
        let entries = tables.index.get(&state_shard(&query.pool, query.state, query.shard));
        let count = entries
            .map_or(0, |entries| entries.iter().filter(|(sort, _)| query.range.contains(sort)).count());
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }
}

fn cursor_at(sort: &str, id: &SandboxId) -> PageCursor {
    PageCursor { sort: sort.to_owned(), key: id.to_string() }
}

fn position(cursor: &PageCursor) -> Result<(String, SandboxId), StoreError> {
    let id = SandboxId::parse(&cursor.key).map_err(|problem| StoreError::Corrupt {
        item: "page cursor".to_owned(),
        attribute: "id",
        problem: problem.to_string(),
    })?;
    Ok((cursor.sort.clone(), id))
}
