//! Deletion work and what is kept of it when it is given up.

use super::named::{ChangeCause, SandboxStatus};
use super::queue::PreCleanView;
use super::subjects::UNREADABLE;
use domain::{Epoch, ExternalId, HistoryEntry, InvalidId, PoolName, Sandbox, SandboxId, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Version of [`DeletionWork`] that this build writes and reads.
pub const DELETION_WORK_VERSION: u32 = 1;

/// One sandbox that should be deleted. The table decides whether it still should: the epoch fences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletionWork {
    /// Version of this shape; a reader parks what it does not know.
    pub version: u32,
    /// The sandbox.
    pub sandbox_id: String,
    /// Its pool.
    pub pool: String,
    /// The epoch that the deletion is for.
    pub epoch: u64,
    /// When it was asked for, Unix seconds.
    pub requested_at: u64,
    /// The provider's id of the account that is to be deleted; none in messages of former builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

/// A deletion that used up its attempts, as kept in PARKED.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParkedDeletion {
    /// The work, fit to be replayed as it stands.
    #[serde(flatten)]
    pub work: DeletionWork,
    /// Attempts made.
    pub attempts: u32,
    /// What the last one said.
    pub reason: String,
    /// When it was parked, Unix seconds.
    pub parked_at: u64,
}

/// Which parked deletions to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ParkedRequest {
    /// Only those of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Only those whose reason contains this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where the page before ended; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<u64>,
    /// Most entries to look at, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Something that was parked, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParkedView {
    /// What it goes by: the sandbox's id, or `_unreadable.<sequence>`.
    pub key: String,
    /// The pool; none for a message that no worker could read.
    pub pool: Option<String>,
    /// Why.
    pub reason: String,
    /// Attempts made; none for a message that no worker could read.
    pub attempts: Option<u32>,
    /// When, Unix seconds.
    pub parked_at: u64,
}

/// One page of what was parked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParkedReply {
    /// Entries, oldest first.
    pub parked: Vec<ParkedView>,
    /// How many there are on this page.
    pub count: u64,
    /// Where the next page begins; none after the last.
    pub cursor: Option<u64>,
}

/// The deletion of which sandbox to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeletionRequest {
    /// The sandbox.
    pub sandbox_id: String,
}

/// A message in the queue, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueuedView {
    /// Whether it waits for its next attempt; else it waits for a reaper or is under way.
    pub put_off: bool,
    /// Since when it is there, Unix seconds.
    pub since: u64,
    /// When its next attempt is due, Unix seconds, if it waits for one.
    #[serde(default)]
    pub due_at: Option<u64>,
}

/// One state change of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryView {
    /// The version that it made.
    pub version: u64,
    /// The epoch after it.
    pub epoch: u64,
    /// The state after it.
    pub status: SandboxStatus,
    /// What made it.
    pub cause: ChangeCause,
    /// When, Unix seconds.
    pub at: u64,
    /// Who, if an operator did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, if it was ordered with a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Everything about the end of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletionView {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its state.
    pub status: SandboxStatus,
    /// When its deletion was asked for, Unix seconds; none if it was not.
    pub requested_at: Option<u64>,
    /// Attempts that count.
    pub attempts: u32,
    /// What the last failed one said.
    pub last_error: Option<String>,
    /// What clearing it came to, once it was tried.
    #[serde(default)]
    pub pre_clean: Option<PreCleanView>,
    /// Its messages in the queue.
    pub queued: Vec<QueuedView>,
    /// Its copy among the parked ones.
    pub parked: Option<ParkedView>,
    /// Its state changes, oldest first.
    pub history: Vec<HistoryView>,
}

/// One parked thing, to be replayed or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// The sandbox's id, or `_unreadable.<sequence>`.
    pub key: String,
    /// Who asks, for the history; the principal if there is one, else `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What became of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayOutcome {
    /// It is tried again, with its attempts counted anew.
    Replayed,
    /// It was on its way already.
    AlreadyOnTheWay,
    /// The sandbox is deleted; or, of a copy, its deletion is not wanted any more. Of a creation: the sandbox is being deleted
    /// or is deleted. A living sandbox that is named itself is refused.
    Gone,
    /// The message still cannot be read.
    Unreadable,
}

/// The answer to a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplayReply {
    /// What was named.
    pub key: String,
    /// What became of it.
    pub outcome: ReplayOutcome,
}

