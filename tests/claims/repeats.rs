//! Requests and their attempts: which of them made a lease, what is recorded of them, and how many writes that takes.

use crate::engines::Engine;
use crate::settings::{OWNER, Subject};
use crate::world::{World, claim_of, key_of};
use async_trait::async_trait;
use contract::{FaultCode, Outcome};
use harness::wait::{TIMEOUT, eventually};
use ports::clock::Clock as _;
use ports::store::StoreError;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::interposed::{Call, InterposedStore, Interposer};

const SEED: u64 = 7;

pub(crate) async fn repeat_of_the_creating_request_is_answered_created(engine: Engine) {
    let world = World::new(engine, 3, SEED).await;
    let first = world.process().attempt(OWNER, "r-1", Some(1)).await.unwrap();
    assert_eq!(first.outcome, Outcome::Created);
    for number in [Some(2), Some(1), None] {
        let again = world.process().attempt(OWNER, "r-1", number).await.unwrap();
        assert_eq!(again, first, "attempt {number:?}");
    }
    let other = world.process().attempt(OWNER, "r-2", Some(1)).await.unwrap();
    assert_eq!((other.outcome, &other.body), (Outcome::Existing, &first.body));
    let unnamed = world.process().claim(OWNER).await.unwrap();
    assert_eq!((unnamed.outcome, &unnamed.body), (Outcome::Existing, &first.body));
    // A lease of a claim without a request belongs to no request.
    let unnamed = world.process().claim("other").await.unwrap();
    assert_eq!(unnamed.outcome, Outcome::Created);
    assert_eq!(world.process().claim("other").await.unwrap().outcome, Outcome::Existing);
    assert_eq!(world.process().attempt("other", "r-1", None).await.unwrap().outcome, Outcome::Existing);
}

pub(crate) async fn invalid_request_key_is_rejected(engine: Engine) {
    let world = World::new(engine, 1, SEED).await;
    for bad in ["", "a b", &"x".repeat(65)] {
        let refused = world.process().attempt(OWNER, bad, Some(1)).await;
        assert_eq!(refused, Err(FaultCode::InvalidRequest), "{bad:?}");
    }
}

pub(crate) async fn a_repeat_is_noted_unless_it_was_the_only_attempt(engine: Engine) {
    let world = World::new(engine, 1, SEED).await;
    world.process().attempt(OWNER, "r-1", Some(1)).await.unwrap();
    let subject = Subject::new(&world, None);
    for (request, number, notes) in
        [("r-1", None, 0), ("r-2", Some(1), 0), ("r-2", Some(2), 1), ("r-2", Some(3), 0), ("r-3", None, 1)]
    {
        let before = subject.store.calls().len();
        subject.process.attempt(OWNER, request, number).await.unwrap();
        let calls = subject.store.calls()[before..].to_vec();
        let noted = calls.iter().filter(|call| **call == "note_answer").count();
        assert_eq!(noted, notes, "attempt {number:?} at {request}: {calls:?}");
    }
    let held = world.held_by(OWNER).await.remove(0);
    let known: Vec<_> = held.lease().unwrap().requests().map(|request| request.as_str()).collect();
    assert_eq!(known, ["r-1", "r-2", "r-3"]);
}

pub(crate) async fn a_new_request_replaces_a_closed_claim_by_three_writes(engine: Engine) {
    let world = World::new(engine, 3, SEED).await;
    let subject = Subject::new(&world, None);
    let writes = async |request| {
        let before = subject.store.calls().len();
        let lent = subject.process.attempt(OWNER, request, Some(1)).await.unwrap();
        let calls = subject.store.calls()[before..].to_vec();
        (lent, calls.into_iter().filter(|call| *call != "page").collect::<Vec<_>>())
    };
    let (first, calls) = writes("r-1").await;
    assert_eq!(calls, ["open_claim", "grant"], "the hot path takes two writes and no read");
    world.process().release(first.id().as_str(), OWNER).await.unwrap();
    // The allocator closes it in the background.
    let closed = eventually("a closed claim", TIMEOUT, async || {
        let found = world.store.find_claim(&key_of(OWNER)).await.unwrap().unwrap();
        if found.is_closed { Ok(found) } else { Err(found) }
    })
    .await;
    let (second, calls) = writes("r-2").await;
    assert_eq!((second.outcome, &calls[..]), (Outcome::Created, &["open_claim", "move_claim", "grant"][..]));
    let item = world.store.find_claim(&key_of(OWNER)).await.unwrap().unwrap();
    assert_eq!((item.is_closed, item.candidate.id.clone()), (false, second.id()));
    assert_eq!(item.answered, closed.answered);
}

