//! The keys of sandboxes in the indexes: shard, hash key and sort key of `StateIndex`, group of `GroupIndex`.
//!
//! Every adapter uses these functions, so that all page in the same order.

use super::cursor::PageCursor;
use super::identity::IDENTITY_SHARDS;
use domain::{ExternalId, LabId, PoolName, Sandbox, SandboxId, State, StateName, UnixSeconds};

/// Digits of a due time in a sort key, enough for thirty thousand years.
const DUE_DIGITS: usize = 12;
/// The latest due time with [`DUE_DIGITS`] digits, in seconds.
const DUE_SECONDS_MAX: u64 = 999_999_999_999;

const FNV_OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a, 64 bits. Written out because stored keys depend on it: the standard library's hash may change with any
/// release.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(FNV_OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// Prefix of the partition key of a sandbox item.
pub const SANDBOX_PREFIX: &str = "SBX#";
/// Sort key of a sandbox item.
pub const SANDBOX_SORT: &str = "META";
/// Prefix of the group of a lab.
const LAB_GROUP_PREFIX: &str = "LAB#";

/// The sandbox of an item key written as `partition key/sort key`; none if it is another item.
#[must_use]
pub fn sandbox_in(key: &str) -> Option<SandboxId> {
    let id = key.strip_prefix(SANDBOX_PREFIX)?.strip_suffix(SANDBOX_SORT)?.strip_suffix('/')?;
    SandboxId::parse(id).ok()
}

/// The cursor of a scan of the table that goes on after this sandbox.
#[must_use]
pub fn scan_cursor(id: &SandboxId) -> PageCursor {
    PageCursor { sort: SANDBOX_SORT.to_owned(), key: format!("{SANDBOX_PREFIX}{id}") }
}

/// The shard of a sandbox, below `shards`.
pub fn shard_of(id: &SandboxId, shards: u16) -> u16 {
    shard_of_text(id.as_str(), shards)
}

/// The shard of an identity, below [`IDENTITY_SHARDS`].
pub fn identity_shard(external_id: &ExternalId) -> u16 {
    shard_of_text(external_id.as_str(), IDENTITY_SHARDS)
}

fn shard_of_text(text: &str, shards: u16) -> u16 {
    u16::try_from(fnv1a(text.as_bytes()) % u64::from(shards.max(1))).unwrap_or_default()
}

/// The hash key of one shard: `<pool>#<state>#<shard>`. A pool name holds no `#`.
pub fn state_shard(pool: &PoolName, state: StateName, shard: u16) -> String {
    format!("{pool}#{state}#{shard}")
}

/// The sort key; none for a tombstone, which is in no index.
pub fn state_sort(sandbox: &Sandbox) -> Option<String> {
    match &sandbox.state {
        State::Available => Some(sandbox.name.as_str().to_owned()),
        State::Allocated(lease) => Some(due_sort(lease.expires_at)),
        State::PendingDeletion(deletion) | State::DeletionFailed(deletion) => {
            Some(due_sort(deletion.requested_at))
        }
        State::Stale { since } | State::Quarantined { since, reason: _, lease: _ } => Some(due_sort(*since)),
        State::Deleted(_) => None,
        State::Provisioning(provision) | State::ProvisionFailed(provision) => {
            Some(due_sort(provision.requested_at))
        }
    }
}

/// The group of what is held for a lab: `LAB#<lab>`. Groups of other kinds have other prefixes.
pub fn lab_group(lab: &LabId) -> String {
    format!("{LAB_GROUP_PREFIX}{lab}")
}

/// A due time as a sort key, zero-padded so that texts sort like the times.
pub fn due_sort(at: UnixSeconds) -> String {
    format!("{:0width$}", at.get().min(DUE_SECONDS_MAX), width = DUE_DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv1a() {
        // The test vectors of the reference implementation.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn shard_assignment_is_stable() {
        // Stored items contain these; a change would hide every sandbox of an existing table.
        let shards = ["2019842", "2019843", "2019844", "a", "sbx-1"]
            .map(|id| shard_of(&SandboxId::parse(id).unwrap(), 8));
        assert_eq!(shards, [5, 2, 3, 4, 2]);
        let identities = ["identity/accounts/u-1", "identity/accounts/u-2", "u-1"]
            .map(|external_id| identity_shard(&ExternalId::parse(external_id).unwrap()));
        assert_eq!(identities, [2, 7, 2]);
    }

    #[test]
    fn ids_are_spread_evenly_over_shards() {
        let mut counts = [0_u32; 8];
        for number in 0..8_000 {
            let id = SandboxId::parse(&format!("{}", 2_019_000 + number)).unwrap();
            counts[usize::from(shard_of(&id, 8))] += 1;
        }
        assert!(counts.iter().all(|count| (800..=1_200).contains(count)), "{counts:?}");
        assert_eq!(shard_of(&SandboxId::parse("7").unwrap(), 1), 0);
    }

    #[test]
    fn due_sort_keys_sort_lexicographically() {
        let times = [0, 9, 10, 1_800_000_000, DUE_SECONDS_MAX, u64::MAX].map(UnixSeconds::new);
        let keys = times.map(due_sort);
        assert!(keys.is_sorted(), "{keys:?}");
        assert!(keys.iter().all(|key| key.len() == DUE_DIGITS));
    }
}
