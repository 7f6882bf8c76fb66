//! The result of the pre-clean is recorded, and the policy decides what a failure means.

use super::*;
use domain::Skip;
use ports::provider::Prepared;
use testkit::faulty::Fault;

const GO_ON_AFTER_2: Config = Config { failure_policy: FailurePolicy::GoOnAfter { attempts: 2 }, ..CONFIG };

impl Rig {
    async fn preparation(&self) -> Option<Preparation> {
        self.sandbox().await.deletion().expect("a deletion").preparation.clone()
    }
}

fn down() -> ProviderError {
    failed("services are down")
}

#[tokio::test]
async fn pre_clean_result_is_written_with_the_tombstone() {
    let cases = [
        (Prepared::Skipped, Preparation::Skipped(Skip::NothingInside)),
        (Prepared::AlreadyGone, Preparation::Skipped(Skip::AlreadyGone)),
        (Prepared::Done { count: 2 }, Preparation::Done { count: 2 }),
        (Prepared::Shadowed { count: 3 }, Preparation::Shadowed { count: 3 }),
    ];
    for (result, expected) in cases {
        let rig = Rig::new().await;
        let work = rig.released().await;
        rig.provider.script_preparation(Ok(result));
        assert_eq!(rig.again(&work).await, Verdict::Done);
        assert_eq!(rig.metric("broker_pre_cleans_total", &[expected.as_str()]), Some(1.0));
        assert_eq!(rig.preparation().await, Some(expected));
        assert_eq!(rig.faulty.calls(), ["sandbox", "identity", "finish_deletion"]);
    }
}

#[tokio::test]
async fn unsupported_pre_clean_is_recorded_as_switched_off() {
    let rig = Rig::new().await;
    let abilities =
        ports::provider::Abilities { list: true, delete: true, prepare_delete: false, check: false };
    rig.provider.set_abilities(abilities);
    let work = rig.released().await;
    assert_eq!(rig.again(&work).await, Verdict::Done);
    assert_eq!(rig.preparation().await, Some(Preparation::Skipped(Skip::SwitchedOff)));
}

#[tokio::test]
async fn cleaned_services_of_all_attempts_are_summed() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.provider.script_preparation(Ok(Prepared::Done { count: 2 }));
    rig.provider.script_delete(Err(failed("no licence")));
    assert!(matches!(rig.again(&work).await, Verdict::Retry { .. }));
    assert_eq!(rig.preparation().await, Some(Preparation::Done { count: 2 }));
    rig.provider.script_preparation(Ok(Prepared::Done { count: 1 }));
    rig.provider.script_delete(Err(failed("no licence")));
    assert!(matches!(rig.again(&work).await, Verdict::Retry { .. }));
    assert_eq!(rig.again(&work).await, Verdict::Done);
    assert_eq!(rig.preparation().await, Some(Preparation::Done { count: 3 }));
    assert_eq!(rig.metric("broker_pre_clean_services_deleted_total", &[]), Some(3.0));
}

#[tokio::test]
async fn cleaned_services_are_recorded_for_an_uncounted_attempt() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    let unauthorized = ProviderError::Unauthorized { message: "no".to_owned() };
    rig.provider.script_preparation(Ok(Prepared::Done { count: 2 }));
    rig.provider.script_delete(Err(unauthorized));
    assert!(matches!(rig.again(&work).await, Verdict::Retry { .. }));
    let deletion = rig.sandbox().await.deletion().cloned().unwrap();
    assert_eq!((deletion.attempts, deletion.preparation), (0, Some(Preparation::Done { count: 2 })));
    assert_eq!(rig.faulty.calls(), ["sandbox", "identity", "note_preparation"]);
    rig.work_through(&work).await;
    assert_eq!(rig.preparation().await, Some(Preparation::Done { count: 2 }));
}

#[tokio::test]
async fn interrupted_pre_clean_write_is_harmless() {
    for fault in [Fault::FailBefore, Fault::FailAfter] {
        let rig = Rig::with(CONFIG, |store| store.with(2, fault)).await;
        let work = rig.released().await;
        let unauthorized = ProviderError::Unauthorized { message: "no".to_owned() };
        rig.provider.script_preparation(Ok(Prepared::Done { count: 2 }));
        rig.provider.script_delete(Err(unauthorized));
        rig.work_through(&work).await;
        assert_eq!(rig.state().await, StateName::Deleted);
    }
}

