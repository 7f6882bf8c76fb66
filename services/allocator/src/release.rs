//! Releases a sandbox: one conditional update; everything else happens after the reply.

use crate::{Allocator, decode, parse_actor, store_fault};
use contract::{DeletionWork, Fault, FaultCode, ReleaseReply, ReleaseRequest};
use domain::{CLOSED_CLAIM_KEPT, Epoch, OwnerId, Sandbox, StateName};
use ports::bus::Request;
use ports::store::Write;
use runtime::telemetry::Chain;
use std::sync::Arc;

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn release(&self, request: &Request) -> Result<ReleaseReply, Fault> {
        let ReleaseRequest { sandbox_id, owner, lease_epoch, by } = decode(&request.body)?;
        let by = parse_actor(request, by.as_deref())?;
        let (id, owner) = crate::lookup::parse_target(request, &sandbox_id, &owner)?;
        let epoch = lease_epoch.map(Epoch::new);
        let now = self.ports.clock.now();
        let deadline = self.deadline_of(request);
        let written = self
            .writer(&deadline)
            .map_err(|late| late.fault(request))?
            .release(&id, &owner, epoch, by.as_ref(), now)
            .await
            .map_err(|error| store_fault(request, &error))?;
        let sandbox = match written {
            Write::Done(sandbox) => {
                self.announce(&sandbox, Some(&request.context.request_id));
                tracing::info!(
                    request.id = request.context.request_id,
                    owner.id = owner.as_str(),
                    sandbox.id = id.as_str(),
                    "released {id} by {owner}",
                );
                *sandbox
            }
            Write::Lost(Some(sandbox)) => *sandbox,
            Write::Lost(None) => return Err(Fault::new(FaultCode::NotFound, "there is no such sandbox")),
        };
        reply_for(&sandbox, &owner, epoch)
    }

    /// Records the change, announces the deletion and closes the claim item. None of it delays the reply, and nothing
    /// depends on it: the sweep announces what is lost here, and an open claim item leads to the sandbox, which has the
    /// same information.
    pub(crate) fn announce(&self, sandbox: &Sandbox, request_id: Option<&str>) {
        self.ports.recorder.note(sandbox, request_id);
        let Some(work) = DeletionWork::of(sandbox) else { return };
        let record = sandbox.last_claim();
        let store = Arc::clone(&self.ports.store);
        let deletions = Arc::clone(&self.ports.deletions);
        let keep_until = self.ports.clock.now().after(CLOSED_CLAIM_KEPT);
        self.announcing.spawn(async move {
            if let Err(error) = deletions.announce(&work).await {
                tracing::warn!(
                    sandbox.id = work.sandbox_id,
                    error = %Chain(&error),
                    "deletion of {} not announced; the sweep will",
                    work.sandbox_id,
                );
            }
            if let Some(record) = record
                && let Err(error) = store.close_claim(&record, keep_until).await
            {
                tracing::debug!(sandbox.id = work.sandbox_id, error = %Chain(&error), "claim item stays open");
            }
        });
    }
}

/// The reply to a caller that held the sandbox: success if its deletion is in progress, whichever actor requested it.
fn reply_for(sandbox: &Sandbox, owner: &OwnerId, epoch: Option<Epoch>) -> Result<ReleaseReply, Fault> {
    let Some(lease) = sandbox.last_lease().filter(|lease| lease.claim.owner == *owner) else {
        return Err(crate::lookup::not_owner());
    };
    if epoch.is_some_and(|epoch| epoch != lease.epoch) {
        return Err(crate::lookup::other_lease());
    }
    let Some(deletion) = sandbox.deletion() else {
        return Err(Fault::new(FaultCode::InvalidState, "a sandbox in this state cannot be released"));
    };
    Ok(ReleaseReply {
        sandbox_id: sandbox.id.to_string(),
        status: StateName::PendingDeletion.into(),
        deletion_requested_at: deletion.requested_at.get(),
    })
}
