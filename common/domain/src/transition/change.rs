//! What transitions change.

use super::Description;
use crate::deletion::{DELETION_RELISTS_MAX, DeletionCause};
use crate::descriptor::Descriptor;
use crate::ids::{PoolName, Reason, RequestKey};
use crate::lease::Grant;
use crate::preparation::Preparation;
use crate::sandbox::StateName;
use crate::time::UnixSeconds;

/// What a transition changes, apart from version, epoch and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// → allocated; the epoch grows by one.
    Allocate(Grant),
    /// Sets the further requests that the live lease answered.
    Answer(Vec<RequestKey>),
    /// Moves the end of the live lease.
    Extend {
        /// The new end.
        expires_at: UnixSeconds,
    },
    /// Sets the descriptor, which says what the container of the live lease does.
    NoteRuntime(Descriptor),
    /// → available.
    Free {
        /// The pool that it is in.
        pool: PoolName,
    },
    /// → stale.
    GoStale {
        /// The pool that it is in.
        pool: PoolName,
        /// Since when.
        since: UnixSeconds,
    },
    /// → quarantined. A lease ends and stays on record.
    Quarantine {
        /// The pool that it is in.
        pool: PoolName,
        /// Since when it is quarantined.
        since: UnixSeconds,
        /// The reason.
        reason: Reason,
    },
    /// → `pending_deletion`. A lease ends and stays on record.
    RequestDeletion {
        /// Why it is deleted.
        cause: DeletionCause,
        /// When it was asked for.
        requested_at: UnixSeconds,
    },
    /// Counts a failed attempt at the deletion.
    CountAttempt {
        /// Number of attempts, this one included.
        attempts: u32,
        /// The error, cut to the limit.
        error: String,
        /// The result of the pre-clean, if there is one.
        preparation: Option<Preparation>,
    },
    /// Records the result of the pre-clean.
    NotePreparation(Preparation),
    /// → deleted, after the provider deleted it.
    FinishDeletion {
        /// When it was deleted.
        deleted_at: UnixSeconds,
        /// When the tombstone may be purged.
        purge_at: UnixSeconds,
        /// The result of the pre-clean, if there is one.
        preparation: Option<Preparation>,
    },
    /// → `deletion_failed`.
    ParkDeletion,
    /// → `pending_deletion`; attempts are counted from zero.
    ReplayDeletion,
    /// deleted → `pending_deletion` or `deletion_failed`, with the finished deletion.
    Relist {
        /// The pool that it is in.
        pool: PoolName,
        /// When the deletion was asked for.
        requested_at: UnixSeconds,
        /// How often the provider still listed it, this time included.
        relists: u32,
    },
    /// → deleted, without a deletion at the provider.
    Forget {
        /// When it was given up.
        deleted_at: UnixSeconds,
        /// When the tombstone may be purged.
        purge_at: UnixSeconds,
    },
    /// Replaces the description by that of a listing.
    Describe(Description),
    /// A step of the creation.
    Provision(ProvisionStep),
}

/// A step of the creation of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProvisionStep {
    /// → available, or → allocated if it was created for a claim.
    Finish {
        /// The pool that it is in.
        pool: PoolName,
        /// What is known about it now: node, incarnation, endpoints.
        descriptor: Descriptor,
        /// The end of the lease that it was created for.
        expires_at: Option<UnixSeconds>,
    },
    /// Counts a failed attempt at the creation.
    NoteFailure {
        /// Number of attempts, this one included.
        attempts: u32,
        /// The error, cut to the limit.
        error: String,
    },
    /// → `provision_failed`.
    Park {
        /// The pool that it is in.
        pool: PoolName,
    },
    /// → provisioning; attempts are counted from zero.
    Replay {
        /// The pool that it is in.
        pool: PoolName,
        /// When it was replayed.
        requested_at: UnixSeconds,
    },
}

// === impl Change ===

impl Change {
    /// The state that it leads to; none if the state stays.
    #[must_use]
    pub const fn leads_to(&self) -> Option<StateName> {
        match self {
            Self::Allocate(_) | Self::Extend { .. } | Self::NoteRuntime(_) => Some(StateName::Allocated),
            Self::Free { .. } => Some(StateName::Available),
            Self::GoStale { .. } => Some(StateName::Stale),
            Self::Quarantine { .. } => Some(StateName::Quarantined),
            Self::RequestDeletion { .. } | Self::ReplayDeletion => Some(StateName::PendingDeletion),
            Self::ParkDeletion => Some(StateName::DeletionFailed),
            Self::Relist { relists, .. } if *relists > DELETION_RELISTS_MAX => {
                Some(StateName::DeletionFailed)
            }
            Self::Relist { .. } => Some(StateName::PendingDeletion),
            Self::FinishDeletion { .. } | Self::Forget { .. } => Some(StateName::Deleted),
            Self::Provision(step) => step.leads_to(),
            Self::Answer(_) | Self::CountAttempt { .. } | Self::NotePreparation(_) | Self::Describe(_) => {
                None
            }
        }
    }

    /// The pool, if an index of the pool has to learn the new state.
    #[must_use]
    pub const fn pool(&self) -> Option<&PoolName> {
        match self {
            Self::Allocate(grant) => Some(&grant.candidate.pool),
            Self::Free { pool }
            | Self::GoStale { pool, .. }
            | Self::Quarantine { pool, .. }
            | Self::Relist { pool, .. }
            | Self::Provision(
                ProvisionStep::Finish { pool, .. }
                | ProvisionStep::Park { pool }
                | ProvisionStep::Replay { pool, .. },
            ) => Some(pool),
            _ => None,
        }
    }
}

// === impl ProvisionStep ===

impl ProvisionStep {
    const fn leads_to(&self) -> Option<StateName> {
        match self {
            Self::Finish { expires_at: Some(_), .. } => Some(StateName::Allocated),
            Self::Finish { expires_at: None, .. } => Some(StateName::Available),
            Self::NoteFailure { .. } => None,
            Self::Park { .. } => Some(StateName::ProvisionFailed),
            Self::Replay { .. } => Some(StateName::Provisioning),
        }
    }
}
