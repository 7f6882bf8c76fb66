//! The metrics of an allocator: every name, help text, label and bucket.

use contract::{BulkDeleteOutcome, Verb, WorkerRole};
use parking_lot::{Mutex, MutexGuard};
use ports::bus::{Answer, Dropped, ServiceInfo, WorkCounts};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use runtime::metrics::{Collectors, InFlight, UnderWay, gauge_value, register_all};
use runtime::requests::Answered;
use std::sync::Arc;
use std::time::Duration;
use strum::IntoEnumIterator as _;

/// The metrics of all allocators of a process, and the counts of the worker of this handle.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Answered,
    lost_races: IntCounter,
    late_writes: IntCounter,
    candidate_rounds: IntCounter,
    health_checks: IntCounterVec,
    bulk_deletes: IntCounterVec,
    load: Load,
    worker: Arc<Mutex<Worker>>,
    in_flight: InFlight,
}

/// The metrics of admission.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    limit: IntGauge,
    pub(crate) waiting: IntGauge,
    in_flight: IntGauge,
    refused: IntCounterVec,
}

/// When a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Refused {
    /// When it arrived.
    OnArrival,
    /// While it waited for a permit.
    Waiting,
}

/// Counts of one worker. Discovery asks each worker for its own, and the caller adds them up.
#[derive(Debug, Default)]
struct Worker {
    lost_races: u64,
    candidate_rounds: u64,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let load = Load::new()?;
        let metrics = Self {
            requests: Answered::new(WorkerRole::Allocator)?,
            lost_races: IntCounter::new(
                "broker_allocator_lost_races_total",
                "Claims that lost their candidate and continued with another one",
            )?,
            late_writes: IntCounter::new(
                "broker_allocator_late_writes_refused_total",
                "Requests that gave up directly before a write because their deadline had passed",
            )?,
            candidate_rounds: IntCounter::new(
                "broker_allocator_candidate_rounds_total",
                "Rounds over the index for candidates",
            )?,
            health_checks: IntCounterVec::new(
                Opts::new(
                    "broker_allocator_health_checks_total",
                    "Health checks of sandboxes before they were handed out, by result",
                ),
                &["outcome"],
            )?,
            bulk_deletes: IntCounterVec::new(
                Opts::new(
                    "broker_allocator_bulk_deletes_total",
                    "Records that bulk deletes processed, by outcome; without dry runs",
                ),
                &["outcome"],
            )?,
            worker: Arc::default(),
            in_flight: InFlight::shown_by(&load.in_flight),
            load,
        };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All registered metrics.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self {
            requests,
            lost_races,
            late_writes,
            candidate_rounds,
            health_checks,
            bulk_deletes,
            load: Load { limit, waiting, in_flight, refused },
            worker: _,
            in_flight: _,
        } = self.clone();
        let others: Collectors = vec![
            Box::new(lost_races),
            Box::new(late_writes),
            Box::new(candidate_rounds),
            Box::new(health_checks),
            Box::new(bulk_deletes),
            Box::new(limit),
            Box::new(waiting),
            Box::new(in_flight),
            Box::new(refused),
        ];
        requests.collectors().into_iter().chain(others).collect()
    }

    /// The metrics of admission.
    pub(crate) fn load(&self) -> Load {
        self.load.clone()
    }

    /// A handle for another worker of the same process.
    #[must_use]
    pub fn of_another_worker(&self) -> Self {
        let in_flight = self.in_flight.of_another_worker();
        Self {
            requests: self.requests.of_another_worker(),
            worker: Arc::default(),
            in_flight,
            ..self.clone()
        }
    }

    /// Counts a running request until the returned value is dropped.
    pub(crate) fn begin(&self) -> UnderWay {
        self.in_flight.begin()
    }

    pub(crate) fn candidate_round(&self) {
        self.candidate_rounds.inc();
        self.worker().candidate_rounds += 1;
    }

    pub(crate) fn checked(&self, outcome: &str) {
        self.health_checks.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn bulk_deleted(&self, outcome: BulkDeleteOutcome) {
        self.bulk_deletes.with_label_values(&[outcome.as_str()]).inc();
    }

    /// A request gave up directly before a write.
    pub(crate) fn late_write_refused(&self) {
        self.late_writes.inc();
    }

    pub(crate) fn lost_race(&self) {
        self.lost_races.inc();
        self.worker().lost_races += 1;
    }

    /// Counts a dropped request.
    pub(crate) fn dropped(&self, verb: Verb, request_id: &str, why: Dropped) {
        self.requests.drop_request(verb, request_id, why);
    }

    pub(crate) fn answered(&self, verb: Verb, answer: &Answer, took: Duration) {
        self.requests.count(verb, answer, took);
    }

    fn worker(&self) -> MutexGuard<'_, Worker> {
        self.worker.lock()
    }
}

// === impl Load ===

impl Load {
    fn new() -> Result<Self, prometheus::Error> {
        let load = Self {
            limit: IntGauge::new(
                "broker_allocator_in_flight_limit",
                "Limit of concurrent requests of the process; it falls while the store is slow",
            )?,
            waiting: IntGauge::new("broker_allocator_waiting_requests", "Requests that wait for a permit")?,
            in_flight: IntGauge::new(
                "broker_allocator_in_flight_requests",
                "Requests that are worked on; those that wait for something other than the store may exceed the limit",
            )?,
            refused: IntCounterVec::new(
                Opts::new(
                    "broker_allocator_refused_requests_total",
                    "Requests that were refused because they could not be answered in time, by when: on_arrival, waiting; nothing was written for them",
                ),
                &["reason"],
            )?,
        };
        // A rate needs the zero.
        for reason in Refused::iter() {
            load.refused.with_label_values(&[reason.as_str()]);
        }
        Ok(load)
    }

    pub(crate) fn show_limit(&self, requests: usize) {
        self.limit.set(gauge_value(requests));
    }

    pub(crate) fn refused(&self, reason: Refused) {
        self.refused.with_label_values(&[reason.as_str()]).inc();
    }
}

// === impl Refused ===

impl Refused {
    fn as_str(self) -> &'static str {
        self.into()
    }
}

impl ServiceInfo for Metrics {
    fn role(&self) -> WorkerRole {
        WorkerRole::Allocator
    }

    fn in_flight(&self) -> Option<u64> {
        Some(self.in_flight.now())
    }

    fn counts(&self, verb: Verb) -> WorkCounts {
        self.requests.counts(verb)
    }

    fn further(&self) -> Vec<(String, u64)> {
        let Worker { lost_races, candidate_rounds } = &*self.worker();
        vec![("lost_races".to_owned(), *lost_races), ("candidate_rounds".to_owned(), *candidate_rounds)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_per_worker_and_metrics_per_process() {
        let registry = Registry::new();
        let first = Metrics::register(&registry).unwrap();
        let second = first.of_another_worker();
        second.lost_race();
        let lost_races = |metrics: &Metrics| metrics.further().first().cloned();
        assert_eq!(lost_races(&first), Some(("lost_races".to_owned(), 0)));
        assert_eq!(lost_races(&second), Some(("lost_races".to_owned(), 1)));
        let _one = first.begin();
        assert_eq!((first.in_flight(), second.in_flight()), (Some(1), Some(0)));
        assert_eq!(first.lost_races.get(), 1);
    }
}
