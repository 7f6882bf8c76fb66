//! Consumes deletions with a lane for each pool, so that 500 deletions in one pool do not delay five in another.
//!
//! Every pool has a durable consumer, and every process has a loop (lane) for each of them. A lane may fetch as many
//! deliveries as the process has slots; all lanes wait for slots in one first-in-first-out queue. So a delivery waits
//! for at most one round of the other lanes.

use super::kinds::Kind;
use super::streams::{Source, keep_alive};
use super::whole::Maintenance;
use super::{NatsBus, failed};
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull;
use async_trait::async_trait;
use contract::DeletionWork;
use contract::subjects::OLD_REAPER_CONSUMER;
use domain::PoolName;
use futures_util::TryStreamExt as _;
use ports::bus::{BusError, DeletionQueue, Worker};
use runtime::pools::PoolWatch;
use runtime::telemetry::Chain;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a process looks for consumers of new pools.
const POOL_DISCOVERY_PERIOD: Duration = Duration::from_millis(250);
/// How often it scans the subjects of the queue for pools without a consumer. The announcing worker creates the
/// consumer, so this finds only foreign messages and lost consumers.
const SUBJECT_SCAN_PERIOD: Duration = Duration::from_secs(10);
/// Most pools that one process serves; more means that a client publishes invalid subjects.
const LANES_MAX: usize = 256;

/// The state that all lanes of a process share.
#[derive(Clone)]
struct Lanes {
    bus: NatsBus,
    worker: Arc<dyn Worker>,
    in_flight_max: usize,
    slots: Arc<Semaphore>,
    running: TaskTracker,
    cut: CancellationToken,
    stop: CancellationToken,
}

#[async_trait]
impl DeletionQueue for NatsBus {
    async fn consume(
        &self,
        worker: Arc<dyn Worker>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let lanes = Lanes {
            bus: self.clone(),
            worker,
            in_flight_max,
            slots: Arc::new(Semaphore::new(in_flight_max)),
            running: TaskTracker::new(),
            cut: CancellationToken::new(),
            stop,
        };
        let fetching = TaskTracker::new();
        lanes.open_lanes(&fetching).await;
        fetching.close();
        fetching.wait().await;
        self.finish_running(&lanes.running, &lanes.cut).await;
        Ok(())
    }
}

// === impl Lanes ===

