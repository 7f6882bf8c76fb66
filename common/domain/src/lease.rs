//! Leases, and the claim that leads to one.

use super::ids::{Actor, Epoch, IdempotencyKey, LabId, OwnerId, PoolName, RequestKey, SandboxId, Version};
use super::time::UnixSeconds;
use std::time::Duration;

/// Requests that a lease remembers beside the one that created it, and that a claim item keeps when it moves on; older
/// ones are dropped. They are of one owner and key, and an attempt at a request lives for seconds, so a request is
/// forgotten only if that many others of the same key were answered after it.
pub const REQUESTS_KEPT_MAX: usize = 16;

/// How long a closed claim item is kept: many times the longest time of an attempt at a request. It only bounds the size
/// of the table; no rule compares clocks.
pub const CLOSED_CLAIM_KEPT: Duration = Duration::from_secs(15 * 60);

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
    /// The request that created it; none if its caller sent no id, and for a lease of a former build.
    pub request: Option<RequestKey>,
    /// Further requests that it may have been the answer to, oldest first, at most [`REQUESTS_KEPT_MAX`].
    pub answered: Vec<RequestKey>,
}

impl Lease {
    /// Every request that it was the answer to, as far as it is known.
    pub fn requests(&self) -> impl Iterator<Item = &RequestKey> {
        self.request.iter().chain(&self.answered)
    }

    /// The same lease, which was the answer to one more request.
    #[must_use]
    pub fn with_answered(mut self, request: &RequestKey) -> Self {
        remember(&mut self.answered, [request]);
        self
    }

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
    /// The sandbox that it is after, holds or held, at the version it was seen at.
    pub candidate: Candidate,
    /// Whether the lease of that candidate has ended. The item is kept for a while, so that a late attempt at a request
    /// that was answered finds it, and is replaced by the next request.
    pub is_closed: bool,
    /// Requests that leases of this key were the answers to which have ended since, oldest first. An attempt at one of
    /// them is late and must get nothing.
    pub answered: Vec<RequestKey>,
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
    /// The request, if the caller said.
    pub request: Option<RequestKey>,
    /// Start of the lease.
    pub granted_at: UnixSeconds,
    /// End of the lease.
    pub expires_at: UnixSeconds,
}

// === impl Candidate ===

impl Candidate {
    /// Whether it is the same sandbox at the same version, which is all that matters.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.version == other.version
    }
}

// === impl ClaimRecord ===

impl ClaimRecord {
    /// The item of a claim that begins.
    #[must_use]
    pub const fn new(claim: ClaimKey, candidate: Candidate) -> Self {
        Self { claim, candidate, is_closed: false, answered: Vec::new() }
    }

    /// The item after the lease of its candidate has ended, which was the answer to `requests`.
    #[must_use]
    pub fn closed<'a>(mut self, requests: impl IntoIterator<Item = &'a RequestKey>) -> Self {
        self.is_closed = true;
        self.answered.extend(requests.into_iter().cloned());
        self
    }

    /// The item that takes its place when it moves on from a lost candidate, or from a lease that was the answer to
    /// `requests` and has ended.
    #[must_use]
    pub fn moved_to<'a>(
        &self,
        candidate: Candidate,
        requests: impl IntoIterator<Item = &'a RequestKey>,
    ) -> Self {
        let mut answered = self.answered.clone();
        remember(&mut answered, requests);
        Self { claim: self.claim.clone(), candidate, is_closed: false, answered }
    }
}

/// Adds requests that are not there yet, and drops the oldest beyond the bound.
fn remember<'a>(known: &mut Vec<RequestKey>, requests: impl IntoIterator<Item = &'a RequestKey>) {
    for request in requests {
        if !known.contains(request) {
            known.push(request.clone());
        }
    }
    known.drain(..known.len().saturating_sub(REQUESTS_KEPT_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: usize) -> RequestKey {
        RequestKey::parse(&format!("request-{number}")).unwrap()
    }

    #[test]
    fn moved_claim_item_keeps_the_latest_requests_deduplicated() {
        let owner = OwnerId::parse("owner").unwrap();
        let claim = ClaimKey { key: IdempotencyKey::from(&owner), owner };
        let candidate = Candidate {
            id: SandboxId::parse("1").unwrap(),
            pool: PoolName::parse("main").unwrap(),
            version: Version::new(1),
        };
        let closed = ClaimRecord::new(claim, candidate.clone()).closed(&[request(0), request(1)]);
        assert!(closed.is_closed);
        let moved = closed.moved_to(candidate.clone(), &[request(1), request(2)]);
        assert_eq!(moved.answered, [request(0), request(1), request(2)]);
        assert!(!moved.is_closed);
        let more: Vec<_> = (3..REQUESTS_KEPT_MAX + 2).map(request).collect();
        let answered = moved.moved_to(candidate, &more).answered;
        assert_eq!(answered.len(), REQUESTS_KEPT_MAX);
        assert_eq!((answered.first(), answered.last()), (Some(&request(2)), more.last()));
    }
}
