//! The runners of nodes, with answers that a test can script.

use async_trait::async_trait;
use bytes::Bytes;
use contract::{Fault, NodeVerb};
use domain::NodeId;
use parking_lot::Mutex;
use ports::bus::{Context, NodeRequests, Reply, RequestError};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// Nodes whose answers a test can script. Without a script no node has a runner.
#[derive(Debug, Default)]
pub struct FakeNodes {
    inside: Mutex<Inside>,
}

/// A request, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCall {
    /// The node.
    pub node: NodeId,
    /// The verb.
    pub verb: NodeVerb,
    /// The headers.
    pub context: Context,
    /// The body.
    pub body: Bytes,
    /// How long the caller would wait.
    pub timeout: Duration,
}

#[derive(Debug, Default)]
struct Inside {
    script: VecDeque<Result<Reply, RequestError>>,
    calls: Vec<NodeCall>,
}

// === impl FakeNodes ===

impl FakeNodes {
    /// Nodes without runners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Scripts the next answer, whatever node and verb it is about.
    pub fn script(&self, answer: Result<Reply, RequestError>) {
        self.inside.lock().script.push_back(answer);
    }

    /// Scripts the next answer as a reply with that body.
    pub fn script_reply(&self, body: &impl Serialize) {
        self.script(Ok(reply(body, false)));
    }

    /// Scripts the next answer as that failure.
    pub fn script_fault(&self, fault: &Fault) {
        self.script(Ok(reply(&fault.body("r-1"), true)));
    }

    /// Every request so far.
    #[must_use]
    pub fn calls(&self) -> Vec<NodeCall> {
        self.inside.lock().calls.clone()
    }
}

fn reply(body: &impl Serialize, is_fault: bool) -> Reply {
    Reply { outcome: None, is_fault, body: serde_json::to_vec(body).unwrap_or_default().into() }
}

#[async_trait]
impl NodeRequests for FakeNodes {
    async fn request_node(
        &self,
        node: &NodeId,
        verb: NodeVerb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let mut inside = self.inside.lock();
        inside.calls.push(NodeCall { node: node.clone(), verb, context: context.clone(), body, timeout });
        inside.script.pop_front().unwrap_or(Err(RequestError::NoResponders))
    }
}
