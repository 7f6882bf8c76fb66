//! The allocator: answers requests; claims and releases sandboxes.
//!
//! # Consumes
//! Requests on `<prefix>.v1.*`, in a queue group: claims, releases, look-ups, and operators' requests.
//!
//! # Produces
//! Replies; deletion work for every sandbox that is released or replayed; work for creations; events.
//!
//! # Calls
//! The store, by conditional writes. The provider, only for health checks of candidates. The stored census, for
//! statistics and for the refusal of an exhausted pool.
//!
//! # Guarantees
//! A sandbox has at most one live lease, and an owner at most one for each idempotency key, whatever crashes or is
//! repeated. An answered release is never lost: the state in the store is the truth, and the sweep announces what this
//! service could not.
//!
//! # Never
//! Reads before it writes on the hot path (unless health checks are on), or waits for the queue before it replies.

mod admission;
mod allocate;
mod bounds;
mod bulk_delete;
mod candidates;
mod claims;
mod containers;
mod deadline;
mod deletions;
mod extend;
mod health;
mod listing;
mod lookup;
mod metrics;
mod node_orders;
mod nodes;
mod orders;
mod pools;
mod provisions;
mod release;
mod switch;

use admission::Permit;
use async_trait::async_trait;
use bytes::Bytes;
use contract::bounds::Bounded;
use contract::{Fault, FaultCode, Verb, WorkerRole};
use domain::{PoolName, ProviderName};
use ports::bus::{
    Answer, BusError, CensusStore, DeletionControl, Deletions, Dropped, Handler, NodeRequests, Provisions,
    Request, Serve, SwitchCache, Upkeep,
};
use ports::clock::Clock;
use ports::provider::Providers;
use ports::random::Random;
use ports::store::{Store, StoreError};
use runtime::policy::read_tombstone_kept;
use runtime::pools::PoolWatch;
use runtime::recorder::Recorder;
use runtime::requests::{
    self, encode, not_expected, page_limit, parse_actor, parse_operator, plain, store_fault,
};
use runtime::settings::Settings;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use admission::Admission;
pub use health::HealthConfig;
pub use metrics::Metrics;

/// Deadline of a request whose caller set none.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// A call to the store may take a second, and a claim makes two; without overload they take far less than this.
const LATENCY_TARGET_DEFAULT_MS: u64 = 300;
/// With pauses that double from a second on, a creation is parked after about a quarter of a minute.
const PROVISION_ATTEMPTS_MAX_DEFAULT: u64 = 5;
/// Requests in one allocator, waiting or running.
const HELD_MAX: usize = 32_768;
/// Reserved for sending the reply before the deadline.
const REPLY_TIME: Duration = Duration::from_millis(20);

/// The settings of an allocator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Most concurrent requests in this process.
    pub in_flight_max: usize,
    /// Average latency of a request above which the concurrency is reduced.
    pub latency_target: Duration,
    /// The health check of candidates; none if it is off.
    pub health: Option<HealthConfig>,
    /// Maximum age of a census for answering `stats`; zero to always count.
    pub census_age_max: Duration,
    /// How long a tombstone is kept.
    pub tombstone_kept: Duration,
    /// Attempts at the creation of a sandbox before it is parked.
    pub provision_attempts_max: u32,
}

/// The ports of an allocator.
#[derive(Clone)]
pub struct Ports {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
    /// Stores sandboxes and claims.
    pub store: Arc<dyn Store>,
    /// Accepts deletion work.
    pub deletions: Arc<dyn Deletions>,
    /// Accepts work that creates sandboxes.
    pub provisions: Arc<dyn Provisions>,
    /// Reaches the runners of nodes.
    pub nodes: Arc<dyn NodeRequests>,
    /// Shows and controls the deletions of the fleet.
    pub deletion_control: Arc<dyn DeletionControl>,
    /// The copy of the operators' switch that reapers read.
    pub switch: Arc<dyn SwitchCache>,
    /// The last census.
    pub census: Arc<dyn CensusStore>,
    /// The deletion queue and the parked messages.
    pub upkeep: Arc<dyn Upkeep>,
    /// Publishes events.
    pub recorder: Recorder,
    /// Check candidates; none where claims do not.
    pub providers: Providers,
    /// The providers that a pool may name.
    pub provider_names: Arc<BTreeSet<ProviderName>>,
    /// The pools, and the rules of their leases.
    pub pools: PoolWatch,
}

/// An allocator.
pub struct Allocator {
    config: Config,
    ports: Ports,
    candidates: Arc<candidates::Candidates>,
    metrics: Metrics,
    announcing: TaskTracker,
    admission: Admission,
    quarantines: health::Quarantines,
}

// === impl Config ===

