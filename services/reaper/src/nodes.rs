//! The nodes as a provider: the runner of a node removes the containers of a sandbox that has ended.
//!
//! Throttle and breaker are those of one node ([`load`]): one that does not answer holds up no other one.

mod load;

use async_trait::async_trait;
use contract::NodeVerb;
use contract::fault::FaultDetail;
use contract::nodes::{RemoveContainersReply, RemoveContainersRequest};
use domain::{Descriptor, NodeId};
use load::Loads;
use ports::bus::{Context, NodeRequests, RequestError};
use ports::clock::Clock;
use ports::provider::{Abilities, Deleted, Listing, Prepared, Provider, ProviderError, Target};
use ports::random::Random;
use ports::store::Store;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// How long a removal may take. Removing a container takes milliseconds, but the node may be busy.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Statuses of faults that concern the request; all others are failures of the node.
const REFUSALS: RangeInclusive<u16> = 400..=499;

/// The nodes of the fleet. They list nothing: their runners ask what should become of each container that they have.
pub struct Nodes {
    requests: Arc<dyn NodeRequests>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    loads: Loads,
}

// === impl Nodes ===

impl fmt::Debug for Nodes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Nodes").finish_non_exhaustive()
    }
}

impl Nodes {
    /// The nodes that `requests` reach; `store` knows which of them are lost.
    #[must_use]
    pub fn new(
        requests: Arc<dyn NodeRequests>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self { requests, store, clock, random, loads: Loads::default() }
    }

    /// The result for a container whose node does not answer. A lost node removes it by itself when it returns.
    async fn without_node(&self, node: &NodeId) -> Result<Deleted, ProviderError> {
        match self.store.node(node).await {
            Ok(Some(known)) if known.lost_at.is_some() => Ok(Deleted::AlreadyGone),
            Ok(_) => Err(ProviderError::Unreachable { message: format!("node {node} has no runner") }),
            Err(error) => {
                let message =
                    format!("node {node} has no runner, and whether it is lost is unknown: {error}");
                Err(ProviderError::Unreachable { message })
            }
        }
    }
}

#[async_trait]
impl Provider for Nodes {
    fn abilities(&self) -> Abilities {
        Abilities { list: false, delete: true, prepare_delete: false, check: false }
    }

    /// An error rather than an empty listing, by which every sandbox would be missing.
    async fn list(&self, _offset: u64) -> Result<Listing, ProviderError> {
        Err(ProviderError::Failed { message: "nodes have no listing".to_owned() })
    }

    async fn prepare_delete(&self, _target: &Target) -> Result<Prepared, ProviderError> {
        Ok(Prepared::Skipped)
    }

    async fn delete(&self, target: &Target) -> Result<Deleted, ProviderError> {
        // A record names its node from the moment when its container is ready. A container that no record names is removed
        // when its runner asks about it.
        let Some(node) = target.descriptor.get(Descriptor::NODE) else { return Ok(Deleted::AlreadyGone) };
        let node = NodeId::parse(node).map_err(|problem| ProviderError::Refused {
            message: format!("the name of its node {problem}"),
        })?;
        let place = match self.loads.enter(&node, self.clock.monotonic()) {
            Ok(place) => place,
            // A node that was lost meanwhile needs no further time-out.
            Err(wait) => {
                return match self.without_node(&node).await {
                    Err(_) => Err(ProviderError::Throttled {
                        retry_after: Some(wait),
                        message: format!("node {node} is busy or does not answer"),
                    }),
                    gone => gone,
                };
            }
        };
        let request = RemoveContainersRequest { sandbox_id: target.external_id.as_str().to_owned() };
        let body = serde_json::to_vec(&request)
            .map_err(|_| ProviderError::Failed { message: "the request could not be written".to_owned() })?;
        let (verb, context) =
            (NodeVerb::Remove, Context::own(self.clock.as_ref(), self.random.as_ref(), REMOVE_TIMEOUT));
        let answered = self.requests.request_node(&node, verb, &context, body.into(), REMOVE_TIMEOUT).await;
        let is_silent = matches!(answered, Err(RequestError::TimedOut));
        place.leave(is_silent.then(|| self.clock.monotonic()));
        match answered {
            Ok(reply) => match reply.read() {
                Ok(Ok(RemoveContainersReply { removed: 0 })) => Ok(Deleted::AlreadyGone),
                Ok(Ok(RemoveContainersReply { .. })) => Ok(Deleted::Now),
                Ok(Err(detail)) => Err(error_of_fault(&detail)),
                Err(error) => Err(ProviderError::Malformed { message: error.to_string() }),
            },
            Err(RequestError::NoResponders) => self.without_node(&node).await,
            Err(RequestError::Disconnected) => {
                Err(ProviderError::Unreachable { message: "not connected to the queue".to_owned() })
            }
            // A machine without power keeps its subscriptions for a while.
            Err(RequestError::TimedOut) => match self.without_node(&node).await {
                Err(_) => Err(ProviderError::UnknownOutcome { waited_seconds: REMOVE_TIMEOUT.as_secs() }),
                gone => gone,
            },
        }
    }
}

fn error_of_fault(detail: &FaultDetail) -> ProviderError {
    let message = format!("{}: {}", detail.code.as_str(), detail.message);
    if REFUSALS.contains(&detail.code.status()) {
        ProviderError::Refused { message }
    } else {
        ProviderError::Failed { message }
    }
}

#[cfg(test)]
mod tests;
