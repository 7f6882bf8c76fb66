//! Inspects and repairs DELETIONS and PARKED.

use super::publish::{encode, is_conflict};
use super::topology::REBUILT_KEY;
use super::whole::Maintenance;
use super::{NatsBus, failed};
use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{DeleteMessageErrorKind, DirectGetErrorKind, Stream};
use async_trait::async_trait;
use contract::events::{parse_rfc3339, rfc3339};
use contract::subjects::UNREADABLE;
use contract::{ParkedDeletion, headers};
use domain::{PoolName, SandboxId, UnixSeconds};
use ports::bus::intake::{self, one_line};
use ports::bus::{
    Announced, BusError, EventLogState, ParkedKey, ParkedMessage, QueuedMessage, Rebuilt, Upkeep,
};

#[async_trait]
impl Upkeep for NatsBus {
    async fn mend(&self) -> Result<bool, BusError> {
        self.make_whole(Maintenance::CorrectAll).await
    }

    async fn queued(&self, after: u64, limit: usize) -> Result<Vec<QueuedMessage>, BusError> {
        let subject = self.config.subjects.deletion_every();
        let found = self.read_after(self.config.subjects.deletions_stream(), &subject, after, limit).await?;
        Ok(found.iter().map(|message| self.queued_message(message)).collect())
    }

    async fn queued_of(&self, pool: &PoolName, id: &SandboxId) -> Result<Vec<QueuedMessage>, BusError> {
        let subjects = &self.config.subjects;
        let mut found = Vec::new();
        for subject in [subjects.deletion_work(pool, id), subjects.deletion_retry(pool, id)] {
            // Each has at most one, and both only for a moment.
            found.extend(self.read_after(subjects.deletions_stream(), &subject, 0, 2).await?);
        }
        Ok(found.iter().map(|message| self.queued_message(message)).collect())
    }

    async fn handed_out(&self, pool: &PoolName) -> Result<u64, BusError> {
        Ok(self.progress_of(pool).await?.map_or(0, |(delivered, _)| delivered))
    }

    async fn given_up(&self, pool: &PoolName) -> Result<u64, BusError> {
        Ok(self.progress_of(pool).await?.map_or(0, |(_, floor)| floor))
    }

    async fn unqueue(&self, sequence: u64) -> Result<bool, BusError> {
        self.remove(self.config.subjects.deletions_stream(), sequence).await
    }

    async fn parked(
        &self,
        pool: Option<&PoolName>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<ParkedMessage>, BusError> {
        let subjects = &self.config.subjects;
        let subject = pool.map_or_else(|| subjects.parked_all(), |pool| subjects.parked_of_pool(pool));
        let found = self.read_after(subjects.parked_stream(), &subject, after, limit).await?;
        Ok(found.iter().filter_map(|message| self.parked_message(message)).collect())
    }

    async fn parked_of(&self, key: &ParkedKey) -> Result<Option<ParkedMessage>, BusError> {
        let subjects = &self.config.subjects;
        let subject = match key {
            ParkedKey::Sandbox { pool, id } => subjects.parked(pool, id),
            ParkedKey::Unreadable(sequence) => subjects.parked_unreadable(*sequence),
        };
        let found = self.read_after(subjects.parked_stream(), &subject, 0, 1).await?;
        Ok(found.first().and_then(|message| self.parked_message(message)))
    }

    async fn unpark(&self, sequence: u64) -> Result<bool, BusError> {
        self.remove(self.config.subjects.parked_stream(), sequence).await
    }

    async fn drop_parked_provisions(&self, before: UnixSeconds, limit: usize) -> Result<usize, BusError> {
        let subjects = &self.config.subjects;
        let (mut removed, mut after) = (0, 0);
        while removed < limit {
            let subject = subjects.provision_parked_all();
            let found = self.read_after(subjects.parked_stream(), &subject, after, 1).await?;
            let Some(message) = found.first().filter(|message| moment_of(message) < before) else { break };
            removed += usize::from(self.remove(subjects.parked_stream(), message.sequence).await?);
            after = message.sequence;
        }
        Ok(removed)
    }

    async fn park_again(&self, parked: &ParkedDeletion) -> Result<Announced, BusError> {
        const OPERATION: &str = "park a deletion again";
        let (id, pool, _) = parked.work.parts().map_err(failed(OPERATION))?;
        // Without a message id, which would still be known for a while after the lost copy that this one replaces.
        let message = PublishMessage::build()
            .headers(parked_headers(parked))
            .payload(encode(parked, OPERATION)?)
            .expected_last_subject_sequence(0);
        match self.publish_until_acked(self.config.subjects.parked(&pool, &id), message).await {
            Ok(_) => Ok(Announced::Queued),
            Err(error) if is_conflict(&error) => Ok(Announced::AlreadyQueued),
            Err(error) => Err(failed(OPERATION)(error)),
        }
    }

    async fn event_log_state(&self) -> Result<EventLogState, BusError> {
        let event_log = self.jetstream.get_stream(self.config.subjects.events_stream()).await;
        let event_log = event_log.map_err(failed("look at the event log"))?;
        let info = event_log.cached_info();
        let rebuilt = Rebuilt::parse(info.config.metadata.get(REBUILT_KEY).map(String::as_str));
        Ok(EventLogState { made: info.created.unix_timestamp_nanos().to_string(), rebuilt })
    }

    async fn note_rebuilt(&self, state: &EventLogState) -> Result<bool, BusError> {
        const OPERATION: &str = "note how far the event log was rebuilt";
        let event_log = self.jetstream.get_stream(self.config.subjects.events_stream()).await;
        let event_log = event_log.map_err(failed(OPERATION))?;
        let info = event_log.cached_info();
        if info.created.unix_timestamp_nanos().to_string() != state.made {
            return Ok(false);
        }
        let mut config = info.config.clone();
        config.metadata.insert(REBUILT_KEY.to_owned(), state.rebuilt.to_text());
        self.jetstream.update_stream(config).await.map(|_| true).map_err(failed(OPERATION))
    }
}

/// The headers of a parked deletion.
pub(super) fn parked_headers(parked: &ParkedDeletion) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(headers::PARKED_REASON, one_line(&parked.reason));
    map.insert(headers::PARKED_AT, rfc3339(UnixSeconds::new(parked.parked_at)));
    map.insert(headers::ATTEMPTS, parked.attempts.to_string());
    map
}

