//! Deletion of the services that a student left in a sandbox.

use crate::rig::{Rig, SHORT, client, csp_config, external_id, status_fault, target, until};
use csp::preclean::PreCleanConfig;
use ports::provider::{Deleted, Prepared, Provider, ProviderError, Target};
use simulator::{FaultKind, Faults, Latency, Operation};
use std::sync::Arc;

const OURS: &str = "Instrqt-SaaS";
const ON: [(&str, &str); 4] = [
    ("NIOSXAAS_ENABLED", "true"),
    ("NIOSXAAS_SHADOW_MODE", "false"),
    ("NIOSXAAS_EMAIL", "broker@example.org"),
    ("NIOSXAAS_PASSWORD", "password-of-the-tests"),
];

/// A sandbox with these services inside.
fn with_services(rig: &Rig, index: usize, names: &[&str]) -> Target {
    let account = &rig.handle.accounts()[index];
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    assert!(rig.handle.set_services(&external_id(account), &names));
    target(account)
}

#[tokio::test]
async fn disabled_pre_clean_makes_no_calls() {
    let rig = Rig::new(1, &[]).await;
    let target = with_services(&rig, 0, &[OURS]);
    assert!(!rig.provider.abilities().prepare_delete);
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Skipped));
    assert!(rig.handle.log().is_empty());
}

#[tokio::test]
async fn only_lab_services_are_deleted() {
    let rig = Rig::new(1, &ON).await;
    let target = with_services(&rig, 0, &[OURS, "Shared-SaaS", OURS, "instrqt-saas"]);
    assert!(rig.provider.abilities().prepare_delete);
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Done { count: 2 }));
    assert_eq!(rig.handle.services(&target.external_id), ["Shared-SaaS", "instrqt-saas"]);
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Skipped), "it can be repeated");
    assert_eq!(rig.provider.delete(&target).await, Ok(Deleted::Now));
    assert_eq!(rig.handle.census().orphaned_services, 2);
}

#[tokio::test]
async fn asterisk_deletes_every_service() {
    let settings = [ON.as_slice(), &[("NIOSXAAS_SERVICE_NAME", "*")]].concat();
    let rig = Rig::new(1, &settings).await;
    let target = with_services(&rig, 0, &[OURS, "Shared-SaaS"]);
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Done { count: 2 }));
    assert_eq!(rig.handle.services(&target.external_id), Vec::<String>::new());
}

#[tokio::test]
async fn services_come_in_pages() {
    let rig = Rig::new(1, &ON).await;
    let names: Vec<&str> =
        (0..250).map(|number| if number % 2 == 0 { OURS } else { "Shared-SaaS" }).collect();
    let target = with_services(&rig, 0, &names);
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Done { count: 125 }));
    assert_eq!(rig.handle.services(&target.external_id).len(), 125);
    assert_eq!(rig.count(Operation::ListServices), 3);
}

#[tokio::test]
async fn shadow_mode_counts_and_deletes_nothing() {
    let settings = [ON.as_slice(), &[("NIOSXAAS_SHADOW_MODE", "true")]].concat();
    let rig = Rig::new(2, &settings).await;
    let target = with_services(&rig, 0, &[OURS, OURS, "Shared-SaaS"]);
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Shadowed { count: 2 }));
    assert_eq!(rig.handle.services(&target.external_id).len(), 3);
    assert_eq!(rig.count(Operation::DeleteService), 0);
    let empty = with_services(&rig, 1, &[]);
    assert_eq!(rig.provider.prepare_delete(&empty).await, Ok(Prepared::Skipped));
}

#[tokio::test]
async fn one_sign_in_serves_many_sandboxes_until_it_expires() {
    let rig = Rig::new(6, &ON).await;
    for index in 0..6 {
        let target = with_services(&rig, index, &[OURS]);
        if index == 3 {
            assert!(rig.handle.expire_sessions() > 0);
        }
        assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Done { count: 1 }));
    }
    assert_eq!(rig.count(Operation::SignIn), 2);
}

#[tokio::test]
async fn concurrent_calls_share_one_sign_in() {
    let rig = Arc::new(Rig::new(20, &ON).await);
    rig.handle.slow_down(Operation::SignIn, Latency::Fixed(50)).unwrap();
    for round in 1..=2 {
        let crowd: Vec<_> = (0..20)
            .map(|index| {
                let target = with_services(&rig, index, &[OURS]);
                let rig = Arc::clone(&rig);
                tokio::spawn(async move { rig.provider.prepare_delete(&target).await })
            })
            .collect();
        for one in crowd {
            assert_eq!(one.await.unwrap(), Ok(Prepared::Done { count: 1 }));
        }
        assert_eq!(rig.count(Operation::SignIn), round);
        rig.handle.expire_sessions();
    }
}

