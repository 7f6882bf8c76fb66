//! Operator actions on ports in memory.

use crate::deletions::tests::{NOW, Rig, id};
use contract::{FaultCode, Verb};
use domain::{NewSandbox, OwnerId, PoolName, State};
use ports::bus::Upkeep as _;
use ports::store::{Identities as _, Insert, Layout as _, Store as _};
use serde_json::{Value, json};
use std::time::Duration;

fn order(id: u32) -> Value {
    json!({"sandbox_id": id.to_string(), "reason": "smoke in it", "by": "alice"})
}

async fn held(rig: &Rig) -> Value {
    rig.ask(Verb::Allocate, json!({"owner": "p-1"})).await.unwrap()
}

#[tokio::test]
async fn available_sandbox_is_quarantined_and_unquarantined() {
    let rig = Rig::new();
    rig.add(1, "main").await;
    let kept = rig.ask(Verb::Quarantine, order(1)).await.unwrap();
    assert_eq!(
        (&kept["status"], kept["history"][1]["reason"].as_str()),
        (&json!("quarantined"), Some("smoke in it"))
    );
    assert_eq!(kept["history"][1]["by"], "alice");
    let fault = rig.ask(Verb::Allocate, json!({"owner": "p-1"})).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::PoolExhausted);
    assert_eq!(rig.ask(Verb::Quarantine, order(1)).await.unwrap(), kept, "a repeat");
    let back = rig.ask(Verb::Unquarantine, order(1)).await.unwrap();
    assert_eq!(back["status"], "available");
    assert_eq!(rig.ask(Verb::Unquarantine, order(1)).await.unwrap(), back, "a repeat");
    // Noted as a supply, so that no worker calls the pool exhausted because of an older round.
    let with_a_lag = rig.memory.set_otherwise(2, Duration::from_secs(5));
    let supply = with_a_lag.supply(&PoolName::parse("main").unwrap()).await.unwrap();
    assert!(supply.settles_at.is_some());
    assert_eq!(held(&rig).await["sandbox_id"], "1");
}

#[tokio::test]
async fn owner_of_a_quarantined_sandbox_gets_another() {
    let rig = Rig::new();
    rig.add(1, "main").await;
    assert_eq!(held(&rig).await["sandbox_id"], "1");
    assert_eq!(rig.ask(Verb::Quarantine, order(1)).await.unwrap()["status"], "quarantined");
    let shown = rig.ask(Verb::Get, json!({"sandbox_id": "1", "owner": "p-1"})).await.unwrap();
    assert_eq!(shown["status"], "quarantined", "its last owner may look");
    rig.add(2, "main").await;
    assert_eq!(held(&rig).await["sandbox_id"], "2", "the same owner and key");
    // The end of the old lease does not affect the new one.
    assert_eq!(rig.ask(Verb::ForceRelease, order(1)).await.unwrap()["status"], "pending_deletion");
    rig.allocator.announcing.close();
    rig.allocator.announcing.wait().await;
    assert_eq!(held(&rig).await["sandbox_id"], "2");
    let queued = rig.bus.queued_of(&PoolName::parse("main").unwrap(), &id(1)).await.unwrap();
    assert_eq!(queued.len(), 1, "the deletion is announced");
}

#[tokio::test]
async fn end_of_the_quarantine_of_a_used_sandbox_is_its_deletion() {
    let rig = Rig::new();
    rig.add(1, "main").await;
    held(&rig).await;
    rig.ask(Verb::Quarantine, order(1)).await.unwrap();
    let gone = rig.ask(Verb::Unquarantine, order(1)).await.unwrap();
    assert_eq!(
        (&gone["status"], &gone["history"][3]["cause"], &gone["history"][3]["reason"]),
        (&json!("pending_deletion"), &json!("ordered"), &json!("smoke in it"))
    );
    assert_eq!(rig.ask(Verb::Unquarantine, order(1)).await.unwrap(), gone, "a repeat");
    rig.allocator.announcing.close();
    rig.allocator.announcing.wait().await;
    let queued = rig.bus.queued_of(&PoolName::parse("main").unwrap(), &id(1)).await.unwrap();
    assert_eq!(queued.len(), 1, "the deletion is announced");
}

