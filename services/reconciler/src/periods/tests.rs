//! Which listings a sync reads, and which period is requested.

use crate::Reconciler;
use crate::tests::Rig;
use contract::{Report, SyncReport, TickKind, TickOrder};
use domain::{PoolName, PoolSpec, ProviderName};
use ports::bus::TickTurns as _;
use runtime::pools::POOLS_REFRESH_PERIOD;
use std::sync::Arc;
use std::time::Duration;
use testkit::clock::settle;
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);
/// The period of the settings.
const PERIOD: Duration = Duration::from_secs(600);

/// A rig with a pool that has this period.
async fn rig_with(period: Option<Duration>) -> Rig {
    let rig = Rig::new();
    rig.list(0..1);
    set(&rig, None, period).await;
    rig
}

async fn set(rig: &Rig, seen: Option<u64>, sync_period: Option<Duration>) {
    let name = PoolName::parse("main").unwrap();
    let version = seen.unwrap_or_default() + 1;
    let spec = PoolSpec { sync_period, version, ..PoolSpec::of_accounts(name, ProviderName::csp(), None) };
    assert!(rig.store.write_pool(seen, &spec).await.unwrap());
    rig.reconciler.ports.pools.refresh(rig.store.as_ref()).await.unwrap();
}

async fn sync(rig: &Rig, order: &TickOrder) -> SyncReport {
    rig.reconciler.sync(order).await
}

/// Whether a sync of a scheduler reads the listing.
async fn reads(rig: &Rig) -> bool {
    let before = rig.provider.calls().len();
    let report = sync(rig, &TickOrder::scheduled(PERIOD)).await;
    let is_read = rig.provider.calls().len() > before;
    assert_eq!(report.not_due, if is_read { vec![] } else { vec!["csp".to_owned()] }, "{report:?}");
    is_read
}

#[tokio::test]
async fn without_periods_every_sync_reads_every_listing() {
    let rig = rig_with(None).await;
    for _ in 0..3 {
        assert!(reads(&rig).await);
    }
}

#[tokio::test]
async fn listing_is_read_once_in_its_period() {
    for period in [60 * SECOND, 2 * PERIOD] {
        let rig = rig_with(Some(period)).await;
        assert!(reads(&rig).await, "the first one");
        rig.clock.advance(period / 2);
        assert!(!reads(&rig).await);
        // Runs do not begin punctually.
        rig.clock.advance(period / 2 - SECOND);
        assert!(reads(&rig).await);
        assert!(!reads(&rig).await);
    }
}

#[tokio::test]
async fn operators_and_forced_syncs_read_every_listing() {
    let rig = rig_with(Some(2 * PERIOD)).await;
    assert!(reads(&rig).await);
    for order in [TickOrder::default(), TickOrder::forced("alice")] {
        let report = sync(&rig, &order).await;
        assert_eq!((report.listed, report.not_due.len()), (1, 0), "{report:?}");
    }
    assert!(!reads(&rig).await);
}

#[tokio::test]
async fn skipped_listing_leaves_what_is_shown() {
    let rig = rig_with(Some(2 * PERIOD)).await;
    assert!(reads(&rig).await);
    rig.reconciler
        .metrics
        .ran(TickKind::SYNC, &Report::Sync(SyncReport { allocated_missing: 2, ..SyncReport::default() }));
    let missing = || rig.metric("broker_allocated_missing", &[]);
    assert_eq!(missing(), 2);
    let report = sync(&rig, &TickOrder::scheduled(PERIOD)).await;
    assert_eq!(report.not_due, ["csp"]);
    rig.reconciler.metrics.ran(TickKind::SYNC, &Report::Sync(report));
    assert_eq!(missing(), 2);
}

#[tokio::test]
async fn shortest_period_is_requested_when_it_changes() {
    let rig = rig_with(Some(90 * SECOND)).await;
    let stop = CancellationToken::new();
    let requesting = tokio::spawn({
        let (reconciler, stop): (Arc<Reconciler>, _) = (Arc::clone(&rig.reconciler), stop.clone());
        async move { reconciler.request_periods_until(stop).await }
    });
    let requested = || async {
        settle().await;
        rig.bus.requested_period(TickKind::SYNC).await.unwrap()
    };
    assert_eq!(requested().await, Some(90 * SECOND));
    set(&rig, Some(1), Some(30 * SECOND)).await;
    rig.clock.advance(POOLS_REFRESH_PERIOD);
    assert_eq!(requested().await, Some(30 * SECOND));
    set(&rig, Some(2), None).await;
    rig.clock.advance(POOLS_REFRESH_PERIOD);
    assert_eq!(requested().await, None);
    // Lost with the bucket, and requested again by the sweep.
    set(&rig, Some(3), Some(60 * SECOND)).await;
    rig.run(TickKind::SWEEP).await;
    assert_eq!(requested().await, Some(60 * SECOND));
    stop.cancel();
    requesting.await.unwrap();
}
