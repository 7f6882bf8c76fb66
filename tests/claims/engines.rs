//! The engines that the claims run on; every world has a separate store.

use harness::dynamodb;
use ports::store::Store;
use std::sync::Arc;
use testkit::store::MemoryStore;

/// Few, so that a round over them is short, and more than one, so that sharding has an effect.
const SHARDS: u16 = 2;

/// Where the stores come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// In memory: every interleaving.
    Memory,
    /// The embedded DynamoDB: real conditional writes, and fewer interleavings.
    Dynoxide,
}

// === impl Engine ===

impl Engine {
    pub(crate) async fn fresh_store(self) -> Arc<dyn Store> {
        self.fresh_store_of(SHARDS).await
    }

    /// A store whose index has that many shards.
    pub(crate) async fn fresh_store_of(self, shards: u16) -> Arc<dyn Store> {
        match self {
            Self::Memory => Arc::new(MemoryStore::new(shards)),
            Self::Dynoxide => Arc::new(dynamodb::fresh_store(dynamodb::dynoxide_endpoint(), shards).await),
        }
    }

    /// Whether to leave out most of what the store in memory has covered.
    pub(crate) fn is_slow(self) -> bool {
        self == Self::Dynoxide
    }
}
