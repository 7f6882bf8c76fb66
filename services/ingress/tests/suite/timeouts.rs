//! How long the server waits for callers, and which connection it closes for a new one. The configured times are short;
//! no test asserts how long anything took.

use crate::raw_http::{CLAIM, Client, Server, created};
use crate::support::{Rig, Step};
use tokio::net::TcpStream;

const HEAD: &str =
    "POST /v1/allocate HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer lab-token-1\r\nX-Track-ID: p-1\r\n";
/// Longer than any test.
const NEVER: &str = "60000";

/// The number of connections that ended for this reason.
fn closed(rig: &Rig, reason: &str) -> u64 {
    let families = rig.registry.gather();
    let family = families.iter().find(|family| family.name() == "broker_http_connections_closed_total");
    let metric = family.unwrap().get_metric().iter();
    let mut values = metric
        .filter(|metric| metric.get_label().iter().any(|label| label.value() == reason))
        .map(|metric| metric.get_counter().get_value());
    values.next().unwrap() as u64
}

/// Waits until a connection ended for this reason.
async fn until_closed(server: &Server, reason: &str) {
    while closed(&server.rig, reason) == 0 {
        tokio::task::yield_now().await;
    }
}

/// Writes one byte repeatedly until the server closes the connection; returns what the server sent.
async fn dribble(client: &mut Client, byte: u8) -> String {
    while client.try_write(&[byte]).await && !client.has_something().await {}
    client.finish().await;
    client.rest().await
}

#[tokio::test]
async fn slow_head_times_out() {
    let server = Server::start(&[("HTTP_HEAD_PATIENCE_MS", "100")], [created()]).await;
    let mut client = server.client().await;
    client.write("GET / HTTP/1.1\r\nHost: b\r\nX: ").await;
    let all = dribble(&mut client, b'x').await;
    // On a slow machine the head may exceed its size first; on every other machine it exceeds its time.
    assert!(all.starts_with("HTTP/1.1 408 ") || all.starts_with("HTTP/1.1 431 "), "{all}");
    // A head that stops in the middle gets the same answer, also on a connection that has worked before.
    let mut client = server.client().await;
    client.claims().await;
    client.write("GET / HT").await;
    let all = client.rest().await;
    assert!(all.starts_with("HTTP/1.1 408 ") && all.contains("REQUEST_TIMEOUT"), "{all}");
    assert!(all.contains("connection: close\r\n"), "{all}");
    assert!(closed(&server.rig, "head_too_slow") > 0);
}

#[tokio::test]
async fn slow_body_times_out() {
    let server = Server::start(&[("HTTP_BODY_PATIENCE_MS", "100")], [created()]).await;
    let mut client = server.client().await;
    client.write(&format!("{HEAD}Content-Length: 60000\r\n\r\n")).await;
    let all = dribble(&mut client, b'x').await;
    assert!(all.starts_with("HTTP/1.1 408 ") && all.contains("REQUEST_TIMEOUT"), "{all}");
    assert!(all.contains("connection: close\r\n"), "{all}");
    assert!(server.rig.workers.seen().is_empty());
}

#[tokio::test]
async fn idle_connection_is_closed_silently() {
    let server = Server::start(&[("HTTP_IDLE_MS", "50")], [created()]).await;
    let (mut fresh, mut kept) = (server.client().await, server.client().await);
    kept.claims().await;
    assert_eq!((fresh.rest().await, kept.rest().await), (String::new(), String::new()));
    drop((fresh, kept));
    until_closed(&server, "idle").await;
}

