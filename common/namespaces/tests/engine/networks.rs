//! What a sandbox reaches and how it is reached, on a machine whose network the tests make: each test runs again in a network
//! namespace of its own, in which the addresses that must be blocked have real listeners.

use crate::machine::{Machine, config};
use host::Publish;
use namespaces::Config;
use ports::engine::{ContainerSpec, ContainerState, Feature, Incarnation, Network, PublishedPort};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use supervisor::{Client, Job, JobId};
use testkit::engine::suite::{Failure, Subject as _, assert_nothing_left};

/// What `pasta` needs; some containers do not have it.
const TUN: &str = "/dev/net/tun";
/// Set in the namespace of a test.
const IS_INSIDE: &str = "TEST_IS_INSIDE";
/// The machine: an address, a default route to nowhere, addresses that clouds use, and a resolver on its loopback interface.
const MACHINE: &str = r#"set -e
ip link set lo up
ip link add out type veth peer name far
ip address add 192.0.2.10/24 dev out
ip address add 2001:db8::10/64 dev out nodad
ip link set out up; ip link set far up
ip route add default via 192.0.2.1
ip -6 route add default via 2001:db8::1
ip address add 169.254.169.254/32 dev lo
ip address add 169.254.170.2/32 dev lo
ip address add 100.100.100.200/32 dev lo
ip address add fd00:ec2::254/128 dev lo nodad
echo nameserver 127.0.0.53 >"$RESOLVERS"
mount --bind "$RESOLVERS" /etc/resolv.conf
exec "$@"
"#;
/// The machine's address.
const MACHINE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Where clouds answer with credentials.
const METADATA: [&str; 4] = ["169.254.169.254", "169.254.170.2", "100.100.100.200", "fd00:ec2::254"];
/// Time-out for what takes milliseconds on a machine that is not busy.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The port of the server in a sandbox.
const PORT: u16 = 8_080;
/// An HTTP server that Debian's smallest installation can run.
const SERVER: &str = r#"use IO::Socket::INET;
my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 9, ReuseAddr => 1) or die;
while (my $c = $s->accept) {
    while (<$c>) { last if /^\r?$/ }
    print $c "HTTP/1.0 200 OK\r\n\r\nhello"; close $c;
}"#;

