//! Identities of provider accounts: the sandbox that represents an account.
//!
//! A sandbox and the identity of its account are inserted in one transaction, so an account never gets two new records.
//! The identity outlives the record: it is removed only after several complete listings in a row without the account,
//! so a used account never becomes free again while the provider lists it.

use super::{Insert, PageCursor, StoreError};
use async_trait::async_trait;
use domain::{ExternalId, NewSandbox, ProviderName, Sandbox, SandboxId, UnixSeconds};

/// Shards of the index that contain identities. Stored keys depend on it.
pub const IDENTITY_SHARDS: u16 = 8;
/// Complete listings in a row without an account before its identity is removed.
pub const IDENTITY_ABSENCES_MAX: u32 = 3;
/// Most further records that an identity names; tables of older builds may have several records of one account.
pub const IDENTITY_DUPLICATES_MAX: usize = 16;

/// The identity of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account.
    pub external_id: ExternalId,
    /// The sandbox that represents it.
    pub sandbox_id: SandboxId,
    /// Other records of the same account, made by an older build; at most [`IDENTITY_DUPLICATES_MAX`].
    pub duplicates: Vec<SandboxId>,
    /// Complete listings in a row without the account.
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

/// Stores identities. Part of every store.
#[async_trait]
pub trait Identities: Send + Sync + std::fmt::Debug {
    /// The identity, by a strongly consistent read.
    async fn identity(&self, external_id: &ExternalId) -> Result<Option<Identity>, StoreError>;

    /// Adds `id` to the identity: as its sandbox if there is no identity yet, otherwise as a duplicate. Existing names
    /// stay. Returns the result.
    async fn name_identity(&self, external_id: &ExternalId, id: &SandboxId) -> Result<Identity, StoreError>;

    /// One page of one shard of a provider, below [`IDENTITY_SHARDS`], at most `limit` identities.
    async fn identities(
        &self,
        provider: &ProviderName,
        shard: u16,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<IdentityPage, StoreError>;

    /// Sets the number of listings in a row without the account, if the identity still equals `seen`; returns whether
    /// it did.
    async fn note_absences(&self, seen: &Identity, absences: u32) -> Result<bool, StoreError>;

    /// Removes the identity if it still equals `seen`; returns whether it did.
    async fn drop_identity(&self, seen: &Identity) -> Result<bool, StoreError>;

    /// available | stale | deleted → available as another account, if it is still at the version of `seen` and that
    /// account has no identity. The identity is written in the same transaction.
    async fn reidentify(
        &self,
        seen: &Sandbox,
        listed: &NewSandbox,
        now: UnixSeconds,
    ) -> Result<Insert, StoreError>;
}

// === impl Identity ===

impl Identity {
    /// A new identity of one sandbox.
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
