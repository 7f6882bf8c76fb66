//! A table that was restored to an earlier time, and processes with different settings for it.

use crate::unready::Role;
use harness::process::{Broker, Up, run};
use harness::rig::Plan;
use harness::wait::{TIMEOUT, eventually};
use reqwest::Method;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for a broker to exit after it was asked to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const MORE: [&str; 2] = ["--pool", "5"];

/// The files of the embedded table: the database and its write-ahead log.
fn files(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("table.sqlite")).collect()
}

/// Replaces the files of one folder by those of another.
fn put_back(from: &Path, to: &Path) {
    for path in files(to) {
        std::fs::remove_file(path).unwrap();
    }
    let copied = files(from).into_iter().map(|path| std::fs::copy(&path, to.join(path.file_name().unwrap())));
    assert!(copied.map(Result::unwrap).count() > 0, "nothing was copied");
}

async fn stop(up: Up) {
    assert_eq!(up.broker.stop(STOP_TIMEOUT).await, Some(0), "{}", up.broker.output());
}

/// Waits for that readiness status, and returns its text about the table.
async fn until_ready_is(up: &Up, status: u16) -> String {
    eventually("the readiness", TIMEOUT, || async {
        let ready = up.api.open(Method::GET, "/readyz").await;
        let table = ready.body["checks"]["table"].as_str().unwrap_or_default().to_owned();
        // Before the table was compared, the fleet is unready for other reasons.
        let is_so = ready.status == status && (table == "ok") == (status == 200);
        if is_so { Ok(table) } else { Err((ready, up.broker.output())) }
    })
    .await
}

/// What `broker table` prints.
async fn table(up: &Up, arguments: &[&str]) -> Value {
    let variables = [("NATS_URL", up.nats.as_str()), ("DYNAMODB_ENDPOINT", up.table.as_str())];
    let output = run(&[&["table", "--json"], arguments].concat(), &variables).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Starts the fleet on a restored table, and checks that it makes no unsafe change.
async fn refuses(data: &Path, sandbox: &str) -> Up {
    let up = Up::start(data, &MORE, &[("REQUEST_DEADLINE_MS", "1000")]).await;
    let problem = until_ready_is(&up, 503).await;
    for part in ["restored to an earlier time", "broker table acknowledge", "docs/recovery.md"] {
        assert!(problem.contains(part), "{problem}");
    }
    let refused = up.api.allocate("student-2").await;
    assert_eq!((refused.status, refused.code()), (503, "NO_WORKERS"), "{refused:?}");
    let refused = up.api.release(sandbox, "student-1").await;
    assert_eq!((refused.status, refused.code()), (503, "NO_WORKERS"), "{refused:?}");
    let listed = up.api.admin(Method::GET, "/v1/admin/sandboxes?limit=2").await;
    assert_eq!((listed.status, listed.body["count"].as_u64()), (200, Some(2)), "{listed:?}");
    let cursor = listed.body["cursor"].as_str().expect("a cursor");
    let listed = up.api.admin(Method::GET, &format!("/v1/admin/sandboxes?limit=2&cursor={cursor}")).await;
    assert_eq!(listed.status, 200, "{listed:?}");
    let shown = up.api.admin(Method::GET, &format!("/v1/admin/sandboxes/{sandbox}")).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    let metrics = up.api.client.get(format!("{}/metrics", up.api.root)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("broker_table_restored 1"), "{metrics}");
    assert!(up.broker.output().contains("this process grants and ends nothing"), "{}", up.broker.output());
    let shown = table(&up, &["show"]).await;
    assert!(shown["problem"].as_str().unwrap().contains("restored"), "{shown}");
    up
}

#[tokio::test]
async fn restored_table_grants_nothing_until_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (data, backup) = (folder.path().join("data"), folder.path().join("backup"));
    std::fs::create_dir(&backup).unwrap();
    let up = Up::start(&data, &MORE, &[]).await;
    until_ready_is(&up, 200).await;
    stop(up).await;
    put_back(&data, &backup);

    let up = Up::start(&data, &MORE, &[]).await;
    assert_eq!(until_ready_is(&up, 200).await, "ok", "an untouched table");
    let held = up.api.allocate("student-1").await;
    assert_eq!(held.status, 201, "{held:?}");
    let sandbox = held.sandbox().to_owned();
    stop(up).await;
    put_back(&backup, &data);

    let up = refuses(&data, &sandbox).await;
    // A sandbox that an owner holds by the events is quarantined before the operator accepts the table.
    let quarantined = up.api.order(&sandbox, "quarantine", "held before").await;
    assert_eq!(quarantined.status, 200, "{quarantined:?}");
    let shown = table(&up, &["acknowledge"]).await;
    assert_eq!(shown["problem"], Value::Null, "{shown}");
    assert_eq!(until_ready_is(&up, 200).await, "ok");
    let claim = up.api.allocate("student-2").await;
    assert_eq!(claim.status, 201, "{claim:?}");
    assert_ne!(claim.sandbox(), sandbox, "it may be in use");
    stop(up).await;

    // The restored table counts as accepted after the next start as well.
    let up = Up::start(&data, &MORE, &[]).await;
    assert_eq!(until_ready_is(&up, 200).await, "ok");
    stop(up).await;
}

