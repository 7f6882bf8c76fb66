//! The contract: what crosses NATS, and by way of the ingress HTTP.
//!
//! Bodies are JSON. Readers ignore fields that they do not know, so a newer writer may add some; a field is
//! never given a new meaning. Faults have one shape everywhere ([`fault`]), equal to the HTTP error body.

mod access;
pub mod bounds;
pub mod census;
pub mod claims;
pub mod deletions;
mod duration;
pub mod events;
pub mod fault;
pub mod fleet;
pub mod headers;
pub mod limits;
pub mod listing;
mod marks;
mod named;
pub mod nodes;
pub mod orders;
pub mod pools;
mod principal;
pub mod provisions;
pub mod queue;
mod refusals;
pub mod reports;
pub mod sandboxes;
mod scope;
pub mod subjects;
pub mod templates;
pub mod throttle;
pub mod ticks;

pub use access::{Action, Target, authorize};
pub use census::{Census, Counted, CountedBy, Violation};
pub use claims::{ClaimView, ClaimsReply, ClaimsRequest, EndpointView, RuntimeRequest};
pub use deletions::{
    DeletionRequest, DeletionView, DeletionWork, HistoryView, KeyRequest, ParkedDeletion, ParkedReply,
    ParkedRequest, ParkedView, QueuedView, RemoveReply, ReplayAllReply, ReplayAllRequest, ReplayOutcome,
    ReplayReply,
};
pub use duration::LabDuration;
pub use events::{Event, EventData};
pub use fault::{Fault, FaultBody, FaultCode, Repeat};
pub use fleet::{FleetReply, WorkView, WorkerRole, WorkerView};
pub use listing::{
    BulkDeleteEntry, BulkDeleteOutcome, BulkDeleteReply, BulkDeleteRequest, DeletionState, LeaseView,
    ProvisionState, RecordRequest, RecordView, SandboxEntry, SandboxesReply, SandboxesRequest, TombstoneView,
};
pub use marks::KnownMark;
pub use named::{
    BreakerStateName, ChangeCause, CounterName, DeletionsStateName, Name, Named, PoolStatusName,
    PreCleanOutcome, RuntimeName, SandboxStatus, ViolationName,
};
pub use nodes::NodeVerb;
pub use orders::{ExtendRequest, OrderReply, OrderRequest};
pub use principal::{PRINCIPAL_BYTES_MAX, Principal, Rights, Role};
pub use provisions::{
    ProvisionLane, ProvisionPriority, ProvisionWork, ReplayProvisionRequest, ReplayProvisionsReply,
    ReplayProvisionsRequest,
};
pub use queue::{
    DeletionEntry, DeletionPlace, DeletionTotals, DeletionsReply, DeletionsRequest, PreCleanView,
};
pub use reports::{
    CensusReport, ExpiryReport, FillReport, NodesReport, ProviderSync, Report, RunReport, RunStatus,
    StaleReport, SweepReport, SyncReport,
};
pub use sandboxes::{
    AllocateRequest, Allocation, HealthReply, Outcome, PoolStats, ReleaseReply, ReleaseRequest,
    SandboxRequest, SandboxView, StatsReply, WarmPolicy,
};
pub use scope::{NotUnderstood, Scope};
pub use subjects::{Subjects, Verb};
pub use throttle::{
    BreakerState, DeletionsState, DeletionsStatus, Pause, PauseRequest, ResumeReply, ResumeRequest,
    ThrottleState,
};
pub use ticks::{RequestedPeriod, TickKind, TickOrder, TurnTaken};

/// The names of a closed set, for a text that says what is allowed: `a, b, c`.
#[must_use]
pub fn names<T: strum::IntoEnumIterator + Into<&'static str>>() -> String {
    T::iter().map(Into::into).collect::<Vec<&str>>().join(", ")
}
