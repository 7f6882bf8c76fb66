//! The history of a sandbox: its state changes and their causes.

use super::deletion::DeletionCause;
use super::ids::{Actor, Epoch, Reason, Version};
use super::sandbox::StateName;
use super::time::UnixSeconds;

/// History entries that a sandbox keeps; older ones are removed. A DynamoDB item may hold 400 KiB, and each write pays
/// for the whole item. A normal life has four entries.
pub const HISTORY_ENTRIES_MAX: usize = 32;

/// One state change, recorded by the write that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The version that the change made.
    pub version: Version,
    /// The epoch after the change.
    pub epoch: Epoch,
    /// The state after the change.
    pub state: StateName,
    /// The cause of the change.
    pub cause: Cause,
    /// When the change was made.
    pub at: UnixSeconds,
    /// Who made it, if it was ordered.
    pub by: Option<Actor>,
    /// Why, if it was ordered with a reason.
    pub reason: Option<Reason>,
}

/// What made a state change.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumString, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// The provider listed it for the first time.
    Listed,
    /// An owner claimed it.
    Claimed,
    /// Its owner gave it back.
    Released,
    /// Its lease ended.
    Expired,
    /// An operator ordered its deletion.
    Ordered,
    /// The provider deleted it.
    Deleted,
    /// Its deletion used up its attempts.
    Parked,
    /// An operator replayed its parked deletion.
    Replayed,
    /// The provider stopped listing it.
    Missing,
    /// The provider lists it again.
    Found,
    /// It was given up because the provider had not listed it for a long time, or because an operator ordered that.
    Forgotten,
    /// Its owner was given more time.
    Extended,
    /// It was taken out of use.
    Quarantined,
    /// An operator put it back into use.
    Unquarantined,
    /// Its pool wants another free one.
    Filled,
    /// It was created.
    Provisioned,
    /// Its creation used up its attempts.
    ProvisionFailed,
    /// Its pool does not want it any more.
    Retired,
    /// The claim that chose its id gave it up before it was created.
    Abandoned,
    /// Its holder started its container.
    Started,
    /// Its holder stopped its container.
    Stopped,
    /// Its holder restarted its container.
    Restarted,
    /// Its holder paused its container.
    Paused,
    /// Its holder resumed its container.
    Resumed,
    /// Its container has ended by itself.
    Exited,
    /// Its container, or the node of it, is lost.
    Failed,
}

/// Who ordered an operator action, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The actor.
    pub by: Actor,
    /// The reason.
    pub reason: Reason,
}

// === impl Cause ===

impl Cause {
    /// The stored name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The cause with that stored name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }
}

impl From<DeletionCause> for Cause {
    fn from(cause: DeletionCause) -> Self {
        match cause {
            DeletionCause::Released => Self::Released,
            DeletionCause::Expired => Self::Expired,
            DeletionCause::Operator => Self::Ordered,
            DeletionCause::Retired => Self::Retired,
        }
    }
}
