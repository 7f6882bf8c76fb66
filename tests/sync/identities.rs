//! Two syncs see one account under two ids, and one of them pauses at every possible call: the account ends with
//! exactly one live record.

use crate::world::{HOUR, NOW, account, claim, id, owner, reconciler, sync};
use domain::{ExternalId, State};
use ports::provider::Account;
use ports::store::{Store, Write};
use std::sync::Arc;
use testkit::clock::ManualClock;
use testkit::faulty::{Fault, FaultyStore};
use testkit::provider::FakeProvider;
use testkit::store::MemoryStore;

/// Accounts that both listings show in the same way.
const OTHERS: usize = 3;
/// The number that the account has from some moment on.
const NUMBER: usize = 7;

fn external_id() -> ExternalId {
    ExternalId::parse(&account(NUMBER).external_id).unwrap()
}

/// A provider that lists the account with this id, and the other accounts.
fn listing_it_as(id: &str) -> Arc<FakeProvider> {
    let provider = FakeProvider::new();
    let it = Account { id: id.to_owned(), ..account(NUMBER) };
    provider.set_accounts((0..OTHERS).map(account).chain([it]).collect());
    Arc::new(provider)
}

/// Live records of the account under any id; tombstones do not count.
async fn live_records(store: &dyn Store) -> usize {
    let mut live = 0;
    for id in [id(NUMBER), domain::SandboxId::parse("u-7").unwrap()] {
        let found = store.sandbox(&id).await.unwrap();
        let stands_for_it = found.is_some_and(|sandbox| {
            sandbox.external_id == external_id() && !matches!(sandbox.state, State::Deleted(_))
        });
        live += usize::from(stands_for_it);
    }
    live
}

/// The number of store calls of a first sync.
async fn calls_of_a_sync() -> usize {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new(1))));
    let first = reconciler(faulty.clone(), listing_it_as("u-7"), &ManualClock::at(NOW));
    assert_eq!(sync(&first).await.inserted, OTHERS as u64 + 1);
    faulty.calls().len()
}

#[tokio::test]
async fn sync_stalled_at_any_call_makes_no_duplicate_record() {
    for call in 0..calls_of_a_sync().await {
        for pause in [Fault::PauseBefore, Fault::PauseAfter] {
            let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(1));
            let faulty = Arc::new(FaultyStore::new(Arc::clone(&memory)).with(call, pause));
            let clock = ManualClock::at(NOW);
            let first = reconciler(faulty.clone(), listing_it_as("u-7"), &clock);
            let stalled = tokio::spawn(async move { sync(&first).await });
            faulty.paused().await;
            // Meanwhile the provider gives the account its number.
            let second = reconciler(Arc::clone(&memory), listing_it_as("7"), &clock);
            let report = sync(&second).await;
            assert_eq!(report.status.as_str(), "completed", "{pause:?} of {call}: {report:?}");
            faulty.resume();
            stalled.await.unwrap();
            assert_eq!(live_records(memory.as_ref()).await, 1, "{pause:?} of {call}");
            let identity = memory.identity(&external_id()).await.unwrap().expect("an identity");
            let named =
                memory.sandbox(&identity.sandbox_id).await.unwrap().expect("the record that it names");
            assert_eq!((named.external_id, identity.duplicates.len()), (external_id(), 0));
            // From now on, neither listing changes anything.
            let report = sync(&second).await;
            assert_eq!((report.unchanged, report.identity_taken), (OTHERS as u64 + 1, 0), "{report:?}");
        }
    }
}

#[tokio::test]
async fn stalled_sync_restores_no_used_account() {
    for call in 0..calls_of_a_sync().await {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(1));
        let faulty = Arc::new(FaultyStore::new(Arc::clone(&memory)).with(call, Fault::PauseBefore));
        let clock = ManualClock::at(NOW);
        let first = reconciler(faulty.clone(), listing_it_as("u-7"), &clock);
        let stalled = tokio::spawn(async move { sync(&first).await });
        faulty.paused().await;
        // Meanwhile it is listed, claimed and deleted.
        let second = reconciler(Arc::clone(&memory), listing_it_as("7"), &clock);
        sync(&second).await;
        let identity = memory.identity(&external_id()).await.unwrap().expect("an identity");
        let seen = memory.sandbox(&identity.sandbox_id).await.unwrap().expect("its record");
        claim(memory.as_ref(), &seen, NUMBER, NOW.after(HOUR)).await.expect("it is free");
        let Write::Done(ending) = memory.release(&seen.id, &owner(NUMBER), None, None, NOW).await.unwrap()
        else {
            panic!("held by another owner")
        };
        memory.finish_deletion(&seen.id, ending.epoch, NOW, NOW.after(HOUR), None).await.unwrap();
        faulty.resume();
        stalled.await.unwrap();
        assert_eq!(live_records(memory.as_ref()).await, 0, "before {call}");
    }
}