#[tokio::test]
async fn tombstone_retention_mismatch_prevents_the_start() {
    let rig = Plan::new(1).start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut env: Vec<(&str, &str)> =
        rig.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    env.push(("OPS_LISTEN", "127.0.0.1:0"));
    env.push(("TOMBSTONE_DAYS", "7"));
    for role in ["allocator", "reaper", "reconciler"] {
        let broker = Broker::start(folder.path(), &[role], &env).await;
        let ended = tokio::time::timeout(TIMEOUT, broker.child.ended()).await.expect("it ends by itself");
        assert_eq!(ended.and_then(|status| status.code()), Some(1), "{role}: {}", broker.output());
        for part in ["TOMBSTONE_DAYS is 7 here and 30 in the table", "broker table agree"] {
            assert!(broker.output().contains(part), "{role}: {part:?} is not in\n{}", broker.output());
        }
    }
    let unasked = run(&["table", "agree"], &env).await;
    let said = String::from_utf8_lossy(&unasked.stderr).into_owned();
    assert!(!unasked.status.success() && said.contains("nothing was changed. With --yes"), "{said}");
    let agreed = run(&["table", "agree", "--yes", "--json"], &env).await;
    assert!(agreed.status.success(), "{agreed:?}");
    let shown: Value = serde_json::from_slice(&agreed.stdout).unwrap();
    assert_eq!(
        (&shown["settings"]["TOMBSTONE_DAYS"], &shown["problem"]),
        (&"7".into(), &Value::Null),
        "{shown}"
    );
    // A difference in a harmless setting is shown, and stops no role.
    let variables = [("TOMBSTONE_DAYS", "7"), ("LAB_DURATION_HOURS", "5")];
    let role = Role::start_with(&rig, folder.path(), "allocator", &variables).await;
    role.until("an allocator on it", |status, _| status == 200).await;
    let fleet = eventually("both allocators to answer", TIMEOUT, || async {
        let fleet = rig.api.admin(Method::GET, "/v1/admin/fleet").await;
        if fleet.body["drift"]["LAB_DURATION_HOURS"].is_array() { Ok(fleet) } else { Err(fleet) }
    })
    .await;
    assert_eq!(fleet.body["drift"]["LAB_DURATION_HOURS"], serde_json::json!(["4", "5"]), "{fleet:?}");
    assert_eq!(fleet.body["drift"]["TOMBSTONE_DAYS"], serde_json::json!(["30", "7"]), "{fleet:?}");
    assert!(!fleet.body.to_string().contains("TOKEN"), "{fleet:?}");
    role.stop().await;
    rig.stop().await;
}
