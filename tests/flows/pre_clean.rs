//! Services that students left in a sandbox are deleted before the account, and the record states the true result.

use domain::{Preparation, Sandbox, Skip, StateName};
use harness::process::run;
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use simulator::{Fault, FaultKind, Operation};

const OURS: &str = "Instrqt-SaaS";

fn failing() -> Fault {
    let kind = FaultKind::status(500);
    Fault::always(kind)
}

/// A fleet with pre-cleaning.
fn plan(accounts: usize) -> Plan {
    Plan::new(accounts)
        .set("NIOSXAAS_ENABLED", true)
        .set("NIOSXAAS_SHADOW_MODE", false)
        .set("NIOSXAAS_EMAIL", "broker@example.org")
        .set("NIOSXAAS_PASSWORD", "password-of-the-tests")
}

/// Claims a sandbox, leaves these services in it, and releases it.
async fn used(rig: &Rig, owner: &str, services: &[&str]) -> String {
    let claim = rig.api.allocate(owner).await;
    assert_eq!(claim.status, 201, "{claim:?}");
    let sandbox = rig.sandbox(claim.sandbox()).await.expect("a record");
    let services: Vec<_> = services.iter().map(|name| (*name).to_owned()).collect();
    assert!(rig.csp.set_services(&sandbox.external_id, &services));
    assert_eq!(rig.api.release(claim.sandbox(), owner).await.status, 200);
    claim.sandbox().to_owned()
}

fn record(sandbox: &Sandbox) -> Option<Preparation> {
    sandbox.deletion().expect("a deletion").preparation.clone()
}

/// The operator's view of it over HTTP.
async fn shown(rig: &Rig, id: &str) -> Value {
    let shown = rig.api.admin(Method::GET, &format!("/v1/admin/deletions/{id}")).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    shown.body["pre_clean"].clone()
}

