//! What a process knows about free sandboxes: unused candidates are offered again, waiting callers get their refusals
//! in time, and neither selectors nor lost candidates accumulate.

use crate::settings::{OWNER, Subject};
use crate::unsteady::Unsteady;
use crate::world::{Process, World, claim_of};
use contract::{AllocateRequest, FaultCode, Outcome};
use domain::StateName;
use std::sync::Arc;
use std::time::Duration;
use testkit::faulty::Fault;
use testkit::store::MemoryStore;

/// The timeout of callers that wait without success: short, because the test waits it out.
const SHORT: Duration = Duration::from_millis(400);
/// Callers that wait for one sandbox; one index read for each, one after the other, would exceed their timeout.
const CROWD: usize = 40;
/// Selectors of the flood test.
const FLOOD: usize = 5_000;
/// Selectors that a process may keep candidates for.
const SELECTORS_KEPT_MAX: usize = 1_024;

async fn world(sandbox_count: u64) -> World {
    World::over(Arc::new(MemoryStore::new(2)), sandbox_count, 1).await
}

fn with_prefix(owner: &str, prefix: &str) -> AllocateRequest {
    AllocateRequest { name_prefix: Some(prefix.to_owned()), ..claim_of(owner) }
}

/// The number of the first call of that name in a repeat of the owner.
async fn call_of_a_repeat(operation: &str) -> usize {
    let world = world(2).await;
    world.process().claim(OWNER).await.unwrap();
    let subject = Subject::new(&world, None);
    subject.process.claim(OWNER).await.unwrap();
    subject.store.calls().iter().position(|call| *call == operation).expect("a repeat makes that call")
}

#[tokio::test]
async fn candidate_unused_by_a_repeat_is_offered_again() {
    let world = world(2).await;
    world.process().claim(OWNER).await.unwrap();
    let process = world.process();
    assert_eq!(process.claim(OWNER).await.unwrap().outcome, Outcome::Existing);
    assert_eq!(process.rounds(), 1);
    assert_eq!(process.claim("other").await.unwrap().outcome, Outcome::Created);
    assert_eq!(process.rounds(), 1, "it was at hand; there was no need to look");
}

#[tokio::test]
async fn candidate_of_a_failed_claim_is_offered_again() {
    let call = call_of_a_repeat("open_claim").await;
    for fault in [Fault::FailBefore, Fault::PauseBefore] {
        let world = world(1).await;
        let subject = Subject::new(&world, Some((call, fault)));
        let started = subject.start().await;
        match fault {
            Fault::FailBefore => assert_eq!(started.answer().await, Err(FaultCode::StoreUnavailable)),
            _ => assert_eq!(started.drop_it().await, None),
        }
        assert_eq!(subject.process.claim("other").await.unwrap().outcome, Outcome::Created);
        assert_eq!(subject.process.rounds(), 1, "{fault:?}: it was at hand; there was no need to look");
    }
}

#[tokio::test]
async fn waiting_claim_gets_a_returned_candidate() {
    let call = call_of_a_repeat("open_claim").await;
    for hangs_up in [true, false] {
        let world = world(2).await;
        world.process().claim(OWNER).await.unwrap();
        let subject = Subject::new(&world, Some((call, Fault::PauseBefore)));
        let repeat = subject.start().await;
        let waiting = tokio::spawn({
            let process = subject.process.clone();
            async move { process.claim("waiting").await }
        });
        let rounds = subject.process.rounds();
        while subject.process.rounds() == rounds {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished(), "the last one is in other hands, and may come back");
        if hangs_up {
            assert_eq!(repeat.drop_it().await, None);
        } else {
            subject.store.resume();
            assert_eq!(repeat.answer().await.unwrap().outcome, Outcome::Existing);
        }
        assert_eq!(waiting.await.unwrap().unwrap().outcome, Outcome::Created);
    }
}

// The answer after the deadline would be TIMEOUT: the allocator itself answers before it.

#[tokio::test]
async fn waiting_claim_without_a_candidate_fails_in_time() {
    let call = call_of_a_repeat("open_claim").await;
    let world = world(1).await;
    let subject = Subject::new(&world, Some((call, Fault::PauseBefore)));
    let in_hand = subject.start().await;
    assert_eq!(subject.process.ask(&claim_of("waiting"), SHORT).await, Err(FaultCode::Contended));
    // A different prefix is independent: its callers have nothing to wait for.
    let answer = subject.process.ask(&with_prefix("other", "nothing-"), SHORT).await;
    assert_eq!(answer, Err(FaultCode::PoolExhausted));
    subject.store.resume();
    assert_eq!(in_hand.answer().await.unwrap().outcome, Outcome::Created);
    assert_eq!(subject.process.claim("waiting").await, Err(FaultCode::PoolExhausted));
}

