//! What the roles that answer requests share: reading and writing bodies, the faults of the store, and counting.

use bytes::Bytes;
use contract::queue::PAGE_LIMIT_MAX;
use contract::{Fault, FaultCode, Outcome, Verb, WorkerRole};
use domain::{Actor, NodeId, RuntimeAction, SandboxId};
use parking_lot::Mutex;
use ports::bus::{Answer, Dropped, Request, WorkCounts};
use ports::engine::Incarnation;
use ports::store::{StoreError, cursor};
use prometheus::{Error, HistogramOpts, HistogramVec, IntCounterVec, Opts};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Collectors;
use crate::telemetry::Chain;

/// From half a millisecond (a good claim on a local table takes about one) to the longest deadline.
const LATENCY_BUCKETS_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 5.0, 10.0];
/// After the first few, one warning per this number of dropped requests of a verb.
const DROPPED_PER_WARNING: u64 = 1_000;
/// Entries of a page by default.
const PAGE_LIMIT_DEFAULT: u32 = 50;
/// The actor if a request names none.
const DEFAULT_ACTOR: &str = "operator";

/// The metrics of the requests that a process answers in a role, and the counts of the worker of this handle.
#[derive(Clone, Debug)]
pub struct Answered {
    requests: IntCounterVec,
    dropped: IntCounterVec,
    latency: HistogramVec,
    /// Discovery asks each worker for its own counts, and the caller adds them up.
    worker: Arc<Mutex<HashMap<Verb, WorkCounts>>>,
}

/// The answer with that result.
pub fn plain<T: Serialize>(result: Result<T, Fault>) -> Answer {
    Answer { outcome: None, body: result.and_then(|body| encode(&body)) }
}

/// The JSON of a reply.
///
/// # Errors
/// [`FaultCode::InternalError`], which is logged here.
pub fn encode<T: Serialize>(body: &T) -> Result<Bytes, Fault> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| {
        tracing::error!(%error, "a reply cannot be encoded");
        Fault::new(FaultCode::InternalError, "the answer could not be written")
    })
}

/// The sandbox that a request names.
///
/// # Errors
/// [`FaultCode::InvalidRequest`].
pub fn parse_sandbox(sandbox_id: &str) -> Result<SandboxId, Fault> {
    SandboxId::parse(sandbox_id).map_err(|problem| Fault::invalid("sandbox_id", problem))
}

/// The attempt that a request names.
///
/// # Errors
/// [`FaultCode::InvalidRequest`].
pub fn parse_incarnation(incarnation: &str) -> Result<Incarnation, Fault> {
    Incarnation::parse(incarnation).map_err(|problem| Fault::invalid("incarnation", problem))
}

/// The node that a request names.
///
/// # Errors
/// [`FaultCode::InvalidRequest`].
pub fn parse_node(node: &str) -> Result<NodeId, Fault> {
    NodeId::parse(node).map_err(|problem| Fault::invalid("node", problem))
}

/// What a request wants of a container.
///
/// # Errors
/// [`FaultCode::InvalidRequest`].
pub fn parse_runtime_action(action: &str) -> Result<RuntimeAction, Fault> {
    RuntimeAction::parse(action).ok_or_else(|| {
        Fault::invalid("action", format!("must be one of {}", contract::names::<RuntimeAction>()))
    })
}

/// The place in the cursor of a list that is in the order of its names.
///
/// # Errors
/// [`FaultCode::InvalidRequest`].
pub fn place<T>(cursor: Option<&str>, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Fault> {
    let Some(text) = cursor else { return Ok(None) };
    let place = cursor::decode(text).and_then(|[place]: [String; 1]| read(&place));
    place.map(Some).ok_or_else(|| Fault::invalid("cursor", "is not one of this list"))
}

/// Reads a JSON object.
///
/// # Errors
/// [`FaultCode::InvalidRequest`].
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    // serde would read a list as the fields in their order, which the contract does not promise.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Fault::invalid("the body", "is not the expected JSON object"));
    }
    serde_json::from_slice(body).map_err(not_expected)
}

