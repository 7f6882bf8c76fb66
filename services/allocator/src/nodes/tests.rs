//! Reports of nodes on ports in memory.

use crate::deletions::tests::{HOUR, NOW, Rig};
use contract::{FaultCode, Verb};
use domain::template::{Image, Isolation, Runtime};
use domain::{
    Actor, AllowedImages, ClaimKey, Descriptor, ExternalId, Grant, IdempotencyKey, LabId, NewSandbox,
    OwnerId, PoolKind, PoolName, PoolSpec, ProviderName, Sandbox, SandboxId, SandboxName, StateName,
    Template, TemplateId, TemplateSpec, Version,
};
use ports::store::Insert;
use serde_json::{Value, json};

const POOL: &str = "shells";
pub(crate) const ONE: &str = "0198c0de-0000-7000-8000-000000000001";
const OTHER: &str = "0198c0de-0000-7000-8000-000000000002";

pub(crate) async fn register(rig: &Rig, node: &str) -> u64 {
    let body = json!({"node": node, "engine": "fake", "isolation": "process", "version": "0.1.0"});
    rig.ask(Verb::RegisterNode, body).await.unwrap()["generation"].as_u64().unwrap()
}

/// Writes the template `shell`.
pub(crate) async fn write_template(rig: &Rig) {
    let template = Template {
        id: TemplateId::parse("shell").unwrap(),
        version: 1,
        created_at: NOW,
        by: Actor::nats(),
        spec: TemplateSpec::of_image(Image::Host),
    };
    assert!(rig.store.write_template(None, &template).await.unwrap());
}

/// A template of an image in a registry.
pub(crate) fn of_registry(image: &str) -> TemplateSpec {
    TemplateSpec { isolation: Isolation::Container, ..TemplateSpec::of_image(Image::named(image)) }
}

/// Writes a further version of the template `shell`.
pub(crate) async fn write_version(rig: &Rig, spec: &TemplateSpec) {
    let id = TemplateId::parse("shell").unwrap();
    let seen = rig.store.template_head(&id).await.unwrap().unwrap();
    let (version, spec) = (seen.version + 1, spec.clone());
    let template = Template { id, version, created_at: NOW, by: Actor::nats(), spec };
    assert!(rig.store.write_template(Some(&seen), &template).await.unwrap());
    rig.allocator.ports.pools.refresh(rig.store.as_ref()).await.unwrap();
}

/// A fleet with the template `shell` and a pool of it.
pub(crate) async fn rig() -> Rig {
    let rig = Rig::new();
    write_template(&rig).await;
    let nodes = ProviderName::parse("nodes").unwrap();
    let accounts = PoolSpec::of_accounts(PoolName::parse(POOL).unwrap(), nodes, None);
    let spec = PoolSpec { kind: PoolKind::Container, template: Some("shell".to_owned()), ..accounts.clone() };
    assert!(rig.store.write_pool(None, &spec).await.unwrap());
    let csp = PoolSpec::of_accounts(PoolName::parse("main").unwrap(), ProviderName::csp(), None);
    assert!(rig.store.write_pool(None, &csp).await.unwrap());
    rig.allocator.ports.pools.refresh(rig.store.as_ref()).await.unwrap();
    rig
}

fn new(id: &str, template: &str) -> NewSandbox {
    NewSandbox {
        id: SandboxId::parse(id).unwrap(),
        name: SandboxName::parse(id).unwrap(),
        external_id: ExternalId::of(&ProviderName::parse("nodes").unwrap(), id).unwrap(),
        pool: PoolName::parse(POOL).unwrap(),
        descriptor: Descriptor::parse([(Descriptor::TEMPLATE, template)]).unwrap(),
    }
}

/// A sandbox that is to be created, for a claim or to be free.
pub(crate) async fn wanted(rig: &Rig, id: &str, owner: Option<&str>) -> Sandbox {
    wanted_of(rig, id, owner, "shell@1").await
}

async fn wanted_of(rig: &Rig, id: &str, owner: Option<&str>, template: &str) -> Sandbox {
    let new = new(id, template);
    let grant = owner.map(|owner| {
        let owner = OwnerId::parse(owner).unwrap();
        Grant {
            claim: ClaimKey { key: IdempotencyKey::from(&owner), owner },
            candidate: domain::Candidate::absent(new.id.clone(), new.pool.clone()),
            lab: None::<LabId>,
            request: None,
            granted_at: NOW,
            expires_at: NOW.after(HOUR),
            by: None,
            options: None,
        }
    });
    match rig.store.create(&new.provision(grant.as_ref(), NOW)).await.unwrap() {
        Insert::Inserted(sandbox) => *sandbox,
        other => panic!("{other:?}"),
    }
}

