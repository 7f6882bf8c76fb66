//! The provider throttle: deletions keep its rate, wait during the provider's failures, and can be paused by an
//! operator.

use contract::{BreakerState, DeletionsStatus};
use domain::{SandboxId, StateName};
use futures_util::StreamExt as _;
use harness::process::run;
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::DeletionControl as _;
use reqwest::Method;
use serde_json::Value;
use simulator::{Fault, FaultKind, LogEntry, Operation};
use std::collections::BTreeMap;
use std::time::Duration;

/// Concurrent callers of a crowd's claims and releases.
const CALLERS: usize = 16;
/// Time for a crowd on a loaded machine.
const LOAD_TIMEOUT: Duration = Duration::from_secs(240);

fn status(status: u16, retry_after_seconds: Option<u64>) -> FaultKind {
    FaultKind::Status { status, message: None, retry_after_seconds, retry_after_as_date: false }
}

/// A plan whose breaker sends a probe every second.
pub(crate) fn plan(accounts: usize) -> Plan {
    Plan::new(accounts)
        .set("BREAKER_OPEN_SECONDS_MIN", 1)
        .set("BREAKER_OPEN_SECONDS_MAX", 1)
        .set("DELETIONS_PER_MINUTE_MIN", 600)
        .counts(|counts| counts.reapers = 2)
}

/// Claims and releases that many sandboxes, in the order of their owners' numbers.
async fn release(rig: &Rig, prefix: &str, count: usize) -> Vec<String> {
    let one = |number: usize| async move {
        let owner = format!("{prefix}{number}");
        let claim = rig.api.allocate(&owner).await;
        assert_eq!(claim.status, 201, "{claim:?}");
        assert_eq!(rig.api.release(claim.sandbox(), &owner).await.status, 200);
        claim.sandbox().to_owned()
    };
    futures_util::stream::iter(0..count).map(one).buffered(CALLERS).collect().await
}

async fn pause(rig: &Rig) {
    let paused = rig.api.admin(Method::POST, "/v1/admin/deletions/pause").await;
    assert_eq!((paused.status, &paused.body["status"]), (200, &Value::from("paused")), "{paused:?}");
}

async fn resume(rig: &Rig) {
    let resumed = rig.api.admin(Method::POST, "/v1/admin/deletions/resume").await;
    assert_eq!((resumed.status, &resumed.body["status"]), (200, &Value::from("running")), "{resumed:?}");
}

/// What `GET stats` says of the deletions.
async fn deletions_status(rig: &Rig) -> DeletionsStatus {
    serde_json::from_value(rig.api.stats().await["deletions"].clone())
        .expect("the status of deletions is shown")
}

async fn until_status(rig: &Rig, state: &str) -> DeletionsStatus {
    eventually(&format!("deletions to be {state}"), TIMEOUT, || async {
        let status = deletions_status(rig).await;
        if status.state.as_str() == state { Ok(status) } else { Err(status) }
    })
    .await
}

async fn until_metric(rig: &Rig, name: &str, value: f64) {
    eventually(name, TIMEOUT, || async {
        let now = rig.metric(name);
        if now == value { Ok(()) } else { Err(now) }
    })
    .await;
}

/// Releases a crowd while deletions are paused, so that all of its deletions wait at once.
async fn released_at_once(rig: &Rig, count: usize) -> Vec<String> {
    pause(rig).await;
    let crowd = release(rig, "student-", count).await;
    eventually("all announcements", LOAD_TIMEOUT, || async {
        match rig.queued().await {
            queued if queued == count as u64 => Ok(()),
            queued => Err(queued),
        }
    })
    .await;
    crowd
}

