//! The claim item, and the claim of one caller at a time.

use crate::fixtures::{
    Claimed, KEEP_UNTIL, LATER, NOW, added, assert_sound, candidates, claim, claim_key, done, grant_of, id,
    lost, owner, record, several_added,
};
use common::domain::{Sandbox, Version};
use common::store::{MoveClaim, OpenClaim, Store};
use std::sync::Arc;

pub(crate) async fn a_claim_item_is_written_once(store: Arc<dyn Store>) {
    let [a, b] = two(&*store).await;
    let key = claim_key("owner-1", "key-1");
    let (of_a, of_b) = (record(&key, &a.candidate()), record(&key, &b.candidate()));
    assert_eq!(store.find_claim(&key).await.unwrap(), None);
    assert_eq!(store.open_claim(&of_a, KEEP_UNTIL).await.unwrap(), OpenClaim::Opened);
    assert_eq!(store.find_claim(&key).await.unwrap(), Some(of_a.clone()));
    // Another try finds it; the same try again, after its answer got lost, is as good as the first.
    assert_eq!(store.open_claim(&of_b, KEEP_UNTIL).await.unwrap(), OpenClaim::Held(of_a.clone()));
    assert_eq!(store.open_claim(&of_a, KEEP_UNTIL).await.unwrap(), OpenClaim::Opened);
    let mut of_newer_a = of_a.clone();
    of_newer_a.candidate.version = Version::new(2);
    assert_eq!(store.open_claim(&of_newer_a, KEEP_UNTIL).await.unwrap(), OpenClaim::Held(of_a.clone()));
    assert_eq!(store.find_claim(&key).await.unwrap(), Some(of_a));
}

pub(crate) async fn a_claim_item_moves_only_from_what_it_names(store: Arc<dyn Store>) {
    let [a, b] = two(&*store).await;
    let key = claim_key("owner-1", "key-1");
    let (of_a, of_b) = (record(&key, &a.candidate()), record(&key, &b.candidate()));
    let absent = store.move_claim(&of_a, &b.candidate(), KEEP_UNTIL).await.unwrap();
    assert_eq!(absent, MoveClaim::Absent);
    assert_eq!(store.find_claim(&key).await.unwrap(), None, "a move must not make an item");
    store.open_claim(&of_a, KEEP_UNTIL).await.unwrap();
    let mut of_older_a = of_a.clone();
    of_older_a.candidate.version = Version::new(0);
    let stale = store.move_claim(&of_older_a, &b.candidate(), KEEP_UNTIL).await.unwrap();
    assert_eq!(stale, MoveClaim::Held(of_a.clone()));
    assert_eq!(store.move_claim(&of_a, &b.candidate(), KEEP_UNTIL).await.unwrap(), MoveClaim::Moved);
    assert_eq!(store.find_claim(&key).await.unwrap(), Some(of_b.clone()));
    // The same move again, after its answer got lost.
    assert_eq!(store.move_claim(&of_a, &b.candidate(), KEEP_UNTIL).await.unwrap(), MoveClaim::Moved);
    let mut newer_b = b.candidate();
    newer_b.version = Version::new(9);
    let late = store.move_claim(&of_a, &newer_b, KEEP_UNTIL).await.unwrap();
    assert_eq!(late, MoveClaim::Held(of_b));
}

pub(crate) async fn a_claim_item_is_closed_only_by_its_own_record(store: Arc<dyn Store>) {
    let [a, b] = two(&*store).await;
    let key = claim_key("owner-1", "key-1");
    let of_a = record(&key, &a.candidate());
    let mut of_newer_a = of_a.clone();
    of_newer_a.candidate.version = Version::new(2);
    store.open_claim(&of_a, KEEP_UNTIL).await.unwrap();
    let other_key = record(&claim_key("owner-1", "key-2"), &a.candidate());
    for other in [record(&key, &b.candidate()), of_newer_a, other_key] {
        store.close_claim(&other).await.unwrap();
        assert_eq!(store.find_claim(&key).await.unwrap(), Some(of_a.clone()), "closed by {other:?}");
    }
    store.close_claim(&of_a).await.unwrap();
    assert_eq!(store.find_claim(&key).await.unwrap(), None);
    store.close_claim(&of_a).await.unwrap();
}