/// Replays what is parked, one page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayAllRequest {
    /// Only those of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Only those whose reason contains this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where the page before ended; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<u64>,
    /// Most entries to look at, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Who asks, for the history; the principal if there is one, else `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl ReplayAllRequest {
    /// Replays that page of parked deletions.
    #[must_use]
    pub fn new(which: ParkedRequest, by: Option<String>) -> Self {
        let ParkedRequest { pool, reason, cursor, limit } = which;
        Self { pool, reason, cursor, limit, by }
    }

    /// Which page of parked deletions, and who asks.
    #[must_use]
    pub fn into_parts(self) -> (ParkedRequest, Option<String>) {
        let Self { pool, reason, cursor, limit, by } = self;
        (ParkedRequest { pool, reason, cursor, limit }, by)
    }
}

/// What a page of replays did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ReplayAllReply {
    /// Tried again from now on.
    pub replayed: u64,
    /// On their way already.
    pub already_on_the_way: u64,
    /// Deleted, or not wanted any more.
    pub gone: u64,
    /// Messages that still cannot be read; they stay parked.
    pub unreadable: u64,
    /// Could not be replayed now, because table or queue did not answer; they stay parked.
    pub failed: u64,
    /// Where the next page begins; none after the last.
    pub cursor: Option<u64>,
}

/// What became of removing something that was parked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoveReply {
    /// What was named.
    pub key: String,
    /// Whether it was there.
    pub removed: bool,
}

/// The sequence in `_unreadable.<sequence>`, the key of a parked message that cannot be read; none in any other key.
#[must_use]
pub fn unreadable_sequence(key: &str) -> Option<u64> {
    let sequence = key.strip_prefix(UNREADABLE)?.strip_prefix('.')?;
    // `parse` alone would take a sign.
    if sequence.bytes().all(|byte| byte.is_ascii_digit()) { sequence.parse().ok() } else { None }
}

// === impl HistoryView ===

impl HistoryView {
    /// The state changes of `sandbox`, oldest first.
    #[must_use]
    pub fn all_of(sandbox: &Sandbox) -> Vec<Self> {
        let view = |entry: &HistoryEntry| {
            let HistoryEntry { version, epoch, state, cause, at, by, reason } = entry;
            Self {
                version: version.get(),
                epoch: epoch.get(),
                status: (*state).into(),
                cause: (*cause).into(),
                at: at.get(),
                by: by.as_ref().map(ToString::to_string),
                reason: reason.as_ref().map(ToString::to_string),
            }
        };
        sandbox.history.iter().map(view).collect()
    }
}

// === impl ParkedDeletion ===

impl ParkedDeletion {
    /// The copy of a sandbox whose deletion is parked, as the table still knows it; none for any other.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Option<Self> {
        let State::DeletionFailed(deletion) = &sandbox.state else { return None };
        let parked_at = sandbox.history.last().map_or(deletion.requested_at, |entry| entry.at);
        Some(Self {
            work: DeletionWork::of(sandbox)?,
            attempts: deletion.attempts,
            reason: deletion.last_error.clone().unwrap_or_else(|| "no attempt has said why".to_owned()),
            parked_at: parked_at.get(),
        })
    }
}

// === impl ReplayAllReply ===

impl ReplayAllReply {
    /// Adds the counts of a further page, and goes on where that ended.
    pub fn add(&mut self, page: &Self) {
        let Self { replayed, already_on_the_way, gone, unreadable, failed, cursor } = page;
        self.replayed += replayed;
        self.already_on_the_way += already_on_the_way;
        self.gone += gone;
        self.unreadable += unreadable;
        self.failed += failed;
        self.cursor = *cursor;
    }
}

// === impl DeletionWork ===

impl DeletionWork {
    /// The work that ends `sandbox`; none unless its deletion is wanted.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Option<Self> {
        let deletion = sandbox.deletion()?;
        Some(Self {
            version: DELETION_WORK_VERSION,
            sandbox_id: sandbox.id.to_string(),
            pool: sandbox.pool.to_string(),
            epoch: sandbox.epoch.get(),
            requested_at: deletion.requested_at.get(),
            external_id: Some(sandbox.external_id.to_string()),
        })
    }

    /// Whether this is about that account; a message of a former build is about whatever the record names.
    #[must_use]
    pub fn is_about(&self, account: &ExternalId) -> bool {
        self.external_id.as_deref().is_none_or(|external_id| external_id == account.as_str())
    }

    /// The sandbox, its pool and the epoch, as checked ids.
    ///
    /// # Errors
    /// [`InvalidId`] when the sandbox or pool is no such id.
    pub fn parts(&self) -> Result<(SandboxId, PoolName, Epoch), InvalidId> {
        Ok((SandboxId::parse(&self.sandbox_id)?, PoolName::parse(&self.pool)?, Epoch::new(self.epoch)))
    }
}
