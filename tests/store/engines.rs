//! The engines that the suite runs on.

use common::store::Store;
use common::store::dynamodb::DynamoStore;
use common::store::memory::MemoryStore;
use harness::{dynamodb, dynamodb_local};
use std::sync::Arc;

/// Few, so that shards fill, and more than one, so that they matter.
pub(crate) const SHARDS: u16 = 3;

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

/// A table that is not made yet.
async fn table(endpoint: &'static str) -> Table {
    let name = dynamodb::fresh_table_name();
    let store = DynamoStore::connect(&dynamodb::config(endpoint, &name, SHARDS)).await;
    Table { endpoint, name, store }
}
