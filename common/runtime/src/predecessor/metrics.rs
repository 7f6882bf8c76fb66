//! The metrics under the names that they had in the predecessor, for its dashboards and alerts.
//!
//! Nothing is counted twice: these series are sums of ours, made whenever the registry is gathered.

use crate::metrics::Metric as Described;
use crate::settings::Settings;
use prometheus::Registry;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::BTreeMap;

/// What `/metrics` exports.
#[derive(Clone, Debug)]
pub struct Exporter {
    registry: Registry,
    has_former_names: bool,
}

/// A metric of the predecessor whose meaning is kept.
#[derive(Clone, Copy, Debug)]
pub struct FormerMetric {
    /// Its name.
    pub name: &'static str,
    /// The metric that it is made from.
    pub of: &'static str,
    /// Which series of that metric: a label, and the values that count.
    only: &'static [(&'static str, &'static [&'static str])],
    /// Its label `outcome`, if it has one.
    outcome: Option<FormerOutcome>,
}

/// How the label `outcome` of the predecessor is made.
#[derive(Clone, Copy, Debug)]
struct FormerOutcome {
    /// The label that it is made from.
    of: &'static str,
    /// The values of that label, and what they were called. Every other value is [`OTHER_OUTCOME`].
    names: &'static [(&'static str, &'static str)],
}

const OUTCOME: &str = "outcome";
const OTHER_OUTCOME: &str = "error";
/// The result of a run.
const RUN_OUTCOME: FormerOutcome = FormerOutcome { of: "status", names: &[("completed", "success")] };

/// Every metric of the predecessor that is kept; `docs/metrics.md` names those that are not.
pub const FORMER_METRICS: [FormerMetric; 21] = [
    FormerMetric {
        outcome: Some(FormerOutcome {
            of: "outcome",
            names: &[
                ("created", "success"),
                ("existing", "idempotent"),
                ("POOL_EXHAUSTED", "no_sandboxes"),
                ("CONTENDED", "no_sandboxes"),
            ],
        }),
        ..sum("broker_allocate_total", "broker_allocator_requests_total", &[("verb", &["allocate"])])
    },
    sum(
        "broker_allocate_idempotent_hits_total",
        "broker_allocator_requests_total",
        &[("verb", &["allocate"]), ("outcome", &["existing"])],
    ),
    sum("broker_allocate_conflicts_total", "broker_allocator_lost_races_total", &[]),
    sum("broker_allocation_latency_seconds", "broker_allocator_request_seconds", &[("verb", &["allocate"])]),
    FormerMetric {
        outcome: Some(FormerOutcome {
            of: "outcome",
            names: &[
                ("ok", "success"),
                ("NOT_FOUND", "not_found"),
                ("INVALID_STATE", "not_allocated"),
                ("NOT_SANDBOX_OWNER", "not_owner"),
            ],
        }),
        ..sum("broker_deletion_marked_total", "broker_allocator_requests_total", &[("verb", &["release"])])
    },
    FormerMetric {
        outcome: Some(RUN_OUTCOME),
        ..sum("broker_sync_total", "broker_runs_total", &[("kind", &["sync"])])
    },
    sum(
        "broker_sync_sandboxes_synced_total",
        "broker_reconciled_total",
        &[("kind", &["sync"]), ("what", &["inserted", "restored", "refreshed", "unchanged"])],
    ),
    sum(
        "broker_sync_sandboxes_stale_total",
        "broker_reconciled_total",
        &[("kind", &["sync"]), ("what", &["marked_stale"])],
    ),
    sum("broker_sync_duration_seconds", "broker_run_seconds", &[("kind", &["sync"])]),
    FormerMetric {
        outcome: Some(RUN_OUTCOME),
        ..sum("broker_expiry_total", "broker_runs_total", &[("kind", &["expiry"])])
    },
    sum(
        "broker_expiry_orphaned_total",
        "broker_reconciled_total",
        &[("kind", &["expiry"]), ("what", &["expired"])],
    ),
    sum("broker_cleanup_deleted_total", "broker_deletions_total", &[("outcome", &["deleted"])]),
    sum("broker_cleanup_failed_total", "broker_deletions_total", &[("outcome", &["parked"])]),
    FormerMetric {
        outcome: Some(FormerOutcome {
            of: "result",
            names: &[
                ("cleaned", "success"),
                ("shadowed", "success"),
                ("skipped", "skipped"),
                ("failed", "failed"),
            ],
        }),
        ..sum("broker_niosxaas_cleanup_total", "broker_pre_cleans_total", &[])
    },
    sum("broker_niosxaas_services_deleted_total", "broker_pre_clean_services_deleted_total", &[]),
    sum("broker_pool_total", "broker_sandboxes", &[]),
    sum("broker_pool_available", "broker_sandboxes", &[("state", &["available"])]),
    sum("broker_pool_allocated", "broker_sandboxes", &[("state", &["allocated"])]),
    sum("broker_pool_pending_deletion", "broker_sandboxes", &[("state", &["pending_deletion"])]),
    sum("broker_pool_stale", "broker_sandboxes", &[("state", &["stale"])]),
    sum("broker_pool_deletion_failed", "broker_sandboxes", &[("state", &["deletion_failed"])]),
];

