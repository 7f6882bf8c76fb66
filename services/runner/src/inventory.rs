//! Which containers this node does not have: the fleet asks, because records outlive the containers of a machine that restarts.

use crate::Node;
use crate::node_requests::unavailable;
use contract::nodes::{HeldContainer, INVENTORY_MAX, InventoryReply, InventoryRequest};
use contract::{Fault, NodeVerb};
use ports::bus::Request;
use ports::engine::{Container, ContainerState, Incarnation};
use runtime::requests::{decode, parse_incarnation};
use std::collections::BTreeSet;

// === impl Node ===

impl Node {
    /// Which of the named containers this node does not have, or cannot run any more. Without containers it only says that the
    /// node is there.
    pub(crate) async fn inventory(&self, request: &Request<NodeVerb>) -> Result<InventoryReply, Fault> {
        let InventoryRequest { containers } = decode(&request.body)?;
        if containers.len() > INVENTORY_MAX {
            return Err(Fault::invalid("containers", format!("must be at most {INVENTORY_MAX}")));
        }
        let generation = self.control.generation();
        if containers.is_empty() {
            return Ok(InventoryReply { generation, missing: Vec::new() });
        }
        let listed = self.engine.list().await.map_err(|error| {
            tracing::warn!(error = %error, "the engine cannot list its containers");
            unavailable("the engine does not answer; repeat the request")
        })?;
        let alive = listed.iter().filter(|container| is_alive(container));
        let alive: BTreeSet<Incarnation> = alive.map(|container| container.incarnation).collect();
        let mut missing = Vec::new();
        for container in containers {
            let HeldContainer { sandbox_id: _, incarnation } = &container;
            if !alive.contains(&parse_incarnation(incarnation)?) {
                missing.push(container);
            }
        }
        Ok(InventoryReply { generation, missing })
    }
}

/// Whether a container runs or may run again.
const fn is_alive(container: &Container) -> bool {
    match container.state {
        ContainerState::Creating
        | ContainerState::Running
        | ContainerState::Paused
        | ContainerState::Stopped => true,
        ContainerState::Exited | ContainerState::Failed { .. } => false,
    }
}