impl NatsBus {
    /// The sequence up to which the consumer of a pool has delivered messages, and the one up to which it has finished
    /// all of them; none if the consumer does not exist yet.
    async fn progress_of(&self, pool: &PoolName) -> Result<Option<(u64, u64)>, BusError> {
        let stream = self.stream_to_read(self.config.subjects.deletions_stream()).await?;
        match stream.consumer_info(self.config.subjects.reaper_consumer(pool)).await {
            Ok(info) => {
                let delivered = info.delivered.stream_sequence;
                // A terminated message is no longer pending, but the ack floor moves only at the next acknowledgement.
                let is_idle = info.num_ack_pending == 0;
                Ok(Some((delivered, if is_idle { delivered } else { info.ack_floor.stream_sequence })))
            }
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("look for a consumer")(error)),
        }
    }

    /// A stream for reading. Sends no request.
    pub(super) async fn stream_to_read(&self, name: String) -> Result<Stream<()>, BusError> {
        self.jetstream.get_stream_no_info(name).await.map_err(failed("open a stream"))
    }

    /// At most `limit` messages on `subject` after that sequence.
    async fn read_after(
        &self,
        stream: String,
        subject: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StreamMessage>, BusError> {
        let stream = self.stream_to_read(stream).await?;
        let mut found = Vec::new();
        let mut next = after.saturating_add(1);
        while found.len() < limit {
            match stream.direct_get_next_for_subject(subject, Some(next)).await {
                Ok(message) => {
                    next = message.sequence.saturating_add(1);
                    found.push(message);
                }
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => break,
                Err(error) => return Err(failed("read a stream")(error)),
            }
        }
        Ok(found)
    }

    async fn remove(&self, stream: String, sequence: u64) -> Result<bool, BusError> {
        let stream = self.stream_to_read(stream).await?;
        match stream.delete_message(sequence).await {
            Ok(is_removed) => Ok(is_removed),
            Err(error) => match error.kind() {
                DeleteMessageErrorKind::JetStream(answer) if is_no_message(&answer) => Ok(false),
                _ => Err(failed("remove a message")(error)),
            },
        }
    }

    fn queued_message(&self, message: &StreamMessage) -> QueuedMessage {
        QueuedMessage {
            sequence: message.sequence,
            work: intake::deletion_work(&message.payload).ok(),
            is_put_off: message.subject.starts_with(self.config.subjects.deletion_retry_prefix().as_str()),
            due_at: due_of(message),
            since: moment_of(message),
        }
    }

    /// None for a subject that is not ours.
    fn parked_message(&self, message: &StreamMessage) -> Option<ParkedMessage> {
        let mut tokens = message.subject.rsplit('.');
        let (last, pool) = (tokens.next()?, tokens.next()?);
        let key = if pool == UNREADABLE {
            ParkedKey::Unreadable(last.parse().ok()?)
        } else {
            ParkedKey::Sandbox { pool: PoolName::parse(pool).ok()?, id: SandboxId::parse(last).ok()? }
        };
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
        let copy = serde_json::from_slice::<ParkedDeletion>(&message.payload).ok();
        Some(ParkedMessage {
            sequence: message.sequence,
            key,
            reason: header(headers::PARKED_REASON).unwrap_or_default(),
            parked_at: copy.map_or_else(|| moment_of(message), |copy| UnixSeconds::new(copy.parked_at)),
            attempts: header(headers::ATTEMPTS).and_then(|attempts| attempts.parse().ok()),
            work: intake::deletion_work(&message.payload).ok(),
        })
    }
}

/// Whether the sequence has no message. Past the end the server has a code for that; in between only the text says so,
/// under the code of every failed removal.
fn is_no_message(answer: &async_nats::jetstream::Error) -> bool {
    answer.error_code() == ErrorCode::SEQUENCE_NOT_FOUND || answer.to_string().contains("no message found")
}

/// The moment in the schedule of a message, as [`super::streams`] writes it.
fn due_of(message: &StreamMessage) -> Option<UnixSeconds> {
    let schedule = message.headers.get(async_nats::header::NATS_SCHEDULE)?.as_str();
    parse_rfc3339(schedule.strip_prefix("@at ")?)
}

fn moment_of(message: &StreamMessage) -> UnixSeconds {
    UnixSeconds::new(u64::try_from(message.time.unix_timestamp()).unwrap_or_default())
}
