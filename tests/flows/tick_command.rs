//! `broker tick`: its output and its exit codes.

use harness::process;
use harness::rig::{Plan, Rig};
use harness::servers::as_test_user;
use serde_json::{Value, json};
use simulator::{Fault, FaultKind, Operation};

/// Runs the command; returns its exit code and its output.
async fn tick(rig: &Rig, arguments: &[&str]) -> (i32, Value) {
    let arguments = [&["tick"], arguments].concat();
    let nats_url = as_test_user(&rig.env["NATS_URL"]);
    let variables = [("NATS_URL", nats_url.as_str()), ("SUBJECT_PREFIX", rig.env["SUBJECT_PREFIX"].as_str())];
    let output = process::run(&arguments, &variables).await;
    let code = output.status.code().expect("an exit code");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.lines().count() <= 1, "{printed}");
    (code, serde_json::from_str(&printed).unwrap_or(Value::Null))
}

#[tokio::test]
async fn tick_command_prints_the_report_and_maps_exit_codes() {
    let mut rig =
        Plan::new(10).set("SYNC_STALE_PERCENT_MAX", 0).set("SYNC_STALE_COUNT_ALWAYS", 0).start().await;
    for kind in ["sync", "expiry", "sweep", "census", "stale"] {
        let (code, report) = tick(&rig, &[kind, "--wait"]).await;
        assert_eq!((code, &report["kind"], &report["status"]), (0, &json!(kind), &json!("completed")));
    }
    let (code, taken) = tick(&rig, &["sweep"]).await;
    assert_eq!((code, &taken["kind"]), (0, &json!("sweep")));
    assert!(taken["tick"].as_u64().unwrap() > 0 && taken["status"] == "accepted", "{taken}");
    // A listing without one sandbox, while the sync may lose none.
    let id = "2000003";
    rig.delete_at_csp(id).await;
    let (code, report) = tick(&rig, &["sync", "--wait"]).await;
    assert_eq!((code, &report["status"]), (3, &json!("refused")), "{report}");
    let broken = FaultKind::status(500);
    rig.csp.fail(Operation::List, Fault::always(broken)).unwrap();
    let (code, report) = tick(&rig, &["sync", "--wait"]).await;
    assert_eq!((code, &report["status"]), (4, &json!("failed")), "{report}");
    // No worker runs it: the tick waits, and a second one folds into it.
    rig.stop_fleet().await.unwrap();
    let (code, waits) = tick(&rig, &["census", "--wait", "--patience-seconds", "1"]).await;
    assert_eq!((code, &waits["status"]), (5, &json!("accepted")), "{waits}");
    let (_, second) = tick(&rig, &["census"]).await;
    let (code, third) = tick(&rig, &["census"]).await;
    assert_eq!((code, &third["status"]), (0, &json!("waiting_already")), "{third}");
    assert_eq!(third["tick"], second["tick"]);
    let (code, nothing) = tick(&rig, &["lunch"]).await;
    assert_eq!((code, nothing), (2, Value::Null));
}
