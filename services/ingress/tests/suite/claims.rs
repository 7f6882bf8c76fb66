//! `POST /v1/allocate`: headers in, the worker's answer out.

use crate::support::{LAB, Rig, Step, and};
use bytes::Bytes;
use contract::{FaultCode, Outcome, Verb};
use ports::bus::Reply;
use serde_json::json;
use strum::IntoEnumIterator as _;

// Not in serde's format: order, spaces and an unknown field must survive.
const ALLOCATION: &str =
    r#"{ "sandbox_id":"7", "name":"lab-7","later_field":[1, 2],"expires_at":1800014400 }"#;

const AUTH: (&str, &str) = ("Authorization", "Bearer lab-token-1");

fn rig() -> Rig {
    Rig::new([Step::Say(Some(Outcome::Created), ALLOCATION)])
}

#[tokio::test(start_paused = true)]
async fn new_lease_is_201_and_existing_is_200_with_the_worker_body() {
    for (outcome, status) in [(Some(Outcome::Created), 201), (Some(Outcome::Existing), 200), (None, 200)] {
        let rig = Rig::new([Step::Say(outcome, ALLOCATION)]);
        let answer = rig.ask("POST", "/v1/allocate", LAB).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.body, ALLOCATION);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(rig.workers.only_seen().verb, Verb::Allocate);
    }
}

#[tokio::test(start_paused = true)]
async fn headers_are_trimmed_and_passed_to_the_worker() {
    let rig = rig();
    let headers = and(
        &[AUTH],
        &[
            ("X-Instruqt-Sandbox-ID", "  p-1 "),
            ("X-Track-ID", "ignored"),
            ("X-Instruqt-Track-ID", "\tlab-dns "),
            ("X-Sandbox-Name-Prefix", " lab- "),
            ("X-Sandbox-Pool", "main"),
            ("Idempotency-Key", "key/1"),
            ("X-Lab-Duration", " 12 "),
        ],
    );
    assert_eq!(rig.ask("POST", "/v1/allocate", &headers).await.status, 201);
    let sent: serde_json::Value = serde_json::from_slice(&rig.workers.only_seen().body).unwrap();
    assert_eq!(
        sent,
        json!({
            "owner": "p-1", "lab": "lab-dns", "idempotency_key": "key/1", "pool": "main",
            "name_prefix": "lab-", "lab_duration_hours": 12, "by": "lab",
        })
    );
}

#[tokio::test(start_paused = true)]
async fn blank_header_is_absent_and_legacy_owner_header_is_used() {
    let rig = rig();
    let headers = [
        AUTH,
        ("X-Instruqt-Sandbox-ID", "  "),
        ("X-Track-ID", "p-2"),
        ("X-Instruqt-Track-ID", ""),
        ("X-Sandbox-Name-Prefix", " "),
        ("X-Sandbox-Pool", ""),
        ("Idempotency-Key", "   "),
        ("X-Lab-Duration", ""),
    ];
    assert_eq!(rig.ask("POST", "/v1/allocate", &headers).await.status, 201);
    let sent: serde_json::Value = serde_json::from_slice(&rig.workers.only_seen().body).unwrap();
    assert_eq!(sent, json!({"owner": "p-2", "by": "lab"}));
}