#[tokio::test]
async fn block_policy_parks_and_never_deletes_an_uncleaned_sandbox() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    for _ in 0..10 {
        rig.provider.script_preparation(Err(down()));
    }
    rig.work_through(&work).await;
    assert_eq!((rig.state().await, rig.attempts().await), (StateName::DeletionFailed, 3));
    assert_eq!(rig.deletes(), 0);
    assert_eq!(rig.preparation().await, Some(Preparation::failed(&down().to_string(), false)));
    let copy = rig.bus.all_parked().remove(0);
    assert!(copy.reason.contains("clearing failed: ") && copy.reason.contains("services are down"));
}

#[tokio::test]
async fn go_on_policy_deletes_after_the_allowed_attempts() {
    let rig = Rig::with(GO_ON_AFTER_2, |store| store).await;
    let work = rig.released().await;
    for _ in 0..10 {
        rig.provider.script_preparation(Err(down()));
    }
    assert!(matches!(rig.again(&work).await, Verdict::Retry { .. }));
    assert_eq!((rig.deletes(), rig.attempts().await), (0, 1));
    assert_eq!(rig.preparation().await, Some(Preparation::failed(&down().to_string(), false)));
    assert_eq!(rig.again(&work).await, Verdict::Done);
    assert_eq!((rig.deletes(), rig.state().await), (1, StateName::Deleted));
    assert_eq!(rig.preparation().await, Some(Preparation::failed(&down().to_string(), true)));
}

#[tokio::test]
async fn go_on_policy_uses_a_pre_clean_that_succeeds_in_time() {
    let rig = Rig::with(GO_ON_AFTER_2, |store| store).await;
    let work = rig.released().await;
    rig.provider.script_preparation(Err(down()));
    rig.provider.script_preparation(Ok(Prepared::Done { count: 1 }));
    rig.work_through(&work).await;
    assert_eq!(rig.preparation().await, Some(Preparation::Done { count: 1 }));
}

#[tokio::test]
async fn go_on_policy_failures_do_not_open_the_breaker() {
    let config =
        Config { failure_policy: FailurePolicy::GoOnAfter { attempts: 20 }, attempts_max: 20, ..CONFIG };
    let errors = [
        down(),
        ProviderError::Unauthorized { message: "sign-in".to_owned() },
        ProviderError::Forbidden { message: "sign-in".to_owned() },
        ProviderError::UnknownOutcome { waited_seconds: 30 },
    ];
    for error in errors {
        let rig = Rig::with(config.clone(), |store| store).await;
        let work = rig.released().await;
        for _ in 0..100 {
            rig.provider.script_preparation(Err(error.clone()));
        }
        for attempts in 1..20 {
            assert!(matches!(rig.again(&work).await, Verdict::Retry { .. }));
            assert_eq!(
                (rig.attempts().await, rig.throttle_state().await.as_str()),
                (attempts, "running"),
                "{error}"
            );
        }
        assert_eq!(rig.again(&work).await, Verdict::Done);
        assert_eq!(rig.preparation().await, Some(Preparation::failed(&error.to_string(), true)));
    }
}

#[tokio::test]
async fn go_on_policy_honours_retry_after() {
    let config = Config { failure_policy: FailurePolicy::GoOnAfter { attempts: 1 }, ..CONFIG };
    let rig = Rig::with(config, |store| store).await;
    let work = rig.released().await;
    let span = Some(20 * SECOND);
    rig.provider
        .script_preparation(Err(ProviderError::Throttled { retry_after: span, message: "later".to_owned() }));
    let verdict = rig.again(&work).await;
    assert!(matches!(verdict, Verdict::Retry { delay } if delay >= 20 * SECOND), "{verdict:?}");
    assert_eq!((rig.deletes(), rig.attempts().await, rig.throttle_state().await.as_str()), (0, 0, "held"));
}

#[tokio::test]
async fn forbidden_sign_in_opens_the_breaker_under_the_block_policy() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    let others = SandboxId::parse("another").unwrap();
    rig.bus.report_outcome(rig.slot().await, &others, CallOutcome::Deleted).await.unwrap();
    let forbidden = ProviderError::Forbidden { message: "sign-in".to_owned() };
    rig.provider.script_preparation(Err(forbidden));
    assert!(matches!(rig.again(&work).await, Verdict::Retry { .. }));
    assert_eq!((rig.attempts().await, rig.throttle_state().await.as_str()), (0, "unauthorized"));
}
