//! Claims of any kind as their holders see them, and what holders do to their containers.

use super::named::{RuntimeName, SandboxStatus};
use domain::{Cause, Descriptor, RuntimeState, Sandbox};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Which page of the claims of an owner: `claims`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimsRequest {
    /// The owner; the principal if none is named.
    #[serde(default)]
    pub owner: String,
    /// The cursor of the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Claims of a page, 1 to 100; 50 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A page of the claims of an owner: the reply to `claims`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClaimsReply {
    /// The claims, by key. A page may have fewer than its limit, or none, and still be followed by another one.
    pub claims: Vec<ClaimView>,
    /// The cursor of the next page; null on the last one.
    pub cursor: Option<String>,
}

/// A claim as its holder sees it: the reply to `claim`, `show-claim` and `runtime`. Times are Unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClaimView {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its pool.
    pub pool: String,
    /// The name of an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The bare UUID of an account that calls to the CSP use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The Salesforce account of an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sfdc_account_id: Option<String>,
    /// Its state; `allocated` once it can be used.
    pub status: SandboxStatus,
    /// What its container does; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeName>,
    /// Why its container is lost: `node_lost`, `container_lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_reason: Option<String>,
    /// The version of the template that it is made from, as `<template>@<number>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The node that has its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointView>,
    /// Who holds it, or held it last.
    pub owner: String,
    /// The owner's key for the claim.
    pub key: String,
    /// The lab that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<String>,
    /// The labels of the claim.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Fencing token of the lease.
    pub lease_epoch: u64,
    /// Start of the lease.
    pub allocated_at: u64,
    /// End of the lease.
    pub expires_at: u64,
    /// When it became usable; absent until then, and if its history does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<u64>,
    /// The error of the last attempt to create it, while it is being created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A published port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointView {
    /// The port inside.
    pub port: u16,
    /// Where it is reached, as `address:port`.
    pub address: String,
}

/// Starts, stops, restarts, pauses or resumes one's own container: `runtime`. It may be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuntimeRequest {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its owner; the principal if none is named.
    #[serde(default)]
    pub owner: String,
    /// `start`, `stop`, `restart`, `pause` or `resume`.
    pub action: String,
    /// The epoch of the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_epoch: Option<u64>,
    /// Who asks on the owner's behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

// === impl ClaimView ===

impl ClaimView {
    /// What the live or last holder of `sandbox` sees; none if it was never leased.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Option<Self> {
        let lease = sandbox.last_lease()?;
        let described = |key: &str| sandbox.descriptor.get(key).map(str::to_owned);
        let became_usable = |entry: &&domain::HistoryEntry| {
            entry.epoch == lease.epoch
                && entry.state == domain::StateName::Allocated
                && matches!(entry.cause, Cause::Claimed | Cause::Provisioned)
        };
        // What the fleet creates is known by its id alone.
        let is_listed = sandbox.descriptor.get(Descriptor::TEMPLATE).is_none();
        Some(Self {
            sandbox_id: sandbox.id.to_string(),
            pool: sandbox.pool.to_string(),
            name: is_listed.then(|| sandbox.name.to_string()),
            external_id: is_listed.then(|| sandbox.external_id.bare().to_owned()),
            sfdc_account_id: described(Descriptor::SFDC_ACCOUNT_ID),
            status: sandbox.state.name().into(),
            runtime: sandbox.lease().and_then(|_| RuntimeState::of(&sandbox.descriptor)).map(Into::into),
            runtime_reason: described(Descriptor::RUNTIME_REASON),
            template: described(Descriptor::TEMPLATE),
            node: described(Descriptor::NODE),
            endpoints: sandbox.descriptor.iter().filter_map(EndpointView::of).collect(),
            owner: lease.claim.owner.to_string(),
            key: lease.claim.key.to_string(),
            lab: lease.lab.as_ref().map(ToString::to_string),
            labels: lease.options.as_ref().map(|options| options.labels.clone()).unwrap_or_default(),
            lease_epoch: lease.epoch.get(),
            allocated_at: lease.granted_at.get(),
            expires_at: lease.expires_at.get(),
            ready_at: sandbox.history.iter().find(became_usable).map(|entry| entry.at.get()),
            error: sandbox.provision().and_then(|provision| provision.last_error.clone()),
        })
    }

    /// Whether it can be used.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.known() == Some(domain::StateName::Allocated)
    }

    /// Whether it will be usable by waiting.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.status.known() == Some(domain::StateName::Provisioning)
    }
}

// === impl EndpointView ===

impl EndpointView {
    fn of((key, address): (&str, &str)) -> Option<Self> {
        let port = key.strip_prefix(Descriptor::PORT_PREFIX)?.parse().ok()?;
        Some(Self { port, address: address.to_owned() })
    }
}