#[tokio::test(start_paused = true)]
async fn a_claim_without_an_owner_is_refused() {
    let rig = rig();
    for headers in [&[AUTH][..], &[AUTH, ("X-Instruqt-Sandbox-ID", " "), ("X-Track-ID", "")][..]] {
        rig.ask("POST", "/v1/allocate", headers).await.assert_fault(
            FaultCode::MissingSandboxId,
            "X-Instruqt-Sandbox-ID (or the older X-Track-ID) has to name the owner",
        );
    }
    assert!(rig.workers.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn invalid_header_is_rejected_with_the_reason() {
    let rig = rig();
    let long = "x".repeat(257);
    let long_pool = "x".repeat(65);
    let (visible, hours) = (
        "may hold only visible characters and blanks (no control, bidirectional or zero-width characters)",
        "must be whole hours (4 or 4h), minutes (90m) or both (1h30m), at least one minute",
    );
    let too_long = "must be at most 256 bytes, not 257";
    let cases = [
        ("X-Instruqt-Sandbox-ID", "a\u{200b}b", visible),
        ("X-Instruqt-Sandbox-ID", "a\tb", visible),
        ("X-Instruqt-Sandbox-ID", long.as_str(), too_long),
        ("X-Instruqt-Track-ID", "a\u{202e}b", visible),
        ("X-Instruqt-Track-ID", long.as_str(), too_long),
        ("X-Sandbox-Name-Prefix", "lab\t7", visible),
        ("X-Sandbox-Name-Prefix", long.as_str(), too_long),
        ("X-Sandbox-Pool", "a.b", "may hold only ASCII letters, digits, '-' and '_'"),
        ("X-Sandbox-Pool", long_pool.as_str(), "must be at most 64 bytes, not 65"),
        ("Idempotency-Key", "a\u{feff}b", visible),
        ("Idempotency-Key", long.as_str(), too_long),
        ("X-Lab-Duration", "0", hours),
        ("X-Lab-Duration", "+4", hours),
        ("X-Lab-Duration", "-4", hours),
        ("X-Lab-Duration", "4.5", hours),
        ("X-Lab-Duration", "4294967296", hours),
        ("X-Lab-Duration", "four", hours),
        ("X-Lab-Duration", "0m", hours),
        ("X-Lab-Duration", "1h30", hours),
        ("X-Lab-Duration", "30m1h", hours),
    ];
    for (name, value, problem) in cases {
        let mut headers = vec![AUTH, (name, value)];
        if name != "X-Instruqt-Sandbox-ID" {
            headers.push(("X-Instruqt-Sandbox-ID", "p-1"));
        }
        let answer = rig.ask("POST", "/v1/allocate", &headers).await;
        answer.assert_fault(FaultCode::InvalidRequest, &format!("{name} {problem}"));
    }
    assert!(rig.workers.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn lease_length_is_accepted_in_hours_and_minutes() {
    for (text, hours, minutes) in
        [("4", 4, None), ("4h", 4, None), ("90m", 2, Some(90)), ("1h30m", 2, Some(90)), ("120m", 2, None)]
    {
        let rig = rig();
        let headers = [AUTH, ("X-Instruqt-Sandbox-ID", "p-1"), ("X-Lab-Duration", text)];
        assert_eq!(rig.ask("POST", "/v1/allocate", &headers).await.status, 201, "{text}");
        let sent: serde_json::Value = serde_json::from_slice(&rig.workers.only_seen().body).unwrap();
        assert_eq!(sent["lab_duration_hours"], hours, "{text}: what a worker of a former build goes by");
        assert_eq!(sent.get("lab_duration_minutes").and_then(serde_json::Value::as_u64), minutes, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn longest_ids_are_accepted() {
    let rig = rig();
    let (longest, longest_pool) = ("x".repeat(256), "x".repeat(64));
    let headers = [
        AUTH,
        ("X-Track-ID", &longest),
        ("X-Instruqt-Track-ID", &longest),
        ("X-Sandbox-Name-Prefix", &longest),
        ("X-Sandbox-Pool", &longest_pool),
        ("Idempotency-Key", &longest),
        ("X-Lab-Duration", "4294967295"),
    ];
    assert_eq!(rig.ask("POST", "/v1/allocate", &headers).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn duplicate_id_header_is_rejected() {
    let rig = rig();
    for name in [
        "X-Instruqt-Sandbox-ID",
        "X-Instruqt-Track-ID",
        "X-Sandbox-Name-Prefix",
        "X-Sandbox-Pool",
        "Idempotency-Key",
        "X-Lab-Duration",
    ] {
        let headers = and(&[AUTH, ("X-Track-ID", "p-1")], &[(name, "1"), (name, "1")]);
        let answer = rig.ask("POST", "/v1/allocate", &headers).await;
        answer.assert_fault(FaultCode::InvalidRequest, &format!("{name} was sent more than once"));
    }
    let headers = [AUTH, ("X-Track-ID", "p-1"), ("X-Track-ID", "p-2")];
    let answer = rig.ask("POST", "/v1/allocate", &headers).await;
    answer.assert_fault(FaultCode::InvalidRequest, "X-Track-ID was sent more than once");
}

#[tokio::test(start_paused = true)]
async fn worker_fault_keeps_its_status_and_retry_after() {
    // After the other faults, the ingress asks a worker again.
    let is_final =
        |code: &FaultCode| !matches!(code, FaultCode::NoWorkers | FaultCode::NotHere | FaultCode::Timeout);
    for code in FaultCode::iter().filter(is_final) {
        let rig = Rig::new([Step::Refuse(code, "in the worker's words")]);
        let answer = rig.ask("POST", "/v1/allocate", LAB).await;
        answer.assert_fault(code, "in the worker's words");
        assert_eq!(rig.workers.seen().len(), 1, "{code:?} is final");
    }
}

#[tokio::test(start_paused = true)]
async fn fault_passes_unchanged_and_an_undecodable_one_is_a_500() {
    let fault = |body: &'static str| {
        Step::SayRaw(Reply { outcome: None, is_fault: true, body: Bytes::from_static(body.as_bytes()) })
    };
    let body =
        r#"{ "detail":{"retry_after":7,"message":"m","code":"POOL_EXHAUSTED","request_id":"r","new":1}}"#;
    let answer = Rig::new([fault(body)]).ask("POST", "/v1/allocate", LAB).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (409, Some("7")));
    assert_eq!(answer.body, body);
    for unreadable in ["", "{}", r#"{"detail":{"code":"FROM_THE_FUTURE","message":"m","request_id":"r"}}"#] {
        let answer = Rig::new([fault(unreadable)]).ask("POST", "/v1/allocate", LAB).await;
        answer.assert_fault(FaultCode::InternalError, "a worker's answer could not be read");
    }
}
