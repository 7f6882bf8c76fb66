//! A failure on the way to the table is reported as an unknown outcome, in time and with its cause.

use crate::engines::Table;
use crate::fixtures::{claim_key, grant_of, id, new_sandbox};
use ::dynamodb::{DynamoConfig, DynamoStore};
use domain::UnixSeconds;
use harness::dynamodb;
use ports::store::{Store, StoreError};
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(200);
const OPERATION_TIMEOUT: Duration = Duration::from_millis(500);
/// Far longer than the operation's timeout, far shorter than a hang.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A process reads the shards once before its first write.
const FIRST_STEP_OF_A_WRITE: &str = "shards";

fn assert_unavailable(error: &StoreError, operation: &str) {
    let StoreError::Unavailable { operation: tried, .. } = error else { panic!("{error:?}") };
    assert_eq!(*tried, operation);
    assert!(error.source().is_some(), "the cause is kept");
}

fn assert_throttled(error: &StoreError, operation: &str) {
    let StoreError::Throttled { operation: tried, .. } = error else { panic!("{error:?}") };
    assert_eq!(*tried, operation);
    assert!(error.source().is_some(), "the cause is kept");
}

async fn impatient(endpoint: &str) -> DynamoStore {
    with_patience(endpoint, ATTEMPT_TIMEOUT, OPERATION_TIMEOUT).await
}

async fn with_patience(
    endpoint: &str,
    attempt_timeout: Duration,
    operation_timeout: Duration,
) -> DynamoStore {
    let config =
        DynamoConfig { attempt_timeout, operation_timeout, ..dynamodb::config(endpoint, "no-such-table", 1) };
    DynamoStore::connect(&config).await
}

/// A server that answers every request with `answer`, or not at all, and the number of requests so far.
async fn server(answer: Option<&'static str>) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut request = [0; 8_192];
                while connection.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                    count.fetch_add(1, Ordering::SeqCst);
                    if let Some(answer) = answer {
                        let head = answer.replace("LENGTH", &answer_length(answer));
                        let _ = connection.write_all(head.as_bytes()).await;
                        return;
                    }
                }
            });
        }
    });
    (endpoint, requests)
}

fn answer_length(answer: &str) -> String {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.len().to_string()
}

pub(crate) async fn missing_table_is_reported_as_unavailable(table: Table) {
    assert_unavailable(&table.store.ping().await.unwrap_err(), "ping");
    assert_unavailable(&table.store.sandbox(&id(1)).await.unwrap_err(), "sandbox");
    let insert = table.store.insert(&new_sandbox(1), UnixSeconds::new(1)).await.unwrap_err();
    assert_unavailable(&insert, FIRST_STEP_OF_A_WRITE);
}

#[tokio::test]
async fn connection_refused_is_reported_as_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let store = impatient(&endpoint).await;
    assert_unavailable(&store.ping().await.unwrap_err(), "ping");
}

#[tokio::test]
async fn hanging_engine_times_out() {
    let (endpoint, requests) = server(None).await;
    let store = impatient(&endpoint).await;
    let start = Instant::now();
    let candidate = new_sandbox(1).enter(UnixSeconds::new(1)).candidate();
    let grant = grant_of(&candidate, &claim_key("owner-1", "key-1"));
    let granted = (&store as &dyn Store).grant(&grant).await;
    assert_unavailable(&granted.unwrap_err(), FIRST_STEP_OF_A_WRITE);
    assert!(start.elapsed() < ANSWER_MAX);
    assert!(requests.load(Ordering::SeqCst) > 1, "a lost attempt is repeated");
}

#[tokio::test]
async fn throttling_and_server_errors_get_three_attempts() {
    let throttled = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.0\r\n\
         Content-Length: LENGTH\r\n\r\n\
         {\"__type\":\"com.amazonaws.dynamodb.v20120810#ThrottlingException\",\"message\":\"slow down\"}";
    let failed = "HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.0\r\n\
         Content-Length: LENGTH\r\n\r\n{\"__type\":\"InternalServerError\"}";
    for (answer, is_throttling) in [(throttled, true), (failed, false)] {
        let (endpoint, requests) = server(Some(answer)).await;
        // Every attempt gets its answer even on a busy machine, so that the test counts attempts and not timeouts.
        let store = with_patience(&endpoint, ANSWER_MAX, 3 * ANSWER_MAX).await;
        let error = store.ping().await.unwrap_err();
        if is_throttling {
            assert_throttled(&error, "ping")
        } else {
            assert_unavailable(&error, "ping")
        }
        assert_eq!(requests.load(Ordering::SeqCst), 3, "{answer}");
    }
}
