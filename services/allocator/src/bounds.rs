//! Restricts callers to their pools. It happens here because only the table knows the pool of a sandbox.
//!
//! A sandbox never changes its pool, so a read before the actual work is sufficient.

use crate::{Allocator, decode, store_fault};
use contract::bounds::{Bounded, Subject};
use contract::{Fault, FaultCode, Scope, Verb};
use domain::{Candidate, PoolName, SandboxId};
use ports::bus::Request;
use ports::store::StoreError;

/// The permitted pools; none if all are permitted.
pub(crate) type Bounds = Option<Vec<String>>;

// === impl Allocator ===

impl Allocator {
    /// The permitted pools, after checking that the request asks for nothing outside.
    pub(crate) async fn keep_to_pools(&self, request: &Request) -> Result<Bounds, Fault> {
        let in_header: Option<Vec<_>> = match &request.context.scope {
            Scope::Every => None,
            Scope::Pools(pools) => Some(pools.iter().map(ToString::to_string).collect()),
        };
        // Few requests are restricted; the others are not parsed twice.
        let field = Bounded::<Subject>::FIELD;
        if in_header.is_none() && !request.body.windows(field.len()).any(|window| window == field) {
            return Ok(None);
        }
        if in_header.is_some() && !can_be_held(request.verb) {
            return Err(about_all_pools());
        }
        let Bounded { request: Subject { sandbox_id, pool }, pools: in_body } =
            decode::<Bounded<Subject>>(&request.body)?;
        let pools = match (in_header, in_body.is_empty()) {
            (None, true) => return Ok(None),
            (None, false) => in_body,
            (Some(pools), true) => pools,
            (Some(pools), false) if pools == in_body => pools,
            (Some(_), false) => return Err(Fault::invalid("pools", "differs from the scope in the header")),
        };
        if !can_be_held(request.verb) {
            return Err(about_all_pools());
        }
        if pool.is_some_and(|pool| !pools.contains(&pool)) {
            return Err(outside());
        }
        let bounds = Some(pools);
        // An invalid id is rejected by the actual work.
        if let Some(id) = sandbox_id.and_then(|id| SandboxId::parse(&id).ok()) {
            self.keep_sandbox_to(&bounds, &id, request).await?;
        }
        Ok(bounds)
    }

    /// Whether granting `candidate`, which a claim item named, would create a lease outside the permitted pools. Such
    /// an item may remain from a claim of the same owner and key for another pool. If the candidate can no longer be
    /// granted, no lease results, and the claim may move on.
    pub(crate) async fn leads_outside(
        &self,
        bounds: &Bounds,
        candidate: &Candidate,
    ) -> Result<bool, StoreError> {
        if bounds.is_none() {
            return Ok(false);
        }
        let found = self.ports.store.sandbox(&candidate.id).await?;
        Ok(found.is_some_and(|found| found.version == candidate.version && lies_outside(bounds, &found.pool)))
    }

    async fn keep_sandbox_to(&self, bounds: &Bounds, id: &SandboxId, request: &Request) -> Result<(), Fault> {
        let found = self.ports.store.sandbox(id).await.map_err(|error| store_fault(request, &error))?;
        match found {
            Some(sandbox) if lies_outside(bounds, &sandbox.pool) => Err(outside()),
            _ => Ok(()),
        }
    }
}

/// Whether a request of this verb can be restricted to pools.
const fn can_be_held(verb: Verb) -> bool {
    match verb {
        Verb::Allocate
        | Verb::Release
        | Verb::Get
        | Verb::Extend
        | Verb::Health
        | Verb::Deletion
        | Verb::Quarantine
        | Verb::Unquarantine
        | Verb::ForceRelease
        | Verb::Sandboxes
        | Verb::Sandbox
        | Verb::BulkDelete => true,
        Verb::Stats
        | Verb::Deletions
        | Verb::Parked
        | Verb::Replay
        | Verb::ReplayAll
        | Verb::Remove
        | Verb::Pools
        | Verb::Pool
        | Verb::PutPool
        | Verb::DrainPool
        | Verb::RemovePool
        | Verb::Pause
        | Verb::Resume => false,
    }
}

/// Whether `pool` is not permitted.
pub(crate) fn lies_outside(bounds: &Bounds, pool: &PoolName) -> bool {
    bounds.as_ref().is_some_and(|pools| !pools.iter().any(|one| one == pool.as_str()))
}

/// The fault for a request that cannot be restricted.
fn about_all_pools() -> Fault {
    let message = "this request is about all pools, and cannot be restricted to some of them";
    Fault::new(FaultCode::Forbidden, message)
}

/// The fault for a sandbox outside the permitted pools.
pub(crate) fn outside() -> Fault {
    Fault::new(FaultCode::Forbidden, "this token is not for the pool of this sandbox")
}

#[cfg(test)]
mod tests;
