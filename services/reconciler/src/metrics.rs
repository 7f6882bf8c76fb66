//! What a reconciler counts: every name, help text, label and bucket.

use common::contract::{Report, TickKind};
use common::runtime::metrics::{Collectors, register_all};
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// The numbers of all reconcilers of a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    runs: IntCounterVec,
    sandboxes: IntCounterVec,
    allocated_missing: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let runs = IntCounterVec::new(
            Opts::new("broker_runs_total", "Runs of the reconciler, by kind and status"),
            &["kind", "status"],
        )?;
        let sandboxes = IntCounterVec::new(
            Opts::new(
                "broker_reconciled_total",
                "Sandboxes that a run changed or could not use, by kind of run and what happened",
            ),
            &["kind", "what"],
        )?;
        let allocated_missing = IntGauge::new(
            "broker_allocated_missing",
            "Sandboxes that are held but were not listed by the provider at the last sync",
        )?;
        let metrics = Self { runs, sandboxes, allocated_missing };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self { runs, sandboxes, allocated_missing } = self.clone();
        vec![Box::new(runs), Box::new(sandboxes), Box::new(allocated_missing)]
    }

    pub(crate) fn ran(&self, kind: TickKind, report: &Report) {
        let (status, counts): (&str, &[(&str, u64)]) = match report {
            Report::Sync(report) => {
                self.allocated_missing.set(i64::try_from(report.allocated_missing).unwrap_or(i64::MAX));
                let counts = &[
                    ("inserted", report.inserted),
                    ("restored", report.restored),
                    ("refreshed", report.refreshed),
                    ("marked_stale", report.marked_stale),
                    ("tombstoned", report.tombstoned),
                    ("skipped", report.skipped),
                    ("raced", report.raced),
                ];
                return self.count(kind, &report.status, counts);
            }
            Report::Expiry(report) => (
                &report.status,
                &[("expired", report.expired), ("raced", report.raced), ("unannounced", report.unannounced)],
            ),
            Report::Sweep(report) => {
                let counts = &[
                    ("reannounced", report.reannounced),
                    ("unqueued", report.unqueued),
                    ("reparked", report.reparked),
                    ("unparked", report.unparked),
                ];
                return self.count(kind, &report.status, counts);
            }
        };
        self.count(kind, status, counts);
    }

    fn count(&self, kind: TickKind, status: &str, counts: &[(&str, u64)]) {
        self.runs.with_label_values(&[kind.as_str(), status]).inc();
        for (what, count) in counts {
            self.sandboxes.with_label_values(&[kind.as_str(), what]).inc_by(*count);
        }
    }
}
