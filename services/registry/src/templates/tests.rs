//! Requests about templates, on a store in memory.

use super::*;
use crate::{Config, Metrics, Ports};
use contract::{Principal, Role, Scope, Verb};
use domain::pool::PoolKind;
use domain::{PoolName, PoolSpec, ProviderName};
use ports::bus::{Context, Handler as _};
use ports::store::{PoolItems as _, Store, TemplateItems as _};
use serde_json::{Value, json};
use std::sync::Arc;
use testkit::clock::ManualClock;
use testkit::faulty::{Fault as StoreFaultKind, FaultyStore};
use testkit::store::MemoryStore;

const NOW: UnixSeconds = UnixSeconds::new(1_763_683_200);

struct Rig {
    registry: Registry,
    memory: Arc<MemoryStore>,
}

impl Rig {
    fn new() -> Self {
        let memory = Arc::new(MemoryStore::new(1));
        Self { registry: registry(Arc::clone(&memory) as Arc<dyn Store>), memory }
    }

    async fn ask(&self, verb: Verb, body: Value) -> Result<Value, Fault> {
        ask_as(&self.registry, Principal::default(), verb, body).await
    }

    async fn refused(&self, verb: Verb, body: Value) -> (FaultCode, String) {
        let fault = self.ask(verb, body).await.unwrap_err();
        (fault.code, fault.message)
    }

    /// A pool that names the template `python`.
    async fn use_python(&self) {
        assert!(self.memory.write_pool(None, &user_of_python()).await.unwrap());
    }
}

fn registry(store: Arc<dyn Store>) -> Registry {
    let ports = Ports { clock: Arc::new(ManualClock::at(NOW)), store };
    Registry::new(
        Config { in_flight_max: 4 },
        ports,
        Metrics::register(&prometheus::Registry::new()).unwrap(),
    )
}

fn user_of_python() -> PoolSpec {
    let name = PoolName::parse("labs").unwrap();
    PoolSpec {
        kind: PoolKind::Container,
        template: Some("python".to_owned()),
        ..PoolSpec::of_accounts(name, ProviderName::csp(), None)
    }
}

async fn ask_as(registry: &Registry, principal: Principal, verb: Verb, body: Value) -> Result<Value, Fault> {
    let context = Context {
        request_id: "r".to_owned(),
        deadline_ms: None,
        traceparent: None,
        idempotency_key: None,
        attempt: None,
        principal,
    };
    let request = Request { verb, context, body: body.to_string().into() };
    registry.handle(request).await.body.map(|body| serde_json::from_slice(&body).unwrap())
}

fn put(memory_mb: u64) -> Value {
    json!({"template": "python", "settings": {"image": "python-3.12", "memory_mb": memory_mb}, "by": "alice"})
}

fn put_at(version: u64, memory_mb: u64) -> Value {
    let mut body = put(memory_mb);
    body["version"] = json!(version);
    body
}

#[tokio::test]
async fn change_is_a_new_version_and_a_repeat_is_none() {
    let rig = Rig::new();
    let first = rig.ask(Verb::PutTemplate, put(64)).await.unwrap();
    assert_eq!(
        (&first["version"], &first["by"], &first["created_at"]),
        (&json!(1), &json!("alice"), &json!(NOW.get()))
    );
    assert_eq!(first["settings"]["cpu_milli"], 1_000, "a reply has the defaults");
    assert_eq!(rig.ask(Verb::PutTemplate, put(64)).await.unwrap(), first, "a repeat");
    let second = rig.ask(Verb::PutTemplate, put(128)).await.unwrap();
    assert_eq!(second["version"], 2);
    let shown = |body| rig.ask(Verb::Template, body);
    assert_eq!(shown(json!({"template": "python"})).await.unwrap(), second);
    let old = shown(json!({"template": "python", "version": 1})).await.unwrap();
    assert_eq!(
        (&old["settings"], &old["current_version"]),
        (&first["settings"], &json!(2)),
        "it never changes"
    );
    for body in [json!({"template": "python", "version": 3}), json!({"template": "ruby"})] {
        assert_eq!(rig.refused(Verb::Template, body).await.0, FaultCode::NotFound);
    }
}

