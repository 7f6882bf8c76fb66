//! What an observer records after every step, and what must follow from it: a small model of the broker, against which
//! every sandbox and every answer is checked.

use crate::soundness::{assert_in_order, assert_one_lease_a_key};
use crate::world::{Answered, GRACE};
use contract::{FaultCode, Outcome};
use domain::{
    Candidate, Cause, ClaimKey, Epoch, HistoryEntry, Lease, Sandbox, SandboxId, StateName, UnixSeconds,
};
use std::collections::{BTreeMap, BTreeSet};

/// Every state change, with its cause.
const STEPS: [(StateName, StateName, Cause); 6] = [
    (StateName::Available, StateName::Allocated, Cause::Claimed),
    (StateName::Allocated, StateName::PendingDeletion, Cause::Released),
    (StateName::Allocated, StateName::PendingDeletion, Cause::Expired),
    (StateName::PendingDeletion, StateName::Deleted, Cause::Deleted),
    (StateName::Available, StateName::Stale, Cause::Missing),
    (StateName::Stale, StateName::Available, Cause::Found),
];

/// The observations so far.
#[derive(Default)]
pub(crate) struct Observations {
    step: u64,
    seen: BTreeMap<SandboxId, Sandbox>,
    leases: BTreeMap<(SandboxId, Epoch), Seen>,
    /// Leases whose claim was answered.
    made: BTreeSet<(SandboxId, Epoch)>,
}

/// A lease and the time in which it was seen.
struct Seen {
    lease: Lease,
    first_step: u64,
    last_step: u64,
}

/// A claim in progress, as the observer follows it.
pub(crate) struct Followed {
    key: ClaimKey,
    since_step: u64,
    since: UnixSeconds,
    /// The candidates that were free, at that version, all the time since it began.
    free: Vec<Candidate>,
}

// === impl Observations ===

impl Observations {
    /// Records these sandboxes; at most one of them may have changed since the last call, and no other sandbox.
    pub(crate) fn look(&mut self, sandboxes: Vec<Sandbox>, now: UnixSeconds, followed: &mut [&mut Followed]) {
        self.step += 1;
        let mut changes = 0;
        for sandbox in sandboxes {
            assert_in_order(&sandbox);
            if let Some(before) = self.seen.get(&sandbox.id) {
                if before.version == sandbox.version {
                    assert_eq!(*before, sandbox, "changed without a new version");
                    continue;
                }
                self.assert_step(before, &sandbox, now);
            }
            changes += 1;
            self.seen.insert(sandbox.id.clone(), sandbox);
        }
        assert!(changes <= 1 || self.step == 1, "one call has changed {changes} sandboxes");
        assert_one_lease_a_key(self.seen.values());
        let held: Vec<_> = self.in_state(StateName::Allocated).into_iter().cloned().collect();
        for sandbox in held {
            self.note_lease(&sandbox.id, sandbox.lease().expect("it is held"));
        }
        for claim in followed {
            claim.free.retain(|candidate| self.is_free(candidate));
        }
    }

    fn note_lease(&mut self, id: &SandboxId, lease: &Lease) {
        let step = self.step;
        let seen = self.leases.entry((id.clone(), lease.epoch)).or_insert_with(|| Seen {
            lease: lease.clone(),
            first_step: step,
            last_step: step,
        });
        assert_eq!(seen.lease, *lease, "a lease of {id} that changes");
        seen.last_step = step;
    }

