//! Deletions: requested once, carried out once, never lost.

use async_nats::jetstream::{self, consumer};
use contract::{DeletionWork, TickKind};
use domain::{PoolName, SandboxId, State, StateName};
use futures_util::StreamExt as _;
use harness::rig::Plan;
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{Announced, Deletions as _};
use simulator::{Fault, FaultKind, Latency, Operation};
use std::time::Duration;

#[tokio::test]
async fn release_leaves_a_tombstone_that_survives_a_late_listing() {
    let rig = Plan::new(6).start().await;
    rig.csp
        .set_faults(simulator::Faults {
            list_shows_deleted_for_ms: 3_600_000,
            ..simulator::Faults::default()
        })
        .unwrap();
    let claim = rig.api.allocate("student-1").await;
    let first = rig.api.release(claim.sandbox(), "student-1").await;
    assert_eq!((first.status, &first.body["status"]), (200, &serde_json::json!("pending_deletion")));
    assert_eq!(first.body["sandbox_id"], claim.body["sandbox_id"]);
    let second = rig.api.release(claim.sandbox(), "student-1").await;
    assert_eq!((second.status, &second.body), (200, &first.body), "a repeat shows the same answer");

    let gone = rig.until_state(claim.sandbox(), StateName::Deleted).await;
    assert!(!rig.csp.exists(&gone.external_id));
    assert_eq!(rig.deletes_at_csp(), 1);
    let third = rig.api.release(claim.sandbox(), "student-1").await;
    assert_eq!((third.status, &third.body), (200, &first.body), "even after it is gone");

    let report = rig.sync().await;
    assert_eq!((report.tombstoned, report.inserted), (1, 0), "{report:?}");
    assert_eq!(rig.count(StateName::Available).await, 5);
    let steps: Vec<_> = gone.history.iter().map(|entry| entry.state.as_str()).collect();
    assert_eq!(steps, ["available", "allocated", "pending_deletion", "deleted"]);
    let versions: Vec<_> = gone.history.iter().map(|entry| entry.version.get()).collect();
    assert_eq!(versions, [1, 2, 3, 4]);
    rig.stop().await;
}

#[tokio::test]
async fn failed_attempt_is_counted_and_retried() {
    let rig = Plan::new(6).start().await;
    rig.csp.fail(Operation::Delete, Fault::next(2, FaultKind::status(500))).unwrap();
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    let gone = rig.until_state(claim.sandbox(), StateName::Deleted).await;
    let deletion = gone.deletion().unwrap();
    assert_eq!(deletion.attempts, 2);
    assert!(deletion.last_error.as_ref().unwrap().contains("500"), "{deletion:?}");
    rig.stop().await;
}

#[tokio::test]
async fn unknown_outcome_is_settled_by_the_next_attempt() {
    let rig = Plan::new(6).set("CSP_READ_TIMEOUT_SECONDS", 1).start().await;
    rig.csp.fail(Operation::Delete, Fault::next(1, FaultKind::DeleteThenHang)).unwrap();
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    let gone = rig.until_state(claim.sandbox(), StateName::Deleted).await;
    assert!(gone.deletion().unwrap().last_error.as_ref().unwrap().contains("unknown"));
    rig.stop().await;
}

