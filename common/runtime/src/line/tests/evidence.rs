//! Whose fault a failure is, judged by what happens to other sandboxes.

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

impl Desk {
    fn fails(&mut self, sandbox: &str) -> Blame {
        self.call(sandbox, CallEnd::Failed).blame
    }

    fn is_forbidden(&mut self, sandbox: &str) -> Blame {
        self.call(sandbox, CallEnd::Forbidden).blame
    }

    fn deletes(&mut self, sandbox: &str) {
        assert!(self.call(sandbox, CallEnd::Deleted).is_closed);
    }

    fn state(&self) -> String {
        self.status().state
    }
}

#[test]
fn one_that_always_fails_is_to_blame_and_stops_nobody_once_others_went_well() {
    let mut desk = Desk::default();
    desk.deletes("1");
    for _ in 0..20 {
        assert_eq!(desk.fails("odd"), Blame::Sandbox);
        assert_eq!(desk.state(), "running");
        desk.wait(10 * MINUTE);
    }
    desk.deletes("2");
    assert_eq!((desk.fails("odd"), desk.line.failures), (Blame::Sandbox, 1));
}

#[test]
fn one_that_fails_is_not_to_blame_when_nothing_is_known_of_the_others() {
    for was_good_long_ago in [false, true] {
        let mut desk = Desk::default();
        if was_good_long_ago {
            desk.deletes("1");
            desk.wait(HOUR);
        }
        // Fewer failures than make a breakdown are charged all the same.
        assert_eq!([desk.fails("9"), desk.fails("9")], [Blame::Sandbox; 2]);
        for _ in 0..20 {
            assert_eq!(desk.fails("9"), Blame::Nobody);
            assert_ne!(desk.state(), "running");
            desk.wait(RULES.open_max);
        }
    }
}

#[test]
fn an_outage_blames_nobody_however_it_begins() {
    for alone in 0..10 {
        let mut desk = Desk::default();
        desk.deletes("1");
        for _ in 0..alone {
            desk.fails("9");
        }
        // The others begin to fail as well: the one before them counts as one failure.
        let first = desk.fails("2");
        assert_ne!(first, Blame::Nobody, "nobody can know yet");
        while desk.state() == "running" {
            desk.fails("3");
            assert!(desk.line.failures <= RULES.failures_max);
        }
        for sandbox in ["9", "2", "3", "9"] {
            desk.wait(RULES.open_max);
            assert_eq!(desk.fails(sandbox), Blame::Nobody, "{sandbox} after {alone}");
        }
    }
}

#[test]
fn a_call_that_was_out_and_fails_late_takes_the_blame_off_the_only_one() {
    let mut desk = Desk::default();
    let out = desk.slot();
    for _ in 0..3 {
        desk.fails("9");
    }
    desk.tell(out, "2", CallEnd::Failed);
    desk.wait(RULES.open_max);
    assert_eq!((desk.fails("9"), &desk.line.failing), (Blame::Nobody, &Failing::Several));
}

#[test]
fn overload_is_nobodys_fault_even_if_it_is_always_the_same_one() {
    let mut desk = Desk::default();
    desk.deletes("1");
    for _ in 0..3 {
        let told = desk.call("9", CallEnd::SlowDown { span: SECOND });
        assert_eq!(told.blame, Blame::Nobody);
        desk.wait(MINUTE);
    }
}

#[test]
fn a_single_odd_account_that_is_forbidden_does_not_stop_the_others() {
    let mut desk = Desk::default();
    desk.deletes("1");
    assert_eq!(desk.is_forbidden("odd"), Blame::Unclear, "it may be everybody's turn next");
    for number in 2..20 {
        desk.deletes(&number.to_string());
        assert_eq!(desk.is_forbidden("odd"), Blame::Sandbox, "the credentials are good");
        assert_eq!((desk.state().as_str(), desk.line.failures), ("running", 0));
    }
    assert_eq!(desk.rate(), 60, "a refusal is no sign of overload");
}

#[test]
fn the_last_one_left_is_to_blame_at_the_second_time() {
    let mut desk = Desk::default();
    desk.deletes("1");
    let blames: Vec<_> = (0..5)
        .map(|_| {
            desk.wait(MINUTE);
            desk.is_forbidden("odd")
        })
        .collect();
    assert_eq!(blames[0], Blame::Unclear);
    assert!(blames[1..].iter().all(|blame| *blame == Blame::Sandbox), "{blames:?}");
    assert_eq!(desk.state(), "running");
}

