//! One pool, one clock, one queue, and as many allocators on them as a test needs.

use crate::engines::Engine;
use allocator::{Allocator, Config, Metrics, Ports};
use contract::{
    AllocateRequest, Allocation, FaultCode, Outcome, ReleaseReply, ReleaseRequest, StatsReply, Verb,
};
use domain::{
    Candidate, ClaimKey, ClaimRecord, ExternalId, IdempotencyKey, LeasePolicy, NewSandbox, OwnerId, PoolKind,
    PoolName, PoolSpec, PoolState, Pools, ProviderName, Sandbox, SandboxId, SandboxName, StateName,
    TemplateVersion, UnixSeconds,
};
use harness::deletions::RecordedDeletions;
use ports::bus::{Attempt, Context, Handler as _, Request};
use ports::clock::Clock as _;
use ports::provider::Providers;
use ports::random::Rng;
use ports::store::{Insert, SortRange, StateQuery, Store, Write};
use prometheus::Registry;
use runtime::pools::PoolWatch;
use runtime::recorder::{EventLogMetrics, Recorder};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use testkit::bus::{MemoryBus, MemoryConfig};
use testkit::clock::ManualClock;

pub(crate) const START: UnixSeconds = UnixSeconds::new(1_800_000_000);
pub(crate) const POOL: &str = "main";
/// The length of every lease here.
pub(crate) const LEASE: Duration = Duration::from_secs(4 * 3_600);
/// The grace period after a lease's end.
pub(crate) const GRACE: Duration = Duration::from_secs(1_800);
/// The timeout of a request in a test that is not about time: more than the slowest machine needs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What the processes of a test share.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: ManualClock,
    pub(crate) deletions: Arc<RecordedDeletions>,
    /// The sandboxes are numbered from 1.
    sandbox_count: AtomicU64,
    seed: AtomicU64,
    /// The value of `POOLS`.
    pools: &'static str,
    /// The pools of containers, instead of those.
    created: Vec<PoolSpec>,
    /// The bus that takes the work of every process which creates sandboxes.
    pub(crate) provisions: Arc<MemoryBus>,
}

/// An allocator with separate caches, random numbers and metrics.
#[derive(Clone)]
pub(crate) struct Process {
    allocator: Arc<Allocator>,
    clock: ManualClock,
    registry: Registry,
    /// The pool of claims that name none; the default one if there is one.
    pool: Option<String>,
}

/// The lease that an owner got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lent {
    pub(crate) outcome: Outcome,
    /// The body as sent: a repeat must be equal byte for byte.
    pub(crate) body: bytes::Bytes,
    pub(crate) allocation: Allocation,
}

/// The outcome of a claim.
pub(crate) type Answered = Result<Lent, FaultCode>;

pub(crate) fn id(number: u64) -> SandboxId {
    SandboxId::parse(&number.to_string()).unwrap()
}

/// The key of an owner that sends none.
pub(crate) fn key_of(owner: &str) -> ClaimKey {
    ClaimKey { owner: OwnerId::parse(owner).unwrap(), key: IdempotencyKey::parse(owner).unwrap() }
}

pub(crate) fn new_sandbox(number: u64) -> NewSandbox {
    NewSandbox {
        id: id(number),
        name: SandboxName::parse(&format!("lab-{number:04}")).unwrap(),
        external_id: ExternalId::parse(&format!("identity/accounts/u-{number}")).unwrap(),
        pool: PoolName::parse(POOL).unwrap(),
        descriptor: domain::Descriptor::default(),
    }
}

pub(crate) fn lease_policy() -> LeasePolicy {
    LeasePolicy {
        duration: LEASE,
        duration_max: Duration::from_secs(48 * 3_600),
        total_max: Duration::from_secs(72 * 3_600),
        grace: GRACE,
    }
}

/// The version of the template of every pool of containers.
pub(crate) const TEMPLATE: &str = "shell@1";
/// The names of the pools of containers; the first one is that of [`claim_of`] with a pool.
pub(crate) const CONTAINER_POOLS: [&str; 2] = [POOL, "other"];

fn memory_bus(clock: &ManualClock) -> Arc<MemoryBus> {
    let (clock, rng) = (Arc::new(clock.clone()), Arc::new(Rng::seeded(0)));
    Arc::new(MemoryBus::new(MemoryConfig::default(), clock, rng))
}