async fn stored(rig: &Rig, id: &str) -> Sandbox {
    rig.store.sandbox(&SandboxId::parse(id).unwrap()).await.unwrap().unwrap()
}

fn report(generation: u64, sandbox: &Sandbox) -> Value {
    json!({
        "node": "a", "generation": generation, "sandbox_id": sandbox.id.as_str(), "epoch": sandbox.epoch.get(),
    })
}

fn with(mut body: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("fields") };
    body.as_object_mut().unwrap().extend(fields);
    body
}

pub(crate) async fn provisioned(rig: &Rig, generation: u64, sandbox: &Sandbox, incarnation: &str) -> Value {
    let body = with(report(generation, sandbox), json!({"incarnation": incarnation}));
    rig.ask(Verb::Provisioned, body).await.unwrap()
}

async fn held(rig: &Rig, generation: u64, containers: &[(&str, &str)]) -> Vec<String> {
    let containers: Vec<_> =
        containers.iter().map(|(id, at)| json!({"sandbox_id": id, "incarnation": at})).collect();
    let body = json!({"node": "a", "generation": generation, "containers": containers});
    let reply = rig.ask(Verb::Held, body).await.unwrap();
    let fates = reply["holdings"].as_array().unwrap().iter().map(|holding| holding["fate"].as_str().unwrap());
    fates.map(str::to_owned).collect()
}

#[tokio::test]
async fn report_of_an_older_generation_changes_nothing() {
    let rig = rig().await;
    let sandbox = wanted(&rig, "ctr_1", None).await;
    assert_eq!(register(&rig, "a").await, 1);
    assert_eq!(register(&rig, "b").await, 1);
    assert_eq!(register(&rig, "a").await, 2);
    let provisioned = with(report(1, &sandbox), json!({"incarnation": ONE}));
    let failed = with(report(1, &sandbox), json!({"attempts": 0, "reason": "x"}));
    for (verb, body) in [
        (Verb::NodePools, json!({"node": "a", "generation": 1})),
        (Verb::ProvisionWanted, report(1, &sandbox)),
        (Verb::Provisioned, provisioned),
        (Verb::ProvisionFailed, failed),
        (Verb::Held, json!({"node": "a", "generation": 1, "containers": []})),
        (Verb::NodePools, json!({"node": "new", "generation": 1})),
    ] {
        let fault = rig.ask(verb, body).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::InvalidState, "{verb:?}");
    }
    assert_eq!(stored(&rig, "ctr_1").await, sandbox);
    let nodes = rig.store.nodes(None, 10).await.unwrap().entries;
    let seen: Vec<_> = nodes.iter().map(|node| (node.id.as_str(), node.generation, node.isolation)).collect();
    assert_eq!(seen, [("a", 2, Isolation::Process), ("b", 1, Isolation::Process)]);
}

#[tokio::test]
async fn node_learns_what_to_create() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let pools = rig.ask(Verb::NodePools, json!({"node": "a", "generation": generation})).await.unwrap();
    let names: Vec<_> = pools["pools"].as_array().unwrap().iter().map(|pool| pool["pool"].clone()).collect();
    assert_eq!(names, [POOL], "no pool of accounts");
    assert_eq!(
        (&pools["pools"][0]["template"], &pools["pools"][0]["settings"]["image"]),
        (&json!("shell@1"), &json!("host"))
    );
    let free = wanted(&rig, "ctr_1", None).await;
    let asked = rig.ask(Verb::ProvisionWanted, report(generation, &free)).await.unwrap();
    assert_eq!((&asked["wanted"]["attempts"], &asked["wanted"]["lease"]), (&json!(0), &Value::Null));
    let leased = wanted(&rig, "ctr_2", Some("p-1")).await;
    let asked = rig.ask(Verb::ProvisionWanted, report(generation, &leased)).await.unwrap();
    let ends_at = NOW.after(HOUR).get();
    assert_eq!(asked["wanted"]["lease"], json!({"epoch": 1, "ends_at": ends_at, "grace_seconds": 1_800}));
    rig.ask(Verb::Release, json!({"sandbox_id": "ctr_2", "owner": "p-1"})).await.unwrap();
    let asked = rig.ask(Verb::ProvisionWanted, report(generation, &leased)).await.unwrap();
    assert_eq!(asked, json!({"wanted": null}), "its holder gave it up");
}

