//! A sandbox and its life.
//!
//! States carry their data and transitions consume the sandbox, so there is no owner to read on a free one
//! and no way to forget the version, the epoch or the history entry of a step.

use super::deletion::{Deletion, DeletionCause, Tombstone};
use super::history::{Cause, HISTORY_ENTRIES_MAX, HistoryEntry};
use super::ids::{
    Actor, Epoch, ExternalId, OwnerId, PoolName, Reason, SandboxId, SandboxName, SfdcAccountId, Version,
};
use super::lease::{Candidate, ClaimRecord, Grant, Lease};
use super::pre_clean::PreClean;
use super::time::UnixSeconds;
use std::fmt;

mod identity;
mod orders;

pub use identity::STILL_LISTED;

/// One real thing at a provider, used once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The broker's id.
    pub id: SandboxId,
    /// The name at the provider.
    pub name: SandboxName,
    /// The provider's id.
    pub external_id: ExternalId,
    /// The pool that it belongs to.
    pub pool: PoolName,
    /// The Salesforce account, if the provider names one.
    pub sfdc_account_id: Option<SfdcAccountId>,
    /// How often it was leased, or became another account of the provider.
    pub epoch: Epoch,
    /// How often its state changed.
    pub version: Version,
    /// Where it is in its life, with what belongs there.
    pub state: State,
    /// Its latest state changes, oldest first, at most [`HISTORY_ENTRIES_MAX`].
    pub history: Vec<HistoryEntry>,
}

/// A sandbox as a listing of the provider shows it for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSandbox {
    /// The broker's id.
    pub id: SandboxId,
    /// The name at the provider.
    pub name: SandboxName,
    /// The provider's id.
    pub external_id: ExternalId,
    /// The pool that it goes into.
    pub pool: PoolName,
    /// The Salesforce account, if the provider names one.
    pub sfdc_account_id: Option<SfdcAccountId>,
}

/// Where a sandbox is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Free.
    Available,
    /// Held.
    Allocated(Lease),
    /// To be deleted at the provider.
    PendingDeletion(Deletion),
    /// Its deletion used up its attempts and is parked.
    DeletionFailed(Deletion),
    /// The provider no longer lists it.
    Stale {
        /// Since when.
        since: UnixSeconds,
    },
    /// Kept out of use.
    Quarantined {
        /// Since when.
        since: UnixSeconds,
        /// Why.
        reason: Reason,
        /// The lease that ended there, if somebody held it: such a sandbox is used and can only be deleted.
        lease: Option<Lease>,
    },
    /// Gone.
    Deleted(Tombstone),
}

/// The name of a state, as the API and the index show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateName {
    /// Free.
    Available,
    /// Held.
    Allocated,
    /// To be deleted.
    PendingDeletion,
    /// Deletion parked.
    DeletionFailed,
    /// Not listed by the provider.
    Stale,
    /// Kept out of use.
    Quarantined,
    /// Gone.
    Deleted,
}

/// A step that does not start from the state that the sandbox is in. Gives the sandbox back unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox that is {from} cannot be {step}")]
pub struct InvalidTransition {
    /// What was asked for.
    pub step: &'static str,
    /// The state that it is in.
    pub from: StateName,
    /// The sandbox, unchanged.
    pub sandbox: Box<Sandbox>,
}

// === impl StateName ===

impl StateName {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Available,
        Self::Allocated,
        Self::PendingDeletion,
        Self::DeletionFailed,
        Self::Stale,
        Self::Quarantined,
        Self::Deleted,
    ];

    /// The public name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Allocated => "allocated",
            Self::PendingDeletion => "pending_deletion",
            Self::DeletionFailed => "deletion_failed",
            Self::Stale => "stale",
            Self::Quarantined => "quarantined",
            Self::Deleted => "deleted",
        }
    }

    /// The state of that public name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

// === impl State ===