pub(crate) async fn a_key_belongs_to_its_owner(store: Arc<dyn Store>) {
    let sandboxes = several_added(&*store, 1..4).await;
    let free = candidates(&sandboxes);
    // The separator of the keys in the table inside an owner's name makes no difference.
    let keys = [
        claim_key("owner-1", "shared"),
        claim_key("owner-2", "shared"),
        claim_key("owner-1#CLAIM#shared", "shared"),
    ];
    let mut got = Vec::new();
    for key in &keys {
        let claimed = claim(&*store, key, &free).await.unwrap();
        assert!(matches!(claimed, Claimed::Fresh(_)), "{claimed:?}");
        assert_eq!(claimed.sandbox().lease().unwrap().claim, *key);
        got.push(claimed.sandbox().id.clone());
    }
    got.sort();
    assert_eq!(got, [id(1), id(2), id(3)]);
}

pub(crate) async fn a_repeat_gets_the_same_lease(store: Arc<dyn Store>) {
    let sandboxes = several_added(&*store, 1..6).await;
    let key = claim_key("owner-1", "key-1");
    let first = claim(&*store, &key, &candidates(&sandboxes)).await.unwrap();
    let Claimed::Fresh(held) = first else { panic!("{first:?}") };
    for start in 0..sandboxes.len() {
        let mut order = candidates(&sandboxes);
        order.rotate_left(start);
        let again = claim(&*store, &key, &order).await.unwrap();
        assert_eq!(again, Claimed::Repeated(held.clone()));
    }
    // Another key of the same owner is another claim.
    let other = claim(&*store, &claim_key("owner-1", "key-2"), &candidates(&sandboxes)).await.unwrap();
    assert_ne!(other.sandbox().id, held.id);
}

pub(crate) async fn a_claim_after_a_release_gets_another_sandbox(store: Arc<dyn Store>) {
    let sandboxes = several_added(&*store, 1..4).await;
    let ids: Vec<_> = sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
    let key = claim_key("owner-1", "key-1");
    let mut used: Vec<Sandbox> = Vec::new();
    for close in [true, false, true] {
        let claimed = claim(&*store, &key, &candidates(&sandboxes)).await.unwrap();
        let Claimed::Fresh(held) = claimed else { panic!("{claimed:?}") };
        assert!(used.iter().all(|before| before.id != held.id), "used once, then deleted");
        let lease = held.lease().unwrap().clone();
        done(store.release(&held.id, &owner("owner-1"), None, LATER).await.unwrap());
        if close {
            let mut candidate = held.candidate();
            candidate.version = lease.claimed_version;
            store.close_claim(&record(&key, &candidate)).await.unwrap();
            assert_eq!(store.find_claim(&key).await.unwrap(), None);
        }
        used.push(held);
    }
    let none = claim(&*store, &key, &candidates(&sandboxes)).await.unwrap();
    assert_eq!(none, Claimed::Exhausted);
    // Nobody is free and nobody is held; a grant of what was used is lost for good.
    let grant = grant_of(&sandboxes[0].candidate(), &key);
    assert!(lost(store.grant(&grant).await.unwrap()).belongs_to(&owner("owner-1")));
    assert_sound(&*store, &ids, &[key]).await;
}

async fn two(store: &dyn Store) -> [Sandbox; 2] {
    let sandboxes = [added(store, 1).await, added(store, 2).await];
    assert_eq!(sandboxes[0], crate::fixtures::new_sandbox(1).enter(NOW));
    sandboxes
}
