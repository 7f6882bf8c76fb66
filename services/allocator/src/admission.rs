//! Admission: how many requests are worked on at once, which of the others wait, and when the rest are asked to repeat.
//!
//! The limit follows the measured latency of the store ([`limit`]), so that calls to it do not time out because there
//! are too many of them. Requests beyond it wait, the one with the least time left first, as long as they can be
//! answered in time at the measured [`rate`]. All others are refused before anything was written for them, at once, with
//! the time after which a repeat will be served ([`promises`]). The allocators of one process share it: it stands for
//! what the process can do. Decision 0051.

mod limit;
mod promises;
mod queue;
mod rate;
#[cfg(test)]
mod tests;

use queue::{Arrival, End, Queue, Verdict, Verdicts};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

use crate::metrics::Load;
use crate::{Config, Metrics};
use contract::{Fault, FaultCode, Verb};
use ports::bus::Request;

/// What decides about the requests of one process.
#[derive(Clone, Debug)]
pub struct Admission {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue<Waiter>>,
    load: Load,
}

/// How a request that waits is reached.
type Waiter = oneshot::Sender<Verdict>;

/// The right to work on a request. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    began: Instant,
    /// Time in which it waited for something other than the store.
    idle: Mutex<Duration>,
    end: End,
}

/// A request that waits for something other than the store, while others have its turn. Over when it is dropped.
pub(crate) struct Idle<'a> {
    permit: &'a Permit,
    since: Instant,
}

/// A request that waits. It leaves the queue when it is dropped.
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
        let queue = Mutex::new(Queue::new(config.in_flight_max, config.latency_target));
        Self { shared: Arc::new(Shared { queue, load: metrics.load() }) }
    }

    /// Work on a request that needs no turn.
    pub(crate) fn pass(&self) -> Permit {
        self.shared.lock().take_back();
        self.permit()
    }

    fn permit(&self) -> Permit {
        let (shared, began) = (Arc::clone(&self.shared), Instant::now());
        Permit { shared, began, idle: Mutex::default(), end: End::Unrelated }
    }

    /// Waits for the turn of `request`, which has to be answered by `deadline`.
    ///
    /// # Errors
    /// [`FaultCode::NoWorkers`] with the time after which a repeat will be served; nothing was done for the request.
    pub(crate) async fn enter(&self, request: &Request, deadline: Instant) -> Result<Permit, Fault> {
        let (sender, receiver) = oneshot::channel();
        let now = Instant::now();
        let arrival = self.shared.lock().arrive(now, deadline, key_of(request), sender);
        let verdict = match arrival {
            Arrival::Go => Verdict::Go,
            Arrival::Refused(after) => Verdict::Refused(after),
            Arrival::Waits(name) => {
                self.shared.load.waiting.inc();
                let mut place = Place { shared: &self.shared, name, receiver };
                let verdict = tokio::select! {
                    verdict = &mut place.receiver => verdict.ok(),
                    () = tokio::time::sleep_until(deadline.into()) => None,
                };
                verdict.unwrap_or_else(|| place.give_up())
            }
        };
        match verdict {
            Verdict::Go => Ok(self.permit()),
            Verdict::Refused(after) => {
                self.shared.load.refused.inc();
                Err(refusal(after))
            }
        }
    }
}

/// The same for every repeat of a request.
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
        // Nothing panics while it is held, so a poisoned lock holds a sound state.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work on a request is over: others have their turn.
    fn finish(self: &Arc<Self>, took: Duration, end: End) {
        let verdicts = {
            let mut queue = self.lock();
            let verdicts = queue.finish(Instant::now(), took, end);
            self.load.limit.set(i64::try_from(queue.limit()).unwrap_or(i64::MAX));
            verdicts
        };
        self.notify(verdicts);
    }

    fn notify(&self, mut verdicts: Verdicts<Waiter>) {
        while let Some((waiter, verdict)) = verdicts.pop() {
            // One that is gone gives its turn to the next.
            if waiter.send(verdict) == Err(Verdict::Go) {
                verdicts.extend(self.lock().give_back(Instant::now()));
            }
        }
    }
}

// === impl Place ===

impl Place<'_> {
    /// Its time is up.
    fn give_up(&mut self) -> Verdict {
        match self.shared.lock().leave(Instant::now(), self.name) {
            Some(after) => Verdict::Refused(after),
            // The verdict is on its way; if it is not here yet, the turn goes to the next request.
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
    /// Gives the turn to others while this request waits for something other than the store. It goes on without waiting
    /// for another turn: for that moment there may be more at work than the limit says.
    pub(crate) fn idle(&self) -> Idle<'_> {
        let verdicts = self.shared.lock().give_back(Instant::now());
        self.shared.notify(verdicts);
        Idle { permit: self, since: Instant::now() }
    }

    /// Learns from the answer how the store is.
    pub(crate) fn note(&mut self, verb: Verb, code: Option<FaultCode>) {
        self.end = match code {
            // A page of work takes as long as it is large.
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
        let idle = *self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.shared.finish(self.began.elapsed().saturating_sub(idle), self.end);
    }
}

// === impl Idle ===

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        *self.permit.idle.lock().unwrap_or_else(PoisonError::into_inner) += self.since.elapsed();
        self.permit.shared.lock().take_back();
    }
}
