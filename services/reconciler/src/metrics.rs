//! The metrics of a reconciler: every name, help text, label and bucket.

use contract::RunStatus;
use contract::{Census, PoolStats, Report, TickKind, WorkerRole};
use domain::StateName;
use parking_lot::Mutex;
use ports::bus::{ServiceInfo, WorkCounts};
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use runtime::metrics::{Collectors, InFlight, UnderWay, counted, register_all};
use std::collections::BTreeSet;
use std::sync::Arc;
use strum::IntoEnumIterator as _;

/// The metrics of all reconcilers of a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    runs: IntCounterVec,
    sandboxes: IntCounterVec,
    allocated_missing: IntGauge,
    identity_changed: IntGauge,
    listing_unclear: IntGauge,
    counts: IntGaugeVec,
    violations: IntGaugeVec,
    census_taken: IntGauge,
    /// Pools with exported counts.
    pools: Arc<Mutex<BTreeSet<String>>>,
    in_flight: InFlight,
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
        let identity_changed = IntGauge::new(
            "broker_identity_changed",
            "Sandboxes that are held or quarantined, and under whose id the provider listed another account at the last sync",
        )?;
        let listing_unclear = IntGauge::new(
            "broker_listing_unclear_entries",
            "Entries of the last listing that may be any sandbox; while there are some, nothing is marked stale",
        )?;
        let counts = IntGaugeVec::new(
            Opts::new("broker_sandboxes", "Sandboxes by pool and state, as the last census counted them"),
            &["pool", "state"],
        )?;
        let violations = IntGaugeVec::new(
            Opts::new(
                "broker_invariant_violations",
                "Violated invariants of leases and accounts that the last census has proved, by kind; alert on anything but 0",
            ),
            &["kind"],
        )?;
        let census_taken = IntGauge::new(
            "broker_census_taken_at",
            "When the last census was taken, in Unix seconds; every reconciler shows the same",
        )?;
        let (pools, in_flight) = (Arc::default(), InFlight::default());
        let metrics = Self {
            runs,
            sandboxes,
            allocated_missing,
            identity_changed,
            listing_unclear,
            counts,
            violations,
            census_taken,
            pools,
            in_flight,
        };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self {
            runs,
            sandboxes,
            allocated_missing,
            identity_changed,
            listing_unclear,
            counts,
            violations,
            census_taken,
            pools: _,
            in_flight: _,
        } = self.clone();
        vec![
            Box::new(runs),
            Box::new(sandboxes),
            Box::new(allocated_missing),
            Box::new(identity_changed),
            Box::new(listing_unclear),
            Box::new(counts),
            Box::new(violations),
            Box::new(census_taken),
        ]
    }

    /// Counts a running run until the returned value is dropped.
    pub(crate) fn begin(&self) -> UnderWay {
        self.in_flight.begin()
    }

    /// Exports a census; the only code that sets these gauges. A census older than the exported one changes nothing.
    pub(crate) fn show(&self, census: &Census) {
        let Census { taken_at, all: _, pools, labs: _, labs_left_out: _, violations } = census;
        let taken_at = gauge(*taken_at);
        let mut shown = self.pools.lock();
        if taken_at < self.census_taken.get() {
            return;
        }
        let counted: BTreeSet<String> = pools.keys().cloned().collect();
        for gone in shown.difference(&counted) {
            for state in StateName::iter() {
                // A state that is not counted has no series.
                let _ = self.counts.remove_label_values(&[gone, state.as_str()]);
            }
        }
        *shown = counted;
        for (pool, stats) in pools {
            let mut stats: PoolStats = *stats;
            for state in StateName::iter() {
                if let Some(count) = stats.of_mut(state) {
                    self.counts.with_label_values(&[pool, state.as_str()]).set(gauge(*count));
                }
            }
        }
        for (kind, count) in violations {
            self.violations.with_label_values(&[kind.as_str()]).set(gauge(*count));
        }
        self.census_taken.set(taken_at);
    }

    pub(crate) fn ran(&self, kind: TickKind, report: &Report) {
        let (status, counts): (RunStatus, &[(&str, u64)]) = match report {
            Report::Sync(report) => {
                for (shown, count) in [
                    (&self.allocated_missing, report.allocated_missing),
                    (&self.identity_changed, report.identity_changed),
                    (&self.listing_unclear, report.unclear),
                ] {
                    // What was not listed in this run counts as before.
                    let before = if report.not_due.is_empty() { 0 } else { shown.get() };
                    shown.set(gauge(count).max(before));
                }
                let counts = &[
                    ("inserted", report.inserted),
                    ("restored", report.restored),
                    ("refreshed", report.refreshed),
                    ("marked_stale", report.marked_stale),
                    ("tombstoned", report.tombstoned),
                    ("skipped", report.skipped),
                    ("raced", report.raced),
                    ("unreadable", report.unreadable),
                    ("renewed", report.renewed),
                    ("relisted", report.relisted),
                    ("identity_taken", report.identity_taken),
                    ("identities_dropped", report.identities_dropped),
                    ("withheld", report.withheld),
                ];
                return self.count(kind, report.status, counts);
            }
            Report::Expiry(report) => (
                report.status,
                &[
                    ("expired", report.expired),
                    ("raced", report.raced),
                    ("unannounced", report.unannounced),
                    ("unreadable", report.unreadable),
                ],
            ),
            Report::Sweep(report) => {
                let counts = &[
                    ("reannounced", report.reannounced),
                    ("unqueued", report.unqueued),
                    ("reparked", report.reparked),
                    ("unparked", report.unparked),
                    ("unreadable", report.unreadable),
                ];
                return self.count(kind, report.status, counts);
            }
            Report::Census(report) => {
                let counts = &[
                    ("claims_removed", report.claims_removed),
                    ("duplicates_quarantined", report.duplicates_quarantined),
                    ("unreadable", report.unreadable),
                ];
                return self.count(kind, report.status, counts);
            }
            Report::Stale(report) => (
                report.status,
                &[("removed", report.removed), ("raced", report.raced), ("unreadable", report.unreadable)],
            ),
        };
        self.count(kind, status, counts);
    }

    fn count(&self, kind: TickKind, status: RunStatus, counts: &[(&str, u64)]) {
        self.runs.with_label_values(&[kind.as_str(), status.as_str()]).inc();
        for (what, count) in counts {
            self.sandboxes.with_label_values(&[kind.as_str(), what]).inc_by(*count);
        }
    }
}

impl ServiceInfo for Metrics {
    fn role(&self) -> WorkerRole {
        WorkerRole::Reconciler
    }

    fn in_flight(&self) -> Option<u64> {
        Some(self.in_flight.now())
    }

    fn total(&self) -> WorkCounts {
        let runs = counted(&self.runs);
        let failed =
            runs.iter().filter(|(labels, _)| labels.ends_with(&format!(".{}", RunStatus::Failed.as_str())));
        WorkCounts::of(runs.values().sum(), failed.map(|(_, count)| count).sum())
    }

    fn further(&self) -> Vec<(String, u64)> {
        counted(&self.runs).into_iter().collect()
    }
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
