//! Every transition of a sandbox as a value: its guard, its change and its history entry.
//!
//! These rules are written nowhere else. [`Sandbox::apply`] applies a transition; an adapter translates the same guard
//! and change for its engine, and `tests/store` checks that both give the same results.

mod change;

pub use change::{Change, ProvisionStep};

use super::deletion::{DELETION_RELISTS_MAX, Deletion, DeletionCause};
use super::descriptor::Descriptor;
use super::history::{Cause, HISTORY_ENTRIES_MAX, HistoryEntry, Order};
use super::ids::{Actor, Epoch, OwnerId, Reason, RequestKey, SandboxName, Version};
use super::lease::{Candidate, Extension, Grant, Lease};
use super::preparation::Preparation;
use super::runtime::RuntimeChange;
use super::sandbox::{Sandbox, StateName};
use super::time::UnixSeconds;

/// One transition of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Its name, for errors and tests.
    pub name: &'static str,
    /// The condition.
    pub guard: Guard,
    /// The change.
    pub change: Change,
    /// The history entry. Without one, version and history stay as they are.
    pub entry: Option<Entry>,
    /// The complete history as it was read, if it has its maximum length. An adapter that can only append has to
    /// rewrite it without its oldest entry. The guard then includes the version, so that the history cannot have
    /// changed.
    pub full_history: Option<Vec<HistoryEntry>>,
}

/// The condition of a transition. All parts have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The state is one of these.
    pub states: &'static [StateName],
    /// The version is this one.
    pub version: Option<Version>,
    /// The epoch is this one.
    pub epoch: Option<Epoch>,
    /// The condition on the live lease.
    pub lease: LeaseGuard,
    /// The deletion has this number of counted attempts.
    pub attempts: Option<u32>,
    /// No owner ever held the sandbox.
    pub is_unused: bool,
    /// The sandbox has a deletion: wanted, parked or finished.
    pub has_deletion: bool,
}

/// The condition on a live lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseGuard {
    /// This owner holds it.
    pub owner: Option<OwnerId>,
    /// The lease has this epoch.
    pub epoch: Option<Epoch>,
    /// It ends at or before this moment.
    pub ended_by: Option<UnixSeconds>,
    /// It ends after this moment.
    pub ends_after: Option<UnixSeconds>,
    /// It ends before this moment.
    pub ends_before: Option<UnixSeconds>,
    /// Exactly these further requests were noted.
    pub answered: Option<Vec<RequestKey>>,
}

/// The history entry of a transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The cause of the change.
    pub cause: Cause,
    /// When it happened.
    pub at: UnixSeconds,
    /// Who ordered it, if it was ordered.
    pub by: Option<Actor>,
    /// Why, if it was ordered with a reason.
    pub reason: Option<Reason>,
}

/// What a listing says about a sandbox that is not part of its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: SandboxName,
    /// What its provider says about it.
    pub descriptor: Descriptor,
}

// === impl Transition ===

impl Transition {
    /// available → allocated, if it is still at the version of the grant's candidate.
    #[must_use]
    pub fn grant(grant: &Grant) -> Self {
        let guard =
            Guard { version: Some(grant.candidate.version), ..Guard::in_states(&[StateName::Available]) };
        Self::new("grant", guard, Change::Allocate(grant.clone()), Some(grant.entry()))
    }

    /// Notes that the live lease answers one more request. The state stays.
    #[must_use]
    pub fn note_answer(seen: &Lease, request: &RequestKey) -> Self {
        let lease = LeaseGuard {
            epoch: Some(seen.epoch),
            answered: Some(seen.answered.clone()),
            ..LeaseGuard::default()
        };
        let change = Change::Answer(seen.clone().with_answered(request).answered);
        Self::new("note_answer", Guard::held(lease), change, None)
    }

