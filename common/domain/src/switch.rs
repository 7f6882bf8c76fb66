//! The operators' switch that pauses all deletions, as the table stores it.

use super::UnixSeconds;

/// The last change of the switch. The version grows by one with each change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletionSwitch {
    /// Number of changes so far; the first one is 1.
    pub version: u64,
    /// Whether deletions are paused. It stays true after `until` has passed, until the next change.
    pub is_paused: bool,
    /// The operator who changed it.
    pub by: String,
    /// When it was changed.
    pub since: UnixSeconds,
    /// When the pause ends; none if it lasts until an operator resumes.
    pub until: Option<UnixSeconds>,
    /// The reason.
    pub reason: Option<String>,
}
