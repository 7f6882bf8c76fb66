//! Claims over HTTP and NATS: one set of keys, the same answers.

use contract::{Outcome, Verb};
use domain::StateName;
use harness::rig::Plan;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn repeated_claim_returns_the_same_lease() {
    let rig = Plan::new(5).start().await;
    let first = rig.api.allocate_with("student-1", &[("X-Instruqt-Track-ID", "dns-lab")]).await;
    assert_eq!(first.status, 201, "{first:?}");
    let mut fields: Vec<&str> = first.body.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["allocated_at", "expires_at", "external_id", "lease_epoch", "name", "sandbox_id", "sfdc_account_id"]
    );
    assert_eq!(first.body["lease_epoch"], 1);
    assert_eq!(
        first.body["expires_at"].as_u64().unwrap() - first.body["allocated_at"].as_u64().unwrap(),
        4 * 3_600
    );
    assert!(!first.body["external_id"].as_str().unwrap().contains('/'), "the bare id");

    let again = rig.api.allocate("student-1").await;
    assert_eq!(again.status, 200);
    assert_eq!(again.body, first.body, "a repeat shows the same sandbox and the same times");

    let seen = rig.api.get(first.sandbox(), "student-1").await;
    assert_eq!(seen.status, 200);
    assert_eq!(seen.body["status"], "allocated");
    assert_eq!(seen.body["allocated_to_track"], "student-1");
    assert_eq!(seen.body["track_name"], "dns-lab");
    rig.stop().await;
}

#[tokio::test]
async fn a_claim_over_http_repeated_over_nats_is_the_same_claim() {
    let rig = Plan::new(5).start().await;
    let http = rig.api.allocate("student-1").await;
    let nats = rig.ask(Verb::Allocate, json!({"owner": "student-1"})).await.unwrap();
    assert_eq!(nats.outcome, Some(Outcome::Existing));
    assert_eq!(serde_json::from_slice::<Value>(&nats.body).unwrap(), http.body);

    let nats =
        rig.ask(Verb::Allocate, json!({"owner": "student-2", "field from the future": 1})).await.unwrap();
    assert_eq!(nats.outcome, Some(Outcome::Created));
    let http = rig.api.allocate("student-2").await;
    assert_eq!((http.status, &http.body), (200, &serde_json::from_slice::<Value>(&nats.body).unwrap()));

    let released =
        rig.ask(Verb::Release, json!({"sandbox_id": http.sandbox(), "owner": "student-2"})).await.unwrap();
    assert!(!released.is_fault);
    let again = rig.api.release(http.sandbox(), "student-2").await;
    assert_eq!((again.status, again.body), (200, serde_json::from_slice::<Value>(&released.body).unwrap()));
    rig.stop().await;
}

#[tokio::test]
async fn keys_belong_to_their_owner() {
    let rig = Plan::new(5).start().await;
    let key = [("Idempotency-Key", "lesson-1")];
    let first = rig.api.allocate_with("student-1", &key).await;
    let other = rig.api.allocate_with("student-2", &key).await;
    assert_eq!((first.status, other.status), (201, 201));
    assert_ne!(first.sandbox(), other.sandbox(), "another owner with the same key gets another sandbox");
    let second = rig.api.allocate_with("student-1", &[("Idempotency-Key", "lesson-2")]).await;
    assert_eq!(second.status, 201, "another key of the same owner is another claim");
    assert_ne!(first.sandbox(), second.sandbox());
    rig.stop().await;
}

#[tokio::test]
async fn prefix_narrows_a_claim_and_no_match_is_exhausted() {
    let rig = Plan::new(12).start().await;
    let name = rig.csp.accounts().first().unwrap().name.clone();
    let exact = rig.api.allocate_with("student-1", &[("X-Sandbox-Name-Prefix", &name)]).await;
    assert_eq!(
        (exact.status, exact.body["name"].as_str().unwrap().starts_with(&name)),
        (201, true),
        "{exact:?}"
    );
    let none = rig.api.allocate_with("student-2", &[("X-Sandbox-Name-Prefix", "no-such-")]).await;
    assert_eq!((none.status, none.code()), (409, "POOL_EXHAUSTED"));
    assert_eq!(none.retry_after.as_deref(), Some("30"));
    assert_eq!(none.body["detail"]["retry_after"], 30);
    assert!(none.request_id.is_some_and(|id| none.body["detail"]["request_id"] == json!(id)));
    assert_eq!(rig.count(StateName::Available).await, 11);
    rig.stop().await;
}

#[tokio::test]
async fn only_the_owner_can_read_and_release_a_sandbox() {
    let rig = Plan::new(3).start().await;
    let mine = rig.api.allocate("student-1").await;
    for answer in
        [rig.api.get(mine.sandbox(), "student-2").await, rig.api.release(mine.sandbox(), "student-2").await]
    {
        assert_eq!((answer.status, answer.code()), (403, "NOT_SANDBOX_OWNER"));
        assert!(!answer.body.to_string().contains("student-1"), "the holder is not named");
    }
    for answer in [rig.api.get("999999", "student-1").await, rig.api.release("999999", "student-1").await] {
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"));
    }
    assert_eq!(rig.count(StateName::Allocated).await, 1, "nothing changed");
    rig.stop().await;
}