fn nodes() -> ProviderName {
    ProviderName::parse("nodes").unwrap()
}

fn container_pool(name: &str) -> PoolSpec {
    let name = PoolName::parse(name).unwrap();
    let accounts = PoolSpec::of_accounts(name, nodes(), None);
    PoolSpec { kind: PoolKind::Container, template: Some("shell".to_owned()), ..accounts }
}

/// A claim without options.
pub(crate) fn claim_of(owner: &str) -> AllocateRequest {
    AllocateRequest { owner: owner.to_owned(), lab: Some("lab-a".to_owned()), ..AllocateRequest::default() }
}

// === impl World ===

impl World {
    /// A world of `sandbox_count` free sandboxes whose random numbers follow from `seed`.
    pub(crate) async fn new(engine: Engine, sandbox_count: u64, seed: u64) -> Self {
        Self::over(engine.fresh_store().await, sandbox_count, seed).await
    }

    /// A world over that store.
    pub(crate) async fn over(store: Arc<dyn Store>, sandbox_count: u64, seed: u64) -> Self {
        let clock = ManualClock::at(START);
        let world = Self {
            store,
            provisions: memory_bus(&clock),
            clock,
            deletions: Arc::default(),
            sandbox_count: AtomicU64::new(0),
            // Far from the next test's seeds, because every process takes one.
            seed: AtomicU64::new(seed * 1_000),
            pools: POOL,
            created: Vec::new(),
        };
        for _ in 0..sandbox_count {
            world.add().await;
        }
        world
    }

    /// A world of empty pools of containers.
    pub(crate) async fn of_containers(engine: Engine, seed: u64) -> Self {
        let created = CONTAINER_POOLS.map(container_pool).to_vec();
        Self { created, ..Self::new(engine, 0, seed).await }
    }

    /// The same world, whose later processes know that a pool is being drained.
    pub(crate) fn drain(&mut self, pool: &str) {
        for spec in self.created.iter_mut().filter(|spec| spec.name.as_str() == pool) {
            spec.state = PoolState::Draining;
        }
    }

    /// A free container.
    pub(crate) async fn add_container(&self, pool: &str) -> Sandbox {
        let now = self.clock.now();
        let id = SandboxId::parse(&format!("ctr_{}", self.seed.fetch_add(1, Ordering::SeqCst))).unwrap();
        let new = NewSandbox {
            name: SandboxName::parse(id.as_str()).unwrap(),
            external_id: ExternalId::of(&nodes(), id.as_str()).unwrap(),
            id,
            pool: PoolName::parse(pool).unwrap(),
            descriptor: domain::Descriptor::parse([(domain::Descriptor::TEMPLATE, TEMPLATE)]).unwrap(),
        };
        let wanted = new.provision(None, now);
        self.store.create(&wanted).await.unwrap();
        match self.store.finish_provision(&wanted, &wanted.descriptor, now).await.unwrap() {
            Write::Done(made) => *made,
            Write::Lost(found) => panic!("lost to {found:?}"),
        }
    }

    /// Every container that is not deleted.
    async fn containers(&self) -> Vec<Sandbox> {
        let mut containers = Vec::new();
        for spec in &self.created {
            for &state in StateName::indexed(Some(PoolKind::Container)) {
                for shard in 0..self.store.shards().await.unwrap() {
                    let query = StateQuery { pool: spec.name.clone(), state, shard, range: SortRange::All };
                    containers.extend(self.store.page(&query, None, 1_000).await.unwrap().sandboxes);
                }
            }
        }
        containers
    }

    /// The same world with these pools.
    pub(crate) fn with_pools(self, pools: &'static str) -> Self {
        Self { pools, ..self }
    }

    /// Adds one more sandbox.
    pub(crate) async fn add(&self) -> Sandbox {
        let number = self.sandbox_count.fetch_add(1, Ordering::SeqCst) + 1;
        match self.store.insert(&new_sandbox(number), self.clock.now()).await.unwrap() {
            Insert::Inserted(sandbox) => *sandbox,
            found => panic!("there is already {found:?}"),
        }
    }

    /// One more process.
    pub(crate) fn process(&self) -> Process {
        self.process_over(Arc::clone(&self.store))
    }

