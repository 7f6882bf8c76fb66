//! The engines that the suite runs on.

use ::dynamodb::{DynamoConfig, DynamoStore};
use harness::{dynamodb, dynamodb_local};
use ports::store::Store;
use std::sync::Arc;
use std::time::Duration;
use testkit::store::MemoryStore;

/// Few, so that each shard gets sandboxes, and more than one, so that sharding has an effect.
pub(crate) const SHARDS: u16 = 3;

/// Settings of one of several processes: the number of shards that it asks for, and the index lag that it allows for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Set {
    pub(crate) shards: u16,
    pub(crate) index_lag_seconds: u64,
}

/// A table of one test on one DynamoDB engine.
pub(crate) struct Table {
    pub(crate) endpoint: &'static str,
    pub(crate) name: String,
    pub(crate) store: DynamoStore,
}

pub(crate) async fn memory() -> Option<Arc<dyn Store>> {
    Some(Arc::new(MemoryStore::new(SHARDS)))
}

pub(crate) async fn dynoxide() -> Option<Arc<dyn Store>> {
    Some(Arc::new(dynamodb::fresh_store(dynamodb::dynoxide_endpoint(), SHARDS).await))
}

pub(crate) async fn dynamodb_local() -> Option<Arc<dyn Store>> {
    Some(Arc::new(dynamodb::fresh_store(dynamodb_local::endpoint()?, SHARDS).await))
}

pub(crate) async fn dynoxide_table() -> Option<Table> {
    Some(table(dynamodb::dynoxide_endpoint()).await)
}

pub(crate) async fn dynamodb_local_table() -> Option<Table> {
    Some(table(dynamodb_local::endpoint()?).await)
}

pub(crate) async fn dynoxide_indexes() -> Option<Table> {
    dynoxide_table().await
}

pub(crate) async fn dynamodb_local_indexes() -> Option<Table> {
    Some(table(dynamodb_local::endpoint_for_indexes()?).await)
}

/// A table that several processes use.
pub(crate) enum Shared {
    Memory(MemoryStore),
    Dynamo { endpoint: &'static str, name: String },
}

pub(crate) async fn shared_memory() -> Option<Shared> {
    Some(Shared::Memory(MemoryStore::new(SHARDS)))
}

pub(crate) async fn shared_dynoxide() -> Option<Shared> {
    Some(shared(dynamodb::dynoxide_endpoint()).await)
}

pub(crate) async fn shared_dynamodb_local() -> Option<Shared> {
    Some(shared(dynamodb_local::endpoint()?).await)
}

async fn shared(endpoint: &'static str) -> Shared {
    let Table { endpoint, name, store } = table(endpoint).await;
    store.ensure_table().await.expect("the engine makes tables");
    Shared::Dynamo { endpoint, name }
}

impl Shared {
    /// One more process.
    pub(crate) async fn process(&self, set: Set) -> Arc<dyn Store> {
        let index_lag = Duration::from_secs(set.index_lag_seconds);
        match self {
            Self::Memory(store) => Arc::new(store.set_otherwise(set.shards, index_lag)),
            Self::Dynamo { endpoint, name } => {
                let config = DynamoConfig { index_lag, ..dynamodb::config(endpoint, name, set.shards) };
                Arc::new(DynamoStore::connect(&config).await)
            }
        }
    }
}

/// A table that does not exist yet.
pub(crate) async fn table(endpoint: &'static str) -> Table {
    let name = dynamodb::fresh_table_name();
    let store = DynamoStore::connect(&dynamodb::config(endpoint, &name, SHARDS)).await;
    Table { endpoint, name, store }
}
