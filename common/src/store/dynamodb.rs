//! The store in DynamoDB: one table, two sparse indexes (`architecture.md`).
//!
//! It runs unchanged against AWS, Amazon's DynamoDB Local and the embedded `dynoxide` engine. Guarantees:
//! no write is unconditional, no write is preceded by a read that it depends on, and a condition that does
//! not hold is an answer, never a [`StoreError`].

use super::{
    ClaimPage, Description, Insert, MoveClaim, OpenClaim, Page, PageCursor, StateQuery, Store, StoreError,
    Write,
};
use crate::domain::{
    Actor, Candidate, ClaimKey, ClaimRecord, Epoch, Extension, Grant, LabId, Lease, NewSandbox, Order,
    OwnerId, PreClean, RequestKey, Sandbox, SandboxId, UnixSeconds, Version,
};
use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use std::sync::Arc;
use std::time::Duration;

mod attributes;
mod claim;
mod config;
pub(crate) mod door;
mod expression;
pub mod floor;
mod identity;
mod item;
mod layout;
mod listing;
mod orders;
mod switch;
pub mod table;
mod transitions;
mod unreadable;

pub use config::DynamoConfig;
pub(super) use item::sandbox_in;

/// What DynamoDB refuses a call with that comes too fast, after the tries of the SDK.
const THROTTLING_CODES: [&str; 4] =
    ["ProvisionedThroughputExceededException", "RequestLimitExceeded", "Throttling", "ThrottlingException"];

/// Keeps sandboxes and claims in one DynamoDB table.
#[derive(Clone, Debug)]
pub struct DynamoStore {
    client: Client,
    table: String,
    /// Shards that the settings ask for; the table says how many there are.
    shards_set: u16,
    /// How far the indexes may lag behind the table.
    index_lag: Duration,
    known: Arc<layout::Known>,
    unreadable: Arc<unreadable::Reported>,
}

/// What kept a call from a usable answer: throttling, time-outs, connections, failures of the service. A failed condition
/// never comes here.
fn unavailable(
    operation: &'static str,
    source: impl std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
) -> StoreError {
    if source.code().is_some_and(|code| THROTTLING_CODES.contains(&code)) {
        return StoreError::Throttled { operation, source: Box::new(source) };
    }
    StoreError::Unavailable { operation, source: Box::new(source) }
}

#[async_trait]
impl Store for DynamoStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.read_nothing().await
    }

    async fn open_claim(
        &self,
        record: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<OpenClaim, StoreError> {
        self.put_claim(record, keep_until).await
    }

    async fn move_claim(
        &self,
        from: &ClaimRecord,
        to: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<MoveClaim, StoreError> {
        self.swap_claim(from, to, keep_until).await
    }

    async fn close_claim(&self, record: &ClaimRecord, keep_until: UnixSeconds) -> Result<(), StoreError> {
        self.mark_closed(record, keep_until).await
    }

    async fn find_claim(&self, claim: &ClaimKey) -> Result<Option<ClaimRecord>, StoreError> {
        self.read_claim(claim).await
    }

    async fn grant(&self, grant: &Grant) -> Result<Write, StoreError> {
        self.write_grant(grant).await
    }

    async fn note_answer(
        &self,
        id: &SandboxId,
        seen: &Lease,
        request: &RequestKey,
    ) -> Result<Write, StoreError> {
        self.write_answer(id, seen, request).await
    }

    async fn release(
        &self,
        id: &SandboxId,
        owner: &OwnerId,
        epoch: Option<Epoch>,
        by: Option<&Actor>,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.write_release(id, owner, epoch, by, now).await
    }

    async fn expire(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        ended_by: UnixSeconds,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.write_expire(id, epoch, ended_by, now).await
    }

    async fn extend(
        &self,
        seen: &Sandbox,
        extension: &Extension,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.write_extension(seen, extension, now).await
    }

    async fn quarantine(
        &self,
        seen: &Candidate,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.write_quarantine(seen, order, now).await
    }

    async fn unquarantine(
        &self,
        seen: &Sandbox,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.write_unquarantine(seen, order, now).await
    }

    async fn order_deletion(
        &self,
        seen: &Sandbox,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.write_ordered_deletion(seen, order, now).await
    }

    async fn note_attempt(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        attempts: u32,
        error: &str,
        pre_clean: Option<&PreClean>,
    ) -> Result<Write, StoreError> {
        self.write_attempt(id, epoch, attempts, error, pre_clean).await
    }

    async fn note_pre_clean(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        attempts: u32,
        pre_clean: &PreClean,
    ) -> Result<Write, StoreError> {
        self.write_pre_clean(id, epoch, attempts, pre_clean).await
    }

    async fn finish_deletion(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        now: UnixSeconds,
        purge_at: UnixSeconds,
        pre_clean: Option<&PreClean>,
    ) -> Result<Write, StoreError> {
        self.write_finish(id, epoch, now, purge_at, pre_clean).await
    }

    async fn park_deletion(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.write_park(id, epoch, now).await
    }

    async fn replay_deletion(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        by: &Actor,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.write_replay(id, epoch, by, now).await
    }

    async fn insert(&self, sandbox: &NewSandbox, now: UnixSeconds) -> Result<Insert, StoreError> {
        self.write_insert(sandbox, now).await
    }

    async fn mark_missing(&self, seen: &Sandbox, now: UnixSeconds) -> Result<Write, StoreError> {
        self.write_missing(seen, now).await
    }

    async fn mark_found(&self, seen: &Sandbox, now: UnixSeconds) -> Result<Write, StoreError> {
        self.write_found(seen, now).await
    }

    async fn forget(
        &self,
        seen: &Sandbox,
        by: Option<&Actor>,
        now: UnixSeconds,
        purge_at: UnixSeconds,
    ) -> Result<Write, StoreError> {
        self.write_forget(seen, by, now, purge_at).await
    }

    async fn describe(
        &self,
        id: &SandboxId,
        version: Version,
        description: &Description,
    ) -> Result<Write, StoreError> {
        self.write_description(id, version, description).await
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        self.read_sandbox(id).await
    }

    async fn page(
        &self,
        query: &StateQuery,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        self.read_page(query, after, limit).await
    }

    async fn held_by_lab(
        &self,
        lab: &LabId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        self.read_lab(lab, after, limit).await
    }

    async fn claims_of(
        &self,
        owner: &OwnerId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<ClaimPage, StoreError> {
        self.read_claims(owner, after, limit).await
    }

    async fn last(&self, query: &StateQuery) -> Result<Option<Sandbox>, StoreError> {
        self.read_last(query).await
    }

    async fn count(&self, query: &StateQuery) -> Result<u64, StoreError> {
        self.read_count(query).await
    }
}
