//! The streams, consumers and the bucket of a fleet, made (or brought up to date) at start.

use super::{NatsBus, NatsConfig, failed};
use crate::bus::{BusError, TICK_ACK_WAIT, TICK_DEDUP_WINDOW, TICKS_OF_A_KIND_MAX};
use crate::contract::TickKind;
use crate::domain::PoolName;
use crate::runtime::telemetry::Chain;
use async_nats::jetstream::consumer::{AckPolicy, IntoConsumerConfig as _, pull};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use backon::{ExponentialBuilder, Retryable};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Most bytes of one message on any of our streams.
const MESSAGE_BYTES_MAX: i32 = 64 * 1024;
/// Longest pause between two attempts to set up the streams.
const SETUP_RETRY_DELAY_MAX: Duration = Duration::from_secs(2);

impl NatsBus {
    /// Makes the fleet's streams, consumers and bucket, or brings them up to date. Safe to repeat, and by many
    /// at once. Keeps trying until it is done or `stop` is cancelled.
    ///
    /// # Errors
    /// [`BusError`] only after `stop`.
    pub async fn set_up(&self, stop: &CancellationToken) -> Result<(), BusError> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(SETUP_RETRY_DELAY_MAX)
            .with_jitter()
            .without_max_times();
        (|| self.set_up_once())
            .retry(backoff)
            .when(|_| !stop.is_cancelled())
            .notify(|error, delay| {
                let retry_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(error = %Chain(error), retry_ms, "the streams are not set up yet");
            })
            .await
    }

    pub(super) async fn set_up_once(&self) -> Result<(), BusError> {
        for config in self.config.streams() {
            self.jetstream.create_or_update_stream(config).await.map_err(failed("set up a stream"))?;
        }
        self.jetstream
            .create_or_update_key_value(self.config.bucket_config())
            .await
            .map_err(failed("set up the bucket"))?;
        // Those of the pools are made when there is a pool.
        self.remove_old_consumer().await?;
        for kind in TickKind::ALL {
            self.make_consumer(self.config.subjects.ticks_stream(), self.config.tick_consumer_config(kind))
                .await?;
        }
        Ok(())
    }

    pub(super) async fn make_consumer(&self, stream: String, config: pull::Config) -> Result<(), BusError> {
        self.jetstream
            .create_consumer_on_stream(config, stream)
            .await
            .map(|_| ())
            .map_err(failed("set up a consumer"))
    }
}

/// A stream or a consumer as the fleet makes it, in the words of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Name of its file under `nats/definitions`.
    pub file: String,
    /// What the server is told, as `nats stream add --config` and `nats consumer add --config` take it.
    pub config: serde_json::Value,
}

// === impl NatsConfig ===

impl NatsConfig {
    /// The definition of every stream, and of every consumer of a fleet with these pools.
    ///
    /// # Errors
    /// When one cannot be written as JSON.
    pub fn definitions(&self, pools: &[PoolName]) -> Result<Vec<Definition>, serde_json::Error> {
        let mut all = Vec::new();
        for config in self.streams() {
            let (file, config) = (format!("{}.stream.json", config.name), serde_json::to_value(config)?);
            all.push(Definition { file, config });
        }
        let subjects = &self.subjects;
        let reapers = pools.iter().map(|pool| (subjects.deletions_stream(), self.reaper_config(pool)));
        let ticks = TickKind::ALL.map(|kind| (subjects.ticks_stream(), self.tick_consumer_config(kind)));
        for (stream, config) in reapers.chain(ticks) {
            let name = config.durable_name.clone().unwrap_or_default();
            let config = serde_json::to_value(config.into_consumer_config())?;
            all.push(Definition { file: format!("{stream}.{name}.consumer.json"), config });
        }
        Ok(all)
    }

    fn streams(&self) -> [stream::Config; 4] {
        [self.deletions_config(), self.parked_config(), self.ticks_config(), self.events_config()]
    }

