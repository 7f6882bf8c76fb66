//! The two ways to write a claim, on separate sandboxes.

use super::{Cost, IN_FLIGHT, Report, TRANSACTION, TWO_WRITES, Timed, timed};
use crate::arrivals::send_by;
use crate::progress::{Progress, Total};
use crate::seed::{Filling, fill};
use crate::workers::work;
use crate::{Ports, fresh_run};
use anyhow::Context as _;
use domain::{ClaimKey, ClaimRecord, Grant, IdempotencyKey, OwnerId, PoolName, UnixSeconds};
use dynamodb::DynamoStore;
use dynamodb::baseline::WriteUnits;
use ports::store::{Store, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Claims of each way whose write units are requested. They come first, so they also warm up the table.
const UNITS_CLAIMS: u64 = 50;
/// Length of the leases, which end with the run.
const LEASE: Duration = Duration::from_secs(3_600);
/// Concurrent writes while the items are removed.
const CLEARING_IN_FLIGHT: usize = 64;

/// One of the two ways to write a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    TwoWrites,
    Transaction,
}

/// Claims that are ready to be written.
pub(super) struct Stock {
    store: Arc<DynamoStore>,
    grants: Vec<(ClaimRecord, Grant)>,
    keep_until: UnixSeconds,
}

/// Measures both ways at every concurrency, alternately, and the cost of each.
pub(super) async fn measure(stock: &Arc<Stock>, claims: u64, report: &mut Report) -> anyhow::Result<()> {
    let mut first = 0;
    for way in [Way::TwoWrites, Way::Transaction] {
        let units = units_of(stock, way, first, UNITS_CLAIMS).await?;
        first += UNITS_CLAIMS;
        report.costs.push(Cost::of(way, units, UNITS_CLAIMS));
    }
    for in_flight in IN_FLIGHT {
        let mut writes = Timed::new(TWO_WRITES, in_flight);
        let mut transactions = Timed::new(TRANSACTION, in_flight);
        let half = claims.div_ceil(2);
        // Alternately; the first one is also the last.
        for way in [Way::TwoWrites, Way::Transaction, Way::Transaction, Way::TwoWrites] {
            let measured = written(stock, way, first, in_flight, half).await?;
            first += half;
            match way {
                Way::TwoWrites => writes.add(measured),
                Way::Transaction => transactions.add(measured),
            }
        }
        report.lines.extend([writes.line(), transactions.line()]);
    }
    Ok(())
}

/// Latencies of the two writes, each from its intended start.
pub(super) async fn measure_open(stock: &Arc<Stock>, schedule: Vec<Duration>) -> anyhow::Result<Vec<u64>> {
    let done = Arc::new(AtomicU64::new(0));
    let count = schedule.len();
    let progress = Progress::show("bare writes", Total::Count(count as u64), &done);
    let (latencies, mut measured) = mpsc::unbounded_channel();
    let (stock, runtime) = (Arc::clone(stock), tokio::runtime::Handle::current());
    let mut number = 0;
    send_by(schedule, move |intended, _| {
        let (stock, latencies, done) = (Arc::clone(&stock), latencies.clone(), Arc::clone(&done));
        let mine = number;
        number += 1;
        runtime.spawn(async move {
            let written = stock.write(Way::TwoWrites, mine, false).await;
            let latency_us = u64::try_from(intended.elapsed().as_micros()).unwrap_or(u64::MAX);
            done.fetch_add(1, Ordering::Relaxed);
            // The receiver waits for all of them.
            let _ = latencies.send(written.map(|_| latency_us));
        });
    })
    .await;
    let mut latencies_us = Vec::with_capacity(count);
    while let Some(latency_us) = measured.recv().await {
        latencies_us.push(latency_us?);
    }
    progress.end();
    Ok(latencies_us)
}

async fn written(
    stock: &Arc<Stock>,
    way: Way,
    first: u64,
    in_flight: usize,
    count: u64,
) -> anyhow::Result<Timed> {
    let stock = Arc::clone(stock);
    timed(way.as_str(), in_flight, count, move |number| {
        let stock = Arc::clone(&stock);
        async move { stock.write(way, first + number, false).await.map(drop) }
    })
    .await
}

