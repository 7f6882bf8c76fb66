//! The metrics of the workers of a process: each role has its own, and they exist once however many workers there are.

use prometheus::{Error, Registry};
use runtime::recorder::EventLogMetrics;
use runtime::restored::TableMetrics;
use runtime::skew::ClockMetrics;
use runtime::upkeep::UpkeepMetrics;

/// The metrics of the workers. All but those of the clock are registered by the first worker that has them, so that a
/// process exports no metric of another role.
pub(super) struct WorkerMetrics {
    registry: Registry,
    pub(super) clock: ClockMetrics,
    allocator: Option<allocator::Metrics>,
    registries: Option<registry::Metrics>,
    reaper: Option<reaper::Metrics>,
    runner: Option<runner::Metrics>,
    reconciler: Option<reconciler::Metrics>,
    scheduler: Option<scheduler::Metrics>,
    event_log: Option<EventLogMetrics>,
    table: Option<TableMetrics>,
    upkeep: Option<UpkeepMetrics>,
}

/// The metrics in `slot`, registered at the first call.
fn once<M: Clone>(
    slot: &mut Option<M>,
    registry: &Registry,
    register: impl FnOnce(&Registry) -> Result<M, Error>,
) -> Result<M, Error> {
    if let Some(metrics) = slot {
        return Ok(metrics.clone());
    }
    Ok(slot.insert(register(registry)?).clone())
}

// === impl WorkerMetrics ===

impl WorkerMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            registry: registry.clone(),
            clock: ClockMetrics::register(registry)?,
            allocator: None,
            registries: None,
            reaper: None,
            runner: None,
            reconciler: None,
            scheduler: None,
            event_log: None,
            table: None,
            upkeep: None,
        })
    }

    pub(super) fn allocator(&mut self) -> Result<allocator::Metrics, Error> {
        once(&mut self.allocator, &self.registry, allocator::Metrics::register)
    }

    pub(super) fn registries(&mut self) -> Result<registry::Metrics, Error> {
        once(&mut self.registries, &self.registry, registry::Metrics::register)
    }

    pub(super) fn reaper(&mut self) -> Result<reaper::Metrics, Error> {
        once(&mut self.reaper, &self.registry, reaper::Metrics::register)
    }

    pub(super) fn runner(&mut self) -> Result<runner::Metrics, Error> {
        once(&mut self.runner, &self.registry, runner::Metrics::register)
    }

    pub(super) fn reconciler(&mut self) -> Result<reconciler::Metrics, Error> {
        once(&mut self.reconciler, &self.registry, reconciler::Metrics::register)
    }

    pub(super) fn scheduler(&mut self) -> Result<scheduler::Metrics, Error> {
        once(&mut self.scheduler, &self.registry, scheduler::Metrics::register)
    }

    pub(super) fn event_log(&mut self) -> Result<EventLogMetrics, Error> {
        once(&mut self.event_log, &self.registry, EventLogMetrics::register)
    }

    pub(super) fn table(&mut self) -> Result<TableMetrics, Error> {
        once(&mut self.table, &self.registry, TableMetrics::register)
    }

    pub(super) fn upkeep(&mut self) -> Result<UpkeepMetrics, Error> {
        once(&mut self.upkeep, &self.registry, UpkeepMetrics::register)
    }
}
