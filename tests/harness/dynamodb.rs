//! DynamoDB engines for tests. One server per test binary; every test has a separate table.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use dynamodb::{DynamoConfig, DynamoStore};
use runtime::settings::Settings;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::OnceLock;

/// Time-out of one attempt of a call, in milliseconds: other suites may keep the machine busy.
const ATTEMPT_TIMEOUT_MS: &str = "10000";
/// Time-out of a call with all its attempts, in milliseconds.
const OPERATION_TIMEOUT_MS: &str = "30000";

/// The address of the embedded engine, started at the first call.
///
/// It has a separate thread and runtime: the runtime of a test ends with the test, and the engine works on the thread
/// that serves.
pub fn dynoxide_endpoint() -> &'static str {
    static ENDPOINT: OnceLock<String> = OnceLock::new();
    ENDPOINT.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("no port on the loopback interface");
        listener.set_nonblocking(true).expect("the listener cannot be made non-blocking");
        let address = listener.local_addr().expect("the listener has no address");
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("no runtime for the engine").block_on(async move {
                let database = dynoxide::Database::memory().expect("no database in memory");
                let listener = tokio::net::TcpListener::from_std(listener).expect("no listener");
                dynoxide::server::serve_with_shutdown(listener, database, std::future::pending())
                    .await
                    .expect("the engine stopped");
            });
        };
        std::thread::Builder::new().name("dynoxide".to_owned()).spawn(serve).expect("no thread");
        format!("http://{address}")
    })
}

/// Settings for a table of this name at `endpoint`.
#[must_use]
pub fn config(endpoint: &str, table: &str, shards: u16) -> DynamoConfig {
    let env: BTreeMap<String, String> = [
        ("DYNAMODB_ENDPOINT", endpoint),
        ("DYNAMODB_TABLE", table),
        ("STORE_SHARDS", &shards.to_string()),
        ("STORE_ATTEMPT_TIMEOUT_MS", ATTEMPT_TIMEOUT_MS),
        ("STORE_OPERATION_TIMEOUT_MS", OPERATION_TIMEOUT_MS),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    let mut settings = Settings::new(&env);
    let config = DynamoConfig::read(&mut settings);
    settings.finish(config).expect("the settings of the tests are sound")
}

/// A unique table name.
#[must_use]
pub fn fresh_table_name() -> String {
    format!("test-{}", uuid::Uuid::now_v7().simple())
}

/// A store on a new, separate table at `endpoint`.
pub async fn fresh_store(endpoint: &str, shards: u16) -> DynamoStore {
    let store = DynamoStore::connect(&config(endpoint, &fresh_table_name(), shards)).await;
    store.ensure_table().await.expect("the engine makes tables");
    store
}

/// A bare client that reads the table without the store.
#[must_use]
pub fn client(endpoint: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint)
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    Client::from_conf(config.build())
}
