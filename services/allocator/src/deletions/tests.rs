//! Operators' requests on ports in memory.

use super::*;
use crate::{Config, HealthConfig, Metrics, Ports};
use bytes::Bytes;
use contract::{Event, Outcome, ParkedDeletion, Verb};
use domain::{
    ExternalId, LeasePolicy, NewSandbox, OwnerId, Pools, ProviderName, SandboxName, StateName, UnixSeconds,
};
use ports::bus::{Appended, Context, Deletions as _, EventLog, EventMark, Handler as _, Upkeep};
use ports::provider::Providers;
use ports::random::Rng;
use ports::store::Store;
use prometheus::Registry;
use runtime::pools::PoolWatch;
use runtime::recorder::{EventLogMetrics, Recorder, WAITING_MAX};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use testkit::bus::{Call, Loss, MemoryBus, MemoryConfig};
use testkit::clock::ManualClock;
use testkit::provider::FakeProvider;
use testkit::store::MemoryStore;

mod queue;

pub(crate) const NOW: UnixSeconds = UnixSeconds::new(1_763_683_200);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

pub(crate) struct Rig {
    pub(crate) allocator: Allocator,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) provider: Arc<FakeProvider>,
    pub(crate) bus: MemoryBus,
    pub(crate) clock: ManualClock,
    registry: Registry,
}

pub(crate) fn id(number: usize) -> SandboxId {
    SandboxId::parse(&number.to_string()).unwrap()
}

pub(crate) fn watch() -> PoolWatch {
    let leases =
        LeasePolicy { duration: 4 * HOUR, duration_max: 48 * HOUR, total_max: 72 * HOUR, grace: HOUR / 2 };
    PoolWatch::new(Pools::parse("dns=dns-,main").unwrap(), leases)
}

