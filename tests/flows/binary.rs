//! The built binary: started as a user would start it, killed as an operating system would kill it, and given invalid
//! input.

use harness::process::{Broker, Up, is_running, run};
use harness::servers::{self, start_nats_on};
use harness::wait::{TIMEOUT, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Time for a broker to exit after it was asked to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const LAB: (&str, &str) = ("BROKER_API_TOKEN", "lab-token");
const ADMIN: (&str, &str) = ("BROKER_ADMIN_TOKEN", "admin-token");

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn faults(up: &Up, change: Option<Value>) -> Value {
    let url = format!("{}/simulator/faults", up.simulator);
    let request = match change {
        Some(faults) => up.api.client.put(url).json(&faults),
        None => up.api.client.get(url),
    };
    let answer = request.header("Authorization", format!("Token {}", up.csp_token)).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    answer.json().await.unwrap_or(Value::Null)
}

#[tokio::test]
async fn killed_broker_finishes_the_deletion_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let variables = [
        ("DELETION_ACK_WAIT_SECONDS", "3"),
        ("DELETIONS_PER_MINUTE", "6000"),
        // Every count is taken at the moment of the request.
        ("STATS_CENSUS_AGE_SECONDS_MAX", "0"),
    ];
    let up = Up::start(&data, &["--pool", "20"], &variables).await;
    let claim = up.api.allocate("student-1").await;
    assert_eq!(claim.status, 201, "{claim:?}");
    faults(&up, Some(json!({"operations": {"delete": {"faults": [{"kind": "hang", "next": 1}]}}}))).await;
    let released = up.api.release(claim.sandbox(), "student-1").await;
    assert_eq!(released.status, 200, "{released:?}");
    eventually("the deletion to be under way", TIMEOUT, || async {
        let left = faults(&up, None).await;
        if left.to_string().contains("hang") { Err(left) } else { Ok(()) }
    })
    .await;

    let nats = Up::nats_pid(&data);
    assert!(is_running(nats));
    up.broker.child.kill().await;
    eventually("the nats-server to be gone with it", TIMEOUT, || async {
        if is_running(nats) { Err(nats) } else { Ok(()) }
    })
    .await;

    let up = Up::start(&data, &["--pool", "20"], &variables).await;
    eventually("the deletion to finish", TIMEOUT, || async {
        let seen = up.api.get(claim.sandbox(), "student-1").await;
        if seen.body["status"] == "deleted" { Ok(()) } else { Err(seen) }
    })
    .await;
    let again = up.api.release(claim.sandbox(), "student-1").await;
    assert_eq!(
        (again.status, &again.body),
        (200, &released.body),
        "what was answered before the kill still holds"
    );
    assert_eq!(up.api.stats().await["available"], 19, "accounts and table are those of before");

    let nats = Up::nats_pid(&data);
    assert_eq!(up.broker.stop(STOP_TIMEOUT).await, Some(0), "{}", up.broker.output());
    assert!(!is_running(nats), "no child is left behind");
}

#[tokio::test]
async fn interrupted_broker_exits_cleanly_and_ephemeral_leaves_no_data() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().to_str().unwrap();
    let arguments = [&Up::ARGUMENTS[..], &["--ephemeral", "--pool", "5"]].concat();
    let broker = Broker::start(folder.path(), &arguments, &[("TMPDIR", temporary)]).await;
    eventually("the fleet to be ready", TIMEOUT, || async {
        if broker.output().contains("Try it:") { Ok(()) } else { Err(broker.output()) }
    })
    .await;
    assert_eq!(broker.stop(STOP_TIMEOUT).await, Some(0), "{}", broker.output());
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| std::path::Path::new(name).extension().is_none_or(|extension| extension != "log"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn failed_start_explains_cause_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let text = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let any = "127.0.0.1:0";
    let taken = TcpListener::bind(any).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    std::fs::write(folder.path().join("file"), "in the way").unwrap();

    let (data, under_a_file) = (text("data"), text("file/data"));
    for (arguments, expected) in [
        (vec!["up", "--data", &data, "--http", &taken], vec!["cannot listen on", &taken]),
        (
            vec!["up", "--data", &data, "--http", any, "--simulator-listen", &taken],
            vec!["cannot listen on", &taken],
        ),
        (
            vec!["up", "--data", &data, "--http", any, "--simulator-listen", any, "--nats-listen", &taken],
            vec!["nats-server did not start", "address already in use"],
        ),
        (
            vec!["up", "--data", &under_a_file, "--http", any],
            vec!["the data directory", "choose another one with --data"],
        ),
        (vec!["up", "--http", "nowhere"], vec!["invalid value 'nowhere' for '--http"]),
    ] {
        let output = run(&arguments, &[]).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        for part in expected {
            assert!(error.contains(part), "{arguments:?}: {part:?} is not in\n{error}");
        }
    }
    let no_server = ["up", "--data", &data, "--http", any, "--simulator-listen", any];
    let nats = run(&no_server, &[("NATS_SERVER", "/bin/true")]).await;
    assert!(String::from_utf8_lossy(&nats.stderr).contains("NATS_SERVER names /bin/true"), "{nats:?}");
}

