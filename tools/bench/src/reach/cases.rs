//! What is measured in every round, and the pools that it is measured on.

use super::{CROWD, PREDECESSOR_CALLERS, Sizes};
use crate::rounds::Tank;
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
    SmallCrowd,
    /// 64 callers on the large pool.
    LargeCrowd,
    /// 64 callers with a name prefix.
    NarrowCrowd,
    /// 64 callers who repeat every claim.
    RepeatedCrowd,
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
pub(super) struct Tanks {
    small: Tank,
    large: Tank,
    /// Half of its names begin as claims ask for; the other half is never asked for.
    narrow: Tank,
    others: Tank,
    pub(super) burst: Tank,
    pub(super) open: Tank,
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
            Self::SmallCrowd => "64 callers",
            Self::LargeCrowd => "64 callers, large pool",
            Self::NarrowCrowd => "64 callers, name prefix",
            Self::RepeatedCrowd => "64 callers, each claim repeated",
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
            case(Name::LargeCrowd, CROWD),
            case(Name::SmallCrowd, CROWD),
            case(Name::NarrowCrowd, CROWD),
            repeated(Name::RepeatedCrowd, CROWD),
            case(Name::SmallHundred, PREDECESSOR_CALLERS),
            case(Name::NarrowHundred, PREDECESSOR_CALLERS),
        ]
    }
}

// === impl Tanks ===

impl Tanks {
    pub(super) fn new(sizes: Sizes) -> Self {
        let mut narrow = Tank::new(Some("mixed"), "mixed-exam-", sizes.pool);
        narrow.is_narrow = true;
        Self {
            small: Tank::new(Some("small"), "small-", sizes.pool),
            large: Tank::new(Some("large"), "large-", sizes.large_pool),
            narrow,
            others: Tank::new(Some("mixed"), "mixed-lab-", sizes.pool),
            burst: Tank::new(Some("burst"), "burst-", sizes.burst),
            open: Tank::new(Some("open"), "open-", sizes.open_pool),
        }
    }

    /// Those that are filled before the first round.
    pub(super) fn of_the_rounds(&mut self) -> [&mut Tank; 5] {
        let Self { small, large, narrow, others, burst, open: _ } = self;
        [small, large, narrow, others, burst]
    }

    /// The one that a case claims from.
    pub(super) fn of(&mut self, name: Name) -> &mut Tank {
        match name {
            Name::LargeAlone | Name::LargeCrowd => &mut self.large,
            Name::NarrowAlone | Name::NarrowCrowd | Name::NarrowHundred => &mut self.narrow,
            Name::SmallAlone
            | Name::RepeatedAlone
            | Name::SmallCrowd
            | Name::RepeatedCrowd
            | Name::SmallHundred => &mut self.small,
        }
    }
}