#[tokio::test]
async fn force_release_is_idempotent() {
    let rig = Rig::new();
    rig.add(1, "main").await;
    held(&rig).await;
    let gone = rig.ask(Verb::ForceRelease, order(1)).await.unwrap();
    assert_eq!(
        (&gone["status"], &gone["history"][2]["cause"]),
        (&json!("pending_deletion"), &json!("ordered"))
    );
    assert_eq!(gone["history"][2]["reason"], "smoke in it");
    assert_eq!(rig.ask(Verb::ForceRelease, order(1)).await.unwrap(), gone);
    let sandbox = rig.sandbox(1).await;
    assert!(sandbox.belongs_to(&OwnerId::parse("p-1").unwrap()));
    // The owner that releases it gets a success all the same.
    let released = rig.ask(Verb::Release, json!({"sandbox_id": "1", "owner": "p-1"})).await.unwrap();
    assert_eq!(released["deletion_requested_at"], NOW.get());
}

#[tokio::test]
async fn invalid_operator_action_is_refused_with_a_reason() {
    let rig = Rig::new();
    rig.add(1, "main").await;
    for (verb, message) in [
        (Verb::ForceRelease, "only a sandbox that is held or quarantined can be released"),
        (Verb::Unquarantine, ""),
    ] {
        let answer = rig.ask(verb, order(1)).await;
        match answer {
            Err(fault) => {
                assert_eq!((fault.code, fault.message.as_str()), (FaultCode::InvalidState, message))
            }
            Ok(view) => assert_eq!((verb, &view["status"]), (Verb::Unquarantine, &json!("available"))),
        }
    }
    held(&rig).await;
    rig.ask(Verb::Release, json!({"sandbox_id": "1", "owner": "p-1"})).await.unwrap();
    for verb in [Verb::Quarantine, Verb::Unquarantine] {
        assert_eq!(rig.ask(verb, order(1)).await.unwrap_err().code, FaultCode::InvalidState, "{verb:?}");
    }
    assert!(matches!(rig.sandbox(1).await.state, State::PendingDeletion(_)));
    assert_eq!(rig.ask(Verb::Quarantine, order(9)).await.unwrap_err().code, FaultCode::NotFound);
    let long = "x".repeat(257);
    for reason in ["", "  ", "two\nlines", long.as_str()] {
        let asked = json!({"sandbox_id": "1", "reason": reason});
        let fault = rig.ask(Verb::Quarantine, asked).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::InvalidRequest, "{reason:?}");
    }
}

#[tokio::test]
async fn duplicate_record_cannot_be_unquarantined() {
    let rig = Rig::new();
    rig.add(1, "main").await;
    let first = rig.memory.sandbox(&id(1)).await.unwrap().unwrap();
    // An older build made two records of one account.
    let identity = rig.memory.identity(&first.external_id).await.unwrap().unwrap();
    assert!(rig.memory.drop_identity(&identity).await.unwrap());
    let second = NewSandbox {
        id: id(2),
        name: first.name.clone(),
        external_id: first.external_id.clone(),
        pool: first.pool.clone(),
        descriptor: domain::Descriptor::default(),
    };
    assert!(matches!(rig.memory.insert(&second, NOW).await.unwrap(), Insert::Inserted(_)));
    rig.memory.name_identity(&first.external_id, &id(1)).await.unwrap();
    assert_eq!(rig.ask(Verb::Quarantine, order(2)).await.unwrap()["status"], "quarantined");
    let fault = rig.ask(Verb::Unquarantine, order(2)).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::InvalidState);
    assert!(fault.message.contains("sandbox 1 is the same account"), "{fault:?}");
    // Once the other record is out of use, this one may return.
    rig.ask(Verb::Quarantine, order(1)).await.unwrap();
    assert_eq!(rig.ask(Verb::Unquarantine, order(2)).await.unwrap()["status"], "available");
}