/// The fault for a body that cannot be read.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub fn not_expected(error: serde_json::Error) -> Fault {
    Fault::invalid("the body", format!("is not the expected JSON object: {error}"))
}

/// The person of the request; if it has none, the one that its body names.
///
/// # Errors
/// [`FaultCode::InvalidRequest`].
pub fn parse_actor(request: &Request, by: Option<&str>) -> Result<Option<Actor>, Fault> {
    if let Some(actor) = request.context.principal.actor() {
        return Ok(Some(actor));
    }
    let by = by.map(str::trim).filter(|by| !by.is_empty());
    by.map(Actor::parse).transpose().map_err(|problem| Fault::invalid("by", problem))
}

/// The actor of an operator's request.
///
/// # Errors
/// [`FaultCode::InvalidRequest`].
pub fn parse_operator(request: &Request, by: Option<&str>) -> Result<Actor, Fault> {
    match parse_actor(request, by)? {
        Some(actor) => Ok(actor),
        None => Actor::parse(DEFAULT_ACTOR).map_err(|problem| Fault::invalid("by", problem)),
    }
}

/// The number of entries of a page, checked.
///
/// # Errors
/// [`FaultCode::InvalidRequest`].
pub fn page_limit(limit: Option<u32>) -> Result<u16, Fault> {
    match limit.unwrap_or(PAGE_LIMIT_DEFAULT) {
        limit @ 1..=PAGE_LIMIT_MAX => Ok(u16::try_from(limit).unwrap_or(u16::MAX)),
        _ => Err(Fault::invalid("limit", format!("must be from 1 to {PAGE_LIMIT_MAX}"))),
    }
}

/// The fault for an error of the store, which is logged here.
#[must_use]
pub fn store_fault(request: &Request, error: &StoreError) -> Fault {
    tracing::error!(
        request.id = request.context.request_id,
        request.verb = request.verb.as_str(),
        error = %Chain(error),
        "the store failed"
    );
    match error {
        StoreError::Throttled { .. } => Fault::new(
            FaultCode::StoreThrottled,
            "the table has more to do than it is provisioned for; repeat with the same key",
        ),
        StoreError::Unavailable { .. } => {
            Fault::new(FaultCode::StoreUnavailable, "the table does not answer; repeat with the same key")
        }
        StoreError::Disk { .. } => Fault::new(
            FaultCode::StoreUnavailable,
            "the table takes no writes: its disk is full or fails; repeat with the same key",
        ),
        StoreError::Corrupt { .. } => {
            Fault::new(FaultCode::InternalError, "a record in the table cannot be read")
        }
    }
}

// === impl Answered ===

impl Answered {
    /// The metrics of a role; they are not registered yet.
    ///
    /// # Errors
    /// Never; the names are valid.
    pub fn new(role: WorkerRole) -> Result<Self, Error> {
        let name = |rest: &str| format!("broker_{}_{rest}", role.as_str());
        Ok(Self {
            requests: IntCounterVec::new(
                Opts::new(name("requests_total"), "Requests answered, by verb and outcome"),
                &["verb", "outcome"],
            )?,
            dropped: IntCounterVec::new(
                Opts::new(
                    name("requests_dropped_total"),
                    "Requests dropped because their caller has stopped waiting, by verb and reason: late (too long in transit), expired (too long in this process)",
                ),
                &["verb", "reason"],
            )?,
            latency: HistogramVec::new(
                HistogramOpts::new(name("request_seconds"), "Time to answer a request, by verb")
                    .buckets(LATENCY_BUCKETS_SECONDS.to_vec()),
                &["verb"],
            )?,
            worker: Arc::default(),
        })
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self { requests, dropped, latency, worker: _ } = self.clone();
        vec![Box::new(requests), Box::new(dropped), Box::new(latency)]
    }

    /// A handle for another worker of the same process.
    #[must_use]
    pub fn of_another_worker(&self) -> Self {
        Self { worker: Arc::default(), ..self.clone() }
    }

