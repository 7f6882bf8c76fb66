//! Which leases can be extended, what a repeat returns, and that every role uses the new end.

use crate::deletions::tests::{HOUR, NOW, Rig, id};
use contract::{FaultCode, Verb};
use domain::{Actor, Cause, Epoch, Order, Reason, UnixSeconds};
use ports::store::Write;
use serde_json::{Value, json};

const GRACE_SECONDS: u64 = 1_800;

/// A sandbox that `p-1` holds for four hours.
async fn rig() -> (Rig, Value) {
    let rig = Rig::new();
    rig.add(1, "main").await;
    let lease = rig.ask(Verb::Allocate, json!({"owner": "p-1"})).await.unwrap();
    (rig, lease)
}

fn hours(hours: u32) -> Value {
    json!({"sandbox_id": "1", "owner": "p-1", "lab_duration_hours": hours})
}

#[tokio::test]
async fn extended_end_applies_to_claim_get_and_expiry() {
    let (rig, before) = rig().await;
    rig.clock.advance(HOUR);
    let extended = rig.ask(Verb::Extend, hours(6)).await.unwrap();
    let end = NOW.after(6 * HOUR);
    let mut expected = before.clone();
    expected["expires_at"] = end.get().into();
    assert_eq!(extended, expected, "nothing else of the lease changes");
    assert_eq!(rig.ask(Verb::Allocate, json!({"owner": "p-1"})).await.unwrap(), extended, "a repeated claim");
    let target = json!({"sandbox_id": "1", "owner": "p-1"});
    assert_eq!(rig.ask(Verb::Get, target).await.unwrap()["expires_at"], end.get());
    // What expiry would do, at the old end with its grace period and a moment before the new one.
    for early in [before["expires_at"].as_u64().unwrap() + GRACE_SECONDS, end.get() - 1] {
        let write = rig.store.expire(&id(1), Epoch::new(1), UnixSeconds::new(early), NOW).await.unwrap();
        assert!(matches!(write, Write::Lost(Some(_))));
    }
    let write = rig.store.expire(&id(1), Epoch::new(1), end, end).await.unwrap();
    assert!(matches!(write, Write::Done(_)));
}

#[tokio::test]
async fn lease_length_can_be_given_in_minutes() {
    let rig = Rig::new();
    rig.add(1, "main").await;
    let asked = json!({"owner": "p-1", "lab_duration_hours": 2, "lab_duration_minutes": 90});
    let lease = rig.ask(Verb::Allocate, asked).await.unwrap();
    assert_eq!(lease["expires_at"], NOW.after(HOUR * 3 / 2).get());
    let minutes = |minutes: u32| json!({"sandbox_id": "1", "owner": "p-1", "lab_duration_minutes": minutes});
    let extended = rig.ask(Verb::Extend, minutes(100)).await.unwrap();
    assert_eq!(extended["expires_at"], NOW.after(HOUR * 5 / 3).get());
    for (verb, bad, most) in
        [(Verb::Extend, 0, 4_320), (Verb::Extend, 4_321, 4_320), (Verb::Allocate, 2_881, 2_880)]
    {
        let fault = rig.ask(verb, minutes(bad)).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::InvalidRequest);
        assert_eq!(fault.message, format!("lab_duration_minutes must be from 1 to {most}"));
    }
}

#[tokio::test]
async fn repeated_extension_is_idempotent_and_never_shortens() {
    let (rig, before) = rig().await;
    let extended = rig.ask(Verb::Extend, hours(6)).await.unwrap();
    assert_eq!(rig.ask(Verb::Extend, hours(6)).await.unwrap(), extended);
    assert_eq!(rig.ask(Verb::Extend, hours(2)).await.unwrap(), extended);
    let sandbox = rig.sandbox(1).await;
    assert_eq!((sandbox.version.get(), sandbox.epoch.get()), (3, 1), "one change");
    assert_eq!(sandbox.history.last().unwrap().cause, Cause::Extended);
    assert_ne!(before["expires_at"], extended["expires_at"]);
}