    /// One more process, with its own connection to the store.
    pub(crate) fn process_over(&self, store: Arc<dyn Store>) -> Process {
        let config = Config {
            in_flight_max: 512,
            latency_target: Duration::from_millis(300),
            health: None,
            census_age_max: Duration::ZERO,
            tombstone_kept: Duration::from_secs(86_400),
            provision_attempts_max: 5,
        };
        let (clock, bus) = (Arc::new(self.clock.clone()), memory_bus(&self.clock));
        let metrics = EventLogMetrics::register(&Registry::new()).unwrap();
        let ports = Ports {
            clock: Arc::new(self.clock.clone()),
            random: Arc::new(Rng::seeded(self.seed.fetch_add(1, Ordering::SeqCst))),
            store,
            deletions: Arc::clone(&self.deletions) as _,
            provisions: Arc::clone(&self.provisions) as _,
            nodes: bus.clone(),
            deletion_control: bus.clone(),
            switch: bus.clone(),
            census: bus.clone(),
            upkeep: bus.clone(),
            recorder: Recorder::new(clock, bus, metrics),
            providers: Providers::default(),
            provider_names: Arc::new([ProviderName::csp()].into()),
            pools: self.pool_watch(),
        };
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let allocator = Arc::new(Allocator::new(config, ports, metrics));
        let pool = self.has_containers().then(|| POOL.to_owned());
        Process { allocator, clock: self.clock.clone(), registry, pool }
    }

    /// Whether its sandboxes are created.
    pub(crate) fn has_containers(&self) -> bool {
        !self.created.is_empty()
    }

    fn pool_watch(&self) -> PoolWatch {
        let specs =
            if self.created.is_empty() { Pools::parse(self.pools).unwrap() } else { self.created.clone() };
        let template = |spec: &PoolSpec| (spec.name.clone(), TemplateVersion::parse(TEMPLATE).unwrap());
        let templates = self.created.iter().map(template).collect();
        PoolWatch::new(specs, lease_policy()).with_templates(templates)
    }

    /// Every sandbox, read consistently.
    pub(crate) async fn sandboxes(&self) -> Vec<Sandbox> {
        let mut sandboxes = self.containers().await;
        for number in 1..=self.sandbox_count.load(Ordering::SeqCst) {
            let found = self.store.sandbox(&id(number)).await.unwrap();
            sandboxes.push(found.expect("sandboxes do not vanish"));
        }
        sandboxes
    }

    /// The sandboxes in that state.
    pub(crate) async fn in_state(&self, state: StateName) -> Vec<Sandbox> {
        self.sandboxes().await.into_iter().filter(|sandbox| sandbox.state.name() == state).collect()
    }

    /// The sandboxes that the owner holds under its default key; ended leases do not count.
    pub(crate) async fn held_by(&self, owner: &str) -> Vec<Sandbox> {
        let key = key_of(owner);
        let now = self.clock.now();
        let holds = |sandbox: &Sandbox| {
            sandbox.lease().is_some_and(|lease| lease.claim == key && !lease.is_over(now, GRACE))
        };
        self.sandboxes().await.into_iter().filter(holds).collect()
    }

    /// Lets `count` rivals take a sandbox each.
    pub(crate) async fn rivals(&self, count: u64) {
        let process = self.process();
        for number in 0..count {
            process.claim(&format!("rival-{number}")).await.expect("a rival gets one");
        }
    }

    /// Moves the clock until every current lease has ended.
    pub(crate) fn outlive_leases(&self) {
        self.clock.advance(LEASE + GRACE);
    }

    /// Deletes at the provider all sandboxes in deletion.
    pub(crate) async fn delete_pending(&self) {
        let now = self.clock.now();
        for sandbox in self.in_state(StateName::PendingDeletion).await {
            let purge_at = now.after(LEASE);
            self.store.finish_deletion(&sandbox.id, sandbox.epoch, now, purge_at, None).await.unwrap();
        }
    }

    /// Leaves a claim item of `owner` that names `candidate`, as an interrupted claim does.
    pub(crate) async fn leave_behind(&self, owner: &str, candidate: Candidate) {
        let record = ClaimRecord::new(key_of(owner), candidate);
        self.store.open_claim(&record, self.clock.now().after(LEASE * 100)).await.unwrap();
    }
}

// === impl Process ===

impl Process {
    pub(crate) async fn claim(&self, owner: &str) -> Answered {
        self.ask(&self.claim_of(owner), TIMEOUT).await
    }

    fn claim_of(&self, owner: &str) -> AllocateRequest {
        AllocateRequest { pool: self.pool.clone(), ..claim_of(owner) }
    }

