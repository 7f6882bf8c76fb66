//! The pre-clean before a deletion: its result, and whether the deletion may proceed without it.

use crate::Reaper;
use crate::reap::Wanted;
use crate::throttle::end_of;
use domain::{Preparation, Skip};
use ports::bus::CallOutcome;
use ports::provider::{Prepared, Provider, ProviderError};
use runtime::settings::Settings;

/// Policy: delete nothing that was not cleaned.
const BLOCK: &str = "block";
/// Prefix of the other policy, followed by a number of attempts.
const GO_ON_AFTER: &str = "go-on-after-";

/// What happens to a deletion whose pre-clean fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// It is retried and finally parked, like any failed deletion, so that no service is ever orphaned.
    Block,
    /// From this attempt on the deletion proceeds all the same, and the record says so.
    GoOnAfter {
        /// The number of the attempt, counted from one.
        attempts: u32,
    },
}

/// The result of a pre-clean for the deletion.
pub(crate) enum Clearing {
    /// The deletion may proceed.
    Over(Preparation),
    /// The deletion may not proceed now.
    Failed {
        /// The error.
        error: ProviderError,
        /// What is recorded.
        preparation: Preparation,
        /// The outcome for the provider throttle.
        end: CallOutcome,
    },
}

// === impl FailurePolicy ===

impl FailurePolicy {
    /// Reads the setting. More attempts than a deletion has would silently mean `block`.
    pub(crate) fn read(settings: &mut Settings<'_>, attempts_max: u32) -> Self {
        let policy = settings.parsed(
            "NIOSXAAS_FAILURE_POLICY",
            BLOCK,
            "policy for a failed pre-clean: `block` retries and finally parks the deletion; `go-on-after-3` deletes the sandbox all the same at the third attempt and records that",
            |text| {
                Self::parse(text, attempts_max).ok_or_else(|| {
                    format!(
                        "must be `block`, or `go-on-after-` and a number from 1 to DELETION_ATTEMPTS_MAX ({attempts_max})"
                    )
                })
            },
        );
        policy.unwrap_or(Self::Block)
    }

    fn parse(text: &str, attempts_max: u32) -> Option<Self> {
        if text == BLOCK {
            return Some(Self::Block);
        }
        let attempts = text.strip_prefix(GO_ON_AFTER)?.parse().ok()?;
        (1..=attempts_max).contains(&attempts).then_some(Self::GoOnAfter { attempts })
    }

    /// Whether the deletion proceeds after its pre-clean failed at this attempt. Not when the provider asked us to slow
    /// down, because the deletion would be the next call.
    fn goes_on(self, attempt: u32, error: &ProviderError) -> bool {
        match self {
            Self::Block => false,
            Self::GoOnAfter { attempts } => {
                attempt >= attempts && !matches!(error, ProviderError::Throttled { .. })
            }
        }
    }

    /// What a failed pre-clean says about the provider. If deletions do not depend on the pre-clean, its failures say
    /// nothing about them: the breaker would block the very call that proceeds without it.
    fn end_of(self, error: &ProviderError) -> CallOutcome {
        match (self, end_of(error)) {
            (Self::GoOnAfter { .. }, CallOutcome::SlowDown { span }) => CallOutcome::SlowDown { span },
            (Self::GoOnAfter { .. }, _) => CallOutcome::Unused,
            // The broker signs in with its own credentials, so any refusal is about them.
            (Self::Block, CallOutcome::Forbidden) => CallOutcome::Unauthorized,
            (Self::Block, end) => end,
        }
    }
}

// === impl Reaper ===

impl Reaper {
    /// Prepares the deletion, if the provider offers that.
    pub(crate) async fn clear(&self, provider: &dyn Provider, wanted: &Wanted) -> Clearing {
        let earlier = wanted.deletion.preparation.as_ref();
        if !provider.abilities().prepare_delete {
            return Clearing::Over(Preparation::Skipped(Skip::SwitchedOff).after(earlier));
        }
        let id = &wanted.id;
        match provider.prepare_delete(&wanted.target).await {
            Ok(prepared) => {
                let result = record_of(&prepared);
                self.metrics.pre_cleaned(&result);
                let preparation = result.after(earlier);
                tracing::info!(sandbox.id = id.as_str(), pre_clean = %preparation, "cleared {id}");
                Clearing::Over(preparation)
            }
            Err(error) => {
                let (policy, reason) = (self.config.failure_policy, error.to_string());
                let attempt = wanted.deletion.attempts.saturating_add(1);
                self.metrics.pre_cleaned(&Preparation::failed(&reason, false));
                if policy.goes_on(attempt, &error) {
                    tracing::error!(
                        sandbox.id = id.as_str(),
                        delivery.attempt = attempt,
                        reason,
                        "the pre-clean of {id} failed; the deletion proceeds, and services may be orphaned",
                    );
                    return Clearing::Over(Preparation::failed(&reason, true));
                }
                let (preparation, end) = (Preparation::failed(&reason, false), policy.end_of(&error));
                Clearing::Failed { error, preparation, end }
            }
        }
    }
}

fn record_of(prepared: &Prepared) -> Preparation {
    let bounded = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    match *prepared {
        Prepared::Skipped => Preparation::Skipped(Skip::NothingInside),
        Prepared::AlreadyGone => Preparation::Skipped(Skip::AlreadyGone),
        Prepared::Done { count } => Preparation::Done { count: bounded(count) },
        Prepared::Shadowed { count } => Preparation::Shadowed { count: bounded(count) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_policy_is_parsed() {
        let parse = |text| FailurePolicy::parse(text, 8);
        assert_eq!(parse("block"), Some(FailurePolicy::Block));
        assert_eq!(parse("go-on-after-1"), Some(FailurePolicy::GoOnAfter { attempts: 1 }));
        assert_eq!(parse("go-on-after-8"), Some(FailurePolicy::GoOnAfter { attempts: 8 }));
        for bad in ["", "Block", "go-on", "go-on-after-", "go-on-after-0", "go-on-after-9", "go-on-after-x"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn failure_policy_beyond_the_attempts_is_rejected() {
        let env = std::collections::BTreeMap::from([
            ("NIOSXAAS_FAILURE_POLICY".to_owned(), "go-on-after-4".to_owned()),
            ("DELETION_ATTEMPTS_MAX".to_owned(), "3".to_owned()),
        ]);
        let mut settings = Settings::new(&env);
        let config = crate::Config::read(&mut settings);
        let mistakes = settings.finish(config).unwrap_err().to_string();
        assert!(mistakes.contains("NIOSXAAS_FAILURE_POLICY must be"), "{mistakes}");
    }
}
