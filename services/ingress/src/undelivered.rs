//! Undelivered leases: granted to claims whose caller got an error instead, or left. They are counted and not taken
//! back: the owner's next claim finds such a lease; otherwise it expires.
//!
//! # Counts
//! A claim that was answered with an error although a worker later replies that it granted a lease for one of the
//! attempts; and a claim whose caller left before the reply of a worker that granted it. Separately, failed claims with
//! an attempt whose outcome is unknown: an upper limit of further undelivered leases.
//!
//! # Does not see
//! That a caller left after the answer was passed to its connection, because its first bytes may have been sent.

use contract::{Allocation, Fault};
use ports::bus::{LateReply, Reply};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::error;
use crate::metrics::{Metrics, Undelivery};
use crate::request_id::Facts;

/// How long to wait for the late reply of an attempt that timed out: longer than any worker works on one.
const LATE_REPLY_WAIT: Duration = Duration::from_secs(30);
/// Late replies that are awaited at once; beyond that, they are not seen.
const LATE_REPLIES_MAX: usize = 4_096;

/// Tracks the outcome of claims.
#[derive(Clone)]
pub(crate) struct Watch {
    metrics: Metrics,
    tasks: TaskTracker,
    places: Arc<Semaphore>,
}

/// A claim, from its request to its answer.
pub(crate) struct ClaimTracker {
    watch: Watch,
    request_id: String,
    owner: String,
    has_left: AtomicBool,
    is_counted: AtomicBool,
    /// Whether an attempt with an unknown outcome may have been granted.
    is_unclear: AtomicBool,
    /// Whether the caller got a lease; none while it waits.
    is_delivered: watch::Sender<Option<bool>>,
}

/// The caller's wait for its answer. If it is dropped before its end, the caller has left.
pub(crate) struct Waiting(pub(crate) Arc<ClaimTracker>);

// === impl Watch ===

impl Watch {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, tasks: TaskTracker::new(), places: Arc::new(Semaphore::new(LATE_REPLIES_MAX)) }
    }

    /// Starts to track a claim.
    pub(crate) fn begin(&self, facts: &Facts) -> Arc<ClaimTracker> {
        Arc::new(ClaimTracker {
            watch: self.clone(),
            request_id: facts.request_id.to_string(),
            owner: facts.owner().map(ToString::to_string).unwrap_or_default(),
            has_left: AtomicBool::new(false),
            is_counted: AtomicBool::new(false),
            is_unclear: AtomicBool::new(false),
            is_delivered: watch::Sender::new(None),
        })
    }

    /// Runs a claim independently of its caller, who may leave.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.tasks.spawn(work)
    }
}

// === impl ClaimTracker ===

impl ClaimTracker {
    /// Whether the caller has left.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::SeqCst)
    }

    /// Records a worker's reply to one attempt.
    pub(crate) fn note(&self, reply: &Reply) {
        if error::is_open_end(reply) {
            self.is_unclear.store(true, Ordering::SeqCst);
        }
    }

    /// Records an attempt without a reply, and what may still come.
    pub(crate) fn note_silence(self: &Arc<Self>, late: Option<LateReply>) {
        self.is_unclear.store(true, Ordering::SeqCst);
        if let Some(late) = late {
            self.watch_late(late);
        }
    }

    /// Sends the answer to the caller, if it is still waiting.
    pub(crate) fn settle(&self, answer: Result<Reply, Fault>, sender: oneshot::Sender<Result<Reply, Fault>>) {
        let is_lease = answer.as_ref().is_ok_and(|reply| !reply.is_fault);
        let left_behind = sender.send(answer).err();
        self.is_delivered.send_replace(Some(is_lease && left_behind.is_none()));
        match left_behind {
            Some(Ok(lease)) if is_lease => self.count(Undelivery::CallerLeft, &lease),
            _ if !is_lease && self.is_unclear.load(Ordering::SeqCst) => {
                self.watch.metrics.undelivered(Undelivery::Unknown);
            }
            _ => {}
        }
    }

    /// Waits for the late reply of an attempt that timed out.
    fn watch_late(self: &Arc<Self>, late: LateReply) {
        let Ok(place) = Arc::clone(&self.watch.places).try_acquire_owned() else { return };
        let tracker = Arc::clone(self);
        self.watch.tasks.spawn(async move {
            let reply = tokio::time::timeout(LATE_REPLY_WAIT, late).await;
            drop(place);
            let Ok(Some(reply)) = reply else { return };
            let mut is_delivered = tracker.is_delivered.subscribe();
            // The sender lives as long as the tracker. The lease that was delivered then is the one of this reply.
            let Ok(was_delivered) =
                is_delivered.wait_for(Option::is_some).await.map(|was_delivered| *was_delivered)
            else {
                return;
            };
            if was_delivered == Some(false) && !reply.is_fault {
                tracker.count(Undelivery::LateReply, &reply);
            }
        });
    }

    fn count(&self, why: Undelivery, lease: &Reply) {
        if self.is_counted.swap(true, Ordering::SeqCst) {
            return;
        }
        self.watch.metrics.undelivered(why);
        let lease = serde_json::from_slice::<Allocation>(&lease.body).ok();
        let sandbox = lease.as_ref().map_or("unknown", |lease| lease.sandbox_id.as_str());
        tracing::warn!(
            request.id = self.request_id,
            owner.id = self.owner,
            sandbox.id = sandbox,
            reason = why.as_str(),
            "{sandbox} is leased to {}, who did not get the answer",
            self.owner,
        );
    }
}

// === impl Waiting ===

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.has_left.store(true, Ordering::SeqCst);
    }
}
