//! The work that creates sandboxes.

use super::held::Queue;
use super::work::{Kind, ParkedCopy, WorkStreams};
use super::{Inside, MemoryBus};
use async_trait::async_trait;
use bytes::Bytes;
use contract::{ProvisionLane, ProvisionPriority, ProvisionWork};
use domain::{InvalidId, PoolName, SandboxId};
use ports::bus::rotation::{Rotation, Step};
use ports::bus::{Announced, BusError, ProvisionQueue, Provisions, ServedPools, Worker, intake};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[async_trait]
impl Provisions for MemoryBus {
    async fn announce(&self, work: &ProvisionWork) -> Result<Announced, BusError> {
        self.announce_work(work)
    }
}

#[async_trait]
impl ProvisionQueue for MemoryBus {
    async fn consume(
        &self,
        worker: Arc<dyn Worker<ProvisionWork>>,
        pools: watch::Receiver<ServedPools>,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let ack_wait = self.shared.config.provision_ack_wait;
        let (running, cut) = (TaskTracker::new(), CancellationToken::new());
        let mut changes = self.shared.changes.subscribe();
        let mut rotation = Rotation::new(worker, pools);
        loop {
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                step = rotation.next() => step,
            };
            let (lane, places) = match step {
                Step::Fetch(lane, places) => (lane, places),
                Step::Wait(span) => {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        () = self.until_change(Queue::Provisions, &mut changes) => {}
                        () = self.shared.clock.sleep(span) => {}
                        () = rotation.pools_changed() => {}
                    }
                    continue;
                }
            };
            let mut found = 0;
            for place in places {
                let is_wanted = |key: &str, payload: &Bytes| is_in(&lane, key, payload);
                let held = self.try_next(Queue::Provisions, usize::MAX, ack_wait, is_wanted);
                let Some(held) = held else { break };
                found += 1;
                let (bus, cut) = (self.clone(), cut.clone());
                running.spawn(async move {
                    bus.work_on::<ProvisionWork>(&place, held, &cut).await;
                    drop(place);
                    // A place is free again.
                    bus.change(|_, _| ());
                });
            }
            rotation.fetched(&lane, found);
        }
        self.finish_running(&running, &cut).await;
        Ok(())
    }
}

/// Whether a message is in that lane. One that cannot be read counts as urgent, because memory has no subjects.
fn is_in(lane: &ProvisionLane, key: &str, payload: &[u8]) -> bool {
    let work = intake::work::<ProvisionWork>(payload);
    let priority = work.map_or(ProvisionPriority::Lease, |work| work.priority());
    priority == lane.priority && key.split('.').next() == Some(lane.pool.as_str())
}

impl Kind for ProvisionWork {
    fn streams(inside: &mut Inside) -> &mut WorkStreams {
        &mut inside.provisions
    }

    fn key(&self) -> Result<String, InvalidId> {
        let (id, pool, _, _) = self.parts()?;
        Ok(format!("{pool}.{id}"))
    }
}

/// What an operator can see and do.
impl MemoryBus {
    /// The work that creates sandboxes, as [`MemoryBus::queued`] shows deletions.
    #[must_use]
    pub fn provisions(&self) -> Vec<ProvisionWork> {
        self.look(|inside, _| inside.provisions.queued())
    }

    /// Work that creates sandboxes: waiting and running messages, and scheduled retries.
    #[must_use]
    pub fn provisions_queued(&self) -> (usize, usize) {
        self.look(|inside, _| (inside.provisions.work.len(), inside.provisions.retries.len()))
    }

    /// Every stored copy of such work, including unreadable messages.
    #[must_use]
    pub fn parked_provisions(&self) -> Vec<ParkedCopy> {
        self.look(|inside, _| inside.provisions.parked.values().map(|(_, copy)| copy.clone()).collect())
    }

    /// Adds a message like a foreign publisher.
    pub fn publish_raw_provision(&self, pool: &PoolName, id: &SandboxId, payload: impl Into<Bytes>) {
        let (key, payload) = (format!("{pool}.{id}"), payload.into());
        self.change(|inside, now_ms| {
            inside.provisions.work.push(key, payload, now_ms);
        });
    }
}
