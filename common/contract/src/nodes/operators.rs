//! What operators ask about nodes, and the answers.

use crate::named::{Name, Named};
use domain::Node;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest time until a drain ends the leases that are left, in seconds: 30 days.
pub const DRAIN_SECONDS_MAX: u64 = 30 * 24 * 3_600;

/// What a node is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum NodeStatus {
    /// It takes work.
    #[default]
    Active,
    /// It takes no work: an operator drains it.
    Draining,
    /// It does not answer now.
    Silent,
    /// It has not answered for so long that its sandboxes are given up.
    Lost,
}

/// The state of a node.
pub type NodeStatusName = Named<NodeStatus>;

/// Which page of the nodes: `nodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodesRequest {
    /// The cursor of the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Nodes of a page, 1 to 100; 50 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A page of the nodes: the reply to `nodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodesReply {
    /// The nodes, by name.
    pub nodes: Vec<NodeView>,
    /// The cursor of the next page; null on the last one.
    pub cursor: Option<String>,
}

/// Which node: `node`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeRequest {
    /// Its name.
    pub node: String,
}

/// Takes a node out of use, or puts it back into use: `drain-node`, `activate-node`. It may be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeOrder {
    /// Its name.
    pub node: String,
    /// Time until leases that are left on a drained node are ended, in seconds; they run to their ends without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 2_592_000)]
    pub leases_end_in_seconds: Option<u64>,
    /// Who asks, for the log; `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A node: the reply to `node`, `drain-node` and `activate-node`. Times are Unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// Its state.
    pub status: NodeStatusName,
    /// Its engine.
    pub engine: String,
    /// How strongly that separates sandboxes: `process` or `container`.
    pub isolation: String,
    /// The version of the broker that its runner is.
    pub version: String,
    /// Grows with every registration, and when it is lost.
    pub generation: u64,
    /// When it was registered last.
    pub registered_at: u64,
    /// When it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<u64>,
    /// Since when it is drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<u64>,
    /// When the leases that are left are ended; absent if they run to their ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases_end_at: Option<u64>,
    /// What it says about itself; null if it does not answer now.
    pub load: Option<NodeLoad>,
}

/// What a node offers, and what of it is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeLoad {
    /// Its containers.
    pub sandboxes: u64,
    /// Those of them that are leased.
    pub leased: u64,
    /// Most containers.
    pub sandboxes_max: u64,
    /// Processor time that is promised to them, in thousandths of a processor.
    pub cpu_milli: u64,
    /// Most of it.
    pub cpu_milli_max: u64,
    /// Memory that is promised to them, in MiB.
    pub memory_mb: u64,
    /// Most of it.
    pub memory_mb_max: u64,
    /// What templates can ask for and this machine does not support, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsupported: Vec<String>,
    /// The images that its engine has or fetches, at most [`IMAGES_MAX`]; none for engines without images of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<NodeImage>,
}

/// An image of a node's engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeImage {
    /// Its name.
    pub name: String,
    /// Its size, as far as it is known.
    pub bytes: u64,
    /// What has arrived, while it is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_bytes: Option<u64>,
}

/// Most images of a node that are shown, those that are fetched first: a page of nodes is one message.
pub const IMAGES_MAX: usize = 32;

impl Name for NodeStatus {
    const SET: &'static str = "NodeStatus";
}

// === impl NodeView ===

impl NodeView {
    /// A node, and what it says about itself.
    #[must_use]
    pub fn of(node: &Node, load: Option<NodeLoad>) -> Self {
        let status = match (node.lost_at, node.drain, &load) {
            (Some(_), _, _) => NodeStatus::Lost,
            (None, Some(_), _) => NodeStatus::Draining,
            (None, None, None) => NodeStatus::Silent,
            (None, None, Some(_)) => NodeStatus::Active,
        };
        let isolation: &str = node.isolation.into();
        Self {
            node: node.id.to_string(),
            status: status.into(),
            engine: node.engine.clone(),
            isolation: isolation.to_owned(),
            version: node.version.clone(),
            generation: node.generation,
            registered_at: node.registered_at.get(),
            lost_at: node.lost_at.map(domain::UnixSeconds::get),
            drained_at: node.drain.map(|drain| drain.since.get()),
            leases_end_at: node.drain.and_then(|drain| drain.deadline).map(domain::UnixSeconds::get),
            load,
        }
    }
}
