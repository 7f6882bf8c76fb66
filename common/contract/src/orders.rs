//! Requests that change a sandbox's life from outside: more time for its lease, and an operator's hand.

use super::deletions::HistoryView;
use super::named::SandboxStatus;
use domain::Sandbox;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// More time: `extend`. The length is counted from the start of the lease, so a repeat asks for nothing more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExtendRequest {
    /// Which sandbox; required.
    #[serde(default)]
    pub sandbox_id: String,
    /// Who holds it; the principal if none is named.
    #[serde(default)]
    pub owner: String,
    /// How long the lease is to last in all, in hours; this or the minutes are required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab_duration_hours: Option<u32>,
    /// The same in minutes; counts instead of the hours if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab_duration_minutes: Option<u32>,
    /// The lease that is meant, if the caller says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_epoch: Option<u64>,
    /// Who asks on the owner's behalf, for the history; the principal if there is one, else the owner if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// An operator's order about one sandbox: `quarantine`, `unquarantine`, `force-release`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// Which sandbox; required.
    #[serde(default)]
    pub sandbox_id: String,
    /// Why, in one line, for the history; required.
    #[serde(default)]
    pub reason: String,
    /// Who asks, for the history; the principal if there is one, else `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// The answer to an order: the sandbox as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderReply {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its state.
    pub status: SandboxStatus,
    /// Its state changes, oldest first.
    pub history: Vec<HistoryView>,
}

// === impl OrderReply ===

impl OrderReply {
    /// What an operator sees of `sandbox`.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Self {
        Self {
            sandbox_id: sandbox.id.to_string(),
            name: sandbox.name.to_string(),
            pool: sandbox.pool.to_string(),
            status: sandbox.state.name().into(),
            history: HistoryView::all_of(sandbox),
        }
    }
}
