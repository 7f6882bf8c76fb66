//! Requests to this node: remove the containers of a sandbox, store its lease, run a command, and more.

use crate::Node;
use crate::metrics::Removal;
use async_trait::async_trait;
use contract::nodes::{LeaseReply, LeaseRequest, NodeLease, RemoveContainersReply, RemoveContainersRequest};
use contract::{Fault, FaultCode, NodeVerb};
use ports::bus::{Answer, Dropped, Handler, Request};
use ports::engine::{EngineError, Incarnation};
use runtime::requests::{decode, parse_incarnation, parse_sandbox, plain};
use std::collections::{BTreeMap, BTreeSet};

#[async_trait]
impl Handler<NodeVerb> for Node {
    async fn handle(&self, request: Request<NodeVerb>) -> Answer {
        let answer = match request.verb {
            NodeVerb::Remove => plain(self.remove_containers(&request).await),
            NodeVerb::Lease => plain(self.store_lease(&request).await),
            NodeVerb::Execute => plain(self.execute(&request).await),
            NodeVerb::Inventory => plain(self.inventory(&request).await),
            NodeVerb::Runtime => plain(self.change_runtime(&request).await),
        };
        let outcome = answer.body.as_ref().err().map_or("ok", |fault| fault.code.as_str());
        self.metrics.answered(request.verb, outcome);
        answer
    }

    fn dropped(&self, verb: NodeVerb, request_id: &str, why: Dropped) {
        self.metrics.answered(verb, why.as_str());
        tracing::warn!(
            request.id = request_id,
            request.verb = verb.as_str(),
            reason = why.as_str(),
            "a request was dropped"
        );
    }
}

// === impl Node ===

impl Node {
    /// Removes every container of a sandbox that has ended, also those that only the engine knows.
    async fn remove_containers(&self, request: &Request<NodeVerb>) -> Result<RemoveContainersReply, Fault> {
        let RemoveContainersRequest { sandbox_id } = decode(&request.body)?;
        let sandbox = parse_sandbox(&sandbox_id)?;
        let listed = self.engine.list().await.map_err(|error| {
            tracing::warn!(sandbox.id = sandbox_id, error = %error, "the engine cannot list its containers");
            unavailable("the engine does not answer; repeat the request")
        })?;
        let listed = listed.iter().filter(|container| container.sandbox == sandbox);
        let known = self.containers.of_sandbox(&sandbox).into_iter().map(|(incarnation, _)| incarnation);
        let own: BTreeSet<Incarnation> = listed.map(|container| container.incarnation).chain(known).collect();
        let mut removed: u32 = 0;
        for incarnation in &own {
            let done = self.remove(incarnation, Removal::Requested).await;
            done.map_err(|_| unavailable("a container cannot be removed now; repeat the request"))?;
            removed = removed.saturating_add(1);
        }
        if removed > 0 {
            self.containers.persist_or_log().await;
        }
        Ok(RemoveContainersReply { removed })
    }

    /// Stores a lease. It answers when the lease is on the disk and the container in its network, because its holder learns of
    /// it then.
    async fn store_lease(&self, request: &Request<NodeVerb>) -> Result<LeaseReply, Fault> {
        let LeaseRequest { sandbox_id, incarnation, lease } = decode(&request.body)?;
        let (sandbox, incarnation) = (parse_sandbox(&sandbox_id)?, parse_incarnation(&incarnation)?);
        let kept = self.containers.note_lease(&sandbox, &incarnation, lease).ok_or_else(no_container)?;
        self.containers.persist().await.map_err(|error| {
            tracing::error!(error = %error, "the state of the runner cannot be written");
            unavailable("the node cannot store the lease; repeat the request")
        })?;
        match self.attach_network(&incarnation).await {
            Ok(()) => {}
            Err(EngineError::Gone) => return Err(no_container()),
            Err(_) => {
                return Err(unavailable(
                    "the container cannot be attached to its network now; repeat the request",
                ));
            }
        }
        // The environment of a claim goes one way only.
        Ok(LeaseReply { lease: NodeLease { env: BTreeMap::new(), ..kept } })
    }
}

pub(crate) fn no_container() -> Fault {
    Fault::new(FaultCode::NotFound, "this node has no such container")
}

pub(crate) fn unavailable(message: &str) -> Fault {
    Fault::new(FaultCode::UpstreamUnavailable, message)
}

#[cfg(test)]
mod tests;
