//! A sandbox, its states and its transitions.
//!
//! Each state carries its own data, and a transition consumes the sandbox. So a free sandbox has no owner to read, and
//! no transition can forget the version, the epoch or the history entry.

use super::deletion::{Deletion, Tombstone};
use super::descriptor::Descriptor;
use super::history::{Cause, HISTORY_ENTRIES_MAX, HistoryEntry};
use super::ids::{
    Epoch, ExternalId, OwnerId, PoolName, ProviderName, Reason, RequestKey, SandboxId, SandboxName,
    TemplateVersion, Version,
};
use super::lease::{Candidate, ClaimRecord, Grant, Lease};
use super::options::ClaimOptions;
use super::pool::PoolKind;
use super::provision::Provision;
use super::time::UnixSeconds;
use super::transition::{Change, Description, Entry, ProvisionStep, Transition};
use std::collections::BTreeMap;
use std::fmt;

/// The error text of a deletion whose account the provider still lists.
pub const STILL_LISTED: &str = "still listed by the provider";

/// One account at a provider, used once.
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
    /// What its provider says about it.
    pub descriptor: Descriptor,
    /// Number of leases so far, plus the number of times that it became another account of the provider.
    pub epoch: Epoch,
    /// Number of state changes so far.
    pub version: Version,
    /// The state, with the data of that state.
    pub state: State,
    /// Its latest state changes, oldest first, at most [`HISTORY_ENTRIES_MAX`].
    pub history: Vec<HistoryEntry>,
}

/// A sandbox that has no record yet, as a listing of its provider shows it or as the fleet is to create it.
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
    /// What its provider says about it.
    pub descriptor: Descriptor,
}

/// The state of a sandbox.
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
        /// When it was first missing.
        since: UnixSeconds,
    },
    /// Kept out of use.
    Quarantined {
        /// Since when.
        since: UnixSeconds,
        /// Why.
        reason: Reason,
        /// The lease that the quarantine ended, if an owner held it. Such a sandbox is used and can only be deleted.
        lease: Option<Lease>,
    },
    /// Gone.
    Deleted(Tombstone),
    /// Being created.
    Provisioning(Provision),
    /// Its creation used up its attempts and is parked.
    ProvisionFailed(Provision),
}

/// The name of a state, as the API and the index show it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::EnumIter,
    strum::EnumCount,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
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
    /// Being created.
    Provisioning,
    /// Creation parked.
    ProvisionFailed,
}

/// The guard of a transition did not hold. Contains the sandbox, unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{transition} does not apply to this sandbox, which is {from}")]
pub struct InvalidTransition {
    /// Name of the transition.
    pub transition: &'static str,
    /// The state that it is in.
    pub from: StateName,
    /// The sandbox, unchanged.
    pub sandbox: Box<Sandbox>,
}

// === impl StateName ===

impl StateName {
    /// The public name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The state with that public name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// The states that a sandbox of a pool of that kind, or of an unknown one, can have, except for deleted, which is in no
    /// index.
    #[must_use]
    pub const fn indexed(kind: Option<PoolKind>) -> &'static [Self] {
        match kind {
            None => &[
                Self::Available,
                Self::Allocated,
                Self::PendingDeletion,
                Self::DeletionFailed,
                Self::Stale,
                Self::Quarantined,
                Self::Provisioning,
                Self::ProvisionFailed,
            ],
            Some(PoolKind::Account) => &[
                Self::Available,
                Self::Allocated,
                Self::PendingDeletion,
                Self::DeletionFailed,
                Self::Stale,
                Self::Quarantined,
            ],
            Some(PoolKind::Container | PoolKind::Stack) => &[
                Self::Available,
                Self::Allocated,
                Self::PendingDeletion,
                Self::DeletionFailed,
                Self::Quarantined,
                Self::Provisioning,
                Self::ProvisionFailed,
            ],
        }
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
            Self::Provisioning(_) => StateName::Provisioning,
            Self::ProvisionFailed(_) => StateName::ProvisionFailed,
        }
    }

    /// The same state whose live lease answered these further requests; none without a live lease.
    fn with_answered(mut self, answered: &[RequestKey]) -> Option<Self> {
        let lease = match &mut self {
            Self::Allocated(lease) => Some(lease),
            Self::Provisioning(provision) | Self::ProvisionFailed(provision) => provision.lease.as_mut(),
            _ => None,
        };
        lease?.answered = answered.to_vec();
        Some(self)
    }
}

// === impl NewSandbox ===

impl NewSandbox {
    /// A sandbox that the fleet is to create: its provider knows it by its id, which is its name as well. None if a part of
    /// it is too long, which no build writes.
    #[must_use]
    pub fn to_create(
        id: SandboxId,
        pool: PoolName,
        provider: &ProviderName,
        template: Option<&TemplateVersion>,
    ) -> Option<Self> {
        let template = template.map(|template| (Descriptor::TEMPLATE, template.as_str()));
        Some(Self {
            name: SandboxName::parse(id.as_str()).ok()?,
            external_id: ExternalId::of(provider, id.as_str()).ok()?,
            descriptor: Descriptor::parse(template).ok()?,
            id,
            pool,
        })
    }

