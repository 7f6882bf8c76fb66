//! Real HTTP on a real socket: persistent connections and the orderly stop.

use crate::raw_http::{CLAIM, Server, WAIT, created};
use crate::support::Step;
use socket2::{SockFilter, SockRef};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Longest time until the ingress has detected that an event reader has disappeared (docs/limits.md).
const VANISHED_MAX: Duration = Duration::from_secs(30);

#[tokio::test]
async fn connection_is_kept_alive() {
    let server = Server::start(&[], [created()]).await;
    let mut client = server.client().await;
    for _ in 0..3 {
        client.write(CLAIM).await;
        let (head, body) = client.read().await;
        assert!(head.starts_with("HTTP/1.1 201 Created\r\n"), "{head}");
        assert!(!head.contains("connection: close"), "{head}");
        assert_eq!(body, r#"{"sandbox_id":"7"}"#);
    }
    // A failure keeps the connection open as well.
    client.write("GET /nothing HTTP/1.1\r\nHost: b\r\n\r\n").await;
    assert!(client.read().await.0.starts_with("HTTP/1.1 404"));
    client.claims().await;
}

#[tokio::test]
async fn a_head_request_has_the_headers_and_no_body() {
    let server = Server::start(&[], [created()]).await;
    let mut client = server.client().await;
    client.write("HEAD /v1/sandboxes/7 HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n").await;
    let all = client.rest().await;
    assert!(all.starts_with("HTTP/1.1 401"), "{all}");
    assert!(all.contains("www-authenticate: Bearer"), "{all}");
    assert!(all.ends_with("\r\n\r\n"), "{all}");
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let server = Server::start(&[("HTTP_LINGER_MS", "60000")], [created()]).await;
    server.stop.cancel();
    server.ended().await;
}

#[tokio::test]
async fn kept_connection_is_answered_and_closed_while_stopping() {
    let server = Server::start(&[("HTTP_LINGER_MS", "60000")], [created()]).await;
    let mut client = server.client().await;
    client.claims().await;
    server.stop.cancel();
    client.write(CLAIM).await;
    let (head, _) = client.read().await;
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(client.rest().await, "");
    // The last connection has ended, so the server does not wait for the rest of the minute.
    server.ended().await;
}

#[tokio::test]
async fn draining_ingress_serves_new_connections_but_is_not_ready() {
    let settings = [("HTTP_DRAIN_MS", "60000"), ("HTTP_LINGER_MS", "0")];
    let server = Server::start(&settings, [created()]).await;
    server.stop.cancel();
    for _ in 0..2 {
        let mut client = server.client().await;
        client.write(CLAIM).await;
        let (head, _) = client.read().await;
        assert!(head.starts_with("HTTP/1.1 201") && head.contains("connection: close\r\n"), "{head}");
    }
    let mut probe = server.client().await;
    probe.write("GET /readyz HTTP/1.1\r\nHost: b\r\n\r\n").await;
    assert!(probe.read().await.0.starts_with("HTTP/1.1 503"));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    server.ended().await;
}

/// The machine of a reader that disappears sends nothing any more, not even a reset.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn vanished_reader_is_detected_within_30_seconds() {
    let server = Server::start(&[], []).await;
    let mut reader = server.client().await;
    reader
        .write("GET /v1/admin/events HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer admin-token-1\r\n\r\n")
        .await;
    let head = reader.line().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(server.rig.value("broker_http_connections") as u64, 1);
    let vanished = Instant::now();
    // The kernel drops packets for this socket before TCP sees them: `ret #0`.
    const RETURN: u16 = 0x06;
    SockRef::from(reader.stream.get_ref()).attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)]).unwrap();
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    while server.rig.value("broker_http_connections") > 0.0 {
        assert!(vanished.elapsed() < VANISHED_MAX, "it is still there");
        looks.tick().await;
    }
}

#[tokio::test]
async fn running_request_is_finished_at_shutdown() {
    let server = Server::start(&[("HTTP_LINGER_MS", "0")], [Step::SayWhenLet("{}")]).await;
    let (mut client, mut idle) = (server.client().await, server.client().await);
    client.write(CLAIM).await;
    let begun = server.rig.workers.hanging.acquire();
    tokio::time::timeout(WAIT, begun).await.expect("the request does not arrive").unwrap().forget();
    server.stop.cancel();
    // The idle connection is closed already, the busy one is not.
    assert_eq!(idle.rest().await, "");
    server.rig.workers.gate.add_permits(1);
    let (head, _) = client.read().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    server.ended().await;
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_stop() {
    let server = Server::start(&[("HTTP_LINGER_MS", "0")], [created()]).await;
    let mut fresh = server.client().await;
    let mut kept = server.client().await;
    kept.claims().await;
    server.stop.cancel();
    assert_eq!((fresh.rest().await, kept.rest().await), (String::new(), String::new()));
    let address = server.address;
    server.ended().await;
    assert!(TcpStream::connect(address).await.is_err(), "no server listens any more");
}

#[tokio::test]
async fn oversized_chunked_body_gets_a_413() {
    let server = Server::start(&[], [created()]).await;
    let mut client = server.client().await;
    let head = CLAIM.replace("Content-Length: 0", "Transfer-Encoding: chunked");
    client.write(&head).await;
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..4 {
        client.write(&chunk).await;
    }
    // Up to here the body has the maximum size. One more byte is refused, and the server reads everything that was
    // sent.
    client.write("1\r\nx\r\n").await;
    let (head, body) = client.read().await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    assert!(body.contains("BODY_TOO_LARGE"), "{body}");
    assert!(server.rig.workers.seen().is_empty());
}

#[tokio::test]
async fn requests_are_limited_by_the_connection_address() {
    let limits = [("PEER_RATE_PER_SECOND", "1"), ("PEER_RATE_BURST", "1")];
    let server = Server::start(&limits, [created()]).await;
    let mut client = server.client().await;
    let mut heads = Vec::new();
    // Even on a slow machine, two of these answers come within the same second.
    for _ in 0..1_000 {
        client.write(CLAIM).await;
        heads.push(client.read().await.0);
        if heads.last().is_some_and(|head| head.starts_with("HTTP/1.1 429")) {
            return;
        }
    }
    panic!("never refused: {heads:?}");
}
