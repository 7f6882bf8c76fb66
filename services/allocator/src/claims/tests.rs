//! Claims as their holders see them, on ports in memory.

use crate::deletions::tests::Rig;
use crate::nodes::tests::{ONE, provisioned, register, rig, wanted};
use contract::{FaultCode, Verb};
use serde_json::{Value, json};

fn claim(change: Value) -> Value {
    let mut body = json!({"owner": "p-1", "pool": "shells"});
    let Value::Object(change) = change else { panic!("fields") };
    body.as_object_mut().unwrap().extend(change);
    body
}

async fn refused(rig: &Rig, body: Value) -> (FaultCode, String) {
    let fault = rig.ask(Verb::Claim, body).await.unwrap_err();
    (fault.code, fault.message)
}

#[tokio::test]
async fn claim_is_shown_with_everything_but_its_environment() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let free = wanted(&rig, "ctr_1", None).await;
    provisioned(&rig, generation, &free, ONE).await;
    let asked = claim(json!({"idempotency_key": "k", "labels": {"team": "blue"}, "lab": "lab-a"}));
    let view = rig.ask(Verb::Claim, asked.clone()).await.unwrap();
    let expected = json!({
        "sandbox_id": "ctr_1", "pool": "shells", "status": "allocated", "runtime": "running",
        "template": "shell@1", "node": "a", "owner": "p-1", "key": "k", "lab": "lab-a",
        "labels": {"team": "blue"}, "lease_epoch": view["lease_epoch"], "allocated_at": view["allocated_at"],
        "expires_at": view["expires_at"], "ready_at": view["ready_at"],
    });
    assert_eq!(view, expected);
    assert_eq!(rig.ask(Verb::Claim, asked).await.unwrap(), view, "a repeat");
    let own = json!({"sandbox_id": "ctr_1", "owner": "p-1"});
    assert_eq!(rig.ask(Verb::ShowClaim, own).await.unwrap(), view);
    let other = json!({"sandbox_id": "ctr_1", "owner": "p-2"});
    assert_eq!(rig.ask(Verb::ShowClaim, other).await.unwrap_err().code, FaultCode::NotSandboxOwner);
    let listed = rig.ask(Verb::Claims, json!({"owner": "p-1"})).await.unwrap();
    assert_eq!(listed, json!({"claims": [view], "cursor": null}));
    assert_eq!(rig.ask(Verb::Claims, json!({"owner": "p-2"})).await.unwrap()["claims"], json!([]));
}