#[tokio::test]
async fn exhausted_deletion_is_parked_with_its_reason() {
    let rig = Plan::new(6).set("DELETION_ATTEMPTS_MAX", 2).start().await;
    rig.csp.fail(Operation::Delete, Fault::always(FaultKind::status(500))).unwrap();
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    let parked = rig.until_state(claim.sandbox(), StateName::DeletionFailed).await;
    assert_eq!(parked.deletion().unwrap().attempts, 2);
    let kept = rig.parked(claim.sandbox()).await.expect("a copy is parked");
    assert_eq!((kept.attempts, kept.work.sandbox_id.as_str()), (2, claim.sandbox()));
    assert!(kept.reason.contains("500"), "{kept:?}");
    eventually("an empty queue", TIMEOUT, || async {
        match rig.queued().await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    assert_eq!(rig.deletes_at_csp(), 2, "no attempt after the last one");
    rig.stop().await;
}

#[tokio::test]
async fn refused_credentials_cost_no_attempt() {
    let rig = Plan::new(6).set("DELETION_ATTEMPTS_MAX", 1).start().await;
    rig.csp.fail(Operation::Delete, Fault::always(FaultKind::status(401))).unwrap();
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    eventually("a refused call", TIMEOUT, || async {
        match rig.deletes_at_csp() {
            0 => Err(0),
            calls => Ok(calls),
        }
    })
    .await;
    // The retry is scheduled, one minute ahead.
    eventually("a scheduled retry", TIMEOUT, || async {
        match rig.retries_scheduled().await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let waiting = rig.sandbox(claim.sandbox()).await.unwrap();
    assert_eq!(waiting.state.name(), StateName::PendingDeletion);
    assert_eq!(waiting.deletion().unwrap().attempts, 0);
    rig.stop().await;
}

#[tokio::test]
async fn the_sweep_announces_a_deletion_whose_message_was_lost() {
    let rig = Plan::new(6).counts(|counts| counts.reapers = 0).start().await;
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    eventually("the announcement", TIMEOUT, || async {
        match rig.queued().await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let report = rig.sweep().await;
    assert_eq!((report.pending, report.waiting, report.reannounced), (1, 1, 0), "nothing was lost yet");
    rig.purge_deletions().await;
    let report = rig.sweep().await;
    assert_eq!((report.pending, report.waiting, report.reannounced), (1, 0, 1));
    assert_eq!(rig.queued().await, 1);
    rig.stop().await;
}

#[tokio::test]
async fn work_of_an_old_epoch_or_available_sandbox_does_nothing() {
    let rig = Plan::new(6).start().await;
    let claim = rig.api.allocate("student-1").await;
    let held = rig.sandbox(claim.sandbox()).await.unwrap();
    let forged = |id: &SandboxId, epoch: u64| DeletionWork {
        version: 1,
        sandbox_id: id.to_string(),
        pool: held.pool.to_string(),
        epoch,
        requested_at: 1,
        external_id: None,
    };
    let free =
        rig.csp.accounts().iter().find(|one| one.csp_id.to_string() != claim.sandbox()).unwrap().csp_id;
    let free = SandboxId::parse(&free.to_string()).unwrap();
    for work in [
        forged(&held.id, 1),
        forged(&held.id, 0),
        forged(&free, 0),
        forged(&SandboxId::parse("4711").unwrap(), 1),
    ] {
        assert_eq!(rig.bus.announce(&work).await.unwrap(), Announced::Queued);
        eventually("the queue to be empty", TIMEOUT, || async {
            match rig.queued().await {
                0 => Ok(()),
                left => Err(left),
            }
        })
        .await;
    }
    assert_eq!(rig.deletes_at_csp(), 0);
    assert!(matches!(rig.sandbox(claim.sandbox()).await.unwrap().state, State::Allocated(_)));
    rig.stop().await;
}

#[tokio::test]
async fn slow_deletion_is_kept_alive_and_called_once() {
    // Longer than the acknowledgement wait of 3 s.
    let rig = Plan::new(6).counts(|counts| counts.reapers = 2).start().await;
    rig.csp.slow_down(Operation::Delete, Latency::Fixed(5_000)).unwrap();
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    rig.until_state(claim.sandbox(), StateName::Deleted).await;
    assert_eq!(rig.deletes_at_csp(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn deletions_respect_the_rate_and_the_in_flight_limit() {
    let rig = Plan::new(30)
        .set("DELETIONS_PER_MINUTE", 600)
        .set("DELETIONS_IN_FLIGHT_MAX", 3)
        .counts(|counts| counts.reapers = 2)
        .start()
        .await;
    rig.csp.slow_down(Operation::Delete, Latency::Fixed(500)).unwrap();
    let mut released = Vec::new();
    for number in 0..20 {
        let owner = format!("student-{number}");
        let claim = rig.api.allocate(&owner).await;
        rig.api.release(claim.sandbox(), &owner).await;
        released.push(claim.sandbox().to_owned());
    }
    for id in &released {
        rig.until_state(id, StateName::Deleted).await;
    }
    let calls: Vec<_> =
        rig.csp.log().into_iter().filter(|call| call.operation == Operation::Delete).collect();
    assert_eq!(calls.len(), 20);
    assert!(calls.iter().all(|call| call.in_flight <= 3), "{calls:?}");
    let mut starts: Vec<u64> = calls.iter().map(|call| call.at_ms - call.took_ms).collect();
    starts.sort_unstable();
    // One slot each 100 ms; between the first and the last call are at least 19 slots, minus the jitter of one call.
    assert!(starts[19] - starts[0] >= 18 * 100, "{starts:?}");
    rig.stop().await;
}

#[tokio::test]
async fn undecodable_message_is_parked() {
    let rig = Plan::new(3).start().await;
    rig.publish_raw_deletion("main", "77", "this is no deletion").await;
    rig.publish_raw_deletion(
        "main",
        "78",
        r#"{"version":99,"sandbox_id":"78","pool":"main","epoch":1,"requested_at":1}"#,
    )
    .await;
    eventually("both set aside", TIMEOUT, || async {
        match (rig.queued().await, rig.parked_count().await) {
            (0, 2) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(rig.deletes_at_csp(), 0);
    rig.stop().await;
}

#[tokio::test]
async fn expired_lease_is_deleted() {
    let rig = Plan::new(6).start().await;
    let late = rig.api.allocate("student-1").await;
    rig.clock.advance(std::time::Duration::from_secs(3_600));
    let later = rig.api.allocate("student-2").await;
    // 4 h and 29 min after the first claim: the lease has ended, but the grace period has not.
    rig.clock.advance(std::time::Duration::from_secs(3 * 3_600 + 29 * 60));
    rig.run(TickKind::EXPIRY).await;
    assert_eq!(rig.count(StateName::Allocated).await, 2);
    let again = rig.api.allocate("student-1").await;
    assert_eq!((again.status, again.sandbox()), (200, late.sandbox()));
    rig.clock.advance(std::time::Duration::from_secs(2 * 60));
    let report = rig.run(TickKind::EXPIRY).await.report;
    let contract::Report::Expiry(report) = report else { panic!("{report:?}") };
    assert_eq!((report.status.as_str(), report.due, report.expired), ("completed", 1, 1));
    let gone = rig.until_state(late.sandbox(), StateName::Deleted).await;
    assert_eq!(gone.deletion().unwrap().cause, domain::DeletionCause::Expired);
    assert_eq!(rig.count(StateName::Allocated).await, 1);
    let released = rig.api.release(late.sandbox(), "student-1").await;
    assert_eq!(released.status, 200, "the caller got what it wanted: {released:?}");
    let fresh = rig.api.allocate("student-1").await;
    assert_eq!(fresh.status, 201);
    assert_ne!(fresh.sandbox(), later.sandbox());
    rig.stop().await;
}

#[tokio::test]
async fn claim_after_lease_end_needs_no_expiry_tick() {
    let rig = Plan::new(6).start().await;
    let first = rig.api.allocate("student-1").await;
    rig.clock.advance(std::time::Duration::from_secs(5 * 3_600));
    let second = rig.api.allocate("student-1").await;
    assert_eq!(second.status, 201);
    assert_ne!(first.sandbox(), second.sandbox());
    rig.until_state(first.sandbox(), StateName::Deleted).await;
    rig.stop().await;
}

#[tokio::test]
async fn deletion_abandoned_by_the_consumer_is_reannounced() {
    let rig = Plan::new(1).set("NATS_CHECK_SECONDS", 3_600).counts(|counts| counts.reapers = 0).start().await;
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    let pool = PoolName::parse("main").unwrap();
    eventually("the message", TIMEOUT, || async {
        rig.bus.open_pool(&pool).await.unwrap();
        match rig.queued().await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    // As an operator edits a consumer; then a worker takes the message and never answers.
    let streams = jetstream::new(harness::servers::nats_client(&rig.env["NATS_URL"]).await);
    let stream = streams.get_stream(rig.bus.subjects().deletions_stream()).await.unwrap();
    let name = rig.bus.subjects().reaper_consumer(&pool);
    let edited = stream.consumer_info(&name).await.unwrap().config;
    let edited = consumer::Config { max_deliver: 1, ack_wait: Duration::from_millis(100), ..edited };
    stream.create_consumer(edited).await.unwrap();
    let workers = stream.get_consumer::<consumer::pull::Config>(&name).await.unwrap();
    let next = async || workers.fetch().max_messages(1).messages().await.unwrap().next().await;
    next().await.expect("a delivery").unwrap();
    eventually("the queue to give up", TIMEOUT, || async {
        assert!(next().await.is_none(), "it is not delivered again");
        let info = stream.consumer_info(&name).await.unwrap();
        if info.num_ack_pending == 0 { Ok(()) } else { Err(info) }
    })
    .await;
    let report = rig.sweep().await;
    assert_eq!((report.unqueued, report.reannounced), (1, 1), "{report:?}");
    let again = eventually("the new message", TIMEOUT, || async { next().await.ok_or("nothing") }).await;
    assert_eq!(again.unwrap().info().unwrap().delivered, 1);
    rig.stop().await;
}
