//! Code that is allowed in one file only, or nowhere. Clippy checks the rest: `allow`, `todo!`, `unimplemented!`,
//! `dbg!`, and `unwrap` outside of tests.

use crate::tree::Tree;

/// The only file that turns verdicts into acknowledgements.
const ACKNOWLEDGING: &str = "common/nats/src/streams";
/// The only file of the test harness that sleeps.
const WAITING: &str = "tests/harness/wait.rs";
/// These tests, which contain what they search for.
const OURS: &str = "tests/architecture/";

/// A line of code.
struct Line<'a> {
    path: &'a str,
    number: usize,
    /// Without its comment.
    text: &'a str,
    /// Whether it is compiled for tests only.
    is_test: bool,
}

impl Line<'_> {
    fn finding(&self, message: &str) -> String {
        format!("{}:{}: {message}", self.path, self.number)
    }
}

/// Every line of Rust. Test code is a file for tests, or what follows `#[cfg(test)]` and `mod … {`.
fn lines(tree: &Tree) -> impl Iterator<Item = Line<'_>> {
    tree.ending(".rs").filter(|(path, _)| !path.starts_with(OURS)).flat_map(|(path, text)| {
        let is_file_of_tests =
            path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
        let all: Vec<&str> = text.lines().collect();
        let is_module = |pair: &[&str]| {
            matches!(pair, [first, second] if *first == "#[cfg(test)]" && second.starts_with("mod ") && second.ends_with('{'))
        };
        let tests_from =
            if is_file_of_tests { Some(0) } else { all.windows(2).position(is_module) }.unwrap_or(usize::MAX);
        all.into_iter().enumerate().map(move |(index, line)| Line {
            path,
            number: index + 1,
            text: line.split_once("//").map_or(line, |(code, _)| code),
            is_test: index >= tests_from,
        })
    })
}

/// Acknowledgements of messages in other files. Tests may act as a worker.
fn stray_acknowledgements(tree: &Tree) -> Vec<String> {
    let calls = [".ack(", ".ack_with(", ".double_ack(", ".double_ack_with(", ".nak(", ".term(", "AckKind"];
    lines(tree)
        .filter(|line| !line.is_test && !line.path.starts_with(ACKNOWLEDGING))
        .filter(|line| calls.iter().any(|call| line.text.contains(call)))
        .map(|line| line.finding("return a verdict; streams.rs acknowledges"))
        .collect()
}

/// Tests that sleep instead of waiting for a condition. A clock that a test moves may sleep.
fn sleeping_tests(tree: &Tree) -> Vec<String> {
    let sleeps = |line: &str| {
        ["sleep(", "sleep_until(", "sleep_ms("].iter().any(|call| {
            line.match_indices(call).any(|(at, _)| {
                let before = line.get(..at).unwrap_or_default();
                !before.ends_with(['.', '_']) && !before.ends_with("fn ")
            })
        })
    };
    lines(tree)
        .filter(|line| line.is_test && line.path != WAITING && sleeps(line.text))
        .map(|line| line.finding("wait for a condition with a deadline"))
        .collect()
}

/// Ignored tests.
fn ignored_tests(tree: &Tree) -> Vec<String> {
    lines(tree)
        .filter(|line| line.text.trim_start().starts_with("#[ignore"))
        .map(|line| line.finding("a test that does not run proves nothing"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{assert_none, assert_one};

    #[test]
    fn messages_are_acknowledged_in_one_module() {
        assert_none(&stray_acknowledgements(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn tests_do_not_sleep() {
        assert_none(&sleeping_tests(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn no_test_is_ignored() {
        assert_none(&ignored_tests(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn a_stray_acknowledgement_is_found() {
        let found = |path, text| stray_acknowledgements(&Tree::of(&[(path, text)]));
        let reaper = "services/reaper/src/reap.rs";
        assert_one(&found(reaper, "message\n    .double_ack()\n    .await?"), "reap.rs:2:");
        assert_one(&found(reaper, "message.ack_with(kind)"), "verdict");
        assert_one(&found(reaper, "let kind = jetstream::AckKind::Term;"), "verdict");
        assert_one(&found("common/nats/src/requests.rs", "message.ack()"), "verdict");
        assert_none(&found("common/nats/src/streams.rs", "message.double_ack()"));
        assert_none(&found("tests/flows/reap.rs", "message.ack()"));
        assert_none(&found(reaper, "// message.ack()\nack()"));
    }

    #[test]
    fn a_sleeping_test_is_found() {
        let found = |path, text| sleeping_tests(&Tree::of(&[(path, text)]));
        assert_one(&found("tests/flows/a.rs", "tokio::time::sleep(x).await"), "deadline");
        let unit = "f();\n#[cfg(test)]\nmod tests {\n    fn f() { sleep(x) }\n}";
        assert_one(&found("common/ports/src/a.rs", unit), "a.rs:4:");
        assert_none(&found("tests/harness/wait.rs", "tokio::time::sleep(x).await"));
        assert_none(&found("common/ports/src/a.rs", "tokio::time::sleep(x)\n#[cfg(test)]\nmod tests;"));
        assert_none(&found("tests/flows/a.rs", "clock.sleep(x); fn sleep(&self) {}"));
    }

    #[test]
    fn an_ignored_test_is_found() {
        let found = |text| ignored_tests(&Tree::of(&[("common/ports/src/a.rs", text)]));
        assert_one(&found("    #[test]\n    #[ignore = \"slow\"]\n    fn f() {}"), "a.rs:2:");
        assert_none(&found("// #[ignore]"));
    }
}
