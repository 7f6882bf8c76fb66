//! The operators' switch of all deletions, as the table keeps it.

use super::UnixSeconds;

/// Who switched deletions off or on last. The version grows by one with each turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletionSwitch {
    /// Turns so far; the first one is 1.
    pub version: u64,
    /// Whether deletions are paused; what ends by itself stays so until the next turn.
    pub is_paused: bool,
    /// Who turned it.
    pub by: String,
    /// When.
    pub since: UnixSeconds,
    /// When the pause ends by itself; none until an operator resumes.
    pub until: Option<UnixSeconds>,
    /// Why it was turned.
    pub reason: Option<String>,
}
