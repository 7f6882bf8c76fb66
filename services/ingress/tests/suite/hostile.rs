//! Ambiguous and invalid requests: each is refused with the API's error body, and nothing that follows it on the same
//! connection is treated as a request.

use crate::raw_http::{CLAIM, Client, Server, created};

/// A complete request that an attacker tries to smuggle.
const SMUGGLED: &str = "POST /v1/allocate HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer lab-token-1\r\n\
                        X-Track-ID: smuggled\r\nContent-Length: 0\r\n\r\n";
/// The beginning of a head whose other lines matter.
const HEAD: &str =
    "POST /v1/allocate HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer lab-token-1\r\nX-Track-ID: p-1\r\n";

/// Asserts that this is the only answer, with the API's error body, and that the server closes the connection after it.
#[track_caller]
fn assert_refused(all: &str, status: u16, code: &str, sent: &str) {
    assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{sent:?}: {all}");
    assert_eq!(all.matches("x-request-id: ").count(), 1, "{sent:?}: {all}");
    assert!(all.contains("connection: close\r\n") && all.contains("x-request-id: "), "{sent:?}: {all}");
    assert!(all.contains("x-content-type-options: nosniff\r\n"), "{sent:?}: {all}");
    let body = all.split_once("\r\n\r\n").unwrap().1;
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {all}"));
    assert_eq!(body["detail"]["code"], code, "{sent:?}");
    assert_eq!(body["detail"]["request_id"], "fresh-1", "{sent:?}");
}

/// Sends `shape` and a complete request after it, twice: in one piece, and byte by byte. Both times there is one
/// answer, and no worker gets a request.
async fn refused(shape: &[u8], status: u16, code: &str) {
    let server = Server::start(&[], [created()]).await;
    let sent = String::from_utf8_lossy(shape).into_owned();
    let mut at_once = server.client().await;
    at_once.write_bytes(&[shape, SMUGGLED.as_bytes()].concat()).await;
    assert_refused(&at_once.rest().await, status, code, &sent);
    let mut slowly = server.client().await;
    for byte in shape.iter().chain(SMUGGLED.as_bytes()) {
        // The server may answer and close the connection before everything is sent.
        if !slowly.try_write(&[*byte]).await {
            break;
        }
    }
    assert_refused(&slowly.rest().await, status, code, &sent);
    let seen = server.rig.workers.seen();
    assert!(seen.is_empty(), "{sent:?}: {seen:?}");
    // The server still works.
    let mut canary = server.client().await;
    canary.write(CLAIM).await;
    assert!(canary.read().await.0.starts_with("HTTP/1.1 201"), "{sent:?}");
}

#[tokio::test]
async fn conflicting_body_framing_is_rejected() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 0\r\nContent-Length: 44\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 18446744073709551621\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length : 5\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "Expect: more\r\nContent-Length: 5\r\n",
    ] {
        refused(format!("{HEAD}{lines}\r\n").as_bytes(), 400, "INVALID_REQUEST").await;
    }
    refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "INVALID_REQUEST").await;
}

#[tokio::test]
async fn malformed_http_gets_a_json_error() {
    for shape in [
        b"no http at all\r\n\r\n".as_slice(),
        b"GET /\r\n",
        b"GET / HTTP/1.1\nHost: b\n\n",
        b"GET / HTTP/1.1\r\nHost: b\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: b\rX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: b\r\nX: a\0b\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: b\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-\xff: y\r\nHost: b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        refused(shape, 400, "INVALID_REQUEST").await;
    }
}

#[tokio::test]
async fn invalid_host_is_rejected() {
    for shape in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET http://other/ HTTP/1.1\r\nHost: b\r\n\r\n",
    ] {
        refused(shape.as_bytes(), 400, "INVALID_REQUEST").await;
    }
}

#[tokio::test]
async fn oversized_head_gets_a_431_json_error() {
    let many = (0..64).map(|number| format!("X-{number}: 1\r\n")).collect::<String>();
    refused(format!("GET / HTTP/1.1\r\nHost: b\r\n{many}\r\n").as_bytes(), 431, "HEAD_TOO_LARGE").await;
    let server = Server::start(&[], [created()]).await;
    // Far more than the server reads after a refusal, without an end.
    let mut client = server.client().await;
    client.write("GET / HTTP/1.1\r\nX: ").await;
    while client.try_write(&[b'x'; 8_192]).await {}
    let all = client.rest_if_any().await;
    assert!(all.is_empty() || all.contains("HEAD_TOO_LARGE"), "{all}");
    let mut client = server.client().await;
    client.write(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(17_000))).await;
    assert_refused(&client.rest().await, 431, "HEAD_TOO_LARGE", "17,000 bytes");
}

/// Sends a head with an invalid chunked body, and a complete request after it.
async fn refused_chunks(body: &str) {
    let server = Server::start(&[], [created()]).await;
    let mut client = server.client().await;
    client.write(&format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}")).await;
    assert_refused(&client.rest().await, 400, "INVALID_REQUEST", body);
    assert!(server.rig.workers.seen().is_empty(), "{body:?}");
}

