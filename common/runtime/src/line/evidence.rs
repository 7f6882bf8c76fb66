//! Whose fault a failure is: the sandbox's or the provider's.
//!
//! One failure looks like another. What distinguishes them is what happens to other sandboxes: an account whose
//! deletion always fails while those of others go well is an odd one, and so is one that is forbidden alone. Where
//! nothing is known of the others, the provider is taken to be at fault, because trying again does no harm.

use super::{Blame, CallEnd, Ticket};
use contract::LineState;
use contract::line::{Breaker, BreakerReason, Failing, Forbidden};

/// How long after a deletion that went well its word counts: a provider that worked then is taken to work when
/// a single sandbox begins to fail. Longer than the longest delay between two attempts (10 minutes by default), or
/// an account that is the last one left would be out of reach of it.
const GOOD_FOR_MS: u64 = 15 * 60_000;
/// Forbidden sandboxes that are remembered; the oldest is forgotten first. Each takes up to 160 bytes of a value that
/// is written with every slot.
const FORBIDDEN_MAX: usize = 32;

/// A call deleted something. Only what began after a refusal says something about it.
pub(super) fn note_good(line: &mut LineState, ticket: Ticket, is_our_probe: bool, sandbox: &str) {
    // What was out when the breaker opened says nothing about the time since.
    if line.breaker != Breaker::Closed && !is_our_probe {
        return;
    }
    if is_our_probe && line.reason == Some(BreakerReason::Unauthorized) {
        // Those were refused because every call was.
        let good_ms = line.good_ms;
        line.forbidden.retain(|one| one.since_ms < good_ms);
    }
    line.forbidden.retain(|one| one.sandbox != sandbox);
    line.good_ms = line.good_ms.max(ticket.slot_us / 1_000);
}

/// A call failed: whose failures these are now, and how many in a row.
pub(super) fn note_failure(line: &mut LineState, sandbox: &str, now_ms: u64) {
    let was_odd = is_odd(line);
    match &line.failing {
        Failing::Nobody => {
            line.failing = Failing::One { sandbox: sandbox.to_owned() };
            line.failing_since_ms = now_ms;
        }
        Failing::One { sandbox: first } if first == sandbox => {}
        Failing::One { .. } | Failing::Several => line.failing = Failing::Several,
    }
    if line.breaker == Breaker::Closed {
        // The failures of an odd one make one sign of an outage, however many they are.
        let before = if was_odd && line.failing == Failing::Several { 1 } else { line.failures };
        line.failures = before.saturating_add(1);
    }
}

/// Whether all failures in a row are those of one sandbox, and others were deleted shortly before the first of them.
pub(super) fn is_odd(line: &LineState) -> bool {
    matches!(line.failing, Failing::One { .. }) && was_good_at(line, line.failing_since_ms)
}

/// Whom the failure is put down to that was noted last.
pub(super) fn blame(line: &LineState, end: CallEnd) -> Blame {
    if end != CallEnd::Failed {
        return Blame::Nobody;
    }
    match (&line.failing, line.breaker) {
        (Failing::One { .. }, _) if is_odd(line) => Blame::Sandbox,
        (Failing::One { .. }, Breaker::Closed) => Blame::Sandbox,
        (_, Breaker::Closed) => Blame::Unclear,
        _ => Blame::Nobody,
    }
}

/// A deletion was forbidden. No sandbox is blamed if our credentials may be the cause: then the provider throttle has
/// to stop.
pub(super) fn forbid(line: &mut LineState, sandbox: &str, now_ms: u64) -> Blame {
    let known = line.forbidden.iter().find(|one| one.sandbox == sandbox).map(|one| one.since_ms);
    if known.is_none() {
        line.forbidden.push(Forbidden { sandbox: sandbox.to_owned(), since_ms: now_ms });
        let surplus = line.forbidden.len().saturating_sub(FORBIDDEN_MAX);
        line.forbidden.drain(..surplus);
    }
    let good_ms = line.good_ms;
    // The deletion of another began after this one was forbidden, and went well.
    if known.is_some_and(|since_ms| since_ms < good_ms) {
        return Blame::Sandbox;
    }
    let is_another = line.forbidden.iter().any(|one| one.sandbox != sandbox && one.since_ms >= good_ms);
    if is_another || !was_good_at(line, known.unwrap_or(now_ms)) {
        return Blame::Nobody;
    }
    // The first time, another sandbox may be forbidden next; if it is the only one a second time, it is at fault.
    if known.is_some() { Blame::Sandbox } else { Blame::Unclear }
}

/// Whether something was deleted at that time or shortly before.
fn was_good_at(line: &LineState, at_ms: u64) -> bool {
    line.good_ms > 0 && at_ms <= line.good_ms.saturating_add(GOOD_FOR_MS)
}