#[tokio::test]
async fn ready_container_is_recorded_once_and_its_twin_is_removed() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let free = wanted(&rig, "ctr_1", None).await;
    assert_eq!(held(&rig, generation, &[("ctr_1", ONE), ("ctr_1", OTHER)]).await, ["keep", "keep"]);
    let kept = provisioned(&rig, generation, &free, ONE).await;
    assert_eq!(kept, json!({"fate": "keep", "lease": null}));
    let recorded = stored(&rig, "ctr_1").await;
    assert_eq!(recorded.state.name(), StateName::Available);
    let named = [Descriptor::NODE, Descriptor::INCARNATION, Descriptor::TEMPLATE];
    assert_eq!(named.map(|key| recorded.descriptor.get(key)), [Some("a"), Some(ONE), Some("shell@1")]);
    assert_eq!(provisioned(&rig, generation, &free, ONE).await, kept, "a repeat after a lost reply");
    assert_eq!(provisioned(&rig, generation, &free, OTHER).await["fate"], "remove");
    assert_eq!(stored(&rig, "ctr_1").await, recorded);
    let containers = [("ctr_1", ONE), ("ctr_1", OTHER), ("ctr_9", ONE)];
    assert_eq!(held(&rig, generation, &containers).await, ["keep", "remove", "unknown"]);
    // Another node with the same incarnation has another container.
    let other = register(&rig, "b").await;
    let body = json!({"node": "b", "generation": other, "containers": [{"sandbox_id": "ctr_1", "incarnation": ONE}]});
    assert_eq!(rig.ask(Verb::Held, body).await.unwrap()["holdings"][0]["fate"], "remove");
}

#[tokio::test]
async fn container_for_a_claim_is_ready_with_its_lease_and_removed_after_it() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let leased = wanted(&rig, "ctr_1", Some("p-1")).await;
    let kept = provisioned(&rig, generation, &leased, ONE).await;
    assert_eq!((&kept["fate"], &kept["lease"]["epoch"]), (&json!("keep"), &json!(1)));
    assert_eq!(stored(&rig, "ctr_1").await.state.name(), StateName::Allocated);
    rig.ask(Verb::Release, json!({"sandbox_id": "ctr_1", "owner": "p-1"})).await.unwrap();
    assert_eq!(held(&rig, generation, &[("ctr_1", ONE)]).await, ["remove"]);
    assert_eq!(provisioned(&rig, generation, &leased, ONE).await["fate"], "remove", "a late repeat");
}

#[tokio::test]
async fn failed_attempts_are_counted_once_and_the_last_parks() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let free = wanted(&rig, "ctr_1", None).await;
    let fail = async |attempts: u32, is_final: bool| {
        let fields = json!({"attempts": attempts, "reason": "no such image", "is_final": is_final});
        rig.ask(Verb::ProvisionFailed, with(report(generation, &free), fields)).await.unwrap()
    };
    assert_eq!(fail(0, false).await, json!({"next": "retry", "attempts": 1}));
    assert_eq!(fail(0, false).await, json!({"next": "retry", "attempts": 1}), "a repeat");
    assert_eq!(fail(1, false).await, json!({"next": "retry", "attempts": 2}));
    let asked = rig.ask(Verb::ProvisionWanted, report(generation, &free)).await.unwrap();
    assert_eq!(asked["wanted"]["attempts"], 2);
    assert_eq!(fail(2, false).await, json!({"next": "park", "attempts": 3}));
    let parked = stored(&rig, "ctr_1").await;
    let provision = parked.provision().unwrap();
    assert_eq!(
        (parked.state.name(), provision.attempts, provision.last_error.as_deref()),
        (StateName::ProvisionFailed, 3, Some("no such image"))
    );
    assert_eq!(fail(2, false).await["next"], "drop", "a repeat");
    assert_eq!(held(&rig, generation, &[("ctr_1", ONE)]).await, ["remove"], "a replay creates a new one");
    let hopeless = wanted(&rig, "ctr_2", None).await;
    let fields = json!({"attempts": 0, "reason": "refused", "is_final": true});
    let end = rig.ask(Verb::ProvisionFailed, with(report(generation, &hopeless), fields)).await.unwrap();
    assert_eq!(end, json!({"next": "park", "attempts": 1}));
    assert_eq!(stored(&rig, "ctr_2").await.provision().unwrap().last_error.as_deref(), Some("refused"));
}

#[tokio::test]
async fn invalid_reports_are_refused_in_words() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let free = wanted(&rig, "ctr_1", None).await;
    let register = |field: &str, value: &str| {
        let mut body = json!({"node": "a", "engine": "fake", "isolation": "process", "version": "1"});
        body[field] = json!(value);
        body
    };
    let many: Vec<_> = (0..101).map(|_| json!({"sandbox_id": "ctr_1", "incarnation": ONE})).collect();
    for (verb, body, words) in [
        (Verb::RegisterNode, register("node", "a.b"), "node may hold only"),
        (Verb::RegisterNode, register("engine", ""), "engine must be"),
        (Verb::RegisterNode, register("version", "a b"), "version must be"),
        (Verb::RegisterNode, register("isolation", "jail"), "isolation must be one of process, container"),
        (
            Verb::Provisioned,
            with(report(generation, &free), json!({"incarnation": "x"})),
            "incarnation must be a UUID",
        ),
        (Verb::Held, json!({"node": "a", "generation": generation, "containers": many}), "at most 100"),
    ] {
        let fault = rig.ask(verb, body).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::InvalidRequest, "{words}");
        assert!(fault.message.contains(words), "{}", fault.message);
    }
    assert_eq!(stored(&rig, "ctr_1").await.version, Version::new(1));
}

