//! Every attack takes place, the claims go on beside it, and the API answers each as it should.

use crate::tool::{command, ports};
use bench::hostile_load::attacker::Attack;
use bench::{Command, hostile_load};
use harness::servers::{self, bench_binary};
use std::collections::BTreeMap;
use strum::IntoEnumIterator as _;

/// A fleet whose callers may wait: the machine is busy, and speed is not the question here.
fn patient() -> BTreeMap<String, String> {
    let more = [
        ("REQUEST_DEADLINE_MS", "60000"),
        ("REQUEST_ATTEMPT_MS", "30000"),
        // So few that the silent ones have to make room, and so short that a head that dribbles has its answer.
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
            // One that is not announced is not read either: the open route answers, and closes.
            Attack::LargeBodies => &[200, 413],
            Attack::InvalidUtf8 | Attack::Smuggling => &[400],
        };
        assert!(stats.statuses.keys().all(|status| may_be.contains(status)), "{line:?}");
    }
    let text = report.text();
    assert!(text.contains("slowloris") && text.contains("0 broken promises"), "{text}");
}
