//! Deletions: every possible outcome.

use crate::rig::{Rig, SHORT, client, csp_config, simulator_config, start, status_fault, target_of, until};
use csp::CspConfig;
use ports::provider::{Deleted, Provider, ProviderError};
use runtime::settings::Secret;
use simulator::{Fault, FaultKind, Latency, Operation};
use std::time::Duration;

const LICENCE: &str = "the licenses of the account cannot be read: the license service answered text/html \
                       instead of application/json";

#[tokio::test]
async fn delete_is_idempotent() {
    let rig = Rig::new(3, &[]).await;
    let target = rig.target();
    assert_eq!(rig.provider.delete(&target).await, Ok(Deleted::Now));
    assert_eq!(rig.provider.delete(&target).await, Ok(Deleted::AlreadyGone));
    let unknown = target_of("identity/accounts/00000000-0000-4000-8000-000000000000");
    assert_eq!(rig.provider.delete(&unknown).await, Ok(Deleted::AlreadyGone));
    assert_eq!(rig.handle.census().live, 2);
    let statuses: Vec<Option<u16>> = rig.handle.log().iter().map(|entry| entry.status).collect();
    assert_eq!(statuses, [Some(204), Some(404), Some(404)]);
}

#[tokio::test]
async fn statuses_map_to_provider_errors() {
    let rig = Rig::new(1, &[]).await;
    let target = rig.target();
    let said = |status: u16, message: &str| format!("status {status}: {message}");
    let failed = "the request failed";
    for (status, expected) in [
        (200, Ok(Deleted::Now)),
        (204, Ok(Deleted::Now)),
        (404, Ok(Deleted::AlreadyGone)),
        (400, Err(ProviderError::Refused { message: said(400, failed) })),
        (401, Err(ProviderError::Unauthorized { message: said(401, "the token is not valid") })),
        (403, Err(ProviderError::Forbidden { message: said(403, "the token has not this right") })),
        (409, Err(ProviderError::Refused { message: said(409, failed) })),
        (429, Err(ProviderError::Throttled { retry_after: None, message: said(429, "too many requests") })),
        (500, Err(ProviderError::Failed { message: said(500, LICENCE) })),
        (502, Err(ProviderError::Failed { message: said(502, failed) })),
        (503, Err(ProviderError::Failed { message: said(503, "the service is not available") })),
        // The provider accepts the deletion and carries it out later.
        (202, Ok(Deleted::Now)),
        (206, Err(ProviderError::Malformed { message: format!("unexpected status 206: {failed}") })),
    ] {
        rig.answer_next(Operation::Delete, status);
        assert_eq!(rig.provider.delete(&target).await, expected, "{status}");
    }
    assert_eq!(rig.handle.census().live, 1);
}

