//! The store port: the state of every sandbox and of every claim.
//!
//! It speaks in transitions ([`Transition`]). Each one is a single conditional write that states what it starts from; losing
//! a race is an answer ([`Write::Lost`], [`OpenClaim::Held`] …) and carries what was found instead, so no
//! read is needed to know what happened. [`StoreError`] is kept for "could not find out": the write may or
//! may not have happened, and every method here may be repeated without harm.

use async_trait::async_trait;
use domain::{
    ClaimKey, ClaimRecord, LabId, NamePrefix, NewSandbox, OwnerId, PoolName, Sandbox, SandboxId, SandboxName,
    StateName, Transition, UnixSeconds,
};

mod identity;
pub mod index;
pub mod layout;
mod steps;

pub use identity::{
    IDENTITY_ABSENCES_MAX, IDENTITY_DUPLICATES_MAX, IDENTITY_SHARDS, Identities, Identity, IdentityPage,
};
pub use layout::{Agreed, CURSOR_KEY_BYTES, CursorKey, Layout, SHARDS_MAX, Shards, Supply, TableMark};

/// What became of a conditional write on a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// It happened; the sandbox as it is now.
    Done(Box<Sandbox>),
    /// It did not start from what is there; what is there, if anything.
    Lost(Option<Box<Sandbox>>),
}

/// What became of opening a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenClaim {
    /// The claim item is ours and names our candidate.
    Opened,
    /// There is one already; go on with it.
    Held(ClaimRecord),
}

/// What became of pointing a claim at another candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveClaim {
    /// It names the new candidate.
    Moved,
    /// A twin was faster; go on with what it names now.
    Held(ClaimRecord),
    /// There is no claim item any more.
    Absent,
}

/// What became of adding a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Insert {
    /// It is new and free.
    Inserted(Box<Sandbox>),
    /// Its id is taken: known already, or a tombstone.
    Exists(Box<Sandbox>),
    /// The identity of its account names a sandbox already: this one.
    Taken(SandboxId),
}

/// One shard of `StateIndex` and which part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateQuery {
    /// The pool.
    pub pool: PoolName,
    /// The state; tombstones are in no index.
    pub state: StateName,
    /// The shard, below [`Layout::shards`].
    pub shard: u16,
    /// Which part of the shard.
    pub range: SortRange,
}

/// Which part of an index shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SortRange {
    /// All of it.
    All,
    /// Free sandboxes whose name begins so.
    NamePrefix(NamePrefix),
    /// Free sandboxes from that name on, in the order of their bytes, whose name begins with `prefix` if there is
    /// one. A listing that began so may go on over the whole of it, from the cursor of any page.
    NamesFrom {
        /// The least name.
        from: SandboxName,
        /// What the names begin with.
        prefix: Option<NamePrefix>,
    },
    /// What was due (lease end, request time) at or before that moment.
    DueBy(UnixSeconds),
}

/// Where a listing goes on. Opaque outside the adapter that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageCursor(pub Vec<(String, String)>);

/// An item that this build cannot read, and why: another build wrote it, or it is damaged. It is skipped and reported,
/// and keeps no other item from being read.
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

/// One page of a listing. It comes from an index: a hint that may lag behind the sandboxes themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The sandboxes, in the order of the index.
    pub sandboxes: Vec<Sandbox>,
    /// Items of the page that this build cannot read.
    pub unreadable: Vec<Unreadable>,
    /// Where to go on; none on the last page.
    pub next: Option<PageCursor>,
}

/// One page of the claim items of an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimPage {
    /// The claim items, in the order of their keys.
    pub claims: Vec<ClaimRecord>,
    /// Items of the page that this build cannot read.
    pub unreadable: Vec<Unreadable>,
    /// Where to go on; none on the last page.
    pub next: Option<PageCursor>,
}

/// Why the store could not say what happened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Refused because of too many requests; worth another try a little later. Nothing was done.
    #[error("the store is throttled ({operation})")]
    Throttled {
        /// What was tried.
        operation: &'static str,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not reachable or failing; worth another try.
    #[error("the store is unavailable ({operation})")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk under it is full or fails. It may still answer reads; what was to be written is not there.
    #[error("the disk of the store is full or fails ({operation})")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An item that this version cannot read. Trying again does not help.
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
    /// The item, if the failure is about one that this build cannot read. Everything else is the store's own failure.
    ///
    /// # Errors
    /// The failure of the store.
    pub fn into_unreadable(self) -> Result<Unreadable, Self> {
        match self {
            Self::Corrupt { item, attribute, problem } => {
                Ok(Unreadable { sandbox: index::sandbox_in(&item), item, attribute, problem })
            }
            failure => Err(failure),
        }
    }
}

