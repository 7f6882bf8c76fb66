//! The event log: a stream in which the events of one sandbox have no gaps.

use super::publish::{EXPECTED_SEQUENCE_SUBJECT, encode, is_conflict};
use super::{NatsBus, failed};
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_trait::async_trait;
use contract::Event;
use domain::SandboxId;
use ports::bus::{Appended, BusError, EventLog, EventMark};
use std::time::Duration;

#[async_trait]
impl EventLog for NatsBus {
    fn kept(&self) -> Duration {
        self.config.events_kept
    }

    async fn last_event(&self, id: &SandboxId) -> Result<Option<EventMark>, BusError> {
        const OPERATION: &str = "look for the last event";
        let stream = self.stream_to_read(self.config.subjects.events_stream()).await?;
        // Read from the leader: a lagging replica might return an older event, and the next append would fail.
        match stream.get_last_raw_message_by_subject(&self.config.subjects.events_of(id)).await {
            Ok(message) => {
                let event_id = message.headers.get(NATS_MESSAGE_ID).map(|id| id.as_str());
                let version = event_id
                    .and_then(Event::version_in)
                    .ok_or_else(|| failed(OPERATION)("an event without a version in its message id"))?;
                Ok(Some(EventMark { version, sequence: message.sequence }))
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed(OPERATION)(error)),
        }
    }

    async fn append(
        &self,
        id: &SandboxId,
        event: &Event,
        after: Option<EventMark>,
    ) -> Result<Appended, BusError> {
        const OPERATION: &str = "append an event";
        let subjects = &self.config.subjects;
        let Some((cause, version)) = event.kind.known().zip(Event::version_in(&event.id)) else {
            return Err(failed(OPERATION)("an event of no known type or version"));
        };
        let payload = encode(event, OPERATION)?;
        let publish = async |event_id: String| {
            let message = PublishMessage::build()
                .payload(payload.clone())
                .message_id(event_id)
                .expected_last_subject_sequence(after.map_or(0, |mark| mark.sequence))
                .header(EXPECTED_SEQUENCE_SUBJECT, subjects.events_of(id).as_str());
            self.publish_until_acked(subjects.event(cause, id), message).await
        };
        let mut published = publish(event.id.clone()).await;
        if matches!(&published, Ok(ack) if ack.duplicate) {
            match self.last_event(id).await? {
                Some(mark) if mark.version >= version => return Ok(Appended::Kept(mark)),
                // The event was purged or removed since, but the server remembers its id for two more minutes.
                _ => published = publish(format!("{}:{}", self.random.fresh_id(), event.id)).await,
            }
        }
        match published {
            Ok(ack) => Ok(Appended::Kept(EventMark { version, sequence: ack.sequence })),
            Err(error) if is_conflict(&error) => Ok(Appended::Moved),
            Err(error) => Err(failed(OPERATION)(error)),
        }
    }
}