#[tokio::test]
async fn total_lease_length_is_limited() {
    let (rig, before) = rig().await;
    for (asked, message) in [
        (hours(73), "lab_duration_hours must be from 1 to 72"),
        (hours(0), "lab_duration_hours must be from 1 to 72"),
        (
            json!({"sandbox_id": "1", "owner": "p-1"}),
            "lab_duration_hours has to say how long the lease is to last",
        ),
    ] {
        let fault = rig.ask(Verb::Extend, asked).await.unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (FaultCode::InvalidRequest, message));
    }
    // The length counts from the start of the lease, however late the request comes.
    rig.clock.advance(3 * HOUR);
    let extended = rig.ask(Verb::Extend, hours(72)).await.unwrap();
    assert_eq!(extended["expires_at"].as_u64(), Some(NOW.after(72 * HOUR).get()));
    assert_eq!(extended["allocated_at"], before["allocated_at"]);
}

#[tokio::test]
async fn extension_requires_the_owner_and_the_current_epoch() {
    let (rig, lease) = rig().await;
    let mut asked = hours(6);
    asked["owner"] = "p-2".into();
    assert_eq!(rig.ask(Verb::Extend, asked).await.unwrap_err().code, FaultCode::NotSandboxOwner);
    let mut asked = hours(6);
    asked["lease_epoch"] = (lease["lease_epoch"].as_u64().unwrap() + 1).into();
    assert_eq!(rig.ask(Verb::Extend, asked.clone()).await.unwrap_err().code, FaultCode::InvalidState);
    asked["lease_epoch"] = lease["lease_epoch"].clone();
    assert!(rig.ask(Verb::Extend, asked).await.is_ok());
    for (id, code) in [("2", FaultCode::NotFound), ("a.b", FaultCode::InvalidRequest)] {
        let asked = json!({"sandbox_id": id, "owner": "p-1", "lab_duration_hours": 6});
        assert_eq!(rig.ask(Verb::Extend, asked).await.unwrap_err().code, code);
    }
    let fault = rig.ask(Verb::Extend, json!({"sandbox_id": "1", "lab_duration_hours": 6})).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::MissingSandboxId);
}

#[tokio::test]
async fn expired_or_unknown_lease_cannot_be_extended() {
    let (rig, _) = rig().await;
    // In the grace period the lease still exists.
    rig.clock.advance(4 * HOUR + HOUR / 4);
    assert!(rig.ask(Verb::Extend, hours(5)).await.is_ok());
    rig.clock.advance(2 * HOUR);
    assert_eq!(rig.ask(Verb::Extend, hours(9)).await.unwrap_err().code, FaultCode::AllocationExpired);
    let by = NOW.after(5 * HOUR);
    assert!(matches!(rig.store.expire(&id(1), Epoch::new(1), by, by).await.unwrap(), Write::Done(_)));
    assert_eq!(rig.ask(Verb::Extend, hours(9)).await.unwrap_err().code, FaultCode::AllocationExpired);
}

#[tokio::test]
async fn released_or_quarantined_sandbox_cannot_be_extended() {
    let (rig, _) = rig().await;
    rig.ask(Verb::Release, json!({"sandbox_id": "1", "owner": "p-1"})).await.unwrap();
    assert_eq!(rig.ask(Verb::Extend, hours(6)).await.unwrap_err().code, FaultCode::InvalidState);
    rig.add(2, "main").await;
    rig.ask(Verb::Allocate, json!({"owner": "p-1"})).await.unwrap();
    let order = Order { by: Actor::parse("alice").unwrap(), reason: Reason::parse("smoke").unwrap() };
    rig.store.quarantine(&rig.sandbox(2).await.candidate(), &order, NOW).await.unwrap();
    let asked = json!({"sandbox_id": "2", "owner": "p-1", "lab_duration_hours": 6});
    let fault = rig.ask(Verb::Extend, asked).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::InvalidState);
    assert_eq!(fault.message, "this sandbox was taken out of use; claim a new one");
}
