//! Invariants that hold in the end, whatever happened before.

use crate::world::{GRACE, Process, World};
use contract::{FaultCode, Outcome, PoolStats};
use domain::{ClaimKey, Sandbox, StateName};
use ports::clock::Clock as _;
use std::collections::{BTreeMap, BTreeSet};

// === impl World ===

impl World {
    /// The records are consistent, every holder gets its sandbox as the answer of every process, and all free sandboxes
    /// can be claimed through these processes in turn.
    pub(crate) async fn assert_sound(&self, processes: &[&Process]) {
        let sandboxes = self.sandboxes().await;
        sandboxes.iter().for_each(assert_in_order);
        assert_one_lease_a_key(&sandboxes);
        self.assert_counts(&sandboxes, processes[0]).await;
        self.assert_holders_got_answers(&sandboxes, processes).await;
        // What is created is never exhausted.
        if !self.has_containers() {
            self.assert_nothing_is_stranded(&sandboxes, processes).await;
        }
    }

    async fn assert_counts(&self, sandboxes: &[Sandbox], process: &Process) {
        let mut expected = PoolStats::default();
        for sandbox in sandboxes {
            let Some(count) = expected.of_mut(sandbox.state.name()) else { continue };
            *count += 1;
            expected.total += 1;
        }
        assert_eq!(process.stats().await.unwrap().all, expected, "the pool does not add up");
    }

    async fn assert_holders_got_answers(&self, sandboxes: &[Sandbox], processes: &[&Process]) {
        for sandbox in sandboxes {
            let Some(lease) = sandbox.lease().filter(|lease| !lease.is_over(self.clock.now(), GRACE)) else {
                continue;
            };
            assert_eq!(lease.claim.owner.as_str(), lease.claim.key.as_str(), "a key without an owner");
            for process in processes {
                let repeat = process.claim(lease.claim.owner.as_str()).await;
                let repeat = repeat.unwrap_or_else(|code| panic!("{code:?} for the holder of {sandbox:?}"));
                assert_eq!(repeat.outcome, Outcome::Existing);
                assert!(repeat.shows(sandbox), "{repeat:?} for the holder of {sandbox:?}");
            }
        }
    }

    async fn assert_nothing_is_stranded(&self, sandboxes: &[Sandbox], processes: &[&Process]) {
        let is_free = |sandbox: &&Sandbox| sandbox.state.name() == StateName::Available;
        let free: BTreeSet<_> = sandboxes.iter().filter(is_free).map(|sandbox| sandbox.id.clone()).collect();
        let mut claimed = BTreeSet::new();
        for (number, process) in (0..free.len()).zip(processes.iter().cycle()) {
            let lent = process.claim(&format!("last-{number}")).await;
            let lent = lent.unwrap_or_else(|code| panic!("{code:?} with {claimed:?} of {free:?} claimed"));
            assert_eq!(lent.outcome, Outcome::Created);
            claimed.insert(lent.id());
        }
        assert_eq!(claimed, free, "free sandboxes that no caller gets");
        for process in processes {
            assert_eq!(process.claim("one-too-many").await, Err(FaultCode::PoolExhausted));
        }
    }
}

/// A version grows by one with every entry of the history, and a sandbox in deletion keeps its last lease.
pub(crate) fn assert_in_order(sandbox: &Sandbox) {
    let versions: Vec<u64> = sandbox.history.iter().map(|entry| entry.version.get()).collect();
    assert_eq!(versions, (1..=sandbox.version.get()).collect::<Vec<_>>(), "{sandbox:?}");
    let epochs = sandbox.history.iter().map(|entry| entry.epoch);
    assert!(epochs.is_sorted(), "epochs go back: {sandbox:?}");
    let last = sandbox.history.last().expect("a sandbox has a history");
    assert_eq!((last.epoch, last.state), (sandbox.epoch, sandbox.state.name()), "{sandbox:?}");
    if let Some(lease) = sandbox.last_lease() {
        assert_eq!(lease.epoch, sandbox.epoch, "a lease of another epoch: {sandbox:?}");
    }
    if sandbox.state.name() == StateName::PendingDeletion {
        assert!(sandbox.last_lease().is_some(), "who held this one is forgotten: {sandbox:?}");
    }
}

pub(crate) fn assert_one_lease_a_key<'a>(sandboxes: impl IntoIterator<Item = &'a Sandbox>) {
    let mut holders: BTreeMap<&ClaimKey, &Sandbox> = BTreeMap::new();
    for sandbox in sandboxes {
        if let Some(lease) = sandbox.lease()
            && let Some(other) = holders.insert(&lease.claim, sandbox)
        {
            panic!("two leases for one key: {other:?} and {sandbox:?}");
        }
    }
}