/// Whether this is the namespace of the test; else the test was run there, or it is left out.
fn is_inside(test: &str) -> Result<bool, Failure> {
    if !Path::new(TUN).exists() {
        eprintln!("left out: there is no {TUN}");
        return Ok(false);
    }
    if std::env::var_os(IS_INSIDE).is_some() {
        let info = Machine::new().engine().info();
        for feature in [Feature::InternalNetwork, Feature::OpenNetwork, Feature::PublishedPorts] {
            assert_eq!(info.why_not(feature), None);
        }
        return Ok(true);
    }
    let folder = tempfile::tempdir()?;
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", MACHINE, "sh"])
        .arg(std::env::current_exe()?)
        .args(["--exact", &format!("networks::{test}"), "--nocapture"])
        .env(IS_INSIDE, "1")
        .env("RESOLVERS", folder.path().join("resolv.conf"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
    Ok(false)
}

/// A server that says hello on this address, and counts nothing: its backlog says whether it was reached.
fn listen(address: &str) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind((address, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether a command in a sandbox reaches this listener there.
async fn reaches(
    machine: &Machine,
    id: &Incarnation,
    host: &str,
    listener: &TcpListener,
) -> Result<bool, Failure> {
    let port = listener.local_addr()?.port();
    let connect = format!("timeout 2 bash -c ': </dev/tcp/{host}/{port}' 2>/dev/null");
    machine.sh(id, &connect).await?;
    match listener.accept() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Starts the server in a sandbox and returns when it listens.
async fn serve(machine: &Machine, id: &Incarnation) -> Result<(), Failure> {
    let client = Client::connect(machine.engine().connect(id).await?).await?;
    drop(client.start(Job::new(JobId::parse("server")?, ["perl", "-e", SERVER])).await?);
    // 1F90 is the port, and 0A a socket that listens.
    machine.text(id, "until grep -q ':1F90 .* 0A ' /proc/net/tcp; do :; done").await?;
    Ok(())
}

/// What the server in a sandbox answers.
fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn open(spec: &mut ContainerSpec) {
    spec.network = Network::Open;
}

fn published(spec: &mut ContainerSpec) {
    spec.ports = vec![PublishedPort { inside: PORT, outside: None }];
}

async fn endpoint(machine: &Machine, id: &Incarnation) -> Result<SocketAddr, Failure> {
    let listed = machine.engine().list().await?;
    let found = listed.iter().find(|container| container.incarnation == *id).unwrap();
    Ok(found.endpoints[0].address)
}

#[tokio::test]
async fn open_network_reaches_the_outside_and_no_metadata() -> Result<(), Failure> {
    if !is_inside("open_network_reaches_the_outside_and_no_metadata")? {
        return Ok(());
    }
    let machine = Machine::new();
    let id = machine.create(open).await?;
    let (outside, outside_v6) = (listen("192.0.2.10")?, listen("2001:db8::10")?);
    assert!(!reaches(&machine, &id, "192.0.2.10", &outside).await?, "before it is attached");
    assert_eq!(machine.interfaces(&id).await?, "lo");
    machine.engine().attach_network(&id).await?;
    assert!(reaches(&machine, &id, "192.0.2.10", &outside).await?);
    assert!(reaches(&machine, &id, "2001:db8::10", &outside_v6).await?);

    for user in [1_000, 0] {
        let id = machine.create(|spec| (spec.user, spec.network) = (user, Network::Open)).await?;
        machine.engine().attach_network(&id).await?;
        for change in [
            "ip route flush table main",
            "ip link set eth0 down",
            "nft flush ruleset",
            "ip address add 10.9.9.9/8 dev eth0",
        ] {
            machine.text(&id, &format!("! {change} 2>/dev/null")).await?;
        }
        assert!(reaches(&machine, &id, "192.0.2.10", &outside).await?);
        for address in METADATA {
            let listener = listen(address)?;
            TcpStream::connect(listener.local_addr()?)?;
            listener.accept()?;
            assert!(!reaches(&machine, &id, address, &listener).await?, "{address}");
        }
        let loopback = listen("127.0.0.1")?;
        for address in ["127.0.0.1", "10.0.2.2", "10.0.2.3", "localhost", "::ffff:127.0.0.1"] {
            assert!(!reaches(&machine, &id, address, &loopback).await?, "{address}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn open_network_resolves_names() -> Result<(), Failure> {
    if !is_inside("open_network_resolves_names")? {
        return Ok(());
    }
    let machine = Machine::new();
    let resolver = UdpSocket::bind("127.0.0.53:53")?;
    resolver.set_read_timeout(Some(TIMEOUT))?;
    let id = machine.create(open).await?;
    machine.engine().attach_network(&id).await?;
    let answering = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let mut question = [0; 512];
        let (length, from) = resolver.recv_from(&mut question)?;
        let name = question[12..length].to_vec();
        // The same with the flags of an answer without records.
        question[2] |= 0x80;
        resolver.send_to(&question[..length], from)?;
        Ok(name)
    });
    machine.sh(&id, "getent ahostsv4 broker.example").await?;
    let name = answering.join().unwrap()?;
    assert!(name.starts_with(b"\x06broker\x07example\x00"), "{name:?}");
    Ok(())
}

#[tokio::test]
async fn internal_network_reaches_neighbours_only() -> Result<(), Failure> {
    if !is_inside("internal_network_reaches_neighbours_only")? {
        return Ok(());
    }
    let machine = Machine::new();
    let outside = listen("192.0.2.10")?;
    let internal = |spec: &mut ContainerSpec| spec.network = Network::Internal;
    let (one, other) = (machine.create(internal).await?, machine.create(internal).await?);
    let published = machine.create(|spec| {
        internal(spec);
        published(spec);
    });
    let (published, open) = (published.await?, machine.create(open).await?);
    for id in [&one, &published, &open] {
        machine.engine().attach_network(id).await?;
        serve(&machine, id).await?;
    }
    let address = |id| machine.text(id, "hostname -I | tr ' ' '\\n' | grep '^10\\.1\\.'");
    let (first, second) = (address(&one).await?, address(&published).await?);
    let fetch = |host: &str| {
        format!(
            "timeout 5 bash -c 'exec 3<>/dev/tcp/{host}/{PORT}; printf \"GET /\\r\\n\\r\\n\" >&3; tail -n 1 <&3'"
        )
    };
    // Not attached yet.
    assert!(machine.text(&other, &format!("! {} 2>/dev/null", fetch(&first))).await?.is_empty());
    machine.engine().attach_network(&other).await?;
    for address in [&first, &second] {
        assert_eq!(machine.text(&other, &fetch(address)).await?, "hello");
    }
    for id in [&one, &published, &other] {
        assert!(!reaches(&machine, id, "192.0.2.10", &outside).await?);
        machine.text(id, "! bash -c ': </dev/tcp/192.0.2.1/80' 2>/dev/null").await?;
    }
    assert!(reaches(&machine, &open, "192.0.2.10", &outside).await?);
    machine.text(&open, &format!("! {} 2>/dev/null", fetch(&first))).await?;
    assert!(get(endpoint(&machine, &published).await?)?.ends_with("hello"));
    // The neighbours of one that is started again find it at its address.
    machine.engine().stop(&one).await?;
    machine.engine().start(&one).await?;
    serve(&machine, &one).await?;
    assert_eq!(machine.text(&other, &fetch(&first)).await?, "hello");
    Ok(())
}

#[tokio::test]
async fn published_port_serves_and_nothing_goes_out() -> Result<(), Failure> {
    if !is_inside("published_port_serves_and_nothing_goes_out")? {
        return Ok(());
    }
    let outside = listen("192.0.2.10")?;
    for address in [Ipv4Addr::LOCALHOST, MACHINE_ADDRESS] {
        let folder = tempfile::tempdir()?;
        let publish = Publish { address, ports: 30_000..=30_001 };
        let config = Config { publish, ..config(folder.path()) };
        let machine = Machine::with(folder, config);
        let id = machine.create(published).await?;
        let endpoint = endpoint(&machine, &id).await?;
        assert_eq!(endpoint.ip(), address);
        // Nothing listens inside yet: the connection is refused, or ends at once.
        assert_eq!(get(endpoint).unwrap_or_default(), "");
        serve(&machine, &id).await?;
        for _ in 0..2 {
            assert!(get(endpoint)?.ends_with("hello"));
            assert!(!reaches(&machine, &id, "192.0.2.10", &outside).await?);
            machine.engine().attach_network(&id).await?;
        }
        machine.create(published).await?;
        let full = machine.create(published).await.unwrap_err().to_string();
        assert!(full.contains("all ports that may be published are in use"), "{full}");
        machine.engine().remove(&id).await?;
        TcpListener::bind(endpoint)?;
        testkit::engine::suite::remove_all(&machine).await?;
    }
    Ok(())
}

#[tokio::test]
async fn network_survives_restarts_and_its_process() -> Result<(), Failure> {
    if !is_inside("network_survives_restarts_and_its_process")? {
        return Ok(());
    }
    let machine = Machine::new();
    let outside = listen("192.0.2.10")?;
    let id = machine
        .create(|spec| {
            open(spec);
            published(spec);
        })
        .await?;
    machine.engine().attach_network(&id).await?;
    let address = endpoint(&machine, &id).await?;
    assert!(reaches(&machine, &id, "192.0.2.10", &outside).await?);
    let engine = machine.reopened().await;
    engine.attach_network(&id).await?;
    assert!(reaches(&machine, &id, "192.0.2.10", &outside).await?);
    // It stops with its sandbox and starts with it.
    engine.stop(&id).await?;
    assert!(TcpStream::connect(address).is_err());
    engine.start(&id).await?;
    serve(&machine, &id).await?;
    assert!(reaches(&machine, &id, "192.0.2.10", &outside).await? && get(address)?.ends_with("hello"));
    // So it does when process 1 was killed.
    machine.kill(&id).await;
    let deadline = Instant::now() + TIMEOUT;
    while engine.list().await?[0].state != ContainerState::Exited {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    engine.start(&id).await?;
    assert!(reaches(&machine, &id, "192.0.2.10", &outside).await?);
    // What carries its connections was killed: the next call starts another.
    machine.kill_pasta(&id);
    assert!(!reaches(&machine, &id, "192.0.2.10", &outside).await?);
    // (The call may come before its end.)
    while !reaches(&machine, &id, "192.0.2.10", &outside).await? {
        assert!(Instant::now() < deadline);
        engine.attach_network(&id).await?;
    }
    engine.remove(&id).await?;
    assert_nothing_left(&machine).await;
    Ok(())
}

#[tokio::test]
async fn interfaces_of_the_machine_stay_as_they_are() -> Result<(), Failure> {
    if !is_inside("interfaces_of_the_machine_stay_as_they_are")? {
        return Ok(());
    }
    let interfaces = || std::fs::read_dir("/proc/self/net/dev_snmp6").map(|found| found.flatten().count());
    let before = interfaces()?;
    let machine = Machine::new();
    for network in [Network::None, Network::Internal, Network::Open] {
        let id = machine
            .create(|spec| {
                published(spec);
                spec.network = network;
            })
            .await?;
        machine.engine().attach_network(&id).await?;
    }
    assert_eq!(interfaces()?, before);
    testkit::engine::suite::remove_all(&machine).await?;
    assert_eq!(interfaces()?, before);
    Ok(())
}