#[tokio::test]
async fn version_protects_against_a_concurrent_change() {
    let rig = Rig::new();
    let stale = FaultCode::InvalidState;
    assert_eq!(rig.refused(Verb::PutTemplate, put_at(1, 64)).await.0, stale, "there is none");
    assert_eq!(rig.ask(Verb::PutTemplate, put_at(0, 64)).await.unwrap()["version"], 1);
    assert_eq!(rig.ask(Verb::PutTemplate, put_at(0, 64)).await.unwrap()["version"], 1, "a repeat");
    assert_eq!(rig.refused(Verb::PutTemplate, put_at(0, 128)).await.0, stale);
    assert_eq!(rig.ask(Verb::PutTemplate, put_at(1, 128)).await.unwrap()["version"], 2);
    assert_eq!(rig.refused(Verb::RemoveTemplate, json!({"template": "python", "version": 1})).await.0, stale);
}

/// Lets one change begin, another one happen in between, and the first one continue.
async fn changed_in_between(late: Value) -> (Result<Value, Fault>, Arc<MemoryStore>) {
    let memory = Arc::new(MemoryStore::new(1));
    // The first call reads the head, the second one writes.
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&memory) as _).with(1, StoreFaultKind::PauseBefore));
    let slow = registry(Arc::clone(&faulty) as Arc<dyn Store>);
    let asked =
        tokio::spawn(async move { ask_as(&slow, Principal::default(), Verb::PutTemplate, late).await });
    faulty.paused().await;
    let fast = registry(Arc::clone(&memory) as Arc<dyn Store>);
    ask_as(&fast, Principal::default(), Verb::PutTemplate, put(64)).await.unwrap();
    faulty.resume();
    (asked.await.unwrap(), memory)
}

#[tokio::test]
async fn lost_race_is_another_version_or_refused() {
    let (late, memory) = changed_in_between(put(128)).await;
    assert_eq!(late.unwrap()["version"], 2, "its caller accepts any version");
    let versions = memory.template_versions(&TemplateId::parse("python").unwrap(), None, 10).await.unwrap();
    assert_eq!(versions.entries.iter().map(|one| one.spec.memory_mb).collect::<Vec<_>>(), [128, 64]);
    let (late, _) = changed_in_between(put_at(0, 128)).await;
    assert_eq!(late.unwrap_err().code, FaultCode::InvalidState);
}

#[tokio::test]
async fn change_whose_answer_was_lost_is_repeated_without_another_version() {
    let memory = Arc::new(MemoryStore::new(1));
    let faulty = FaultyStore::new(Arc::clone(&memory) as _).with(1, StoreFaultKind::FailAfter);
    let registry = registry(Arc::new(faulty));
    let ask = || ask_as(&registry, Principal::default(), Verb::PutTemplate, put_at(0, 64));
    assert_eq!(ask().await.unwrap_err().code, FaultCode::StoreUnavailable);
    assert_eq!(ask().await.unwrap()["version"], 1);
}

#[tokio::test]
async fn removed_template_keeps_its_versions_and_their_numbers() {
    let rig = Rig::new();
    let python = json!({"template": "python"});
    assert_eq!(rig.refused(Verb::RemoveTemplate, python.clone()).await.0, FaultCode::NotFound);
    rig.ask(Verb::PutTemplate, put(64)).await.unwrap();
    let removed = rig.ask(Verb::RemoveTemplate, python.clone()).await.unwrap();
    assert_eq!(removed["removed_at"], NOW.get());
    assert_eq!(rig.ask(Verb::RemoveTemplate, python.clone()).await.unwrap(), removed, "a repeat");
    assert_eq!(rig.refused(Verb::Template, python.clone()).await.0, FaultCode::NotFound);
    assert_eq!(rig.ask(Verb::Templates, json!({})).await.unwrap()["templates"], json!([]));
    let kept = rig.ask(Verb::Template, json!({"template": "python", "version": 1})).await.unwrap();
    assert_eq!(kept, removed, "sandboxes may name it");
    let again = rig.ask(Verb::PutTemplate, put_at(0, 64)).await.unwrap();
    assert_eq!((&again["version"], again.get("removed_at")), (&json!(2), None));
}

