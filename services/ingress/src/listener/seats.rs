//! Who is connected, and who makes room when everything is taken.

use futures_util::task::AtomicWaker;
use std::collections::{BTreeMap, HashMap};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use tokio::sync::{Notify, watch};

use super::Refusal;
use crate::metrics::{Closed, Metrics};
use crate::rates::peer;

/// All connections of a listener.
#[derive(Clone)]
pub(super) struct Seats(Arc<Shared>);

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
    by_turn: BTreeMap<u64, Arc<Seat>>,
    /// How many were called in and have not gone yet.
    called_in: usize,
}

/// Where a connection slot stands in that queue.
#[derive(Clone, Copy, Debug, Default)]
enum Turn {
    /// Nowhere: a request is under way.
    #[default]
    None,
    Waits(u64),
    CalledIn,
}

/// The slot of one connection.
#[derive(Default)]
pub(super) struct Seat {
    turn: Mutex<Turn>,
    is_busy: AtomicBool,
    /// Whether the answer is whole, and only has to go out.
    is_answered: AtomicBool,
    is_called_in: AtomicBool,
    /// Whether a request's body has unread bytes.
    pub(super) is_mid_body: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
    why: Mutex<Option<Closed>>,
    /// Wakes the task that drives the connection.
    driver: AtomicWaker,
}

/// A connection slot that is taken until this is dropped.
pub(super) struct Taken {
    pub(super) seat: Arc<Seat>,
    pub(super) seats: Seats,
    counted: Option<IpAddr>,
}

/// A request whose answer is not whole until this is dropped.
pub(super) struct UnderWay {
    seat: Arc<Seat>,
    seats: Seats,
    /// Whether its caller has shown a token that is good.
    pub(super) is_known: bool,
}

// Nothing panics while it holds one of these locks, and what they guard is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Seats ===

impl Seats {
    pub(super) fn new(connections_max: usize, of_peer_max: usize, metrics: Metrics) -> Self {
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
            self.call_in_longest();
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
        let seat = Arc::<Seat>::default();
        self.wait_in_line(&seat);
        Some(Taken { seat, seats: self.clone(), counted })
    }

    /// A request of this connection is under way from now on.
    pub(super) fn begin(&self, seat: &Arc<Seat>) {
        seat.is_busy.store(true, Ordering::Release);
        self.leave_line(seat);
    }

    /// Ends with the guard what [`Seats::begin`] began.
    pub(super) fn under_way(&self, seat: &Arc<Seat>) -> UnderWay {
        UnderWay { seat: Arc::clone(seat), seats: self.clone(), is_known: false }
    }

    /// Everything that was written has gone out. If that was an answer to its end, the request is over.
    pub(super) fn sent(&self, seat: &Arc<Seat>) {
        if !seat.is_answered.swap(false, Ordering::AcqRel) {
            return;
        }
        let is_in_line = !matches!(*lock(&seat.turn), Turn::None);
        if !is_in_line {
            self.wait_in_line(seat);
        }
        seat.is_busy.store(false, Ordering::Release);
        // The next head may be there already and was held back.
        seat.driver.wake();
    }

    fn wait_in_line(&self, seat: &Arc<Seat>) {
        let mut waiting = lock(&self.0.waiting);
        let turn = waiting.next;
        waiting.next += 1;
        waiting.by_turn.insert(turn, Arc::clone(seat));
        *lock(&seat.turn) = Turn::Waits(turn);
        drop(waiting);
        self.0.changed.notify_one();
    }

    fn leave_line(&self, seat: &Arc<Seat>) {
        let mut waiting = lock(&self.0.waiting);
        match std::mem::take(&mut *lock(&seat.turn)) {
            Turn::Waits(turn) => drop(waiting.by_turn.remove(&turn)),
            Turn::CalledIn => {
                waiting.called_in -= 1;
                drop(waiting);
                // It was called in vain: the acceptor has to call another one.
                self.0.changed.notify_one();
            }
            Turn::None => {}
        }
    }

    /// One at a time: only one newcomer waits for room.
    pub(super) fn call_in_longest(&self) {
        let mut waiting = lock(&self.0.waiting);
        if waiting.called_in > 0 {
            return;
        }
        let Some((_, seat)) = waiting.by_turn.pop_first() else { return };
        waiting.called_in += 1;
        *lock(&seat.turn) = Turn::CalledIn;
        drop(waiting);
        seat.is_called_in.store(true, Ordering::Release);
        seat.driver.wake();
    }
}

// === impl Seat ===

impl Seat {
    /// Whether a request is under way, or its answer is still going out.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// Whether it has to make room for another connection.
    pub(super) fn is_called_in(&self) -> bool {
        self.is_called_in.load(Ordering::Acquire)
    }

    /// Whether it is in the way of another connection, and no request has come since it was called in.
    fn has_to_go(&self) -> bool {
        self.is_called_in() && matches!(*lock(&self.turn), Turn::CalledIn)
    }