impl Config {
    /// Reads the settings of an allocator.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let in_flight_max = settings.size(
            "ALLOCATOR_IN_FLIGHT_MAX",
            512,
            1..=65_536,
            "maximum number of concurrent requests in one process; the others wait (docs/architecture.md)",
        );
        let latency_target = settings.millis(
            "ALLOCATOR_LATENCY_TARGET_MS",
            LATENCY_TARGET_DEFAULT_MS,
            10..=5_000,
            "average latency of a request above which the concurrency is reduced, in milliseconds; well below STORE_ATTEMPT_TIMEOUT_MS",
        );
        let census_age_max = settings.seconds(
            "STATS_CENSUS_AGE_SECONDS_MAX",
            60,
            0..=86_400,
            "maximum age of a census for answering stats; beyond it, and always with 0, the index is counted, which has no labs",
        );
        let health = HealthConfig::read(settings);
        let tombstone_kept = read_tombstone_kept(settings);
        let provision_attempts_max = settings.number(
            "PROVISION_ATTEMPTS_MAX",
            PROVISION_ATTEMPTS_MAX_DEFAULT,
            1..=100,
            "attempts at the creation of a sandbox before it is parked",
        );
        let provision_attempts_max = u32::try_from(provision_attempts_max).unwrap_or(u32::MAX);
        Self { in_flight_max, latency_target, health, census_age_max, tombstone_kept, provision_attempts_max }
    }
}

// === impl Allocator ===

impl Allocator {
    /// An allocator that counts into `metrics`.
    #[must_use]
    pub fn new(config: Config, ports: Ports, metrics: Metrics) -> Self {
        let (clock, random, store) =
            (Arc::clone(&ports.clock), Arc::clone(&ports.random), Arc::clone(&ports.store));
        let offers_check = ports.providers.iter().any(|(_, provider)| provider.abilities().check);
        if config.health.is_some() && !offers_check {
            tracing::warn!(
                "HEALTH_CHECK_ENABLED is set, but the provider does not support it: no sandbox is checked"
            );
        }
        let admission = Admission::new(&config, &metrics);
        let candidates = Arc::new(candidates::Candidates::new(store, random, clock, metrics.clone()));
        Self {
            config,
            ports,
            candidates,
            metrics,
            announcing: TaskTracker::new(),
            admission,
            quarantines: health::Quarantines::default(),
        }
    }

    /// Shares `admission` with the other allocators of the process.
    #[must_use]
    pub fn sharing(self, admission: Admission) -> Self {
        Self { admission, ..self }
    }

    /// Serves requests until `stop`; then finishes what it has and returns.
    ///
    /// # Errors
    /// [`BusError`] when the bus cannot be served.
    pub async fn run(self, bus: &dyn Serve, stop: CancellationToken) -> Result<(), BusError> {
        let allocator = Arc::new(self);
        let (recorder, recorder_stop) = (allocator.ports.recorder.clone(), CancellationToken::new());
        let publishing = tokio::spawn({
            let recorder_stop = recorder_stop.clone();
            async move { recorder.publish_until(recorder_stop).await }
        });
        let handler = Arc::clone(&allocator) as Arc<dyn Handler>;
        let served = bus.serve(WorkerRole::Allocator, handler, HELD_MAX, stop).await;
        allocator.announcing.close();
        allocator.announcing.wait().await;
        recorder_stop.cancel();
        // The task ends by itself; if it failed, the sweep publishes the missing events.
        let _ = publishing.await;
        served
    }

    /// Every pool that may have sandboxes.
    async fn every_pool(&self) -> Result<BTreeSet<PoolName>, StoreError> {
        let known = self.ports.pools.current().names().cloned().collect();
        self.ports.store.pools_with(&known).await
    }

