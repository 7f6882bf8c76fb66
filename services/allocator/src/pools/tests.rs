//! Operators' requests about pools.

use crate::deletions::tests::{HOUR, NOW, Rig};
use crate::nodes::tests::{of_registry, write_template, write_version};
use contract::{FaultCode, Verb};
use domain::{
    ClaimKey, ClaimRecord, Descriptor, IdempotencyKey, NewSandbox, OwnerId, PoolName, ProviderName,
    SandboxId, State,
};
use ports::store::{Insert, Write};
use serde_json::{Value, json};

async fn rig() -> Rig {
    let rig = Rig::new();
    rig.allocator.ports.pools.open(rig.store.as_ref()).await.unwrap();
    rig
}

async fn refused(rig: &Rig, verb: Verb, body: Value) -> FaultCode {
    rig.ask(verb, body).await.unwrap_err().code
}

#[tokio::test]
async fn pools_are_shown_with_their_resulting_policy() {
    let rig = rig().await;
    let reply = rig.ask(Verb::Pools, json!({})).await.unwrap();
    let names: Vec<_> = reply["pools"].as_array().unwrap().iter().map(|pool| pool["pool"].clone()).collect();
    assert_eq!(names, ["dns", "main"]);
    assert_eq!(reply["pools"][1]["is_default"], true);
    assert_eq!(reply["pools"][0]["settings"]["name_prefix"], "dns-");
    let lease = json!({"duration_minutes": 240, "duration_minutes_max": 2_880, "total_minutes_max": 4_320, "grace_minutes": 30});
    assert_eq!(reply["pools"][0]["lease"], lease);
    assert_eq!(refused(&rig, Verb::Pool, json!({"pool": "nonsense"})).await, FaultCode::NotFound);
    assert_eq!(refused(&rig, Verb::Pool, json!({"pool": "a b"})).await, FaultCode::InvalidRequest);
}

#[tokio::test]
async fn version_protects_against_a_concurrent_change() {
    let rig = rig().await;
    let put = |version: u64, minutes: u64| {
        json!({"pool": "labs", "settings": {"name_prefix": "lab-", "lease": {"duration_minutes": minutes}},
            "version": version, "by": "alice"})
    };
    assert_eq!(rig.ask(Verb::PutPool, put(0, 5)).await.unwrap()["version"], 1);
    assert_eq!(
        rig.ask(Verb::PutPool, put(0, 5)).await.unwrap()["version"],
        1,
        "a repeat of the same request"
    );
    assert_eq!(refused(&rig, Verb::PutPool, put(0, 6)).await, FaultCode::InvalidState);
    assert_eq!(rig.ask(Verb::PutPool, put(1, 6)).await.unwrap()["version"], 2);
    assert_eq!(
        refused(&rig, Verb::DrainPool, json!({"pool": "labs", "version": 1})).await,
        FaultCode::InvalidState
    );
}

#[tokio::test]
async fn kind_and_provider_cannot_be_changed() {
    let rig = rig().await;
    for settings in [json!({"kind": "stack"}), json!({"provider": "other"}), json!({"name_prefix": "dns-"})] {
        let body = json!({"pool": "main", "settings": settings});
        assert_eq!(refused(&rig, Verb::PutPool, body).await, FaultCode::InvalidRequest, "{settings}");
    }
}

#[tokio::test]
async fn pool_of_containers_needs_a_template_and_nodes() {
    let rig = rig().await;
    let put = |settings: Value| json!({"pool": "shells", "settings": settings});
    let wanted = || put(json!({"kind": "container", "template": "shell", "warm": {"min": 1, "max": 2}}));
    let fault = rig.ask(Verb::PutPool, wanted()).await.unwrap_err();
    assert_eq!(fault.message, "template names no template; write shell first");
    write_template(&rig).await;
    for settings in [
        json!({"kind": "container"}),
        json!({"kind": "container", "template": "shell", "provider": "csp"}),
        json!({"provider": "nodes"}),
        json!({"kind": "stack", "template": "shell"}),
    ] {
        let code = refused(&rig, Verb::PutPool, put(settings.clone())).await;
        assert_eq!(code, FaultCode::InvalidRequest, "{settings}");
    }
    let made = rig.ask(Verb::PutPool, wanted()).await.unwrap();
    assert_eq!((&made["settings"]["provider"], &made["is_default"]), (&json!("nodes"), &json!(false)));
}

