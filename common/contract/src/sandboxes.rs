//! Requests about sandboxes, and their answers.

use super::census::Counted;
use super::named::SandboxStatus;
use super::throttle::DeletionsStatus;
use domain::{Descriptor, Sandbox, StateName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A claim: `allocate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllocateRequest {
    /// Who claims; the principal if none is named.
    #[serde(default)]
    pub owner: String,
    /// The lab that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<String>,
    /// What makes a repeat the same claim; the owner if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The pool; the fleet's first one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Only sandboxes whose name begins so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_prefix: Option<String>,
    /// Length of the lease in hours; the fleet's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab_duration_hours: Option<u32>,
    /// The same in minutes; counts instead of the hours if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab_duration_minutes: Option<u32>,
    /// In a pool of containers: `prefer` a free one and have one created if there is none (the default), `require` a free one,
    /// or `never` take one, so that one is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<String>,
    /// The template; it stands for the only pool that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// A sandbox that the owner holds: pool, version of the template, environment and labels are taken from it, and what this
    /// claim says is added. Files are not copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_of: Option<String>,
    /// In a pool of containers: variables of every command, beside those of the template. They are no secrets. If the template
    /// has a main command, a container is created for the claim.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The holder's own notes, shown with the claim.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who asks on the owner's behalf, for the history; the principal if there is one, else the owner if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What a claim in a pool of containers does about those that are free.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum WarmPolicy {
    /// Takes a free one; has one created if there is none.
    #[default]
    Prefer,
    /// Takes a free one, or is refused.
    Require,
    /// Has one created.
    Never,
}

/// Gives a sandbox back: `release`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseRequest {
    /// Which one; required.
    #[serde(default)]
    pub sandbox_id: String,
    /// Who asks; the principal if none is named.
    #[serde(default)]
    pub owner: String,
    /// The lease that is meant, by its epoch; whichever is live if absent. The native API will require it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_epoch: Option<u64>,
    /// Who asks on the owner's behalf, for the history; the principal if there is one, else the owner if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A request about one sandbox: `get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxRequest {
    /// Which one; required.
    #[serde(default)]
    pub sandbox_id: String,
    /// Who asks; the principal if none is named.
    #[serde(default)]
    pub owner: String,
    /// Who asks on the owner's behalf, for the history; the principal if there is one, else the owner if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Whether a claim made a lease or found it. Rides in a header, so that the body of a repeat is the body of
/// the first answer, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// A new lease: HTTP 201.
    Created,
    /// The lease that this owner and key had already: HTTP 200.
    Existing,
}

/// The answer to a claim. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Allocation {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its name.
    pub name: String,
    /// The bare UUID that calls to the CSP use.
    pub external_id: String,
    /// Start of the lease.
    pub allocated_at: u64,
    /// End of the lease.
    pub expires_at: u64,
    /// Salesforce account; null when unknown.
    pub sfdc_account_id: Option<String>,
    /// Fencing token of the lease.
    pub lease_epoch: u64,
    /// `provisioning` while the container is still being created, `provision_failed` if that failed; absent if it can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SandboxStatus>,
}

/// The answer to a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseReply {
    /// The sandbox.
    pub sandbox_id: String,
    /// Always `pending_deletion`: what the caller wanted holds, even if the sandbox is gone by now.
    pub status: SandboxStatus,
    /// When its deletion was first asked for.
    pub deletion_requested_at: u64,
}

/// One sandbox as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxView {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its name.
    pub name: String,
    /// The bare UUID that calls to the CSP use.
    pub external_id: String,
    /// Its state.
    pub status: SandboxStatus,
    /// Its owner.
    pub allocated_to_track: Option<String>,
    /// Start of the lease.
    pub allocated_at: Option<u64>,
    /// End of the lease.
    pub expires_at: Option<u64>,
    /// The lab.
    pub track_name: Option<String>,
    /// Salesforce account; null when unknown.
    pub sfdc_account_id: Option<String>,
}

/// Counts of one pool, or of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolStats {
    /// All of the below.
    pub total: u64,
    /// Free.
    pub available: u64,
    /// Held.
    pub allocated: u64,
    /// To be deleted.
    pub pending_deletion: u64,
    /// Not listed by the provider.
    pub stale: u64,
    /// Deletion parked.
    pub deletion_failed: u64,
    /// Kept out of use.
    pub quarantined: u64,
    /// Being created; absent if there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub provisioning: u64,
    /// Creation parked; absent if there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub provision_failed: u64,
}

