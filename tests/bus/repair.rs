//! Streams, consumers and the bucket when they are deleted, edited, or refused by the server.

use crate::engines::{config, nats_config, until_connected};
use crate::event_log::{event, kept as kept_mark, life};
use crate::fixtures::work;
use async_nats::jetstream::{self, consumer, stream};
use broker::nats_server::NatsServer;
use contract::{ProvisionLane, ProvisionPriority, ProvisionWork, TickKind};
use domain::PoolName;
use futures_util::StreamExt as _;
use harness::servers;
use harness::wait::{TIMEOUT, eventually};
use nats::{Maintenance, NatsBus, NatsConfig};
use ports::bus::{
    Deletions as _, EventLog as _, ProviderThrottle as _, TickReceipt, Ticks as _, Upkeep as _,
};
use ports::clock::SystemClock;
use ports::random::Rng;
use prometheus::Registry;
use runtime::upkeep::UpkeepMetrics;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause between two checks, in tests.
const CHECK_PERIOD: Duration = Duration::from_millis(100);

struct Whole {
    bus: NatsBus,
    config: NatsConfig,
    streams: jetstream::Context,
    stop: CancellationToken,
    registry: Registry,
}

impl Whole {
    /// The number of repairs `what` of assets of that kind.
    fn mended(&self, asset: &str, what: &str) -> u64 {
        let families = self.registry.gather();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        let is_it = |metric: &&prometheus::proto::Metric| {
            let labels: Vec<_> = metric.get_label().iter().map(|label| label.value()).collect();
            labels == [asset, what]
        };
        metrics.filter(is_it).map(|metric| metric.get_counter().get_value() as u64).sum()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A process that creates and repairs the assets.
async fn kept(maintenance: Maintenance) -> Whole {
    let url = servers::shared().await.nats_url.clone();
    let streams = jetstream::new(servers::nats_client(&url).await);
    let mut config = nats_config(url, config());
    config.check_period = CHECK_PERIOD;
    let registry = Registry::new();
    let bus = connect(config.clone()).await.counting(UpkeepMetrics::register(&registry).unwrap());
    let stop = CancellationToken::new();
    tokio::spawn({
        let (bus, stop) = (bus.clone(), stop.clone());
        async move { bus.keep_whole(maintenance, &stop).await }
    });
    assert!(bus.until_whole(&stop).await);
    Whole { bus, config, streams, stop, registry }
}

async fn connect(config: NatsConfig) -> NatsBus {
    let bus = NatsBus::connect("test", config, Arc::new(SystemClock), Arc::new(Rng::unseeded())).await;
    let bus = bus.expect("a connection");
    until_connected(&bus).await;
    bus
}

fn all_streams(config: &NatsConfig) -> [String; 6] {
    let subjects = &config.subjects;
    let bucket = format!("KV_{}", subjects.bucket());
    [
        subjects.deletions_stream(),
        subjects.provisions_stream(),
        subjects.parked_stream(),
        subjects.events_stream(),
        subjects.ticks_stream(),
        bucket,
    ]
}

#[tokio::test]
async fn missing_streams_and_consumers_are_recreated() {
    let whole = kept(Maintenance::CreateMissing).await;
    let pool = PoolName::parse("main").unwrap();
    whole.bus.open_pool(&pool).await.unwrap();
    let lane = ProvisionLane { priority: ProvisionPriority::Fill, pool: pool.clone() };
    let work = ProvisionWork {
        version: 1,
        sandbox_id: "ctr_1".to_owned(),
        pool: "main".to_owned(),
        epoch: 0,
        template: "shell@3".to_owned(),
        is_leased: false,
        requested_at: 1,
    };
    ports::bus::Provisions::announce(&whole.bus, &work).await.unwrap();
    for name in all_streams(&whole.config) {
        whole.streams.delete_stream(&name).await.unwrap();
        eventually(&format!("{name} to be there again"), TIMEOUT, || whole.streams.get_stream(&name)).await;
    }
    // Without the bucket deletions had stopped, even with all other assets present.
    eventually("the throttle state to be updated", TIMEOUT, || whole.bus.acquire()).await;
    let consumers = [
        (whole.config.subjects.deletions_stream(), whole.config.subjects.reaper_consumer(&pool)),
        (whole.config.subjects.provisions_stream(), whole.config.subjects.runner_consumer(&lane)),
        (whole.config.subjects.ticks_stream(), whole.config.subjects.tick_consumer(TickKind::EXPIRY)),
    ];
    for (stream, name) in consumers {
        eventually("the consumer", TIMEOUT, || {
            whole.streams.get_consumer_from_stream::<consumer::pull::Config, _, _>(&name, &stream)
        })
        .await;
        whole.streams.delete_consumer_from_stream(&name, &stream).await.unwrap();
        eventually("the consumer again", TIMEOUT, || {
            whole.streams.get_consumer_from_stream::<consumer::pull::Config, _, _>(&name, &stream)
        })
        .await;
    }
    eventually("readiness", TIMEOUT, || async { whole.bus.is_whole() }).await;
    // Each is created once at the start and once more; a stream's deletion deletes its consumers.
    assert_eq!(whole.mended("stream", "made"), 2 * 6);
    assert!(whole.mended("consumer", "made") >= 2, "{}", whole.mended("consumer", "made"));
}

#[tokio::test]
async fn edited_limits_are_corrected_and_operator_settings_kept() {
    let whole = kept(Maintenance::CorrectAll).await;
    for name in all_streams(&whole.config) {
        let mut edited = whole.streams.get_stream(&name).await.unwrap().cached_info().config.clone();
        let as_made = edited.clone();
        (edited.max_messages, edited.max_message_size) = (3, 1_024);
        edited.metadata.insert("team".to_owned(), "labs".to_owned());
        whole.streams.update_stream(edited).await.unwrap();
        eventually(&format!("{name} to be put right"), TIMEOUT, || async {
            let found = whole.streams.get_stream(&name).await.unwrap().cached_info().config.clone();
            let limits = (found.max_messages, found.max_message_size);
            if limits == (as_made.max_messages, as_made.max_message_size) { Ok(found) } else { Err(found) }
        })
        .await;
        let found = whole.streams.get_stream(&name).await.unwrap().cached_info().config.clone();
        assert_eq!(found.metadata.get("team").map(String::as_str), Some("labs"));
    }
    assert!(whole.mended("stream", "corrected") >= 6);
    let pool = PoolName::parse("main").unwrap();
    whole.bus.open_pool(&pool).await.unwrap();
    let name = whole.config.subjects.reaper_consumer(&pool);
    let stream = whole.streams.get_stream(whole.config.subjects.deletions_stream()).await.unwrap();
    let edited: consumer::Info = stream.consumer_info(&name).await.unwrap();
    let edited = consumer::Config { max_deliver: 1, max_ack_pending: 1, ..edited.config };
    stream.create_consumer(edited).await.unwrap();
    eventually("the consumer to be put right", TIMEOUT, || async {
        let found = stream.consumer_info(&name).await.unwrap().config;
        if (found.max_deliver, found.max_ack_pending) == (-1, 8) { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test]
async fn create_only_process_leaves_settings_alone() {
    let whole = kept(Maintenance::CreateMissing).await;
    let name = whole.config.subjects.parked_stream();
    let edited = whole.streams.get_stream(&name).await.unwrap().cached_info().config.clone();
    whole.streams.update_stream(stream::Config { max_messages: 3, ..edited }).await.unwrap();
    // The check that recreates this stream began after the edit, so it has seen the edited stream.
    let other = whole.config.subjects.events_stream();
    for _ in 0..2 {
        whole.streams.delete_stream(&other).await.unwrap();
        eventually("another look", TIMEOUT, || whole.streams.get_stream(&other)).await;
    }
    assert_eq!(whole.streams.get_stream(&name).await.unwrap().cached_info().config.max_messages, 3);
    assert!(whole.bus.mend().await.unwrap(), "a sweep puts it right");
    assert_eq!(whole.streams.get_stream(&name).await.unwrap().cached_info().config.max_messages, -1);
}

#[tokio::test]
async fn recreated_tick_stream_continues_its_sequence() {
    let whole = kept(Maintenance::CreateMissing).await;
    let tick = || async { whole.bus.tick(TickKind::SYNC, None).await };
    let TickReceipt { sequence: first, .. } = tick().await.unwrap();
    whole.streams.delete_stream(whole.config.subjects.ticks_stream()).await.unwrap();
    let TickReceipt { sequence: second, .. } = eventually("the stream", TIMEOUT, tick).await;
    assert!(second > first, "{second} is not new after {first}");
    // An older build does not know this setting and updates the stream at its start.
    let name = whole.config.subjects.ticks_stream();
    let there = whole.streams.get_stream(&name).await.unwrap().cached_info().config.clone();
    let former = stream::Config { first_sequence: None, max_messages: 7, ..there };
    whole.streams.update_stream(former).await.expect("a former build starts");
}

#[tokio::test]
async fn purged_event_log_accepts_the_same_events() {
    let whole = kept(Maintenance::CreateMissing).await;
    let (event_log, life) = (&whole.bus, life(1));
    let id = life[0].id.clone();
    let append =
        async |version, after| event_log.append(&id, &event(&life[1], version), after).await.unwrap();
    let first = kept_mark(append(1, None).await);
    append(2, Some(first)).await;
    // As an operator would. The server still remembers the message ids of both.
    let stream = whole.streams.get_stream(whole.config.subjects.events_stream()).await.unwrap();
    stream.purge().await.unwrap();
    let again = kept_mark(append(1, None).await);
    assert!(again.sequence > first.sequence, "{again:?} is a message that is gone");
    let second = kept_mark(append(2, Some(again)).await);
    assert_eq!(event_log.last_event(&id).await.unwrap(), Some(second));
    assert_eq!(second.version.get(), 2);
}

#[tokio::test]
async fn exhausted_delivery_is_distinguished_from_one_in_flight() {
    let whole = kept(Maintenance::CreateMissing).await;
    whole.bus.announce(&work(1)).await.unwrap();
    let pool = PoolName::parse("main").unwrap();
    let stream = whole.streams.get_stream(whole.config.subjects.deletions_stream()).await.unwrap();
    let name = whole.config.subjects.reaper_consumer(&pool);
    let edited = stream.consumer_info(&name).await.unwrap().config;
    let edited = consumer::Config { max_deliver: 1, ack_wait: CHECK_PERIOD, ..edited };
    stream.create_consumer(edited).await.unwrap();
    let consumer = stream.get_consumer::<consumer::pull::Config>(&name).await.unwrap();
    let mut batch = consumer.fetch().max_messages(1).messages().await.unwrap();
    let held = batch.next().await.expect("a delivery").unwrap();
    let sequence = held.info().unwrap().stream_sequence;
    let queued = whole.bus.queued(0, 10).await.unwrap();
    assert_eq!((queued.len(), queued[0].sequence), (1, sequence));
    assert!(whole.bus.handed_out(&pool).await.unwrap() >= sequence);
    // The server counts the last delivery as failed when a consumer asks for more, and a higher limit does not deliver
    // the message again.
    eventually("the consumer to give up", TIMEOUT, || async {
        let mut batch = consumer.fetch().max_messages(1).messages().await.unwrap();
        assert!(batch.next().await.is_none(), "it is not delivered again");
        match whole.bus.given_up(&pool).await.unwrap() {
            up_to if up_to >= sequence => Ok(()),
            up_to => Err(up_to),
        }
    })
    .await;
    whole.bus.open_pool(&pool).await.unwrap();
    let mut batch = consumer.fetch().max_messages(1).messages().await.unwrap();
    assert!(batch.next().await.is_none(), "nor after the limit is lifted");
    assert_eq!(whole.bus.queued(0, 10).await.unwrap(), queued);
}

/// A server with less storage than a fleet needs.
async fn small_server(folder: &std::path::Path, jetstream: &str) -> NatsServer {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (binary, guard) = (servers::nats_binary().await, servers::broker_binary());
    NatsServer::start_with(&binary, &guard, folder, any, jetstream).await.unwrap()
}

#[tokio::test]
async fn refused_stream_is_reported_and_the_others_are_created() {
    let folder = tempfile::tempdir().unwrap();
    let jetstream =
        "jetstream { store_dir: $NATS_STORE_DIR, max_file_store: 512KB, max_memory_store: 1MB }\n";
    let server = small_server(folder.path(), jetstream).await;
    let mut config = nats_config(format!("nats://{}", server.address), config());
    (config.user, config.password, config.check_period) = (None, None, CHECK_PERIOD);
    let bus = connect(config.clone()).await;
    let stop = CancellationToken::new();
    let keeping = tokio::spawn({
        let (bus, stop) = (bus.clone(), stop.clone());
        async move { bus.keep_whole(Maintenance::CreateMissing, &stop).await }
    });
    let problem = eventually("the refusal", TIMEOUT, || async {
        match bus.is_whole() {
            Err(problem) if problem.contains("EVENTS") => Ok(problem),
            other => Err(other),
        }
    })
    .await;
    assert!(problem.contains("insufficient storage"), "{problem}");
    bus.announce(&work(1)).await.expect("the other streams are there");
    stop.cancel();
    keeping.await.unwrap();
    server.child.kill().await;
}

#[tokio::test]
async fn server_without_jetstream_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let server = small_server(folder.path(), "max_payload: 1MB\n").await;
    let mut config = nats_config(format!("nats://{}", server.address), config());
    (config.user, config.password) = (None, None);
    let bus = connect(config).await;
    let stop = CancellationToken::new();
    let keeping = tokio::spawn({
        let (bus, stop) = (bus.clone(), stop.clone());
        async move { bus.keep_whole(Maintenance::CreateMissing, &stop).await }
    });
    eventually("the finding", TIMEOUT, || async {
        match bus.is_whole() {
            Err(problem) if problem.contains("JetStream") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    stop.cancel();
    keeping.await.unwrap();
    server.child.kill().await;
}
