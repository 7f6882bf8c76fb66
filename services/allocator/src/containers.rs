//! What allocators ask the node of a leased container: to know its lease, to run a command in it, and to start or stop it.

use crate::admission::Permit;
use crate::{Allocator, claims, decode, lookup, parse_actor, store_fault};
use contract::claims::{ClaimView, RuntimeRequest};
use contract::fault::FaultDetail;
use contract::nodes::{
    ContainerRuntimeReply, ContainerRuntimeRequest, ExecuteRequest, ExecutionRequest, ExecutionResult,
    LeaseReply, LeaseRequest, execution_seconds,
};
use contract::{Fault, FaultCode, NodeVerb};
use domain::{Descriptor, Epoch, NodeId, RuntimeAction, RuntimeChange, RuntimeState, Sandbox, State};
use ports::bus::{Context, NodeRequests, Request, RequestError};
use ports::store::Write;
use runtime::requests::parse_runtime_action;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Longest time for a node to store a lease, which takes it some milliseconds.
const LEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time for a node to start or stop a container: a main command may take some seconds to end.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(20);
/// Attempts to write what a node has done; each further one means that another writer was faster.
const TRIES_MAX: usize = 4;
/// Time that a node gets beyond that of the command: to start it, to end it and to answer.
const EXECUTION_SLACK: Duration = Duration::from_secs(5);

/// Where the container of a sandbox is.
struct Place {
    node: NodeId,
    incarnation: String,
}

// === impl Allocator ===

impl Allocator {
    /// Makes sure that the node of a leased container knows the lease: it ends it by itself if the fleet cannot.
    ///
    /// # Errors
    /// [`FaultCode::UpstreamUnavailable`] if the node has not stored it; the same request may be repeated.
    pub(crate) async fn ensure_node_knows(
        &self,
        request: &Request,
        permit: &Permit,
        sandbox: &Sandbox,
    ) -> Result<(), Fault> {
        let Some((place, body)) = self.lease_message(sandbox) else { return Ok(()) };
        // A slow node is no slow table.
        let _waiting = permit.idle();
        let nodes = self.ports.nodes.as_ref();
        let asked = ask(nodes, &place.node, NodeVerb::Lease, &request.context, &body, LEASE_TIMEOUT);
        let LeaseReply { lease } = asked.await.map_err(|fault| match fault.code {
            // The record names it: it is being created anew, or its loss is about to be recorded.
            FaultCode::NotFound => Fault::new(FaultCode::UpstreamUnavailable, &fault.message),
            _ => fault,
        })?;
        if (lease.epoch, lease.ends_at) >= (body.lease.epoch, body.lease.ends_at) {
            return Ok(());
        }
        tracing::error!(
            sandbox.id = sandbox.id.as_str(),
            "{} has stored another lease of {}",
            place.node,
            sandbox.id
        );
        Err(Fault::new(FaultCode::UpstreamUnavailable, "the node of the sandbox did not store the lease"))
    }

    /// Sends the node of a container that was just leased its lease. It does not delay the reply: the node asks for what
    /// it does not learn here.
    pub(crate) fn send_lease(&self, request: &Request, sandbox: &Sandbox) {
        let Some((place, body)) = self.lease_message(sandbox) else { return };
        let (nodes, context) = (Arc::clone(&self.ports.nodes), request.context.clone());
        self.announcing.spawn(async move {
            let verb = NodeVerb::Lease;
            let stored: Result<LeaseReply, Fault> =
                ask(nodes.as_ref(), &place.node, verb, &context, &body, LEASE_TIMEOUT).await;
            if let Err(fault) = stored {
                let (id, node, reason) = (&body.sandbox_id, &place.node, &fault.message);
                tracing::debug!(sandbox.id = id, "{node} did not store the lease of {id}: {reason}");
            }
        });
    }

