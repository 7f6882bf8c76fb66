//! The order in which a runner fetches work for its pools, which all buses share.
//!
//! Work that a claim waits for comes before all other work. Among the lanes of one priority the pools take turns, and a turn
//! takes at most as many messages as the weight of its pool. Nothing is fetched without a place that the worker reserved.

use super::work::{Delivery, Verdict, Worker};
use async_trait::async_trait;
use contract::{ProvisionLane, ProvisionPriority, ProvisionWork};
use domain::PoolName;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;
use strum::IntoEnumIterator as _;
use tokio::sync::watch;

/// The longest time between two looks at an idle lane: retries and redeliveries come without a notification.
pub const IDLE_LOOK_PERIOD: Duration = Duration::from_secs(1);

/// The pools that a runner serves, and the weight of each: how many messages one of its turns takes at most.
pub type ServedPools = BTreeMap<PoolName, usize>;

/// Decides about each fetch of one runner.
pub struct Rotation {
    worker: Arc<dyn Worker<ProvisionWork>>,
    pools: watch::Receiver<ServedPools>,
    /// The lanes that this round has not looked at.
    round: VecDeque<ProvisionLane>,
    /// The pool that was served last, and what is left of its turn.
    turns: BTreeMap<ProvisionPriority, (PoolName, usize)>,
    /// Whether a fetch since the last wait found work.
    has_found: bool,
    wait: Duration,
}

/// What to do next.
pub enum Step {
    /// Fetch at most one message for each place, without waiting, and call [`Rotation::fetched`].
    Fetch(ProvisionLane, Vec<Place>),
    /// All lanes are empty or not admitted: wait that long, or until something has changed.
    Wait(Duration),
}

/// A place for one delivery, reserved at the worker until it is dropped.
pub struct Place {
    worker: Arc<dyn Worker<ProvisionWork>>,
    lane: ProvisionLane,
}

// === impl Rotation ===

impl Rotation {
    /// The rotation of a worker that serves `pools`, which may change at any time.
    pub fn new(worker: Arc<dyn Worker<ProvisionWork>>, pools: watch::Receiver<ServedPools>) -> Self {
        Self {
            worker,
            pools,
            round: VecDeque::new(),
            turns: BTreeMap::new(),
            has_found: true,
            wait: IDLE_LOOK_PERIOD,
        }
    }

    /// The next step. Asks the worker for places.
    pub async fn next(&mut self) -> Step {
        loop {
            let Some(lane) = self.round.pop_front() else {
                if !self.has_found {
                    self.has_found = true;
                    return Step::Wait(std::mem::replace(&mut self.wait, IDLE_LOOK_PERIOD));
                }
                self.begin_round();
                continue;
            };
            let places = self.places_of(&lane);
            let (count, wait) = self.worker.admit(&lane, places).await;
            if count > 0 {
                let place = || Place { worker: Arc::clone(&self.worker), lane: lane.clone() };
                let reserved = std::iter::repeat_with(place).take(count.min(places)).collect();
                return Step::Fetch(lane, reserved);
            }
            self.wait = self.wait.min(wait);
        }
    }

    /// Notes how many messages a fetch found.
    pub fn fetched(&mut self, lane: &ProvisionLane, found: usize) {
        let left = if found > 0 { self.places_of(lane).saturating_sub(found) } else { 0 };
        let has_turn = self.turns.get(&lane.priority).is_some_and(|(pool, _)| *pool == lane.pool);
        if found > 0 || has_turn {
            self.turns.insert(lane.priority, (lane.pool.clone(), left));
        }
        if found > 0 {
            self.has_found = true;
            // Lower priorities wait until a whole round of this one and of higher ones finds nothing.
            match lane.priority {
                ProvisionPriority::Lease => self.round.retain(|next| next.priority == lane.priority),
                ProvisionPriority::Fill => self.round.clear(),
            }
        }
    }

