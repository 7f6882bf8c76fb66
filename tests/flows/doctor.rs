//! `broker doctor` on a sound fleet and with one planted fault after the other.

use aws_sdk_dynamodb::types::TimeToLiveSpecification;
use broker::doctor::{Fault, Findings, Status, examine};
use broker::nats_server::NatsServer;
use broker::transport::Ports;
use dynamodb::DynamoStore;
use dynamodb::indexes::OptionalIndex;
use futures_util::StreamExt as _;
use harness::clock::ShiftedClock;
use harness::process::run;
use harness::rig::{Plan, Rig};
use harness::servers::{self, broker_binary, nats_binary};
use harness::wait::{TIMEOUT, eventually};
use ports::random::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

type Env = BTreeMap<String, String>;

/// A NATS server without JetStream.
const WITHOUT_JETSTREAM: &str = "host: 127.0.0.1\nmax_payload: 1MB\n";
/// A NATS server whose only user may read streams and nothing else.
const WITH_READER: &str = "include ./server.conf\n\
    authorization { users: [ { user: operator, password: right, permissions: {\n\
        publish: { allow: [\"_INBOX.>\", \"$JS.API.>\", \"$SRV.>\"] }, subscribe: { allow: [\"_INBOX.>\"] }\n\
    } } ] }\n";

/// Runs every check; `ahead` is the error of the clock.
async fn look(env: &Env, ahead: Duration) -> Findings {
    let clock = ShiftedClock::default();
    clock.advance(ahead);
    examine(env, &Ports { clock: Arc::new(clock), random: Arc::new(Rng::unseeded()) }).await
}

/// The environment with these changes.
fn with(env: &Env, changes: &[(&str, &str)]) -> Env {
    let changes = changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    env.clone().into_iter().chain(changes).collect()
}

/// Checks that the doctor finds that fault with these changes, says where, and what to do.
async fn names(env: &Env, changes: &[(&str, &str)], fault: Fault, detail: &str) {
    found(&look(&with(env, changes), Duration::ZERO).await, fault, detail);
}

fn found(findings: &Findings, fault: Fault, detail: &str) {
    let named = findings.findings.iter().filter(|finding| finding.fault == Some(fault));
    let named: Vec<_> = named.filter(|finding| finding.detail.contains(detail)).collect();
    assert!(!named.is_empty(), "{fault:?} {detail:?} is not in {findings:#?}");
    assert!(named.iter().all(|finding| matches!(finding.status, Status::Warn | Status::Fail)), "{named:?}");
    assert!(named.iter().all(|finding| finding.remedy.is_some_and(|remedy| remedy.len() > 20)), "{named:?}");
}

fn unused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn start_nats(folder: &Path, configuration: &str) -> NatsServer {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    NatsServer::start_with(&nats_binary().await, &broker_binary(), folder, any, configuration).await.unwrap()
}

/// Exit code and findings of the command.
async fn command(env: &Env) -> (i32, Value) {
    let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let output = run(&["doctor", "--json"], &env).await;
    let findings = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code().unwrap(), findings)
}

/// Answers discovery as a worker of a former build.
async fn add_former_worker(rig: &Rig) {
    let client = servers::nats_client(&rig.env["NATS_URL"]).await;
    let mut questions = client.subscribe("$SRV.STATS").await.unwrap();
    client.flush().await.unwrap();
    let answer = json!({"name": "sandbox-reaper", "id": "former", "version": "0.0.9",
        "metadata": {"prefix": rig.env["SUBJECT_PREFIX"]}})
    .to_string();
    tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            client.publish(question.reply.unwrap(), answer.clone().into()).await.unwrap();
        }
    });
}

#[tokio::test]
async fn doctor_finds_no_fault_in_a_sound_fleet_and_names_faults_of_roles_clock_and_provider() {
    let rig = Plan::new(2).set("CLOCK_SKEW_MAX_SECONDS", 10).start().await;
    let (code, findings) = eventually("a sound fleet", TIMEOUT, || async {
        match command(&rig.env).await {
            (0, findings) => Ok((0, findings)),
            faulty => Err(faulty),
        }
    })
    .await;
    let statuses: Vec<_> =
        findings["findings"].as_array().unwrap().iter().map(|one| one["status"].as_str().unwrap()).collect();
    assert!(code == 0 && statuses.len() >= 12 && statuses.iter().all(|status| *status == "ok"), "{findings}");

    let unused = unused();
    let (provider, table) = (format!("http://{unused}/v2"), format!("http://{unused}"));
    names(&rig.env, &[("CSP_API_TOKEN", "another")], Fault::ProviderTokenRefused, "csp").await;
    names(&rig.env, &[("CSP_BASE_URL", &provider)], Fault::ProviderUnreachable, "csp").await;
    let unreachable = [("DYNAMODB_ENDPOINT", table.as_str()), ("STORE_OPERATION_TIMEOUT_MS", "10000")];
    names(&rig.env, &unreachable, Fault::TableUnreachable, "describe_table").await;
    names(&rig.env, &[("TOMBSTONE_DAYS", "7")], Fault::SharedSettingsDiffer, "TOMBSTONE_DAYS is 7").await;
    names(&rig.env, &[("EVENTS_DAYS", "7")], Fault::StreamDiffers, "max_age").await;
    names(&rig.env, &[("NATS_CHECK_SECONDS", "soon")], Fault::SettingsInvalid, "NATS_CHECK_SECONDS").await;
    let skewed = look(&rig.env, Duration::from_secs(600)).await;
    found(&skewed, Fault::ClockSkewed, "600 s ahead of the clock of NATS");
    add_former_worker(&rig).await;
    names(&rig.env, &[], Fault::VersionDiffers, "reaper former has 0.0.9").await;
    let (code, findings) = command(&rig.env).await;
    assert_eq!((code, findings.to_string().contains("version-differs")), (1, true), "{findings}");
    rig.stop().await;
}

