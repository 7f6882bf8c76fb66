//! `bench growth`: how claims change with the size of the pool, and with the number of allocator processes.
//!
//! Every pool size has a separate fleet, whose pool is refilled between rounds. Every number of allocators has one too,
//! with real processes on one NATS server and one table. The load tool, the HTTP API and the table run in this process,
//! so on a machine with few cores additional allocators take capacity from the others.

use super::calls::Sample;
use super::fleet::process::{self, RoleProcess};
use super::fleet::{Fleet, FleetSpec, Servers, interruptible};
use super::rounds::{BenchPool, Figures, closed};
use super::summary::Table;
use super::{Output, Ports, check_violations};
use anyhow::Context as _;
use contract::WorkerRole;
use runtime::settings::Env;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Claims of the warm-up.
const WARM_UP_CLAIMS: u64 = 32;
/// Allocators in this process, where their number is not measured.
const ALLOCATORS: u16 = 2;
/// Maximum share of a pool that a round uses, so that the pool keeps about its size.
const ROUND_SHARE: u64 = 2;
/// What the names of all sandboxes begin with.
const NAME: &str = "growth-";
/// Time-out until every process has served a claim.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// What an allocator calls the claims that it has answered.
const SERVED: &str = "broker_allocator_requests_total{outcome=\"created\",verb=\"allocate\"}";

/// The options of `bench growth`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Free sandboxes.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "100,1000,10000,100000", value_parser = clap::value_parser!(u64).range(4..=1_000_000))]
    pub pools: Vec<u64>,
    /// Allocator processes.
    #[arg(long, value_name = "K,K", value_delimiter = ',', default_value = "1,2,4", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub allocators: Vec<u16>,
    /// Claims of each line.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(2..=100_000))]
    pub claims: u64,
    /// Callers at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(2..=1_000))]
    pub callers: u64,
    /// Free sandboxes for the allocator processes.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(4..=1_000_000))]
    pub allocators_pool: u64,
    /// The `broker` binary for the processes, instead of the one next to this one.
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// The servers.
    #[command(flatten)]
    pub servers: Servers,
    /// The format of the summary.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// One line of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Free sandboxes at the beginning of each round.
    pub pool: u64,
    /// Allocators.
    pub allocators: u16,
    /// Callers at once.
    pub callers: u64,
    /// Claims that were granted.
    pub granted: u64,
    /// Claims that were not.
    pub not_granted: u64,
    /// What was found.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// By size of the pool.
    pub pools: Vec<Line>,
    /// By number of allocator processes.
    pub allocators: Vec<Line>,
    /// Broken promises.
    pub violations: Vec<String>,
}