/// The sum of these series of a metric, without labels.
const fn sum(
    name: &'static str,
    of: &'static str,
    only: &'static [(&'static str, &'static [&'static str])],
) -> FormerMetric {
    FormerMetric { name, of, only, outcome: None }
}

/// Whether metrics have their former names as well (`METRICS_FORMER_NAMES`).
pub fn read_former_names(settings: &mut Settings<'_>) -> bool {
    settings.switch(
        "METRICS_FORMER_NAMES",
        true,
        "whether `/metrics` also has the metrics of the predecessor whose meaning is kept (docs/metrics.md)",
    )
}

/// The descriptions of the former metrics, for `docs/metrics.md`; `metrics` are ours.
#[must_use]
pub fn describe_former(metrics: &[Described]) -> Vec<Described> {
    let described = FORMER_METRICS.iter().filter_map(|former| {
        let source = metrics.iter().find(|metric| metric.name == former.of)?;
        Some(Described {
            name: former.name.to_owned(),
            kind: source.kind,
            labels: former.outcome.iter().map(|_| OUTCOME.to_owned()).collect(),
            help: former.meaning(),
        })
    });
    described.collect()
}

// === impl Exporter ===

impl Exporter {
    /// Exports `registry`, and the former metrics if `has_former_names`.
    #[must_use]
    pub fn new(registry: Registry, has_former_names: bool) -> Self {
        Self { registry, has_former_names }
    }

    /// All metrics with at least one series.
    #[must_use]
    pub fn gather(&self) -> Vec<MetricFamily> {
        let mut families = self.registry.gather();
        if self.has_former_names {
            let former: Vec<_> =
                FORMER_METRICS.iter().filter_map(|former| former.made_from(&families)).collect();
            families.extend(former);
        }
        families
    }
}

// === impl FormerMetric ===

impl FormerMetric {
    /// This metric; none without ours.
    fn made_from(&self, families: &[MetricFamily]) -> Option<MetricFamily> {
        let source = families.iter().find(|family| family.name() == self.of)?;
        let mut sums: BTreeMap<Option<&str>, Metric> = BTreeMap::new();
        if self.outcome.is_none() && source.get_field_type() != MetricType::HISTOGRAM {
            // A rate needs the zero.
            sums.insert(None, Metric::default());
        }
        for series in source.get_metric().iter().filter(|series| self.includes(series)) {
            let outcome = self.outcome.map(|outcome| outcome.name_of(series));
            add(sums.entry(outcome).or_default(), series);
        }
        if sums.is_empty() {
            return None;
        }
        let series = sums.into_iter().map(|(outcome, mut metric)| {
            metric.set_label(outcome.iter().map(|value| label(OUTCOME, value)).collect());
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.meaning());
        family.set_field_type(source.get_field_type());
        family.set_metric(series.collect());
        Some(family)
    }

    fn includes(&self, series: &Metric) -> bool {
        self.only.iter().all(|(label, values)| values.contains(&value_of(series, label)))
    }

    fn meaning(&self) -> String {
        let only = self.only.iter().map(|(label, values)| format!("{label} {}", values.join(" or ")));
        let only: Vec<_> = only.collect();
        let mut meaning = format!("Sum of `{}`", self.of);
        if !only.is_empty() {
            meaning.push_str(&format!(" with {}", only.join(" and ")));
        }
        if let Some(FormerOutcome { of, names }) = self.outcome {
            let names: Vec<_> = names.iter().map(|(ours, former)| format!("{former} is {ours}")).collect();
            meaning.push_str(&format!(", by {of}: {}, {OTHER_OUTCOME} is any other", names.join(", ")));
        }
        meaning
    }
}

// === impl FormerOutcome ===

impl FormerOutcome {
    fn name_of(&self, series: &Metric) -> &'static str {
        let ours = value_of(series, self.of);
        self.names.iter().find(|(name, _)| *name == ours).map_or(OTHER_OUTCOME, |(_, former)| *former)
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

fn value_of<'a>(series: &'a Metric, label: &str) -> &'a str {
    series.get_label().iter().find(|pair| pair.name() == label).map_or("", LabelPair::value)
}

