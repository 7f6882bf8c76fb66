//! Requests: answered, refused, or known to be lost.

use crate::engines::Engine;
use crate::fixtures::{SHORT, answer, ask, ask_later, context, in_ms, serve, until};
use bytes::Bytes;
use contract::{Fault, FaultBody, FaultCode, Outcome, Principal, Role, Scope, Verb, WorkerRole};
use domain::{Actor, PoolName};
use harness::wait::TIMEOUT;
use ports::bus::{Answer, Attempt, Context, RequestError};
use std::time::Duration;
use strum::IntoEnumIterator as _;

pub(crate) fn code(body: &Bytes) -> FaultCode {
    serde_json::from_slice::<FaultBody>(body).unwrap().detail.code
}

pub(crate) async fn a_reply_carries_the_body_and_the_outcome(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve(&world.bus, 4);
    for outcome in [None, Some(Outcome::Created), Some(Outcome::Existing)] {
        let asked = ask_later(&world.bus, context("r-1"), r#"{"owner":"o"}"#);
        let case = inbox.next().await;
        assert_eq!(case.what.body, Bytes::from_static(br#"{"owner":"o"}"#));
        case.answer(Answer { outcome, body: Ok(Bytes::from_static(b"{\"a\":1}")) });
        let reply = asked.await.unwrap().unwrap();
        assert_eq!((reply.outcome, reply.is_fault, &*reply.body), (outcome, false, &b"{\"a\":1}"[..]));
    }
}

pub(crate) async fn fault_carries_its_code_and_request_id(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve(&world.bus, 4);
    for code in FaultCode::iter() {
        let fault = Fault::new(code, "of two\r\nlines");
        let asked = ask_later(&world.bus, context("r-1"), "{}");
        inbox.next().await.answer(Answer { outcome: None, body: Err(fault.clone()) });
        let reply = asked.await.unwrap().unwrap();
        assert!(reply.is_fault, "{code:?}");
        assert_eq!(serde_json::from_slice::<FaultBody>(&reply.body).unwrap(), fault.body("r-1"));
    }
}

pub(crate) async fn worker_receives_the_verb_and_context(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve(&world.bus, 4);
    for verb in Verb::of(WorkerRole::Allocator) {
        let sent = Context {
            request_id: format!("r-{}", verb.as_str()),
            deadline_ms: Some(in_ms(TIMEOUT)),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            idempotency_key: Some("key/1".to_owned()),
            attempt: Some(Attempt { request_key: "request/1".to_owned(), number: Some(2) }),
            principal: Principal {
                person: Some(Actor::parse("alice").unwrap()),
                scope: Scope::of(&[PoolName::parse("dns").unwrap(), PoolName::parse("main").unwrap()]),
                ..Principal::of(Actor::parse("on-call").unwrap(), &[Role::Lab, Role::Admin])
            },
        };
        let (asked, case) = tokio::join!(ask(world.bus.as_ref(), verb, &sent, "{}"), async {
            let case = inbox.next().await;
            let seen = (case.what.verb, case.what.context.clone());
            case.answer(answer("{}"));
            seen
        });
        asked.unwrap();
        // The deadline is sent as the remaining time, so the receiver's deadline is later by the transmission time.
        let seen_ms = case.1.deadline_ms.unwrap();
        assert!((in_ms(Duration::ZERO)..=in_ms(TIMEOUT)).contains(&seen_ms), "{seen_ms}");
        let sent = Context { deadline_ms: Some(seen_ms), ..sent };
        assert_eq!(case, (verb, sent));
    }
}

pub(crate) async fn missing_responders_are_reported_immediately(engine: Engine) {
    let world = engine.world().await;
    let request = context("r");
    let ask_once = || world.bus.request(Verb::Get, &request, Bytes::new(), TIMEOUT);
    assert_eq!(ask_once().await.unwrap_err(), RequestError::NoResponders);
    let (mut inbox, running) = serve(&world.bus, 4);
    let asked = ask_later(&world.bus, context("r"), "{}");
    inbox.next().await.answer(answer("{}"));
    asked.await.unwrap().unwrap();
    running.stop().await;
    assert_eq!(ask_once().await.unwrap_err(), RequestError::NoResponders, "after the last worker has left");
}

pub(crate) async fn busy_worker_refuses_immediately(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve(&world.bus, 2);
    let asked: Vec<_> = (0..2).map(|_| ask_later(&world.bus, context("r"), "{}")).collect();
    let cases = [inbox.next().await, inbox.next().await];
    let reply = ask(world.bus.as_ref(), Verb::Allocate, &context("r-3"), "{}").await.unwrap();
    assert!(reply.is_fault);
    let fault: FaultBody = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((fault.detail.code, fault.detail.retry_after), (FaultCode::NoWorkers, Some(1)));
    assert_eq!(fault.detail.request_id, "r-3");
    for case in cases {
        case.answer(answer("{}"));
    }
    for asked in asked {
        assert!(!asked.await.unwrap().unwrap().is_fault);
    }
    let asked = ask_later(&world.bus, context("r"), "{}");
    inbox.next().await.answer(answer("{}"));
    assert!(!asked.await.unwrap().unwrap().is_fault, "the places are free again");
}

pub(crate) async fn a_request_whose_deadline_has_passed_is_dropped(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve(&world.bus, 4);
    let asked = ask_later(&world.bus, context("first"), "{}");
    inbox.next().await.answer(answer("{}"));
    asked.await.unwrap().unwrap();
    let late = Context { deadline_ms: Some(in_ms(Duration::ZERO)), ..context("late") };
    let asked = world.bus.request(Verb::Get, &late, Bytes::new(), SHORT).await;
    assert_eq!(asked.unwrap_err(), RequestError::TimedOut);
    let asked = ask_later(&world.bus, context("next"), "{}");
    let case = inbox.next().await;
    assert_eq!(case.what.context.request_id, "next", "the worker never saw the late one");
    case.answer(answer("{}"));
    asked.await.unwrap().unwrap();
}

pub(crate) async fn work_past_its_deadline_is_aborted_with_a_timeout(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve(&world.bus, 1);
    let asked = ask_later(&world.bus, Context { deadline_ms: Some(in_ms(SHORT)), ..context("r") }, "{}");
    let case = inbox.next().await;
    let reply = asked.await.unwrap().unwrap();
    assert_eq!((reply.is_fault, code(&reply.body)), (true, FaultCode::Timeout));
    assert!(case.is_abandoned());
    let asked = ask_later(&world.bus, context("next"), "{}");
    inbox.next().await.answer(answer("{}"));
    assert!(!asked.await.unwrap().unwrap().is_fault, "its place is free again");
}

pub(crate) async fn work_continues_after_its_caller_left(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve(&world.bus, 4);
    let asked = ask_later(&world.bus, context("r"), "{}");
    let case = inbox.next().await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    let impatient = world.bus.request(Verb::Get, &context("r"), Bytes::new(), SHORT).await;
    assert_eq!(impatient.unwrap_err(), RequestError::TimedOut);
    let other = inbox.next().await;
    assert!(!case.is_abandoned() && !other.is_abandoned());
    case.answer(answer("{}"));
    other.answer(answer("{}"));
}

pub(crate) async fn invalid_request_id_is_replaced(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve(&world.bus, 4);
    let longest = "x".repeat(128);
    for good in ["r-1", longest.as_str()] {
        let asked = ask_later(&world.bus, context(good), "{}");
        let case = inbox.next().await;
        assert_eq!(case.what.context.request_id, good);
        case.answer(answer("{}"));
        asked.await.unwrap().unwrap();
    }
    let too_long = format!("{longest}x");
    for bad in ["", "a b", "a\r\nInjected: 1", "\u{e4}", too_long.as_str()] {
        let asked = ask_later(&world.bus, context(bad), "{}");
        let case = inbox.next().await;
        let id = case.what.context.request_id.clone();
        assert!(id.len() == 36 && id != bad, "{bad:?} became {id:?}");
        case.answer(Answer { outcome: None, body: Err(Fault::new(FaultCode::NotFound, "no")) });
        let reply = asked.await.unwrap().unwrap();
        let fault: FaultBody = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(fault.detail.request_id, id, "the reply names the id that the worker logs");
    }
}

pub(crate) async fn body_size_is_limited(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve(&world.bus, 4);
    let (largest, beside) = ("x".repeat(64 * 1024), context("r"));
    let (reply, ()) = tokio::join!(ask(world.bus.as_ref(), Verb::Get, &beside, largest.clone()), async {
        inbox.next().await.answer(answer("{}"))
    });
    assert!(!reply.unwrap().is_fault);
    let reply = ask(world.bus.as_ref(), Verb::Get, &beside, largest + "x").await.unwrap();
    assert_eq!((reply.is_fault, code(&reply.body)), (true, FaultCode::BodyTooLarge));
    assert!(inbox.poll().is_none(), "no worker saw it");
}

pub(crate) async fn requests_are_spread_and_each_answered_once(engine: Engine) {
    const REQUESTS: usize = 40;
    let world = engine.world().await;
    let other = world.connect().await;
    let mut inboxes = [serve(&world.bus, 100), serve(&other, 100)].map(|(inbox, _)| inbox);
    // Both workers serve once each has been asked.
    for number in 0.. {
        assert!(number < 1_000, "one of the workers is never asked");
        let asked = ask_later(&world.bus, context("warm-up"), "{}");
        until("a worker", || inboxes.iter().any(|inbox| inbox.has_case())).await;
        let served = inboxes.iter().position(|inbox| inbox.has_case()).unwrap();
        inboxes[served].next().await.answer(answer("{}"));
        asked.await.unwrap().unwrap();
        if inboxes.iter().all(|inbox| inbox.at_once_max() > 0) {
            break;
        }
    }
    let asked: Vec<_> = (0..REQUESTS).map(|_| ask_later(&world.bus, context("r"), "{}")).collect();
    let mut served = [0, 0];
    while served.iter().sum::<usize>() < REQUESTS {
        for (index, inbox) in inboxes.iter_mut().enumerate() {
            while let Some(case) = inbox.poll() {
                served[index] += 1;
                case.answer(answer("{}"));
            }
        }
        let is_over = served.iter().sum::<usize>() == REQUESTS;
        until("a request", || is_over || inboxes.iter().any(|inbox| inbox.has_case())).await;
    }
    for asked in asked {
        assert!(!asked.await.unwrap().unwrap().is_fault);
    }
    // By chance, one run in a thousand billion would give one of them no request.
    assert!(served.iter().all(|count| *count > 0), "{served:?}");
    assert!(inboxes.iter_mut().all(|inbox| inbox.poll().is_none()), "some request went to two workers");
}

pub(crate) async fn stopping_worker_answers_its_requests(engine: Engine) {
    let world = engine.world().await;
    let leaves = world.connect().await;
    let (mut inbox, leaving) = serve(&leaves, 100);
    let held: Vec<_> = (0..5).map(|_| ask_later(&world.bus, context("held"), "{}")).collect();
    let mut cases = Vec::new();
    for _ in 0..5 {
        cases.push(inbox.next().await);
    }
    let (stays, _staying) = serve(&world.bus, 100);
    inbox.answer_all(|_| answer("{}"));
    stays.answer_all(|_| answer("{}"));
    // Requests before, during and after its stop.
    let mut asked = Vec::new();
    for number in 0..60 {
        if number == 20 {
            leaving.stop.cancel();
        }
        asked.push(ask_later(&world.bus, context("r"), "{}"));
        tokio::task::yield_now().await;
    }
    for asked in asked {
        assert!(!asked.await.unwrap().unwrap().is_fault);
    }
    assert!(!leaving.ended.is_finished(), "it has not answered everything yet");
    for case in cases {
        case.answer(answer("{}"));
    }
    for held in held {
        assert!(!held.await.unwrap().unwrap().is_fault);
    }
    leaving.ended().await;
    assert!(!ask(world.bus.as_ref(), Verb::Get, &context("r"), "{}").await.unwrap().is_fault);
}

pub(crate) async fn worker_survives_a_panicking_request(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve(&world.bus, 1);
    let asked = ask_later(&world.bus, context("first"), "{}");
    inbox.next().await.answer(answer("{}"));
    asked.await.unwrap().unwrap();
    let beside = context("r");
    let (asked, ()) = tokio::join!(world.bus.request(Verb::Get, &beside, Bytes::new(), SHORT), async {
        drop(inbox.next().await);
    });
    assert_eq!(asked.unwrap_err(), RequestError::TimedOut);
    let asked = ask_later(&world.bus, context("next"), "{}");
    inbox.next().await.answer(answer("{}"));
    assert!(!asked.await.unwrap().unwrap().is_fault, "its place is free again");
}
