//! Giving a sandbox back: one conditional update, then the rest behind the caller's back.

use crate::{Allocator, decode, store_fault};
use common::bus::Request;
use common::contract::{DeletionWork, Fault, FaultCode, ReleaseReply, SandboxRequest};
use common::domain::{OwnerId, Sandbox, StateName};
use common::runtime::telemetry::Chain;
use common::store::Write;
use std::sync::Arc;

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn release(&self, request: &Request) -> Result<ReleaseReply, Fault> {
        let asked = decode::<SandboxRequest>(&request.body)?;
        let (id, owner) = crate::lookup::parse_target(&asked)?;
        let by = crate::lookup::parse_helper(asked.by.as_deref())?;
        let now = self.ports.clock.now();
        let written = self
            .ports
            .store
            .release(&id, &owner, by.as_ref(), now)
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
        reply_for(&sandbox, &owner)
    }

    /// Notes the change, puts the deletion into the queue and removes the claim item. None of it holds up the reply,
    /// and nothing depends on it: the sweep announces what is lost here, and a claim item that stays is moved on by
    /// its owner's next claim.
    pub(crate) fn announce(&self, sandbox: &Sandbox, request_id: Option<&str>) {
        self.ports.recorder.note(sandbox, request_id);
        let Some(work) = DeletionWork::of(sandbox) else { return };
        let record = sandbox.last_claim();
        let store = Arc::clone(&self.ports.store);
        let deletions = Arc::clone(&self.ports.deletions);
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
                && let Err(error) = store.close_claim(&record).await
            {
                tracing::debug!(sandbox.id = work.sandbox_id, error = %Chain(&error), "claim item stays");
            }
        });
    }
}

/// A caller that held the sandbox got what it wanted if it is on its way out, whoever set it going.
fn reply_for(sandbox: &Sandbox, owner: &OwnerId) -> Result<ReleaseReply, Fault> {
    if !sandbox.belongs_to(owner) {
        return Err(Fault::new(FaultCode::NotSandboxOwner, "this sandbox is not allocated to you"));
    }
    let Some(deletion) = sandbox.deletion() else {
        return Err(Fault::new(FaultCode::InvalidState, "this sandbox cannot be given back as it is"));
    };
    Ok(ReleaseReply {
        sandbox_id: sandbox.id.to_string(),
        status: StateName::PendingDeletion.to_string(),
        deletion_requested_at: deletion.requested_at.get(),
    })
}
