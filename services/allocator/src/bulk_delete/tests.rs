//! Bulk deletes on ports in memory.

use super::*;
use crate::deletions::tests::{HOUR, NOW, Rig, id};
use contract::{Event, Verb};
use domain::{Cause, SandboxId, State};
use ports::bus::{Appended, EventLog, EventMark};
use ports::store::Write;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use strum::IntoEnumIterator as _;
use testkit::bus::MemoryBus;
use tokio::sync::Semaphore;

async fn stale(rig: &Rig, numbers: std::ops::RangeInclusive<usize>, pool: &str) {
    for number in numbers {
        rig.add(number, pool).await;
        let seen = rig.sandbox(number).await;
        assert!(matches!(rig.store.mark_missing(&seen, NOW).await.unwrap(), Write::Done(_)));
    }
}

async fn state_of(rig: &Rig, number: usize) -> StateName {
    rig.sandbox(number).await.state.name()
}

async fn asked(rig: &Rig, body: Value) -> Value {
    rig.ask(Verb::BulkDelete, body).await.unwrap()
}

#[tokio::test]
async fn state_is_required_and_must_be_removable() {
    let rig = Rig::new();
    stale(&rig, 1..=2, "main").await;
    rig.add(3, "main").await;
    for (body, code, message) in [
        (json!({}), FaultCode::InvalidRequest, "status has to be said: stale or deletion_failed"),
        (json!({"status": "gone"}), FaultCode::InvalidRequest, "status must be stale or deletion_failed"),
        (json!({"status": ""}), FaultCode::InvalidRequest, "status must be stale or deletion_failed"),
        (
            json!({"status": "allocated"}),
            FaultCode::InvalidState,
            "records of sandboxes that are allocated are never removed in bulk",
        ),
        (json!({"status": "stale", "limit": 0}), FaultCode::InvalidRequest, "limit must be from 1 to 100"),
        (json!({"status": "stale", "limit": 101}), FaultCode::InvalidRequest, "limit must be from 1 to 100"),
        (json!({"status": "stale", "pool": ""}), FaultCode::InvalidRequest, "pool must not be empty"),
    ] {
        let fault = rig.ask(Verb::BulkDelete, body.clone()).await.unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (code, message), "{body}");
    }
    for state in StateName::iter() {
        let fault = rig.ask(Verb::BulkDelete, json!({"status": state.as_str()})).await.err();
        let may_go = matches!(state, StateName::Stale | StateName::DeletionFailed);
        assert_eq!(fault.map(|fault| fault.code), (!may_go).then_some(FaultCode::InvalidState), "{state}");
    }
    assert_eq!(state_of(&rig, 3).await, StateName::Available);
}

#[tokio::test]
async fn stale_sandbox_becomes_a_tombstone_with_its_actor() {
    let rig = Rig::new();
    stale(&rig, 1..=3, "main").await;
    rig.add(4, "main").await;
    rig.clock.advance(HOUR);
    let reply = asked(&rig, json!({"status": "stale", "by": "alice"})).await;
    let counts =
        ["removed", "refused", "raced", "failed", "untold"].map(|name| reply[name].as_u64().unwrap());
    assert_eq!(counts, [3, 0, 0, 0, 0]);
    assert_eq!(
        (&reply["more"], &reply["cursor"], &reply["reason"]),
        (&json!(false), &Value::Null, &Value::Null)
    );
    assert_eq!(reply["sandboxes"].as_array().unwrap().len(), 3);
    for number in 1..=3 {
        let gone = rig.sandbox(number).await;
        let State::Deleted(tombstone) = &gone.state else { panic!("{gone:?}") };
        assert_eq!((tombstone.deleted_at, tombstone.purge_at), (NOW.after(HOUR), NOW.after(HOUR * 25)));
        let entry = gone.history.last().unwrap();
        assert_eq!((entry.cause, entry.by.as_ref().map(|by| by.as_str())), (Cause::Forgotten, Some("alice")));
        let mark = rig.bus.last_event(&id(number)).await.unwrap();
        assert_eq!(
            mark.map(|mark| mark.version),
            Some(gone.version),
            "the event log has it before the answer"
        );
    }
    assert_eq!(state_of(&rig, 4).await, StateName::Available);
    assert_eq!(rig.count("broker_allocator_bulk_deletes_total"), 3);
    assert_eq!(asked(&rig, json!({"status": "stale"})).await["removed"], 0, "once is enough");
}

