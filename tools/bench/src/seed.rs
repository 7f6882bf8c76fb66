//! `bench seed`: fills a table with free sandboxes.

use super::progress::{Progress, Total};
use super::summary::per_second;
use super::workers::work;
use super::{Output, Ports, fresh_run, table};
use anyhow::{Context as _, bail};
use domain::{Candidate, ExternalId, NewSandbox, PoolName, Pools, ProviderName, SandboxId, SandboxName};
use ports::clock::Clock;
use ports::store::{Insert, Store};
use runtime::settings::Env;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// Most sandboxes of one filling.
const COUNT_MAX: u64 = 1_000_000;
/// Concurrent inserts: a number that good engines still answer quickly and that new tables of AWS accept without
/// throttling.
const IN_FLIGHT: usize = 64;

/// Age of the sandboxes: older than the event log keeps events, as in most pools in use. A claim then has one event to
/// publish, as in a fleet whose sync has published the other one.
const AGE: Duration = Duration::from_secs(3_650 * 24 * 3_600);

/// The options of `bench seed`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Sandboxes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=COUNT_MAX))]
    pub count: u64,
    /// What their names begin with; with `POOLS` it decides their pool, as in a sync.
    #[arg(long, value_name = "PREFIX", default_value = "bench-")]
    pub name_prefix: String,
    /// Which table.
    #[command(flatten)]
    pub table: table::Options,
    /// How the summary looks.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// The result of filling.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Sandboxes that were inserted.
    pub inserted: u64,
    /// How long that took.
    pub elapsed_seconds: f64,
    /// How many in a second.
    pub rate_per_second: f64,
}

/// The sandboxes to insert.
#[derive(Clone, Debug)]
pub(super) struct Filling {
    /// What their ids begin with.
    pub(super) run: String,
    /// What their names begin with.
    pub(super) name_prefix: String,
    /// Their pool.
    pub(super) pool: PoolName,
    /// How many.
    pub(super) count: u64,
}

/// Fills the table and prints how fast that went.
///
/// # Errors
/// As [`run`].
pub async fn command(options: Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<()> {
    let report = run(&options, env, ports).await?;
    options.output.print(&report, Report::text)
}

/// Fills the table.
///
/// # Errors
/// When the table cannot be reached, or an insert fails.
pub async fn run(options: &Options, env: &dyn Env, ports: &Ports) -> anyhow::Result<Report> {
    let table = options.table.open(env).await?;
    let run = fresh_run(ports);
    let filling = Filling::by_rules(&table.pools, run, &options.name_prefix, options.count)?;
    let (_, report) = fill(table.store, Arc::clone(&ports.clock), filling).await?;
    Ok(report)
}

/// Inserts the sandboxes and says where each can be claimed.
pub(super) async fn fill(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    filling: Filling,
) -> anyhow::Result<(Vec<Candidate>, Report)> {
    let (began, count, done) = (Instant::now(), filling.count, Arc::new(AtomicU64::new(0)));
    let progress = Progress::show("sandboxes", Total::Count(count), &done);
    let filling = Arc::new(filling);
    let candidates = work(IN_FLIGHT, count, &done, move |number| {
        let (store, clock, filling) = (Arc::clone(&store), Arc::clone(&clock), Arc::clone(&filling));
        async move {
            match store.insert(&filling.sandbox(number)?, clock.now().before(AGE)).await? {
                Insert::Inserted(sandbox) => Ok(sandbox.candidate()),
                Insert::Exists(sandbox) => bail!("{} exists already", sandbox.id),
                Insert::Taken(id) => bail!("its account is {id} already"),
            }
        }
    })
    .await;
    progress.end();
    let elapsed_seconds = began.elapsed().as_secs_f64();
    let rate_per_second = per_second(count, elapsed_seconds);
    Ok((candidates?, Report { inserted: count, elapsed_seconds, rate_per_second }))
}

// === impl Filling ===

impl Filling {
    /// Sandboxes in the pool that a sync would assign.
    pub(super) fn by_rules(
        pools: &Pools,
        run: String,
        name_prefix: &str,
        count: u64,
    ) -> anyhow::Result<Self> {
        let name = SandboxName::parse(&format!("{name_prefix}0")).context("--name-prefix")?;
        let pool =
            pools.pool_of(&ProviderName::csp(), &name).context("no pool takes such a name")?.name.clone();
        Ok(Self { run, name_prefix: name_prefix.to_owned(), pool, count })
    }

    fn sandbox(&self, number: u64) -> anyhow::Result<NewSandbox> {
        let Self { run, name_prefix, pool, count: _ } = self;
        Ok(NewSandbox {
            id: SandboxId::parse(&format!("{run}-{number}"))?,
            name: SandboxName::parse(&format!("{name_prefix}{number:07}"))?,
            external_id: ExternalId::parse(&format!("identity/accounts/{run}-{number}"))?,
            pool: pool.clone(),
            descriptor: domain::Descriptor::default(),
        })
    }
}

// === impl Report ===

impl Report {
    /// The summary for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { inserted, elapsed_seconds, rate_per_second } = self;
        format!("{inserted} free sandboxes in {elapsed_seconds:.2} s, {rate_per_second:.0} in a second")
    }
}