#[tokio::test]
async fn a_claim_after_a_release_is_a_new_one() {
    let rig = Plan::new(3).start().await;
    let first = rig.api.allocate("student-1").await;
    assert_eq!(rig.api.release(first.sandbox(), "student-1").await.status, 200);
    let second = rig.api.allocate("student-1").await;
    assert_eq!(second.status, 201);
    assert_ne!(first.sandbox(), second.sandbox());
    rig.stop().await;
}

#[tokio::test]
async fn requested_lease_length_is_limited() {
    let rig = Plan::new(3).start().await;
    let long = rig.api.allocate_with("student-1", &[("X-Lab-Duration", "48")]).await;
    assert_eq!(
        long.body["expires_at"].as_u64().unwrap() - long.body["allocated_at"].as_u64().unwrap(),
        48 * 3_600
    );
    for wrong in ["49", "0", "soon", "-1"] {
        let answer = rig.api.allocate_with("student-2", &[("X-Lab-Duration", wrong)]).await;
        assert_eq!((answer.status, answer.code()), (400, "INVALID_REQUEST"), "{wrong}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn stats_count_every_state_of_every_pool() {
    let rig = Plan::new(9).set("POOLS", "ones=lab-1,main").start_unsynced().await;
    rig.sync().await;
    rig.api.allocate("student-1").await;
    let stats = rig.api.stats().await;
    assert_eq!(stats["total"], 9);
    assert_eq!(stats["allocated"], 1);
    assert_eq!(stats["available"], 8);
    let pools = stats["pools"].as_object().unwrap();
    assert_eq!(pools.len(), 2);
    assert_eq!(pools.values().map(|pool| pool["total"].as_u64().unwrap()).sum::<u64>(), 9);
    let wrong = rig.api.allocate_with("student-2", &[("X-Sandbox-Pool", "nowhere")]).await;
    assert_eq!((wrong.status, wrong.code()), (400, "INVALID_REQUEST"));
    let page = rig.api.open(Method::GET, "/healthz").await;
    assert_eq!(page.status, 200);
    rig.stop().await;
}

#[tokio::test]
async fn prefix_without_a_pool_searches_every_pool_of_the_caller() {
    let pools = "dns=lab-0000,ipam=lab-0001,main";
    let rig = Plan::new(30).set("POOLS", pools).start().await;
    let with = |prefix: &'static str| [("X-Sandbox-Name-Prefix", prefix)];
    let of_dns = rig.api.allocate_with("student-1", &with("lab-00005")).await;
    assert_eq!((of_dns.status, of_dns.body["name"].as_str()), (201, Some("lab-00005")), "{of_dns:?}");
    let wide = rig.api.allocate_with("student-2", &with("lab-0001")).await;
    assert_eq!(wide.status, 201, "{wide:?}");
    let scoped = [("X-Sandbox-Name-Prefix", "lab-00005"), ("X-Sandbox-Pool", "main")];
    let refused = rig.api.allocate_with("student-3", &scoped).await;
    assert_eq!((refused.status, refused.code()), (409, "POOL_EXHAUSTED"), "{refused:?}");
    let message = refused.body["detail"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("there is no free sandbox in pool main whose name begins with `lab-00005`"),
        "{message}"
    );
    assert!(
        message.contains(" in dns, ") && message.contains(" in ipam"),
        "what is free elsewhere: {message}"
    );
    let nowhere = rig.api.allocate_with("student-3", &with("lab-9")).await;
    assert_eq!((nowhere.status, nowhere.code()), (409, "POOL_EXHAUSTED"), "{nowhere:?}");
    let message = nowhere.body["detail"]["message"].as_str().unwrap();
    assert!(message.starts_with("there is no free sandbox in the pools main, dns, ipam whose"), "{message}");
    rig.stop().await;
}

#[tokio::test]
async fn names_outside_of_ascii_are_claimed_and_found_again() {
    let rig = Plan::new(5).start().await;
    let owner = "Zo\u{eb} \u{5b66}\u{751f} 1";
    let claim = rig.ask(Verb::Allocate, json!({"owner": owner, "lab": "DNS basics \u{e9}"})).await.unwrap();
    assert_eq!(claim.outcome, Some(Outcome::Created), "{claim:?}");
    let claim: Value = serde_json::from_slice(&claim.body).unwrap();
    // The same characters in a header: UTF-8, as curl sends them.
    let http = rig.api.allocate(owner).await;
    assert_eq!((http.status, &http.body), (200, &claim));
    let seen = rig.api.get(http.sandbox(), owner).await;
    assert_eq!((seen.status, &seen.body["track_name"]), (200, &json!("DNS basics \u{e9}")), "{seen:?}");
    let listed = rig.api.admin(Method::GET, "/v1/admin/sandboxes?lab=DNS%20basics%20%C3%A9").await;
    assert_eq!(listed.body["count"], json!(1), "{listed:?}");
    // Latin-1, as Python's `requests` sends them, is the same owner.
    let by_latin = rig.api.allocate_as(b"Ren\xe9e").await;
    let by_utf8 = rig.api.allocate("Ren\u{e9}e").await;
    assert_eq!((by_latin.status, by_utf8.status), (201, 200), "{by_latin:?} {by_utf8:?}");
    assert_eq!(by_latin.body, by_utf8.body);
    // An owner of 256 bytes, and one more.
    let longest = "\u{e9}".repeat(128);
    assert_eq!(rig.api.allocate(&longest).await.status, 201);
    assert_eq!(rig.api.allocate(&format!("{longest}x")).await.code(), "INVALID_REQUEST");
    assert_eq!(rig.api.release(http.sandbox(), owner).await.status, 200);
    rig.stop().await;
}
