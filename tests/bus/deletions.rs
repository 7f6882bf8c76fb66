//! The queue of deletion work: one message for each sandbox until its deletion has ended.

use crate::engines::Engine;
use crate::fixtures::{announce, consume, work};
use contract::{DeletionWork, ParkedDeletion};
use domain::UnixSeconds;
use ports::bus::{Announced, Verdict};
use std::time::Duration;

/// A delay that no test waits out.
const MUCH_LATER: Duration = Duration::from_secs(3_600);

fn parked(number: usize, attempts: u32, reason: &str, parked_at: u64) -> ParkedDeletion {
    ParkedDeletion { work: work(number), attempts, reason: reason.to_owned(), parked_at }
}

pub(crate) async fn sandbox_has_at_most_one_message(engine: Engine) {
    let world = engine.world().await;
    let same = work(1);
    let again = || world.bus.announce(&same);
    assert_eq!(again().await.unwrap(), Announced::Queued);
    assert_eq!(again().await.unwrap(), Announced::AlreadyQueued, "while it waits");
    let (mut inbox, _running) = consume(&world.bus, 4);
    let case = inbox.next().await;
    assert_eq!(again().await.unwrap(), Announced::AlreadyQueued, "while it is under way");
    case.answer(Verdict::Retry { delay: MUCH_LATER });
    world.until_a_retry_waits().await;
    assert_eq!(again().await.unwrap(), Announced::AlreadyQueued, "while it waits for its next attempt");
    let later = DeletionWork { epoch: 2, requested_at: 7, ..work(1) };
    let announced = world.bus.announce(&later).await.unwrap();
    assert_eq!(announced, Announced::AlreadyQueued, "whatever else the work says");
    assert_eq!(world.queued().await, 1);
}

pub(crate) async fn finished_work_can_be_announced_again(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = consume(&world.bus, 4);
    for verdict in [Verdict::Done, Verdict::GiveUp { reason: "of two\r\nlines".to_owned() }, Verdict::Done] {
        announce(&world, [1]).await;
        let case = inbox.next().await;
        assert_eq!((&case.what.work, case.what.deliveries), (&work(1), 1));
        case.answer(verdict);
        world.until_empty().await;
    }
    assert_eq!(world.parked().await, [], "parking is the worker's own business");
}

pub(crate) async fn work_of_sandboxes_and_pools_is_independent(engine: Engine) {
    let world = engine.world().await;
    announce(&world, [1, 2]).await;
    let elsewhere = DeletionWork { pool: "other".to_owned(), ..work(1) };
    assert_eq!(world.bus.announce(&elsewhere).await.unwrap(), Announced::Queued);
    assert_eq!(world.queued().await, 3);
}

pub(crate) async fn work_without_a_valid_sandbox_is_rejected(engine: Engine) {
    let world = engine.world().await;
    let bad = [
        DeletionWork { sandbox_id: String::new(), ..work(1) },
        DeletionWork { sandbox_id: "a.b".to_owned(), ..work(1) },
        DeletionWork { pool: "*".to_owned(), ..work(1) },
    ];
    for work in bad {
        assert!(world.bus.announce(&work).await.is_err(), "{work:?}");
        let copy = ParkedDeletion { work, ..parked(1, 8, "no", 7) };
        assert!(world.bus.park(&copy).await.is_err(), "{copy:?}");
    }
    assert_eq!((world.queued().await, world.parked().await.len()), (0, 0));
}

pub(crate) async fn a_lost_message_can_be_announced_again(engine: Engine) {
    let world = engine.world().await;
    announce(&world, [1]).await;
    world.purge_deletions().await;
    announce(&world, [1]).await;
    let (mut inbox, _running) = consume(&world.bus, 4);
    inbox.next().await.answer(Verdict::Retry { delay: MUCH_LATER });
    world.until_a_retry_waits().await;
    world.purge_deletions().await;
    announce(&world, [1]).await;
    inbox.next().await.answer(Verdict::Done);
    world.until_empty().await;
}

pub(crate) async fn parked_copy_is_stored_once(engine: Engine) {
    let world = engine.world().await;
    let first = parked(1, 8, "status 500:\r\nno licence", 1_763_683_300);
    for _ in 0..3 {
        world.bus.park(&first).await.unwrap();
    }
    let copies = world.parked().await;
    assert_eq!(copies.len(), 1, "{copies:?}");
    let copy = &copies[0];
    assert_eq!((copy.attempts, copy.parked_at), (Some(8), UnixSeconds::new(1_763_683_300)));
    assert_eq!(copy.reason.replace("  ", " "), "status 500: no licence", "a header has one line");
    assert_eq!(serde_json::from_slice::<ParkedDeletion>(&copy.payload).unwrap(), first);
    let replayed: DeletionWork = serde_json::from_slice(&copy.payload).unwrap();
    assert_eq!(replayed, work(1), "the copy can be announced as it stands");

    let second = parked(1, 9, "status 500 again", 1_763_683_400);
    world.bus.park(&second).await.unwrap();
    // A late repeat of the first copy does not replace the second.
    world.bus.park(&first).await.unwrap();
    world.bus.park(&parked(2, 8, "another sandbox", 1_763_683_300)).await.unwrap();
    let reasons: Vec<_> = world.parked().await.into_iter().map(|copy| copy.reason).collect();
    assert_eq!(reasons, ["status 500 again", "another sandbox"], "the latest of each sandbox");
}

pub(crate) async fn undecodable_message_is_parked(engine: Engine) {
    let world = engine.world().await;
    let bad = [
        ("this is no deletion", "no deletion work"),
        (r#"{"version":99,"sandbox_id":"1","pool":"main","epoch":1,"requested_at":1}"#, "version 99"),
        (r#"{"version":1,"sandbox_id":"a.b","pool":"main","epoch":1,"requested_at":1}"#, "sandbox or pool"),
    ];
    for (number, (payload, _)) in bad.iter().enumerate() {
        world.publish_raw_deletion(&work(number), payload).await;
    }
    announce(&world, [7]).await;
    let (mut inbox, _running) = consume(&world.bus, 1);
    let case = inbox.next().await;
    assert_eq!(case.what.work, work(7), "no worker sees the others");
    case.answer(Verdict::Done);
    world.until_empty().await;
    let copies = world.parked().await;
    let kept: Vec<_> = copies.iter().map(|copy| std::str::from_utf8(&copy.payload).unwrap()).collect();
    assert_eq!(kept, bad.map(|(payload, _)| payload), "as they came");
    for (copy, (_, reason)) in copies.iter().zip(bad) {
        assert!(copy.reason.contains(reason) && copy.attempts.is_none(), "{copy:?}");
    }
}

pub(crate) async fn retry_preserves_unknown_fields(engine: Engine) {
    let world = engine.world().await;
    let newer = r#"{"version":1,"sandbox_id":"1","pool":"main","epoch":1,"requested_at":1,"new":"field"}"#;
    world.publish_raw_deletion(&work(1), newer).await;
    let (mut inbox, _running) = consume(&world.bus, 1);
    inbox.next().await.answer(Verdict::Retry { delay: Duration::ZERO });
    inbox.next().await.answer(Verdict::Retry { delay: MUCH_LATER });
    world.until_a_retry_waits().await;
    assert_eq!(world.raw_retry(&work(1)).await, newer);
}
