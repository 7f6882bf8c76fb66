//! Deletion work, scheduled retries, and parked copies.

use super::held::{Held, Queue};
use super::queue::WorkQueue;
use super::{Call, MemoryBus, failed};
use async_trait::async_trait;
use bytes::Bytes;
use contract::subjects::UNREADABLE;
use contract::throttle::PoolDeletions;
use contract::{DeletionWork, ParkedDeletion};
use domain::{PoolName, SandboxId, UnixSeconds};
use ports::bus::intake::{self, one_line};
use ports::bus::{Announced, BusError, DeletionQueue, Deletions, Delivery, Verdict, Worker};
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a copy of a deletion is recognised, so that it is stored once: the default of a NATS stream.
const PARKED_DEDUP_WINDOW_MS: u64 = 120_000;

/// The deletion queue. Keys are `<pool>.<sandbox>`.
#[derive(Debug, Default)]
pub(super) struct DeletionStreams {
    pub(super) work: WorkQueue,
    pub(super) retries: BTreeMap<String, Retry>,
    /// With their sequences in the stream.
    pub(super) parked: BTreeMap<String, (u64, ParkedCopy)>,
    last_parked: u64,
    /// Message ids of copies, and when each was stored.
    parked_ids: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub(super) struct Retry {
    pub(super) due_ms: u64,
    pub(super) payload: Bytes,
    pub(super) sequence: u64,
    pub(super) since: UnixSeconds,
}

/// The copy of a parked deletion, or of a message that no worker can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedCopy {
    /// Why it was parked, in one line.
    pub reason: String,
    /// When it was parked.
    pub parked_at: UnixSeconds,
    /// Attempts made; none for a message that no worker could read.
    pub attempts: Option<u32>,
    /// The JSON of a [`ParkedDeletion`], or the unchanged message.
    pub payload: Bytes,
}

#[async_trait]
impl Deletions for MemoryBus {
    async fn announce(&self, work: &DeletionWork) -> Result<Announced, BusError> {
        let key = key_of(work).map_err(failed("announce a deletion"))?;
        let payload = encode(work, "announce a deletion")?;
        self.call(Call::Announce, |inside, now_ms| inside.deletions.announce(key, payload, now_ms))
    }

    async fn park(&self, parked: &ParkedDeletion) -> Result<(), BusError> {
        let key = key_of(&parked.work).map_err(failed("park a deletion"))?;
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
                let held = self.next(Queue::Deletions, whole_bus_max, config.deletion_ack_wait, |_| true);
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
        running.close();
        tokio::select! {
            biased;
            () = running.wait() => {}
            () = self.shared.clock.sleep(config.finish_timeout) => {
                cut.cancel();
                running.wait().await;
            }
        }
        Ok(())
    }
}

impl MemoryBus {
    async fn work_on(&self, worker: &dyn Worker, held: Held, cut: &CancellationToken) {
        let work = match intake::deletion_work(&held.taken.payload) {
            Ok(work) => work,
            Err(reason) => return self.set_aside(held, reason),
        };
        let delivery = Delivery { work, deliveries: held.taken.deliveries };
        let verdict = tokio::select! {
            biased;
            verdict = worker.work(delivery) => verdict,
            () = cut.cancelled() => return held.give_back(),
        };
        match verdict {
            Verdict::Done | Verdict::GiveUp { reason: _ } => held.finish(),
            Verdict::Retry { delay } => match self.schedule_retry(&held, delay) {
                Ok(()) => held.finish(),
                // The unacknowledged message is delivered again after the acknowledgement wait.
                Err(error) => tracing::warn!(error = %Chain(&error), "retry not scheduled"),
            },
        }
    }

    fn schedule_retry(&self, held: &Held, delay: Duration) -> Result<(), BusError> {
        let (key, payload) = (held.taken.key.clone(), held.taken.payload.clone());
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.call(Call::ScheduleRetry, |inside, now_ms| {
            let due_ms = now_ms.saturating_add(delay_ms);
            let sequence = inside.deletions.work.next_sequence();
            let since = UnixSeconds::new(now_ms / 1_000);
            inside.deletions.retries.insert(key, Retry { due_ms, payload, sequence, since });
        })
    }

