//! Bulk removals of records during syncs, replays and lost answers.

use crate::engines::Engine;
use crate::world::{START, World, id, new_sandbox};
use contract::{BulkDeleteReply, FaultCode, ReplayReply, Verb};
use domain::{Cause, Sandbox, StateName};
use ports::store::{Insert, Write};
use serde_json::json;
use std::sync::Arc;
use testkit::faulty::{Fault, FaultyStore};

const BY: &str = "alice";

async fn world(engine: Engine, stale: u64) -> World {
    let world = World::new(engine, stale, 3).await;
    for sandbox in world.sandboxes().await {
        assert!(matches!(world.store.mark_missing(&sandbox, START).await.unwrap(), Write::Done(_)));
    }
    world
}

fn bulk_delete(status: &str) -> Vec<u8> {
    json!({"status": status, "by": BY}).to_string().into_bytes()
}

/// The position of a call within the removal of one record, found by a rehearsal in another world.
async fn call_of_forget(engine: Engine) -> usize {
    let world = world(engine, 1).await;
    let store = Arc::new(FaultyStore::new(Arc::clone(&world.store)));
    let process = world.process_over(store.clone());
    let reply: BulkDeleteReply = process.plain(Verb::BulkDelete, bulk_delete("stale")).await.unwrap();
    assert_eq!(reply.removed, 1);
    store.calls().iter().position(|call| *call == "forget").expect("the write of a removal")
}

fn forgotten_by(sandbox: &Sandbox) -> Option<&str> {
    let entry = sandbox.history.last().filter(|entry| entry.cause == Cause::Forgotten)?;
    entry.by.as_ref().map(|by| by.as_str())
}

pub(crate) async fn sandbox_restored_by_a_concurrent_sync_is_kept(engine: Engine) {
    let call = call_of_forget(engine).await;
    let world = world(engine, 1).await;
    let store = Arc::new(FaultyStore::new(Arc::clone(&world.store)).with(call, Fault::PauseBefore));
    let process = world.process_over(store.clone());
    let removal = process.plain::<BulkDeleteReply>(Verb::BulkDelete, bulk_delete("stale"));
    let sync = async {
        store.paused().await;
        let seen = world.store.sandbox(&id(1)).await.unwrap().unwrap();
        assert!(matches!(world.store.mark_found(&seen, START).await.unwrap(), Write::Done(_)));
        store.resume();
    };
    let (reply, ()) = tokio::join!(removal, sync);
    let reply = reply.unwrap();
    assert_eq!((reply.removed, reply.raced, reply.failed), (0, 1, 0));
    assert_eq!(world.in_state(StateName::Available).await.len(), 1);
    process.claim("student-1").await.expect("it can be claimed as if nothing had been");
    let again: BulkDeleteReply = process.plain(Verb::BulkDelete, bulk_delete("stale")).await.unwrap();
    assert_eq!((again.removed, again.raced), (0, 0));
    assert_eq!(world.in_state(StateName::Allocated).await.len(), 1);
}

pub(crate) async fn tombstone_survives_a_late_listing(engine: Engine) {
    let world = world(engine, 3).await;
    let stale = world.in_state(StateName::Stale).await;
    let process = world.process();
    let reply: BulkDeleteReply = process.plain(Verb::BulkDelete, bulk_delete("stale")).await.unwrap();
    assert_eq!((reply.removed, reply.more), (3, false));
    for (number, seen) in (1..).zip(stale) {
        // One sync has read the index before the removal, the other knows only the listing.
        assert!(matches!(world.store.mark_found(&seen, START).await.unwrap(), Write::Lost(Some(_))));
        let Insert::Exists(found) = world.store.insert(&new_sandbox(number), START).await.unwrap() else {
            panic!("{number} has come back");
        };
        assert_eq!((found.state.name(), forgotten_by(&found)), (StateName::Deleted, Some(BY)));
    }
    assert_eq!(process.claim("student-1").await, Err(FaultCode::PoolExhausted));
}

pub(crate) async fn parked_deletion_is_only_ended_by_a_replay(engine: Engine) {
    let world = World::new(engine, 4, 5).await;
    let process = world.process();
    for number in 0..4 {
        let owner = format!("student-{number}");
        let lent = process.claim(&owner).await.unwrap();
        process.release(lent.id().as_str(), &owner).await.unwrap();
    }
    for sandbox in world.in_state(StateName::PendingDeletion).await {
        world.store.park_deletion(&sandbox.id, sandbox.epoch, START).await.unwrap();
    }
    let before = world.sandboxes().await;
    let first = before[0].id.to_string();
    let replay = json!({"key": first, "by": BY}).to_string().into_bytes();
    let (removal, replay) = tokio::join!(
        process.plain::<BulkDeleteReply>(Verb::BulkDelete, bulk_delete("deletion_failed")),
        process.plain::<ReplayReply>(Verb::Replay, replay),
    );
    let (removal, _) = (removal.unwrap(), replay.unwrap());
    assert_eq!((removal.removed, removal.failed), (0, 0));
    assert!(removal.refused >= 3 && removal.reason.is_some(), "{removal:?}");
    let after = world.sandboxes().await;
    assert_eq!(after[1..], before[1..], "each is there as it was");
    assert_eq!(after[0].state.name(), StateName::PendingDeletion);
    assert!(world.deletions.of(&after[0].id).is_some(), "and the replay is announced");
}

pub(crate) async fn removal_with_a_lost_reply_is_done_once(engine: Engine) {
    let call = call_of_forget(engine).await;
    let world = world(engine, 2).await;
    let store = Arc::new(FaultyStore::new(Arc::clone(&world.store)).with(call, Fault::FailAfter));
    let process = world.process_over(store);
    let reply: BulkDeleteReply = process.plain(Verb::BulkDelete, bulk_delete("stale")).await.unwrap();
    assert_eq!(
        (reply.removed, reply.failed, reply.raced),
        (2, 0, 0),
        "the table says what was done: {reply:?}"
    );
    for gone in world.sandboxes().await {
        assert_eq!((gone.version.get(), forgotten_by(&gone)), (3, Some(BY)), "{gone:?}");
    }
}

pub(crate) async fn concurrent_removals_remove_each_sandbox_once(engine: Engine) {
    let world = world(engine, 40).await;
    let (one, other) = (world.process(), world.process());
    let (one, other) = tokio::join!(
        one.plain::<BulkDeleteReply>(Verb::BulkDelete, bulk_delete("stale")),
        other.plain::<BulkDeleteReply>(Verb::BulkDelete, bulk_delete("stale")),
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!((one.failed, other.failed), (0, 0));
    for gone in world.sandboxes().await {
        assert_eq!((gone.state.name(), gone.version.get()), (StateName::Deleted, 3));
    }
}
