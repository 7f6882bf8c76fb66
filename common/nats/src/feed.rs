//! Reads the event log: pages from the stream, and the published events as notifications.
//!
//! There is no consumer at the server: a slow or vanished reader leaves nothing there, and a returning one continues at
//! its position.

use super::{JETSTREAM_TIMEOUT, NatsBus, failed};
use async_nats::{HeaderMap, Message, StatusCode};
use async_trait::async_trait;
use contract::events::rfc3339;
use domain::UnixSeconds;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use ports::bus::{
    BusError, EventFeed, EventLogRange, EventsFrom, EventsWanted, KeptEvent, SINCE_SECONDS_MAX,
};
use serde::Serialize;
use std::time::Duration;

/// Longest wait until the server has a subscription. Without a connection it takes longer, but then no event comes.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The header with the sequence of a message read from a stream.
const SEQUENCE_HEADER: &str = "Nats-Sequence";

/// Requests several messages at once. The field names are the server's; the client library has no type for it.
#[derive(Serialize)]
struct Batch<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    batch: usize,
    next_by_subj: &'a str,
}

#[async_trait]
impl EventFeed for NatsBus {
    async fn event_log_range(&self) -> Result<EventLogRange, BusError> {
        let stream = self.jetstream.get_stream(self.config.subjects.events_stream()).await;
        let stream = stream.map_err(failed("look at the event log"))?;
        let state = &stream.cached_info().state;
        // A stream that was always empty reports 0 as its first sequence.
        Ok(EventLogRange { first: state.first_sequence.max(1), last: state.last_sequence })
    }

    async fn events_from(
        &self,
        from: EventsFrom,
        wanted: &EventsWanted,
        limit: usize,
    ) -> Result<Vec<KeptEvent>, BusError> {
        const OPERATION: &str = "read the event log";
        let subjects = &self.config.subjects;
        let (seq, start_time) = match from {
            EventsFrom::After(sequence) => (Some(sequence.saturating_add(1)), None),
            EventsFrom::Since(moment) => {
                (None, Some(rfc3339(moment.min(UnixSeconds::new(SINCE_SECONDS_MAX)))))
            }
        };
        let subject = subjects.event_wanted(wanted.cause, wanted.sandbox.as_ref());
        let batch = Batch { seq, start_time, batch: limit, next_by_subj: &subject };
        let question = serde_json::to_vec(&batch).map_err(failed(OPERATION))?;
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.map_err(failed(OPERATION))?;
        let place = format!("$JS.API.DIRECT.GET.{}", subjects.events_stream());
        let asked = self.client.publish_with_reply(place, inbox, question.into()).await;
        asked.map_err(failed(OPERATION))?;
        let mut found = Vec::new();
        loop {
            let reply = tokio::time::timeout(JETSTREAM_TIMEOUT, replies.next()).await;
            let reply = reply.map_err(failed(OPERATION))?.ok_or("the connection is closed");
            match page_part(reply.map_err(failed(OPERATION))?).map_err(failed(OPERATION))? {
                Some(event) => found.push(event),
                None => return Ok(found),
            }
        }
    }

    async fn event_notifications(&self, wanted: &EventsWanted) -> Result<BoxStream<'static, ()>, BusError> {
        const OPERATION: &str = "listen to events";
        let subject = self.config.subjects.event_wanted(wanted.cause, wanted.sandbox.as_ref());
        let messages = self.client.subscribe(subject).await.map_err(failed(OPERATION))?;
        // Only events after the server has the subscription cause notifications, so the caller has to know when it has.
        tokio::time::timeout(SUBSCRIBE_TIMEOUT, self.client.flush())
            .await
            .map_err(failed(OPERATION))?
            .map_err(failed(OPERATION))?;
        Ok(messages.map(|_| ()).boxed())
    }
}

/// An event of a page; none at the end of the page.
fn page_part(reply: Message) -> Result<Option<KeptEvent>, String> {
    match reply.status {
        // 204 ends a page with messages; 404 is an empty page.
        Some(StatusCode::NOT_FOUND) => return Ok(None),
        Some(status) if status.as_u16() == 204 => return Ok(None),
        Some(StatusCode::NO_RESPONDERS) => return Err("the stream is not there".to_owned()),
        Some(status) => return Err(format!("{status}: {}", reply.description.unwrap_or_default())),
        None => {}
    }
    let sequence = reply.headers.as_ref().and_then(|headers| number(headers, SEQUENCE_HEADER));
    let sequence = sequence.ok_or("a message without its place")?;
    let event = serde_json::from_slice(&reply.payload).ok();
    if event.is_none() {
        tracing::warn!(event.sequence = sequence, "an event cannot be read");
    }
    Ok(Some(KeptEvent { sequence, event }))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.as_str().parse().ok()
}