#[test]
fn several_odd_accounts_do_not_stop_the_others_either() {
    let mut desk = Desk::default();
    for odd in ["a", "b", "c"] {
        desk.deletes("1");
        assert_eq!(desk.is_forbidden(odd), Blame::Unclear);
    }
    desk.deletes("1");
    for odd in ["c", "a", "b", "b", "a"] {
        assert_eq!(desk.is_forbidden(odd), Blame::Sandbox);
        assert_eq!(desk.state(), "running");
    }
}

#[test]
fn credentials_that_lost_their_right_stop_the_line_and_nothing_is_given_up() {
    let mut desk = Desk::default();
    desk.deletes("1");
    assert_eq!(desk.is_forbidden("2"), Blame::Unclear);
    let told = desk.call("3", CallEnd::Forbidden);
    assert_eq!((told.blame, told.wait), (Blame::Nobody, 10 * SECOND));
    assert_eq!(desk.state(), "unauthorized");
    for (sandbox, open_s) in [("2", 20), ("3", 40), ("4", 60)] {
        desk.wait(RULES.open_max);
        let told = desk.call(sandbox, CallEnd::Forbidden);
        assert_eq!((told.blame, told.wait), (Blame::Nobody, open_s * SECOND), "{sandbox}");
    }
    // The credentials are right again: what was forbidden meanwhile counts against no sandbox.
    desk.wait(RULES.open_max);
    desk.deletes("4");
    assert_eq!(desk.state(), "running");
    assert_eq!(desk.is_forbidden("2"), Blame::Unclear);
}

#[test]
fn the_first_forbidden_one_stops_the_line_when_nothing_is_known_of_the_others() {
    let mut desk = Desk::default();
    assert_eq!(desk.is_forbidden("1"), Blame::Nobody);
    assert_eq!(desk.state(), "unauthorized");
    let mut desk = Desk::default();
    desk.deletes("1");
    desk.wait(HOUR);
    assert_eq!(desk.is_forbidden("2"), Blame::Nobody);
    assert_eq!(desk.state(), "unauthorized");
}

#[test]
fn a_deletion_that_began_before_a_refusal_says_nothing_about_it() {
    let mut desk = Desk::default();
    desk.deletes("1");
    let out = desk.slot();
    assert_eq!(desk.is_forbidden("2"), Blame::Unclear);
    desk.tell(out, "9", CallEnd::Deleted);
    assert_eq!(desk.is_forbidden("3"), Blame::Nobody);
    assert_eq!(desk.state(), "unauthorized");
    // Nor does one that was out when the line stopped.
    let before = desk.line.good_ms;
    desk.tell(out, "8", CallEnd::Deleted);
    assert_eq!((desk.line.good_ms, desk.state().as_str()), (before, "unauthorized"));
}

#[test]
fn a_try_by_an_odd_account_is_followed_by_another_one_at_once() {
    let mut desk = Desk::default();
    desk.deletes("1");
    desk.is_forbidden("odd");
    desk.deletes("1");
    let open = desk.break_down();
    desk.wait(open);
    let told = desk.call("odd", CallEnd::Forbidden);
    assert_eq!((told.blame, told.is_closed, told.wait), (Blame::Sandbox, false, Duration::ZERO));
    desk.wait(MINUTE);
    let next = desk.slot();
    assert!(next.is_probe);
    assert!(desk.tell(next, "2", CallEnd::Deleted).is_closed);
}

#[test]
fn only_so_many_forbidden_ones_are_remembered() {
    let mut desk = Desk::default();
    for number in 0..100 {
        desk.deletes("1");
        desk.is_forbidden(&format!("odd-{number}"));
    }
    let known: Vec<_> = desk.line.forbidden.iter().map(|one| one.sandbox.as_str()).collect();
    assert_eq!((known.len(), known.first(), known.last()), (32, Some(&"odd-68"), Some(&"odd-99")));
    desk.call("odd-99", CallEnd::Deleted);
    assert_eq!(desk.line.forbidden.len(), 31, "what is deleted is odd no more");
}
