//! The claim item, and the claims of one caller at a time.

use crate::fixtures::{
    Claimed, KEEP_UNTIL, LATER, NOW, added, assert_sound, candidates, claim, claim_key, done, grant_of, id,
    lost, owner, record, request, several_added,
};
use domain::{ClaimOptions, Grant, Lease, REQUESTS_KEPT_MAX, Sandbox, Transition, Version};
use ports::store::{MoveClaim, OpenClaim, Store, Write};
use std::sync::Arc;

pub(crate) async fn a_claim_item_is_written_once(store: Arc<dyn Store>) {
    let [a, b] = two(&*store).await;
    let key = claim_key("owner-1", "key-1");
    let (of_a, of_b) = (record(&key, &a.candidate()), record(&key, &b.candidate()));
    assert_eq!(store.find_claim(&key).await.unwrap(), None);
    assert_eq!(store.open_claim(&of_a, KEEP_UNTIL).await.unwrap(), OpenClaim::Opened);
    assert_eq!(store.find_claim(&key).await.unwrap(), Some(of_a.clone()));
    // Another attempt finds the item; a repeat of the same attempt after a lost answer succeeds like the first.
    assert_eq!(store.open_claim(&of_b, KEEP_UNTIL).await.unwrap(), OpenClaim::Held(of_a.clone()));
    assert_eq!(store.open_claim(&of_a, KEEP_UNTIL).await.unwrap(), OpenClaim::Opened);
    let mut of_newer_a = of_a.clone();
    of_newer_a.candidate.version = Version::new(2);
    assert_eq!(store.open_claim(&of_newer_a, KEEP_UNTIL).await.unwrap(), OpenClaim::Held(of_a.clone()));
    assert_eq!(store.find_claim(&key).await.unwrap(), Some(of_a));
}

pub(crate) async fn claim_item_moves_only_from_its_current_candidate(store: Arc<dyn Store>) {
    let [a, b] = two(&*store).await;
    let key = claim_key("owner-1", "key-1");
    let (of_a, of_b) = (record(&key, &a.candidate()), record(&key, &b.candidate()));
    let absent = store.move_claim(&of_a, &of_b, KEEP_UNTIL).await.unwrap();
    assert_eq!(absent, MoveClaim::Absent);
    assert_eq!(store.find_claim(&key).await.unwrap(), None, "a move must not make an item");
    store.open_claim(&of_a, KEEP_UNTIL).await.unwrap();
    let mut of_older_a = of_a.clone();
    of_older_a.candidate.version = Version::new(0);
    let stale = store.move_claim(&of_older_a, &of_b, KEEP_UNTIL).await.unwrap();
    assert_eq!(stale, MoveClaim::Held(of_a.clone()));
    assert_eq!(store.move_claim(&of_a, &of_b, KEEP_UNTIL).await.unwrap(), MoveClaim::Moved);
    assert_eq!(store.find_claim(&key).await.unwrap(), Some(of_b.clone()));
    // A repeat of the same move after a lost answer.
    assert_eq!(store.move_claim(&of_a, &of_b, KEEP_UNTIL).await.unwrap(), MoveClaim::Moved);
    let mut newer_b = b.candidate();
    newer_b.version = Version::new(9);
    let late = store.move_claim(&of_a, &record(&key, &newer_b), KEEP_UNTIL).await.unwrap();
    assert_eq!(late, MoveClaim::Held(of_b));
}

pub(crate) async fn a_claim_item_is_closed_once_and_only_by_its_own_record(store: Arc<dyn Store>) {
    let [a, b] = two(&*store).await;
    let key = claim_key("owner-1", "key-1");
    let of_a = record(&key, &a.candidate());
    let mut of_newer_a = of_a.clone();
    of_newer_a.candidate.version = Version::new(2);
    store.open_claim(&of_a, KEEP_UNTIL).await.unwrap();
    let other_key = record(&claim_key("owner-1", "key-2"), &a.candidate());
    for other in [record(&key, &b.candidate()), of_newer_a, other_key] {
        store.close_claim(&other, KEEP_UNTIL).await.unwrap();
        assert_eq!(store.find_claim(&key).await.unwrap(), Some(of_a.clone()), "closed by {other:?}");
    }
    let closed = of_a.clone().closed(&[request("r-1"), request("r-2")]);
    // Closing works with either form of the item: as it is during the lease, and as it will be after it.
    for record in [&closed, &closed, &of_a] {
        store.close_claim(record, KEEP_UNTIL).await.unwrap();
        assert_eq!(store.find_claim(&key).await.unwrap(), Some(closed.clone()), "closed once");
    }
    let absent = record(&claim_key("owner-1", "key-3"), &a.candidate());
    store.close_claim(&absent, KEEP_UNTIL).await.unwrap();
    assert_eq!(store.find_claim(&absent.claim).await.unwrap(), None, "closing must not make an item");
}

