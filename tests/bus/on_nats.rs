//! What is on the wire for clients that are not ours: `nats` on a command line, and other services.

use crate::engines::{Engine, World};
use crate::fixtures::{SHORT, answer, ask_later, context, serve, work};
use async_nats::{Client, HeaderMap, RequestErrorKind, jetstream};
use bytes::Bytes;
use contract::{Fault, FaultCode, Outcome, ParkedDeletion, TickKind, TickOrder, Verb, headers};
use harness::wait::TIMEOUT;
use ports::bus::{Answer, RequestError};

/// A world whose worker has answered one request, so that it is known to serve.
async fn served() -> (World, crate::manual_worker::RequestInbox) {
    let world = Engine::Nats.world().await;
    let (mut inbox, _running) = serve(&world.bus, 4);
    let asked = ask_later(&world.bus, context("first"), "{}");
    inbox.next().await.answer(answer("{}"));
    asked.await.unwrap().unwrap();
    (world, inbox)
}

async fn request(client: &Client, subject: String, map: HeaderMap) -> async_nats::Message {
    let request = async_nats::Request::new().headers(map).payload(Bytes::from_static(b"{}"));
    client.send_request(subject, request.timeout(Some(TIMEOUT))).await.expect("a reply")
}

fn header(message: &async_nats::Message, name: &str) -> Option<String> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned())
}

#[tokio::test]
async fn a_plain_request_without_headers_is_answered() {
    let (world, mut inbox) = served().await;
    let (subjects, client) = world.nats();
    let (reply, seen) =
        tokio::join!(request(&client, subjects.request(Verb::Get), HeaderMap::new()), async {
            let case = inbox.next().await;
            let seen = case.what.context.clone();
            case.answer(Answer {
                outcome: Some(Outcome::Created),
                body: Ok(Bytes::from_static(b"{\"a\":1}")),
            });
            seen
        });
    assert_eq!((seen.request_id.len(), seen.deadline_ms, seen.traceparent), (36, None, None));
    assert_eq!(reply.payload, Bytes::from_static(b"{\"a\":1}"));
    assert_eq!(header(&reply, headers::REQUEST_ID), Some(seen.request_id));
    assert_eq!(header(&reply, headers::OUTCOME).as_deref(), Some("created"));
    assert_eq!(header(&reply, headers::SERVICE_ERROR_CODE), None);
}

#[tokio::test]
async fn unparsable_headers_are_ignored() {
    let (world, mut inbox) = served().await;
    let (subjects, client) = world.nats();
    for deadline in ["soon", "", "-1", "1e9", "99999999999999999999999"] {
        let mut map = HeaderMap::new();
        map.insert(headers::DEADLINE_MS, deadline);
        map.insert(headers::REQUEST_ID, "with a blank");
        let (_, seen) = tokio::join!(request(&client, subjects.request(Verb::Get), map), async {
            let case = inbox.next().await;
            let seen = case.what.context.clone();
            case.answer(answer("{}"));
            seen
        });
        assert_eq!((seen.request_id.len(), seen.deadline_ms), (36, None), "{deadline:?}");
    }
}

#[tokio::test]
async fn fault_has_the_nats_service_error_headers() {
    let (world, mut inbox) = served().await;
    let (subjects, client) = world.nats();
    let (reply, ()) = tokio::join!(request(&client, subjects.request(Verb::Get), HeaderMap::new()), async {
        let fault = Fault::new(FaultCode::PoolExhausted, "no free\r\nsandbox");
        inbox.next().await.answer(Answer { outcome: None, body: Err(fault) });
    });
    assert_eq!(header(&reply, headers::SERVICE_ERROR_CODE).as_deref(), Some("409"));
    assert_eq!(header(&reply, headers::SERVICE_ERROR).as_deref(), Some("no free  sandbox"));
}

#[tokio::test]
async fn unknown_verb_has_no_responders() {
    let (world, _inbox) = served().await;
    let (subjects, client) = world.nats();
    for subject in ["v1.nonsense", "v2.get", "v1.get.more", "v1"] {
        let subject = format!("{}.{subject}", subjects.prefix());
        let refused = client.request(subject.clone(), Bytes::new()).await.unwrap_err();
        assert_eq!(refused.kind(), RequestErrorKind::NoResponders, "{subject}");
    }
}

