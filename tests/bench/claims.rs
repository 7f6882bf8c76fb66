//! Every mode, over both transports.

use crate::tool::{TRANSPORTS, Transport, claim, count, ports};
use bench::calls::Call;
use bench::parse;
use domain::StateName;
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};

/// A fleet whose callers may wait long: the test machine is busy, and the test does not measure speed.
fn patient(accounts: usize) -> Plan {
    Plan::new(accounts).set("REQUEST_DEADLINE_MS", 60_000).set("REQUEST_ATTEMPT_MS", 30_000)
}

async fn held(rig: &Rig) -> u64 {
    rig.count(StateName::Allocated).await as u64
}

#[tokio::test]
async fn closed_loop_makes_the_given_number_of_claims() {
    let rig = patient(60).start().await;
    for (transport, before) in TRANSPORTS.into_iter().zip([0, 20]) {
        let report = claim(&rig, transport, &["--callers", "4", "--claims", "20"]).await;
        assert_eq!(count(&report, Call::Claim, "created"), 20, "{transport:?}: {report:?}");
        assert_eq!((report.check.winners, report.check.violations), (20, 0), "{transport:?}");
        assert_eq!(held(&rig).await, before + 20, "the claims are real");
    }
    rig.stop().await;
}

#[tokio::test]
async fn timed_closed_loop_ends_when_the_pool_is_exhausted() {
    let rig = patient(15).start().await;
    let report = claim(&rig, Transport::Nats, &["--callers", "3", "--seconds", "600"]).await;
    assert_eq!(count(&report, Call::Claim, "created"), 15, "{report:?}");
    assert_eq!(report.ended_early.as_deref(), Some("POOL_EXHAUSTED"));
    let refused = count(&report, Call::Claim, "POOL_EXHAUSTED");
    assert!((1..=3).contains(&refused), "no caller is refused twice: {refused}");
    assert!(report.text().contains("ended early: POOL_EXHAUSTED"), "{}", report.text());
    rig.stop().await;
}

#[tokio::test]
async fn open_loop_measures_from_the_intended_start() {
    let rig = patient(400).start().await;
    for transport in TRANSPORTS {
        let report = claim(&rig, transport, &["--rate", "60", "--seconds", "1"]).await;
        // The generator is seeded: sixty on average, and never zero with this seed.
        let made = count(&report, Call::Claim, "created");
        assert!((30..=100).contains(&made), "{transport:?}: {report:?}");
        assert_eq!(made, report.samples.len() as u64);
        assert_eq!((report.check.winners, report.check.violations), (made, 0));
        for sample in &report.samples {
            assert!(sample.start_us >= sample.intended_start_us);
            assert!(sample.latency_us >= sample.start_us - sample.intended_start_us);
        }
        let intended = || report.samples.iter().map(|sample| sample.intended_start_us);
        assert!(intended().max().unwrap() - intended().min().unwrap() < 1_000_000, "within the second");
    }
    rig.stop().await;
}

#[tokio::test]
async fn burst_makes_one_claim_per_caller() {
    let rig = patient(30).start().await;
    let report = claim(&rig, Transport::Http, &["--burst", "20"]).await;
    assert_eq!(count(&report, Call::Claim, "created"), 20, "{report:?}");
    let starts: Vec<u64> = report.samples.iter().map(|sample| sample.intended_start_us).collect();
    assert!(starts.iter().all(|start| *start == starts[0]), "all at once");
    let report = claim(&rig, Transport::Nats, &["--burst", "20"]).await;
    assert_eq!(count(&report, Call::Claim, "created"), 10, "{report:?}");
    assert_eq!(count(&report, Call::Claim, "POOL_EXHAUSTED"), 10);
    assert_eq!((report.check.winners, report.check.violations), (10, 0));
    rig.stop().await;
}

