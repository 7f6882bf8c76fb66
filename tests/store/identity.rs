//! One account has one record: sandboxes inserted, renewed and listed again, by one sync and by several at once.

use crate::fixtures::{
    KEEP_UNTIL, LATER, NOW, added, claim_key, done, ending, grant_of, id, in_state, listed, lost,
    new_sandbox, operator, several_added,
};
use domain::{
    Cause, DELETION_RELISTS_MAX, Epoch, ExternalId, NewSandbox, ProviderName, STILL_LISTED, Sandbox, State,
    StateName,
};
use ports::store::{IDENTITY_SHARDS, Identity, Insert, SortRange, Store};
use std::collections::BTreeSet;
use std::sync::Arc;
use strum::IntoEnumIterator as _;
use tokio::sync::Barrier;

/// Syncs that insert at the same time.
const SYNCS: u32 = 32;

/// The provider's entry with the id of `number` and the account of another number.
fn listed_as(number: u32, account: u32) -> NewSandbox {
    NewSandbox { external_id: new_sandbox(account).external_id, ..new_sandbox(number) }
}

fn account(number: u32) -> ExternalId {
    new_sandbox(number).external_id
}

async fn identity(store: &dyn Store, number: u32) -> Option<Identity> {
    store.identity(&account(number)).await.unwrap()
}

fn entered(insert: Insert) -> Sandbox {
    match insert {
        Insert::Inserted(sandbox) => *sandbox,
        other => panic!("not entered: {other:?}"),
    }
}

pub(crate) async fn account_is_inserted_once(store: Arc<dyn Store>) {
    let first = added(&*store, 1).await;
    assert_eq!(identity(&*store, 1).await, Some(Identity::new(account(1), id(1))));
    // The listing shows the same account under another id.
    let second = store.insert(&listed_as(2, 1), LATER).await.unwrap();
    assert_eq!(second, Insert::Taken(id(1)));
    assert_eq!(store.sandbox(&id(2)).await.unwrap(), None, "nothing was half inserted");
    // A failed insert, because the id is taken, leaves no identity item behind.
    assert_eq!(store.insert(&listed_as(1, 7), LATER).await.unwrap(), Insert::Exists(Box::new(first)));
    assert_eq!(identity(&*store, 7).await, None);
    entered(store.insert(&new_sandbox(2), LATER).await.unwrap());
}

pub(crate) async fn a_used_account_stays_taken_when_its_record_is_gone(store: Arc<dyn Store>) {
    // The identity item of a purged record, as the table's time to live leaves it behind.
    store.name_identity(&account(1), &id(1)).await.unwrap();
    assert_eq!(store.insert(&new_sandbox(1), LATER).await.unwrap(), Insert::Taken(id(1)));
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), None);
    let seen = identity(&*store, 1).await.unwrap();
    assert!(store.drop_identity(&seen).await.unwrap());
    entered(store.insert(&new_sandbox(1), LATER).await.unwrap());
}

pub(crate) async fn an_identity_names_every_record_of_its_account(store: Arc<dyn Store>) {
    for (number, duplicates) in [(5, vec![]), (3, vec![id(3)]), (9, vec![id(3), id(9)])] {
        let named = store.name_identity(&account(1), &id(number)).await.unwrap();
        let expected = Identity { duplicates, ..Identity::new(account(1), id(5)) };
        assert_eq!(named, expected);
        assert_eq!(store.name_identity(&account(1), &id(number)).await.unwrap(), expected, "a repeat");
        assert_eq!(identity(&*store, 1).await, Some(expected));
    }
}

