//! Metrics of the relay to the workers.

use prometheus::{IntCounterVec, IntGauge, Opts};
use runtime::metrics::{Collectors, InFlight, UnderWay, gauge_value};
use strum::IntoEnumIterator as _;

/// Why a relayed request was repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum RetryReason {
    NoResponders,
    NotHere,
    Busy,
    TimedOut,
}

/// Handles of these metrics.
#[derive(Clone, Debug)]
pub(super) struct RelayMetrics {
    in_flight: InFlight,
    in_flight_now: IntGauge,
    in_flight_limit: IntGauge,
    retries: IntCounterVec,
}

// === impl RetryReason ===

impl RetryReason {
    fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl RelayMetrics ===

impl RelayMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let in_flight_now = IntGauge::new(
            "broker_relay_in_flight_requests",
            "Relayed requests that wait for a worker's reply",
        )?;
        let metrics = Self {
            in_flight: InFlight::shown_by(&in_flight_now),
            in_flight_now,
            in_flight_limit: IntGauge::new(
                "broker_relay_in_flight_limit",
                "Limit of relayed requests; further ones are refused",
            )?,
            retries: IntCounterVec::new(
                Opts::new("broker_relay_retries_total", "Relayed requests that were repeated, by reason"),
                &["reason"],
            )?,
        };
        // Rates need an initial zero.
        for reason in RetryReason::iter() {
            metrics.retries.with_label_values(&[reason.as_str()]);
        }
        Ok(metrics)
    }

    pub(super) fn collectors(&self) -> Collectors {
        let Self { in_flight: _, in_flight_now, in_flight_limit, retries } = self.clone();
        vec![Box::new(in_flight_now), Box::new(in_flight_limit), Box::new(retries)]
    }
}

impl super::Metrics {
    pub(crate) fn relays_at_most(&self, requests: usize) {
        self.relay.in_flight_limit.set(gauge_value(requests));
    }

    /// Counts a relayed request until the returned value is dropped.
    pub(crate) fn relay_begins(&self) -> UnderWay {
        self.relay.in_flight.begin()
    }

    pub(crate) fn retried(&self, reason: RetryReason) {
        self.relay.retries.with_label_values(&[reason.as_str()]).inc();
    }
}