pub(crate) async fn a_claim_without_a_request_replaces_a_closed_one_too(engine: Engine) {
    let world = World::new(engine, 2, SEED).await;
    let first = world.process().claim(OWNER).await.unwrap();
    world.process().release(first.id().as_str(), OWNER).await.unwrap();
    let second = world.process().claim(OWNER).await.unwrap();
    assert_eq!(second.outcome, Outcome::Created);
    assert_ne!(second.id(), first.id());
}

/// Pauses the whole process, as a suspended machine does: nothing else runs in its runtime meanwhile.
#[derive(Debug)]
struct Standstill {
    after: &'static str,
    until: Instant,
}

#[async_trait]
impl Interposer for Standstill {
    async fn before(&self, _call: Call) -> Result<(), StoreError> {
        Ok(())
    }

    async fn after(&self, call: Call) -> Result<(), StoreError> {
        if call.operation == self.after {
            while Instant::now() < self.until {
                std::hint::spin_loop();
            }
        }
        Ok(())
    }
}

pub(crate) async fn stalled_process_writes_nothing_after_its_deadline(engine: Engine) {
    const TIMEOUT: Duration = Duration::from_millis(500);
    for after in ["page", "open_claim"] {
        let world = World::new(engine, 2, SEED).await;
        let standstill = Standstill { after, until: Instant::now() + 2 * TIMEOUT };
        let store = InterposedStore::over(Arc::clone(&world.store), Arc::new(standstill));
        let late = world.process_over(Arc::new(store)).ask(&claim_of(OWNER), TIMEOUT).await;
        assert_eq!(late, Err(FaultCode::Timeout), "after {after}");
        assert!(world.held_by(OWNER).await.is_empty(), "after {after}: a lease without a waiting caller");
        let opened = world.store.find_claim(&key_of(OWNER)).await.unwrap();
        assert_eq!(opened.is_some(), after == "open_claim", "{opened:?}");
    }
}

pub(crate) async fn a_release_of_another_epoch_is_refused(engine: Engine) {
    let world = World::new(engine, 1, SEED).await;
    let lent = world.process().claim(OWNER).await.unwrap();
    let (id, epoch) = (lent.id(), lent.allocation.lease_epoch);
    let process = world.process();
    let wrong = process.release_lease(id.as_str(), OWNER, Some(epoch + 1)).await;
    assert_eq!(wrong, Err(FaultCode::InvalidState));
    assert_eq!(world.held_by(OWNER).await.len(), 1, "it is still held");
    let stranger = process.release_lease(id.as_str(), "stranger", Some(epoch)).await;
    assert_eq!(stranger, Err(FaultCode::NotSandboxOwner));
    let released = process.release_lease(id.as_str(), OWNER, Some(epoch)).await.unwrap();
    assert_eq!(released.deletion_requested_at, world.clock.now().get());
    // A repeat gets the same answer, and a release of another lease is refused as before.
    assert_eq!(process.release_lease(id.as_str(), OWNER, Some(epoch)).await, Ok(released.clone()));
    assert_eq!(process.release_lease(id.as_str(), OWNER, None).await, Ok(released));
    let wrong = process.release_lease(id.as_str(), OWNER, Some(epoch + 1)).await;
    assert_eq!(wrong, Err(FaultCode::InvalidState));
}
