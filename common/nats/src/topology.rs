//! The streams, consumers and the bucket of a fleet, created or updated at the start.

use super::kinds::Kind;
use super::whole::Maintenance;
use super::{NatsBus, NatsConfig, failed};
use async_nats::jetstream::consumer::{AckPolicy, IntoConsumerConfig as _, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use contract::{DeletionWork, ProvisionLane, ProvisionPriority, ProvisionWork, Report, TickKind};
use domain::{PoolName, PoolSpec};
use ports::bus::{BusError, Rebuilt, TICK_ACK_WAIT, TICK_DEDUP_WINDOW, TICKS_OF_A_KIND_MAX};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use strum::IntoEnumIterator as _;
use tokio_util::sync::CancellationToken;

/// Most bytes of one message on any of our streams.
const MESSAGE_BYTES_MAX: i32 = 64 * 1024;
/// Metadata key of EVENTS that says how far it has been rebuilt.
pub(super) const REBUILT_KEY: &str = "rebuilt";
/// Settings of streams and consumers that operators decide about, and values that the server adds.
const OPERATORS_PART: [&str; 11] = [
    "metadata",
    "placement",
    "compression",
    "first_seq",
    "consumer_limits",
    "mirror_direct",
    "persist_mode",
    "pause_until",
    "max_waiting",
    "name",
    "api_level",
];

impl NatsBus {
    /// Creates the fleet's streams, consumers and bucket, or updates them. Safe to repeat and to run concurrently.
    /// Retries until it succeeds or `stop` is cancelled.
    ///
    /// # Errors
    /// [`BusError`] only after `stop`.
    pub async fn set_up(&self, stop: &CancellationToken) -> Result<(), BusError> {
        let done = CancellationToken::new();
        tokio::select! {
            () = self.keep_whole(Maintenance::CorrectAll, stop) => {}
            _ = self.until_whole(&done) => {}
        }
        self.whole.borrow().clone().map_err(failed("set up the streams"))
    }
}

/// A stream or a consumer of the fleet, in the server's format.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Name of its file under `nats/definitions`.
    pub file: String,
    /// What the server receives, as `nats stream add --config` and `nats consumer add --config` take it.
    pub config: serde_json::Value,
}

// === impl NatsConfig ===

impl NatsConfig {
    /// The definition of every stream, and of every consumer of a fleet with these pools.
    ///
    /// # Errors
    /// When a definition cannot be written as JSON.
    pub fn definitions(&self, pools: &[PoolSpec]) -> Result<Vec<Definition>, serde_json::Error> {
        let mut all = Vec::new();
        for config in self.streams() {
            let (file, config) = (format!("{}.stream.json", config.name), serde_json::to_value(config)?);
            all.push(Definition { file, config });
        }
        let subjects = &self.subjects;
        let reapers = self.lane_configs::<DeletionWork>(pools);
        let runners = self.lane_configs::<ProvisionWork>(pools);
        let ticks = Report::kinds().map(|kind| (subjects.ticks_stream(), self.tick_consumer_config(kind)));
        for (stream, config) in reapers.chain(runners).chain(ticks) {
            let name = config.durable_name.clone().unwrap_or_default();
            let config = serde_json::to_value(config.into_consumer_config())?;
            all.push(Definition { file: format!("{stream}.{name}.consumer.json"), config });
        }
        Ok(all)
    }

    /// The consumers of one kind of work, with their stream.
    fn lane_configs<K: Kind>(&self, pools: &[PoolSpec]) -> impl Iterator<Item = (String, pull::Config)> {
        pools
            .iter()
            .flat_map(K::lanes)
            .map(|lane| (K::stream(&self.subjects), K::consumer_config(self, &lane, None)))
    }

    pub(super) fn streams(&self) -> [stream::Config; 5] {
        [
            self.deletions_config(),
            self.provisions_config(),
            self.parked_config(),
            self.ticks_config(),
            self.events_config(),
        ]
    }

    /// DELETIONS.
    fn deletions_config(&self) -> stream::Config {
        let subjects = &self.subjects;
        stream::Config {
            name: subjects.deletions_stream(),
            description: Some("Sandboxes that are to be deleted at the provider".to_owned()),
            subjects: vec![subjects.deletion_work_all(), subjects.deletion_retry_all()],
            ..self.work_queue_defaults()
        }
    }

    /// PROVISIONS. The priorities have separate subjects, because each has consumers of its own.
    fn provisions_config(&self) -> stream::Config {
        let subjects = &self.subjects;
        let mut all: Vec<_> = ProvisionPriority::iter().map(|one| subjects.provision_work_all(one)).collect();
        all.push(subjects.provision_retry_all());
        stream::Config {
            name: subjects.provisions_stream(),
            description: Some("Sandboxes that are to be created on a node".to_owned()),
            subjects: all,
            ..self.work_queue_defaults()
        }
    }

    /// A work queue. A retry is a scheduled message, so message schedules have to be enabled.
    fn work_queue_defaults(&self) -> stream::Config {
        stream::Config {
            retention: RetentionPolicy::WorkQueue,
            allow_message_schedules: true,
            // The server enables it with schedules anyway.
            allow_rollup: true,
            allow_message_ttl: true,
            ..self.stream_defaults()
        }
    }

