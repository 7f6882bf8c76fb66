//! Relays HTTP requests to NATS, and repeats them within the caller's deadline where that is safe.
//!
//! Nearly every request here may be sent twice: a claim has a key, a repeated release or order finds itself done, and
//! reads change nothing. So a lost answer only costs time. A page of work is the exception
//! ([`Verb::leads_to_the_same`]): its first attempt gets all of the time, and another one follows only if no worker
//! began with it.

use bytes::Bytes;
use contract::{Fault, FaultCode, Verb};
use ports::backoff::longest_pause;
use ports::bus::{Attempt, Context, Reply, RequestError, Requests};
use ports::clock::Clock;
use ports::random::{Random, full_jitter};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinError;

use crate::error;
use crate::metrics::{Metrics, RetryReason};
use crate::request_id::Facts;
use crate::undelivered::{ClaimTracker, Waiting, Watch};

/// Sends requests to the workers and returns the replies.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) requests: Arc<dyn Requests>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) metrics: Metrics,
    pub(crate) limits: RelayLimits,
    pub(crate) in_flight: Arc<Semaphore>,
    pub(crate) watch: Watch,
    /// The last retry time of a busy worker, in milliseconds.
    pub(crate) advised_ms: Arc<AtomicU64>,
}

/// Time-outs of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelayLimits {
    /// The whole request.
    pub(crate) deadline: Duration,
    /// One attempt.
    pub(crate) attempt: Duration,
    /// Total pauses while no worker is available.
    pub(crate) no_workers: Duration,
}

/// Why an attempt brought no answer.
#[derive(Clone, Copy, Debug)]
enum Unanswered {
    NoResponders,
    /// The worker does not serve the pool.
    NotHere,
    /// The workers will have capacity after that time.
    Busy(Duration),
    TimedOut,
}

/// The pauses between the attempts of one request.
struct Pauses<'a> {
    random: &'a dyn Random,
    failures: u32,
    no_workers_left: Duration,
}

/// Shortest pause before another attempt, because a restarting worker needs a moment and a loop must not spin.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause, so that a free worker does not have to wait for the ingress.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Shortest useful attempt: claims take 2–10 ms.
const ATTEMPT_MIN: Duration = Duration::from_millis(20);
/// Shortest useful attempt while the workers are overloaded, because a returning request may still have to wait.
const BUSY_ATTEMPT_MIN: Duration = Duration::from_secs(1);
/// Resolution of the retry times of busy workers.
const ADVICE_STEP: Duration = Duration::from_secs(1);

// === impl Relay ===

impl Relay {
    /// The same with another time for a whole request.
    pub(crate) fn waiting(self, deadline: Duration) -> Self {
        Self { limits: RelayLimits { deadline, ..self.limits }, ..self }
    }

