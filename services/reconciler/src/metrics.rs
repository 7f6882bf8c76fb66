//! The metrics of a reconciler: every name, help text, label and bucket.

use contract::RunStatus;
use contract::{Census, FillReport, NodesReport, PoolStats, Report, TickKind, WorkerRole};
use domain::{StateName, UnixSeconds};
use parking_lot::Mutex;
use ports::bus::{ServiceInfo, WorkCounts};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use runtime::metrics::{Collectors, InFlight, UnderWay, counted, gauge_value, register_all};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use strum::IntoEnumIterator as _;

/// An expiry without work takes some milliseconds, a sync of a large pool minutes.
const RUN_BUCKETS_SECONDS: [f64; 10] = [0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0];

/// The metrics of all reconcilers of a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    runs: Runs,
    sandboxes: IntCounterVec,
    allocated_missing: IntGauge,
    identity_changed: IntGauge,
    listing_unclear: IntGauge,
    census: CensusMetrics,
    in_flight: InFlight,
}

/// The metrics of runs of any kind.
#[derive(Clone, Debug)]
struct Runs {
    ended: IntCounterVec,
    seconds: HistogramVec,
    last_completed: IntGaugeVec,
    in_flight: IntGauge,
}

/// The metrics of the last census.
#[derive(Clone, Debug)]
struct CensusMetrics {
    counts: IntGaugeVec,
    oldest_deletion: IntGaugeVec,
    violations: IntGaugeVec,
    taken: IntGauge,
    /// Pools with exported counts.
    pools: Arc<Mutex<BTreeSet<String>>>,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let (runs, census) = (Runs::new()?, CensusMetrics::new()?);
        let sandboxes = IntCounterVec::new(
            Opts::new(
                "broker_reconciled_total",
                "Sandboxes by kind of run and what happened: changed in some way, unchanged, or not usable",
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
        let in_flight = InFlight::shown_by(&runs.in_flight);
        let metrics =
            Self { runs, sandboxes, allocated_missing, identity_changed, listing_unclear, census, in_flight };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self {
            runs: Runs { ended, seconds, last_completed, in_flight },
            sandboxes,
            allocated_missing,
            identity_changed,
            listing_unclear,
            census: CensusMetrics { counts, oldest_deletion, violations, taken, pools: _ },
            in_flight: _,
        } = self.clone();
        vec![
            Box::new(ended),
            Box::new(seconds),
            Box::new(last_completed),
            Box::new(in_flight),
            Box::new(sandboxes),
            Box::new(allocated_missing),
            Box::new(identity_changed),
            Box::new(listing_unclear),
            Box::new(counts),
            Box::new(oldest_deletion),
            Box::new(violations),
            Box::new(taken),
        ]
    }

    /// Counts a running run until the returned value is dropped.
    pub(crate) fn begin(&self) -> UnderWay {
        self.in_flight.begin()
    }

    /// Exports a census; the only code that sets these gauges. A census older than the exported one changes nothing.
    pub(crate) fn show(&self, census: &Census) {
        self.census.show(census);
    }

    /// A run has ended, at this time.
    pub(crate) fn timed(&self, kind: TickKind, status: RunStatus, at: UnixSeconds, took: Duration) {
        let Runs { seconds, last_completed, .. } = &self.runs;
        seconds.with_label_values(&[kind.as_str()]).observe(took.as_secs_f64());
        if status == RunStatus::Completed {
            last_completed.with_label_values(&[kind.as_str()]).set(gauge_value(at.get()));
        }
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
                    shown.set(gauge_value(count).max(before));
                }
                let counts = &[
                    ("inserted", report.inserted),
                    ("restored", report.restored),
                    ("refreshed", report.refreshed),
                    ("unchanged", report.unchanged),
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
            Report::Nodes(report) => return self.count(kind, report.status, &counts_of_nodes(report)),
            Report::Fill(report) => return self.count(kind, report.status, &counts_of_fill(report)),
            Report::Stale(report) => (
                report.status,
                &[("removed", report.removed), ("raced", report.raced), ("unreadable", report.unreadable)],
            ),
        };
        self.count(kind, status, counts);
    }

    fn count(&self, kind: TickKind, status: RunStatus, counts: &[(&str, u64)]) {
        self.runs.ended.with_label_values(&[kind.as_str(), status.as_str()]).inc();
        for (what, count) in counts {
            self.sandboxes.with_label_values(&[kind.as_str(), what]).inc_by(*count);
        }
    }
}

