//! The reports of runs.

use super::census::Census;
use super::ticks::TickKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use strum::VariantNames as _;
use utoipa::ToSchema;

/// How a run ended.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum RunStatus {
    /// It did what it should.
    Completed,
    /// It stopped before it did harm.
    Refused,
    /// It could not finish.
    #[default]
    Failed,
    /// A later build ended it in a way that this one does not know.
    #[serde(other)]
    Unknown,
}

// The name of a variant is the name of its kind.
/// What one run did, of whichever kind.
#[derive(
    Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::IntoStaticStr, strum::VariantNames,
)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Report {
    /// A sync.
    Sync(SyncReport),
    /// An expiry run.
    Expiry(ExpiryReport),
    /// A sweep.
    Sweep(SweepReport),
    /// A census.
    Census(CensusReport),
    /// A removal of stale sandboxes.
    Stale(StaleReport),
    /// A fill of the pools whose sandboxes are created.
    Fill(FillReport),
    /// A look at the nodes.
    Nodes(NodesReport),
}

/// A report with what identifies its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunReport {
    /// Stream sequence of the tick that started it: every tick up to this one is answered by this run.
    pub tick: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What it did.
    #[serde(flatten)]
    pub report: Report,
}

/// What a sync did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncReport {
    /// `completed`; `refused` when it would have staled too much of the pool; `failed` when the listing could
    /// not be had or the store failed.
    pub status: RunStatus,
    /// Why, unless completed; or what was overridden by force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who forced it, if it was forced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced_by: Option<String>,
    /// Sandboxes that the provider lists.
    pub listed: u64,
    /// Sandboxes that are as listed at the end: `inserted + restored + refreshed + unchanged`.
    pub synced: u64,
    /// New in the pool.
    pub inserted: u64,
    /// Stale before, listed again.
    pub restored: u64,
    /// Description brought up to date.
    pub refreshed: u64,
    /// Nothing to do.
    pub unchanged: u64,
    /// Free before, no longer listed.
    pub marked_stale: u64,
    /// Held by an owner, but no longer listed: its holder works with a dead sandbox.
    pub allocated_missing: u64,
    /// Listed, but deleted by us; the listing lags.
    pub tombstoned: u64,
    /// Entries that could not be used, each logged with its reason.
    pub skipped: u64,
    /// Writes that found the sandbox changed since it was read; the next sync looks again.
    pub raced: u64,
    /// Items of the table that this build cannot read, each logged; their sandboxes are left as they are.
    #[serde(default)]
    pub unreadable: u64,
    /// Another account is listed under their ids: they have become that account and are free.
    #[serde(default)]
    pub renewed: u64,
    /// Held or quarantined, and another account is listed under their ids: its holder works with a dead sandbox.
    #[serde(default)]
    pub identity_changed: u64,
    /// Entries or records whose account another record stands for; they are not handed out.
    #[serde(default)]
    pub identity_taken: u64,
    /// Deleted by us long ago and still listed: to be deleted again, or parked when that was tried often enough.
    #[serde(default)]
    pub relisted: u64,
    /// Identities that went because their accounts were not listed for long.
    #[serde(default)]
    pub identities_dropped: u64,
    /// Entries that may be any sandbox; while there are some, nothing is marked stale.
    #[serde(default)]
    pub unclear: u64,
    /// Free and not listed, but not marked stale because of such entries.
    #[serde(default)]
    pub withheld: u64,
    /// Providers whose listing was not read, because their pools have longer periods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_due: Vec<String>,
    /// Each provider's part, in a fleet with several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<String, ProviderSync>,
}

/// What a sync came to at one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderSync {
    /// As for the whole sync.
    pub status: RunStatus,
    /// Why, unless completed; or what was overridden by force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Sandboxes that it lists.
    pub listed: u64,
}

/// What an expiry run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExpiryReport {
    /// `completed`, or `failed` when the store failed half-way; the next run goes on.
    pub status: RunStatus,
    /// Leases that were over.
    pub due: u64,
    /// Leases ended by this run.
    pub expired: u64,
    /// Found released or extended meanwhile.
    pub raced: u64,
    /// Deletions that could not be announced; the sweep will.
    pub unannounced: u64,
    /// Items of the table that this build cannot read, each logged; their leases do not end by this run.
    #[serde(default)]
    pub unreadable: u64,
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SweepReport {
    /// `completed`, or `failed` when the store or the queue failed half-way; the next run goes on.
    pub status: RunStatus,
    /// Deletions wanted for longer than the sweep's patience.
    pub pending: u64,
    /// Of these, announced again because there was no message.
    pub reannounced: u64,
    /// Of these, waiting in the queue as they should.
    pub waiting: u64,
    /// Messages that were removed from the queue, because their sandboxes have moved on.
    #[serde(default)]
    pub unqueued: u64,
    /// Parked deletions that have a copy.
    #[serde(default)]
    pub parked: u64,
    /// Parked deletions whose copy was lost and put back.
    #[serde(default)]
    pub reparked: u64,
    /// Copies that were removed, because their sandboxes are not parked any more.
    #[serde(default)]
    pub unparked: u64,
    /// Events that were missing in the event log and made from the history.
    #[serde(default)]
    pub events_filled: u64,
    /// Deletions that were wanted when the run began, and were done when it ended. Reapers delete all the time, not in a run.
    #[serde(default)]
    pub deleted: u64,
    /// Deletions that were wanted when the run began, and had failed for good when it ended.
    #[serde(default)]
    pub failed: u64,
    /// Items of the table that this build cannot read, each logged; nothing is changed for them.
    #[serde(default)]
    pub unreadable: u64,
}