#[tokio::test]
async fn retry_after_is_honoured_in_both_formats() {
    let rig = Rig::new(1, &[]).await;
    for status in [429, 503] {
        rig.fail_next(Operation::Delete, status_fault(status, Some(7)));
        match rig.provider.delete(&rig.target()).await {
            Err(ProviderError::Throttled { retry_after, .. }) => {
                assert_eq!(retry_after, Some(Duration::from_secs(7)), "{status}");
            }
            other => panic!("{status}: {other:?}"),
        }
    }
    let as_date = FaultKind::Status {
        status: 429,
        message: None,
        retry_after_seconds: Some(600),
        retry_after_as_date: true,
    };
    rig.fail_next(Operation::Delete, as_date);
    match rig.provider.delete(&rig.target()).await {
        Err(ProviderError::Throttled { retry_after: Some(wait), .. }) => {
            assert!((570..=600).contains(&wait.as_secs()), "{wait:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reason_is_sanitised_against_log_injection() {
    let rig = Rig::new(1, &[]).await;
    let message = Some("first\nlevel=ERROR \u{1b}[31msecond".to_owned());
    let fault =
        FaultKind::Status { status: 500, message, retry_after_seconds: None, retry_after_as_date: false };
    rig.fail_next(Operation::Delete, fault);
    let message = "status 500: firstlevel=ERROR [31msecond".to_owned();
    let expected = Err(ProviderError::Failed { message });
    assert_eq!(rig.provider.delete(&rig.target()).await, expected);
}

#[tokio::test]
async fn wrong_token_is_not_charged_to_the_sandbox() {
    let rig = Rig::new(1, &[]).await;
    let config = csp_config(&rig.simulator.base_url(), &[]);
    let provider = client(CspConfig { api_token: Secret::new("another"), ..config });
    for result in [provider.delete(&rig.target()).await.err(), provider.list(0).await.err()] {
        let error = result.unwrap();
        assert!(matches!(error, ProviderError::Unauthorized { .. }), "{error}");
        assert!(!error.counts_as_attempt());
    }
}

#[tokio::test]
async fn timeout_is_an_unknown_outcome() {
    let rig = Rig::new(1, &[]).await;
    let impatient = rig.impatient();
    let timed_out = Err(ProviderError::UnknownOutcome { waited_seconds: 1 });
    rig.fail_next(Operation::Delete, FaultKind::Hang);
    assert_eq!(impatient.delete(&rig.target()).await, timed_out);
    assert_eq!(rig.handle.census().live, 1, "nothing was done");
    let target = rig.target();
    rig.fail_next(Operation::Delete, FaultKind::DeleteThenHang);
    assert_eq!(impatient.delete(&target).await, timed_out);
    assert_eq!(rig.handle.census().live, 0, "it was done");
    assert_eq!(rig.provider.delete(&target).await, Ok(Deleted::AlreadyGone), "the next attempt settles it");
}

#[tokio::test]
async fn deletion_continues_after_its_caller_left() {
    let rig = Rig::new(1, &[]).await;
    let latency_ms = u64::try_from(SHORT.as_millis()).unwrap() * 4;
    rig.handle.slow_down(Operation::Delete, Latency::Fixed(latency_ms)).unwrap();
    let result = rig.impatient().delete(&rig.target()).await;
    assert_eq!(result, Err(ProviderError::UnknownOutcome { waited_seconds: 1 }));
    until("the deletion goes on", || rig.handle.census().live == 0).await;
    until("it is recorded", || rig.handle.log().len() == 1).await;
    assert_eq!(rig.handle.log()[0].status, Some(204));
}

#[tokio::test]
async fn connection_reset_is_unreachable_and_the_next_call_works() {
    let rig = Rig::new(2, &[]).await;
    for _ in 0..3 {
        rig.fail_next(Operation::Delete, FaultKind::Reset);
        let result = rig.provider.delete(&rig.target()).await;
        let Err(ProviderError::Unreachable { message }) = result else { panic!("{result:?}") };
        assert!(message.to_lowercase().contains("connection reset"), "{message}");
    }
    assert_eq!(rig.handle.census().live, 2);
    assert_eq!(rig.provider.delete(&rig.target()).await, Ok(Deleted::Now));
}

#[tokio::test]
async fn connection_refused_is_reported_as_unreachable() {
    let simulator = start(simulator_config(1)).await;
    let provider = client(csp_config(&simulator.base_url(), &[]));
    simulator.stop().await.unwrap();
    let result = provider.delete(&target_of("identity/accounts/u-1")).await;
    assert!(matches!(result, Err(ProviderError::Unreachable { .. })), "{result:?}");
}

#[tokio::test]
async fn garbage_and_oversized_responses_are_errors() {
    let rig = Rig::new(1, &[]).await;
    for kind in [FaultKind::Garbage, FaultKind::Flood { bytes: 100_000 }] {
        rig.fail_next(Operation::Delete, kind.clone());
        let result = rig.provider.delete(&rig.target()).await;
        assert!(matches!(result, Err(ProviderError::Malformed { .. })), "{kind:?}: {result:?}");
    }
    assert_eq!(rig.provider.delete(&rig.target()).await, Ok(Deleted::Now));
}

#[tokio::test]
async fn failing_account_does_not_block_others() {
    let rig = Rig::new(3, &[]).await;
    let accounts = rig.handle.accounts();
    let bad = accounts[1].csp_id.to_string();
    let fault = Fault { account: Some(bad), ..Fault::always(status_fault(500, None)) };
    rig.handle.fail(Operation::Delete, fault).unwrap();
    for _ in 0..2 {
        for account in &accounts {
            let _ = rig.provider.delete(&crate::rig::target(account)).await;
        }
    }
    let left: Vec<u64> = rig.handle.accounts().iter().map(|account| account.csp_id).collect();
    assert_eq!(left, [accounts[1].csp_id]);
}

#[tokio::test]
async fn rotated_token_needs_no_restart() {
    let rig = Rig::new(1, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "an-old-one\n").unwrap();
    let config = csp_config(&rig.simulator.base_url(), &[]);
    let renewed = config.api_token.expose().to_owned();
    let provider = client(CspConfig { api_token_file: Some(file.clone()), ..config });
    let refused = |error: ProviderError| matches!(error, ProviderError::Unauthorized { .. });
    assert!(refused(provider.delete(&rig.target()).await.unwrap_err()));
    std::fs::remove_file(&file).unwrap();
    assert!(
        refused(provider.list(0).await.unwrap_err()),
        "a file that is gone breaks the line, not the sandbox"
    );
    std::fs::write(&file, format!("{renewed}\n")).unwrap();
    assert_eq!(provider.list(0).await.unwrap().accounts.len(), 1);
    assert_eq!(provider.delete(&rig.target()).await.unwrap(), Deleted::Now);
}
