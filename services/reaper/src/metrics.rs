//! The metrics of a reaper: every name, help text, label and bucket.

use contract::WorkerRole;
use domain::ProviderName;
use ports::bus::{ServiceInfo, ThrottleView, WorkCounts};
use prometheus::{
    Histogram, HistogramOpts, HistogramTimer, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use runtime::metrics::{Collectors, InFlight, UnderWay, counted, register_all};

/// A delete at the CSP takes 3 to 10 s, so the buckets are dense there and end at its time-outs.
const CALL_BUCKETS_SECONDS: [f64; 11] = [0.05, 0.25, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 60.0];

/// Outcomes that are failures.
const ATTEMPT_FAILED: &str = "attempt_failed";
const HELD: &str = "held";

/// The metrics of all reapers of a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    outcomes: IntCounterVec,
    calls: Histogram,
    paused: IntGauge,
    breaker_open: IntGaugeVec,
    rate: IntGaugeVec,
    in_flight: InFlight,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let outcomes = IntCounterVec::new(
            Opts::new(
                "broker_deletions_total",
                "Deliveries of deletion work, by outcome: deleted, skipped (not wanted any more), attempt_failed, \
                 held (the provider is overloaded, refused our credentials, or fails for everybody), put_off (the \
                 throttle was closed, or had no slot soon), parked",
            ),
            &["outcome"],
        )?;
        let calls = Histogram::with_opts(
            HistogramOpts::new(
                "broker_provider_delete_seconds",
                "Time of pre-clean and deletion of one sandbox at the provider",
            )
            .buckets(CALL_BUCKETS_SECONDS.to_vec()),
        )?;
        let paused = IntGauge::new(
            "broker_deletions_paused",
            "1 while an operator has paused all deletions; not for a paused consumer",
        )?;
        let breaker_open = IntGaugeVec::new(
            Opts::new(
                "broker_breaker_open",
                "1 while the breaker is open or half-open because the provider failed or refused our credentials",
            ),
            &["provider"],
        )?;
        let rate = IntGaugeVec::new(
            Opts::new(
                "broker_deletions_rate_per_minute",
                "Current rate of deletions per minute of the whole fleet at a provider; every reaper shows the same",
            ),
            &["provider"],
        )?;
        let in_flight = InFlight::default();
        let metrics = Self { outcomes, calls, paused, breaker_open, rate, in_flight };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self { outcomes, calls, paused, breaker_open, rate, in_flight: _ } = self.clone();
        vec![Box::new(outcomes), Box::new(calls), Box::new(paused), Box::new(breaker_open), Box::new(rate)]
    }

    /// Updates the metrics of the throttle.
    pub(crate) fn show(&self, provider: &ProviderName, view: &ThrottleView) {
        let provider = &[provider.as_str()];
        self.paused.set(i64::from(view.is_paused));
        self.breaker_open.with_label_values(provider).set(i64::from(view.is_broken));
        self.rate.with_label_values(provider).set(i64::try_from(view.rate_per_minute).unwrap_or(i64::MAX));
    }

    /// Counts a running delivery until the returned value is dropped.
    pub(crate) fn begin(&self) -> UnderWay {
        self.in_flight.begin()
    }

    pub(crate) fn time_call(&self) -> HistogramTimer {
        self.calls.start_timer()
    }

    pub(crate) fn deleted(&self) {
        self.count("deleted");
    }

    pub(crate) fn skipped(&self) {
        self.count("skipped");
    }

    pub(crate) fn attempt_failed(&self) {
        self.count(ATTEMPT_FAILED);
    }

    pub(crate) fn held(&self) {
        self.count(HELD);
    }

    pub(crate) fn put_off(&self) {
        self.count("put_off");
    }

    pub(crate) fn parked(&self) {
        self.count("parked");
    }

    fn count(&self, outcome: &str) {
        self.outcomes.with_label_values(&[outcome]).inc();
    }
}

impl ServiceInfo for Metrics {
    fn role(&self) -> WorkerRole {
        WorkerRole::Reaper
    }

    fn in_flight(&self) -> Option<u64> {
        Some(self.in_flight.now())
    }

    fn total(&self) -> WorkCounts {
        let outcomes = counted(&self.outcomes);
        let failed = [ATTEMPT_FAILED, HELD].iter().filter_map(|outcome| outcomes.get(*outcome)).sum();
        WorkCounts::of(outcomes.values().sum(), failed)
    }

    fn further(&self) -> Vec<(String, u64)> {
        counted(&self.outcomes).into_iter().collect()
    }
}
