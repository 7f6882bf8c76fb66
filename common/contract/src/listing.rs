//! All sandboxes as an operator sees them: page by page, one with everything, and the removal of records that leave
//! nothing behind.

use super::deletions::HistoryView;
use super::named::{ChangeCause, SandboxStatus};
use super::queue::PreCleanView;
use super::sandboxes::SandboxView;
use domain::{Cause, Deletion, Lease, Provision, Sandbox, State, Tombstone};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which sandboxes to list: `sandboxes`. Filters narrow together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxesRequest {
    /// Only those in this state; without it all but `deleted`, which are in no index: their list reads the whole table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SandboxStatus>,
    /// Only those of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Only those whose live or last lease is for this lab.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<String>,
    /// Only those that this owner holds, or was the last to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Only those whose name begins so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_prefix: Option<String>,
    /// Where the page before ended, with the same filters; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most sandboxes of this page, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// One sandbox of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxEntry {
    /// What its owner sees as well.
    #[serde(flatten)]
    pub view: SandboxView,
    /// Its pool.
    pub pool: String,
    /// How often its state changed.
    pub version: u64,
    /// How often it was leased.
    pub epoch: u64,
    /// When its state last changed, Unix seconds; null if its history does not say.
    pub changed_at: Option<u64>,
    /// Its creation, while it is `provisioning` or `provision_failed`; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provision: Option<ProvisionState>,
}

/// One page of sandboxes. It may hold fewer than `limit`, or none: the last page is the one without a cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxesReply {
    /// The sandboxes.
    pub sandboxes: Vec<SandboxEntry>,
    /// How many there are on this page.
    pub count: u64,
    /// Where the next page begins; null after the last.
    pub cursor: Option<String>,
}

/// Which sandbox to show: `sandbox`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordRequest {
    /// The sandbox.
    pub sandbox_id: String,
}

/// A lease, live or the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseView {
    /// Who holds the sandbox, or held it.
    pub owner: String,
    /// The lab that it was for, if the caller said.
    pub lab: Option<String>,
    /// Fencing token of the lease.
    pub epoch: u64,
    /// The version of the sandbox that was claimed.
    pub claimed_version: u64,
    /// Its start, Unix seconds.
    pub granted_at: u64,
    /// Its end, Unix seconds.
    pub expires_at: u64,
    /// Whether it still holds the sandbox.
    pub is_live: bool,
}

/// The deletion of a sandbox: wanted, given up, or done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletionState {
    /// What it was asked for by: `released`, `expired` or `ordered`.
    pub cause: ChangeCause,
    /// When it was asked for, Unix seconds.
    pub requested_at: u64,
    /// Attempts that count.
    pub attempts: u32,
    /// What the last failed one said.
    pub last_error: Option<String>,
    /// What clearing it came to, once it was tried.
    pub pre_clean: Option<PreCleanView>,
}

/// The creation of a sandbox: wanted, or given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvisionState {
    /// When it was asked for or replayed, Unix seconds.
    pub requested_at: u64,
    /// Failed attempts.
    pub attempts: u32,
    /// What the last failed one said.
    pub last_error: Option<String>,
}

/// What is left of a deleted sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TombstoneView {
    /// When it was deleted or given up, Unix seconds.
    pub deleted_at: u64,
    /// When the record may be purged, Unix seconds.
    pub purge_at: u64,
}

/// Everything that the table knows of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecordView {
    /// What a listing shows of it.
    #[serde(flatten)]
    pub entry: SandboxEntry,
    /// The provider's own id, in full.
    pub provider_id: String,
    /// Since when it is stale or quarantined, Unix seconds.
    pub since: Option<u64>,
    /// Why it is quarantined.
    pub quarantine_reason: Option<String>,
    /// Its live or last lease.
    pub lease: Option<LeaseView>,
    /// Its deletion.
    pub deletion: Option<DeletionState>,
    /// Its tombstone, if it is deleted.
    pub tombstone: Option<TombstoneView>,
    /// Its latest state changes, oldest first.
    pub history: Vec<HistoryView>,
}

/// Which records to remove: `bulk-delete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkDeleteRequest {
    /// `stale` or `deletion_failed`; required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SandboxStatus>,
    /// Only those of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether only to show what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Where the call before ended, with the same words; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most records of this call, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Who asks, for the history; the principal if there is one, else `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum BulkDeleteOutcome {
    /// It is a tombstone now, or would be one.
    Removed,
    /// It stays, because its account may still be at the provider.
    Refused,
    /// It stays, because it changed since it was listed.
    Raced,
    /// It stays as far as is known: the table or the event log did not answer, or the time was over.
    Failed,
}

/// One record that a bulk delete looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkDeleteEntry {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// What became of it.
    pub outcome: BulkDeleteOutcome,
}