fn pool(name: &str) -> PoolName {
    PoolName::parse(name).unwrap()
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::over(|bus| Arc::new(bus.clone()))
    }

    pub(crate) fn over(event_log: impl FnOnce(&MemoryBus) -> Arc<dyn EventLog>) -> Self {
        Self::with(event_log, None)
    }

    /// A rig with health checks.
    pub(crate) fn checking(health: HealthConfig) -> Self {
        Self::with(|bus| Arc::new(bus.clone()), Some(health))
    }

    fn with(event_log: impl FnOnce(&MemoryBus) -> Arc<dyn EventLog>, health: Option<HealthConfig>) -> Self {
        let provider = Arc::new(FakeProvider::new());
        let clock = ManualClock::at(NOW);
        let memory = Arc::new(MemoryStore::new(2));
        let store: Arc<dyn Store> = memory.clone();
        let rng = Arc::new(Rng::seeded(7));
        let bus = MemoryBus::new(MemoryConfig::default(), Arc::new(clock.clone()), rng.clone());
        let registry = Registry::new();
        let ports = Ports {
            clock: Arc::new(clock.clone()),
            random: rng,
            store: Arc::clone(&store),
            deletions: Arc::new(bus.clone()),
            provisions: Arc::new(bus.clone()),
            nodes: Arc::new(bus.clone()),
            deletion_control: Arc::new(bus.clone()),
            switch: Arc::new(bus.clone()),
            census: Arc::new(bus.clone()),
            upkeep: Arc::new(bus.clone()),
            recorder: Recorder::new(
                Arc::new(clock.clone()),
                event_log(&bus),
                EventLogMetrics::register(&registry).unwrap(),
            ),
            providers: Providers::only(provider.clone()),
            provider_names: Arc::new(
                ["csp", "csp-eu", "nodes"].map(|name| ProviderName::parse(name).unwrap()).into(),
            ),
            pools: watch(),
        };
        let (census_age_max, tombstone_kept) = (HOUR, 24 * HOUR);
        let (in_flight_max, latency_target) = (8, Duration::from_millis(300));
        let config = Config {
            in_flight_max,
            latency_target,
            health,
            census_age_max,
            tombstone_kept,
            provision_attempts_max: 3,
        };
        let allocator = Allocator::new(config, ports, Metrics::register(&registry).unwrap());
        Self { allocator, store, memory, provider, bus, clock, registry }
    }

    pub(crate) async fn ask(&self, verb: Verb, body: Value) -> Result<Value, Fault> {
        self.ask_as(contract::Principal::default(), verb, body).await
    }

    pub(crate) async fn ask_as(
        &self,
        principal: contract::Principal,
        verb: Verb,
        body: Value,
    ) -> Result<Value, Fault> {
        let context = Context {
            request_id: "r-1".to_owned(),
            deadline_ms: None,
            traceparent: None,
            idempotency_key: None,
            attempt: None,
            principal,
        };
        let request = Request { verb, context, body: Bytes::from(body.to_string()) };
        let answer = self.allocator.handle(request).await;
        answer.body.map(|body| serde_json::from_slice(&body).unwrap())
    }

    async fn replay(&self, number: usize) -> Value {
        self.ask(Verb::Replay, json!({"key": number.to_string()})).await.unwrap()["outcome"].clone()
    }

    pub(crate) async fn add(&self, number: usize, pool: &str) {
        let sandbox = NewSandbox {
            id: id(number),
            name: SandboxName::parse(&format!("lab-{number}")).unwrap(),
            external_id: ExternalId::parse(&format!("identity/accounts/{number}")).unwrap(),
            pool: PoolName::parse(pool).unwrap(),
            descriptor: domain::Descriptor::default(),
        };
        self.store.insert(&sandbox, NOW).await.unwrap();
    }

    /// Releases a sandbox and finishes its deletion, as a reaper would.
    pub(crate) async fn finish_deletion_of(&self, id: &str, owner: &str) {
        let (id, owner) = (SandboxId::parse(id).unwrap(), OwnerId::parse(owner).unwrap());
        self.store.release(&id, &owner, None, None, NOW).await.unwrap();
        self.store.finish_deletion(&id, Epoch::new(1), NOW, NOW.after(HOUR), None).await.unwrap();
    }

    /// A sandbox with a parked deletion and its copy.
    pub(crate) async fn parked(&self, number: usize, pool: &str, reason: &str) -> Sandbox {
        self.add(number, pool).await;
        let owner = format!("student-{number}");
        let claim = json!({"owner": owner, "pool": pool, "name_prefix": format!("lab-{number}")});
        self.ask(Verb::Allocate, claim).await.unwrap();
        let owner = OwnerId::parse(&owner).unwrap();
        self.store.release(&id(number), &owner, None, None, NOW).await.unwrap();
        self.store.note_attempt(&id(number), Epoch::new(1), 0, reason, None).await.unwrap();
        self.store.park_deletion(&id(number), Epoch::new(1), NOW).await.unwrap();
        let sandbox = self.sandbox(number).await;
        self.bus.park(&ParkedDeletion::of(&sandbox).unwrap()).await.unwrap();
        sandbox
    }

    pub(crate) async fn sandbox(&self, number: usize) -> Sandbox {
        self.store.sandbox(&id(number)).await.unwrap().unwrap()
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("a metric");
        family.get_metric()[0].get_counter().get_value() as u64
    }
}

#[tokio::test]
async fn replay_requeues_the_deletion_and_removes_its_parked_copy() {
    let rig = Rig::new();
    let before = rig.parked(1, "main", "status 500").await;
    rig.clock.advance(HOUR);
    let reply = rig.ask(Verb::Replay, json!({"key": "1", "by": "alice"})).await.unwrap();
    assert_eq!(reply, json!({"key": "1", "outcome": "replayed"}));
    let after = rig.sandbox(1).await;
    let deletion = after.deletion().unwrap();
    assert_eq!((after.state.name(), deletion.attempts), (StateName::PendingDeletion, 0));
    assert_eq!(after.history[..4], before.history);
    let entry = after.history.last().unwrap();
    assert_eq!((entry.by.as_ref().map(|by| by.as_str()), entry.at), (Some("alice"), NOW.after(HOUR)));
    assert_eq!(rig.bus.queued(), [DeletionWork::of(&after).unwrap()]);
    assert_eq!(rig.bus.all_parked(), []);
    assert_eq!(rig.replay(1).await, "already_on_the_way");
    assert_eq!(rig.bus.queued_count(), 1, "once is enough");
    assert_eq!(rig.sandbox(1).await, after);
}

