//! What the runners of nodes report, and what they are asked.
//!
//! Every report names the generation that the node got when it registered. A report of an older one is refused as
//! [`FaultCode::InvalidState`](crate::FaultCode::InvalidState): the runner has to register again and to look at what it has.

mod operators;

pub use operators::{
    DRAIN_SECONDS_MAX, IMAGES_MAX, NodeImage, NodeLoad, NodeOrder, NodeRequest, NodeStatus, NodeStatusName,
    NodeView, NodesReply, NodesRequest,
};

use super::fault::Fault;
use super::named::RuntimeName;
use super::templates::TemplateSettings;
use domain::{Lease, LeasePolicy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Most containers of one request `held`.
pub const HELD_MAX: usize = 100;
/// Bytes of environments after which a reply to `held` ends: in JSON a byte takes up to six, and a message has 1 MiB.
pub const HELD_ENV_BYTES: usize = 128 * 1024;
/// Most containers of one request `inventory`.
pub const INVENTORY_MAX: usize = 500;
/// Longest time of an execution whose caller waits, in seconds.
pub const EXECUTION_SECONDS_MAX: u64 = 60;
/// Time of an execution whose caller sets none, in seconds.
pub const EXECUTION_SECONDS_DEFAULT: u64 = 30;
/// Most bytes of each output of an execution; the rest is cut.
pub const EXECUTION_OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// The time of an execution in seconds, if it may have as much; [`EXECUTION_SECONDS_DEFAULT`] if none is set.
///
/// # Errors
/// A fault that says what is allowed.
pub fn execution_seconds(wanted: Option<u64>) -> Result<u64, Fault> {
    let seconds = wanted.unwrap_or(EXECUTION_SECONDS_DEFAULT);
    if (1..=EXECUTION_SECONDS_MAX).contains(&seconds) {
        return Ok(seconds);
    }
    Err(Fault::invalid("timeout_seconds", format!("must be from 1 to {EXECUTION_SECONDS_MAX}")))
}

/// A request to the runner of one node, on `<prefix>.node.<node>.<verb>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "kebab-case")]
pub enum NodeVerb {
    /// Remove every container of a sandbox that has ended.
    Remove,
    /// Store the end of a lease before its holder learns of it.
    Lease,
    /// Run a command in a sandbox and wait for its end.
    Execute,
    /// Say whether the node is there, what it offers, and which of these containers it does not have.
    Inventory,
    /// Start, stop, restart, pause or resume a container.
    Runtime,
}

/// Registers the runner of a node that starts, or that was taken for lost: `register-node`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterNodeRequest {
    /// The node.
    pub node: String,
    /// Its engine: `namespaces`.
    pub engine: String,
    /// How strongly that separates sandboxes: `process` or `container`.
    pub isolation: String,
    /// The version of the broker.
    pub version: String,
}

/// The reply to `register-node`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRegistration {
    /// The node.
    pub node: String,
    /// What each of its reports has to name from now on. All older generations are over.
    pub generation: u64,
}

/// Which pools get their sandboxes from nodes: `node-pools`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodePoolsRequest {
    /// The node.
    pub node: String,
    /// Its generation.
    pub generation: u64,
}

/// The reply to `node-pools`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodePoolsReply {
    /// Every pool of containers whose template is known.
    pub pools: Vec<NodePool>,
}

/// A pool of containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodePool {
    /// Its name.
    pub pool: String,
    /// The current version of its template, as `<template>@<number>`.
    pub template: String,
    /// What that version says, with every default.
    pub settings: TemplateSettings,
}

/// Whether a sandbox is still to be created: `provision-wanted`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProvisionWantedRequest {
    /// The node.
    pub node: String,
    /// Its generation.
    pub generation: u64,
    /// The sandbox.
    pub sandbox_id: String,
    /// The epoch of the work.
    pub epoch: u64,
}

/// The reply to `provision-wanted`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvisionWantedReply {
    /// What to create; null if it is not wanted any more.
    pub wanted: Option<WantedSandbox>,
}

/// A sandbox that is to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WantedSandbox {
    /// Failed attempts so far.
    pub attempts: u32,
    /// What the version of its template says, with every default.
    pub settings: TemplateSettings,
    /// The lease of the claim that waits for it; null if it is to be free.
    pub lease: Option<NodeLease>,
}

/// A container is ready: `provisioned`. It may be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProvisionedRequest {
    /// The node.
    pub node: String,
    /// Its generation.
    pub generation: u64,
    /// The sandbox.
    pub sandbox_id: String,
    /// The epoch of the work.
    pub epoch: u64,
    /// The attempt that created the container.
    pub incarnation: String,
    /// Where its published ports are reached, as `address:port` by the port inside.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub endpoints: BTreeMap<u16, String>,
    /// What it may reach once it is leased: `internal` or `open`; absent if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// An attempt to create a sandbox failed: `provision-failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProvisionFailedRequest {
    /// The node.
    pub node: String,
    /// Its generation.
    pub generation: u64,
    /// The sandbox.
    pub sandbox_id: String,
    /// The epoch of the work.
    pub epoch: u64,
    /// Failed attempts before this one, so that a repeat counts nothing.
    pub attempts: u32,
    /// Why.
    pub reason: String,
    /// Whether no further attempt makes sense.
    #[serde(default)]
    pub is_final: bool,
}

/// The reply to `provision-failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvisionFailedReply {
    /// What becomes of the work.
    pub next: AfterFailure,
    /// Failed attempts so far.
    pub attempts: u32,
}

/// What becomes of work after a failed attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AfterFailure {
    /// It is tried again later.
    Retry,
    /// It is parked: its holder releases it, or its pool gives it up.
    Park,
    /// It is not wanted any more.
    #[default]
    Drop,
}

