//! The items of pools, which say what each pool is. A pool without an item is one that an older build left.

use super::{Layout, StoreError, unless_unreadable};
use async_trait::async_trait;
use domain::{PoolName, PoolSpec};

/// Stores pools. Part of every store.
#[async_trait]
pub trait PoolItems: Layout {
    /// The pool, by a strongly consistent read.
    async fn pool_spec(&self, pool: &PoolName) -> Result<Option<PoolSpec>, StoreError>;

    /// Stores `next` if the stored pool has the version `seen` (none: if it has no item), and adds its name to those
    /// that the table knows; false if the condition does not hold.
    async fn write_pool(&self, seen: Option<u64>, next: &PoolSpec) -> Result<bool, StoreError>;

    /// Removes the item if the pool has the version `seen`; returns whether it did. The table keeps its name, so that
    /// its sandboxes are maintained.
    async fn remove_pool(&self, pool: &PoolName, seen: u64) -> Result<bool, StoreError>;

    /// Every pool that has an item which this build can read.
    async fn pool_specs(&self) -> Result<Vec<PoolSpec>, StoreError> {
        let mut specs = Vec::new();
        for pool in self.pools().await? {
            specs.extend(unless_unreadable(self.pool_spec(&pool).await)?);
        }
        Ok(specs)
    }
}