impl State {
    /// The state's name.
    #[must_use]
    pub const fn name(&self) -> StateName {
        match self {
            Self::Available => StateName::Available,
            Self::Allocated(_) => StateName::Allocated,
            Self::PendingDeletion(_) => StateName::PendingDeletion,
            Self::DeletionFailed(_) => StateName::DeletionFailed,
            Self::Stale { .. } => StateName::Stale,
            Self::Quarantined { .. } => StateName::Quarantined,
            Self::Deleted(_) => StateName::Deleted,
        }
    }
}

// === impl NewSandbox ===

impl NewSandbox {
    /// The sandbox as it enters the pool.
    #[must_use]
    pub fn enter(self, now: UnixSeconds) -> Sandbox {
        let Self { id, name, external_id, pool, sfdc_account_id } = self;
        Sandbox {
            id,
            name,
            external_id,
            pool,
            sfdc_account_id,
            epoch: Epoch::default(),
            version: Version::default(),
            state: State::Available,
            history: Vec::new(),
        }
        .step(State::Available, Cause::Listed, now)
    }
}

// === impl Sandbox ===

impl Sandbox {
    /// What a claim of this sandbox would start from.
    #[must_use]
    pub fn candidate(&self) -> Candidate {
        Candidate { id: self.id.clone(), pool: self.pool.clone(), version: self.version }
    }

