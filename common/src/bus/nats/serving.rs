//! The worker's side of requests: our own loop, because the library's service type loses requests when it
//! stops and has no limit on work in flight.
//!
//! Each verb has a subscription in the queue group. The loop never waits for work: it takes a permit or
//! says *busy* at once. Leaving follows a recipe that was measured to lose nothing: the server is told to
//! stop after a number of further messages, what still comes is worked on, and only then is the
//! subscription closed.

use super::{NatsBus, failed};
use crate::bus::intake::{self, one_line};
use crate::bus::{Answer, BusError, Context, Handler, Request, Serve};
use crate::contract::{Verb, headers};
use async_nats::{HeaderMap, Message, Subject, Subscriber};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Messages after which the server ends a subscription that is leaving, counted from those seen.
const LEAVE_AFTER_MESSAGES: u64 = 256;
/// A leaving subscription that was quiet for this long has nothing on its way any more.
const LEAVE_QUIET: Duration = Duration::from_millis(250);
/// Longest time that leaving may take under load.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);
/// What replies have to be addressed to; a caller must not aim our replies at our own streams.
const INBOX_PREFIX: &str = "_INBOX";

/// What the loops of all verbs share.
struct Server {
    bus: NatsBus,
    handler: Arc<dyn Handler>,
    permits: Arc<Semaphore>,
    running: TaskTracker,
}

#[async_trait]
impl Serve for NatsBus {
    async fn serve(
        &self,
        handler: Arc<dyn Handler>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let server = Arc::new(Server {
            bus: self.clone(),
            handler,
            permits: Arc::new(Semaphore::new(in_flight_max)),
            running: TaskTracker::new(),
        });
        let group = self.config.subjects.allocator_group();
        let mut loops = JoinSet::new();
        for verb in Verb::ALL {
            let subject = self.config.subjects.request(verb);
            let subscriber = self
                .client
                .queue_subscribe(subject, group.to_owned())
                .await
                .map_err(failed("subscribe to requests"))?;
            loops.spawn(Arc::clone(&server).answer_all(verb, subscriber, stop.clone()));
        }
        while loops.join_next().await.is_some() {}
        server.running.close();
        server.running.wait().await;
        self.send_rest().await;
        Ok(())
    }
}

// === impl Server ===

impl Server {
    async fn answer_all(self: Arc<Self>, verb: Verb, mut subscriber: Subscriber, stop: CancellationToken) {
        let mut seen: u64 = 0;
        loop {
            tokio::select! {
                message = subscriber.next() => {
                    // The stream ends only with the connection, which is closed after all loops.
                    let Some(message) = message else { return };
                    seen = seen.saturating_add(1);
                    self.take(verb, message);
                }
                () = stop.cancelled() => break,
            }
        }
        self.leave(verb, subscriber, seen).await;
    }

    async fn leave(&self, verb: Verb, mut subscriber: Subscriber, seen: u64) {
        if subscriber.unsubscribe_after(seen.saturating_add(LEAVE_AFTER_MESSAGES)).await.is_err() {
            return;
        }
        let patience = tokio::time::sleep(LEAVE_PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                message = tokio::time::timeout(LEAVE_QUIET, subscriber.next()) => match message {
                    Ok(Some(message)) => self.take(verb, message),
                    // Ended by the server at the count, or nothing is on its way any more.
                    Ok(None) => return,
                    Err(_) => break,
                },
                () = &mut patience => break,
            }
        }
        if subscriber.drain().await.is_ok() {
            while let Some(message) = subscriber.next().await {
                self.take(verb, message);
            }
        }
    }

    /// Starts work on one request, or refuses it, without waiting.
    fn take(&self, verb: Verb, message: Message) {
        let Some(reply_to) = message.reply.clone().filter(|reply| reply.starts_with(INBOX_PREFIX)) else {
            tracing::debug!(nats.subject = %message.subject, "a request without an inbox to reply to was dropped");
            return;
        };
        let context = context_of(message.headers.as_ref(), || self.bus.random.fresh_id());
        let body = message.payload;
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        let bus = self.bus.clone();
        let handler = Arc::clone(&self.handler);
        self.running.spawn(async move {
            let request_id = context.request_id.clone();
            let request = Request { verb, context, body };
            let answer = intake::answer(bus.clock.as_ref(), handler.as_ref(), request, permit).await;
            if let Some(answer) = answer {
                bus.reply(reply_to, &request_id, answer).await;
            }
        });
    }
}

impl NatsBus {
    async fn reply(&self, reply_to: Subject, request_id: &str, answer: Answer) {
        let mut map = HeaderMap::new();
        map.insert(headers::REQUEST_ID, request_id);
        if let Some(outcome) = answer.outcome {
            map.insert(headers::OUTCOME, outcome.as_str());
        }
        let body = match answer.body {
            Ok(body) => body,
            Err(fault) => {
                map.insert(headers::SERVICE_ERROR, one_line(&fault.message));
                map.insert(headers::SERVICE_ERROR_CODE, fault.code.status().to_string());
                serde_json::to_vec(&fault.body(request_id)).unwrap_or_default().into()
            }
        };
        // A reply that cannot be sent is one that was lost: the caller repeats.
        if let Err(error) = self.client.publish_with_headers(reply_to, map, body).await {
            tracing::debug!(request.id = request_id, %error, "a reply could not be sent");
        }
    }
}

fn context_of(map: Option<&HeaderMap>, fresh_id: impl FnOnce() -> String) -> Context {
    let header = |name: &str| map.and_then(|map| map.get(name)).map(|value| value.as_str().to_owned());
    Context {
        request_id: intake::request_id(header(headers::REQUEST_ID).as_deref(), fresh_id),
        deadline_ms: header(headers::DEADLINE_MS).and_then(|value| value.parse().ok()),
        traceparent: header(headers::TRACEPARENT),
        idempotency_key: header(headers::IDEMPOTENCY_KEY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> String {
        "fresh".to_owned()
    }

    #[test]
    fn a_sane_request_id_is_taken_over_and_others_are_not() {
        let mut map = HeaderMap::new();
        map.insert(headers::REQUEST_ID, "r-1");
        assert_eq!(context_of(Some(&map), fresh).request_id, "r-1");
        map.insert(headers::REQUEST_ID, "a b");
        assert_eq!(context_of(Some(&map), fresh).request_id, "fresh");
        assert_eq!(context_of(None, fresh).request_id, "fresh");
    }

    #[test]
    fn an_unreadable_deadline_is_no_deadline() {
        let mut map = HeaderMap::new();
        map.insert(headers::DEADLINE_MS, "1700000000000");
        assert_eq!(context_of(Some(&map), fresh).deadline_ms, Some(1_700_000_000_000));
        map.insert(headers::DEADLINE_MS, "soon");
        assert_eq!(context_of(Some(&map), fresh).deadline_ms, None);
    }
}
