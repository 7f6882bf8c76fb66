//! Settings of the DynamoDB store, and the client that follows from them.

use super::{DynamoStore, layout};
use aws::Calls;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use ports::store::layout::SHARDS_MAX;
use runtime::policy::read_region;
use runtime::settings::Settings;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The setting that selects the index which roles list labs from. Discovery shows it, because it is a boolean.
pub const READ_GROUP_INDEX: &str = "STORE_READ_GROUP_INDEX";

const TABLE_DEFAULT: &str = "sandbox-broker";
const SHARDS_DEFAULT: u16 = 8;
/// AWS updates an index within a fraction of a second and guarantees no bound; this is about ten times as long.
const INDEX_LAG_DEFAULT_SECONDS: u64 = 5;
const INDEX_LAG_MAX_SECONDS: u64 = 600;
/// DynamoDB answers within some 10 ms; after a second the answer is lost.
const ATTEMPT_TIMEOUT_DEFAULT_MS: u64 = 1_000;
/// Shorter than the time that a caller of the API waits, so that the caller still gets an answer.
const OPERATION_TIMEOUT_DEFAULT_MS: u64 = 3_000;
const TIMEOUT_MIN_MS: u64 = 50;
const TIMEOUT_MAX_MS: u64 = 60_000;
/// Attempts of one call, the first included.
const ATTEMPTS_MAX: u32 = 3;
/// Longest pause before the second attempt; it doubles from there, with full jitter.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Retries in the budget after a time without failures.
const RETRY_BURST: usize = 50;
/// Successful calls that earn one retry.
const RETRY_COST: u32 = 10;
/// Lengths of a table name that DynamoDB accepts, in bytes.
const TABLE_NAME_BYTES: std::ops::RangeInclusive<usize> = 3..=255;

/// Where the table is, and the time-outs of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamoConfig {
    /// The table (`DYNAMODB_TABLE`).
    pub table: String,
    /// A local engine's address (`DYNAMODB_ENDPOINT`); AWS itself if there is none.
    pub endpoint: Option<String>,
    /// The AWS region (`AWS_REGION`).
    pub region: String,
    /// Fewest shards of each pool and state (`STORE_SHARDS`).
    pub shards: u16,
    /// How far the indexes may lag behind the table (`STORE_INDEX_LAG_SECONDS`).
    pub index_lag: Duration,
    /// Whether labs are listed from `GroupIndex` although the table has `LabIndex` (`STORE_READ_GROUP_INDEX`).
    pub reads_group_index: bool,
    /// Whether time to live is switched on where it is off (`DYNAMODB_ENABLE_TTL`).
    pub enables_ttl: bool,
    /// Time-out of one attempt of a call (`STORE_ATTEMPT_TIMEOUT_MS`).
    pub attempt_timeout: Duration,
    /// Time-out of a call with all its attempts (`STORE_OPERATION_TIMEOUT_MS`).
    pub operation_timeout: Duration,
}

// === impl DynamoConfig ===

impl DynamoConfig {
    /// Reads the settings; `settings` collects the mistakes.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let table = settings
            .parsed("DYNAMODB_TABLE", TABLE_DEFAULT, "the DynamoDB table", parse_table_name)
            .unwrap_or_else(|| TABLE_DEFAULT.to_owned());
        let endpoint = settings.optional(
            "DYNAMODB_ENDPOINT",
            "address of a local DynamoDB engine (http://host:port); AWS itself without it",
        );
        if endpoint.as_ref().is_some_and(|endpoint| !endpoint.starts_with("http://")) {
            settings.mistake(
                "DYNAMODB_ENDPOINT",
                "must begin with http:// (it is for a local engine; AWS itself needs none)",
            );
        }
        let region = read_region(settings);
        let shards = settings.number(
            "STORE_SHARDS",
            u64::from(SHARDS_DEFAULT),
            1..=u64::from(SHARDS_MAX),
            "minimum number of index shards of each pool and state; a table with larger pools has more (docs/architecture.md)",
        );
        let index_lag = settings.seconds(
            "STORE_INDEX_LAG_SECONDS",
            // Local engines write an index together with the table.
            if endpoint.is_some() { 0 } else { INDEX_LAG_DEFAULT_SECONDS },
            0..=INDEX_LAG_MAX_SECONDS,
            "maximum lag of an index behind the table, clock differences included, in seconds; for that long after new sandboxes no pool counts as exhausted; 0 by default if DYNAMODB_ENDPOINT is set",
        );
        let reads_group_index = settings.switch(
            "STORE_READ_GROUP_INDEX",
            false,
            "list the sandboxes of a lab from GroupIndex although the table has LabIndex; a table without LabIndex is read from GroupIndex in any case (docs/operations.md)",
        );
        let enables_ttl = settings.switch(
            "DYNAMODB_ENABLE_TTL",
            true,
            "switch on the table's time to live, which removes tombstones and old claims, if it is off (needs dynamodb:UpdateTimeToLive); false leaves it as it is",
        );
        let attempt_timeout = settings.millis(
            "STORE_ATTEMPT_TIMEOUT_MS",
            ATTEMPT_TIMEOUT_DEFAULT_MS,
            TIMEOUT_MIN_MS..=TIMEOUT_MAX_MS,
            "time-out of one attempt of a call to the store, in milliseconds",
        );
        let operation_timeout = settings.millis(
            "STORE_OPERATION_TIMEOUT_MS",
            OPERATION_TIMEOUT_DEFAULT_MS,
            TIMEOUT_MIN_MS..=TIMEOUT_MAX_MS,
            "time-out of a call to the store with all its attempts, in milliseconds",
        );
        if operation_timeout < attempt_timeout {
            settings.mistake("STORE_OPERATION_TIMEOUT_MS", "must not be less than STORE_ATTEMPT_TIMEOUT_MS");
        }
        let shards = u16::try_from(shards).unwrap_or(SHARDS_DEFAULT);
        Self {
            table,
            endpoint,
            region,
            shards,
            index_lag,
            reads_group_index,
            enables_ttl,
            attempt_timeout,
            operation_timeout,
        }
    }
}

