//! Connections that are upgraded, and connections that ask for it in vain.

use super::*;
use crate::Peer;
use crate::caller::Known;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const WAIT: Duration = Duration::from_secs(10);
const UPGRADE: &str =
    "GET /echo HTTP/1.1\r\nHost: b\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n";
const PLAIN: &str = "GET /plain HTTP/1.1\r\nHost: b\r\n\r\n";

struct Server {
    address: SocketAddr,
    open: watch::Receiver<usize>,
    /// The paths that a handler has seen.
    seen: Arc<Mutex<Vec<String>>>,
    close: oneshot::Sender<()>,
    run: JoinHandle<()>,
}

/// Answers 101 whatever the request is, and echoes what comes behind it.
async fn echo(mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(stream) = upgrade.await else { return };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(stream));
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.write_all(b"bye").await;
        let _ = writer.shutdown().await;
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")];
    let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
    response.extensions_mut().insert(Known);
    response
}

/// Keeps the stream of an upgraded connection for ever and does nothing with it.
async fn keep(mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _stream = upgrade.await;
        std::future::pending::<()>().await;
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::UPGRADE, "echo")]).into_response()
}

async fn refuse(ConnectInfo(_): ConnectInfo<Peer>, _: HeaderMap) -> Response {
    (StatusCode::UPGRADE_REQUIRED, Body::from("no")).into_response()
}

impl Server {
    async fn start(connections_max: usize) -> Self {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let router = Router::new()
            .route("/echo", any(echo))
            .route("/keep", get(keep))
            .route("/refuse", get(refuse))
            .route("/plain", get(|| async { "plain" }))
            .layer(axum::middleware::map_request(move |request: Request| {
                noted.lock().push(request.uri().path().to_owned());
                std::future::ready(request)
            }));
        let short = Duration::from_millis(300);
        let config = ConnectionConfig {
            connections_max,
            of_peer_max: 0,
            idle: short,
            head_patience: short,
            body_patience: short,
            write_patience: WAIT,
            drain: Duration::ZERO,
            linger: Duration::ZERO,
        };
        let socket = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let listener = Listener::new(socket, router, &config, Arc::default(), None, metrics);
        let open = listener.open();
        let (close, closed) = oneshot::channel();
        let run = tokio::spawn(listener.serve(async { drop(closed.await) }));
        Self { address, open, seen, close, run }
    }

    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// An upgraded connection.
    async fn upgraded(&self, path: &str) -> TcpStream {
        let mut stream = self.send(&UPGRADE.replace("/echo", path)).await;
        let head = head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().clone()
    }
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(WAIT, stream.read_u8()).await.expect("no answer").unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn expect(stream: &mut TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    tokio::time::timeout(WAIT, stream.read_exact(&mut bytes)).await.expect("nothing comes").unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), text);
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut rest = String::new();
    // A reset is an end as well.
    let _ = tokio::time::timeout(WAIT, stream.read_to_string(&mut rest)).await.expect("not closed");
    rest
}

#[tokio::test]
async fn bytes_behind_a_101_pass_as_they_are() {
    let server = Server::start(10).await;
    // Sent together with the head, and no part of it is a request.
    let mut stream = server.send(&format!("{UPGRADE}{PLAIN}\0\r\n")).await;
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("connection: upgrade\r\n"), "{answer}");
    expect(&mut stream, &format!("{PLAIN}\0\r\n")).await;
    // Two idle connections, one after the other, are closed meanwhile: both times are over.
    for _ in 0..2 {
        assert_eq!(rest(&mut server.send("").await).await, "");
    }
    let large = PLAIN.repeat(5_000);
    let (mut reader, mut writer) = stream.split();
    let write = async { writer.write_all(large.as_bytes()).await.unwrap() };
    let mut bytes = vec![0; large.len()];
    let read = async { tokio::time::timeout(WAIT, reader.read_exact(&mut bytes)).await.unwrap().unwrap() };
    tokio::join!(write, read);
    assert_eq!(bytes, large.as_bytes());
    assert_eq!(server.seen(), ["/echo"]);
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, "bye");
    let mut open = server.open.clone();
    tokio::time::timeout(WAIT, open.wait_for(|open| *open == 0)).await.unwrap().unwrap();
}

#[tokio::test]
async fn refused_upgrade_keeps_the_connection_in_http() {
    let server = Server::start(10).await;
    let mut stream = server.send(&format!("{}{PLAIN}", UPGRADE.replace("/echo", "/refuse"))).await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 426 "));
    expect(&mut stream, "no").await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    expect(&mut stream, "plain").await;
    stream.write_all(b"no http at all\r\n").await.unwrap();
    rest(&mut stream).await;
    assert_eq!(server.seen()[..2], ["/refuse", "/plain"]);
}

#[tokio::test]
async fn request_that_does_not_ask_for_an_upgrade_gets_none() {
    for request in [
        "GET /echo HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: b\r\nUpgrade: echo\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: b\r\nConnection: upgrade\r\n\r\n",
        "GET /echo HTTP/1.0\r\nHost: b\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
        "CONNECT /echo HTTP/1.1\r\nHost: b\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: b\r\nConnection: upgrade\r\nUpgrade: echo\r\nContent-Length: 1\r\n\r\nx",
    ] {
        let server = Server::start(10).await;
        let mut stream = server.send(&format!("{request}{PLAIN}")).await;
        let all = rest(&mut stream).await;
        // Nothing is echoed, and nothing behind it is answered: the library closes the connection behind a 101.
        assert_eq!(all.matches("HTTP/1").count(), 1, "{request:?}: {all}");
        assert!(all.ends_with("\r\n\r\n"), "{request:?}: {all}");
        assert_eq!(server.seen(), ["/echo"], "{request:?}");
    }
}

#[tokio::test]
async fn stop_ends_an_upgraded_connection() {
    let server = Server::start(10).await;
    let mut echoed = server.upgraded("/echo").await;
    let kept = server.upgraded("/keep").await;
    server.close.send(()).unwrap();
    // The handler learns of it, and has its last words.
    assert_eq!(rest(&mut echoed).await, "bye");
    // One that does not heed it cannot hold up the stop.
    tokio::time::timeout(WAIT, server.run).await.expect("the listener does not end").unwrap();
    drop(kept);
}

#[tokio::test]
async fn upgraded_connection_makes_room_only_if_unauthenticated() {
    let server = Server::start(2).await;
    let mut known = server.upgraded("/echo").await;
    let _unknown = server.upgraded("/keep").await;
    let mut stream = server.send(PLAIN).await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    known.write_all(b"still here").await.unwrap();
    expect(&mut known, "still here").await;
}
