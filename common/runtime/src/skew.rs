//! The clock of a role as a metric and as a condition of its readiness.

use super::check::Check;
use super::metrics::{Collectors, register_all};
use crate::server_time::ServerTime;
use async_trait::async_trait;
use prometheus::{Gauge, Registry};
use std::sync::Arc;

/// The clock difference of this process.
#[derive(Clone, Debug)]
pub struct ClockMetrics {
    skew_seconds: Gauge,
}

/// Ready while the clock of this process is right, or nothing has been measured.
#[derive(Debug)]
pub struct ClockCheck(pub Arc<ServerTime>);

// === impl ClockMetrics ===

impl ClockMetrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            skew_seconds: Gauge::new(
                "broker_clock_skew_seconds",
                "By how much the clock of this process is ahead of the clock of NATS; negative: behind; NaN: not \
                 measured",
            )?,
        };
        metrics.skew_seconds.set(f64::NAN);
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self { skew_seconds } = self.clone();
        vec![Box::new(skew_seconds)]
    }

    /// Updates the metric.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a skew")]
    pub fn show(&self, time: &ServerTime) {
        self.skew_seconds.set(time.skew_ms().map_or(f64::NAN, |skew_ms| skew_ms as f64 / 1_000.0));
    }
}

// === impl ClockCheck ===

#[async_trait]
impl Check for ClockCheck {
    fn name(&self) -> &'static str {
        "clock"
    }

    async fn check(&self) -> Result<(), String> {
        self.0.problem().map_or(Ok(()), Err)
    }
}
