//! A reconciler on ports in memory, and what all its runs share: reports, metrics, ticks.

use crate::listing::{Skipped, Source};
use crate::{Config, Limits, Listed, Metrics, Ports, Reconciler};
use contract::RunStatus;
use contract::{DeletionWork, Report, TickKind};
use domain::{
    ClaimKey, ClaimRecord, ExternalId, Grant, IdempotencyKey, LabId, LeasePolicy, NewSandbox, OwnerId,
    PoolName, Pools, ProviderName, Sandbox, SandboxId, SandboxName, StateName, UnixSeconds,
};
use ports::bus::Ticks as _;
use ports::provider::{Account, ProviderError, Providers};
use ports::random::Rng;
use ports::store::{Insert, OpenClaim, SortRange, Store, Write};
use prometheus::Registry;
use runtime::pools::PoolWatch;
use runtime::recorder::{EventLogMetrics, Recorder};
use runtime::settings::Settings;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use testkit::bus::{MemoryBus, MemoryConfig};
use testkit::clock::ManualClock;
use testkit::faulty::FaultyStore;
use testkit::provider::FakeProvider;
use testkit::store::MemoryStore;
use tokio_util::sync::CancellationToken;

pub(crate) const NOW: UnixSeconds = UnixSeconds::new(1_763_683_200);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

pub(crate) const LEASES: LeasePolicy = LeasePolicy {
    duration: Duration::from_secs(4 * 3_600),
    duration_max: Duration::from_secs(48 * 3_600),
    total_max: Duration::from_secs(72 * 3_600),
    grace: Duration::from_secs(1_800),
};

/// A reconciler and its ports.
pub(crate) struct Rig {
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) bus: MemoryBus,
    pub(crate) provider: Arc<FakeProvider>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) faulty: Arc<FaultyStore>,
    pub(crate) clock: ManualClock,
    registry: Registry,
}

pub(crate) fn id(number: usize) -> SandboxId {
    SandboxId::parse(&number.to_string()).unwrap()
}

pub(crate) fn owner(number: usize) -> OwnerId {
    OwnerId::parse(&format!("student-{number}")).unwrap()
}

pub(crate) fn claim_key(number: usize) -> ClaimKey {
    ClaimKey { owner: owner(number), key: IdempotencyKey::parse("key").unwrap() }
}

/// The provider's entry of a sandbox.
pub(crate) fn account(number: usize) -> Account {
    Account {
        id: number.to_string(),
        external_id: format!("identity/accounts/u-{number}"),
        name: format!("lab-{number}"),
        descriptor: Vec::new(),
    }
}

/// A write that has to succeed.
pub(crate) fn done(write: Write) -> Sandbox {
    match write {
        Write::Done(sandbox) => *sandbox,
        Write::Lost(found) => panic!("lost to {found:?}"),
    }
}