    /// Runs a command in the caller's container and waits for its end.
    pub(crate) async fn execute(&self, request: &Request) -> Result<ExecutionResult, Fault> {
        let ExecutionRequest {
            sandbox_id,
            owner,
            lease_epoch,
            command,
            env,
            cwd,
            stdin,
            timeout_seconds,
            by: _,
        } = decode(&request.body)?;
        let (id, owner) = lookup::parse_target(request, &sandbox_id, &owner)?;
        let timeout_seconds = execution_seconds(timeout_seconds)?;
        let sandbox = self.own_sandbox(request, id.as_str(), &owner).await?;
        let place = self.usable(&sandbox, lease_epoch.map(Epoch::new))?;
        let Place { node, incarnation } = place;
        let body = ExecuteRequest { sandbox_id, incarnation, command, env, cwd, stdin, timeout_seconds };
        let timeout = Duration::from_secs(timeout_seconds) + EXECUTION_SLACK;
        let left = request.context.remaining(self.ports.clock.as_ref());
        let timeout = left.map_or(timeout, |left| left.min(timeout));
        // The node has as much time as the caller.
        let deadline_ms = self.ports.clock.now_ms().saturating_add(millis(timeout));
        let context = Context { deadline_ms: Some(deadline_ms), ..request.context.clone() };
        ask(self.ports.nodes.as_ref(), &node, NodeVerb::Execute, &context, &body, timeout).await
    }

    /// Starts, stops, restarts, pauses or resumes the caller's container. The node does it; then the record says so.
    pub(crate) async fn change_runtime(&self, request: &Request) -> Result<ClaimView, Fault> {
        let RuntimeRequest { sandbox_id, owner, action, lease_epoch, by } = decode(&request.body)?;
        let (id, owner) = lookup::parse_target(request, &sandbox_id, &owner)?;
        let (action, by) = (parse_runtime_action(&action)?, parse_actor(request, by.as_deref())?);
        let mut sandbox = self.own_sandbox(request, id.as_str(), &owner).await?;
        let epoch = lease_epoch.map(Epoch::new);
        let Place { node, incarnation } = self.usable(&sandbox, epoch)?;
        let body = ContainerRuntimeRequest {
            sandbox_id,
            incarnation: incarnation.clone(),
            action: action.as_str().to_owned(),
        };
        let left = request.context.remaining(self.ports.clock.as_ref());
        let timeout = left.map_or(RUNTIME_TIMEOUT, |left| left.min(RUNTIME_TIMEOUT));
        let (nodes, verb) = (self.ports.nodes.as_ref(), NodeVerb::Runtime);
        let done: ContainerRuntimeReply = ask(nodes, &node, verb, &request.context, &body, timeout).await?;
        // Others may have written meanwhile.
        sandbox = self.sandbox_of(request, id.as_str()).await?;
        for _ in 0..TRIES_MAX {
            // The lease may have ended meanwhile.
            if self.usable(&sandbox, epoch)?.incarnation != incarnation {
                break;
            }
            let is_known = RuntimeState::of(&sandbox.descriptor) == done.runtime.known();
            if is_known && action != RuntimeAction::Restart {
                return claims::view_of(&sandbox);
            }
            let change = RuntimeChange::Done(action);
            let now = self.ports.clock.now();
            let written = self.ports.store.note_runtime(&sandbox, change, by.as_ref(), now).await;
            sandbox = match written.map_err(|error| store_fault(request, &error))? {
                Write::Done(changed) => {
                    self.ports.recorder.note(&changed, Some(&request.context.request_id));
                    return claims::view_of(&changed);
                }
                Write::Lost(found) => {
                    *found.ok_or_else(|| Fault::new(FaultCode::NotFound, "there is no such sandbox"))?
                }
            };
        }
        Err(Fault::new(
            FaultCode::Contended,
            "the sandbox is being changed by others; repeat the same request",
        ))
    }

