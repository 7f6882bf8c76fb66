//! Sandbox or provider at fault, depending on other sandboxes.

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

impl TestThrottle {
    fn fails(&mut self, sandbox: &str) -> FailureCause {
        self.call(sandbox, CallOutcome::Failed).cause
    }

    fn is_forbidden(&mut self, sandbox: &str) -> FailureCause {
        self.call(sandbox, CallOutcome::Forbidden).cause
    }

    fn deletes(&mut self, sandbox: &str) {
        assert!(self.call(sandbox, CallOutcome::Deleted).is_closed);
    }

    fn state(&self) -> String {
        self.status().state.to_string()
    }
}

#[test]
fn failing_sandbox_is_blamed_once_others_succeeded() {
    let mut throttle = TestThrottle::default();
    throttle.deletes("1");
    for _ in 0..20 {
        assert_eq!(throttle.fails("odd"), FailureCause::Sandbox);
        assert_eq!(throttle.state(), "running");
        throttle.wait(10 * MINUTE);
    }
    throttle.deletes("2");
    assert_eq!((throttle.fails("odd"), throttle.current.failures), (FailureCause::Sandbox, 1));
}

#[test]
fn failing_sandbox_is_not_blamed_without_evidence_of_others() {
    for was_good_long_ago in [false, true] {
        let mut throttle = TestThrottle::default();
        if was_good_long_ago {
            throttle.deletes("1");
            throttle.wait(HOUR);
        }
        // Fewer failures than open the breaker are counted all the same.
        assert_eq!([throttle.fails("9"), throttle.fails("9")], [FailureCause::Sandbox; 2]);
        for _ in 0..20 {
            assert_eq!(throttle.fails("9"), FailureCause::NotSandbox);
            assert_ne!(throttle.state(), "running");
            throttle.wait(RULES.open_max);
        }
    }
}

#[test]
fn outage_blames_no_sandbox() {
    for alone in 0..10 {
        let mut throttle = TestThrottle::default();
        throttle.deletes("1");
        for _ in 0..alone {
            throttle.fails("9");
        }
        // Others begin to fail: the earlier failures of one sandbox count as one.
        let first = throttle.fails("2");
        assert_ne!(first, FailureCause::NotSandbox, "it cannot be known yet");
        while throttle.state() == "running" {
            throttle.fails("3");
            assert!(throttle.current.failures <= RULES.failures_max);
        }
        for sandbox in ["9", "2", "3", "9"] {
            throttle.wait(RULES.open_max);
            assert_eq!(throttle.fails(sandbox), FailureCause::NotSandbox, "{sandbox} after {alone}");
        }
    }
}

#[test]
fn late_failure_of_another_sandbox_clears_the_blame() {
    let mut throttle = TestThrottle::default();
    let out = throttle.slot();
    for _ in 0..3 {
        throttle.fails("9");
    }
    throttle.report_outcome(out, "2", CallOutcome::Failed);
    throttle.wait(RULES.open_max);
    assert_eq!(
        (throttle.fails("9"), &throttle.current.failing),
        (FailureCause::NotSandbox, &Failing::Several)
    );
}

#[test]
fn overload_blames_no_sandbox() {
    let mut throttle = TestThrottle::default();
    throttle.deletes("1");
    for _ in 0..3 {
        let effect = throttle.call("9", CallOutcome::SlowDown { span: SECOND });
        assert_eq!(effect.cause, FailureCause::NotSandbox);
        throttle.wait(MINUTE);
    }
}

#[test]
fn single_forbidden_account_does_not_stop_other_deletions() {
    let mut throttle = TestThrottle::default();
    throttle.deletes("1");
    assert_eq!(
        throttle.is_forbidden("odd"),
        FailureCause::Unclear,
        "the next failures may be of every sandbox"
    );
    for number in 2..20 {
        throttle.deletes(&number.to_string());
        assert_eq!(throttle.is_forbidden("odd"), FailureCause::Sandbox, "the credentials are good");
        assert_eq!((throttle.state().as_str(), throttle.current.failures), ("running", 0));
    }
    assert_eq!(throttle.rate(), 60, "a refusal is no sign of overload");
}

#[test]
fn last_remaining_sandbox_is_blamed_at_its_second_refusal() {
    let mut throttle = TestThrottle::default();
    throttle.deletes("1");
    let blames: Vec<_> = (0..5)
        .map(|_| {
            throttle.wait(MINUTE);
            throttle.is_forbidden("odd")
        })
        .collect();
    assert_eq!(blames[0], FailureCause::Unclear);
    assert!(blames[1..].iter().all(|cause| *cause == FailureCause::Sandbox), "{blames:?}");
    assert_eq!(throttle.state(), "running");
}