/// Adds a series of the same metric; the fields of other types are zero.
fn add(sum: &mut Metric, series: &Metric) {
    let mut counter = Counter::default();
    counter.set_value(sum.get_counter().get_value() + series.get_counter().get_value());
    sum.set_counter(counter);
    let mut gauge = Gauge::default();
    gauge.set_value(sum.get_gauge().get_value() + series.get_gauge().get_value());
    sum.set_gauge(gauge);
    let (before, more) = (sum.get_histogram(), series.get_histogram());
    let mut histogram = Histogram::default();
    histogram.set_sample_count(before.get_sample_count() + more.get_sample_count());
    histogram.set_sample_sum(before.get_sample_sum() + more.get_sample_sum());
    // All series of a metric have the same buckets; a new sum has none.
    let buckets = more.get_bucket().iter().enumerate().map(|(index, bucket)| {
        let counted = before.get_bucket().get(index).map_or(0, Bucket::cumulative_count);
        let mut sum = bucket.clone();
        sum.set_cumulative_count(counted + bucket.cumulative_count());
        sum
    });
    histogram.set_bucket(buckets.collect());
    sum.set_histogram(histogram);
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{
        HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, TextEncoder,
    };

    fn counter(registry: &Registry, name: &str, labels: &[&str]) -> IntCounterVec {
        let counter = IntCounterVec::new(Opts::new(name, "Ours"), labels).unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter
    }

    /// The exported lines that begin with one of these names, without comments.
    fn lines(registry: &Registry, names: &[&str]) -> Vec<String> {
        let families = Exporter::new(registry.clone(), true).gather();
        let text = TextEncoder::new().encode_to_string(&families).unwrap();
        let wanted = |line: &&str| names.iter().any(|name| line.starts_with(name));
        text.lines().filter(wanted).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn counters_are_summed_under_their_former_outcomes() {
        let registry = Registry::new();
        let requests = counter(&registry, "broker_allocator_requests_total", &["verb", "outcome"]);
        for (verb, outcome, count) in [
            ("allocate", "created", 5),
            ("allocate", "existing", 2),
            ("allocate", "POOL_EXHAUSTED", 3),
            ("allocate", "CONTENDED", 1),
            ("allocate", "TIMEOUT", 1),
            ("allocate", "STORE_UNAVAILABLE", 1),
            ("release", "ok", 4),
            ("release", "NOT_SANDBOX_OWNER", 1),
        ] {
            requests.with_label_values(&[verb, outcome]).inc_by(count);
        }
        assert_eq!(
            lines(&registry, &["broker_allocate_", "broker_deletion_marked_"]),
            [
                r#"broker_allocate_total{outcome="error"} 2"#,
                r#"broker_allocate_total{outcome="idempotent"} 2"#,
                r#"broker_allocate_total{outcome="no_sandboxes"} 4"#,
                r#"broker_allocate_total{outcome="success"} 5"#,
                "broker_allocate_idempotent_hits_total 2",
                r#"broker_deletion_marked_total{outcome="not_owner"} 1"#,
                r#"broker_deletion_marked_total{outcome="success"} 4"#,
            ]
        );
    }

    #[test]
    fn gauges_of_all_pools_are_summed() {
        let registry = Registry::new();
        let sandboxes = IntGaugeVec::new(Opts::new("broker_sandboxes", "Ours"), &["pool", "state"]).unwrap();
        registry.register(Box::new(sandboxes.clone())).unwrap();
        for (pool, state, count) in [
            ("dns", "available", 5),
            ("main", "available", 2),
            ("main", "allocated", 1),
            ("main", "stale", 1),
        ] {
            sandboxes.with_label_values(&[pool, state]).set(count);
        }
        assert_eq!(
            lines(&registry, &["broker_pool_"]),
            [
                "broker_pool_total 9",
                "broker_pool_available 7",
                "broker_pool_allocated 1",
                "broker_pool_pending_deletion 0",
                "broker_pool_stale 1",
                "broker_pool_deletion_failed 0",
            ]
        );
    }

    #[test]
    fn buckets_of_a_histogram_are_summed() {
        let registry = Registry::new();
        let opts = HistogramOpts::new("broker_run_seconds", "Ours").buckets(vec![1.0, 5.0]);
        let runs = HistogramVec::new(opts, &["kind"]).unwrap();
        registry.register(Box::new(runs.clone())).unwrap();
        runs.with_label_values(&["census"]).observe(0.5);
        assert!(lines(&registry, &["broker_sync_duration"]).is_empty(), "no sync has run");
        for seconds in [0.5, 2.0, 2.5] {
            runs.with_label_values(&["sync"]).observe(seconds);
        }
        assert_eq!(
            lines(&registry, &["broker_sync_duration"]),
            [
                r#"broker_sync_duration_seconds_bucket{le="1"} 1"#,
                r#"broker_sync_duration_seconds_bucket{le="5"} 3"#,
                r#"broker_sync_duration_seconds_bucket{le="+Inf"} 3"#,
                "broker_sync_duration_seconds_sum 5",
                "broker_sync_duration_seconds_count 3",
            ]
        );
    }

    #[test]
    fn former_names_follow_the_setting_and_their_metric() {
        let registry = Registry::new();
        assert!(
            Exporter::new(registry.clone(), true).gather().is_empty(),
            "a role without our metric has none"
        );
        let lost = IntCounter::new("broker_allocator_lost_races_total", "Ours").unwrap();
        registry.register(Box::new(lost)).unwrap();
        assert_eq!(lines(&registry, &["broker_allocate_conflicts"]), ["broker_allocate_conflicts_total 0"]);
        assert_eq!(Exporter::new(registry, false).gather().len(), 1);
    }
}
