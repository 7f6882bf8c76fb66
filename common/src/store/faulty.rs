//! A store that breaks off or stands still at a chosen call, before or after the write really happened: for
//! tests of what stands before a store.

use super::{
    ClaimPage, CursorKey, Description, Insert, Layout, MoveClaim, OpenClaim, Page, PageCursor, Shards,
    StateQuery, Store, StoreError, Supply, Write,
};
use crate::domain::{
    Actor, Candidate, ClaimKey, ClaimRecord, Epoch, Extension, Grant, LabId, NewSandbox, Order, OwnerId,
    PoolName, PreClean, Sandbox, SandboxId, UnixSeconds, Version,
};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a test waits for the chosen call.
const PAUSE_WAIT_MAX: Duration = Duration::from_secs(30);

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing happened.
    FailBefore,
    /// It happens and its answer is lost.
    FailAfter,
    /// It waits for [`FaultyStore::resume`], then happens.
    PauseBefore,
    /// It happens, and its answer waits for [`FaultyStore::resume`].
    PauseAfter,
}

/// A store in front of another one.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: BTreeMap<usize, Fault>,
    calls: Mutex<Vec<&'static str>>,
    paused: watch::Sender<bool>,
    resumed: watch::Sender<bool>,
}

/// The answer of a call that broke off.
#[derive(Debug, thiserror::Error)]
#[error("broken off on purpose")]
struct BrokenOff;

// === impl FaultyStore ===

impl FaultyStore {
    /// A store that passes every call on.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        let (paused, resumed) = (watch::Sender::new(false), watch::Sender::new(false));
        Self { inner, faults: BTreeMap::new(), calls: Mutex::default(), paused, resumed }
    }

    /// With this fault at the call of that number, counted from zero over all methods. One pause at most.
    #[must_use]
    pub fn with(mut self, call: usize, fault: Fault) -> Self {
        self.faults.insert(call, fault);
        self
    }

    /// Names of the calls so far.
    pub fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the call with a pause is there.
    ///
    /// # Panics
    /// If it does not come within half a minute.
    pub async fn paused(&self) {
        let mut paused = self.paused.subscribe();
        let reached = tokio::time::timeout(PAUSE_WAIT_MAX, paused.wait_for(|paused| *paused)).await;
        assert!(reached.is_ok(), "the chosen call never came; calls: {:?}", self.calls());
    }

    /// Lets the call with a pause go on, now or when it comes.
    pub fn resume(&self) {
        self.resumed.send_replace(true);
    }

    fn begin(&self, operation: &'static str) -> Option<Fault> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let number = calls.len();
        calls.push(operation);
        self.faults.get(&number).copied()
    }

    async fn pause(&self) {
        self.paused.send_replace(true);
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.resumed.subscribe().wait_for(|resumed| *resumed).await;
    }

    async fn pass<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let fault = self.begin(operation);
        match fault {
            Some(Fault::FailBefore) => return Err(broken_off(operation)),
            Some(Fault::PauseBefore) => self.pause().await,
            _ => {}
        }
        let answer = call.await;
        match fault {
            Some(Fault::FailAfter) => return Err(broken_off(operation)),
            Some(Fault::PauseAfter) => self.pause().await,
            _ => {}
        }
        answer
    }
}

fn broken_off(operation: &'static str) -> StoreError {
    StoreError::Unavailable { operation, source: Box::new(BrokenOff) }
}

#[async_trait]
impl Layout for FaultyStore {
    // Not counted among the calls: it is answered from memory nearly always.
    async fn shards(&self) -> Result<u16, StoreError> {
        self.inner.shards().await
    }

    async fn follow_size(&self, sandboxes: u64, now: UnixSeconds) -> Result<Shards, StoreError> {
        self.pass("follow_size", self.inner.follow_size(sandboxes, now)).await
    }

    async fn note_supply(&self, pool: &PoolName, now: UnixSeconds) -> Result<(), StoreError> {
        self.pass("note_supply", self.inner.note_supply(pool, now)).await
    }

    async fn supply(&self, pool: &PoolName) -> Result<Supply, StoreError> {
        self.pass("supply", self.inner.supply(pool)).await
    }

    async fn cursor_key(&self, fresh: &CursorKey) -> Result<CursorKey, StoreError> {
        self.pass("cursor_key", self.inner.cursor_key(fresh)).await
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.pass("ping", self.inner.ping()).await
    }

