//! Requests to one node, which its runner answers. They do not wait for a queue group: a node without a runner is reported at
//! once.

use super::{BusError, Context, Handler, Reply, RequestError};
use async_trait::async_trait;
use bytes::Bytes;
use contract::{Fault, FaultCode, NodeVerb, Verb};
use domain::NodeId;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What names a request: a verb of the workers, or one of a node.
pub trait RequestVerb: Copy + Debug + Send + Sync + 'static {
    /// Last token of its subject.
    fn as_str(self) -> &'static str;

    /// The failure of a request whose end the caller did not see.
    fn unseen_end(self, code: FaultCode, words: &str) -> Fault;

    /// Whether it may take as long as its caller wants, so that it must not take the places of other requests.
    fn is_long(self) -> bool;

    /// Whether it is answered whatever the clock of the process says.
    fn is_timeless(self) -> bool;

    /// Whether it is answered on a table that was restored to an earlier time.
    fn is_for_restored_tables(self) -> bool;
}

/// The caller's side of requests to nodes.
#[async_trait]
pub trait NodeRequests: Send + Sync {
    /// Sends a request to the runner of a node and waits at most `timeout`.
    async fn request_node(
        &self,
        node: &NodeId,
        verb: NodeVerb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RequestError>;
}

/// The runner's side of requests to its node.
#[async_trait]
pub trait ServeNode: Send + Sync {
    /// Answers the requests to `node` until `stop`, with at most `in_flight_max` in progress, and as many that are
    /// [long](RequestVerb::is_long); a further one is refused at once. Then it takes no more, finishes what it has, and returns without losing a request.
    async fn serve_node(
        &self,
        node: &NodeId,
        handler: Arc<dyn Handler<NodeVerb>>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError>;
}

impl RequestVerb for Verb {
    fn as_str(self) -> &'static str {
        self.as_str()
    }

    fn unseen_end(self, code: FaultCode, words: &str) -> Fault {
        self.unseen_end(code, words)
    }

    fn is_long(self) -> bool {
        false
    }

    fn is_timeless(self) -> bool {
        self == Self::Health
    }

    fn is_for_restored_tables(self) -> bool {
        self.is_for_restored_tables()
    }
}

impl RequestVerb for NodeVerb {
    fn as_str(self) -> &'static str {
        self.as_str()
    }

    fn unseen_end(self, code: FaultCode, words: &str) -> Fault {
        Fault::new(code, words)
    }

    fn is_long(self) -> bool {
        self == Self::Execute
    }

    /// What a node has does not depend on the time.
    fn is_timeless(self) -> bool {
        self == Self::Inventory
    }

    /// A node has no table; those who ask have looked at it.
    fn is_for_restored_tables(self) -> bool {
        true
    }
}
