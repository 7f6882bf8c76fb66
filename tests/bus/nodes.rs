//! Requests to one node: its runner answers them, or the caller learns at once that there is none.

use crate::engines::{Bus, Engine};
use crate::fixtures::{Running, SHORT, answer, ask, context, in_ms, run, serve, until};
use crate::manual_worker::{NodeInbox, manual_worker};
use crate::requests::code;
use bytes::Bytes;
use contract::{Fault, FaultBody, FaultCode, NodeVerb, Principal, Role, Verb};
use domain::{Actor, NodeId};
use futures_util::FutureExt as _;
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{Answer, Attempt, Context, Reply, RequestError, RequestVerb as _};
use std::sync::Arc;
use std::time::Duration;
use strum::IntoEnumIterator as _;
use tokio::task::JoinHandle;

mod on_nats;

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

/// Serves a node with a manual worker, and waits until it serves every verb.
async fn serve_node(bus: &Arc<dyn Bus>, name: &str, in_flight_max: usize) -> (NodeInbox, Running) {
    let (mut inbox, running) = begin_to_serve(bus, name, in_flight_max);
    for verb in NodeVerb::iter() {
        let warm_up = context("warm-up");
        let (asked, ()) = tokio::join!(
            eventually("a runner that serves", TIMEOUT, || ask_once(bus, name, verb, &warm_up, "{}")),
            async { inbox.next().await.answer(answer("{}")) }
        );
        assert!(!asked.is_fault);
    }
    (inbox, running)
}

fn begin_to_serve(bus: &Arc<dyn Bus>, name: &str, in_flight_max: usize) -> (NodeInbox, Running) {
    let (handler, inbox) = manual_worker();
    let (bus, node) = (Arc::clone(bus), node(name));
    let running = run(|stop| async move { bus.serve_node(&node, handler, in_flight_max, stop).await });
    (inbox, running)
}

async fn ask_once(
    bus: &Arc<dyn Bus>,
    name: &str,
    verb: NodeVerb,
    context: &Context,
    body: &'static str,
) -> Result<Reply, RequestError> {
    bus.request_node(&node(name), verb, context, Bytes::from_static(body.as_bytes()), TIMEOUT).await
}

/// Sends a request to a node in the background.
fn ask_later(
    bus: &Arc<dyn Bus>,
    name: &'static str,
    context: Context,
    body: &'static str,
) -> JoinHandle<Result<Reply, RequestError>> {
    let bus = Arc::clone(bus);
    tokio::spawn(async move { ask_once(&bus, name, NodeVerb::Execute, &context, body).await })
}

pub(crate) async fn node_without_a_runner_is_reported_immediately(engine: Engine) {
    let world = engine.world().await;
    let (_workers, _serving) = serve(&world.bus, 4);
    let (mut other, running) = serve_node(&world.bus, "b", 4).await;
    for verb in NodeVerb::iter() {
        let asked = ask_once(&world.bus, "a", verb, &context("r"), "{}").await;
        assert_eq!(asked.unwrap_err(), RequestError::NoResponders, "{verb:?}");
    }
    assert!(other.poll().is_none(), "another node is not asked instead");
    running.stop().await;
    for verb in NodeVerb::iter() {
        let asked = ask_once(&world.bus, "b", verb, &context("r"), "{}").await;
        assert_eq!(asked.unwrap_err(), RequestError::NoResponders, "{verb:?} after its runner has left");
    }
}

