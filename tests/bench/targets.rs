//! Targets, growth and footprint: the verdicts follow from the measurements, and every case is measured.

use crate::tool::{command, ports};
use bench::rounds::Figures;
use bench::summary::Spread;
use bench::targets::verdict::{Baseline, Bound, Burst, Engine, Measured, Open, Verdict, judge};
use bench::targets::{self, Name};
use bench::{Command, footprint, growth};
use harness::servers::{self, broker_binary};
use std::collections::{BTreeMap, BTreeSet};

/// A fleet whose callers may wait long: the test machine is busy, and the test does not measure speed.
fn patient() -> BTreeMap<String, String> {
    [("REQUEST_DEADLINE_MS", "60000"), ("REQUEST_ATTEMPT_MS", "30000")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Every case exactly at its target: baseline 1 ms for one caller, 2,000 a second with many callers.
fn just_good_enough() -> Measured {
    let figures = |rate_per_second, p50_ms, p99_ms| Figures {
        rate_per_second,
        p50_us: p50_ms * 1_000.0,
        p99_us: p99_ms * 1_000.0,
    };
    Measured {
        baseline: Baseline {
            round_trip_p50_us: 250.0,
            writes_p50_us: 750.0,
            concurrent_writes_per_second: 2_000.0,
        },
        claims: BTreeMap::from([
            (Name::SmallAlone, figures(600.0, 1.5, 5.0)),
            (Name::LargeAlone, figures(600.0, 1.8, 6.0)),
            (Name::NarrowAlone, figures(600.0, 1.8, 6.0)),
            (Name::RepeatedAlone, figures(600.0, 1.5, 5.0)),
            (Name::SmallConcurrent, figures(1_200.0, 50.0, 100.0)),
            (Name::LargeConcurrent, figures(1_000.0, 60.0, 120.0)),
            (Name::NarrowConcurrent, figures(1_000.0, 60.0, 120.0)),
            (Name::RepeatedConcurrent, figures(600.0, 50.0, 100.0)),
            (Name::SmallHundred, figures(760.0, 80.0, 237.5)),
            (Name::NarrowHundred, figures(480.0, 80.0, 900.0)),
        ]),
        repeats: BTreeMap::from([
            (Name::RepeatedAlone, figures(600.0, 1.5, 50.0)),
            (Name::RepeatedConcurrent, figures(600.0, 50.0, 500.0)),
        ]),
        burst: Burst { callers: 1_000, served_least: 1_000, seconds: 0.75, refusals: BTreeMap::new() },
        open: Open {
            pool: 30_000,
            rate_per_second: 600.0,
            figures: figures(600.0, 2.0, 10.0),
            granted: 36_000,
            not_granted: 0,
            refusals: BTreeMap::new(),
            late_p99_us: 100.0,
            bare: Spread::default(),
        },
        distinct: true,
    }
}

/// The missed targets: the part and the beginning of the measure's name.
fn missed(measured: &Measured, engine: Engine) -> Vec<String> {
    let verdicts = judge(measured, engine).into_iter().filter(|verdict| !verdict.is_met);
    verdicts.map(|verdict| format!("{} {}", verdict.part, verdict.measure)).collect()
}

/// The missed targets after `change`.
fn missed_after(change: impl FnOnce(&mut Measured)) -> Vec<String> {
    let mut measured = just_good_enough();
    change(&mut measured);
    missed(&measured, Engine::Dynoxide)
}

/// The missed targets after one figure of one case becomes a tenth worse.
fn missed_with(name: Name, figure: fn(&mut Figures)) -> Vec<String> {
    missed_after(|measured| figure(measured.claims.get_mut(&name).unwrap()))
}

#[test]
fn target_is_met_at_its_exact_value() {
    assert_eq!(missed(&just_good_enough(), Engine::Dynoxide), Vec::<String>::new());
    assert_eq!(missed(&just_good_enough(), Engine::DynamodbLocal), Vec::<String>::new());
    let parts: BTreeSet<char> =
        judge(&just_good_enough(), Engine::Dynoxide).iter().map(|verdict| verdict.part).collect();
    assert_eq!(parts, BTreeSet::from(['a', 'b', 'c', 'd', 'e', 'f', 'g']));
}

#[test]
fn each_target_fails_only_by_its_own_figure() {
    let slower: fn(&mut Figures) = |figures| figures.p50_us *= 1.1;
    let rarer: fn(&mut Figures) = |figures| figures.rate_per_second *= 0.9;
    let later: fn(&mut Figures) = |figures| figures.p99_us *= 1.1;
    assert_eq!(missed_with(Name::SmallAlone, slower), ["a 1 caller: p50, in baselines"]);
    assert_eq!(missed_with(Name::SmallConcurrent, rarer), ["b 64 callers: rate, share of the bare writes"]);
    for name in [Name::NarrowAlone, Name::LargeAlone, Name::NarrowConcurrent, Name::LargeConcurrent] {
        for (quantile, figure) in [("p50", slower), ("p99", later)] {
            let wanted = format!("c {}: {quantile}, times the plain case", name.as_str());
            assert_eq!(missed_with(name, figure), [wanted]);
        }
    }
    assert_eq!(missed_with(Name::SmallHundred, rarer), ["g 100 callers: claims in a second"]);
    assert_eq!(missed_with(Name::SmallHundred, later), ["g 100 callers: p99 in ms"]);
    assert_eq!(missed_with(Name::NarrowHundred, rarer), ["g 100 callers, name prefix: claims in a second"]);
    for name in [Name::RepeatedAlone, Name::RepeatedConcurrent] {
        let found = missed_after(|measured| measured.repeats.get_mut(&name).unwrap().p50_us *= 1.1);
        assert_eq!(found, [format!("d {}: p50 of repeats, times that of claims", name.as_str())]);
    }
    let found = missed_after(|measured| measured.burst.seconds = 0.76);
    assert_eq!(found, ["e burst of 1000: time, times that of the bare writes"]);
    let found = missed_after(|measured| measured.burst.served_least = 999);
    assert_eq!(found, ["e burst of 1000: callers with a sandbox of their own"]);
    let found = missed_after(|measured| measured.distinct = false);
    assert_eq!(found, ["e burst of 1000: callers with a sandbox of their own"]);
    let found = missed_after(|measured| later(&mut measured.open.figures));
    assert_eq!(found, ["f open loop: p99, in baselines"]);
    let found = missed_after(|measured| measured.open.not_granted = 1);
    assert_eq!(found, ["f open loop: callers without a sandbox"]);
}

#[test]
fn unmeasured_figure_misses_its_target() {
    let found = missed_after(|measured| {
        measured.claims.clear();
        measured.repeats.clear();
        measured.open.granted = 0;
    });
    // All but the burst, which has its own figures, and the count of refused calls.
    assert_eq!(found.len(), judge(&just_good_enough(), Engine::Dynoxide).len() - 3, "{found:?}");
    assert!(!Verdict::new('x', "no number", Bound::AtMost(1.0), Some(f64::NAN)).is_met);
    assert!(!Verdict::new('x', "no number", Bound::AtLeast(1.0), Some(f64::NAN)).is_met);
}

#[test]
fn predecessor_figures_are_per_engine() {
    // 3 ms is above a sixth of 14 ms, and below a sixth of 29 ms.
    let mut measured = just_good_enough();
    measured.claims.get_mut(&Name::SmallAlone).unwrap().p50_us = 3_000.0;
    let alone = "g 1 caller: p50 in ms".to_owned();
    assert!(missed(&measured, Engine::Dynoxide).contains(&alone));
    assert!(!missed(&measured, Engine::DynamodbLocal).contains(&alone));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_targets_are_measured_and_judged() {
    let shared = servers::shared().await;
    let arguments = [
        "targets",
        "--nats-url",
        &shared.nats_url,
        "--dynamodb-endpoint",
        &shared.table_endpoint,
        "--seconds",
        "1",
        "--rounds",
        "1",
        "--claims",
        "20",
        "--pool",
        "200",
        "--large-pool",
        "250",
        "--open-pool",
        "50",
        "--burst",
        "30",
        "--round-trips",
        "50",
    ];
    let Command::Targets(options) = command(&arguments) else { panic!() };
    let report = Box::pin(targets::run(&options, &patient(), &ports())).await.unwrap();
    assert_eq!(report.violations, Vec::<String>::new());
    let measured = &report.measured;
    assert_eq!((measured.claims.len(), measured.repeats.len()), (10, 2));
    assert_eq!((measured.burst.callers, measured.burst.served_least), (30, 30));
    assert!(measured.open.granted > 0 && measured.open.pool > measured.open.granted, "{:?}", measured.open);
    assert_eq!(report.verdicts, judge(measured, Engine::DynamodbLocal));
    assert!(report.verdicts.iter().all(|verdict| verdict.measured.is_some()));
    let text = report.text();
    assert!(text.contains("100 callers, name prefix") && text.contains("0 broken promises"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["verdicts"].as_array().unwrap().len(), report.verdicts.len());
    assert_eq!(json["sizes"]["claims"], 20);
}

#[tokio::test]
async fn too_small_pool_is_rejected_before_the_start() {
    let Command::Targets(options) = command(&["targets", "--claims", "900"]) else { panic!() };
    let error = targets::run(&options, &BTreeMap::new(), &ports()).await.unwrap_err().to_string();
    assert!(error.contains("a pool of 1000 may run dry"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_measures_every_pool_size_and_process_count() {
    let shared = servers::shared().await;
    let program = broker_binary();
    let arguments = [
        "growth",
        "--nats-url",
        &shared.nats_url,
        "--dynamodb-endpoint",
        &shared.table_endpoint,
        "--pools",
        "10,40",
        "--allocators",
        "1,2",
        "--allocators-pool",
        "80",
        "--claims",
        "30",
        "--callers",
        "3",
        "--program",
        program.to_str().unwrap(),
    ];
    let Command::Growth(options) = command(&arguments) else { panic!() };
    let report = Box::pin(growth::run(&options, &patient(), &ports())).await.unwrap();
    assert_eq!(report.violations, Vec::<String>::new());
    let lines = |lines: &[growth::Line]| -> Vec<(u64, u16, u64, u64)> {
        lines.iter().map(|line| (line.pool, line.allocators, line.callers, line.granted)).collect()
    };
    assert_eq!(lines(&report.pools), [(10, 2, 1, 30), (10, 2, 3, 30), (40, 2, 1, 30), (40, 2, 3, 30)]);
    assert_eq!(lines(&report.allocators), [(80, 1, 1, 30), (80, 1, 3, 30), (80, 2, 1, 30), (80, 2, 3, 30)]);
    let all = report.pools.iter().chain(&report.allocators);
    assert!(all.clone().all(|line| line.not_granted == 0 && line.figures.rate_per_second > 0.0));
    assert!(report.text().contains("by number of allocator processes"));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn footprint_measures_every_role() {
    let shared = servers::shared().await;
    let program = broker_binary();
    let arguments = [
        "footprint",
        "--nats-url",
        &shared.nats_url,
        "--dynamodb-endpoint",
        &shared.table_endpoint,
        "--pool",
        "40",
        "--idle-seconds",
        "1",
        "--program",
        program.to_str().unwrap(),
    ];
    let Command::Footprint(options) = command(&arguments) else { panic!() };
    let report = Box::pin(footprint::run(&options, &patient(), &ports())).await.unwrap();
    let roles: Vec<&str> = report.roles.iter().map(|line| line.process).collect();
    assert_eq!(roles, ["allocator", "ingress", "reaper", "reconciler", "scheduler"]);
    assert!(report.roles.iter().all(|line| line.memory.resident_bytes > 0));
    assert!(report.allocator.peak_bytes >= report.allocator.resident_bytes);
    assert_eq!((&report.nats, report.claims), (&None, 20));
    assert_eq!(report.verdicts.len(), 2);
    assert!(report.text().lines().any(|line| line.trim_start().starts_with("reconciler")));
}
