//! Decides whether a failure is the fault of the sandbox or of the provider.
//!
//! A single failure does not tell. Other sandboxes do: an account whose deletion always fails while others succeed is
//! faulty, and so is one that alone is forbidden. If nothing is known about others, the provider counts as the cause,
//! because a retry does no harm.

use super::{CallOutcome, FailureCause, Permit};
use contract::ThrottleState;
use contract::throttle::{Breaker, BreakerReason, Failing, Forbidden};

/// How long a successful deletion proves that the provider works when a single sandbox begins to fail. It is longer
/// than the longest retry delay (10 minutes by default); otherwise a last remaining account could never be found at
/// fault.
const GOOD_FOR_MS: u64 = 15 * 60_000;
/// Forbidden sandboxes that are remembered; the oldest is dropped first. Each takes up to 160 bytes of a value that is
/// written with every slot.
const FORBIDDEN_MAX: usize = 32;

/// Records a successful deletion. Only a call that started after a refusal says something about it.
pub(super) fn note_good(throttle: &mut ThrottleState, permit: Permit, is_our_probe: bool, sandbox: &str) {
    // A call that was in progress when the breaker opened says nothing about the time since.
    if throttle.breaker != Breaker::Closed && !is_our_probe {
        return;
    }
    if is_our_probe && throttle.reason == Some(BreakerReason::Unauthorized) {
        // Those were refused because every call was.
        let good_ms = throttle.good_ms;
        throttle.forbidden.retain(|one| one.since_ms < good_ms);
    }
    throttle.forbidden.retain(|one| one.sandbox != sandbox);
    throttle.good_ms = throttle.good_ms.max(permit.slot_us / 1_000);
}

/// Records a failure: which sandboxes fail, and how often in a row.
pub(super) fn note_failure(throttle: &mut ThrottleState, sandbox: &str, now_ms: u64) {
    let only_one_failed = only_one_fails(throttle);
    match &throttle.failing {
        Failing::None => {
            throttle.failing = Failing::One { sandbox: sandbox.to_owned() };
            throttle.failing_since_ms = now_ms;
        }
        Failing::One { sandbox: first } if first == sandbox => {}
        Failing::One { .. } | Failing::Several => throttle.failing = Failing::Several,
    }
    if throttle.breaker == Breaker::Closed {
        // All failures of one faulty sandbox together count as one sign of an outage.
        let before =
            if only_one_failed && throttle.failing == Failing::Several { 1 } else { throttle.failures };
        throttle.failures = before.saturating_add(1);
    }
}

/// Whether all failures in a row are of one sandbox, and others were deleted shortly before the first of them.
pub(super) fn only_one_fails(throttle: &ThrottleState) -> bool {
    matches!(throttle.failing, Failing::One { .. }) && was_good_at(throttle, throttle.failing_since_ms)
}

/// The cause of the failure that was recorded last.
pub(super) fn cause(throttle: &ThrottleState, end: CallOutcome) -> FailureCause {
    if end != CallOutcome::Failed {
        return FailureCause::NotSandbox;
    }
    match (&throttle.failing, throttle.breaker) {
        (Failing::One { .. }, _) if only_one_fails(throttle) => FailureCause::Sandbox,
        (Failing::One { .. }, Breaker::Closed) => FailureCause::Sandbox,
        (_, Breaker::Closed) => FailureCause::Unclear,
        _ => FailureCause::NotSandbox,
    }
}

/// Records a forbidden deletion. If our credentials may be the cause, no sandbox is at fault and the throttle has to
/// close.
pub(super) fn forbid(throttle: &mut ThrottleState, sandbox: &str, now_ms: u64) -> FailureCause {
    let known = throttle.forbidden.iter().find(|one| one.sandbox == sandbox).map(|one| one.since_ms);
    if known.is_none() {
        throttle.forbidden.push(Forbidden { sandbox: sandbox.to_owned(), since_ms: now_ms });
        let surplus = throttle.forbidden.len().saturating_sub(FORBIDDEN_MAX);
        throttle.forbidden.drain(..surplus);
    }
    let good_ms = throttle.good_ms;
    // The deletion of another sandbox started after this one was forbidden, and succeeded.
    if known.is_some_and(|since_ms| since_ms < good_ms) {
        return FailureCause::Sandbox;
    }
    let is_another = throttle.forbidden.iter().any(|one| one.sandbox != sandbox && one.since_ms >= good_ms);
    if is_another || !was_good_at(throttle, known.unwrap_or(now_ms)) {
        return FailureCause::NotSandbox;
    }
    // After the first refusal, another sandbox may be refused next. If only this one is refused a second time, it is at
    // fault.
    if known.is_some() { FailureCause::Sandbox } else { FailureCause::Unclear }
}

/// Whether a deletion succeeded at that time or shortly before.
fn was_good_at(throttle: &ThrottleState, at_ms: u64) -> bool {
    throttle.good_ms > 0 && at_ms <= throttle.good_ms.saturating_add(GOOD_FOR_MS)
}
