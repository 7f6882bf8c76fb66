//! A reaper on ports in memory: a provider with scripted answers, a clock that the test moves.

use super::*;
use crate::{Config, FailurePolicy, Metrics, Ports, ProviderPorts};
use domain::{
    Candidate, ClaimKey, ExternalId, Grant, IdempotencyKey, LeasePolicy, NewSandbox, OwnerId, PoolName,
    Pools, ProviderName, SandboxName, StateName, UnixSeconds, Version,
};
use ports::bus::{Admission, DeletionControl as _, Permit, ProviderThrottle as _};
use ports::clock::Clock as _;
use ports::provider::{Account, ProviderError};
use ports::random::Rng;
use ports::store::Store;
use prometheus::Registry;
use runtime::pools::PoolWatch;
use runtime::recorder::{EventLogMetrics, Recorder};
use runtime::throttle::ThrottleRules;
use std::collections::BTreeMap;
use std::sync::Arc;
use testkit::bus::{MemoryBus, MemoryConfig};
use testkit::clock::{ManualClock, settle};
use testkit::faulty::FaultyStore;
use testkit::provider::{Call, FakeProvider};
use testkit::store::MemoryStore;
use tokio_util::sync::CancellationToken;

mod breakdowns;
mod concurrent_workers;
mod duplicates;
mod failures;
mod load;
mod parking;
mod preparation;
mod throttle;
mod wanted;

const NOW: UnixSeconds = UnixSeconds::new(1_763_683_200);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3_600);

const CONFIG: Config = Config {
    in_flight_max: 4,
    attempts_max: 3,
    retry_delay_min: Duration::from_secs(10),
    retry_delay_max: Duration::from_secs(600),
    tombstone_kept: Duration::from_secs(30 * 24 * 3_600),
    failure_policy: FailurePolicy::Block,
};

const RULES: ThrottleRules = ThrottleRules {
    per_minute_max: 600,
    per_minute_min: 60,
    failures_max: 5,
    open_min: Duration::from_secs(30),
    open_max: Duration::from_secs(60),
};

/// A reaper and its ports.
struct Rig {
    reaper: Arc<Reaper>,
    bus: MemoryBus,
    provider: Arc<FakeProvider>,
    store: Arc<dyn Store>,
    faulty: Arc<FaultyStore>,
    clock: ManualClock,
    registry: Registry,
}

fn id() -> SandboxId {
    SandboxId::parse("1").unwrap()
}

fn pool() -> PoolName {
    PoolName::parse("main").unwrap()
}

fn external_id() -> ExternalId {
    ExternalId::parse("identity/accounts/u-1").unwrap()
}

fn owner() -> OwnerId {
    OwnerId::parse("student-1").unwrap()
}

fn failed(message: &str) -> ProviderError {
    ProviderError::Failed { message: message.to_owned() }
}

fn delivery(work: &DeletionWork) -> Delivery {
    Delivery { work: work.clone(), deliveries: 1 }
}

// === impl Rig ===

impl Rig {
    async fn new() -> Self {
        Self::with(CONFIG, |store| store).await
    }

