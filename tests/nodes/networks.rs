//! Networks and published ports: a sandbox has its network when its holder learns of it, and keeps both while its runner is away.

use crate::fleet::Fleet;
use crate::node::Node;
use domain::{Descriptor, Sandbox, StateName};
use harness::wait::{TIMEOUT, eventually};
use serde_json::{Value, json};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;

/// What `pasta` needs; some containers do not have it.
const TUN: &str = "/dev/net/tun";
/// The port of the server in a sandbox.
const PORT: u16 = 8_080;
/// An HTTP server that Debian's smallest installation can run.
const SERVER: &str = r#"use IO::Socket::INET;
my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 9, ReuseAddr => 1) or die;
while (my $c = $s->accept) {
    while (<$c>) { last if /^\r?$/ }
    print $c "HTTP/1.0 200 OK\r\n\r\nhello"; close $c;
}"#;
/// An address outside, to which nothing is sent: it tells which address of this machine leads there.
const OUTSIDE: &str = "192.0.2.1:9";

fn template() -> Value {
    json!({
        "image": "host",
        "network": "open",
        "ports": [PORT],
        "command": ["perl", "-e", SERVER],
        "readiness": {"kind": "http", "port": PORT, "path": "/"},
    })
}

/// A server of this machine that is not on its loopback interface; none, with the reason on the terminal, if the machine cannot
/// connect a sandbox.
fn listen() -> Option<TcpListener> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect(OUTSIDE).is_err() || !Path::new(TUN).exists() {
        eprintln!("left out: this machine has no default route or no {TUN}");
        return None;
    }
    Some(TcpListener::bind((socket.local_addr().unwrap().ip(), 0)).unwrap())
}

/// A script that succeeds if it reaches a server.
fn reach(server: &TcpListener) -> String {
    let address = server.local_addr().unwrap();
    format!("bash -c ': </dev/tcp/{}/{}'", address.ip(), address.port())
}

/// Waits until the server in a sandbox answers at its published port.
async fn until_served(sandbox: &Sandbox) {
    let key = format!("{}{PORT}", Descriptor::PORT_PREFIX);
    let url = format!("http://{}/", sandbox.descriptor.get(&key).expect("its published port"));
    eventually("an answer from the published port", TIMEOUT, || async {
        let answer = reqwest::get(&url).await.map_err(|error| error.to_string())?;
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if text == "hello" { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn free_sandbox_gets_its_network_with_the_lease() {
    let Some(server) = listen() else { return };
    let fleet = Fleet::start(&template(), 1).await;
    let mut node = Node::start(&fleet.up, "a").await;
    let free = fleet.until_free_on("a", 1).await;
    until_served(&free[0]).await;
    assert!(!node.is_attached(free[0].id.as_str()), "it has no holder yet");
    let held = fleet.claimed("student-1").await;
    let id = held.id.to_string();
    fleet.until_sh(&id, "student-1", &reach(&server)).await;
    until_served(&held).await;

    node.kill().await;
    until_served(&held).await;
    node.start_again(&fleet.up).await;
    fleet.until_sh(&id, "student-1", &reach(&server)).await;
    until_served(&held).await;
    let inside = node.inside(&id);
    assert!(inside.processes().iter().any(|line| line.contains("pasta")), "{:?}", inside.processes());
    fleet.released(&id, "student-1", &inside).await;
    fleet.end(vec![node]).await;
}

#[tokio::test]
async fn sandbox_of_a_waiting_claim_has_its_network_at_once() {
    let Some(server) = listen() else { return };
    let fleet = Fleet::start(&template(), 0).await;
    let node = Node::start(&fleet.up, "a").await;
    let id = fleet.claim("student-1").await;
    let held = fleet.until_state(&id, StateName::Allocated).await;
    assert!(node.is_attached(&id));
    let done = fleet.sh(&id, "student-1", &reach(&server)).await;
    assert_eq!((done.status, &done.body["exit_code"]), (200, &json!(0)), "{done:?}");
    until_served(&held).await;
    let inside = node.inside(&id);
    fleet.released(&id, "student-1", &inside).await;
    fleet.end(vec![node]).await;
}
