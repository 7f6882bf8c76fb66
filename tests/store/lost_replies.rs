//! After a lost reply the client repeats a write that has already taken effect.

use crate::engines::{SHARDS, Table};
use crate::fixtures::{KEEP_UNTIL, added, claim_key, done, ending, grant_of, lost, record};
use ::dynamodb::DynamoStore;
use domain::Transition;
use harness::dynamodb;
use harness::lossy_proxy::LossyProxy;
use ports::store::{Layout as _, MoveClaim, OpenClaim, Store};
use std::sync::Arc;

/// The same table through a proxy.
async fn lossy(table: &Table) -> (LossyProxy, Arc<dyn Store>) {
    table.store.ensure_table().await.unwrap();
    let proxy = LossyProxy::start(table.endpoint).await;
    let config = dynamodb::config(proxy.endpoint(), &table.name, SHARDS);
    let store = Arc::new(DynamoStore::connect(&config).await);
    store.ping().await.unwrap();
    // The store reads the shards once; done here, so that the next reply is the write's.
    store.shards().await.unwrap();
    (proxy, store)
}

pub(crate) async fn open_claim_with_a_lost_reply_succeeds(table: Table) {
    let (proxy, store) = lossy(&table).await;
    let sandbox = added(&table.store, 1).await;
    let wanted = record(&claim_key("owner-1", "key-1"), &sandbox.candidate());
    proxy.lose_next_reply();
    assert_eq!(store.open_claim(&wanted, KEEP_UNTIL).await.unwrap(), OpenClaim::Opened);
    assert_eq!(proxy.lost(), 1);
    assert_eq!(table.store.find_claim(&wanted.claim).await.unwrap(), Some(wanted));
}

pub(crate) async fn move_claim_with_a_lost_reply_succeeds(table: Table) {
    let (proxy, store) = lossy(&table).await;
    let (a, b) = (added(&table.store, 1).await, added(&table.store, 2).await);
    let from = record(&claim_key("owner-1", "key-1"), &a.candidate());
    store.open_claim(&from, KEEP_UNTIL).await.unwrap();
    proxy.lose_next_reply();
    let moved = store.move_claim(&from, &from.moved_to(b.candidate(), []), KEEP_UNTIL).await.unwrap();
    assert_eq!((moved, proxy.lost()), (MoveClaim::Moved, 1));
}

pub(crate) async fn grant_with_a_lost_reply_returns_our_lease(table: Table) {
    let (proxy, store) = lossy(&table).await;
    let sandbox = added(&table.store, 1).await;
    let grant = grant_of(&sandbox.candidate(), &claim_key("owner-1", "key-1"));
    proxy.lose_next_reply();
    let found = lost(store.grant(&grant).await.unwrap());
    assert_eq!(proxy.lost(), 1);
    assert_eq!(found, sandbox.apply(&Transition::grant(&grant)).unwrap(), "granted once, and to us");
}

pub(crate) async fn attempt_with_a_lost_reply_is_counted_once(table: Table) {
    let (proxy, store) = lossy(&table).await;
    let sandbox = ending(&table.store, 1).await;
    proxy.lose_next_reply();
    let found = lost(store.note_attempt(&sandbox.id, sandbox.epoch, 0, "no", None).await.unwrap());
    assert_eq!((found.deletion().unwrap().attempts, proxy.lost()), (1, 1));
    let next = done(store.note_attempt(&sandbox.id, sandbox.epoch, 1, "no", None).await.unwrap());
    assert_eq!(next.deletion().unwrap().attempts, 2);
}
