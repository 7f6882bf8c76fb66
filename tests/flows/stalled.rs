//! Two reapers, one of which loses its network for longer than its acknowledgement wait: the other one ends the
//! deletion, and the late one changes nothing.

use domain::{Preparation, Skip, StateName};
use harness::freezing_proxy::{Freeze, FreezingProxy};
use harness::rig::Plan;
use harness::wait::{TIMEOUT, eventually};
use simulator::{Fault, FaultKind, Operation};

/// Stalls a reaper right before its write about the deletion, and releases it when another one has ended the deletion.
async fn late(fault: Option<FaultKind>, already_gone: bool) {
    // Its normal timeouts would make it give up before the test releases it.
    let plan = Plan::new(2).set("STORE_ATTEMPT_TIMEOUT_MS", 60_000).set("STORE_OPERATION_TIMEOUT_MS", 60_000);
    let rig = plan.counts(|counts| counts.reapers = 0).start().await;
    if let Some(kind) = fault.clone() {
        rig.csp.fail(Operation::Delete, Fault::next(1, kind)).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let (nats, table) = (rig.env["NATS_URL"].clone(), rig.env["DYNAMODB_ENDPOINT"].clone());
    let to_nats = FreezingProxy::start(&nats, None).await;
    // The first message about the sandbox is the read, the second one the write.
    let write = Freeze { word: "SBX#".to_owned(), time: 2, is_before: true };
    let to_table = FreezingProxy::start(&table, None).await;
    let first = rig.start_reaper(folder.path(), to_nats.address(), to_table.address()).await;
    // At its start it compares the table with the latest events, which contains messages about sandboxes too.
    first.until_ready().await;
    to_table.freeze_at(write);
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    eventually("a reaper before its write", TIMEOUT, || async {
        if to_table.is_frozen() { Ok(()) } else { Err(first.output()) }
    })
    .await;
    to_nats.hold();
    let second = rig.start_reaper(folder.path(), &nats, &table).await;
    let ended = rig.until_state(claim.sandbox(), StateName::Deleted).await;
    eventually("the other one to finish", TIMEOUT, || async {
        match rig.queued().await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    let (calls, events) = (rig.deletes_at_csp(), rig.events_of(claim.sandbox()).await);
    assert_eq!(calls, 2, "each of them ordered it once: {}", first.output());

    to_nats.let_go();
    to_table.let_go();
    assert_eq!(first.stop(TIMEOUT).await, Some(0), "{}", first.output());
    eventually("an empty queue", TIMEOUT, || async {
        match rig.queued().await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    let after = rig.sandbox(claim.sandbox()).await.unwrap();
    assert_eq!(after, ended, "the late one changed nothing: {}", first.output());
    let deletion = after.deletion().unwrap();
    assert_eq!((deletion.attempts, deletion.last_error.as_ref()), (0, None));
    assert_eq!(deletion.preparation, Some(Preparation::Skipped(Skip::SwitchedOff)));
    assert_eq!(after.history.len(), 4);
    assert_eq!(rig.events_of(claim.sandbox()).await, events, "nor published anything twice");
    assert_eq!((rig.deletes_at_csp(), rig.parked_count().await), (2, 0));
    assert_eq!(rig.csp.census().live, 1);
    let said = format!("\"already_gone\":{already_gone}");
    assert!(second.output().contains(&said), "{}", second.output());
    assert_eq!(second.stop(TIMEOUT).await, Some(0), "{}", second.output());
    rig.stop().await;
}

#[tokio::test]
async fn stalled_reaper_finishing_a_deletion_changes_nothing() {
    Box::pin(late(None, true)).await;
}

#[tokio::test]
async fn stalled_reaper_noting_a_failed_attempt_changes_nothing() {
    let kind = FaultKind::status(500);
    Box::pin(late(Some(kind), false)).await;
}
