//! `/v1/claims`: what the ingress checks, and claims that wait until they are ready.

use crate::support::{LAB, Rig, Step, and, request};
use axum::body::Body;
use contract::{FaultCode, Outcome, Verb};

const PROVISIONING: &str = r#"{"sandbox_id":"ctr_1","pool":"shell","status":"provisioning","owner":"p-1","key":"k","lease_epoch":1,"allocated_at":1,"expires_at":2}"#;
const READY: &str = r#"{"sandbox_id":"ctr_1","pool":"shell","status":"allocated","owner":"p-1","key":"k","lease_epoch":1,"allocated_at":1,"expires_at":2}"#;
const FAILED: &str = r#"{"sandbox_id":"ctr_1","pool":"shell","status":"provision_failed","owner":"p-1","key":"k","lease_epoch":1,"allocated_at":1,"expires_at":2}"#;

async fn claim(rig: &Rig, query: &str, body: &'static str) -> crate::support::Answer {
    let asked = request("POST", &format!("/v1/claims{query}"), LAB);
    rig.send(asked.map(|_| Body::from(body))).await
}

#[tokio::test(start_paused = true)]
async fn claim_that_waits_is_answered_when_it_is_ready_or_has_failed() {
    for (end, body) in [(Step::Say(None, READY), READY), (Step::Say(None, FAILED), FAILED)] {
        let created = Step::Say(Some(Outcome::Created), PROVISIONING);
        // A look that fails is followed by another one.
        let busy = Step::Refuse(FaultCode::StoreUnavailable, "the table does not answer");
        let rig = Rig::new([created, Step::Say(None, PROVISIONING), busy, end]);
        let answer = claim(&rig, "?wait=ready", "{}").await;
        assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (201, body.as_bytes()));
        let timing = answer.header("server-timing").unwrap();
        assert!(timing.starts_with("claim;dur=") && timing.contains(", ready;dur="), "{timing}");
        let asked: Vec<_> = rig.workers.seen().iter().map(|seen| seen.verb).collect();
        assert_eq!(asked[..2], [Verb::Claim, Verb::ShowClaim]);
    }
}

#[tokio::test(start_paused = true)]
async fn claim_does_not_wait_beyond_its_time_or_without_a_reason() {
    let steps = || [Step::Say(Some(Outcome::Existing), PROVISIONING), Step::Say(None, PROVISIONING)];
    let rig = Rig::new(steps());
    let answer = claim(&rig, "?wait=ready&wait_seconds=3", "{}").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (200, PROVISIONING.as_bytes()));
    assert!(rig.workers.seen().len() > 2, "it looked until then");
    let rig = Rig::new(steps());
    assert_eq!(claim(&rig, "", "{}").await.body, PROVISIONING);
    assert_eq!(rig.workers.only_seen().verb, Verb::Claim);
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_would_not_understand_is_refused() {
    let rig = Rig::new([Step::Say(Some(Outcome::Created), READY)]);
    for (query, body, words) in [
        ("?wait=soon", "{}", "wait must be ready"),
        ("?wait_seconds=3", "{}", "needs `wait=ready`"),
        ("?wait=ready&wait_seconds=0", "{}", "from 1 to 60"),
        ("?wait=ready&wait_seconds=61", "{}", "from 1 to 60"),
        ("?wait=ready&later=1", "{}", "unknown parameter `later`"),
        ("", "[]", "no JSON object"),
        ("", r#"{"poool":"shell"}"#, "unknown field `poool`"),
    ] {
        let answer = claim(&rig, query, body).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 400, "{query} {body}: {text}");
        assert!(text.contains(words), "{text}");
    }
    let nameless = rig.ask("DELETE", "/v1/claims/ctr_1", LAB).await;
    assert_eq!(nameless.status, 400, "a release names the lease that it means");
    assert!(rig.workers.seen().is_empty());
    let named = rig.ask("DELETE", "/v1/claims/ctr_1", &and(LAB, &[("X-Lease-Epoch", "1")])).await;
    assert_eq!((named.status.as_u16(), rig.workers.only_seen().verb), (200, Verb::Release));
}
