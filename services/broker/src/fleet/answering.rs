//! The roles of this process that answer requests: allocators and the registry.

use super::{COMPARISON, Fleet};
use nats::{Maintenance, NatsBus};
use ports::bus::{CensusStore, DeletionControl, Deletions, SwitchCache, Upkeep};
use ports::provider::Providers;
use ports::store::Store;
use runtime::shutdown::Lifecycle;
use std::sync::Arc;

// === impl Fleet ===

impl Fleet {
    /// Starts an allocator.
    ///
    /// # Errors
    /// When it cannot be created.
    pub async fn start_allocator(
        &mut self,
        lifecycle: &mut Lifecycle,
        config: allocator::Config,
    ) -> anyhow::Result<()> {
        let bus = self.worker_bus("allocator").await?;
        let table = Arc::clone(self.table()?);
        let ports = allocator::Ports {
            clock: Arc::clone(&self.shared.clock),
            random: Arc::clone(&self.shared.random),
            store: Arc::clone(&table) as Arc<dyn Store>,
            deletions: Arc::new(bus.clone()) as Arc<dyn Deletions>,
            provisions: Arc::new(bus.clone()),
            nodes: Arc::new(bus.clone()),
            deletion_control: Arc::new(bus.clone()) as Arc<dyn DeletionControl>,
            switch: Arc::new(bus.clone()) as Arc<dyn SwitchCache>,
            census: Arc::new(bus.clone()) as Arc<dyn CensusStore>,
            upkeep: Arc::new(bus.clone()) as Arc<dyn Upkeep>,
            recorder: self.recorder(Arc::new(bus.clone()))?,
            providers: if config.health.is_some() { self.providers.clone() } else { Providers::default() },
            provider_names: Arc::new(self.backends.provider_names.clone()),
            pools: self.pools()?,
        };
        let metrics = self.metrics.allocator()?.of_another_worker();
        let admission =
            self.admission.get_or_insert_with(|| allocator::Admission::new(&config, &metrics)).clone();
        let allocator = allocator::Allocator::new(config, ports, metrics.clone()).sharing(admission);
        self.show(lifecycle, &bus, Arc::new(metrics));
        self.streams.noted_by.push(bus.clone());
        self.keep_streams(lifecycle, &bus, Maintenance::CreateMissing);
        let ready = self.ready_without_streams(lifecycle, "allocator", &bus)?;
        let stop = self.workers_stop.clone();
        lifecycle.start("allocator", async move {
            if ready.await? {
                allocator.run(&bus, stop).await?;
            }
            anyhow::Ok(())
        });
        Ok(())
    }

    /// Starts a registry.
    ///
    /// # Errors
    /// When it cannot be created.
    pub async fn start_registry(
        &mut self,
        lifecycle: &mut Lifecycle,
        config: registry::Config,
    ) -> anyhow::Result<()> {
        let bus = self.bus("registry").await?;
        let ports = registry::Ports {
            clock: Arc::clone(&self.shared.clock),
            store: Arc::clone(self.table()?) as Arc<dyn Store>,
        };
        let metrics = self.metrics.registries()?;
        self.show(lifecycle, &bus, Arc::new(metrics.clone()));
        self.keep_spread(lifecycle, &bus);
        let registry = registry::Registry::new(config, ports, metrics);
        let ready = self.ready_without_streams(lifecycle, "registry", &bus)?;
        let stop = self.workers_stop.clone();
        lifecycle.start("registry", async move {
            if ready.await? {
                registry.run(&bus, stop).await?;
            }
            anyhow::Ok(())
        });
        Ok(())
    }

    /// Waits until the table exists and was compared, for a role that needs no stream, so that the wait for NATS is
    /// limited; false if the stop came first. Until then the role is not ready.
    pub(super) fn ready_without_streams(
        &mut self,
        lifecycle: &mut Lifecycle,
        role: &'static str,
        bus: &NatsBus,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<bool>> + Send + use<>> {
        let (role_readiness, stop) = (self.role_readiness.clone(), self.workers_stop.clone());
        let opening = self.opening(lifecycle, bus)?;
        role_readiness.waits(role, "table");
        Ok(async move {
            if !opening.open(&stop).await? {
                return Ok(false);
            }
            role_readiness.waits(role, COMPARISON);
            let is_ready = opening.compared(true, &stop).await;
            if is_ready {
                role_readiness.works(role);
            }
            Ok(is_ready)
        })
    }
}