#[tokio::test]
async fn session_expired_midway_is_renewed() {
    let rig = Rig::new(1, &ON).await;
    let target = with_services(&rig, 0, &[OURS, OURS, OURS]);
    // Login, account switch and listing succeed; the first deletion finds the session expired.
    rig.answer_next(Operation::DeleteService, 401);
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Done { count: 3 }));
    assert_eq!(rig.count(Operation::SignIn), 2);
    assert_eq!(rig.handle.services(&target.external_id), Vec::<String>::new());
}

#[tokio::test]
async fn session_refused_twice_is_unauthorized() {
    let rig = Rig::new(1, &ON).await;
    let target = with_services(&rig, 0, &[OURS]);
    // A session with a lifetime of zero is expired at its first use.
    rig.handle.set_faults(Faults { session_lifetime_ms: 0, ..Faults::default() }).unwrap();
    let error = rig.provider.prepare_delete(&target).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unauthorized { .. }), "{error}");
    assert_eq!(rig.count(Operation::SignIn), 2);
    rig.handle.clear_faults();
    rig.handle.expire_sessions();
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Done { count: 1 }));
}

#[tokio::test]
async fn partial_failure_is_an_error_and_a_retry_completes_it() {
    let rig = Rig::new(1, &ON).await;
    let target = with_services(&rig, 0, &[OURS, OURS, OURS]);
    rig.answer_next(Operation::DeleteService, 500);
    let error = rig.provider.prepare_delete(&target).await.unwrap_err();
    assert!(matches!(error, ProviderError::Failed { .. }), "{error}");
    assert_eq!(rig.handle.services(&target.external_id).len(), 1, "the others were deleted all the same");
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Done { count: 1 }));
}

#[tokio::test]
async fn missing_account_needs_no_pre_clean() {
    let rig = Rig::new(1, &ON).await;
    let target = with_services(&rig, 0, &[OURS]);
    rig.provider.delete(&target).await.unwrap();
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::AlreadyGone));
    assert_eq!(rig.count(Operation::ListServices), 0);
}

#[tokio::test]
async fn failure_of_every_step_is_reported() {
    let rig = Rig::new(1, &ON).await;
    let target = with_services(&rig, 0, &[OURS]);
    let steps =
        [Operation::SignIn, Operation::AccountSwitch, Operation::ListServices, Operation::DeleteService];
    for step in steps {
        for kind in
            [status_fault(500, None), status_fault(429, Some(3)), FaultKind::Reset, FaultKind::Garbage]
        {
            rig.handle.expire_sessions();
            rig.fail_next(step, kind.clone());
            let result = rig.provider.prepare_delete(&target).await;
            let is_expected = match &kind {
                FaultKind::Reset => matches!(result, Err(ProviderError::Unreachable { .. })),
                FaultKind::Garbage => matches!(result, Err(ProviderError::Malformed { .. })),
                FaultKind::Status { status: 500, .. } => matches!(result, Err(ProviderError::Failed { .. })),
                _ => matches!(result, Err(ProviderError::Throttled { retry_after: Some(_), .. })),
            };
            assert!(is_expected, "{step:?} {kind:?}: {result:?}");
            assert_eq!(rig.handle.services(&target.external_id).len(), 1);
            rig.handle.clear_faults();
        }
    }
    assert_eq!(rig.provider.prepare_delete(&target).await, Ok(Prepared::Done { count: 1 }));
}

#[tokio::test]
async fn refused_credentials_and_refused_account_are_distinguished() {
    let rig = Rig::new(1, &ON).await;
    let target = with_services(&rig, 0, &[OURS]);
    for status in [400, 401, 403] {
        rig.answer_next(Operation::SignIn, status);
        let error = rig.provider.prepare_delete(&target).await.unwrap_err();
        assert!(!error.counts_as_attempt(), "{status}: {error}");
    }
    rig.answer_next(Operation::AccountSwitch, 403);
    let error = rig.provider.prepare_delete(&target).await.unwrap_err();
    assert!(matches!(error, ProviderError::Refused { .. }), "{error}");
    assert!(error.counts_as_attempt());
}

#[tokio::test]
async fn hang_ends_with_the_pre_clean_timeout() {
    let rig = Rig::new(1, &[]).await;
    let target = with_services(&rig, 0, &[OURS]);
    let mut config = csp_config(&rig.simulator.base_url(), &ON);
    config.pre_clean = PreCleanConfig { timeout: SHORT, ..config.pre_clean };
    let provider = client(config);
    rig.fail_next(Operation::DeleteService, FaultKind::Hang);
    let result = provider.prepare_delete(&target).await;
    assert_eq!(result, Err(ProviderError::UnknownOutcome { waited_seconds: 1 }));
    until("the call is recorded", || rig.count(Operation::DeleteService) == 1).await;
}
