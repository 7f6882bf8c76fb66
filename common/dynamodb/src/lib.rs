//! The store in DynamoDB: one table, its sparse indexes (`architecture.md`).
//!
//! It runs unchanged against AWS, Amazon's DynamoDB Local and the embedded `dynoxide` engine. Guarantees: every write
//! is conditional, no write depends on an earlier read, and a condition that does not hold is an answer, never a
//! [`StoreError`].

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use domain::{
    ClaimKey, ClaimRecord, LabId, NewSandbox, OwnerId, Sandbox, SandboxId, Transition, UnixSeconds,
};
use parking_lot::Mutex;
use ports::store::{
    ClaimPage, Insert, MoveClaim, OpenClaim, Page, PageCursor, StateQuery, Store, StoreError, Write,
};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

mod agreement;
mod attributes;
pub mod back_fill;
pub mod baseline;
mod claim;
mod config;
pub mod examine;
mod expression;
#[doc(hidden)]
pub mod fuzz_support;
mod identity;
pub mod indexes;
mod item;
mod layout;
mod listing;
mod nodes;
mod ping;
mod pools;
mod switch;
pub mod table;
mod templates;
mod transitions;
mod unreadable;

pub use config::{DynamoConfig, READ_GROUP_INDEX};

/// Error codes of DynamoDB for throttled calls, after the retries of the SDK.
const THROTTLING_CODES: [&str; 4] =
    ["ProvisionedThroughputExceededException", "RequestLimitExceeded", "Throttling", "ThrottlingException"];

/// Error texts (from SQLite) of the embedded engine when the disk is full or fails. AWS has neither.
const DISK_ERROR_TEXTS: [&str; 2] = ["disk is full", "disk I/O error"];

/// Keeps sandboxes and claims in one DynamoDB table.
#[derive(Clone, Debug)]
pub struct DynamoStore {
    client: Client,
    table: String,
    /// Number of shards in the settings; the table decides how many there are.
    shards_set: u16,
    /// How far the indexes may lag behind the table.
    index_lag: Duration,
    /// What the setting says about the index of labs.
    wants_group_index: bool,
    /// Whether time to live is switched on where it is off.
    enables_ttl: bool,
    /// The index that labs are listed from: `GroupIndex` or `LabIndex`. The check of the table decides.
    reads_group_index: Arc<AtomicBool>,
    known: Arc<layout::Known>,
    unreadable: Arc<unreadable::Reported>,
    /// When the last ping was written.
    written: Arc<Mutex<Option<Instant>>>,
}

/// The error of a call that got no usable answer: throttling, time-outs, connections, failures of the service. Callers
/// handle failed conditions before.
fn unavailable(
    operation: &'static str,
    source: impl std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
) -> StoreError {
    if source.code().is_some_and(|code| THROTTLING_CODES.contains(&code)) {
        return StoreError::Throttled { operation, source: Box::new(source) };
    }
    if source.message().is_some_and(|message| DISK_ERROR_TEXTS.iter().any(|words| message.contains(words))) {
        return StoreError::Disk { operation, source: Box::new(source) };
    }
    StoreError::Unavailable { operation, source: Box::new(source) }
}

#[async_trait]
impl Store for DynamoStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.write_ping().await
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

    async fn apply(&self, id: &SandboxId, transition: &Transition) -> Result<Write, StoreError> {
        self.write_transition(id, transition).await
    }

    async fn insert(&self, sandbox: &NewSandbox, now: UnixSeconds) -> Result<Insert, StoreError> {
        self.write_insert(sandbox, now).await
    }

    async fn create(&self, sandbox: &Sandbox) -> Result<Insert, StoreError> {
        let item = item::encode(sandbox, self.write_shards().await?);
        Ok(match self.put_if_absent("create", item).await? {
            Some(found) => Insert::Exists(Box::new(self.decode(&found)?)),
            None => Insert::Inserted(Box::new(sandbox.clone())),
        })
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

    async fn tombstones(&self, after: Option<&PageCursor>, limit: u16) -> Result<Page, StoreError> {
        self.scan_tombstones(after, limit).await
    }

    async fn last(&self, query: &StateQuery) -> Result<Option<Sandbox>, StoreError> {
        self.read_last(query).await
    }

    async fn count(&self, query: &StateQuery) -> Result<u64, StoreError> {
        self.read_count(query).await
    }
}
