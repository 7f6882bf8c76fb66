//! Words that may stand in one place only, or in none (house style, rules 19, 34 and 39).

use crate::code::Code;
use crate::tree::Tree;

/// The one place that turns verdicts into acknowledgements.
const ACKNOWLEDGING: &str = "common/src/bus/nats/streams";
/// The one place of the test rig that lets time pass.
const WAITING: &str = "tests/harness/wait.rs";

/// Acknowledgements of messages outside their one place. Tests may play a worker.
fn stray_acknowledgements(tree: &Tree) -> Vec<String> {
    let calls = ["ack", "ack_with", "double_ack", "double_ack_with", "nak", "term"];
    let mut findings = Vec::new();
    for code in Code::all(tree).filter(|code| !code.path.starts_with(ACKNOWLEDGING)) {
        for call in calls {
            let here = code.find(&[".", call, "("]).into_iter().filter(|index| !code.is_test(*index));
            findings
                .extend(here.map(|index| code.finding(index, "return a verdict; streams.rs acknowledges")));
        }
        let kinds = code.find(&["AckKind"]).into_iter().filter(|index| !code.is_test(*index));
        findings.extend(kinds.map(|index| code.finding(index, "return a verdict; streams.rs acknowledges")));
    }
    findings
}

/// Lints that are switched off without a reason that the compiler keeps true.
fn allowed_lints(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for code in Code::all(tree) {
        for wanted in [&["#", "[", "allow", "("][..], &["#", "!", "[", "allow", "("], &[",", "allow", "("]] {
            let here = code.find(wanted).into_iter();
            findings.extend(here.map(|index| code.finding(index, "write `#[expect(…, reason = \"…\")]`")));
        }
    }
    findings
}

/// Tests that let time pass instead of waiting for what they want to see. A clock that a test moves may sleep.
fn sleeping_tests(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for code in Code::all(tree).filter(|code| code.path != WAITING) {
        for call in ["sleep", "sleep_until", "sleep_ms"] {
            let here = code.find(&[call, "("]).into_iter();
            let bare = |index: &usize| !matches!(code.text(index.checked_sub(1)), "." | "fn");
            let here = here.filter(|index| code.is_test(*index)).filter(bare);
            findings.extend(here.map(|index| code.finding(index, "wait for a condition with a deadline")));
        }
    }
    findings
}

/// What is not there yet, and what may end the process outside of tests.
fn unfinished(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for code in Code::all(tree) {
        for name in ["todo", "unimplemented", "dbg"] {
            let here = code.find(&[name, "!"]).into_iter();
            findings.extend(here.map(|index| code.finding(index, &format!("`{name}!` is not for keeps"))));
        }
        let here = code.find(&[".", "unwrap", "("]).into_iter().filter(|index| !code.is_test(*index));
        findings
            .extend(here.map(|index| code.finding(index, "handle the failure, or say why there is none")));
        let here = code.find(&["#", "[", "ignore"]).into_iter();
        findings.extend(here.map(|index| code.finding(index, "a test that does not run proves nothing")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{assert_none, assert_one};

    #[test]
    fn only_one_place_acknowledges() {
        assert_none(&stray_acknowledgements(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn lints_are_expected_not_allowed() {
        assert_none(&allowed_lints(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn tests_do_not_sleep() {
        assert_none(&sleeping_tests(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn everything_is_finished() {
        assert_none(&unfinished(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn a_stray_acknowledgement_is_found() {
        let found = |path, text| stray_acknowledgements(&Tree::of(&[(path, text)]));
        let reaper = "services/reaper/src/reap.rs";
        assert_one(&found(reaper, "message\n    .double_ack()\n    .await?"), "reap.rs:2:");
        assert_one(&found(reaper, "message.ack_with(kind)"), "verdict");
        assert_one(&found(reaper, "let kind = jetstream::AckKind::Term;"), "verdict");
        assert_one(&found("common/src/bus/nats/requests.rs", "message.ack()"), "verdict");
        assert_none(&found("common/src/bus/nats/streams.rs", "message.double_ack()"));
        assert_none(&found("tests/flows/reap.rs", "message.ack()"));
        assert_none(&found(reaper, "// message.ack()\nack(\"message.ack()\")"));
    }

    #[test]
    fn an_allowed_lint_is_found() {
        let found = |text| allowed_lints(&Tree::of(&[("common/src/a.rs", text)]));
        assert_one(&found("#[allow(dead_code)]"), "expect");
        assert_one(&found("#![allow(clippy::all)]"), "expect");
        assert_one(&found("#[cfg_attr(test, allow(unused))]"), "expect");
        assert_none(&found("#[expect(dead_code, reason = \"#[allow(\")] fn f() { policy.allow(1) }"));
    }

    #[test]
    fn a_sleeping_test_is_found() {
        let found = |path, text| sleeping_tests(&Tree::of(&[(path, text)]));
        assert_one(&found("tests/flows/a.rs", "tokio::time::sleep(x).await"), "deadline");
        assert_one(&found("common/src/a.rs", "#[cfg(test)] mod tests { fn f() { sleep(x) } }"), "deadline");
        assert_none(&found("tests/harness/wait.rs", "tokio::time::sleep(x).await"));
        assert_none(&found("common/src/a.rs", "tokio::time::sleep(x)"));
        assert_none(&found("tests/flows/a.rs", "clock.sleep(x); fn sleep(&self) {}"));
    }

    #[test]
    fn unfinished_code_is_found() {
        let found = |text| unfinished(&Tree::of(&[("common/src/a.rs", text)]));
        assert_one(&found("fn f() { todo!() }"), "`todo!`");
        assert_one(&found("fn f() { unimplemented!(\"later\") }"), "`unimplemented!`");
        assert_one(&found("dbg!(x);"), "`dbg!`");
        assert_one(&found("x.unwrap()"), "handle");
        assert_one(
            &found("#[cfg(test)] mod tests { #[test] #[ignore = \"slow\"] fn f() {} }"),
            "proves nothing",
        );
        assert_none(&found("x.unwrap_or(1); #[cfg(test)] mod tests { fn f() { x.unwrap() } }"));
    }
}
