//! The reconciler: runs on ticks and brings table, queue and event log in line with each other and with the provider.
//!
//! # Consumes
//! Ticks, one at a time for each kind in the whole fleet.
//!
//! # Produces
//! Sandboxes in the pools; deletion work for expired leases and for lost work; lost copies of parked deletions;
//! tombstones of sandboxes that the provider has not listed for long; the census; events; reports; ticks that repeat
//! failed runs; the period that pools ask for, and turns of the providers' listings.
//!
//! # Calls
//! The provider's listing; the store.
//!
//! # Guarantees
//! Every run can be repeated, interrupted and run concurrently without harm: all writes are conditional. A listing that
//! is empty, short or broken never costs the pool more than a set share.
//!
//! # Never
//! Scans the table (except for tombstones, once after the event log was lost), deletes at the provider, or changes a
//! held sandbox except to end a lease that is over. A violated invariant of leases is reported and never repaired: that
//! needs an operator.

mod census;
mod expiry;
mod fill;
mod identity;
mod listing;
mod metrics;
mod nodes;
mod periods;
mod plan;
mod repeats;
mod stale;
mod sweep;
mod sync;
mod ticks;

use async_trait::async_trait;
use contract::{Report, TickKind, TickOrder};
use domain::{PoolKind, ProviderName};
use ports::bus::{
    BusError, CensusStore, Deletions, NodeRequests, Provisions, Runner, SwitchCache, TickQueue, TickTurns,
    Ticks, Upkeep,
};
use ports::clock::Clock;
use ports::provider::Providers;
use ports::random::Random;
use ports::store::Store;
use repeats::Repeats;
use runtime::policy::{read_stale_kept, read_tombstone_kept};
use runtime::pools::PoolWatch;
use runtime::recorder::Recorder;
use runtime::settings::Settings;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use ticks::{TICKS, Tick};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use metrics::Metrics;
pub use plan::{Belief, Limits, Listed, Plan, Planner, Refusal, Sighted, plan};
pub use ticks::ticks;

/// The settings of a reconciler.
#[derive(Clone, Debug)]
pub struct Config {
    /// How much a sync may mark stale.
    pub limits: Limits,
    /// Age of a wanted deletion from which the sweep expects a message for it.
    pub sweep_after: Duration,
    /// How long a sandbox that the provider does not list is kept.
    pub stale_kept: Duration,
    /// How long a tombstone is kept: longer than any listing lags.
    pub tombstone_kept: Duration,
    /// How long the provider may list an account after it has accepted its deletion.
    pub listed_grace: Duration,
    /// Most free sandboxes that one run asks for in one pool.
    pub fill_burst: usize,
}

/// The ports of a reconciler.
#[derive(Clone)]
pub struct Ports {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Stores sandboxes.
    pub store: Arc<dyn Store>,
    /// List sandboxes.
    pub providers: Providers,
    /// The pools, and the rules of their leases.
    pub pools: PoolWatch,
    /// Accepts deletion work.
    pub deletions: Arc<dyn Deletions>,
    /// Accepts work that creates sandboxes.
    pub provisions: Arc<dyn Provisions>,
    /// Reaches the runners of nodes.
    pub nodes: Arc<dyn NodeRequests>,
    /// Ids of sandboxes that are to be created.
    pub random: Arc<dyn Random>,
    /// Repairs the queue and the parked messages.
    pub upkeep: Arc<dyn Upkeep>,
    /// The copy of the operators' switch that reapers read.
    pub switch: Arc<dyn SwitchCache>,
    /// Stores the last census.
    pub census: Arc<dyn CensusStore>,
    /// Turns of the providers' listings, and the periods that pools ask for.
    pub turns: Arc<dyn TickTurns>,
    /// Publishes events.
    pub recorder: Recorder,
    /// Starts a failed run again.
    pub ticks: Arc<dyn Ticks>,
}

/// A reconciler.
pub struct Reconciler {
    config: Config,
    ports: Ports,
    metrics: Metrics,
    verified: sweep::Verified,
    checked: census::Checked,
    identities: census::IdentitiesChecked,
    unpublished: stale::Unpublished,
    demand: fill::Demand,
    silence: nodes::Silence,
    /// The last known turn of each listing, and since when it is known on the monotonic clock.
    listings: parking_lot::Mutex<BTreeMap<ProviderName, (u64, Duration)>>,
    /// Held by a census, because a sync takes one as well.
    counting: tokio::sync::Mutex<()>,
}

/// Runs on the ticks of one kind.
struct KindRunner {
    reconciler: Arc<Reconciler>,
    tick: &'static Tick,
    repeats: Repeats,
}

// === impl Config ===

impl Config {
    /// Reads the settings of a reconciler.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let percent = settings.number(
            "SYNC_STALE_PERCENT_MAX",
            20,
            0..=100,
            "maximum share of the free sandboxes that one sync may mark stale, in percent; above it the sync is refused",
        );
        let always = settings.number(
            "SYNC_STALE_COUNT_ALWAYS",
            5,
            0..=1_000_000,
            "number of sandboxes that one sync may always mark stale, whatever their share",
        );
        let sweep_after = settings.seconds(
            "SWEEP_AFTER_SECONDS",
            30,
            0..=86_400,
            "age of a wanted deletion from which the sweep expects a message for it",
        );
        let limits = Limits { stale_percent_max: percent, stale_count_always: always };
        let stale_kept = read_stale_kept(settings);
        let tombstone_kept = read_tombstone_kept(settings);
        let listed_grace = settings.seconds(
            "DELETION_LISTED_SECONDS",
            1_800,
            0..=86_400,
            "how long the provider may still list an account after it accepted its deletion, before the account is deleted again; several sync periods",
        );
        let fill_burst = settings.size(
            "FILL_BURST_MAX",
            10,
            1..=1_000,
            "maximum number of free sandboxes that one run of fill asks for in one pool",
        );
        Self { limits, sweep_after, stale_kept, tombstone_kept, listed_grace, fill_burst }
    }
}