    /// allocated | provisioning | `provision_failed` → `pending_deletion`, if `owner` holds it (and, if `epoch` is given, by the lease of that epoch). `by`
    /// is the actor on the owner's behalf.
    #[must_use]
    pub fn release(owner: &OwnerId, epoch: Option<Epoch>, by: Option<&Actor>, now: UnixSeconds) -> Self {
        let guard = Guard::held(LeaseGuard { owner: Some(owner.clone()), epoch, ..LeaseGuard::default() });
        let cause = DeletionCause::Released;
        let entry = Entry { by: by.cloned(), ..Entry::new(cause.into(), now) };
        Self::new("release", guard, Change::RequestDeletion { cause, requested_at: now }, Some(entry))
    }

    /// allocated | provisioning | `provision_failed` → `pending_deletion`, if the lease of `epoch` ended at or before
    /// `ended_by`.
    #[must_use]
    pub fn expire(epoch: Epoch, ended_by: UnixSeconds, now: UnixSeconds) -> Self {
        let lease = LeaseGuard { epoch: Some(epoch), ended_by: Some(ended_by), ..LeaseGuard::default() };
        let cause = DeletionCause::Expired;
        let change = Change::RequestDeletion { cause, requested_at: now };
        Self::new("expire", Guard::held(lease), change, Some(Entry::new(cause.into(), now)))
    }

    /// allocated → allocated with a later end, if it is still at the version of `seen`, and its lease is that of the
    /// extension, is not over, and ends earlier.
    #[must_use]
    pub fn extend(seen: &Sandbox, extension: &Extension, now: UnixSeconds) -> Self {
        let Extension { owner, epoch, ended_by, expires_at, by } = extension;
        let lease = LeaseGuard {
            owner: Some(owner.clone()),
            epoch: Some(*epoch),
            ends_after: Some(*ended_by),
            ends_before: Some(*expires_at),
            ..LeaseGuard::default()
        };
        let guard = Guard { lease, ..Guard::seen(seen, &[StateName::Allocated]) };
        let entry = Entry { by: by.clone(), ..Entry::new(Cause::Extended, now) };
        let change = Change::Extend { expires_at: *expires_at };
        Self::new("extend", guard, change, Some(entry)).after(seen)
    }

    /// allocated → allocated, with a container that does something else, if it is still at the version of `seen`. `by` is the
    /// actor on the owner's behalf.
    #[must_use]
    pub fn note_runtime(seen: &Sandbox, change: RuntimeChange, by: Option<&Actor>, now: UnixSeconds) -> Self {
        let guard = Guard::seen(seen, &[StateName::Allocated]);
        let entry = Entry { by: by.cloned(), ..Entry::new(change.cause(), now) };
        let change = Change::NoteRuntime(change.describe(&seen.descriptor));
        Self::new("note_runtime", guard, change, Some(entry)).after(seen)
    }

    /// available | allocated → quarantined, if it is still at the version of `seen`.
    #[must_use]
    pub fn quarantine(seen: &Candidate, order: &Order, now: UnixSeconds) -> Self {
        let states = &[StateName::Available, StateName::Allocated];
        let guard = Guard { version: Some(seen.version), ..Guard::in_states(states) };
        let reason = order.reason.clone();
        let change = Change::Quarantine { pool: seen.pool.clone(), since: now, reason };
        Self::new("quarantine", guard, change, Some(Entry::ordered(Cause::Quarantined, order, now)))
    }

    /// quarantined → available, if it is still at the version of `seen` and no owner ever held it.
    #[must_use]
    pub fn unquarantine(seen: &Sandbox, order: &Order, now: UnixSeconds) -> Self {
        let guard = Guard { is_unused: true, ..Guard::seen(seen, &[StateName::Quarantined]) };
        let entry = Entry::ordered(Cause::Unquarantined, order, now);
        let change = Change::Free { pool: seen.pool.clone() };
        Self::new("unquarantine", guard, change, Some(entry)).after(seen)
    }

    /// allocated | quarantined | provisioning | `provision_failed` → `pending_deletion` by an operator, if it is still at
    /// the version of `seen`.
    #[must_use]
    pub fn order_deletion(seen: &Sandbox, order: &Order, now: UnixSeconds) -> Self {
        let guard = Guard::seen(
            seen,
            &[
                StateName::Allocated,
                StateName::Quarantined,
                StateName::Provisioning,
                StateName::ProvisionFailed,
            ],
        );
        let cause = DeletionCause::Operator;
        let entry = Entry::ordered(cause.into(), order, now);
        let change = Change::RequestDeletion { cause, requested_at: now };
        Self::new("order_deletion", guard, change, Some(entry)).after(seen)
    }

