//! A server that sends exactly the bytes of a test, for answers that the simulator never gives.

use crate::rig::{SHORT, client, csp_config, target_of};
use csp::{CspConfig, CspProvider};
use ports::provider::{Deleted, Provider, ProviderError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

struct Canned {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Ends with the server.
    _tasks: JoinSet<()>,
}

/// What happens after a request.
#[derive(Clone, Copy)]
enum Then {
    Keep,
    Close,
    DripForEver,
}

impl Canned {
    async fn new(answer: String, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let connections = Arc::clone(&connections);
            async move {
                let mut open = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.fetch_add(1, Ordering::Relaxed);
                    open.spawn(talk(stream, answer.clone(), then));
                }
            }
        });
        Self { address, connections, _tasks: tasks }
    }

    fn client(&self, change: impl FnOnce(CspConfig) -> CspConfig) -> CspProvider {
        client(change(csp_config(&format!("http://{}/v2", self.address), &[])))
    }
}

async fn talk(mut stream: TcpStream, answer: String, then: Then) {
    let mut request = Vec::new();
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        request.clear();
        stream.write_all(answer.as_bytes()).await.unwrap();
        match then {
            Then::Keep => {}
            Then::Close => return,
            Then::DripForEver => {
                let mut tick = tokio::time::interval(SHORT / 10);
                while stream.write_all(b" ").await.is_ok() {
                    tick.tick().await;
                }
                return;
            }
        }
    }
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn listing(count: usize) -> String {
    listing_of(count, "")
}

/// A listing with further fields after its entries.
fn listing_of(count: usize, more: &str) -> String {
    let entry = |n| {
        format!(
            r#"{{"account_type":"sandbox","state":"active","id":"identity/accounts/u-{n}","csp_id":{n}}}"#
        )
    };
    let entries: Vec<String> = (0..count).map(entry).collect();
    http("200 OK", &format!(r#"{{"results":[{}]{more}}}"#, entries.join(",")))
}

#[tokio::test]
async fn a_server_that_ignores_paging_is_read_once() {
    let server = Canned::new(listing(3), Then::Keep).await;
    let provider = server.client(|config| CspConfig { page_size: 2, ..config });
    let all = provider.list(0).await.unwrap();
    assert_eq!((all.accounts.len(), all.next), (3, None));
}

#[tokio::test]
async fn a_server_that_ignores_paging_and_fills_the_page_exactly_does_not_loop() {
    let server = Canned::new(listing_of(3, r#","page":{"total":3}"#), Then::Keep).await;
    let provider = server.client(|config| CspConfig { page_size: 3, ..config });
    for _ in 0..2 {
        let first = provider.list(0).await.unwrap();
        assert_eq!((first.accounts.len(), first.next), (3, Some(3)));
        let again = provider.list(3).await.unwrap();
        assert_eq!((again.accounts.len(), again.next), (0, None));
    }
}

#[tokio::test]
async fn repeated_page_does_not_end_the_listing() {
    // Without a total, or with a larger one, the page may be incomplete.
    for more in ["", r#","page":{"total":4}"#] {
        let server = Canned::new(listing_of(3, more), Then::Keep).await;
        let provider = server.client(|config| CspConfig { page_size: 3, ..config });
        assert_eq!(provider.list(0).await.unwrap().next, Some(3));
        let again = provider.list(3).await.unwrap();
        assert_eq!((again.accounts.len(), again.next), (3, Some(6)), "it is handed on as it came");
    }
}

#[tokio::test]
async fn delete_accepts_2xx_and_404() {
    for (status, expected) in [
        ("200 OK", Deleted::Now),
        ("202 Accepted", Deleted::Now),
        ("204 No Content", Deleted::Now),
        ("404 Not Found", Deleted::AlreadyGone),
    ] {
        let server = Canned::new(http(status, "{}"), Then::Keep).await;
        let result = server.client(|config| config).delete(&target_of("identity/accounts/u-1")).await;
        assert_eq!(result, Ok(expected), "{status}");
    }
}

#[tokio::test]
async fn connections_are_reused() {
    let server = Canned::new(http("200 OK", "{}"), Then::Keep).await;
    let provider = server.client(|config| config);
    for _ in 0..10 {
        assert_eq!(provider.delete(&target_of("identity/accounts/u-1")).await, Ok(Deleted::Now));
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn html_response_is_an_error() {
    for status in ["200 OK", "202 Accepted", "404 Not Found"] {
        let server = Canned::new(http(status, "\n<!DOCTYPE html><h1>nginx</h1>"), Then::Keep).await;
        let result = server.client(|config| config).delete(&target_of("identity/accounts/u-1")).await;
        let Err(ProviderError::Malformed { message }) = result else { panic!("{status}: {result:?}") };
        assert!(message.ends_with("with a web page: <!DOCTYPE html><h1>nginx</h1>"), "{message}");
    }
}

#[tokio::test]
async fn slow_response_body_times_out() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".to_owned();
    let server = Canned::new(answer, Then::DripForEver).await;
    let provider = server.client(|config| CspConfig { read_timeout: SHORT, ..config });
    let result = provider.list(0).await;
    assert_eq!(result, Err(ProviderError::UnknownOutcome { waited_seconds: 1 }));
}

#[tokio::test]
async fn truncated_response_is_an_error() {
    let answer = |status| format!("HTTP/1.1 {status}\r\ncontent-length: 1000\r\n\r\n{{");
    let server = Canned::new(answer("200 OK"), Then::Close).await;
    let result = server.client(|config| config).list(0).await;
    assert!(matches!(result, Err(ProviderError::Unreachable { .. })), "{result:?}");
    // The status reports a failure, but the account exists.
    let server = Canned::new(answer("500 Oops"), Then::Close).await;
    let result = server.client(|config| config).list(0).await;
    assert_eq!(result, Err(ProviderError::Failed { message: "status 500: {".to_owned() }));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Canned::new(http("200 OK", "{}"), Then::Keep).await;
    let answer = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/v2/x\r\ncontent-length: 0\r\n\r\n",
        elsewhere.address
    );
    let server = Canned::new(answer, Then::Keep).await;
    let result = server.client(|config| config).delete(&target_of("identity/accounts/u-1")).await;
    assert!(matches!(result, Err(ProviderError::Malformed { .. })), "{result:?}");
    assert_eq!(elsewhere.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_id_without_a_last_segment_never_reaches_the_collection() {
    let server = Canned::new(http("200 OK", "{}"), Then::Keep).await;
    let provider = server.client(|config| config);
    for bad in ["identity/accounts/", "identity/accounts/..", "."] {
        let result = provider.delete(&target_of(bad)).await;
        assert!(matches!(result, Err(ProviderError::Malformed { .. })), "{bad}: {result:?}");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
}