    /// DELETIONS: the work queue. A retry waits as a scheduled message, so schedules have to be on.
    fn deletions_config(&self) -> stream::Config {
        let subjects = &self.subjects;
        stream::Config {
            name: subjects.deletions_stream(),
            description: Some("Sandboxes that are to be deleted at the provider".to_owned()),
            subjects: vec![subjects.deletion_work_all(), subjects.deletion_retry_all()],
            retention: RetentionPolicy::WorkQueue,
            allow_message_schedules: true,
            allow_message_ttl: true,
            ..self.stream_defaults()
        }
    }

    /// PARKED: deletions that used up their attempts, the latest of each sandbox.
    fn parked_config(&self) -> stream::Config {
        let subjects = &self.subjects;
        stream::Config {
            name: subjects.parked_stream(),
            description: Some("Deletions that used up their attempts, with their reason".to_owned()),
            subjects: vec![subjects.parked_all()],
            retention: RetentionPolicy::Limits,
            max_messages_per_subject: 1,
            ..self.stream_defaults()
        }
    }

    /// TICKS: for each kind the tick that is being run on and one that waits, so a slow run never builds a
    /// backlog. A further one is refused, because the one that waits says the same. It must not push out the
    /// oldest instead: that is the one being run on, and a second run would begin beside it.
    fn ticks_config(&self) -> stream::Config {
        let subjects = &self.subjects;
        stream::Config {
            name: subjects.ticks_stream(),
            description: Some("Ticks: look now".to_owned()),
            subjects: vec![subjects.tick_all()],
            retention: RetentionPolicy::WorkQueue,
            max_messages_per_subject: i64::try_from(TICKS_OF_A_KIND_MAX).unwrap_or(i64::MAX),
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            duplicate_window: TICK_DEDUP_WINDOW,
            ..self.stream_defaults()
        }
    }

    /// EVENTS: the ledger. A sandbox's events are read one by one, by subject.
    fn events_config(&self) -> stream::Config {
        let subjects = &self.subjects;
        stream::Config {
            name: subjects.events_stream(),
            description: Some("What happened to every sandbox".to_owned()),
            subjects: vec![subjects.event_all()],
            retention: RetentionPolicy::Limits,
            max_age: self.events_kept,
            max_bytes: i64::try_from(self.events_bytes_max).unwrap_or(i64::MAX),
            ..self.stream_defaults()
        }
    }

    fn stream_defaults(&self) -> stream::Config {
        stream::Config {
            storage: StorageType::File,
            num_replicas: self.replicas,
            discard: DiscardPolicy::Old,
            max_message_size: MESSAGE_BYTES_MAX,
            allow_direct: true,
            ..Default::default()
        }
    }

    fn bucket_config(&self) -> kv::Config {
        kv::Config {
            bucket: self.subjects.bucket(),
            description: "Shared switches, paces and last reports of the fleet".to_owned(),
            history: 1,
            num_replicas: self.replicas,
            max_value_size: MESSAGE_BYTES_MAX,
            ..Default::default()
        }
    }

    /// A consumer for each pool, so that none holds up another. The cap on concurrent deletions of a pool in the
    /// whole fleet is its `max_ack_pending`.
    pub(super) fn reaper_config(&self, pool: &PoolName) -> pull::Config {
        pull::Config {
            durable_name: Some(self.subjects.reaper_consumer(pool)),
            filter_subject: self.subjects.deletion_work_of_pool(pool),
            ack_wait: self.deletion_ack_wait,
            max_ack_pending: i64::try_from(self.deletions_in_flight_max).unwrap_or(i64::MAX),
            ..consumer_defaults()
        }
    }

    /// One consumer for each kind, so that a long sync holds up no expiry; one tick at a time each.
    fn tick_consumer_config(&self, kind: TickKind) -> pull::Config {
        pull::Config {
            durable_name: Some(self.subjects.tick_consumer(kind)),
            filter_subject: self.subjects.tick(kind),
            ack_wait: TICK_ACK_WAIT,
            max_ack_pending: 1,
            ..consumer_defaults()
        }
    }
}

fn consumer_defaults() -> pull::Config {
    pull::Config {
        ack_policy: AckPolicy::Explicit,
        // A message past `max_deliver` would stay in the queue unseen; who gives up a message is our own code.
        max_deliver: -1,
        ..Default::default()
    }
}