    fn assert_step(&self, before: &Sandbox, after: &Sandbox, now: UnixSeconds) {
        let last = after.history.last().expect("a sandbox has a history");
        let step = (before.state.name(), after.state.name(), last.cause);
        assert!(STEPS.contains(&step), "{step:?} of {after:?}");
        assert_eq!(after.version, before.version.next(), "versions grow one by one: {after:?}");
        let claimed = last.cause == Cause::Claimed;
        let epoch = if claimed { before.epoch.next() } else { before.epoch };
        assert_eq!(after.epoch, epoch, "an epoch grows with a lease: {after:?}");
        if let Some(lease) = after.lease() {
            assert_eq!(lease.claimed_version, before.version, "{after:?}");
        }
        if let StateName::PendingDeletion = after.state.name() {
            assert_eq!(after.last_lease(), before.lease(), "its last lease is not kept: {after:?}");
        }
        if last.cause == Cause::Expired {
            assert!(before.lease().is_some_and(|lease| lease.is_over(now, GRACE)), "too early: {after:?}");
        }
    }

    fn is_free(&self, candidate: &Candidate) -> bool {
        self.seen.get(&candidate.id).is_some_and(|sandbox| {
            sandbox.state.name() == StateName::Available && sandbox.version == candidate.version
        })
    }

    /// The free sandboxes.
    pub(crate) fn free(&self) -> Vec<Candidate> {
        let free = self.seen.values().filter(|sandbox| sandbox.state.name() == StateName::Available);
        free.map(Sandbox::candidate).collect()
    }

    /// The sandbox that the key holds now, unless its lease has ended.
    pub(crate) fn held(&self, key: &ClaimKey, now: UnixSeconds) -> Option<&Sandbox> {
        let holds = |lease: &Lease| lease.claim == *key && !lease.is_over(now, GRACE);
        self.seen.values().find(|sandbox| sandbox.lease().is_some_and(holds))
    }

    /// The sandboxes in that state.
    pub(crate) fn in_state(&self, state: StateName) -> Vec<&Sandbox> {
        self.seen.values().filter(|sandbox| sandbox.state.name() == state).collect()
    }

    /// Every state change of every sandbox.
    pub(crate) fn histories(&self) -> impl Iterator<Item = &HistoryEntry> {
        self.seen.values().flat_map(|sandbox| &sandbox.history)
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> Option<&Sandbox> {
        self.seen.get(id)
    }

    /// Begins to follow a claim.
    pub(crate) fn follow(&self, key: &ClaimKey, now: UnixSeconds) -> Followed {
        Followed { key: key.clone(), since_step: self.step, since: now, free: self.free() }
    }

    /// Checks an answer against what was seen during its claim.
    pub(crate) fn judge(&mut self, claim: &Followed, answer: &Answered, now: UnixSeconds, may_fail: bool) {
        match answer {
            Ok(lent) => {
                let name = (lent.id(), Epoch::new(lent.allocation.lease_epoch));
                let seen = self.leases.get(&name).unwrap_or_else(|| panic!("no such lease: {lent:?}"));
                assert_eq!(seen.lease.claim, claim.key, "another owner's lease: {lent:?}");
                let times = (seen.lease.granted_at.get(), seen.lease.expires_at.get());
                assert_eq!(times, (lent.allocation.allocated_at, lent.allocation.expires_at), "{lent:?}");
                assert!(seen.last_step >= claim.since_step, "gone before it was asked for: {lent:?}");
                assert!(!seen.lease.is_over(claim.since, GRACE), "over before it was asked for: {lent:?}");
                if lent.outcome == Outcome::Created {
                    assert!(seen.first_step > claim.since_step, "made before it was asked for: {lent:?}");
                    assert!(self.made.insert(name), "made twice: {lent:?}");
                }
            }
            Err(FaultCode::PoolExhausted) => {
                assert!(claim.free.is_empty(), "exhausted, and free all the time: {:?}", claim.free);
                let held = self.held(&claim.key, now);
                let all_along = held.filter(|sandbox| {
                    let seen = &self.leases[&(sandbox.id.clone(), sandbox.epoch)];
                    seen.first_step <= claim.since_step
                });
                assert_eq!(all_along, None, "exhausted, and held all the time");
            }
            Err(FaultCode::StoreUnavailable) => assert!(may_fail, "nothing had failed"),
            Err(code) => panic!("{code:?}"),
        }
    }
}