// === impl Rig ===

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|store| store)
    }

    /// A rig with a faulty store. The test's own calls bypass the faults and are not counted.
    pub(crate) fn with(faults: impl FnOnce(FaultyStore) -> FaultyStore) -> Self {
        let clock = ManualClock::at(NOW);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(2));
        let faulty = Arc::new(faults(FaultyStore::new(Arc::clone(&store))));
        let provider = Arc::new(FakeProvider::new());
        let rng = Arc::new(Rng::seeded(7));
        let bus = MemoryBus::new(MemoryConfig::default(), Arc::new(clock.clone()), rng);
        let registry = Registry::new();
        let ports = Ports {
            clock: Arc::new(clock.clone()),
            store: faulty.clone(),
            providers: Providers::only(provider.clone()),
            pools: PoolWatch::new(Pools::parse("dns=dns-,main").unwrap(), LEASES),
            deletions: Arc::new(bus.clone()),
            provisions: Arc::new(bus.clone()),
            nodes: Arc::new(bus.clone()),
            random: Arc::new(Rng::seeded(9)),
            upkeep: Arc::new(bus.clone()),
            switch: Arc::new(bus.clone()),
            census: Arc::new(bus.clone()),
            turns: Arc::new(bus.clone()),
            ticks: Arc::new(bus.clone()),
            recorder: Recorder::new(
                Arc::new(clock.clone()),
                Arc::new(bus.clone()),
                EventLogMetrics::register(&registry).unwrap(),
            ),
        };
        let config = Config {
            limits: Limits { stale_percent_max: 20, stale_count_always: 5 },
            sweep_after: Duration::from_secs(30),
            stale_kept: 24 * HOUR,
            tombstone_kept: 30 * 24 * HOUR,
            listed_grace: HOUR / 2,
            fill_burst: 10,
        };
        let metrics = Metrics::register(&registry).unwrap();
        let reconciler = Arc::new(Reconciler::new(config, ports, metrics));
        Self { reconciler, bus, provider, store, faulty, clock, registry }
    }

    /// A run as started by a tick.
    pub(crate) async fn run(&self, kind: TickKind) -> Report {
        self.reconciler.run_once(kind).await.expect("a reconciler runs it")
    }

    /// Reads the pools of the table, as a process does every few seconds.
    pub(crate) async fn follow_pools(&self) {
        self.reconciler.ports.pools.refresh(self.store.as_ref()).await.unwrap();
    }

    /// Adds sandboxes to the pool and to the provider's listing.
    pub(crate) async fn fill(&self, count: usize) {
        self.provider.set_accounts((0..count).map(account).collect());
        for sandbox in self.listed().await.usable.values() {
            self.store.insert(sandbox, NOW).await.unwrap();
        }
    }

    /// The listing of the provider.
    pub(crate) async fn listed(&self) -> Listed {
        let name = ProviderName::csp();
        let source = Source { name: &name, provider: self.provider.as_ref() };
        self.reconciler.list(&source).await.unwrap()
    }

    /// Makes the provider list only these.
    pub(crate) fn list(&self, numbers: impl IntoIterator<Item = usize>) {
        self.provider.set_accounts(numbers.into_iter().map(account).collect());
    }

    /// Gives a sandbox to an owner of the same number, until `expires_at`.
    pub(crate) async fn allocate_until(&self, number: usize, expires_at: UnixSeconds) -> Sandbox {
        let candidate = self.sandbox(number).await.candidate();
        let record = ClaimRecord::new(claim_key(number), candidate);
        self.store.open_claim(&record, expires_at.after(HOUR)).await.unwrap();
        let ClaimRecord { claim, candidate, .. } = record;
        let grant = Grant {
            claim,
            candidate,
            lab: None,
            by: None,
            request: None,
            granted_at: NOW,
            expires_at,
            options: None,
        };
        done(self.store.grant(&grant).await.unwrap())
    }

    /// Adds a sandbox to a pool, whatever the provider lists.
    pub(crate) async fn add(&self, number: usize, pool: &str) -> Sandbox {
        let text = |beginning: &str| format!("{beginning}-{number}");
        let sandbox = NewSandbox {
            id: id(number),
            name: SandboxName::parse(&text("lab")).unwrap(),
            external_id: ExternalId::parse(&text("identity/accounts/u")).unwrap(),
            pool: PoolName::parse(pool).unwrap(),
            descriptor: domain::Descriptor::default(),
        };
        match self.store.insert(&sandbox, NOW).await.unwrap() {
            Insert::Inserted(sandbox) => *sandbox,
            found => panic!("{found:?}"),
        }
    }

    /// The two writes of a claim for that candidate.
    pub(crate) async fn claim(&self, seen: &Sandbox, claim: ClaimKey, lab: Option<&str>) -> Sandbox {
        let record = ClaimRecord::new(claim, seen.candidate());
        let opened = self.store.open_claim(&record, NOW.after(24 * HOUR)).await.unwrap();
        assert_eq!(opened, OpenClaim::Opened);
        self.grant(record, lab).await
    }

    /// Only the second of them.
    pub(crate) async fn grant(&self, record: ClaimRecord, lab: Option<&str>) -> Sandbox {
        let ClaimRecord { claim, candidate, .. } = record;
        let lab = lab.map(|lab| LabId::parse(lab).unwrap());
        let grant = Grant {
            claim,
            candidate,
            lab,
            by: None,
            request: None,
            granted_at: NOW,
            expires_at: NOW.after(4 * HOUR),
            options: None,
        };
        done(self.store.grant(&grant).await.unwrap())
    }

    /// Gives a sandbox to an owner for the usual time.
    pub(crate) async fn allocate(&self, number: usize) -> Sandbox {
        self.allocate_until(number, NOW.after(LEASES.duration)).await
    }

    /// Claims and releases a sandbox, and returns its deletion work, which is not announced.
    pub(crate) async fn release(&self, number: usize, now: UnixSeconds) -> DeletionWork {
        self.allocate(number).await;
        let released = self.store.release(&id(number), &owner(number), None, None, now).await.unwrap();
        DeletionWork::of(&done(released)).unwrap()
    }

    pub(crate) async fn sandbox(&self, number: usize) -> Sandbox {
        self.store.sandbox(&id(number)).await.unwrap().expect("a record")
    }

    pub(crate) async fn state(&self, number: usize) -> StateName {
        self.sandbox(number).await.state.name()
    }

    /// Sandboxes in a state, by the index.
    pub(crate) async fn in_state(&self, state: StateName) -> Vec<Sandbox> {
        let calls = self.faulty.calls().len();
        let mut walk = self.reconciler.walk(state, &SortRange::All).await.unwrap();
        let mut sandboxes = Vec::new();
        while let Some(page) = walk.next(&mut Skipped::default()).await.unwrap() {
            sandboxes.extend(page);
        }
        assert!(self.faulty.calls().len() > calls, "the index was read");
        sandboxes
    }

    /// The value of a counter or gauge with these labels; zero if it has no series.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        let found = metrics
            .iter()
            .find(|metric| metric.get_label().iter().map(|label| label.value()).eq(labels.iter().copied()));
        found.map_or(0, |metric| {
            let (counter, gauge) = (metric.get_counter().get_value(), metric.get_gauge().get_value());
            counter.max(gauge) as u64
        })
    }
}