/// Changes the rules of the pool for its template, past the checks of `put-pool`.
async fn restrict(rig: &Rig, change: impl FnOnce(&mut PoolSpec)) {
    let mut spec = rig.store.pool_spec(&PoolName::parse(POOL).unwrap()).await.unwrap().unwrap();
    let seen = spec.version;
    spec.version += 1;
    change(&mut spec);
    assert!(rig.store.write_pool(Some(seen), &spec).await.unwrap());
    rig.allocator.ports.pools.refresh(rig.store.as_ref()).await.unwrap();
}

async fn served(rig: &Rig, generation: u64) -> Value {
    rig.ask(Verb::NodePools, json!({"node": "a", "generation": generation})).await.unwrap()["pools"].clone()
}

#[tokio::test]
async fn node_learns_a_template_with_the_rules_of_its_pool() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    write_version(&rig, &of_registry("app:1")).await;
    restrict(&rig, |spec| {
        spec.images.allowed = vec![AllowedImages::parse("docker.io/library").unwrap()];
        (spec.runtime, spec.is_untrusted) = (Some(Runtime::Kata), true);
    })
    .await;
    let of = |settings: &Value| ["image", "runtime", "untrusted"].map(|field| settings[field].clone());
    let expected = [json!("docker.io/library/app:1"), json!("kata"), json!(true)];
    assert_eq!(of(&served(&rig, generation).await[0]["settings"]), expected);
    let wanted = wanted_of(&rig, "ctr_1", None, "shell@2").await;
    let asked = rig.ask(Verb::ProvisionWanted, report(generation, &wanted)).await.unwrap();
    assert_eq!(of(&asked["wanted"]["settings"]), expected);
}

#[tokio::test]
async fn nothing_is_created_from_a_template_that_the_pool_does_not_allow() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    write_version(&rig, &of_registry("docker.io/library/app:1")).await;
    restrict(&rig, |spec| spec.images.allowed = vec![AllowedImages::parse("docker.io/library").unwrap()])
        .await;
    assert_eq!(served(&rig, generation).await.as_array().unwrap().len(), 1);
    write_version(&rig, &of_registry("evil.example.com/app:1")).await;
    assert_eq!(served(&rig, generation).await, json!([]));
    // Asked for before, or by a worker that has not seen the rules.
    for (id, owner) in [("ctr_1", None), ("ctr_2", Some("p-1"))] {
        let sandbox = wanted_of(&rig, id, owner, "shell@3").await;
        let asked = rig.ask(Verb::ProvisionWanted, report(generation, &sandbox)).await.unwrap();
        assert_eq!(asked, json!({"wanted": null}));
        let parked = stored(&rig, id).await;
        assert_eq!(parked.state.name(), StateName::ProvisionFailed);
        let reason = parked.provision().unwrap().last_error.clone().unwrap();
        assert!(reason.contains("evil.example.com/app:1` is none of the images"), "{reason}");
    }
    // A version that is allowed is still created.
    let older = wanted_of(&rig, "ctr_3", None, "shell@2").await;
    let asked = rig.ask(Verb::ProvisionWanted, report(generation, &older)).await.unwrap();
    assert_eq!(asked["wanted"]["settings"]["image"], "docker.io/library/app:1");
    let claim = json!({"owner": "p-2", "pool": POOL});
    let fault = rig.ask(Verb::Claim, claim.clone()).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::PoolExhausted);
    assert!(fault.message.contains("does not allow the current version"), "{}", fault.message);
    write_version(&rig, &of_registry("app:2")).await;
    assert!(rig.ask(Verb::Claim, claim).await.is_ok());
}

#[tokio::test]
async fn nothing_is_created_in_a_pool_whose_rules_are_not_known() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let sandbox = wanted(&rig, "ctr_1", None).await;
    assert!(rig.store.remove_pool(&PoolName::parse(POOL).unwrap(), 1).await.unwrap());
    rig.allocator.ports.pools.refresh(rig.store.as_ref()).await.unwrap();
    let fault = rig.ask(Verb::ProvisionWanted, report(generation, &sandbox)).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::InternalError);
    assert_eq!(stored(&rig, "ctr_1").await, sandbox);
}
