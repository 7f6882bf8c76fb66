//! Replays of parked creations on ports in memory.

use crate::deletions::tests::{HOUR, NOW, Rig};
use crate::nodes::tests::{ONE, provisioned, register, rig, wanted};
use contract::{FaultCode, Verb};
use domain::{Actor, OwnerId, Sandbox, SandboxId, StateName};
use serde_json::{Value, json};

const REASON: &str = "no such image";

/// A sandbox whose creation is parked.
async fn parked(rig: &Rig, id: &str, owner: Option<&str>) -> Sandbox {
    let wanted = wanted(rig, id, owner).await;
    rig.store.note_provision_failure(&wanted, 3, REASON).await.unwrap();
    let written = rig.store.park_provision(&wanted, NOW).await.unwrap();
    assert!(matches!(written, ports::store::Write::Done(_)), "{written:?}");
    stored(rig, id).await
}

async fn stored(rig: &Rig, id: &str) -> Sandbox {
    rig.store.sandbox(&SandboxId::parse(id).unwrap()).await.unwrap().unwrap()
}

async fn replay(rig: &Rig, id: &str) -> Value {
    let body = json!({"sandbox_id": id, "by": "alice"});
    rig.ask(Verb::ReplayProvision, body).await.unwrap()["outcome"].clone()
}

async fn replay_all(rig: &Rig, body: Value) -> Value {
    rig.ask(Verb::ReplayProvisions, body).await.unwrap()
}

fn counts(replayed: u64, on_the_way: u64, gone: u64, failed: u64) -> Value {
    json!({"replayed": replayed, "already_on_the_way": on_the_way, "gone": gone, "failed": failed, "cursor": null})
}

#[tokio::test]
async fn replayed_creation_is_queued_and_keeps_its_lease() {
    for owner in [Some("student-1"), None] {
        let rig = rig().await;
        let seen = parked(&rig, "ctr_1", owner).await;
        rig.clock.advance(HOUR / 2);
        assert_eq!(replay(&rig, "ctr_1").await, "replayed");
        let again = stored(&rig, "ctr_1").await;
        let provision = again.provision().unwrap();
        assert_eq!((again.state.name(), provision.attempts), (StateName::Provisioning, 0));
        assert_eq!((again.lease(), again.epoch), (seen.lease(), seen.epoch));
        assert_eq!(again.history.last().unwrap().by, Some(Actor::parse("alice").unwrap()));
        let queued = rig.bus.provisions();
        assert_eq!(queued.len(), 1);
        assert_eq!(
            (queued[0].is_leased, queued[0].requested_at),
            (owner.is_some(), NOW.after(HOUR / 2).get())
        );
        let generation = register(&rig, "a").await;
        assert_eq!(provisioned(&rig, generation, &again, ONE).await["fate"], "keep");
    }
}

#[tokio::test]
async fn repeat_changes_nothing_and_announces_lost_work() {
    let rig = rig().await;
    let seen = wanted(&rig, "ctr_1", None).await;
    for _ in 0..2 {
        assert_eq!(replay(&rig, "ctr_1").await, "already_on_the_way");
        assert_eq!(stored(&rig, "ctr_1").await, seen);
        assert_eq!(rig.bus.provisions().len(), 1);
    }
}

