//! The bus port: requests and replies, work that is delivered until it is done, ticks, and reports.
//!
//! Requests may be lost at any time; they have keys, so that callers can repeat them. Deletion work is delivered at
//! least once, and so is the work that creates sandboxes. A worker returns a [`Verdict`] for each delivery; only the adapter
//! acknowledges messages.

use async_trait::async_trait;
use bytes::Bytes;
use contract::fault::{FaultBody, FaultDetail};
use contract::{
    Census, DeletionWork, DeletionsStatus, Event, Fault, Outcome, ParkedDeletion, Pause, ProvisionWork,
    Report, RunReport, TickKind, TickOrder, Verb, WorkerRole,
};
use domain::{PoolName, SandboxId, UnixSeconds, Version};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

mod context;
pub mod feed;
pub mod intake;
mod marks;
mod nodes;
mod rebuilt;
mod requests;
pub mod rotation;
mod switch;
mod turns;
mod work;

pub use context::{Attempt, Context, Dropped};
pub use feed::{
    Discovery, EventFeed, EventLogRange, EventsFrom, EventsWanted, KeptEvent, SINCE_SECONDS_MAX, ServiceInfo,
    WorkCounts,
};
pub use marks::TableMarks;
pub use nodes::{NodeRequests, RequestVerb, ServeNode};
pub use rebuilt::{EventLogState, Rebuilt};
pub use requests::{LateReply, Requests, Unanswered};
pub use rotation::ServedPools;
pub use switch::{CachedSwitch, SwitchCache};
pub use turns::{Periodic, TickTurn, TickTurns};
pub use work::{Delivery, Verdict, Work, Worker};

/// How long the stream recognises repeated ticks of a turn: twice the longest period of a scheduler.
pub const TICK_DEDUP_WINDOW: Duration = Duration::from_secs(2 * 3_600);
/// Ticks of one kind in the stream: one whose run is in progress and one that waits.
pub const TICKS_OF_A_KIND_MAX: usize = 2;
/// Silence of a runner after which its work is given to another one; a runner reports progress every third of it.
pub const PROVISION_ACK_WAIT: Duration = Duration::from_secs(15);
/// Silence after which a tick is given to another reconciler; a running reconciler reports progress every third of it.
pub const TICK_ACK_WAIT: Duration = Duration::from_secs(15);

/// How long a run may continue after its process was asked to stop. All its writes are conditional, and the next run
/// continues where this one was cut off, so the process need not wait for a long run.
pub const RUN_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A request as a worker receives it.
#[derive(Clone, Debug)]
pub struct Request<V = Verb> {
    /// The verb.
    pub verb: V,
    /// Its headers.
    pub context: Context,
    /// The JSON body.
    pub body: Bytes,
}

/// A worker's answer: a JSON body, or a failure.
#[derive(Clone, Debug)]
pub struct Answer {
    /// For a claim: whether it created the lease.
    pub outcome: Option<Outcome>,
    /// The JSON body, or the failure.
    pub body: Result<Bytes, Fault>,
}

/// A reply as a caller receives it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// For a claim: whether it created the lease.
    pub outcome: Option<Outcome>,
    /// Whether `body` is a failure.
    pub is_fault: bool,
    /// The JSON body, ready to be passed on unchanged.
    pub body: Bytes,
}

// === impl Reply ===

impl Reply {
    /// What it says, or the fault.
    ///
    /// # Errors
    /// When this build cannot read the body.
    pub fn read<T: DeserializeOwned>(&self) -> Result<Result<T, FaultDetail>, serde_json::Error> {
        if self.is_fault {
            let FaultBody { detail } = serde_json::from_slice(&self.body)?;
            return Ok(Err(detail));
        }
        serde_json::from_slice(&self.body).map(Ok)
    }
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No worker serves this verb right now.
    #[error("no worker serves this request")]
    NoResponders,
    /// No reply in time: it was lost, slow, or not permitted.
    #[error("no answer in time")]
    TimedOut,
    /// There is no connection: to the bus, or to the HTTP server.
    #[error("no connection")]
    Disconnected,
}

/// The bus did not confirm a message. The message may be stored all the same.
#[derive(Debug, thiserror::Error)]
#[error("the message queue is unavailable ({operation})")]
pub struct BusError {
    /// The operation.
    pub operation: &'static str,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The result of announcing a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The message is in the queue.
    Queued,
    /// The sandbox has a message already: waiting, running, or scheduled for a retry.
    AlreadyQueued,
}

