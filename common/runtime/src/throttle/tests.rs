use super::*;
use ports::random::{Random as _, Rng};

mod evidence;

const NOW_MS: u64 = 1_763_683_200_000;
const MINUTE_MS: u64 = 60_000;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const RULES: ThrottleRules = ThrottleRules {
    per_minute_max: 60,
    per_minute_min: 6,
    failures_max: 3,
    open_min: Duration::from_secs(10),
    open_max: Duration::from_secs(60),
};

/// A throttle with a clock.
#[derive(Default)]
struct TestThrottle {
    current: ThrottleState,
    pause: Option<Pause>,
    past_ms: u64,
}

impl TestThrottle {
    fn now_ms(&self) -> u64 {
        NOW_MS + self.past_ms
    }

    fn wait(&mut self, span: Duration) {
        self.past_ms += u64::try_from(span.as_millis()).unwrap();
    }

    fn ask(&mut self) -> Admission {
        let (admission, next) = RULES.acquire(&self.current, self.pause.as_ref(), self.now_ms());
        self.current = next.unwrap_or_else(|| self.current.clone());
        admission
    }

    /// Waits for a slot; the throttle has to be open.
    fn slot(&mut self) -> Permit {
        // After failures, slots are far apart.
        let far_ms = (self.current.next_us / 1_000).saturating_sub(self.now_ms());
        if far_ms > SLOT_WAIT_MAX_US / 1_000 {
            self.past_ms += far_ms;
        }
        match self.ask() {
            Admission::Go { permit, wait } => {
                self.wait(wait);
                permit
            }
            Admission::Later { wait, .. } => panic!("{wait:?}: {:?}", self.current),
        }
    }

    fn later(&mut self) -> Duration {
        match self.ask() {
            Admission::Later { wait, .. } => wait,
            Admission::Go { permit, .. } => panic!("{permit:?}: {:?}", self.current),
        }
    }

    fn confirm(&self, permit: Permit) -> Confirmed {
        RULES.confirm(&self.current, self.pause.as_ref(), permit, self.now_ms())
    }

    fn report_outcome(&mut self, permit: Permit, sandbox: &str, end: CallOutcome) -> OutcomeEffect {
        let (effect, next) = RULES.report_outcome(&self.current, permit, sandbox, end, self.now_ms());
        self.current = next.unwrap_or_else(|| self.current.clone());
        effect
    }

    /// A call for that sandbox, in its slot.
    fn call(&mut self, sandbox: &str, end: CallOutcome) -> OutcomeEffect {
        let permit = self.slot();
        self.report_outcome(permit, sandbox, end)
    }

    fn rate(&self) -> u64 {
        self.view().rate_per_minute
    }

    fn view(&self) -> ThrottleView {
        RULES.view(&self.current, self.pause.as_ref(), self.now_ms())
    }

    fn status(&self) -> DeletionsStatus {
        RULES.status(&self.current, self.pause.as_ref(), self.now_ms())
    }

    /// Opens the breaker and returns how long it stays open.
    fn break_down(&mut self) -> Duration {
        let effect = ["1", "2", "3"].map(|sandbox| self.call(sandbox, CallOutcome::Failed));
        assert_eq!(effect.map(|effect| effect.is_closed), [true, true, false]);
        effect[2].wait
    }
}

