//! The connection itself: servers that hang, stop and return, and credentials that are renewed.

use crate::engines::{Bus, config, nats_config, until_connected};
use crate::fixtures::{answer, ask, ask_later, context, serve};
use crate::requests::code;
use broker::nats_server::NatsServer;
use contract::{FaultCode, Verb};
use futures_util::future::join_all;
use harness::freezing_proxy::FreezingProxy;
use harness::servers;
use harness::wait::{TIMEOUT, eventually};
use nats::{NatsBus, NatsConfig};
use ports::bus::{Answer, Requests as _};
use ports::clock::SystemClock;
use ports::random::Rng;
use runtime::settings::Secret;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);
/// Connections that are spread over the servers. The chance that all go to one of two servers is one in 65,536.
const CONNECTIONS: u64 = 16;

async fn connect(config: NatsConfig, seed: u64) -> NatsBus {
    let bus = NatsBus::connect("test", config, Arc::new(SystemClock), Arc::new(Rng::seeded(seed))).await;
    let bus = bus.expect("a connection");
    until_connected(&bus).await;
    bus
}

fn config_of(urls: &[String]) -> NatsConfig {
    let mut config = nats_config(urls.join(","), config());
    config.link.ping_interval = SECOND;
    config.link.connect_timeout = SECOND;
    config
}

#[tokio::test]
async fn silent_server_is_detected_and_left_within_a_few_pings() {
    let server = servers::shared().await;
    let address = server.nats_url.rsplit('@').next().unwrap().trim_start_matches("nats://");
    let mut proxies = Vec::new();
    for _ in 0..2 {
        proxies.push(FreezingProxy::start(&format!("nats://{address}"), None).await);
    }
    let urls: Vec<_> = proxies.iter().map(|proxy| servers::as_test_user(proxy.address())).collect();
    let bus = connect(config_of(&urls), 7).await;
    bus.probe().await.unwrap();
    // Only one of them carries the connection.
    proxies[0].hold();
    if bus.probe().await.is_ok() {
        proxies[0].let_go();
        proxies[1].hold();
    }
    let since = Instant::now();
    let problem = bus.probe().await.unwrap_err();
    assert!(problem.contains("does not answer") && bus.connected(), "{problem}");
    eventually("an answer of the other server", TIMEOUT, || bus.probe()).await;
    let took = since.elapsed();
    assert!(took < Duration::from_secs(8), "the client took {took:?} to go to the other server");
}

#[tokio::test]
async fn recovered_server_is_used_again() {
    let (stays, _folder) = servers::start_nats().await;
    let (goes, folder) = servers::start_nats().await;
    let addresses = [stays.address, goes.address];
    let urls = addresses.map(servers::nats_url);
    let mut config = config_of(&urls);
    config.link.spread_after = SECOND;
    let buses = join_all((0..CONNECTIONS).map(|seed| connect(config.clone(), seed))).await;
    let stop = CancellationToken::new();
    let spreading = buses.iter().cloned().map(|bus| {
        let stop = stop.clone();
        tokio::spawn(async move { bus.stay_spread(&stop).await })
    });
    let spreading: Vec<_> = spreading.collect();
    let count_at =
        |address: SocketAddr| buses.iter().filter(|bus| bus.server_port() == address.port()).count();
    assert!(addresses.iter().all(|address| count_at(*address) > 0), "both are used at first");
    goes.child.kill().await;
    eventually("all of them at the other one", TIMEOUT, || async {
        let answers = join_all(buses.iter().map(|bus| bus.probe())).await;
        if answers.iter().all(Result::is_ok) { Ok(()) } else { Err(answers) }
    })
    .await;
    assert_eq!(count_at(stays.address) as u64, CONNECTIONS);
    let (back, _folder) = servers::start_nats_on(goes.address, Some(folder)).await;
    eventually("some of them at the one that is back", TIMEOUT, || async {
        if count_at(back.address) > 0 { Ok(()) } else { Err("all at one") }
    })
    .await;
    stop.cancel();
    join_all(spreading).await;
    stays.child.kill().await;
    back.child.kill().await;
}

/// A server with one user, and that user's password.
fn one_user(password: &str) -> String {
    format!(
        "include ./server.conf\nauthorization {{ users: [ {{ user: reaper, password: {password} }} ] }}\n"
    )
}

#[tokio::test]
async fn rotated_password_needs_no_restart() {
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "first\n").unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (binary, guard) = (servers::nats_binary().await, servers::broker_binary());
    let first = one_user("first");
    let server = NatsServer::start_with(&binary, &guard, folder.path(), any, &first).await.unwrap();
    let mut config = config_of(&[format!("nats://{}", server.address)]);
    config.user = Some("reaper".to_owned());
    config.password = None;
    config.password_file = Some(password_file.clone());
    let bus = connect(config, 7).await;
    bus.probe().await.unwrap();
    // The rotation of a secret: the server loads the new one and closes the connections that used the old one.
    std::fs::write(folder.path().join("nats.conf"), one_user("second")).unwrap();
    let pid = server.child.id().to_string();
    let signalled = tokio::process::Command::new("kill").args(["-HUP", &pid]).status().await.unwrap();
    assert!(signalled.success());
    eventually("the old password to be refused", TIMEOUT, || async {
        if bus.probe().await.is_err() { Ok(()) } else { Err("still accepted") }
    })
    .await;
    std::fs::write(&password_file, "second\n").unwrap();
    eventually("the new password to be used", TIMEOUT, || bus.probe()).await;
    server.child.kill().await;
}

#[tokio::test]
async fn server_with_a_low_max_payload_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (binary, guard) = (servers::nats_binary().await, servers::broker_binary());
    let text = "max_payload: 16KB\n";
    let server = NatsServer::start_with(&binary, &guard, folder.path(), any, text).await.unwrap();
    let mut config = config_of(&[format!("nats://{}", server.address)]);
    (config.user, config.password) = (None, None::<Secret>);
    let bus = connect(config, 7).await;
    let problem = bus.probe().await.unwrap_err();
    assert!(problem.contains("max_payload") && problem.contains("16384"), "{problem}");
    let bus: Arc<dyn Bus> = Arc::new(bus);
    let (mut inbox, _running) = serve(&bus, 4);
    let too_large = "x".repeat(20 * 1_024);
    // The client refuses what exceeds the server's limit: the server would close the connection, and all other messages
    // on it would be lost.
    let reply = ask(bus.as_ref(), Verb::Get, &context("r"), too_large.clone()).await.unwrap();
    assert_eq!((reply.is_fault, code(&reply.body)), (true, FaultCode::BodyTooLarge));
    assert!(inbox.poll().is_none(), "no worker saw it");
    let asked = ask_later(&bus, context("r"), "{}");
    let large = Answer { outcome: None, body: Ok(too_large.into()) };
    inbox.next().await.answer(large);
    let reply = asked.await.unwrap().unwrap();
    assert_eq!((reply.is_fault, code(&reply.body)), (true, FaultCode::InternalError));
    let asked = ask_later(&bus, context("r"), "{}");
    inbox.next().await.answer(answer("{}"));
    assert!(!asked.await.unwrap().unwrap().is_fault, "the connection goes on");
    server.child.kill().await;
}
