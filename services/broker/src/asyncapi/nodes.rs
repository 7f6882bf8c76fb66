//! Executions, what nodes report, and the requests to one node.

use super::examples;
use super::verbs::{Exchange, any_caller, node, operator};
use contract::nodes::{
    ContainerRuntimeReply, ContainerRuntimeRequest, ExecuteRequest, ExecutionRequest, ExecutionResult,
    HeldReply, HeldRequest, Holding, InventoryReply, InventoryRequest, LeaseReply, LeaseRequest, NodeOrder,
    NodePoolsReply, NodePoolsRequest, NodeRegistration, NodeRequest, NodeView, NodesReply, NodesRequest,
    ProvisionFailedReply, ProvisionFailedRequest, ProvisionWantedReply, ProvisionWantedRequest,
    ProvisionedRequest, RegisterNodeRequest, RemoveContainersReply, RemoveContainersRequest,
};
use contract::{NodeVerb, Subjects};
use domain::NodeId;
use serde_json::{Value, json};

/// A node that stands for any in a subject.
const ANY: &str = "any-node";
/// The same in the document.
const PARAMETER: &str = "{node}";

pub(super) fn execution() -> Exchange {
    any_caller::<ExecutionRequest, ExecutionResult>(
        "run a command in my container; not to be repeated blindly",
    )
    .shown(&[examples::EXECUTION, examples::EXECUTION_LEAST], &[examples::EXECUTED, examples::TIMED_OUT])
}

pub(super) fn list() -> Exchange {
    operator::<NodesRequest, NodesReply>("list nodes, page by page")
        .shown(&[examples::ASK_NODES], &[examples::NODES])
}

pub(super) fn show() -> Exchange {
    operator::<NodeRequest, NodeView>("show one of them").shown(&[examples::ASK_NODE], &[examples::NODE_VIEW])
}

pub(super) fn drain() -> Exchange {
    operator::<NodeOrder, NodeView>("let a node take no more work, and empty it")
        .shown(&[examples::DRAIN_NODE], &[examples::DRAINED_NODE])
}

pub(super) fn activate() -> Exchange {
    operator::<NodeOrder, NodeView>("put a node back into use")
        .shown(&[examples::ACTIVATE_NODE], &[examples::NODE_VIEW])
}

pub(super) fn register() -> Exchange {
    node::<RegisterNodeRequest, NodeRegistration>("register the runner of a node")
        .shown(&[examples::REGISTER_NODE], &[examples::NODE_REGISTERED])
}

pub(super) fn pools() -> Exchange {
    node::<NodePoolsRequest, NodePoolsReply>("which pools get their sandboxes from nodes")
        .shown(&[examples::NODE], &[examples::NODE_POOLS])
}

pub(super) fn wanted() -> Exchange {
    node::<ProvisionWantedRequest, ProvisionWantedReply>("is a sandbox still to be created")
        .shown(&[examples::ASK_WANTED], &[examples::WANTED, examples::UNWANTED])
}

pub(super) fn provisioned() -> Exchange {
    node::<ProvisionedRequest, Holding>("a container is ready")
        .shown(&[examples::PROVISIONED], &[examples::KEPT])
}

pub(super) fn failed() -> Exchange {
    node::<ProvisionFailedRequest, ProvisionFailedReply>("an attempt to create a sandbox failed")
        .shown(&[examples::PROVISION_FAILED], &[examples::PROVISION_RETRIED])
}

pub(super) fn held() -> Exchange {
    node::<HeldRequest, HeldReply>("what should become of my containers")
        .shown(&[examples::ASK_HELD], &[examples::HOLDINGS])
}

/// The row of a request to a node. Its summary is the one in `nats/README.md`.
pub(super) fn exchange(verb: NodeVerb) -> Exchange {
    match verb {
        NodeVerb::Remove => {
            node::<RemoveContainersRequest, RemoveContainersReply>("remove the containers of a sandbox")
                .shown(&[examples::REMOVE_CONTAINERS], &[examples::CONTAINERS_REMOVED])
        }
        NodeVerb::Lease => node::<LeaseRequest, LeaseReply>("store the end of a lease")
            .shown(&[examples::TELL_LEASE], &[examples::LEASE_STORED]),
        NodeVerb::Execute => node::<ExecuteRequest, ExecutionResult>("run a command in a sandbox").shown(
            &[examples::EXECUTE_FULL, examples::EXECUTE_LEAST],
            &[examples::EXECUTED, examples::TIMED_OUT],
        ),
        NodeVerb::Inventory => {
            node::<InventoryRequest, InventoryReply>("which of these containers do you not have")
                .shown(&[examples::ASK_INVENTORY], &[examples::INVENTORY, examples::LOAD])
        }
        NodeVerb::Runtime => node::<ContainerRuntimeRequest, ContainerRuntimeReply>(
            "start, stop, restart, pause or resume a container",
        )
        .shown(&[examples::STOP_CONTAINER], &[examples::CONTAINER_STOPPED]),
    }
}

/// The subject of a verb on any node.
pub(super) fn address(verb: NodeVerb, subjects: &Subjects) -> String {
    let any = NodeId::parse(ANY).map(|node| subjects.node_request(&node, verb));
    any.unwrap_or_default().replace(ANY, PARAMETER)
}

/// The variable part of that subject.
pub(super) fn parameters() -> Value {
    json!({ "node": { "description": "the node", "examples": ["node-a"] } })
}