    /// Claims in a pool.
    pub(crate) async fn claim_in(&self, owner: &str, pool: &str) -> Answered {
        self.ask(&AllocateRequest { pool: Some(pool.to_owned()), ..claim_of(owner) }, TIMEOUT).await
    }

    /// Claims with options and waits no longer than `timeout`.
    pub(crate) async fn ask(&self, request: &AllocateRequest, timeout: Duration) -> Answered {
        self.ask_with_key(request, None, timeout).await
    }

    /// Attempt `number` at a request of that owner.
    pub(crate) async fn attempt(&self, owner: &str, request_key: &str, number: Option<u32>) -> Answered {
        let attempt = Attempt { request_key: request_key.to_owned(), number };
        self.answer_to(&self.claim_of(owner), None, Some(attempt), TIMEOUT).await
    }

    /// The same as [`Self::ask`], with a key beside the body.
    pub(crate) async fn ask_with_key(
        &self,
        request: &AllocateRequest,
        key: Option<&str>,
        timeout: Duration,
    ) -> Answered {
        self.answer_to(request, key, None, timeout).await
    }

    async fn answer_to(
        &self,
        request: &AllocateRequest,
        key: Option<&str>,
        attempt: Option<Attempt>,
        timeout: Duration,
    ) -> Answered {
        let body = serde_json::to_vec(request).unwrap().into();
        let mut request = self.request(Verb::Allocate, body, timeout);
        request.context.idempotency_key = key.map(ToOwned::to_owned);
        request.context.attempt = attempt;
        let answer = self.allocator.handle(request).await;
        let body = answer.body.map_err(|fault| fault.code)?;
        let outcome = answer.outcome.expect("a granted claim says whether it made the lease");
        let allocation = serde_json::from_slice(&body).unwrap();
        Ok(Lent { outcome, body, allocation })
    }

    pub(crate) async fn release(&self, sandbox_id: &str, owner: &str) -> Result<ReleaseReply, FaultCode> {
        self.release_lease(sandbox_id, owner, None).await
    }

    /// Releases the lease of that epoch.
    pub(crate) async fn release_lease(
        &self,
        sandbox_id: &str,
        owner: &str,
        lease_epoch: Option<u64>,
    ) -> Result<ReleaseReply, FaultCode> {
        let (sandbox_id, owner) = (sandbox_id.to_owned(), owner.to_owned());
        let request = ReleaseRequest { sandbox_id, owner, lease_epoch, by: None };
        self.plain(Verb::Release, serde_json::to_vec(&request).unwrap()).await
    }

    pub(crate) async fn stats(&self) -> Result<StatsReply, FaultCode> {
        self.plain(Verb::Stats, Vec::new()).await
    }

    /// Rounds over the index so far.
    pub(crate) fn rounds(&self) -> u64 {
        self.counter("broker_allocator_candidate_rounds_total")
    }

    /// Candidates so far that turned out to be taken.
    pub(crate) fn lost_races(&self) -> u64 {
        self.counter("broker_allocator_lost_races_total")
    }

    /// Sends any other request.
    pub(crate) async fn plain<T: DeserializeOwned>(&self, verb: Verb, body: Vec<u8>) -> Result<T, FaultCode> {
        let answer = self.allocator.handle(self.request(verb, body.into(), TIMEOUT)).await;
        let body = answer.body.map_err(|fault| fault.code)?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    fn request(&self, verb: Verb, body: bytes::Bytes, timeout: Duration) -> Request {
        let patience_ms = u64::try_from(timeout.as_millis()).unwrap();
        let context = Context {
            request_id: "request-of-the-test".to_owned(),
            deadline_ms: Some(self.clock.now_ms() + patience_ms),
            traceparent: None,
            idempotency_key: None,
            attempt: None,
            principal: contract::Principal::default(),
        };
        Request { verb, context, body }
    }

    fn counter(&self, name: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("a known metric");
        family.get_metric()[0].get_counter().get_value() as u64
    }
}

// === impl Lent ===

impl Lent {
    pub(crate) fn id(&self) -> SandboxId {
        SandboxId::parse(&self.allocation.sandbox_id).unwrap()
    }

    /// Whether this is the right answer to the holder of `sandbox`.
    pub(crate) fn shows(&self, sandbox: &Sandbox) -> bool {
        Allocation::of(sandbox).as_ref() == Some(&self.allocation)
    }
}
