//! The provider port: what makes sandboxes real and unmakes them.

use async_trait::async_trait;
use domain::{ExternalId, SandboxName, SfdcAccountId};
use std::time::Duration;

/// What a provider can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It lists what it has.
    pub list: bool,
    /// It deletes one.
    pub delete: bool,
    /// It clears what a student left inside before the deletion.
    pub pre_clean: bool,
    /// It says whether one is fit to be handed out.
    pub check: bool,
}

/// One entry of a listing, as it came; nothing in it is checked yet but that it can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The broker id that the provider implies (CSP: `csp_id`, else the last segment of `id`), unchecked.
    pub id: String,
    /// The provider's id, unchecked.
    pub external_id: String,
    /// The name, unchecked.
    pub name: String,
    /// The Salesforce account, unchecked.
    pub sfdc_account_id: Option<String>,
}

/// An entry of a listing that cannot be understood, with what can be read of it.
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
    /// Usable entries.
    pub accounts: Vec<Account>,
    /// Entries left out because they are no sandbox or not active: normal.
    pub ignored: usize,
    /// The provider's ids of those that were left out and have one: an entry that comes twice shows that pages overlap.
    pub ignored_ids: Vec<String>,
    /// Entries left out because they could not be understood: not normal.
    pub malformed: Vec<Malformed>,
    /// Where to go on; none on the last page.
    pub next: Option<u64>,
}

/// How a deletion went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The provider deleted it now.
    Now,
    /// It was gone already, which is as good.
    AlreadyGone,
}

/// What a look at a sandbox before it is handed out found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is fit to be handed out.
    Sound,
    /// It is not.
    Unsound {
        /// Why.
        reason: String,
    },
}

/// What clearing a sandbox did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreCleaned {
    /// There was nothing to do, or it is switched off.
    Skipped,
    /// There is no such sandbox any more.
    AlreadyGone,
    /// This many services were deleted.
    Cleaned {
        /// How many.
        services: usize,
    },
    /// This many services would have been deleted (shadow mode).
    Shadowed {
        /// How many.
        services: usize,
    },
}

/// Why the provider did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// Our credentials were refused. Not the sandbox's fault; every other call fails as well.
    #[error("the provider refused our credentials (status {status}): {message}")]
    Unauthorized {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// Too many calls. Not the sandbox's fault.
    #[error("the provider asks us to slow down: {message}")]
    SlowDown {
        /// How long to stay away, if it said.
        retry_after: Option<Duration>,
        /// What it said.
        message: String,
    },
    /// It failed on its side.
    #[error("the provider failed (status {status}): {message}")]
    Failed {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// It could not be reached, or hung up.
    #[error("the provider could not be reached: {message}")]
    Unreachable {
        /// What happened.
        message: String,
    },
    /// No answer in time. What was asked for may have happened: the next attempt settles it.
    #[error("the provider did not answer within {waited_seconds} s; the outcome is unknown")]
    TimedOut {
        /// How long we waited.
        waited_seconds: u64,
    },
    /// It answered something that is no answer.
    #[error("the provider's answer cannot be understood: {message}")]
    Garbled {
        /// What is wrong with it.
        message: String,
    },
    /// It understood and refused (a 4xx that is none of the above).
    #[error("the provider refused (status {status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
}

/// The sandbox that a call to the provider is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The provider's id.
    pub external_id: ExternalId,
    /// The name, for log lines.
    pub name: SandboxName,
    /// The Salesforce account, if known.
    pub sfdc_account_id: Option<SfdcAccountId>,
}

/// Makes sandboxes real and unmakes them.
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// One page of what it has, from `offset` on (zero for the first).
    async fn list(&self, offset: u64) -> Result<Listing, ProviderError>;

    /// Looks whether it is fit to be handed out. An error says nothing about the sandbox. A provider without the
    /// ability is never asked.
    async fn check(&self, _target: &Target) -> Result<Health, ProviderError> {
        Ok(Health::Sound)
    }

    /// Clears what a student left inside. Safe to repeat.
    async fn pre_clean(&self, target: &Target) -> Result<PreCleaned, ProviderError>;

    /// Deletes it. Safe to repeat: what is gone already counts as deleted.
    async fn delete(&self, target: &Target) -> Result<Deleted, ProviderError>;
}

impl ProviderError {
    /// Whether the sandbox itself may be at fault, so that the attempt counts against it. Refused credentials and a
    /// full provider throttle are the broker's fault, and never use up a deletion's attempts.
    #[must_use]
    pub const fn counts_as_attempt(&self) -> bool {
        !matches!(self, Self::Unauthorized { .. } | Self::SlowDown { .. })
    }
}