#[tokio::test]
async fn template_that_a_pool_names_stays() {
    let rig = Rig::new();
    rig.ask(Verb::PutTemplate, put(64)).await.unwrap();
    rig.use_python().await;
    let (code, message) = rig.refused(Verb::RemoveTemplate, json!({"template": "python"})).await;
    assert_eq!(code, FaultCode::InvalidState);
    assert!(message.contains("pool labs"), "{message}");
    assert!(rig.ask(Verb::Template, json!({"template": "python"})).await.is_ok());
}

#[tokio::test]
async fn pool_that_names_a_template_during_its_removal_keeps_it() {
    for fault in [StoreFaultKind::PauseBefore, StoreFaultKind::PauseAfter] {
        let rig = Rig::new();
        rig.ask(Verb::PutTemplate, put(64)).await.unwrap();
        // The first call reads the head, the second one marks it.
        let faulty = Arc::new(FaultyStore::new(Arc::clone(&rig.memory) as _).with(1, fault));
        let slow = registry(Arc::clone(&faulty) as Arc<dyn Store>);
        let asked = tokio::spawn(async move {
            ask_as(&slow, Principal::default(), Verb::RemoveTemplate, json!({"template": "python"})).await
        });
        faulty.paused().await;
        rig.use_python().await;
        faulty.resume();
        assert_eq!(asked.await.unwrap().unwrap_err().code, FaultCode::InvalidState, "{fault:?}");
        let shown = rig.ask(Verb::Template, json!({"template": "python"})).await.unwrap();
        assert_eq!(shown.get("removed_at"), None, "{fault:?}");
    }
}

/// A removal during which another operator writes version 2, and the rig on its store.
async fn removal_beside_a_change(body: Value) -> (Result<Value, Fault>, Rig) {
    let rig = Rig::new();
    rig.ask(Verb::PutTemplate, put(64)).await.unwrap();
    // The first call reads the head, the second one marks it.
    let faulty = FaultyStore::new(Arc::clone(&rig.memory) as _).with(1, StoreFaultKind::PauseBefore);
    let faulty = Arc::new(faulty);
    let slow = registry(Arc::clone(&faulty) as Arc<dyn Store>);
    let asked =
        tokio::spawn(async move { ask_as(&slow, Principal::default(), Verb::RemoveTemplate, body).await });
    faulty.paused().await;
    rig.ask(Verb::PutTemplate, put(128)).await.unwrap();
    faulty.resume();
    (asked.await.unwrap(), rig)
}

#[tokio::test]
async fn removal_that_loses_a_race_looks_again() {
    let (removed, _) = removal_beside_a_change(json!({"template": "python"})).await;
    let removed = removed.unwrap();
    assert_eq!((&removed["version"], &removed["removed_at"]), (&json!(2), &json!(NOW.get())));
    let (refused, rig) = removal_beside_a_change(json!({"template": "python", "version": 1})).await;
    assert_eq!(refused.unwrap_err().code, FaultCode::InvalidState);
    assert_eq!(rig.ask(Verb::Template, json!({"template": "python"})).await.unwrap()["version"], 2);
}