    /// Parks a message that cannot be read, and only then removes it from the queue.
    fn set_aside(&self, held: Held, reason: String) {
        let key = format!("{UNREADABLE}.{}", held.taken.sequence);
        let copy = ParkedCopy {
            reason: one_line(&reason),
            parked_at: self.shared.clock.now(),
            attempts: None,
            payload: held.taken.payload.clone(),
        };
        match self.call(Call::Park, |inside, _| inside.deletions.keep(key, copy)) {
            Ok(()) => {
                tracing::error!(reason, "an unreadable deletion was parked");
                held.finish();
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "not parked yet"),
        }
    }
}

/// What an operator can see and do.
impl MemoryBus {
    /// Waiting and running work, oldest first, then scheduled retries; without messages that cannot be read.
    #[must_use]
    pub fn queued(&self) -> Vec<DeletionWork> {
        self.look(|inside, _| {
            let DeletionStreams { work, retries, .. } = &inside.deletions;
            let payloads = work.payloads().chain(retries.values().map(|retry| &retry.payload));
            payloads.filter_map(|payload| intake::deletion_work(payload).ok()).collect()
        })
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

// === impl DeletionStreams ===

impl DeletionStreams {
    /// Moves retries that are due to the work, in the order of their times.
    pub(super) fn settle(&mut self, now_ms: u64) {
        let due = self.retries.extract_if(.., |_, retry| retry.due_ms <= now_ms);
        let mut due: Vec<(String, Retry)> = due.collect();
        due.sort_by_key(|(_, retry)| retry.due_ms);
        for (key, retry) in due {
            self.work.push(key, retry.payload, now_ms);
        }
    }

    /// Waiting and running messages, by pool.
    pub(super) fn pools(&self) -> BTreeMap<String, PoolDeletions> {
        let mut pools: BTreeMap<String, PoolDeletions> = BTreeMap::new();
        for (key, is_waiting) in self.work.places() {
            let pool = key.split('.').next().unwrap_or_default();
            let counts = pools.entry(pool.to_owned()).or_default();
            let count = if is_waiting { &mut counts.waiting } else { &mut counts.under_way };
            *count += 1;
        }
        pools
    }

    /// When the next retry is due; none if there is none.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.retries.values().map(|retry| retry.due_ms).min()
    }

    fn announce(&mut self, key: String, payload: Bytes, now_ms: u64) -> Announced {
        if self.work.of_key(&key).next().is_some() || self.retries.contains_key(&key) {
            return Announced::AlreadyQueued;
        }
        self.work.push(key, payload, now_ms);
        Announced::Queued
    }

    fn park(&mut self, key: String, id: String, copy: ParkedCopy, now_ms: u64) {
        self.parked_ids.retain(|_, came_ms| came_ms.saturating_add(PARKED_DEDUP_WINDOW_MS) > now_ms);
        if let Entry::Vacant(unknown) = self.parked_ids.entry(id) {
            unknown.insert(now_ms);
            self.keep(key, copy);
        }
    }

    fn keep(&mut self, key: String, copy: ParkedCopy) {
        self.last_parked += 1;
        self.parked.insert(key, (self.last_parked, copy));
    }

    pub(super) fn park_again(&mut self, key: String, copy: ParkedCopy) -> Announced {
        if self.parked.contains_key(&key) {
            return Announced::AlreadyQueued;
        }
        self.keep(key, copy);
        Announced::Queued
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

pub(super) fn key_of(work: &DeletionWork) -> Result<String, domain::InvalidId> {
    let (id, pool, _) = work.parts()?;
    Ok(format!("{pool}.{id}"))
}

fn encode<T: serde::Serialize>(value: &T, operation: &'static str) -> Result<Bytes, BusError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(failed(operation))
}