#[tokio::test]
async fn interrupted_replay_is_completed_by_a_retry() {
    for call in [Call::Announce, Call::Unpark] {
        for loss in [Loss::Message, Loss::Answer] {
            let rig = Rig::new();
            rig.parked(1, "main", "status 500").await;
            rig.bus.lose(call, loss);
            let broken = rig.ask(Verb::Replay, json!({"key": "1"})).await.unwrap_err();
            assert_eq!(broken.code, FaultCode::UpstreamUnavailable);
            assert_eq!(rig.replay(1).await, "already_on_the_way", "{call:?} {loss:?}");
            assert_eq!((rig.bus.queued_count(), rig.bus.all_parked().len()), (1, 0));
            assert_eq!(rig.sandbox(1).await.history.len(), 5, "one entry of the history");
        }
    }
}

#[tokio::test]
async fn needless_replay_is_reported_and_its_parked_copy_removed() {
    let rig = Rig::new();
    rig.parked(1, "main", "status 500").await;
    let wanted = rig.parked(2, "main", "status 500").await;
    rig.replay(2).await;
    rig.store.finish_deletion(&wanted.id, wanted.epoch, NOW, NOW.after(HOUR), None).await.unwrap();
    rig.bus.park(&ParkedDeletion { parked_at: 1, ..ParkedDeletion::of(&wanted).unwrap() }).await.unwrap();
    assert_eq!(rig.replay(2).await, "gone");
    assert_eq!(rig.bus.all_parked().len(), 1, "that of the other");
    rig.add(3, "main").await;
    let held = rig.ask(Verb::Allocate, json!({"owner": "student-4"})).await.unwrap();
    assert_eq!(held["sandbox_id"], "3");
    rig.add(5, "main").await;
    for (number, state) in [(3, StateName::Allocated), (5, StateName::Available)] {
        let before = rig.sandbox(number).await;
        let fault = rig.ask(Verb::Replay, json!({"key": number.to_string()})).await.unwrap_err();
        let message = format!("no deletion of it is wanted: it is {state}");
        assert_eq!((fault.code, fault.message), (FaultCode::InvalidState, message));
        assert_eq!((rig.sandbox(number).await, before.state.name()), (before, state), "it is left alone");
    }
    for unknown in ["4711", "a.b", ""] {
        let fault = rig.ask(Verb::Replay, json!({"key": unknown})).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::NotFound, "{unknown:?}");
    }
}

