//! The deletion queue as an operator sees it: every sandbox that is to be deleted or was given up, page by page.

use super::named::{PreCleanOutcome, SandboxStatus};
use domain::Preparation;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most entries of a page.
pub const PAGE_LIMIT_MAX: u32 = 100;

/// Which deletions to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeletionsRequest {
    /// Only those of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Only those in this state: `pending_deletion` or `deletion_failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SandboxStatus>,
    /// Where the page before ended; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most entries of this page, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Where a deletion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum DeletionPlace {
    /// In the queue, for a reaper.
    Waiting,
    /// With a reaper, or given back by one a moment ago.
    Running,
    /// In the queue, for the time of its next attempt.
    Retrying,
    /// Given up.
    Parked,
    /// Wanted, but without a message: the next sweep announces it.
    Unannounced,
}

/// What clearing a sandbox before its deletion came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PreCleanView {
    /// In one word.
    pub result: PreCleanOutcome,
    /// Services deleted inside, or that would have been.
    pub services: Option<u32>,
    /// Why it was skipped, or failed.
    pub reason: Option<String>,
    /// Whether the deletion went on after a failure.
    pub went_on: bool,
    /// All of it in words.
    pub summary: String,
}

/// One deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletionEntry {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its state.
    pub status: SandboxStatus,
    /// Where its deletion is.
    pub place: DeletionPlace,
    /// When it was asked for, Unix seconds.
    pub requested_at: u64,
    /// How long ago that is, in seconds.
    pub age_seconds: u64,
    /// Attempts that count.
    pub attempts: u32,
    /// What the last failed one said.
    pub last_error: Option<String>,
    /// When it is tried again, Unix seconds; only of one that is `retrying`.
    pub retry_at: Option<u64>,
    /// What clearing it came to, once it was tried.
    pub pre_clean: Option<PreCleanView>,
}

/// All deletions together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DeletionTotals {
    /// Sandboxes that are to be deleted.
    pub pending: u64,
    /// Sandboxes whose deletion was given up.
    pub parked: u64,
    /// Of the pending ones: in the queue, for a reaper. Null if the queue does not say.
    pub waiting: Option<u64>,
    /// Of the pending ones: with a reaper. Null if the queue does not say.
    pub running: Option<u64>,
    /// Of the pending ones: the rest, which waits for its next attempt or for the sweep. Null if the queue does not say.
    pub retrying: Option<u64>,
    /// When the oldest pending one was asked for, Unix seconds; null if there is none.
    pub oldest_requested_at: Option<u64>,
    /// How long ago that is, in seconds.
    pub oldest_age_seconds: Option<u64>,
}

/// One page of the deletion queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DeletionsReply {
    /// Entries. Those of a part of the index are in the order of their requests, but not those of all parts.
    pub deletions: Vec<DeletionEntry>,
    /// How many there are on this page; it may be short, or empty, before the last one.
    pub count: u64,
    /// Where the next page begins; none after the last.
    pub cursor: Option<String>,
    /// All together; on the first page only.
    pub totals: Option<DeletionTotals>,
}

// === impl DeletionPlace ===

impl DeletionPlace {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl PreCleanView ===

impl From<&Preparation> for PreCleanView {
    fn from(preparation: &Preparation) -> Self {
        let (services, reason, went_on) = match preparation {
            Preparation::Skipped(skip) => (None, Some(skip.as_str().to_owned()), false),
            Preparation::Done { count } | Preparation::Shadowed { count } => (Some(*count), None, false),
            Preparation::Failed { reason, went_on } => (None, Some(reason.clone()), *went_on),
        };
        let (result, summary) = (preparation.result().into(), preparation.to_string());
        Self { result, services, reason, went_on, summary }
    }
}
