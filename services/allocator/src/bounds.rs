//! Authorization of requests. What depends on the pool of a sandbox is decided here, because only the table knows it.
//!
//! A sandbox never changes its pool, so a read before the actual work is sufficient.

use crate::{Allocator, not_expected, store_fault};
use contract::bounds::{Bounded, Subject};
use contract::{Action, Fault, Principal, Scope, Target, authorize};
use domain::{Candidate, PoolName, SandboxId};
use ports::bus::Request;
use ports::store::StoreError;
use std::borrow::Cow;

// === impl Allocator ===

impl Allocator {
    /// The principal of the request, after checking that it may make it and asks for nothing outside its pools.
    pub(crate) async fn principal_of<'a>(&self, request: &'a Request) -> Result<Cow<'a, Principal>, Fault> {
        let (principal, action) = (&request.context.principal, Action::Ask(request.verb));
        authorize(principal, action, Target::default())?;
        // Few requests are limited to pools; the others are not parsed twice.
        if principal.scope == Scope::Every && !Bounded::<Subject>::may_bound(&request.body) {
            return Ok(Cow::Borrowed(principal));
        }
        let Bounded { request: Subject { sandbox_id, pool }, pools } =
            serde_json::from_slice::<Bounded<Subject>>(&request.body).map_err(not_expected)?;
        let scope = scope_of(&principal.scope, &pools)?;
        let principal = Principal { scope, ..principal.clone() };
        // An invalid pool or id is rejected by the actual work.
        let pool = pool.and_then(|pool| PoolName::parse(&pool).ok());
        authorize(&principal, action, Target { pool: pool.as_ref(), owner: None })?;
        let id = sandbox_id.and_then(|id| SandboxId::parse(&id).ok());
        if let Some(id) = id.filter(|_| principal.scope != Scope::Every) {
            let found = self.ports.store.sandbox(&id).await.map_err(|error| store_fault(request, &error))?;
            let pool = found.as_ref().map(|sandbox| &sandbox.pool);
            authorize(&principal, action, Target { pool, owner: None })?;
        }
        Ok(Cow::Owned(principal))
    }

    /// The pool in which granting `candidate`, which a claim item named, would create a lease. Such an item may remain
    /// from a claim of the same owner and key for another pool. None if the scope is every pool, or if the candidate can
    /// no longer be granted, so that no lease results and the claim may move on.
    pub(crate) async fn pool_of(
        &self,
        scope: &Scope,
        candidate: &Candidate,
    ) -> Result<Option<PoolName>, StoreError> {
        if *scope == Scope::Every {
            return Ok(None);
        }
        let found = self.ports.store.sandbox(&candidate.id).await?;
        Ok(found.filter(|found| found.version == candidate.version).map(|found| found.pool))
    }
}

/// The scope of the header and of the field in the body, which an ingress of a former build sends as well, or alone.
fn scope_of(in_header: &Scope, pools: &[String]) -> Result<Scope, Fault> {
    let pools = pools.iter().map(|pool| PoolName::parse(pool)).collect::<Result<Vec<_>, _>>();
    let in_body = Scope::of(&pools.map_err(|problem| Fault::invalid("pools", problem))?);
    match (in_header, in_body) {
        (scope, Scope::Every) => Ok(scope.clone()),
        (Scope::Every, scope) => Ok(scope),
        (scope, in_body) if *scope == in_body => Ok(in_body),
        _ => Err(Fault::invalid("pools", "differs from the scope in the header")),
    }
}

#[cfg(test)]
mod tests;
