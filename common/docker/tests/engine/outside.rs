//! An outside for the network of the test run: another network namespace, which has addresses that must be blocked. And servers in
//! sandboxes.

use crate::machine::{Machine, TIMEOUT};
use futures_util::FutureExt as _;
use ports::engine::{ContainerSpec, Incarnation, PublishedPort};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use supervisor::{Client, Job, JobId};
use testkit::engine::suite::{Failure, Subject as _};
use tokio::net::TcpListener;

/// Makes the outside in the network namespace of a process.
const OUTSIDE: &str = r#"set -e
ip link add out type veth peer name far netns "$1"
ip address add 192.0.2.10/24 dev out
ip link set out up
for blocked in 169.254.169.254 169.254.170.2 100.100.100.200; do ip route add $blocked via 192.0.2.1; done
exec nsenter --target "$1" --net sh -ec '
ip link set lo up
ip address add 192.0.2.1/24 dev far
ip link set far up
for blocked in 169.254.169.254 169.254.170.2 100.100.100.200; do ip address add $blocked/32 dev far; done'"#;
/// Keeps a network namespace, in which it is when it has written a line.
const HOLDER: &str = "echo; exec cat";
/// Its address.
pub(crate) const OUTSIDE_ADDRESS: &str = "192.0.2.1";
/// The machine's address there.
pub(crate) const MACHINE_ADDRESS: &str = "192.0.2.10";
/// The port of the server in a sandbox.
pub(crate) const PORT: u16 = 8_080;
/// What it answers.
const HELLO: &str = "hello from a sandbox";

/// The process that keeps the outside, as long as this one lives.
static OUTSIDE_HOLDER: LazyLock<Child> = LazyLock::new(|| {
    let mut holder = Command::new("unshare");
    holder.args(["--net", "sh", "-c", HOLDER]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let made = Command::new("sh").args(["-c", OUTSIDE, "sh", &holder.id().to_string()]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    holder
});

/// A server here.
pub(crate) fn listen(address: &str) -> TcpListener {
    LazyLock::force(&OUTSIDE_HOLDER);
    TcpListener::from_std(listener(address)).unwrap()
}

/// A server outside.
pub(crate) fn listen_outside(address: &'static str) -> TcpListener {
    TcpListener::from_std(listener_of(OUTSIDE_HOLDER.id(), address)).unwrap()
}

/// A socket in the network namespace of a process.
pub(crate) fn listener_of(process: u32, address: &'static str) -> std::net::TcpListener {
    let enter_and_listen = move || {
        let namespace = File::open(format!("/proc/{process}/ns/net")).unwrap();
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).unwrap();
        listener(address)
    };
    // A thread is in a namespace of its own; the socket stays there.
    std::thread::spawn(enter_and_listen).join().unwrap()
}

/// A socket in that of this process, for tokio.
pub(crate) fn listener(address: &str) -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind((address, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Whether a command in a sandbox reaches this server.
pub(crate) async fn reaches(
    machine: &Machine,
    id: &Incarnation,
    listener: &TcpListener,
) -> Result<bool, Failure> {
    let address = listener.local_addr()?;
    let connect = format!("nc -w 1 {} {} </dev/null", address.ip(), address.port());
    let job = machine.sh_as(0, id, &connect);
    tokio::pin!(job);
    tokio::select! {
        accepted = listener.accept() => {
            drop(accepted?);
            job.await?;
            Ok(true)
        }
        ended = &mut job => {
            ended?;
            Ok(listener.accept().now_or_never().is_some())
        }
    }
}

/// Starts the server in a sandbox and returns when it listens.
pub(crate) async fn serve(machine: &Machine, id: &Incarnation) -> Result<(), Failure> {
    let client = Client::connect(machine.engine().connect(id).await?).await?;
    machine.text(id, &format!("echo {HELLO} >/workspace/index.html")).await?;
    let port = PORT.to_string();
    let server = ["httpd", "-f", "-p", &port, "-h", "/workspace"];
    drop(client.start(Job::new(JobId::parse("server")?, server)).await?);
    // 1F90 is the port, and 0A a socket that listens.
    machine.text(id, "until grep -q ':1F90 .* 0A ' /proc/net/tcp /proc/net/tcp6; do :; done").await?;
    Ok(())
}

/// What the server in a sandbox answers to this machine.
fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Whether the server in a sandbox answers.
pub(crate) fn answers(address: SocketAddr) -> bool {
    get(address).is_ok_and(|text| text.trim_end().ends_with(HELLO))
}

/// A script that gets from the server at this address.
pub(crate) fn fetch(address: &str) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} {PORT} | grep -q '{HELLO}'")
}

pub(crate) fn published(spec: &mut ContainerSpec) {
    spec.ports = vec![PublishedPort { inside: PORT, outside: None }];
}

pub(crate) async fn endpoint(machine: &Machine, id: &Incarnation) -> SocketAddr {
    machine.listed(id).await.unwrap().endpoints[0].address
}

/// The addresses of a sandbox on its networks.
pub(crate) async fn addresses(machine: &Machine, id: &Incarnation) -> Result<String, Failure> {
    machine.text(id, "ip -4 -o address show scope global | sed 's/.*inet \\([0-9.]*\\).*/\\1/'").await
}
