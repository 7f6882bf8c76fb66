//! The store port: the state of every sandbox and of every claim.
//!
//! It works by transitions ([`Transition`]). Each one is a single conditional write that states its starting point.
//! Losing a race is an answer ([`Write::Lost`], [`OpenClaim::Held`] …) that contains what was found instead, so no read
//! is needed to know what happened. [`StoreError`] means that the result is unknown: the write may or may not have
//! happened, and every method here may be repeated without harm.

use async_trait::async_trait;
use domain::{
    ClaimKey, ClaimRecord, LabId, NamePrefix, NewSandbox, OwnerId, PoolName, Sandbox, SandboxId, SandboxName,
    StateName, Transition, UnixSeconds,
};

pub mod cursor;
mod identity;
pub mod index;
pub mod layout;
mod nodes;
mod pools;
mod steps;
mod templates;

pub use cursor::PageCursor;
pub use identity::{
    IDENTITY_ABSENCES_MAX, IDENTITY_DUPLICATES_MAX, IDENTITY_SHARDS, Identities, Identity, IdentityPage,
};
pub use layout::{Agreed, Layout, SHARDS_MAX, Shards, Supply, TableMark};
pub use nodes::NodeItems;
pub use pools::PoolItems;
pub use templates::{EntryPage, TemplateItems};

/// The result of a conditional write on a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// It succeeded; the sandbox as it is now.
    Done(Box<Sandbox>),
    /// Its condition did not hold; the sandbox that was found, if any.
    Lost(Option<Box<Sandbox>>),
}

/// The result of opening a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenClaim {
    /// The claim item is new, or equals ours.
    Opened,
    /// Another claim item exists; continue with it.
    Held(ClaimRecord),
}

/// The result of moving a claim to another candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveClaim {
    /// The claim item names the new candidate.
    Moved,
    /// Another attempt was faster; continue with what the claim item names now.
    Held(ClaimRecord),
    /// The claim item does not exist any more.
    Absent,
}

/// The result of inserting a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Insert {
    /// It was inserted and is free.
    Inserted(Box<Sandbox>),
    /// Its id exists already, perhaps as a tombstone.
    Exists(Box<Sandbox>),
    /// The identity of its account already names this sandbox.
    Taken(SandboxId),
}

/// A part of one shard of `StateIndex`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateQuery {
    /// The pool.
    pub pool: PoolName,
    /// The state; tombstones are in no index.
    pub state: StateName,
    /// The shard, below [`Layout::shards`].
    pub shard: u16,
    /// The part of the shard.
    pub range: SortRange,
}

/// A part of an index shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SortRange {
    /// The whole shard.
    All,
    /// Free sandboxes whose name has this prefix.
    NamePrefix(NamePrefix),
    /// Free sandboxes from that name on, in byte order, with this prefix if there is one. A listing that began like
    /// this may continue over the whole part, from the cursor of any page.
    NamesFrom {
        /// The smallest name.
        from: SandboxName,
        /// The prefix of the names.
        prefix: Option<NamePrefix>,
    },
    /// Sandboxes that were due (end of the lease, time of the request) at or before that moment.
    DueBy(UnixSeconds),
}

/// An item that this build cannot read, and the reason: another build wrote it, or it is damaged. It is skipped and
/// reported, and does not prevent reading other items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Key of the item.
    pub item: String,
    /// The sandbox, if it is a sandbox's item.
    pub sandbox: Option<SandboxId>,
    /// The attribute.
    pub attribute: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// One page of a listing. It comes from an index: a hint that may lag behind the sandboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The sandboxes, in the order of the index.
    pub sandboxes: Vec<Sandbox>,
    /// Items of the page that this build cannot read.
    pub unreadable: Vec<Unreadable>,
    /// The cursor of the next page; none on the last page.
    pub next: Option<PageCursor>,
}

/// One page of the claim items of an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimPage {
    /// The claim items, in the order of their keys.
    pub claims: Vec<ClaimRecord>,
    /// Items of the page that this build cannot read.
    pub unreadable: Vec<Unreadable>,
    /// The cursor of the next page; none on the last page.
    pub next: Option<PageCursor>,
}

