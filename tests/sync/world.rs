//! A reconciler on ports in memory, with an interposer between it and the store.

use contract::{ExpiryReport, Report, SyncReport, TickKind};
use domain::{
    ClaimKey, ClaimRecord, ExternalId, Grant, IdempotencyKey, LeasePolicy, NewSandbox, OwnerId, PoolName,
    Pools, Sandbox, SandboxId, SandboxName, UnixSeconds,
};
use ports::provider::{Account, Provider, Providers};
use ports::random::Rng;
use ports::store::{Store, Write};
use prometheus::Registry;
use reconciler::{Config, Limits, Metrics, Ports, Reconciler};
use runtime::pools::PoolWatch;
use runtime::recorder::{EventLogMetrics, Recorder};
use std::sync::Arc;
use std::time::Duration;
use testkit::bus::{MemoryBus, MemoryConfig};
use testkit::clock::ManualClock;

pub(crate) const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const GRACE: Duration = Duration::from_secs(1_800);

pub(crate) fn id(number: usize) -> SandboxId {
    SandboxId::parse(&number.to_string()).unwrap()
}

pub(crate) fn owner(number: usize) -> OwnerId {
    OwnerId::parse(&format!("student-{number}")).unwrap()
}

pub(crate) fn account(number: usize) -> Account {
    Account {
        id: number.to_string(),
        external_id: format!("identity/accounts/u-{number}"),
        name: format!("lab-{number}"),
        descriptor: Vec::new(),
    }
}

pub(crate) fn new_sandbox(number: usize) -> NewSandbox {
    NewSandbox {
        id: id(number),
        name: SandboxName::parse(&format!("lab-{number}")).unwrap(),
        external_id: ExternalId::parse(&account(number).external_id).unwrap(),
        pool: PoolName::parse("main").unwrap(),
        descriptor: domain::Descriptor::default(),
    }
}

/// A reconciler as in a separate process, on these ports.
pub(crate) fn reconciler(
    store: Arc<dyn Store>,
    provider: Arc<dyn Provider>,
    clock: &ManualClock,
) -> Reconciler {
    let bus = MemoryBus::new(MemoryConfig::default(), Arc::new(clock.clone()), Arc::new(Rng::seeded(7)));
    let registry = Registry::new();
    let leases =
        LeasePolicy { duration: 4 * HOUR, duration_max: 48 * HOUR, total_max: 72 * HOUR, grace: GRACE };
    let ports = Ports {
        clock: Arc::new(clock.clone()),
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
        recorder: Recorder::new(
            Arc::new(clock.clone()),
            Arc::new(bus),
            EventLogMetrics::register(&registry).unwrap(),
        ),
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

pub(crate) async fn sync(reconciler: &Reconciler) -> SyncReport {
    match reconciler.run_once(TickKind::SYNC).await.expect("it runs this kind") {
        Report::Sync(report) => report,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn expire(reconciler: &Reconciler) -> ExpiryReport {
    match reconciler.run_once(TickKind::EXPIRY).await.expect("it runs this kind") {
        Report::Expiry(report) => report,
        other => panic!("{other:?}"),
    }
}

/// Claims `seen` for owner `number`; `None` if the sandbox is not free any more.
pub(crate) async fn claim(
    store: &dyn Store,
    seen: &Sandbox,
    number: usize,
    expires_at: UnixSeconds,
) -> Option<Sandbox> {
    let key = IdempotencyKey::parse("key").unwrap();
    let record = ClaimRecord::new(ClaimKey { owner: owner(number), key }, seen.candidate());
    store.open_claim(&record, expires_at.after(HOUR)).await.unwrap();
    let ClaimRecord { claim, candidate, .. } = record;
    let grant = Grant {
        claim,
        candidate,
        lab: None,
        by: None,
        request: None,
        granted_at: NOW,
        expires_at,
        options: None,
    };
    match store.grant(&grant).await.unwrap() {
        Write::Done(sandbox) => Some(*sandbox),
        Write::Lost(_) => None,
    }
}
