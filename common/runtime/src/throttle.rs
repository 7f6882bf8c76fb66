//! The rules of the provider throttle: which call may start when. Both buses store its state and apply these rules.
//!
//! Calls have evenly spaced slots (a generic cell rate without burst). The rate rises by a fixed step with each
//! successful deletion and halves when the provider fails. A breaker closes the throttle after too many failures in a
//! row and then lets a single call of the fleet test the provider from time to time.

use crate::settings::Settings;
use contract::throttle::{
    Breaker, BreakerReason, BreakerState, BreakerStatus, DeletionsState, DeletionsStatus, Failing,
};
use contract::{Pause, ThrottleState};
use ports::backoff::longest_pause;
use ports::bus::{Admission, CallOutcome, Confirmed, FailureCause, OutcomeEffect, Permit, ThrottleView};
use std::time::Duration;

mod evidence;
mod moments;

pub use moments::by_the_clock_of;

/// Time for the slots of a minute, in microseconds. It is 2 % longer than a minute because calls may start late:
/// without that, a late call and a punctual one after it could be too close together.
const MINUTE_OF_SLOTS_US: u64 = 61_200_000;
/// How late after its slot a call may start; less than those 2 %.
const LATE_MAX_US: u64 = 1_000_000;
/// Longest wait for a reserved slot; a waiting delivery occupies one of its worker's slots.
const SLOT_WAIT_MAX_US: u64 = 3_000_000;
/// How far ahead slots may be reserved before workers stop fetching more work.
const LEAD_US: u64 = 1_000_000;
/// Successful deletions that raise the rate from zero to the maximum.
const STEPS_TO_CEILING: u64 = 20;
/// Time after which a probe call counts as lost: longer than any call, pre-clean included.
const PROBE_LEASE_MS: u64 = 180_000;
/// When to ask again during a pause without an end.
const PAUSE_WAIT_MS: u64 = 5_000;
/// Longest delay of a delivery because the throttle is closed. The delivery returns early and waits in the queue, so
/// that it starts soon after an early opening; no worker fetches it before.
const LATER_MAX: Duration = Duration::from_secs(5);
/// Longest time between two checks of a closed throttle.
const LOOK_AGAIN_MS: u64 = 500;

/// The settings of the throttle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleRules {
    /// Maximum rate of the fleet, in deletions per minute.
    pub per_minute_max: u64,
    /// Minimum rate, which failures never undercut.
    pub per_minute_min: u64,
    /// Failures of the provider in a row that open the breaker.
    pub failures_max: u32,
    /// Initial open time of the breaker; it doubles with each failed probe.
    pub open_min: Duration,
    /// Maximum open time of the breaker.
    pub open_max: Duration,
}

/// Which calls may start now.
enum Access {
    Open,
    ProbeOnly,
    Closed { until_ms: u64 },
}

// === impl ThrottleRules ===

impl Default for ThrottleRules {
    fn default() -> Self {
        Self {
            per_minute_max: 60,
            per_minute_min: 6,
            failures_max: 5,
            open_min: Duration::from_secs(30),
            open_max: Duration::from_secs(600),
        }
    }
}

