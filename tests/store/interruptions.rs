//! A claim that is interrupted, pauses or is late: at every call, before and after the call takes effect.
//!
//! The first candidate belongs to another owner, so that a claim takes four writes: it opens its item, loses the first
//! sandbox, moves the item and wins the second.

use crate::fixtures::{
    Claimed, KEEP_UNTIL, LATER, added, assert_sound, candidates, claim, claim_key, done, grant_of, id,
    leases, owner, record, several_added,
};
use domain::{Candidate, ClaimKey, Sandbox, SandboxId};
use ports::store::{Store, StoreError};
use std::sync::Arc;
use testkit::faulty::{Fault, FaultyStore};

/// The writes of that claim.
const WRITES: [&str; 4] = ["open_claim", "grant", "move_claim", "grant"];

/// One round: a separate key, a sandbox with another owner, and two free ones.
struct Round {
    store: Arc<dyn Store>,
    key: ClaimKey,
    ids: Vec<SandboxId>,
    /// In the order in which the claim under test tries them.
    candidates: Vec<Candidate>,
    /// In reverse order, so that a twin would choose another sandbox if it could.
    twins_candidates: Vec<Candidate>,
}

impl Round {
    async fn new(store: &Arc<dyn Store>, number: u32) -> Self {
        let first = 10 * number;
        let sandboxes = several_added(&**store, first..first + 3).await;
        let seen = candidates(&sandboxes);
        let rival = claim_key(&format!("rival-{number}"), "key-1");
        claim(&**store, &rival, &seen).await.unwrap();
        let mut twins_candidates = seen.clone();
        twins_candidates.reverse();
        Self {
            store: Arc::clone(store),
            key: claim_key(&format!("owner-{number}"), "key-1"),
            ids: sandboxes.into_iter().map(|sandbox| sandbox.id).collect(),
            candidates: seen,
            twins_candidates,
        }
    }

    /// Starts the claim on a store with that fault.
    fn start(
        &self,
        call: usize,
        fault: Fault,
    ) -> (Arc<FaultyStore>, tokio::task::JoinHandle<Result<Claimed, StoreError>>) {
        let faulty = Arc::new(FaultyStore::new(Arc::clone(&self.store)).with(call, fault));
        let (store, key, order) = (Arc::clone(&faulty), self.key.clone(), self.candidates.clone());
        (faulty, tokio::spawn(async move { claim(&*store, &key, &order).await }))
    }

    /// A twin: the same claim by another process, without any fault.
    async fn twin(&self) -> Claimed {
        claim(&*self.store, &self.key, &self.twins_candidates).await.unwrap()
    }

    async fn leases(&self) -> Vec<Sandbox> {
        leases(&*self.store, &self.key, &self.ids).await
    }

    /// Releases the sandbox and removes the claim item.
    async fn release(&self, held: &Sandbox) {
        let lease = held.lease().unwrap();
        done(self.store.release(&held.id, &lease.claim.owner, None, None, LATER).await.unwrap());
        let candidate = Candidate { version: lease.claimed_version, ..held.candidate() };
        self.store.close_claim(&record(&lease.claim, &candidate), KEEP_UNTIL).await.unwrap();
    }

    async fn assert_sound(&self, number: u32) {
        let rival = claim_key(&format!("rival-{number}"), "key-1");
        assert_sound(&*self.store, &self.ids, &[self.key.clone(), rival]).await;
    }
}

/// Every call of the claim, with each of two faults.
fn points(faults: [Fault; 2]) -> impl Iterator<Item = (u32, usize, Fault)> {
    let points = (0..WRITES.len()).flat_map(move |call| faults.map(|fault| (call, fault)));
    (1..).zip(points).map(|(number, (call, fault))| (number, call, fault))
}

pub(crate) async fn crash_at_any_call_leaves_a_resumable_claim(store: Arc<dyn Store>) {
    for (number, call, fault) in points([Fault::FailBefore, Fault::FailAfter]) {
        let round = Round::new(&store, number).await;
        let (faulty, crashed) = round.start(call, fault);
        crashed.await.unwrap().expect_err("it crashed");
        assert_eq!(faulty.calls(), WRITES[..=call], "the crash was elsewhere");
        let held_by_the_crashed = round.leases().await;
        let answer = round.twin().await;
        match held_by_the_crashed.as_slice() {
            // The claim won, but its answer was lost: the repeat gets the same answer.
            [held] => assert_eq!(answer, Claimed::Repeated(held.clone()), "{fault:?} at {call}"),
            [] => assert!(matches!(answer, Claimed::Fresh(_)), "{fault:?} at {call}: {answer:?}"),
            several => panic!("{fault:?} at {call}: {several:?}"),
        }
        assert_eq!(round.leases().await, [answer.sandbox().clone()], "{fault:?} at {call}");
        round.assert_sound(number).await;
    }
}

