//! `/healthz` and `/readyz`.

use crate::support::{EPOCH_MS, FRESH_ID, Rig, Step};
use contract::{FaultCode, Verb};
use ports::bus::RequestError;
use serde_json::{Value, json};
use std::time::Duration;

const HEALTHY: Step = Step::Say(None, r#"{"store":"ok"}"#);

async fn look(rig: &Rig) -> (u16, Value) {
    let answer = rig.ask("GET", "/readyz", &[]).await;
    (answer.status.as_u16(), answer.json())
}

fn not_ready(store: &str) -> (u16, Value) {
    (503, json!({"status": "not_ready", "checks": {"queue": "ok", "store": store}}))
}

#[tokio::test(start_paused = true)]
async fn ready_when_a_worker_can_use_the_store() {
    let rig = Rig::new([HEALTHY]);
    let ready = json!({"status": "ready", "checks": {"queue": "ok", "store": "ok"}});
    assert_eq!(look(&rig).await, (200, ready));
    let seen = rig.workers.only_seen();
    assert_eq!((seen.verb, seen.body.as_ref()), (Verb::Health, b"{}".as_slice()));
    assert_eq!(seen.context.request_id, FRESH_ID);
    assert_eq!(seen.patience, Duration::from_millis(1_500));
}

#[tokio::test(start_paused = true)]
async fn failed_readiness_names_the_cause() {
    let cases = [
        (Step::Say(None, r#"{"store":"throttled"}"#), "throttled"),
        (Step::Say(None, "nonsense"), "a worker's answer could not be read"),
        (Step::Refuse(FaultCode::StoreUnavailable, "x"), "a worker answers with a fault"),
        (Step::Fail(RequestError::NoResponders), "no worker is available"),
        (Step::Fail(RequestError::TimedOut), "no worker answers in time"),
        (Step::Fail(RequestError::Disconnected), "not connected to the queue"),
        (Step::Hang, "no answer within 2 s"),
    ];
    for (step, problem) in cases {
        assert_eq!(look(&Rig::new([step])).await, not_ready(problem));
    }
    let rig = Rig::new([HEALTHY]);
    rig.workers.disconnect();
    let expected = json!({"status": "not_ready", "checks": {"queue": "not connected", "store": "ok"}});
    assert_eq!(look(&rig).await, (503, expected));
}

#[tokio::test(start_paused = true)]
async fn store_check_is_cached_for_a_second() {
    let rig = Rig::new([Step::Fail(RequestError::NoResponders), HEALTHY]);
    let (first, second) = tokio::join!(look(&rig), look(&rig));
    assert_eq!((first, second), (not_ready("no worker is available"), not_ready("no worker is available")));
    assert_eq!(rig.workers.seen().len(), 1);
    tokio::time::advance(Duration::from_millis(999)).await;
    assert_eq!(look(&rig).await.0, 503);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(look(&rig).await.0, 200);
    assert_eq!(rig.workers.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn stopping_ingress_is_alive_but_not_ready() {
    let rig = Rig::new([HEALTHY]);
    rig.stop.cancel();
    let (status, body) = look(&rig).await;
    assert_eq!((status, &body["checks"]["process"]), (503, &json!("stopping")));
    let answer = rig.ask("GET", "/healthz", &[]).await;
    let alive = json!({"status": "healthy", "timestamp": EPOCH_MS / 1_000});
    assert_eq!((answer.status.as_u16(), answer.json()), (200, alive));
    assert_eq!(answer.header("connection"), Some("close"));
}
