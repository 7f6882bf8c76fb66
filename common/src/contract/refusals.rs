//! What a request of each verb may be refused with: a promise to callers, of which every description of the contract
//! is made, and which workers are held to wherever debug assertions are on.

use super::{FaultCode as F, Verb};

/// What any request may come to, whatever it asks for.
const OF_ANY: &[F] = &[
    F::InvalidRequest,
    F::Forbidden,
    F::BodyTooLarge,
    F::NoWorkers,
    F::StoreUnavailable,
    F::Timeout,
    F::InternalError,
];

impl Verb {
    /// What a worker may refuse such a request with, beside what any request may come to.
    #[must_use]
    pub const fn own_faults(self) -> &'static [F] {
        match self {
            Self::Stats | Self::Health | Self::Sandboxes => &[],
            Self::Allocate => &[F::MissingSandboxId, F::PoolExhausted, F::Contended],
            Self::Release => &[F::MissingSandboxId, F::NotSandboxOwner, F::NotFound, F::InvalidState],
            Self::Get => &[F::MissingSandboxId, F::NotSandboxOwner, F::NotFound],
            Self::Extend => &[
                F::MissingSandboxId,
                F::NotSandboxOwner,
                F::NotFound,
                F::InvalidState,
                F::AllocationExpired,
                F::Contended,
            ],
            Self::Deletions | Self::Parked | Self::ReplayAll => &[F::UpstreamUnavailable],
            Self::Deletion => &[F::NotFound, F::UpstreamUnavailable],
            Self::Replay => &[F::NotFound, F::InvalidState, F::Contended, F::UpstreamUnavailable],
            Self::Remove => &[F::NotFound, F::InvalidState, F::UpstreamUnavailable],
            Self::Quarantine | Self::Unquarantine | Self::ForceRelease => {
                &[F::NotFound, F::InvalidState, F::Contended]
            }
            Self::Sandbox => &[F::NotFound],
            Self::BulkDelete => &[F::InvalidState],
        }
    }

    /// Whether a worker may refuse such a request with `code`.
    #[must_use]
    pub fn may_end_in(self, code: F) -> bool {
        OF_ANY.contains(&code) || self.own_faults().contains(&code)
    }
}