#[tokio::test]
async fn a_dry_run_shows_the_same_and_changes_nothing() {
    let rig = Rig::new();
    stale(&rig, 1..=3, "main").await;
    let mut before = Vec::new();
    for number in 1..=3 {
        before.push(rig.sandbox(number).await);
    }
    let dry = asked(&rig, json!({"status": "stale", "dry_run": true, "by": "alice"})).await;
    for (number, before) in (1..).zip(before) {
        assert_eq!(rig.sandbox(number).await, before);
        assert_eq!(rig.bus.last_event(&id(number)).await.unwrap(), None, "nothing is published");
    }
    let mut real = asked(&rig, json!({"status": "stale", "by": "alice"})).await;
    assert_eq!((&dry["dry_run"], &real["dry_run"]), (&json!(true), &json!(false)));
    real["dry_run"] = json!(true);
    assert_eq!(dry, real);
}

#[tokio::test]
async fn call_is_bounded_and_its_cursor_continues() {
    for dry_run in [false, true] {
        let rig = Rig::new();
        stale(&rig, 1..=25, "main").await;
        stale(&rig, 26..=30, "dns").await;
        let (mut removed, mut cursor) = (Vec::new(), Value::Null);
        loop {
            let body =
                json!({"status": "stale", "pool": "main", "limit": 4, "dry_run": dry_run, "cursor": cursor});
            let reply = asked(&rig, body).await;
            removed.push(reply["removed"].as_u64().unwrap());
            cursor = reply["cursor"].clone();
            assert_eq!(reply["more"], json!(!cursor.is_null()));
            if cursor.is_null() {
                break;
            }
            assert!(removed.len() < 30, "it ends");
        }
        assert_eq!(removed.iter().sum::<u64>(), 25, "{removed:?}");
        assert!(removed.iter().all(|count| *count <= 4), "{removed:?}");
        let left = if dry_run { StateName::Stale } else { StateName::Deleted };
        assert_eq!((state_of(&rig, 25).await, state_of(&rig, 26).await), (left, StateName::Stale));
    }
}

#[tokio::test]
async fn dry_run_cursor_is_rejected_for_a_removal() {
    let rig = Rig::new();
    stale(&rig, 1..=9, "main").await;
    let dry = asked(&rig, json!({"status": "stale", "dry_run": true, "limit": 2})).await;
    let fault =
        rig.ask(Verb::BulkDelete, json!({"status": "stale", "cursor": dry["cursor"]})).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::InvalidRequest);
    for number in 1..=9 {
        assert_eq!(state_of(&rig, number).await, StateName::Stale);
    }
}

#[tokio::test]
async fn parked_deletions_are_refused_and_kept() {
    let rig = Rig::new();
    for number in 1..=2 {
        rig.parked(number, "main", "status 500").await;
    }
    for dry_run in [true, false] {
        let reply = asked(&rig, json!({"status": "deletion_failed", "dry_run": dry_run})).await;
        assert_eq!((&reply["refused"], &reply["removed"]), (&json!(2), &json!(0)));
        assert!(reply["reason"].as_str().unwrap().contains("replay"), "{reply}");
        assert_eq!(reply["sandboxes"][0]["outcome"], "refused");
    }
    assert_eq!(state_of(&rig, 1).await, StateName::DeletionFailed);
    assert_eq!(rig.bus.all_parked().len(), 2);
    let replayed = rig.ask(Verb::Replay, json!({"key": "1"})).await.unwrap();
    assert_eq!(replayed["outcome"], "replayed");
}