    /// Drives a connection. None if it has to go at once: it has to make room, and it has had the chance to say so.
    pub(super) async fn drive<T>(&self, connection: impl Future<Output = T>) -> Option<T> {
        let mut connection = std::pin::pin!(connection);
        let driven = poll_fn(|context| {
            self.driver.register(context.waker());
            match connection.as_mut().poll(context) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if self.has_to_go() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let driven = driven.await;
        if driven.is_none() {
            self.end(Closed::MadeRoom);
        }
        driven
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
        let shared = &self.seats.0;
        self.seats.leave_line(&self.seat);
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
        shared.metrics.closed(self.seat.why().unwrap_or(Closed::Ended));
        shared.changed.notify_one();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // The answer to an unauthenticated caller makes room before all of it has gone out: otherwise a caller that
        // reads none of the open pages would keep all others out.
        if !self.is_known {
            self.seats.wait_in_line(&self.seat);
        }
        self.seat.is_answered.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use prometheus::Registry;

    fn seats(connections_max: usize, of_peer_max: usize) -> Seats {
        Seats::new(connections_max, of_peer_max, Metrics::register(&Registry::new()).unwrap())
    }

    #[tokio::test]
    async fn the_longest_waiting_connection_makes_room_and_a_busy_one_does_not() {
        let seats = seats(3, 0);
        let [busy, first, second] = [(); 3].map(|()| seats.take(None).unwrap());
        seats.begin(&busy.seat);
        let mut room = Box::pin(seats.room());
        assert!(room.as_mut().now_or_never().is_none());
        assert!(first.seat.is_called_in() && !second.seat.is_called_in() && !busy.seat.is_called_in());
        drop(first);
        tokio::time::timeout(std::time::Duration::from_secs(10), room).await.unwrap();
        assert_eq!(*seats.open().borrow(), 2);
    }

    #[tokio::test]
    async fn where_all_are_at_work_the_next_that_ends_its_request_makes_room() {
        let seats = seats(1, 0);
        let only = seats.take(None).unwrap();
        seats.begin(&only.seat);
        let under_way = seats.under_way(&only.seat);
        let mut room = Box::pin(seats.room());
        // What the taking of the seat has kept for the acceptor is used up by the first look.
        for _ in 0..3 {
            assert!(room.as_mut().now_or_never().is_none());
        }
        assert!(!only.seat.is_called_in());
        drop(under_way);
        seats.sent(&only.seat);
        assert!(room.as_mut().now_or_never().is_none());
        assert!(only.seat.is_called_in() && !only.seat.is_busy());
    }

    #[tokio::test]
    async fn an_answer_that_is_still_going_out_makes_room_only_if_nobody_known_waits_for_it() {
        for is_known in [true, false] {
            let seats = seats(1, 0);
            let only = seats.take(None).unwrap();
            seats.begin(&only.seat);
            let mut under_way = seats.under_way(&only.seat);
            under_way.is_known = is_known;
            drop(under_way);
            let mut room = Box::pin(seats.room());
            for _ in 0..3 {
                assert!(room.as_mut().now_or_never().is_none());
            }
            assert!(only.seat.is_busy());
            assert_eq!(only.seat.has_to_go(), !is_known);
            seats.sent(&only.seat);
            assert!(room.as_mut().now_or_never().is_none());
            assert!(only.seat.has_to_go() && !only.seat.is_busy());
        }
    }

    #[tokio::test]
    async fn if_a_request_comes_of_whom_was_called_in_the_next_one_is_called_in() {
        let seats = seats(2, 0);
        let [first, second] = [(); 2].map(|()| seats.take(None).unwrap());
        let mut room = Box::pin(seats.room());
        for _ in 0..3 {
            assert!(room.as_mut().now_or_never().is_none());
        }
        assert!(first.seat.has_to_go() && !second.seat.has_to_go());
        seats.begin(&first.seat);
        assert!(room.as_mut().now_or_never().is_none());
        assert!(!first.seat.has_to_go() && second.seat.has_to_go());
    }

    #[test]
    fn an_address_has_so_many_seats_and_gets_them_back() {
        let seats = seats(100, 2);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held = [seats.take(Some(one)), seats.take(Some(one))];
        assert!(held.iter().all(Option::is_some));
        assert!(seats.take(Some(one)).is_none());
        assert!(seats.take(Some(other)).is_some() && seats.take(None).is_some());
        drop(held);
        assert!(seats.take(Some(one)).is_some());
        assert!(lock(&seats.0.peers).is_empty());
    }

    #[test]
    fn the_first_reason_of_an_end_stays() {
        let seat = Seat::default();
        assert_eq!(seat.why(), None);
        seat.end(Closed::Idle);
        seat.end(Closed::Refused);
        assert_eq!(seat.why(), Some(Closed::Idle));
    }
}
