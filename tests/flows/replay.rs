//! Deletions that were parked or lost, and replayed: by an operator, by the sweep, over both transports.

use domain::StateName;
use futures_util::{StreamExt as _, stream};
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use simulator::{Fault, FaultKind, Operation};
use std::time::Duration;

/// Time for many deletions on a busy machine.
const LONG: Duration = Duration::from_secs(300);

/// A failure that counts against each account alone; if all accounts failed, the breaker would open and nothing would
/// be parked.
fn refused() -> Fault {
    let kind = FaultKind::status(409);
    Fault::always(kind)
}

/// Claims and releases so many sandboxes.
async fn release(rig: &Rig, count: usize) -> Vec<String> {
    let one = |number: usize| async move {
        let owner = format!("student-{number}");
        let claim = rig.api.allocate(&owner).await;
        assert_eq!(claim.status, 201, "{claim:?}");
        rig.api.release(claim.sandbox(), &owner).await;
        claim.sandbox().to_owned()
    };
    stream::iter(0..count).map(one).buffered(8).collect().await
}

async fn until_parked(rig: &Rig, count: usize) {
    // The queue first: reading it is cheap, and a count of the table reads a whole index.
    eventually(&format!("{count} parked"), LONG, || async {
        match (rig.parked_count().await, rig.queued().await) {
            (parked, 0) if parked >= count as u64 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(rig.count(StateName::DeletionFailed).await, count);
}

/// Waits until no deletion is requested or queued.
async fn until_done(rig: &Rig) {
    eventually("an empty queue", LONG, || async {
        match rig.queued().await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    eventually("every deletion to be done", LONG, || async {
        let stats = rig.api.stats().await;
        let open = (stats["pending_deletion"].clone(), stats["deletion_failed"].clone(), rig.queued().await);
        if open == (json!(0), json!(0), 0) { Ok(()) } else { Err(open) }
    })
    .await;
}

#[tokio::test]
async fn parked_deletion_is_replayed_over_http() {
    let rig = Plan::new(4).set("DELETION_ATTEMPTS_MAX", 1).start().await;
    rig.csp.fail(Operation::Delete, refused()).unwrap();
    let id = release(&rig, 1).await.remove(0);
    until_parked(&rig, 1).await;
    let listed = rig.api.admin(Method::GET, "/v1/admin/deletions/parked").await;
    assert_eq!((listed.status, &listed.body["count"]), (200, &json!(1)));
    let one = &listed.body["parked"][0];
    assert_eq!((&one["key"], &one["pool"], &one["attempts"]), (&json!(id), &json!("main"), &json!(1)));
    assert!(one["reason"].as_str().unwrap().contains("409") && one["parked_at"].is_u64(), "{one}");
    rig.csp.clear_faults();
    let path = format!("/v1/admin/deletions/{id}");
    let replayed = rig.api.admin(Method::POST, &format!("{path}/replay")).await;
    assert_eq!((replayed.status, &replayed.body["outcome"]), (200, &json!("replayed")));
    let gone = rig.until_state(&id, StateName::Deleted).await;
    assert_eq!(gone.deletion().unwrap().attempts, 0, "counted anew");
    let causes: Vec<_> = gone.history.iter().map(|entry| entry.cause.as_str()).collect();
    assert_eq!(causes, ["listed", "claimed", "released", "parked", "replayed", "deleted"]);
    assert_eq!(gone.history[4].by.as_ref().map(|by| by.as_str()), Some("admin"));
    let shown = rig.api.admin(Method::GET, &path).await;
    assert_eq!((shown.status, &shown.body["status"]), (200, &json!("deleted")));
    let again = rig.api.admin(Method::POST, &format!("{path}/replay")).await;
    assert_eq!((again.status, &again.body["outcome"]), (200, &json!("gone")));
    assert_eq!(rig.parked_count().await, 0);
    until_done(&rig).await;
    assert_eq!(rig.events_of(&id).await.len(), 6);
    rig.stop().await;
}

#[tokio::test]
async fn thousand_parked_deletions_are_replayed_after_recovery() {
    const COUNT: usize = 1_000;
    let rig = Plan::new(COUNT + 5)
        .set("DELETION_ATTEMPTS_MAX", 1)
        .set("EVENTS_BYTES_MAX", 32 * 1024 * 1024)
        .set("DELETIONS_IN_FLIGHT_MAX", 32)
        .set("REAPER_IN_FLIGHT_MAX", 32)
        .start()
        .await;
    rig.csp.fail(Operation::Delete, refused()).unwrap();
    let ids = release(&rig, COUNT).await;
    until_parked(&rig, COUNT).await;
    assert_eq!(rig.csp.census().live, COUNT + 5, "none was deleted");
    rig.csp.clear_faults();
    rig.csp.clear_log();
    let mut replayed = 0;
    let mut path = "/v1/admin/deletions/replay?all=true".to_owned();
    loop {
        let answer = rig.api.admin(Method::POST, &path).await;
        assert_eq!((answer.status, &answer.body["failed"]), (200, &json!(0)), "{answer:?}");
        replayed += answer.body["replayed"].as_u64().unwrap();
        let Some(cursor) = answer.body["cursor"].as_u64() else { break };
        path = format!("/v1/admin/deletions/replay?all=true&cursor={cursor}");
    }
    assert_eq!(replayed, COUNT as u64);
    until_done(&rig).await;
    assert_eq!(rig.parked_count().await, 0);
    assert_eq!(rig.csp.census().live, 5);
    let deletes = rig.deletes_at_csp();
    assert_eq!(deletes, COUNT, "each once");
    for id in &ids {
        let gone = rig.sandbox(id).await.unwrap();
        let causes: Vec<_> = gone.history.iter().map(|entry| entry.cause.as_str()).collect();
        assert_eq!(causes, ["listed", "claimed", "released", "parked", "replayed", "deleted"], "{id}");
    }
    let events = rig.events().await;
    let event_ids: std::collections::BTreeSet<_> = events.iter().map(|event| event.id.clone()).collect();
    assert_eq!(event_ids.len(), events.len(), "no event twice");
    for id in &ids {
        assert!((1..=6).all(|version| event_ids.contains(&format!("{id}:{version}"))), "{id}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn removed_deletion_stream_is_rebuilt_by_two_sweeps() {
    const COUNT: usize = 300;
    let mut rig = Plan::new(COUNT + 5)
        .set("DELETIONS_IN_FLIGHT_MAX", 32)
        .set("REAPER_IN_FLIGHT_MAX", 32)
        .counts(|counts| counts.reapers = 0)
        .start()
        .await;
    let ids = release(&rig, COUNT).await;
    eventually("all to be queued", LONG, || async {
        match rig.queued().await {
            300 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    rig.delete_deletions_stream().await;
    let (first, second) = (rig.sweep().await, rig.sweep().await);
    assert_eq!(first.reannounced + second.reannounced, COUNT as u64, "{first:?} {second:?}");
    assert_eq!((second.status.as_str(), rig.queued().await), ("completed", COUNT as u64));
    // Once more, with a reaper that consumes while the consumer is deleted.
    rig.change_counts(|counts| counts.reapers = 1);
    rig.stop_fleet().await.unwrap();
    rig.csp.slow_down(Operation::Delete, simulator::Latency::Fixed(50)).unwrap();
    rig.start_again().await;
    eventually("the first deletions", LONG, || async {
        match rig.deletes_at_csp() {
            0..20 => Err("too few"),
            _ => Ok(()),
        }
    })
    .await;
    rig.delete_deletions_stream().await;
    rig.sweep().await;
    rig.sweep().await;
    until_done(&rig).await;
    for id in &ids {
        assert_eq!(rig.sandbox(id).await.unwrap().state.name(), StateName::Deleted);
    }
    assert_eq!(rig.csp.census().live, 5);
    rig.stop().await;
}

#[tokio::test]
async fn lagging_listing_restores_nothing() {
    // The setting is as long as the lag: with a longer lag the accounts would be deleted again.
    let rig = Plan::new(6).set("DELETION_LISTED_SECONDS", 86_400).start().await;
    let lagging =
        simulator::Faults { list_shows_deleted_for_ms: 24 * 3_600_000, ..simulator::Faults::default() };
    rig.csp.set_faults(lagging).unwrap();
    let ids = release(&rig, 3).await;
    until_done(&rig).await;
    for _ in 0..6 {
        rig.clock.advance(Duration::from_secs(3_600));
        let report = rig.sync().await;
        assert_eq!((report.tombstoned, report.inserted, report.restored), (3, 0, 0), "{report:?}");
        assert_eq!(rig.count(StateName::Available).await, 3);
    }
    for id in &ids {
        assert_eq!(rig.sandbox(id).await.unwrap().history.len(), 4);
    }
    rig.stop().await;
}

#[tokio::test]
async fn cli_lists_shows_and_replays_deletions() {
    let rig = Plan::new(6).set("DELETION_ATTEMPTS_MAX", 1).start().await;
    rig.csp.fail(Operation::Delete, refused()).unwrap();
    let ids = release(&rig, 3).await;
    rig.publish_raw_deletion("main", "77", "this is no deletion").await;
    until_parked(&rig, 3).await;
    eventually("the unreadable one", TIMEOUT, || async {
        match rig.parked_count().await {
            4 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let mut env: Vec<(&str, &str)> =
        rig.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    env.push(("USER", "alice"));
    let shell = |arguments: &[&str]| {
        let arguments: Vec<_> =
            ["deletions"].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
        let env = env.clone();
        async move {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let output = harness::process::run(&arguments, &env).await;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.success(), said, String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    let (is_well, said, noted) = shell(&["parked", "--output", "json"]).await;
    assert!(is_well, "{noted}");
    let listed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(listed["count"], 4);
    let (_, said, _) = shell(&["parked", "--pool", "main"]).await;
    assert!(said.contains(&ids[0]) && said.contains("3 parked") && !said.contains("_unreadable"), "{said}");
    let (_, said, _) = shell(&["show", &ids[0]]).await;
    assert!(said.contains("is deletion_failed; 1 attempts") && said.contains("parked at"), "{said}");
    rig.csp.clear_faults();
    let (is_well, said, _) = shell(&["replay", &ids[0]]).await;
    assert_eq!((is_well, said), (true, format!("{} is tried again\n", ids[0])));
    let gone = rig.until_state(&ids[0], StateName::Deleted).await;
    assert!(gone.history.iter().any(|entry| entry.by.as_ref().is_some_and(|by| by.as_str() == "alice")));
    let (is_well, said, _) = shell(&["replay", "--all", "--reason", "409"]).await;
    assert_eq!((is_well, said.as_str()), (true, "replayed 2, already on the way 0, gone 0, unreadable 0\n"));
    let (is_well, said, _) = shell(&["replay", "--all"]).await;
    assert_eq!((is_well, said.as_str()), (true, "replayed 0, already on the way 0, gone 0, unreadable 1\n"));
    let key =
        listed["parked"].as_array().unwrap().iter().find_map(|one| one["key"].as_str()?.strip_prefix('_'));
    let key = format!("_{}", key.expect("an unreadable one"));
    let (is_well, _, noted) = shell(&["replay", &key]).await;
    assert!(!is_well && noted.contains("still cannot be read"), "{noted}");
    assert_eq!(shell(&["remove", &key]).await.1, format!("{key} is removed\n"));
    let (is_well, _, noted) = shell(&["show", "4711"]).await;
    assert!(!is_well && noted.contains("there is no such sandbox"), "{noted}");
    let (is_well, _, noted) = shell(&["replay"]).await;
    assert!(!is_well && noted.contains("required"), "{noted}");
    until_done(&rig).await;
    rig.stop().await;
}