/// Waits until all of them are deleted; returns the number of counted attempts.
async fn until_all_deleted(rig: &Rig, crowd: &[String]) -> u32 {
    eventually("an empty queue", LOAD_TIMEOUT, || async {
        match rig.queued().await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    let mut attempts = 0;
    for id in crowd {
        let sandbox = rig.until_state(id, StateName::Deleted).await;
        assert!(!rig.csp.exists(&sandbox.external_id), "{id}");
        attempts += sandbox.deletion().expect("a deletion").attempts;
    }
    assert_eq!(rig.parked_count().await, 0);
    attempts
}

/// The deletes that reached the provider, in the order of their arrival.
fn deletes(rig: &Rig) -> Vec<LogEntry> {
    let log = rig.csp.log().into_iter();
    let mut calls: Vec<_> = log.filter(|call| call.operation == Operation::Delete).collect();
    calls.sort_by_key(|call| call.at_ms);
    calls
}

/// Slots are apart by more than a minute's share; a call may begin up to one second after its slot.
fn assert_never_over(calls: &[LogEntry], per_minute: u64) {
    for (index, first) in calls.iter().enumerate() {
        for (further, call) in calls.iter().enumerate().skip(index + 1) {
            let least_ms = ((further - index) as u64 * 61_200 / per_minute).saturating_sub(1_500);
            assert!(call.at_ms - first.at_ms >= least_ms, "calls {index} to {further}");
        }
    }
}

#[tokio::test]
async fn five_hundred_deletions_never_exceed_the_rate_limit() {
    const PER_MINUTE: u64 = 1_500;
    let rig = plan(500).set("DELETIONS_PER_MINUTE", PER_MINUTE).start().await;
    let crowd = released_at_once(&rig, 500).await;
    resume(&rig).await;
    assert_eq!(until_all_deleted(&rig, &crowd).await, 0);
    let calls = deletes(&rig);
    assert_eq!(calls.len(), 500, "each was ordered once");
    assert_never_over(&calls, PER_MINUTE);
    let took_ms = calls[499].at_ms - calls[0].at_ms;
    // A measurement and no assertion: two busy cores miss slots, and missed slots are lost.
    println!("{} % of the limit", 500 * 60_000 * 100 / (took_ms * PER_MINUTE));
    assert_eq!(deletions_status(&rig).await.rate_per_minute, PER_MINUTE);
    rig.stop().await;
}

#[tokio::test]
async fn occasional_failures_lose_and_park_nothing() {
    const COUNT: usize = 500;
    let rig =
        plan(COUNT).set("DELETIONS_PER_MINUTE", 6_000).set("DELETIONS_PER_MINUTE_MIN", 2_000).start().await;
    let crowd = released_at_once(&rig, COUNT).await;
    let often = Fault { probability: Some(0.14), ..Fault::always(status(500, None)) };
    rig.csp.fail(Operation::Delete, often).unwrap();
    resume(&rig).await;
    let attempts = until_all_deleted(&rig, &crowd).await;
    let calls = deletes(&rig);
    let failed = calls.iter().filter(|call| call.status == Some(500)).count();
    assert!(attempts > 0 && attempts as usize <= failed, "{attempts} counted of {failed}");
    println!(
        "{COUNT} deleted by {} calls; {failed} failed, {attempts} of them counted as attempts",
        calls.len()
    );
    assert_eq!(calls.len(), COUNT + failed);
    assert_never_over(&calls, 6_000);
    rig.stop().await;
}

#[tokio::test]
async fn long_outage_parks_nothing_and_is_visible() {
    const ATTEMPTS_MAX: u32 = 3;
    let rig = plan(60).set("DELETION_ATTEMPTS_MAX", ATTEMPTS_MAX).start().await;
    let crowd = released_at_once(&rig, 60).await;
    rig.csp.fail(Operation::Delete, Fault::always(status(500, None))).unwrap();
    resume(&rig).await;
    // One probe each second; if the probes counted as attempts, a deletion would have been parked long before.
    eventually("many tries", TIMEOUT, || async {
        match deletes(&rig).len() {
            calls if calls >= 20 => Ok(()),
            calls => Err(calls),
        }
    })
    .await;
    let broken = deletions_status(&rig).await;
    assert_ne!(broken.breaker.state, BreakerState::Closed.into(), "{broken:?}");
    assert!(broken.rate_per_minute < broken.rate_per_minute_max, "{broken:?}");
    until_metric(&rig, "broker_breaker_open", 1.0).await;
    rig.csp.clear_faults();
    until_all_deleted(&rig, &crowd).await;
    for id in &crowd {
        let attempts = rig.sandbox(id).await.unwrap().deletion().unwrap().attempts;
        assert!(attempts < ATTEMPTS_MAX, "{id}: {attempts}");
    }
    assert_eq!(until_status(&rig, "running").await.breaker.failures, 0);
    rig.stop().await;
}

#[tokio::test]
async fn retry_after_stops_every_reaper() {
    const HOLD_MS: u64 = 30_000;
    // Calls that were permitted before the answer may still arrive.
    const UNDER_WAY_MS: u64 = 1_500;
    let rig = plan(60).set("DELETIONS_PER_MINUTE", 1_200).start().await;
    let crowd = released_at_once(&rig, 60).await;
    let later = status(429, Some(HOLD_MS / 1_000));
    rig.csp.fail(Operation::Delete, Fault::next(1, later)).unwrap();
    resume(&rig).await;
    assert!(until_status(&rig, "held").await.held_until.is_some());
    assert_eq!(until_all_deleted(&rig, &crowd).await, 0, "no attempt counts");
    let calls = deletes(&rig);
    let refused = calls.iter().find(|call| call.status == Some(429)).expect("a refusal");
    let refused_ms = refused.at_ms + refused.took_ms;
    let kept_away = refused_ms + UNDER_WAY_MS..refused_ms + HOLD_MS;
    let early: Vec<_> = calls.iter().filter(|call| kept_away.contains(&call.at_ms)).collect();
    assert!(early.is_empty(), "refused at {refused_ms}: {early:?}");
    assert!(calls.iter().any(|call| call.at_ms >= kept_away.end), "there was work left for then");
    rig.stop().await;
}

#[tokio::test]
async fn refused_credentials_stop_deletions_until_fixed() {
    let rig = plan(20).set("DELETION_ATTEMPTS_MAX", 1).start().await;
    let crowd = released_at_once(&rig, 20).await;
    rig.csp.fail(Operation::Delete, Fault::always(status(401, None))).unwrap();
    resume(&rig).await;
    let stopped = until_status(&rig, "unauthorized").await;
    assert!(stopped.breaker.reason.is_some(), "{stopped:?}");
    eventually("further tries", TIMEOUT, || async {
        match deletes(&rig).len() {
            calls if calls >= 12 => Ok(()),
            calls => Err(calls),
        }
    })
    .await;
    rig.csp.clear_faults();
    assert_eq!(until_all_deleted(&rig, &crowd).await, 0);
    assert_eq!(until_status(&rig, "running").await.breaker.reason, None);
    rig.stop().await;
}

#[tokio::test]
async fn pause_survives_a_restart_and_ends_by_resume_or_expiry() {
    let mut rig = plan(20).start().await;
    let crowd = released_at_once(&rig, 5).await;
    until_metric(&rig, "broker_deletions_paused", 1.0).await;
    rig.stop_fleet().await.expect("the fleet ends in order");
    rig.start_again().await;
    eventually("the fleet to be back", TIMEOUT, || async {
        let stats = rig.api.admin(Method::GET, "/v1/admin/stats").await;
        if stats.status == 200 { Ok(()) } else { Err(stats) }
    })
    .await;
    assert_eq!(until_status(&rig, "paused").await.paused.expect("a pause").until, None);
    // Deliveries of a fetch from before the pause are returned to the queue.
    eventually("all work to wait", TIMEOUT, || async {
        let status = deletions_status(&rig).await;
        if status.pools["main"].waiting == 5 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(rig.deletes_at_csp(), 0);
    resume(&rig).await;
    until_all_deleted(&rig, &crowd).await;

    let cli = |arguments: &'static [&'static str]| {
        let variables: BTreeMap<String, String> = rig.env.clone();
        async move {
            let variables: Vec<_> =
                variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let output = run(arguments, &variables).await;
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
            printed
        }
    };
    let paused = cli(&["deletions", "pause", "--until-seconds", "3600", "--reason", "maintenance"]).await;
    assert!(paused.contains("maintenance") && paused.contains("broker cli"), "{paused}");
    let later = release(&rig, "later-", 3).await;
    let status: DeletionsStatus =
        serde_json::from_str(&cli(&["deletions", "status", "--json"]).await).unwrap();
    assert_eq!((status.state.as_str(), status.paused.unwrap().by.as_str()), ("paused", "broker cli"));
    assert_eq!(rig.deletes_at_csp(), 5);
    rig.clock.advance(Duration::from_secs(3_600));
    until_all_deleted(&rig, &later).await;
    // By the machine's own clock the pause has not ended.
    assert!(cli(&["deletions", "resume"]).await.starts_with("resumed"));
    assert!(cli(&["deletions", "resume"]).await.contains("were not paused"));
    rig.stop().await;
}

#[tokio::test]
async fn pause_survives_the_loss_of_all_nats_data() {
    let rig = plan(20).start().await;
    let crowd = released_at_once(&rig, 5).await;
    let bucket = format!("KV_{}", rig.bus.subjects().bucket());
    let jetstream = rig.jetstream().await;
    let deletions = rig.bus.subjects().deletions_stream();
    // The loss of the bucket alone, and then of all that the server stored about deletions.
    for lost in [vec![bucket.clone()], vec![bucket, deletions]] {
        for stream in &lost {
            jetstream.delete_stream(stream).await.expect("the stream is there");
        }
        rig.sweep().await;
        let status = until_status(&rig, "paused").await;
        assert_eq!(status.paused.expect("a pause").by, "admin");
        eventually("the work to be back", TIMEOUT, || async {
            match rig.queued().await {
                5 => Ok(()),
                queued => Err(queued),
            }
        })
        .await;
        until_metric(&rig, "broker_deletions_paused", 1.0).await;
    }
    assert_eq!(rig.deletes_at_csp(), 0);
    resume(&rig).await;
    until_all_deleted(&rig, &crowd).await;
    assert_eq!(until_status(&rig, "running").await.paused, None);
    rig.stop().await;
}

#[tokio::test]
async fn reapers_restore_a_lost_pause_without_a_sweep() {
    let rig = plan(20).set("NATS_CHECK_SECONDS", 1).start().await;
    let crowd = released_at_once(&rig, 5).await;
    let bucket = format!("KV_{}", rig.bus.subjects().bucket());
    rig.jetstream().await.delete_stream(&bucket).await.expect("the bucket is there");
    eventually("the bucket and the pause", TIMEOUT, || async {
        match rig.bus.status().await {
            Ok(status) if status.paused.is_some() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(rig.deletes_at_csp(), 0);
    resume(&rig).await;
    until_all_deleted(&rig, &crowd).await;
    rig.stop().await;
}

#[tokio::test]
async fn manual_pause_is_adopted_into_the_table() {
    let rig = plan(3).start().await;
    let by_hand = contract::Pause { by: "by hand".to_owned(), ..Default::default() };
    rig.bus.pause(&by_hand).await.unwrap();
    assert_eq!(rig.sweep().await.status.as_str(), "completed");
    let kept = rig.store.deletion_switch().await.unwrap().expect("a turn");
    assert_eq!((kept.is_paused, kept.by.as_str()), (true, "by hand"));
    resume(&rig).await;
    let kept = rig.store.deletion_switch().await.unwrap().expect("a turn");
    assert_eq!((kept.is_paused, kept.by.as_str()), (false, "admin"));
    assert_eq!(rig.sweep().await.status.as_str(), "completed");
    assert_eq!(until_status(&rig, "running").await.paused, None);
    rig.stop().await;
}

#[tokio::test]
async fn a_paused_consumer_stops_its_pool_and_is_visible() {
    let rig = plan(20).start().await;
    rig.pause_deletions().await;
    let crowd = release(&rig, "student-", 3).await;
    let seen = eventually("the work to be seen waiting", TIMEOUT, || async {
        let status = deletions_status(&rig).await;
        if status.pools["main"].waiting == 3 { Ok(status) } else { Err(status) }
    })
    .await;
    assert!(seen.consumer_paused_until.is_some() && seen.paused.is_none(), "{seen:?}");
    assert_eq!(seen.pools["main"].consumer_paused_until, seen.consumer_paused_until);
    assert_eq!(rig.deletes_at_csp(), 0);
    rig.resume_consumer().await;
    until_all_deleted(&rig, &crowd).await;
    assert_eq!(deletions_status(&rig).await.consumer_paused_until, None);
    rig.stop().await;
}

#[tokio::test]
async fn small_pool_does_not_wait_for_a_busy_one() {
    let rig = plan(0).set("POOLS", "few=few-,main").set("DELETIONS_PER_MINUTE", 1_200).start_unsynced().await;
    rig.csp.add_accounts(205, None).unwrap();
    let few_prefix = domain::NamePrefix::parse("few-").unwrap();
    rig.csp.add_accounts(5, Some(&few_prefix)).unwrap();
    eventually("a full pool", TIMEOUT, || async {
        rig.sync().await;
        match rig.count(StateName::Available).await {
            210 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    pause(&rig).await;
    let crowd = release(&rig, "student-", 200).await;
    let mut few = Vec::new();
    for number in 0..5 {
        let owner = format!("other-{number}");
        let claim = rig.api.allocate_with(&owner, &[("X-Sandbox-Pool", "few")]).await;
        assert_eq!(claim.status, 201, "{claim:?}");
        assert_eq!(rig.api.release(claim.sandbox(), &owner).await.status, 200);
        few.push(claim.sandbox().to_owned());
    }
    eventually("all announcements", TIMEOUT, || async {
        match rig.queued().await {
            205 => Ok(()),
            queued => Err(queued),
        }
    })
    .await;
    resume(&rig).await;
    until_all_deleted(&rig, &crowd).await;
    let mut uuids = Vec::new();
    for id in &few {
        let id = SandboxId::parse(id).unwrap();
        uuids.push(rig.store.sandbox(&id).await.unwrap().unwrap().external_id.bare().to_owned());
    }
    let calls = deletes(&rig);
    let is_few = |call: &LogEntry| call.account.as_ref().is_some_and(|account| uuids.contains(account));
    let last = calls.iter().rposition(is_few).expect("the few were deleted");
    assert!(last < 100, "the last of the few was call {last} of {}", calls.len());
    rig.stop().await;
}