#[tokio::test]
async fn two_brokers_do_not_share_a_data_directory() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data, &["--pool", "3"], &[]).await;
    let arguments = [&Up::ARGUMENTS[..], &["--data", data.to_str().unwrap()]].concat();
    let second = run(&arguments, &[]).await;
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another broker runs on"), "{second:?}");
    assert_eq!(up.broker.stop(STOP_TIMEOUT).await, Some(0));
}

#[tokio::test]
async fn all_mistakes_in_the_environment_are_reported_together() {
    let output = run(
        &["ingress"],
        &[("REQUEST_DEADLINE_MS", "soon"), ("OPS_LISTEN", "here"), ("SUBJECT_PREFIX", "A.B"), ADMIN],
    )
    .await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("4 settings to fix"), "{error}");
    for name in ["BROKER_API_TOKEN", "REQUEST_DEADLINE_MS", "OPS_LISTEN", "SUBJECT_PREFIX"] {
        assert!(error.contains(name), "{name} in {error}");
    }
    assert!(!error.contains("admin-token"), "no value is shown: {error}");
}

/// The texts in backticks.
fn quoted(row: &str) -> Vec<String> {
    row.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

/// Fails if a role exports a metric that docs/metrics.md lists for other roles only.
fn assert_has_only_its_own(role: &str, exported: &str) {
    let page = broker::operate::metrics_page().unwrap();
    let (ours, former) = page.split_once("\n## Names of the predecessor\n").unwrap();
    let sections = ours.split("\n## ").skip(1).filter_map(|section| section.split_once('\n'));
    let mut own: BTreeSet<String> = sections
        .filter(|(roles, _)| roles.split(", ").any(|one| one == role))
        .flat_map(|(_, table)| table.lines().filter_map(|row| quoted(row).into_iter().next()))
        .collect();
    let made_of_own =
        former.lines().map(quoted).filter(|names| names.iter().skip(1).any(|of| own.contains(of)));
    let former: Vec<_> = made_of_own.filter_map(|names| names.into_iter().next()).collect();
    own.extend(former);
    let names = exported.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let names: BTreeSet<_> = names.filter(|name| name.starts_with("broker_")).collect();
    assert!(names.contains("broker_build_info"), "{role}: {exported}");
    let foreign: Vec<_> = names.iter().filter(|name| !own.contains(**name)).collect();
    assert!(foreign.is_empty(), "{role} exports {foreign:?}");
}

#[tokio::test]
async fn roles_in_separate_processes_form_a_fleet() {
    let folder = tempfile::tempdir().unwrap();
    let shared = servers::shared().await;
    let (csp, http) = (free_address(), free_address());
    let prefix = format!("roles-{}", std::process::id());
    let (csp_url, http_text, csp_text) = (format!("http://{csp}/v2"), http.to_string(), csp.to_string());
    let common = [
        LAB,
        ADMIN,
        ("CSP_API_TOKEN", "csp-token"),
        ("CSP_BASE_URL", csp_url.as_str()),
        ("DYNAMODB_ENDPOINT", shared.table_endpoint.as_str()),
        ("DYNAMODB_TABLE", prefix.as_str()),
        ("SUBJECT_PREFIX", prefix.as_str()),
        ("HTTP_LISTEN", http_text.as_str()),
        ("SIMULATOR_LISTEN", csp_text.as_str()),
        ("SIMULATOR_ACCOUNTS", "10"),
        ("DELETIONS_PER_MINUTE", "6000"),
        ("SYNC_INTERVAL_SEC", "300"),
    ];
    let mut running = Vec::new();
    for role in ["simulator", "scheduler", "reconciler", "allocator", "registry", "reaper", "ingress"] {
        let ops = free_address();
        let ops_text = ops.to_string();
        let nats = shared.nats_of_roles.iter().map(|(name, value)| (*name, value.as_str()));
        let own = nats.chain([("OPS_LISTEN", ops_text.as_str())]);
        let variables: Vec<_> = common.iter().copied().chain(own).collect();
        running.push((role, ops, Broker::start(folder.path(), &[role], &variables).await));
    }
    let api = harness::http::Api::new(http, LAB.1, ADMIN.1);
    let client = api.client.clone();
    for (role, ops, broker) in &running {
        eventually(&format!("{role} to be ready"), TIMEOUT, || async {
            match client.get(format!("http://{ops}/readyz")).send().await {
                Ok(answer) if answer.status().is_success() => Ok(()),
                other => Err((format!("{other:?}"), broker.output())),
            }
        })
        .await;
        let health = client.get(format!("http://{ops}/healthz")).send().await.unwrap();
        assert!(health.status().is_success(), "{role}");
        let metrics = client.get(format!("http://{ops}/metrics")).send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("process_cpu_seconds_total"), "{role}: {metrics}");
        assert_has_only_its_own(role, &metrics);
        assert!(broker.output().contains("use SYNC_INTERVAL_SECONDS"), "{role}: {}", broker.output());
    }
    let claim = eventually("a pool", TIMEOUT, || async {
        let claim = api.allocate("student-1").await;
        if claim.status == 201 { Ok(claim) } else { Err(claim) }
    })
    .await;
    assert_eq!(api.release(claim.sandbox(), "student-1").await.status, 200);
    eventually("the deletion", TIMEOUT, || async {
        let seen = api.get(claim.sandbox(), "student-1").await;
        if seen.body["status"] == "deleted" { Ok(()) } else { Err(seen) }
    })
    .await;
    let paused = api.admin(reqwest::Method::POST, "/v1/admin/deletions/pause").await;
    assert_eq!(paused.status, 200, "{paused:?}");
    let (_, reaper_ops, _) = running.iter().find(|(role, ..)| *role == "reaper").unwrap();
    let ready = client.get(format!("http://{reaper_ops}/readyz")).send().await.unwrap();
    assert!(ready.status().is_success(), "a pause is no reason not to be ready");
    let ready: Value = ready.json().await.unwrap();
    assert_eq!(ready["notes"]["deletions"], "paused by admin", "{ready}");
    // From the ingress to the store, as a supervisor would stop them.
    for (role, _, broker) in running.iter().rev() {
        assert_eq!(broker.stop(TIMEOUT).await, Some(0), "{role}: {}", broker.output());
    }
}

