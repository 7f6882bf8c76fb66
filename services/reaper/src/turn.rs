//! The reaper's dealings with the fleet's common line: a slot before each call, and word of how the call ended.

use crate::Reaper;
use crate::reap::OWN_FAILURE_DELAY;
use domain::SandboxId;
use ports::bus::{Blame, BusError, CallEnd, Confirmed, Ticket, Told, Turn, Verdict};
use ports::provider::ProviderError;
use ports::random::full_jitter;
use runtime::telemetry::Chain;
use std::time::Duration;

/// How long the fleet stays away from a provider that is overloaded and does not say for how long.
pub(crate) const SLOW_DOWN_DELAY: Duration = Duration::from_secs(30);
/// Longest pause that a provider's Retry-After can impose.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Delay of a deletion whose credentials were refused when the line cannot say how long it is closed.
pub(crate) const UNAUTHORIZED_DELAY: Duration = Duration::from_secs(60);
/// Longest time that a deletion waits in hand for a line that is full.
const FULL_LINE_PATIENCE: Duration = Duration::from_secs(20);
/// What each look at a full line costs of that at least, so that looking has an end.
const FULL_LINE_STEP: Duration = Duration::from_millis(100);
/// Least spread of deletions that are put off together.
const SPREAD_MIN: Duration = Duration::from_secs(1);
/// Looks at a line that does not answer.
const LOOK_DELAY: Duration = Duration::from_millis(500);

// === impl Reaper ===

impl Reaper {
    /// How many deliveries the line has slots for soon, or how long there are none.
    pub(crate) async fn admitted(&self, places: usize) -> (usize, Duration) {
        match self.ports.pace.look().await {
            Ok(view) => {
                self.metrics.show(&view);
                (view.calls.min(places), view.wait)
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the line is not known; fetching nothing");
                (0, LOOK_DELAY)
            }
        }
    }

    /// Waits for a slot; a verdict if there is none soon.
    pub(crate) async fn turn(&self, id: &SandboxId) -> Result<Ticket, Verdict> {
        let mut patience = FULL_LINE_PATIENCE;
        loop {
            let (ticket, wait) = match self.ports.pace.take().await {
                Ok(Turn::Go { ticket, wait }) => (ticket, wait),
                // Several pools fetched for the same slot: who came too early is better off here than at the end of
                // its queue.
                Ok(Turn::Later { wait, is_closed: false }) if wait <= patience => {
                    patience = patience.saturating_sub(wait).saturating_sub(FULL_LINE_STEP);
                    self.ports.clock.sleep(wait).await;
                    continue;
                }
                Ok(Turn::Later { wait, .. }) => return Err(self.put_off(wait)),
                Err(error) => return Err(unknown_line(&error)),
            };
            if wait.is_zero() {
                return Ok(ticket);
            }
            self.ports.clock.sleep(wait).await;
            // A pause, a hold or a breaker that came while this one slept is for this one as well.
            let verdict = match self.ports.pace.confirm(ticket).await {
                Ok(Confirmed::Go) => return Ok(ticket),
                Ok(Confirmed::Missed) => None,
                Ok(Confirmed::Later { wait }) => Some(self.put_off(wait)),
                Err(error) => Some(unknown_line(&error)),
            };
            if ticket.is_probe {
                self.tell(ticket, id, CallEnd::Unused).await;
            }
            if let Some(verdict) = verdict {
                return Err(verdict);
            }
        }
    }

    /// Reports to the provider throttle how a call ended, and returns what that means. While the report fails, attempts
    /// of failures count, but nothing is given up on them.
    pub(crate) async fn tell(&self, ticket: Ticket, id: &SandboxId, end: CallEnd) -> Told {
        self.ports.pace.tell(ticket, id, end).await.unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), "the line could not be told how a call ended");
            let wait = match end {
                CallEnd::SlowDown { span } => span,
                CallEnd::Unauthorized | CallEnd::Forbidden => UNAUTHORIZED_DELAY,
                _ => Duration::ZERO,
            };
            let blame = match end {
                CallEnd::Refused => Blame::Sandbox,
                CallEnd::Failed => Blame::Unclear,
                _ => Blame::Nobody,
            };
            Told { is_closed: true, blame, wait }
        })
    }

    /// Comes back after `wait` and a little chance, so that what was put off together does not come back together.
    pub(crate) fn put_off(&self, wait: Duration) -> Verdict {
        self.metrics.put_off();
        Verdict::Retry { delay: self.spread(wait) }
    }

    pub(crate) fn spread(&self, wait: Duration) -> Duration {
        wait + full_jitter(self.ports.random.as_ref(), (wait / 4).max(SPREAD_MIN))
    }
}

fn unknown_line(error: &BusError) -> Verdict {
    tracing::warn!(error = %Chain(error), "the line is not known; waiting");
    Verdict::Retry { delay: OWN_FAILURE_DELAY }
}

/// What a failure says about the provider.
pub(crate) fn end_of(error: &ProviderError) -> CallEnd {
    match error {
        ProviderError::Unauthorized { status: 403, .. } => CallEnd::Forbidden,
        ProviderError::Unauthorized { .. } => CallEnd::Unauthorized,
        ProviderError::SlowDown { retry_after, .. } => {
            CallEnd::SlowDown { span: retry_after.unwrap_or(SLOW_DOWN_DELAY).min(RETRY_AFTER_MAX) }
        }
        ProviderError::Refused { .. } => CallEnd::Refused,
        // A web page or half an answer comes from something in front of the provider, whatever was asked.
        ProviderError::Failed { .. }
        | ProviderError::Unreachable { .. }
        | ProviderError::TimedOut { .. }
        | ProviderError::Garbled { .. } => CallEnd::Failed,
    }
}