pub(crate) async fn request_reaches_its_node_only(engine: Engine) {
    let world = engine.world().await;
    let connections = [world.connect().await, world.connect().await];
    let (mut workers, _serving) = serve(&world.bus, 4);
    let (mut asked_one, _one) = serve_node(&connections[0], "a", 4).await;
    let (mut other, _two) = serve_node(&connections[1], "a-2", 4).await;
    for verb in NodeVerb::iter() {
        let sent = Context {
            request_id: format!("r-{}", verb.as_str()),
            deadline_ms: Some(in_ms(TIMEOUT)),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            idempotency_key: Some("key/1".to_owned()),
            attempt: Some(Attempt { request_key: "request/1".to_owned(), number: Some(2) }),
            principal: Principal::of(Actor::parse("on-call").unwrap(), &[Role::Admin]),
        };
        let (asked, seen) = tokio::join!(ask_once(&world.bus, "a", verb, &sent, r#"{"a":1}"#), async {
            let case = asked_one.next().await;
            let seen = case.what.clone();
            case.answer(answer(r#"{"b":2}"#));
            seen
        });
        let reply = asked.unwrap();
        assert_eq!((reply.is_fault, &*reply.body), (false, &br#"{"b":2}"#[..]));
        assert_eq!((seen.verb, &*seen.body), (verb, &br#"{"a":1}"#[..]));
        // The deadline is sent as the remaining time, so the receiver's deadline is later by the transmission time.
        let seen_ms = seen.context.deadline_ms.unwrap();
        assert!((in_ms(Duration::ZERO)..=in_ms(TIMEOUT)).contains(&seen_ms), "{seen_ms}");
        assert_eq!(seen.context, Context { deadline_ms: Some(seen_ms), ..sent });
    }
    // Whatever had been sent to these as well would have arrived before the following requests.
    let asked = ask_later(&world.bus, "a-2", context("own"), "{}");
    let case = other.next().await;
    assert_eq!(case.what.context.request_id, "own");
    case.answer(answer("{}"));
    asked.await.unwrap().unwrap();
    let own = context("own");
    let (asked, ()) = tokio::join!(ask(world.bus.as_ref(), Verb::Get, &own, "{}"), async {
        let case = workers.next().await;
        assert_eq!(case.what.context.request_id, "own");
        case.answer(answer("{}"));
    });
    asked.unwrap();
    assert!(asked_one.poll().is_none() && other.poll().is_none() && workers.poll().is_none());
}

pub(crate) async fn nodes_answer_for_themselves(engine: Engine) {
    let world = engine.world().await;
    let connections = [world.connect().await, world.connect().await];
    let (one, _one) = serve_node(&connections[0], "a", 100).await;
    let (two, _two) = serve_node(&connections[1], "b", 100).await;
    one.answer_all(|_| answer(r#"{"node":"a"}"#));
    two.answer_all(|_| answer(r#"{"node":"b"}"#));
    let names = ["a", "b"].into_iter().cycle().take(40);
    let asked: Vec<_> = names.map(|name| (name, ask_later(&world.bus, name, context("r"), "{}"))).collect();
    for (name, asked) in asked {
        let reply = asked.await.unwrap().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((reply.is_fault, body["node"].as_str()), (false, Some(name)));
    }
}

pub(crate) async fn busy_node_refuses_immediately(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve_node(&world.bus, "a", 2).await;
    // Commands are long, and have places of their own; all other verbs together have the others.
    for (is_long, verb) in [(true, NodeVerb::Execute), (false, NodeVerb::Remove)] {
        let ask_verb = |verb| {
            let bus = Arc::clone(&world.bus);
            tokio::spawn(async move { ask_once(&bus, "a", verb, &context("r"), "{}").await })
        };
        let asked = [ask_verb(verb), ask_verb(verb)];
        let cases = [inbox.next().await, inbox.next().await];
        let (alike, others): (Vec<_>, _) = NodeVerb::iter().partition(|verb| verb.is_long() == is_long);
        for verb in alike {
            let reply = ask_once(&world.bus, "a", verb, &context("r-3"), "{}").await.unwrap();
            assert!(reply.is_fault);
            let fault: FaultBody = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!((fault.detail.code, fault.detail.retry_after), (FaultCode::NoWorkers, Some(1)));
            assert_eq!(fault.detail.request_id, "r-3");
        }
        assert!(inbox.poll().is_none(), "the runner saw none of them");
        for verb in others {
            let asked = ask_verb(verb);
            inbox.next().await.answer(answer("{}"));
            assert!(!asked.await.unwrap().unwrap().is_fault, "{verb:?} is not held up");
        }
        for case in cases {
            case.answer(answer("{}"));
        }
        for asked in asked {
            assert!(!asked.await.unwrap().unwrap().is_fault);
        }
        let asked = ask_verb(verb);
        inbox.next().await.answer(answer("{}"));
        assert!(!asked.await.unwrap().unwrap().is_fault, "the places are free again");
    }
}

pub(crate) async fn stopping_runner_answers_its_requests(engine: Engine) {
    const HELD: usize = 5;
    let world = engine.world().await;
    let leaves = world.connect().await;
    let (mut inbox, leaving) = serve_node(&leaves, "a", 100).await;
    let held: Vec<_> = (0..HELD).map(|_| ask_later(&world.bus, "a", context("held"), "{}")).collect();
    let mut cases = Vec::new();
    for _ in 0..HELD {
        cases.push(inbox.next().await);
    }
    inbox.answer_all(|_| answer("{}"));
    // Requests before, during and after the stop: each is answered, or known to have reached no runner.
    let mut asked = Vec::new();
    for number in 0..60 {
        if number == 20 {
            leaving.stop.cancel();
        }
        asked.push(ask_later(&world.bus, "a", context("r"), "{}"));
        tokio::task::yield_now().await;
    }
    for asked in asked {
        match asked.await.unwrap() {
            Ok(reply) => assert!(!reply.is_fault),
            Err(why) => assert_eq!(why, RequestError::NoResponders),
        }
    }
    eventually("the end of its subscriptions", TIMEOUT, || async {
        match ask_once(&world.bus, "a", NodeVerb::Lease, &context("late"), "{}").await {
            Err(RequestError::NoResponders) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert!(!leaving.ended.is_finished(), "it has not answered everything yet");
    for case in cases {
        case.answer(answer("{}"));
    }
    for held in held {
        assert!(!held.await.unwrap().unwrap().is_fault);
    }
    leaving.ended().await;
}

pub(crate) async fn fault_of_a_node_is_passed_on(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve_node(&world.bus, "a", 4).await;
    for code in FaultCode::iter() {
        let fault = Fault::new(code, "of two\r\nlines");
        let asked = ask_later(&world.bus, "a", context("r-1"), "{}");
        inbox.next().await.answer(Answer { outcome: None, body: Err(fault.clone()) });
        let reply = asked.await.unwrap().unwrap();
        assert!(reply.is_fault, "{code:?}");
        assert_eq!(serde_json::from_slice::<FaultBody>(&reply.body).unwrap(), fault.body("r-1"));
    }
}

pub(crate) async fn node_work_past_its_deadline_is_aborted_with_a_timeout(engine: Engine) {
    let world = engine.world().await;
    let (mut inbox, _running) = serve_node(&world.bus, "a", 1).await;
    let late = Context { deadline_ms: Some(in_ms(SHORT)), ..context("r") };
    let asked = ask_later(&world.bus, "a", late, "{}");
    let case = inbox.next().await;
    let reply = asked.await.unwrap().unwrap();
    assert_eq!((reply.is_fault, code(&reply.body)), (true, FaultCode::Timeout));
    assert!(case.is_abandoned());
    let asked = ask_later(&world.bus, "a", context("next"), "{}");
    inbox.next().await.answer(answer("{}"));
    assert!(!asked.await.unwrap().unwrap().is_fault, "its place is free again");
}

/// While a process takes over from another one, a node may have two. The reports of the older one are refused.
pub(crate) async fn each_runner_of_a_node_receives_a_request(engine: Engine) {
    let world = engine.world().await;
    let connections = [world.connect().await, world.connect().await];
    let (mut one, _one) = serve_node(&connections[0], "a", 4).await;
    let (mut two, _two) = begin_to_serve(&connections[1], "a", 4);
    for number in 0.. {
        assert!(number < 1_000, "the second runner is never asked");
        let asked = ask_later(&world.bus, "a", context("warm-up"), "{}");
        one.next().await.answer(answer("{}"));
        asked.await.unwrap().unwrap();
        if two.has_case() {
            two.next().await.answer(answer("{}"));
            break;
        }
    }
    let asked = ask_later(&world.bus, "a", context("r"), "{}");
    let (first, second) = (one.next().await, two.next().await);
    assert_eq!(first.what.context.request_id, "r");
    assert_eq!(second.what.context.request_id, "r");
    second.answer(answer(r#"{"by":2}"#));
    assert_eq!(&*asked.await.unwrap().unwrap().body, br#"{"by":2}"#, "the first answer counts");
    assert!(!first.is_abandoned(), "the other one goes on");
    first.answer(answer("{}"));
}

pub(crate) async fn request_refused_in_an_outage_is_not_delivered_later(engine: Engine) {
    let mut world = engine.world_that_stops(|_| {}).await;
    let other = world.connect().await;
    let (mut inbox, _running) = serve_node(&other, "a", 4).await;
    world.stop_server().await;
    until("the outage to be noticed", || !world.bus.is_connected()).await;
    // Polled once: a call that is not refused at once would wait for the connection, and be sent after the reconnect.
    let asked = ask_once(&world.bus, "a", NodeVerb::Execute, &context("in the outage"), "{}").now_or_never();
    assert_eq!(asked.expect("an answer at once").unwrap_err(), RequestError::Disconnected);
    world.start_server().await;
    let after = context("after");
    let (asked, seen) = tokio::join!(
        eventually("a runner that serves", TIMEOUT, || {
            ask_once(&world.bus, "a", NodeVerb::Execute, &after, "{}")
        }),
        async {
            let case = inbox.next().await;
            let seen = case.what.context.request_id.clone();
            case.answer(answer("{}"));
            seen
        }
    );
    assert_eq!((asked.is_fault, seen.as_str()), (false, "after"));
    assert!(inbox.poll().is_none());
}