#[tokio::test]
async fn doctor_names_faults_of_the_table() {
    let rig = Plan::new(1).start().await;
    names(&rig.env, &[("DYNAMODB_TABLE", "nowhere")], Fault::TableMissing, "nowhere").await;
    let (endpoint, table) = (&rig.env["DYNAMODB_ENDPOINT"], &rig.env["DYNAMODB_TABLE"]);
    let off = TimeToLiveSpecification::builder().enabled(false).attribute_name("ttl").build().unwrap();
    let client = harness::dynamodb::client(endpoint);
    let request = client.update_time_to_live().table_name(table).time_to_live_specification(off);
    request.send().await.unwrap();
    names(&rig.env, &[], Fault::TtlOff, "off").await;
    let store = DynamoStore::connect(&harness::dynamodb::config(endpoint, table, 1)).await;
    store.drop_index(OptionalIndex::Group).await.unwrap();
    let reads_groups = [("STORE_READ_GROUP_INDEX", "true")];
    names(&rig.env, &reads_groups, Fault::IndexMissing, "GroupIndex is missing").await;
    store.drop_index(OptionalIndex::Lab).await.unwrap();
    names(&rig.env, &[], Fault::IndexMissing, "LabIndex is missing").await;
    rig.stop().await;
}

#[tokio::test]
async fn doctor_names_faults_of_streams_and_missing_roles() {
    let mut rig = Plan::new(1).start().await;
    // Without workers, which would mend it.
    let bus = rig.another_bus().await;
    rig.stop_fleet().await.unwrap();
    bus.set_up(&CancellationToken::new()).await.unwrap();
    let jetstream = async_nats::jetstream::new(servers::nats_client(&rig.env["NATS_URL"]).await);
    let mut config =
        jetstream.get_stream(bus.subjects().parked_stream()).await.unwrap().cached_info().config.clone();
    config.max_messages_per_subject = 2;
    jetstream.update_stream(config).await.unwrap();
    jetstream.delete_stream(bus.subjects().events_stream()).await.unwrap();
    let ticks = jetstream.get_stream(bus.subjects().ticks_stream()).await.unwrap();
    ticks.delete_consumer("reconciler-sync").await.unwrap();
    let findings = look(&rig.env, Duration::ZERO).await;
    found(&findings, Fault::StreamMissing, &bus.subjects().events_stream());
    found(&findings, Fault::StreamMissing, "reconciler-sync");
    found(&findings, Fault::StreamDiffers, "max_msgs_per_subject");
    found(&findings, Fault::RoleMissing, "reaper");
    bus.close().await;
}

#[tokio::test]
async fn doctor_names_faults_of_the_nats_server() {
    let folder = tempfile::tempdir().unwrap();
    let dead = Env::from([("NATS_URL".to_owned(), format!("nats://{}", unused()))]);
    names(&dead, &[], Fault::NatsUnreachable, &dead["NATS_URL"]).await;

    let server = start_nats(&folder.path().join("plain"), WITHOUT_JETSTREAM).await;
    let plain = Env::from([("NATS_URL".to_owned(), format!("nats://{}", server.address))]);
    names(&plain, &[], Fault::JetstreamOff, "off").await;
    server.child.stop(TIMEOUT).await;

    let server = start_nats(&folder.path().join("users"), WITH_READER).await;
    let env = Env::from([
        ("NATS_URL".to_owned(), format!("nats://{}", server.address)),
        ("NATS_USER".to_owned(), "{role}".to_owned()),
        ("NATS_PASSWORD".to_owned(), "right".to_owned()),
    ]);
    names(&env, &[], Fault::PermissionMissing, "publish to sandbox.v1.health").await;
    names(&env, &[], Fault::PermissionMissing, "publish to sandbox.ticks.census").await;
    names(&env, &[], Fault::StreamMissing, "DELETIONS is missing").await;
    names(&env, &[("NATS_PASSWORD", "wrong")], Fault::NatsCredentialsRefused, "authorization violation")
        .await;
    let file = folder.path().join("absent");
    let absent = [("NATS_CREDENTIALS_FILE", file.to_str().unwrap())];
    names(&env, &absent, Fault::NatsCredentialsRefused, "NATS_CREDENTIALS_FILE").await;
    server.child.stop(TIMEOUT).await;
}
