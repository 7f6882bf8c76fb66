//! Extends a lease. The only length of a lease is its stored end: repeats of the claim return it, and expiry uses it.

use crate::admission::Permit;
use crate::{Allocator, decode, parse_actor, store_fault};
use contract::{Allocation, ExtendRequest, Fault, FaultCode, LabDuration};
use domain::{
    Actor, DeletionCause, Epoch, Extension, Lease, LeasePolicy, OwnerId, RuntimeState, Sandbox, SandboxId,
    State, UnixSeconds,
};
use ports::bus::Request;
use ports::store::Write;
use std::time::Duration;

/// Attempts of one request; each further one means that another writer changed the sandbox in between.
const TRIES_MAX: usize = 4;

/// A validated request.
struct Wanted {
    id: SandboxId,
    owner: OwnerId,
    wanted: LabDuration,
    length: Duration,
    epoch: Option<Epoch>,
    by: Option<Actor>,
}

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn extend(&self, request: &Request, permit: &Permit) -> Result<Allocation, Fault> {
        let wanted = parse_extension(request)?;
        let deadline = self.deadline_of(request);
        let mut seen = self.sandbox_of(request, wanted.id.as_str()).await?;
        for _ in 0..TRIES_MAX {
            let now = self.ports.clock.now();
            let leases = self.ports.pools.current().leases_of(&seen.pool);
            let lease = lease_to_extend(&wanted, &leases, &seen, now)?;
            let expires_at = lease.granted_at.after(wanted.length);
            if expires_at <= lease.expires_at {
                // It lasts as long already: a repeat, or less than it has. A lease is never shortened.
                self.ensure_node_knows(request, permit, &seen).await?;
                return allocation_of(&seen);
            }
            let extension = Extension {
                owner: wanted.owner.clone(),
                epoch: lease.epoch,
                ended_by: leases.ended_by(now),
                expires_at,
                by: wanted.by.clone(),
            };
            let store = self.writer(&deadline).map_err(|late| late.fault(request))?;
            let written = store.extend(&seen, &extension, now).await;
            seen = match written.map_err(|error| store_fault(request, &error))? {
                Write::Done(extended) => {
                    self.ports.recorder.note(&extended, Some(&request.context.request_id));
                    tracing::info!(
                        request.id = request.context.request_id,
                        owner.id = wanted.owner.as_str(),
                        sandbox.id = wanted.id.as_str(),
                        lease.expires_at = expires_at.get(),
                        "the lease of {} ends at {expires_at} now",
                        wanted.id,
                    );
                    self.ensure_node_knows(request, permit, &extended).await?;
                    return allocation_of(&extended);
                }
                Write::Lost(Some(found)) => *found,
                Write::Lost(None) => return Err(Fault::new(FaultCode::NotFound, "there is no such sandbox")),
            };
        }
        Err(Fault::new(
            FaultCode::Contended,
            "the sandbox is being changed by others; repeat the same request",
        ))
    }
}

fn parse_extension(request: &Request) -> Result<Wanted, Fault> {
    let ExtendRequest { sandbox_id, owner, lab_duration_hours, lab_duration_minutes, lease_epoch, by } =
        decode(&request.body)?;
    let by = parse_actor(request, by.as_deref())?;
    let (id, owner) = crate::lookup::parse_target(request, &sandbox_id, &owner)?;
    let wanted = LabDuration::of_fields(lab_duration_hours, lab_duration_minutes)
        .ok_or_else(|| Fault::invalid("lab_duration_hours", "has to say how long the lease is to last"))?;
    let length = wanted.length();
    Ok(Wanted { id, owner, wanted, length, epoch: lease_epoch.map(Epoch::new), by })
}

/// The lease to extend: the caller's own, of the given epoch, and not over.
fn lease_to_extend<'a>(
    wanted: &Wanted,
    leases: &LeasePolicy,
    sandbox: &'a Sandbox,
    now: UnixSeconds,
) -> Result<&'a Lease, Fault> {
    if !sandbox.belongs_to(&wanted.owner) {
        return Err(crate::lookup::not_owner());
    }
    let over = || Fault::new(FaultCode::AllocationExpired, "the lease has expired; claim a new sandbox");
    let Some(lease) = sandbox.lease() else {
        let has_expired = sandbox.deletion().is_some_and(|deletion| deletion.cause == DeletionCause::Expired);
        return Err(match &sandbox.state {
            _ if has_expired => over(),
            State::Quarantined { .. } => {
                Fault::new(FaultCode::InvalidState, "this sandbox was taken out of use; claim a new one")
            }
            _ => Fault::new(FaultCode::InvalidState, "this sandbox has been released"),
        });
    };
    if RuntimeState::of(&sandbox.descriptor) == Some(RuntimeState::Failed) {
        return Err(crate::containers::lost_container());
    }
    if sandbox.provision().is_some() {
        return Err(Fault::new(
            FaultCode::InvalidState,
            "this sandbox is still being created; repeat when it is ready",
        ));
    }
    if wanted.epoch.is_some_and(|epoch| epoch != lease.epoch) {
        return Err(crate::lookup::other_lease());
    }
    if lease.is_over(now, leases.grace) {
        return Err(over());
    }
    if !leases.may_last(wanted.length) {
        return Err(crate::lookup::bad_duration(Some(wanted.wanted), leases.total_max));
    }
    Ok(lease)
}

/// What the holder of a sandbox sees over the broker's API.
pub(crate) fn allocation_of(sandbox: &Sandbox) -> Result<Allocation, Fault> {
    Allocation::of(sandbox).ok_or_else(crate::lookup::no_lease)
}

#[cfg(test)]
mod tests;
