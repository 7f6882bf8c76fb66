//! Extensions of leases, orders of operators, and a forced sync, on a whole fleet.

use domain::{Cause, SandboxId, StateName};
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::EventLog as _;
use reqwest::Method;
use simulator::{Fault, FaultKind, Operation};

/// Waits until the event log has the latest state of the sandbox in the table.
async fn until_published(rig: &Rig, id: &str) {
    let event_log = rig.another_bus().await;
    eventually("the event log", TIMEOUT, || async {
        let version = rig.sandbox(id).await.unwrap().version;
        match event_log.last_event(&SandboxId::parse(id).unwrap()).await.unwrap() {
            Some(mark) if mark.version == version => Ok(()),
            other => Err((other, version)),
        }
    })
    .await;
    event_log.close().await;
}

#[tokio::test]
async fn extended_lease_is_consistent_everywhere() {
    let rig = Plan::new(5).start().await;
    let claim = rig.api.allocate("student-1").await;
    let extended = rig.api.extend(claim.sandbox(), "student-1", 6).await;
    assert_eq!(extended.status, 200, "{extended:?}");
    let begin = claim.body["allocated_at"].as_u64().unwrap();
    let mut expected = claim.body.clone();
    expected["expires_at"] = (begin + 6 * 3_600).into();
    assert_eq!(extended.body, expected);
    let again = rig.api.allocate("student-1").await;
    assert_eq!((again.status, &again.body), (200, &expected), "a repeated claim");
    assert_eq!(rig.api.get(claim.sandbox(), "student-1").await.body["expires_at"], begin + 6 * 3_600);
    assert_eq!(rig.api.extend(claim.sandbox(), "student-1", 73).await.status, 400);
    assert_eq!(rig.api.extend(claim.sandbox(), "student-2", 7).await.code(), "NOT_SANDBOX_OWNER");
    assert_eq!(rig.sandbox(claim.sandbox()).await.unwrap().history.last().unwrap().cause, Cause::Extended);
    until_published(&rig, claim.sandbox()).await;
    rig.stop().await;
}

#[tokio::test]
async fn owner_of_a_quarantined_sandbox_gets_another() {
    let rig = Plan::new(5).start().await;
    let claim = rig.api.allocate("student-1").await;
    let kept = rig.api.order(claim.sandbox(), "quarantine", "smoke in it").await;
    assert_eq!((kept.status, &kept.body["status"]), (200, &"quarantined".into()), "{kept:?}");
    let entry = kept.body["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&entry["by"], &entry["reason"]), (&"admin/alice".into(), &"smoke in it".into()));
    let other = rig.api.allocate("student-1").await;
    assert_eq!(other.status, 201, "{other:?}");
    assert_ne!(other.sandbox(), claim.sandbox());
    until_published(&rig, claim.sandbox()).await;
    // It can only be deleted, together with its account, even by the end of the quarantine.
    let ended = rig.api.order(claim.sandbox(), "unquarantine", "not worth it").await;
    assert_eq!((ended.status, &ended.body["status"]), (200, &"pending_deletion".into()), "{ended:?}");
    rig.until_state(claim.sandbox(), StateName::Deleted).await;
    until_published(&rig, claim.sandbox()).await;
    assert_eq!(rig.api.allocate("student-1").await.body, other.body, "the new lease stays");
    rig.stop().await;
}

#[tokio::test]
async fn operator_can_force_a_refused_sync() {
    let rig = Plan::new(25).set("CSP_PAGE_SIZE", 10).start().await;
    rig.csp.fail(Operation::List, Fault::always(FaultKind::EmptyList)).unwrap();
    let refused = rig.api.admin(Method::POST, "/v1/admin/sync").await;
    assert_eq!((refused.status, &refused.body["status"]), (200, &"refused".into()), "{refused:?}");
    assert_eq!(rig.count(StateName::Available).await, 25);
    // An ordinary tick may be waiting at that moment; then the operator must ask again.
    let forced = eventually("a forced sync", TIMEOUT, || async {
        let answer = rig.api.admin(Method::POST, "/v1/admin/sync?force=true").await;
        if answer.code() == "CONTENDED" { Err(answer) } else { Ok(answer) }
    })
    .await;
    assert_eq!((&forced.body["status"], &forced.body["forced_by"]), (&"completed".into(), &"admin".into()));
    assert_eq!(forced.body["reason"], "forced although the provider's listing is empty");
    assert_eq!((&forced.body["marked_stale"], rig.count(StateName::Stale).await), (&25.into(), 25));
    rig.csp.clear_faults();
    assert_eq!(rig.sync().await.restored, 25);
    rig.stop().await;
}
