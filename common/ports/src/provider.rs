//! The provider port: the system that has the sandboxes.

use async_trait::async_trait;
use domain::{Descriptor, ExternalId, ProviderName, SandboxName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a provider can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It lists its accounts.
    pub list: bool,
    /// It deletes an account.
    pub delete: bool,
    /// It can delete what a student left inside before the deletion.
    pub prepare_delete: bool,
    /// It can check whether a sandbox is fit for use.
    pub check: bool,
}

/// One usable entry of a listing. Its values are not validated yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The broker id that the provider implies (CSP: `csp_id`, else the last segment of `id`), unchecked.
    pub id: String,
    /// The provider's id, unchecked.
    pub external_id: String,
    /// The name, unchecked.
    pub name: String,
    /// The entries of its descriptor, unchecked.
    pub descriptor: Vec<(&'static str, String)>,
}

/// A malformed entry of a listing, with the parts that can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong with it.
    pub reason: String,
    /// The broker id that it implies, unchecked.
    pub id: Option<String>,
    /// The provider's id, unchecked.
    pub external_id: Option<String>,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The usable entries.
    pub accounts: Vec<Account>,
    /// Entries that are not a sandbox or not active, which is normal.
    pub ignored: usize,
    /// The provider's ids of ignored entries: an entry that comes twice reveals overlapping pages.
    pub ignored_ids: Vec<String>,
    /// Malformed entries, which are not normal.
    pub malformed: Vec<Malformed>,
    /// The offset of the next page; none on the last page.
    pub next: Option<u64>,
}

/// A successful deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The provider deleted it now.
    Now,
    /// It did not exist any more, which counts as success.
    AlreadyGone,
}

/// The result of a health check before a sandbox is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is fit for use.
    Sound,
    /// It is not fit for use.
    Unsound {
        /// Why.
        reason: String,
    },
}

/// What was done before a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// There was nothing to do, or it is switched off.
    Skipped,
    /// The sandbox does not exist any more.
    AlreadyGone,
    /// This many things inside were deleted.
    Done {
        /// How many.
        count: usize,
    },
    /// This many would have been deleted (shadow mode).
    Shadowed {
        /// How many.
        count: usize,
    },
}

/// Why a call to the provider failed. Each variant asks for another reaction, whatever the provider's protocol is; an
/// account that is gone is an answer ([`Deleted::AlreadyGone`]) and no error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The provider refused our credentials. The sandbox is not at fault; every other call fails as well.
    #[error("the provider refused our credentials: {message}")]
    Unauthorized {
        /// The provider's message.
        message: String,
    },
    /// The provider forbade this call. Our credentials may have lost a permission, or this account is faulty.
    #[error("the provider forbade the call: {message}")]
    Forbidden {
        /// The provider's message.
        message: String,
    },
    /// Too many calls. The sandbox is not at fault.
    #[error("the provider asks us to slow down: {message}")]
    Throttled {
        /// How long to wait, if the provider said so.
        retry_after: Option<Duration>,
        /// The provider's message.
        message: String,
    },
    /// A failure of the provider.
    #[error("the provider failed: {message}")]
    Failed {
        /// The provider's message.
        message: String,
    },
    /// The provider was unreachable or closed the connection.
    #[error("the provider could not be reached: {message}")]
    Unreachable {
        /// The cause.
        message: String,
    },
    /// No answer in time. The call may have succeeded; the next attempt finds out.
    #[error("the provider did not answer within {waited_seconds} s; the outcome is unknown")]
    UnknownOutcome {
        /// How long we waited.
        waited_seconds: u64,
    },
    /// An answer that cannot be interpreted.
    #[error("the provider's answer cannot be understood: {message}")]
    Malformed {
        /// What is wrong with it.
        message: String,
    },
    /// The provider refused the call for this sandbox; other calls may succeed.
    #[error("the provider refused: {message}")]
    Refused {
        /// The provider's message.
        message: String,
    },
}

/// The sandbox of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The provider's id.
    pub external_id: ExternalId,
    /// The name, for log lines.
    pub name: SandboxName,
    /// What the provider said about it.
    pub descriptor: Descriptor,
}

/// Lists, checks, cleans and deletes sandboxes.
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// What the provider can do.
    fn abilities(&self) -> Abilities;

    /// One page of the accounts from `offset` on (zero for the first).
    async fn list(&self, offset: u64) -> Result<Listing, ProviderError>;

    /// Checks whether a sandbox is fit for use. An error says nothing about the sandbox. Never called for a provider
    /// without the ability.
    async fn check(&self, _target: &Target) -> Result<Health, ProviderError> {
        Ok(Health::Sound)
    }

    /// Deletes what a student left inside. Safe to repeat.
    async fn prepare_delete(&self, target: &Target) -> Result<Prepared, ProviderError>;

    /// Deletes the sandbox. Safe to repeat: one that no longer exists counts as deleted.
    async fn delete(&self, target: &Target) -> Result<Deleted, ProviderError>;
}

/// The providers of a process, by name.
#[derive(Clone, Debug, Default)]
pub struct Providers(Arc<BTreeMap<ProviderName, Arc<dyn Provider>>>);

// === impl Providers ===

impl Providers {
    /// These providers.
    #[must_use]
    pub fn new(providers: impl IntoIterator<Item = (ProviderName, Arc<dyn Provider>)>) -> Self {
        Self(Arc::new(providers.into_iter().collect()))
    }

    /// Only the first provider.
    #[must_use]
    pub fn only(provider: Arc<dyn Provider>) -> Self {
        Self::new([(ProviderName::csp(), provider)])
    }

    /// The provider with that name.
    #[must_use]
    pub fn get(&self, name: &ProviderName) -> Option<&Arc<dyn Provider>> {
        self.0.get(name)
    }

    /// Every provider that lists its accounts, by name.
    pub fn listing(&self) -> impl Iterator<Item = (&ProviderName, &Arc<dyn Provider>)> {
        self.iter().filter(|(_, provider)| provider.abilities().list)
    }

    /// Every provider, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ProviderName, &Arc<dyn Provider>)> {
        self.0.iter()
    }
}

// === impl ProviderError ===

impl ProviderError {
    /// Whether the attempt counts against the sandbox. Refused credentials and too many calls are the broker's fault
    /// and never use up the attempts of a deletion.
    #[must_use]
    pub const fn counts_as_attempt(&self) -> bool {
        !matches!(self, Self::Unauthorized { .. } | Self::Forbidden { .. } | Self::Throttled { .. })
    }
}