/// The operator's view of it in a shell.
async fn said(rig: &Rig, id: &str) -> String {
    let env: Vec<_> = rig.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let output = run(&["deletions", "show", id], &env).await;
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn calls(rig: &Rig, operation: Operation) -> usize {
    rig.csp.log().iter().filter(|call| call.operation == operation).count()
}

#[tokio::test]
async fn cleaned_and_empty_sandboxes_are_distinguished() {
    let rig = plan(4).start().await;
    let full = used(&rig, "student-1", &[OURS, OURS, "Shared-SaaS"]).await;
    let empty = used(&rig, "student-2", &["Shared-SaaS"]).await;
    let gone = rig.until_state(&full, StateName::Deleted).await;
    assert_eq!(record(&gone), Some(Preparation::Done { count: 2 }));
    let gone = rig.until_state(&empty, StateName::Deleted).await;
    assert_eq!(record(&gone), Some(Preparation::Skipped(Skip::NothingInside)));
    assert_eq!(calls(&rig, Operation::DeleteService), 2);
    let cleaned = shown(&rig, &full).await;
    assert_eq!((&cleaned["result"], &cleaned["services"]), (&json!("cleaned"), &json!(2)));
    assert_eq!(shown(&rig, &empty).await["summary"], "skipped: nothing inside");
    assert!(said(&rig, &full).await.contains("pre-clean: cleaned 2\n"));
    rig.stop().await;
}

#[tokio::test]
async fn shadow_mode_counts_services_and_deletes_none() {
    let rig = plan(3).set("NIOSXAAS_SHADOW_MODE", true).start().await;
    let id = used(&rig, "student-1", &[OURS, OURS]).await;
    let gone = rig.until_state(&id, StateName::Deleted).await;
    assert_eq!(record(&gone), Some(Preparation::Shadowed { count: 2 }));
    assert_eq!((calls(&rig, Operation::DeleteService), rig.csp.census().orphaned_services), (0, 2));
    assert_eq!(shown(&rig, &id).await["summary"], "shadowed 2");
    rig.stop().await;
}

#[tokio::test]
async fn disabled_pre_clean_is_skipped_and_recorded() {
    let rig = Plan::new(3).start().await;
    let id = used(&rig, "student-1", &[OURS]).await;
    let gone = rig.until_state(&id, StateName::Deleted).await;
    assert_eq!(record(&gone), Some(Preparation::Skipped(Skip::SwitchedOff)));
    assert_eq!(calls(&rig, Operation::SignIn), 0);
    assert_eq!(shown(&rig, &id).await["reason"], "switched_off");
    rig.stop().await;
}

#[tokio::test]
async fn block_policy_retries_and_parks_an_uncleaned_sandbox() {
    let rig = plan(3).set("DELETION_ATTEMPTS_MAX", 3).start().await;
    rig.csp.fail(Operation::ListServices, failing()).unwrap();
    let id = used(&rig, "student-1", &[OURS]).await;
    let parked = rig.until_state(&id, StateName::DeletionFailed).await;
    assert_eq!(parked.deletion().unwrap().attempts, 3);
    let Some(Preparation::Failed { reason, went_on: false }) = record(&parked) else { panic!("{parked:?}") };
    assert!(reason.contains("500"), "{reason}");
    assert_eq!((calls(&rig, Operation::ListServices), rig.deletes_at_csp()), (3, 0));
    assert_eq!(rig.csp.services(&parked.external_id), [OURS]);
    let copy = eventually("the copy", TIMEOUT, || async { rig.parked(&id).await.ok_or("none yet") }).await;
    assert!(copy.reason.contains("clearing failed"), "{copy:?}");
    let listed = rig.api.admin(Method::GET, "/v1/admin/deletions?status=deletion_failed").await;
    let entry = &listed.body["deletions"][0];
    assert_eq!((&entry["place"], &entry["pre_clean"]["result"]), (&json!("parked"), &json!("failed")));
    // Repaired and replayed, it ends as any other deletion.
    rig.csp.clear_faults();
    let replayed = rig.api.admin(Method::POST, &format!("/v1/admin/deletions/{id}/replay")).await;
    assert_eq!(replayed.status, 200, "{replayed:?}");
    let gone = rig.until_state(&id, StateName::Deleted).await;
    assert_eq!(record(&gone), Some(Preparation::Done { count: 1 }));
    rig.stop().await;
}

#[tokio::test]
async fn go_on_policy_deletes_and_records_the_failure() {
    let rig = plan(3).set("NIOSXAAS_FAILURE_POLICY", "go-on-after-2").start().await;
    rig.csp.fail(Operation::AccountSwitch, failing()).unwrap();
    let id = used(&rig, "student-1", &[OURS]).await;
    let gone = rig.until_state(&id, StateName::Deleted).await;
    assert_eq!(gone.deletion().unwrap().attempts, 1, "one attempt before that one");
    let Some(Preparation::Failed { reason, went_on: true }) = record(&gone) else { panic!("{gone:?}") };
    assert!(reason.contains("500"), "{reason}");
    assert_eq!((calls(&rig, Operation::AccountSwitch), rig.deletes_at_csp()), (2, 1));
    assert_eq!(rig.csp.census().orphaned_services, 1);
    let summary = shown(&rig, &id).await["summary"].clone();
    assert!(summary.as_str().unwrap().starts_with("failed, went on without: "), "{summary}");
    assert!(said(&rig, &id).await.contains("went on without"));
    rig.stop().await;
}

#[tokio::test]
async fn one_session_is_shared_and_renewed_once() {
    let rig = plan(30).counts(|counts| counts.reapers = 2).start().await;
    for (class, sign_ins) in [("first", 1), ("second", 2)] {
        let mut ids = Vec::new();
        for number in 0..12 {
            ids.push(used(&rig, &format!("{class}-{number}"), &[OURS]).await);
        }
        for id in ids {
            let gone = rig.until_state(&id, StateName::Deleted).await;
            assert_eq!(record(&gone), Some(Preparation::Done { count: 1 }));
        }
        assert_eq!(calls(&rig, Operation::SignIn), sign_ins);
        assert!(rig.csp.expire_sessions() > 0);
    }
    assert_eq!(rig.csp.census().orphaned_services, 0);
    rig.stop().await;
}