    /// The live lease, if it is held.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Allocated(lease) => Some(lease),
            _ => None,
        }
    }

    /// The deletion, while it is wanted, parked or done.
    #[must_use]
    pub const fn deletion(&self) -> Option<&Deletion> {
        match &self.state {
            State::PendingDeletion(deletion) | State::DeletionFailed(deletion) => Some(deletion),
            State::Deleted(tombstone) => tombstone.deletion.as_ref(),
            _ => None,
        }
    }

    /// The live lease, or the last one of a sandbox that is out of use or on its way out.
    #[must_use]
    pub fn last_lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Allocated(lease) => Some(lease),
            State::Quarantined { since: _, reason: _, lease } => lease.as_ref(),
            _ => self.deletion().and_then(|deletion| deletion.lease.as_ref()),
        }
    }

    /// The claim item that the live or last lease was won by, as it should be now: closed if the lease has ended.
    #[must_use]
    pub fn last_claim(&self) -> Option<ClaimRecord> {
        let lease = self.last_lease()?;
        let candidate = Candidate { version: lease.claimed_version, ..self.candidate() };
        let record = ClaimRecord::new(lease.claim.clone(), candidate);
        Some(if self.lease().is_some() { record } else { record.closed(lease.requests()) })
    }

    /// Whether `owner` holds it, or was the last to hold it.
    #[must_use]
    pub fn belongs_to(&self, owner: &OwnerId) -> bool {
        self.last_lease().is_some_and(|lease| lease.claim.owner == *owner)
    }

    /// available → allocated, if it is still at the version that the grant was made for.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is not free, or was in other hands since it was seen.
    pub fn claim(self, grant: &Grant) -> Result<Self, InvalidTransition> {
        if self.state != State::Available || self.version != grant.candidate.version {
            return Err(self.refuse("claimed"));
        }
        let lease = Lease {
            claim: grant.claim.clone(),
            lab: grant.lab.clone(),
            epoch: self.epoch.next(),
            claimed_version: self.version,
            granted_at: grant.granted_at,
            expires_at: grant.expires_at,
            request: grant.request.clone(),
            answered: Vec::new(),
        };
        let mut claimed = self;
        claimed.epoch = lease.epoch;
        Ok(claimed.step_by(State::Allocated(lease), Cause::Claimed, grant.granted_at, grant.by.as_ref()))
    }

    /// allocated → `pending_deletion`, by its owner; with an `epoch`, only if it is the lease of that epoch.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is not held by `owner`, or by another lease.
    pub fn release(
        self,
        owner: &OwnerId,
        epoch: Option<Epoch>,
        by: Option<&Actor>,
        now: UnixSeconds,
    ) -> Result<Self, InvalidTransition> {
        match &self.state {
            State::Allocated(lease)
                if lease.claim.owner == *owner && epoch.is_none_or(|epoch| epoch == lease.epoch) =>
            {
                Ok(self.end_lease(DeletionCause::Released, by, now))
            }
            _ => Err(self.refuse("released")),
        }
    }

    /// allocated → `pending_deletion`, because the lease of `epoch` ended at or before `ended_by`.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is not held, by another lease, or for longer.
    pub fn expire(
        self,
        epoch: Epoch,
        ended_by: UnixSeconds,
        now: UnixSeconds,
    ) -> Result<Self, InvalidTransition> {
        match &self.state {
            State::Allocated(lease) if lease.epoch == epoch && lease.expires_at <= ended_by => {
                Ok(self.end_lease(DeletionCause::Expired, None, now))
            }
            _ => Err(self.refuse("expired")),
        }
    }

    /// Notes a failed attempt at the provider, and what clearing came to if that is known; the state stays, so
    /// neither version nor history grow.
    ///
    /// # Errors
    /// [`InvalidTransition`] when no deletion of `epoch` is wanted.
    pub fn note_attempt(
        self,
        epoch: Epoch,
        error: &str,
        pre_clean: Option<&PreClean>,
    ) -> Result<Self, InvalidTransition> {
        self.change_deletion(epoch, "tried", |deletion| {
            deletion.attempts = deletion.attempts.saturating_add(1);
            deletion.last_error = Some(Deletion::bounded_error(error).to_owned());
            deletion.note(pre_clean);
        })
    }

    /// Notes what clearing came to at an attempt that does not count; nothing else changes.
    ///
    /// # Errors
    /// [`InvalidTransition`] when no deletion of `epoch` is wanted.
    pub fn note_pre_clean(self, epoch: Epoch, pre_clean: &PreClean) -> Result<Self, InvalidTransition> {
        self.change_deletion(epoch, "cleared", |deletion| deletion.note(Some(pre_clean)))
    }

    /// `pending_deletion` → deleted: the provider has deleted it, after clearing it as `pre_clean` says.
    ///
    /// # Errors
    /// [`InvalidTransition`] when no deletion of `epoch` is wanted.
    pub fn finish_deletion(
        self,
        epoch: Epoch,
        now: UnixSeconds,
        purge_at: UnixSeconds,
        pre_clean: Option<&PreClean>,
    ) -> Result<Self, InvalidTransition> {
        match &self.state {
            State::PendingDeletion(deletion) if self.epoch == epoch => {
                let mut deletion = deletion.clone();
                deletion.note(pre_clean);
                let tombstone = Tombstone { deletion: Some(deletion), deleted_at: now, purge_at };
                Ok(self.step(State::Deleted(tombstone), Cause::Deleted, now))
            }
            _ => Err(self.refuse("deleted")),
        }
    }

    /// `pending_deletion` → `deletion_failed`: its attempts are used up.
    ///
    /// # Errors
    /// [`InvalidTransition`] when no deletion of `epoch` is wanted.
    pub fn park_deletion(self, epoch: Epoch, now: UnixSeconds) -> Result<Self, InvalidTransition> {
        match &self.state {
            State::PendingDeletion(deletion) if self.epoch == epoch => {
                let deletion = deletion.clone();
                Ok(self.step(State::DeletionFailed(deletion), Cause::Parked, now))
            }
            _ => Err(self.refuse("parked")),
        }
    }

    /// `deletion_failed` → `pending_deletion`: an operator has it tried again. Its attempts count anew; when it
    /// was asked for and what the last attempt said stay.
    ///
    /// # Errors
    /// [`InvalidTransition`] when no deletion of `epoch` is parked.
    pub fn replay_deletion(
        self,
        epoch: Epoch,
        by: &Actor,
        now: UnixSeconds,
    ) -> Result<Self, InvalidTransition> {
        match &self.state {
            State::DeletionFailed(deletion) if self.epoch == epoch => {
                let deletion = Deletion { attempts: 0, relists: 0, ..deletion.clone() };
                let mut replayed = self.step(State::PendingDeletion(deletion), Cause::Replayed, now);
                if let Some(entry) = replayed.history.last_mut() {
                    entry.by = Some(by.clone());
                }
                Ok(replayed)
            }
            _ => Err(self.refuse("replayed")),
        }
    }

    /// available → stale: the provider no longer lists it.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is not free, or moved on since `version`.
    pub fn go_missing(self, version: Version, now: UnixSeconds) -> Result<Self, InvalidTransition> {
        if self.version != version || self.state != State::Available {
            return Err(self.refuse("marked stale"));
        }
        Ok(self.step(State::Stale { since: now }, Cause::Missing, now))
    }

    /// stale → available: the provider lists it again.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is not stale, or moved on since `version`.
    pub fn come_back(self, version: Version, now: UnixSeconds) -> Result<Self, InvalidTransition> {
        match self.state {
            State::Stale { .. } if self.version == version => {
                Ok(self.step(State::Available, Cause::Found, now))
            }
            _ => Err(self.refuse("found again")),
        }
    }

    fn change_deletion(
        mut self,
        epoch: Epoch,
        step: &'static str,
        change: impl FnOnce(&mut Deletion),
    ) -> Result<Self, InvalidTransition> {
        match &mut self.state {
            State::PendingDeletion(deletion) if self.epoch == epoch => {
                change(deletion);
                Ok(self)
            }
            _ => Err(self.refuse(step)),
        }
    }

    /// stale → deleted: the provider has not listed it for long, or an operator gives it up. Nothing is left to be
    /// deleted there, and nobody ever held it.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is not stale, or moved on since `version` and `epoch`.
    pub fn forget(
        self,
        version: Version,
        epoch: Epoch,
        by: Option<&Actor>,
        now: UnixSeconds,
        purge_at: UnixSeconds,
    ) -> Result<Self, InvalidTransition> {
        match self.state {
            State::Stale { .. } if self.version == version && self.epoch == epoch => {
                let tombstone = Tombstone { deletion: None, deleted_at: now, purge_at };
                let mut gone = self.step(State::Deleted(tombstone), Cause::Forgotten, now);
                if let Some(entry) = gone.history.last_mut() {
                    entry.by = by.cloned();
                }
                Ok(gone)
            }
            _ => Err(self.refuse("forgotten")),
        }
    }

    fn end_lease(self, cause: DeletionCause, by: Option<&Actor>, now: UnixSeconds) -> Self {
        let deletion = Deletion {
            lease: self.last_lease().cloned(),
            cause,
            requested_at: now,
            attempts: 0,
            last_error: None,
            pre_clean: None,
            relists: 0,
        };
        self.step_by(State::PendingDeletion(deletion), cause.into(), now, by)
    }

    fn step(self, state: State, cause: Cause, at: UnixSeconds) -> Self {
        self.step_by(state, cause, at, None)
    }

    fn step_by(mut self, state: State, cause: Cause, at: UnixSeconds, by: Option<&Actor>) -> Self {
        self.version = self.version.next();
        self.state = state;
        let entry = HistoryEntry {
            version: self.version,
            epoch: self.epoch,
            state: self.state.name(),
            cause,
            at,
            by: by.cloned(),
            reason: None,
        };
        self.history.push(entry);
        let surplus = self.history.len().saturating_sub(HISTORY_ENTRIES_MAX);
        self.history.drain(..surplus);
        self
    }

    fn refuse(self, step: &'static str) -> InvalidTransition {
        InvalidTransition { step, from: self.state.name(), sandbox: Box::new(self) }
    }
}

#[cfg(test)]
mod tests;
