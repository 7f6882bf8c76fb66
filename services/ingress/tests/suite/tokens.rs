//! Where tokens come from, and the file of them: names, rights, pools, and a change without a restart.

use crate::support::{Answer, Rig, Step};
use contract::{FaultCode, Principal, Role, Scope, Verb};
use domain::{PoolName, TenantName};
use ingress::Config;
use ingress::tokens::{file, fingerprint, parse_name};
use runtime::settings::Settings;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const NO_TOKEN: &str = "a valid token is needed: `Authorization: Bearer <token>`";

/// The line of a token whose name it is as well.
fn line(token: &str, role: Role, pools: &[&str]) -> String {
    let pools: Vec<_> = pools.iter().map(|pool| PoolName::parse(pool).unwrap()).collect();
    let holder = Principal::of(parse_name(token).unwrap(), &[role]);
    file::line(&Principal { scope: Scope::of(&pools), ..holder }, &fingerprint(token.as_bytes())).unwrap()
}

fn folder_with(lines: &[String]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    fs::write(&path, lines.join("\n")).unwrap();
    (folder, path)
}

fn rig(path: &std::path::Path) -> Rig {
    let settings = [
        ("TOKENS_FILE", path.to_str().unwrap()),
        ("TOKENS_FILE_LOOK_SECONDS", "1"),
        ("BROKER_API_TOKEN", ""),
        ("BROKER_ADMIN_TOKEN", ""),
    ];
    Rig::with(&settings, [Step::Say(None, r#"{"store":"ok"}"#)])
}

async fn ask(rig: &Rig, method: &str, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    rig.ask(method, path, &[("Authorization", &bearer), ("X-Track-ID", "p-1")]).await
}

async fn status(rig: &Rig, token: &str) -> u16 {
    ask(rig, "POST", "/v1/allocate", token).await.status.as_u16()
}

#[tokio::test(start_paused = true)]
async fn tokens_of_the_file_have_its_rights() {
    let lines = [("one", Role::Lab), ("look", Role::ReadOnly), ("admin-token-1", Role::Admin)];
    let (_folder, path) = folder_with(&lines.map(|(token, scope)| line(token, scope, &[])));
    let rig = rig(&path);
    assert_eq!(status(&rig, "one").await, 200);
    assert_eq!(ask(&rig, "GET", "/v1/admin/stats", "look").await.status, 200);
    assert_eq!(ask(&rig, "POST", "/v1/admin/sync", "look").await.status, 403);
    assert_eq!(ask(&rig, "POST", "/v1/admin/sync", "admin-token-1").await.status, 202);
    // Neither the line of the file nor the digest in it is a token.
    ask(&rig, "POST", "/v1/allocate", &line("one", Role::Lab, &[]).replace(' ', ""))
        .await
        .assert_fault(FaultCode::Unauthorized, NO_TOKEN);
}

#[tokio::test(start_paused = true)]
async fn shorter_grace_period_needs_the_right_to_remove_records() {
    let lines = [("runs", Role::Operator), ("removes", Role::Admin)];
    let (_folder, path) = folder_with(&lines.map(|(token, role)| line(token, role, &[])));
    let rig = rig(&path);
    let path = |hours: u64| format!("/v1/admin/auto-delete-stale?grace_period_hours={hours}");
    let refused = ask(&rig, "POST", &path(23), "runs").await;
    refused.assert_fault(FaultCode::Forbidden, "this token does not give the right to do this");
    assert!(rig.ticks.asked.lock().is_empty());
    for (hours, token) in [(24, "runs"), (25, "runs"), (23, "removes")] {
        assert_eq!(ask(&rig, "POST", &path(hours), token).await.status, 202, "{hours} {token}");
    }
}

#[tokio::test(start_paused = true)]
async fn token_of_the_environment_may_have_a_name() {
    let settings = [("BROKER_ADMIN_TOKEN", "by-hand:admin-token-1")];
    let rig = Rig::with(&settings, [Step::Say(None, r#"{"store":"ok"}"#)]);
    ask(&rig, "POST", "/v1/admin/deletions/1/replay", "admin-token-1").await;
    let body: Value = serde_json::from_slice(&rig.workers.seen().last().unwrap().body).unwrap();
    assert_eq!(body["by"], "by-hand", "the name before the colon");
}

#[tokio::test(start_paused = true)]
async fn pool_token_is_restricted_to_its_pools() {
    let (_folder, path) =
        folder_with(&[line("events", Role::Lab, &["dns", "main"]), line("free", Role::Lab, &[])]);
    let rig = rig(&path);
    for (pool, sent) in [(None, "dns"), (Some("main"), "main")] {
        let mut headers = vec![("Authorization", "Bearer events"), ("X-Track-ID", "p-1")];
        headers.extend(pool.map(|pool| ("X-Sandbox-Pool", pool)));
        assert_eq!(rig.ask("POST", "/v1/allocate", &headers).await.status, 200);
        let body: Value = serde_json::from_slice(&rig.workers.seen().last().unwrap().body).unwrap();
        assert_eq!(body, json!({"owner": "p-1", "pool": sent, "by": "events", "pools": ["dns", "main"]}));
    }
    let asked = rig.workers.seen().len();
    let headers = [("Authorization", "Bearer events"), ("X-Track-ID", "p-1"), ("X-Sandbox-Pool", "other")];
    let answer = rig.ask("POST", "/v1/allocate", &headers).await;
    answer.assert_fault(FaultCode::Forbidden, "this token is not for this pool");
    assert_eq!(rig.workers.seen().len(), asked);
    ask(&rig, "POST", "/v1/sandboxes/7/mark-for-deletion", "events").await;
    let seen = rig.workers.seen().pop().unwrap();
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(
        (seen.verb, body),
        (Verb::Release, json!({"sandbox_id": "7", "owner": "p-1", "by": "events", "pools": ["dns", "main"]}))
    );
    ask(&rig, "GET", "/v1/sandboxes/7", "free").await;
    let body: Value = serde_json::from_slice(&rig.workers.seen().pop().unwrap().body).unwrap();
    assert_eq!(
        body,
        json!({"sandbox_id": "7", "owner": "p-1"}),
        "nothing is added for a token of every pool"
    );
}

#[tokio::test(start_paused = true)]
async fn workers_get_the_principal_of_the_token() {
    let bound = line("events", Role::Lab, &["dns"]) + " tenant=acme";
    let (_folder, path) = folder_with(&[bound, line("on-call", Role::Operator, &[])]);
    let rig = rig(&path);
    ask(&rig, "GET", "/v1/sandboxes/7", "events").await;
    let principal = rig.workers.seen().pop().unwrap().context.principal;
    let expected = Principal {
        tenant: TenantName::parse("acme").unwrap(),
        scope: Scope::of(&[PoolName::parse("dns").unwrap()]),
        ..Principal::of(parse_name("events").unwrap(), &[Role::Lab])
    };
    assert_eq!(principal, expected);
    let headers = [("Authorization", "Bearer on-call"), ("X-Operator", "alice")];
    assert_eq!(rig.ask("POST", "/v1/admin/deletions/7/replay", &headers).await.status, 200);
    let principal = rig.workers.seen().pop().unwrap().context.principal;
    assert_eq!(principal.tenant.as_str(), "default");
    assert_eq!(principal.actor().unwrap().as_str(), "on-call/alice");
}

#[tokio::test(start_paused = true)]
async fn user_claims_for_itself_only() {
    let (_folder, path) = folder_with(&[line("alice", Role::User, &[])]);
    let rig = rig(&path);
    let claim = async |owner: Option<&'static str>| {
        let owner = owner.map(|owner| ("X-Instruqt-Sandbox-ID", owner));
        let headers: Vec<_> = [("Authorization", "Bearer alice")].into_iter().chain(owner).collect();
        rig.ask("POST", "/v1/allocate", &headers).await
    };
    assert_eq!(claim(Some("alice")).await.status, 200);
    let asked = rig.workers.seen().len();
    claim(Some("bob")).await.assert_fault(FaultCode::Forbidden, "this token acts for its own user only");
    let answer = claim(None).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["detail"]["code"]),
        (400, &json!("MISSING_SANDBOX_ID"))
    );
    assert_eq!(rig.workers.seen().len(), asked);
}

/// Lets the ingress run, which looks at its file by itself, until `done`.
async fn until(rig: &Rig, done: impl AsyncFn() -> bool) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stop = CancellationToken::new();
    let seen = async {
        while !done().await {
            tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await.unwrap_err();
        }
    };
    tokio::select! {
        ended = rig.own().run(listener, stop) => panic!("{ended:?}"),
        seen = tokio::time::timeout(Duration::from_secs(600), seen) => seen.expect("it never came"),
    }
}

async fn metric(rig: &Rig, line: &str) -> bool {
    let metrics = rig.ask("GET", "/metrics", &[]).await;
    String::from_utf8_lossy(&metrics.body).contains(line)
}

#[tokio::test(start_paused = true)]
async fn tokens_file_is_reloaded_and_a_bad_one_is_ignored() {
    let (_folder, path) = folder_with(&[line("old", Role::Lab, &[])]);
    let rig = rig(&path);
    assert_eq!((status(&rig, "old").await, status(&rig, "new").await), (200, 401));
    assert!(metric(&rig, r#"broker_http_tokens{scope="lab"} 1"#).await);
    let rotated = [line("old", Role::Lab, &[]), line("new", Role::Lab, &[])].join("\n");
    fs::write(&path, &rotated).unwrap();
    until(&rig, async || status(&rig, "new").await == 200).await;
    assert_eq!(status(&rig, "old").await, 200);
    assert!(metric(&rig, r#"broker_http_tokens{scope="lab"} 2"#).await);

    let note = "the file of tokens cannot be used; the tokens before it stay good";
    for text in ["new lab plain-secret", ""] {
        fs::write(&path, text).unwrap();
        until(&rig, async || metric(&rig, "broker_http_tokens_file_bad 1\n").await).await;
        let ready = rig.ask("GET", "/readyz", &[]).await;
        assert_eq!((ready.status.as_u16(), &ready.json()["notes"]["tokens"]), (200, &json!(note)));
        assert_eq!((status(&rig, "old").await, status(&rig, "new").await), (200, 200));
        fs::write(&path, &rotated).unwrap();
        until(&rig, async || metric(&rig, "broker_http_tokens_file_bad 0\n").await).await;
    }
    fs::remove_file(&path).unwrap();
    until(&rig, async || metric(&rig, "broker_http_tokens_file_bad 1\n").await).await;
    assert_eq!(status(&rig, "old").await, 200);
    fs::write(&path, line("new", Role::Lab, &[])).unwrap();
    until(&rig, async || status(&rig, "old").await == 401).await;
    assert_eq!(status(&rig, "new").await, 200);
    assert_eq!(rig.ask("GET", "/readyz", &[]).await.json().get("notes"), None);
    assert!(metric(&rig, r#"broker_http_tokens_file_reads_total{outcome="bad"} 3"#).await);
    assert!(metric(&rig, r#"broker_http_tokens_file_reads_total{outcome="read"} 4"#).await);
}

#[test]
fn bad_tokens_file_at_startup_is_rejected_without_leaking_it() {
    let (_folder, path) = folder_with(&["alice admin s3cret".to_owned()]);
    let missing = path.with_extension("missing");
    for (file, problem) in [
        (&path, "TOKENS_FILE line 1: the third word must be sha256: and 64 hexadecimal digits"),
        (&missing, "TOKENS_FILE cannot be read: No such file or directory (os error 2)"),
    ] {
        let env = BTreeMap::from([("TOKENS_FILE".to_owned(), file.to_str().unwrap().to_owned())]);
        let mut settings = Settings::new(&env);
        let config = Config::read(&mut settings);
        assert_eq!(settings.finish(config).unwrap_err().0, [problem]);
    }
}

/// What is wrong with these settings.
fn mistakes(pairs: &[(&str, &str)]) -> Vec<String> {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let env: BTreeMap<String, String> = pairs.collect();
    let mut settings = Settings::new(&env);
    let config = Config::read(&mut settings);
    settings.finish(config).map_or_else(|mistakes| mistakes.0, |_| Vec::new())
}

#[test]
fn duplicate_token_name_is_a_mistake() {
    let (_folder, path) = folder_with(&[line("lab", Role::Lab, &[])]);
    fs::write(&path, line("lab", Role::Lab, &[]) + "\nlab lab sha256:" + &"0".repeat(64)).unwrap();
    let file = path.to_str().unwrap();
    assert_eq!(mistakes(&[("TOKENS_FILE", file)]), ["TOKENS_FILE two tokens are called lab"]);
    let both = [("BROKER_API_TOKEN", "a:1"), ("BROKER_ADMIN_TOKEN", "a:2")];
    assert_eq!(mistakes(&both), ["BROKER_API_TOKEN two tokens are called a"]);
}

#[test]
fn tokens_have_exactly_one_source() {
    let (_folder, path) = folder_with(&[line("one", Role::Lab, &[])]);
    let file = ("TOKENS_FILE", path.to_str().unwrap());
    let secret = ("TOKENS_SECRET", "broker/tokens");
    let (lab, admin) = (("BROKER_API_TOKEN", "a"), ("BROKER_ADMIN_TOKEN", "b"));
    for one in [[lab, admin].as_slice(), &[file], &[secret]] {
        assert_eq!(mistakes(one), Vec::<String>::new());
    }
    let keep_one = |second: &str, first: &str| {
        format!("{second} is set beside {first}: keep one of the two sources of tokens")
    };
    for (both, second, first) in [
        ([lab, file].as_slice(), "TOKENS_FILE", "BROKER_API_TOKEN"),
        (&[file, admin], "TOKENS_FILE", "BROKER_ADMIN_TOKEN"),
        (&[secret, lab, admin], "TOKENS_SECRET", "BROKER_API_TOKEN"),
        (&[secret, file], "TOKENS_SECRET", "TOKENS_FILE"),
    ] {
        assert_eq!(mistakes(both), [keep_one(second, first)]);
    }
    let all = [keep_one("TOKENS_FILE", "BROKER_API_TOKEN"), keep_one("TOKENS_SECRET", "BROKER_API_TOKEN")];
    assert_eq!(mistakes(&[lab, admin, file, secret]), all);
    let none = ["BROKER_API_TOKEN", "BROKER_ADMIN_TOKEN"]
        .map(|name| format!("{name} is required and not set (several are separated by commas)"));
    assert_eq!(mistakes(&[]), none);
}
