//! The reaper's use of the provider throttle: a permit before each call, and a report of its outcome.

use crate::Reaper;
use crate::reap::OWN_FAILURE_DELAY;
use domain::{ProviderName, SandboxId};
use ports::bus::{
    Admission, BusError, CallOutcome, Confirmed, FailureCause, OutcomeEffect, Permit, ProviderThrottle,
    Verdict,
};
use ports::provider::ProviderError;
use ports::random::full_jitter;
use runtime::telemetry::Chain;
use std::time::Duration;

/// How long the fleet waits when an overloaded provider states no time.
pub(crate) const SLOW_DOWN_DELAY: Duration = Duration::from_secs(30);
/// Longest pause that a provider's Retry-After can impose.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Delay after refused credentials if the throttle cannot say how long it is closed.
pub(crate) const UNAUTHORIZED_DELAY: Duration = Duration::from_secs(60);
/// Longest time that a delivery waits in its worker for a busy throttle.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(20);
/// Least time that each attempt at a busy throttle counts for, so that the attempts end.
const BUSY_WAIT_STEP: Duration = Duration::from_millis(100);
/// Least spread of deletions that are delayed together.
const SPREAD_MIN: Duration = Duration::from_secs(1);
/// Delay before asking a throttle again that does not answer.
const VIEW_RETRY_DELAY: Duration = Duration::from_millis(500);

// === impl Reaper ===

impl Reaper {
    /// How many deliveries the throttle has slots for soon; if none, for how long.
    pub(crate) async fn admitted(
        &self,
        provider: &ProviderName,
        throttle: &dyn ProviderThrottle,
        places: usize,
    ) -> (usize, Duration) {
        match throttle.view().await {
            Ok(view) => {
                self.metrics.show(provider, &view);
                (view.calls.min(places), view.wait)
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the provider throttle does not answer; fetching nothing");
                (0, VIEW_RETRY_DELAY)
            }
        }
    }

    /// Waits for a permit; a verdict if there is none soon.
    pub(crate) async fn wait_for_permit(
        &self,
        throttle: &dyn ProviderThrottle,
        id: &SandboxId,
    ) -> Result<Permit, Verdict> {
        let mut timeout = BUSY_WAIT_MAX;
        loop {
            let (permit, wait) = match throttle.acquire().await {
                Ok(Admission::Go { permit, wait }) => (permit, wait),
                // Several pools fetched work for the same slot. Waiting here is better than returning to the end of the
                // queue.
                Ok(Admission::Later { wait, is_closed: false }) if wait <= timeout => {
                    timeout = timeout.saturating_sub(wait).saturating_sub(BUSY_WAIT_STEP);
                    self.ports.clock.sleep(wait).await;
                    continue;
                }
                Ok(Admission::Later { wait, .. }) => return Err(self.put_off(wait)),
                Err(error) => return Err(throttle_unknown(&error)),
            };
            if wait.is_zero() {
                return Ok(permit);
            }
            self.ports.clock.sleep(wait).await;
            // A pause, a hold or an open breaker that began during the wait applies as well.
            let verdict = match throttle.confirm(permit).await {
                Ok(Confirmed::Go) => return Ok(permit),
                Ok(Confirmed::Missed) => None,
                Ok(Confirmed::Later { wait }) => Some(self.put_off(wait)),
                Err(error) => Some(throttle_unknown(&error)),
            };
            if permit.is_probe {
                report_outcome(throttle, permit, id, CallOutcome::Unused).await;
            }
            if let Some(verdict) = verdict {
                return Err(verdict);
            }
        }
    }

    /// Retries after `wait` and a random time, so that deletions that were delayed together do not return together.
    pub(crate) fn put_off(&self, wait: Duration) -> Verdict {
        self.metrics.put_off();
        Verdict::Retry { delay: self.spread(wait) }
    }

    pub(crate) fn spread(&self, wait: Duration) -> Duration {
        wait + full_jitter(self.ports.random.as_ref(), (wait / 4).max(SPREAD_MIN))
    }
}

/// Reports the outcome of a call to the provider throttle and returns the consequences. If the report fails, failed
/// attempts are counted but never park a deletion.
pub(crate) async fn report_outcome(
    throttle: &dyn ProviderThrottle,
    permit: Permit,
    id: &SandboxId,
    end: CallOutcome,
) -> OutcomeEffect {
    throttle.report_outcome(permit, id, end).await.unwrap_or_else(|error| {
        tracing::warn!(error = %Chain(&error), "the outcome of a call could not be reported to the throttle");
        let wait = match end {
            CallOutcome::SlowDown { span } => span,
            CallOutcome::Unauthorized | CallOutcome::Forbidden => UNAUTHORIZED_DELAY,
            _ => Duration::ZERO,
        };
        let cause = match end {
            CallOutcome::Refused => FailureCause::Sandbox,
            CallOutcome::Failed => FailureCause::Unclear,
            _ => FailureCause::NotSandbox,
        };
        OutcomeEffect { is_closed: true, cause, wait }
    })
}

fn throttle_unknown(error: &BusError) -> Verdict {
    tracing::warn!(error = %Chain(error), "the provider throttle does not answer; waiting");
    Verdict::Retry { delay: OWN_FAILURE_DELAY }
}

/// The outcome of a failed call for the throttle.
pub(crate) fn end_of(error: &ProviderError) -> CallOutcome {
    match error {
        ProviderError::Forbidden { .. } => CallOutcome::Forbidden,
        ProviderError::Unauthorized { .. } => CallOutcome::Unauthorized,
        ProviderError::Throttled { retry_after, .. } => {
            CallOutcome::SlowDown { span: retry_after.unwrap_or(SLOW_DOWN_DELAY).min(RETRY_AFTER_MAX) }
        }
        ProviderError::Refused { .. } => CallOutcome::Refused,
        // A web page or a truncated answer comes from a gateway in front of the provider.
        ProviderError::Failed { .. }
        | ProviderError::Unreachable { .. }
        | ProviderError::UnknownOutcome { .. }
        | ProviderError::Malformed { .. } => CallOutcome::Failed,
    }
}
