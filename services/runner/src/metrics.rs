//! The metrics of a runner.

use crate::capacity::Demand;
use crate::containers::Containers;
use contract::{NodeVerb, WorkerRole};
use ports::bus::{ServiceInfo, WorkCounts};
use ports::engine::{Container, ContainerState};
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use runtime::metrics::{Collectors, InFlight, UnderWay, counted, gauge_value, register_all};

/// From the start of a shell to the longest execution that a caller waits for.
const EXECUTION_BUCKETS_SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];
/// Every state of a container, so that a state that is left shows zero.
const STATES: [&str; 6] = ["creating", "running", "paused", "stopped", "exited", "failed"];

/// Why a container was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Removal {
    /// It did not become ready, or cannot be used any more.
    Failed,
    /// Its record has ended or names another container.
    Unwanted,
    /// The control plane asked for it.
    Requested,
    /// There is no record of it, and its lease is over.
    Unknown,
}

/// The metrics of the runner of a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    containers: IntGaugeVec,
    capacity: IntGaugeVec,
    provisions: IntCounterVec,
    removals: IntCounterVec,
    stops: IntCounterVec,
    reconciliations: IntCounterVec,
    requests: IntCounterVec,
    executions: IntCounterVec,
    execution_seconds: Histogram,
    in_flight_gauge: IntGauge,
    in_flight: InFlight,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(format!("broker_runner_{name}"), help), labels)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(format!("broker_runner_{name}"), help), labels)
        };
        let in_flight_gauge =
            IntGauge::new("broker_runner_in_flight_provisions", "Sandboxes that are being created")?;
        let metrics = Self {
            containers: gauges(
                "containers",
                "Containers of the node at its last reconciliation, by state",
                &["state"],
            )?,
            capacity: gauges(
                "capacity",
                "Capacity for containers by resource (cpu_milli, memory_mb, sandboxes) and kind: offered, used, promised (reserved for work that is fetched)",
                &["resource", "kind"],
            )?,
            provisions: counters(
                "provisions_total",
                "Deliveries of work to create a sandbox, by result: created, unwanted, failed (tried again), parked, full, not_here (this node cannot serve the template), engine_unavailable, gone (removed meanwhile), unknown (without a record), report_refused, unreadable",
                &["result"],
            )?,
            removals: counters(
                "removals_total",
                "Containers removed, by reason: failed, unwanted (its record has ended or names another one), requested, unknown (without a record, and its lease is over)",
                &["reason"],
            )?,
            stops: counters(
                "stops_total",
                "Containers whose lease is over while the control plane gave no answer, by result: stopped, failed",
                &["result"],
            )?,
            reconciliations: counters(
                "reconciliations_total",
                "Comparisons of the containers of the node with their records, by result: done, withheld (too many without a record: nothing was removed), failed",
                &["result"],
            )?,
            requests: counters(
                "requests_total",
                "Requests to the node, by verb and outcome",
                &["verb", "outcome"],
            )?,
            executions: counters(
                "executions_total",
                "Commands run by supervisors, by result: exited, signalled, timed_out, oom_killed, failed",
                &["result"],
            )?,
            execution_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "broker_runner_execution_seconds",
                    "Time from the request to the end of a command",
                )
                .buckets(EXECUTION_BUCKETS_SECONDS.to_vec()),
            )?,
            in_flight: InFlight::shown_by(&in_flight_gauge),
            in_flight_gauge,
        };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self {
            containers,
            capacity,
            provisions,
            removals,
            stops,
            reconciliations,
            requests,
            executions,
            execution_seconds,
            in_flight_gauge,
            in_flight: _,
        } = self.clone();
        vec![
            Box::new(containers),
            Box::new(capacity),
            Box::new(provisions),
            Box::new(removals),
            Box::new(stops),
            Box::new(reconciliations),
            Box::new(requests),
            Box::new(executions),
            Box::new(execution_seconds),
            Box::new(in_flight_gauge),
        ]
    }

    /// Counts a delivery in progress until the returned value is dropped.
    pub(crate) fn begin_provision(&self) -> UnderWay {
        self.in_flight.begin()
    }

    /// Counts a delivery.
    pub(crate) fn provisioned(&self, result: &str) {
        self.provisions.with_label_values(&[result]).inc();
    }

    /// Counts a removed container.
    pub(crate) fn removed(&self, reason: Removal) {
        let reason: &str = reason.into();
        self.removals.with_label_values(&[reason]).inc();
    }

    /// Counts a container that was to be stopped.
    pub(crate) fn stopped(&self, is_done: bool) {
        self.stops.with_label_values(&[if is_done { "stopped" } else { "failed" }]).inc();
    }

    /// Counts a reconciliation.
    pub(crate) fn reconciled(&self, result: &str) {
        self.reconciliations.with_label_values(&[result]).inc();
    }

    /// Counts a request to the node.
    pub(crate) fn answered(&self, verb: NodeVerb, outcome: &str) {
        self.requests.with_label_values(&[verb.as_str(), outcome]).inc();
    }

    /// Counts a command.
    pub(crate) fn executed(&self, result: &str, seconds: f64) {
        self.executions.with_label_values(&[result]).inc();
        self.execution_seconds.observe(seconds);
    }

    /// Shows what is in use.
    pub(crate) fn show_capacity(&self, containers: &Containers) {
        let (used, promised) = containers.used();
        for (kind, demand) in [("offered", containers.offered()), ("used", used), ("promised", promised)] {
            let Demand { cpu_milli, memory_mb, sandboxes } = demand;
            for (resource, value) in
                [("cpu_milli", cpu_milli), ("memory_mb", memory_mb), ("sandboxes", sandboxes)]
            {
                self.capacity.with_label_values(&[resource, kind]).set(gauge_value(value));
            }
        }
    }

    /// Shows the containers by their states.
    pub(crate) fn show_containers(&self, listed: &[Container]) {
        for state in STATES {
            let count = listed.iter().filter(|container| name_of(&container.state) == state).count();
            self.containers.with_label_values(&[state]).set(gauge_value(count));
        }
    }
}

impl ServiceInfo for Metrics {
    fn role(&self) -> WorkerRole {
        WorkerRole::Runner
    }

    fn in_flight(&self) -> Option<u64> {
        Some(self.in_flight.now())
    }

    fn total(&self) -> WorkCounts {
        let results = counted(&self.provisions);
        let count_of = |result: &str| results.get(result).copied().unwrap_or_default();
        WorkCounts::of(results.values().sum(), count_of("failed").saturating_add(count_of("parked")))
    }

    fn further(&self) -> Vec<(String, u64)> {
        counted(&self.removals).into_iter().collect()
    }
}

const fn name_of(state: &ContainerState) -> &'static str {
    match state {
        ContainerState::Creating => "creating",
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Stopped => "stopped",
        ContainerState::Exited => "exited",
        ContainerState::Failed { .. } => "failed",
    }
}

#[cfg(test)]
mod tests;
