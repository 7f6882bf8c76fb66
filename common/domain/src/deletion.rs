//! The end of a sandbox: the deletion that is under way, and the tombstone that it leaves.

use super::lease::Lease;
use super::pre_clean::PreClean;
use super::time::UnixSeconds;

/// Longest text kept of a failed attempt, in bytes: a provider may answer with a whole page, and every
/// later write of the sandbox pays for the size of its item.
pub const LAST_ERROR_BYTES_MAX: usize = 1_024;

/// How often a deletion that the provider has accepted is tried again because the provider still lists the account;
/// after that it is parked.
pub const DELETION_RELISTS_MAX: u32 = 3;

/// Why a sandbox is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeletionCause {
    /// Its owner gave it back.
    Released,
    /// Its lease ended and the grace period went by.
    Expired,
    /// An operator ordered it.
    Operator,
}

/// A deletion that is wanted, or was given up for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The last lease, if there was one: who may ask about this sandbox, and which claim item to remove.
    pub lease: Option<Lease>,
    /// Why.
    pub cause: DeletionCause,
    /// When it was asked for; a repeated release shows this same time.
    pub requested_at: UnixSeconds,
    /// Attempts at the provider that were the sandbox's own failure.
    pub attempts: u32,
    /// What the last failed attempt said, cut to [`LAST_ERROR_BYTES_MAX`].
    pub last_error: Option<String>,
    /// What clearing it came to; none before the first attempt, and in records of former builds.
    pub pre_clean: Option<PreClean>,
    /// How often the provider still listed the account long after it had accepted the deletion.
    pub relists: u32,
}

/// What is left of a deleted sandbox, so that a listing that lags cannot bring it back as free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The deletion that ended it; none for a stale one that was only forgotten.
    pub deletion: Option<Deletion>,
    /// When the provider had deleted it.
    pub deleted_at: UnixSeconds,
    /// When the record may be purged.
    pub purge_at: UnixSeconds,
}

impl Deletion {
    /// As much of `error` as a deletion keeps: at most [`LAST_ERROR_BYTES_MAX`], whole characters only.
    #[must_use]
    pub fn bounded_error(error: &str) -> &str {
        error.get(..error.floor_char_boundary(LAST_ERROR_BYTES_MAX)).unwrap_or_default()
    }

    /// The same deletion with what clearing came to, if that is known.
    pub(super) fn with_pre_clean(self, pre_clean: Option<&PreClean>) -> Self {
        match pre_clean {
            Some(pre_clean) => Self { pre_clean: Some(pre_clean.clone()), ..self },
            None => self,
        }
    }
}