    /// PARKED: work that used up its attempts; the latest of each sandbox and kind. Nothing reads both kinds.
    fn parked_config(&self) -> stream::Config {
        let subjects = &self.subjects;
        stream::Config {
            name: subjects.parked_stream(),
            description: Some("Work that used up its attempts, with its reason".to_owned()),
            subjects: vec![subjects.parked_all(), subjects.provision_parked_all()],
            retention: RetentionPolicy::Limits,
            max_messages_per_subject: 1,
            ..self.stream_defaults()
        }
    }

    /// TICKS: for each kind the tick whose run is in progress and one that waits, so a slow run never builds up a
    /// backlog. A further tick is refused, because the waiting one has the same effect. It must not replace the oldest
    /// one, whose run is in progress: a second run would start beside it.
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

    /// EVENTS: the event log. The events of a sandbox are read one by one, by subject. A new stream is marked as
    /// lacking the events of tombstones; the sweep adds them and records its progress there.
    fn events_config(&self) -> stream::Config {
        let subjects = &self.subjects;
        stream::Config {
            name: subjects.events_stream(),
            description: Some("What happened to every sandbox".to_owned()),
            subjects: vec![subjects.event_all()],
            retention: RetentionPolicy::Limits,
            max_age: self.events_kept,
            max_bytes: i64::try_from(self.events_bytes_max).unwrap_or(i64::MAX),
            metadata: HashMap::from([(REBUILT_KEY.to_owned(), Rebuilt::Wanted.to_text())]),
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

    /// The stream of the bucket.
    pub(super) fn bucket_config(&self) -> stream::Config {
        let bucket = self.subjects.bucket();
        stream::Config {
            name: format!("KV_{bucket}"),
            description: Some("Shared switches, paces and last reports of the fleet".to_owned()),
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            ..self.stream_defaults()
        }
    }

    /// The first sequence of a new stream. Reports refer to the sequence of their tick and outlive the stream, so a
    /// recreated stream must not repeat a sequence. It starts at the current milliseconds, which no earlier stream can
    /// have reached.
    pub(super) fn first_sequence(&self, stream: &str, now_ms: u64) -> Option<u64> {
        (stream == self.subjects.ticks_stream()).then_some(now_ms)
    }

    /// A consumer for each pool, so that no pool delays another. Its `max_ack_pending` limits the concurrent deletions
    /// of a pool in the whole fleet.
    pub(super) fn reaper_config(&self, pool: &PoolName, in_flight_max: Option<u32>) -> pull::Config {
        let in_flight_max = in_flight_max.and_then(|max| usize::try_from(max).ok());
        pull::Config {
            durable_name: Some(self.subjects.reaper_consumer(pool)),
            filter_subject: self.subjects.deletion_work_of_pool(pool),
            ack_wait: self.deletion_ack_wait,
            max_ack_pending: i64::try_from(in_flight_max.unwrap_or(self.deletions_in_flight_max))
                .unwrap_or(i64::MAX),
            ..consumer_defaults()
        }
    }

    /// Two consumers for each pool whose sandboxes are created. Its runners limit themselves by what their nodes can hold;
    /// at a limit of the consumer, a fetch that must not wait would wait at the server.
    pub(super) fn runner_config(&self, lane: &ProvisionLane) -> pull::Config {
        pull::Config {
            durable_name: Some(self.subjects.runner_consumer(lane)),
            filter_subject: self.subjects.provision_work_of(lane),
            ack_wait: self.provision_ack_wait,
            max_ack_pending: -1,
            ..consumer_defaults()
        }
    }

    /// A consumer for each kind with one delivery at a time, so that a long sync does not delay expiry.
    pub(super) fn tick_consumer_config(&self, kind: TickKind) -> pull::Config {
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
        // A message beyond `max_deliver` would stay in the queue unseen; our own code decides about giving up.
        max_deliver: -1,
        ..Default::default()
    }
}

/// The settings that differ from ours, without those of the operators.
pub(super) fn differing<T: Serialize>(ours: &T, theirs: &T) -> Vec<String> {
    let (Ok(Value::Object(ours)), Ok(Value::Object(theirs))) =
        (serde_json::to_value(ours), serde_json::to_value(theirs))
    else {
        return Vec::new();
    };
    let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differs = |key: &&String| {
        let (our, their) = (ours.get(*key).unwrap_or(&Value::Null), theirs.get(*key).unwrap_or(&Value::Null));
        // For these, an unset value of ours means the server's default.
        let is_filled_in = matches!(key.as_str(), "duplicate_window" | "num_replicas") && is_unset(our);
        let is_same = our == their || (is_unset(our) && is_unset(their));
        !is_same && !is_filled_in && !OPERATORS_PART.contains(&key.as_str())
    };
    keys.into_iter().filter(differs).cloned().collect()
}

/// Whether the value means "not set". The server writes "no limit" as -1.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_on) => !is_on,
        Value::Number(number) => number.as_i64().is_some_and(|number| number <= 0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Our settings with the operators' ones unchanged.
pub(super) fn without_operators_part(ours: stream::Config, theirs: stream::Config) -> stream::Config {
    stream::Config {
        metadata: theirs.metadata,
        placement: theirs.placement,
        compression: theirs.compression,
        first_sequence: theirs.first_sequence,
        consumer_limits: theirs.consumer_limits,
        mirror_direct: theirs.mirror_direct,
        persist_mode: theirs.persist_mode,
        ..ours
    }
}
