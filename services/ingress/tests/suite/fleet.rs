//! The workers of the fleet, over HTTP.

use crate::support::{ADMIN, Rig};
use contract::{FaultCode, WorkerRole};
use ports::bus::{Discovery as _, ServiceInfo, WorkCounts};
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const QUEUE_DOWN: &str = "the message queue is unavailable; try again shortly";

struct Reaper;

impl ServiceInfo for Reaper {
    fn role(&self) -> WorkerRole {
        WorkerRole::Reaper
    }

    fn in_flight(&self) -> Option<u64> {
        Some(2)
    }

    fn total(&self) -> WorkCounts {
        WorkCounts::of(7, 1)
    }

    fn further(&self) -> Vec<(String, u64)> {
        vec![("deleted".to_owned(), 6)]
    }
}

#[tokio::test(start_paused = true)]
async fn every_worker_is_listed_and_every_role_counted() {
    let rig = Rig::new([]);
    let (bus, stop) = (Arc::clone(&rig.bus), CancellationToken::new());
    let answering = tokio::spawn({
        let stop = stop.clone();
        async move { bus.answer_discovery(Arc::new(Reaper), stop).await }
    });
    tokio::task::yield_now().await;
    let answer = rig.ask("GET", "/v1/admin/fleet", ADMIN).await;
    assert_eq!(answer.status.as_u16(), 200);
    let expected = json!({
        "roles": {"ingress": 0, "allocator": 0, "registry": 0, "reaper": 1, "runner": 0, "reconciler": 0, "scheduler": 0},
        "workers": [{
            "role": "reaper", "id": "fresh-1", "version": env!("CARGO_PKG_VERSION"), "started_at": 1_800_000_000,
            "in_flight": 2, "work": {"work": {"requests": 7, "errors": 1, "mean_us": 0, "last_error": null}},
            "numbers": {"deleted": 6},
        }],
        "drift": {},
    });
    assert_eq!(answer.json(), expected);
    stop.cancel();
    answering.await.unwrap().unwrap();
    // A working bus has at least one answer, so no answer means that the bus is unavailable.
    let silence = rig.ask("GET", "/v1/admin/fleet", ADMIN).await;
    silence.assert_fault(FaultCode::UpstreamUnavailable, QUEUE_DOWN);
}

#[tokio::test(start_paused = true)]
async fn fleet_is_unavailable_without_nats() {
    let rig = Rig::new([]);
    rig.bus.set_connected(false);
    let refused = rig.ask("GET", "/v1/admin/fleet", ADMIN).await;
    refused.assert_fault(FaultCode::UpstreamUnavailable, QUEUE_DOWN);
}