/// What one call of a bulk delete did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BulkDeleteReply {
    /// The state that was asked for.
    pub status: SandboxStatus,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Records that became tombstones, or would.
    pub removed: u64,
    /// Records that stay, because their accounts may still be at the provider.
    pub refused: u64,
    /// Records that stay, because they changed since they were listed.
    pub raced: u64,
    /// Records that stay as far as is known: the table or the event log did not answer, or the time was over.
    pub failed: u64,
    /// Of the removed ones: those whose events are not in the event log yet.
    pub untold: u64,
    /// Why records were refused.
    pub reason: Option<String>,
    /// Each of them.
    pub sandboxes: Vec<BulkDeleteEntry>,
    /// Whether there is more to look at.
    pub more: bool,
    /// Where the next call goes on; null if there is no more.
    pub cursor: Option<String>,
}

// === impl SandboxEntry ===

impl SandboxEntry {
    /// What a listing shows of `sandbox`.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Self {
        Self {
            view: SandboxView::of(sandbox),
            pool: sandbox.pool.to_string(),
            version: sandbox.version.get(),
            epoch: sandbox.epoch.get(),
            changed_at: sandbox.history.last().map(|entry| entry.at.get()),
            provision: sandbox.provision().map(ProvisionState::from),
        }
    }
}

// === impl LeaseView ===

impl LeaseView {
    fn of(lease: &Lease, is_live: bool) -> Self {
        // The idempotency key belongs to the owner and stays out: with it, another caller could get the owner's
        // answers.
        let Lease {
            claim,
            lab,
            epoch,
            claimed_version,
            granted_at,
            expires_at,
            request: _,
            answered: _,
            options: _,
        } = lease;
        Self {
            owner: claim.owner.to_string(),
            lab: lab.as_ref().map(ToString::to_string),
            epoch: epoch.get(),
            claimed_version: claimed_version.get(),
            granted_at: granted_at.get(),
            expires_at: expires_at.get(),
            is_live,
        }
    }
}

// === impl DeletionState ===

impl From<&Deletion> for DeletionState {
    fn from(deletion: &Deletion) -> Self {
        let Deletion { lease: _, cause, requested_at, attempts, last_error, preparation, relists: _ } =
            deletion;
        Self {
            cause: Cause::from(*cause).into(),
            requested_at: requested_at.get(),
            attempts: *attempts,
            last_error: last_error.clone(),
            pre_clean: preparation.as_ref().map(PreCleanView::from),
        }
    }
}

// === impl ProvisionState ===

impl From<&Provision> for ProvisionState {
    fn from(provision: &Provision) -> Self {
        let Provision { lease: _, requested_at, attempts, last_error } = provision;
        Self { requested_at: requested_at.get(), attempts: *attempts, last_error: last_error.clone() }
    }
}

// === impl RecordView ===

impl RecordView {
    /// Everything about `sandbox`.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Self {
        let (since, quarantine_reason) = match &sandbox.state {
            State::Stale { since } => (Some(since.get()), None),
            State::Quarantined { since, reason, lease: _ } => (Some(since.get()), Some(reason.to_string())),
            _ => (None, None),
        };
        let tombstone = match &sandbox.state {
            State::Deleted(Tombstone { deletion: _, deleted_at, purge_at }) => {
                Some(TombstoneView { deleted_at: deleted_at.get(), purge_at: purge_at.get() })
            }
            _ => None,
        };
        let is_live = sandbox.lease().is_some();
        Self {
            entry: SandboxEntry::of(sandbox),
            provider_id: sandbox.external_id.to_string(),
            since,
            quarantine_reason,
            lease: sandbox.last_lease().map(|lease| LeaseView::of(lease, is_live)),
            deletion: sandbox.deletion().map(DeletionState::from),
            tombstone,
            history: HistoryView::all_of(sandbox),
        }
    }
}

// === impl BulkDeleteReply ===

impl BulkDeleteReply {
    /// Adds what became of one record.
    pub fn add(&mut self, sandbox: &Sandbox, outcome: BulkDeleteOutcome) {
        *match outcome {
            BulkDeleteOutcome::Removed => &mut self.removed,
            BulkDeleteOutcome::Refused => &mut self.refused,
            BulkDeleteOutcome::Raced => &mut self.raced,
            BulkDeleteOutcome::Failed => &mut self.failed,
        } += 1;
        self.sandboxes.push(BulkDeleteEntry {
            sandbox_id: sandbox.id.to_string(),
            name: sandbox.name.to_string(),
            pool: sandbox.pool.to_string(),
            outcome,
        });
    }
}

// === impl BulkDeleteOutcome ===

impl BulkDeleteOutcome {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
