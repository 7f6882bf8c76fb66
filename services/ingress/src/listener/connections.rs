//! Who is connected, and who makes room when everything is taken.

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use tokio::sync::{Notify, watch};

use super::Refusal;
use super::upgrade::Upgrade;
use crate::metrics::{Closed, Metrics};
use crate::rates::peer;

/// All connections of a listener.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    connections_max: usize,
    /// Of one address; none if any may have all.
    of_peer_max: Option<usize>,
    open: watch::Sender<usize>,
    peers: Mutex<HashMap<IpAddr, usize>>,
    waiting: Mutex<Waiting>,
    /// Notified when a connection slot is given back, and when a connection begins to wait for a request.
    changed: Notify,
    metrics: Metrics,
}

/// The connections that wait for a request, the longest first.
#[derive(Default)]
struct Waiting {
    next: u64,
    by_position: BTreeMap<u64, Arc<Slot>>,
    /// How many were called in and have not gone yet.
    evicted: usize,
}

/// Where a connection slot stands in that queue.
#[derive(Clone, Copy, Debug, Default)]
enum QueuePosition {
    /// Nowhere: a request is under way.
    #[default]
    None,
    Waits(u64),
    Evicted,
}

/// The slot of one connection.
#[derive(Default)]
pub(super) struct Slot {
    position: Mutex<QueuePosition>,
    is_busy: AtomicBool,
    /// Whether the answer is whole, and only has to go out.
    is_answered: AtomicBool,
    is_evicted: AtomicBool,
    /// Whether a request's body has unread bytes.
    pub(super) is_mid_body: AtomicBool,
    /// Whether the request under way asks to speak another protocol.
    pub(super) asks_upgrade: AtomicBool,
    /// There once a handler has answered 101.
    upgrade: OnceLock<Upgrade>,
    refusal: Mutex<Option<Refusal>>,
    why: Mutex<Option<Closed>>,
    /// Wakes the task that drives the connection.
    driver: AtomicWaker,
}

/// A connection slot that is taken until this is dropped.
pub(super) struct Taken {
    pub(super) slot: Arc<Slot>,
    pub(super) connections: Connections,
    counted: Option<IpAddr>,
}

/// A request whose answer is not whole until this is dropped.
pub(super) struct UnderWay {
    slot: Arc<Slot>,
    connections: Connections,
    /// Whether its caller has shown a token that is good.
    pub(super) is_known: bool,
}

// Nothing panics while it holds one of these locks, and what they guard is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

// === impl Connections ===

impl Connections {
    pub(super) fn new(connections_max: usize, of_peer_max: usize, metrics: Metrics) -> Self {
        metrics.connections_are_at_most(connections_max);
        Self(Arc::new(Shared {
            connections_max,
            of_peer_max: (of_peer_max > 0).then_some(of_peer_max),
            open: watch::Sender::new(0),
            peers: Mutex::default(),
            waiting: Mutex::default(),
            changed: Notify::new(),
            metrics,
        }))
    }

    /// How many connections are open, now and whenever that changes.
    pub(super) fn open(&self) -> watch::Receiver<usize> {
        self.0.open.subscribe()
    }

    /// Waits until there is room for one more. If there is none, the connection that has waited longest for a
    /// request is called in; where all are at work, the next one that ends makes room.
    pub(super) async fn room(&self) {
        while *self.0.open.borrow() >= self.0.connections_max {
            // Only the acceptor waits here, and a change that comes in between is kept for it.
            let changed = self.0.changed.notified();
            self.evict_longest_idle();
            changed.await;
        }
    }

    /// A slot for a connection of `peer`; none if that address has all that one may have. Without a `peer` it is not
    /// counted: a proxy of ours speaks for many.
    pub(super) fn take(&self, peer: Option<IpAddr>) -> Option<Taken> {
        let counted = peer.filter(|_| self.0.of_peer_max.is_some()).map(peer::group);
        if let Some(address) = counted {
            let mut peers = lock(&self.0.peers);
            let count = peers.entry(address).or_default();
            if self.0.of_peer_max.is_some_and(|max| *count >= max) {
                return None;
            }
            *count += 1;
        }
        self.0.open.send_modify(|open| *open += 1);
        self.0.metrics.connections_are(*self.0.open.borrow());
        let slot = Arc::<Slot>::default();
        self.enqueue(&slot);
        Some(Taken { slot, connections: self.clone(), counted })
    }

    /// A request of this connection is under way from now on.
    pub(super) fn begin(&self, slot: &Arc<Slot>) {
        slot.is_busy.store(true, Ordering::Release);
        self.dequeue(slot);
    }

