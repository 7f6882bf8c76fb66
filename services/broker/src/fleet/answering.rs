//! The registry of this process, and what it shares with other roles that answer requests.

use super::{COMPARISON, Fleet};
use nats::NatsBus;
use ports::store::Store;
use runtime::shutdown::Lifecycle;
use std::sync::Arc;

// === impl Fleet ===

impl Fleet {
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