#[tokio::test]
async fn claims_of_an_owner_are_listed_page_by_page() {
    let rig = rig().await;
    for key in ["a", "b", "c"] {
        rig.ask(Verb::Claim, claim(json!({"idempotency_key": key}))).await.unwrap();
    }
    let (mut keys, mut cursor) = (Vec::new(), Value::Null);
    for _ in 0..4 {
        let page = json!({"owner": "p-1", "limit": 1, "cursor": cursor});
        let page = rig.ask(Verb::Claims, page).await.unwrap();
        keys.extend(page["claims"].as_array().unwrap().iter().map(|claim| claim["key"].clone()));
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(keys, ["a", "b", "c"]);
    let bad = rig.ask(Verb::Claims, json!({"owner": "p-1", "cursor": "x"})).await.unwrap_err();
    assert_eq!(bad.code, FaultCode::InvalidRequest);
}

#[tokio::test]
async fn key_belongs_to_what_the_first_request_asked_for() {
    let rig = rig().await;
    let first = claim(json!({"env": {"A": "1"}}));
    let view = rig.ask(Verb::Claim, first.clone()).await.unwrap();
    assert_eq!(view["status"], "provisioning");
    assert_eq!(rig.ask(Verb::Claim, first).await.unwrap(), view);
    for other in [json!({}), json!({"env": {"A": "2"}}), json!({"labels": {"A": "1"}})] {
        assert_eq!(refused(&rig, claim(other.clone())).await.0, FaultCode::KeyInUse, "{other}");
    }
}

#[tokio::test]
async fn claim_of_an_account_says_which_one_it_is() {
    let rig = rig().await;
    rig.add(7, "main").await;
    let view = rig.ask(Verb::Claim, json!({"owner": "p-1", "pool": "main"})).await.unwrap();
    let granted = rig.ask(Verb::Allocate, json!({"owner": "p-1", "pool": "main"})).await.unwrap();
    for field in ["sandbox_id", "name", "external_id", "lease_epoch", "expires_at"] {
        assert_eq!(view[field], granted[field], "{field}");
    }
    assert_eq!((&view["runtime"], &view["template"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn template_stands_for_its_only_pool() {
    let rig = rig().await;
    let by_template = json!({"owner": "p-1", "template": "shell"});
    assert_eq!(rig.ask(Verb::Claim, by_template).await.unwrap()["pool"], "shells");
    for (body, words) in [
        (json!({"owner": "p-2", "template": "other"}), "of no pool"),
        (claim(json!({"template": "other"})), "not that of the pool"),
    ] {
        let (code, message) = refused(&rig, body).await;
        assert_eq!(code, FaultCode::InvalidRequest);
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn environment_reaches_the_node_and_ends_with_the_lease() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let view = rig.ask(Verb::Claim, claim(json!({"env": {"A": "1"}}))).await.unwrap();
    let id = view["sandbox_id"].as_str().unwrap();
    let wanted = json!({"node": "a", "generation": generation, "sandbox_id": id, "epoch": 1});
    let wanted = rig.ask(Verb::ProvisionWanted, wanted).await.unwrap();
    assert_eq!(wanted["wanted"]["lease"]["env"], json!({"A": "1"}));
    let id = domain::SandboxId::parse(id).unwrap();
    let held = rig.store.sandbox(&id).await.unwrap().unwrap();
    assert!(held.lease().unwrap().options.is_some());
    rig.ask(Verb::Release, json!({"sandbox_id": id.as_str(), "owner": "p-1"})).await.unwrap();
    let released = rig.store.sandbox(&id).await.unwrap().unwrap();
    assert_eq!(released.last_lease().unwrap().options, None);
}

#[tokio::test]
async fn environment_is_checked() {
    let rig = rig().await;
    for (body, words) in [
        (json!({"owner": "p-1", "pool": "main", "env": {"A": "1"}}), "pools of containers"),
        (claim(json!({"env": {"1A": "1"}})), "begin with no digit"),
        (claim(json!({"labels": {"a b": "1"}})), "labels"),
    ] {
        let (code, message) = refused(&rig, body).await;
        assert_eq!(code, FaultCode::InvalidRequest);
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn replica_is_made_as_its_original() {
    let rig = rig().await;
    let first = claim(json!({"env": {"A": "1", "B": "1"}, "labels": {"team": "blue"}}));
    let original = rig.ask(Verb::Claim, first).await.unwrap()["sandbox_id"].clone();
    let replica = json!({
        "owner": "p-1", "idempotency_key": "k-2", "replica_of": original, "env": {"B": "2"}, "labels": {"n": "2"},
    });
    let view = rig.ask(Verb::Claim, replica.clone()).await.unwrap();
    assert_ne!(view["sandbox_id"], original);
    let same = (&view["pool"], &view["template"], &view["labels"]);
    assert_eq!(same, (&json!("shells"), &json!("shell@1"), &json!({"team": "blue", "n": "2"})));
    let id = domain::SandboxId::parse(view["sandbox_id"].as_str().unwrap()).unwrap();
    let made = rig.store.sandbox(&id).await.unwrap().unwrap();
    let env = made.lease().unwrap().options.clone().unwrap().env;
    assert_eq!(json!(env), json!({"A": "1", "B": "2"}));
    assert_eq!(rig.ask(Verb::Claim, replica).await.unwrap(), view, "a repeat");
    for (body, code) in [
        (json!({"owner": "p-1", "replica_of": original}), FaultCode::InvalidRequest),
        (json!({"owner": "p-2", "replica_of": original}), FaultCode::NotSandboxOwner),
        (json!({"owner": "p-1", "idempotency_key": "k-3", "replica_of": "ctr_x"}), FaultCode::NotFound),
        (claim(json!({"idempotency_key": "k-3", "replica_of": original})), FaultCode::InvalidRequest),
    ] {
        assert_eq!(refused(&rig, body.clone()).await.0, code, "{body}");
    }
    rig.ask(Verb::Release, json!({"sandbox_id": original, "owner": "p-1"})).await.unwrap();
    let late = json!({"owner": "p-1", "idempotency_key": "k-3", "replica_of": original});
    assert_eq!(refused(&rig, late).await.0, FaultCode::InvalidState);
}