/// A crowd is served however long a read of the index takes: one read serves all who wait.
#[tokio::test]
async fn many_waiting_claims_fail_in_time_with_few_index_reads() {
    let call = call_of_a_repeat("open_claim").await;
    let slow = Arc::new(Unsteady::slow(Duration::from_millis(10)));
    let world = World::over(slow.over(Arc::new(MemoryStore::new(2))), 1, 1).await;
    let subject = Subject::new(&world, Some((call, Fault::PauseBefore)));
    let in_hand = subject.start().await;
    let rounds = subject.process.rounds();
    let crowd: Vec<_> = (0..CROWD)
        .map(|number| {
            let process = subject.process.clone();
            tokio::spawn(async move { process.ask(&claim_of(&format!("waiting-{number}")), SHORT).await })
        })
        .collect();
    for caller in crowd {
        assert_eq!(caller.await.unwrap(), Err(FaultCode::Contended));
    }
    let looks = subject.process.rounds() - rounds;
    assert!(looks <= 3, "{looks} looks at the index for {CROWD} callers who came together");
    subject.store.resume();
    assert_eq!(in_hand.answer().await.unwrap().outcome, Outcome::Created);
}

/// Candidates that were free long ago, and that others have all taken since. A process that has lost some of them reads
/// the index again and does not try them one by one.
#[tokio::test]
async fn outdated_candidates_are_dropped_after_a_few_losses() {
    let world = world(200).await;
    let subject = Subject::new(&world, None);
    subject.process.claim("warm").await.unwrap();
    world.rivals(199).await;
    let last = world.add().await;
    let calls_before = subject.store.calls().len();
    assert_eq!(subject.process.claim(OWNER).await.unwrap().id(), last.id);
    let calls = subject.store.calls().len() - calls_before;
    assert!(calls <= 40, "{calls} calls for one claim");
}

/// Prefixes come from callers. A process keeps candidates for a limited number of them and forgets the others.
#[tokio::test]
async fn cached_prefixes_are_bounded() {
    let world = world(0).await;
    let endless = Arc::new(crate::endless::Endless);
    let process = world.process_over(endless.over(Arc::clone(&world.store)));
    let mut looked = ask_all(&process, "first").await;
    assert_eq!(looked, FLOOD, "each prefix is new, and so needs a look");
    // Each prefix now has two more candidates in the buffer, unless the process forgot it.
    looked = ask_all(&process, "second").await;
    let kept = FLOOD - looked;
    assert!(kept <= SELECTORS_KEPT_MAX, "candidates of {kept} prefixes are kept");
    assert_eq!(process.lost_races(), 0);
}

/// Makes one claim for each prefix of the flood; returns how many of them needed a read of the index.
async fn ask_all(process: &Process, name: &str) -> usize {
    let before = process.rounds();
    for number in 0..FLOOD {
        let request = with_prefix(&format!("{name}-{number}"), &format!("p{number:04}-"));
        let answer = process.ask(&request, Duration::from_secs(60)).await;
        assert_eq!(answer.map(|lent| lent.outcome), Ok(Outcome::Created));
    }
    usize::try_from(process.rounds() - before).unwrap()
}

/// A key beside the body counts as the body's key; two different keys are an error and make no claim.
#[tokio::test]
async fn idempotency_key_may_be_sent_as_a_header() {
    let world = world(5).await;
    let process = world.process();
    let inside = |key: &str| AllocateRequest { idempotency_key: Some(key.to_owned()), ..claim_of(OWNER) };
    let first = process.ask_with_key(&claim_of(OWNER), Some("k-1"), SHORT).await.unwrap();
    for (body, beside) in [(inside("k-1"), None), (inside("k-1"), Some("k-1")), (inside(""), Some("k-1"))] {
        let again = process.ask_with_key(&body, beside, SHORT).await.unwrap();
        assert_eq!((again.outcome, again.id()), (Outcome::Existing, first.id()), "{beside:?}");
    }
    let other = process.ask_with_key(&claim_of(OWNER), Some("k-2"), SHORT).await.unwrap();
    assert_ne!(other.id(), first.id());
    let differ = process.ask_with_key(&inside("k-3"), Some("k-4"), SHORT).await;
    assert_eq!(differ, Err(FaultCode::InvalidRequest));
    assert_eq!(world.in_state(StateName::Allocated).await.len(), 2, "a mistake claims nothing");
}
