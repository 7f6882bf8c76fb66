//! The metrics of a registry.

use contract::{Verb, WorkerRole};
use ports::bus::{ServiceInfo, WorkCounts};
use prometheus::{IntGauge, Registry};
use runtime::metrics::{Collectors, InFlight, register_all};
use runtime::requests::Answered;

/// The metrics of the registry of a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) requests: Answered,
    pub(crate) in_flight: InFlight,
    in_flight_gauge: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let in_flight_gauge =
            IntGauge::new("broker_registry_in_flight_requests", "Requests that are worked on")?;
        let metrics = Self {
            requests: Answered::new(WorkerRole::Registry)?,
            in_flight: InFlight::shown_by(&in_flight_gauge),
            in_flight_gauge,
        };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self { requests, in_flight: _, in_flight_gauge } = self;
        let mut collectors = requests.collectors();
        collectors.push(Box::new(in_flight_gauge.clone()));
        collectors
    }
}

impl ServiceInfo for Metrics {
    fn role(&self) -> WorkerRole {
        WorkerRole::Registry
    }

    fn in_flight(&self) -> Option<u64> {
        Some(self.in_flight.now())
    }

    fn counts(&self, verb: Verb) -> WorkCounts {
        self.requests.counts(verb)
    }

    fn further(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}