    /// A rig with another configuration and a faulty store. The rig's own calls are not counted.
    async fn with(config: Config, faults: impl FnOnce(FaultyStore) -> FaultyStore) -> Self {
        let clock = ManualClock::at(NOW);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(2));
        let faulty = Arc::new(faults(FaultyStore::new(Arc::clone(&store))));
        let provider = Arc::new(FakeProvider::new());
        let settings = MemoryConfig { throttle: RULES, ..MemoryConfig::default() };
        let random = Arc::new(Rng::seeded(7));
        let bus = MemoryBus::new(settings, Arc::new(clock.clone()), random.clone());
        let registry = Registry::new();
        let ports = Ports {
            clock: Arc::new(clock.clone()),
            random,
            store: faulty.clone(),
            providers: BTreeMap::from([(
                ProviderName::csp(),
                ProviderPorts { provider: provider.clone(), throttle: Arc::new(bus.clone()) },
            )]),
            pools: PoolWatch::new(Pools::parse("main").unwrap(), LeasePolicy::default()),
            deletions: Arc::new(bus.clone()),
            deletion_control: Arc::new(bus.clone()),
            recorder: Recorder::new(
                Arc::new(clock.clone()),
                Arc::new(bus.clone()),
                EventLogMetrics::register(&registry).unwrap(),
            ),
        };
        let metrics = Metrics::register(&registry).unwrap();
        let reaper = Arc::new(Reaper::new(config, ports, metrics));
        provider.add(Account {
            id: id().to_string(),
            external_id: external_id().to_string(),
            name: "lab-1".to_owned(),
            descriptor: Vec::new(),
        });
        let rig = Self { reaper, bus, provider, store, faulty, clock, registry };
        rig.insert().await;
        rig
    }

    async fn insert(&self) {
        let sandbox = NewSandbox {
            id: id(),
            name: SandboxName::parse("lab-1").unwrap(),
            external_id: external_id(),
            pool: pool(),
            descriptor: domain::Descriptor::default(),
        };
        self.store.insert(&sandbox, NOW).await.unwrap();
    }

    async fn allocate(&self) {
        let claim = ClaimKey { owner: owner(), key: IdempotencyKey::parse("student-1").unwrap() };
        let candidate = Candidate { id: id(), pool: pool(), version: Version::new(1) };
        let grant = Grant {
            claim,
            candidate,
            lab: None,
            by: None,
            request: None,
            granted_at: NOW,
            expires_at: NOW.after(DAY),
            options: None,
        };
        assert!(matches!(self.store.grant(&grant).await.unwrap(), Write::Done(_)));
    }

    /// The deletion work of a sandbox that was claimed and released.
    async fn released(&self) -> DeletionWork {
        self.allocate().await;
        match self.store.release(&id(), &owner(), None, None, NOW).await.unwrap() {
            Write::Done(sandbox) => DeletionWork::of(&sandbox).unwrap(),
            lost => panic!("{lost:?}"),
        }
    }

    /// Works on it a little later, when there is a slot again.
    async fn again(&self, work: &DeletionWork) -> Verdict {
        self.clock.advance(SECOND);
        self.reaper.work(delivery(work)).await
    }

    /// Starts to work on a delivery of this work.
    fn begin(&self, work: &DeletionWork) -> tokio::task::JoinHandle<Verdict> {
        let (reaper, delivery) = (Arc::clone(&self.reaper), delivery(work));
        tokio::spawn(async move { reaper.work(delivery).await })
    }

    /// Takes the next slot, as another reaper would.
    async fn slot(&self) -> Permit {
        match self.bus.acquire().await.unwrap() {
            Admission::Go { permit, .. } => permit,
            Admission::Later { wait, .. } => panic!("no slot for {wait:?}"),
        }
    }

    /// The provider asks another reaper to slow down.
    async fn hold(&self, span: Duration) {
        self.bus.report_outcome(self.slot().await, &id(), CallOutcome::SlowDown { span }).await.unwrap();
    }

    /// The state of the throttle for operators.
    async fn throttle_state(&self) -> String {
        self.bus.status().await.unwrap().state.to_string()
    }

    async fn sandbox(&self) -> Sandbox {
        self.store.sandbox(&id()).await.unwrap().expect("a record")
    }

    async fn state(&self) -> StateName {
        self.sandbox().await.state.name()
    }

    async fn attempts(&self) -> u32 {
        self.sandbox().await.deletion().expect("a deletion").attempts
    }

    fn deletes(&self) -> usize {
        self.provider.calls().iter().filter(|call| matches!(call, Call::Delete(_))).count()
    }

    /// The count of each outcome that occurred.
    fn outcomes(&self) -> Vec<(String, u64)> {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == "broker_deletions_total");
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        metrics
            .iter()
            .map(|metric| (metric.get_label()[0].value().to_owned(), metric.get_counter().get_value() as u64))
            .collect()
    }

    /// The value of a counter or gauge with these values of its labels, which are in the order of their names; none if it
    /// has no series.
    fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name)?;
        let is_it = |metric: &&prometheus::proto::Metric| {
            metric.get_label().iter().map(|label| label.value()).eq(labels.iter().copied())
        };
        let metric = family.get_metric().iter().find(is_it)?;
        Some(metric.get_counter().get_value().max(metric.get_gauge().get_value()))
    }

    fn assert_outcomes(&self, expected: &[(&str, u64)]) {
        let expected: Vec<_> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(self.outcomes(), expected);
    }

    /// Announces the work and lets a reaper run until the queue is empty, however long that takes on the clock.
    async fn work_through(&self, work: &DeletionWork) {
        let stop = CancellationToken::new();
        let consuming = tokio::spawn({
            let (bus, reaper, stop) = (self.bus.clone(), Arc::clone(&self.reaper), stop.clone());
            async move { ports::bus::DeletionQueue::consume(&bus, reaper, 4, stop).await }
        });
        ports::bus::Deletions::announce(&self.bus, work).await.unwrap();
        for _ in 0..2_000 {
            settle().await;
            if self.bus.queued_count() == 0 {
                stop.cancel();
                return consuming.await.unwrap().unwrap();
            }
            self.clock.advance(SECOND);
        }
        panic!("the queue never got empty: {:?}", self.bus.queued());
    }
}

