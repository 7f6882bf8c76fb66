//! `bench footprint`: the memory of an allocator with a large pool, and the cost of an idle fleet. Every role is a
//! separate process; table and provider run in this process and are not counted.
//!
//! The first sync of the reconciler ends before the pool is filled, and the second one comes at the full hour: the idle
//! time contains heartbeats, ticks, sweeps and expiry runs.

use super::fleet::process::{self, RoleProcess};
use super::fleet::{Fleet, FleetSpec, Servers, interruptible};
use super::rounds::{BenchPool, closed};
use super::summary::Table;
use super::targets::verdict::{Bound, Verdict};
use super::usage::{self, Memory, TICKS_PER_SECOND};
use super::{Output, Ports, targets};
use anyhow::bail;
use broker::up::first_sync;
use contract::WorkerRole;
use ops::listen;
use runtime::settings::{Env, Secret};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Claims of each kind before memory is measured: they fill the candidate buffers of both selectors several times.
const CLAIMS: u64 = 1_000;
/// Callers of these claims.
const CALLERS: usize = 16;
/// Target for the memory of an allocator: 100 MB.
const MEMORY_MAX_BYTES: f64 = 100_000_000.0;
/// Bytes in a megabyte, as the target counts it.
const MEGABYTE_BYTES: f64 = 1_000_000.0;
/// Target for all processes of an idle fleet together, in percent of a core.
const IDLE_PERCENT_MAX: f64 = 3.0;
/// The roles of the fleet; the allocator is the first.
const ROLES: [WorkerRole; 5] = [
    WorkerRole::Allocator,
    WorkerRole::Ingress,
    WorkerRole::Reaper,
    WorkerRole::Reconciler,
    WorkerRole::Scheduler,
];
/// The token between this process's empty provider and its callers.
const CSP_TOKEN: &str = "footprint";

/// Time between two syncs, the longest there is: none but the first one comes, unless the hour is full.
const SYNC_INTERVAL_SECONDS: &str = "3600";

/// The options of `bench footprint`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Free sandboxes.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(4..=1_000_000))]
    pub pool: u64,
    /// How long the fleet is idle.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub idle_seconds: u64,
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

/// What one process uses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// The role, or the kind of process.
    pub process: &'static str,
    /// Its memory at the end of the idle time.
    #[serde(flatten)]
    pub memory: Memory,
    /// Processor time over the idle time, in percent of a core.
    pub idle_percent: f64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Free sandboxes.
    pub pool: u64,
    /// Claims before.
    pub claims: u64,
    /// How long the idle time was.
    pub idle_seconds: f64,
    /// The memory of the allocator after the claims.
    pub allocator: Memory,
    /// Every role.
    pub roles: Vec<Line>,
    /// What all roles took together, in percent of a core.
    pub roles_idle_percent: f64,
    /// The NATS server, which is not counted with them; none if the run uses an external server.
    pub nats: Option<Line>,
    /// Both targets.
    pub verdicts: Vec<Verdict>,
}

/// A provider without accounts, for roles that need one.
struct Provider {
    root: String,
    serving: JoinHandle<std::io::Result<()>>,
    stop: DropGuard,
}

