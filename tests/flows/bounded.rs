//! Nothing waits longer than its deadline: neither an operator who stops a process, nor a caller of a frozen process.

use contract::TickKind;
use harness::freezing_proxy::FreezingProxy;
use harness::http::Api;
use harness::rig::Plan;
use harness::wait::{TIMEOUT, eventually, moment};
use ports::bus::Ticks as _;
use simulator::{Fault, FaultKind, Operation};
use std::time::{Duration, Instant};

/// The maximum time of a stop: the wait for a run, one fetch, and the closing of connections.
const STOP_MAX: Duration = Duration::from_secs(8);
/// The maximum time of an answer whose deadline has passed.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A freeze longer than every deadline.
const FROZEN: Duration = Duration::from_secs(4);

#[tokio::test]
async fn slow_sync_does_not_delay_the_stop() {
    let mut rig = Plan::new(2).start().await;
    rig.csp.clear_log();
    rig.csp.fail(Operation::List, Fault::next(1, FaultKind::Hang)).unwrap();
    rig.bus.tick(TickKind::SYNC, None).await.unwrap();
    eventually("a listing that hangs", TIMEOUT, || async {
        let listings = rig.csp.log().iter().filter(|call| call.operation == Operation::List).count();
        if listings > 0 { Ok(()) } else { Err(listings) }
    })
    .await;
    let asked = Instant::now();
    rig.stop_fleet().await.expect("the fleet ends in order");
    assert!(asked.elapsed() < STOP_MAX, "{:?}", asked.elapsed());
    rig.start_again().await;
    rig.sync().await;
    rig.stop().await;
}

async fn signal(pid: i32, name: &str) {
    let sent = tokio::process::Command::new("kill").args([name, &pid.to_string()]).status().await;
    assert!(sent.expect("kill runs").success());
}

#[tokio::test]
async fn thawed_ingress_answers_overdue_requests_immediately() {
    let rig = Plan::new(2).set("REQUEST_DEADLINE_MS", 2_000).set("REQUEST_ATTEMPT_MS", 1_000).start().await;
    let folder = tempfile::tempdir().unwrap();
    let to_nats = FreezingProxy::start(&rig.env["NATS_URL"], None).await;
    let ingress = rig.start_role("ingress", folder.path(), to_nats.address(), "").await;
    let address = eventually("the ingress to listen", TIMEOUT, || async {
        let output = ingress.output();
        let listens = output.lines().find(|line| line.contains("the HTTP API listens"));
        let line: Option<serde_json::Value> = listens.and_then(|line| serde_json::from_str(line).ok());
        line.and_then(|line| line["listen"].as_str()?.parse().ok()).ok_or(output)
    })
    .await;
    let api = Api::new(address, &rig.api.lab_token, &rig.api.admin_token);
    eventually("a first claim", TIMEOUT, || async {
        let claim = api.allocate("student-1").await;
        if claim.status < 300 { Ok(()) } else { Err(claim) }
    })
    .await;
    // From now on no worker's answer arrives.
    to_nats.hold();
    let asking: Vec<_> = (0..8)
        .map(|number| {
            let api = api.clone();
            tokio::spawn(async move {
                let answer = api.allocate(&format!("late-{number}")).await;
                (answer, Instant::now())
            })
        })
        .collect();
    eventually("the claims to be under way", TIMEOUT, || async {
        let metrics =
            reqwest::get(format!("{}/metrics", api.root)).await.expect("metrics").text().await.unwrap();
        let line = metrics.lines().find(|line| line.starts_with("broker_http_in_flight_requests "));
        let in_flight = line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok());
        if in_flight.is_some_and(|in_flight| in_flight >= 8.0) { Ok(()) } else { Err(in_flight) }
    })
    .await;
    let pid = ingress.child.id();
    signal(pid, "-STOP").await;
    moment(FROZEN).await;
    let thawed = Instant::now();
    signal(pid, "-CONT").await;
    for asking in asking {
        let (answer, at) = asking.await.unwrap();
        assert!([503, 504].contains(&answer.status), "{answer:?}");
        assert!(at - thawed < AT_ONCE, "{:?} after the freeze: {answer:?}", at - thawed);
    }
    to_nats.let_go();
    assert_eq!(ingress.stop(TIMEOUT).await, Some(0), "{}", ingress.output());
    rig.stop().await;
}
