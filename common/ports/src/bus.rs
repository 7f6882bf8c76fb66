//! The bus port: requests that are answered, work that is delivered until it is done, ticks, and reports.
//!
//! Requests may be lost at any time; they are keyed, so the caller repeats them. Deletion work is delivered
//! at least once. A worker turns a delivery into a [`Verdict`]; only the adapter turns verdicts into
//! acknowledgements.

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    Census, DeletionWork, DeletionsStatus, Event, Fault, Outcome, ParkedDeletion, Pause, Report, RunReport,
    TickKind, TickOrder, Verb,
};
use domain::{PoolName, SandboxId, UnixSeconds, Version};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

mod context;
pub mod feed;
pub mod intake;
mod marks;
mod rebuilt;
mod requests;
mod switch;
mod turns;

pub use context::{Attempt, Context, Dropped};
pub use feed::{
    Discovery, EventFeed, EventLogRange, EventsFrom, EventsWanted, KeptEvent, SINCE_SECONDS_MAX, ServiceInfo,
    WorkCounts,
};
pub use marks::TableMarks;
pub use rebuilt::{EventLogState, Rebuilt};
pub use requests::{LateReply, Requests, Unanswered};
pub use switch::{CachedSwitch, SwitchCache};
pub use turns::{TickTurn, TickTurns};

/// How long a turn's tick keeps its copies out: twice the longest period that a scheduler may have.
pub const TICK_DEDUP_WINDOW: Duration = Duration::from_secs(2 * 3_600);
/// Ticks of one kind that the stream holds: one that is being run on and one that waits.
pub const TICKS_OF_A_KIND_MAX: usize = 2;
/// Silence after which a tick is given to another reconciler; the one at work speaks every third of it.
pub const TICK_ACK_WAIT: Duration = Duration::from_secs(15);

/// How long a run goes on when its process stops. All that it writes is conditional, and the next run continues where
/// this one was cut, so the process need not wait for a long run.
pub const RUN_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A request as a worker gets it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked for.
    pub verb: Verb,
    /// What rides beside it.
    pub context: Context,
    /// The JSON body.
    pub body: Bytes,
}

/// A worker's answer: a JSON body, or a failure.
#[derive(Clone, Debug)]
pub struct Answer {
    /// For a claim: whether it made the lease.
    pub outcome: Option<Outcome>,
    /// The JSON body, or the failure.
    pub body: Result<Bytes, Fault>,
}

/// An answer as a caller gets it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// For a claim: whether it made the lease.
    pub outcome: Option<Outcome>,
    /// Whether `body` is a failure's.
    pub is_fault: bool,
    /// The JSON body, fit to be passed on as it stands.
    pub body: Bytes,
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No worker serves this verb at this instant.
    #[error("no worker serves this request")]
    NoResponders,
    /// No answer in time: lost, slow, or not permitted.
    #[error("no answer in time")]
    TimedOut,
    /// There is no connection to the bus.
    #[error("not connected to the message queue")]
    Disconnected,
}

/// Why the bus did not take a message. It may have taken it all the same.
#[derive(Debug, thiserror::Error)]
#[error("the message queue is unavailable ({operation})")]
pub struct BusError {
    /// What was tried.
    pub operation: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What became of announcing a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The message is in the queue.
    Queued,
    /// There was one already: waiting, running, or scheduled for a retry.
    AlreadyQueued,
}

/// A tick that the stream took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickReceipt {
    /// Its sequence; a run whose report says at least this one has looked after the tick was taken.
    pub sequence: u64,
    /// Whether it was not needed: this turn had been published already, or a tick of this kind is waiting, whose
    /// run will look after this moment as well.
    pub duplicate: bool,
}

/// One delivery of deletion work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The work.
    pub work: DeletionWork,
    /// How often this message was delivered, this time included.
    pub deliveries: u64,
}

/// What is to become of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, or no longer wanted: it leaves the queue.
    Done,
    /// Not yet: it comes back after the delay, and holds no place meanwhile.
    Retry {
        /// How long to wait.
        delay: Duration,
    },
    /// Given up after it was parked: it leaves the queue, marked as terminated.
    GiveUp {
        /// Why.
        reason: String,
    },
}

