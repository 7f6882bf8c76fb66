//! The operators' switch of all deletions, as the queue's bucket caches it. The table has the truth.

use super::BusError;
use async_trait::async_trait;
use contract::Pause;

/// What the bucket says of the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachedSwitch {
    /// Nothing, not even that deletions go on: the bucket was lost, or no operator ever turned the switch.
    Lost,
    /// Deletions go on.
    Off,
    /// They are paused, unless the pause is over.
    On {
        /// The pause.
        pause: Pause,
        /// The version of the switch in the table; none if an operator wrote it directly, or a former build did.
        version: Option<u64>,
    },
}

/// The bucket's copy of the switch.
#[async_trait]
pub trait SwitchCache: Send + Sync {
    /// What it says, and at which revision; 0 is the revision of [`CachedSwitch::Lost`].
    async fn cached_switch(&self) -> Result<(u64, CachedSwitch), BusError>;

    /// Makes it say what the table says, if it is still at that revision; false if it is not. A pause comes with its
    /// version; none means that deletions go on.
    async fn cache_switch(&self, revision: u64, pause: Option<(&Pause, u64)>) -> Result<bool, BusError>;
}
