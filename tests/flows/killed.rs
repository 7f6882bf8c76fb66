//! A reaper is killed at each step of a deletion: the deletion still ends, and is carried out once.

use contract::TickKind;
use domain::StateName;
use futures_util::{StreamExt as _, stream};
use harness::freezing_proxy::{Freeze, FreezingProxy};
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use simulator::{Fault, FaultKind, Operation};

/// Fleets that run at once; each has two processes.
const AT_ONCE_MAX: usize = 3;

/// The connection at which the reaper is killed.
#[derive(Clone, Copy, Debug)]
enum Way {
    Table,
    Queue,
}

/// The course of the deletion without the kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Deleted,
    /// The first attempt fails.
    Retried,
    /// The only attempt fails.
    Parked,
}

fn plan(course: Course) -> Plan {
    let attempts = if course == Course::Parked { 1 } else { 8 };
    Plan::new(2).set("DELETION_ATTEMPTS_MAX", attempts).counts(|counts| counts.reapers = 0)
}

/// Lets a reaper reach that message, kills it there, and lets another one continue.
async fn killed_at(way: Way, word: &str, time: usize, is_before: bool, course: Course) {
    let case = format!("{course:?}, {way:?}, {word:?}, time {time}, before: {is_before}");
    let rig = plan(course).start().await;
    match course {
        Course::Deleted => {}
        Course::Retried => rig.csp.fail(Operation::Delete, Fault::next(1, FaultKind::status(500))).unwrap(),
        Course::Parked => rig.csp.fail(Operation::Delete, Fault::always(FaultKind::status(500))).unwrap(),
    }
    let folder = tempfile::tempdir().unwrap();
    let (nats, table) = (rig.env["NATS_URL"].clone(), rig.env["DYNAMODB_ENDPOINT"].clone());
    let to_nats = FreezingProxy::start(&nats, None).await;
    let to_table = FreezingProxy::start(&table, None).await;
    let first = rig.start_reaper(folder.path(), to_nats.address(), to_table.address()).await;
    // At its start it compares the table with the latest events, which contains messages about sandboxes too.
    first.until_ready().await;
    let freeze = Freeze { word: word.to_owned(), time, is_before };
    match way {
        Way::Queue => to_nats.freeze_at(freeze),
        Way::Table => to_table.freeze_at(freeze),
    }
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    eventually(&format!("a reaper at this step: {case}"), TIMEOUT, || async {
        if to_nats.is_frozen() || to_table.is_frozen() { Ok(()) } else { Err(first.output()) }
    })
    .await;
    first.child.kill().await;
    drop((to_nats, to_table));
    let second = rig.start_reaper(folder.path(), &nats, &table).await;
    settled(&rig, claim.sandbox(), course, &case).await;
    assert_eq!(second.stop(TIMEOUT).await, Some(0), "{case}: {}", second.output());
    rig.stop().await;
}

/// Waits for the end of the deletion and compares it with all records of it.
async fn settled(rig: &Rig, id: &str, course: Course, case: &str) {
    let (state, steps) = match course {
        Course::Parked => (StateName::DeletionFailed, 4),
        Course::Deleted | Course::Retried => (StateName::Deleted, 4),
    };
    let ended = rig.until_state(id, state).await;
    eventually(&format!("an empty queue: {case}"), TIMEOUT, || async {
        match rig.queued().await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    if course == Course::Parked {
        // A parked sandbox's event, and a lost copy, may be left to the sweep.
        rig.sweep().await;
        assert_eq!(rig.parked_count().await, 1, "{case}");
    } else {
        let done = rig.csp.log().iter().filter(|call| is_done_deletion(call)).count();
        assert_eq!(done, 1, "{case}: deleted at the provider once");
        assert!(!rig.csp.exists(&ended.external_id), "{case}");
    }
    assert_eq!(ended.history.len(), steps, "{case}: one entry for each step: {:?}", ended.history);
    let expected: Vec<_> = (1..=steps).map(|version| format!("{id}:{version}")).collect();
    assert_eq!(rig.events_of(id).await, expected, "{case}: each event once, in order");
    assert_eq!(rig.run(TickKind::SWEEP).await.kind(), TickKind::SWEEP);
    assert_eq!((rig.queued().await, rig.count(StateName::Available).await), (0, 1), "{case}");
}

fn is_done_deletion(call: &simulator::LogEntry) -> bool {
    call.operation == Operation::Delete && call.status.is_some_and(|status| (200..300).contains(&status))
}

#[tokio::test]
async fn deletion_is_done_once_if_the_reaper_is_killed_at_any_step() {
    use Course::{Deleted, Parked, Retried};
    use Way::{Queue, Table};
    let steps = [
        // The read of the record, the slot, the tombstone, the event, the acknowledgement.
        (Table, "SBX#", 1, Deleted),
        (Queue, "line.provider", 1, Deleted),
        (Table, "SBX#", 2, Deleted),
        (Queue, ".events.*.", 1, Deleted),
        (Queue, ".events.deleted.", 1, Deleted),
        // The count of the attempt, and the scheduled retry.
        (Table, "SBX#", 2, Retried),
        (Queue, ".deletions.retry.", 1, Retried),
        // The parked copy, the record.
        (Queue, ".parked.main.", 1, Parked),
        (Table, "SBX#", 3, Parked),
        (Queue, "+TERM", 1, Parked),
    ];
    let cases = steps.into_iter().flat_map(|step| [true, false].map(|is_before| (step, is_before)));
    stream::iter(cases)
        .for_each_concurrent(AT_ONCE_MAX, |((way, word, time, course), is_before)| {
            killed_at(way, word, time, is_before, course)
        })
        .await;
}

#[tokio::test]
async fn deletion_is_done_once_if_the_reaper_is_killed_in_the_call() {
    for kind in [FaultKind::Hang, FaultKind::DeleteThenHang] {
        let rig = plan(Course::Deleted).start().await;
        rig.csp.fail(Operation::Delete, Fault::next(1, kind.clone())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (nats, table) = (rig.env["NATS_URL"].clone(), rig.env["DYNAMODB_ENDPOINT"].clone());
        let first = rig.start_reaper(folder.path(), &nats, &table).await;
        let claim = rig.api.allocate("student-1").await;
        rig.api.release(claim.sandbox(), "student-1").await;
        eventually("the call to be under way", TIMEOUT, || async {
            if rig.csp.in_flight() > 0 { Ok(()) } else { Err(first.output()) }
        })
        .await;
        first.child.kill().await;
        let second = rig.start_reaper(folder.path(), &nats, &table).await;
        let gone = rig.until_state(claim.sandbox(), StateName::Deleted).await;
        assert!(!rig.csp.exists(&gone.external_id), "{kind:?}");
        assert_eq!(gone.history.len(), 4, "{kind:?}");
        eventually("an empty queue", TIMEOUT, || async {
            match rig.queued().await {
                0 => Ok(()),
                left => Err(left),
            }
        })
        .await;
        assert_eq!(rig.events_of(claim.sandbox()).await.len(), 4, "{kind:?}");
        assert_eq!(second.stop(TIMEOUT).await, Some(0), "{}", second.output());
        rig.stop().await;
    }
}