/// Answers requests.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Answers one. Must not take longer than the deadline in its context.
    async fn handle(&self, request: Request) -> Answer;

    /// Counts one that is not answered.
    fn dropped(&self, _verb: Verb, _request_id: &str, _why: Dropped) {}
}

/// Works on deliveries.
#[async_trait]
pub trait Worker: Send + Sync {
    /// Works on one. The adapter keeps the delivery alive meanwhile.
    async fn work(&self, delivery: Delivery) -> Verdict;

    /// How many deliveries it could use now, at most `places`; asked before anything is fetched. After a zero
    /// it is asked again when that wait is over, or somewhat earlier.
    async fn admit(&self, places: usize) -> (usize, Duration) {
        (places, Duration::ZERO)
    }
}

/// Runs when a tick says so.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Looks once, and says what it did.
    async fn run(&self, kind: TickKind) -> Report;

    /// Looks once as ordered. Who knows no orders looks as ever.
    async fn run_ordered(&self, kind: TickKind, _order: &TickOrder) -> Report {
        self.run(kind).await
    }
}

/// The worker's side of requests.
#[async_trait]
pub trait Serve: Send + Sync {
    /// Answers every verb, at most `in_flight_max` requests at once (a further one is answered *busy*), until `stop`;
    /// then takes no more, finishes what it has, and returns with no request lost.
    async fn serve(
        &self,
        handler: std::sync::Arc<dyn Handler>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError>;
}

/// Publishing deletion work.
#[async_trait]
pub trait Deletions: Send + Sync {
    /// Puts the work into the queue unless the sandbox has a message there.
    async fn announce(&self, work: &DeletionWork) -> Result<Announced, BusError>;

    /// Keeps a deletion that is given up, and returns only when it is kept.
    async fn park(&self, parked: &ParkedDeletion) -> Result<(), BusError>;
}

/// Working through deletions.
#[async_trait]
pub trait DeletionQueue: Send + Sync {
    /// Works on deliveries, at most `in_flight_max` at once in this process, until `stop`; then takes no more,
    /// finishes what it has, and returns.
    async fn consume(
        &self,
        worker: std::sync::Arc<dyn Worker>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError>;
}

/// Publishing ticks and waiting for their reports.
#[async_trait]
pub trait Ticks: Send + Sync {
    /// Publishes a tick. With the number of a `turn`, the stream keeps only the first of that turn.
    async fn tick(&self, kind: TickKind, turn: Option<u64>) -> Result<TickReceipt, BusError>;

    /// Publishes a tick and waits for the report of a run that began after it was taken. All of that takes at most
    /// `timeout`; a tick that was not taken by then is a failure. While there is no connection it is refused at once,
    /// and one call is one tick, however often it has to be sent.
    async fn tick_and_wait(
        &self,
        kind: TickKind,
        timeout: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError>;

    /// Publishes a tick with an order and waits for its report as above. If one without it waits already, the order is
    /// not taken, which the receipt shows (`duplicate`), and nothing is waited for.
    async fn order_and_wait(
        &self,
        _kind: TickKind,
        _order: &TickOrder,
        _patience: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        Err(BusError { operation: "order a run", source: "this bus takes no orders".into() })
    }

    /// The last report of that kind, if there was a run yet.
    async fn last_report(&self, kind: TickKind) -> Result<Option<RunReport>, BusError>;

    /// The sequence of the last tick that was ever taken, of whichever kind; 0 before the first, none if this bus
    /// cannot tell.
    async fn last_tick(&self) -> Result<Option<u64>, BusError> {
        Ok(None)
    }
}

/// Keeping the last census.
#[async_trait]
pub trait CensusStore: Send + Sync {
    /// Keeps this census in place of the one before.
    async fn keep_census(&self, census: &Census) -> Result<(), BusError>;