    /// Looks at these lanes before the next wait, and at all others only if one of these has work, or if it may not be served
    /// before another lane.
    pub fn look_at(&mut self, lanes: impl IntoIterator<Item = ProvisionLane>) {
        self.round.extend(lanes);
        self.has_found = self.round.iter().any(|lane| lane.priority != ProvisionPriority::Lease);
        if self.has_found {
            self.round.clear();
        }
    }

    /// Waits until the pools change. Never returns if they cannot any more.
    pub async fn pools_changed(&mut self) {
        if self.pools.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn begin_round(&mut self) {
        self.has_found = false;
        let pools = self.pools.borrow_and_update();
        for priority in ProvisionPriority::iter() {
            let first = match self.turns.get(&priority) {
                Some((pool, left)) if *left > 0 => Bound::Included(pool),
                Some((pool, _)) => Bound::Excluded(pool),
                None => Bound::Unbounded,
            };
            let all = pools.range((first, Bound::Unbounded)).chain(pools.iter()).take(pools.len());
            self.round.extend(all.map(|(pool, _)| ProvisionLane { priority, pool: pool.clone() }));
        }
    }

    /// How many messages the lane may take until the turn of its pool is over.
    fn places_of(&self, lane: &ProvisionLane) -> usize {
        match self.turns.get(&lane.priority) {
            Some((pool, left)) if *pool == lane.pool && *left > 0 => *left,
            _ => self.pools.borrow().get(&lane.pool).map_or(1, |weight| (*weight).max(1)),
        }
    }
}

// === impl Place ===

#[async_trait]
impl Worker<ProvisionWork> for Place {
    async fn work(&self, delivery: Delivery<ProvisionWork>) -> Verdict {
        self.worker.work(delivery).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.release(&self.lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    /// A worker with that many free places.
    struct Node {
        free: Mutex<usize>,
        closed: Option<ProvisionLane>,
    }

    #[async_trait]
    impl Worker<ProvisionWork> for Node {
        async fn work(&self, _delivery: Delivery<ProvisionWork>) -> Verdict {
            Verdict::Done
        }

        async fn admit(&self, lane: &ProvisionLane, places: usize) -> (usize, Duration) {
            if self.closed.as_ref() == Some(lane) {
                return (0, Duration::from_millis(7));
            }
            let mut free = self.free.lock();
            let count = places.min(*free);
            *free -= count;
            (count, IDLE_LOOK_PERIOD)
        }

        fn release(&self, _lane: &ProvisionLane) {
            *self.free.lock() += 1;
        }
    }

    fn lane(text: &str) -> ProvisionLane {
        let (priority, pool) = text.split_once(' ').unwrap();
        let priority = ProvisionPriority::iter().find(|one| one.as_str() == priority).unwrap();
        ProvisionLane { priority, pool: PoolName::parse(pool).unwrap() }
    }

    fn served(pools: &[(&str, usize)]) -> ServedPools {
        pools.iter().map(|(pool, weight)| (PoolName::parse(pool).unwrap(), *weight)).collect()
    }

    fn rotation(node: &Arc<Node>, pools: &[(&str, usize)]) -> (Rotation, watch::Sender<ServedPools>) {
        let (sender, pools) = watch::channel(served(pools));
        (Rotation::new(Arc::clone(node) as Arc<dyn Worker<ProvisionWork>>, pools), sender)
    }

    fn node(free: usize, closed: Option<&str>) -> Arc<Node> {
        Arc::new(Node { free: Mutex::new(free), closed: closed.map(lane) })
    }

    /// Takes from these queues until all are empty, and releases each place at once. Returns the lanes of the messages.
    async fn drain(rotation: &mut Rotation, mut queues: Vec<(&str, usize)>) -> Vec<String> {
        let mut taken = Vec::new();
        while let Step::Fetch(lane, places) = rotation.next().await {
            let name = format!("{} {}", lane.priority.as_str(), lane.pool);
            let mut found = 0;
            if let Some((_, waiting)) = queues.iter_mut().find(|(queue, _)| *queue == name) {
                found = places.len().min(*waiting);
                *waiting -= found;
            }
            rotation.fetched(&lane, found);
            taken.extend(std::iter::repeat_n(name, found));
        }
        taken
    }

    #[tokio::test]
    async fn leases_come_before_all_else() {
        let node = node(1, None);
        let (mut rotation, _pools) = rotation(&node, &[("a", 2), ("b", 2)]);
        let taken = drain(&mut rotation, vec![("fill a", 2), ("lease b", 5), ("fill b", 1)]).await;
        assert_eq!(taken[..5], ["lease b"; 5]);
        assert_eq!(taken[5..], ["fill a", "fill a", "fill b"]);
    }

    #[tokio::test]
    async fn pools_take_turns_by_their_weights() {
        for free in [1, 2, 100] {
            let (mut rotation, _pools) = rotation(&node(free, None), &[("a", 1), ("b", 3), ("c", 0)]);
            let taken = drain(&mut rotation, vec![("fill a", 3), ("fill b", 6), ("fill c", 2)]).await;
            let pools: String = taken.iter().map(|lane| lane.trim_start_matches("fill ")).collect();
            assert_eq!(pools, "abbbcabbbca", "{free} places");
        }
    }

    #[tokio::test]
    async fn a_lane_that_is_not_admitted_is_passed_over() {
        let node = node(4, Some("lease a"));
        let (mut rotation, _pools) = rotation(&node, &[("a", 4), ("b", 4)]);
        let taken = drain(&mut rotation, vec![("lease a", 1), ("lease b", 1), ("fill a", 1)]).await;
        assert_eq!(taken, ["lease b", "fill a"]);
        assert!(matches!(rotation.next().await, Step::Fetch(..)), "it looks again after the wait");
        assert_eq!(*node.free.lock(), 4, "every place was released");
    }

    #[tokio::test]
    async fn reserved_places_are_not_admitted_twice() {
        let node = node(3, None);
        let (mut rotation, _pools) = rotation(&node, &[("a", 2), ("b", 9)]);
        let Step::Fetch(first, two) = rotation.next().await else { panic!("a fetch") };
        rotation.fetched(&first, 2);
        let Step::Fetch(second, one) = rotation.next().await else { panic!("a fetch") };
        assert_eq!((two.len(), one.len(), second), (2, 1, lane("lease b")));
        rotation.fetched(&lane("lease b"), 1);
        assert!(matches!(rotation.next().await, Step::Wait(wait) if wait == IDLE_LOOK_PERIOD));
        drop(two);
        let Step::Fetch(_, places) = rotation.next().await else { panic!("a fetch") };
        assert_eq!(places.len(), 2);
    }

    #[tokio::test]
    async fn hint_never_puts_other_work_before_a_lease() {
        let (mut rotation, _pools) = rotation(&node(1, None), &[("a", 1), ("b", 1)]);
        drain(&mut rotation, Vec::new()).await;
        rotation.look_at([lane("lease b")]);
        let Step::Fetch(first, _) = rotation.next().await else { panic!("a fetch") };
        assert_eq!(first, lane("lease b"));
        rotation.fetched(&first, 0);
        assert!(matches!(rotation.next().await, Step::Wait(_)), "only that lane");
        rotation.look_at([lane("lease b"), lane("fill b")]);
        let taken = drain(&mut rotation, vec![("fill b", 1), ("lease a", 1)]).await;
        assert_eq!(taken, ["lease a", "fill b"]);
    }

    #[tokio::test]
    async fn pools_may_change_at_any_time() {
        let node = node(9, None);
        let (mut rotation, pools) = rotation(&node, &[]);
        assert!(matches!(rotation.next().await, Step::Wait(_)));
        pools.send(served(&[("new", 1)])).unwrap();
        rotation.pools_changed().await;
        assert_eq!(drain(&mut rotation, vec![("fill new", 2)]).await, ["fill new", "fill new"]);
        pools.send(served(&[])).unwrap();
        assert_eq!(drain(&mut rotation, vec![("fill new", 1)]).await, [""; 0]);
    }
}
