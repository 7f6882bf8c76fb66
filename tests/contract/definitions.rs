//! `nats/definitions` equals what the code generates, and the real client accepts the files.

use broker::operate;
use harness::nats_cli::NatsCli;
use harness::servers::{nats_client, nats_url, start_nats};
use harness::wait::{TIMEOUT, eventually};
use nats::{NatsBus, NatsConfig};
use ports::clock::SystemClock;
use ports::random::Rng;
use runtime::settings::Settings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../nats/definitions")
}

fn no_settings() -> BTreeMap<String, String> {
    BTreeMap::new()
}

#[test]
fn committed_files_match_the_generated_ones() {
    let mut kept = BTreeMap::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        kept.insert(entry.file_name().into_string().unwrap(), text);
    }
    let made = operate::definitions(&no_settings()).unwrap();
    assert_eq!(kept, made, "run `broker definitions nats/definitions`");
}

/// Every stream and consumer of the server, without the fields that the server changes by itself.
async fn on_server(url: &str) -> BTreeMap<String, serde_json::Value> {
    use futures_util::TryStreamExt as _;
    let jetstream = async_nats::jetstream::new(nats_client(url).await);
    let mut found = BTreeMap::new();
    let streams: Vec<_> = jetstream.streams().try_collect().await.unwrap();
    for info in streams {
        let name = info.config.name.clone();
        let stream = jetstream.get_stream(&name).await.unwrap();
        found.insert(name.clone(), serde_json::to_value(&info.config).unwrap());
        let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
        for consumer in consumers {
            found
                .insert(format!("{name}.{}", consumer.name), serde_json::to_value(&consumer.config).unwrap());
        }
    }
    found
}

#[tokio::test]
async fn fleet_accepts_streams_created_from_the_definitions() {
    let (server, _folder) = start_nats().await;
    let url = nats_url(server.address);
    let Some(cli) = NatsCli::new(&url) else { return };
    let made = operate::definitions(&no_settings()).unwrap();
    // Streams are created before their consumers.
    for file in made.keys().filter(|file| file.ends_with(".stream.json")) {
        let name = file.trim_end_matches(".stream.json");
        let path = folder().join(file);
        let output = cli.run(&format!("nats stream add {name} --config {}", path.display())).await;
        assert!(output.status.success(), "{file}: {output:?}");
    }
    for file in made.keys().filter(|file| file.ends_with(".consumer.json")) {
        let (stream, _) = file.split_once('.').unwrap();
        let path = folder().join(file);
        let output = cli.run(&format!("nats consumer add {stream} --config {}", path.display())).await;
        assert!(output.status.success(), "{file}: {output:?}");
    }
    let before = on_server(&url).await;
    assert_eq!(before.len(), made.len());
    let env = BTreeMap::from([("NATS_URL".to_owned(), url.clone())]);
    let mut settings = Settings::new(&env);
    let config = NatsConfig::read(&mut settings);
    let bus =
        NatsBus::connect("test", config, Arc::new(SystemClock), Arc::new(Rng::unseeded())).await.unwrap();
    eventually("a connection", TIMEOUT, || async { if bus.connected() { Ok(()) } else { Err("none") } })
        .await;
    bus.set_up(&CancellationToken::new()).await.unwrap();
    let mut after = on_server(&url).await;
    after.remove("KV_broker").expect("the bucket, which is no file");
    assert_eq!(before, after);
    server.child.stop(TIMEOUT).await;
}