    /// Counts a failed attempt and records the result of the pre-clean, if a deletion of `epoch` is wanted and has
    /// `attempts` so far. The state stays.
    #[must_use]
    pub fn note_attempt(epoch: Epoch, attempts: u32, error: &str, preparation: Option<&Preparation>) -> Self {
        let guard = Guard { attempts: Some(attempts), ..Guard::wanted(epoch) };
        let change = Change::CountAttempt {
            attempts: attempts.saturating_add(1),
            error: Deletion::bounded_error(error).to_owned(),
            preparation: preparation.cloned(),
        };
        Self::new("note_attempt", guard, change, None)
    }

    /// Records the result of the pre-clean without counting an attempt, if a deletion of `epoch` is wanted and has
    /// `attempts` so far. The state stays.
    #[must_use]
    pub fn note_preparation(epoch: Epoch, attempts: u32, preparation: &Preparation) -> Self {
        let guard = Guard { attempts: Some(attempts), ..Guard::wanted(epoch) };
        Self::new("note_preparation", guard, Change::NotePreparation(preparation.clone()), None)
    }

    /// `pending_deletion` → deleted (tombstone), if a deletion of `epoch` is wanted.
    #[must_use]
    pub fn finish_deletion(
        epoch: Epoch,
        now: UnixSeconds,
        purge_at: UnixSeconds,
        preparation: Option<&Preparation>,
    ) -> Self {
        let change = Change::FinishDeletion { deleted_at: now, purge_at, preparation: preparation.cloned() };
        let entry = Entry::new(Cause::Deleted, now);
        Self::new("finish_deletion", Guard::wanted(epoch), change, Some(entry))
    }

    /// `pending_deletion` → `deletion_failed`, if a deletion of `epoch` is wanted.
    #[must_use]
    pub fn park_deletion(epoch: Epoch, now: UnixSeconds) -> Self {
        let entry = Entry::new(Cause::Parked, now);
        Self::new("park_deletion", Guard::wanted(epoch), Change::ParkDeletion, Some(entry))
    }

    /// `deletion_failed` → `pending_deletion`, if a deletion of `epoch` is parked. Attempts are counted from zero; the
    /// time of the request and the last error stay.
    #[must_use]
    pub fn replay_deletion(epoch: Epoch, by: &Actor, now: UnixSeconds) -> Self {
        let guard = Guard { epoch: Some(epoch), ..Guard::in_states(&[StateName::DeletionFailed]) };
        let entry = Entry { by: Some(by.clone()), ..Entry::new(Cause::Replayed, now) };
        Self::new("replay_deletion", guard, Change::ReplayDeletion, Some(entry))
    }

    /// available → stale, if it is still at the version of `seen`: the provider no longer lists it.
    #[must_use]
    pub fn mark_missing(seen: &Sandbox, now: UnixSeconds) -> Self {
        let guard = Guard::seen(seen, &[StateName::Available]);
        let change = Change::GoStale { pool: seen.pool.clone(), since: now };
        Self::new("mark_missing", guard, change, Some(Entry::new(Cause::Missing, now))).after(seen)
    }

    /// stale → available, if it is still at the version of `seen`: the provider lists it again.
    #[must_use]
    pub fn mark_found(seen: &Sandbox, now: UnixSeconds) -> Self {
        let guard = Guard::seen(seen, &[StateName::Stale]);
        let change = Change::Free { pool: seen.pool.clone() };
        Self::new("mark_found", guard, change, Some(Entry::new(Cause::Found, now))).after(seen)
    }