impl ThrottleRules {
    /// Reads the settings of the throttle.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let per_minute_max = settings.number(
            "DELETIONS_PER_MINUTE",
            60,
            1..=60_000,
            "maximum rate of deletions of the fleet at the provider, per minute, evenly spaced",
        );
        let per_minute_min = settings.number(
            "DELETIONS_PER_MINUTE_MIN",
            6,
            1..=60_000,
            "minimum rate of deletions per minute, which failures of the provider never undercut",
        );
        let failures_max = settings.number(
            "BREAKER_FAILURES_MAX",
            5,
            1..=1_000,
            "failures of the provider in a row that open the breaker, which stops all deletions; keep it below DELETION_ATTEMPTS_MAX",
        );
        let open_min = settings.seconds(
            "BREAKER_OPEN_SECONDS_MIN",
            30,
            1..=3_600,
            "how long the breaker is open before one deletion probes the provider; it doubles with each failed probe",
        );
        let open_max =
            settings.seconds("BREAKER_OPEN_SECONDS_MAX", 600, 1..=86_400, "maximum time between two probes");
        Self {
            per_minute_max,
            per_minute_min: per_minute_min.min(per_minute_max),
            failures_max: u32::try_from(failures_max).unwrap_or(u32::MAX),
            open_min,
            open_max: open_max.max(open_min),
        }
    }

    /// The next free slot and the state after reserving it; no state if nothing changes.
    pub fn acquire(
        &self,
        throttle: &ThrottleState,
        pause: Option<&Pause>,
        now_ms: u64,
    ) -> (Admission, Option<ThrottleState>) {
        let is_probe = match access(throttle, pause, now_ms) {
            Access::Closed { until_ms } => {
                return (
                    Admission::Later { wait: span_ms(now_ms, until_ms).min(LATER_MAX), is_closed: true },
                    None,
                );
            }
            Access::ProbeOnly => true,
            Access::Open => false,
        };
        let now_us = now_ms.saturating_mul(1_000);
        let slot_us = throttle.next_us.max(now_us);
        if slot_us - now_us > SLOT_WAIT_MAX_US {
            let wait = span_us(slot_us - now_us - LEAD_US);
            return (Admission::Later { wait, is_closed: false }, None);
        }
        let mut throttle = throttle.clone();
        throttle.next_us = slot_us.saturating_add(self.spacing_us(&throttle));
        if is_probe {
            let until_ms = (slot_us / 1_000).saturating_add(PROBE_LEASE_MS);
            throttle.breaker = Breaker::HalfOpen { probe_us: slot_us, until_ms };
        }
        let permit = Permit { slot_us, is_probe };
        (Admission::Go { permit, wait: span_us(slot_us - now_us) }, Some(throttle))
    }

    /// Whether a reserved slot may be used now.
    pub fn confirm(
        &self,
        throttle: &ThrottleState,
        pause: Option<&Pause>,
        permit: Permit,
        now_ms: u64,
    ) -> Confirmed {
        let is_ours = breaker_probe(throttle) == Some(permit.slot_us);
        match access(throttle, pause, now_ms) {
            Access::Open => {}
            // Only an open breaker admits the probe; a pause and a hold apply to the probe as well.
            Access::Closed { .. } if is_ours && !is_stopped(throttle, pause, now_ms) => {}
            Access::Closed { until_ms } => {
                return Confirmed::Later { wait: span_ms(now_ms, until_ms).min(LATER_MAX) };
            }
            // A worker has to get the permit of the probe first.
            Access::ProbeOnly => return Confirmed::Missed,
        }
        let late_us = now_ms.saturating_mul(1_000).saturating_sub(permit.slot_us);
        if late_us > LATE_MAX_US { Confirmed::Missed } else { Confirmed::Go }
    }

    /// The consequences of an outcome; no state if nothing changes.
    pub fn report_outcome(
        &self,
        throttle: &ThrottleState,
        permit: Permit,
        sandbox: &str,
        end: CallOutcome,
        now_ms: u64,
    ) -> (OutcomeEffect, Option<ThrottleState>) {
        let mut next = throttle.clone();
        let is_our_probe = breaker_probe(throttle) == Some(permit.slot_us);
        let cause = match end {
            CallOutcome::Unused => {
                if is_our_probe {
                    next.breaker = Breaker::Open { until_ms: now_ms };
                }
                FailureCause::NotSandbox
            }
            CallOutcome::Deleted => {
                evidence::note_good(&mut next, permit, is_our_probe, sandbox);
                close(&mut next, is_our_probe);
                let step = (self.per_minute_max * 1_000).div_ceil(STEPS_TO_CEILING);
                self.set_rate(&mut next, self.rate_milli(throttle).saturating_add(step));
                FailureCause::NotSandbox
            }
            CallOutcome::Refused => {
                close(&mut next, is_our_probe);
                FailureCause::Sandbox
            }
            CallOutcome::Forbidden => {
                let cause = evidence::forbid(&mut next, sandbox, now_ms);
                match (cause, is_our_probe) {
                    (FailureCause::NotSandbox, _) => {
                        self.fail(&mut next, permit, is_our_probe, sandbox, end, now_ms)
                    }
                    // This says nothing about other sandboxes, so another one may probe at once.
                    (_, true) => next.breaker = Breaker::Open { until_ms: now_ms },
                    (_, false) => {}
                }
                cause
            }
            CallOutcome::Failed | CallOutcome::SlowDown { .. } | CallOutcome::Unauthorized => {
                self.fail(&mut next, permit, is_our_probe, sandbox, end, now_ms);
                evidence::cause(&next, end)
            }
        };
        let effect = OutcomeEffect {
            is_closed: next.breaker == Breaker::Closed,
            cause,
            wait: match access(&next, None, now_ms) {
                Access::Closed { until_ms } => span_ms(now_ms, until_ms),
                Access::Open | Access::ProbeOnly => Duration::ZERO,
            },
        };
        (effect, (next != *throttle).then_some(next))
    }

    fn fail(
        &self,
        throttle: &mut ThrottleState,
        permit: Permit,
        is_our_probe: bool,
        sandbox: &str,
        end: CallOutcome,
        now_ms: u64,
    ) {
        // Calls that started before the last halving say nothing about the rate after it: ten of them that fail
        // together halve the rate once.
        let is_refused = matches!(end, CallOutcome::Unauthorized | CallOutcome::Forbidden);
        if !is_refused && permit.slot_us / 1_000 >= throttle.slowed_ms {
            self.set_rate(throttle, self.rate_milli(throttle) / 2);
            throttle.slowed_ms = now_ms.saturating_add(1);
        }
        if let CallOutcome::SlowDown { span } = end {
            throttle.held_until_ms = throttle.held_until_ms.max(after(now_ms, span));
        }
        evidence::note_failure(throttle, sandbox, now_ms);
        let is_too_much =
            is_refused || (throttle.failures >= self.failures_max && !evidence::only_one_fails(throttle));
        // A call that started before the breaker opened says nothing new about the provider.
        if is_our_probe || (throttle.breaker == Breaker::Closed && is_too_much) {
            throttle.openings = throttle.openings.saturating_add(1);
            let span = longest_pause(self.open_min, self.open_max, throttle.openings);
            throttle.breaker = Breaker::Open { until_ms: after(now_ms, span).max(throttle.held_until_ms) };
            throttle.reason = Some(match end {
                _ if is_refused => BreakerReason::Unauthorized,
                _ => BreakerReason::Failures,
            });
        }
    }

    /// Whether and how soon calls may start.
    pub fn view(&self, throttle: &ThrottleState, pause: Option<&Pause>, now_ms: u64) -> ThrottleView {
        let (calls, wait) = match access(throttle, pause, now_ms) {
            Access::Closed { until_ms } => (0, span_ms(now_ms, until_ms)),
            Access::ProbeOnly => (1, Duration::ZERO),
            Access::Open => {
                let ahead_us = throttle.next_us.saturating_sub(now_ms.saturating_mul(1_000));
                match LEAD_US.checked_sub(ahead_us) {
                    Some(room_us) => (
                        usize::try_from(room_us / self.spacing_us(throttle)).unwrap_or(0) + 1,
                        Duration::ZERO,
                    ),
                    None => (0, span_us(ahead_us - LEAD_US)),
                }
            }
        };
        ThrottleView {
            calls,
            // Any closed state may end early: a pause by a resume, an open breaker by a probe.
            wait: wait.min(Duration::from_millis(LOOK_AGAIN_MS)),
            is_paused: is_paused(pause, now_ms),
            is_broken: throttle.breaker != Breaker::Closed,
            rate_per_minute: self.rate_per_minute(throttle),
        }
    }

    /// The state for operators, without the queue.
    pub fn status(&self, throttle: &ThrottleState, pause: Option<&Pause>, now_ms: u64) -> DeletionsStatus {
        let paused = pause.filter(|pause| pause.is_on(now_ms)).cloned();
        let held_until = (throttle.held_until_ms > now_ms).then(|| throttle.held_until_ms.div_ceil(1_000));
        let until_ms = match throttle.breaker {
            Breaker::Open { until_ms } => Some(until_ms),
            Breaker::Closed | Breaker::HalfOpen { .. } => None,
        };
        let state = match (&paused, throttle.reason, throttle.breaker) {
            (Some(_), _, _) => DeletionsState::Paused,
            (None, Some(BreakerReason::Unauthorized), _) => DeletionsState::Unauthorized,
            (None, _, Breaker::Open { .. }) => DeletionsState::BreakerOpen,
            (None, _, Breaker::HalfOpen { .. }) => DeletionsState::HalfOpen,
            (None, _, Breaker::Closed) if held_until.is_some() => DeletionsState::Held,
            (None, _, Breaker::Closed) => DeletionsState::Running,
        };
        DeletionsStatus {
            state: state.into(),
            paused,
            breaker: BreakerStatus {
                state: BreakerState::from(throttle.breaker).into(),
                reason: throttle.reason,
                until: until_ms.map(|until_ms| until_ms.div_ceil(1_000)),
                failures: throttle.failures,
            },
            held_until,
            rate_per_minute: self.rate_per_minute(throttle),
            rate_per_minute_max: self.per_minute_max,
            ..DeletionsStatus::default()
        }
    }

    fn rate_milli(&self, throttle: &ThrottleState) -> u64 {
        let (min, max) = self.bounds_milli();
        if throttle.rate_milli == 0 { max } else { throttle.rate_milli.clamp(min, max) }
    }

    fn set_rate(&self, throttle: &mut ThrottleState, rate_milli: u64) {
        let (min, max) = self.bounds_milli();
        throttle.rate_milli = rate_milli.clamp(min, max);
    }

    fn bounds_milli(&self) -> (u64, u64) {
        let max = self.per_minute_max.max(1).saturating_mul(1_000);
        (self.per_minute_min.max(1).saturating_mul(1_000).min(max), max)
    }

    fn rate_per_minute(&self, throttle: &ThrottleState) -> u64 {
        (self.rate_milli(throttle) / 1_000).max(1)
    }

    fn spacing_us(&self, throttle: &ThrottleState) -> u64 {
        MINUTE_OF_SLOTS_US.saturating_mul(1_000).div_ceil(self.rate_milli(throttle)).max(1)
    }
}

