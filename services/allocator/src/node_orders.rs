//! Operators' requests about nodes: show them, take them out of use and put them back.

use crate::admission::Permit;
use crate::containers::ask;
use crate::{Allocator, decode, page_limit, parse_operator, store_fault};
use contract::nodes::{
    DRAIN_SECONDS_MAX, InventoryReply, InventoryRequest, NodeLoad, NodeOrder, NodeRequest, NodeView,
    NodesReply, NodesRequest,
};
use contract::{Fault, FaultCode, NodeVerb};
use domain::{Drain, Node, NodeId};
use futures_util::future::join_all;
use ports::bus::Request;
use ports::store::cursor;
use runtime::requests::{parse_node, place};
use std::time::Duration;

/// How long a node may take to say what it offers; it needs some milliseconds.
const LOAD_TIMEOUT: Duration = Duration::from_secs(1);
/// Attempts of one change; each further one means that another writer was faster.
const TRIES_MAX: usize = 4;

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn nodes(&self, request: &Request) -> Result<NodesReply, Fault> {
        let NodesRequest { cursor, limit } = decode(&request.body)?;
        let after = place(cursor.as_deref(), |text| NodeId::parse(text).ok())?;
        let page = self.ports.store.nodes(after.as_ref(), page_limit(limit)?).await;
        let page = page.map_err(|error| store_fault(request, &error))?;
        let views = page.entries.iter().map(|node| self.view_of_node(request, node));
        Ok(NodesReply {
            nodes: join_all(views).await,
            cursor: page.next.map(|next| cursor::encode(&[next.as_str()])),
        })
    }

    pub(crate) async fn node(&self, request: &Request) -> Result<NodeView, Fault> {
        let NodeRequest { node } = decode(&request.body)?;
        let node = self.find_node(request, &parse_node(&node)?).await?;
        Ok(self.view_of_node(request, &node).await)
    }

    /// Lets a node take no more work. Its runner learns of that within seconds; the reconciler empties it. A repeat keeps the
    /// time of the first order and sets the deadline anew.
    pub(crate) async fn drain_node(&self, request: &Request, permit: &Permit) -> Result<NodeView, Fault> {
        let order: NodeOrder = decode(&request.body)?;
        let now = self.ports.clock.now();
        let deadline = match order.leases_end_in_seconds {
            Some(seconds) if seconds > DRAIN_SECONDS_MAX => {
                let problem = format!("must be at most {DRAIN_SECONDS_MAX}");
                return Err(Fault::invalid("leases_end_in_seconds", problem));
            }
            seconds => seconds.map(|seconds| now.after(Duration::from_secs(seconds))),
        };
        let drain = |seen: &Node| {
            let since = seen.drain.map_or(now, |drain| drain.since);
            Some(Drain { since, deadline })
        };
        self.change_node(request, permit, &order, drain).await
    }

    pub(crate) async fn activate_node(&self, request: &Request, permit: &Permit) -> Result<NodeView, Fault> {
        let order: NodeOrder = decode(&request.body)?;
        if order.leases_end_in_seconds.is_some() {
            return Err(Fault::invalid("leases_end_in_seconds", "is for `drain-node` only"));
        }
        self.change_node(request, permit, &order, |_| None).await
    }

    async fn change_node(
        &self,
        request: &Request,
        permit: &Permit,
        order: &NodeOrder,
        drain: impl Fn(&Node) -> Option<Drain> + Send + Sync,
    ) -> Result<NodeView, Fault> {
        let NodeOrder { node, leases_end_in_seconds: _, by } = order;
        let (id, by) = (parse_node(node)?, parse_operator(request, by.as_deref())?);
        for _ in 0..TRIES_MAX {
            let seen = self.find_node(request, &id).await?;
            let next = Node { drain: drain(&seen), ..seen.clone() };
            if next == seen {
                let _waiting = permit.idle();
                return Ok(self.view_of_node(request, &seen).await);
            }
            let written = self.ports.store.write_node(Some(&seen), &next).await;
            if written.map_err(|error| store_fault(request, &error))? {
                tracing::warn!(
                    request.id = request.context.request_id,
                    node.id = id.as_str(),
                    by = by.as_str(),
                    "{by} {} node {id}",
                    if next.drain.is_some() { "drains" } else { "activates" },
                );
                let _waiting = permit.idle();
                return Ok(self.view_of_node(request, &next).await);
            }
        }
        Err(Fault::new(FaultCode::Contended, "the node is being changed by others; repeat the same request"))
    }

    async fn find_node(&self, request: &Request, id: &NodeId) -> Result<Node, Fault> {
        let found = self.ports.store.node(id).await.map_err(|error| store_fault(request, &error))?;
        found.ok_or_else(|| Fault::new(FaultCode::NotFound, "there is no such node"))
    }

    async fn view_of_node(&self, request: &Request, node: &Node) -> NodeView {
        NodeView::of(node, self.load_of(request, node).await)
    }

    /// What a node says about itself; none if it does not answer, or not as the runner that is registered.
    async fn load_of(&self, request: &Request, node: &Node) -> Option<NodeLoad> {
        if node.lost_at.is_some() {
            return None;
        }
        let (nodes, context) = (self.ports.nodes.as_ref(), &request.context);
        let body = InventoryRequest::default();
        let asked = ask(nodes, &node.id, NodeVerb::Inventory, context, &body, LOAD_TIMEOUT).await;
        let InventoryReply { generation, load, .. } = asked.ok()?;
        load.filter(|_| generation == node.generation)
    }
}

#[cfg(test)]
mod tests;