#[tokio::test]
async fn pool_is_refused_whose_rules_do_not_allow_its_template() {
    let rig = rig().await;
    write_template(&rig).await;
    let put = |settings: Value| json!({"pool": "shells", "settings": settings});
    for (rules, reason) in [
        (json!({"untrusted": true}), "its untrusted needs isolation `container`"),
        (json!({"runtime": "runsc"}), "its runtime needs isolation `container`"),
        (json!({"runtime": "runc", "untrusted": true}), "runtime must be `runsc` or `kata`"),
        (json!({"images": {"allowed": ["docker.io"]}}), "its image `host` comes from no registry"),
        (json!({"images": {"allowed": []}}), "images.allowed must have an entry"),
    ] {
        let mut settings = json!({"kind": "container", "template": "shell"});
        settings.as_object_mut().unwrap().extend(rules.as_object().unwrap().clone());
        let fault = rig.ask(Verb::PutPool, put(settings)).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::InvalidRequest, "{rules}");
        assert!(fault.message.contains(reason), "{rules}: {}", fault.message);
    }
    write_version(&rig, &of_registry("registry.example.com/app:1")).await;
    let settings = json!({"kind": "container", "template": "shell", "provider": "nodes", "runtime": "runsc", "untrusted": true,
        "images": {"allowed": ["registry.example.com"]}});
    let made = rig.ask(Verb::PutPool, put(settings.clone())).await.unwrap();
    assert_eq!(made["settings"], settings);
    let shown = rig.ask(Verb::Pool, json!({"pool": "shells"})).await.unwrap();
    assert_eq!(shown["settings"], settings);
}

#[tokio::test]
async fn pool_of_containers_is_removed_only_when_they_are_gone() {
    let rig = rig().await;
    write_template(&rig).await;
    let settings = json!({"kind": "container", "template": "shell"});
    rig.ask(Verb::PutPool, json!({"pool": "shells", "settings": settings})).await.unwrap();
    let (id, pool) = (SandboxId::parse("ctr_1").unwrap(), PoolName::parse("shells").unwrap());
    let new = NewSandbox::to_create(id, pool, &ProviderName::nodes(), None).unwrap();
    let Insert::Inserted(wanted) = rig.store.create(&new.provision(None, NOW)).await.unwrap() else {
        panic!("inserted")
    };
    let Write::Done(free) = rig.store.finish_provision(&wanted, &Descriptor::default(), NOW).await.unwrap()
    else {
        panic!("free")
    };
    rig.ask(Verb::DrainPool, json!({"pool": "shells"})).await.unwrap();
    assert_eq!(refused(&rig, Verb::RemovePool, json!({"pool": "shells"})).await, FaultCode::InvalidState);
    let Write::Done(gone) = rig.store.retire(&free, NOW).await.unwrap() else { panic!("retired") };
    assert_eq!(refused(&rig, Verb::RemovePool, json!({"pool": "shells"})).await, FaultCode::InvalidState);
    rig.store.finish_deletion(&gone.id, gone.epoch, NOW, NOW.after(HOUR), None).await.unwrap();
    rig.ask(Verb::RemovePool, json!({"pool": "shells"})).await.unwrap();
}