impl Lanes {
    /// Starts a lane for every pool that appears, until the stop.
    async fn open_lanes(&self, fetching: &TaskTracker) {
        let mut open = BTreeSet::new();
        let mut scanned_at: Option<Instant> = None;
        while !self.stop.is_cancelled() {
            let is_due = scanned_at.is_none_or(|then| then.elapsed() >= SUBJECT_SCAN_PERIOD);
            match self.bus.lanes_of_queue::<DeletionWork>(is_due).await {
                Ok(pools) => {
                    scanned_at = if is_due { Some(Instant::now()) } else { scanned_at };
                    for pool in pools {
                        if open.len() < LANES_MAX && open.insert(pool.clone()) {
                            fetching.spawn(self.clone().fetch(pool));
                        }
                    }
                }
                Err(error) => tracing::debug!(error = %Chain(&error), "the pools cannot be looked up"),
            }
            tokio::select! {
                () = tokio::time::sleep(POOL_DISCOVERY_PERIOD) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Fetches the deletions of one pool until the stop.
    async fn fetch(self, pool: PoolName) {
        let subjects = &self.bus.config.subjects;
        let mut source = Source::new(&self.bus, subjects.deletions_stream(), subjects.reaper_consumer(&pool));
        // At most what the process could do if this were the only lane.
        let fetched = Arc::new(Semaphore::new(self.in_flight_max));
        while !self.stop.is_cancelled() {
            if self.bus.waits_idle(&self.stop).await {
                continue;
            }
            // Wait for one free slot, then fetch as many as there are.
            let first = tokio::select! {
                permit = fetched.acquire() => permit,
                () = self.stop.cancelled() => break,
            };
            drop(first);
            let (count, wait) = self.worker.admit(&pool, fetched.available_permits().max(1)).await;
            if count == 0 {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.stop.cancelled() => {}
                }
                continue;
            }
            let Some(mut batch) = source.fetch(count, &self.stop).await else {
                // The consumer may have been removed.
                if let Err(error) = self.bus.open_pool(&pool).await {
                    tracing::debug!(error = %Chain(&error), "the consumer of {pool} cannot be created");
                }
                continue;
            };
            while let Some(message) = source.next(&mut batch, &self.stop).await {
                let Ok(permit) = Arc::clone(&fetched).acquire_owned().await else { continue };
                let lanes = self.clone();
                self.running.spawn(async move {
                    lanes.work_with_slot(&message).await;
                    drop(permit);
                });
            }
        }
    }

    /// Works on a message when the process has a slot, and keeps the message alive until then.
    async fn work_with_slot(&self, message: &Message) {
        let slot = tokio::select! {
            slot = self.slots.acquire() => slot,
            () = keep_alive(message, self.bus.config.deletion_ack_wait) => return,
            () = self.cut.cancelled() => return super::streams::give_back(message).await,
        };
        self.bus.work_on(self.worker.as_ref(), message, &self.cut).await;
        drop(slot);
    }
}

// === impl NatsBus ===

impl NatsBus {
    /// Creates the consumer of a pool's deletions unless it exists. A consumer that an operator paused stays paused.
    ///
    /// # Errors
    /// [`BusError`] when the server does not create it.
    pub async fn open_pool(&self, pool: &PoolName) -> Result<(), BusError> {
        self.open_lane::<DeletionWork>(pool).await
    }

    async fn open_lane<K: Kind>(&self, lane: &K::Lane) -> Result<(), BusError> {
        let subjects = &self.config.subjects;
        self.keep_consumer(K::stream(subjects), self.consumer_of::<K>(lane), Maintenance::CorrectAll).await?;
        self.opened.lock().insert(K::consumer(subjects, lane));
        Ok(())
    }

    /// The consumer of a lane, whose pool may have another limit than the fleet.
    fn consumer_of<K: Kind>(&self, lane: &K::Lane) -> pull::Config {
        let pools = self.pools.as_ref().map(PoolWatch::current);
        let spec = pools.as_ref().and_then(|pools| pools.get(K::pool(lane)));
        K::consumer_config(&self.config, lane, spec)
    }

    /// Creates the consumer of a lane unless it exists, once in this process.
    pub(super) async fn open_lane_once<K: Kind>(&self, lane: &K::Lane) {
        let name = K::consumer(&self.config.subjects, lane);
        if self.opened.lock().contains(&name) {
            return;
        }
        if let Err(error) = self.open_lane::<K>(lane).await {
            // A process that scans the subjects will find the message.
            tracing::warn!(error = %Chain(&error), "the consumer {name} does not exist yet");
        }
    }

    /// Maintains the consumers of lanes that this process has opened, that have one, or that have work in the queue.
    /// Returns whether anything was changed.
    pub(super) async fn open_lanes_again<K: Kind>(&self, maintenance: Maintenance) -> Result<bool, BusError> {
        let subjects = &self.config.subjects;
        let names = self.consumers_of::<K>().await?;
        let mut lanes = self.lanes_of_messages::<K>().await?;
        lanes.extend(names.iter().filter_map(|name| K::lane_of_consumer(subjects, name)));
        lanes.extend(self.opened.lock().iter().filter_map(|name| K::lane_of_consumer(subjects, name)));
        // Created early, so that operators see the consumers before the first work.
        if let Some(watched) = &self.pools {
            lanes.extend(watched.current().specs().iter().flat_map(K::lanes));
        }
        let mut is_changed = false;
        for lane in &lanes {
            // Consumers that exist and need no correction cost no call.
            if maintenance == Maintenance::CorrectAll || !names.contains(&K::consumer(subjects, lane)) {
                let config = self.consumer_of::<K>(lane);
                is_changed |= self.keep_consumer(K::stream(subjects), config, maintenance).await?;
            }
        }
        Ok(is_changed)
    }

    /// Removes the consumer of older builds, which took the work of all pools and blocks the consumers of single pools.
    pub(super) async fn remove_old_consumer(&self) -> Result<(), BusError> {
        let names = self.consumers_of::<DeletionWork>().await?;
        if names.iter().any(|name| name == OLD_REAPER_CONSUMER) {
            let stream = self.config.subjects.deletions_stream();
            let deleted = self.jetstream.delete_consumer_from_stream(OLD_REAPER_CONSUMER, stream).await;
            deleted.map_err(failed("remove the old consumer"))?;
        }
        Ok(())
    }

    /// Lanes with a consumer; with `scans_subjects` also those with work, whose consumers are then created.
    async fn lanes_of_queue<K: Kind>(&self, scans_subjects: bool) -> Result<Vec<K::Lane>, BusError> {
        let subjects = &self.config.subjects;
        let names = self.consumers_of::<K>().await?;
        let mut lanes: Vec<_> = names.iter().filter_map(|name| K::lane_of_consumer(subjects, name)).collect();
        if scans_subjects {
            for lane in self.lanes_of_messages::<K>().await? {
                if !lanes.contains(&lane) {
                    self.open_lane::<K>(&lane).await?;
                    lanes.push(lane);
                }
            }
        }
        Ok(lanes)
    }

    async fn lanes_of_messages<K: Kind>(&self) -> Result<BTreeSet<K::Lane>, BusError> {
        let subjects = &self.config.subjects;
        let stream = self.stream_to_read(K::stream(subjects)).await?;
        let mut found =
            stream.info_with_subjects(K::filter(subjects)).await.map_err(failed("look through the queue"))?;
        let mut lanes = BTreeSet::new();
        while let Some((subject, _)) = found.try_next().await.map_err(failed("look through the queue"))? {
            lanes.extend(K::lane_of_subject(subjects, &subject));
        }
        Ok(lanes)
    }

    async fn consumers_of<K: Kind>(&self) -> Result<Vec<String>, BusError> {
        let stream = self.stream_to_read(K::stream(&self.config.subjects)).await?;
        stream.consumer_names().try_collect().await.map_err(failed("list the consumers"))
    }

    /// Waits for the end of running work. What is not finished in time is cut off and returned, to be done again elsewhere;
    /// every step is safe to repeat.
    pub(super) async fn finish_running(&self, running: &TaskTracker, cut: &CancellationToken) {
        running.close();
        if tokio::time::timeout(self.config.finish_timeout, running.wait()).await.is_err() {
            cut.cancel();
            running.wait().await;
        }
    }
}
