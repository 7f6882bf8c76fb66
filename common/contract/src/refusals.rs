//! What a request of each verb may be refused with: a promise to callers. Every description of the contract is made
//! from it, and workers are held to it wherever debug assertions are on. Also what a caller may do that got no answer.

use super::{Fault, FaultCode as F, NodeVerb, Verb};
use std::time::Duration;

/// The advice for a caller that must not ask again before it has looked.
const LOOK_FIRST: &str = "it is not known how much was done; look at what is left before you ask again: a dry run of a \
                          bulk delete, or the list of what is parked";

/// The same after a command.
const LOOK_AT_EFFECTS: &str =
    "it is not known whether the command has run; look at what it did before you repeat it";

/// What any request may come to, whatever it asks for.
const OF_ANY: &[F] = &[
    F::InvalidRequest,
    F::Forbidden,
    F::BodyTooLarge,
    F::NoWorkers,
    F::StoreUnavailable,
    F::StoreThrottled,
    F::Timeout,
    F::InternalError,
];

/// What any request to a node may come to. A node has no table.
const OF_ANY_NODE: &[F] = &[
    F::InvalidRequest,
    F::Forbidden,
    F::BodyTooLarge,
    F::NoWorkers,
    F::UpstreamUnavailable,
    F::Timeout,
    F::InternalError,
];

// === impl Verb ===

impl Verb {
    /// What a worker may refuse such a request with, beside what any request may come to.
    #[must_use]
    pub const fn own_faults(self) -> &'static [F] {
        match self {
            Self::Stats | Self::Health | Self::Sandboxes | Self::Pools | Self::Templates | Self::Nodes => &[],
            Self::Allocate | Self::Claim => &[
                F::MissingSandboxId,
                F::PoolExhausted,
                F::KeyInUse,
                F::AllocationExpired,
                F::Contended,
                F::NotHere,
                F::UpstreamUnavailable,
                // Of the original of a replica.
                F::NotSandboxOwner,
                F::NotFound,
                F::InvalidState,
            ],
            Self::Release => &[F::MissingSandboxId, F::NotSandboxOwner, F::NotFound, F::InvalidState],
            Self::Claims => &[F::MissingSandboxId],
            Self::Get | Self::ShowClaim => &[F::MissingSandboxId, F::NotSandboxOwner, F::NotFound],
            Self::Extend => &[
                F::MissingSandboxId,
                F::NotSandboxOwner,
                F::NotFound,
                F::InvalidState,
                F::AllocationExpired,
                F::Contended,
                F::UpstreamUnavailable,
            ],
            Self::Execute => &[
                F::MissingSandboxId,
                F::NotSandboxOwner,
                F::NotFound,
                F::InvalidState,
                F::AllocationExpired,
                F::UpstreamUnavailable,
            ],
            Self::Runtime => &[
                F::MissingSandboxId,
                F::NotSandboxOwner,
                F::NotFound,
                F::InvalidState,
                F::AllocationExpired,
                F::Contended,
                F::UpstreamUnavailable,
            ],
            Self::Deletions | Self::Parked | Self::ReplayAll | Self::ReplayProvisions => {
                &[F::UpstreamUnavailable]
            }
            Self::Deletion => &[F::NotFound, F::UpstreamUnavailable],
            Self::Replay | Self::ReplayProvision => {
                &[F::NotFound, F::InvalidState, F::Contended, F::UpstreamUnavailable]
            }
            Self::Remove => &[F::NotFound, F::InvalidState, F::UpstreamUnavailable],
            Self::Quarantine | Self::Unquarantine | Self::ForceRelease => {
                &[F::NotFound, F::InvalidState, F::Contended]
            }
            Self::Sandbox | Self::Pool | Self::Node | Self::Template | Self::TemplateVersions => {
                &[F::NotFound]
            }
            Self::DrainNode | Self::ActivateNode => &[F::NotFound, F::Contended],
            Self::RegisterNode => &[F::Contended],
            Self::NodePools | Self::Held => &[F::InvalidState],
            Self::ProvisionWanted | Self::Provisioned | Self::ProvisionFailed => {
                &[F::InvalidState, F::Contended]
            }
            Self::PutPool | Self::PutTemplate => &[F::InvalidState, F::Contended],
            Self::DrainPool | Self::RemovePool | Self::RemoveTemplate => {
                &[F::NotFound, F::InvalidState, F::Contended]
            }
            Self::BulkDelete => &[F::InvalidState],
            Self::Pause | Self::Resume => &[F::Contended, F::UpstreamUnavailable],
        }
    }

    /// Whether a repeat, after a request whose end the caller did not see, leads to what the first alone leads to. A
    /// page of work does not: what the first has done is not there any more, so the second takes as many others. Such
    /// a request is repeated only if no worker began with it.
    #[must_use]
    pub const fn leads_to_the_same(self) -> bool {
        !matches!(
            self,
            Self::ReplayAll | Self::ReplayProvisions | Self::BulkDelete | Self::Execute | Self::Runtime
        )
    }

    /// Longest time of one attempt at it: the usual one, or all that there is if a second one would do something else.
    #[must_use]
    pub const fn attempt_max(self, usual: Duration, all: Duration) -> Duration {
        if self.leads_to_the_same() { usual } else { all }
    }

    /// The failure of a request whose end the caller did not see: in these words, unless it must not be repeated as
    /// they say.
    #[must_use]
    pub fn unseen_end(self, code: F, words: &str) -> Fault {
        if self.leads_to_the_same() {
            Fault::new(code, words)
        } else {
            let advice = if matches!(self, Self::Execute) { LOOK_AT_EFFECTS } else { LOOK_FIRST };
            Fault { retry_after_seconds: None, ..Fault::new(code, advice) }
        }
    }

    /// Whether a worker may refuse such a request with `code`.
    #[must_use]
    pub fn may_end_in(self, code: F) -> bool {
        OF_ANY.contains(&code) || self.own_faults().contains(&code)
    }
}

// === impl NodeVerb ===

impl NodeVerb {
    /// What a node may refuse such a request with, beside what any request to a node may come to.
    #[must_use]
    pub const fn own_faults(self) -> &'static [F] {
        match self {
            // A sandbox without containers is the wanted result.
            Self::Remove | Self::Inventory => &[],
            Self::Lease => &[F::NotFound],
            Self::Execute | Self::Runtime => &[F::NotFound, F::InvalidState],
        }
    }

    /// Whether a node may refuse such a request with `code`.
    #[must_use]
    pub fn may_end_in(self, code: F) -> bool {
        OF_ANY_NODE.contains(&code) || self.own_faults().contains(&code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator as _;

    #[test]
    fn timed_out_bulk_request_advises_to_check_before_retrying() {
        for verb in Verb::iter() {
            let fault = verb.unseen_end(F::Timeout, "repeat it");
            let is_page = matches!(
                verb,
                Verb::ReplayAll | Verb::ReplayProvisions | Verb::BulkDelete | Verb::Execute | Verb::Runtime
            );
            assert_eq!(fault.message == "repeat it", !is_page, "{verb:?}");
            assert_eq!((fault.code, fault.retry_after_seconds.is_some()), (F::Timeout, !is_page), "{verb:?}");
        }
    }
}
