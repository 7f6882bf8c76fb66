//! The census: how many sandboxes there are of each pool, state and lab, and how many break a promise.

use super::named::{CounterName, ViolationName};
use super::sandboxes::PoolStats;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Labs that a census names, those that hold most. A key of the bucket holds 64 KiB and the name of a lab may have
/// 256 bytes.
pub const LABS_MAX: usize = 150;

/// The pools at one moment, as the reconciler counted them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Census {
    /// When counting began, in Unix seconds.
    pub taken_at: u64,
    /// All pools together.
    #[serde(flatten)]
    pub all: PoolStats,
    /// Each pool.
    pub pools: BTreeMap<String, PoolStats>,
    /// By pool and lab, how many sandboxes the lab holds; at most [`LABS_MAX`] labs.
    #[serde(default)]
    pub labs: BTreeMap<String, BTreeMap<String, u64>>,
    /// Sandboxes held for labs that are not named.
    #[serde(default)]
    pub labs_left_out: u64,
    /// How often each promise is broken; all of them are there, and zero if all is well.
    #[serde(default)]
    pub violations: BTreeMap<ViolationName, u64>,
    /// By pool, when its oldest pending deletion was asked for, in Unix seconds; pools without one are not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub oldest_deletions: BTreeMap<String, u64>,
}

/// How the counts in an answer were come by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counted {
    /// By what.
    pub by: CounterName,
    /// When counting began, in Unix seconds.
    pub at: u64,
    /// How long ago that was, in seconds.
    pub age_seconds: u64,
}

/// What counts the sandboxes of an answer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumString, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum CountedBy {
    /// The last census, young enough.
    Census,
    /// The index, for this answer.
    Index,
}

/// A promise about leases and accounts that can be broken. Each kind is proved by strongly consistent reads before it counts.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum Violation {
    /// A sandbox is held, and its owner's key has no claim item: a repeat of the claim would get a second one.
    ClaimMissing,
    /// A sandbox is held, and the claim item of its owner's key names another sandbox or version.
    ClaimElsewhere,
    /// One owner's key holds several sandboxes.
    HeldTwice,
    /// Several records that are in use stand for one account of the provider.
    IdentityTwice,
}

// === impl Violation ===

impl Violation {
    /// Its name in reports and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