/// A tick that the stream took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickReceipt {
    /// Its sequence. A run whose report has at least this sequence began after the tick was accepted.
    pub sequence: u64,
    /// Whether the tick was redundant: this turn was published before, or a tick of this kind is waiting, whose run
    /// will also begin after this moment.
    pub duplicate: bool,
}

/// Answers requests: those to workers, or those to a node.
#[async_trait]
pub trait Handler<V: RequestVerb = Verb>: Send + Sync {
    /// Answers one request, within the deadline of its context.
    async fn handle(&self, request: Request<V>) -> Answer;

    /// Counts a request that is dropped without an answer.
    fn dropped(&self, _verb: V, _request_id: &str, _why: Dropped) {}
}

/// Runs on the ticks of one kind.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Runs once, with what the tick orders, and reports the result.
    async fn run(&self, order: &TickOrder) -> Report;
}

/// The worker's side of requests.
#[async_trait]
pub trait Serve: Send + Sync {
    /// Serves every verb of `role`, at most `in_flight_max` requests at once (a further one gets *busy*), until `stop`.
    /// Then it takes no more, finishes what it has, and returns without losing a request.
    async fn serve(
        &self,
        role: WorkerRole,
        handler: std::sync::Arc<dyn Handler>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError>;
}

/// Publishing deletion work.
#[async_trait]
pub trait Deletions: Send + Sync {
    /// Adds the work to the queue unless the sandbox has a message there.
    async fn announce(&self, work: &DeletionWork) -> Result<Announced, BusError>;

    /// Stores a parked deletion, and returns only when it is stored.
    async fn park(&self, parked: &ParkedDeletion) -> Result<(), BusError>;
}

/// Publishing work that creates sandboxes.
#[async_trait]
pub trait Provisions: Send + Sync {
    /// Adds the work to the queue unless the sandbox has a message there.
    async fn announce(&self, work: &ProvisionWork) -> Result<Announced, BusError>;
}

/// Consuming deletion work.
#[async_trait]
pub trait DeletionQueue: Send + Sync {
    /// Works on deliveries, at most `in_flight_max` at once in this process, until `stop`. Then it takes no more,
    /// finishes what it has, and returns.
    async fn consume(
        &self,
        worker: std::sync::Arc<dyn Worker>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError>;
}

/// Consuming work that creates sandboxes.
#[async_trait]
pub trait ProvisionQueue: Send + Sync {
    /// Works on deliveries for `pools`, which may change at any time, until `stop`. Then it takes no more, finishes what it
    /// has, and returns. The worker admits each delivery before it is fetched; see [`rotation`] for the order.
    async fn consume(
        &self,
        worker: std::sync::Arc<dyn Worker<ProvisionWork>>,
        pools: tokio::sync::watch::Receiver<ServedPools>,
        stop: CancellationToken,
    ) -> Result<(), BusError>;
}

/// Publishing ticks and waiting for their reports.
#[async_trait]
pub trait Ticks: Send + Sync {
    /// Publishes a tick. With the number of a `turn`, and the period of its kind in the settings, the stream keeps only
    /// the first of that turn.
    async fn tick(&self, kind: TickKind, turn: Option<(u64, Duration)>) -> Result<TickReceipt, BusError>;

    /// Publishes a tick and waits for the report of a run that began after the tick was accepted. All of that takes at
    /// most `timeout`; a tick that is not accepted by then is an error. Without a connection the call fails at once.
    /// One call is one tick, however often it has to be sent.
    async fn tick_and_wait(
        &self,
        kind: TickKind,
        timeout: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError>;

    /// Publishes a tick with an order and waits for its report as above. If a tick without the order waits already, the
    /// order is not accepted: the receipt says `duplicate`, and the call does not wait.
    async fn order_and_wait(
        &self,
        _kind: TickKind,
        _order: &TickOrder,
        _patience: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        Err(BusError { operation: "order a run", source: "this bus takes no orders".into() })
    }

    /// The last report of that kind; none before the first run.
    async fn last_report(&self, kind: TickKind) -> Result<Option<RunReport>, BusError>;

    /// The sequence of the last accepted tick of any kind; 0 before the first, none if this bus does not know.
    async fn last_tick(&self) -> Result<Option<u64>, BusError> {
        Ok(None)
    }
}

/// Stores the last census.
#[async_trait]
pub trait CensusStore: Send + Sync {
    /// Replaces the stored census.
    async fn keep_census(&self, census: &Census) -> Result<(), BusError>;

