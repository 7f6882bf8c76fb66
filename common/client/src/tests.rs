//! The client on a scripted transport and a clock that advances only while the client sleeps.

use super::*;
use async_trait::async_trait;
use contract::Fault;
use domain::UnixSeconds;
use parking_lot::Mutex;
use ports::random::Rng;
use std::collections::VecDeque;
use strum::IntoEnumIterator as _;
use testkit::clock::ManualClock;

/// A clock that advances at once by the requested sleep.
#[derive(Clone, Debug)]
struct Leaping(ManualClock);

#[async_trait]
impl Clock for Leaping {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    async fn sleep(&self, span: Duration) {
        self.0.advance(span);
    }
}

/// One attempt as the transport received it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    at_ms: u64,
    context: Context,
    body: Bytes,
    timeout: Duration,
}

/// A transport with prepared replies; the last one repeats.
struct ScriptedTransport {
    clock: Leaping,
    answers: Mutex<VecDeque<Result<Reply, RequestError>>>,
    seen: Mutex<Vec<Seen>>,
}

#[async_trait]
impl Requests for ScriptedTransport {
    async fn request(
        &self,
        _verb: Verb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let at_ms = self.clock.now_ms();
        self.seen.lock().push(Seen { at_ms, context: context.clone(), body, timeout });
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }.unwrap();
        // A time-out takes all of its time.
        if answer.as_ref().err() == Some(&RequestError::TimedOut) {
            self.clock.0.advance(timeout);
        }
        answer
    }

    fn is_connected(&self) -> bool {
        true
    }
}

fn fault(code: FaultCode) -> Result<Reply, RequestError> {
    let body = serde_json::to_vec(&Fault::new(code, "no").body("r-1")).unwrap();
    Ok(Reply { outcome: None, is_fault: true, body: body.into() })
}

fn released() -> Result<Reply, RequestError> {
    let body = r#"{"sandbox_id":"7","status":"pending_deletion","deletion_requested_at":1}"#;
    Ok(Reply { outcome: None, is_fault: false, body: Bytes::from_static(body.as_bytes()) })
}

/// Releases on a transport with these replies; returns the result and the attempts.
async fn release(
    answers: Vec<Result<Reply, RequestError>>,
) -> (Result<ReleaseReply, ClientError>, Vec<Seen>) {
    let clock = Leaping(ManualClock::at(UnixSeconds::new(1_763_683_200)));
    let transport = Arc::new(ScriptedTransport {
        clock: clock.clone(),
        answers: Mutex::new(answers.into()),
        seen: Mutex::default(),
    });
    let client =
        Client::new(transport.clone(), Arc::new(clock), Arc::new(Rng::seeded(7)), Timeouts::default())
            .named("r-1");
    let (id, owner) = (SandboxId::parse("7").unwrap(), OwnerId::parse("student-1").unwrap());
    let ended = client.release(&id, &owner, None).await;
    let seen = transport.seen.lock().clone();
    (ended, seen)
}

fn code_of(ended: &Result<ReleaseReply, ClientError>) -> Option<FaultCode> {
    match ended {
        Err(ClientError::Refused(refusal)) => Some(refusal.code),
        _ => None,
    }
}

#[tokio::test]
async fn attempts_share_a_request_id_and_have_their_own_deadlines() {
    let failures = vec![
        Err(RequestError::NoResponders),
        Err(RequestError::TimedOut),
        Err(RequestError::Disconnected),
        fault(FaultCode::NoWorkers),
        Ok(Reply { outcome: None, is_fault: true, body: Bytes::from_static(b"<html>") }),
        released(),
    ];
    let attempts = failures.len();
    let (ended, seen) = release(failures).await;
    assert_eq!(ended.unwrap().sandbox_id, "7");
    assert_eq!(seen.len(), attempts);
    for attempt in &seen {
        assert_eq!((attempt.context.request_id.as_str(), &attempt.body), ("r-1", &seen[0].body));
        assert_eq!(attempt.context.deadline_ms, Some(attempt.at_ms + 2_000));
        assert_eq!(attempt.timeout, Duration::from_secs(2));
    }
}

#[tokio::test]
async fn retry_waits_for_the_advised_retry_after() {
    for code in FaultCode::iter().filter(|code| code.repeat() == Repeat::After) {
        let advised = Fault::new(code, "").retry_after_seconds.unwrap();
        let (ended, seen) = release(vec![fault(code), released()]).await;
        if code == FaultCode::PoolExhausted {
            // The retry time equals the whole deadline, so the failure is returned at once.
            assert_eq!((code_of(&ended), seen.len()), (Some(code), 1));
            continue;
        }
        assert!(ended.is_ok(), "{ended:?}");
        let waited_ms = seen[1].at_ms - seen[0].at_ms;
        let advised_ms = u64::from(advised) * 1_000;
        assert!((advised_ms..=advised_ms + 600).contains(&waited_ms), "{code:?}: {waited_ms} ms");
    }
}