fn breaker_probe(throttle: &ThrottleState) -> Option<u64> {
    match throttle.breaker {
        Breaker::HalfOpen { probe_us, .. } => Some(probe_us),
        Breaker::Closed | Breaker::Open { .. } => None,
    }
}

/// The provider works: a successful probe closes the breaker, and the count of failures in a row ends.
fn close(throttle: &mut ThrottleState, is_our_probe: bool) {
    if is_our_probe {
        throttle.breaker = Breaker::Closed;
        (throttle.openings, throttle.reason) = (0, None);
    }
    if throttle.breaker == Breaker::Closed {
        (throttle.failures, throttle.failing, throttle.failing_since_ms) = (0, Failing::None, 0);
    }
}

fn access(throttle: &ThrottleState, pause: Option<&Pause>, now_ms: u64) -> Access {
    let closed = |until_ms: u64| Access::Closed { until_ms };
    if is_paused(pause, now_ms) {
        let until_ms = pause.and_then(|pause| pause.until).map(|until| until.saturating_mul(1_000));
        return closed(until_ms.unwrap_or_else(|| now_ms.saturating_add(PAUSE_WAIT_MS)));
    }
    if throttle.held_until_ms > now_ms {
        return closed(throttle.held_until_ms);
    }
    match throttle.breaker {
        Breaker::Closed => Access::Open,
        Breaker::Open { until_ms } | Breaker::HalfOpen { until_ms, .. } if until_ms > now_ms => {
            closed(until_ms)
        }
        Breaker::Open { .. } | Breaker::HalfOpen { .. } => Access::ProbeOnly,
    }
}

fn is_stopped(throttle: &ThrottleState, pause: Option<&Pause>, now_ms: u64) -> bool {
    is_paused(pause, now_ms) || throttle.held_until_ms > now_ms
}

fn is_paused(pause: Option<&Pause>, now_ms: u64) -> bool {
    pause.is_some_and(|pause| pause.is_on(now_ms))
}

fn span_ms(now_ms: u64, until_ms: u64) -> Duration {
    Duration::from_millis(until_ms.saturating_sub(now_ms))
}

/// In whole milliseconds, rounded up, like every clock.
fn span_us(span_us: u64) -> Duration {
    Duration::from_millis(span_us.div_ceil(1_000))
}

fn after(now_ms: u64, span: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