    /// The stored census; none before the first.
    async fn last_census(&self) -> Result<Option<Census>, BusError>;
}

/// Running on ticks.
#[async_trait]
pub trait TickQueue: Send + Sync {
    /// Runs on every tick of `kind`, one at a time in the whole fleet, until `stop`; then finishes the current run and
    /// returns. Each report is stored and sent to waiting callers.
    async fn run_on_ticks(
        &self,
        kind: TickKind,
        runner: std::sync::Arc<dyn Runner>,
        stop: CancellationToken,
    ) -> Result<(), BusError>;
}

/// The provider throttle of the fleet: its rate, its breaker and the operators' pause.
#[async_trait]
pub trait ProviderThrottle: Send + Sync {
    /// Requests the next free slot. A slot is reserved only if the answer is [`Admission::Go`].
    async fn acquire(&self) -> Result<Admission, BusError>;

    /// Checks a permit when its slot has come, directly before the call.
    async fn confirm(&self, permit: Permit) -> Result<Confirmed, BusError>;

    /// Reports the outcome of the call of a permit, or that no call was made. `sandbox` is the sandbox of the call.
    async fn report_outcome(
        &self,
        permit: Permit,
        sandbox: &SandboxId,
        end: CallOutcome,
    ) -> Result<OutcomeEffect, BusError>;

    /// Reads the state without reserving a slot.
    async fn view(&self) -> Result<ThrottleView, BusError>;
}

/// The operators' side of the throttle.
#[async_trait]
pub trait DeletionControl: Send + Sync {
    /// Pauses all deletions, or replaces the current pause. Without a connection, pausing and resuming fail at once and
    /// do not take effect later.
    async fn pause(&self, pause: &Pause) -> Result<(), BusError>;

    /// Ends the pause; returns the one that was on.
    async fn resume(&self, by: &str) -> Result<Option<Pause>, BusError>;

    /// The state of the throttle and its queue.
    async fn status(&self) -> Result<DeletionsStatus, BusError>;
}

/// A slot at the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// When the call may begin, in microseconds since the Unix epoch; no two permits have the same.
    pub slot_us: u64,
    /// Whether this is the single probe call that tests whether the provider has recovered.
    pub is_probe: bool,
}

/// The answer to a request for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The slot is reserved; it comes after a short wait.
    Go {
        /// The slot.
        permit: Permit,
        /// How long until then.
        wait: Duration,
    },
    /// Not now; no slot is reserved.
    Later {
        /// When to ask again.
        wait: Duration,
        /// Whether the throttle is closed, as opposed to having no slot soon.
        is_closed: bool,
    },
}

/// Whether a reserved slot may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// Call now.
    Go,
    /// The slot has passed; request another one.
    Missed,
    /// The throttle has closed in the meantime; the permit was returned.
    Later {
        /// When to ask again.
        wait: Duration,
    },
}

/// The outcome of a call to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The call was not made.
    Unused,
    /// The sandbox was deleted.
    Deleted,
    /// The provider refused the call for this sandbox: the provider works, and the sandbox is at fault.
    Refused,
    /// The provider failed, was unreachable, or did not answer in time.
    Failed,
    /// The provider asks us to slow down.
    SlowDown {
        /// For how long.
        span: Duration,
    },
    /// The provider refused our credentials.
    Unauthorized,
    /// The provider forbade this call (403): our credentials may have lost a permission, or this account is faulty.
    Forbidden,
}

/// The cause of a failure, as far as the throttle can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCause {
    /// Not the sandbox: the attempt is not counted.
    NotSandbox,
    /// Unknown: the attempt is counted, but does not park the sandbox.
    Unclear,
    /// The sandbox: the attempt is counted and may be the last.
    Sandbox,
}

/// The consequences of an outcome for the sandbox of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeEffect {
    /// Whether the breaker is closed.
    pub is_closed: bool,
    /// The cause of a failure.
    pub cause: FailureCause,
    /// How long workers must not call the provider.
    pub wait: Duration,
}

/// The state of the throttle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleView {
    /// Calls that can begin soon. More deliveries than this would only wait in the worker.
    pub calls: usize,
    /// When to ask again if `calls` is zero.
    pub wait: Duration,
    /// Whether an operator paused it.
    pub is_paused: bool,
    /// Whether the breaker is open or half-open.
    pub is_broken: bool,
    /// Deletions per minute that the fleet may make now.
    pub rate_per_minute: u64,
}

