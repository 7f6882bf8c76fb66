//! The scheduler: publishes ticks when they are due.
//!
//! # Consumes
//! The turns of each kind, the period that pools ask for, and the monotonic clock.
//!
//! # Produces
//! Turns, and one tick for each.
//!
//! # Calls
//! The turn of each kind in the bucket; the stream of ticks.
//!
//! # Guarantees
//! When the last turn is one period old (that of the settings, or a shorter one of pools), some scheduler takes the next one, whatever the wall clocks show. All publish
//! the tick of a turn with the same message id, and the stream keeps the first; so a scheduler that crashes in between
//! loses nothing.
//!
//! # Never
//! Knows which kinds there are or what a tick starts, or waits for it.

mod config;
mod schedule;

use contract::{TickKind, WorkerRole};
use ports::bus::{ServiceInfo, TickTurns, Ticks, WorkCounts};
use ports::clock::Clock;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use runtime::metrics::{Collectors, counted, gauge_value, register_all};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::Config;

/// The metrics of all schedulers of a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    ticks: IntCounterVec,
    last_tick: IntGaugeVec,
}

/// A scheduler.
#[derive(Clone)]
pub struct Scheduler {
    config: Config,
    clock: Arc<dyn Clock>,
    ticks: Arc<dyn Ticks>,
    turns: Arc<dyn TickTurns>,
    metrics: Metrics,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let ticks = IntCounterVec::new(
            Opts::new(
                "broker_ticks_total",
                "Ticks published, by kind and result: first, duplicate (another scheduler was first), failed",
            ),
            &["kind", "result"],
        )?;
        let last_tick = IntGaugeVec::new(
            Opts::new(
                "broker_last_tick_timestamp_seconds",
                "When the last tick of a kind was published, by this scheduler or another one, in Unix seconds",
            ),
            &["kind"],
        )?;
        let metrics = Self { ticks, last_tick };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self { ticks, last_tick } = self.clone();
        vec![Box::new(ticks), Box::new(last_tick)]
    }

    /// A tick was published at that time, in Unix seconds.
    fn ticked(&self, kind: TickKind, at_seconds: u64) {
        self.last_tick.with_label_values(&[kind.as_str()]).set(gauge_value(at_seconds));
    }

    fn count(&self, kind: TickKind, result: &str) {
        self.ticks.with_label_values(&[kind.as_str(), result]).inc();
    }
}

impl ServiceInfo for Metrics {
    fn role(&self) -> WorkerRole {
        WorkerRole::Scheduler
    }

    fn in_flight(&self) -> Option<u64> {
        None
    }

    fn total(&self) -> WorkCounts {
        let ticks = counted(&self.ticks);
        let failed = ticks.iter().filter(|(labels, _)| labels.ends_with(".failed"));
        WorkCounts::of(ticks.values().sum(), failed.map(|(_, count)| count).sum())
    }

    fn further(&self) -> Vec<(String, u64)> {
        counted(&self.ticks).into_iter().collect()
    }
}

// === impl Scheduler ===

impl Scheduler {
    /// A scheduler that counts into `metrics`.
    #[must_use]
    pub fn new(
        config: Config,
        clock: Arc<dyn Clock>,
        ticks: Arc<dyn Ticks>,
        turns: Arc<dyn TickTurns>,
        metrics: Metrics,
    ) -> Self {
        Self { config, clock, ticks, turns, metrics }
    }

    /// Publishes ticks until `stop`.
    ///
    /// # Errors
    /// Never; a failure is logged and retried.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut kinds = JoinSet::new();
        for (kind, rhythm) in self.config.rhythms.clone() {
            let scheduler = self.clone();
            let stop = stop.clone();
            kinds.spawn(async move {
                tokio::select! {
                    () = scheduler.publish_for_ever(kind, rhythm) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        while kinds.join_next().await.is_some() {}
        Ok(())
    }
}