/// Every error of a provider, and the reason in the report.
pub(crate) fn every_provider_error() -> Vec<(ProviderError, &'static str)> {
    let message = || "said so".to_owned();
    vec![
        (ProviderError::Unauthorized { message: message() }, "the provider refused our credentials: said so"),
        (
            ProviderError::Throttled { retry_after: None, message: message() },
            "the provider asks us to slow down: said so",
        ),
        (ProviderError::Failed { message: message() }, "the provider failed: said so"),
        (ProviderError::Unreachable { message: message() }, "the provider could not be reached: said so"),
        (
            ProviderError::UnknownOutcome { waited_seconds: 30 },
            "the provider did not answer within 30 s; the outcome is unknown",
        ),
        (
            ProviderError::Malformed { message: message() },
            "the provider's answer cannot be understood: said so",
        ),
        (ProviderError::Refused { message: message() }, "the provider refused: said so"),
    ]
}

#[tokio::test]
async fn tick_starts_its_run_and_publishes_the_report() {
    let rig = Rig::new();
    rig.list(0..3);
    let Rig { reconciler, bus, registry, .. } = rig;
    let stop = CancellationToken::new();
    let reconciler = Arc::into_inner(reconciler).expect("it has no other owner");
    let running = tokio::spawn(reconciler.run(Arc::new(bus.clone()), stop.clone()));
    for kind in crate::ticks().map(|tick| tick.kind) {
        let (_, reported) = bus.tick_and_wait(kind, HOUR).await.unwrap();
        let report = reported.expect("a report").report;
        match (&report, kind) {
            (Report::Sync(_), TickKind::SYNC)
            | (Report::Expiry(_), TickKind::EXPIRY)
            | (Report::Sweep(_), TickKind::SWEEP)
            | (Report::Census(_), TickKind::CENSUS)
            | (Report::Stale(_), TickKind::STALE)
            | (Report::Fill(_), TickKind::FILL)
            | (Report::Nodes(_), TickKind::NODES) => assert_eq!(report.status(), RunStatus::Completed),
            other => panic!("{other:?}"),
        }
        assert_eq!(bus.last_report(kind).await.unwrap().unwrap().report, report);
        let runs = registry.gather();
        let runs = runs.iter().find(|family| family.name() == "broker_runs_total").unwrap();
        assert!(runs.get_metric().iter().any(|metric| metric.get_label()[0].value() == kind.as_str()));
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn only_completed_runs_move_the_time_of_the_last_run() {
    let rig = Rig::new();
    rig.list(0..3);
    let last = || rig.metric("broker_last_run_timestamp_seconds", &["sync"]);
    rig.run(TickKind::SYNC).await;
    assert_eq!(last(), NOW.get());
    rig.clock.advance(HOUR);
    rig.provider.script_list(Err(ProviderError::Failed { message: "down".to_owned() }));
    assert_eq!(rig.run(TickKind::SYNC).await.status(), RunStatus::Failed);
    assert_eq!(last(), NOW.get());
    rig.run(TickKind::SYNC).await;
    assert_eq!(last(), NOW.after(HOUR).get());
    let runs = rig.registry.gather();
    let runs = runs.iter().find(|family| family.name() == "broker_run_seconds").unwrap();
    assert_eq!(runs.get_metric()[0].get_histogram().get_sample_count(), 3, "failed ones take time as well");
    assert_eq!(rig.metric("broker_runs_in_flight", &[]), 0);
}

#[test]
fn settings_have_their_documented_defaults() {
    let env = BTreeMap::new();
    let config = Config::read(&mut Settings::new(&env));
    assert_eq!(config.limits, Limits { stale_percent_max: 20, stale_count_always: 5 });
    assert_eq!((config.sweep_after, config.stale_kept), (Duration::from_secs(30), 24 * HOUR));
    assert_eq!(config.tombstone_kept, 30 * 24 * HOUR);
}