#[test]
fn several_forbidden_accounts_do_not_stop_other_deletions() {
    let mut throttle = TestThrottle::default();
    for odd in ["a", "b", "c"] {
        throttle.deletes("1");
        assert_eq!(throttle.is_forbidden(odd), FailureCause::Unclear);
    }
    throttle.deletes("1");
    for odd in ["c", "a", "b", "b", "a"] {
        assert_eq!(throttle.is_forbidden(odd), FailureCause::Sandbox);
        assert_eq!(throttle.state(), "running");
    }
}

#[test]
fn revoked_credentials_open_the_breaker_and_blame_no_sandbox() {
    let mut throttle = TestThrottle::default();
    throttle.deletes("1");
    assert_eq!(throttle.is_forbidden("2"), FailureCause::Unclear);
    let effect = throttle.call("3", CallOutcome::Forbidden);
    assert_eq!((effect.cause, effect.wait), (FailureCause::NotSandbox, 10 * SECOND));
    assert_eq!(throttle.state(), "unauthorized");
    for (sandbox, open_s) in [("2", 20), ("3", 40), ("4", 60)] {
        throttle.wait(RULES.open_max);
        let effect = throttle.call(sandbox, CallOutcome::Forbidden);
        assert_eq!((effect.cause, effect.wait), (FailureCause::NotSandbox, open_s * SECOND), "{sandbox}");
    }
    // The credentials work again: refusals in between count against no sandbox.
    throttle.wait(RULES.open_max);
    throttle.deletes("4");
    assert_eq!(throttle.state(), "running");
    assert_eq!(throttle.is_forbidden("2"), FailureCause::Unclear);
}

#[test]
fn first_forbidden_opens_the_breaker_without_evidence_of_others() {
    let mut throttle = TestThrottle::default();
    assert_eq!(throttle.is_forbidden("1"), FailureCause::NotSandbox);
    assert_eq!(throttle.state(), "unauthorized");
    let mut throttle = TestThrottle::default();
    throttle.deletes("1");
    throttle.wait(HOUR);
    assert_eq!(throttle.is_forbidden("2"), FailureCause::NotSandbox);
    assert_eq!(throttle.state(), "unauthorized");
}

#[test]
fn deletion_started_before_a_refusal_is_no_evidence() {
    let mut throttle = TestThrottle::default();
    throttle.deletes("1");
    let out = throttle.slot();
    assert_eq!(throttle.is_forbidden("2"), FailureCause::Unclear);
    throttle.report_outcome(out, "9", CallOutcome::Deleted);
    assert_eq!(throttle.is_forbidden("3"), FailureCause::NotSandbox);
    assert_eq!(throttle.state(), "unauthorized");
    // Nor does a call that was in progress when the throttle closed.
    let before = throttle.current.good_ms;
    throttle.report_outcome(out, "8", CallOutcome::Deleted);
    assert_eq!((throttle.current.good_ms, throttle.state().as_str()), (before, "unauthorized"));
}

#[test]
fn probe_with_a_forbidden_account_is_followed_by_another() {
    let mut throttle = TestThrottle::default();
    throttle.deletes("1");
    throttle.is_forbidden("odd");
    throttle.deletes("1");
    let open = throttle.break_down();
    throttle.wait(open);
    let effect = throttle.call("odd", CallOutcome::Forbidden);
    assert_eq!((effect.cause, effect.is_closed, effect.wait), (FailureCause::Sandbox, false, Duration::ZERO));
    throttle.wait(MINUTE);
    let next = throttle.slot();
    assert!(next.is_probe);
    assert!(throttle.report_outcome(next, "2", CallOutcome::Deleted).is_closed);
}

#[test]
fn remembered_forbidden_sandboxes_are_bounded() {
    let mut throttle = TestThrottle::default();
    for number in 0..100 {
        throttle.deletes("1");
        throttle.is_forbidden(&format!("odd-{number}"));
    }
    let known: Vec<_> = throttle.current.forbidden.iter().map(|one| one.sandbox.as_str()).collect();
    assert_eq!((known.len(), known.first(), known.last()), (32, Some(&"odd-68"), Some(&"odd-99")));
    throttle.call("odd-99", CallOutcome::Deleted);
    assert_eq!(throttle.current.forbidden.len(), 31, "what is deleted is odd no more");
}
