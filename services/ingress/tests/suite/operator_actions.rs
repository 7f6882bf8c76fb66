//! The operators' routes for one sandbox.

use crate::support::{Rig, Step, request};
use axum::body::Body;
use axum::http::Request;
use contract::{FaultCode, Verb};
use serde_json::{Value, json};

const ROUTES: [(&str, Verb); 3] =
    [("quarantine", Verb::Quarantine), ("unquarantine", Verb::Unquarantine), ("release", Verb::ForceRelease)];

#[tokio::test(start_paused = true)]
async fn operator_action_calls_its_verb_with_actor_and_reason() {
    for (order, verb) in ROUTES {
        let rig = Rig::new([Step::Say(None, r#"{"as":"it stands"}"#)]);
        let path = format!("/v1/admin/sandboxes/7/{order}");
        let headers = [("Authorization", "Bearer admin-token-1"), ("X-Operator", "alice")];
        let body = Body::from(r#"{"reason":"smoke in it","added_later":1}"#);
        let answer = rig.send(with(request("POST", &path, &headers), body)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_ref()),
            (200, br#"{"as":"it stands"}"#.as_slice())
        );
        let seen = rig.workers.only_seen();
        let sent: Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(
            (seen.verb, sent),
            (verb, json!({"sandbox_id": "7", "reason": "smoke in it", "by": "admin/alice"}))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn operator_action_without_a_reason_is_rejected() {
    for (body, message) in [
        ("", "reason must not be empty"),
        ("{}", "reason must not be empty"),
        (r#"{"reason":" "}"#, "reason must not be empty"),
        (
            r#"{"reason":"a\nb"}"#,
            "reason may hold only visible characters and blanks (no control, bidirectional or zero-width characters)",
        ),
        ("[]", "the body is no JSON object"),
    ] {
        for (order, _) in ROUTES {
            let rig = Rig::new([Step::Say(None, "{}")]);
            let path = format!("/v1/admin/sandboxes/7/{order}");
            let headers = [("Authorization", "Bearer admin-token-1")];
            let answer = rig.send(with(request("POST", &path, &headers), Body::from(body))).await;
            answer.assert_fault(FaultCode::InvalidRequest, message);
            assert!(rig.workers.seen().is_empty());
        }
    }
}

fn with(request: Request<Body>, body: Body) -> Request<Body> {
    request.map(|_| body)
}