async fn units_of(stock: &Arc<Stock>, way: Way, first: u64, count: u64) -> anyhow::Result<WriteUnits> {
    let stock = Arc::clone(stock);
    let done = Arc::default();
    let units = work(1, count, &done, move |number| {
        let stock = Arc::clone(&stock);
        async move { stock.write(way, first + number, true).await }
    });
    Ok(units.await?.into_iter().sum())
}

// === impl Way ===

impl Way {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::TwoWrites => TWO_WRITES,
            Self::Transaction => TRANSACTION,
        }
    }
}

// === impl Stock ===

impl Stock {
    /// As many sandboxes as [`measure`] needs for `claims`, in a pool that no fleet uses.
    pub(super) async fn fill(
        store: Arc<DynamoStore>,
        claims: u64,
        ports: &Ports,
    ) -> anyhow::Result<Arc<Self>> {
        let of_each_way = UNITS_CLAIMS + claims.div_ceil(2) * 2 * IN_FLIGHT.len() as u64;
        Self::with(store, 2 * of_each_way, ports).await
    }

    /// That number of sandboxes in a pool that no fleet uses.
    pub(super) async fn with(
        store: Arc<DynamoStore>,
        count: u64,
        ports: &Ports,
    ) -> anyhow::Result<Arc<Self>> {
        let run = fresh_run(ports);
        let pool = PoolName::parse(&run)?;
        let filling = Filling { run: run.clone(), name_prefix: format!("{run}-"), pool, count };
        let (candidates, _) = fill(store.clone(), Arc::clone(&ports.clock), filling).await?;
        let now = ports.clock.now();
        let grants = candidates.into_iter().enumerate().map(|(number, candidate)| {
            let owner = OwnerId::parse(&format!("{run}-{number}"))?;
            let claim = ClaimKey { key: IdempotencyKey::from(&owner), owner };
            let record = ClaimRecord::new(claim.clone(), candidate.clone());
            let expires_at = now.after(LEASE);
            let (lab, by, request) = (None, None, None);
            Ok((
                record,
                Grant { claim, candidate, lab, by, request, granted_at: now, expires_at, options: None },
            ))
        });
        let grants = grants.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Arc::new(Self { store, grants, keep_until: now.after(2 * LEASE) }))
    }

    /// Ends every lease, and leaves tombstones and closed claim items that the table purges.
    pub(super) async fn clear(self: &Arc<Self>, ports: &Ports) -> anyhow::Result<()> {
        let (count, done) = (self.grants.len() as u64, Arc::new(AtomicU64::new(0)));
        let progress = Progress::show("claims cleared away", Total::Count(count), &done);
        let (stock, clock) = (Arc::clone(self), Arc::clone(&ports.clock));
        let cleared = work(CLEARING_IN_FLIGHT, count, &done, move |number| {
            let (stock, now) = (Arc::clone(&stock), clock.now());
            async move {
                let (record, grant) = stock.grant(number)?;
                let (id, owner) = (&grant.candidate.id, &grant.claim.owner);
                // One that was never claimed, because the measurement ended early, has no lease to end.
                let store: &dyn Store = &*stock.store;
                if let Write::Done(sandbox) = store.release(id, owner, None, None, now).await? {
                    store.finish_deletion(id, sandbox.epoch, now, now, None).await?;
                }
                Ok(store.close_claim(record, now).await?)
            }
        });
        let cleared = cleared.await;
        progress.end();
        cleared.map(drop)
    }

    fn grant(&self, number: u64) -> anyhow::Result<&(ClaimRecord, Grant)> {
        self.grants.get(usize::try_from(number)?).context("more claims than sandboxes")
    }

    async fn write(&self, way: Way, number: u64, asks_units: bool) -> anyhow::Result<WriteUnits> {
        let (record, grant) = self.grant(number)?;
        let written = match way {
            Way::TwoWrites => {
                self.store.baseline_two_writes(record, grant, self.keep_until, asks_units).await
            }
            Way::Transaction => {
                self.store.baseline_transaction(record, grant, self.keep_until, asks_units).await
            }
        };
        Ok(written?)
    }
}