#[tokio::test]
async fn reply_is_sent_only_to_inboxes() {
    let (world, mut inbox) = served().await;
    let (subjects, client) = world.nats();
    let (id, pool, _) = work(7).parts().unwrap();
    let forged = subjects.deletion_work(&pool, &id);
    client.publish_with_reply(subjects.request(Verb::Get), forged, Bytes::new()).await.unwrap();
    client.publish(subjects.request(Verb::Get), Bytes::new()).await.unwrap();
    client.flush().await.unwrap();
    let asked = ask_later(&world.bus, context("next"), "{}");
    let case = inbox.next().await;
    assert_eq!(case.what.context.request_id, "next", "no worker saw the others");
    case.answer(answer("{}"));
    asked.await.unwrap().unwrap();
    assert_eq!(world.queued().await, 0, "nothing was written to the queue");
}

#[tokio::test]
async fn parked_deletion_is_described_by_its_headers() {
    let world = Engine::Nats.world().await;
    let (subjects, client) = world.nats();
    let copy = ParkedDeletion {
        work: work(7),
        attempts: 8,
        reason: "status 500".to_owned(),
        parked_at: 1_763_683_200,
    };
    world.bus.park(&copy).await.unwrap();
    // Read from the stream, as an operator would: a subscription on another connection may start too late.
    let stream = jetstream::new(client).get_stream(subjects.parked_stream()).await.unwrap();
    let subject = format!("{}.parked.main.7", subjects.prefix());
    let message = stream.get_last_raw_message_by_subject(&subject).await.unwrap();
    let shown = [headers::PARKED_REASON, headers::PARKED_AT, headers::ATTEMPTS]
        .map(|name| message.headers.get(name).map(ToString::to_string));
    assert_eq!(shown, ["status 500", "2025-11-21T00:00:00Z", "8"].map(|text| Some(text.to_owned())));
}

#[tokio::test]
async fn resent_forced_tick_is_deduplicated() {
    let world = Engine::Nats.world().await;
    let order = TickOrder::forced("alice").until(7);
    let (first, _) = world.bus.order_and_wait(TickKind::SYNC, &order, SHORT).await.unwrap();
    let (second, _) = world.bus.tick_and_wait(TickKind::SYNC, SHORT).await.unwrap();
    let (subjects, client) = world.nats();
    let streams = jetstream::new(client);
    let stream = streams.get_stream(subjects.ticks_stream()).await.unwrap();
    let mut ids = Vec::new();
    for receipt in [first, second] {
        assert!(!receipt.duplicate);
        let message = stream.get_raw_message(receipt.sequence).await.unwrap();
        ids.push(message.headers.get("Nats-Msg-Id").expect("an id").as_str().to_owned());
        // The repeat of a publish whose answer was lost.
        let again = streams.publish_with_headers(
            subjects.tick(TickKind::SYNC),
            message.headers.clone(),
            message.payload.clone(),
        );
        let again = again.await.unwrap().await.unwrap();
        assert_eq!((again.sequence, again.duplicate), (receipt.sequence, true));
    }
    assert!(ids[0] != ids[1] && ids[0].starts_with("sync:order:"), "{ids:?}");
}

#[tokio::test]
async fn late_reply_can_still_be_awaited() {
    let (world, mut inbox) = served().await;
    let (asked, late) = (context("late"), Bytes::from_static(b"{}"));
    let asked = world.bus.request_or_late(Verb::Get, &asked, late, SHORT).await;
    let Err(unanswered) = asked else { panic!("no worker answers yet") };
    assert_eq!(unanswered.reason, RequestError::TimedOut);
    inbox.next().await.answer(answer("{\"a\":1}"));
    let late = tokio::time::timeout(TIMEOUT, unanswered.late.expect("it may come")).await.unwrap();
    assert_eq!(late.expect("it came").body, Bytes::from_static(b"{\"a\":1}"));
}