// === impl Reconciler ===

impl Reconciler {
    /// A reconciler that counts into `metrics`.
    #[must_use]
    pub fn new(config: Config, ports: Ports, metrics: Metrics) -> Self {
        let (verified, checked) = (sweep::Verified::default(), census::Checked::default());
        let identities = census::IdentitiesChecked::default();
        Self {
            config,
            ports,
            metrics,
            verified,
            checked,
            identities,
            unpublished: stale::Unpublished::default(),
            demand: fill::Demand::default(),
            silence: nodes::Silence::default(),
            listings: parking_lot::Mutex::default(),
            counting: tokio::sync::Mutex::default(),
        }
    }

    /// Every provider that may have accounts in the table, whether this process reaches it or not. One without a listing
    /// has none, unless a pool of accounts names it.
    pub(crate) fn every_provider(&self) -> BTreeSet<ProviderName> {
        let pools = self.ports.pools.current();
        let listed = pools.specs().iter().filter(|pool| pool.kind == PoolKind::Account);
        let of_pools = listed.map(|pool| pool.provider.clone());
        of_pools
            .chain(self.ports.providers.listing().map(|(name, _)| name.clone()))
            .chain([ProviderName::csp()])
            .collect()
    }

    /// Runs on ticks until `stop`; then finishes the current runs.
    ///
    /// # Errors
    /// [`BusError`] when the ticks cannot be consumed.
    pub async fn run<Q>(self, ticks: Arc<Q>, stop: CancellationToken) -> Result<(), BusError>
    where
        Q: TickQueue + 'static,
    {
        let (recorder, recorder_stop) = (self.ports.recorder.clone(), CancellationToken::new());
        let publishing = tokio::spawn({
            let recorder_stop = recorder_stop.clone();
            async move { recorder.publish_until(recorder_stop).await }
        });
        let ended = self.run_on_all(ticks, stop).await;
        recorder_stop.cancel();
        // The task ends by itself; if it failed, the sweep publishes the missing events.
        let _ = publishing.await;
        ended
    }

    /// Runs once as on a tick without an order; none if a reconciler does not run that kind.
    pub async fn run_once(&self, kind: TickKind) -> Option<Report> {
        let tick = TICKS.iter().find(|tick| tick.definition.kind == kind)?;
        Some(self.run_tick(tick, &TickOrder::default()).await)
    }

    async fn run_tick(&self, tick: &Tick, order: &TickOrder) -> Report {
        let _under_way = self.metrics.begin();
        let (kind, began) = (tick.definition.kind, self.ports.clock.monotonic());
        let report = (tick.run)(self, order).await;
        self.metrics.ran(kind, &report);
        let took = self.ports.clock.monotonic().saturating_sub(began);
        self.metrics.timed(kind, report.status(), self.ports.clock.now(), took);
        report
    }

    async fn run_on_all<Q>(self, ticks: Arc<Q>, stop: CancellationToken) -> Result<(), BusError>
    where
        Q: TickQueue + 'static,
    {
        let reconciler = Arc::new(self);
        let mut kinds = JoinSet::new();
        kinds.spawn({
            let (reconciler, stop) = (Arc::clone(&reconciler), stop.clone());
            async move {
                reconciler.show_census_until(stop).await;
                Ok(())
            }
        });
        kinds.spawn({
            let (reconciler, stop) = (Arc::clone(&reconciler), stop.clone());
            async move {
                reconciler.request_periods_until(stop).await;
                Ok(())
            }
        });
        for tick in &TICKS {
            let (reconciler, repeats) = (Arc::clone(&reconciler), Repeats::default());
            let runner = Arc::new(KindRunner { reconciler, tick, repeats });
            let (ticks, stop) = (Arc::clone(&ticks), stop.clone());
            kinds.spawn(async move { ticks.run_on_ticks(tick.definition.kind, runner, stop).await });
        }
        while let Some(ended) = kinds.join_next().await {
            ended.map_err(|source| BusError { operation: "run on ticks", source: Box::new(source) })??;
        }
        Ok(())
    }
}

// === impl KindRunner ===

#[async_trait]
impl Runner for KindRunner {
    async fn run(&self, order: &TickOrder) -> Report {
        let Self { reconciler, tick, repeats } = self;
        let report = reconciler.run_tick(tick, order).await;
        if let Report::Sync(sync) = &report
            && sync.inserted + sync.restored + sync.renewed + sync.marked_stale + sync.relisted > 0
        {
            // The counts are right when the report is there.
            reconciler.run_once(TickKind::CENSUS).await;
        }
        if !order.force {
            repeats.note(&reconciler.ports, tick.definition.kind, report.status());
        }
        report
    }
}

#[cfg(test)]
mod tests;
