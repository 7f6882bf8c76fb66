//! Data about the table itself: the number of index shards, the last supply of each pool, and the like.
//!
//! The number of shards is stored in the table, so that all processes of a fleet agree on it and it can change while
//! they run. There are two numbers. *Read* is raised first; *write* follows only when every process must have seen that
//! (`READ_SETTLE`). Read is never lowered, because a writer may be arbitrarily late. So readers always cover every
//! shard that is written.

use super::StoreError;
use async_trait::async_trait;
use domain::{DeletionSwitch, PoolName, UnixSeconds};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Most shards of a pool and state: a query of a pool reads each of them.
pub const SHARDS_MAX: u16 = 256;
/// Intended number of free sandboxes in a shard. A claim round reads a few hundred; a partition of the index accepts
/// 1,000 writes a second whatever it contains, so this bounds the load on one shard of a large pool.
pub const SANDBOXES_PER_SHARD: u64 = 4_096;
/// Maximum age of a process's cached number of shards for reading.
pub const SHARDS_AGE_MAX: Duration = Duration::from_secs(5);
/// Time between raising the read number and the write number: several times [`SHARDS_AGE_MAX`], for reads in progress
/// and clock differences.
pub const READ_SETTLE: Duration = Duration::from_secs(60);
/// Added to the index lag, because the note has whole seconds and is written once a second.
pub const NOTE_GRANULARITY: Duration = Duration::from_secs(2);

/// The number of shards of each pool and state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    /// New entries go to shards below this.
    pub write: u16,
    /// Entries may be in shards below this.
    pub read: u16,
    /// When `read` got its value.
    pub read_since: UnixSeconds,
}

/// Facts about a pool from a strongly consistent read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// Its sandboxes may lie in the shards below this.
    pub shards: u16,
    /// From then on the index shows everything that was made free before the read; none if it does so already.
    pub settles_at: Option<UnixSeconds>,
}

/// Settings that every process on a table must agree on, by name. Only settings whose differences are unsafe belong
/// here: a process that differs does not start.
pub type Agreed = BTreeMap<String, String>;

/// A number of the table that only grows. A lower one reveals a table that was restored to an earlier time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableMark {
    /// The number; 0 before the first mark.
    pub number: u64,
    /// When it was set.
    pub at: UnixSeconds,
    /// The sequence of the last event that an operator accepted although the table may be older; 0 for none.
    pub accepted_event: u64,
}

/// Data that a table keeps about itself. Part of every store.
#[async_trait]
pub trait Layout: Send + Sync + std::fmt::Debug {
    /// Number of shards to read for each pool and state; at most [`SHARDS_AGE_MAX`] old.
    async fn shards(&self) -> Result<u16, StoreError>;

    /// One step towards the number of shards that the settings and a pool of `sandboxes` require. Called by every sync;
    /// returns the numbers after the step.
    async fn follow_size(&self, sandboxes: u64, now: UnixSeconds) -> Result<Shards, StoreError>;

    /// Records that sandboxes of `pool` are about to become free. Called before the first of them, and again in every
    /// second in which more follow.
    async fn note_supply(&self, pool: &PoolName, now: UnixSeconds) -> Result<(), StoreError>;

    /// Facts about `pool` from a strongly consistent read. Not for the hot path.
    async fn supply(&self, pool: &PoolName) -> Result<Supply, StoreError>;

    /// Every pool that the table knows, by a strongly consistent read.
    async fn pools(&self) -> Result<BTreeSet<PoolName>, StoreError>;

    /// Adds pools to the table. The table never removes one, so that its sandboxes are maintained although no process
    /// is configured for it any more.
    async fn note_pools(&self, pools: &BTreeSet<PoolName>) -> Result<(), StoreError>;

    /// The operators' switch of all deletions, by a strongly consistent read; none if it was never changed.
    async fn deletion_switch(&self) -> Result<Option<DeletionSwitch>, StoreError>;

    /// Stores `next` if its version is later than the stored one; false if another change was faster.
    async fn set_deletion_switch(&self, next: &DeletionSwitch) -> Result<bool, StoreError>;

    /// The settings that the processes on this table have agreed on, by a strongly consistent read.
    async fn agreed(&self) -> Result<Agreed, StoreError>;

    /// Stores those of the `own` settings that the table does not have yet (all of them if `replaces`), and returns the
    /// resulting settings. Settings of other builds stay.
    async fn agree(&self, own: &Agreed, replaces: bool) -> Result<Agreed, StoreError>;

