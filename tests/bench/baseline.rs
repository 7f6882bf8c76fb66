//! Baseline, filling and suite on small counts.

use crate::tool::{command, ports};
use bench::baseline::{ROUND_TRIP, TRANSACTION, TWO_WRITES};
use bench::calls::Call;
use bench::{Command, baseline, seed, suite};
use domain::{PoolName, StateName};
use harness::dynamodb::{self, fresh_table_name};
use harness::{dynamodb_local, servers};
use ports::store::{SortRange, StateQuery, Store};
use std::collections::BTreeMap;

const SHARDS: u16 = 4;

fn env(endpoint: &str, table: &str) -> BTreeMap<String, String> {
    let shards = SHARDS.to_string();
    [("DYNAMODB_ENDPOINT", endpoint), ("DYNAMODB_TABLE", table), ("STORE_SHARDS", &shards)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

async fn counted(store: &dyn Store, pool: &str, state: StateName) -> u64 {
    let mut count = 0;
    for shard in 0..store.shards().await.unwrap() {
        let pool = PoolName::parse(pool).unwrap();
        count += store.count(&StateQuery { pool, state, shard, range: SortRange::All }).await.unwrap();
    }
    count
}

/// Measures the baseline on an engine, and checks what is left on the table.
async fn assert_floor(endpoint: &str, units: Option<[(f64, f64); 2]>) {
    let shared = servers::shared().await;
    let table = fresh_table_name();
    let arguments = ["baseline", "--nats", &shared.nats_url, "--round-trips", "100", "--claims", "70"];
    let Command::Baseline(options) = command(&arguments) else { panic!() };
    let report = baseline::run(&options, &env(endpoint, &table), &ports()).await.unwrap();
    for in_flight in [1, 64] {
        let count = |what| report.line(what, in_flight).unwrap().spread.count;
        assert_eq!((count(ROUND_TRIP), count(TWO_WRITES), count(TRANSACTION)), (100, 70, 70));
    }
    if let Some(units) = units {
        let found = report.costs.iter().map(|cost| (cost.table_units, cost.index_units));
        assert_eq!(found.collect::<Vec<_>>(), units);
    }
    let client = dynamodb::client(endpoint);
    let left = client.scan().table_name(&table).send().await.unwrap();
    // The table's record of its own settings is no trace of the measurement, and the identity items of accounts outlive
    // the sandboxes' records.
    let (claims, others): (Vec<_>, Vec<_>) =
        left.items().iter().partition(|item| item["PK"].as_s().unwrap().starts_with("OWNER#"));
    assert!(claims.iter().all(|item| item.contains_key("closed") && item.contains_key("ttl")), "{claims:?}");
    let is_trace = |key: &str| key != "TABLE" && !key.starts_with("EXT#");
    let traces = others.into_iter().filter(|item| is_trace(item["PK"].as_s().unwrap()));
    let states = traces.map(|item| item["state"].as_s().unwrap().as_str());
    // 50 of each variant for the capacity units, and 70 of each variant for each number in flight; claim items are
    // closed.
    assert_eq!(states.collect::<Vec<_>>(), vec!["deleted"; 380]);
}

#[tokio::test]
async fn baseline_is_measured_and_leaves_only_tombstones() {
    // Two writes: one unit each, plus the move within StateIndex. A transaction doubles the base table's part.
    let units = [(2.0, 2.0), (4.0, 2.0)];
    assert_floor(dynamodb::dynoxide_endpoint(), Some(units)).await;
}

#[tokio::test]
async fn baseline_is_measured_on_dynamodb_local() {
    if let Some(endpoint) = dynamodb_local::endpoint() {
        assert_floor(endpoint, None).await;
    }
}

#[tokio::test]
async fn seed_writes_available_sandboxes_like_a_sync() {
    let (endpoint, table) = (dynamodb::dynoxide_endpoint(), fresh_table_name());
    let mut env = env(endpoint, &table);
    env.insert("POOLS".to_owned(), "exams=exam-,main".to_owned());
    let store = ::dynamodb::DynamoStore::connect(&dynamodb::config(endpoint, &table, SHARDS)).await;
    for (count, arguments) in
        [(70, &["seed", "--count", "70", "--name-prefix", "exam-"][..]), (5, &["seed", "--count", "5"])]
    {
        let Command::Seed(options) = command(arguments) else { panic!() };
        let report = seed::run(&options, &env, &ports()).await.unwrap();
        assert_eq!(report.inserted, count);
    }
    assert_eq!(counted(&store, "exams", StateName::Available).await, 70);
    assert_eq!(counted(&store, "main", StateName::Available).await, 5);
}

#[tokio::test]
async fn aws_table_must_be_requested_explicitly() {
    let Command::Seed(options) = command(&["seed", "--count", "1"]) else { panic!() };
    let error = seed::run(&options, &BTreeMap::new(), &ports()).await.unwrap_err().to_string();
    assert!(error.contains("--dynamodb aws"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_measures_every_case_without_violations() {
    let shared = servers::shared().await;
    let arguments = [
        "suite",
        "--nats-url",
        &shared.nats_url,
        "--dynamodb-endpoint",
        &shared.table_endpoint,
        "--callers",
        "4",
        "--claims",
        "40",
        "--burst",
        "30",
        "--round-trips",
        "100",
    ];
    let Command::Suite(options) = command(&arguments) else { panic!() };
    let report = suite::run(&options, &BTreeMap::new(), &ports()).await.unwrap();
    assert_eq!(report.violations, Vec::<String>::new());
    let created: Vec<(&str, u64)> = report
        .lines
        .iter()
        .filter(|line| line.call == Call::Claim && line.outcome == "created")
        .map(|line| (line.case, line.spread.count))
        .collect();
    let (open, closed) = created.split_last().unwrap();
    assert_eq!(
        closed,
        [
            ("HTTP, one caller", 10),
            ("NATS, one caller", 10),
            ("HTTP, many callers", 40),
            ("NATS, many callers", 40),
            ("HTTP, many callers, name prefix", 40),
            ("HTTP, many callers, with replays", 40),
            ("HTTP, burst", 30),
            ("NATS, burst", 30),
        ]
    );
    assert!(open.0.contains("open loop") && open.1 > 0, "{open:?}");
    assert!(report.lines.iter().any(|line| line.call == Call::Replay && line.spread.count == 40));
    let held_against_baseline = report.lines.iter().filter(|line| line.baseline_medians.is_some()).count();
    assert_eq!(held_against_baseline, 7, "the closed loops, and the replays");
    let text = report.text();
    for part in ["NATS round trip", "both in one transaction", "× baseline p50", "0 broken promises"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
}