pub(crate) async fn identity_changes_are_conditional_on_the_read(store: Arc<dyn Store>) {
    let fresh = store.name_identity(&account(1), &id(1)).await.unwrap();
    assert!(store.note_absences(&fresh, 2).await.unwrap());
    let absent = Identity { absences: 2, ..fresh.clone() };
    assert_eq!(identity(&*store, 1).await, Some(absent.clone()));
    assert!(!store.note_absences(&fresh, 1).await.unwrap());
    assert!(!store.drop_identity(&fresh).await.unwrap(), "a listing has counted since");
    let twin = store.name_identity(&account(1), &id(2)).await.unwrap();
    assert!(!store.drop_identity(&absent).await.unwrap(), "it names another record since");
    assert!(store.drop_identity(&twin).await.unwrap());
    assert_eq!(identity(&*store, 1).await, None);
    assert!(!store.drop_identity(&twin).await.unwrap());
    assert!(!store.note_absences(&twin, 1).await.unwrap());
}

pub(crate) async fn identities_are_listed_in_pages(store: Arc<dyn Store>) {
    several_added(&*store, 1..41).await;
    let mut seen = BTreeSet::new();
    for shard in 0..IDENTITY_SHARDS {
        let mut after = None;
        loop {
            let page = store.identities(&ProviderName::csp(), shard, after.as_ref(), 3).await.unwrap();
            assert!(page.identities.len() <= 3);
            for identity in page.identities {
                assert!(seen.insert(identity.sandbox_id.to_string()), "{identity:?} came twice");
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    assert_eq!(seen.len(), 40);
    // Lists of sandboxes contain no identity items.
    assert_eq!(listed(&*store, StateName::Available, SortRange::All).await.len(), 40);
}

pub(crate) async fn sandbox_can_be_reidentified(store: Arc<dyn Store>) {
    for (number, state) in (1..).zip(StateName::iter()) {
        let before = in_state(&*store, state, number).await;
        let other = listed_as(number, number + 100);
        let answer = store.reidentify(&before, &other, LATER).await.unwrap();
        let Ok(after) = before.clone().reidentify(before.version, other, LATER) else {
            assert_eq!(answer, Insert::Exists(Box::new(before)), "{state}");
            assert_eq!(identity(&*store, number + 100).await, None, "{state}");
            continue;
        };
        assert_eq!(answer, Insert::Inserted(Box::new(after.clone())), "{state}");
        assert_eq!(store.sandbox(&before.id).await.unwrap(), Some(after.clone()), "{state}");
        assert_eq!((after.version, after.epoch), (before.version.next(), before.epoch.next()));
        let shown = Identity::new(account(number + 100), id(number));
        assert_eq!(identity(&*store, number + 100).await, Some(shown));
        assert!(identity(&*store, number).await.is_some(), "the former account stays taken");
        // A grant by the former account fails; a grant by the new account succeeds.
        let key = claim_key("owner-1", &format!("key-{number}"));
        assert_eq!(lost(store.grant(&grant_of(&before.candidate(), &key)).await.unwrap()), after);
        let held = done(store.grant(&grant_of(&after.candidate(), &key)).await.unwrap());
        assert_eq!(held.lease().unwrap().epoch, after.epoch.next());
        assert_eq!(store.sandbox(&held.id).await.unwrap(), Some(held));
    }
}

pub(crate) async fn taken_account_cannot_be_adopted(store: Arc<dyn Store>) {
    let (before, _) = (added(&*store, 1).await, added(&*store, 2).await);
    assert_eq!(store.reidentify(&before, &listed_as(1, 2), LATER).await.unwrap(), Insert::Taken(id(2)));
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(before.clone()));
    // Not even the account that it had before, because that account may be in use.
    let other = entered(store.reidentify(&before, &listed_as(1, 7), LATER).await.unwrap());
    assert_eq!(store.reidentify(&other, &new_sandbox(1), LATER).await.unwrap(), Insert::Taken(id(1)));
    // A sandbox that has changed since is left unchanged.
    let late = store.reidentify(&before, &listed_as(1, 8), LATER).await.unwrap();
    assert_eq!(late, Insert::Exists(Box::new(other)));
}

pub(crate) async fn still_listed_sandbox_is_redeleted_and_then_parked(store: Arc<dyn Store>) {
    let mut sandbox = ending(&*store, 1).await;
    for relists in 1..=DELETION_RELISTS_MAX {
        let gone = done(store.finish_deletion(&id(1), Epoch::new(1), LATER, KEEP_UNTIL, None).await.unwrap());
        sandbox = done(store.relist(&gone, LATER).await.unwrap());
        let deletion = sandbox.deletion().unwrap();
        assert_eq!((sandbox.state.name(), deletion.relists), (StateName::PendingDeletion, relists));
        assert_eq!((deletion.attempts, deletion.last_error.as_deref()), (0, Some(STILL_LISTED)));
        assert_eq!(listed(&*store, StateName::PendingDeletion, SortRange::All).await, [sandbox.clone()]);
        assert_eq!(lost(store.relist(&gone, LATER).await.unwrap()), sandbox, "once");
    }
    let gone = done(store.finish_deletion(&id(1), sandbox.epoch, LATER, KEEP_UNTIL, None).await.unwrap());
    let parked = done(store.relist(&gone, LATER).await.unwrap());
    assert_eq!(
        (parked.state.name(), parked.history.last().unwrap().cause),
        (StateName::DeletionFailed, Cause::Parked)
    );
    assert_eq!(
        listed(&*store, StateName::DeletionFailed, SortRange::All).await,
        std::slice::from_ref(&parked)
    );
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(parked.clone()));
    let replayed = done(store.replay_deletion(&id(1), parked.epoch, &operator(), LATER).await.unwrap());
    assert_eq!(replayed.deletion().unwrap().relists, 0);
    assert_eq!(listed(&*store, StateName::PendingDeletion, SortRange::All).await, [replayed]);
}

/// Inserts all at once; `listed` makes the entry of each number.
async fn all_at_once(store: &Arc<dyn Store>, listed: impl Fn(u32) -> NewSandbox) -> Vec<Insert> {
    let start = Arc::new(Barrier::new(SYNCS as usize));
    let mut syncs = Vec::new();
    for number in 0..SYNCS {
        let (store, start, sandbox) = (Arc::clone(store), Arc::clone(&start), listed(number));
        syncs.push(tokio::spawn(async move {
            start.wait().await;
            store.insert(&sandbox, NOW).await.unwrap()
        }));
    }
    let mut answers = Vec::new();
    for sync in syncs {
        answers.push(sync.await.unwrap());
    }
    answers
}

pub(crate) async fn concurrent_syncs_make_one_record_per_account(store: Arc<dyn Store>) {
    // One account under that many ids, one id with that many accounts, and one account under one id.
    let answers = all_at_once(&store, |number| listed_as(10 + number, 1)).await;
    let winners: Vec<_> = answers.iter().filter(|answer| matches!(answer, Insert::Inserted(_))).collect();
    let [Insert::Inserted(winner)] = winners.as_slice() else { panic!("{winners:?}") };
    let losers = answers.iter().filter(|answer| **answer == Insert::Taken(winner.id.clone())).count();
    assert_eq!(losers, SYNCS as usize - 1, "{answers:?}");
    let free = listed(&*store, StateName::Available, SortRange::All).await;
    assert_eq!(free, [(**winner).clone()]);
    assert_eq!(identity(&*store, 1).await, Some(Identity::new(account(1), winner.id.clone())));

    let answers = all_at_once(&store, |number| listed_as(9, 100 + number)).await;
    let free = store.sandbox(&id(9)).await.unwrap().unwrap();
    assert!(matches!(free.state, State::Available));
    let exists = answers.iter().filter(|answer| **answer == Insert::Exists(Box::new(free.clone()))).count();
    assert_eq!(exists, SYNCS as usize - 1, "{answers:?}");
    let mut identities = 0;
    for number in 0..SYNCS {
        identities += usize::from(identity(&*store, 100 + number).await.is_some());
    }
    assert_eq!(identities, 1, "who lost left no identity behind");

    let answers = all_at_once(&store, |_| new_sandbox(2)).await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Insert::Inserted(_))).count(), 1);
}
