//! Metrics: registered together, and described for `docs/metrics.md`.

use prometheus::core::Collector;
use prometheus::proto::MetricType;
use prometheus::{Error, IntGauge, Registry};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// All metrics of one service. Metrics that are missing here are neither exported nor documented.
pub type Collectors = Vec<Box<dyn Collector>>;

/// One metric, as documented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels, in the order of their definition.
    pub labels: Vec<String>,
    /// What it counts.
    pub help: String,
}

/// The number of things that a worker has in progress. Clones share the number.
#[derive(Clone, Debug)]
pub struct InFlight {
    count: Arc<AtomicU64>,
    /// Exports the sum of all workers of the process.
    gauge: IntGauge,
}

/// One thing in progress, until it is dropped.
#[derive(Debug)]
pub struct UnderWay(InFlight);

/// A number as a gauge holds it.
pub fn gauge_value(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

// === impl InFlight ===

impl InFlight {
    /// A number that `gauge` exports.
    #[must_use]
    pub fn shown_by(gauge: &IntGauge) -> Self {
        Self { count: Arc::default(), gauge: gauge.clone() }
    }

    /// The number of another worker, which the same gauge exports.
    #[must_use]
    pub fn of_another_worker(&self) -> Self {
        Self::shown_by(&self.gauge)
    }

    /// Counts one more thing until the returned value is dropped.
    #[must_use]
    pub fn begin(&self) -> UnderWay {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.gauge.inc();
        UnderWay(self.clone())
    }

    /// The current number.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

// === impl UnderWay ===

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Self(InFlight { count, gauge }) = self;
        count.fetch_sub(1, Ordering::Relaxed);
        gauge.dec();
    }
}

/// The counters of a metric by their label values, joined with `.`. Reading creates no series.
#[must_use]
pub fn counted(metric: &dyn Collector) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for family in metric.collect() {
        for series in family.get_metric() {
            let labels: Vec<_> = series.get_label().iter().map(|label| label.value()).collect();
            // A whole number; the text format has floating point only.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let value = series.get_counter().get_value() as u64;
            sums.insert(labels.join("."), value);
        }
    }
    sums
}

/// Puts metrics into a registry.
///
/// # Errors
/// When a name is registered already.
pub fn register_all(registry: &Registry, collectors: Collectors) -> Result<(), Error> {
    collectors.into_iter().try_for_each(|collector| registry.register(collector))
}

/// The descriptions of metrics, whether or not they have counted anything.
#[must_use]
pub fn describe(collectors: &Collectors) -> Vec<Metric> {
    let of_one = |collector: &dyn Collector| {
        // Only the family knows the type, and only the description knows the labels. A gathered registry would leave
        // out metrics without a series.
        let families = collector.collect();
        let described = collector.desc().into_iter().map(|description| Metric {
            name: description.fq_name.clone(),
            kind: families
                .iter()
                .find(|family| family.name() == description.fq_name)
                .map_or("unknown", |family| kind(family.get_field_type())),
            labels: description.variable_labels.clone(),
            help: description.help.clone(),
        });
        described.collect::<Vec<_>>()
    };
    collectors.iter().flat_map(|collector| of_one(collector.as_ref())).collect()
}

/// The rows of a table in `docs/metrics.md`.
#[must_use]
pub fn table_rows(metrics: &[Metric]) -> String {
    let mut rows = String::from("| metric | type | labels | what it says |\n|---|---|---|---|\n");
    for Metric { name, kind, labels, help } in metrics {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing into a String cannot fail.
        let _ = writeln!(rows, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
    }
    rows
}

const fn kind(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts};

    fn collectors() -> Collectors {
        let counted = IntCounterVec::new(Opts::new("counted_total", "Things"), &["what", "how"]).unwrap();
        let took = Histogram::with_opts(HistogramOpts::new("took_seconds", "Time")).unwrap();
        vec![Box::new(counted), Box::new(IntGauge::new("open", "Open ones").unwrap()), Box::new(took)]
    }

    #[test]
    fn unused_metric_is_described() {
        assert_eq!(
            table_rows(&describe(&collectors())),
            "| metric | type | labels | what it says |\n|---|---|---|---|\n\
             | `counted_total` | counter | `what`, `how` | Things |\n\
             | `open` | gauge |  | Open ones |\n\
             | `took_seconds` | histogram |  | Time |\n"
        );
    }

    #[test]
    fn counters_are_read_by_their_labels() {
        let counters = IntCounterVec::new(Opts::new("counted_total", "Things"), &["what", "how"]).unwrap();
        assert!(counted(&counters).is_empty());
        counters.with_label_values(&["cup", "washed"]).inc_by(3);
        counters.with_label_values(&["cup", "broken"]).inc();
        // In the order of the label names: `how` before `what`.
        let expected = [("broken.cup".to_owned(), 1), ("washed.cup".to_owned(), 3)];
        assert_eq!(counted(&counters), expected.into());
    }

    #[test]
    fn in_flight_is_counted_until_dropped() {
        let gauge = IntGauge::new("open", "Open ones").unwrap();
        let in_flight = InFlight::shown_by(&gauge);
        let other_worker = in_flight.of_another_worker();
        let begun = (in_flight.begin(), in_flight.clone().begin(), other_worker.begin());
        assert_eq!((in_flight.now(), other_worker.now(), gauge.get()), (2, 1, 3));
        drop(begun);
        assert_eq!((in_flight.now(), other_worker.now(), gauge.get()), (0, 0, 0));
    }

    #[test]
    fn metric_name_is_registered_once() {
        let registry = Registry::new();
        register_all(&registry, collectors()).unwrap();
        assert!(register_all(&registry, collectors()).is_err());
    }
}
