//! Operators' routes for nodes: show them, take them out of use and put them back.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contract::nodes::{NodeOrder, NodeRequest, NodeView, NodesReply, NodesRequest};
use contract::{Action, Fault, Verb};
use domain::NodeId;
use serde::Deserialize;

use crate::deletions::operator;
use crate::error::{Failure, pass_on};
use crate::openapi::faults::{OfNodeOrder, ReadFaults, ReadOneFaults};
use crate::query::{Asked, NoQuery, Paged};
use crate::relay::Relay;
use crate::request_id::Facts;

/// How long leases may go on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ending {
    leases_end_in_seconds: Option<u64>,
}

type PathNode = Result<Path<String>, PathRejection>;

/// Lists the nodes with what they offer and what of it is in use.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Nodes).as_str()))),
    params(
        ("limit" = Option<u32>, Query, description = "nodes of a page, 1 to 100; 50 without it"),
        ("cursor" = Option<String>, Query, description = "the cursor of the last page")
    ),
    responses((status = 200, description = "a page, by name; every node is asked, and one that does not answer within a second has no `load`", body = NodesReply), ReadFaults)
)]
pub(crate) async fn list_nodes(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    Asked(Paged { cursor, limit }): Asked<Paged>,
) -> Result<Response, Failure> {
    let reply = relay.send(Verb::Nodes, &facts, None, &NodesRequest { cursor, limit }).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Shows a node.
#[utoipa::path(
    get, path = "/v1/nodes/{name}", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Node).as_str()))),
    params(("name" = String, Path, description = "the node")),
    responses((status = 200, description = "the node", body = NodeView), ReadOneFaults)
)]
pub(crate) async fn show_node(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathNode,
    _: NoQuery,
) -> Result<Response, Failure> {
    let request = NodeRequest { node: node_in_path(path)?.to_string() };
    let reply = relay.send(Verb::Node, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Drains a node: it gets no more work, and its free sandboxes are given up.
#[utoipa::path(
    post, path = "/v1/nodes/{name}/drain", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::DrainNode).as_str()))),
    params(
        ("name" = String, Path, description = "the node"),
        ("leases_end_in_seconds" = Option<u64>, Query, description = "end the leases that are left after this time, at most 30 days; they run to their ends without it", maximum = 2_592_000),
        ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")
    ),
    responses((status = 200, description = "the node takes no more work within seconds; a repeat sets the time anew", body = NodeView), OfNodeOrder)
)]
pub(crate) async fn drain_node(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathNode,
    Asked(Ending { leases_end_in_seconds }): Asked<Ending>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    order(Verb::DrainNode, &relay, &facts, path, leases_end_in_seconds, &headers).await
}

/// Puts a drained node back into use.
#[utoipa::path(
    post, path = "/v1/nodes/{name}/activate", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::ActivateNode).as_str()))),
    params(
        ("name" = String, Path, description = "the node"),
        ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")
    ),
    responses((status = 200, description = "the node takes work again within seconds", body = NodeView), OfNodeOrder)
)]
pub(crate) async fn activate_node(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathNode,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    order(Verb::ActivateNode, &relay, &facts, path, None, &headers).await
}

async fn order(
    verb: Verb,
    relay: &Relay,
    facts: &Facts,
    path: PathNode,
    leases_end_in_seconds: Option<u64>,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let node = node_in_path(path)?.to_string();
    let by = Some(operator(headers, facts)?.to_string());
    let reply = relay.send(verb, facts, None, &NodeOrder { node, leases_end_in_seconds, by }).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

fn node_in_path(path: PathNode) -> Result<NodeId, Fault> {
    let Path(name) = path.map_err(|rejection| Fault::invalid("name", rejection.body_text()))?;
    NodeId::parse(&name).map_err(|problem| Fault::invalid("name", problem))
}