/// The retry budget that all calls of one client share. Retries must not add load to a table that is slow because of
/// load: after an initial burst, one call in ten is retried.
fn retry_budget() -> RetryPartition {
    let tokens = TokenBucket::builder()
        .capacity(RETRY_BURST * RETRY_COST as usize)
        .retry_cost(RETRY_COST)
        .timeout_retry_cost(RETRY_COST)
        .throttling_retry_cost(RETRY_COST)
        .success_reward(1.0)
        .build();
    RetryPartition::custom("sandbox-table").token_bucket(tokens).build()
}

fn parse_table_name(name: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if TABLE_NAME_BYTES.contains(&name.len()) && name.bytes().all(allowed) {
        Ok(name.to_owned())
    } else {
        Err("must be 3 to 255 ASCII letters, digits, '-', '_' and '.'".to_owned())
    }
}

// === impl DynamoStore ===

impl DynamoStore {
    /// A store for `config`. Contacts nothing but the sources of credentials, and even those only without an endpoint.
    pub async fn connect(config: &DynamoConfig) -> Self {
        let DynamoConfig {
            table,
            endpoint,
            region,
            shards,
            index_lag,
            reads_group_index,
            enables_ttl,
            attempt_timeout,
            operation_timeout,
        } = config;
        let retries =
            RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX).with_initial_backoff(RETRY_PAUSE);
        let calls = Calls {
            region,
            endpoint: endpoint.as_deref(),
            attempt_timeout: *attempt_timeout,
            operation_timeout: *operation_timeout,
            retries,
        };
        Self {
            client: Client::from_conf(
                aws_sdk_dynamodb::config::Builder::from(&calls.config().await)
                    .retry_partition(retry_budget())
                    .build(),
            ),
            table: table.clone(),
            shards_set: *shards,
            // The note of a supply may be older than the write that it announces by the time that a call may take.
            index_lag: if index_lag.is_zero() { Duration::ZERO } else { *index_lag + *operation_timeout },
            wants_group_index: *reads_group_index,
            enables_ttl: *enables_ttl,
            reads_group_index: Arc::new(AtomicBool::new(*reads_group_index)),
            known: Arc::new(layout::Known::default()),
            unreadable: Arc::default(),
            written: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(pairs: &[(&str, &str)]) -> Result<DynamoConfig, Vec<String>> {
        let env: BTreeMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut settings = Settings::new(&env);
        let config = DynamoConfig::read(&mut settings);
        settings.finish(config).map_err(|mistakes| mistakes.0)
    }

    #[test]
    fn defaults_to_the_aws_table() {
        let config = read(&[]).unwrap();
        assert_eq!(config.table, "sandbox-broker");
        assert_eq!(config.endpoint, None);
        assert_eq!((config.region.as_str(), config.shards), ("us-east-1", 8));
        assert_eq!(config.index_lag, Duration::from_secs(5));
        assert!(!config.reads_group_index, "a table may not have that index yet");
        assert!(read(&[(READ_GROUP_INDEX, "true")]).unwrap().reads_group_index);
        let local = read(&[("DYNAMODB_ENDPOINT", "http://localhost:1")]).unwrap();
        assert_eq!(local.index_lag, Duration::ZERO);
    }

    #[test]
    fn every_mistake_is_reported() {
        let mistakes = read(&[
            ("DYNAMODB_TABLE", "a b"),
            ("DYNAMODB_ENDPOINT", "https://localhost:1"),
            ("STORE_SHARDS", "257"),
            ("STORE_ATTEMPT_TIMEOUT_MS", "2000"),
            ("STORE_OPERATION_TIMEOUT_MS", "1000"),
        ])
        .unwrap_err();
        let names: Vec<_> = mistakes.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(
            names,
            ["DYNAMODB_TABLE", "DYNAMODB_ENDPOINT", "STORE_SHARDS", "STORE_OPERATION_TIMEOUT_MS"]
        );
    }
}
