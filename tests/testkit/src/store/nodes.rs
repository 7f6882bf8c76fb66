//! Nodes in memory.

use super::MemoryStore;
use async_trait::async_trait;
use domain::{Node, NodeId};
use ports::store::{EntryPage, NodeItems, StoreError};

#[async_trait]
impl NodeItems for MemoryStore {
    async fn node(&self, id: &NodeId) -> Result<Option<Node>, StoreError> {
        Ok(self.tables().nodes.get(id).cloned())
    }

    async fn write_node(&self, seen: Option<&Node>, next: &Node) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let condition = |node: &Node| (node.generation, node.drain);
        let is_as_seen = tables.nodes.get(&next.id).map(condition) == seen.map(condition);
        if is_as_seen {
            tables.nodes.insert(next.id.clone(), next.clone());
        }
        Ok(is_as_seen)
    }

    async fn nodes(&self, after: Option<&NodeId>, limit: u16) -> Result<EntryPage<Node, NodeId>, StoreError> {
        let tables = self.tables();
        let rest = tables.nodes.values().filter(|node| after.is_none_or(|after| node.id > *after));
        let entries: Vec<_> = rest.take(limit.max(1).into()).cloned().collect();
        let next = super::templates::full(&entries, limit).map(|last| last.id.clone());
        Ok(EntryPage { entries, next })
    }
}
