//! Bounded requests on ports in memory: two pools, and callers that may use one of them.

use crate::{Allocator, Config, Metrics, Ports};
use bytes::Bytes;
use common::bus::memory::{MemoryBus, MemoryConfig};
use common::bus::{Context, Handler as _, Request};
use common::clock::ManualClock;
use common::contract::{Fault, FaultCode, Verb};
use common::domain::{
    ExternalId, LeasePolicy, NewSandbox, PoolName, PoolRules, SandboxId, SandboxName, UnixSeconds,
};
use common::random::Dice;
use common::runtime::recorder::{LedgerMetrics, Recorder};
use common::store::Store as _;
use common::store::memory::MemoryStore;
use prometheus::Registry;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const NOW: UnixSeconds = UnixSeconds::new(1_763_683_200);
const HOUR: Duration = Duration::from_secs(3_600);

/// An allocator over one free sandbox in each of the pools `dns` (number 1) and `main` (number 2).
async fn allocator() -> Allocator {
    let (clock, dice) = (Arc::new(ManualClock::at(NOW)), Arc::new(Dice::seeded(7)));
    let store = Arc::new(MemoryStore::new(2));
    for (number, pool) in [("1", "dns"), ("2", "main")] {
        let sandbox = NewSandbox {
            id: SandboxId::parse(number).unwrap(),
            name: SandboxName::parse(&format!("{pool}-{number}")).unwrap(),
            external_id: ExternalId::parse(&format!("identity/accounts/{number}")).unwrap(),
            pool: PoolName::parse(pool).unwrap(),
            sfdc_account_id: None,
        };
        store.insert(&sandbox, NOW).await.unwrap();
    }
    let bus = Arc::new(MemoryBus::new(MemoryConfig::default(), clock.clone(), dice.clone()));
    let registry = Registry::new();
    let ledger = LedgerMetrics::register(&registry).unwrap();
    let ports = Ports {
        clock: clock.clone(),
        random: dice,
        store,
        deletions: bus.clone(),
        line: bus.clone(),
        census: bus.clone(),
        upkeep: bus.clone(),
        recorder: Recorder::new(clock, bus, ledger),
    };
    let leases = LeasePolicy { duration: 4 * HOUR, duration_max: 48 * HOUR, grace: HOUR / 2 };
    let pools = PoolRules::parse("dns=dns-,main").unwrap();
    let config = Config { leases, pools, in_flight_max: 8, census_age_max: HOUR };
    Allocator::new(config, ports, Metrics::register(&registry).unwrap())
}

async fn ask(allocator: &Allocator, verb: Verb, body: Value) -> Result<Value, Fault> {
    let context =
        Context { request_id: "r-1".to_owned(), deadline_ms: None, traceparent: None, idempotency_key: None };
    let request = Request { verb, context, body: Bytes::from(body.to_string()) };
    let answer = allocator.handle(request).await;
    answer.body.map(|body| serde_json::from_slice(&body).unwrap())
}

fn refused() -> Result<Value, Fault> {
    Err(Fault::new(FaultCode::Forbidden, "this token is not for the pool of this sandbox"))
}

#[tokio::test]
async fn a_sandbox_of_another_pool_can_be_neither_seen_nor_given_back() {
    let allocator = allocator().await;
    let claim = json!({"owner": "s", "pool": "main"});
    assert_eq!(ask(&allocator, Verb::Allocate, claim).await.unwrap()["sandbox_id"], "2");
    for verb in [Verb::Get, Verb::Release] {
        let bounded = json!({"sandbox_id": "2", "owner": "s", "pools": ["dns"]});
        assert_eq!(ask(&allocator, verb, bounded).await, refused(), "{verb:?}");
    }
    let view = ask(&allocator, Verb::Get, json!({"sandbox_id": "2", "owner": "s"})).await.unwrap();
    assert_eq!(view["status"], "allocated", "nothing was changed");
    let within = json!({"sandbox_id": "2", "owner": "s", "pools": ["dns", "main"]});
    assert_eq!(ask(&allocator, Verb::Release, within).await.unwrap()["status"], "pending_deletion");
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_however_the_caller_is_bounded() {
    let allocator = allocator().await;
    for id in ["9", "no id!"] {
        let bounded = json!({"sandbox_id": id, "owner": "s", "pools": ["dns"]});
        let fault = ask(&allocator, Verb::Get, bounded).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::NotFound, "{id}");
    }
}

#[tokio::test]
async fn a_claim_stays_within_and_shows_no_lease_from_outside() {
    let allocator = allocator().await;
    let outside = json!({"owner": "a", "pool": "main", "pools": ["dns"]});
    assert_eq!(ask(&allocator, Verb::Allocate, outside).await, refused());
    let within = json!({"owner": "a", "pool": "dns", "pools": ["dns"]});
    assert_eq!(ask(&allocator, Verb::Allocate, within).await.unwrap()["sandbox_id"], "1");
    let elsewhere = json!({"owner": "b", "pool": "main"});
    assert_eq!(ask(&allocator, Verb::Allocate, elsewhere).await.unwrap()["sandbox_id"], "2");
    // The same owner and key, by a token of the other pool: the lease is there, and not for it to see.
    let repeat = json!({"owner": "b", "pool": "dns", "pools": ["dns"]});
    assert_eq!(ask(&allocator, Verb::Allocate, repeat).await, refused());
}

#[tokio::test]
async fn an_empty_list_bounds_nothing() {
    let allocator = allocator().await;
    let claim = json!({"owner": "a", "pool": "main", "pools": []});
    assert_eq!(ask(&allocator, Verb::Allocate, claim).await.unwrap()["sandbox_id"], "2");
}
