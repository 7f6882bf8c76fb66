//! Layer 0: the states of a sandbox and the transitions between them.
//!
//! Nothing here does I/O or serializes. All transitions and all time arithmetic are here, so that each rule is written
//! once: the memory store applies a transition directly, the DynamoDB adapter translates it, and `tests/store` checks
//! that both give the same results.

pub mod deletion;
pub mod descriptor;
pub mod history;
pub mod ids;
pub mod image_policy;
pub mod lease;
pub mod node;
pub mod options;
pub mod policy;
pub mod pool;
pub mod preparation;
pub mod provision;
pub mod runtime;
pub mod sandbox;
pub mod switch;
pub mod template;
pub mod time;
pub mod transition;

pub use deletion::{DELETION_RELISTS_MAX, Deletion, DeletionCause, LAST_ERROR_BYTES_MAX, Tombstone};
pub use descriptor::{DESCRIPTOR_ENTRIES_MAX, Descriptor, InvalidDescriptor};
pub use history::{Cause, HISTORY_ENTRIES_MAX, HistoryEntry, Order};
pub use ids::{
    Actor, Epoch, ExternalId, Fingerprint, IdempotencyKey, InvalidId, LabId, NamePrefix, NodeId, OwnerId,
    PoolName, ProviderName, Reason, RequestKey, SandboxId, SandboxName, TemplateId, TemplateVersion,
    TenantName, Version,
};
pub use image_policy::{AllowedImages, ImagePolicy};
pub use lease::{
    CLOSED_CLAIM_KEPT, Candidate, ClaimKey, ClaimRecord, Extension, Grant, Lease, REQUESTS_KEPT_MAX,
};
pub use node::{Drain, Node};
pub use options::ClaimOptions;
pub use policy::LeasePolicy;
pub use pool::{InvalidPool, LeaseOverrides, POOLS_MAX, PoolKind, PoolSpec, PoolState, Pools, WarmSizes};
pub use preparation::{Preparation, PreparationResult, Skip};
pub use provision::{Creation, Provision};
pub use runtime::{RuntimeAction, RuntimeChange, RuntimeFailure, RuntimeState};
pub use sandbox::{InvalidTransition, NewSandbox, STILL_LISTED, Sandbox, State, StateName};
pub use switch::DeletionSwitch;
pub use template::{InvalidTemplate, Template, TemplateHead, TemplateSpec};
pub use time::UnixSeconds;
pub use transition::{Change, Description, Entry, Guard, LeaseGuard, ProvisionStep, Transition};
