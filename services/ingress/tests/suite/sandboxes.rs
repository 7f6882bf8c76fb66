//! The routes for one sandbox.

use crate::support::{LAB, Rig, Step};
use contract::{FaultCode, Verb};
use serde_json::json;

const RELEASED: &str = r#"{"sandbox_id":"7","status":"pending_deletion","deletion_requested_at":1800000000}"#;
const VIEW: &str = r#"{"sandbox_id":"7","status":"allocated","allocated_to_track":"p-1"}"#;

const BOTH: [(&str, &str, Verb, &str); 2] =
    [("POST", "/mark-for-deletion", Verb::Release, RELEASED), ("GET", "", Verb::Get, VIEW)];

#[tokio::test(start_paused = true)]
async fn request_names_the_sandbox_and_owner() {
    for (method, tail, verb, reply) in BOTH {
        let rig = Rig::new([Step::Say(None, reply)]);
        let answer = rig.ask(method, &format!("/v1/sandboxes/7{tail}"), LAB).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, reply);
        let seen = rig.workers.only_seen();
        assert_eq!(seen.verb, verb);
        let sent: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        // Reads are no part of the history.
        let expected = match verb {
            Verb::Get => json!({"sandbox_id": "7", "owner": "p-1"}),
            _ => json!({"sandbox_id": "7", "owner": "p-1", "by": "lab"}),
        };
        assert_eq!(sent, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn owner_header_is_required() {
    for (method, tail, _, reply) in BOTH {
        let rig = Rig::new([Step::Say(None, reply)]);
        let path = format!("/v1/sandboxes/7{tail}");
        let auth = ("Authorization", "Bearer lab-token-1");
        rig.ask(method, &path, &[auth]).await.assert_fault(
            FaultCode::MissingSandboxId,
            "X-Instruqt-Sandbox-ID (or the older X-Track-ID) has to name the owner",
        );
        assert_eq!(rig.ask(method, &path, &[auth, ("X-Track-ID", "p-1")]).await.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_id_in_the_path_is_rejected() {
    let longest = "x".repeat(129);
    let tokens = "may hold only ASCII letters, digits, '-' and '_'";
    let cases = [
        ("a.b", format!("the sandbox id in the path {tokens}")),
        ("%3E", format!("the sandbox id in the path {tokens}")),
        ("a%2Fb", format!("the sandbox id in the path {tokens}")),
        ("%20", "the sandbox id in the path must not be empty".to_owned()),
        (longest.as_str(), "the sandbox id in the path must be at most 128 bytes, not 129".to_owned()),
        ("%FF", "the sandbox id in the path is not text".to_owned()),
    ];
    for (method, tail, _, reply) in BOTH {
        for (id, message) in &cases {
            let rig = Rig::new([Step::Say(None, reply)]);
            let answer = rig.ask(method, &format!("/v1/sandboxes/{id}{tail}"), LAB).await;
            answer.assert_fault(FaultCode::InvalidRequest, message);
            assert!(rig.workers.seen().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_worker_keep_their_status() {
    for (method, tail, _, _) in BOTH {
        for code in [FaultCode::NotSandboxOwner, FaultCode::NotFound, FaultCode::AllocationExpired] {
            let rig = Rig::new([Step::Refuse(code, "no")]);
            rig.ask(method, &format!("/v1/sandboxes/7{tail}"), LAB).await.assert_fault(code, "no");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn extension_is_requested_by_headers() {
    const EXTENDED: &str = r#"{"sandbox_id":"7","expires_at":1800000000,"lease_epoch":2}"#;
    let owner = [("Authorization", "Bearer lab-token-1"), ("X-Track-ID", "p-1")];
    let rig = Rig::new([Step::Say(None, EXTENDED)]);
    let headers = [owner[0], owner[1], ("X-Lab-Duration", "6"), ("X-Lease-Epoch", "2")];
    let answer = rig.ask("POST", "/v1/sandboxes/7/extend", &headers).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (200, EXTENDED.as_bytes()));
    let seen = rig.workers.only_seen();
    let sent: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    let asked =
        json!({"sandbox_id": "7", "owner": "p-1", "lab_duration_hours": 6, "lease_epoch": 2, "by": "lab"});
    assert_eq!((seen.verb, sent), (Verb::Extend, asked));
    let rig = Rig::new([Step::Say(None, EXTENDED)]);
    let answer = rig.ask("POST", "/v1/sandboxes/7/extend", &headers[..3]).await;
    assert_eq!(answer.status, 200);
    let sent: serde_json::Value = serde_json::from_slice(&rig.workers.only_seen().body).unwrap();
    assert_eq!(sent, json!({"sandbox_id": "7", "owner": "p-1", "lab_duration_hours": 6, "by": "lab"}));
}

#[tokio::test(start_paused = true)]
async fn extension_needs_a_length_and_a_numeric_epoch() {
    let owner = [("Authorization", "Bearer lab-token-1"), ("X-Track-ID", "p-1")];
    let cases = [
        (None, "X-Lab-Duration has to say how long the lease is to last in all"),
        (
            Some(("X-Lab-Duration", "0")),
            "X-Lab-Duration must be whole hours (4 or 4h), minutes (90m) or both (1h30m), at least one minute",
        ),
        (
            Some(("X-Lab-Duration", "+3")),
            "X-Lab-Duration must be whole hours (4 or 4h), minutes (90m) or both (1h30m), at least one minute",
        ),
        (Some(("X-Lease-Epoch", "-1")), "X-Lease-Epoch must be a whole number"),
        (Some(("X-Lease-Epoch", "x")), "X-Lease-Epoch must be a whole number"),
    ];
    for (header, message) in cases {
        let rig = Rig::new([Step::Say(None, "{}")]);
        let mut headers = owner.to_vec();
        headers.extend(header);
        if header.is_some_and(|(name, _)| name == "X-Lease-Epoch") {
            headers.push(("X-Lab-Duration", "6"));
        }
        let answer = rig.ask("POST", "/v1/sandboxes/7/extend", &headers).await;
        answer.assert_fault(FaultCode::InvalidRequest, message);
        assert!(rig.workers.seen().is_empty());
    }
}