#[tokio::test]
async fn role_waits_for_missing_servers() {
    let folder = tempfile::tempdir().unwrap();
    let (nats, ops) = (free_address(), free_address());
    let shared = servers::shared().await;
    let (nats_url, ops_text) = (servers::nats_url(nats), ops.to_string());
    let prefix = format!("waits-{}", std::process::id());
    let variables = [
        ("NATS_URL", nats_url.as_str()),
        ("DYNAMODB_ENDPOINT", shared.table_endpoint.as_str()),
        ("DYNAMODB_TABLE", prefix.as_str()),
        ("SUBJECT_PREFIX", prefix.as_str()),
        ("OPS_LISTEN", ops_text.as_str()),
    ];
    let broker = Broker::start(folder.path(), &["allocator"], &variables).await;
    let client = reqwest::Client::new();
    let ready = || async {
        let answer =
            client.get(format!("http://{ops}/readyz")).send().await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        Ok::<(u16, Value), String>((status, answer.json().await.unwrap_or(Value::Null)))
    };
    let (status, body) = eventually("an answer", TIMEOUT, ready).await;
    assert_eq!((status, &body["checks"]["nats"]), (503, &json!("not connected to NATS")), "{body}");
    eventually("a log line", TIMEOUT, || async {
        let output = broker.output();
        if output.contains("NATS is not reachable; trying again") { Ok(()) } else { Err(output) }
    })
    .await;
    // It can also be stopped while it still waits for its servers.
    assert_eq!(broker.stop(TIMEOUT).await, Some(0), "{}", broker.output());
    let broker = Broker::start(folder.path(), &["allocator"], &variables).await;
    eventually("an answer", TIMEOUT, ready).await;
    let (server, _folder) = start_nats_on(nats, None).await;
    eventually("to be ready once NATS is there", TIMEOUT, || async {
        match ready().await {
            Ok((200, _)) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(broker.stop(TIMEOUT).await, Some(0), "{}", broker.output());
    server.child.stop(TIMEOUT).await;
}

#[tokio::test]
async fn role_without_its_table_is_alive_but_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let (table, ops) = (format!("http://{}", free_address()), free_address());
    let shared = servers::shared().await;
    let ops_text = ops.to_string();
    let prefix = format!("table-{}", std::process::id());
    let variables = [
        ("NATS_URL", shared.nats_url.as_str()),
        ("DYNAMODB_ENDPOINT", table.as_str()),
        ("SUBJECT_PREFIX", prefix.as_str()),
        ("OPS_LISTEN", ops_text.as_str()),
        ("STORE_ATTEMPT_TIMEOUT_MS", "500"),
        ("STORE_OPERATION_TIMEOUT_MS", "500"),
    ];
    let broker = Broker::start(folder.path(), &["allocator"], &variables).await;
    eventually("a log line", TIMEOUT, || async {
        let output = broker.output();
        if output.contains("the table is not there yet; trying again") { Ok(()) } else { Err(output) }
    })
    .await;
    let client = reqwest::Client::new();
    let health = client.get(format!("http://{ops}/healthz")).send().await.unwrap();
    let ready = client.get(format!("http://{ops}/readyz")).send().await.unwrap();
    assert_eq!((health.status().as_u16(), ready.status().as_u16()), (200, 503));
    let body: Value = ready.json().await.unwrap();
    assert_eq!(body["checks"]["store"], "the table does not answer", "{body}");
    assert_eq!(broker.stop(TIMEOUT).await, Some(0), "{}", broker.output());
}
