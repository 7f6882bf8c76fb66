//! The event log of a whole fleet: each change of each sandbox is published once, whatever gets lost on the way.

use contract::{Event, TickKind};
use domain::{Cause, StateName};
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use std::collections::BTreeMap;

/// A claim, a release and a deletion.
async fn live(rig: &Rig, owner: &str) -> String {
    let claim = rig.api.allocate(owner).await;
    assert_eq!(claim.status, 201, "{claim:?}");
    rig.api.release(claim.sandbox(), owner).await;
    claim.sandbox().to_owned()
}

/// How often each event occurs.
fn counted(events: &[Event]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for event in events {
        *counts.entry(event.id.clone()).or_default() += 1;
    }
    counts
}

async fn until_empty(rig: &Rig) {
    eventually("an empty queue", TIMEOUT, || async {
        match rig.queued().await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
}

#[tokio::test]
async fn every_transition_is_published_once() {
    let rig = Plan::new(12).start().await;
    let mut ids = Vec::new();
    for number in 0..8 {
        ids.push(live(&rig, &format!("student-{number}")).await);
    }
    for id in &ids {
        rig.until_state(id, StateName::Deleted).await;
    }
    until_empty(&rig).await;
    rig.sweep().await;
    rig.sync().await;
    rig.sweep().await;
    let events = rig.events().await;
    for id in &ids {
        let of_it: Vec<_> = events.iter().filter(|event| event.subject == *id).collect();
        let versions: Vec<_> = of_it.iter().map(|event| event.data.version).collect();
        assert_eq!(versions, [1, 2, 3, 4], "{id}");
        let kinds: Vec<_> = of_it.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["listed", "claimed", "released", "deleted"]);
        assert!(of_it[1].data.owner.as_ref().is_some_and(|owner| owner.starts_with("student-")));
    }
    let counts = counted(&events);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    assert_eq!(counts.len(), 8 * 4 + 4, "and one each of those that were never claimed");
    rig.stop().await;
}

#[tokio::test]
async fn claim_event_has_its_request_id() {
    let rig = Plan::new(3).start().await;
    let claim = rig.api.allocate_with("student-1", &[("X-Request-ID", "by-hand-1")]).await;
    let event = eventually("the event", TIMEOUT, || async {
        let events = rig.events().await;
        let claimed = events.into_iter().find(|event| event.kind == Cause::Claimed.into());
        claimed.ok_or("not yet")
    })
    .await;
    assert_eq!((event.subject.as_str(), event.data.owner.as_deref()), (claim.sandbox(), Some("student-1")));
    assert_eq!(event.data.request_id.as_deref(), Some("by-hand-1"));
    rig.stop().await;
}

#[tokio::test]
async fn events_lost_in_a_crash_are_published_by_the_sweep() {
    let rig = Plan::new(4).counts(|counts| counts.reapers = 0).start().await;
    let (held, ending) = (rig.api.allocate("student-1").await, live(&rig, "student-2").await);
    for (id, count) in [(held.sandbox(), 2), (ending.as_str(), 3)] {
        eventually("the events of the fleet", TIMEOUT, || async {
            let events = rig.events_of(id).await;
            if events.len() == count { Ok(()) } else { Err(events) }
        })
        .await;
    }
    rig.sweep().await;
    // As after the deletion of the event log's stream: the next sweep detects it, and publishes every event again.
    rig.jetstream().await.delete_stream(rig.bus.subjects().events_stream()).await.unwrap();
    let report = rig.sweep().await;
    assert_eq!(report.status.as_str(), "completed", "{report:?}");
    assert_eq!(report.events_filled, 5, "{report:?}");
    assert_eq!(rig.events_of(held.sandbox()).await.len(), 2);
    let expected: Vec<_> = (1..=3).map(|version| format!("{ending}:{version}")).collect();
    assert_eq!(rig.events_of(&ending).await, expected);
    let again = rig.sweep().await;
    assert_eq!(again.events_filled, 0, "a steady pool costs nothing");
    rig.run(TickKind::SYNC).await;
    let events = rig.events().await;
    assert_eq!(counted(&events).len(), 2 + 3 + 2, "the sync publishes those of the free ones");
    rig.stop().await;
}

#[tokio::test]
async fn removed_event_log_is_rebuilt_with_finished_lifecycles() {
    let rig = Plan::new(6).set("NATS_CHECK_SECONDS", 1).start().await;
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(live(&rig, &format!("student-{number}")).await);
    }
    for id in &ids {
        rig.until_state(id, StateName::Deleted).await;
    }
    until_empty(&rig).await;
    rig.sweep().await;
    let before = rig.events_of(&ids[0]).await;
    assert_eq!(before.len(), 4);
    let name = rig.bus.subjects().events_stream();
    let streams = rig.jetstream().await;
    streams.delete_stream(&name).await.unwrap();
    // Any process may recreate the stream; the sweep detects the loss anyway.
    eventually("the stream to be there again", TIMEOUT, || streams.get_stream(&name)).await;
    let report = rig.sweep().await;
    assert_eq!((report.status.as_str(), report.events_filled), ("completed", 3 * 4), "{report:?}");
    for id in &ids {
        let shown = rig.api.events_of(id).await;
        let mut rest = shown.as_str();
        for kind in ["listed", "claimed", "released", "deleted"] {
            let at = rest.find(kind).unwrap_or_else(|| panic!("{kind} in its place: {shown}"));
            rest = &rest[at..];
        }
    }
    assert_eq!(rig.events_of(&ids[0]).await, before, "the same ids in the same order");
    let again = rig.sweep().await;
    assert_eq!(again.events_filled, 0, "{again:?}");
    assert!(counted(&rig.events().await).values().all(|count| *count == 1));
    let made = streams.get_stream(&name).await.unwrap();
    let rebuilt = made.cached_info().config.metadata.get("rebuilt").map(String::as_str);
    assert_eq!(rebuilt, Some("done"), "the table is looked through once");
    rig.stop().await;
}

#[tokio::test]
async fn deletion_stays_queued_until_its_events_are_published() {
    let rig = Plan::new(3).counts(|counts| counts.reapers = 0).start().await;
    let id = live(&rig, "student-1").await;
    eventually("the release to be published", TIMEOUT, || async {
        let events = rig.events_of(&id).await;
        if events.len() == 3 { Ok(()) } else { Err(events) }
    })
    .await;
    // All published events are lost, and no sweep runs before the reaper starts.
    rig.jetstream().await.delete_stream(rig.bus.subjects().events_stream()).await.unwrap();
    let another = rig.another_bus().await;
    another.set_up(&tokio_util::sync::CancellationToken::new()).await.unwrap();
    another.close().await;
    let mut rig = rig;
    rig.change_counts(|counts| counts.reapers = 1);
    rig.stop_fleet().await.unwrap();
    rig.start_again().await;
    rig.until_state(&id, StateName::Deleted).await;
    until_empty(&rig).await;
    let expected: Vec<_> = (1..=4).map(|version| format!("{id}:{version}")).collect();
    assert_eq!(rig.events_of(&id).await, expected);
    rig.stop().await;
}
