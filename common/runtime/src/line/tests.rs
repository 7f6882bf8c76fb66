use super::*;
use ports::random::{Dice, Random as _};

mod evidence;

const NOW_MS: u64 = 1_763_683_200_000;
const MINUTE_MS: u64 = 60_000;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const RULES: LineRules = LineRules {
    per_minute_max: 60,
    per_minute_min: 6,
    failures_max: 3,
    open_min: Duration::from_secs(10),
    open_max: Duration::from_secs(60),
};

/// A line with a clock.
#[derive(Default)]
struct Desk {
    line: LineState,
    pause: Option<Pause>,
    past_ms: u64,
}

impl Desk {
    fn now_ms(&self) -> u64 {
        NOW_MS + self.past_ms
    }

    fn wait(&mut self, span: Duration) {
        self.past_ms += u64::try_from(span.as_millis()).unwrap();
    }

    fn ask(&mut self) -> Turn {
        let (turn, next) = RULES.take(&self.line, self.pause.as_ref(), self.now_ms());
        self.line = next.unwrap_or_else(|| self.line.clone());
        turn
    }

    /// A slot, waited for; the line has to be open.
    fn slot(&mut self) -> Ticket {
        // After failures slots lie far apart.
        let far_ms = (self.line.next_us / 1_000).saturating_sub(self.now_ms());
        if far_ms > SLOT_WAIT_MAX_US / 1_000 {
            self.past_ms += far_ms;
        }
        match self.ask() {
            Turn::Go { ticket, wait } => {
                self.wait(wait);
                ticket
            }
            Turn::Later { wait, .. } => panic!("{wait:?}: {:?}", self.line),
        }
    }

    fn later(&mut self) -> Duration {
        match self.ask() {
            Turn::Later { wait, .. } => wait,
            Turn::Go { ticket, .. } => panic!("{ticket:?}: {:?}", self.line),
        }
    }

    fn confirm(&self, ticket: Ticket) -> Confirmed {
        RULES.confirm(&self.line, self.pause.as_ref(), ticket, self.now_ms())
    }

    fn tell(&mut self, ticket: Ticket, sandbox: &str, end: CallEnd) -> Told {
        let (told, next) = RULES.tell(&self.line, ticket, sandbox, end, self.now_ms());
        self.line = next.unwrap_or_else(|| self.line.clone());
        told
    }

    /// A call of that sandbox, with its slot.
    fn call(&mut self, sandbox: &str, end: CallEnd) -> Told {
        let ticket = self.slot();
        self.tell(ticket, sandbox, end)
    }

    fn rate(&self) -> u64 {
        self.view().rate_per_minute
    }

    fn view(&self) -> LineView {
        RULES.view(&self.line, self.pause.as_ref(), self.now_ms())
    }

    fn status(&self) -> DeletionsStatus {
        RULES.status(&self.line, self.pause.as_ref(), self.now_ms())
    }

    /// Opens the breaker, and says for how long.
    fn break_down(&mut self) -> Duration {
        let told = ["1", "2", "3"].map(|sandbox| self.call(sandbox, CallEnd::Failed));
        assert_eq!(told.map(|told| told.is_closed), [true, true, false]);
        told[2].wait
    }
}

#[test]
fn no_minute_has_more_than_its_share_however_late_calls_begin() {
    for per_minute_max in [1, 7, 60, 600] {
        let rules = LineRules { per_minute_max, ..RULES };
        let dice = Dice::seeded(per_minute_max);
        let (mut line, mut now_ms, mut calls) = (LineState::default(), NOW_MS, Vec::new());
        while calls.len() < 1_500 {
            match rules.take(&line, None, now_ms) {
                (Turn::Later { wait, .. }, None) => now_ms += u64::try_from(wait.as_millis()).unwrap(),
                (Turn::Go { ticket, .. }, Some(next)) => {
                    line = next;
                    let begins_us = ticket.slot_us + dice.below(LATE_MAX_US as usize) as u64;
                    assert_eq!(rules.confirm(&line, None, ticket, begins_us / 1_000), Confirmed::Go);
                    calls.push(begins_us / 1_000);
                }
                other => panic!("{other:?}"),
            }
            now_ms += dice.below(20) as u64;
        }
        calls.sort_unstable();
        let share = usize::try_from(per_minute_max).unwrap();
        let spans = calls.windows(share + 1).map(|window| window[share] - window[0]);
        assert!(spans.min() >= Some(MINUTE_MS), "{per_minute_max} a minute");
        let took = (calls[1_499] - calls[0]) * per_minute_max;
        assert!(took < 1_500 * MINUTE_MS * 100 / 97, "{per_minute_max} a minute: not much less either");
    }
}

