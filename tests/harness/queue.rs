//! Inspects the fleet's streams with a separate client, like an operator.

use crate::rig::Rig;
use crate::servers::nats_client;
use async_nats::jetstream::{self, stream};
use contract::{Event, ParkedDeletion, Subjects};
use domain::{PoolName, SandboxId};
use ports::clock::{Clock as _, SystemClock};
use std::time::Duration;
use time::OffsetDateTime;

/// Longer than any test.
const PAUSE: Duration = Duration::from_secs(3_600);

// === impl Rig ===

impl Rig {
    /// Messages in DELETIONS: waiting and running work, and scheduled retries.
    pub async fn queued(&self) -> u64 {
        self.stream(self.bus.subjects().deletions_stream()).await.cached_info().state.messages
    }

    /// Scheduled retries.
    pub async fn retries_scheduled(&self) -> usize {
        let subjects = self.bus.subjects();
        let stream = self.stream(subjects.deletions_stream()).await;
        let found = stream.info_with_subjects(subjects.deletion_retry_all()).await.expect("stream info");
        use futures_util::TryStreamExt as _;
        found.try_collect::<Vec<_>>().await.expect("stream info").len()
    }

    /// Removes every message from DELETIONS, like a lost stream.
    pub async fn purge_deletions(&self) {
        self.stream(self.bus.subjects().deletions_stream()).await.purge().await.expect("a purge");
    }

    /// Pauses the consumers of the reapers for an hour.
    pub async fn pause_deletions(&self) {
        let stream = self.stream(self.bus.subjects().deletions_stream()).await;
        let until = SystemClock.now().after(PAUSE).get();
        let until = OffsetDateTime::from_unix_timestamp(until as i64).expect("a time");
        let pool = PoolName::parse("main").expect("a pool");
        self.bus.open_pool(&pool).await.expect("a consumer");
        let paused = stream.pause_consumer(&self.bus.subjects().reaper_consumer(&pool), until).await;
        assert!(paused.expect("a pause").paused);
    }

    /// Resumes the consumers of the reapers.
    pub async fn resume_consumer(&self) {
        let subjects = self.bus.subjects();
        let stream = self.stream(subjects.deletions_stream()).await;
        let pool = PoolName::parse("main").expect("a pool");
        stream.resume_consumer(&subjects.reaper_consumer(&pool)).await.expect("the end of the pause");
    }

    /// Messages in PARKED.
    pub async fn parked_count(&self) -> u64 {
        self.stream(self.bus.subjects().parked_stream()).await.cached_info().state.messages
    }

    /// The parked deletion of a sandbox.
    pub async fn parked(&self, id: &str) -> Option<ParkedDeletion> {
        let id = SandboxId::parse(id).expect("a sandbox id");
        let subject = self.bus.subjects().parked(&PoolName::parse("main").expect("a pool"), &id);
        let stream = self.stream(self.bus.subjects().parked_stream()).await;
        let message = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
        Some(serde_json::from_slice(&message.payload).expect("a parked deletion"))
    }

    /// Publishes a message to DELETIONS like a foreign publisher.
    pub async fn publish_raw_deletion(&self, pool: &str, id: &str, body: &str) {
        let subjects: &Subjects = self.bus.subjects();
        let (pool, id) = (PoolName::parse(pool).expect("a pool"), SandboxId::parse(id).expect("an id"));
        let jetstream = self.jetstream().await;
        let published = jetstream.publish(subjects.deletion_work(&pool, &id), body.to_owned().into());
        published.await.expect("published").await.expect("stored");
    }

    /// Removes the whole stream DELETIONS with its consumers, like an operator's mistake.
    pub async fn delete_deletions_stream(&self) {
        let name = self.bus.subjects().deletions_stream();
        self.jetstream().await.delete_stream(name).await.expect("the stream is there");
    }

    /// Every event in the event log, oldest first.
    pub async fn events(&self) -> Vec<Event> {
        let stream = self.stream(self.bus.subjects().events_stream()).await;
        let state = &stream.cached_info().state;
        let mut events = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let message = stream.direct_get(sequence).await.expect("an event");
            events.push(serde_json::from_slice(&message.payload).expect("an event"));
        }
        events
    }

    /// Ids of the events of one sandbox, in the order of the event log.
    pub async fn events_of(&self, id: &str) -> Vec<String> {
        let events = self.events().await.into_iter().filter(|event| event.subject == id);
        events.map(|event| event.id).collect()
    }

    /// Removes the events of one sandbox except the first ones, as if they had been lost.
    pub async fn lose_events_of(&self, id: &str) {
        let stream = self.stream(self.bus.subjects().events_stream()).await;
        let id = SandboxId::parse(id).expect("a sandbox id");
        stream.purge().filter(self.bus.subjects().events_of(&id)).await.expect("a purge");
    }

    /// JetStream over a separate connection.
    pub async fn jetstream(&self) -> jetstream::Context {
        let client = nats_client(&self.env["NATS_URL"]).await;
        jetstream::new(client)
    }

    async fn stream(&self, name: String) -> stream::Stream {
        self.jetstream().await.get_stream(name).await.expect("the stream is there")
    }
}
