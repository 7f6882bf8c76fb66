//! What an allocator counts: every name, help text, label and bucket.

use common::bus::{ServiceInfo, VerbCounts};
use common::contract::{FaultCode, Outcome, Verb};
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use std::time::Duration;

/// From half a millisecond (a good claim on a local table takes about one) to the longest deadline.
const LATENCY_BUCKETS_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 5.0, 10.0];

/// The numbers of all allocators of a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    latency: HistogramVec,
    lost_races: IntCounter,
    candidate_rounds: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("broker_allocator_requests_total", "Requests answered, by verb and outcome"),
                &["verb", "outcome"],
            )?,
            latency: HistogramVec::new(
                HistogramOpts::new("broker_allocator_request_seconds", "Time to answer a request, by verb")
                    .buckets(LATENCY_BUCKETS_SECONDS.to_vec()),
                &["verb"],
            )?,
            lost_races: IntCounter::new(
                "broker_allocator_lost_races_total",
                "Claims that found their candidate taken and went on with another",
            )?,
            candidate_rounds: IntCounter::new(
                "broker_allocator_candidate_rounds_total",
                "Rounds over the index for candidates",
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.latency.clone()))?;
        registry.register(Box::new(metrics.lost_races.clone()))?;
        registry.register(Box::new(metrics.candidate_rounds.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn candidates(&self) -> IntCounter {
        self.candidate_rounds.clone()
    }

    pub(crate) fn lost_race(&self) {
        self.lost_races.inc();
    }

    pub(crate) fn answered(
        &self,
        verb: Verb,
        outcome: Option<Outcome>,
        fault: Option<FaultCode>,
        took: Duration,
    ) {
        let outcome = match (fault, outcome) {
            (Some(code), _) => code.as_str(),
            (None, Some(outcome)) => outcome.as_str(),
            (None, None) => "ok",
        };
        self.requests.with_label_values(&[verb.as_str(), outcome]).inc();
        self.latency.with_label_values(&[verb.as_str()]).observe(took.as_secs_f64());
    }

    fn answered_with(&self, verb: Verb, outcome: &str) -> u64 {
        self.requests.with_label_values(&[verb.as_str(), outcome]).get()
    }
}

impl ServiceInfo for Metrics {
    fn counts(&self, verb: Verb) -> VerbCounts {
        let latency = self.latency.with_label_values(&[verb.as_str()]);
        let errors = FaultCode::ALL.iter().map(|code| self.answered_with(verb, code.as_str())).sum();
        let processing = Duration::try_from_secs_f64(latency.get_sample_sum()).unwrap_or_default();
        VerbCounts {
            requests: latency.get_sample_count(),
            errors,
            processing_ns: u64::try_from(processing.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    fn further(&self) -> Vec<(&'static str, u64)> {
        vec![("lost_races", self.lost_races.get()), ("candidate_rounds", self.candidate_rounds.get())]
    }
}