const fn counts_of_fill(report: &FillReport) -> [(&'static str, u64); 6] {
    [
        ("created", report.created),
        ("reannounced", report.reannounced),
        ("retired", report.retired),
        ("raced", report.raced),
        ("unannounced", report.unannounced),
        ("unreadable", report.unreadable),
    ]
}

const fn counts_of_nodes(report: &NodesReport) -> [(&'static str, u64); 4] {
    [
        ("retired", report.retired),
        ("raced", report.raced),
        ("unannounced", report.unannounced),
        ("unreadable", report.unreadable),
    ]
}

impl ServiceInfo for Metrics {
    fn role(&self) -> WorkerRole {
        WorkerRole::Reconciler
    }

    fn in_flight(&self) -> Option<u64> {
        Some(self.in_flight.now())
    }

    fn total(&self) -> WorkCounts {
        let runs = counted(&self.runs.ended);
        let failed =
            runs.iter().filter(|(labels, _)| labels.ends_with(&format!(".{}", RunStatus::Failed.as_str())));
        WorkCounts::of(runs.values().sum(), failed.map(|(_, count)| count).sum())
    }

    fn further(&self) -> Vec<(String, u64)> {
        counted(&self.runs.ended).into_iter().collect()
    }
}

// === impl Runs ===

impl Runs {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            ended: IntCounterVec::new(
                Opts::new("broker_runs_total", "Runs of the reconciler, by kind and status"),
                &["kind", "status"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("broker_run_seconds", "Time of a run of the reconciler, by kind")
                    .buckets(RUN_BUCKETS_SECONDS.to_vec()),
                &["kind"],
            )?,
            last_completed: IntGaugeVec::new(
                Opts::new(
                    "broker_last_run_timestamp_seconds",
                    "When the last completed run of a kind ended, in Unix seconds; each reconciler shows its own runs, so use the maximum",
                ),
                &["kind"],
            )?,
            in_flight: IntGauge::new(
                "broker_runs_in_flight",
                "Runs that are in progress; each kind runs once in the fleet",
            )?,
        })
    }
}

// === impl CensusMetrics ===

impl CensusMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            counts: IntGaugeVec::new(
                Opts::new("broker_sandboxes", "Sandboxes by pool and state, as the last census counted them"),
                &["pool", "state"],
            )?,
            oldest_deletion: IntGaugeVec::new(
                Opts::new(
                    "broker_oldest_deletion_timestamp_seconds",
                    "When the oldest pending deletion of a pool was asked for, in Unix seconds, as the last census found it; no series without one",
                ),
                &["pool"],
            )?,
            violations: IntGaugeVec::new(
                Opts::new(
                    "broker_invariant_violations",
                    "Violated invariants of leases and accounts that the last census has proved, by kind; alert on anything but 0",
                ),
                &["kind"],
            )?,
            taken: IntGauge::new(
                "broker_census_taken_at",
                "When the last census was taken, in Unix seconds; every reconciler shows the same",
            )?,
            pools: Arc::default(),
        })
    }

    fn show(&self, census: &Census) {
        let Census { taken_at, all: _, pools, labs: _, labs_left_out: _, violations, oldest_deletions } =
            census;
        let taken_at = gauge_value(*taken_at);
        let mut shown = self.pools.lock();
        if taken_at < self.taken.get() {
            return;
        }
        let counted: BTreeSet<String> = pools.keys().cloned().collect();
        for gone in shown.difference(&counted) {
            for state in StateName::iter() {
                // A state that is not counted has no series.
                let _ = self.counts.remove_label_values(&[gone, state.as_str()]);
            }
        }
        for done in shown.iter().filter(|pool| !oldest_deletions.contains_key(*pool)) {
            // It may have had none before.
            let _ = self.oldest_deletion.remove_label_values(&[done]);
        }
        *shown = counted;
        for (pool, stats) in pools {
            let mut stats: PoolStats = *stats;
            for state in StateName::iter() {
                if let Some(count) = stats.of_mut(state) {
                    self.counts.with_label_values(&[pool, state.as_str()]).set(gauge_value(*count));
                }
            }
        }
        for (pool, requested_at) in oldest_deletions {
            self.oldest_deletion.with_label_values(&[pool]).set(gauge_value(*requested_at));
        }
        for (kind, count) in violations {
            self.violations.with_label_values(&[kind.as_str()]).set(gauge_value(*count));
        }
        self.taken.set(taken_at);
    }
}
