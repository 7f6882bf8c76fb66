//! The caller's side of requests.

use super::NatsBus;
use async_nats::{HeaderMap, Message, RequestErrorKind};
use async_trait::async_trait;
use bytes::Bytes;
use contract::{Fault, FaultCode, Outcome, Verb, headers};
use ports::bus::intake::one_line;
use ports::bus::{Attempt, Context, Reply, RequestError, Requests, Unanswered};
use ports::clock::Clock;
use runtime::server_time::ServerTime;
use std::time::Duration;

#[async_trait]
impl Requests for NatsBus {
    async fn request(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        patience: Duration,
    ) -> Result<Reply, RequestError> {
        let asked = self.request_or_late(verb, context, body, patience).await;
        asked.map_err(|unanswered| unanswered.reason)
    }

    async fn request_or_late(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        patience: Duration,
    ) -> Result<Reply, Unanswered> {
        self.ask(self.config.subjects.request(verb), context, body, patience).await
    }

    fn is_connected(&self) -> bool {
        self.connected()
    }

    async fn probe(&self) -> Result<(), String> {
        self.round_trip().await
    }
}

// === impl NatsBus ===

impl NatsBus {
    /// Sends a request to a subject and waits at most `patience`.
    pub(super) async fn ask(
        &self,
        subject: String,
        context: &Context,
        body: Bytes,
        patience: Duration,
    ) -> Result<Reply, Unanswered> {
        // Without this check the request would wait in the client's queue and be sent, stale, after a reconnect.
        if !self.connected() {
            return Err(RequestError::Disconnected.into());
        }
        let request = async_nats::Request::new()
            .headers(headers_of(context, self.clock.as_ref(), &self.time))
            .payload(body)
            .timeout(None);
        let client = self.client.clone();
        let mut sent = Box::pin(async move { client.send_request(subject, request).await });
        // The client's time-out starts when the command is queued; this one covers everything.
        match tokio::time::timeout(patience, &mut sent).await {
            Ok(Ok(message)) => Ok(reply_of(message)),
            Ok(Err(error)) => Err(Unanswered::from(match error.kind() {
                RequestErrorKind::MaxPayloadExceeded => return Ok(too_large(&context.request_id)),
                RequestErrorKind::NoResponders => RequestError::NoResponders,
                RequestErrorKind::TimedOut => RequestError::TimedOut,
                _ if !self.connected() => RequestError::Disconnected,
                _ => RequestError::TimedOut,
            })),
            Err(_) => {
                let is_connected = self.connected();
                let reason = if is_connected { RequestError::TimedOut } else { RequestError::Disconnected };
                let late = async move { sent.await.ok().map(reply_of) };
                Err(Unanswered { reason, late: Some(Box::pin(late)) })
            }
        }
    }
}

/// The server would not accept the message, so no worker could answer it. This is the answer.
fn too_large(request_id: &str) -> Reply {
    let fault = Fault::new(FaultCode::BodyTooLarge, "the request is larger than the message queue takes");
    let body = serde_json::to_vec(&fault.body(request_id)).unwrap_or_default().into();
    Reply { outcome: None, is_fault: true, body }
}

fn reply_of(message: Message) -> Reply {
    let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name));
    let outcome = header(headers::OUTCOME).and_then(|value| Outcome::parse(value.as_str()));
    let is_fault = header(headers::SERVICE_ERROR_CODE).is_some();
    Reply { outcome, is_fault, body: message.payload }
}

/// The client library panics on a header value of several lines, so those are prevented.
fn headers_of(context: &Context, clock: &dyn Clock, time: &ServerTime) -> HeaderMap {
    let Context { request_id, deadline_ms: _, traceparent, idempotency_key, attempt, principal } = context;
    let mut map = HeaderMap::new();
    map.insert(headers::REQUEST_ID, one_line(request_id));
    if let Some(remaining) = context.remaining(clock) {
        let remaining_ms = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
        map.insert(headers::REMAINING_MS, remaining_ms.to_string());
        if let Some((_, latest_ms)) = time.range_ms() {
            map.insert(headers::SENT_AT_MS, latest_ms.to_string());
        }
        // Workers of older builds know only this header.
        map.insert(headers::DEADLINE_MS, time.now_ms().saturating_add(remaining_ms).to_string());
    }
    if let Some(traceparent) = traceparent {
        map.insert(headers::TRACEPARENT, one_line(traceparent));
    }
    if let Some(key) = idempotency_key {
        map.insert(headers::IDEMPOTENCY_KEY, one_line(key));
    }
    if let Some(Attempt { request_key, number }) = attempt {
        map.insert(headers::REQUEST_KEY, one_line(request_key));
        if let Some(number) = number {
            map.insert(headers::ATTEMPT, number.to_string());
        }
    }
    for (name, value) in principal.headers() {
        if let Some(value) = value {
            map.insert(name, value);
        }
    }
    map
}