#[test]
fn a_slot_that_is_far_away_is_not_taken_and_nothing_is_fetched_for_it() {
    let mut desk = Desk::default();
    let first = desk.slot();
    assert_eq!(desk.view().calls, 0, "the next slot is more than the lead away");
    assert_eq!(desk.view().wait, Duration::from_millis(20));
    let slots: Vec<_> = std::iter::from_fn(|| match desk.ask() {
        Turn::Go { ticket, .. } => Some(ticket.slot_us),
        Turn::Later { .. } => None,
    })
    .collect();
    assert_eq!(slots, [1, 2].map(|number| first.slot_us + number * 1_020_000));
    let before = desk.line.clone();
    assert_eq!(desk.later(), Duration::from_millis(2_060));
    assert_eq!(desk.line, before);
    desk.wait(Duration::from_millis(2_060));
    assert_eq!(desk.view().calls, 1);
}

#[test]
fn a_slot_that_was_slept_through_is_not_used() {
    let mut desk = Desk::default();
    let ticket = desk.slot();
    desk.wait(SECOND);
    assert_eq!(desk.confirm(ticket), Confirmed::Go);
    desk.wait(Duration::from_millis(1));
    assert_eq!(desk.confirm(ticket), Confirmed::Missed);
}

#[test]
fn failures_of_calls_that_were_out_together_halve_the_rate_once() {
    let mut desk = Desk::default();
    assert_eq!(desk.rate(), 60);
    let together: Vec<_> = (0..2).map(|_| desk.slot()).collect();
    for (number, ticket) in together.iter().enumerate() {
        desk.wait(SECOND / 2);
        desk.tell(*ticket, &number.to_string(), CallEnd::Failed);
        assert_eq!(desk.rate(), 30);
    }
    desk.wait(SECOND);
    desk.call("3", CallEnd::Deleted);
    assert_eq!(desk.rate(), 33, "a twentieth of the ceiling more");
    desk.call("4", CallEnd::Failed);
    assert_eq!(desk.rate(), 16, "a call that began after the last halving");
}

#[test]
fn the_rate_stays_between_its_bounds() {
    let mut desk = Desk::default();
    for _ in 0..20 {
        desk.wait(MINUTE);
        desk.call("1", CallEnd::Failed);
        desk.wait(MINUTE);
    }
    assert_eq!(desk.rate(), 6);
    desk.wait(MINUTE);
    for number in 0..30 {
        desk.wait(10 * SECOND);
        desk.call(&number.to_string(), CallEnd::Deleted);
        assert!(desk.rate() <= 60);
    }
    assert_eq!(desk.rate(), 60);
    desk.call("1", CallEnd::Refused);
    assert_eq!(desk.rate(), 60, "a refusal is no sign of overload");
}

#[test]
fn a_hold_keeps_everybody_away_also_those_who_have_a_slot() {
    let mut desk = Desk::default();
    let refused = desk.slot();
    let Turn::Go { ticket: waiting, wait } = desk.ask() else { panic!("no slot") };
    desk.tell(refused, "1", CallEnd::SlowDown { span: 30 * SECOND });
    desk.wait(wait);
    assert!(matches!(desk.confirm(waiting), Confirmed::Later { .. }));
    assert_eq!((desk.view().calls, desk.status().state.as_str()), (0, "held"));
    assert_eq!(desk.status().held_until, Some(NOW_MS / 1_000 + 30));
    desk.tell(refused, "1", CallEnd::SlowDown { span: SECOND });
    desk.past_ms = 29_999;
    assert_eq!(desk.later(), Duration::from_millis(1), "a shorter hold makes no longer one shorter");
    desk.wait(Duration::from_millis(1));
    assert_eq!(desk.slot().slot_us, (NOW_MS + 30_000) * 1_000);
}

#[test]
fn so_many_failures_in_a_row_open_the_breaker() {
    let mut desk = Desk::default();
    for sandbox in ["1", "2", "3", "4"] {
        desk.call(sandbox, CallEnd::Failed);
        desk.call(sandbox, CallEnd::Failed);
        // Whatever shows that the provider works ends the row.
        desk.call(sandbox, if sandbox == "3" { CallEnd::Refused } else { CallEnd::Deleted });
        desk.wait(MINUTE);
        assert_eq!(desk.status().breaker.state, "closed");
    }
    assert_eq!(desk.break_down(), 10 * SECOND);
    let status = desk.status();
    assert_eq!(
        (status.state.as_str(), status.breaker.reason),
        ("breaker_open", Some(BreakerReason::Failures))
    );
    assert!(desk.view().is_broken && desk.view().calls == 0);
    assert!(desk.later() <= LATER_MAX);
}

#[test]
fn overload_counts_as_failure_and_its_hold_outlasts_the_breaker() {
    let mut desk = Desk::default();
    for sandbox in ["1", "2"] {
        desk.call(sandbox, CallEnd::SlowDown { span: Duration::ZERO });
    }
    let told = desk.call("3", CallEnd::SlowDown { span: 100 * SECOND });
    assert_eq!((told.is_closed, told.wait), (false, 100 * SECOND));
}