#[tokio::test]
async fn drained_pool_is_removed_only_without_unfinished_sandboxes() {
    let rig = rig().await;
    rig.add(1, "dns").await;
    rig.add(2, "dns").await;
    let claim = json!({"owner": "student-1", "pool": "dns"});
    let held = rig.ask(Verb::Allocate, claim.clone()).await.unwrap();
    let pool = json!({"pool": "dns"});
    assert_eq!(refused(&rig, Verb::RemovePool, pool.clone()).await, FaultCode::InvalidState, "it is active");
    assert_eq!(rig.ask(Verb::DrainPool, pool.clone()).await.unwrap()["state"], "draining");
    assert_eq!(rig.ask(Verb::DrainPool, pool.clone()).await.unwrap()["version"], 2, "a repeat");
    assert_eq!(rig.ask(Verb::Allocate, claim).await.unwrap(), held, "a repeat is answered");
    let late = json!({"owner": "student-2", "pool": "dns"});
    assert_eq!(refused(&rig, Verb::Allocate, late.clone()).await, FaultCode::PoolExhausted);
    assert_eq!(
        refused(&rig, Verb::RemovePool, pool.clone()).await,
        FaultCode::InvalidState,
        "it has a lease"
    );
    rig.finish_deletion_of(held["sandbox_id"].as_str().unwrap(), "student-1").await;
    assert_eq!(rig.ask(Verb::RemovePool, pool.clone()).await.unwrap()["state"], "unknown");
    assert_eq!(rig.ask(Verb::RemovePool, pool.clone()).await.unwrap()["state"], "unknown", "a repeat");
    assert_eq!(refused(&rig, Verb::Allocate, late.clone()).await, FaultCode::NotHere);
    assert_eq!(refused(&rig, Verb::DrainPool, pool.clone()).await, FaultCode::NotFound);

    // Its free sandbox was kept, and the pool can be made again.
    let again = json!({"pool": "dns", "settings": {"name_prefix": "dns-"}});
    assert_eq!(rig.ask(Verb::PutPool, again).await.unwrap()["version"], 1);
    assert!(rig.ask(Verb::Allocate, late).await.is_ok());
}

#[tokio::test]
async fn unfinished_claim_gets_nothing_in_a_drained_pool() {
    let rig = rig().await;
    rig.add(1, "dns").await;
    // An attempt stopped between its two writes.
    let claim = ClaimKey {
        owner: OwnerId::parse("student-1").unwrap(),
        key: IdempotencyKey::parse("student-1").unwrap(),
    };
    let record = ClaimRecord::new(claim, rig.sandbox(1).await.candidate());
    rig.store.open_claim(&record, NOW.after(HOUR)).await.unwrap();
    rig.ask(Verb::DrainPool, json!({"pool": "dns"})).await.unwrap();
    let body = json!({"owner": "student-1", "pool": "dns"});
    assert_eq!(refused(&rig, Verb::Allocate, body).await, FaultCode::PoolExhausted);
    assert_eq!(rig.sandbox(1).await.state, State::Available);
}

#[tokio::test]
async fn pool_is_created_again_only_for_the_provider_of_its_sandboxes() {
    let rig = rig().await;
    rig.add(1, "dns").await;
    rig.ask(Verb::DrainPool, json!({"pool": "dns"})).await.unwrap();
    rig.ask(Verb::RemovePool, json!({"pool": "dns"})).await.unwrap();
    let body =
        |provider: &str| json!({"pool": "dns", "settings": {"provider": provider, "name_prefix": "dns-"}});
    assert_eq!(refused(&rig, Verb::PutPool, body("csp-eu")).await, FaultCode::InvalidRequest);
    assert!(rig.ask(Verb::PutPool, body("csp")).await.is_ok());
}

#[tokio::test]
async fn claim_names_a_pool_where_none_takes_every_name() {
    let rig = rig().await;
    rig.ask(Verb::DrainPool, json!({"pool": "main"})).await.unwrap();
    rig.ask(Verb::RemovePool, json!({"pool": "main"})).await.unwrap();
    let fault = rig.ask(Verb::Allocate, json!({"owner": "student-1"})).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::InvalidRequest);
    assert!(fault.message.contains("pool has to be named"), "{}", fault.message);
}
