//! Admission: decides which requests are worked on, which wait, and which are refused with a retry time.
//!
//! The limit follows the measured latency of the store ([`limit`]), so that calls do not time out because there are too
//! many. Requests beyond it wait, the one with the earliest deadline first, as long as they can be answered in time at
//! the measured [`rate`]. All others are refused at once, before any write, with the time after which a repeat will be
//! served ([`promises`]). The allocators of one process share one admission. Decision 0051.

mod limit;
mod promises;
mod queue;
mod rate;
#[cfg(test)]
mod tests;

use parking_lot::{Mutex, MutexGuard};
use queue::{Arrival, End, Queue, Verdict, Verdicts};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

use crate::metrics::{Load, Refused};
use crate::{Config, Metrics};
use contract::{Fault, FaultCode, Verb};
use ports::bus::Request;

/// The admission of one process.
#[derive(Clone, Debug)]
pub struct Admission {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue<Waiter>>,
    load: Load,
}

/// The channel to a waiting request.
type Waiter = oneshot::Sender<Verdict>;

/// The right to work on a request. Dropping it returns it.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    began: Instant,
    /// Time spent waiting for anything other than the store.
    idle: Mutex<Duration>,
    end: End,
}

/// A request that waits for something other than the store; its slot is free for others until this is dropped.
pub(crate) struct Idle<'a> {
    permit: &'a Permit,
    since: Instant,
}

/// A waiting request. Dropping it removes the request from the queue.
struct Place<'a> {
    shared: &'a Arc<Shared>,
    name: (Instant, u64),
    receiver: oneshot::Receiver<Verdict>,
}

// === impl Admission ===

impl Admission {
    /// Admission for the allocators of one process.
    #[must_use]
    pub fn new(config: &Config, metrics: &Metrics) -> Self {
        let queue = Queue::new(config.in_flight_max, config.latency_target);
        let load = metrics.load();
        load.show_limit(queue.limit());
        Self { shared: Arc::new(Shared { queue: Mutex::new(queue), load }) }
    }

    /// A permit that does not count.
    pub(crate) fn pass(&self) -> Permit {
        self.shared.lock().take_back();
        self.permit()
    }

    fn permit(&self) -> Permit {
        let (shared, began) = (Arc::clone(&self.shared), Instant::now());
        Permit { shared, began, idle: Mutex::default(), end: End::Unrelated }
    }

    /// Waits for a permit for `request`, which has to be answered by `deadline`.
    ///
    /// # Errors
    /// [`FaultCode::NoWorkers`] with the time after which a repeat will be served; nothing was done for the request.
    pub(crate) async fn enter(&self, request: &Request, deadline: Instant) -> Result<Permit, Fault> {
        let (sender, receiver) = oneshot::channel();
        let now = Instant::now();
        let arrival = self.shared.lock().arrive(now, deadline, key_of(request), sender);
        let (verdict, reason) = match arrival {
            Arrival::Go => (Verdict::Go, Refused::OnArrival),
            Arrival::Refused(after) => (Verdict::Refused(after), Refused::OnArrival),
            Arrival::Waits(name) => {
                self.shared.load.waiting.inc();
                let mut place = Place { shared: &self.shared, name, receiver };
                let verdict = tokio::select! {
                    verdict = &mut place.receiver => verdict.ok(),
                    () = tokio::time::sleep_until(deadline.into()) => None,
                };
                (verdict.unwrap_or_else(|| place.give_up()), Refused::Waiting)
            }
        };
        match verdict {
            Verdict::Go => Ok(self.permit()),
            Verdict::Refused(after) => {
                self.shared.load.refused(reason);
                Err(refusal(after))
            }
        }
    }
}

/// The same for every attempt at a request.
fn key_of(request: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.verb.hash(&mut hasher);
    request.body.hash(&mut hasher);
    request.context.idempotency_key.hash(&mut hasher);
    hasher.finish()
}

fn refusal(after: Duration) -> Fault {
    let seconds = u32::try_from(after.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
    let mut fault = Fault::new(
        FaultCode::NoWorkers,
        "there are more requests than can be served now; repeat the same request after the time in retry_after",
    );
    fault.retry_after_seconds = Some(seconds);
    fault
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue<Waiter>> {
        self.queue.lock()
    }

    /// Work on a request has ended: waiting requests may start.
    fn finish(self: &Arc<Self>, took: Duration, end: End) {
        let verdicts = {
            let mut queue = self.lock();
            let verdicts = queue.finish(Instant::now(), took, end);
            self.load.show_limit(queue.limit());
            verdicts
        };
        self.notify(verdicts);
    }

    fn notify(&self, mut verdicts: Verdicts<Waiter>) {
        while let Some((waiter, verdict)) = verdicts.pop() {
            // If the waiting request is gone, its turn goes to the next one.
            if waiter.send(verdict) == Err(Verdict::Go) {
                verdicts.extend(self.lock().give_back(Instant::now()));
            }
        }
    }
}

// === impl Place ===

impl Place<'_> {
    /// The waiting time is over.
    fn give_up(&mut self) -> Verdict {
        match self.shared.lock().leave(Instant::now(), self.name) {
            Some(after) => Verdict::Refused(after),
            // The verdict may be in the channel; if it is not, the turn goes to the next request.
            None => self.receiver.try_recv().unwrap_or(Verdict::Refused(Duration::ZERO)),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.load.waiting.dec();
        self.receiver.close();
        if self.receiver.try_recv() == Ok(Verdict::Go) {
            let verdicts = self.shared.lock().give_back(Instant::now());
            self.shared.notify(verdicts);
        } else {
            let _ = self.shared.lock().leave(Instant::now(), self.name);
        }
    }
}

// === impl Permit ===

impl Permit {
    /// Frees the slot while this request waits for something other than the store. Afterwards the request continues
    /// without waiting again, so for a moment more requests than the limit may be running.
    pub(crate) fn idle(&self) -> Idle<'_> {
        let verdicts = self.shared.lock().give_back(Instant::now());
        self.shared.notify(verdicts);
        Idle { permit: self, since: Instant::now() }
    }

    /// Learns from the answer how fast the store is.
    pub(crate) fn note(&mut self, verb: Verb, code: Option<FaultCode>) {
        self.end = match code {
            // The time of a page of work depends on its size.
            _ if !matches!(verb, Verb::Allocate | Verb::Release | Verb::Get | Verb::Extend) => End::Unrelated,
            Some(FaultCode::StoreUnavailable | FaultCode::StoreThrottled) => End::StoreFailed,
            // It waited for a sandbox or for its deadline, and not for the store.
            Some(FaultCode::Contended | FaultCode::PoolExhausted | FaultCode::Timeout) => End::Unrelated,
            _ => End::Answered,
        };
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let idle = *self.idle.get_mut();
        self.shared.finish(self.began.elapsed().saturating_sub(idle), self.end);
    }
}

// === impl Idle ===

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        *self.permit.idle.lock() += self.since.elapsed();
        self.permit.shared.lock().take_back();
    }
}
