//! Repeats and deadlines. Time is tokio's paused clock; the random numbers always produce the longest pause.

use crate::support::{ADMIN, EPOCH_MS, FRESH_ID, LAB, Rig, Step, and};
use contract::{FaultCode, Outcome};
use ports::bus::{Context, RequestError};
use std::sync::Arc;
use std::time::Duration;

const OK: Step = Step::Say(Some(Outcome::Created), "{}");
const NO_RESPONDERS: Step = Step::Fail(RequestError::NoResponders);
const SILENCE: Step = Step::Fail(RequestError::TimedOut);
const BUSY: Step = Step::Refuse(FaultCode::NoWorkers, "all workers are busy");

const NO_WORKER: &str = "no worker took the request; try again shortly";
const NO_ANSWER: &str = "no answer in time; repeat the same request, it is safe and leads to the same result";

fn times_ms(rig: &Rig) -> Vec<u64> {
    rig.workers.seen().iter().map(|seen| seen.at_ms).collect()
}

fn patiences_ms(rig: &Rig) -> Vec<u128> {
    rig.workers.seen().iter().map(|seen| seen.patience.as_millis()).collect()
}

#[tokio::test(start_paused = true)]
async fn attempts_carry_request_id_trace_key_number_and_deadline() {
    let rig = Rig::new([SILENCE, NO_RESPONDERS, BUSY, OK]);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = and(LAB, &[("X-Request-ID", "r-1"), ("traceparent", trace), ("Idempotency-Key", "k-1")]);
    assert_eq!(rig.ask("POST", "/v1/allocate", &headers).await.status, 201);
    let seen = rig.workers.seen();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[0].context.request_id, "r-1");
    assert_eq!(seen[0].context.traceparent.as_deref(), Some(trace));
    assert_eq!(seen[0].context.idempotency_key.as_deref(), Some("k-1"));
    for (number, one) in (1..).zip(&seen) {
        // No worker may work on an abandoned attempt, because another attempt follows it.
        let ends_ms = EPOCH_MS + one.at_ms + u64::try_from(one.patience.as_millis()).unwrap();
        assert_eq!(one.context.deadline_ms, Some(ends_ms), "attempt {number}");
        let attempt = one.context.attempt.clone().unwrap();
        assert_eq!((attempt.request_key.as_str(), attempt.number), (FRESH_ID, Some(number)));
        assert_ne!(attempt.request_key, one.context.request_id, "callers may use that again");
        let same = Context {
            deadline_ms: one.context.deadline_ms,
            attempt: one.context.attempt.clone(),
            ..seen[0].context.clone()
        };
        assert_eq!((&one.context, &one.body), (&same, &seen[0].body));
    }
}

#[tokio::test(start_paused = true)]
async fn request_without_an_id_gets_a_generated_one() {
    let rig = Rig::new([OK]);
    rig.ask("POST", "/v1/allocate", &and(LAB, &[("traceparent", "nonsense")])).await;
    let context = rig.workers.only_seen().context;
    assert_eq!((context.request_id.as_str(), context.traceparent), (FRESH_ID, None));
}

#[tokio::test(start_paused = true)]
async fn missing_workers_are_retried_for_a_second() {
    let rig = Rig::new([NO_RESPONDERS]);
    let answer = rig.ask("POST", "/v1/allocate", LAB).await;
    answer.assert_fault(FaultCode::NoWorkers, NO_WORKER);
    // Pauses of 100, 200 and 400 ms, and the rest of the second.
    assert_eq!(times_ms(&rig), [0, 100, 300, 700, 1_000]);
}

#[tokio::test(start_paused = true)]
async fn worker_that_appears_during_the_retries_is_used() {
    let rig = Rig::new([NO_RESPONDERS, NO_RESPONDERS, OK]);
    assert_eq!(rig.ask("POST", "/v1/allocate", LAB).await.status, 201);
    assert_eq!(times_ms(&rig), [0, 100, 300]);
}

