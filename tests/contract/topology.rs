//! Streams, consumers and bucket as a running fleet made them, against the tables in `nats/README.md`.

use crate::markdown::{Document, quoted};
use async_nats::jetstream::consumer::{self, AckPolicy};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use contract::{Pause, ProvisionWork};
use domain::{PoolName, StateName};
use futures_util::TryStreamExt as _;
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{DeletionControl as _, Provisions};
use std::collections::BTreeSet;
use std::time::Duration;

const README: &str = "nats/README.md";

/// A name of a test's fleet as the default fleet has it.
fn plain(rig: &Rig, name: &str) -> String {
    let prefix = rig.bus.subjects().prefix();
    name.replace(&format!("{prefix}."), "sandbox.").replace(&format!("-{prefix}"), "")
}

/// The row of a stream, as the document writes it.
fn stream_row(rig: &Rig, config: &stream::Config) -> Vec<String> {
    let subjects: Vec<_> =
        config.subjects.iter().map(|subject| format!("`{}`", plain(rig, subject))).collect();
    let retention = match config.retention {
        RetentionPolicy::WorkQueue => "work queue",
        RetentionPolicy::Limits => "limits",
        RetentionPolicy::Interest => "interest",
    };
    let beyond = match config.discard {
        DiscardPolicy::Old => "the oldest goes",
        DiscardPolicy::New => "a new one is refused",
    };
    vec![
        format!("`{}`", plain(rig, &config.name)),
        subjects.join(", "),
        retention.to_owned(),
        if config.max_age.is_zero() {
            assert!(config.max_bytes <= 0, "{}: {config:?}", config.name);
            "ever".to_owned()
        } else {
            let days = config.max_age.as_secs() / 86_400;
            format!("{days} days, {} MiB", config.max_bytes / (1_024 * 1_024))
        },
        limit(config.max_messages_per_subject),
        beyond.to_owned(),
        format!("{} min", config.duplicate_window.as_secs() / 60),
        format!("at most {} KiB", config.max_message_size / 1_024),
    ]
}

/// The row of a consumer, as the document writes it but for the settings' names.
fn consumer_row(rig: &Rig, info: &consumer::Info) -> Vec<String> {
    let config = &info.config;
    vec![
        format!("`{}`", info.name),
        format!("`{}`", plain(rig, &info.stream_name)),
        format!("`{}`", plain(rig, &config.filter_subject)),
        limit(config.max_ack_pending),
        format!("{} s of silence", config.ack_wait.as_secs()),
        limit(config.max_deliver),
    ]
}

fn limit(value: i64) -> String {
    if value <= 0 { "no limit".to_owned() } else { value.to_string() }
}

/// A cell without the settings that it names in parentheses.
fn without_settings(cell: &str) -> String {
    let Some((before, rest)) = cell.split_once(" (") else { return cell.to_owned() };
    format!("{before}{}", rest.split_once(')').unwrap().1)
}

#[tokio::test]
async fn streams_and_consumers_match_the_documentation() {
    // The rig's own wait is shorter, and its event log smaller, than the defaults that the document names.
    let rig = Plan::new(3)
        .set("DELETION_ACK_WAIT_SECONDS", 15)
        .set("EVENTS_BYTES_MAX", 256 * 1024 * 1024)
        .start()
        .await;
    let (jetstream, code) = (rig.jetstream().await, rig.bus.subjects());
    for (sandbox_id, is_leased) in [("ctr_1", true), ("ctr_2", false)] {
        let (sandbox_id, pool, template) = (sandbox_id.to_owned(), "shells".to_owned(), "shell@3".to_owned());
        let work =
            ProvisionWork { version: 1, sandbox_id, pool, epoch: 1, template, is_leased, requested_at: 1 };
        Provisions::announce(&rig.bus, &work).await.unwrap();
    }
    let (mut streams, mut consumers) = (Vec::new(), Vec::new());
    let names = [
        code.deletions_stream(),
        code.provisions_stream(),
        code.parked_stream(),
        code.ticks_stream(),
        code.events_stream(),
    ];
    for name in names {
        let stream = jetstream.get_stream(&name).await.unwrap();
        let config = &stream.cached_info().config;
        assert_eq!((config.storage, config.num_replicas), (StorageType::File, 1), "{name}");
        assert!(config.allow_direct && config.max_messages <= 0, "{name}: {config:?}");
        streams.push(stream_row(&rig, config));
        let of_stream: Vec<_> = stream.consumers().try_collect().await.unwrap();
        for info in &of_stream {
            assert_eq!(info.config.ack_policy, AckPolicy::Explicit, "{}", info.name);
            assert_eq!(info.config.durable_name.as_ref(), Some(&info.name));
            consumers.push(consumer_row(&rig, info));
        }
    }
    let readme = Document::read(README);
    assert_eq!(readme.rows("Streams"), streams);
    let written = readme.rows("Consumers").into_iter();
    let written: BTreeSet<Vec<String>> =
        written.map(|row| row.iter().map(|cell| without_settings(cell)).collect()).collect();
    assert_eq!(written, consumers.into_iter().collect());
    rig.stop().await;
}

#[tokio::test]
async fn bucket_keys_match_the_documentation() {
    let rig = Plan::new(6).start().await;
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    rig.until_state(claim.sandbox(), StateName::Deleted).await;
    // A pause that is over.
    rig.bus.pause(&Pause { until: Some(1), ..Pause::default() }).await.unwrap();
    let bucket = rig.jetstream().await.get_key_value(rig.bus.subjects().bucket()).await.unwrap();
    let written: BTreeSet<String> = Document::read(README)
        .rows("Bucket and keys")
        .iter()
        // One holds nothing, so the document of the contract does not name it.
        .filter(|row| row[1] == "key" || row[1] == "empty key")
        .flat_map(|row| quoted(&row[0]))
        // Keys of providers are there only while some pool has a period.
        .filter(|key| !key.contains('<'))
        .collect();
    // The first run of each kind may still be under way.
    eventually("all keys", TIMEOUT, || async {
        let keys: BTreeSet<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
        if keys == written { Ok(()) } else { Err(keys) }
    })
    .await;
    let status = bucket.status().await.unwrap();
    assert_eq!((status.history(), status.max_age()), (1, Duration::ZERO));
    rig.stop().await;
}

#[tokio::test]
async fn paused_consumer_stays_paused_when_a_worker_starts() {
    let rig = Plan::new(3).start().await;
    let (name, consumer) = (rig.bus.subjects().deletions_stream(), "reaper-main");
    let stream = rig.jetstream().await.get_stream(&name).await.unwrap();
    rig.pause_deletions().await;
    let worker = rig.another_bus().await;
    worker.set_up(&tokio_util::sync::CancellationToken::new()).await.unwrap();
    worker.open_pool(&PoolName::parse("main").unwrap()).await.unwrap();
    assert!(stream.consumer_info(consumer).await.unwrap().paused, "a start has lifted the pause");
    worker.close().await;
    rig.stop().await;
}
