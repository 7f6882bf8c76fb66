//! The end of a sandbox: its deletion, and the tombstone that remains.

use super::lease::Lease;
use super::preparation::Preparation;
use super::time::UnixSeconds;

/// Longest error text of a failed attempt that is kept, in bytes. A provider may answer with a whole page, and the size
/// of the item determines the cost of every later write.
pub const LAST_ERROR_BYTES_MAX: usize = 1_024;

/// How often a deletion that the provider has accepted is repeated because the provider still lists the account. After
/// that the deletion is parked.
pub const DELETION_RELISTS_MAX: u32 = 3;

/// Why a sandbox is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeletionCause {
    /// Its owner gave it back.
    Released,
    /// Its lease ended and the grace period passed.
    Expired,
    /// An operator ordered it.
    Operator,
    /// Its pool does not want it any more, and no owner holds it.
    Retired,
}

/// A deletion that is wanted or parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The last lease, if there was one. It decides which owner may ask about this sandbox and which claim item to
    /// close.
    pub lease: Option<Lease>,
    /// Why the sandbox is deleted.
    pub cause: DeletionCause,
    /// When the deletion was requested. A repeated release returns the same time.
    pub requested_at: UnixSeconds,
    /// Failed attempts that count against this sandbox.
    pub attempts: u32,
    /// The error of the last failed attempt, cut to [`LAST_ERROR_BYTES_MAX`].
    pub last_error: Option<String>,
    /// The result of the pre-clean; none before the first attempt and in records of older builds.
    pub preparation: Option<Preparation>,
    /// How often the provider still listed the account long after it had accepted the deletion.
    pub relists: u32,
}

/// The record of a deleted sandbox. It prevents a late listing from bringing the sandbox back as free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The deletion that ended it; none if a stale sandbox was given up without a deletion.
    pub deletion: Option<Deletion>,
    /// When the provider had deleted it.
    pub deleted_at: UnixSeconds,
    /// When the record may be purged.
    pub purge_at: UnixSeconds,
}

impl Deletion {
    /// The part of `error` that a deletion keeps: at most [`LAST_ERROR_BYTES_MAX`] bytes, whole characters only.
    #[must_use]
    pub fn bounded_error(error: &str) -> &str {
        error.get(..error.floor_char_boundary(LAST_ERROR_BYTES_MAX)).unwrap_or_default()
    }

    /// The same deletion with this result of the pre-clean, if there is one.
    pub(super) fn with_preparation(self, preparation: Option<&Preparation>) -> Self {
        match preparation {
            Some(preparation) => Self { preparation: Some(preparation.clone()), ..self },
            None => self,
        }
    }
}