#[tokio::test(start_paused = true)]
async fn busy_workers_are_retried_until_the_deadline() {
    let rig = Rig::new([BUSY]);
    let answer = rig.ask("POST", "/v1/allocate", LAB).await;
    answer.assert_fault(FaultCode::NoWorkers, "all workers are busy");
    // The advice is one second, and the random numbers shorten it to nothing.
    let times = times_ms(&rig);
    assert_eq!(times[..4], [0, 50, 100, 150]);
    assert_eq!(times.last(), Some(&9_000), "another attempt would have less than a second");
    let rig = Rig::new([BUSY, OK]);
    assert_eq!(rig.ask("POST", "/v1/allocate", LAB).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn busy_replies_do_not_use_the_no_responders_budget() {
    let rig = Rig::new([NO_RESPONDERS, BUSY, NO_RESPONDERS, BUSY, NO_RESPONDERS, OK]);
    assert_eq!(rig.ask("POST", "/v1/allocate", LAB).await.status, 201);
    assert_eq!(times_ms(&rig), [0, 100, 150, 550, 600, 1_100]);
}

#[tokio::test(start_paused = true)]
async fn retry_after_beyond_the_deadline_is_returned_immediately() {
    let advice = |seconds| Step::RefuseFor(FaultCode::NoWorkers, "there are too many requests", seconds);
    let rig = Rig::new([advice(11)]);
    let answer = rig.ask("POST", "/v1/allocate", LAB).await;
    assert_eq!(answer.status, 503);
    assert_eq!((answer.header("retry-after"), times_ms(&rig)), (Some("11"), vec![0]));
    let rig = Rig::new([advice(6), OK]);
    assert_eq!(rig.ask("POST", "/v1/allocate", LAB).await.status, 201);
    assert_eq!(times_ms(&rig), [0, 5_000], "the advice, less the second that it is rounded by");
}

#[tokio::test(start_paused = true)]
async fn unanswered_request_is_retried_until_the_deadline() {
    let rig = Rig::new([SILENCE]);
    let answer = rig.ask("POST", "/v1/allocate", LAB).await;
    answer.assert_fault(FaultCode::Timeout, NO_ANSWER);
    assert_eq!(times_ms(&rig), [0, 4_100, 8_300]);
    assert_eq!(patiences_ms(&rig), [4_000, 4_000, 1_700]);
}

#[tokio::test(start_paused = true)]
async fn timed_out_attempt_is_retried() {
    const LATE: Step = Step::Refuse(FaultCode::Timeout, "the deadline passed");
    let rig = Rig::new([LATE, OK]);
    assert_eq!(rig.ask("POST", "/v1/allocate", LAB).await.status, 201);
    let rig = Rig::new([LATE]);
    let answer = rig.ask("POST", "/v1/allocate", LAB).await;
    answer.assert_fault(FaultCode::Timeout, "the deadline passed");
    assert!(times_ms(&rig).len() > 2);
}

#[tokio::test(start_paused = true)]
async fn reply_to_a_retry_after_a_timeout_is_returned() {
    let rig = Rig::new([SILENCE, Step::Say(Some(Outcome::Existing), "{}")]);
    assert_eq!(rig.ask("POST", "/v1/allocate", LAB).await.status, 200);
    assert_eq!(times_ms(&rig), [0, 4_100]);
}

#[tokio::test(start_paused = true)]
async fn timeouts_follow_the_settings() {
    let settings =
        [("REQUEST_DEADLINE_MS", "1000"), ("REQUEST_ATTEMPT_MS", "300"), ("NO_RESPONDERS_PATIENCE_MS", "0")];
    let rig = Rig::with(&settings, [SILENCE]);
    rig.ask("POST", "/v1/allocate", LAB).await.assert_fault(FaultCode::Timeout, NO_ANSWER);
    assert_eq!(times_ms(&rig), [0, 400, 900]);
    assert_eq!(patiences_ms(&rig), [300, 300, 100]);
    assert_eq!(rig.workers.seen()[0].context.deadline_ms, Some(EPOCH_MS + 300));
    let rig = Rig::with(&settings, [NO_RESPONDERS]);
    rig.ask("POST", "/v1/allocate", LAB).await.assert_fault(FaultCode::NoWorkers, NO_WORKER);
    assert_eq!(times_ms(&rig), [0]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_also_ends_the_wait_for_workers() {
    let settings = [("REQUEST_DEADLINE_MS", "500"), ("NO_RESPONDERS_PATIENCE_MS", "30000")];
    let rig = Rig::with(&settings, [NO_RESPONDERS]);
    rig.ask("POST", "/v1/allocate", LAB).await.assert_fault(FaultCode::NoWorkers, NO_WORKER);
    assert_eq!(times_ms(&rig), [0, 100, 300]);
}

/// The requests that process one page.
const PAGES: [&str; 3] = [
    "/v1/admin/bulk-delete?status=stale",
    "/v1/admin/deletions/replay?all=true",
    "/v1/admin/provisions/replay?all=true",
];

#[tokio::test(start_paused = true)]
async fn bulk_request_that_may_have_started_is_not_retried() {
    let ends = [(RequestError::TimedOut, "TIMEOUT"), (RequestError::Disconnected, "UPSTREAM_UNAVAILABLE")];
    for (path, (end, code)) in PAGES.into_iter().flat_map(|path| ends.map(|end| (path, end))) {
        let rig = Rig::new([Step::Fail(end), OK]);
        let answer = rig.ask("POST", path, ADMIN).await;
        let detail = &answer.json()["detail"];
        assert_eq!(detail["code"], code, "{path}");
        assert!(detail["message"].as_str().unwrap().contains("look at what is left"), "{path}: {detail}");
        assert_eq!((detail.get("retry_after"), answer.header("retry-after")), (None, None), "{path}");
        let seen = rig.workers.only_seen();
        assert_eq!(seen.patience, Duration::from_secs(10), "{path}: one attempt has all of the time");
        assert_eq!(seen.context.deadline_ms, Some(EPOCH_MS + 10_000));
    }
}

#[tokio::test(start_paused = true)]
async fn bulk_request_that_never_started_is_retried() {
    for path in PAGES {
        let rig = Rig::new([NO_RESPONDERS, BUSY, OK]);
        assert_eq!(rig.ask("POST", path, ADMIN).await.status, 200, "{path}");
        assert_eq!(times_ms(&rig), [0, 100, 150], "{path}");
        assert_eq!(patiences_ms(&rig), [10_000, 9_900, 9_850], "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_connection_fails_immediately() {
    let rig = Rig::new([Step::Fail(RequestError::Disconnected)]);
    let answer = rig.ask("POST", "/v1/allocate", LAB).await;
    let message = "the broker cannot reach its workers; try again shortly";
    answer.assert_fault(FaultCode::UpstreamUnavailable, message);
    assert_eq!(times_ms(&rig), [0]);
}

#[tokio::test]
async fn requests_beyond_the_concurrency_limit_are_refused() {
    let rig = Arc::new(Rig::with(&[("IN_FLIGHT_MAX", "2")], [Step::Hang]));
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let rig = Arc::clone(&rig);
        stuck.push(tokio::spawn(async move { rig.ask("POST", "/v1/allocate", LAB).await }));
    }
    let wait = Duration::from_secs(10);
    tokio::time::timeout(wait, rig.workers.hanging.acquire_many(2)).await.unwrap().unwrap().forget();
    rig.workers.follow([OK]);
    let answer = rig.ask("POST", "/v1/allocate", LAB).await;
    answer.assert_fault(FaultCode::NoWorkers, "the broker is busy; try again shortly");
    // A caller that disconnects frees its slot.
    let left = stuck.pop().unwrap();
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    assert_eq!(rig.ask("POST", "/v1/allocate", LAB).await.status, 201);
}
