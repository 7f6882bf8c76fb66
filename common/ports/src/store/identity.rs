//! External identities: which sandbox stands for an account of the provider.
//!
//! A sandbox and the identity of its account are inserted in one transaction, so two records of one account are never
//! both new. The identity outlives the record: it goes only after several complete listings in a row did not show the
//! account, so a used account never becomes free again while the provider lists it.

use super::{Insert, PageCursor, StoreError};
use async_trait::async_trait;
use domain::{ExternalId, NewSandbox, Sandbox, SandboxId, UnixSeconds};

/// Shards of the index that identities lie in. Stored keys depend on it.
pub const IDENTITY_SHARDS: u16 = 8;
/// Complete listings in a row that do not show an account before its identity goes.
pub const IDENTITY_ABSENCES_MAX: u32 = 3;
/// Most further records that an identity names; tables of former builds may hold several records of one account.
pub const IDENTITY_DUPLICATES_MAX: usize = 16;

/// Which sandbox stands for an account of the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account.
    pub external_id: ExternalId,
    /// The sandbox that stands for it.
    pub sandbox_id: SandboxId,
    /// Other records of the same account, which a former build has made; at most [`IDENTITY_DUPLICATES_MAX`].
    pub duplicates: Vec<SandboxId>,
    /// Complete listings in a row that did not show the account.
    pub absences: u32,
}

/// One page of identities. It comes from an index: a hint that may lag behind the identities themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityPage {
    /// The identities, in the order of the index.
    pub identities: Vec<Identity>,
    /// Where to go on; none on the last page.
    pub next: Option<PageCursor>,
}

/// Keeps external identities. Part of every store.
#[async_trait]
pub trait Identities: Send + Sync + std::fmt::Debug {
    /// The identity, by a strongly consistent read.
    async fn identity(&self, external_id: &ExternalId) -> Result<Option<Identity>, StoreError>;

    /// Has the identity name `id`: as its sandbox if there is no identity yet, else as a duplicate. What it names
    /// already stays. Gives back what holds now.
    async fn name_identity(&self, external_id: &ExternalId, id: &SandboxId) -> Result<Identity, StoreError>;

    /// One page of one shard, below [`IDENTITY_SHARDS`], at most `limit` identities.
    async fn identities(
        &self,
        shard: u16,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<IdentityPage, StoreError>;

    /// Sets how many listings in a row did not show the account, if the identity is still as `seen`; says whether it
    /// was.
    async fn note_absences(&self, seen: &Identity, absences: u32) -> Result<bool, StoreError>;

    /// Removes the identity, if it is still as `seen`; says whether it was.
    async fn drop_identity(&self, seen: &Identity) -> Result<bool, StoreError>;

    /// available | stale | deleted → available as another account, if it is still at the version of `seen` and no
    /// identity of that account exists. The identity is made in the same transaction.
    async fn reidentify(
        &self,
        seen: &Sandbox,
        listed: &NewSandbox,
        now: UnixSeconds,
    ) -> Result<Insert, StoreError>;
}

// === impl Identity ===

impl Identity {
    /// An identity of one sandbox, just listed.
    #[must_use]
    pub const fn new(external_id: ExternalId, sandbox_id: SandboxId) -> Self {
        Self { external_id, sandbox_id, duplicates: Vec::new(), absences: 0 }
    }

    /// Every record that it names.
    pub fn named(&self) -> impl Iterator<Item = &SandboxId> {
        std::iter::once(&self.sandbox_id).chain(&self.duplicates)
    }

    /// Whether it names that record.
    #[must_use]
    pub fn names(&self, id: &SandboxId) -> bool {
        self.named().any(|named| named == id)
    }
}