/// What a census found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CensusReport {
    /// `completed`, or `failed` when the store or the queue failed half-way; then the last census stands.
    pub status: RunStatus,
    /// The counts, and what must be zero.
    #[serde(flatten)]
    pub census: Census,
    /// Claim items that were read.
    pub checked: u64,
    /// Leases whose claim item was left to the next census, because a run reads only so many.
    pub unchecked: u64,
    /// Of those that were read, changed meanwhile; the next census looks again.
    pub raced: u64,
    /// Claim items that were removed, because the lease that they name has ended.
    pub claims_removed: u64,
    /// Items of the table that this build cannot read, each logged.
    #[serde(default)]
    pub unreadable: u64,
    /// Identities that were looked at or made, because the index showed none that names the record.
    #[serde(default)]
    pub identities_made: u64,
    /// Free records that were quarantined, because another record stands for their account.
    #[serde(default)]
    pub duplicates_quarantined: u64,
}

/// What a removal of stale sandboxes did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StaleReport {
    /// `completed`; `refused` when its order came too late; `failed` when the store failed half-way, and the next run goes on.
    pub status: RunStatus,
    /// Why, if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For how many hours a sandbox had to be stale; 0 from former builds.
    #[serde(default)]
    pub grace_period_hours: u64,
    /// Sandboxes that were stale for longer than that.
    pub due: u64,
    /// Of these, those that are tombstones now.
    pub removed: u64,
    /// The same number, under its name in the predecessor's answer.
    #[serde(default)]
    pub deleted: u64,
    /// Found listed again, or removed by another process, meanwhile.
    pub raced: u64,
    /// Removed by this run or an earlier one, and not in the event log yet; the next run tries again.
    pub untold: u64,
    /// Items of the table that this build cannot read, each logged; they stay.
    #[serde(default)]
    pub unreadable: u64,
}

/// What a fill did in the pools whose sandboxes are created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FillReport {
    /// `completed`, or `failed` when the store failed half-way; the next run goes on.
    pub status: RunStatus,
    /// Free sandboxes that were asked for.
    pub created: u64,
    /// Creations that were announced again, because they were not finished for some seconds and had no message.
    pub reannounced: u64,
    /// Free sandboxes that were given up: too many, or of an older version of their template, or never created.
    pub retired: u64,
    /// Found changed meanwhile; the next run looks again.
    pub raced: u64,
    /// Creations or deletions that could not be announced; the next run or the sweep will.
    pub unannounced: u64,
    /// How many free sandboxes are missing now, by pool; pools that lack none are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<String, u64>,
    /// Why a pool gets no sandboxes, by pool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub degraded: BTreeMap<String, String>,
    /// Items of the table that this build cannot read, each logged.
    #[serde(default)]
    pub unreadable: u64,
}

/// What a look at the nodes found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodesReport {
    /// `completed`, or `failed` when the store or the queue failed half-way; the next run goes on.
    pub status: RunStatus,
    /// Nodes that answered.
    pub present: u64,
    /// For how many seconds nodes have not answered, by name. One that is declared lost is left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub silent: BTreeMap<String, u64>,
    /// Nodes that were declared lost by this run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Free sandboxes that were given up, because their node is lost or drained, or does not have their container any more.
    pub retired: u64,
    /// Leased sandboxes whose node is lost or does not have their container any more; they stay until their leases end.
    pub leased_missing: u64,
    /// Those of them whose records were marked by this run.
    #[serde(default)]
    pub failed: u64,
    /// Leases that were ended because the time of a drain is over.
    #[serde(default)]
    pub ended: u64,
    /// Found changed meanwhile; the next run looks again.
    pub raced: u64,
    /// Deletions that could not be announced; the sweep will.
    pub unannounced: u64,
    /// Items of the table that this build cannot read, each logged.
    #[serde(default)]
    pub unreadable: u64,
}

// === impl RunStatus ===

impl RunStatus {
    /// Its name on the wire and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl RunReport ===

impl RunReport {
    /// The kind of the run.
    #[must_use]
    pub fn kind(&self) -> TickKind {
        self.report.kind()
    }
}

// === impl Report ===

impl Report {
    /// The kind of the run.
    #[must_use]
    pub fn kind(&self) -> TickKind {
        TickKind::new(self.into())
    }

    /// Every kind that has a report.
    pub fn kinds() -> impl Iterator<Item = TickKind> {
        Self::VARIANTS.iter().copied().map(TickKind::new)
    }

    /// How the run ended.
    #[must_use]
    pub const fn status(&self) -> RunStatus {
        match self {
            Self::Sync(run) => run.status,
            Self::Expiry(run) => run.status,
            Self::Sweep(run) => run.status,
            Self::Census(run) => run.status,
            Self::Stale(run) => run.status,
            Self::Fill(run) => run.status,
            Self::Nodes(run) => run.status,
        }
    }

    /// Why it ended so, if it says.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Sync(run) => run.reason.as_deref(),
            Self::Stale(run) => run.reason.as_deref(),
            Self::Expiry(_) | Self::Sweep(_) | Self::Census(_) | Self::Fill(_) | Self::Nodes(_) => None,
        }
    }
}
