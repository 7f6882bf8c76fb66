//! A pool of 50,000 sandboxes, listed 100 at a time: how many writes a sync makes and how much memory it needs. The
//! only test of its process, because the memory of a process cannot be divided among its tests.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails should panic")]

use async_trait::async_trait;
use contract::{Report, SyncReport, TickKind};
use domain::{LeasePolicy, Pools, UnixSeconds};
use ports::provider::{
    Abilities, Account, Deleted, Listing, Prepared, Provider, ProviderError, Providers, Target,
};
use ports::random::Rng;
use ports::store::{Store, StoreError};
use prometheus::Registry;
use reconciler::{Config, Limits, Metrics, Ports, Reconciler};
use runtime::pools::PoolWatch;
use runtime::recorder::{EventLogMetrics, Recorder};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use testkit::bus::{MemoryBus, MemoryConfig};
use testkit::clock::ManualClock;
use testkit::interposed::{Call, InterposedStore, Interposer};
use testkit::store::MemoryStore;

const ACCOUNTS: u64 = 50_000;
const PAGE: u64 = 100;
/// One in a hundred gets a new name.
const CHANGED: u64 = ACCOUNTS / 100;
/// The limit for the whole process, including the pool in the store in memory; in a fleet the pool is in the table.
const MEMORY_MAX_MIB: u64 = 150;
const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3_600);
/// Operations that change nothing in the table.
const READS: [&str; 7] = ["page", "sandbox", "count", "last", "supply", "identity", "identities"];

/// A provider that generates its listing, so that the listing needs no memory.
#[derive(Debug, Default)]
struct Endless {
    renamed: AtomicU64,
}

/// Counts writes.
#[derive(Debug, Default)]
struct Writes(AtomicU64);

#[async_trait]
impl Provider for Endless {
    fn abilities(&self) -> Abilities {
        Abilities { list: true, delete: false, prepare_delete: false, check: false }
    }

    async fn list(&self, offset: u64) -> Result<Listing, ProviderError> {
        let renamed = self.renamed.load(Ordering::SeqCst);
        let account = |number: u64| Account {
            id: (2_000_000 + number).to_string(),
            external_id: format!("identity/accounts/a90deeed-f0ec-4c4f-9897-{number:012}"),
            name: if number < renamed { format!("lab-new-{number:05}") } else { format!("lab-{number:05}") },
            descriptor: vec![("sfdc_account_id", format!("001SIM00000{number:07}"))],
        };
        let end = (offset + PAGE).min(ACCOUNTS);
        let accounts = (offset..end).map(account).collect();
        Ok(Listing { accounts, next: (end < ACCOUNTS).then_some(end), ..Listing::default() })
    }

    async fn prepare_delete(&self, _: &Target) -> Result<Prepared, ProviderError> {
        Ok(Prepared::Skipped)
    }

    async fn delete(&self, _: &Target) -> Result<Deleted, ProviderError> {
        Ok(Deleted::AlreadyGone)
    }
}

#[async_trait]
impl Interposer for Writes {
    async fn before(&self, call: Call) -> Result<(), StoreError> {
        // `follow_size` writes the number of shards only when it changes, which this counter cannot see, so it is not
        // counted.
        if !READS.contains(&call.operation) && call.operation != "follow_size" {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn after(&self, _: Call) -> Result<(), StoreError> {
        Ok(())
    }
}

fn reconciler(store: Arc<dyn Store>, provider: Arc<Endless>) -> Reconciler {
    let clock = Arc::new(ManualClock::at(NOW));
    let bus = MemoryBus::new(MemoryConfig::default(), clock.clone(), Arc::new(Rng::seeded(7)));
    let registry = Registry::new();
    let leases = LeasePolicy { duration: HOUR, duration_max: HOUR, total_max: HOUR, grace: HOUR };
    let ports = Ports {
        clock: clock.clone(),
        store,
        providers: Providers::only(provider),
        pools: PoolWatch::new(Pools::parse("main").unwrap(), leases),
        deletions: Arc::new(bus.clone()),
        provisions: Arc::new(bus.clone()),
        nodes: Arc::new(bus.clone()),
        random: Arc::new(Rng::seeded(9)),
        upkeep: Arc::new(bus.clone()),
        switch: Arc::new(bus.clone()),
        census: Arc::new(bus.clone()),
        turns: Arc::new(bus.clone()),
        ticks: Arc::new(bus.clone()),
        recorder: Recorder::new(clock, Arc::new(bus), EventLogMetrics::register(&registry).unwrap()),
    };
    let config = Config {
        limits: Limits { stale_percent_max: 20, stale_count_always: 5 },
        sweep_after: Duration::from_secs(30),
        stale_kept: HOUR,
        tombstone_kept: HOUR,
        listed_grace: HOUR / 2,
        fill_burst: 10,
    };
    Reconciler::new(config, ports, Metrics::register(&registry).unwrap())
}

async fn sync(reconciler: &Reconciler) -> SyncReport {
    match reconciler.run_once(TickKind::SYNC).await.expect("it runs this kind") {
        Report::Sync(report) => report,
        other => panic!("{other:?}"),
    }
}

/// The peak memory of this process; `None` if the system does not report it.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib / 1_024)
}

#[tokio::test]
async fn sync_of_50_000_writes_only_changes_in_bounded_memory() {
    let (writes, provider) = (Arc::new(Writes::default()), Arc::new(Endless::default()));
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(8));
    let store: Arc<dyn Store> = Arc::new(InterposedStore::over(memory, writes.clone()));
    let reconciler = reconciler(store, provider.clone());
    let first = sync(&reconciler).await;
    assert_eq!((first.listed, first.inserted), (ACCOUNTS, ACCOUNTS), "{first:?}");
    writes.0.store(0, Ordering::SeqCst);

    provider.renamed.store(CHANGED, Ordering::SeqCst);
    let second = sync(&reconciler).await;
    assert_eq!((second.refreshed, second.unchanged), (CHANGED, ACCOUNTS - CHANGED), "{second:?}");
    let written = writes.0.swap(0, Ordering::SeqCst);
    assert!(written <= CHANGED + CHANGED / 100, "{written} writes for {CHANGED} changes");

    let third = sync(&reconciler).await;
    assert_eq!((third.unchanged, writes.0.load(Ordering::SeqCst)), (ACCOUNTS, 0), "{third:?}");
    if let Some(peak) = peak_mib() {
        println!("at most {peak} MiB for {ACCOUNTS} accounts, the pool itself among them");
        assert!(peak < MEMORY_MAX_MIB, "{peak} MiB");
    }
}