#[tokio::test]
async fn ambiguous_chunks_are_rejected() {
    for body in [
        "x\r\n",
        "-1\r\n",
        "0x0\r\n\r\n",
        "100000000\r\n",
        "10000000000000000\r\n",
        "1\nx\n0\n\n",
        "1;\nx\r\n0\r\n\r\n",
        "1\r\nxx\r\n0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        " 0\r\n\r\n",
        "0\r\nX: trailer\r\n\r\n",
    ] {
        refused_chunks(body).await;
    }
    refused_chunks(&format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(200))).await;
}

async fn kept(server: &Server, client: &mut Client, request: &str, status: u16) {
    client.write(request).await;
    let (head, _) = client.read().await;
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    assert!(!head.contains("connection: close"), "{head}");
    let before = server.rig.workers.seen().len();
    client.claims().await;
    assert_eq!(server.rig.workers.seen().len(), before + 1);
}

#[tokio::test]
async fn consumed_body_keeps_the_connection_in_sync() {
    let server = Server::start(&[], [created()]).await;
    let mut client = server.client().await;
    let smuggled = format!("{HEAD}Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
    kept(&server, &mut client, &smuggled, 201).await;
    let size = format!("{:x}", SMUGGLED.len());
    let chunked =
        format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{size};x=\"y\"\r\n{SMUGGLED}\r\n0\r\n\r\n");
    kept(&server, &mut client, &chunked, 201).await;
    // Refused before a handler read the body.
    let unread =
        format!("POST /nothing HTTP/1.1\r\nHost: b\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
    kept(&server, &mut client, &unread, 404).await;
    let escaped = "GET /v1/%00%ff HTTP/1.1\r\nHost: b\r\nX: r\u{e9}\r\n\r\n";
    kept(&server, &mut client, escaped, 404).await;
    kept(&server, &mut client, "GET http://b/healthz HTTP/1.1\r\nHost: B\r\n\r\n", 200).await;
    let owners: Vec<_> = server.rig.workers.seen().iter().map(|seen| seen.body.clone()).collect();
    assert!(owners.iter().all(|body| !String::from_utf8_lossy(body).contains("smuggled")), "{owners:?}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&[], [created()]).await;
    let mut client = server.client().await;
    client.write(&CLAIM.repeat(20)).await;
    for _ in 0..20 {
        assert!(client.read().await.0.starts_with("HTTP/1.1 201"));
    }
    assert_eq!(server.rig.workers.seen().len(), 20);
    // A request with `Connection: close` is the last one.
    let last = CLAIM.replace("Host: b", "Host: b\r\nConnection: close");
    client.write(&format!("{CLAIM}{last}{SMUGGLED}")).await;
    assert_eq!(client.rest().await.matches("HTTP/1.1 201").count(), 2);
    assert_eq!(server.rig.workers.seen().len(), 22);
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let server = Server::start(&[], [created()]).await;
    let mut client = server.client().await;
    client.write(&format!("GET /healthz HTTP/1.0\r\n\r\n{SMUGGLED}")).await;
    let all = client.rest().await;
    assert!(all.starts_with("HTTP/1.0 200") || all.starts_with("HTTP/1.1 200"), "{all}");
    assert_eq!(all.matches("HTTP/1.").count(), 1, "{all}");
    assert!(server.rig.workers.seen().is_empty());
}

#[tokio::test]
async fn unread_body_is_never_parsed_as_a_request() {
    let more = SMUGGLED.len() + 1;
    for (request, status) in [
        // The answer comes before all of the body has arrived.
        (format!("POST /v1/allocate HTTP/1.1\r\nHost: b\r\nContent-Length: {more}\r\n\r\n{SMUGGLED}"), 401),
        (format!("POST /nothing HTTP/1.1\r\nHost: b\r\nContent-Length: {more}\r\n\r\n{SMUGGLED}"), 404),
        (format!("{HEAD}Content-Length: 70000\r\n\r\n{SMUGGLED}"), 413),
        (format!("{HEAD}Expect: 100-continue\r\nContent-Length: 100000000\r\n\r\n{SMUGGLED}"), 413),
    ] {
        let server = Server::start(&[], [created()]).await;
        let mut client = server.client().await;
        client.write(&request).await;
        let all = client.rest().await;
        assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{all}");
        assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{all}");
        assert!(all.contains("connection: close\r\n"), "{all}");
        assert!(server.rig.workers.seen().is_empty());
    }
}

#[tokio::test]
async fn expect_continue_is_answered_when_the_body_is_read() {
    let server = Server::start(&[], [created()]).await;
    let mut client = server.client().await;
    client.write(&format!("{HEAD}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")).await;
    let (head, _) = client.read().await;
    assert!(head.starts_with("HTTP/1.1 100 Continue"), "{head}");
    client.write("{}").await;
    assert!(client.read().await.0.starts_with("HTTP/1.1 201"));
}

#[tokio::test]
async fn oversized_upload_still_receives_the_413() {
    let server = Server::start(&[], [created()]).await;
    let mut client = server.client().await;
    client.write(&format!("{HEAD}Content-Length: 100000000\r\n\r\n")).await;
    // Unread bytes beyond the socket's buffers would cause a reset; the server reads and drops this many.
    for _ in 0..8 {
        assert!(client.try_write(&[b'x'; 8_192]).await);
    }
    let (head, body) = client.read().await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    assert!(body.contains("BODY_TOO_LARGE"), "{body}");
    client.finish().await;
    assert_eq!(client.rest().await, "");
}
