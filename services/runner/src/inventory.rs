//! Which containers this node does not have: the fleet asks, because records outlive the containers of a machine that restarts.

use crate::node_requests::unavailable;
use crate::{Node, within};
use contract::nodes::{
    HeldContainer, IMAGES_MAX, INVENTORY_MAX, IdleContainer, InventoryReply, InventoryRequest, NodeImage,
    NodeLoad,
};
use contract::{Fault, NodeVerb};
use domain::RuntimeState;
use ports::bus::Request;
use ports::engine::{ContainerState, Incarnation, LocalImage};
use runtime::requests::{decode, parse_incarnation};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time-out of the list of images, which is for people: a node whose engine is slow shows its load without it.
const IMAGES_TIMEOUT: Duration = Duration::from_millis(300);
/// Most bytes of the names of images: a page of nodes is one message.
const IMAGES_BYTES_MAX: usize = 2_048;

// === impl Node ===

impl Node {
    /// Which of the named containers this node does not have, or cannot run any more. Without containers it says what the node
    /// offers.
    pub(crate) async fn inventory(&self, request: &Request<NodeVerb>) -> Result<InventoryReply, Fault> {
        let InventoryRequest { containers } = decode(&request.body)?;
        if containers.len() > INVENTORY_MAX {
            return Err(Fault::invalid("containers", format!("must be at most {INVENTORY_MAX}")));
        }
        let generation = self.control.generation();
        if containers.is_empty() {
            return Ok(InventoryReply {
                generation,
                load: Some(self.load().await),
                ..InventoryReply::default()
            });
        }
        let listed = self.engine.list().await.map_err(|error| {
            tracing::warn!(error = %error, "the engine cannot list its containers");
            unavailable("the engine does not answer; repeat the request")
        })?;
        let states: BTreeMap<Incarnation, &ContainerState> =
            listed.iter().map(|container| (container.incarnation, &container.state)).collect();
        let mut reply = InventoryReply { generation, ..InventoryReply::default() };
        for container in containers {
            let HeldContainer { sandbox_id: _, incarnation } = &container;
            match states.get(&parse_incarnation(incarnation)?) {
                None | Some(ContainerState::Failed { .. }) => reply.missing.push(container),
                Some(ContainerState::Creating | ContainerState::Running) => {}
                Some(ContainerState::Paused) => reply.idle.push(idle(container, RuntimeState::Paused)),
                Some(ContainerState::Stopped) => reply.idle.push(idle(container, RuntimeState::Stopped)),
                Some(ContainerState::Exited) => reply.idle.push(idle(container, RuntimeState::Exited)),
            }
        }
        Ok(reply)
    }

    async fn load(&self) -> NodeLoad {
        let ((used, promised), offered) = (self.containers.used(), self.containers.offered());
        let taken = used.plus(promised);
        let all = self.containers.all();
        let leased = all.values().filter(|(entry, _)| entry.lease.is_some()).count();
        let unsupported = self.engine.info().unsupported;
        NodeLoad {
            sandboxes: used.sandboxes,
            leased: u64::try_from(leased).unwrap_or(u64::MAX),
            sandboxes_max: offered.sandboxes,
            cpu_milli: taken.cpu_milli,
            cpu_milli_max: offered.cpu_milli,
            memory_mb: taken.memory_mb,
            memory_mb_max: offered.memory_mb,
            unsupported: unsupported
                .iter()
                .map(|lack| format!("{}: {}", lack.feature, lack.reason))
                .collect(),
            images: self.images().await,
        }
    }

    /// The images of the engine, those that are fetched first. Without an answer there is nothing to show.
    async fn images(&self) -> Vec<NodeImage> {
        let images = within(self.clock.as_ref(), IMAGES_TIMEOUT, self.engine.images()).await;
        let mut images = images.and_then(Result::ok).unwrap_or_default();
        images.sort_by_key(|image| image.pull.is_none());
        let mut bytes = 0;
        let shown = images.into_iter().take(IMAGES_MAX).take_while(|image| {
            bytes += image.name.len();
            bytes <= IMAGES_BYTES_MAX
        });
        shown
            .map(|LocalImage { name, bytes, pull }| NodeImage {
                name,
                bytes,
                fetched_bytes: pull.map(|pull| pull.fetched_bytes),
            })
            .collect()
    }
}

fn idle(container: HeldContainer, runtime: RuntimeState) -> IdleContainer {
    let HeldContainer { sandbox_id, incarnation } = container;
    IdleContainer { sandbox_id, incarnation, runtime: runtime.into() }
}
