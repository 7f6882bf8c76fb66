//! Tokens from the command line to the API, on a whole fleet.

use contract::{Principal, Role};
use harness::http::Api;
use harness::process::run;
use harness::rig::{ADMIN_TOKEN, LAB_TOKEN, Plan, Rig};
use harness::secrets::{Kept, SecretsManager};
use harness::wait::eventually;
use ingress::tokens::fingerprint;
use ports::secrets::{SECRET_BYTES_MAX, SecretError, SecretId, Secrets as _};
use reqwest::Method;
use secretsmanager::{AwsSecrets, SecretsConfig};
use std::fs;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A new token, and its line for the file.
async fn token(arguments: &[&str]) -> (String, String) {
    let output = run(&[&["token"], arguments].concat(), &[]).await;
    assert!(output.status.success(), "{output:?}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (token, line) = (text(output.stderr), text(output.stdout));
    assert!(!line.contains(token.trim()), "what goes into the file does not give the token away");
    (token.trim().to_owned(), line)
}

/// The lines of the rig's own tokens.
fn lines_of_rig() -> String {
    let line = |name: &str, token: &str, role| {
        let holder = Principal::of(ingress::tokens::parse_name(name).unwrap(), &[role]);
        ingress::tokens::file::line(&holder, &fingerprint(token.as_bytes())).unwrap() + "\n"
    };
    line("lab", LAB_TOKEN, Role::Lab) + &line("admin", ADMIN_TOKEN, Role::Admin)
}

/// The fleet's API with other tokens.
fn api(rig: &Rig, lab_token: &str, admin_token: &str) -> Api {
    Api {
        client: rig.api.client.clone(),
        root: rig.api.root.clone(),
        lab_token: lab_token.to_owned(),
        admin_token: admin_token.to_owned(),
    }
}

#[tokio::test]
async fn cli_token_is_valid_for_its_pools_until_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let (events, events_line) = token(&["--name", "events", "--scope", "lab", "--pools", "events"]).await;
    let (looker, looker_line) = token(&["--name", "looker", "--scope", "read-only"]).await;
    fs::write(&file, format!("{}{events_line}{looker_line}", lines_of_rig())).unwrap();
    let plan = Plan::new(20).set("POOLS", "events=lab-0001,main").set("TOKENS_FILE_LOOK_SECONDS", 1);
    let plan = plan.set("BROKER_API_TOKEN", "").set("BROKER_ADMIN_TOKEN", "");
    let rig = plan.set("TOKENS_FILE", file.display()).start().await;

    let bound = api(&rig, &events, &looker);
    let claim = bound.allocate("student-1").await;
    assert_eq!(claim.status, 201, "{claim:?}");
    assert!(claim.body["name"].as_str().unwrap().starts_with("lab-0001"), "{claim:?}");
    let other = rig.api.allocate_with("student-2", &[("X-Sandbox-Pool", "main")]).await;
    assert_eq!(other.status, 201, "{other:?}");
    for refused in [
        bound.allocate_with("student-3", &[("X-Sandbox-Pool", "main")]).await,
        // The lease exists, with this owner and key, but in a pool outside the token's.
        bound.allocate("student-2").await,
        bound.get(other.sandbox(), "student-2").await,
        bound.release(other.sandbox(), "student-2").await,
        bound.admin(Method::POST, "/v1/admin/sync").await,
    ] {
        assert_eq!((refused.status, refused.code()), (403, "FORBIDDEN"), "{refused:?}");
    }
    assert_eq!(rig.api.get(other.sandbox(), "student-2").await.body["status"], "allocated");
    assert_eq!(bound.stats().await["allocated"], 2);
    let by = async |id: &str| {
        let seen = rig.api.admin(Method::GET, &format!("/v1/admin/sandboxes/{id}")).await;
        let history = seen.body["history"].as_array().unwrap_or_else(|| panic!("{seen:?}")).clone();
        history.iter().map(|entry| entry["by"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(by(claim.sandbox()).await, [serde_json::Value::Null, "events".into()]);
    assert_eq!(bound.get(claim.sandbox(), "student-1").await.body["status"], "allocated");

    let (next, next_line) = token(&["--name", "next", "--scope", "lab"]).await;
    fs::write(&file, next_line).unwrap();
    let rotated = api(&rig, &next, &looker);
    eventually("the new token to be good", TIMEOUT, || async {
        let answer = rotated.release(claim.sandbox(), "student-1").await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(bound.allocate("student-1").await.status, 401, "its line is gone");
    assert_eq!(bound.admin(Method::GET, "/v1/admin/stats").await.status, 401);
    rig.stop().await;
}

#[tokio::test]
async fn secret_is_reloaded_and_a_bad_one_is_ignored() {
    const SECRET: &str = "broker/tokens";
    let manager = SecretsManager::start().await;
    let (old, old_line) = token(&["--name", "old", "--scope", "lab,admin"]).await;
    let old_line = lines_of_rig() + &old_line;
    manager.put(SECRET, Kept::Text(old_line.clone()));
    let plan = Plan::new(5).set("TOKENS_SECRET", SECRET).set("TOKENS_SECRET_LOOK_SECONDS", 1);
    let plan = plan.set("BROKER_API_TOKEN", "").set("BROKER_ADMIN_TOKEN", "");
    let rig = plan.set("SECRETS_MANAGER_ENDPOINT", &manager.endpoint).start().await;
    let by_old = api(&rig, &old, &old);
    assert_eq!(by_old.allocate("student-1").await.status, 201);

    let (new, new_line) = token(&["--name", "new", "--scope", "lab,admin"]).await;
    let by_new = api(&rig, &new, &new);
    assert_eq!(by_new.allocate("student-1").await.status, 401);
    manager.put(SECRET, Kept::Text(format!("{old_line}{new_line}")));
    eventually("the new token to be good", TIMEOUT, || async {
        let answer = by_new.allocate("student-1").await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(by_old.allocate("student-1").await.status, 200);

    // Each kind of failure shows in the readiness answer, and locks no caller out.
    for bad in [Kept::Forbidden, Kept::Text("no list".to_owned()), Kept::Failing] {
        manager.put(SECRET, bad);
        eventually("a note", TIMEOUT, || async {
            let ready = by_new.admin(Method::GET, "/readyz").await;
            match ready.body["notes"]["tokens_secret"].as_str() {
                Some("the secret of tokens cannot be used; the tokens before it stay good") => Ok(()),
                _ => Err(ready),
            }
        })
        .await;
        assert_eq!(by_new.allocate("student-1").await.status, 200);
        manager.put(SECRET, Kept::Text(format!("{old_line}{new_line}")));
        eventually("no note", TIMEOUT, || async {
            let ready = by_new.admin(Method::GET, "/readyz").await;
            if ready.body["notes"]["tokens_secret"].is_null() { Ok(()) } else { Err(ready) }
        })
        .await;
    }
    manager.put(SECRET, Kept::Text(new_line));
    eventually("the old token to be gone", TIMEOUT, || async {
        let answer = by_old.allocate("student-1").await;
        if answer.status == 401 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(by_new.allocate("student-1").await.status, 200);
    rig.stop().await;
}

#[tokio::test]
async fn missing_secret_prevents_the_start() {
    let manager = SecretsManager::start().await;
    manager.put("forbidden", Kept::Forbidden);
    manager.put("no-list", Kept::Text("s3cret".to_owned()));
    for (secret, problem) in [
        ("missing", "TOKENS_SECRET cannot be read: there is no such secret, or it has no value"),
        ("forbidden", "TOKENS_SECRET cannot be read: reading it is not allowed"),
        ("no-list", "TOKENS_SECRET line 1: a line has a name, roles and a digest"),
    ] {
        let env = [
            ("TOKENS_SECRET", secret),
            ("SECRETS_MANAGER_ENDPOINT", manager.endpoint.as_str()),
            ("HTTP_LISTEN", "127.0.0.1:0"),
            ("OPS_LISTEN", "127.0.0.1:0"),
            ("NATS_URL", "nats://127.0.0.1:1"),
        ];
        let output = run(&["ingress"], &env).await;
        assert!(!output.status.success());
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(problem) && !said.contains("s3cret"), "{secret}: {said}");
    }
}

#[tokio::test]
async fn secrets_manager_errors_are_distinguished() {
    let manager = SecretsManager::start().await;
    let config = SecretsConfig { region: "eu-west-1".to_owned(), endpoint: Some(manager.endpoint.clone()) };
    let secrets = AwsSecrets::connect(&config).await;
    let id = |name| SecretId::parse(name).unwrap();
    manager.put("good", Kept::Text("text\n".to_owned()));
    manager.put("long", Kept::Text("x".repeat(SECRET_BYTES_MAX + 1)));
    manager.put("forbidden", Kept::Forbidden);
    manager.put("failing", Kept::Failing);
    assert_eq!(secrets.read(&id("good")).await.unwrap(), b"text\n");
    assert!(matches!(secrets.read(&id("long")).await, Err(SecretError::TooLong)));
    assert!(matches!(secrets.read(&id("forbidden")).await, Err(SecretError::Forbidden)));
    assert!(matches!(secrets.read(&id("missing")).await, Err(SecretError::Missing)));
    assert!(matches!(secrets.read(&id("failing")).await, Err(SecretError::Unavailable(_))));
    let endpoint = manager.endpoint.clone();
    drop(manager);
    let config = SecretsConfig { region: "eu-west-1".to_owned(), endpoint: Some(endpoint) };
    let refused = AwsSecrets::connect(&config).await.read(&id("good")).await;
    assert!(matches!(refused, Err(SecretError::Unavailable(_))));
}
