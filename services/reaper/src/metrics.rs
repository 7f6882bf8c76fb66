//! The metrics of a reaper: every name, help text, label and bucket.

use contract::WorkerRole;
use contract::throttle::PoolDeletions;
use domain::{Preparation, ProviderName};
use ports::bus::{ServiceInfo, ThrottleView, WorkCounts};
use prometheus::{
    Histogram, HistogramOpts, HistogramTimer, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use runtime::metrics::{Collectors, InFlight, UnderWay, counted, gauge_value, register_all};
use std::collections::BTreeMap;

/// A delete at the CSP takes 3 to 10 s, so the buckets are dense there and end at its time-outs.
const CALL_BUCKETS_SECONDS: [f64; 11] = [0.05, 0.25, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 60.0];

/// Places of a deletion in the queue.
const WAITING: &str = "waiting";
const UNDER_WAY: &str = "under_way";

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
    load: Load,
    pre_clean: PreClean,
    in_flight: InFlight,
}

/// What this process and the queue have to do.
#[derive(Clone, Debug)]
struct Load {
    in_flight: IntGauge,
    limit: IntGauge,
    queued: IntGaugeVec,
}

/// The counters of the pre-clean.
#[derive(Clone, Debug)]
struct PreClean {
    results: IntCounterVec,
    services: IntCounter,
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
        let (load, pre_clean) = (Load::new()?, PreClean::new()?);
        let in_flight = InFlight::shown_by(&load.in_flight);
        let metrics = Self { outcomes, calls, paused, breaker_open, rate, load, pre_clean, in_flight };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self { outcomes, calls, paused, breaker_open, rate, load, pre_clean, in_flight: _ } =
            self.clone();
        let Load { in_flight, limit, queued } = load;
        let PreClean { results, services } = pre_clean;
        vec![
            Box::new(outcomes),
            Box::new(calls),
            Box::new(paused),
            Box::new(breaker_open),
            Box::new(rate),
            Box::new(in_flight),
            Box::new(limit),
            Box::new(queued),
            Box::new(results),
            Box::new(services),
        ]
    }

    /// Updates the metrics of the throttle.
    pub(crate) fn show(&self, provider: &ProviderName, view: &ThrottleView) {
        let provider = &[provider.as_str()];
        self.paused.set(i64::from(view.is_paused));
        self.breaker_open.with_label_values(provider).set(i64::from(view.is_broken));
        self.rate.with_label_values(provider).set(gauge_value(view.rate_per_minute));
    }

    /// Updates the depth of the queue of each pool; pools of `former` without a queue lose their series.
    pub(crate) fn show_queue(
        &self,
        former: &BTreeMap<String, PoolDeletions>,
        queues: &BTreeMap<String, PoolDeletions>,
    ) {
        for gone in former.keys().filter(|pool| !queues.contains_key(*pool)) {
            for place in [WAITING, UNDER_WAY] {
                // Another reaper of the process may have removed it.
                let _ = self.load.queued.remove_label_values(&[gone, place]);
            }
        }
        for (pool, queue) in queues {
            for (place, count) in [(WAITING, queue.waiting), (UNDER_WAY, queue.under_way)] {
                self.load.queued.with_label_values(&[pool, place]).set(gauge_value(count));
            }
        }
    }

    /// Another reaper of this process works on at most this number of deletions at once.
    pub(crate) fn works_on(&self, in_flight_max: usize) {
        self.load.limit.add(gauge_value(in_flight_max));
    }

    /// Counts a pre-clean that was tried.
    pub(crate) fn pre_cleaned(&self, result: &Preparation) {
        self.pre_clean.results.with_label_values(&[result.as_str()]).inc();
        if let Preparation::Done { count } = result {
            self.pre_clean.services.inc_by(u64::from(*count));
        }
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

// === impl Load ===

impl Load {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            in_flight: IntGauge::new("broker_reaper_in_flight_deletions", "Deletions that are worked on")?,
            limit: IntGauge::new(
                "broker_reaper_in_flight_limit",
                "Limit of deletions that the reapers of the process work on at once",
            )?,
            queued: IntGaugeVec::new(
                Opts::new(
                    "broker_deletions_queued",
                    "Deletions of a pool in the queue of the fleet: waiting (for a reaper), under_way (with a reaper); \
                     retries before their time are not among them; every reaper shows the same",
                ),
                &["pool", "place"],
            )?,
        })
    }
}

// === impl PreClean ===

impl PreClean {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            results: IntCounterVec::new(
                Opts::new(
                    "broker_pre_cleans_total",
                    "Pre-cleans that were tried, by result: cleaned, shadowed (counted only), skipped (nothing to do), failed",
                ),
                &["result"],
            )?,
            services: IntCounter::new(
                "broker_pre_clean_services_deleted_total",
                "Services that pre-cleans deleted",
            )?,
        })
    }
}
