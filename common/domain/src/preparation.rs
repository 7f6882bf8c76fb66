//! What a provider did before a deletion, as its adapter reports it (`Provider::prepare_delete`): the CSP deletes what a
//! student left inside. It is recorded with the deletion.

use super::deletion::Deletion;
use std::fmt;

/// The result of the last recorded attempt.
#[derive(Clone, Debug, PartialEq, Eq, strum::EnumDiscriminants)]
#[strum_discriminants(
    name(PreparationResult),
    derive(strum::IntoStaticStr, strum::EnumString, strum::EnumIter),
    strum(serialize_all = "snake_case"),
    doc = "The result in one word."
)]
pub enum Preparation {
    /// Nothing was deleted inside, because there was nothing to delete.
    Skipped(Skip),
    /// Things inside were deleted; counts those of all attempts together.
    #[strum_discriminants(strum(serialize = "cleaned"))]
    Done {
        /// Their number.
        count: u32,
    },
    /// Shadow mode: they would have been deleted, and still exist.
    Shadowed {
        /// Their number.
        count: u32,
    },
    /// The attempt failed; some may still exist.
    Failed {
        /// The error.
        reason: String,
        /// Whether the sandbox was deleted all the same, so that some may be orphaned.
        went_on: bool,
    },
}

/// Why nothing was deleted inside.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumString, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum Skip {
    /// The pre-clean is switched off, or the provider does not offer it.
    SwitchedOff,
    /// The pre-clean found no service to delete.
    NothingInside,
    /// The sandbox was gone already.
    AlreadyGone,
}

// === impl Preparation ===

impl Preparation {
    /// The name under which it is stored.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.result().into()
    }

    /// The result in one word.
    #[must_use]
    pub fn result(&self) -> PreparationResult {
        self.into()
    }

    /// A failed pre-clean. `reason` is cut like the error of a deletion.
    #[must_use]
    pub fn failed(reason: &str, went_on: bool) -> Self {
        Self::Failed { reason: Deletion::bounded_error(reason).to_owned(), went_on }
    }

    /// Merges this attempt with an `earlier` one. An attempt that finds nothing does not revoke what an earlier one
    /// deleted, and one that finds the sandbox gone adds nothing.
    #[must_use]
    pub fn after(self, earlier: Option<&Self>) -> Self {
        match (self, earlier) {
            (Self::Done { count }, Some(Self::Done { count: before })) => {
                Self::Done { count: count.saturating_add(*before) }
            }
            (Self::Skipped(_), Some(Self::Done { count })) => Self::Done { count: *count },
            (Self::Skipped(Skip::AlreadyGone), Some(earlier)) => earlier.clone(),
            (now, _) => now,
        }
    }
}

impl fmt::Display for Preparation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped(skip) => write!(formatter, "skipped: {}", skip.words()),
            Self::Done { count } => write!(formatter, "cleaned {count}"),
            Self::Shadowed { count } => write!(formatter, "shadowed {count}"),
            Self::Failed { reason, went_on: false } => write!(formatter, "failed: {reason}"),
            Self::Failed { reason, went_on: true } => write!(formatter, "failed, went on without: {reason}"),
        }
    }
}

// === impl Skip ===

impl Skip {
    /// The stored name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The reason with that stored name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    const fn words(self) -> &'static str {
        match self {
            Self::SwitchedOff => "switched off",
            Self::NothingInside => "nothing inside",
            Self::AlreadyGone => "gone already",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator as _;

    const TWO: Preparation = Preparation::Done { count: 2 };

    #[test]
    fn counts_add_up_and_survive_a_skip() {
        assert_eq!(TWO.after(Some(&TWO)), Preparation::Done { count: 4 });
        for skip in Skip::iter() {
            assert_eq!(Preparation::Skipped(skip).after(Some(&TWO)), TWO);
            assert_eq!(Preparation::Skipped(skip).after(None), Preparation::Skipped(skip));
        }
        let failed = Preparation::failed("status 500", false);
        assert_eq!(failed.clone().after(Some(&TWO)), failed, "it is not known to be clear");
        assert_eq!(TWO.after(Some(&failed)), TWO);
    }

    #[test]
    fn already_gone_keeps_the_earlier_result() {
        let gone = Preparation::Skipped(Skip::AlreadyGone);
        for earlier in [Preparation::Shadowed { count: 1 }, Preparation::failed("status 500", true)] {
            assert_eq!(gone.clone().after(Some(&earlier)), earlier);
            let empty = Preparation::Skipped(Skip::NothingInside);
            assert_eq!(empty.clone().after(Some(&earlier)), empty, "it was checked since");
        }
    }

    #[test]
    fn results_are_displayed_as_text() {
        let all = [
            Preparation::Skipped(Skip::NothingInside),
            TWO,
            Preparation::Shadowed { count: 1 },
            Preparation::failed("status 500", false),
            Preparation::failed("status 500", true),
        ];
        let words = all.map(|one| one.to_string()).join("; ");
        assert_eq!(
            words,
            "skipped: nothing inside; cleaned 2; shadowed 1; failed: status 500; failed, went on without: status 500"
        );
        let long = Preparation::failed(&"x".repeat(5_000), false).to_string();
        assert_eq!(long.len(), "failed: ".len() + super::super::LAST_ERROR_BYTES_MAX);
    }
}
