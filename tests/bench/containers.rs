//! Every part of `bench containers` runs on a fleet with runners of the fake engine, and counts what it did.

use crate::tool::{command, ports};
use bench::containers::{self, Report};
use bench::{Command, Output};
use harness::servers::broker_binary;
use std::collections::BTreeMap;

async fn run(parts: &[&str], more: &[&str]) -> Report {
    let program = broker_binary();
    let mut arguments = vec!["containers", "--engine", "fake", "--program", program.to_str().unwrap()];
    arguments.extend(parts.iter().flat_map(|part| ["--part", part]));
    arguments.extend(more);
    let Command::Containers(options) = command(&arguments) else { panic!("{arguments:?}") };
    assert_eq!(options.output, Output::Text);
    let report = Box::pin(containers::run(&options, &BTreeMap::new(), &ports())).await.unwrap();
    assert_eq!(report.violations, Vec::<String>::new());
    assert_eq!(report.load.len(), parts.len() + 1);
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_cycles_and_bursts_of_containers_are_counted() {
    let more =
        ["--claims", "3", "--cold", "2", "--cycles", "6", "--callers", "2", "--burst", "4", "--rounds", "2"];
    let report = run(&["warm", "cold", "cycles", "burst"], &more).await;
    let warm = report.warm.as_ref().unwrap();
    let counts = [&warm.accounts, &warm.containers, &warm.first_output, report.cold.as_ref().unwrap()];
    assert_eq!(counts.map(|spread| spread.count), [3, 3, 3, 2]);
    assert!(warm.first_output.p50_us >= warm.containers.p50_us, "{warm:?}");
    let cycles = report.cycles.as_ref().unwrap();
    assert_eq!((cycles.count, cycles.after.containers, cycles.after.records), (6, 0, 0));
    assert!(cycles.before.descriptors > 0 && cycles.before.mounts > 0, "{cycles:?}");
    let burst = report.burst.as_ref().unwrap();
    assert_eq!((burst.callers, burst.served_least, burst.containers_p99_us.len()), (4, 4, 2));
    assert_eq!(report.verdicts.iter().map(|verdict| verdict.part).collect::<String>(), "12344455");
    let text = report.text();
    assert!(text.contains("claim until created") && text.contains("6 cycles of 2 callers"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steady_fleet_is_measured() {
    let report = run(&["steady"], &["--leased", "12", "--steady-seconds", "1"]).await;
    let steady = report.steady.as_ref().unwrap();
    assert_eq!((steady.leased, steady.nodes), (12, 4));
    assert!(steady.fleet_memory.resident_bytes > 0 && steady.seconds >= 1.0, "{steady:?}");
    assert_eq!(report.verdicts.iter().map(|verdict| verdict.part).collect::<String>(), "66");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn free_containers_of_a_lost_node_are_replaced() {
    let report = run(&["loss"], &["--warm", "30"]).await;
    let loss = report.loss.as_ref().unwrap();
    assert_eq!((loss.warm, loss.others_gone), (30, 0));
    assert!(loss.on_lost_node <= 30, "{loss:?}");
    assert_eq!(report.verdicts.iter().map(|verdict| verdict.part).collect::<String>(), "777");
}