#[tokio::test]
async fn pending_deletion_is_done_and_leaves_a_tombstone() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.clock.advance(SECOND);
    assert_eq!(rig.reaper.work(delivery(&work)).await, Verdict::Done);
    assert_eq!(rig.provider.calls(), [Call::PrepareDelete(external_id()), Call::Delete(external_id())]);
    assert_eq!(rig.provider.accounts(), []);
    let State::Deleted(tombstone) = rig.sandbox().await.state else { panic!("no tombstone") };
    assert_eq!(tombstone.deleted_at, NOW.after(SECOND));
    assert_eq!(tombstone.purge_at, NOW.after(SECOND).after(CONFIG.tombstone_kept));
    rig.assert_outcomes(&[("deleted", 1)]);
}

#[tokio::test]
async fn missing_account_counts_as_deleted() {
    let rig = Rig::new().await;
    rig.provider.set_accounts(Vec::new());
    let work = rig.released().await;
    assert_eq!(rig.reaper.work(delivery(&work)).await, Verdict::Done);
    assert_eq!(rig.state().await, StateName::Deleted);
    rig.assert_outcomes(&[("deleted", 1)]);
}

#[tokio::test]
async fn pre_clean_is_skipped_if_unsupported() {
    let rig = Rig::new().await;
    let abilities =
        ports::provider::Abilities { list: true, delete: true, prepare_delete: false, check: false };
    rig.provider.set_abilities(abilities);
    let work = rig.released().await;
    assert_eq!(rig.reaper.work(delivery(&work)).await, Verdict::Done);
    assert_eq!(rig.provider.calls(), [Call::Delete(external_id())]);
}

#[tokio::test]
async fn a_deletion_waits_for_its_slot() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.slot().await;
    let working = rig.begin(&work);
    settle().await;
    rig.clock.advance(Duration::from_millis(101));
    settle().await;
    assert_eq!(rig.provider.calls(), []);
    rig.clock.advance(Duration::from_millis(1));
    assert_eq!(working.await.unwrap(), Verdict::Done);
}

#[test]
fn retry_delay_doubles_up_to_the_maximum_with_half_jitter() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let rig = runtime.block_on(Rig::new());
    let table = [
        (0, 10),
        (1, 10),
        (2, 20),
        (3, 40),
        (4, 80),
        (5, 160),
        (6, 320),
        (7, 600),
        (8, 600),
        (u32::MAX, 600),
    ];
    for (attempts, longest) in table {
        let longest = Duration::from_secs(longest);
        let delays: Vec<_> = (0..500).map(|_| rig.reaper.backoff(attempts)).collect();
        let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(*least >= longest / 2 && *most <= longest, "{attempts}: {least:?} to {most:?}");
        assert!(*most - *least > longest / 3, "a crowd is spread out: {least:?} to {most:?}");
    }
}

#[test]
fn maximum_delay_is_at_least_the_minimum() {
    let env = std::collections::BTreeMap::from([
        ("DELETION_RETRY_SECONDS_MIN".to_owned(), "100".to_owned()),
        ("DELETION_RETRY_SECONDS_MAX".to_owned(), "10".to_owned()),
    ]);
    let mut settings = runtime::settings::Settings::new(&env);
    let config = Config::read(&mut settings);
    assert_eq!((config.retry_delay_min, config.retry_delay_max), (100 * SECOND, 100 * SECOND));
    assert_eq!((config.attempts_max, config.in_flight_max, config.tombstone_kept), (8, 8, 30 * DAY));
}