    /// Sends a request, and returns the reply or the fault.
    pub(crate) async fn send<T: Serialize>(
        &self,
        verb: Verb,
        facts: &Facts,
        idempotency_key: Option<&str>,
        request: &T,
    ) -> Result<Reply, Fault> {
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return Err(self.full());
        };
        let _under_way = self.metrics.relay_begins();
        let body = serde_json::to_vec(request)
            .map_err(|_| Fault::new(FaultCode::InternalError, "the request could not be written"))?;
        let deadline_ms = self.deadline_ms();
        let context = Context {
            request_id: facts.request_id.to_string(),
            deadline_ms: Some(deadline_ms),
            traceparent: facts.traceparent.clone(),
            idempotency_key: idempotency_key.map(ToOwned::to_owned),
            // Not the request id, which callers may use again: an attempt at an old request would be indistinguishable
            // from one at a new request.
            attempt: Some(Attempt { request_key: self.random.fresh_id(), number: None }),
            principal: facts.principal(),
        };
        if matches!(verb, Verb::Allocate | Verb::Claim) {
            return self.claim(verb, deadline_ms, facts, context, body.into()).await;
        }
        self.ask_until(deadline_ms, verb, &context, body.into(), None).await
    }

    /// Runs a claim in a separate task, so that the outcome of its last attempt is still seen if the caller leaves.
    async fn claim(
        &self,
        verb: Verb,
        deadline_ms: u64,
        facts: &Facts,
        context: Context,
        body: Bytes,
    ) -> Result<Reply, Fault> {
        let tracker = self.watch.begin(facts);
        let waiting = Waiting(Arc::clone(&tracker));
        let (sender, receiver) = oneshot::channel();
        let relay = self.clone();
        let asking = self.watch.spawn(async move {
            let answer = relay.ask_until(deadline_ms, verb, &context, body, Some(&tracker)).await;
            tracker.settle(answer, sender);
        });
        let answer = receiver.await;
        drop(waiting);
        match answer {
            Ok(answer) => answer,
            Err(_) => match asking.await.map_err(JoinError::try_into_panic) {
                Err(Ok(panic)) => std::panic::resume_unwind(panic),
                _ => Err(Fault::new(FaultCode::InternalError, "the claim was not worked on")),
            },
        }
    }

    async fn ask_until(
        &self,
        deadline_ms: u64,
        verb: Verb,
        context: &Context,
        body: Bytes,
        tracker: Option<&Arc<ClaimTracker>>,
    ) -> Result<Reply, Fault> {
        let mut pauses =
            Pauses { random: &*self.random, failures: 0, no_workers_left: self.limits.no_workers };
        let leads_to_the_same = verb.leads_to_the_same();
        let attempt_max = verb.attempt_max(self.limits.attempt, self.limits.deadline);
        let mut number: u32 = 0;
        loop {
            number = number.saturating_add(1);
            let timeout = attempt_max.min(self.left_until(deadline_ms));
            let context = &self.attempt(context, number, timeout);
            let asked = self.ask_once(verb, context, body.clone(), timeout, tracker).await;
            let (reason, last_word) = match asked {
                Ok(reply) if leads_to_the_same && error::is_late(&reply) => (Unanswered::TimedOut, Ok(reply)),
                // As long as without workers: a worker that serves the pool may not be there either.
                Ok(reply) if error::is_not_here(&reply) => (Unanswered::NotHere, Ok(reply)),
                Ok(reply) => match error::busy_for(&reply) {
                    Some(advised) => {
                        self.advised_ms.store(millis(advised), Ordering::Relaxed);
                        (Unanswered::Busy(advised), Ok(reply))
                    }
                    None => return Ok(reply),
                },
                Err(RequestError::NoResponders) => (Unanswered::NoResponders, Err(no_workers())),
                Err(RequestError::TimedOut) if !leads_to_the_same => return Err(timed_out(verb)),
                Err(RequestError::TimedOut) => (Unanswered::TimedOut, Err(timed_out(verb))),
                Err(RequestError::Disconnected) => return Err(disconnected(verb)),
            };
            let Some(pause) = pauses.next(reason, self.left_until(deadline_ms)) else { return last_word };
            if tracker.is_some_and(|tracker| tracker.has_left()) {
                return last_word;
            }
            self.metrics.retried(reason.into());
            tracing::debug!(
                request.id = context.request_id,
                request.verb = verb.as_str(),
                retry.reason = ?reason,
                retry.pause_ms = millis(pause),
                "repeating a request to the workers"
            );
            self.clock.sleep(pause).await;
        }
    }

    /// One attempt. If the attempt of a claim times out, its late reply is watched; if it may have been granted, that
    /// is recorded.
    async fn ask_once(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
        tracker: Option<&Arc<ClaimTracker>>,
    ) -> Result<Reply, RequestError> {
        let Some(tracker) = tracker else { return self.requests.request(verb, context, body, timeout).await };
        let asked = self.requests.request_or_late(verb, context, body, timeout).await;
        asked.inspect(|reply| tracker.note(reply)).map_err(|unanswered| {
            if unanswered.reason != RequestError::NoResponders {
                tracker.note_silence(unanswered.late);
            }
            unanswered.reason
        })
    }

    /// The context of one attempt: its number and its own deadline. No worker may continue with an attempt that has
    /// timed out, because another one follows it.
    fn attempt(&self, context: &Context, number: u32, timeout: Duration) -> Context {
        let attempt = context.attempt.clone().map(|attempt| Attempt { number: Some(number), ..attempt });
        let deadline_ms = Some(self.clock.now_ms().saturating_add(millis(timeout)));
        Context { deadline_ms, attempt, ..context.clone() }
    }

    /// The deadline of a request that arrives now, in milliseconds since the Unix epoch.
    pub(crate) fn deadline_ms(&self) -> u64 {
        self.clock.now_ms().saturating_add(millis(self.limits.deadline))
    }

    /// Whether that moment has come.
    pub(crate) fn is_past(&self, moment_ms: u64) -> bool {
        self.clock.now_ms() >= moment_ms
    }

    /// The fault while the maximum number of requests waits: as bad as the workers' last retry time.
    fn full(&self) -> Fault {
        let advised_ms = self.advised_ms.load(Ordering::Relaxed);
        let mut fault = Fault::new(FaultCode::NoWorkers, "the broker is busy; try again shortly");
        let seconds = u32::try_from(advised_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
        fault.retry_after_seconds = fault.retry_after_seconds.max(Some(seconds));
        fault
    }

    fn left_until(&self, deadline_ms: u64) -> Duration {
        Duration::from_millis(deadline_ms.saturating_sub(self.clock.now_ms()))
    }
}

