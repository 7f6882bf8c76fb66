//! Requests to one node: the same as those to workers, on subjects of the node and without a queue group.

use super::NatsBus;
use super::serving::Served;
use async_trait::async_trait;
use bytes::Bytes;
use contract::NodeVerb;
use domain::NodeId;
use ports::bus::{BusError, Context, Handler, NodeRequests, Reply, RequestError, ServeNode};
use std::sync::Arc;
use std::time::Duration;
use strum::IntoEnumIterator as _;
use tokio_util::sync::CancellationToken;

#[async_trait]
impl NodeRequests for NatsBus {
    async fn request_node(
        &self,
        node: &NodeId,
        verb: NodeVerb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let subject = self.config.subjects.node_request(node, verb);
        self.ask(subject, context, body, timeout).await.map_err(|unanswered| unanswered.reason)
    }
}

#[async_trait]
impl ServeNode for NatsBus {
    async fn serve_node(
        &self,
        node: &NodeId,
        handler: Arc<dyn Handler<NodeVerb>>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let subjects = NodeVerb::iter().map(|verb| (verb, self.config.subjects.node_request(node, verb)));
        // The runner is the only one that answers for its node, so there is nothing to share.
        let served = Served { subjects: subjects.collect(), queue_group: None };
        self.serve_requests(served, handler, in_flight_max, stop).await
    }
}