    /// stale → deleted (tombstone), if it is still at the version and epoch of `seen`: the provider has not listed it for
    /// long, or an operator gives it up. No owner ever held it. `by` is who ordered it, if it was ordered.
    #[must_use]
    pub fn forget(seen: &Sandbox, by: Option<&Actor>, now: UnixSeconds, purge_at: UnixSeconds) -> Self {
        let guard = Guard { epoch: Some(seen.epoch), ..Guard::seen(seen, &[StateName::Stale]) };
        let entry = Entry { by: by.cloned(), ..Entry::new(Cause::Forgotten, now) };
        let change = Change::Forget { deleted_at: now, purge_at };
        Self::new("forget", guard, change, Some(entry)).after(seen)
    }

    /// deleted → `pending_deletion`, if it is still at the version of `seen`: the provider has accepted the deletion and
    /// still lists the account. When that happened [`DELETION_RELISTS_MAX`] times before, it is parked instead.
    #[must_use]
    pub fn relist(seen: &Sandbox, now: UnixSeconds) -> Self {
        let guard = Guard { has_deletion: true, ..Guard::seen(seen, &[StateName::Deleted]) };
        let (requested_at, relists) = seen
            .deletion()
            .map_or((now, 1), |deletion| (deletion.requested_at, deletion.relists.saturating_add(1)));
        let cause = if relists > DELETION_RELISTS_MAX { Cause::Parked } else { Cause::Found };
        let change = Change::Relist { pool: seen.pool.clone(), requested_at, relists };
        Self::new("relist", guard, change, Some(Entry::new(cause, now))).after(seen)
    }

    /// Refreshes the description of a sandbox at `version` that is in one of `states`; state, version and history stay.
    #[must_use]
    pub fn describe(states: &'static [StateName], version: Version, description: &Description) -> Self {
        let guard = Guard { version: Some(version), ..Guard::in_states(states) };
        Self::new("describe", guard, Change::Describe(description.clone()), None)
    }

    /// provisioning → available, or → allocated if it was created for a claim; if it is still at the version of `seen`.
    /// Entries of `descriptor` are added to those of `seen`.
    #[must_use]
    pub fn finish_provision(seen: &Sandbox, descriptor: &Descriptor, now: UnixSeconds) -> Self {
        let guard = Guard::seen(seen, &[StateName::Provisioning]);
        let (pool, descriptor) = (seen.pool.clone(), seen.descriptor.with_entries(descriptor));
        let expires_at = seen.lease().map(|lease| lease.expires_at);
        let change = Change::Provision(ProvisionStep::Finish { pool, descriptor, expires_at });
        Self::new("finish_provision", guard, change, Some(Entry::new(Cause::Provisioned, now))).after(seen)
    }

    /// Counts a failed attempt at a creation that is still at the version of `seen`; `attempts` includes it. The state
    /// stays.
    #[must_use]
    pub fn note_provision_failure(seen: &Sandbox, attempts: u32, error: &str) -> Self {
        let guard = Guard::seen(seen, &[StateName::Provisioning]);
        let error = Deletion::bounded_error(error).to_owned();
        let change = Change::Provision(ProvisionStep::NoteFailure { attempts, error });
        Self::new("note_provision_failure", guard, change, None)
    }

    /// provisioning → `provision_failed`, if it is still at the version of `seen`.
    #[must_use]
    pub fn park_provision(seen: &Sandbox, now: UnixSeconds) -> Self {
        let guard = Guard::seen(seen, &[StateName::Provisioning]);
        let change = Change::Provision(ProvisionStep::Park { pool: seen.pool.clone() });
        Self::new("park_provision", guard, change, Some(Entry::new(Cause::ProvisionFailed, now))).after(seen)
    }

    /// `provision_failed` → provisioning, if it is still at the version of `seen`, and its lease, if it has one, ends after
    /// `ended_by`. Attempts are counted from zero; the last error stays.
    #[must_use]
    pub fn replay_provision(seen: &Sandbox, by: &Actor, ended_by: UnixSeconds, now: UnixSeconds) -> Self {
        let lease =
            LeaseGuard { ends_after: seen.lease().is_some().then_some(ended_by), ..LeaseGuard::default() };
        let guard = Guard { lease, ..Guard::seen(seen, &[StateName::ProvisionFailed]) };
        let entry = Entry { by: Some(by.clone()), ..Entry::new(Cause::Replayed, now) };
        let step = ProvisionStep::Replay { pool: seen.pool.clone(), requested_at: now };
        let change = Change::Provision(step);
        Self::new("replay_provision", guard, change, Some(entry)).after(seen)
    }

