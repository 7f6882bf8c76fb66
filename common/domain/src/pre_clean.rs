//! The result of the pre-clean, which deletes services inside a sandbox before the sandbox is deleted.

use super::deletion::Deletion;
use std::fmt;

/// The result of the last recorded attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreClean {
    /// Nothing was deleted inside, because there was nothing to delete.
    Skipped(Skip),
    /// Services were deleted; counts those of all attempts together.
    Cleaned {
        /// Their number.
        services: u32,
    },
    /// Shadow mode: services would have been deleted; they still exist.
    Shadowed {
        /// Their number.
        services: u32,
    },
    /// The attempt failed; services may still exist.
    Failed {
        /// The error.
        reason: String,
        /// Whether the sandbox was deleted all the same, so that services may be orphaned.
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

// === impl PreClean ===

impl PreClean {
    /// The name under which it is stored.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Skipped(_) => "skipped",
            Self::Cleaned { .. } => "cleaned",
            Self::Shadowed { .. } => "shadowed",
            Self::Failed { .. } => "failed",
        }
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
            (Self::Cleaned { services }, Some(Self::Cleaned { services: before })) => {
                Self::Cleaned { services: services.saturating_add(*before) }
            }
            (Self::Skipped(_), Some(Self::Cleaned { services })) => Self::Cleaned { services: *services },
            (Self::Skipped(Skip::AlreadyGone), Some(earlier)) => earlier.clone(),
            (now, _) => now,
        }
    }
}

impl fmt::Display for PreClean {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped(skip) => write!(formatter, "skipped: {}", skip.words()),
            Self::Cleaned { services } => write!(formatter, "cleaned {services}"),
            Self::Shadowed { services } => write!(formatter, "shadowed {services}"),
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

    const TWO: PreClean = PreClean::Cleaned { services: 2 };

    #[test]
    fn cleaned_services_add_up_and_survive_a_skip() {
        assert_eq!(TWO.after(Some(&TWO)), PreClean::Cleaned { services: 4 });
        for skip in Skip::iter() {
            assert_eq!(PreClean::Skipped(skip).after(Some(&TWO)), TWO);
            assert_eq!(PreClean::Skipped(skip).after(None), PreClean::Skipped(skip));
        }
        let failed = PreClean::failed("status 500", false);
        assert_eq!(failed.clone().after(Some(&TWO)), failed, "it is not known to be clear");
        assert_eq!(TWO.after(Some(&failed)), TWO);
    }

    #[test]
    fn already_gone_keeps_the_earlier_result() {
        let gone = PreClean::Skipped(Skip::AlreadyGone);
        for earlier in [PreClean::Shadowed { services: 1 }, PreClean::failed("status 500", true)] {
            assert_eq!(gone.clone().after(Some(&earlier)), earlier);
            let empty = PreClean::Skipped(Skip::NothingInside);
            assert_eq!(empty.clone().after(Some(&earlier)), empty, "it was checked since");
        }
    }

    #[test]
    fn results_are_displayed_as_text() {
        let all = [
            PreClean::Skipped(Skip::NothingInside),
            TWO,
            PreClean::Shadowed { services: 1 },
            PreClean::failed("status 500", false),
            PreClean::failed("status 500", true),
        ];
        let words = all.map(|one| one.to_string()).join("; ");
        assert_eq!(
            words,
            "skipped: nothing inside; cleaned 2; shadowed 1; failed: status 500; failed, went on without: status 500"
        );
        let long = PreClean::failed(&"x".repeat(5_000), false).to_string();
        assert_eq!(long.len(), "failed: ".len() + super::super::LAST_ERROR_BYTES_MAX);
    }
}