#[tokio::test]
async fn lists_are_paged_by_opaque_cursors() {
    let rig = Rig::new();
    for name in ["c", "a", "b"] {
        rig.ask(Verb::PutTemplate, json!({"template": name, "settings": {"image": "host"}})).await.unwrap();
    }
    let page = rig.ask(Verb::Templates, json!({"limit": 2})).await.unwrap();
    let next = rig.ask(Verb::Templates, json!({"limit": 2, "cursor": page["cursor"]})).await.unwrap();
    let ids = |page: &Value| -> Vec<String> {
        page["templates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["template"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!((ids(&page), ids(&next)), (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]));
    assert_eq!(next["cursor"], Value::Null);
    for memory_mb in [65, 66] {
        let body = json!({"template": "a", "settings": {"image": "host", "memory_mb": memory_mb}});
        rig.ask(Verb::PutTemplate, body).await.unwrap();
    }
    let page = rig.ask(Verb::TemplateVersions, json!({"template": "a", "limit": 2})).await.unwrap();
    assert_eq!((&page["versions"][0]["version"], &page["versions"][1]["version"]), (&json!(3), &json!(2)));
    let next = json!({"template": "a", "cursor": page["cursor"]});
    assert_eq!(rig.ask(Verb::TemplateVersions, next).await.unwrap()["versions"][0]["version"], 1);
    for (verb, body) in [
        (Verb::Templates, json!({"cursor": "x"})),
        (Verb::Templates, json!({"cursor": cursor::encode(&["a b"])})),
        (Verb::TemplateVersions, json!({"template": "a", "cursor": cursor::encode(&["a"])})),
        (Verb::Templates, json!({"limit": 0})),
        (Verb::Templates, json!({"limit": 101})),
    ] {
        assert_eq!(rig.refused(verb, body.clone()).await.0, FaultCode::InvalidRequest, "{body}");
    }
    assert_eq!(rig.refused(Verb::TemplateVersions, json!({"template": "z"})).await.0, FaultCode::NotFound);
}

#[tokio::test]
async fn unknown_and_invalid_fields_are_refused_by_name() {
    let rig = Rig::new();
    for (body, words) in [
        (json!({"template": "a b", "settings": {"image": "host"}}), "template may hold only"),
        (json!({"template": "a", "settings": {"image": "host", "kind": "stack"}}), "kind must be"),
        (json!({"template": "a", "settings": {"image": "host", "cpus": 1}}), "unknown field `cpus`"),
        (json!({"template": "a", "settings": {"image": "host"}, "pools": ["dns"]}), "unknown field `pools`"),
        (json!({"template": "a"}), "missing field `settings`"),
        (json!([]), "is not the expected JSON object"),
    ] {
        let (code, message) = rig.refused(Verb::PutTemplate, body.clone()).await;
        assert_eq!(code, FaultCode::InvalidRequest, "{body}");
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn only_operators_write_and_principals_of_some_pools_do_nothing() {
    let rig = Rig::new();
    let alice = || Actor::parse("alice").unwrap();
    let code = async |principal, verb, body| {
        ask_as(&rig.registry, principal, verb, body).await.map_err(|fault| fault.code).err()
    };
    for role in [Role::Lab, Role::User, Role::ReadOnly] {
        let of = |verb, body| code(Principal::of(alice(), &[role]), verb, body);
        assert_eq!(of(Verb::Templates, json!({})).await, None, "{role:?}");
        assert_eq!(of(Verb::PutTemplate, put(64)).await, Some(FaultCode::Forbidden), "{role:?}");
    }
    let limited = || Principal {
        scope: Scope::of(&[PoolName::parse("dns").unwrap()]),
        ..Principal::of(alice(), &[Role::Admin])
    };
    assert_eq!(code(limited(), Verb::Templates, json!({})).await, Some(FaultCode::Forbidden));
    assert_eq!(code(limited(), Verb::PutTemplate, put(64)).await, Some(FaultCode::Forbidden));
    assert_eq!(code(Principal::of(alice(), &[Role::Operator]), Verb::PutTemplate, put(64)).await, None);
    assert_eq!(code(Principal::default(), Verb::Allocate, json!({})).await, Some(FaultCode::NoWorkers));
}