    async fn answer(&self, request: &Request, permit: &Permit) -> Answer {
        let principal = match self.principal_of(request).await {
            Ok(principal) => principal,
            Err(fault) => return Answer { outcome: None, body: Err(fault) },
        };
        match request.verb {
            Verb::Allocate => match self.allocate(&principal, request, permit).await {
                Ok((outcome, allocation)) => Answer { outcome: Some(outcome), body: encode(&allocation) },
                Err(fault) => Answer { outcome: None, body: Err(fault) },
            },
            Verb::Release => plain(self.release(request).await),
            Verb::Get => plain(self.get(request).await),
            Verb::Stats => plain(self.stats(request).await),
            Verb::Health => plain(self.health(request).await),
            Verb::Deletions => plain(self.deletions(request).await),
            Verb::Parked => plain(self.parked(request).await),
            Verb::Deletion => plain(self.deletion(request).await),
            Verb::Replay => plain(self.replay(request).await),
            Verb::ReplayAll => plain(self.replay_all(request).await),
            Verb::Remove => plain(self.remove(request).await),
            Verb::ReplayProvision => plain(self.replay_provision(request).await),
            Verb::ReplayProvisions => plain(self.replay_provisions(request).await),
            Verb::Extend => plain(self.extend(request, permit).await),
            Verb::Quarantine => plain(self.quarantine(request).await),
            Verb::Unquarantine => plain(self.unquarantine(request).await),
            Verb::ForceRelease => plain(self.force_release(request).await),
            Verb::Sandboxes => plain(self.sandboxes(&principal.scope, request).await),
            Verb::Sandbox => plain(self.record(request).await),
            Verb::BulkDelete => plain(self.bulk_delete(&principal.scope, request).await),
            Verb::Pools => plain(self.pools(request).await),
            Verb::Pool => plain(self.pool(request).await),
            Verb::PutPool => plain(self.put_pool(request).await),
            Verb::DrainPool => plain(self.drain_pool(request).await),
            Verb::RemovePool => plain(self.remove_pool(request).await),
            Verb::Execute => plain(self.execute(request).await),
            Verb::Claim => match self.claim_with_view(&principal, request, permit).await {
                Ok((outcome, claim)) => Answer { outcome: Some(outcome), body: encode(&claim) },
                Err(fault) => Answer { outcome: None, body: Err(fault) },
            },
            Verb::Claims => plain(self.claims(&principal, request).await),
            Verb::ShowClaim => plain(self.show_claim(request).await),
            Verb::Runtime => plain(self.change_runtime(request).await),
            Verb::Nodes => plain(self.nodes(request).await),
            Verb::Node => plain(self.node(request).await),
            Verb::DrainNode => plain(self.drain_node(request, permit).await),
            Verb::ActivateNode => plain(self.activate_node(request, permit).await),
            Verb::RegisterNode => plain(self.register_node(request).await),
            Verb::NodePools => plain(self.node_pools(request).await),
            Verb::ProvisionWanted => plain(self.provision_wanted(request).await),
            Verb::Provisioned => plain(self.provisioned(request).await),
            Verb::ProvisionFailed => plain(self.provision_failed(request).await),
            Verb::Held => plain(self.held(request).await),
            // The bus delivers them to registries.
            Verb::Templates
            | Verb::Template
            | Verb::PutTemplate
            | Verb::RemoveTemplate
            | Verb::TemplateVersions => plain::<()>(Err(Fault::new(
                FaultCode::NoWorkers,
                "an allocator does not answer this request",
            ))),
            Verb::Pause => plain(self.pause(request).await),
            Verb::Resume => plain(self.resume(request).await),
        }
    }

    /// Waits for a permit for `request`. Health requests need none, because they matter most under overload; what waits for a
    /// node needs none, because it would look like a slow table.
    async fn admit(&self, request: &Request) -> Result<Permit, Fault> {
        match request.verb {
            Verb::Health | Verb::Execute | Verb::Runtime | Verb::Nodes | Verb::Node => {
                Ok(self.admission.pass())
            }
            _ => self.admission.enter(request, self.deadline_of(request).at()).await,
        }
    }

    /// The deadline of `request`, on this process's clock.
    fn deadline_of(&self, request: &Request) -> deadline::Deadline {
        let remaining = request.context.remaining(self.ports.clock.as_ref());
        let left = remaining.map_or(DEFAULT_DEADLINE, |left| left.saturating_sub(REPLY_TIME));
        deadline::Deadline::new(Instant::now() + left)
    }
}

#[async_trait]
impl Handler for Allocator {
    async fn handle(&self, request: Request) -> Answer {
        let started = Instant::now();
        let answer = match self.admit(&request).await {
            Ok(mut permit) => {
                let _under_way = self.metrics.begin();
                let answer = self.answer(&request, &permit).await;
                permit.note(request.verb, answer.body.as_ref().err().map(|fault| fault.code));
                answer
            }
            Err(fault) => Answer { outcome: None, body: Err(fault) },
        };
        self.metrics.answered(request.verb, &answer, started.elapsed());
        answer
    }

    fn dropped(&self, verb: Verb, request_id: &str, why: Dropped) {
        self.metrics.dropped(verb, request_id, why);
    }
}

fn decode<T: DeserializeOwned>(body: &Bytes) -> Result<T, Fault> {
    if !Bounded::<()>::may_bound(body) {
        return requests::decode(body);
    }
    // The scope of the caller, which was enforced already, is no part of the request itself.
    let mut fields: serde_json::Map<String, serde_json::Value> = requests::decode(body)?;
    fields.remove(Bounded::<()>::FIELD);
    serde_json::from_value(fields.into()).map_err(not_expected)
}
