//! Every failure of a provider and its consequences.

use super::*;

/// The consequence of an error.
enum Follows {
    /// It counts as an attempt, and the work returns after the usual delay.
    Attempt,
    /// It does not count; the work returns after that time, and the throttle has that state.
    Hold { seconds: u64, state: &'static str },
}

fn every_error() -> Vec<(ProviderError, Follows)> {
    let message = || "of two lines".to_owned();
    let hold = |seconds, state| Follows::Hold { seconds, state };
    let slow_down = |seconds: Option<u64>| ProviderError::Throttled {
        retry_after: seconds.map(Duration::from_secs),
        message: message(),
    };
    vec![
        (ProviderError::Unauthorized { message: message() }, hold(30, "unauthorized")),
        (ProviderError::Forbidden { message: message() }, hold(30, "unauthorized")),
        (slow_down(None), hold(30, "held")),
        (slow_down(Some(20)), hold(20, "held")),
        // As after any failure.
        (slow_down(Some(0)), hold(10, "running")),
        (slow_down(Some(86_400)), hold(3_600, "held")),
        (failed("licence service"), Follows::Attempt),
        (ProviderError::Unreachable { message: message() }, Follows::Attempt),
        (ProviderError::UnknownOutcome { waited_seconds: 15 }, Follows::Attempt),
        (ProviderError::Malformed { message: message() }, Follows::Attempt),
        (ProviderError::Refused { message: message() }, Follows::Attempt),
    ]
}

async fn assert_follows(rig: &Rig, error: &ProviderError, begin: &str, follows: Follows) {
    let work = rig.released().await;
    let Verdict::Retry { delay } = rig.reaper.work(delivery(&work)).await else {
        panic!("{error:?} is no reason to end the work")
    };
    assert_eq!(rig.state().await, StateName::PendingDeletion);
    let deletion = rig.sandbox().await.deletion().cloned().unwrap();
    let state = rig.throttle_state().await;
    match follows {
        Follows::Attempt => {
            assert_eq!((deletion.attempts, deletion.last_error), (1, Some(format!("{begin}{error}"))));
            assert!(delay >= 5 * SECOND && delay <= 10 * SECOND, "{error:?}: {delay:?}");
            assert_eq!(state, "running", "the others go on");
            rig.assert_outcomes(&[("attempt_failed", 1)]);
        }
        Follows::Hold { seconds, state: expected } => {
            let held = Duration::from_secs(seconds);
            assert_eq!((deletion.attempts, deletion.last_error), (0, None), "{error:?}");
            assert!(delay >= held && delay <= held + held / 4, "{error:?}: {delay:?}");
            assert_eq!(state, expected, "{error:?}");
            rig.assert_outcomes(&[("held", 1)]);
        }
    }
}

#[tokio::test]
async fn every_delete_error_has_its_verdict() {
    for (error, follows) in every_error() {
        let rig = Rig::new().await;
        rig.provider.script_delete(Err(error.clone()));
        assert_follows(&rig, &error, "", follows).await;
        assert_eq!(rig.provider.accounts().len(), 1);
    }
}

#[tokio::test]
async fn every_pre_clean_error_has_its_verdict_and_deletes_nothing() {
    for (error, follows) in every_error() {
        let rig = Rig::new().await;
        rig.provider.script_preparation(Err(error.clone()));
        assert_follows(&rig, &error, "clearing failed: ", follows).await;
        assert_eq!(rig.deletes(), 0);
    }
}

#[tokio::test]
async fn a_hold_never_uses_up_attempts() {
    let rig = Rig::with(Config { attempts_max: 1, ..CONFIG }, |store| store).await;
    let work = rig.released().await;
    let refused = ProviderError::Unauthorized { message: "no".to_owned() };
    for _ in 0..20 {
        rig.provider.script_delete(Err(refused.clone()));
    }
    rig.work_through(&work).await;
    assert_eq!((rig.state().await, rig.attempts().await), (StateName::Deleted, 0));
    assert_eq!(rig.deletes(), 21);
    rig.assert_outcomes(&[("deleted", 1), ("held", 20)]);
}

#[tokio::test]
async fn failed_attempts_are_counted_until_one_succeeds() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.provider.script_delete(Err(failed("first")));
    rig.provider.script_delete(Err(failed("second")));
    let before = rig.clock.now();
    rig.work_through(&work).await;
    let sandbox = rig.sandbox().await;
    let deletion = sandbox.deletion().unwrap();
    assert_eq!((sandbox.state.name(), deletion.attempts), (StateName::Deleted, 2));
    assert!(deletion.last_error.as_ref().unwrap().contains("second"));
    let took = rig.clock.now().get() - before.get();
    assert!((15..=32).contains(&took), "two delays, of 5 to 10 s and of 10 to 20 s: {took} s");
    rig.assert_outcomes(&[("attempt_failed", 2), ("deleted", 1)]);
}

#[tokio::test]
async fn an_unknown_outcome_is_settled_by_the_next_attempt() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.provider.script_delete(Err(ProviderError::UnknownOutcome { waited_seconds: 15 }));
    assert!(matches!(rig.reaper.work(delivery(&work)).await, Verdict::Retry { .. }));
    // The deletion had happened after all.
    rig.provider.set_accounts(Vec::new());
    assert_eq!(rig.again(&work).await, Verdict::Done);
    assert_eq!(rig.state().await, StateName::Deleted);
}

#[tokio::test]
async fn forbidden_account_is_parked_while_others_succeed() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    let forbidden = ProviderError::Forbidden { message: "not yours".to_owned() };
    let mut verdicts = Vec::new();
    for _ in 0..3 {
        let others = SandboxId::parse("another").unwrap();
        rig.bus.report_outcome(rig.slot().await, &others, CallOutcome::Deleted).await.unwrap();
        rig.provider.script_delete(Err(forbidden.clone()));
        verdicts.push(rig.again(&work).await);
        assert_eq!(rig.throttle_state().await, "running");
    }
    assert!(
        matches!(verdicts.as_slice(), [Verdict::Retry { .. }, Verdict::Retry { .. }, Verdict::GiveUp { reason }]
        if reason.contains("not yours")),
        "{verdicts:?}"
    );
    rig.assert_outcomes(&[("attempt_failed", 3), ("parked", 1)]);
}

#[tokio::test]
async fn first_forbidden_response_does_not_park() {
    let rig = Rig::with(Config { attempts_max: 1, ..CONFIG }, |store| store).await;
    let work = rig.released().await;
    let others = SandboxId::parse("another").unwrap();
    rig.bus.report_outcome(rig.slot().await, &others, CallOutcome::Deleted).await.unwrap();
    let forbidden = ProviderError::Forbidden { message: "no".to_owned() };
    rig.provider.script_delete(Err(forbidden.clone()));
    assert!(matches!(rig.again(&work).await, Verdict::Retry { .. }));
    // The next one is refused as well, so the token is the cause.
    rig.clock.advance(SECOND);
    rig.bus.report_outcome(rig.slot().await, &others, CallOutcome::Forbidden).await.unwrap();
    for _ in 0..5 {
        rig.provider.script_delete(Err(forbidden.clone()));
    }
    rig.work_through(&work).await;
    assert_eq!((rig.state().await, rig.attempts().await), (StateName::Deleted, 0));
}