/// A message of the deletion queue: waiting, in progress, or scheduled for a retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedMessage {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its work; none if this build cannot read it.
    pub work: Option<DeletionWork>,
    /// Whether it is scheduled for a retry.
    pub is_put_off: bool,
    /// When the retry is due; none if it is not scheduled or the time is unknown.
    pub due_at: Option<UnixSeconds>,
    /// When it was stored.
    pub since: UnixSeconds,
}

/// The key of a parked message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParkedKey {
    /// The deletion of a sandbox.
    Sandbox {
        /// Its pool.
        pool: PoolName,
        /// The sandbox.
        id: SandboxId,
    },
    /// A message that no worker can read, by its sequence in the queue.
    Unreadable(u64),
}

/// A parked message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedMessage {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its key.
    pub key: ParkedKey,
    /// The reason, in one line.
    pub reason: String,
    /// When.
    pub parked_at: UnixSeconds,
    /// Number of attempts; none for a message that no worker can read.
    pub attempts: Option<u32>,
    /// The work to replay; none while it cannot be read.
    pub work: Option<DeletionWork>,
}

/// Inspects and repairs the deletion queue and the parked messages, for the sweep and for operators. What is read is a
/// hint. Removals name the sequence, so that a newer message is never removed.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Creates missing streams and consumers. Returns whether one was missing.
    async fn mend(&self) -> Result<bool, BusError>;

    /// At most `limit` messages of the queue after that sequence, oldest first; fewer only at the end.
    async fn queued(&self, after: u64, limit: usize) -> Result<Vec<QueuedMessage>, BusError>;

    /// The messages of one sandbox in the queue.
    async fn queued_of(&self, pool: &PoolName, id: &SandboxId) -> Result<Vec<QueuedMessage>, BusError>;

    /// The sequence up to which messages of that pool were delivered. A message up to there that is still in the queue
    /// is with a worker, or a worker has just returned it.
    async fn handed_out(&self, pool: &PoolName) -> Result<u64, BusError>;

    /// The sequence up to which the queue has finished the messages of that pool. A message up to there that is still
    /// stored is never delivered again, for example because a delivery limit was set.
    async fn given_up(&self, _pool: &PoolName) -> Result<u64, BusError> {
        Ok(0)
    }

    /// Removes a message from the queue; false if it was not there.
    async fn unqueue(&self, sequence: u64) -> Result<bool, BusError>;

    /// At most `limit` parked messages (of one pool) after that sequence, oldest first; fewer only at the end.
    async fn parked(
        &self,
        pool: Option<&PoolName>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<ParkedMessage>, BusError>;

    /// The parked message with that key.
    async fn parked_of(&self, key: &ParkedKey) -> Result<Option<ParkedMessage>, BusError>;

    /// Removes a parked message; false if it was not there.
    async fn unpark(&self, sequence: u64) -> Result<bool, BusError>;

    /// Removes parked messages of creations that were stored before that moment, the oldest first and at most `limit`.
    /// Returns how many.
    async fn drop_parked_provisions(&self, before: UnixSeconds, limit: usize) -> Result<usize, BusError>;

    /// Stores the copy of a parked deletion unless the sandbox has one.
    async fn park_again(&self, parked: &ParkedDeletion) -> Result<Announced, BusError>;

    /// The current event log, and how far it has been rebuilt.
    async fn event_log_state(&self) -> Result<EventLogState, BusError>;

    /// Records how far that event log has been rebuilt. False if another event log has replaced it.
    async fn note_rebuilt(&self, state: &EventLogState) -> Result<bool, BusError>;
}

/// The last event of a sandbox in the event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventMark {
    /// The version of the sandbox that the event describes.
    pub version: Version,
    /// Its sequence in the stream.
    pub sequence: u64,
}

/// The result of appending an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It was appended and is the last event of its sandbox.
    Kept(EventMark),
    /// The last event of the sandbox is not the expected one: read it again.
    Moved,
}

/// The event log. The events of a sandbox have no gaps: an event is appended only after the one that its writer saw as
/// the last.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// How long events are stored. Older events are not added any more.
    fn kept(&self) -> Duration;

    /// The last event of that sandbox.
    async fn last_event(&self, id: &SandboxId) -> Result<Option<EventMark>, BusError>;

    /// Appends an event of that sandbox if its last one is `after`. Returns when it is stored.
    async fn append(
        &self,
        id: &SandboxId,
        event: &Event,
        after: Option<EventMark>,
    ) -> Result<Appended, BusError>;
}
