//! The routes about one sandbox.

use crate::support::{LAB, Rig, Step};
use common::contract::{FaultCode, Verb};
use serde_json::json;

const RELEASED: &str = r#"{"sandbox_id":"7","status":"pending_deletion","deletion_requested_at":1800000000}"#;
const VIEW: &str = r#"{"sandbox_id":"7","status":"allocated","allocated_to_track":"p-1"}"#;

const BOTH: [(&str, &str, Verb, &str); 2] =
    [("POST", "/mark-for-deletion", Verb::Release, RELEASED), ("GET", "", Verb::Get, VIEW)];

#[tokio::test(start_paused = true)]
async fn the_worker_is_asked_for_this_sandbox_and_owner() {
    for (method, tail, verb, reply) in BOTH {
        let rig = Rig::new([Step::Say(None, reply)]);
        let answer = rig.ask(method, &format!("/v1/sandboxes/7{tail}"), LAB).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, reply);
        let seen = rig.workers.only_seen();
        assert_eq!(seen.verb, verb);
        let sent: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(sent, json!({"sandbox_id": "7", "owner": "p-1"}));
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_has_to_be_named() {
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
async fn a_path_that_holds_no_id_is_refused() {
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
