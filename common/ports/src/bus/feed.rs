//! Read-only ports: the event log, and the discovery of workers.

use super::BusError;
use async_trait::async_trait;
use contract::{Event, FaultCode, Verb, WorkView, WorkerRole, WorkerView};
use domain::{Cause, SandboxId, UnixSeconds};
use futures_util::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Nanoseconds in the unit in which times are shown.
pub const NANOS_IN_A_MICRO: u64 = 1_000;

/// The latest moment from which events can be read, in Unix seconds: in the year 2262. The server counts nanoseconds in
/// 63 bits and would return everything after an overflow.
pub const SINCE_SECONDS_MAX: u64 = i64::MAX.unsigned_abs() / 1_000_000_000;

/// Where reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventsFrom {
    /// After that sequence; 0 is the beginning.
    After(u64),
    /// At the first event stored at that moment or later. Anything beyond [`SINCE_SECONDS_MAX`] is limited to it.
    Since(UnixSeconds),
}

/// A filter for events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsWanted {
    /// Only this cause; any if none.
    pub cause: Option<Cause>,
    /// Only this sandbox; any if none.
    pub sandbox: Option<SandboxId>,
}

/// An event and its sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptEvent {
    /// Its sequence in the event log.
    pub sequence: u64,
    /// The event; none if this build cannot read it.
    pub event: Option<Event>,
}

/// The range of sequences in the event log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventLogRange {
    /// The oldest stored one; `last` + 1 if the log is empty.
    pub first: u64,
    /// The newest ever stored; 0 before the first.
    pub last: u64,
}

/// Reads the event log. A read may lag slightly behind the newest events.
#[async_trait]
pub trait EventFeed: Send + Sync {
    /// The range of sequences in the event log.
    async fn event_log_range(&self) -> Result<EventLogRange, BusError>;

    /// At most `limit` matching events from there on, oldest first; fewer only at the end of the event log.
    async fn events_from(
        &self,
        from: EventsFrom,
        wanted: &EventsWanted,
        limit: usize,
    ) -> Result<Vec<KeptEvent>, BusError>;

    /// Notifies about matching events, perhaps a moment before they can be read, and perhaps once for several. It ends
    /// or stays silent when the connection is lost, so a reader also has to poll from time to time.
    async fn event_notifications(&self, wanted: &EventsWanted) -> Result<BoxStream<'static, ()>, BusError>;
}

/// Discovery of workers.
#[async_trait]
pub trait Discovery: Send + Sync {
    /// Every worker of this fleet, of every role, that answers within `timeout`.
    async fn workers(&self, timeout: Duration) -> Result<Vec<WorkerView>, BusError>;

    /// Answers discovery requests until `stop`.
    async fn answer_discovery(
        &self,
        service: Arc<dyn ServiceInfo>,
        stop: CancellationToken,
    ) -> Result<(), BusError>;
}

/// Statistics of a live worker, read when a discovery request comes.
pub trait ServiceInfo: Send + Sync {
    /// Its role.
    fn role(&self) -> WorkerRole;

    /// How much it has in progress; none if the role has no such number.
    fn in_flight(&self) -> Option<u64>;

    /// Requests and failures of a verb since the start, and their total time; for a role that answers requests.
    fn counts(&self, _verb: Verb) -> WorkCounts {
        WorkCounts::default()
    }

    /// The work since the start; for other roles.
    fn total(&self) -> WorkCounts {
        WorkCounts::default()
    }

    /// Further counters, by name.
    fn further(&self) -> Vec<(String, u64)>;
}

/// Counters of one kind of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkCounts {
    /// How often it was done.
    pub requests: u64,
    /// How often it failed.
    pub errors: u64,
    /// The last of these failures.
    pub last_error: Option<FaultCode>,
    /// Total time in nanoseconds; 0 if it is not measured.
    pub processing_ns: u64,
}

// === impl WorkCounts ===

impl WorkCounts {
    /// Counters without a time.
    #[must_use]
    pub const fn of(requests: u64, errors: u64) -> Self {
        Self { requests, errors, last_error: None, processing_ns: 0 }
    }

    /// The counters as operators see them.
    #[must_use]
    pub fn view(&self) -> WorkView {
        let Self { requests, errors, last_error, processing_ns } = *self;
        let mean_us = processing_ns.checked_div(requests).unwrap_or(0) / NANOS_IN_A_MICRO;
        WorkView { requests, errors, mean_us, last_error: last_error.map(error_text) }
    }
}

/// A failure in the format of the NATS client libraries: number and text.
#[must_use]
pub fn error_text(code: FaultCode) -> String {
    format!("{}:{}", code.status(), code.as_str())
}