// === impl Pauses ===

impl Pauses<'_> {
    /// The pause before another attempt; none if there is no time for one.
    fn next(&mut self, reason: Unanswered, left: Duration) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let longest = longest_pause(2 * PAUSE_MIN, PAUSE_MAX, self.failures);
        let jitter = full_jitter(self.random, longest.saturating_sub(PAUSE_MIN));
        let pause = match reason {
            Unanswered::TimedOut => PAUSE_MIN + jitter,
            // Retry times are whole seconds, rounded up: callers with the same one are spread over that second.
            Unanswered::Busy(advised) => {
                PAUSE_MIN.max(advised.saturating_sub(full_jitter(self.random, ADVICE_STEP)))
            }
            // The absence of workers may last.
            Unanswered::NoResponders | Unanswered::NotHere => {
                if self.no_workers_left.is_zero() {
                    return None;
                }
                // The last pause ends at the time-out, so that a late worker is still found.
                let pause = (PAUSE_MIN + jitter).min(self.no_workers_left);
                self.no_workers_left = self.no_workers_left.saturating_sub(pause);
                pause
            }
        };
        (left >= pause + reason.attempt_min()).then_some(pause)
    }
}

// === impl Unanswered ===

impl Unanswered {
    /// Shortest useful attempt after this reason.
    const fn attempt_min(self) -> Duration {
        match self {
            Self::Busy(_) => BUSY_ATTEMPT_MIN,
            Self::NoResponders | Self::NotHere | Self::TimedOut => ATTEMPT_MIN,
        }
    }
}

impl From<Unanswered> for RetryReason {
    fn from(reason: Unanswered) -> Self {
        match reason {
            Unanswered::NoResponders => Self::NoResponders,
            Unanswered::NotHere => Self::NotHere,
            Unanswered::Busy(_) => Self::Busy,
            Unanswered::TimedOut => Self::TimedOut,
        }
    }
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn no_workers() -> Fault {
    Fault::new(FaultCode::NoWorkers, "no worker took the request; try again shortly")
}

fn timed_out(verb: Verb) -> Fault {
    verb.unseen_end(
        FaultCode::Timeout,
        "no answer in time; repeat the same request, it is safe and leads to the same result",
    )
}

fn disconnected(verb: Verb) -> Fault {
    // The connection may have been lost during the attempt.
    verb.unseen_end(FaultCode::UpstreamUnavailable, "the broker cannot reach its workers; try again shortly")
}