#[tokio::test]
async fn idle_timeout_does_not_apply_to_a_running_request() {
    let server = Server::start(&[("HTTP_IDLE_MS", "10")], [Step::SayWhenLet("{}")]).await;
    let (mut client, mut idle) = (server.client().await, server.client().await);
    client.write(CLAIM).await;
    server.rig.workers.hanging.acquire().await.unwrap().forget();
    // That connection has been closed by now, and the other one would have been too.
    assert_eq!(idle.rest().await, "");
    server.rig.workers.gate.add_permits(1);
    assert!(client.read().await.0.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn unread_response_times_out() {
    let server =
        Server::start(&[("HTTP_WRITE_PATIENCE_MS", "100"), ("HTTP_IDLE_MS", NEVER)], [created()]).await;
    let mut client = server.client().await;
    // More answers than any buffer holds, none of which the client reads.
    while client.try_write("GET /v1/openapi.json HTTP/1.1\r\nHost: b\r\n\r\n".repeat(50).as_bytes()).await
        && closed(&server.rig, "unread") == 0
    {
        tokio::task::yield_now().await;
    }
    until_closed(&server, "unread").await;
}

#[tokio::test]
async fn longest_idle_connection_is_evicted_when_full() {
    let settings = [("HTTP_CONNECTIONS_MAX", "3"), ("HTTP_IDLE_MS", NEVER)];
    let server = Server::start(&settings, [Step::SayWhenLet("{}"), created()]).await;
    let mut busy = server.client().await;
    busy.write(CLAIM).await;
    server.rig.workers.hanging.acquire().await.unwrap().forget();
    let (mut first, mut second) = (server.client().await, server.client().await);
    // Each has been answered, so that their order by idle time is known.
    for client in [&mut first, &mut second] {
        client.claims().await;
    }
    let mut next = server.client().await;
    next.claims().await;
    assert_eq!(first.rest().await, "");
    second.claims().await;
    server.rig.workers.gate.add_permits(1);
    assert!(busy.read().await.0.starts_with("HTTP/1.1 200"));
    assert_eq!(closed(&server.rig, "made_room"), 1);
}

#[tokio::test]
async fn incomplete_heads_do_not_block_new_connections() {
    let settings = [("HTTP_CONNECTIONS_MAX", "2"), ("HTTP_HEAD_PATIENCE_MS", NEVER)];
    let server = Server::start(&settings, [created()]).await;
    let mut slow = Vec::new();
    for _ in 0..10 {
        let mut client = server.client().await;
        client.write("GET / HTTP/1.1\r\n").await;
        slow.push(client);
    }
    for _ in 0..3 {
        let mut client = server.client().await;
        client.claims().await;
    }
    let all = slow[0].rest_if_any().await;
    assert!(all.is_empty() || all.starts_with("HTTP/1.1 503 ") && all.contains("NO_WORKERS"), "{all}");
}

#[tokio::test]
async fn connections_per_address_are_limited() {
    let settings = [("HTTP_CONNECTIONS_PER_PEER_MAX", "2"), ("HTTP_IDLE_MS", NEVER)];
    let server = Server::start(&settings, [created()]).await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    for client in [&mut one, &mut two] {
        client.claims().await;
    }
    assert_eq!(server.client().await.rest_if_any().await, "");
    assert_eq!(closed(&server.rig, "peer"), 1);
    // A trusted proxy represents many callers.
    let trusted = [settings.as_slice(), &[("TRUSTED_PROXIES", "127.0.0.0/8")]].concat();
    let server = Server::start(&trusted, [created()]).await;
    let mut kept = Vec::new();
    for _ in 0..5 {
        let mut client = server.client().await;
        client.claims().await;
        kept.push(client);
    }
}

#[tokio::test]
async fn requests_after_the_stop_get_a_503() {
    let settings = [("HTTP_LINGER_MS", "0"), ("HTTP_HEAD_PATIENCE_MS", NEVER)];
    let server = Server::start(&settings, [created(), Step::SayWhenLet("{}")]).await;
    let (mut slow, mut busy) = (server.client().await, server.client().await);
    busy.claims().await;
    slow.write("GET / HTTP/1.1\r\n").await;
    // Two requests at once: the first one runs when the stop comes, the second one waits behind it.
    busy.write(&CLAIM.repeat(2)).await;
    server.rig.workers.hanging.acquire().await.unwrap().forget();
    server.stop.cancel();
    let all = slow.rest().await;
    assert!(all.starts_with("HTTP/1.1 503 ") && all.contains("this ingress is stopping"), "{all}");
    assert!(all.contains("connection: close\r\n") && all.contains("retry-after: 1\r\n"), "{all}");
    server.rig.workers.gate.add_permits(1);
    let all = busy.rest().await;
    assert!(all.starts_with("HTTP/1.1 200 ") && all.contains("connection: close\r\n"), "{all}");
    drop((slow, busy));
    server.ended().await;
}

/// More than any buffer holds.
const LARGE_BYTES: usize = 32 << 20;

/// An answer of that length.
fn large_answer() -> Step {
    Step::Say(None, Box::leak("x".repeat(LARGE_BYTES).into_boxed_str()))
}

const LOOK: &str =
    "GET /v1/admin/sandboxes HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer admin-token-1\r\n\r\n";

/// A client whose answer has begun, and that does not read it.
async fn slow_reader(server: &Server) -> Client {
    let mut client = server.client().await;
    client.write(LOOK).await;
    while !client.has_something().await {}
    client
}

#[tokio::test]
async fn eviction_spares_a_response_in_progress() {
    let settings = [("HTTP_CONNECTIONS_MAX", "2"), ("HTTP_IDLE_MS", NEVER)];
    let server = Server::start(&settings, [large_answer(), created()]).await;
    let mut slow = slow_reader(&server).await;
    let mut waits = server.client().await;
    waits.claims().await;
    let mut next = server.client().await;
    next.claims().await;
    assert_eq!(waits.rest().await, "");
    assert_eq!(slow.read().await.1.len(), LARGE_BYTES);
}

#[tokio::test]
async fn stop_and_idle_timeout_spare_a_response_in_progress() {
    let server = Server::start(&[("HTTP_IDLE_MS", "50")], [large_answer()]).await;
    let (mut slow, mut idle) = (slow_reader(&server).await, server.client().await);
    // By now the other connection has been silent for the same time.
    assert_eq!(idle.rest().await, "");
    server.stop.cancel();
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(slow.read().await.1.len(), LARGE_BYTES);
    assert_eq!(slow.rest().await, "");
    server.ended().await;
}

#[tokio::test]
async fn unread_open_route_does_not_block_new_connections() {
    let settings =
        [("HTTP_CONNECTIONS_MAX", "1"), ("HTTP_IDLE_MS", NEVER), ("HTTP_WRITE_PATIENCE_MS", NEVER)];
    let server = Server::start(&settings, [created()]).await;
    let mut greedy = server.client().await;
    let page = "GET /v1/docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: b\r\n\r\n";
    greedy.write(&page.repeat(50)).await;
    while !greedy.has_something().await {}
    let mut next = server.client().await;
    next.claims().await;
    assert_eq!(closed(&server.rig, "made_room"), 1);
}

#[tokio::test]
async fn missing_body_on_an_open_route_does_not_block_new_connections() {
    let settings = [("HTTP_CONNECTIONS_MAX", "1"), ("HTTP_IDLE_MS", NEVER), ("HTTP_BODY_PATIENCE_MS", NEVER)];
    let server = Server::start(&settings, [created()]).await;
    let mut greedy = server.client().await;
    greedy.write("GET /healthz HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\n").await;
    let (head, _) = greedy.read().await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("connection: close\r\n"), "{head}");
    let mut next = server.client().await;
    next.claims().await;
}
