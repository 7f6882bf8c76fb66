//! Every attack runs, claims succeed meanwhile, and the API answers each attack with the expected status.

use crate::tool::{command, ports};
use bench::hostile_load::attacker::Attack;
use bench::{Command, hostile_load};
use harness::servers::{self, bench_binary};
use std::collections::BTreeMap;
use strum::IntoEnumIterator as _;

/// A fleet whose callers may wait long: the test machine is busy, and the test does not measure speed.
fn patient() -> BTreeMap<String, String> {
    let more = [
        ("REQUEST_DEADLINE_MS", "60000"),
        ("REQUEST_ATTEMPT_MS", "30000"),
        // So few connections that the server has to close silent ones, and a time limit so short that a slowly sent
        // head is answered with an error.
        ("HTTP_CONNECTIONS_MAX", "40"),
        ("HTTP_HEAD_PATIENCE_MS", "10"),
    ];
    more.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_succeed_under_every_attack() {
    let shared = servers::shared().await;
    let program = bench_binary();
    let arguments = [
        "hostile-load",
        "--nats-url",
        &shared.nats_url,
        "--program",
        program.to_str().unwrap(),
        "--rounds",
        "1",
        "--claims",
        "20",
        "--callers",
        "3",
        "--slow",
        "20",
        "--idle",
        "60",
        "--per-second",
        "100",
    ];
    let Command::HostileLoad(options) = command(&arguments) else { panic!() };
    let report = Box::pin(hostile_load::run(&options, &patient(), &ports())).await.unwrap();
    assert_eq!(report.violations, Vec::<String>::new());
    assert_eq!(report.not_granted, 0);
    let attacks: Vec<_> = report.lines.iter().map(|line| line.attack).collect();
    assert_eq!(attacks, Attack::iter().collect::<Vec<_>>());
    assert_eq!(report.verdicts.len(), Attack::iter().count());
    for line in &report.lines {
        let stats = &line.stats;
        assert!(stats.opened > 0 && line.share.is_some(), "{line:?}");
        let may_be: &[u16] = match line.attack {
            Attack::Slowloris => &[408, 503],
            Attack::Idle => &[],
            Attack::LargeHeads => &[431],
            // The server does not read a body without a declared length on a route without authentication: it answers
            // and closes the connection.
            Attack::LargeBodies => &[200, 413],
            Attack::InvalidUtf8 | Attack::Smuggling => &[400],
        };
        assert!(stats.statuses.keys().all(|status| may_be.contains(status)), "{line:?}");
    }
    let text = report.text();
    assert!(text.contains("slowloris") && text.contains("0 broken promises"), "{text}");
}