    /// A new sandbox, free.
    #[must_use]
    pub fn enter(self, now: UnixSeconds) -> Sandbox {
        self.become_sandbox(Epoch::default(), State::Available, &Entry::new(Cause::Listed, now))
    }

    /// A sandbox that is to be created: held by the claim of `grant`, or to be free.
    #[must_use]
    pub fn provision(self, grant: Option<&Grant>, now: UnixSeconds) -> Sandbox {
        let epoch = Epoch::default();
        let (epoch, lease, entry) = match grant {
            Some(grant) => (epoch.next(), Some(grant.lease(epoch.next())), grant.entry()),
            None => (epoch, None, Entry::new(Cause::Filled, now)),
        };
        let provision = Provision { lease, requested_at: now, attempts: 0, last_error: None };
        self.become_sandbox(epoch, State::Provisioning(provision), &entry)
    }

    /// The tombstone of an id that a claim chose and gave up before the sandbox was created. Nothing can be created
    /// under that id any more.
    #[must_use]
    pub fn abandon(self, now: UnixSeconds, purge_at: UnixSeconds) -> Sandbox {
        let tombstone = Tombstone { deletion: None, deleted_at: now, purge_at };
        let entry = Entry::new(Cause::Abandoned, now);
        self.become_sandbox(Epoch::default(), State::Deleted(tombstone), &entry)
    }

    fn become_sandbox(self, epoch: Epoch, state: State, entry: &Entry) -> Sandbox {
        let Self { id, name, external_id, pool, descriptor } = self;
        let (version, history) = (Version::default(), Vec::new());
        let before = Sandbox {
            id,
            name,
            external_id,
            pool,
            descriptor,
            epoch,
            version,
            state: State::Available,
            history,
        };
        before.enter(state, entry)
    }
}

// === impl Sandbox ===

impl Sandbox {
    /// The candidate that a claim of this sandbox starts from.
    #[must_use]
    pub fn candidate(&self) -> Candidate {
        Candidate { id: self.id.clone(), pool: self.pool.clone(), version: self.version }
    }

    /// The live lease, if it is held; perhaps it is still being created.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Allocated(lease) => Some(lease),
            State::Provisioning(provision) | State::ProvisionFailed(provision) => provision.lease.as_ref(),
            _ => None,
        }
    }

    /// The creation, while it is wanted or parked.
    #[must_use]
    pub const fn provision(&self) -> Option<&Provision> {
        match &self.state {
            State::Provisioning(provision) | State::ProvisionFailed(provision) => Some(provision),
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

    /// The live lease, or the last one of a sandbox that is quarantined, being deleted or deleted.
    #[must_use]
    pub fn last_lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Quarantined { since: _, reason: _, lease } => lease.as_ref(),
            _ => self.lease().or_else(|| self.deletion().and_then(|deletion| deletion.lease.as_ref())),
        }
    }

    /// The claim item of the live or last lease, as it should be now: closed if the lease has ended.
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

    /// Applies a transition.
    ///
    /// # Errors
    /// [`InvalidTransition`] when the guard does not hold for this sandbox.
    pub fn apply(mut self, transition: &Transition) -> Result<Self, InvalidTransition> {
        let after = transition.guard.admits(&self).then(|| self.after(&transition.change)).flatten();
        let Some(state) = after else { return Err(self.refuse(transition.name)) };
        match &transition.change {
            Change::Allocate(_) => self.epoch = self.epoch.next(),
            Change::Describe(Description { name, descriptor }) => {
                (self.name, self.descriptor) = (name.clone(), descriptor.clone());
            }
            Change::NoteRuntime(descriptor) | Change::Provision(ProvisionStep::Finish { descriptor, .. }) => {
                self.descriptor = descriptor.clone();
            }
            _ => {}
        }
        Ok(match &transition.entry {
            Some(entry) => self.enter(state, entry),
            None => Self { state, ..self },
        })
    }

    /// available | stale | deleted → available: the provider lists another account under this id. The version grows, so
    /// that a candidate of the old account fails; the epoch grows, so that late work for it does nothing. It replaces
    /// the whole record, so it is not a [`Transition`].
    ///
    /// # Errors
    /// [`InvalidTransition`] when the sandbox is in use or being deleted, when its version is not `version`, or when it
    /// already is that account.
    pub fn reidentify(
        self,
        version: Version,
        listed: NewSandbox,
        now: UnixSeconds,
    ) -> Result<Self, InvalidTransition> {
        let may_change = matches!(self.state, State::Available | State::Stale { .. } | State::Deleted(_));
        let is_other = self.id == listed.id && self.external_id != listed.external_id;
        if !may_change || !is_other || self.version != version {
            return Err(self.refuse("reidentify"));
        }
        let NewSandbox { id: _, name, external_id, pool, descriptor } = listed;
        let epoch = self.epoch.next();
        let renewed = Self { name, external_id, pool, descriptor, epoch, ..self };
        Ok(renewed.enter(State::Available, &Entry::new(Cause::Listed, now)))
    }

    /// The state after a change; none if the current state does not allow the change.
    fn after(&self, change: &Change) -> Option<State> {
        Some(match (change, &self.state) {
            (Change::Allocate(grant), State::Available) => State::Allocated(grant.lease(self.epoch.next())),
            (Change::Answer(answered), _) => self.state.clone().with_answered(answered)?,
            (Change::Extend { expires_at }, State::Allocated(lease)) => {
                State::Allocated(Lease { expires_at: *expires_at, ..lease.clone() })
            }
            (Change::NoteRuntime(_), State::Allocated(lease)) => State::Allocated(lease.clone()),
            (Change::Free { .. }, _) => State::Available,
            (Change::GoStale { since, .. }, _) => State::Stale { since: *since },
            (Change::Quarantine { since, reason, .. }, _) => {
                State::Quarantined { since: *since, reason: reason.clone(), lease: self.ended_lease() }
            }
            (Change::RequestDeletion { cause, requested_at }, _) => State::PendingDeletion(Deletion {
                lease: self.ended_lease(),
                cause: *cause,
                requested_at: *requested_at,
                attempts: 0,
                last_error: None,
                preparation: None,
                relists: 0,
            }),
            (Change::Forget { deleted_at, purge_at }, _) => {
                State::Deleted(Tombstone { deletion: None, deleted_at: *deleted_at, purge_at: *purge_at })
            }
            (Change::Describe(_), state) => state.clone(),
            (Change::Provision(step), state) => return provision_after(step, state),
            (change, state) => return deletion_after(change, state),
        })
    }

    /// The live or last lease as it stays on record: without its environment, which is not needed any more.
    fn ended_lease(&self) -> Option<Lease> {
        let mut lease = self.last_lease()?.clone();
        lease.options =
            lease.options.and_then(|options| ClaimOptions { env: BTreeMap::new(), ..*options }.boxed());
        Some(lease)
    }

    fn enter(mut self, state: State, entry: &Entry) -> Self {
        let Entry { cause, at, by, reason } = entry.clone();
        self.version = self.version.next();
        self.state = state;
        let state = self.state.name();
        self.history.push(HistoryEntry {
            version: self.version,
            epoch: self.epoch,
            state,
            cause,
            at,
            by,
            reason,
        });
        let surplus = self.history.len().saturating_sub(HISTORY_ENTRIES_MAX);
        self.history.drain(..surplus);
        self
    }

    fn refuse(self, transition: &'static str) -> InvalidTransition {
        InvalidTransition { transition, from: self.state.name(), sandbox: Box::new(self) }
    }
}