/// What should become of the containers that a node has: `held`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldRequest {
    /// The node.
    pub node: String,
    /// Its generation.
    pub generation: u64,
    /// At most 100 of its containers.
    pub containers: Vec<HeldContainer>,
}

/// A container of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldContainer {
    /// The sandbox.
    pub sandbox_id: String,
    /// The attempt that created it.
    pub incarnation: String,
}

/// The reply to `held`. It may have fewer holdings than were asked for, but at least one; the node asks again for the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldReply {
    /// One for each of the first containers, in the same order.
    pub holdings: Vec<Holding>,
}

/// What should become of a container: the reply to `provisioned`, and a part of that to `held`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Holding {
    /// Whether its record names it.
    pub fate: Fate,
    /// The live lease of its sandbox; null if there is none.
    pub lease: Option<NodeLease>,
}

/// Whether a container is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The record names it, or is still being created and may yet name it.
    Keep,
    /// The record has ended or names another container.
    Remove,
    /// There is no such record: perhaps the table was restored to an earlier time.
    #[default]
    Unknown,
}

/// A lease as a node has to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeLease {
    /// Its epoch.
    pub epoch: u64,
    /// Its end, Unix seconds.
    pub ends_at: u64,
    /// Time after the end before the node stops the container by itself, in seconds.
    pub grace_seconds: u64,
    /// Variables of every command, beside those of the template. A reply does not repeat them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// Asks a node to remove every container of a sandbox that has ended: `remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveContainersRequest {
    /// The sandbox.
    pub sandbox_id: String,
}

/// The reply of a node to `remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoveContainersReply {
    /// How many there were.
    pub removed: u32,
}

/// Tells a node the lease of one of its sandboxes: `lease`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// The sandbox.
    pub sandbox_id: String,
    /// The attempt that created its container.
    pub incarnation: String,
    /// The lease. One of an older epoch, or with an earlier end, changes nothing.
    pub lease: NodeLease,
}

/// The reply of a node to `lease`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseReply {
    /// The lease that the node has stored.
    pub lease: NodeLease,
}

/// Asks a node whether it is there, and which of these containers it does not have: `inventory`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InventoryRequest {
    /// At most 500 containers that records name on this node.
    pub containers: Vec<HeldContainer>,
}

/// The reply of a node to `inventory`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InventoryReply {
    /// The generation of its runner.
    pub generation: u64,
    /// Containers that it does not have, or that cannot run any more.
    pub missing: Vec<HeldContainer>,
    /// Those that it has and that do not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idle: Vec<IdleContainer>,
    /// What it offers and what of it is in use; null if it was asked about containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<NodeLoad>,
}

/// A container that does not run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IdleContainer {
    /// The sandbox.
    pub sandbox_id: String,
    /// The attempt that created it.
    pub incarnation: String,
    /// What it does: `paused`, `stopped` or `exited`.
    pub runtime: RuntimeName,
}

/// Asks a node to change what a container does: `runtime`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerRuntimeRequest {
    /// The sandbox.
    pub sandbox_id: String,
    /// The attempt that created its container.
    pub incarnation: String,
    /// `start`, `stop`, `restart`, `pause` or `resume`.
    pub action: String,
}

/// The reply of a node to `runtime`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerRuntimeReply {
    /// What the container does now.
    pub runtime: RuntimeName,
}

/// Asks a node to run a command: `execute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    /// The sandbox.
    pub sandbox_id: String,
    /// The attempt that created its container.
    pub incarnation: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables beside those of the template.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The working directory; the workspace if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Text for its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Most time that it may take, in seconds, 1 to 60.
    #[schema(minimum = 1, maximum = 60)]
    pub timeout_seconds: u64,
}

/// Runs a command in a leased container and waits for its end: `execute`. It is not to be repeated blindly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecutionRequest {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its owner.
    pub owner: String,
    /// The epoch of the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_epoch: Option<u64>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables beside those of the template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The working directory; the workspace if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Text for its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Most time that it may take, in seconds, 1 to 60; 30 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60)]
    pub timeout_seconds: Option<u64>,
    /// Who asks on the owner's behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// The result of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecutionResult {
    /// How it ended: `exited`, `signalled`, `timed_out`, `oom_killed`.
    pub reason: String,
    /// Its exit code; null unless it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended it; null unless one did.
    pub signal: Option<i32>,
    /// Its standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
    /// Whether more output was cut.
    pub truncated: bool,
    /// Milliseconds from the request at the node to the start of the command.
    pub started_ms: u64,
    /// Milliseconds from the request at the node to the end of the command.
    pub ended_ms: u64,
}

// === impl NodeVerb ===

impl NodeVerb {
    /// Last token of the verb's subject.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The verb of that token.
    #[must_use]
    pub fn parse(token: &str) -> Option<Self> {
        <Self as strum::IntoEnumIterator>::iter().find(|verb| verb.as_str() == token)
    }
}

// === impl NodeLease ===

impl NodeLease {
    /// A lease of a pool with that policy.
    #[must_use]
    pub fn of(lease: &Lease, policy: &LeasePolicy) -> Self {
        Self {
            epoch: lease.epoch.get(),
            ends_at: lease.expires_at.get(),
            grace_seconds: policy.grace.as_secs(),
            env: lease.options.as_ref().map(|options| options.env.clone()).unwrap_or_default(),
        }
    }
}

// === impl Holding ===

impl Holding {
    /// A container that has to go.
    pub const REMOVE: Self = Self { fate: Fate::Remove, lease: None };
    /// A container without a record.
    pub const UNKNOWN: Self = Self { fate: Fate::Unknown, lease: None };

    /// A container that stays.
    #[must_use]
    pub const fn keep(lease: Option<NodeLease>) -> Self {
        Self { fate: Fate::Keep, lease }
    }
}