    /// The mark of the table, by a strongly consistent read.
    async fn mark(&self) -> Result<TableMark, StoreError>;

    /// Replaces the mark by `next` if it still equals `seen`; false if it does not.
    async fn advance_mark(&self, seen: &TableMark, next: &TableMark) -> Result<bool, StoreError>;

    /// The configured pools and all others in the table; adds missing ones to the table.
    async fn pools_with(&self, configured: &BTreeSet<PoolName>) -> Result<BTreeSet<PoolName>, StoreError> {
        let mut pools = self.pools().await?;
        let fresh: BTreeSet<PoolName> = configured.difference(&pools).cloned().collect();
        if !fresh.is_empty() {
            self.note_pools(&fresh).await?;
            pools.extend(fresh);
        }
        Ok(pools)
    }
}

// === impl Shards ===

impl Shards {
    /// The numbers of a table without any writes.
    pub fn fresh(count: u16, now: UnixSeconds) -> Self {
        let count = count.clamp(1, SHARDS_MAX);
        Self { write: count, read: count, read_since: now }
    }

    /// The next step towards `wanted`; none if there is nothing to do, or not yet.
    pub fn towards(self, wanted: u16, now: UnixSeconds) -> Option<Self> {
        let Self { write, read, read_since } = self;
        if wanted > read {
            return Some(Self { write, read: wanted, read_since: now });
        }
        let settled = read_since.after(READ_SETTLE) <= now;
        (wanted < write || (wanted > write && settled)).then_some(Self { write: wanted, read, read_since })
    }
}

/// The number of shards for the largest pool: at least the setting, and a power of two beyond that.
pub fn wanted_shards(set: u16, sandboxes: u64) -> u16 {
    let by_size = sandboxes.div_ceil(SANDBOXES_PER_SHARD).max(1).next_power_of_two();
    u16::try_from(by_size).unwrap_or(SHARDS_MAX).max(set).clamp(1, SHARDS_MAX)
}

/// When the index shows everything that was made free up to `supplied_at`, with at most this lag.
pub fn settles_at(supplied_at: Option<UnixSeconds>, lag: Duration) -> Option<UnixSeconds> {
    // An index without lag is written together with the sandbox.
    supplied_at.filter(|_| !lag.is_zero()).map(|at| at.after(lag).after(NOTE_GRANULARITY))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);

    #[test]
    fn shard_count_is_the_larger_of_setting_and_size() {
        let cases =
            [(8, 0, 8), (8, 32_768, 8), (8, 32_769, 16), (8, 100_000, 32), (1, 200, 1), (40, 100_000, 40)];
        for (set, sandboxes, wanted) in cases {
            assert_eq!(wanted_shards(set, sandboxes), wanted, "{sandboxes} sandboxes, {set} set");
        }
        assert_eq!(wanted_shards(8, u64::MAX), SHARDS_MAX);
    }

    #[test]
    fn read_shards_are_raised_before_write_shards() {
        let eight = Shards::fresh(8, NOW);
        assert_eq!(eight.towards(8, NOW), None);
        let raised = eight.towards(32, NOW).unwrap();
        assert_eq!((raised.write, raised.read), (8, 32));
        let just_before = NOW.after(READ_SETTLE - Duration::from_secs(1));
        assert_eq!(raised.towards(32, just_before), None, "a process may not have seen it");
        let settled = raised.towards(32, NOW.after(READ_SETTLE)).unwrap();
        assert_eq!((settled.write, settled.read), (32, 32));
    }

    #[test]
    fn read_shards_are_never_lowered() {
        let lowered = Shards::fresh(32, NOW).towards(8, NOW).unwrap();
        assert_eq!((lowered.write, lowered.read), (8, 32));
        assert_eq!(lowered.towards(8, NOW), None);
        let again = lowered.towards(16, NOW.after(READ_SETTLE)).unwrap();
        assert_eq!((again.write, again.read), (16, 32));
    }

    #[test]
    fn index_without_lag_settles_immediately() {
        assert_eq!(settles_at(Some(NOW), Duration::ZERO), None);
        assert_eq!(settles_at(None, Duration::from_secs(5)), None);
        assert_eq!(settles_at(Some(NOW), Duration::from_secs(5)), Some(UnixSeconds::new(NOW.get() + 7)));
    }
}