    /// Counts an answer, and holds it to the contract.
    pub fn count(&self, verb: Verb, answer: &Answer, took: Duration) {
        let code = answer.body.as_ref().err().map(|fault| fault.code);
        debug_assert!(
            code.is_none_or(|code| verb.may_end_in(code)),
            "the contract of {verb:?} does not know {code:?}"
        );
        let text = code.map(FaultCode::as_str).or(answer.outcome.map(Outcome::as_str)).unwrap_or("ok");
        self.requests.with_label_values(&[verb.as_str(), text]).inc();
        self.latency.with_label_values(&[verb.as_str()]).observe(took.as_secs_f64());
        let mut worker = self.worker.lock();
        let counts = worker.entry(verb).or_default();
        counts.requests += 1;
        counts.errors += u64::from(code.is_some());
        counts.last_error = code.or(counts.last_error);
        counts.processing_ns =
            counts.processing_ns.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts and logs a dropped request.
    pub fn drop_request(&self, verb: Verb, request_id: &str, why: Dropped) {
        let (verb, reason) = (verb.as_str(), why.as_str());
        let counter = self.dropped.with_label_values(&[verb, reason]);
        counter.inc();
        let count = counter.get();
        // A single dropped request is a caller that left; many mean a wrong clock or overload, and one line suffices.
        let is_shown = count.is_power_of_two() || count.is_multiple_of(DROPPED_PER_WARNING);
        if is_shown {
            tracing::warn!(
                request.id = request_id,
                request.verb = verb,
                reason,
                count,
                "requests were dropped"
            );
        } else {
            tracing::debug!(request.id = request_id, request.verb = verb, reason, "a request was dropped");
        }
    }

    /// What this worker answered of a verb.
    #[must_use]
    pub fn counts(&self, verb: Verb) -> WorkCounts {
        self.worker.lock().get(&verb).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::register_all;
    use prometheus::Registry;

    fn answered() -> Answered {
        Answered::new(WorkerRole::Allocator).unwrap()
    }

    #[test]
    fn counts_are_per_worker_and_metrics_per_process() {
        let (first, took) = (answered(), Duration::from_millis(2));
        let second = first.of_another_worker();
        let answer = |outcome, code: Option<FaultCode>| Answer {
            outcome,
            body: code.map_or_else(|| Ok(Bytes::new()), |code| Err(Fault::new(code, "no"))),
        };
        first.count(Verb::Allocate, &answer(Some(Outcome::Created), None), took);
        second.count(Verb::Allocate, &answer(None, Some(FaultCode::PoolExhausted)), took);
        second.count(Verb::Allocate, &answer(Some(Outcome::Existing), None), took);
        let counts = |requests, errors, last_error| WorkCounts {
            requests,
            errors,
            last_error,
            processing_ns: requests * 2_000_000,
        };
        assert_eq!(first.counts(Verb::Allocate), counts(1, 0, None));
        assert_eq!(second.counts(Verb::Allocate), counts(2, 1, Some(FaultCode::PoolExhausted)));
        assert_eq!(second.counts(Verb::Get), WorkCounts::default());
        assert_eq!(first.latency.with_label_values(&["allocate"]).get_sample_count(), 3);
    }

    #[test]
    fn reading_counts_creates_no_series() {
        let (registry, answered) = (Registry::new(), answered());
        register_all(&registry, answered.collectors()).unwrap();
        for verb in Verb::of(WorkerRole::Allocator) {
            assert_eq!(answered.counts(verb), WorkCounts::default());
        }
        assert!(registry.gather().is_empty(), "{:?}", registry.gather());
    }

    #[test]
    fn only_an_object_is_read() {
        for (body, is_read) in
            [(r#" {"verb":1}"#, true), (r#"[1]"#, false), ("", false), (r#"{"verb":"#, false)]
        {
            assert_eq!(decode::<serde_json::Value>(body.as_bytes()).is_ok(), is_read, "{body}");
        }
    }
}
