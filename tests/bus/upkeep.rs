//! Reading the queue and the parked copies, and removing single messages.

use crate::engines::Engine;
use crate::fixtures::{announce, consume, work};
use contract::{DeletionWork, ParkedDeletion};
use domain::{PoolName, SandboxId};
use ports::bus::{Announced, ParkedKey, QueuedMessage, Verdict};
use std::time::Duration;

/// A delay that no test waits out.
const MUCH_LATER: Duration = Duration::from_secs(3_600);

fn parked(number: usize, reason: &str) -> ParkedDeletion {
    ParkedDeletion { work: work(number), attempts: 8, reason: reason.to_owned(), parked_at: 1_763_683_300 }
}

fn key(number: usize) -> ParkedKey {
    let (id, pool, _) = work(number).parts().unwrap();
    ParkedKey::Sandbox { pool, id }
}

fn place(number: usize) -> (PoolName, SandboxId) {
    let (id, pool, _) = work(number).parts().unwrap();
    (pool, id)
}

fn works(messages: &[QueuedMessage]) -> Vec<DeletionWork> {
    messages.iter().filter_map(|message| message.work.clone()).collect()
}

pub(crate) async fn queue_is_read_in_pages_without_consuming(engine: Engine) {
    let world = engine.world().await;
    assert_eq!(world.bus.queued(0, 10).await.unwrap(), []);
    announce(&world, 1..=5).await;
    let first = world.bus.queued(0, 3).await.unwrap();
    let rest = world.bus.queued(first[2].sequence, 3).await.unwrap();
    assert_eq!(works(&first), [work(1), work(2), work(3)]);
    assert_eq!(works(&rest), [work(4), work(5)]);
    assert!(first.iter().all(|message| !message.is_put_off && message.since.get() > 1_763_683_200));
    assert_eq!(world.queued().await, 5);
    let (pool, id) = place(4);
    assert_eq!(world.bus.queued_of(&pool, &id).await.unwrap(), rest[..1]);
    assert_eq!(world.bus.queued_of(&pool, &place(9).1).await.unwrap(), []);
}

pub(crate) async fn listing_marks_scheduled_retries_and_undecodable_messages(engine: Engine) {
    let world = engine.world().await;
    announce(&world, [1]).await;
    let (mut inbox, running) = consume(&world.bus, 1);
    inbox.next().await.answer(Verdict::Retry { delay: MUCH_LATER });
    world.until_a_retry_waits().await;
    running.stop().await;
    world.publish_raw_deletion(&work(2), "this is no deletion").await;
    let seen = world.bus.queued(0, 10).await.unwrap();
    let (since, due) = (seen[0].since, seen[0].due_at.expect("a retry has its time"));
    let delay = due.get() - since.get();
    assert!((3_599..=3_605).contains(&delay), "put off at {since:?} until {due:?}");
    assert_eq!(seen[1].due_at, None);
    let seen: Vec<_> = seen.into_iter().map(|message| (message.work, message.is_put_off)).collect();
    assert_eq!(seen, [(Some(work(1)), true), (None, false)]);
}

pub(crate) async fn delivered_and_waiting_messages_are_distinguished(engine: Engine) {
    let world = engine.world().await;
    let (pool, _) = place(1);
    assert_eq!(world.bus.handed_out(&pool).await.unwrap(), 0);
    announce(&world, 1..=3).await;
    let (mut inbox, _running) = consume(&world.bus, 2);
    let held = [inbox.next().await, inbox.next().await];
    let seen = world.bus.queued(0, 10).await.unwrap();
    assert_eq!(world.bus.handed_out(&pool).await.unwrap(), seen[1].sequence);
    let unknown = PoolName::parse("unknown").unwrap();
    assert_eq!(world.bus.handed_out(&unknown).await.unwrap(), 0);
    for case in held {
        case.answer(Verdict::Done);
    }
    inbox.next().await.answer(Verdict::Done);
    world.until_empty().await;
}

pub(crate) async fn message_is_removed_only_by_its_sequence(engine: Engine) {
    let world = engine.world().await;
    announce(&world, [1, 2]).await;
    let seen = world.bus.queued(0, 10).await.unwrap();
    assert!(world.bus.unqueue(seen[0].sequence).await.unwrap());
    assert!(!world.bus.unqueue(seen[0].sequence).await.unwrap(), "it is gone already");
    announce(&world, [1]).await;
    assert!(!world.bus.unqueue(seen[0].sequence).await.unwrap(), "the newer one is another");
    assert_eq!(works(&world.bus.queued(0, 10).await.unwrap()), [work(2), work(1)]);
}

