//! Leases, and the claims that lead to them.

use super::history::Cause;
use super::ids::{Actor, Epoch, IdempotencyKey, LabId, OwnerId, PoolName, RequestKey, SandboxId, Version};
use super::options::ClaimOptions;
use super::provision::Creation;
use super::time::UnixSeconds;
use super::transition::Entry;
use std::time::Duration;

/// Requests that a lease remembers beside the one that created it, and that a claim item keeps when it moves to another
/// candidate. Older ones are dropped. All belong to one owner and key, and an attempt lives for seconds, so a request
/// is forgotten only if that many later requests of the same key were answered.
pub const REQUESTS_KEPT_MAX: usize = 16;

/// How long a closed claim item is kept: many times the longest attempt at a request. This only bounds the size of the
/// table; no rule compares clocks.
pub const CLOSED_CLAIM_KEPT: Duration = Duration::from_secs(15 * 60);

/// The right of one owner to one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it, and under which idempotency key.
    pub claim: ClaimKey,
    /// The lab, if the caller named one.
    pub lab: Option<LabId>,
    /// Fencing token of this lease.
    pub epoch: Epoch,
    /// The version at which the sandbox was claimed. Together with the id it identifies the claim item of this lease.
    pub claimed_version: Version,
    /// When it was granted.
    pub granted_at: UnixSeconds,
    /// When it ends. The sandbox is taken away after the grace period.
    pub expires_at: UnixSeconds,
    /// The request that created it; none if the caller sent no id, and in leases of older builds.
    pub request: Option<RequestKey>,
    /// Further requests that this lease may have answered, oldest first, at most [`REQUESTS_KEPT_MAX`].
    pub answered: Vec<RequestKey>,
    /// What the claim says about its sandbox; none if nothing. Without the environment once the lease has ended.
    pub options: Option<Box<ClaimOptions>>,
}

impl Lease {
    /// All known requests that this lease answered.
    pub fn requests(&self) -> impl Iterator<Item = &RequestKey> {
        self.request.iter().chain(&self.answered)
    }

    /// The same lease, which answered one more request.
    #[must_use]
    pub fn with_answered(mut self, request: &RequestKey) -> Self {
        remember(&mut self.answered, [request]);
        self
    }

    /// Whether both the end of the lease and `grace` have passed.
    #[must_use]
    pub fn is_over(&self, now: UnixSeconds, grace: Duration) -> bool {
        self.expires_at <= now.before(grace)
    }
}

/// An extension of a lease, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The owner that holds the sandbox.
    pub owner: OwnerId,
    /// The epoch of the lease to extend.
    pub epoch: Epoch,
    /// A lease that ended at or before this moment is not extended any more.
    pub ended_by: UnixSeconds,
    /// The new end, which is never earlier than the old one.
    pub expires_at: UnixSeconds,
    /// Who asks on the owner's behalf, for the history; none if that is the owner.
    pub by: Option<Actor>,
}

/// Identifies a claim: the owner, and the owner's key. Two claims with the same one are one claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimKey {
    /// The owner that claims.
    pub owner: OwnerId,
    /// The owner's key for this claim.
    pub key: IdempotencyKey,
}

/// A sandbox that looked free. It is a hint; only the conditional write at `version` decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The sandbox.
    pub id: SandboxId,
    /// Its pool.
    pub pool: PoolName,
    /// The version that it was seen at.
    pub version: Version,
}

/// The claim item: the sandbox that this owner's key tries to get or holds. It decides nothing by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRecord {
    /// The owner and key.
    pub claim: ClaimKey,
    /// The sandbox that the claim tries to get, holds or held, and the version at which it was seen.
    pub candidate: Candidate,
    /// Whether the lease of that candidate has ended. A closed item is kept for a while, so that a late attempt at an
    /// answered request finds it. The next request replaces it.
    pub is_closed: bool,
    /// Requests that were answered by leases of this key which have ended since, oldest first. An attempt at one of
    /// them is late and must not get a sandbox.
    pub answered: Vec<RequestKey>,
    /// What is created if nothing is free; none for kinds that are not created.
    pub creation: Option<Creation>,
}

/// A claim of one candidate, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The owner and key.
    pub claim: ClaimKey,
    /// The sandbox and the version at which it was seen.
    pub candidate: Candidate,
    /// The lab, if the caller named one.
    pub lab: Option<LabId>,
    /// Who asks on the owner's behalf, for the history; none if that is the owner.
    pub by: Option<Actor>,
    /// The request, if the caller identified it.
    pub request: Option<RequestKey>,
    /// Start of the lease.
    pub granted_at: UnixSeconds,
    /// End of the lease.
    pub expires_at: UnixSeconds,
    /// What the claim says about its sandbox; none if nothing.
    pub options: Option<Box<ClaimOptions>>,
}

// === impl Candidate ===

impl Candidate {
    /// A sandbox that does not exist yet.
    #[must_use]
    pub fn absent(id: SandboxId, pool: PoolName) -> Self {
        Self { id, pool, version: Version::default() }
    }

    /// Whether its sandbox did not exist when it was chosen.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.version == Version::default()
    }

    /// Whether it names the same sandbox at the same version.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.version == other.version
    }
}

// === impl Grant ===

impl Grant {
    /// The lease that it makes, with that epoch.
    #[must_use]
    pub fn lease(&self, epoch: Epoch) -> Lease {
        let Self { claim, candidate, lab, by: _, request, granted_at, expires_at, options } = self.clone();
        let (claimed_version, answered) = (candidate.version, Vec::new());
        Lease { claim, lab, epoch, claimed_version, granted_at, expires_at, request, answered, options }
    }

    /// The history entry that it makes.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry { by: self.by.clone(), ..Entry::new(Cause::Claimed, self.granted_at) }
    }
}

// === impl ClaimRecord ===

impl ClaimRecord {
    /// The claim item of a new claim.
    #[must_use]
    pub const fn new(claim: ClaimKey, candidate: Candidate) -> Self {
        Self { claim, candidate, is_closed: false, answered: Vec::new(), creation: None }
    }

    /// The claim item for what is created.
    #[must_use]
    pub fn creating(mut self, creation: Option<Creation>) -> Self {
        self.creation = creation;
        self
    }

    /// The claim item after the lease of its candidate, which answered `requests`, has ended.
    #[must_use]
    pub fn closed<'a>(mut self, requests: impl IntoIterator<Item = &'a RequestKey>) -> Self {
        self.is_closed = true;
        self.answered.extend(requests.into_iter().cloned());
        self
    }

    /// The claim item for another candidate, after this one was lost or its lease, which answered `requests`, has
    /// ended.
    #[must_use]
    pub fn moved_to<'a>(
        &self,
        candidate: Candidate,
        requests: impl IntoIterator<Item = &'a RequestKey>,
    ) -> Self {
        let mut answered = self.answered.clone();
        remember(&mut answered, requests);
        let (claim, creation) = (self.claim.clone(), self.creation.clone());
        Self { claim, candidate, is_closed: false, answered, creation }
    }
}

/// Adds requests that are missing, and drops the oldest ones beyond the limit.
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
