//! The operators' views in a shell (`broker stats`, `sandboxes`, `claims`, `events`, `fleet`), and contexts.

use harness::process::run;
use harness::rig::{Plan, Rig};
use harness::servers::as_test_user;
use harness::wait::{TIMEOUT, eventually};
use serde_json::Value;

/// Runs a view; returns its output.
async fn view(rig: &Rig, arguments: &[&str]) -> String {
    let nats_url = as_test_user(&rig.env["NATS_URL"]);
    let variables = [("NATS_URL", nats_url.as_str()), ("SUBJECT_PREFIX", rig.env["SUBJECT_PREFIX"].as_str())];
    let output = run(arguments, &variables).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn json(rig: &Rig, arguments: &[&str]) -> Value {
    serde_json::from_str(&view(rig, &[arguments, &["--json"]].concat()).await).unwrap()
}

/// The words of the line that begins with `first`.
fn line<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find(|words| words.first() == Some(&first)).unwrap_or_else(|| panic!("no {first} in\n{text}"))
}

#[tokio::test]
async fn views_show_pools_sandboxes_leases_events_and_workers() {
    let rig = Plan::new(3).start().await;
    let claim = rig.api.allocate_with("student-1", &[("X-Instruqt-Track-ID", "lab-a")]).await;
    let id = claim.sandbox();

    let stats = view(&rig, &["stats"]).await;
    assert_eq!(line(&stats, "main"), ["main", "2", "1", "0", "0", "0", "0", "3"]);
    assert_eq!(json(&rig, &["stats"]).await["pools"]["main"]["allocated"], 1);

    let sandboxes = view(&rig, &["sandboxes"]).await;
    assert_eq!(sandboxes.lines().count(), 4, "{sandboxes}");
    assert_eq!(line(&sandboxes, id)[3..6], ["allocated", "student-1", "lab-a"]);
    let limited = view(&rig, &["sandboxes", "--limit", "2"]).await;
    assert!(limited.lines().count() == 4 && limited.ends_with("--limit shows them\n"), "{limited}");
    let free = json(&rig, &["sandboxes", "--status", "available"]).await;
    assert_eq!((&free["count"], &free["sandboxes"][0]["status"]), (&2.into(), &"available".into()));

    let claims = view(&rig, &["claims"]).await;
    assert_eq!(line(&claims, "student-1")[..3], ["student-1", "lab-a", id]);
    assert_eq!(json(&rig, &["claims", "--owner", "student-2"]).await["count"], 0);

    eventually("the event of the claim", TIMEOUT, || async {
        let events = view(&rig, &["events", "--sandbox", id]).await;
        let is_claim = |line: &str| line.contains(" claimed ") && line.contains("student-1");
        if events.lines().any(is_claim) { Ok(()) } else { Err(events) }
    })
    .await;
    let claimed = json(&rig, &["events", "--type", "claimed"]).await;
    let claimed = claimed.as_array().unwrap();
    assert_eq!((claimed.len(), &claimed[0]["subject"]), (1, &id.into()));
    assert_eq!(json(&rig, &["events", "--limit", "1"]).await[0]["sequence"], claimed[0]["sequence"]);
    assert_eq!(json(&rig, &["events", "--pool", "other"]).await, Value::Array(Vec::new()));

    let fleet = view(&rig, &["fleet"]).await;
    for role in ["ingress", "allocator", "registry", "reaper", "reconciler", "scheduler"] {
        assert_eq!(line(&fleet, role)[2], env!("CARGO_PKG_VERSION"), "{fleet}");
    }
    assert_eq!(json(&rig, &["fleet"]).await["roles"]["allocator"], 2);
    rig.stop().await;
}

#[tokio::test]
async fn context_in_use_names_the_fleet() {
    let rig = Plan::new(1).start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("password"), harness::servers::PASSWORD).unwrap();
    std::fs::write(path("token"), &rig.api.lab_token).unwrap();
    let home = [("XDG_CONFIG_HOME", folder.path().to_str().unwrap())];
    let (prefix, password, token) = (&rig.env["SUBJECT_PREFIX"], path("password"), path("token"));
    let mut add =
        vec!["context", "add", "lab", "--nats-url", &rig.env["NATS_URL"], "--subject-prefix", prefix];
    add.extend(["--http-url", &rig.api.root, "--token-file", &token]);
    if harness::servers::with_accounts() {
        add.extend(["--user", "operator", "--password-file", &password]);
    }
    for (arguments, expected) in [
        (&add[..], "lab is added; lab is in use"),
        (&["context", "list"], "lab"),
        (&["stats"], "(all)"),
        (&["client", "health"], "{\"store\":\"ok\"}"),
    ] {
        let output = run(arguments, &home).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains(expected), "{arguments:?}: {output:?}");
    }
    let kept = std::fs::read_to_string(folder.path().join("broker/contexts.json")).unwrap();
    assert!(!kept.contains(&rig.api.lab_token) && !kept.contains(harness::servers::PASSWORD), "{kept}");
    rig.stop().await;
}