    /// Ends with the guard what [`Connections::begin`] began.
    pub(super) fn under_way(&self, slot: &Arc<Slot>) -> UnderWay {
        UnderWay { slot: Arc::clone(slot), connections: self.clone(), is_known: false }
    }

    /// Everything that was written has gone out. If that was an answer to its end, the request is over.
    pub(super) fn sent(&self, slot: &Arc<Slot>) {
        if !slot.is_answered.swap(false, Ordering::AcqRel) {
            return;
        }
        let is_queued = !matches!(*lock(&slot.position), QueuePosition::None);
        if !is_queued {
            self.enqueue(slot);
        }
        slot.is_busy.store(false, Ordering::Release);
        // The next head may be there already and was held back.
        slot.driver.wake();
    }

    fn enqueue(&self, slot: &Arc<Slot>) {
        let mut waiting = lock(&self.0.waiting);
        let position = waiting.next;
        waiting.next += 1;
        waiting.by_position.insert(position, Arc::clone(slot));
        *lock(&slot.position) = QueuePosition::Waits(position);
        drop(waiting);
        self.0.changed.notify_one();
    }

    fn dequeue(&self, slot: &Arc<Slot>) {
        let mut waiting = lock(&self.0.waiting);
        match std::mem::take(&mut *lock(&slot.position)) {
            QueuePosition::Waits(position) => drop(waiting.by_position.remove(&position)),
            QueuePosition::Evicted => {
                waiting.evicted -= 1;
                drop(waiting);
                // It was called in vain: the acceptor has to call another one.
                self.0.changed.notify_one();
            }
            QueuePosition::None => {}
        }
    }

    /// One at a time: only one newcomer waits for room.
    pub(super) fn evict_longest_idle(&self) {
        let mut waiting = lock(&self.0.waiting);
        if waiting.evicted > 0 {
            return;
        }
        let Some((_, slot)) = waiting.by_position.pop_first() else { return };
        waiting.evicted += 1;
        *lock(&slot.position) = QueuePosition::Evicted;
        drop(waiting);
        slot.is_evicted.store(true, Ordering::Release);
        slot.driver.wake();
    }
}

// === impl Slot ===

