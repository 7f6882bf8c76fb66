//! An expiry run reads in proportion to the number of leases that have ended, not to the number of all leases.

use crate::world::{GRACE, HOUR, NOW, claim, expire, id, new_sandbox, owner, reconciler};
use async_trait::async_trait;
use domain::{DeletionCause, Epoch, StateName, UnixSeconds};
use parking_lot::Mutex;
use ports::clock::Clock as _;
use ports::store::{Page, PageCursor, StateQuery, Store, StoreError, Write};
use std::collections::BTreeSet;
use std::sync::Arc;
use testkit::clock::ManualClock;
use testkit::interposed::{Call, InterposedStore, Interposer};
use testkit::provider::FakeProvider;
use testkit::store::MemoryStore;

const HELD: usize = 10_000;
const DUE: usize = 100;
/// Shards of the index; a run queries each once.
const SHARDS: u16 = 8;

/// Counts what is read, and releases sandboxes at the same moment as another worker would end their leases.
#[derive(Debug, Default)]
struct Watch {
    counts: Mutex<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    pages: usize,
    sandboxes_read: usize,
    writes: usize,
}

#[async_trait]
impl Interposer for Watch {
    async fn before(&self, call: Call) -> Result<(), StoreError> {
        let mut counts = self.counts.lock();
        match call.operation {
            "page" => counts.pages += 1,
            "sandbox" => counts.sandboxes_read += 1,
            "expire" => counts.writes += 1,
            _ => {}
        }
        Ok(())
    }

    async fn after(&self, _: Call) -> Result<(), StoreError> {
        Ok(())
    }

    async fn page(
        &self,
        inner: &dyn Store,
        query: &StateQuery,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        let page = inner.page(query, after, limit).await?;
        self.counts.lock().sandboxes_read += page.sandboxes.len();
        Ok(page)
    }
}

impl Watch {
    fn take(&self) -> Counts {
        std::mem::take(&mut *self.counts.lock())
    }
}

/// A store with [`HELD`] leases: [`DUE`] ended one grace period ago, the others end in an hour.
async fn held() -> (Arc<MemoryStore>, ManualClock) {
    let store = Arc::new(MemoryStore::new(SHARDS));
    for number in 0..HELD {
        store.insert(&new_sandbox(number), NOW).await.unwrap();
        let seen = store.sandbox(&id(number)).await.unwrap().unwrap();
        let expires_at = if number < DUE { NOW } else { NOW.after(HOUR) };
        claim(store.as_ref(), &seen, number, expires_at).await.unwrap();
    }
    let clock = ManualClock::at(NOW);
    clock.advance(GRACE);
    (store, clock)
}

#[tokio::test]
async fn run_reads_only_due_leases_and_a_second_has_nothing_left() {
    let (store, clock) = held().await;
    let watch = Arc::new(Watch::default());
    let watched: Arc<dyn Store> =
        Arc::new(InterposedStore::over(store.clone() as Arc<dyn Store>, watch.clone()));
    let reconciler = reconciler(watched, Arc::new(FakeProvider::new()), &clock);
    let first = expire(&reconciler).await;
    assert_eq!((first.due, first.expired), (DUE as u64, DUE as u64));
    let counts = watch.take();
    assert_eq!((counts.sandboxes_read, counts.writes), (DUE, DUE), "{counts:?}");
    assert_eq!(counts.pages, usize::from(SHARDS), "{counts:?}");
    let second = expire(&reconciler).await;
    assert_eq!((second.due, watch.take().writes), (0, 0));
    for number in [0, DUE - 1] {
        let sandbox = store.sandbox(&id(number)).await.unwrap().unwrap();
        assert_eq!(sandbox.deletion().unwrap().cause, DeletionCause::Expired);
    }
    assert_eq!(store.sandbox(&id(DUE)).await.unwrap().unwrap().state.name(), StateName::Allocated);
}

#[tokio::test]
async fn every_lease_ends_once_by_expiry_or_release() {
    let (store, clock) = held().await;
    let store: Arc<dyn Store> = store;
    let reconciler = reconciler(store.clone(), Arc::new(FakeProvider::new()), &clock);
    let now = clock.now();
    let releasing = async {
        let mut released = BTreeSet::new();
        for number in (0..DUE).rev() {
            tokio::task::yield_now().await;
            if let Write::Done(_) = store.release(&id(number), &owner(number), None, None, now).await.unwrap()
            {
                released.insert(number);
            }
        }
        released
    };
    let running = async {
        let mut expired = 0;
        for _ in 0..2 {
            expired += expire(&reconciler).await.expired;
        }
        expired
    };
    let (released, expired) = tokio::join!(releasing, running);
    assert_eq!(released.len() as u64 + expired, DUE as u64, "each of them ended once");
    for number in 0..DUE {
        let sandbox = store.sandbox(&id(number)).await.unwrap().unwrap();
        let deletion = sandbox.deletion().expect("it has ended");
        let cause = if released.contains(&number) { DeletionCause::Released } else { DeletionCause::Expired };
        assert_eq!((deletion.cause, sandbox.version.get()), (cause, 3), "{number}");
        // The ended lease is fenced by its epoch.
        let late = store.expire(&id(number), Epoch::new(1), UnixSeconds::new(u64::MAX), now).await.unwrap();
        assert!(matches!(late, Write::Lost(Some(_))));
    }
}