/// The state after a change of a creation.
fn provision_after(step: &ProvisionStep, state: &State) -> Option<State> {
    Some(match (step, state) {
        (ProvisionStep::Finish { .. }, State::Provisioning(provision)) => {
            provision.lease.clone().map_or(State::Available, State::Allocated)
        }
        (ProvisionStep::NoteFailure { attempts, error }, State::Provisioning(provision)) => {
            let (attempts, last_error) = (*attempts, Some(error.clone()));
            State::Provisioning(Provision { attempts, last_error, ..provision.clone() })
        }
        (ProvisionStep::Park { .. }, State::Provisioning(provision)) => {
            State::ProvisionFailed(provision.clone())
        }
        (ProvisionStep::Replay { requested_at, .. }, State::ProvisionFailed(provision)) => {
            State::Provisioning(Provision { requested_at: *requested_at, attempts: 0, ..provision.clone() })
        }
        _ => return None,
    })
}

/// The state after a change of a deletion.
fn deletion_after(change: &Change, state: &State) -> Option<State> {
    Some(match (change, state) {
        (Change::CountAttempt { attempts, error, preparation }, State::PendingDeletion(deletion)) => {
            let last_error = Some(error.clone());
            let tried = Deletion { attempts: *attempts, last_error, ..deletion.clone() };
            State::PendingDeletion(tried.with_preparation(preparation.as_ref()))
        }
        (Change::NotePreparation(preparation), State::PendingDeletion(deletion)) => {
            State::PendingDeletion(deletion.clone().with_preparation(Some(preparation)))
        }
        (Change::FinishDeletion { deleted_at, purge_at, preparation }, State::PendingDeletion(deletion)) => {
            State::Deleted(Tombstone {
                deletion: Some(deletion.clone().with_preparation(preparation.as_ref())),
                deleted_at: *deleted_at,
                purge_at: *purge_at,
            })
        }
        (Change::ParkDeletion, State::PendingDeletion(deletion)) => State::DeletionFailed(deletion.clone()),
        (Change::ReplayDeletion, State::DeletionFailed(deletion)) => {
            State::PendingDeletion(Deletion { attempts: 0, relists: 0, ..deletion.clone() })
        }
        (Change::Relist { relists, .. }, State::Deleted(Tombstone { deletion: Some(deletion), .. })) => {
            let last_error = Some(STILL_LISTED.to_owned());
            let deletion = Deletion { attempts: 0, last_error, relists: *relists, ..deletion.clone() };
            match change.leads_to() {
                Some(StateName::DeletionFailed) => State::DeletionFailed(deletion),
                _ => State::PendingDeletion(deletion),
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
