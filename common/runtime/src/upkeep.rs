//! Metrics of upkeep: what had to be created or corrected at the server.

use crate::metrics::{Collectors, register_all};
use prometheus::{IntCounterVec, Opts, Registry};

/// Counters of created and corrected assets, for all connections of a process.
#[derive(Clone, Debug)]
pub struct UpkeepMetrics {
    mended: IntCounterVec,
}

// === impl UpkeepMetrics ===

impl UpkeepMetrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "Streams (the bucket is one of them) and consumers that this process made because they were missing, \
                    or put right because they had been edited; more than zero long after the first start: something \
                    was lost or changed";
        let opts = Opts::new("broker_nats_assets_mended_total", help);
        let metrics = Self { mended: IntCounterVec::new(opts, &["asset", "what"])? };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        vec![Box::new(self.mended.clone())]
    }

    /// Counts a created asset.
    pub fn made(&self, asset: &str) {
        self.mended.with_label_values(&[asset, "made"]).inc();
    }

    /// Counts a corrected asset.
    pub fn corrected(&self, asset: &str) {
        self.mended.with_label_values(&[asset, "corrected"]).inc();
    }
}
