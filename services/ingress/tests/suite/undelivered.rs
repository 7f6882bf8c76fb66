//! Leases that were granted although their caller has not received them.

use crate::support::{LAB, Rig, Step};
use contract::{FaultCode, Outcome};
use ports::bus::RequestError;
use std::sync::Arc;
use std::time::Duration;

const LEASE: &str = r#"{"sandbox_id":"7","name":"lab-7","external_id":"u-7","allocated_at":1,"expires_at":2,"sfdc_account_id":null,"lease_epoch":1}"#;
const TIMEOUT: Duration = Duration::from_secs(10);
const REASONS: [&str; 3] = ["late_reply", "caller_left", "unknown"];

/// The counts by reason.
async fn counts(rig: &Rig) -> [u64; 3] {
    let answer = rig.ask("GET", "/metrics", &[]).await;
    let page = String::from_utf8(answer.body.to_vec()).unwrap();
    REASONS.map(|reason| {
        let name = format!("broker_undelivered_leases_total{{reason=\"{reason}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)).expect("a counter").parse().unwrap()
    })
}

async fn until(rig: &Rig, expected: [u64; 3]) {
    let counted = async {
        while counts(rig).await != expected {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(TIMEOUT, counted).await.is_ok(), "{:?}", counts(rig).await);
}

#[tokio::test(start_paused = true)]
async fn late_lease_after_an_error_is_counted_once() {
    let rig = Rig::new([Step::Late(LEASE)]);
    let answer = rig.ask("POST", "/v1/allocate", LAB).await;
    assert_eq!((answer.status.as_u16(), rig.workers.seen().len()), (504, 3));
    until(&rig, [1, 0, 1]).await;
}

#[tokio::test(start_paused = true)]
async fn lease_returned_by_a_retry_is_delivered() {
    let rig = Rig::new([Step::Late(LEASE), Step::Say(Some(Outcome::Created), LEASE)]);
    assert_eq!(rig.ask("POST", "/v1/allocate", LAB).await.status, 201);
    assert_eq!(counts(&rig).await, [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn claim_with_unknown_outcome_is_counted_separately() {
    for (step, unknown) in [
        (Step::Fail(RequestError::TimedOut), 1),
        (Step::Refuse(FaultCode::StoreUnavailable, "no"), 1),
        (Step::Fail(RequestError::NoResponders), 0),
        (Step::Refuse(FaultCode::NoWorkers, "no"), 0),
        (Step::Refuse(FaultCode::PoolExhausted, "no"), 0),
    ] {
        let rig = Rig::new([step]);
        assert!(rig.ask("POST", "/v1/allocate", LAB).await.status.as_u16() >= 400);
        assert_eq!(counts(&rig).await, [0, 0, unknown]);
    }
}

#[tokio::test]
async fn lease_of_a_disconnected_caller_is_counted() {
    let rig = Arc::new(Rig::new([Step::SayWhenLet(LEASE)]));
    let asked = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.ask("POST", "/v1/allocate", LAB).await }
    });
    tokio::time::timeout(TIMEOUT, rig.workers.hanging.acquire()).await.unwrap().unwrap().forget();
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    rig.workers.gate.add_permits(1);
    until(&rig, [0, 1, 0]).await;
}