    /// available | provisioning | `provision_failed` → `pending_deletion`, if it is still at the version of `seen` and
    /// no owner ever held it: its pool does not want it any more. For kinds that the fleet creates.
    #[must_use]
    pub fn retire(seen: &Sandbox, now: UnixSeconds) -> Self {
        let states = &[StateName::Available, StateName::Provisioning, StateName::ProvisionFailed];
        let guard = Guard { is_unused: true, ..Guard::seen(seen, states) };
        let cause = DeletionCause::Retired;
        let change = Change::RequestDeletion { cause, requested_at: now };
        Self::new("retire", guard, change, Some(Entry::new(cause.into(), now))).after(seen)
    }

    const fn new(name: &'static str, guard: Guard, change: Change, entry: Option<Entry>) -> Self {
        Self { name, guard, change, entry, full_history: None }
    }

    /// With the history of `seen`, if that has its full length. A shorter one only grows: it may have entries that this
    /// build cannot read, which stay.
    fn after(mut self, seen: &Sandbox) -> Self {
        let is_full = seen.history.len() >= HISTORY_ENTRIES_MAX;
        self.full_history = is_full.then(|| seen.history.clone());
        self
    }
}

// === impl Guard ===

impl Guard {
    fn in_states(states: &'static [StateName]) -> Self {
        Self { states, ..Self::default() }
    }

    fn seen(seen: &Sandbox, states: &'static [StateName]) -> Self {
        Self { version: Some(seen.version), ..Self::in_states(states) }
    }

    fn held(lease: LeaseGuard) -> Self {
        Self {
            lease,
            ..Self::in_states(&[StateName::Allocated, StateName::Provisioning, StateName::ProvisionFailed])
        }
    }

    fn wanted(epoch: Epoch) -> Self {
        Self { epoch: Some(epoch), ..Self::in_states(&[StateName::PendingDeletion]) }
    }

    /// Whether all of it is true of that sandbox.
    #[must_use]
    pub fn admits(&self, sandbox: &Sandbox) -> bool {
        let Self { states, version, epoch, lease, attempts, is_unused, has_deletion } = self;
        states.contains(&sandbox.state.name())
            && version.is_none_or(|version| version == sandbox.version)
            && epoch.is_none_or(|epoch| epoch == sandbox.epoch)
            && (lease.is_empty() || sandbox.lease().is_some_and(|live| lease.admits(live)))
            && attempts.is_none_or(|attempts| {
                sandbox.deletion().is_some_and(|deletion| deletion.attempts == attempts)
            })
            && !(*is_unused && sandbox.last_lease().is_some())
            && !(*has_deletion && sandbox.deletion().is_none())
    }
}

// === impl LeaseGuard ===

impl LeaseGuard {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn admits(&self, lease: &Lease) -> bool {
        let Self { owner, epoch, ended_by, ends_after, ends_before, answered } = self;
        owner.as_ref().is_none_or(|owner| *owner == lease.claim.owner)
            && epoch.is_none_or(|epoch| epoch == lease.epoch)
            && ended_by.is_none_or(|moment| lease.expires_at <= moment)
            && ends_after.is_none_or(|moment| lease.expires_at > moment)
            && ends_before.is_none_or(|moment| lease.expires_at < moment)
            && answered.as_ref().is_none_or(|answered| *answered == lease.answered)
    }
}

// === impl Entry ===

impl Entry {
    /// An entry of what was not ordered.
    #[must_use]
    pub const fn new(cause: Cause, at: UnixSeconds) -> Self {
        Self { cause, at, by: None, reason: None }
    }

    fn ordered(cause: Cause, order: &Order, at: UnixSeconds) -> Self {
        Self { cause, at, by: Some(order.by.clone()), reason: Some(order.reason.clone()) }
    }
}
