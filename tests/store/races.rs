//! Many callers at the same time.

use crate::fixtures::{
    Claimed, KEEP_UNTIL, LATER, LEASE_END, NOW, added, assert_sound, candidates, claim, claim_key, done,
    ending, grant_of, held, id, leases, owner, several_added,
};
use domain::{ClaimKey, Epoch, Sandbox, SandboxId, State};
use ports::random::{Rng, shuffle};
use ports::store::{Store, StoreError, Write};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Barrier;

const CALLERS: u32 = 64;
/// Callers that got no sandbox and ask again once there are more.
const SERVED_LATER: usize = 10;

/// Runs all claims at once, each with the candidates in a different order.
async fn all_at_once(store: &Arc<dyn Store>, keys: &[ClaimKey], sandboxes: &[Sandbox]) -> Vec<Claimed> {
    let start = Arc::new(Barrier::new(keys.len()));
    let mut callers = Vec::new();
    for (seed, key) in (0..).zip(keys) {
        let (store, start, key) = (Arc::clone(store), Arc::clone(&start), key.clone());
        let mut order = candidates(sandboxes);
        shuffle(&Rng::seeded(seed), &mut order);
        callers.push(tokio::spawn(async move {
            start.wait().await;
            claim(&*store, &key, &order).await.unwrap()
        }));
    }
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.unwrap());
    }
    answers
}

fn ids(sandboxes: &[Sandbox]) -> Vec<SandboxId> {
    sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect()
}

/// Runs the same call `CALLERS` times at once.
async fn all_callers<F>(call: impl Fn(u32) -> F) -> Vec<Write>
where
    F: Future<Output = Result<Write, StoreError>> + Send + 'static,
{
    let callers: Vec<_> = (0..CALLERS).map(|caller| tokio::spawn(call(caller))).collect();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.unwrap().unwrap());
    }
    answers
}

/// Exactly one caller made the change, and the answer to every other one shows its result.
fn assert_one_winner(answers: &[Write]) -> Sandbox {
    let winners: Vec<_> = answers
        .iter()
        .filter_map(|answer| match answer {
            Write::Done(sandbox) => Some(sandbox),
            Write::Lost(_) => None,
        })
        .collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    for answer in answers {
        if let Write::Lost(found) = answer {
            assert_eq!(found.as_ref(), Some(winners[0]));
        }
    }
    (**winners[0]).clone()
}

pub(crate) async fn one_key_gets_one_lease(store: Arc<dyn Store>) {
    let sandboxes = several_added(&*store, 1..33).await;
    let key = claim_key("owner-1", "key-1");
    let keys = vec![key.clone(); CALLERS as usize];
    let answers = all_at_once(&store, &keys, &sandboxes).await;
    let fresh = answers.iter().filter(|answer| matches!(answer, Claimed::Fresh(_))).count();
    assert_eq!(fresh, 1);
    for answer in &answers {
        assert_eq!(answer.sandbox(), answers[0].sandbox());
    }
    assert_eq!(leases(&*store, &key, &ids(&sandboxes)).await, [answers[0].sandbox().clone()]);
    assert_sound(&*store, &ids(&sandboxes), &[key]).await;
}

pub(crate) async fn every_owner_gets_a_sandbox_while_available(store: Arc<dyn Store>) {
    let sandboxes = several_added(&*store, 1..1 + CALLERS).await;
    let keys = owners();
    let answers = all_at_once(&store, &keys, &sandboxes).await;
    let got: BTreeSet<_> = answers.iter().map(|answer| answer.sandbox().id.clone()).collect();
    assert_eq!(got.len(), CALLERS as usize);
    for (key, answer) in keys.iter().zip(&answers) {
        assert!(matches!(answer, Claimed::Fresh(_)));
        assert_eq!(answer.sandbox().lease().unwrap().claim, *key);
    }
}

