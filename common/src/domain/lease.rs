//! Leases, and the claim that leads to one.

use super::ids::{Actor, Epoch, IdempotencyKey, LabId, OwnerId, PoolName, SandboxId, Version};
use super::time::UnixSeconds;
use std::time::Duration;

/// The holding of a sandbox by one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it, and under which idempotency key.
    pub claim: ClaimKey,
    /// The lab that it is held for, if the caller said.
    pub lab: Option<LabId>,
    /// Fencing token of this lease.
    pub epoch: Epoch,
    /// The version that the sandbox was claimed at; with the id it names the claim item of this lease.
    pub claimed_version: Version,
    /// When it was granted.
    pub granted_at: UnixSeconds,
    /// When it ends; removal follows after the grace period.
    pub expires_at: UnixSeconds,
}

impl Lease {
    /// Whether the lease has outlived its end by `grace`, so that it counts for nothing any more.
    #[must_use]
    pub fn is_over(&self, now: UnixSeconds, grace: Duration) -> bool {
        self.expires_at <= now.before(grace)
    }
}

/// More time for a lease, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Who holds the sandbox.
    pub owner: OwnerId,
    /// The lease that is meant.
    pub epoch: Epoch,
    /// A lease that ended at or before this moment is over and not extended any more.
    pub ended_by: UnixSeconds,
    /// The new end; never an earlier one than before.
    pub expires_at: UnixSeconds,
    /// Who asks on the owner's behalf, for the history; none if that is the owner.
    pub by: Option<Actor>,
}

/// What makes two claims the same claim: the owner and the owner's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimKey {
    /// Who claims.
    pub owner: OwnerId,
    /// The owner's key for this claim.
    pub key: IdempotencyKey,
}

/// A sandbox that looked free: a hint, which the conditional write at `version` turns into a fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The sandbox.
    pub id: SandboxId,
    /// Its pool.
    pub pool: PoolName,
    /// The version that it was seen at.
    pub version: Version,
}

/// The claim item: where this owner's key looks. It never decides anything by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRecord {
    /// Whose claim it is.
    pub claim: ClaimKey,
    /// The sandbox that it is after or holds, at the version it was seen at.
    pub candidate: Candidate,
}

/// A claim of one candidate, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose claim it is.
    pub claim: ClaimKey,
    /// Which sandbox, at which version.
    pub candidate: Candidate,
    /// The lab, if the caller said.
    pub lab: Option<LabId>,
    /// Who asks on the owner's behalf, for the history; none if that is the owner.
    pub by: Option<Actor>,
    /// Start of the lease.
    pub granted_at: UnixSeconds,
    /// End of the lease.
    pub expires_at: UnixSeconds,
}