#[test]
fn rate_per_minute_holds_even_if_calls_start_late() {
    for per_minute_max in [1, 7, 60, 600] {
        let rules = ThrottleRules { per_minute_max, ..RULES };
        let rng = Rng::seeded(per_minute_max);
        let (mut state, mut now_ms, mut calls) = (ThrottleState::default(), NOW_MS, Vec::new());
        while calls.len() < 1_500 {
            match rules.acquire(&state, None, now_ms) {
                (Admission::Later { wait, .. }, None) => now_ms += u64::try_from(wait.as_millis()).unwrap(),
                (Admission::Go { permit, .. }, Some(next)) => {
                    state = next;
                    let begins_us = permit.slot_us + rng.below(LATE_MAX_US as usize) as u64;
                    assert_eq!(rules.confirm(&state, None, permit, begins_us / 1_000), Confirmed::Go);
                    calls.push(begins_us / 1_000);
                }
                other => panic!("{other:?}"),
            }
            now_ms += rng.below(20) as u64;
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
fn distant_slot_is_not_taken_and_no_work_is_fetched() {
    let mut throttle = TestThrottle::default();
    let first = throttle.slot();
    assert_eq!(throttle.view().calls, 0, "the next slot is more than the lead away");
    assert_eq!(throttle.view().wait, Duration::from_millis(20));
    let slots: Vec<_> = std::iter::from_fn(|| match throttle.ask() {
        Admission::Go { permit, .. } => Some(permit.slot_us),
        Admission::Later { .. } => None,
    })
    .collect();
    assert_eq!(slots, [1, 2].map(|number| first.slot_us + number * 1_020_000));
    let before = throttle.current.clone();
    assert_eq!(throttle.later(), Duration::from_millis(2_060));
    assert_eq!(throttle.current, before);
    throttle.wait(Duration::from_millis(2_060));
    assert_eq!(throttle.view().calls, 1);
}

#[test]
fn missed_slot_is_not_used() {
    let mut throttle = TestThrottle::default();
    let permit = throttle.slot();
    throttle.wait(SECOND);
    assert_eq!(throttle.confirm(permit), Confirmed::Go);
    throttle.wait(Duration::from_millis(1));
    assert_eq!(throttle.confirm(permit), Confirmed::Missed);
}

#[test]
fn concurrent_failures_halve_the_rate_once() {
    let mut throttle = TestThrottle::default();
    assert_eq!(throttle.rate(), 60);
    let together: Vec<_> = (0..2).map(|_| throttle.slot()).collect();
    for (number, permit) in together.iter().enumerate() {
        throttle.wait(SECOND / 2);
        throttle.report_outcome(*permit, &number.to_string(), CallOutcome::Failed);
        assert_eq!(throttle.rate(), 30);
    }
    throttle.wait(SECOND);
    throttle.call("3", CallOutcome::Deleted);
    assert_eq!(throttle.rate(), 33, "a twentieth of the ceiling more");
    throttle.call("4", CallOutcome::Failed);
    assert_eq!(throttle.rate(), 16, "a call that began after the last halving");
}

#[test]
fn the_rate_stays_between_its_bounds() {
    let mut throttle = TestThrottle::default();
    for _ in 0..20 {
        throttle.wait(MINUTE);
        throttle.call("1", CallOutcome::Failed);
        throttle.wait(MINUTE);
    }
    assert_eq!(throttle.rate(), 6);
    throttle.wait(MINUTE);
    for number in 0..30 {
        throttle.wait(10 * SECOND);
        throttle.call(&number.to_string(), CallOutcome::Deleted);
        assert!(throttle.rate() <= 60);
    }
    assert_eq!(throttle.rate(), 60);
    throttle.call("1", CallOutcome::Refused);
    assert_eq!(throttle.rate(), 60, "a refusal is no sign of overload");
}

#[test]
fn hold_also_stops_callers_with_a_slot() {
    let mut throttle = TestThrottle::default();
    let refused = throttle.slot();
    let Admission::Go { permit: waiting, wait } = throttle.ask() else { panic!("no slot") };
    throttle.report_outcome(refused, "1", CallOutcome::SlowDown { span: 30 * SECOND });
    throttle.wait(wait);
    assert!(matches!(throttle.confirm(waiting), Confirmed::Later { .. }));
    assert_eq!((throttle.view().calls, throttle.status().state.as_str()), (0, "held"));
    assert_eq!(throttle.status().held_until, Some(NOW_MS / 1_000 + 30));
    throttle.report_outcome(refused, "1", CallOutcome::SlowDown { span: SECOND });
    throttle.past_ms = 29_999;
    assert_eq!(throttle.later(), Duration::from_millis(1), "a shorter hold makes no longer one shorter");
    throttle.wait(Duration::from_millis(1));
    assert_eq!(throttle.slot().slot_us, (NOW_MS + 30_000) * 1_000);
}

#[test]
fn consecutive_failures_open_the_breaker() {
    let mut throttle = TestThrottle::default();
    for sandbox in ["1", "2", "3", "4"] {
        throttle.call(sandbox, CallOutcome::Failed);
        throttle.call(sandbox, CallOutcome::Failed);
        // Any sign that the provider works ends the row.
        throttle.call(sandbox, if sandbox == "3" { CallOutcome::Refused } else { CallOutcome::Deleted });
        throttle.wait(MINUTE);
        assert_eq!(throttle.status().breaker.state, BreakerState::Closed.into());
    }
    assert_eq!(throttle.break_down(), 10 * SECOND);
    let status = throttle.status();
    assert_eq!(
        (status.state.as_str(), status.breaker.reason),
        ("breaker_open", Some(BreakerReason::Failures))
    );
    assert!(throttle.view().is_broken && throttle.view().calls == 0);
    assert!(throttle.later() <= LATER_MAX);
}

#[test]
fn overload_counts_as_failure_and_its_hold_outlasts_the_breaker() {
    let mut throttle = TestThrottle::default();
    for sandbox in ["1", "2"] {
        throttle.call(sandbox, CallOutcome::SlowDown { span: Duration::ZERO });
    }
    let effect = throttle.call("3", CallOutcome::SlowDown { span: 100 * SECOND });
    assert_eq!((effect.is_closed, effect.wait), (false, 100 * SECOND));
}

#[test]
fn half_open_breaker_admits_one_probe_of_the_fleet() {
    let mut throttle = TestThrottle::default();
    let open = throttle.break_down();
    throttle.wait(open);
    assert_eq!(throttle.view().calls, 1);
    let probe = throttle.slot();
    assert!(probe.is_probe);
    assert_eq!((throttle.view().calls, throttle.status().state.as_str()), (0, "half_open"));
    for _ in 0..10 {
        throttle.later();
    }
    assert_eq!(throttle.confirm(probe), Confirmed::Go);
    assert!(throttle.report_outcome(probe, "1", CallOutcome::Deleted).is_closed);
    assert_eq!((throttle.status().state.as_str(), throttle.current.failures), ("running", 0));
    assert!(!throttle.slot().is_probe);
}

#[test]
fn failed_probe_doubles_the_open_time_up_to_the_maximum() {
    let mut throttle = TestThrottle::default();
    let mut open = throttle.break_down();
    for expected in [20, 40, 60, 60] {
        throttle.wait(open);
        let effect = throttle.call("1", CallOutcome::Failed);
        assert!(!effect.is_closed);
        open = effect.wait;
        assert_eq!(open, expected * SECOND);
    }
    throttle.wait(open);
    throttle.call("1", CallOutcome::Deleted);
    throttle.wait(MINUTE);
    assert_eq!(throttle.break_down(), 10 * SECOND, "the next breakdown is a new one");
}

#[test]
fn results_of_calls_begun_before_the_opening_are_ignored() {
    let mut throttle = TestThrottle::default();
    let out = throttle.slot();
    throttle.break_down();
    let before = (throttle.current.breaker, throttle.current.openings);
    throttle.wait(SECOND);
    for end in [CallOutcome::Failed, CallOutcome::Deleted, CallOutcome::Refused] {
        assert!(!throttle.report_outcome(out, "9", end).is_closed, "{end:?}");
        assert_eq!((throttle.current.breaker, throttle.current.openings), before);
    }
}

#[test]
fn lost_or_unused_probe_is_reassigned() {
    let mut throttle = TestThrottle::default();
    let open = throttle.break_down();
    throttle.wait(open);
    let unused = throttle.slot();
    throttle.report_outcome(unused, "1", CallOutcome::Unused);
    let lost = throttle.slot();
    assert!(lost.is_probe && lost != unused);
    throttle.wait(Duration::from_millis(PROBE_LEASE_MS - 1));
    throttle.later();
    throttle.wait(Duration::from_millis(1));
    let next = throttle.slot();
    assert!(next.is_probe);
    throttle.report_outcome(lost, "1", CallOutcome::Failed);
    assert_eq!(throttle.confirm(next), Confirmed::Go, "the lost one is no news any more");
}

#[test]
fn unauthorized_opens_the_breaker_immediately() {
    let mut throttle = TestThrottle::default();
    let effect = throttle.call("1", CallOutcome::Unauthorized);
    assert_eq!((effect.is_closed, effect.wait), (false, 10 * SECOND));
    assert_eq!((throttle.status().state.as_str(), throttle.rate()), ("unauthorized", 60));
    throttle.wait(effect.wait);
    assert_eq!(throttle.call("1", CallOutcome::Unauthorized).wait, 20 * SECOND);
    throttle.wait(20 * SECOND);
    assert!(throttle.call("1", CallOutcome::Deleted).is_closed);
    assert_eq!((throttle.status().state.as_str(), throttle.status().breaker.reason), ("running", None));
}

#[test]
fn failures_of_one_sandbox_and_of_many_are_distinguished() {
    let mut throttle = TestThrottle::default();
    let fails =
        |throttle: &mut TestThrottle, sandbox: &str| throttle.call(sandbox, CallOutcome::Failed).cause;
    assert_eq!(fails(&mut throttle, "1"), FailureCause::Sandbox);
    assert_eq!(fails(&mut throttle, "1"), FailureCause::Sandbox);
    throttle.call("2", CallOutcome::Deleted);
    assert_eq!(fails(&mut throttle, "1"), FailureCause::Sandbox, "the row began anew");
    assert_eq!(fails(&mut throttle, "3"), FailureCause::Unclear);
}

#[test]
fn pause_stops_all_callers_and_expires() {
    let mut throttle = TestThrottle::default();
    let first = throttle.slot();
    throttle.pause = Some(Pause { until: Some(NOW_MS / 1_000 + 20), ..Pause::default() });
    assert!(matches!(throttle.confirm(first), Confirmed::Later { wait } if wait <= LATER_MAX));
    assert_eq!((throttle.view().calls, throttle.status().state.as_str()), (0, "paused"));
    throttle.past_ms = 19_999;
    assert_eq!(throttle.later(), Duration::from_millis(1));
    throttle.wait(Duration::from_millis(1));
    assert!(!throttle.slot().is_probe);
    assert_eq!((throttle.status().state.as_str(), throttle.status().paused), ("running", None));
    throttle.pause = Some(Pause::default());
    throttle.wait(1_000_000 * SECOND);
    assert_eq!(throttle.later(), LATER_MAX, "without an end it lasts");
}

#[test]
fn pause_also_stops_the_probe() {
    let mut throttle = TestThrottle::default();
    let open = throttle.break_down();
    throttle.wait(open);
    let probe = throttle.slot();
    throttle.pause = Some(Pause::default());
    assert!(matches!(throttle.confirm(probe), Confirmed::Later { .. }));
    throttle.report_outcome(probe, "1", CallOutcome::Unused);
    throttle.pause = None;
    assert!(throttle.slot().is_probe);
}
