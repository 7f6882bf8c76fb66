//! Claims as their holders see them: claim, list and show.

use crate::admission::Permit;
use crate::{Allocator, decode, lookup, page_limit, store_fault};
use contract::claims::{ClaimView, ClaimsReply, ClaimsRequest};
use contract::{Fault, Outcome, Principal, SandboxRequest};
use domain::Sandbox;
use ports::bus::Request;
use ports::store::PageCursor;

// === impl Allocator ===

impl Allocator {
    /// As `allocate`, with all that its holder may know.
    pub(crate) async fn claim_with_view(
        &self,
        principal: &Principal,
        request: &Request,
        permit: &Permit,
    ) -> Result<(Outcome, ClaimView), Fault> {
        let (outcome, sandbox) = self.claim_sandbox(principal, request, permit).await?;
        Ok((outcome, view_of(&sandbox)?))
    }

    /// A page of what an owner holds. Claims outside of the principal's pools are left out.
    pub(crate) async fn claims(
        &self,
        principal: &Principal,
        request: &Request,
    ) -> Result<ClaimsReply, Fault> {
        let ClaimsRequest { owner, cursor, limit } = decode(&request.body)?;
        let owner = lookup::parse_owner(request, &owner)?;
        let limit = page_limit(limit)?;
        let invalid = || Fault::invalid("cursor", "is not one of this list");
        let after = cursor.map(|text| PageCursor::parse(&text).ok_or_else(invalid)).transpose()?;
        let page = self.held_by(&owner, after.as_ref(), limit).await;
        let (sandboxes, next) = page.map_err(|error| store_fault(request, &error))?;
        let admitted = sandboxes.iter().filter(|sandbox| principal.scope.admits(&sandbox.pool));
        Ok(ClaimsReply {
            claims: admitted.filter_map(ClaimView::of).collect(),
            cursor: next.as_ref().map(PageCursor::to_text),
        })
    }

    pub(crate) async fn show_claim(&self, request: &Request) -> Result<ClaimView, Fault> {
        let SandboxRequest { sandbox_id, owner, by: _ } = decode(&request.body)?;
        let (id, owner) = lookup::parse_target(request, &sandbox_id, &owner)?;
        view_of(&self.own_sandbox(request, id.as_str(), &owner).await?)
    }
}

/// What the holder of a sandbox sees.
pub(crate) fn view_of(sandbox: &Sandbox) -> Result<ClaimView, Fault> {
    ClaimView::of(sandbox).ok_or_else(lookup::no_lease)
}

#[cfg(test)]
mod tests;