/// What was read; none as well if there is an item that this build cannot read, which is as good as absent to a caller
/// that only looks. Nothing may be written on the strength of it.
///
/// # Errors
/// The failure of the store.
pub fn unless_unreadable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read.map_err(StoreError::into_unreadable) {
        Ok(found) => Ok(found),
        Err(Ok(_)) => Ok(None),
        Err(Err(failure)) => Err(failure),
    }
}

// === impl PageCursor ===

/// Between the parts of a cursor as text, none of which can hold it.
const CURSOR_PART_END: char = '\u{1f}';

impl PageCursor {
    /// The cursor as a token of letters and digits, to be given away and read again.
    #[must_use]
    pub fn to_text(&self) -> String {
        use std::fmt::Write as _;
        let parts = self.0.iter().flat_map(|(name, value)| [name, value]);
        let mut text = String::new();
        for byte in parts.flat_map(|part| part.bytes().chain([CURSOR_PART_END as u8])) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The cursor of such a token; none if it is no such token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // A number may have a sign, and a token of ours has none.
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
        let bytes: Vec<u8> = digits
            .map(|pair| {
                pair.filter(|pair| pair.len() == 2).and_then(|pair| u8::from_str_radix(pair, 16).ok())
            })
            .collect::<Option<_>>()?;
        let text = String::from_utf8(bytes).ok()?;
        let mut parts = text.strip_suffix(CURSOR_PART_END)?.split(CURSOR_PART_END);
        let mut pairs = Vec::new();
        while let Some(name) = parts.next() {
            pairs.push((name.to_owned(), parts.next()?.to_owned()));
        }
        Some(Self(pairs))
    }
}

/// Keeps sandboxes and claims.
#[async_trait]
pub trait Store: Layout + Identities {
    /// Whether the store answers and takes writes.
    async fn ping(&self) -> Result<(), StoreError>;

    // --- claims ---

    /// Writes the claim item unless this owner's key has one. The record may be purged after `keep_until`.
    async fn open_claim(
        &self,
        record: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<OpenClaim, StoreError>;

    /// Puts `to`, of the same key, in the place of the claim item, if that is still as `from` says.
    async fn move_claim(
        &self,
        from: &ClaimRecord,
        to: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<MoveClaim, StoreError>;

    /// Marks the claim item closed and adds the answered requests of `record`, if it names the candidate of `record` and
    /// is open. Only for a lease that has ended. The item may be purged after `keep_until`. Nothing depends on whether
    /// it happened, because the sandbox says the same as long as there is a record of it.
    async fn close_claim(&self, record: &ClaimRecord, keep_until: UnixSeconds) -> Result<(), StoreError>;

    /// The claim item, by a strongly consistent read. Not for the hot path.
    async fn find_claim(&self, claim: &ClaimKey) -> Result<Option<ClaimRecord>, StoreError>;

    // --- sandboxes ---

    /// Carries a transition out, if its guard is true of the sandbox. One conditional write, without a read.
    ///
    /// A sandbox that cannot be read is lost to a grant like one that is gone, unless it names the very claim of that
    /// grant: then this is [`StoreError::Corrupt`], because the claim may hold it.
    async fn apply(&self, id: &SandboxId, transition: &Transition) -> Result<Write, StoreError>;

    /// (absent) → available, if there is no record of that id, not even a tombstone, and no identity of its account;
    /// record and identity in one transaction.
    async fn insert(&self, sandbox: &NewSandbox, now: UnixSeconds) -> Result<Insert, StoreError>;

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

    /// One page of the tombstones, which are in no index: by a scan of the table that looks at `limit` items at most, so that
    /// a page may be empty while there are more.
    async fn tombstones(&self, after: Option<&PageCursor>, limit: u16) -> Result<Page, StoreError>;

    /// The last sandbox of a part of one index shard; none if it cannot be read.
    async fn last(&self, query: &StateQuery) -> Result<Option<Sandbox>, StoreError>;

    /// How many sandboxes are in one index shard. Reads the whole shard.
    async fn count(&self, query: &StateQuery) -> Result<u64, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_round_trips() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let cursor =
            PageCursor(vec![pair("PK", "SBX#7"), pair("state_sort", "lab-\u{fc} 1"), pair("id", "")]);
        let text = cursor.to_text();
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{text}");
        assert_eq!(PageCursor::parse(&text), Some(cursor));
        for bad in ["", "7", "zz", "+1", "411f", "\u{fc}", "ff1f411f", "41"] {
            assert_eq!(PageCursor::parse(bad), None, "{bad:?}");
        }
    }
}