pub(crate) async fn no_sandbox_goes_to_two_owners(store: Arc<dyn Store>) {
    let sandboxes = several_added(&*store, 1..11).await;
    let keys = owners();
    let answers = all_at_once(&store, &keys, &sandboxes).await;
    let served: Vec<_> = answers.iter().filter(|answer| **answer != Claimed::Exhausted).collect();
    assert_eq!(served.len(), sandboxes.len(), "none may be left over, none handed out twice");
    let got: BTreeSet<_> = served.iter().map(|answer| answer.sandbox().id.clone()).collect();
    assert_eq!(got.len(), sandboxes.len());
    // The earlier attempts of the callers without a sandbox do not block them.
    let more = several_added(&*store, 100..154).await;
    let all = [ids(&sandboxes), ids(&more)].concat();
    let mut without: Vec<_> =
        keys.iter().zip(&answers).filter(|(_, answer)| **answer == Claimed::Exhausted).collect();
    assert_eq!(without.len(), more.len());
    without.truncate(SERVED_LATER);
    for (key, _) in without {
        let claimed = claim(&*store, key, &candidates(&more)).await.unwrap();
        assert!(matches!(claimed, Claimed::Fresh(_)), "{claimed:?}");
    }
    let mut holders = BTreeSet::new();
    for id in &all {
        let sandbox = store.sandbox(id).await.unwrap().unwrap();
        let Some(lease) = sandbox.lease() else { continue };
        assert!(holders.insert(lease.claim.clone()), "a second lease for one key: {sandbox:?}");
    }
    assert_eq!(holders.len(), sandboxes.len() + SERVED_LATER);
}

pub(crate) async fn a_lease_ends_once(store: Arc<dyn Store>) {
    let before = held(&*store, 1).await;
    let answers = all_callers(|caller| {
        let store = Arc::clone(&store);
        async move {
            if caller % 2 == 0 {
                store.release(&id(1), &owner("owner-1"), None, None, LATER).await
            } else {
                store.expire(&id(1), Epoch::new(1), LEASE_END, LATER).await
            }
        }
    })
    .await;
    let after = assert_one_winner(&answers);
    assert_eq!((after.version, after.history.len()), (before.version.next(), before.history.len() + 1));
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(after));
}

pub(crate) async fn concurrent_attempt_notes_count_once(store: Arc<dyn Store>) {
    let before = ending(&*store, 1).await;
    for attempts in 0..3 {
        let answers = all_callers(|_| {
            let store = Arc::clone(&store);
            async move { store.note_attempt(&id(1), Epoch::new(1), attempts, "no", None).await }
        })
        .await;
        assert_eq!(assert_one_winner(&answers).deletion().unwrap().attempts, attempts + 1);
    }
    assert_eq!(store.sandbox(&id(1)).await.unwrap().unwrap().version, before.version);
}

pub(crate) async fn concurrent_finish_and_park_have_one_winner(store: Arc<dyn Store>) {
    ending(&*store, 1).await;
    let answers = all_callers(|caller| {
        let store = Arc::clone(&store);
        async move {
            if caller % 2 == 0 {
                store.finish_deletion(&id(1), Epoch::new(1), LATER, KEEP_UNTIL, None).await
            } else {
                store.park_deletion(&id(1), Epoch::new(1), LATER).await
            }
        }
    })
    .await;
    let after = assert_one_winner(&answers);
    assert!(matches!(after.state, State::Deleted(_) | State::DeletionFailed(_)));
}

pub(crate) async fn concurrent_claim_and_sync_have_one_winner(store: Arc<dyn Store>) {
    for number in 1..9 {
        let seen = added(&*store, number).await;
        let answers = all_callers(|caller| {
            let (store, seen) = (Arc::clone(&store), seen.clone());
            let key = claim_key(&format!("owner-{caller}"), "key-1");
            async move {
                if caller % 2 == 0 {
                    store.grant(&grant_of(&seen.candidate(), &key)).await
                } else {
                    store.mark_missing(&seen, NOW).await
                }
            }
        })
        .await;
        let after = assert_one_winner(&answers);
        // In the predecessor, a sync overwrote the claim with what it had read before (row 1).
        if let State::Stale { .. } = after.state {
            assert_eq!(done(store.mark_found(&after, NOW).await.unwrap()).epoch, Epoch::new(0));
        } else {
            assert_eq!(store.sandbox(&id(number)).await.unwrap(), Some(after));
        }
    }
}

fn owners() -> Vec<ClaimKey> {
    // Every owner uses the same key: a key belongs to its owner.
    (0..CALLERS).map(|caller| claim_key(&format!("owner-{caller}"), "key-1")).collect()
}
