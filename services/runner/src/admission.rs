//! When the queue may fetch work for this node.

use crate::containers::Containers;
use crate::pools::Pools;
use contract::ProvisionLane;
use parking_lot::Mutex;
use ports::bus::rotation::IDLE_LOOK_PERIOD;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest that a node fetches later than others because of its load, in milliseconds. It is long beside a fetch, so that
/// a node with less load is first, and short beside a creation.
const LOAD_WAIT_MS_MAX: u64 = 50;
/// Time after a fetch in which the lane does not wait again: longer than the waits of other lanes, which end at other moments.
/// Otherwise every look would begin the wait of some lane, and the node would never come to rest.
const REST_MS: u64 = 2 * LOAD_WAIT_MS_MAX;
/// Time after which a full node looks again. It learns of a removal at once, but has no way to wake the queue.
const FULL_WAIT: Duration = Duration::from_millis(200);
/// Time without fetching after the engine could not create a container: longer than a short disturbance of the engine, and
/// so that few messages are fetched and put off during a long one.
const CLOSED_MS: u64 = 5_000;

/// The admission of a node.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    waits: Mutex<BTreeMap<ProvisionLane, Wait>>,
    closed_until_ms: Mutex<u64>,
}

/// The wait of a lane because of the load.
#[derive(Clone, Copy, Debug)]
struct Wait {
    over_ms: u64,
    /// A look at the lane after this moment waits anew.
    counts_until_ms: u64,
}

// === impl Admission ===

impl Admission {
    /// Reserves places for a lane, or says when to ask again.
    pub(crate) fn admit(
        &self,
        now_ms: u64,
        lane: &ProvisionLane,
        places: usize,
        pools: &Pools,
        containers: &Containers,
    ) -> (usize, Duration) {
        let Some(demand) = pools.demand(&lane.pool) else { return (0, IDLE_LOOK_PERIOD) };
        let closed_ms = self.closed_until_ms.lock().saturating_sub(now_ms);
        if closed_ms > 0 {
            return (0, Duration::from_millis(closed_ms));
        }
        let (used, promised) = containers.used();
        if !used.plus(promised).plus(demand).fits(containers.offered()) {
            return (0, FULL_WAIT);
        }
        let share = used.plus(promised).share_milli(containers.offered());
        let wait_ms = LOAD_WAIT_MS_MAX.saturating_mul(share) / 1_000;
        let mut waits = self.waits.lock();
        let wait = waits.get(lane).copied().filter(|wait| wait.counts_until_ms > now_ms);
        let left_ms = wait.map_or(wait_ms, |wait| wait.over_ms.saturating_sub(now_ms));
        if left_ms > 0 {
            let over_ms = now_ms.saturating_add(left_ms);
            // One that ended long ago belonged to an earlier look at this lane.
            let idle_ms = u64::try_from(IDLE_LOOK_PERIOD.as_millis()).unwrap_or(u64::MAX);
            waits.insert(lane.clone(), Wait { over_ms, counts_until_ms: over_ms.saturating_add(idle_ms) });
            return (0, Duration::from_millis(left_ms));
        }
        if let Some(Wait { over_ms, .. }) = wait {
            waits.insert(lane.clone(), Wait { over_ms, counts_until_ms: now_ms.saturating_add(REST_MS) });
        }
        drop(waits);
        match containers.reserve(lane, demand, places) {
            0 => (0, FULL_WAIT),
            count => (count, Duration::ZERO),
        }
    }

    /// Fetches nothing for a while.
    pub(crate) fn close(&self, now_ms: u64) {
        *self.closed_until_ms.lock() = now_ms.saturating_add(CLOSED_MS);
    }
}

#[cfg(test)]
mod tests;