    /// Where a container is that its holder may use now.
    fn usable(&self, sandbox: &Sandbox, epoch: Option<Epoch>) -> Result<Place, Fault> {
        let refused = |why: &str| Err(Fault::new(FaultCode::InvalidState, why));
        let lease = match &sandbox.state {
            State::Allocated(lease) => lease,
            State::Provisioning(_) => return refused("this sandbox is still being created"),
            State::ProvisionFailed(_) => return refused("this sandbox could not be created; release it"),
            _ => return refused("this sandbox has been released"),
        };
        if epoch.is_some_and(|epoch| epoch != lease.epoch) {
            return Err(lookup::other_lease());
        }
        let grace = self.ports.pools.current().leases_of(&sandbox.pool).grace;
        if lease.is_over(self.ports.clock.now(), grace) {
            return Err(Fault::new(
                FaultCode::AllocationExpired,
                "the lease has expired; claim a new sandbox",
            ));
        }
        if RuntimeState::of(&sandbox.descriptor) == Some(RuntimeState::Failed) {
            return Err(lost_container());
        }
        match place_of(sandbox) {
            Some(place) => Ok(place),
            None => refused("this is for containers only, and this sandbox is none"),
        }
    }

    /// What the node of a leased container has to know; none for any other sandbox.
    fn lease_message(&self, sandbox: &Sandbox) -> Option<(Place, LeaseRequest)> {
        let State::Allocated(_) = &sandbox.state else { return None };
        let (place, lease) = (place_of(sandbox)?, self.lease_for_node(sandbox)?);
        let (sandbox_id, incarnation) = (sandbox.id.to_string(), place.incarnation.clone());
        Some((place, LeaseRequest { sandbox_id, incarnation, lease }))
    }
}

pub(crate) fn lost_container() -> Fault {
    let message = "the container of this sandbox is lost; release it and claim another one";
    Fault::new(FaultCode::InvalidState, message)
}

/// Where the container of a sandbox is; none if it has none.
fn place_of(sandbox: &Sandbox) -> Option<Place> {
    Some(Place {
        node: NodeId::parse(sandbox.descriptor.get(Descriptor::NODE)?).ok()?,
        incarnation: sandbox.descriptor.get(Descriptor::INCARNATION)?.to_owned(),
    })
}

/// The reply of a node, or the fault for the caller.
pub(crate) async fn ask<R: DeserializeOwned>(
    nodes: &dyn NodeRequests,
    node: &NodeId,
    verb: NodeVerb,
    context: &Context,
    body: &(impl Serialize + Sync),
    timeout: Duration,
) -> Result<R, Fault> {
    let unreadable = |_| {
        tracing::error!(node.id = node.as_str(), "the answer of node {node} cannot be read");
        Fault::new(FaultCode::InternalError, "the answer of the node cannot be read")
    };
    let body = serde_json::to_vec(body).map_err(unreadable)?;
    let asked = nodes.request_node(node, verb, context, body.into(), timeout).await;
    let reply = asked.map_err(|error| no_answer(verb, error))?.read().map_err(unreadable)?;
    reply.map_err(|FaultDetail { code, message, retry_after, .. }| Fault {
        code,
        message,
        retry_after_seconds: retry_after,
    })
}

fn no_answer(verb: NodeVerb, error: RequestError) -> Fault {
    match (error, verb) {
        (RequestError::TimedOut | RequestError::Disconnected, NodeVerb::Execute | NodeVerb::Runtime) => {
            Fault {
                retry_after_seconds: None,
                ..Fault::new(
                    FaultCode::Timeout,
                    "the node did not answer in time and may have done it; look at what it did",
                )
            }
        }
        (RequestError::NoResponders, _) => {
            Fault::new(FaultCode::UpstreamUnavailable, "the node of the sandbox is not there right now")
        }
        (RequestError::TimedOut | RequestError::Disconnected, _) => {
            Fault::new(FaultCode::UpstreamUnavailable, "the node of the sandbox does not answer")
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
