//! The ports of observers, which change nothing: the event log as it grows, and the workers that run.

use super::BusError;
use async_trait::async_trait;
use contract::{Event, FaultCode, Verb, WorkView, WorkerRole, WorkerView};
use domain::{Cause, SandboxId, UnixSeconds};
use futures_util::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What times are counted in, in what they are shown in.
pub const NANOS_IN_A_MICRO: u64 = 1_000;

/// The last moment that reading can begin at, in Unix seconds: in the year 2262. The server counts in nanoseconds of 63
/// bits, and shows everything from the beginning if that overflows.
pub const SINCE_SECONDS_MAX: u64 = i64::MAX.unsigned_abs() / 1_000_000_000;

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventsFrom {
    /// Behind that place of the event log; 0 is its beginning.
    After(u64),
    /// With the first event that the event log took at that moment or later. What is beyond [`SINCE_SECONDS_MAX`] is as
    /// far as that.
    Since(UnixSeconds),
}

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsWanted {
    /// Of what happened; anything if none.
    pub cause: Option<Cause>,
    /// Of that sandbox; any if none.
    pub sandbox: Option<SandboxId>,
}

/// An event and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptEvent {
    /// Its place in the event log.
    pub sequence: u64,
    /// The event; none if this build cannot read it.
    pub event: Option<Event>,
}

/// The places that the event log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventLogRange {
    /// The oldest that is kept; one more than `last` when there is none.
    pub first: u64,
    /// The newest there ever was; 0 before the first.
    pub last: u64,
}

/// Reading the event log. What is read was kept; it may lag a moment behind what is kept.
#[async_trait]
pub trait EventFeed: Send + Sync {
    /// What the event log holds.
    async fn event_log_range(&self) -> Result<EventLogRange, BusError>;

    /// At most `limit` of the wanted events from there on, oldest first; fewer only at the end of the event log.
    async fn events_from(
        &self,
        from: EventsFrom,
        wanted: &EventsWanted,
        limit: usize,
    ) -> Result<Vec<KeptEvent>, BusError>;

    /// Notifies when a wanted event comes, perhaps a moment before it can be read, and perhaps once for several. Ends,
    /// or goes silent, when the connection is lost, so a caller that waits also looks from time to time.
    async fn event_notifications(&self, wanted: &EventsWanted) -> Result<BoxStream<'static, ()>, BusError>;
}

/// Seeing who works, and being seen.
#[async_trait]
pub trait Discovery: Send + Sync {
    /// Every worker of this fleet that says so within `timeout`, of every role.
    async fn workers(&self, timeout: Duration) -> Result<Vec<WorkerView>, BusError>;

    /// Answers discovery requests until `stop`.
    async fn answer_discovery(
        &self,
        service: Arc<dyn ServiceInfo>,
        stop: CancellationToken,
    ) -> Result<(), BusError>;
}

/// Numbers of a live worker, read at the moment of a discovery request.
pub trait ServiceInfo: Send + Sync {
    /// What it is.
    fn role(&self) -> WorkerRole;

    /// What it has under way; none if it never has anything under way.
    fn in_flight(&self) -> Option<u64>;

    /// Answered requests and failures of a verb since the start, and their summed time; for an allocator.
    fn counts(&self, _verb: Verb) -> WorkCounts {
        WorkCounts::default()
    }

    /// All that it did since the start; for any other.
    fn total(&self) -> WorkCounts {
        WorkCounts::default()
    }

    /// Further numbers, by name, shown as they stand.
    fn further(&self) -> Vec<(String, u64)>;
}

/// What a worker counted of one kind of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkCounts {
    /// How often it did that.
    pub requests: u64,
    /// Of these, with a failure.
    pub errors: u64,
    /// The last of these failures.
    pub last_error: Option<FaultCode>,
    /// Time spent on all of them, in nanoseconds; 0 where it is not measured.
    pub processing_ns: u64,
}

// === impl WorkCounts ===

impl WorkCounts {
    /// That much, of which that much failed; the time is not measured.
    #[must_use]
    pub const fn of(requests: u64, errors: u64) -> Self {
        Self { requests, errors, last_error: None, processing_ns: 0 }
    }

    /// As operators see it.
    #[must_use]
    pub fn view(&self) -> WorkView {
        let Self { requests, errors, last_error, processing_ns } = *self;
        let mean_us = processing_ns.checked_div(requests).unwrap_or(0) / NANOS_IN_A_MICRO;
        WorkView { requests, errors, mean_us, last_error: last_error.map(error_text) }
    }
}

/// A failure as the client libraries of NATS write it: number and text.
#[must_use]
pub fn error_text(code: FaultCode) -> String {
    format!("{}:{}", code.status(), code.as_str())
}