    /// The last one, if there was one yet.
    async fn last_census(&self) -> Result<Option<Census>, BusError>;
}

/// Running on ticks.
#[async_trait]
pub trait TickQueue: Send + Sync {
    /// Runs on every tick of `kind`, one at a time in the whole fleet, until `stop`; then finishes the run that is
    /// under way, and returns. Each report is kept and sent to the callers that wait for it.
    async fn run_on_ticks(
        &self,
        kind: TickKind,
        runner: std::sync::Arc<dyn Runner>,
        stop: CancellationToken,
    ) -> Result<(), BusError>;
}

/// The provider throttle of the fleet: its pace, its breaker and the operators' pause.
#[async_trait]
pub trait ProviderThrottle: Send + Sync {
    /// Asks for the next free slot. Nothing is taken unless the answer is [`Admission::Go`].
    async fn acquire(&self) -> Result<Admission, BusError>;

    /// Asks, when the slot has come and right before the call, whether it may still be used.
    async fn confirm(&self, permit: Permit) -> Result<Confirmed, BusError>;

    /// Reports how the call of a permit ended, or that there was none. `sandbox` is the sandbox that the call was
    /// about.
    async fn report_outcome(
        &self,
        permit: Permit,
        sandbox: &SandboxId,
        end: CallOutcome,
    ) -> Result<OutcomeEffect, BusError>;

    /// Looks at the throttle without taking anything.
    async fn view(&self) -> Result<ThrottleView, BusError>;
}

/// The operators' side of the throttle.
#[async_trait]
pub trait DeletionControl: Send + Sync {
    /// Pauses all deletions, or replaces the pause that is on. While there is no connection, this and its opposite
    /// are refused at once, and not done later.
    async fn pause(&self, pause: &Pause) -> Result<(), BusError>;

    /// Ends the pause; says which one was on.
    async fn resume(&self, by: &str) -> Result<Option<Pause>, BusError>;

    /// Shows the throttle and its queue.
    async fn status(&self) -> Result<DeletionsStatus, BusError>;
}

/// A slot at the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// When the call may begin, in microseconds since the Unix epoch; no two permits have the same.
    pub slot_us: u64,
    /// Whether it is the one call that tries whether the provider is back.
    pub is_probe: bool,
}

/// The answer to who asks for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The slot is ours; it comes after that wait, which is short.
    Go {
        /// The slot.
        permit: Permit,
        /// How long until then.
        wait: Duration,
    },
    /// Not now; nothing was taken.
    Later {
        /// When to ask again.
        wait: Duration,
        /// Whether the throttle is closed, and not only full.
        is_closed: bool,
    },
}

/// Whether a slot may be used that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// Call now.
    Go,
    /// It has passed while we slept: take another one.
    Missed,
    /// The throttle was closed meanwhile; the permit is given back.
    Later {
        /// When to ask again.
        wait: Duration,
    },
}

/// How a call to the provider ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It was not made.
    Unused,
    /// It went well.
    Deleted,
    /// The provider understood and refused: it works, and the sandbox is at fault.
    Refused,
    /// The provider failed, or could not be reached, or did not answer in time.
    Failed,
    /// The provider asks us to stay away.
    SlowDown {
        /// For how long.
        span: Duration,
    },
    /// The provider refused our credentials.
    Unauthorized,
    /// The provider forbade this call (403): our credentials may have lost a right, or the account is an odd one.
    Forbidden,
}

/// Whom a failure is put down to, as far as the throttle can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCause {
    /// Not the sandbox: the attempt does not count.
    NotSandbox,
    /// Perhaps the sandbox: the attempt counts, but nothing is given up on it.
    Unclear,
    /// The sandbox: the attempt counts, and may be the last.
    Sandbox,
}

/// What the end of a call means for the sandbox that it was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeEffect {
    /// Whether the breaker is closed.
    pub is_closed: bool,
    /// Whom a failure is put down to.
    pub cause: FailureCause,
    /// How long no worker may call.
    pub wait: Duration,
}

/// The throttle at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleView {
    /// Calls that may begin soon; a worker that took more work would only hold it.
    pub calls: usize,
    /// When to look again if that is none.
    pub wait: Duration,
    /// Whether an operator paused it.
    pub is_paused: bool,
    /// Whether the breaker is open or half-open.
    pub is_broken: bool,
    /// Deletions that the fleet may order in a minute now.
    pub rate_per_minute: u64,
}