    async fn open_claim(
        &self,
        record: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<OpenClaim, StoreError> {
        self.pass("open_claim", self.inner.open_claim(record, keep_until)).await
    }

    async fn move_claim(
        &self,
        from: &ClaimRecord,
        to: &Candidate,
        keep_until: UnixSeconds,
    ) -> Result<MoveClaim, StoreError> {
        self.pass("move_claim", self.inner.move_claim(from, to, keep_until)).await
    }

    async fn close_claim(&self, record: &ClaimRecord) -> Result<(), StoreError> {
        self.pass("close_claim", self.inner.close_claim(record)).await
    }

    async fn find_claim(&self, claim: &ClaimKey) -> Result<Option<ClaimRecord>, StoreError> {
        self.pass("find_claim", self.inner.find_claim(claim)).await
    }

    async fn grant(&self, grant: &Grant) -> Result<Write, StoreError> {
        self.pass("grant", self.inner.grant(grant)).await
    }

    async fn release(&self, id: &SandboxId, owner: &OwnerId, now: UnixSeconds) -> Result<Write, StoreError> {
        self.pass("release", self.inner.release(id, owner, now)).await
    }

    async fn expire(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        ended_by: UnixSeconds,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.pass("expire", self.inner.expire(id, epoch, ended_by, now)).await
    }

    async fn extend(
        &self,
        seen: &Sandbox,
        extension: &Extension,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.pass("extend", self.inner.extend(seen, extension, now)).await
    }

    async fn quarantine(
        &self,
        seen: &Candidate,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.pass("quarantine", self.inner.quarantine(seen, order, now)).await
    }

    async fn unquarantine(
        &self,
        seen: &Sandbox,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.pass("unquarantine", self.inner.unquarantine(seen, order, now)).await
    }

    async fn order_deletion(
        &self,
        seen: &Sandbox,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.pass("order_deletion", self.inner.order_deletion(seen, order, now)).await
    }

    async fn note_attempt(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        attempts: u32,
        error: &str,
        pre_clean: Option<&PreClean>,
    ) -> Result<Write, StoreError> {
        self.pass("note_attempt", self.inner.note_attempt(id, epoch, attempts, error, pre_clean)).await
    }

    async fn note_pre_clean(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        attempts: u32,
        pre_clean: &PreClean,
    ) -> Result<Write, StoreError> {
        self.pass("note_pre_clean", self.inner.note_pre_clean(id, epoch, attempts, pre_clean)).await
    }

    async fn finish_deletion(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        now: UnixSeconds,
        purge_at: UnixSeconds,
        pre_clean: Option<&PreClean>,
    ) -> Result<Write, StoreError> {
        self.pass("finish_deletion", self.inner.finish_deletion(id, epoch, now, purge_at, pre_clean)).await
    }

    async fn park_deletion(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.pass("park_deletion", self.inner.park_deletion(id, epoch, now)).await
    }

    async fn replay_deletion(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        by: &Actor,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.pass("replay_deletion", self.inner.replay_deletion(id, epoch, by, now)).await
    }

    async fn insert(&self, sandbox: &NewSandbox, now: UnixSeconds) -> Result<Insert, StoreError> {
        self.pass("insert", self.inner.insert(sandbox, now)).await
    }

    async fn mark_missing(&self, seen: &Sandbox, now: UnixSeconds) -> Result<Write, StoreError> {
        self.pass("mark_missing", self.inner.mark_missing(seen, now)).await
    }

    async fn mark_found(&self, seen: &Sandbox, now: UnixSeconds) -> Result<Write, StoreError> {
        self.pass("mark_found", self.inner.mark_found(seen, now)).await
    }

    async fn forget(
        &self,
        seen: &Sandbox,
        by: Option<&Actor>,
        now: UnixSeconds,
        purge_at: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.pass("forget", self.inner.forget(seen, by, now, purge_at)).await
    }

    async fn describe(
        &self,
        id: &SandboxId,
        version: Version,
        description: &Description,
    ) -> Result<Write, StoreError> {
        self.pass("describe", self.inner.describe(id, version, description)).await
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        self.pass("sandbox", self.inner.sandbox(id)).await
    }

    async fn page(
        &self,
        query: &StateQuery,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        self.pass("page", self.inner.page(query, after, limit)).await
    }

    async fn held_by_lab(
        &self,
        lab: &LabId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        self.pass("held_by_lab", self.inner.held_by_lab(lab, after, limit)).await
    }

    async fn claims_of(
        &self,
        owner: &OwnerId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<ClaimPage, StoreError> {
        self.pass("claims_of", self.inner.claims_of(owner, after, limit)).await
    }

    async fn last(&self, query: &StateQuery) -> Result<Option<Sandbox>, StoreError> {
        self.pass("last", self.inner.last(query)).await
    }

    async fn count(&self, query: &StateQuery) -> Result<u64, StoreError> {
        self.pass("count", self.inner.count(query)).await
    }
}
