//! Consumes the work that creates sandboxes: one fetch at a time, for places that the worker has reserved.
//!
//! A fetch never waits, because it would hold its places in the meantime. Between two looks at all lanes the runner listens
//! to the publication of work. That is only a hint: retries and redeliveries are found by looking. A hint may also be early,
//! because the server passes a message on before its stream has it, so an announced lane is looked at more than once.

use super::kinds::Kind as _;
use super::streams::{FETCH_RETRY_DELAY, Source, give_back};
use super::{NatsBus, failed};
use async_nats::Subscriber;
use async_nats::jetstream::Message;
use async_trait::async_trait;
use contract::{ProvisionLane, ProvisionWork};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use ports::bus::rotation::{Place, Rotation, Step};
use ports::bus::{BusError, ProvisionQueue, ServedPools, Worker};
use runtime::telemetry::Chain;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pauses before the further looks at a lane whose announced work was not there yet: the server stores a message within
/// milliseconds, on a busy machine within some tens of them.
const EARLY_HINT_PAUSES: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(10), Duration::from_millis(50)];

/// One runner.
struct Runner<'a> {
    bus: &'a NatsBus,
    rotation: Rotation,
    lanes: BTreeMap<ProvisionLane, Lane<'a>>,
    hints: Arc<Hints>,
    /// Lanes whose announced work was not found yet, and how often they were looked at since.
    early: BTreeMap<ProvisionLane, usize>,
    /// When the next look at all lanes is due; hints do not put it off.
    due: Option<Instant>,
    running: TaskTracker,
    cut: CancellationToken,
    stop: CancellationToken,
}

/// A lane, and when its last fetch failed.
struct Lane<'a> {
    source: Source<'a>,
    failed_at: Option<Instant>,
}

/// What wakes a runner that waits.
#[derive(Default)]
struct Hints {
    /// Lanes with new work.
    lanes: Mutex<BTreeSet<ProvisionLane>>,
    has_lanes: Notify,
    /// A place is free again.
    has_place: Notify,
}

#[async_trait]
impl ProvisionQueue for NatsBus {
    async fn consume(
        &self,
        worker: Arc<dyn Worker<ProvisionWork>>,
        pools: watch::Receiver<ServedPools>,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let published = self.client.subscribe(self.config.subjects.provision_every()).await;
        let published = published.map_err(failed("listen to work"))?;
        let hints = Arc::new(Hints::default());
        let listening = tokio::spawn(listen(self.clone(), published, pools.clone(), Arc::clone(&hints)));
        let mut runner = Runner {
            bus: self,
            rotation: Rotation::new(worker, pools),
            lanes: BTreeMap::new(),
            hints,
            early: BTreeMap::new(),
            due: None,
            running: TaskTracker::new(),
            cut: CancellationToken::new(),
            stop: stop.clone(),
        };
        while !stop.is_cancelled() {
            if self.waits_idle(&stop).await {
                continue;
            }
            let step = tokio::select! {
                step = runner.rotation.next() => step,
                () = stop.cancelled() => break,
            };
            match step {
                Step::Fetch(lane, places) => runner.fetch(lane, places).await,
                Step::Wait(span) => runner.wait(span).await,
            }
        }
        listening.abort();
        self.finish_running(&runner.running, &runner.cut).await;
        Ok(())
    }
}

// === impl Runner ===

impl Runner<'_> {
    async fn fetch(&mut self, lane: ProvisionLane, places: Vec<Place>) {
        let (bus, subjects) = (self.bus, &self.bus.config.subjects);
        let open = || Lane {
            source: Source::new(bus, subjects.provisions_stream(), subjects.runner_consumer(&lane)),
            failed_at: None,
        };
        let messages = self.lanes.entry(lane.clone()).or_insert_with(open).fetch(places.len()).await;
        self.rotation.fetched(&lane, messages.len());
        if !messages.is_empty() {
            self.early.remove(&lane);
        }
        for (message, place) in messages.into_iter().zip(places) {
            if self.stop.is_cancelled() {
                give_back(&message).await;
                continue;
            }
            let (bus, cut, hints) = (bus.clone(), self.cut.clone(), Arc::clone(&self.hints));
            self.running.spawn(async move {
                bus.work_on::<ProvisionWork>(&place, &message, &cut).await;
                drop(place);
                hints.has_place.notify_one();
            });
        }
    }

    async fn wait(&mut self, span: Duration) {
        let until = Instant::now() + span;
        let until = self.due.take().map_or(until, |due| due.min(until));
        let again = self.early.values().filter_map(|looks| EARLY_HINT_PAUSES.get(*looks)).min();
        let again = again.map(|pause| Instant::now() + *pause).filter(|again| *again < until);
        tokio::select! {
            () = tokio::time::sleep_until(again.unwrap_or(until)) => {
                if again.is_some() {
                    self.look_again();
                    self.due = Some(until);
                }
            }
            () = self.hints.has_place.notified() => {}
            () = self.hints.has_lanes.notified() => {
                let lanes = self.hints.take();
                self.early.extend(lanes.iter().map(|lane| (lane.clone(), 0)));
                self.rotation.look_at(lanes);
                self.due = Some(until);
            }
            // Handles of pools that are no longer served go.
            () = self.rotation.pools_changed() => self.lanes.clear(),
            () = self.stop.cancelled() => {}
        }
    }

    /// Looks at the lanes whose announced work was not found, a limited number of times.
    fn look_again(&mut self) {
        self.rotation.look_at(self.early.keys().cloned());
        self.early.retain(|_, looks| {
            *looks += 1;
            *looks < EARLY_HINT_PAUSES.len()
        });
    }
}

/// Notes the lanes of these pools that get new work.
async fn listen(
    bus: NatsBus,
    mut published: Subscriber,
    pools: watch::Receiver<ServedPools>,
    hints: Arc<Hints>,
) {
    while let Some(message) = published.next().await {
        let lane = ProvisionWork::lane_of_subject(&bus.config.subjects, &message.subject);
        if let Some(lane) = lane.filter(|lane| pools.borrow().contains_key(&lane.pool)) {
            hints.lanes.lock().insert(lane);
            hints.has_lanes.notify_one();
        }
    }
}

// === impl Hints ===

impl Hints {
    fn take(&self) -> BTreeSet<ProvisionLane> {
        std::mem::take(&mut *self.lanes.lock())
    }
}

// === impl Lane ===

impl Lane<'_> {
    /// At most `count` messages that wait now; none for a while after a failure.
    async fn fetch(&mut self, count: usize) -> Vec<Message> {
        if self.failed_at.is_some_and(|then| then.elapsed() < FETCH_RETRY_DELAY) {
            return Vec::new();
        }
        match self.source.fetch_waiting(count).await {
            Ok(messages) => {
                self.failed_at = None;
                messages
            }
            Err(error) => {
                // The workers that announce work create its consumers; a runner may not.
                if self.failed_at.replace(Instant::now()).is_none() {
                    tracing::warn!(error = %Chain(&error), "cannot fetch; trying again");
                }
                Vec::new()
            }
        }
    }
}
