//! Deletion work, and the copies of parked deletions.

use super::held::Queue;
use super::work::{Kind, ParkedCopy, WorkStreams, encode};
use super::{Call, Inside, MemoryBus, failed};
use async_trait::async_trait;
use bytes::Bytes;
use contract::subjects::UNREADABLE;
use contract::{DeletionWork, ParkedDeletion};
use domain::{InvalidId, PoolName, SandboxId, UnixSeconds};
use ports::bus::intake::one_line;
use ports::bus::{Announced, BusError, DeletionQueue, Deletions, Worker};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[async_trait]
impl Deletions for MemoryBus {
    async fn announce(&self, work: &DeletionWork) -> Result<Announced, BusError> {
        self.announce_work(work)
    }

    async fn park(&self, parked: &ParkedDeletion) -> Result<(), BusError> {
        let key = parked.work.key().map_err(failed("park a deletion"))?;
        let id = format!("{}:{}:{}", parked.work.sandbox_id, parked.work.epoch, parked.parked_at);
        let copy = copy_of(parked)?;
        self.call(Call::Park, |inside, now_ms| inside.deletions.park(key, id, copy, now_ms))
    }
}

#[async_trait]
impl DeletionQueue for MemoryBus {
    async fn consume(
        &self,
        worker: Arc<dyn Worker>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let config = self.shared.config;
        let cut = CancellationToken::new();
        let running = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(in_flight_max));
        let any_pool = PoolName::parse("main")
            .map_err(|source| BusError { operation: "consume", source: source.into() })?;
        loop {
            let next = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                // One queue for all pools, so any of them stands for the others.
                while let (0, wait) = worker.admit(&any_pool, 1).await {
                    self.shared.clock.sleep(wait).await;
                }
                let whole_bus_max = config.deletions_in_flight_max;
                let held = self.next(Queue::Deletions, whole_bus_max, config.deletion_ack_wait, |_, _| true);
                (permit, held.await)
            };
            let (permit, held) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = next => next,
            };
            let (bus, worker, cut) = (self.clone(), Arc::clone(&worker), cut.clone());
            running.spawn(async move {
                bus.work_on(worker.as_ref(), held, &cut).await;
                drop(permit);
            });
        }
        self.finish_running(&running, &cut).await;
        Ok(())
    }
}

impl Kind for DeletionWork {
    fn streams(inside: &mut Inside) -> &mut WorkStreams {
        &mut inside.deletions
    }

    fn key(&self) -> Result<String, InvalidId> {
        let (id, pool, _) = self.parts()?;
        Ok(format!("{pool}.{id}"))
    }
}

/// What an operator can see and do.
impl MemoryBus {
    /// Waiting and running work, oldest first, then scheduled retries; without messages that cannot be read.
    #[must_use]
    pub fn queued(&self) -> Vec<DeletionWork> {
        self.look(|inside, _| inside.deletions.queued())
    }

    /// Messages in the queue: waiting and running work, and scheduled retries.
    #[must_use]
    pub fn queued_count(&self) -> usize {
        self.look(|inside, _| inside.deletions.work.len() + inside.deletions.retries.len())
    }

    /// Scheduled retries.
    #[must_use]
    pub fn retries_scheduled(&self) -> usize {
        self.look(|inside, _| inside.deletions.retries.len())
    }

    /// The retry of a sandbox as stored in the queue.
    #[must_use]
    pub fn raw_retry(&self, pool: &PoolName, id: &SandboxId) -> Option<Bytes> {
        let key = format!("{pool}.{id}");
        self.look(|inside, _| inside.deletions.retries.get(&key).map(|retry| retry.payload.clone()))
    }

    /// The copy of a parked deletion.
    #[must_use]
    pub fn parked(&self, pool: &PoolName, id: &SandboxId) -> Option<ParkedCopy> {
        self.look(|inside, _| {
            let found = inside.deletions.parked.get(&format!("{pool}.{id}"));
            found.map(|(_, copy)| copy.clone())
        })
    }

    /// Every stored copy, including unreadable messages.
    #[must_use]
    pub fn all_parked(&self) -> Vec<ParkedCopy> {
        self.look(|inside, _| inside.deletions.parked.values().map(|(_, copy)| copy.clone()).collect())
    }

    /// Parks a message as unreadable, although this build can read it.
    pub fn park_unreadable(&self, sequence: u64, payload: impl Into<Bytes>) {
        let (reason, parked_at) = ("no deletion work".to_owned(), self.shared.clock.now());
        let copy = ParkedCopy { reason, parked_at, attempts: None, payload: payload.into() };
        self.change(|inside, _| inside.deletions.keep(format!("{UNREADABLE}.{sequence}"), copy));
    }

    /// Removes every message from the queue, like a lost stream.
    pub fn purge_deletions(&self) {
        self.change(|inside, _| {
            inside.deletions.work.clear();
            inside.deletions.retries.clear();
        });
    }

    /// Adds a message like a foreign publisher: whatever its contents, and even if there is one already.
    pub fn publish_raw_deletion(&self, pool: &PoolName, id: &SandboxId, payload: impl Into<Bytes>) {
        let (key, payload) = (format!("{pool}.{id}"), payload.into());
        self.change(|inside, now_ms| {
            inside.deletions.work.push(key, payload, now_ms);
        });
    }
}

pub(super) fn copy_of(parked: &ParkedDeletion) -> Result<ParkedCopy, BusError> {
    Ok(ParkedCopy {
        reason: one_line(&parked.reason),
        parked_at: UnixSeconds::new(parked.parked_at),
        attempts: Some(parked.attempts),
        payload: encode(parked, "park a deletion")?,
    })
}
