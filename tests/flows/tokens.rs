//! Tokens from the command line to the gate, on a whole fleet.

use harness::http::Api;
use harness::process::run;
use harness::rig::{Plan, Rig};
use harness::wait::eventually;
use reqwest::Method;
use std::fs;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A new token, and its line for the file.
async fn token(arguments: &[&str]) -> (String, String) {
    let output = run(&[&["token"], arguments].concat(), &[]).await;
    assert!(output.status.success(), "{output:?}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (token, line) = (text(output.stderr), text(output.stdout));
    assert!(!line.contains(token.trim()), "what goes into the file does not give the token away");
    (token.trim().to_owned(), line)
}

/// The fleet's API by other tokens.
fn api(rig: &Rig, lab_token: &str, admin_token: &str) -> Api {
    Api {
        client: rig.api.client.clone(),
        root: rig.api.root.clone(),
        lab_token: lab_token.to_owned(),
        admin_token: admin_token.to_owned(),
    }
}

#[tokio::test]
async fn a_token_of_the_command_line_is_good_for_its_pools_until_its_line_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let (events, events_line) = token(&["--name", "events", "--scope", "lab", "--pools", "events"]).await;
    let (looker, looker_line) = token(&["--name", "looker", "--scope", "read-only"]).await;
    fs::write(&file, format!("{events_line}{looker_line}")).unwrap();
    let plan = Plan::new(20).set("POOLS", "events=lab-0001,main").set("TOKENS_FILE_LOOK_SECONDS", 1);
    let rig = plan.set("TOKENS_FILE", file.display()).start().await;

    let bound = api(&rig, &events, &looker);
    let claim = bound.allocate("student-1").await;
    assert_eq!(claim.status, 201, "{claim:?}");
    assert!(claim.body["name"].as_str().unwrap().starts_with("lab-0001"), "{claim:?}");
    let other = rig.api.allocate_with("student-2", &[("X-Sandbox-Pool", "main")]).await;
    assert_eq!(other.status, 201, "{other:?}");
    for refused in [
        bound.allocate_with("student-3", &[("X-Sandbox-Pool", "main")]).await,
        // The lease is there, and its owner and key are right.
        bound.allocate("student-2").await,
        bound.get(other.sandbox(), "student-2").await,
        bound.release(other.sandbox(), "student-2").await,
        bound.admin(Method::POST, "/v1/admin/sync").await,
    ] {
        assert_eq!((refused.status, refused.code()), (403, "FORBIDDEN"), "{refused:?}");
    }
    assert_eq!(rig.api.get(other.sandbox(), "student-2").await.body["status"], "allocated");
    assert_eq!(bound.stats().await["allocated"], 2);
    assert_eq!(bound.get(claim.sandbox(), "student-1").await.body["status"], "allocated");

    let (next, next_line) = token(&["--name", "next", "--scope", "lab"]).await;
    fs::write(&file, next_line).unwrap();
    let rotated = api(&rig, &next, &looker);
    eventually("the new token to be good", PATIENCE, || async {
        let answer = rotated.release(claim.sandbox(), "student-1").await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(bound.allocate("student-1").await.status, 401, "its line is gone");
    assert_eq!(bound.admin(Method::GET, "/v1/admin/stats").await.status, 401);
    rig.stop().await;
}