#[tokio::test]
async fn nothing_is_removed_without_the_event_log() {
    let rig = Rig::over(|_| Arc::new(BrokenEventLog));
    stale(&rig, 1..=3, "main").await;
    let reply = asked(&rig, json!({"status": "stale"})).await;
    assert_eq!((&reply["removed"], &reply["failed"]), (&json!(0), &json!(3)));
    for number in 1..=3 {
        assert_eq!(state_of(&rig, number).await, StateName::Stale);
    }
}

/// The version of the last event of that sandbox in the event log.
async fn published_version(rig: &Rig, number: usize) -> Option<u64> {
    rig.bus.last_event(&id(number)).await.unwrap().map(|mark| mark.version.get())
}

#[tokio::test]
async fn cancelled_request_leaves_no_unpublished_tombstone() {
    let (arrived, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let rig = Rig::over(|bus| {
        Arc::new(GatedEventLog { bus: bus.clone(), arrived: arrived.clone(), gate: gate.clone() })
    });
    stale(&rig, 1..=3, "main").await;
    tokio::select! {
        reply = asked(&rig, json!({"status": "stale"})) => panic!("the event log stands still: {reply}"),
        all = arrived.acquire_many(3) => all.unwrap().forget(),
    }
    for number in 1..=3 {
        assert_eq!(
            (state_of(&rig, number).await, published_version(&rig, number).await),
            (StateName::Deleted, Some(2))
        );
    }
    gate.add_permits(3);
    rig.allocator.announcing.close();
    rig.allocator.announcing.wait().await;
    for number in 1..=3 {
        assert_eq!(published_version(&rig, number).await, Some(3), "{number}");
    }
    let forgotten =
        rig.bus.events().iter().filter(|event| event.kind.known() == Some(Cause::Forgotten)).count();
    assert_eq!(forgotten, 3, "each once");
}

#[tokio::test(start_paused = true)]
async fn stalled_event_log_delays_events_and_not_the_reply() {
    let (arrived, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let rig = Rig::over(|bus| Arc::new(GatedEventLog { bus: bus.clone(), arrived, gate: gate.clone() }));
    stale(&rig, 1..=2, "main").await;
    let reply = asked(&rig, json!({"status": "stale"})).await;
    assert_eq!((&reply["removed"], &reply["untold"], &reply["failed"]), (&json!(2), &json!(2), &json!(0)));
    gate.add_permits(2);
    rig.allocator.announcing.close();
    rig.allocator.announcing.wait().await;
    assert_eq!((published_version(&rig, 1).await, published_version(&rig, 2).await), (Some(3), Some(3)));
}

/// An event log that accepts no `forgotten` until it is released.
#[derive(Debug)]
struct GatedEventLog {
    bus: MemoryBus,
    arrived: Arc<Semaphore>,
    gate: Arc<Semaphore>,
}

#[async_trait::async_trait]
impl EventLog for GatedEventLog {
    async fn last_event(&self, id: &SandboxId) -> Result<Option<EventMark>, BusError> {
        self.bus.last_event(id).await
    }

    async fn append(
        &self,
        id: &SandboxId,
        event: &Event,
        after: Option<EventMark>,
    ) -> Result<Appended, BusError> {
        if event.kind.known() == Some(Cause::Forgotten) {
            self.arrived.add_permits(1);
            self.gate.acquire().await.unwrap().forget();
        }
        self.bus.append(id, event, after).await
    }

    fn kept(&self) -> Duration {
        self.bus.kept()
    }
}

/// An unreachable event log.
#[derive(Debug)]
struct BrokenEventLog;

#[async_trait::async_trait]
impl EventLog for BrokenEventLog {
    async fn last_event(&self, _: &SandboxId) -> Result<Option<EventMark>, BusError> {
        Err(BusError { operation: "last event", source: "not reachable".into() })
    }

    async fn append(&self, _: &SandboxId, _: &Event, _: Option<EventMark>) -> Result<Appended, BusError> {
        Err(BusError { operation: "append", source: "not reachable".into() })
    }

    fn kept(&self) -> Duration {
        HOUR
    }
}