#[test]
fn one_call_of_the_whole_fleet_tries() {
    let mut desk = Desk::default();
    let open = desk.break_down();
    desk.wait(open);
    assert_eq!(desk.view().calls, 1);
    let probe = desk.slot();
    assert!(probe.is_probe);
    assert_eq!((desk.view().calls, desk.status().state.as_str()), (0, "half_open"));
    for _ in 0..10 {
        desk.later();
    }
    assert_eq!(desk.confirm(probe), Confirmed::Go);
    assert!(desk.tell(probe, "1", CallEnd::Deleted).is_closed);
    assert_eq!((desk.status().state.as_str(), desk.line.failures), ("running", 0));
    assert!(!desk.slot().is_probe);
}

#[test]
fn each_try_that_fails_doubles_the_time_up_to_the_longest() {
    let mut desk = Desk::default();
    let mut open = desk.break_down();
    for expected in [20, 40, 60, 60] {
        desk.wait(open);
        let told = desk.call("1", CallEnd::Failed);
        assert!(!told.is_closed);
        open = told.wait;
        assert_eq!(open, expected * SECOND);
    }
    desk.wait(open);
    desk.call("1", CallEnd::Deleted);
    desk.wait(MINUTE);
    assert_eq!(desk.break_down(), 10 * SECOND, "the next breakdown is a new one");
}

#[test]
fn calls_that_were_out_when_it_opened_change_nothing() {
    let mut desk = Desk::default();
    let out = desk.slot();
    desk.break_down();
    let before = (desk.line.breaker, desk.line.openings);
    desk.wait(SECOND);
    for end in [CallEnd::Failed, CallEnd::Deleted, CallEnd::Refused] {
        assert!(!desk.tell(out, "9", end).is_closed, "{end:?}");
        assert_eq!((desk.line.breaker, desk.line.openings), before);
    }
}

#[test]
fn a_try_that_is_lost_or_not_made_is_made_by_another() {
    let mut desk = Desk::default();
    let open = desk.break_down();
    desk.wait(open);
    let unused = desk.slot();
    desk.tell(unused, "1", CallEnd::Unused);
    let lost = desk.slot();
    assert!(lost.is_probe && lost != unused);
    desk.wait(Duration::from_millis(PROBE_LEASE_MS - 1));
    desk.later();
    desk.wait(Duration::from_millis(1));
    let next = desk.slot();
    assert!(next.is_probe);
    desk.tell(lost, "1", CallEnd::Failed);
    assert_eq!(desk.confirm(next), Confirmed::Go, "the lost one is no news any more");
}

#[test]
fn refused_credentials_stop_the_line_at_once() {
    let mut desk = Desk::default();
    let told = desk.call("1", CallEnd::Unauthorized);
    assert_eq!((told.is_closed, told.wait), (false, 10 * SECOND));
    assert_eq!((desk.status().state.as_str(), desk.rate()), ("unauthorized", 60));
    desk.wait(told.wait);
    assert_eq!(desk.call("1", CallEnd::Unauthorized).wait, 20 * SECOND);
    desk.wait(20 * SECOND);
    assert!(desk.call("1", CallEnd::Deleted).is_closed);
    assert_eq!((desk.status().state.as_str(), desk.status().breaker.reason), ("running", None));
}

#[test]
fn it_is_known_whether_one_sandbox_fails_or_many() {
    let mut desk = Desk::default();
    let fails = |desk: &mut Desk, sandbox: &str| desk.call(sandbox, CallEnd::Failed).blame;
    assert_eq!(fails(&mut desk, "1"), Blame::Sandbox);
    assert_eq!(fails(&mut desk, "1"), Blame::Sandbox);
    desk.call("2", CallEnd::Deleted);
    assert_eq!(fails(&mut desk, "1"), Blame::Sandbox, "the row began anew");
    assert_eq!(fails(&mut desk, "3"), Blame::Unclear);
}

#[test]
fn a_pause_stops_everybody_and_ends_by_itself() {
    let mut desk = Desk::default();
    let first = desk.slot();
    desk.pause = Some(Pause { until: Some(NOW_MS / 1_000 + 20), ..Pause::default() });
    assert!(matches!(desk.confirm(first), Confirmed::Later { wait } if wait <= LATER_MAX));
    assert_eq!((desk.view().calls, desk.status().state.as_str()), (0, "paused"));
    desk.past_ms = 19_999;
    assert_eq!(desk.later(), Duration::from_millis(1));
    desk.wait(Duration::from_millis(1));
    assert!(!desk.slot().is_probe);
    assert_eq!((desk.status().state.as_str(), desk.status().paused), ("running", None));
    desk.pause = Some(Pause::default());
    desk.wait(1_000_000 * SECOND);
    assert_eq!(desk.later(), LATER_MAX, "without an end it lasts");
}

#[test]
fn a_pause_stops_a_try_as_well() {
    let mut desk = Desk::default();
    let open = desk.break_down();
    desk.wait(open);
    let probe = desk.slot();
    desk.pause = Some(Pause::default());
    assert!(matches!(desk.confirm(probe), Confirmed::Later { .. }));
    desk.tell(probe, "1", CallEnd::Unused);
    desk.pause = None;
    assert!(desk.slot().is_probe);
}
