//! How many free sandboxes a pool needs, by what claims took lately and by how long creations took.
//!
//! It is known to this process alone: after a restart, and after another process ran for a while, nothing is compared, and
//! the claims of that time are not counted.

use super::creation_time;
use super::plan::Stock;
use domain::{PoolName, Sandbox, SandboxId, UnixSeconds};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Span over which claims are counted.
const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Creations that a pool should be ahead of claims.
const AHEAD: u128 = 2;
/// Shortest creation that is reckoned with; times are in whole seconds.
const CREATION_MIN: Duration = Duration::from_secs(1);
/// Share of creations that the reckoned time covers, in percent.
const CREATION_PERCENTILE: usize = 95;
/// Longest pause between two runs of this process; after a longer one another process has run, or none.
const RUNS_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Creations whose times are remembered.
const CREATIONS_KEPT_MAX: usize = 100;

/// What claims took, by pool.
#[derive(Debug, Default)]
pub(crate) struct Demand(Mutex<BTreeMap<PoolName, OfPool>>);

#[derive(Debug, Default)]
struct OfPool {
    /// What no claim had taken at the last run, with the time of its request if it was not created yet.
    unclaimed: BTreeMap<SandboxId, Option<UnixSeconds>>,
    /// What was being created for a claim then.
    leased: BTreeSet<SandboxId>,
    /// When claims took how many.
    taken: VecDeque<(Duration, usize)>,
    /// How long the last creations took.
    creations: VecDeque<Duration>,
    /// When a creation last succeeded, as far as it was seen.
    success: Option<UnixSeconds>,
    /// When this process last looked.
    noted_at: Option<Duration>,
}

// === impl Demand ===

impl Demand {
    /// Notes what a pool has at `monotonic`, which is `now`. Returns how many free sandboxes it needs, and when a creation last
    /// succeeded.
    pub(super) fn note(
        &self,
        pool: &PoolName,
        stock: &Stock,
        monotonic: Duration,
        now: UnixSeconds,
    ) -> (u64, Option<UnixSeconds>) {
        let mut pools = self.0.lock();
        let of_pool = pools.entry(pool.clone()).or_default();
        if of_pool.noted_at.is_none_or(|at| monotonic.saturating_sub(at) > RUNS_PAUSE_MAX) {
            of_pool.unclaimed.clear();
            of_pool.leased = stock.leased.iter().map(|sandbox| sandbox.id.clone()).collect();
        }
        of_pool.noted_at = Some(monotonic);
        let taken = of_pool.compare(stock, now);
        if taken > 0 {
            of_pool.taken.push_back((monotonic, taken));
        }
        while of_pool.taken.front().is_some_and(|(at, _)| monotonic.saturating_sub(*at) > WINDOW) {
            of_pool.taken.pop_front();
        }
        let taken: usize = of_pool.taken.iter().map(|(_, count)| count).sum();
        (needed(taken, of_pool.creation_percentile()), of_pool.success)
    }

    /// A free sandbox was asked for; claims may have taken it by the next run.
    pub(super) fn ask(&self, sandbox: &Sandbox, now: UnixSeconds) {
        if let Some(of_pool) = self.0.lock().get_mut(&sandbox.pool) {
            of_pool.unclaimed.insert(sandbox.id.clone(), Some(now));
        }
    }

    /// A sandbox was given up, which is no claim.
    pub(super) fn forget(&self, sandbox: &Sandbox) {
        if let Some(of_pool) = self.0.lock().get_mut(&sandbox.pool) {
            of_pool.unclaimed.remove(&sandbox.id);
        }
    }
}

// === impl OfPool ===

impl OfPool {
    /// How many sandboxes claims took since the last run.
    fn compare(&mut self, stock: &Stock, now: UnixSeconds) -> usize {
        let requested = |sandbox: &Sandbox| sandbox.provision().map(|provision| provision.requested_at);
        let unclaimed: BTreeMap<_, _> =
            stock.unclaimed().map(|sandbox| (sandbox.id.clone(), requested(sandbox))).collect();
        for sandbox in stock.free().filter(|sandbox| self.unclaimed.get(&sandbox.id) != Some(&None)) {
            self.creations.extend(creation_time(sandbox));
        }
        let gone: Vec<_> = self.unclaimed.iter().filter(|(id, _)| !unclaimed.contains_key(*id)).collect();
        // Created and claimed between two runs: it took no longer than until now.
        let created: Vec<_> = gone.iter().filter_map(|(_, requested_at)| **requested_at).collect();
        let seen = stock.last_success().max(created.iter().max().copied());
        self.success = self.success.max(seen);
        self.creations
            .extend(created.into_iter().map(|at| Duration::from_secs(now.get().saturating_sub(at.get()))));
        let surplus = self.creations.len().saturating_sub(CREATIONS_KEPT_MAX);
        self.creations.drain(..surplus);
        let leased: BTreeSet<_> = stock.leased.iter().map(|sandbox| sandbox.id.clone()).collect();
        let taken = gone.len() + leased.difference(&self.leased).count();
        (self.unclaimed, self.leased) = (unclaimed, leased);
        taken
    }

    fn creation_percentile(&self) -> Duration {
        let mut times: Vec<_> = self.creations.iter().copied().collect();
        times.sort_unstable();
        let place = (times.len() * CREATION_PERCENTILE).div_ceil(100).saturating_sub(1);
        times.get(place).copied().unwrap_or_default().max(CREATION_MIN)
    }
}

/// Sandboxes that claims take, at the rate of the window, while as many are created, twice over; rounded up.
fn needed(taken: usize, creation: Duration) -> u64 {
    let taken = u128::try_from(taken).unwrap_or(u128::MAX);
    let during = taken.saturating_mul(creation.as_millis()).saturating_mul(AHEAD);
    u64::try_from(during.div_ceil(WINDOW.as_millis())).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn need_grows_with_the_rate_and_the_time_of_creations() {
        let seconds = Duration::from_secs;
        for (taken, creation, need) in
            [(0, 1, 0), (1, 1, 1), (150, 1, 1), (151, 1, 2), (300, 1, 2), (300, 10, 20), (3_000, 30, 600)]
        {
            assert_eq!(needed(taken, seconds(creation)), need, "{taken} claims, {creation} s");
        }
    }
}