#[tokio::test]
async fn only_parked_creations_are_replayed() {
    let rig = rig().await;
    let fault = |id: &'static str| {
        let asked = rig.ask(Verb::ReplayProvision, json!({"sandbox_id": id}));
        async { asked.await.map_err(|fault| (fault.code, fault.message)).unwrap_err() }
    };
    assert_eq!(fault("ctr_9").await.0, FaultCode::NotFound);

    let ready = wanted(&rig, "ctr_1", None).await;
    let generation = register(&rig, "a").await;
    provisioned(&rig, generation, &ready, ONE).await;
    let refused = (FaultCode::InvalidState, "no creation of it is parked: it is available".to_owned());
    assert_eq!(fault("ctr_1").await, refused);

    let released = parked(&rig, "ctr_2", Some("student-1")).await;
    let owner = OwnerId::parse("student-1").unwrap();
    rig.store.release(&released.id, &owner, None, None, NOW).await.unwrap();
    assert_eq!(replay(&rig, "ctr_2").await, "gone");
    assert_eq!(stored(&rig, "ctr_2").await.state.name(), StateName::PendingDeletion);

    // The end of the lease, and then its grace of half an hour.
    let held = parked(&rig, "ctr_3", Some("student-2")).await;
    rig.clock.advance(HOUR + HOUR / 2);
    let (code, message) = fault("ctr_3").await;
    assert!(code == FaultCode::InvalidState && message.contains("its lease is over"), "{message}");
    assert_eq!(stored(&rig, "ctr_3").await, held);
    assert_eq!(replay_all(&rig, json!({})).await, counts(0, 0, 1, 0));
    assert!(rig.bus.provisions().is_empty());
}

#[tokio::test]
async fn all_parked_creations_are_replayed_page_by_page() {
    let rig = rig().await;
    for number in 1..=5 {
        parked(&rig, &format!("ctr_{number}"), (number > 3).then_some("student-1")).await;
    }
    assert_eq!(replay_all(&rig, json!({"pool": "main"})).await, counts(0, 0, 0, 0));
    assert_eq!(replay_all(&rig, json!({"reason": "refused"})).await, counts(0, 0, 0, 0));
    let (mut replayed, mut cursor) = (0, Value::Null);
    for _ in 0..5 {
        let mut body = json!({"pool": "shells", "reason": "image", "limit": 2});
        if !cursor.is_null() {
            body["cursor"] = cursor;
        }
        let page = replay_all(&rig, body).await;
        assert!(page["replayed"].as_u64().unwrap() <= 2, "{page}");
        replayed += page["replayed"].as_u64().unwrap();
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!((replayed, cursor), (5, Value::Null));
    assert_eq!(rig.bus.provisions().len(), 5);
    assert_eq!(replay_all(&rig, json!({})).await, counts(0, 0, 0, 0));
}

#[tokio::test]
async fn report_of_an_attempt_before_the_replay_does_not_park_it_again() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let seen = parked(&rig, "ctr_1", Some("student-1")).await;
    replay(&rig, "ctr_1").await;
    let late = json!({
        "node": "a", "generation": generation, "sandbox_id": "ctr_1", "epoch": seen.epoch.get(),
        "attempts": 2, "reason": REASON, "is_final": true,
    });
    assert_eq!(rig.ask(Verb::ProvisionFailed, late).await.unwrap(), json!({"next": "retry", "attempts": 0}));
    let again = stored(&rig, "ctr_1").await;
    assert_eq!((again.state.name(), again.provision().unwrap().attempts), (StateName::Provisioning, 0));
}

#[tokio::test]
async fn list_shows_why_a_creation_is_parked_and_who_waits() {
    let rig = rig().await;
    parked(&rig, "ctr_1", Some("student-1")).await;
    wanted(&rig, "ctr_2", None).await;
    let listed = rig.ask(Verb::Sandboxes, json!({"status": "provision_failed"})).await.unwrap();
    let one = &listed["sandboxes"][0];
    assert_eq!(
        (&listed["count"], &one["sandbox_id"], &one["pool"]),
        (&json!(1), &json!("ctr_1"), &json!("shells"))
    );
    assert_eq!((&one["allocated_to_track"], &one["changed_at"]), (&json!("student-1"), &json!(NOW.get())));
    let why = json!({"requested_at": NOW.get(), "attempts": 3, "last_error": REASON});
    assert_eq!(one["provision"], why);
    let record = rig.ask(Verb::Sandbox, json!({"sandbox_id": "ctr_1"})).await.unwrap();
    assert_eq!(record["provision"], why);
    let stats = rig.ask(Verb::Stats, json!({})).await.unwrap();
    let counts = &stats["pools"]["shells"];
    assert_eq!((&counts["provisioning"], &counts["provision_failed"]), (&json!(1), &json!(1)));
    assert_eq!(stats["pools"]["main"].get("provision_failed"), None);
}