pub(crate) async fn removed_retry_is_not_redelivered(engine: Engine) {
    let world = engine.world().await;
    announce(&world, [1]).await;
    let (mut inbox, _running) = consume(&world.bus, 1);
    inbox.next().await.answer(Verdict::Retry { delay: MUCH_LATER });
    world.until_a_retry_waits().await;
    let seen = world.bus.queued(0, 10).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert!(world.bus.unqueue(seen[0].sequence).await.unwrap());
    announce(&world, [1]).await;
    let case = inbox.next().await;
    assert_eq!(case.what.deliveries, 1, "the new one");
    case.answer(Verdict::Done);
    world.until_empty().await;
}

pub(crate) async fn removing_a_message_in_flight_is_harmless(engine: Engine) {
    let world = engine.world().await;
    announce(&world, [1]).await;
    let (mut inbox, _running) = consume(&world.bus, 1);
    let case = inbox.next().await;
    let seen = world.bus.queued(0, 10).await.unwrap();
    assert!(world.bus.unqueue(seen[0].sequence).await.unwrap());
    case.answer(Verdict::Done);
    announce(&world, [2]).await;
    inbox.next().await.answer(Verdict::Done);
    world.until_empty().await;
}

pub(crate) async fn parked_copies_are_read_by_pool_and_page(engine: Engine) {
    let world = engine.world().await;
    for number in 1..=3 {
        world.bus.park(&parked(number, &format!("status 50{number}"))).await.unwrap();
    }
    let mut elsewhere = parked(4, "another pool");
    elsewhere.work.pool = "other".to_owned();
    world.bus.park(&elsewhere).await.unwrap();
    let all = world.bus.parked(None, 0, 10).await.unwrap();
    assert_eq!(all.len(), 4);
    let main = PoolName::parse("main").unwrap();
    let first = world.bus.parked(Some(&main), 0, 2).await.unwrap();
    let rest = world.bus.parked(Some(&main), first[1].sequence, 2).await.unwrap();
    let keys: Vec<_> = first.iter().chain(&rest).map(|message| message.key.clone()).collect();
    assert_eq!(keys, [key(1), key(2), key(3)]);
    let one = world.bus.parked_of(&key(2)).await.unwrap().expect("a copy");
    assert_eq!((one.reason.as_str(), one.attempts), ("status 502", Some(8)));
    assert_eq!((one.parked_at.get(), one.work.clone()), (1_763_683_300, Some(work(2))));
    assert_eq!(world.bus.parked_of(&key(9)).await.unwrap(), None);
    assert!(world.bus.unpark(one.sequence).await.unwrap());
    assert!(!world.bus.unpark(one.sequence).await.unwrap());
    assert_eq!(world.bus.parked_of(&key(2)).await.unwrap(), None);
    assert_eq!(world.bus.parked(None, 0, 10).await.unwrap().len(), 3);
}

pub(crate) async fn lost_parked_copy_is_restored_once(engine: Engine) {
    let world = engine.world().await;
    let copy = parked(1, "status 500:\r\nno licence");
    world.bus.park(&copy).await.unwrap();
    assert_eq!(world.bus.park_again(&copy).await.unwrap(), Announced::AlreadyQueued);
    let seen = world.bus.parked_of(&key(1)).await.unwrap().unwrap();
    world.bus.unpark(seen.sequence).await.unwrap();
    // The same copy that was removed a moment ago.
    assert_eq!(world.bus.park_again(&copy).await.unwrap(), Announced::Queued);
    assert_eq!(world.bus.park_again(&copy).await.unwrap(), Announced::AlreadyQueued);
    let again = world.bus.parked_of(&key(1)).await.unwrap().unwrap();
    assert_eq!((again.work, again.attempts), (seen.work, seen.attempts));
    assert_eq!(again.reason, seen.reason);
}

pub(crate) async fn undecodable_message_is_parked_under_its_sequence(engine: Engine) {
    let world = engine.world().await;
    world.publish_raw_deletion(&work(1), "this is no deletion").await;
    let queued = world.bus.queued(0, 10).await.unwrap();
    let (_inbox, _running) = consume(&world.bus, 1);
    world.until_empty().await;
    let key = ParkedKey::Unreadable(queued[0].sequence);
    let found = world.bus.parked_of(&key).await.unwrap().expect("a copy");
    assert_eq!((&found.key, found.work.as_ref(), found.attempts), (&key, None, None));
    assert!(found.reason.contains("no deletion work") && found.parked_at.get() > 1_763_683_200, "{found:?}");
    let main = PoolName::parse("main").unwrap();
    assert_eq!(world.bus.parked(Some(&main), 0, 10).await.unwrap(), [], "it is of no pool");
    assert_eq!(world.bus.parked(None, 0, 10).await.unwrap(), [found]);
}

pub(crate) async fn intact_bus_needs_no_repair(engine: Engine) {
    let world = engine.world().await;
    assert!(!world.bus.mend().await.unwrap());
    announce(&world, [1]).await;
    assert!(!world.bus.mend().await.unwrap());
    assert_eq!(world.queued().await, 1);
}
