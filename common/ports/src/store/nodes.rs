//! The items of nodes.

use super::{EntryPage, StoreError};
use async_trait::async_trait;
use domain::{Node, NodeId};

/// Stores nodes. Part of every store.
#[async_trait]
pub trait NodeItems: Send + Sync {
    /// The node, by a strongly consistent read.
    async fn node(&self, id: &NodeId) -> Result<Option<Node>, StoreError>;

    /// Stores the node if the stored one has the generation and the order to drain of `seen` (none: if there is none); false if
    /// not.
    async fn write_node(&self, seen: Option<&Node>, next: &Node) -> Result<bool, StoreError>;

    /// One page of the nodes, at most `limit`, by name. It comes from an index, which may lag behind.
    async fn nodes(&self, after: Option<&NodeId>, limit: u16) -> Result<EntryPage<Node, NodeId>, StoreError>;
}
