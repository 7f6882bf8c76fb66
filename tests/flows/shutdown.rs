//! An orderly stop: no accepted work is lost, when one worker stops or when the fleet ends.

use async_trait::async_trait;
use bytes::Bytes;
use contract::{Verb, WorkerRole};
use domain::StateName;
use harness::rig::Plan;
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{Answer, Context, Handler, Request, Requests as _, Serve as _};
use simulator::{Fault, FaultKind, Operation};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Requests in flight while workers leave.
const CALLERS: usize = 64;
/// How often a worker stops.
const LEAVES: usize = 20;
/// The timeout of a request; no caller retries here, so a lost request shows as a timeout.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers after a short time, as a claim does.
struct Slow;

#[async_trait]
impl Handler for Slow {
    async fn handle(&self, _request: Request) -> Answer {
        harness::wait::moment(Duration::from_millis(2)).await;
        Answer { outcome: None, body: Ok(Bytes::from_static(b"{}")) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_worker_loses_no_request() {
    let plan = Plan::new(1).counts(|counts| counts.allocators = 0);
    let rig = plan.start_unsynced().await;
    let serve = |bus: nats::NatsBus, stop: CancellationToken| {
        tokio::spawn(async move { bus.serve(WorkerRole::Allocator, Arc::new(Slow), 1_024, stop).await })
    };
    let stays = CancellationToken::new();
    let staying = serve(rig.another_bus().await, stays.clone());
    let context = Context {
        request_id: "r".to_owned(),
        deadline_ms: None,
        traceparent: None,
        idempotency_key: None,
        attempt: None,
        principal: contract::Principal::default(),
    };
    eventually("a worker that answers", TIMEOUT, || async {
        rig.bus.request(Verb::Get, &context, Bytes::new(), REQUEST_TIMEOUT).await
    })
    .await;

    let (done, answered, lost) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (bus, context) = (rig.bus.clone(), context.clone());
            let (done, answered, lost) = (Arc::clone(&done), Arc::clone(&answered), Arc::clone(&lost));
            tokio::spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    let reply = bus.request(Verb::Get, &context, Bytes::new(), REQUEST_TIMEOUT).await;
                    let count = if reply.is_ok_and(|reply| !reply.is_fault) { &answered } else { &lost };
                    count.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..LEAVES {
        let before = answered.load(Ordering::SeqCst);
        let bus = rig.another_bus().await;
        let leaves = CancellationToken::new();
        let leaving = serve(bus.clone(), leaves.clone());
        eventually("some load", TIMEOUT, || async {
            let now = answered.load(Ordering::SeqCst);
            if now > before + 2 * CALLERS { Ok(()) } else { Err(now) }
        })
        .await;
        leaves.cancel();
        leaving.await.unwrap().unwrap();
        bus.close().await;
    }
    done.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    stays.cancel();
    staying.await.unwrap().unwrap();
    assert_eq!(lost.load(Ordering::SeqCst), 0, "of {}", answered.load(Ordering::SeqCst));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_fleet_answers_accepted_requests() {
    let mut rig = Plan::new(100).start().await;
    let callers: Vec<_> = (0..100)
        .map(|number| {
            let api = rig.api.clone();
            tokio::spawn(async move {
                let request = api
                    .client
                    .post(format!("{}/v1/allocate", api.root))
                    .bearer_auth(&api.lab_token)
                    .header("X-Instruqt-Sandbox-ID", format!("student-{number}"));
                request.send().await
            })
        })
        .collect();
    eventually("some claims", TIMEOUT, || async {
        let families = rig.registry.gather();
        let answered = families
            .iter()
            .filter(|family| family.name() == "broker_allocator_requests_total")
            .flat_map(prometheus::proto::MetricFamily::get_metric)
            .map(|metric| metric.get_counter().get_value())
            .sum::<f64>();
        if answered >= 5.0 { Ok(()) } else { Err(answered) }
    })
    .await;
    rig.stop_fleet().await.unwrap();
    let mut claimed = 0;
    for caller in callers {
        match caller.await.unwrap() {
            Ok(answer) => {
                let status = answer.status().as_u16();
                assert!(matches!(status, 201 | 503), "{status}");
                claimed += usize::from(status == 201);
            }
            // Not accepted: the caller knows that nothing happened.
            Err(error) => assert!(error.is_connect(), "an accepted request was dropped: {error:?}"),
        }
    }
    rig.start_again().await;
    let allocated = eventually("the fleet to answer again", TIMEOUT, || async {
        let stats = rig.api.admin(reqwest::Method::GET, "/v1/admin/stats").await;
        stats.body["allocated"].as_u64().ok_or(stats)
    })
    .await;
    assert_eq!(allocated, claimed as u64, "all holders of a sandbox got an answer");
    rig.stop().await;
}

#[tokio::test]
async fn interrupted_deletion_is_finished_by_the_next_fleet() {
    let mut rig = Plan::new(5).set("STOP_GRACE_SECONDS", 3).start().await;
    rig.csp.fail(Operation::Delete, Fault::next(1, FaultKind::Hang)).unwrap();
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    eventually("the deletion to be under way", TIMEOUT, || async {
        let faults = rig.csp.faults();
        let waiting = faults
            .operations
            .get(&Operation::Delete)
            .is_some_and(|delete| delete.faults.iter().any(|fault| fault.next.is_none_or(|next| next > 0)));
        if waiting { Err(faults) } else { Ok(()) }
    })
    .await;
    rig.stop_fleet().await.unwrap();
    assert_eq!(rig.sandbox(claim.sandbox()).await.unwrap().state.name(), StateName::PendingDeletion);
    rig.start_again().await;
    rig.until_state(claim.sandbox(), StateName::Deleted).await;
    rig.stop().await;
}