/// Why the result of a call to the store is unknown.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Throttled: retry a little later. Nothing was done.
    #[error("the store is throttled ({operation})")]
    Throttled {
        /// The operation.
        operation: &'static str,
        /// The store's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Unreachable or failing: retry.
    #[error("the store is unavailable ({operation})")]
    Unavailable {
        /// The operation.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk of the store is full or fails. Reads may still work; the write did not happen.
    #[error("the disk of the store is full or fails ({operation})")]
    Disk {
        /// The operation.
        operation: &'static str,
        /// The store's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An item that this version cannot read. A retry does not help.
    #[error("item {item}: attribute {attribute}: {problem}")]
    Corrupt {
        /// Key of the item.
        item: String,
        /// The attribute.
        attribute: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

// === impl StoreError ===

impl StoreError {
    /// The unreadable item, if the error is about one. Otherwise the error itself.
    ///
    /// # Errors
    /// Any other error of the store.
    pub fn into_unreadable(self) -> Result<Unreadable, Self> {
        match self {
            Self::Corrupt { item, attribute, problem } => {
                Ok(Unreadable { sandbox: index::sandbox_in(&item), item, attribute, problem })
            }
            failure => Err(failure),
        }
    }
}

/// Treats an unreadable item as absent, for callers that only read. No write may depend on the result.
///
/// # Errors
/// Any other error of the store.
pub fn unless_unreadable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read.map_err(StoreError::into_unreadable) {
        Ok(found) => Ok(found),
        Err(Ok(_)) => Ok(None),
        Err(Err(failure)) => Err(failure),
    }
}

// === impl SortRange ===

impl SortRange {
    /// Whether the range holds an item with that sort key.
    #[must_use]
    pub fn contains(&self, sort: &str) -> bool {
        match self {
            Self::All => true,
            Self::NamePrefix(prefix) => sort.starts_with(prefix.as_str()),
            Self::NamesFrom { from, prefix } => {
                sort >= from.as_str()
                    && prefix.as_ref().is_none_or(|prefix| sort.starts_with(prefix.as_str()))
            }
            Self::DueBy(at) => *sort <= *index::due_sort(*at),
        }
    }
}

/// Stores sandboxes and claims.
#[async_trait]
pub trait Store: PoolItems + TemplateItems + NodeItems + Identities {
    /// Checks whether the store answers and accepts writes.
    async fn ping(&self) -> Result<(), StoreError>;

    // --- claims ---

    /// Writes the claim item unless this owner's key has one. The item may be purged after `keep_until`.
    async fn open_claim(
        &self,
        record: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<OpenClaim, StoreError>;

    /// Replaces the claim item by `to`, which has the same key, if it still equals `from`.
    async fn move_claim(
        &self,
        from: &ClaimRecord,
        to: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<MoveClaim, StoreError>;

    /// Marks the claim item closed and adds the answered requests of `record`, if it names the candidate of `record`
    /// and is open. Only for a lease that has ended. The item may be purged after `keep_until`. Nothing depends on this
    /// write, because the record of the sandbox says the same.
    async fn close_claim(&self, record: &ClaimRecord, keep_until: UnixSeconds) -> Result<(), StoreError>;

    /// The claim item, by a strongly consistent read. Not for the hot path.
    async fn find_claim(&self, claim: &ClaimKey) -> Result<Option<ClaimRecord>, StoreError>;

    // --- sandboxes ---

    /// Applies a transition if its guard holds: one conditional write, without a read.
    ///
    /// A grant treats an unreadable sandbox as lost, unless the item names the very claim of that grant: then this is
    /// [`StoreError::Corrupt`], because the claim may hold it.
    async fn apply(&self, id: &SandboxId, transition: &Transition) -> Result<Write, StoreError>;

    /// (absent) → available, if there is no record with that id, not even a tombstone, and no identity of its account.
    /// Record and identity are written in one transaction.
    async fn insert(&self, sandbox: &NewSandbox, now: UnixSeconds) -> Result<Insert, StoreError>;

    /// Writes the record of a sandbox that the fleet creates, or the tombstone of one that it will not create, if there
    /// is no record with that id. An existing one may be equal, written by an earlier or concurrent attempt. Such an id is
    /// never used again and names no account of a listing, so it has no identity item.
    async fn create(&self, sandbox: &Sandbox) -> Result<Insert, StoreError>;

    // --- reading ---

    /// The sandbox, by a strongly consistent read.
    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>, StoreError>;

    /// One page of one index shard, at most `limit` sandboxes.
    async fn page(
        &self,
        query: &StateQuery,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError>;

    /// One page of the sandboxes that a lab holds now, at most `limit`, by the start of their leases.
    async fn held_by_lab(
        &self,
        lab: &LabId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError>;

    /// One page of the claim items of an owner, at most `limit`, in the order of their keys; by a strongly consistent
    /// read.
    async fn claims_of(
        &self,
        owner: &OwnerId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<ClaimPage, StoreError>;

    /// One page of the tombstones, which are in no index: a scan that reads at most `limit` items of the table, so that
    /// a page may be empty while there are more. It may also go on after any sandbox ([`index::scan_cursor`]).
    async fn tombstones(&self, after: Option<&PageCursor>, limit: u16) -> Result<Page, StoreError>;

    /// The last sandbox of a part of one index shard; none if it cannot be read.
    async fn last(&self, query: &StateQuery) -> Result<Option<Sandbox>, StoreError>;

    /// How many sandboxes are in one index shard. Reads the whole shard.
    async fn count(&self, query: &StateQuery) -> Result<u64, StoreError>;
}