/// The answer to `stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatsReply {
    /// All pools together.
    #[serde(flatten)]
    pub all: PoolStats,
    /// Each pool.
    pub pools: BTreeMap<String, PoolStats>,
    /// Pools among them that the worker is not configured for (`POOLS`): their leases end and their deletions finish,
    /// and nothing of them is handed out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_configured: Vec<String>,
    /// By pool and lab, how many sandboxes the lab holds; null if the index was counted, which does not say.
    #[serde(default)]
    pub labs: Option<BTreeMap<String, BTreeMap<String, u64>>>,
    /// How the counts were come by; none from a worker of an older build.
    #[serde(default)]
    pub counted: Option<Counted>,
    /// The deletions as a whole; null if they cannot be looked at now.
    #[serde(default)]
    pub deletions: Option<DeletionsStatus>,
}

/// The answer to `health`: the worker answers, and so does its store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthReply {
    /// `ok`, or what is wrong.
    pub store: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

// === impl Outcome ===

impl Outcome {
    /// The header's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The outcome of that header value.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        value.parse().ok()
    }
}

// === impl Allocation ===

impl Allocation {
    /// What the holder of `sandbox` sees; none if it has no holder.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Option<Self> {
        let lease = sandbox.lease()?;
        Some(Self {
            sandbox_id: sandbox.id.to_string(),
            name: sandbox.name.to_string(),
            external_id: sandbox.external_id.bare().to_owned(),
            allocated_at: lease.granted_at.get(),
            expires_at: lease.expires_at.get(),
            sfdc_account_id: sandbox.descriptor.get(Descriptor::SFDC_ACCOUNT_ID).map(str::to_owned),
            lease_epoch: lease.epoch.get(),
            status: sandbox.provision().map(|_| sandbox.state.name().into()),
        })
    }
}

// === impl SandboxView ===

impl SandboxView {
    /// What the owner of `sandbox` is shown.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Self {
        let lease = sandbox.last_lease();
        Self {
            sandbox_id: sandbox.id.to_string(),
            name: sandbox.name.to_string(),
            external_id: sandbox.external_id.bare().to_owned(),
            status: sandbox.state.name().into(),
            allocated_to_track: lease.map(|lease| lease.claim.owner.to_string()),
            allocated_at: lease.map(|lease| lease.granted_at.get()),
            expires_at: lease.map(|lease| lease.expires_at.get()),
            track_name: lease.and_then(|lease| lease.lab.as_ref()).map(ToString::to_string),
            sfdc_account_id: sandbox.descriptor.get(Descriptor::SFDC_ACCOUNT_ID).map(str::to_owned),
        }
    }
}

// === impl PoolStats ===

impl PoolStats {
    /// The count of a state; none for tombstones, which are no part of a pool. The total is not kept up.
    pub fn of_mut(&mut self, state: StateName) -> Option<&mut u64> {
        match state {
            StateName::Available => Some(&mut self.available),
            StateName::Allocated => Some(&mut self.allocated),
            StateName::PendingDeletion => Some(&mut self.pending_deletion),
            StateName::DeletionFailed => Some(&mut self.deletion_failed),
            StateName::Stale => Some(&mut self.stale),
            StateName::Quarantined => Some(&mut self.quarantined),
            StateName::Provisioning => Some(&mut self.provisioning),
            StateName::ProvisionFailed => Some(&mut self.provision_failed),
            StateName::Deleted => None,
        }
    }

    /// Adds `more` to every count.
    pub fn add(&mut self, more: &Self) {
        let Self {
            total,
            available,
            allocated,
            pending_deletion,
            stale,
            deletion_failed,
            quarantined,
            provisioning,
            provision_failed,
        } = more;
        self.total += total;
        self.available += available;
        self.allocated += allocated;
        self.pending_deletion += pending_deletion;
        self.stale += stale;
        self.deletion_failed += deletion_failed;
        self.quarantined += quarantined;
        self.provisioning += provisioning;
        self.provision_failed += provision_failed;
    }
}