#[tokio::test]
async fn permanent_failure_is_returned_without_retry() {
    for code in FaultCode::iter().filter(|code| code.repeat() == Repeat::Never) {
        let (ended, seen) = release(vec![fault(code), released()]).await;
        assert_eq!((code_of(&ended), seen.len()), (Some(code), 1));
        assert!(!ended.unwrap_err().may_pass());
    }
}

#[tokio::test]
async fn internal_error_is_retried_once() {
    let (ended, seen) = release(vec![fault(FaultCode::InternalError), released()]).await;
    assert_eq!((ended.is_ok(), seen.len()), (true, 2));
    let (ended, seen) = release(vec![fault(FaultCode::InternalError)]).await;
    assert_eq!((code_of(&ended), seen.len()), (Some(FaultCode::InternalError), 2));
}

#[tokio::test]
async fn last_error_is_returned_at_the_deadline() {
    for (answer, is_lost) in [(Err(RequestError::TimedOut), true), (fault(FaultCode::Timeout), false)] {
        let (ended, seen) = release(vec![answer]).await;
        let error = ended.unwrap_err();
        assert_eq!(matches!(error, ClientError::Unanswered { .. }), is_lost, "{error}");
        assert!(error.may_pass() && error.to_string().contains("r-1"), "{error}");
        let (first, last) = (seen.first().unwrap(), seen.last().unwrap());
        assert!(seen.len() > 10 && last.at_ms < first.at_ms + 30_000, "{} attempts", seen.len());
        assert!(last.context.deadline_ms.unwrap() <= first.at_ms + 30_000, "no attempt outlasts the call");
    }
}

#[tokio::test]
async fn undecodable_reply_is_reported_and_not_retried() {
    let odd = Ok(Reply { outcome: None, is_fault: false, body: Bytes::from_static(b"[]") });
    let (ended, seen) = release(vec![odd, released()]).await;
    assert!(matches!(ended, Err(ClientError::Unreadable { .. })), "{ended:?}");
    assert_eq!(seen.len(), 1);
}

/// Sends a page of work on a transport with these replies; returns the result and the attempts.
async fn page(
    verb: Verb,
    answers: Vec<Result<Reply, RequestError>>,
) -> (Result<serde_json::Value, ClientError>, Vec<Seen>) {
    let clock = Leaping(ManualClock::at(UnixSeconds::new(1_763_683_200)));
    let transport = Arc::new(ScriptedTransport {
        clock: clock.clone(),
        answers: Mutex::new(answers.into()),
        seen: Mutex::default(),
    });
    let client =
        Client::new(transport.clone(), Arc::new(clock), Arc::new(Rng::seeded(7)), Timeouts::default());
    let ended = client.ask(verb, &serde_json::json!({"limit": 100})).await;
    let seen = transport.seen.lock().clone();
    (ended, seen)
}

#[tokio::test]
async fn bulk_request_is_retried_only_if_no_worker_started_it() {
    for verb in [Verb::BulkDelete, Verb::ReplayAll, Verb::ReplayProvisions] {
        let not_begun = vec![Err(RequestError::NoResponders), fault(FaultCode::NoWorkers), released()];
        let (ended, seen) = page(verb, not_begun).await;
        assert_eq!((ended.is_ok(), seen.len()), (true, 3), "{verb:?}");
        let unreadable = Ok(Reply { outcome: None, is_fault: true, body: Bytes::from_static(b"<html>") });
        for unseen in [
            Err(RequestError::TimedOut),
            Err(RequestError::Disconnected),
            fault(FaultCode::Timeout),
            fault(FaultCode::StoreUnavailable),
            fault(FaultCode::UpstreamUnavailable),
            fault(FaultCode::InternalError),
            unreadable,
        ] {
            let (ended, seen) = page(verb, vec![unseen.clone(), released()]).await;
            assert_eq!((ended.is_err(), seen.len()), (true, 1), "{verb:?} {unseen:?}");
            assert_eq!(seen[0].timeout, Timeouts::default().call, "one attempt has all of the time");
            assert_eq!(seen[0].context.deadline_ms, Some(seen[0].at_ms + 30_000));
        }
    }
}
