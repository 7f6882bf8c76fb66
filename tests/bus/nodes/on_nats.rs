//! What only NATS has: users, and callers that are not ours.

use super::{ask_once, begin_to_serve, node, serve_node};
use crate::engines::{Bus, Engine};
use crate::fixtures::{SHORT, answer, ask, context, serve};
use crate::users::{connect, server};
use bytes::Bytes;
use contract::{NodeVerb, Verb, headers};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::RequestError;
use std::sync::Arc;

#[tokio::test]
async fn users_reach_a_node_with_their_own_verbs_only() {
    let (server, _folder) = server().await;
    let runner: Arc<dyn Bus> = Arc::new(connect(&server, "runner").await);
    let callers = [
        ("reaper", NodeVerb::Remove),
        ("allocator", NodeVerb::Lease),
        ("allocator", NodeVerb::Execute),
        ("allocator", NodeVerb::Runtime),
        ("allocator", NodeVerb::Inventory),
        ("reconciler", NodeVerb::Inventory),
    ];
    let (mut inbox, running) = begin_to_serve(&runner, "a", 4);
    for (user, own) in callers {
        let caller: Arc<dyn Bus> = Arc::new(connect(&server, user).await);
        let request = context(user);
        let (asked, seen) = tokio::join!(
            eventually("a runner that serves", TIMEOUT, || { ask_once(&caller, "a", own, &request, "{}") }),
            async {
                let case = inbox.next().await;
                let seen = (case.what.verb, case.what.context.request_id.clone());
                case.answer(answer(r#"{"a":1}"#));
                seen
            }
        );
        assert_eq!((asked.is_fault, &*asked.body), (false, &br#"{"a":1}"#[..]), "{user}");
        assert_eq!(seen, (own, user.to_owned()));
        for (_, other) in callers.iter().filter(|(_, verb)| !callers.contains(&(user, *verb))) {
            let refused = caller.request_node(&node("a"), *other, &request, Bytes::new(), SHORT).await;
            assert_eq!(refused.unwrap_err(), RequestError::TimedOut, "{user} {other:?}");
        }
    }
    assert!(inbox.poll().is_none());
    running.stop().await;
    server.child.stop(TIMEOUT).await;
}

#[tokio::test]
async fn runner_reports_to_the_allocators() {
    const REPORTS: [Verb; 6] = [
        Verb::RegisterNode,
        Verb::NodePools,
        Verb::ProvisionWanted,
        Verb::Provisioned,
        Verb::ProvisionFailed,
        Verb::Held,
    ];
    let (server, _folder) = server().await;
    let allocator: Arc<dyn Bus> = Arc::new(connect(&server, "allocator").await);
    let runner: Arc<dyn Bus> = Arc::new(connect(&server, "runner").await);
    let (inbox, running) = serve(&allocator, 4);
    inbox.answer_all(|_| answer("{}"));
    for verb in REPORTS {
        let reply = ask(runner.as_ref(), verb, &context("r"), "{}").await.unwrap();
        assert!(!reply.is_fault, "{verb:?}");
    }
    let refused = runner.request(Verb::Get, &context("r"), Bytes::new(), SHORT).await;
    assert_eq!(refused.unwrap_err(), RequestError::TimedOut);
    running.stop().await;
    server.child.stop(TIMEOUT).await;
}

/// A caller must not direct replies into a stream.
#[tokio::test]
async fn request_without_an_inbox_is_dropped() {
    let world = Engine::Nats.world().await;
    let (mut inbox, _running) = serve_node(&world.bus, "a", 4).await;
    let (subjects, client) = world.nats();
    let subject = subjects.node_request(&node("a"), NodeVerb::Remove);
    let elsewhere = format!("{}.events.claimed.7", subjects.prefix());
    client.publish_with_reply(subject.clone(), elsewhere, "{}".into()).await.unwrap();
    client.publish(subject.clone(), "{}".into()).await.unwrap();
    // The server keeps the order of one connection and subject.
    let request = async_nats::Request::new().payload(Bytes::from_static(b"{}")).timeout(Some(TIMEOUT));
    let (reply, seen) = tokio::join!(client.send_request(subject, request), async {
        let case = inbox.next().await;
        let seen = case.what.context.clone();
        case.answer(answer(r#"{"removed":0}"#));
        seen
    });
    let reply = reply.unwrap();
    assert_eq!(&*reply.payload, br#"{"removed":0}"#);
    let of_reply = reply.headers.as_ref().and_then(|map| map.get(headers::REQUEST_ID)).unwrap();
    assert_eq!(of_reply.as_str(), seen.request_id);
    assert!(inbox.poll().is_none());
    assert_eq!(world.events().await, []);
}