pub(crate) async fn a_closed_claim_item_is_replaced_and_keeps_its_requests(store: Arc<dyn Store>) {
    let [a, b] = two(&*store).await;
    let key = claim_key("owner-1", "key-1");
    let of_a = record(&key, &a.candidate());
    store.open_claim(&of_a, KEEP_UNTIL).await.unwrap();
    let closed = of_a.clone().closed(&[request("r-1")]);
    store.close_claim(&closed, KEEP_UNTIL).await.unwrap();
    let of_b = record(&key, &b.candidate());
    // No caller can open it anew, or move it from its former content.
    assert_eq!(store.open_claim(&of_b, KEEP_UNTIL).await.unwrap(), OpenClaim::Held(closed.clone()));
    assert_eq!(store.open_claim(&of_a, KEEP_UNTIL).await.unwrap(), OpenClaim::Held(closed.clone()));
    let stale = store.move_claim(&of_a, &of_b, KEEP_UNTIL).await.unwrap();
    assert_eq!(stale, MoveClaim::Held(closed.clone()));
    let other_requests = of_a.clone().closed(&[request("r-9")]);
    let stale = store.move_claim(&other_requests, &of_b, KEEP_UNTIL).await.unwrap();
    assert_eq!(stale, MoveClaim::Held(closed.clone()));
    let moved = closed.moved_to(b.candidate(), &[request("r-1"), request("r-2")]);
    assert_eq!(moved.answered, [request("r-1"), request("r-2")]);
    for _ in 0..2 {
        assert_eq!(store.move_claim(&closed, &moved, KEEP_UNTIL).await.unwrap(), MoveClaim::Moved);
        assert_eq!(store.find_claim(&key).await.unwrap(), Some(moved.clone()));
    }
    // The second lease ends as well: the item still knows the requests that the first lease answered.
    store.close_claim(&of_b.closed(&[request("r-3")]), KEEP_UNTIL).await.unwrap();
    let found = store.find_claim(&key).await.unwrap().unwrap();
    assert!(found.is_closed);
    assert_eq!(found.answered, [request("r-1"), request("r-2"), request("r-3")]);
    // Without requests to remember, the item is as if it had never been closed.
    let forgotten = record(&key, &a.candidate());
    assert_eq!(store.move_claim(&found, &forgotten, KEEP_UNTIL).await.unwrap(), MoveClaim::Moved);
    assert_eq!(store.find_claim(&key).await.unwrap(), Some(forgotten));
}

pub(crate) async fn lease_records_the_requests_it_answered(store: Arc<dyn Store>) {
    let seen = added(&*store, 1).await;
    let key = claim_key("owner-1", "key-1");
    let grant = Grant { request: Some(request("r-0")), ..grant_of(&seen.candidate(), &key) };
    let held = done(store.grant(&grant).await.unwrap());
    let first = held.lease().unwrap().clone();
    assert_eq!((first.request.clone(), first.answered.len()), (Some(request("r-0")), 0));
    let noted = done(store.note_answer(&held.id, &first, &request("r-1")).await.unwrap());
    assert_eq!(noted, held.clone().apply(&Transition::note_answer(&first, &request("r-1"))).unwrap());
    assert_eq!((noted.version, noted.history.len()), (held.version, held.history.len()));
    // A twin that read the lease before must read again.
    let twin = store.note_answer(&held.id, &first, &request("r-2")).await.unwrap();
    assert_eq!(lost(twin), noted);
    let mut latest = noted;
    for number in 2..REQUESTS_KEPT_MAX + 3 {
        let lease = latest.lease().unwrap().clone();
        let name = format!("r-{number}");
        latest = done(store.note_answer(&held.id, &lease, &request(&name)).await.unwrap());
    }
    let lease = latest.lease().unwrap().clone();
    assert_eq!(lease.answered.len(), REQUESTS_KEPT_MAX);
    assert_eq!(
        (lease.request.as_ref(), lease.answered.first()),
        (Some(&request("r-0")), Some(&request("r-3")))
    );
    let released = done(store.release(&held.id, &owner("owner-1"), None, None, LATER).await.unwrap());
    let labels = lease.options.as_ref().unwrap().labels.clone();
    let options = ClaimOptions { labels, ..ClaimOptions::default() }.boxed();
    let ended = Lease { options, ..lease.clone() };
    assert_eq!(released.last_lease(), Some(&ended), "all but the environment stays on record");
    let closed = released.last_claim().unwrap();
    assert!(closed.is_closed && closed.answered.iter().eq(lease.requests()));
    let late = store.note_answer(&held.id, &lease, &request("late")).await.unwrap();
    assert_eq!(lost(late), released);
    let absent = store.note_answer(&id(9), &lease, &request("r")).await.unwrap();
    assert_eq!(absent, Write::Lost(None));
}

pub(crate) async fn a_key_belongs_to_its_owner(store: Arc<dyn Store>) {
    let sandboxes = several_added(&*store, 1..4).await;
    let free = candidates(&sandboxes);
    // An owner's name may contain the separator of the table's keys.
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
    // Another key of the same owner makes a separate claim.
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
        done(store.release(&held.id, &owner("owner-1"), None, None, LATER).await.unwrap());
        if close {
            let mut candidate = held.candidate();
            candidate.version = lease.claimed_version;
            store.close_claim(&record(&key, &candidate), KEEP_UNTIL).await.unwrap();
            assert!(store.find_claim(&key).await.unwrap().unwrap().is_closed);
        }
        used.push(held);
    }
    let none = claim(&*store, &key, &candidates(&sandboxes)).await.unwrap();
    assert_eq!(none, Claimed::Exhausted);
    // No sandbox is free and none is held: a grant of a used sandbox always fails.
    let grant = grant_of(&sandboxes[0].candidate(), &key);
    assert!(lost(store.grant(&grant).await.unwrap()).belongs_to(&owner("owner-1")));
    assert_sound(&*store, &ids, &[key]).await;
}

async fn two(store: &dyn Store) -> [Sandbox; 2] {
    let sandboxes = [added(store, 1).await, added(store, 2).await];
    assert_eq!(sandboxes[0], crate::fixtures::new_sandbox(1).enter(NOW));
    sandboxes
}
