//! Wrong input over both transports: a clear error, and nothing changes. (The ingress's own suite has every detail.)

use contract::{FaultBody, FaultCode, Verb};
use domain::StateName;
use harness::http::answer;
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::RequestError;
use ports::clock::Clock as _;
use reqwest::Method;
use serde_json::{Value, json};

async fn fault(rig: &Rig, verb: Verb, body: &str) -> FaultBody {
    let reply = rig.ask_raw(verb, body.to_owned(), None).await.unwrap();
    assert!(reply.is_fault, "{body}");
    serde_json::from_slice(&reply.body).unwrap()
}

#[tokio::test]
async fn invalid_http_requests_change_nothing() {
    let rig = Plan::new(3).start().await;
    let post = |path: &str| rig.api.client.post(format!("{}{path}", rig.api.root));
    let long = "x".repeat(257);
    for (what, request, status, code) in [
        ("no token", post("/v1/allocate"), 401, "UNAUTHORIZED"),
        ("wrong token", post("/v1/allocate").bearer_auth("wrong"), 401, "UNAUTHORIZED"),
        ("the admin's token", post("/v1/allocate").bearer_auth(&rig.api.admin_token), 403, "FORBIDDEN"),
        ("no owner", post("/v1/allocate").bearer_auth(&rig.api.lab_token), 400, "MISSING_SANDBOX_ID"),
        (
            "an over-long owner",
            post("/v1/allocate").bearer_auth(&rig.api.lab_token).header("X-Instruqt-Sandbox-ID", &long),
            400,
            "INVALID_REQUEST",
        ),
        (
            "an owner with an invisible character",
            post("/v1/allocate").bearer_auth(&rig.api.lab_token).header(
                "X-Instruqt-Sandbox-ID",
                reqwest::header::HeaderValue::from_bytes("a\u{200b}b".as_bytes()).unwrap(),
            ),
            400,
            "INVALID_REQUEST",
        ),
        ("an unknown path", post("/v1/nowhere").bearer_auth(&rig.api.lab_token), 404, "NOT_FOUND"),
        (
            "a wrong method",
            rig.api.client.get(format!("{}/v1/allocate", rig.api.root)).bearer_auth(&rig.api.lab_token),
            405,
            "METHOD_NOT_ALLOWED",
        ),
    ] {
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{what}: {answer:?}");
        assert!(answer.request_id.is_some(), "{what}");
    }
    assert_eq!(rig.count(StateName::Available).await, 3);
    rig.stop().await;
}

#[tokio::test]
async fn invalid_nats_requests_change_nothing() {
    let rig = Plan::new(3).start().await;
    for (verb, body, code) in [
        (Verb::Allocate, "{not json", FaultCode::InvalidRequest),
        (Verb::Allocate, "[1]", FaultCode::InvalidRequest),
        (Verb::Allocate, r#"{"owner": 7}"#, FaultCode::InvalidRequest),
        (Verb::Allocate, "{}", FaultCode::MissingSandboxId),
        (Verb::Allocate, "{\"owner\": \"a\u{200b}b\"}", FaultCode::InvalidRequest),
        (Verb::Allocate, r#"{"owner": "a", "pool": "no.pool"}"#, FaultCode::InvalidRequest),
        (Verb::Allocate, r#"["a"]"#, FaultCode::InvalidRequest),
        (Verb::Quarantine, r#"["1", "why"]"#, FaultCode::InvalidRequest),
        (Verb::BulkDelete, r#"{"status": "available", "dryrun": true}"#, FaultCode::InvalidRequest),
        (Verb::ReplayAll, r#"{"poool": "main"}"#, FaultCode::InvalidRequest),
        (Verb::ReplayProvisions, r#"{"poool": "main"}"#, FaultCode::InvalidRequest),
        (Verb::Sandboxes, r#"{"state": "stale"}"#, FaultCode::InvalidRequest),
        (Verb::Release, r#"{"owner": "a", "sandbox_id": "../1"}"#, FaultCode::InvalidRequest),
        (Verb::Release, r#"{"owner": "a"}"#, FaultCode::InvalidRequest),
        (Verb::Release, r#"{"owner": "a", "sandbox_id": "9"}"#, FaultCode::NotFound),
        (Verb::Get, r#"{"sandbox_id": "1"}"#, FaultCode::MissingSandboxId),
    ] {
        let fault = fault(&rig, verb, body).await;
        assert_eq!(fault.detail.code, code, "{body}: {fault:?}");
        assert_eq!(fault.detail.request_id, "test-request");
    }
    let huge = format!(r#"{{"owner": "{}"}}"#, "x".repeat(70_000));
    assert_eq!(fault(&rig, Verb::Allocate, &huge).await.detail.code, FaultCode::BodyTooLarge);
    assert_eq!(rig.count(StateName::Available).await, 3);
    rig.stop().await;
}

#[tokio::test]
async fn expired_request_is_dropped() {
    let rig = Plan::new(3).start().await;
    let past = rig.clock.now_ms() - 1;
    let claim = json!({"owner": "student-1"});
    let reply =
        rig.ask_within(Verb::Allocate, &claim, Some(past), std::time::Duration::from_millis(500)).await;
    assert_eq!(reply.unwrap_err(), RequestError::TimedOut);
    assert_eq!(rig.count(StateName::Available).await, 3, "nothing was claimed for a caller that left");
    rig.stop().await;
}

#[tokio::test]
async fn failed_readiness_names_the_cause() {
    let rig = Plan::new(3).start().await;
    let ready = rig.api.open(Method::GET, "/readyz").await;
    assert_eq!((ready.status, &ready.body["status"]), (200, &json!("ready")), "{ready:?}");
    rig.stop().await;
    // Without an allocator: the bus is available, but no worker can reach the table.
    let rig = Plan::new(3).counts(|counts| counts.allocators = 0).start_unsynced().await;
    let ready = rig.api.open(Method::GET, "/readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    // Before the connection exists, the bus itself is unavailable.
    let claim = eventually("a connection to NATS", TIMEOUT, || async {
        let claim = rig.api.allocate("student-1").await;
        if claim.code() == "UPSTREAM_UNAVAILABLE" { Err(claim) } else { Ok(claim) }
    })
    .await;
    assert_eq!((claim.status, claim.code()), (503, "NO_WORKERS"));
    assert!(claim.retry_after.is_some());
    assert_ne!(claim.body, Value::Null);
    rig.stop().await;
}