/// Measures, prints two tables, and fails if a guarantee was violated.
///
/// # Errors
/// The errors of [`run`], and a violated guarantee.
pub async fn command(options: Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<()> {
    let report = run(&options, env, ports).await?;
    options.output.print(&report, Report::text)?;
    check_violations(&report.violations)
}

/// Measures fleet after fleet.
///
/// # Errors
/// When a part cannot be started, or a measurement fails.
pub async fn run(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for &pool in &options.pools {
        let fleet = Box::pin(Fleet::start(options.spec(ALLOCATORS), env, ports)).await?;
        let measured = interruptible(of_pool(options, pool, &fleet, ports, &mut report)).await;
        fleet.end(measured).await?;
    }
    let binary = process::program(options.program.as_deref())?;
    for &allocators in &options.allocators {
        let fleet = Box::pin(Fleet::start(options.spec(0), env, ports)).await?;
        let mut processes = Vec::new();
        let measured = interruptible(of_processes(
            options,
            allocators,
            &binary,
            &mut processes,
            &fleet,
            ports,
            &mut report,
        ))
        .await;
        RoleProcess::stop_all(processes).await;
        fleet.end(measured).await?;
    }
    Ok(report)
}

async fn of_pool(
    options: &Options,
    pool: u64,
    fleet: &Fleet,
    ports: &Ports,
    report: &mut Report,
) -> anyhow::Result<()> {
    fleet.ready(ports).await?;
    let mut bench_pool = BenchPool::new(None, NAME, pool);
    for callers in [1, options.callers] {
        let line = measured(options, callers, ALLOCATORS, &mut bench_pool, fleet, ports, report).await?;
        report.pools.push(line);
    }
    Ok(())
}

async fn of_processes(
    options: &Options,
    allocators: u16,
    binary: &Path,
    processes: &mut Vec<RoleProcess>,
    fleet: &Fleet,
    ports: &Ports,
    report: &mut Report,
) -> anyhow::Result<()> {
    for _ in 0..allocators {
        processes.push(RoleProcess::start(fleet, WorkerRole::Allocator, binary, &[]).await?);
    }
    fleet.ready(ports).await?;
    let mut bench_pool = BenchPool::new(None, NAME, options.allocators_pool);
    tokio::time::timeout(JOIN_TIMEOUT, all_serve(processes, &mut bench_pool, fleet, ports))
        .await
        .context("some allocator is never given a claim")??;
    for callers in [1, options.callers] {
        let line = measured(options, callers, allocators, &mut bench_pool, fleet, ports, report).await?;
        report.allocators.push(line);
    }
    Ok(())
}

/// Claims until every process has served some, because one that starts late would otherwise be counted without work.
async fn all_serve(
    processes: &[RoleProcess],
    bench_pool: &mut BenchPool,
    fleet: &Fleet,
    ports: &Ports,
) -> anyhow::Result<()> {
    let claims = (bench_pool.size / ROUND_SHARE).min(WARM_UP_CLAIMS);
    loop {
        bench_pool.run(fleet, ports, closed(1, claims, 0, false)).await?;
        let mut served = 0;
        for process in processes {
            served += usize::from(process.metrics().await?.contains(SERVED));
        }
        if served == processes.len() {
            return Ok(());
        }
    }
}

/// Rounds of claims, until there are as many as asked for.
async fn measured(
    options: &Options,
    callers: u64,
    allocators: u16,
    bench_pool: &mut BenchPool,
    fleet: &Fleet,
    ports: &Ports,
    report: &mut Report,
) -> anyhow::Result<Line> {
    let round_claims = (bench_pool.size / ROUND_SHARE).max(1);
    let in_flight = usize::try_from(callers)?;
    bench_pool.run(fleet, ports, closed(in_flight, round_claims.min(WARM_UP_CLAIMS), 0, false)).await?;
    let (mut samples, mut seconds, mut not_granted) = (Vec::<Sample>::new(), 0.0, 0);
    let mut made = 0;
    while made < options.claims {
        let claims = round_claims.min(options.claims - made);
        let found = bench_pool.run(fleet, ports, closed(in_flight, claims, 0, false)).await?;
        report.violations.extend(found.check.shown);
        made += claims;
        seconds += found.elapsed_seconds;
        let (granted, others): (Vec<_>, Vec<_>) =
            found.samples.into_iter().partition(|sample| sample.ending.is_granted());
        samples.extend(granted);
        not_granted += others.len() as u64;
    }
    let (granted, pool) = (samples.len() as u64, bench_pool.size);
    let figures = Figures::of_samples(&samples, seconds);
    Ok(Line { pool, allocators, callers, granted, not_granted, figures })
}

// === impl Options ===

impl Options {
    fn spec(&self, allocators: u16) -> FleetSpec<'_> {
        FleetSpec { allocators, servers: &self.servers, pools: Some("main") }
    }
}

// === impl Report ===

impl Report {
    /// The summary for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { pools, allocators, violations } = self;
        let mut text = String::new();
        for (title, lines) in
            [("by size of the pool", pools), ("by number of allocator processes", allocators)]
        {
            let mut table = Table::new([
                "free",
                "allocators",
                "callers",
                "granted",
                "not granted",
                "per s",
                "p50 ms",
                "p99 ms",
            ]);
            for Line { pool, allocators, callers, granted, not_granted, figures } in lines {
                let allocators = u64::from(*allocators);
                let head =
                    [*pool, allocators, *callers, *granted, *not_granted].map(|count| count.to_string());
                table.push(head.into_iter().chain(figures.cells()));
            }
            text.push_str(&format!("\n{title}\n\n{}", table.text()));
        }
        for violation in violations {
            text.push_str(&format!("  BROKEN: {violation}\n"));
        }
        text
    }
}