pub(crate) async fn concurrent_attempt_at_any_call_gets_the_same_answer(store: Arc<dyn Store>) {
    for (number, call, fault) in points([Fault::PauseBefore, Fault::PauseAfter]) {
        let round = Round::new(&store, number).await;
        let (faulty, paused) = round.start(call, fault);
        faulty.paused().await;
        let twin = round.twin().await;
        faulty.resume();
        let answer = paused.await.unwrap().unwrap();
        assert_eq!(answer.sandbox(), twin.sandbox(), "{fault:?} at {call}");
        assert!(
            matches!(answer, Claimed::Fresh(_)) != matches!(twin, Claimed::Fresh(_)),
            "{fault:?} at {call}: one of the two made the lease"
        );
        assert_eq!(round.leases().await, [twin.sandbox().clone()], "{fault:?} at {call}");
        round.assert_sound(number).await;
    }
}

pub(crate) async fn a_late_writer_after_a_release_holds_at_most_one(store: Arc<dyn Store>) {
    for (number, call, fault) in points([Fault::PauseBefore, Fault::PauseAfter]) {
        let round = Round::new(&store, number).await;
        let (faulty, late) = round.start(call, fault);
        faulty.paused().await;
        let twin = round.twin().await;
        let used = twin.sandbox().clone();
        round.release(&used).await;
        faulty.resume();
        let answer = late.await.unwrap().unwrap();
        let held = round.leases().await;
        match &answer {
            // The claim won before the release and answers after it: the answer is late, but was true when it was
            // written.
            Claimed::Fresh(sandbox) if sandbox.id == used.id => assert_eq!(held, [], "{fault:?} at {call}"),
            Claimed::Fresh(sandbox) => assert_eq!(held, std::slice::from_ref(sandbox), "{fault:?} at {call}"),
            Claimed::Repeated(sandbox) => {
                assert_eq!((sandbox, held.len()), (&used, 0), "{fault:?} at {call}");
            }
            Claimed::Exhausted => assert_eq!(held, [], "{fault:?} at {call}"),
        }
        let released = store.sandbox(&used.id).await.unwrap().unwrap();
        assert!(released.deletion().is_some(), "{fault:?} at {call}: what was given back stays given back");
        round.assert_sound(number).await;
    }
}

pub(crate) async fn late_move_does_not_undo_a_concurrent_claim(store: Arc<dyn Store>) {
    let round = Round::new(&store, 1).await;
    let (faulty, late) = round.start(2, Fault::PauseBefore);
    faulty.paused().await;
    // The twin moves the item to a third sandbox, wins it, releases it and claims again.
    let first = round.twin().await;
    round.release(first.sandbox()).await;
    let second = round.twin().await;
    assert_ne!(first.sandbox().id, second.sandbox().id);
    faulty.resume();
    assert_eq!(late.await.unwrap().unwrap(), Claimed::Repeated(second.sandbox().clone()));
    assert_eq!(round.leases().await, [second.sandbox().clone()]);
    round.assert_sound(1).await;
}

pub(crate) async fn crashed_release_does_not_block_the_key(store: Arc<dyn Store>) {
    let round = Round::new(&store, 1).await;
    let held = round.twin().await.sandbox().clone();
    // The release succeeded, its answer was lost, and the claim item still exists.
    let faulty = FaultyStore::new(Arc::clone(&store)).with(0, Fault::FailAfter);
    let faulty: &dyn Store = &faulty;
    faulty.release(&held.id, &owner("owner-1"), None, None, LATER).await.expect_err("it crashed");
    assert!(store.find_claim(&round.key).await.unwrap().is_some());
    let next = round.twin().await;
    assert!(matches!(&next, Claimed::Fresh(sandbox) if sandbox.id != held.id), "{next:?}");
    // The late closing of the old item must not change the new one.
    let lease = held.lease().unwrap();
    let old = Candidate { version: lease.claimed_version, ..held.candidate() };
    store.close_claim(&record(&round.key, &old), KEEP_UNTIL).await.unwrap();
    assert_eq!(round.twin().await, Claimed::Repeated(next.sandbox().clone()));
    round.assert_sound(1).await;
}

pub(crate) async fn key_of_an_exhausted_claim_gets_a_later_sandbox(store: Arc<dyn Store>) {
    let taken = added(&*store, 1).await;
    let rival = claim_key("rival", "key-1");
    done(store.grant(&grant_of(&taken.candidate(), &rival)).await.unwrap());
    let key = claim_key("owner-1", "key-1");
    assert_eq!(claim(&*store, &key, &[taken.candidate()]).await.unwrap(), Claimed::Exhausted);
    assert!(store.find_claim(&key).await.unwrap().is_some(), "the item stays, and holds nothing");
    let later = added(&*store, 2).await;
    let claimed = claim(&*store, &key, &[later.candidate()]).await.unwrap();
    assert_eq!(claimed.sandbox().id, id(2));
    assert_eq!(claimed, Claimed::Fresh(store.sandbox(&id(2)).await.unwrap().unwrap()));
}
