//! The reaper: deletes sandboxes at their provider.
//!
//! # Consumes
//! Deletion work from the durable consumer of DELETIONS.
//!
//! # Produces
//! Scheduled retries; parked deletions; tombstones; events.
//!
//! # Calls
//! The provider, when the provider throttle admits the call, which for containers is the runner of their node; the store. The queue's depth, for its metrics.
//!
//! # Guarantees
//! A deletion leaves the queue only when the table says that it is finished, no longer wanted, or parked. A finished
//! deletion leaves the queue only when the event log has every event of its sandbox, because no process reads a
//! tombstone again. Work of an older epoch does nothing. An account that no longer exists counts as deleted. A sandbox
//! without a successful pre-clean is deleted only if the policy allows it, and its record says so.
//!
//! # Never
//! Deletes an account while an owner holds another record of it, or a sandbox whose deletion the table does not want at
//! that epoch; parks a deletion because of a failure that is not the sandbox's own; fetches work that the provider
//! throttle would not admit soon.

mod identity;
mod metrics;
mod nodes;
mod prepare;
mod reap;
mod throttle;
mod unthrottled;

use domain::ProviderName;
use ports::bus::{BusError, DeletionControl, DeletionQueue, Deletions, ProviderThrottle, Worker};
use ports::clock::Clock;
use ports::provider::Provider;
use ports::random::Random;
use ports::store::Store;
use runtime::policy::read_tombstone_kept;
use runtime::pools::PoolWatch;
use runtime::recorder::Recorder;
use runtime::settings::Settings;
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub use metrics::Metrics;
pub use nodes::Nodes;
pub use prepare::FailurePolicy;
pub use unthrottled::Unthrottled;

/// Time between two looks at the depth of the queue, for the metrics.
const QUEUE_SHOW_PERIOD: Duration = Duration::from_secs(10);

/// The settings of a reaper.
#[derive(Clone, Debug)]
pub struct Config {
    /// Most concurrent deletions in this process.
    pub in_flight_max: usize,
    /// Failed attempts after which a deletion is parked.
    pub attempts_max: u32,
    /// Delay before the second attempt; it doubles with each further one.
    pub retry_delay_min: Duration,
    /// Longest delay between two attempts.
    pub retry_delay_max: Duration,
    /// How long a tombstone is kept: longer than any listing lags.
    pub tombstone_kept: Duration,
    /// What happens to a deletion whose pre-clean fails.
    pub failure_policy: FailurePolicy,
}

/// The ports of a reaper.
#[derive(Clone)]
pub struct Ports {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
    /// Stores sandboxes.
    pub store: Arc<dyn Store>,
    /// Delete sandboxes, by name.
    pub providers: BTreeMap<ProviderName, ProviderPorts>,
    /// The pools, which name their providers.
    pub pools: PoolWatch,
    /// Stores parked deletions.
    pub deletions: Arc<dyn Deletions>,
    /// Shows the queue.
    pub deletion_control: Arc<dyn DeletionControl>,
    /// Publishes events.
    pub recorder: Recorder,
}

/// A provider, and what the fleet shares about it.
#[derive(Clone)]
pub struct ProviderPorts {
    /// The provider.
    pub provider: Arc<dyn Provider>,
    /// Its throttle in the fleet.
    pub throttle: Arc<dyn ProviderThrottle>,
}

/// A reaper.
pub struct Reaper {
    config: Config,
    ports: Ports,
    metrics: Metrics,
}

// === impl Config ===

impl Config {
    /// Reads the settings of a reaper.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let in_flight_max = settings.size(
            "REAPER_IN_FLIGHT_MAX",
            8,
            1..=1_000,
            "maximum number of concurrent deletions in one reaper, over all pools; DELETIONS_IN_FLIGHT_MAX limits each pool in the fleet",
        );
        let attempts_max = settings.number(
            "DELETION_ATTEMPTS_MAX",
            8,
            1..=100,
            "failed attempts after which a deletion is parked",
        );
        let retry_delay_min = settings.seconds(
            "DELETION_RETRY_SECONDS_MIN",
            10,
            1..=3_600,
            "delay before the second attempt at a deletion; it doubles with each further one",
        );
        let retry_delay_max = settings.seconds(
            "DELETION_RETRY_SECONDS_MAX",
            600,
            1..=86_400,
            "maximum delay between two attempts at a deletion",
        );
        let attempts_max = u32::try_from(attempts_max).unwrap_or(u32::MAX);
        Self {
            in_flight_max,
            attempts_max,
            retry_delay_min,
            retry_delay_max: retry_delay_max.max(retry_delay_min),
            tombstone_kept: read_tombstone_kept(settings),
            failure_policy: FailurePolicy::read(settings, attempts_max),
        }
    }
}

// === impl Reaper ===

impl Reaper {
    /// A reaper that counts into `metrics`.
    #[must_use]
    pub fn new(config: Config, ports: Ports, metrics: Metrics) -> Self {
        metrics.works_on(config.in_flight_max);
        Self { config, ports, metrics }
    }

    /// Works on deletions until `stop`; then finishes or returns what it has.
    ///
    /// # Errors
    /// [`BusError`] when the queue cannot be consumed.
    pub async fn run(self, queue: &dyn DeletionQueue, stop: CancellationToken) -> Result<(), BusError> {
        let in_flight_max = self.config.in_flight_max;
        let reaper = Arc::new(self);
        tokio::select! {
            ended = queue.consume(Arc::clone(&reaper) as Arc<dyn Worker>, in_flight_max, stop) => ended,
            never = reaper.show_queue() => match never {},
        }
    }

    /// Exports the depth of the queue.
    pub(crate) async fn show_queue(&self) -> Infallible {
        let mut shown = BTreeMap::new();
        loop {
            match self.ports.deletion_control.status().await {
                Ok(status) => {
                    self.metrics.show_queue(&shown, &status.pools);
                    shown = status.pools;
                }
                Err(error) => tracing::debug!(error = %Chain(&error), "the depth of the queue is unknown"),
            }
            self.ports.clock.sleep(QUEUE_SHOW_PERIOD).await;
        }
    }
}
