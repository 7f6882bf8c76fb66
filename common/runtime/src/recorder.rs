//! Publishes events to the event log: outside the path of the change, and without gaps.
//!
//! A change goes into a bounded queue, and a separate task publishes it, so no change waits for the bus. Changes that
//! do not fit, or are lost with the process, are published later: every writer completes the event log from the history
//! of the sandbox, and the sweep checks every sandbox in use.

use crate::metrics::{Collectors, register_all};
use crate::telemetry::Chain;
use contract::Event;
use domain::{HistoryEntry, Sandbox, UnixSeconds, Version};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use ports::bus::{Appended, BusError, EventLog, EventMark};
use ports::clock::Clock;
use prometheus::{IntCounter, Registry};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Changes in the queue: some seconds of the busiest allocator, about 1 KiB each.
pub const WAITING_MAX: usize = 8_192;
/// Changes that one process publishes concurrently.
const PUBLISHING_MAX: usize = 16;
/// Attempts to append to the event log; each further one means that another process was faster.
const ROUNDS_MAX: usize = 8;
/// How long a stopping process waits for the remaining changes.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// Counters of published events, for all workers of a process.
#[derive(Clone, Debug)]
pub struct EventLogMetrics {
    published: IntCounter,
    filled: IntCounter,
    left: IntCounter,
}

/// Publishes changes to the event log. Clones share one queue.
#[derive(Clone)]
pub struct Recorder {
    inside: Arc<Inside>,
}

struct Inside {
    clock: Arc<dyn Clock>,
    event_log: Arc<dyn EventLog>,
    metrics: EventLogMetrics,
    sender: mpsc::Sender<Change>,
    receiver: Mutex<Option<mpsc::Receiver<Change>>>,
}

/// A sandbox after a change.
struct Change {
    sandbox: Sandbox,
    request_id: Option<String>,
}

// === impl EventLogMetrics ===

impl EventLogMetrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            published: IntCounter::new("broker_events_published_total", "Events added to the event log")?,
            filled: IntCounter::new(
                "broker_events_filled_total",
                "Events that the writer of the change had not published, and that were added from a history",
            )?,
            left: IntCounter::new(
                "broker_events_left_total",
                "Changes that could not be published at once; the next writer or the sweep publishes them",
            )?,
        };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self { published, filled, left } = self.clone();
        vec![Box::new(published), Box::new(filled), Box::new(left)]
    }
}

// === impl Recorder ===

impl Recorder {
    /// A recorder with an empty queue. Nothing is published until [`Recorder::publish_until`] runs.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, event_log: Arc<dyn EventLog>, metrics: EventLogMetrics) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let receiver = Mutex::new(Some(receiver));
        Self { inside: Arc::new(Inside { clock, event_log, metrics, sender, receiver }) }
    }

    /// Queues a change. Never waits: if the queue is full, the next writer or the sweep publishes the change.
    pub fn note(&self, sandbox: &Sandbox, request_id: Option<&str>) {
        let Ok(place) = self.inside.sender.try_reserve() else {
            self.inside.metrics.left.inc();
            return;
        };
        place.send(Change { sandbox: sandbox.clone(), request_id: request_id.map(ToOwned::to_owned) });
    }

    /// Publishes queued changes until `stop`, then the remaining ones for a moment. A second call has nothing to do.
    pub async fn publish_until(&self, stop: CancellationToken) {
        let receiver = self.inside.receiver.lock().take();
        let Some(receiver) = receiver else { return };
        let next = |(mut receiver, stop): (mpsc::Receiver<Change>, CancellationToken)| async move {
            let change = tokio::select! {
                biased;
                change = receiver.recv() => change,
                // Everything in the queue was taken above.
                () = stop.cancelled() => receiver.try_recv().ok(),
            };
            change.map(|change| (change, (receiver, stop)))
        };
        let publishing = stream::unfold((receiver, stop.clone()), next)
            .for_each_concurrent(PUBLISHING_MAX, |change| self.publish(change));
        let too_long = async {
            stop.cancelled().await;
            self.inside.clock.sleep(CLOSING_TIME).await;
        };
        tokio::select! {
            () = publishing => {}
            () = too_long => tracing::warn!("the last events were not published; the sweep will publish them"),
        }
    }

    /// Adds every missing event of `sandbox` to the event log and returns their number when all are stored.
    ///
    /// # Errors
    /// [`BusError`] when the event log did not answer, or other processes were faster again and again.
    pub async fn complete(&self, sandbox: &Sandbox) -> Result<u64, BusError> {
        let added = self.add_missing(sandbox, None, false).await?;
        self.inside.metrics.filled.inc_by(added);
        Ok(added)
    }

    /// As [`Recorder::complete`], called by the writer of the last change.
    ///
    /// # Errors
    /// As for [`Recorder::complete`].
    pub async fn publish_now(&self, sandbox: &Sandbox) -> Result<(), BusError> {
        let added = self.add_missing(sandbox, None, true).await?;
        self.inside.metrics.filled.inc_by(added.saturating_sub(1));
        Ok(())
    }

    async fn publish(&self, change: Change) {
        let Change { sandbox, request_id } = change;
        match self.add_missing(&sandbox, request_id.as_deref(), true).await {
            Ok(added) => self.inside.metrics.filled.inc_by(added.saturating_sub(1)),
            Err(error) => {
                self.inside.metrics.left.inc();
                tracing::warn!(
                    sandbox.id = sandbox.id.as_str(),
                    error = %Chain(&error),
                    "an event of {} was not published; the sweep will publish it",
                    sandbox.id,
                );
            }
        }
    }

    async fn add_missing(
        &self,
        sandbox: &Sandbox,
        request_id: Option<&str>,
        is_writer: bool,
    ) -> Result<u64, BusError> {
        let event_log = self.inside.event_log.as_ref();
        let oldest = self.inside.clock.now().before(event_log.kept());
        let mut added = 0;
        for round in 0..ROUNDS_MAX {
            // The writer of a new sandbox assumes that there are no events yet; a failed append corrects that.
            let is_new = is_writer && round == 0 && sandbox.version == Version::default().next();
            let mut mark = if is_new { None } else { event_log.last_event(&sandbox.id).await? };
            let mut is_complete = true;
            for entry in missing(sandbox, mark, oldest) {
                let is_last = entry.version == sandbox.version;
                let event = Event::of(sandbox, entry, request_id.filter(|_| is_last));
                match event_log.append(&sandbox.id, &event, mark).await? {
                    Appended::Kept(last) => {
                        mark = Some(last);
                        added += 1;
                        self.inside.metrics.published.inc();
                    }
                    Appended::Moved => {
                        is_complete = false;
                        break;
                    }
                }
            }
            if is_complete {
                return Ok(added);
            }
        }
        Err(BusError { operation: "complete the event log", source: "others were faster every time".into() })
    }
}

/// The part of the history that is missing in the event log, oldest first, without events that it would not keep.
fn missing(
    sandbox: &Sandbox,
    mark: Option<EventMark>,
    oldest: UnixSeconds,
) -> impl Iterator<Item = &HistoryEntry> {
    sandbox.history.iter().filter(move |entry| match mark {
        Some(mark) => entry.version > mark.version,
        None => entry.at >= oldest,
    })
}

#[cfg(test)]
mod tests;