/// A message of the deletion queue, wherever it is: waiting, under way, or put off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedMessage {
    /// Its place in the stream.
    pub sequence: u64,
    /// What it says; none if this build cannot read it.
    pub work: Option<DeletionWork>,
    /// Whether it waits for its next attempt.
    pub is_put_off: bool,
    /// When that attempt is due; none if it does not wait for one, or does not say.
    pub due_at: Option<UnixSeconds>,
    /// Since when it is there.
    pub since: UnixSeconds,
}

/// Under what something was parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParkedKey {
    /// The deletion of a sandbox.
    Sandbox {
        /// Its pool.
        pool: PoolName,
        /// The sandbox.
        id: SandboxId,
    },
    /// A message that no worker could read, by its sequence in the queue.
    Unreadable(u64),
}

/// Something that was parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedMessage {
    /// Its place in the stream.
    pub sequence: u64,
    /// Under what.
    pub key: ParkedKey,
    /// Why, in one line.
    pub reason: String,
    /// When.
    pub parked_at: UnixSeconds,
    /// Attempts made; none for a message that no worker could read.
    pub attempts: Option<u32>,
    /// The work that may be replayed; none as long as it cannot be read.
    pub work: Option<DeletionWork>,
}

/// Looking into the deletion queue and at what was parked, and mending both: for the sweep and for operators.
/// What is read is a hint; each thing that is removed is named by its sequence, so nothing newer goes with it.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Makes the streams and consumers that are missing. Says whether one was.
    async fn mend(&self) -> Result<bool, BusError>;

    /// At most `limit` messages of the queue after that sequence, oldest first; fewer only at the end.
    async fn queued(&self, after: u64, limit: usize) -> Result<Vec<QueuedMessage>, BusError>;

    /// The messages of one sandbox in the queue.
    async fn queued_of(&self, pool: &PoolName, id: &SandboxId) -> Result<Vec<QueuedMessage>, BusError>;

    /// The place in the stream up to which messages of that pool were handed out. What is still in the queue up to
    /// there is with a worker, or was given back by one a moment ago.
    async fn handed_out(&self, pool: &PoolName) -> Result<u64, BusError>;

    /// The place in the stream up to which the queue is done with the messages of that pool. What is still there up to
    /// that place is never handed out again, as when a limit of deliveries was set on it.
    async fn given_up(&self, _pool: &PoolName) -> Result<u64, BusError> {
        Ok(0)
    }

    /// Takes a message out of the queue; false if it was gone.
    async fn unqueue(&self, sequence: u64) -> Result<bool, BusError>;

    /// At most `limit` parked messages (of one pool) after that sequence, oldest first; fewer only at the end.
    async fn parked(
        &self,
        pool: Option<&PoolName>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<ParkedMessage>, BusError>;

    /// What is parked under that key.
    async fn parked_of(&self, key: &ParkedKey) -> Result<Option<ParkedMessage>, BusError>;

    /// Removes a parked message; false if it was gone.
    async fn unpark(&self, sequence: u64) -> Result<bool, BusError>;

    /// Keeps the copy of a parked deletion unless the sandbox has one.
    async fn park_again(&self, parked: &ParkedDeletion) -> Result<Announced, BusError>;

    /// Which event log there is, and how far it was rebuilt.
    async fn event_log_state(&self) -> Result<EventLogState, BusError>;

    /// Keeps how far that event log was rebuilt. False if another one has taken its place.
    async fn note_rebuilt(&self, state: &EventLogState) -> Result<bool, BusError>;
}

/// The last event of a sandbox in the event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventMark {
    /// The version of the sandbox that the event describes.
    pub version: Version,
    /// Its place in the stream.
    pub sequence: u64,
}

/// What became of adding an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is the last one of its sandbox now.
    Kept(EventMark),
    /// The last event of the sandbox is another one than was said: look again.
    Moved,
}

/// The event log. Events of a sandbox follow each other without a hole: one is added only after the one
/// that its writer saw as the last.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// How long an event is kept; the event log is not completed beyond that.
    fn kept(&self) -> Duration;

    /// The last event of that sandbox.
    async fn last_event(&self, id: &SandboxId) -> Result<Option<EventMark>, BusError>;

    /// Adds an event of that sandbox, if its last one is `after`. Returns when it is kept.
    async fn append(
        &self,
        id: &SandboxId,
        event: &Event,
        after: Option<EventMark>,
    ) -> Result<Appended, BusError>;
}
