//! The metrics of the workers of a process.

use prometheus::Registry;
use runtime::recorder::EventLogMetrics;
use runtime::restored::TableMetrics;
use runtime::skew::ClockMetrics;
use runtime::upkeep::UpkeepMetrics;

/// The metrics of the workers, registered once however many workers there are.
pub(super) struct WorkerMetrics {
    pub(super) allocator: allocator::Metrics,
    pub(super) reaper: reaper::Metrics,
    pub(super) reconciler: reconciler::Metrics,
    pub(super) scheduler: scheduler::Metrics,
    pub(super) event_log: EventLogMetrics,
    pub(super) clock: ClockMetrics,
    pub(super) table: TableMetrics,
    pub(super) upkeep: UpkeepMetrics,
}

// === impl WorkerMetrics ===

impl WorkerMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            allocator: allocator::Metrics::register(registry)?,
            reaper: reaper::Metrics::register(registry)?,
            reconciler: reconciler::Metrics::register(registry)?,
            scheduler: scheduler::Metrics::register(registry)?,
            event_log: EventLogMetrics::register(registry)?,
            clock: ClockMetrics::register(registry)?,
            table: TableMetrics::register(registry)?,
            upkeep: UpkeepMetrics::register(registry)?,
        })
    }
}
