//! What is measured in every round, and the pools that it is measured on.

use super::{CONCURRENT_CALLERS, PREDECESSOR_CALLERS, Sizes};
use crate::rounds::BenchPool;
use serde::Serialize;

/// The pools. All are in one table and served by the same allocators, so only their size and names differ.
pub(super) const POOLS: &str = "small=small-,large=large-,mixed=mixed-,burst=burst-,open=open-,rest";

/// What a case is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    /// One caller on the small pool.
    SmallAlone,
    /// One caller on the large pool.
    LargeAlone,
    /// One caller with a name prefix.
    NarrowAlone,
    /// One caller who repeats every claim.
    RepeatedAlone,
    /// 64 callers on the small pool.
    SmallConcurrent,
    /// 64 callers on the large pool.
    LargeConcurrent,
    /// 64 callers with a name prefix.
    NarrowConcurrent,
    /// 64 callers who repeat every claim.
    RepeatedConcurrent,
    /// As many callers as the predecessor was measured with.
    SmallHundred,
    /// The same with a name prefix.
    NarrowHundred,
}

/// One measurement of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) name: Name,
    pub(super) callers: usize,
    pub(super) is_repeated: bool,
}

/// The pools, filled or to be filled.
pub(super) struct BenchPools {
    small: BenchPool,
    large: BenchPool,
    /// Half of its names begin as claims ask for; the other half is never asked for.
    narrow: BenchPool,
    others: BenchPool,
    pub(super) burst: BenchPool,
    pub(super) open: BenchPool,
}

// === impl Name ===

impl Name {
    /// Its name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SmallAlone => "1 caller",
            Self::LargeAlone => "1 caller, large pool",
            Self::NarrowAlone => "1 caller, name prefix",
            Self::RepeatedAlone => "1 caller, each claim repeated",
            Self::SmallConcurrent => "64 callers",
            Self::LargeConcurrent => "64 callers, large pool",
            Self::NarrowConcurrent => "64 callers, name prefix",
            Self::RepeatedConcurrent => "64 callers, each claim repeated",
            Self::SmallHundred => "100 callers",
            Self::NarrowHundred => "100 callers, name prefix",
        }
    }
}

// === impl Case ===

impl Case {
    /// All of them; what is compared stands side by side.
    pub(super) fn all() -> Vec<Self> {
        let case = |name, callers| Self { name, callers, is_repeated: false };
        let repeated = |name, callers| Self { name, callers, is_repeated: true };
        vec![
            case(Name::LargeAlone, 1),
            case(Name::SmallAlone, 1),
            case(Name::NarrowAlone, 1),
            repeated(Name::RepeatedAlone, 1),
            case(Name::LargeConcurrent, CONCURRENT_CALLERS),
            case(Name::SmallConcurrent, CONCURRENT_CALLERS),
            case(Name::NarrowConcurrent, CONCURRENT_CALLERS),
            repeated(Name::RepeatedConcurrent, CONCURRENT_CALLERS),
            case(Name::SmallHundred, PREDECESSOR_CALLERS),
            case(Name::NarrowHundred, PREDECESSOR_CALLERS),
        ]
    }
}

// === impl BenchPools ===

impl BenchPools {
    pub(super) fn new(sizes: Sizes) -> Self {
        let mut narrow = BenchPool::new(Some("mixed"), "mixed-exam-", sizes.pool);
        narrow.is_narrow = true;
        Self {
            small: BenchPool::new(Some("small"), "small-", sizes.pool),
            large: BenchPool::new(Some("large"), "large-", sizes.large_pool),
            narrow,
            others: BenchPool::new(Some("mixed"), "mixed-lab-", sizes.pool),
            burst: BenchPool::new(Some("burst"), "burst-", sizes.burst),
            open: BenchPool::new(Some("open"), "open-", sizes.open_pool),
        }
    }

    /// Those that are filled before the first round.
    pub(super) fn of_the_rounds(&mut self) -> [&mut BenchPool; 5] {
        let Self { small, large, narrow, others, burst, open: _ } = self;
        [small, large, narrow, others, burst]
    }

    /// The one that a case claims from.
    pub(super) fn of(&mut self, name: Name) -> &mut BenchPool {
        match name {
            Name::LargeAlone | Name::LargeConcurrent => &mut self.large,
            Name::NarrowAlone | Name::NarrowConcurrent | Name::NarrowHundred => &mut self.narrow,
            Name::SmallAlone
            | Name::RepeatedAlone
            | Name::SmallConcurrent
            | Name::RepeatedConcurrent
            | Name::SmallHundred => &mut self.small,
        }
    }
}