#[tokio::test]
async fn repeats_and_releases_are_measured_separately() {
    let rig = patient(30).start().await;
    for transport in TRANSPORTS {
        let report =
            claim(&rig, transport, &["--callers", "3", "--claims", "9", "--replay", "--release"]).await;
        assert_eq!(count(&report, Call::Claim, "created"), 9, "{transport:?}: {report:?}");
        assert_eq!(count(&report, Call::Replay, "existing"), 9, "{transport:?}: {report:?}");
        assert_eq!(count(&report, Call::Release, "released"), 9, "{transport:?}: {report:?}");
        assert_eq!((report.check.same_repeats, report.check.violations), (9, 0));
    }
    eventually("all to be deleted", TIMEOUT, || async {
        let stats = rig.api.stats().await;
        if stats["total"] == 12 { Ok(()) } else { Err(stats) }
    })
    .await;
    rig.stop().await;
}

#[tokio::test]
async fn a_warm_up_is_checked_and_not_measured() {
    let rig = patient(300).start().await;
    let warm = ["--warm-up-seconds", "1"];
    let report =
        claim(&rig, Transport::Nats, &[&["--rate", "40", "--seconds", "1"][..], &warm].concat()).await;
    let measured = report.samples.len() as u64;
    assert!(measured > 10 && report.check.winners > measured + 10, "{measured} of {report:?}");
    assert!(report.samples.iter().all(|sample| sample.intended_start_us >= 1_000_000));
    assert_eq!(held(&rig).await, report.check.winners);
    rig.stop().await;
}

#[tokio::test]
async fn selector_is_sent_over_http_and_nats() {
    let rig = patient(12).set("POOLS", "labs=lab-,main").start().await;
    let name = rig.csp.accounts().first().unwrap().name.clone();
    let prefix = &name[..5];
    for (transport, claims) in TRANSPORTS.into_iter().zip([2_u64, 3]) {
        let narrow =
            ["--callers", "1", "--claims", &claims.to_string(), "--name-prefix", prefix, "--pool", "labs"];
        let report = claim(&rig, transport, &narrow).await;
        assert_eq!(count(&report, Call::Claim, "created"), claims, "{transport:?}: {report:?}");
        assert_eq!(report.check.violations, 0);
        let elsewhere = ["--callers", "1", "--claims", "1", "--name-prefix", prefix, "--pool", "main"];
        let report = claim(&rig, transport, &elsewhere).await;
        assert_eq!(count(&report, Call::Claim, "POOL_EXHAUSTED"), 1, "{transport:?}: {report:?}");
    }
    rig.stop().await;
}

#[test]
fn contradictory_arguments_are_rejected() {
    let http = ["bench", "claim", "--http", "http://h", "--token-file", "f"];
    let refused = |more: &[&str]| parse(http.iter().chain(more).copied()).is_err();
    assert!(!refused(&["--callers", "1"]));
    assert!(refused(&[]), "no mode");
    assert!(refused(&["--callers", "1", "--rate", "1"]), "two modes");
    assert!(refused(&["--burst", "1", "--seconds", "1"]), "a burst has no length");
    assert!(refused(&["--burst", "1", "--warm-up-seconds", "1"]), "nor a warm-up");
    assert!(refused(&["--rate", "1", "--claims", "1"]), "a schedule decides how many");
    assert!(refused(&["--callers", "1", "--claims", "1", "--seconds", "1"]), "two limits");
    assert!(refused(&["--callers", "1", "--nats", "nats://h"]), "two transports");
    assert!(refused(&["--rate", "0"]) && refused(&["--rate", "inf"]) && refused(&["--callers", "0"]));
    assert!(parse(["bench", "claim", "--http", "http://h", "--callers", "1"]).is_err(), "no token");
    assert!(parse(["bench", "claim", "--callers", "1"]).is_err(), "no transport");
    assert!(parse(["bench", "claim", "--nats", "nats://h", "--callers", "1"]).is_ok());
}

#[tokio::test]
async fn unavailable_broker_is_a_failure() {
    let rig = patient(3).start().await;
    let (mut options, _token) = crate::tool::claim_command(&rig, Transport::Http, &["--burst", "3"]);
    options.transport.http = Some("http://127.0.0.1:1".to_owned());
    let ended = bench::claim::command(options, &std::collections::BTreeMap::new(), &ports()).await;
    let error = ended.unwrap_err().to_string();
    assert!(error.contains("no worker answered at http://127.0.0.1:1"), "{error}");
    rig.stop().await;
}
