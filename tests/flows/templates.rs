//! Templates on a whole fleet: through HTTP, NATS, the typed client and the command line.

use client::{Client, Timeouts};
use contract::templates::{TemplateSettings, TemplateView};
use contract::{FaultBody, FaultCode, Verb};
use domain::{PoolKind, PoolName, PoolSpec, PoolState, ProviderName, TemplateId};
use harness::http::Answer;
use harness::process::run;
use harness::rig::{ADMIN_TOKEN, Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use http_client::HttpRequests;
use ports::bus::Requests;
use ports::clock::SystemClock;
use ports::random::Rng;
use reqwest::Method;
use runtime::settings::Secret;
use serde_json::{Value, json};
use std::sync::Arc;

fn memory(memory_mb: u32) -> Value {
    json!({"image": "python-3.12", "memory_mb": memory_mb})
}

async fn put(rig: &Rig, query: &str, memory_mb: u32) -> Answer {
    rig.api.admin_with(Method::PUT, &format!("/v1/templates/python{query}"), &memory(memory_mb)).await
}

async fn get(rig: &Rig, path: &str) -> Answer {
    rig.api.admin(Method::GET, path).await
}

async fn code_over_nats(rig: &Rig, verb: Verb, body: Value) -> FaultCode {
    let reply = rig.ask(verb, body).await.unwrap();
    serde_json::from_slice::<FaultBody>(&reply.body).unwrap().detail.code
}

/// Runs a command; whether it succeeded, and what it printed.
async fn say(rig: &Rig, arguments: &[&str]) -> (bool, String) {
    let env: Vec<_> = rig.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let output = run(arguments, &env).await;
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

async fn until_listed(rig: &Rig, expected: &[&str]) {
    eventually("the list", TIMEOUT, || async {
        let list = get(rig, "/v1/templates").await;
        let entries = list.body["templates"].as_array().cloned().unwrap_or_default();
        let ids: Vec<_> = entries.iter().map(|entry| entry["template"].clone()).collect();
        if ids == expected { Ok(()) } else { Err(list) }
    })
    .await;
}

#[tokio::test]
async fn template_lives_through_changes_removal_and_a_restart() {
    let mut rig = Plan::new(1).start().await;
    let new = json!({"template": "python", "settings": memory(64)});
    let made = rig.api.admin_with(Method::POST, "/v1/templates", &new).await;
    assert_eq!((made.status, &made.body["version"]), (201, &json!(1)), "{made:?}");
    assert_eq!(made.body["settings"]["cpu_milli"], 1_000, "with every default");
    let again = rig.api.admin_with(Method::POST, "/v1/templates", &new).await;
    assert_eq!((again.status, &again.body), (201, &made.body), "a repeat");
    assert_eq!(put(&rig, "", 128).await.body["version"], 2);
    let other = json!({"template": "python", "settings": memory(65)});
    let refused = rig.api.admin_with(Method::POST, "/v1/templates", &other).await;
    assert_eq!((refused.status, refused.code()), (409, "INVALID_STATE"), "{refused:?}");

    let shown = rig.ask(Verb::Template, json!({"template": "python"})).await.unwrap();
    let shown: Value = serde_json::from_slice(&shown.body).unwrap();
    assert_eq!(get(&rig, "/v1/templates/python").await.body, shown, "HTTP and NATS show the same");
    let old = get(&rig, "/v1/templates/python?version=1").await;
    assert_eq!(old.body["settings"], made.body["settings"], "a version never changes");
    let versions = get(&rig, "/v1/templates/python/versions").await;
    assert_eq!(versions.body["versions"][0]["version"], 2, "{versions:?}");

    rig.stop_fleet().await.unwrap();
    rig.start_again().await;
    let kept = eventually("the registry", TIMEOUT, || async {
        let kept = get(&rig, "/v1/templates/python").await;
        if kept.status == 200 { Ok(kept) } else { Err(kept) }
    })
    .await;
    assert_eq!(kept.body, shown, "a restart keeps it");

    // No provider makes containers yet, so a pool that names a template can only be in the table.
    let pool = PoolSpec {
        kind: PoolKind::Container,
        template: Some("python".to_owned()),
        state: PoolState::Draining,
        ..PoolSpec::of_accounts(PoolName::parse("containers").unwrap(), ProviderName::csp(), None)
    };
    assert!(rig.store.write_pool(None, &pool).await.unwrap());
    let refused = rig.api.admin(Method::DELETE, "/v1/templates/python").await;
    assert_eq!((refused.status, refused.code()), (409, "INVALID_STATE"), "{refused:?}");
    assert_eq!(
        code_over_nats(&rig, Verb::RemoveTemplate, json!({"template": "python"})).await,
        FaultCode::InvalidState
    );
    until_listed(&rig, &["python"]).await;
    assert!(rig.store.remove_pool(&pool.name, 1).await.unwrap());
    let stale = rig.api.admin(Method::DELETE, "/v1/templates/python?version=1").await;
    assert_eq!((stale.status, stale.code()), (409, "INVALID_STATE"), "{stale:?}");
    let removed = rig.api.admin(Method::DELETE, "/v1/templates/python").await;
    assert!(removed.status == 200 && removed.body["removed_at"].is_u64(), "{removed:?}");
    assert_eq!(get(&rig, "/v1/templates/python").await.status, 404);
    assert_eq!(get(&rig, "/v1/templates/python?version=2").await.body, removed.body);
    until_listed(&rig, &[]).await;
    assert_eq!(put(&rig, "?version=0", 128).await.body["version"], 3, "numbers are never used again");
    rig.stop().await;
}

#[tokio::test]
async fn pool_with_rules_takes_only_templates_that_follow_them() {
    let rig = Plan::new(0).start_unsynced().await;
    assert_eq!(put(&rig, "", 64).await.status, 200);
    let rules = json!({"kind": "container", "provider": "nodes", "template": "python", "runtime": "runsc", "untrusted": true,
        "images": {"allowed": ["docker.io/library"]}});
    let refused = rig.api.admin_with(Method::PUT, "/v1/pools/apps", &rules).await;
    assert_eq!((refused.status, refused.code()), (400, "INVALID_REQUEST"), "{refused:?}");
    let message = refused.body["detail"]["message"].as_str().unwrap();
    assert!(message.starts_with("template python@1 is not allowed in this pool: its image"), "{message}");
    let settings = json!({"image": "python:3.12", "isolation": "container"});
    let other = rig.api.admin_with(Method::PUT, "/v1/templates/python", &settings).await;
    assert_eq!(other.body["version"], 2, "{other:?}");
    let made = rig.api.admin_with(Method::PUT, "/v1/pools/apps", &rules).await;
    assert_eq!((made.status, &made.body["settings"]), (200, &rules), "{made:?}");
    assert_eq!(get(&rig, "/v1/pools/apps").await.body["settings"], rules);
    let (is_ok, said) = say(&rig, &["pools", "show", "apps"]).await;
    let shown = |line: [&str; 2]| said.lines().any(|shown| shown.split_whitespace().eq(line));
    assert!(is_ok && shown(["settings.images.allowed", "docker.io/library"]), "{said}");
    assert!(shown(["settings.runtime", "runsc"]) && shown(["settings.untrusted", "true"]), "{said}");
    rig.stop().await;
}

#[tokio::test]
async fn concurrent_changes_are_versions_or_refused() {
    const WRITERS: u32 = 8;
    let rig = Plan::new(0).start_unsynced().await;
    assert_eq!(put(&rig, "?version=0", 100).await.body["version"], 1);
    let writers = (1..=WRITERS).map(|writer| put(&rig, "?version=1", 100 + writer));
    let answers = futures_util::future::join_all(writers).await;
    let won: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    assert!(
        answers.iter().all(|answer| answer.status == 200 || answer.code() == "INVALID_STATE"),
        "{answers:?}"
    );
    let current = get(&rig, "/v1/templates/python").await;
    assert_eq!((&current.body["version"], &current.body), (&json!(2), &won[0].body));

    // Without a version each is one; a writer that others overtake every time gets an error.
    let writers = (1..=WRITERS).map(|writer| put(&rig, "", 200 + writer));
    let answers = futures_util::future::join_all(writers).await;
    let written: std::collections::BTreeSet<_> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .map(|answer| answer.body["version"].as_u64())
        .collect();
    let refused = answers.iter().filter(|answer| answer.code() == "CONTENDED").count();
    assert_eq!(written.len() + refused, answers.len(), "{answers:?}");
    let current = get(&rig, "/v1/templates/python").await;
    assert_eq!(current.body["version"].as_u64(), written.last().copied().flatten(), "{answers:?}");
    rig.stop().await;
}

#[tokio::test]
async fn client_gets_the_same_over_both_transports() {
    let rig = Plan::new(0).start_unsynced().await;
    let http = HttpRequests::new(&rig.api.root, Secret::new(ADMIN_TOKEN)).unwrap();
    let transports: [(&str, Arc<dyn Requests>); 2] =
        [("nats", Arc::new(rig.bus.clone())), ("http", Arc::new(http))];
    for (name, transport) in transports {
        let timeouts = Timeouts { call: TIMEOUT, attempt: TIMEOUT };
        let client = Client::new(transport, Arc::new(SystemClock), Arc::new(Rng::unseeded()), timeouts);
        let id = TemplateId::parse(name).unwrap();
        let settings =
            |image: &str| TemplateSettings { image: image.to_owned(), ..TemplateSettings::default() };
        let first = client.put_template(&id, settings("host"), Some(0)).await.unwrap();
        let second = client.put_template(&id, settings("python"), Some(1)).await.unwrap();
        assert_eq!((first.version, second.version), (1, 2), "{name}");
        assert_eq!(
            client.template(&id, Some(1)).await.unwrap(),
            TemplateView { current_version: 2, ..first }
        );
        assert_eq!(client.template(&id, None).await.unwrap(), second, "{name}");
        let versions = client.template_versions(&id, None).await.unwrap().versions;
        assert_eq!(versions.iter().map(|one| one.version).collect::<Vec<_>>(), [2, 1], "{name}");
        eventually("the list", TIMEOUT, || async {
            let list = client.templates(None).await.unwrap();
            if list.templates.iter().any(|one| one.template == name) { Ok(()) } else { Err(list) }
        })
        .await;
        assert!(client.remove_template(&id, Some(2)).await.unwrap().removed_at.is_some(), "{name}");
        assert!(client.template(&id, None).await.is_err(), "{name}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn commands_apply_show_and_delete_templates() {
    let rig = Plan::new(0).start_unsynced().await;
    let folder = tempfile::tempdir().unwrap();
    let (toml, json) = (folder.path().join("a.toml"), folder.path().join("b.json"));
    std::fs::write(&toml, "[python]\nimage = \"python-3.12\"\n\n[shell]\nimage = \"host\"\n").unwrap();
    std::fs::write(&json, r#"{"python": {"image": "python-3.12", "memory_mb": 128}}"#).unwrap();
    let say = async |arguments: &[&str]| say(&rig, arguments).await;
    for (file, lines) in [(&toml, "python: version 1\nshell: version 1\n"), (&json, "python: version 2\n")] {
        let (is_ok, said) = say(&["templates", "apply", file.to_str().unwrap()]).await;
        assert!(is_ok && said == lines, "{said}");
    }
    let (is_ok, said) = say(&["templates", "show", "python", "--version", "1"]).await;
    assert!(is_ok && said.contains("python-3.12") && said.contains("512"), "{said}");
    let (is_ok, said) = say(&["templates", "versions", "python"]).await;
    assert!(is_ok && said.lines().count() == 3 && said.contains("broker-cli"), "{said}");
    let (is_ok, said) = say(&["templates", "delete", "shell"]).await;
    assert!(is_ok && said.contains("shell: deleted"), "{said}");
    eventually("the list", TIMEOUT, || async {
        let (is_ok, said) = say(&["templates", "list"]).await;
        if is_ok && said.contains("python") && !said.contains("shell") { Ok(()) } else { Err(said) }
    })
    .await;
    let (is_ok, said) = say(&["templates", "show", "shell"]).await;
    assert!(!is_ok && said.contains("there is no such template"), "{said}");
    rig.stop().await;
}