#[tokio::test]
async fn replay_all_is_paged_and_filtered() {
    let rig = Rig::new();
    for number in 1..=9 {
        let (pool, reason) = if number % 3 == 0 { ("dns", "status 401") } else { ("main", "status 500") };
        rig.parked(number, pool, reason).await;
    }
    let all = |body: Value| rig.ask(Verb::ReplayAll, body);
    let some = all(json!({"pool": "dns", "reason": "no such"})).await.unwrap();
    assert_eq!((&some["replayed"], &some["cursor"]), (&json!(0), &Value::Null));
    let dns = all(json!({"pool": "dns", "reason": "401", "by": "alice"})).await.unwrap();
    assert_eq!((&dns["replayed"], &dns["cursor"]), (&json!(3), &Value::Null));
    let mut cursor = Value::Null;
    let mut counts = Vec::new();
    loop {
        let page = all(json!({"limit": 4, "cursor": cursor})).await.unwrap();
        counts.push(page["replayed"].as_u64().unwrap());
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(counts, [4, 2]);
    assert_eq!((rig.bus.queued_count(), rig.bus.all_parked().len()), (9, 0));
    let again = all(json!({})).await.unwrap();
    assert_eq!(again["replayed"], 0, "nothing is left");
    for bad in [json!({"limit": 0}), json!({"limit": 101}), json!({"pool": "*"}), json!({"by": "a\nb"})] {
        assert_eq!(all(bad.clone()).await.unwrap_err().code, FaultCode::InvalidRequest, "{bad}");
    }
}

#[tokio::test]
async fn failed_replay_does_not_stop_the_rest_of_its_page() {
    let rig = Rig::new();
    for number in 1..=3 {
        rig.parked(number, "main", "status 500").await;
    }
    rig.bus.lose(Call::Announce, Loss::Message);
    let first = rig.ask(Verb::ReplayAll, json!({})).await.unwrap();
    assert_eq!((&first["replayed"], &first["failed"]), (&json!(2), &json!(1)));
    let second = rig.ask(Verb::ReplayAll, json!({})).await.unwrap();
    assert_eq!((&second["already_on_the_way"], &second["failed"]), (&json!(1), &json!(0)));
    assert_eq!((rig.bus.queued_count(), rig.bus.all_parked().len()), (3, 0));
}

#[tokio::test]
async fn parked_deletions_are_listed_with_their_details() {
    let rig = Rig::new();
    rig.parked(1, "main", "status 500: no licence").await;
    rig.parked(2, "dns", "status 401").await;
    let all = rig.ask(Verb::Parked, json!({})).await.unwrap();
    assert_eq!((&all["count"], &all["cursor"]), (&json!(2), &Value::Null));
    let one = json!({
        "key": "1", "pool": "main", "reason": "status 500: no licence", "attempts": 1, "parked_at": NOW.get(),
    });
    assert_eq!(all["parked"][0], one);
    let some = rig.ask(Verb::Parked, json!({"reason": "licence"})).await.unwrap();
    assert_eq!((&some["count"], &some["parked"][0]["key"]), (&json!(1), &json!("1")));
    let first = rig.ask(Verb::Parked, json!({"limit": 1})).await.unwrap();
    let rest = rig.ask(Verb::Parked, json!({"limit": 2, "cursor": first["cursor"]})).await.unwrap();
    assert_eq!((&rest["parked"][0]["key"], &rest["cursor"]), (&json!("2"), &Value::Null));
    let shown = rig.ask(Verb::Deletion, json!({"sandbox_id": "1"})).await.unwrap();
    assert_eq!((&shown["status"], &shown["attempts"]), (&json!("deletion_failed"), &json!(1)));
    assert_eq!((&shown["parked"], &shown["queued"]), (&one, &json!([])));
    assert_eq!(shown["history"][3]["cause"], "parked");
    rig.replay(1).await;
    let shown = rig.ask(Verb::Deletion, json!({"sandbox_id": "1"})).await.unwrap();
    assert_eq!((&shown["parked"], &shown["queued"][0]["put_off"]), (&Value::Null, &json!(false)));
    assert_eq!(
        (&shown["history"][4]["cause"], &shown["history"][4]["by"]),
        (&json!("replayed"), &json!("operator"))
    );
}

#[tokio::test]
async fn undecodable_message_is_replayed_once_decodable_or_removed() {
    let rig = Rig::new();
    let parked = rig.parked(1, "main", "status 500").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let readable = serde_json::to_string(&DeletionWork::of(&parked).unwrap()).unwrap();
    rig.bus.publish_raw_deletion(&pool("main"), &id(8), "this is no deletion");
    rig.bus.park_unreadable(4_711, readable);
    let consuming = tokio::spawn({
        let (bus, stop) = (rig.bus.clone(), stop.clone());
        async move { ports::bus::DeletionQueue::consume(&bus, Arc::new(Never), 1, stop).await }
    });
    while rig.bus.queued_count() > 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    consuming.await.unwrap().unwrap();
    let listed = rig.ask(Verb::Parked, json!({"reason": ""})).await.unwrap();
    let keys: Vec<_> = listed["parked"].as_array().unwrap().iter().map(|one| one["key"].clone()).collect();
    let unreadable: Vec<_> = keys.iter().filter(|key| key.as_str().unwrap().starts_with('_')).collect();
    assert_eq!(unreadable.len(), 2, "{keys:?}");
    let all = rig.ask(Verb::ReplayAll, json!({})).await.unwrap();
    assert_eq!(
        (&all["unreadable"], &all["replayed"], &all["already_on_the_way"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let left = rig.ask(Verb::Parked, json!({})).await.unwrap();
    assert_eq!(left["count"], 1);
    let key = left["parked"][0]["key"].clone();
    assert_eq!(rig.ask(Verb::Replay, json!({"key": key})).await.unwrap()["outcome"], "unreadable");
    assert_eq!(rig.ask(Verb::Remove, json!({"key": key})).await.unwrap()["removed"], true);
    assert_eq!(rig.ask(Verb::Remove, json!({"key": key})).await.unwrap()["removed"], false);
    let fault = rig.ask(Verb::Replay, json!({"key": key})).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::NotFound);
    let fault = rig.ask(Verb::Remove, json!({"key": "1"})).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::InvalidState, "a sandbox is never forgotten so");
    let unknown = |key| rig.ask(Verb::Remove, json!({"key": key}));
    for key in ["9999", "_unreadable.+7"] {
        assert_eq!(unknown(key).await.unwrap_err().code, FaultCode::NotFound, "{key}");
    }
    assert!(Upkeep::parked(&rig.bus, None, 0, 9).await.unwrap().is_empty());
}

/// A worker that must not be called.
struct Never;

#[async_trait::async_trait]
impl ports::bus::Worker for Never {
    async fn work(&self, delivery: ports::bus::Delivery) -> ports::bus::Verdict {
        panic!("{delivery:?}")
    }
}

/// An event log that never answers.
struct Stuck;

#[async_trait::async_trait]
impl EventLog for Stuck {
    fn kept(&self) -> Duration {
        HOUR
    }

    async fn last_event(&self, _id: &SandboxId) -> Result<Option<EventMark>, BusError> {
        std::future::pending().await
    }

    async fn append(
        &self,
        _id: &SandboxId,
        _event: &Event,
        _after: Option<EventMark>,
    ) -> Result<Appended, BusError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn claim_does_not_wait_for_the_event_log() {
    let rig = Rig::over(|_| Arc::new(Stuck));
    let publishing = tokio::spawn({
        let recorder = rig.allocator.ports.recorder.clone();
        async move { recorder.publish_until(tokio_util::sync::CancellationToken::new()).await }
    });
    let claims = WAITING_MAX / 8;
    for number in 0..claims {
        rig.add(number, "main").await;
        let claim = json!({"owner": format!("student-{number}"), "name_prefix": format!("lab-{number}")});
        rig.ask(Verb::Allocate, claim).await.unwrap();
    }
    assert_eq!(rig.count("broker_events_left_total"), 0);
    let held = rig.sandbox(0).await;
    for _ in 0..2 * WAITING_MAX {
        rig.allocator.ports.recorder.note(&held, None);
    }
    assert!(rig.count("broker_events_left_total") > 0, "the queue is bounded");
    rig.add(claims, "main").await;
    let last = rig.ask(Verb::Allocate, json!({"owner": "last"})).await;
    assert!(last.is_ok(), "{last:?}");
    publishing.abort();
}

#[tokio::test]
async fn claim_makes_no_bus_call() {
    let rig = Rig::new();
    rig.add(1, "main").await;
    // Without a connection every call at the bus fails.
    rig.bus.set_connected(false);
    let context = Context {
        request_id: "r-1".to_owned(),
        deadline_ms: None,
        traceparent: None,
        idempotency_key: None,
        attempt: None,
        principal: contract::Principal::default(),
    };
    let request = Request { verb: Verb::Allocate, context, body: Bytes::from_static(br#"{"owner":"one"}"#) };
    let answer = rig.allocator.handle(request).await;
    assert_eq!((answer.outcome, answer.body.is_ok()), (Some(Outcome::Created), true));
    rig.bus.set_connected(true);
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    rig.allocator.ports.recorder.publish_until(stop).await;
    let events = rig.bus.events();
    let published: Vec<_> =
        events.iter().map(|event| (event.id.as_str(), event.data.request_id.as_deref())).collect();
    assert_eq!(
        published,
        [("1:1", None), ("1:2", Some("r-1"))],
        "what its writer had not published came with it"
    );
    assert_eq!(rig.count("broker_events_filled_total"), 1);
}
