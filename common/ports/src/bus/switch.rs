//! The operators' switch of all deletions, as cached in the bucket. The table has the truth.

use super::BusError;
use async_trait::async_trait;
use contract::Pause;

/// The cached switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachedSwitch {
    /// No entry: the bucket was lost, or the switch was never changed.
    Lost,
    /// Deletions are not paused.
    Off,
    /// Deletions are paused, unless the pause has ended.
    On {
        /// The pause.
        pause: Pause,
        /// The version of the switch in the table; none if an operator or an older build wrote the entry directly.
        version: Option<u64>,
    },
}

/// The cached copy of the switch.
#[async_trait]
pub trait SwitchCache: Send + Sync {
    /// The copy and its revision; [`CachedSwitch::Lost`] has revision 0.
    async fn cached_switch(&self) -> Result<(u64, CachedSwitch), BusError>;

    /// Updates the copy to the state in the table, if it still has that revision; otherwise false. A pause comes with
    /// its version; none means that deletions are not paused.
    async fn cache_switch(&self, revision: u64, pause: Option<(&Pause, u64)>) -> Result<bool, BusError>;
}
