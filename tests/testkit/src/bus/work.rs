//! Work queues with scheduled retries and parked copies, for any kind of work.

use super::held::Held;
use super::queue::WorkQueue;
use super::{Call, Inside, MemoryBus, failed};
use bytes::Bytes;
use contract::subjects::UNREADABLE;
use contract::throttle::PoolDeletions;
use domain::{InvalidId, UnixSeconds};
use ports::bus::intake::{self, one_line};
use ports::bus::{Announced, BusError, Delivery, Verdict, Work, Worker};
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a copy of a deletion is recognised, so that it is stored once: the default of a NATS stream.
const PARKED_DEDUP_WINDOW_MS: u64 = 120_000;

/// A kind of work in memory.
pub(super) trait Kind: Work + serde::Serialize {
    /// Its messages.
    fn streams(inside: &mut Inside) -> &mut WorkStreams;

    /// `<pool>.<sandbox>`.
    fn key(&self) -> Result<String, InvalidId>;
}

/// The queue of one kind. Keys are `<pool>.<sandbox>`.
#[derive(Debug, Default)]
pub(super) struct WorkStreams {
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

/// A parked copy: of a deletion, of work that the queue gave up, or of a message that no worker can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedCopy {
    /// Why it was parked, in one line.
    pub reason: String,
    /// When it was parked.
    pub parked_at: UnixSeconds,
    /// Attempts made; none for a message that no worker could read.
    pub attempts: Option<u32>,
    /// The JSON of a [`contract::ParkedDeletion`], or the unchanged message.
    pub payload: Bytes,
}

impl WorkStreams {
    /// Waiting and running work, oldest first, then scheduled retries; without messages that cannot be read.
    pub(super) fn queued<W: Work>(&self) -> Vec<W> {
        let payloads = self.work.payloads().chain(self.retries.values().map(|retry| &retry.payload));
        payloads.filter_map(|payload| intake::work(payload).ok()).collect()
    }
}

impl MemoryBus {
    pub(super) fn announce_work<K: Kind>(&self, work: &K) -> Result<Announced, BusError> {
        let key = work.key().map_err(failed(Call::Announce.operation()))?;
        let payload = encode(work, Call::Announce.operation())?;
        self.call(Call::Announce, |inside, now_ms| K::streams(inside).announce(key, payload, now_ms))
    }

    pub(super) async fn work_on<K: Kind>(&self, worker: &dyn Worker<K>, held: Held, cut: &CancellationToken) {
        let work = match intake::work::<K>(&held.taken.payload) {
            Ok(work) => work,
            Err(reason) => {
                let key = format!("{UNREADABLE}.{}", held.taken.sequence);
                return self.set_aside::<K>(held, key, None, &reason);
            }
        };
        let deliveries = held.taken.deliveries;
        let verdict = tokio::select! {
            biased;
            verdict = worker.work(Delivery { work, deliveries }) => verdict,
            () = cut.cancelled() => return held.give_back(),
        };
        match verdict {
            Verdict::GiveUp { reason } if K::QUEUE_PARKS => {
                let key = held.taken.key.clone();
                self.set_aside::<K>(held, key, u32::try_from(deliveries).ok(), &reason);
            }
            Verdict::Done | Verdict::GiveUp { reason: _ } => held.finish(),
            Verdict::Retry { delay } => match self.schedule_retry::<K>(&held, delay) {
                Ok(()) => held.finish(),
                // The unacknowledged message is delivered again after the acknowledgement wait.
                Err(error) => tracing::warn!(error = %Chain(&error), "retry not scheduled"),
            },
        }
    }

    fn schedule_retry<K: Kind>(&self, held: &Held, delay: Duration) -> Result<(), BusError> {
        let (key, payload) = (held.taken.key.clone(), held.taken.payload.clone());
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.call(Call::ScheduleRetry, |inside, now_ms| {
            let streams = K::streams(inside);
            let due_ms = now_ms.saturating_add(delay_ms);
            let sequence = streams.work.next_sequence();
            let since = UnixSeconds::new(now_ms / 1_000);
            streams.retries.insert(key, Retry { due_ms, payload, sequence, since });
        })
    }

    /// Parks a message, and only then removes it from the queue.
    fn set_aside<K: Kind>(&self, held: Held, key: String, attempts: Option<u32>, reason: &str) {
        let copy = ParkedCopy {
            reason: one_line(reason),
            parked_at: self.shared.clock.now(),
            attempts,
            payload: held.taken.payload.clone(),
        };
        match self.call(Call::Park, |inside, _| K::streams(inside).keep(key, copy)) {
            Ok(()) => {
                tracing::error!(reason, "a {} was parked", K::NAME);
                held.finish();
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "not parked yet"),
        }
    }

    /// Waits for the end of running work. What is not finished in time is cut off and returned.
    pub(super) async fn finish_running(&self, running: &TaskTracker, cut: &CancellationToken) {
        running.close();
        tokio::select! {
            biased;
            () = running.wait() => {}
            () = self.shared.clock.sleep(self.shared.config.finish_timeout) => {
                cut.cancel();
                running.wait().await;
            }
        }
    }
}

// === impl WorkStreams ===

impl WorkStreams {
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

    pub(super) fn park(&mut self, key: String, id: String, copy: ParkedCopy, now_ms: u64) {
        self.parked_ids.retain(|_, came_ms| came_ms.saturating_add(PARKED_DEDUP_WINDOW_MS) > now_ms);
        if let Entry::Vacant(unknown) = self.parked_ids.entry(id) {
            unknown.insert(now_ms);
            self.keep(key, copy);
        }
    }

    pub(super) fn keep(&mut self, key: String, copy: ParkedCopy) {
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

pub(super) fn encode<T: serde::Serialize>(value: &T, operation: &'static str) -> Result<Bytes, BusError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(failed(operation))
}