/// Measures and prints.
///
/// # Errors
/// As [`run`].
pub async fn command(options: Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<()> {
    let report = run(&options, env, ports).await?;
    options.output.print(&report, Report::text)
}

/// Starts the processes, fills the pool, claims, and measures the processes.
///
/// # Errors
/// On a system without `/proc`; when a part cannot be started or read.
pub async fn run(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Report> {
    if !usage::is_shown() {
        bail!("only Linux shows what a process uses in the way that this command reads it (/proc)");
    }
    let spec = FleetSpec { allocators: 0, servers: &options.servers, pools: Some("main") };
    let fleet = Box::pin(Fleet::start(spec, env, ports)).await?;
    let mut processes = Vec::new();
    let measured = interruptible(measure(options, &fleet, &mut processes, ports)).await;
    RoleProcess::stop_all(processes).await;
    fleet.end(measured).await
}

async fn measure(
    options: &Options,
    fleet: &Fleet,
    processes: &mut Vec<RoleProcess>,
    ports: &Ports,
) -> anyhow::Result<Report> {
    let provider = Provider::start(ports).await?;
    let binary = process::program(options.program.as_deref())?;
    let more = [
        ("CSP_BASE_URL", format!("{}/v2", provider.root)),
        ("CSP_API_TOKEN", CSP_TOKEN.to_owned()),
        ("NIOSXAAS_BASE_URL", provider.root.clone()),
        ("SYNC_INTERVAL_SECONDS", SYNC_INTERVAL_SECONDS.to_owned()),
    ];
    for role in ROLES {
        processes.push(RoleProcess::start(fleet, role, &binary, &more).await?);
    }
    fleet.ready(ports).await?;
    // The sync would find that the provider does not have the pool that is filled here.
    first_sync(fleet.reports()).await;
    let mut bench_pool = BenchPool::new(None, "lab-", options.pool);
    // At most half of it, so that the pool stays large.
    let claims = CLAIMS.min(options.pool / 4);
    for is_narrow in [false, true] {
        bench_pool.is_narrow = is_narrow;
        bench_pool.run(fleet, ports, closed(CALLERS, claims, 0, false)).await?;
    }
    let mut allocator = Memory::default();
    if let Some(process) = processes.iter().find(|process| process.role == WorkerRole::Allocator) {
        allocator = usage::memory(process.id())?;
    }
    let mut watched: Vec<(&'static str, i32)> =
        processes.iter().map(|process| (process.role.as_str(), process.id())).collect();
    watched.extend(fleet.nats_id().map(|id| ("nats-server", id)));
    let (mut lines, idle_seconds) = idle(&watched, Duration::from_secs(options.idle_seconds)).await?;
    let nats = fleet.nats_id().and_then(|_| lines.pop());
    provider.stop().await?;
    let roles_idle_percent = lines.iter().map(|line| line.idle_percent).sum();
    let verdicts = judge(allocator, roles_idle_percent);
    let claims = 2 * claims;
    Ok(Report {
        pool: options.pool,
        claims,
        idle_seconds,
        allocator,
        roles: lines,
        roles_idle_percent,
        nats,
        verdicts,
    })
}

/// What each process uses over `span`.
async fn idle(watched: &[(&'static str, i32)], span: Duration) -> anyhow::Result<(Vec<Line>, f64)> {
    let ticks = || watched.iter().map(|(_, id)| usage::ticks(*id)).collect::<anyhow::Result<Vec<u64>>>();
    let (began, before) = (Instant::now(), ticks()?);
    tokio::time::sleep(span).await;
    let (after, seconds) = (ticks()?, began.elapsed().as_secs_f64());
    let used = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before));
    let lines = watched.iter().zip(used).map(|((process, id), ticks)| {
        let idle_percent = percent_of_core(ticks, seconds);
        Ok(Line { process, memory: usage::memory(*id)?, idle_percent })
    });
    Ok((lines.collect::<anyhow::Result<_>>()?, seconds))
}

fn percent_of_core(ticks: u64, seconds: f64) -> f64 {
    100.0 * ticks as f64 / (TICKS_PER_SECOND * seconds)
}

/// Compares memory and idle time with their targets. The peak counts, because a container's limit applies to it.
#[must_use]
fn judge(allocator: Memory, roles_idle_percent: f64) -> Vec<Verdict> {
    let megabytes = allocator.peak_bytes as f64 / MEGABYTE_BYTES;
    // A process without memory did not exist.
    let megabytes = (allocator.peak_bytes > 0).then_some(megabytes);
    vec![
        Verdict::new(
            'h',
            "allocator: most memory in MB",
            Bound::AtMost(MEMORY_MAX_BYTES / MEGABYTE_BYTES),
            megabytes,
        ),
        Verdict::new(
            'h',
            "idle fleet: percent of a core",
            Bound::AtMost(IDLE_PERCENT_MAX),
            Some(roles_idle_percent),
        ),
    ]
}

// === impl Provider ===

impl Provider {
    async fn start(ports: &Ports) -> anyhow::Result<Self> {
        let config = simulator::Config { accounts: 0, ..simulator::Config::local(Secret::new(CSP_TOKEN)) };
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let root = format!("http://{}", listener.local_addr()?);
        let (clock, random) = (Arc::clone(&ports.clock), Arc::clone(&ports.random));
        let simulator = simulator::Simulator::open(config, clock, random)?;
        let stop = CancellationToken::new();
        let serving = tokio::spawn(simulator.run(listener, stop.clone()));
        Ok(Self { root, serving, stop: stop.drop_guard() })
    }

    async fn stop(self) -> anyhow::Result<()> {
        let Self { root: _, serving, stop } = self;
        drop(stop);
        // Connections that the roles keep open may delay it; they end soon anyway.
        serving.abort();
        match serving.await {
            Ok(served) => Ok(served?),
            Err(_) => Ok(()),
        }
    }
}

// === impl Report ===

impl Report {
    /// The summary for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { pool, claims, idle_seconds, allocator, roles, roles_idle_percent, nats, verdicts } = self;
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / MEGABYTE_BYTES);
        let mut table = Table::new(["process", "memory MB", "most MB", "idle % of a core"]);
        for Line { process, memory, idle_percent } in roles.iter().chain(nats) {
            let Memory { resident_bytes, peak_bytes } = *memory;
            let percent = format!("{idle_percent:.2}");
            table.push([(*process).to_owned(), megabytes(resident_bytes), megabytes(peak_bytes), percent]);
        }
        let (resident, peak) = (megabytes(allocator.resident_bytes), megabytes(allocator.peak_bytes));
        format!(
            "\n{pool} free sandboxes; the allocator after {claims} claims: {resident} MB, at most {peak} MB\n\n{}\n  \
             {idle_seconds:.0} s idle: the roles took {roles_idle_percent:.2} % of a core together\n\n{}",
            table.text(),
            targets::table_of(verdicts),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_become_a_percentage_of_a_core() {
        assert_eq!(percent_of_core(90, 30.0), 3.0);
        assert_eq!(percent_of_core(0, 30.0), 0.0);
    }

    #[test]
    fn memory_is_judged_by_maximum_and_idle_cpu_by_sum() {
        let met = |peak_bytes, percent| {
            let verdicts = judge(Memory { resident_bytes: 1, peak_bytes }, percent);
            (verdicts[0].is_met, verdicts[1].is_met)
        };
        assert_eq!(met(99_000_000, 2.9), (true, true));
        assert_eq!(met(101_000_000, 3.1), (false, false));
        assert_eq!(met(0, 0.0), (false, true), "a process that was not there meets nothing");
    }
}