impl Slot {
    /// Whether a request is under way, or its answer is still going out.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// Whether it has to make room for another connection.
    pub(super) fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Acquire)
    }

    /// Whether it is in the way of another connection, and no request has come since it was called in.
    fn must_close(&self) -> bool {
        self.is_evicted() && matches!(*lock(&self.position), QueuePosition::Evicted)
    }

    /// Drives a connection. None if it has to go at once: it has to make room, and it has had the chance to say so.
    pub(super) async fn drive<T>(&self, connection: impl Future<Output = T>) -> Option<T> {
        let mut connection = std::pin::pin!(connection);
        let driven = poll_fn(|context| {
            self.driver.register(context.waker());
            match connection.as_mut().poll(context) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if self.must_close() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let driven = driven.await;
        if driven.is_none() {
            self.end(Closed::MadeRoom);
        }
        driven
    }

    /// A handler answers 101: from here on the bytes pass as they are.
    pub(super) fn begin_upgrade(&self) {
        self.upgrade.get_or_init(Upgrade::default);
    }

    /// The other protocol, if one is spoken.
    pub(super) fn upgrade(&self) -> Option<&Upgrade> {
        self.upgrade.get()
    }

    /// Notes why the next answer will be a refusal.
    pub(super) fn refuse(&self, refusal: Refusal) {
        *lock(&self.refusal) = Some(refusal);
    }

    /// Why this answer has to be a refusal, if it has to.
    pub(super) fn take_refusal(&self) -> Option<Refusal> {
        lock(&self.refusal).take()
    }

    /// Notes why the connection ends; the first reason stays.
    pub(super) fn end(&self, why: Closed) {
        lock(&self.why).get_or_insert(why);
    }

    /// Why it ended, if that was our doing.
    pub(super) fn why(&self) -> Option<Closed> {
        *lock(&self.why)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let shared = &self.connections.0;
        self.connections.dequeue(&self.slot);
        if let Some(address) = self.counted {
            let mut peers = lock(&shared.peers);
            if let Some(count) = peers.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    peers.remove(&address);
                }
            }
        }
        shared.open.send_modify(|open| *open = open.saturating_sub(1));
        shared.metrics.connections_are(*shared.open.borrow());
        shared.metrics.closed(self.slot.why().unwrap_or(Closed::Ended));
        shared.changed.notify_one();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // The answer to an unauthenticated caller makes room before all of it has gone out: otherwise a caller that
        // reads none of the open pages would keep all others out.
        if !self.is_known {
            self.connections.enqueue(&self.slot);
        }
        // An upgraded connection is busy until its end.
        if self.slot.upgrade().is_none() {
            self.slot.is_answered.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use prometheus::Registry;

    fn connections(connections_max: usize, of_peer_max: usize) -> Connections {
        Connections::new(connections_max, of_peer_max, Metrics::register(&Registry::new()).unwrap())
    }

    #[tokio::test]
    async fn longest_idle_connection_is_evicted_and_a_busy_one_is_not() {
        let connections = connections(3, 0);
        let [busy, first, second] = [(); 3].map(|()| connections.take(None).unwrap());
        connections.begin(&busy.slot);
        let mut room = Box::pin(connections.room());
        assert!(room.as_mut().now_or_never().is_none());
        assert!(first.slot.is_evicted() && !second.slot.is_evicted() && !busy.slot.is_evicted());
        drop(first);
        tokio::time::timeout(std::time::Duration::from_secs(10), room).await.unwrap();
        assert_eq!(*connections.open().borrow(), 2);
    }

    #[tokio::test]
    async fn first_connection_to_finish_is_closed_when_all_are_busy() {
        let connections = connections(1, 0);
        let only = connections.take(None).unwrap();
        connections.begin(&only.slot);
        let under_way = connections.under_way(&only.slot);
        let mut room = Box::pin(connections.room());
        // What the taking of the slot has kept for the acceptor is used up by the first look.
        for _ in 0..3 {
            assert!(room.as_mut().now_or_never().is_none());
        }
        assert!(!only.slot.is_evicted());
        drop(under_way);
        connections.sent(&only.slot);
        assert!(room.as_mut().now_or_never().is_none());
        assert!(only.slot.is_evicted() && !only.slot.is_busy());
    }

    #[tokio::test]
    async fn response_in_progress_is_evicted_only_if_unauthenticated() {
        for is_known in [true, false] {
            let connections = connections(1, 0);
            let only = connections.take(None).unwrap();
            connections.begin(&only.slot);
            let mut under_way = connections.under_way(&only.slot);
            under_way.is_known = is_known;
            drop(under_way);
            let mut room = Box::pin(connections.room());
            for _ in 0..3 {
                assert!(room.as_mut().now_or_never().is_none());
            }
            assert!(only.slot.is_busy());
            assert_eq!(only.slot.must_close(), !is_known);
            connections.sent(&only.slot);
            assert!(room.as_mut().now_or_never().is_none());
            assert!(only.slot.must_close() && !only.slot.is_busy());
        }
    }

    #[tokio::test]
    async fn upgraded_connection_is_busy_and_evicted_only_if_unauthenticated() {
        for is_known in [true, false] {
            let connections = connections(1, 0);
            let only = connections.take(None).unwrap();
            connections.begin(&only.slot);
            let mut under_way = connections.under_way(&only.slot);
            under_way.is_known = is_known;
            only.slot.begin_upgrade();
            drop(under_way);
            connections.sent(&only.slot);
            let mut room = Box::pin(connections.room());
            for _ in 0..3 {
                assert!(room.as_mut().now_or_never().is_none());
            }
            assert!(only.slot.is_busy());
            assert_eq!(only.slot.must_close(), !is_known);
        }
    }

    #[tokio::test]
    async fn new_request_cancels_the_eviction_and_the_next_is_evicted() {
        let connections = connections(2, 0);
        let [first, second] = [(); 2].map(|()| connections.take(None).unwrap());
        let mut room = Box::pin(connections.room());
        for _ in 0..3 {
            assert!(room.as_mut().now_or_never().is_none());
        }
        assert!(first.slot.must_close() && !second.slot.must_close());
        connections.begin(&first.slot);
        assert!(room.as_mut().now_or_never().is_none());
        assert!(!first.slot.must_close() && second.slot.must_close());
    }

    #[test]
    fn connections_per_address_are_limited_and_released() {
        let connections = connections(100, 2);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held = [connections.take(Some(one)), connections.take(Some(one))];
        assert!(held.iter().all(Option::is_some));
        assert!(connections.take(Some(one)).is_none());
        assert!(connections.take(Some(other)).is_some() && connections.take(None).is_some());
        drop(held);
        assert!(connections.take(Some(one)).is_some());
        assert!(lock(&connections.0.peers).is_empty());
    }

    #[test]
    fn first_close_reason_is_kept() {
        let slot = Slot::default();
        assert_eq!(slot.why(), None);
        slot.end(Closed::Idle);
        slot.end(Closed::Refused);
        assert_eq!(slot.why(), Some(Closed::Idle));
    }
}
