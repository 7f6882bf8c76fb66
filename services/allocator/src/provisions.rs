//! Operators' requests about parked creations: try them again. The list of them is that of sandboxes, by their state.
//!
//! A replay writes `provisioning` to the table, conditional on what was read, and then announces the work. The first step
//! decides; if the second is lost, a repeat or the next fill announces it.

use crate::deletions::{REPLAYS_AT_ONCE_MAX, ReplayError, replay_fault};
use crate::listing::Which;
use crate::{Allocator, decode, page_limit, parse_operator};
use contract::{
    Fault, ProvisionWork, ReplayOutcome, ReplayProvisionRequest, ReplayProvisionsReply,
    ReplayProvisionsRequest, ReplayReply, Scope,
};
use domain::{Actor, Sandbox, State, StateName};
use futures_util::{StreamExt as _, stream};
use ports::bus::Request;
use ports::store::Write;
use runtime::telemetry::Chain;

/// Attempts of one replay; each further one means that another writer changed the sandbox in between.
const TRIES_MAX: usize = 4;

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn replay_provision(&self, request: &Request) -> Result<ReplayReply, Fault> {
        let ReplayProvisionRequest { sandbox_id, by } = decode(&request.body)?;
        let by = parse_operator(request, by.as_deref())?;
        let seen = self.sandbox_of(request, &sandbox_id).await?;
        let outcome = self.replay_creation(seen, &by, request).await;
        let outcome = outcome.map_err(|error| replay_fault(request, &error))?;
        Ok(ReplayReply { key: sandbox_id, outcome })
    }

    pub(crate) async fn replay_provisions(&self, request: &Request) -> Result<ReplayProvisionsReply, Fault> {
        let ReplayProvisionsRequest { pool, reason, cursor, limit, by } = decode(&request.body)?;
        let by = parse_operator(request, by.as_deref())?;
        let (mut pools, is_narrowed) = self.pools_of(request, pool.as_deref(), &Scope::Every).await?;
        let known = self.ports.pools.current();
        pools.retain(|pool| StateName::indexed(known.kind_of(pool)).contains(&StateName::ProvisionFailed));
        let which = Which {
            purpose: "replay-provisions",
            states: vec![StateName::ProvisionFailed],
            pools,
            is_narrowed,
            lab: None,
            owner: None,
            prefix: None,
            cursor,
            limit: page_limit(limit)?,
        };
        let (mut page, cursor) = self.page_of_sandboxes(&which, request).await?;
        page.retain(|sandbox| reason.as_deref().is_none_or(|reason| has_failed_with(sandbox, reason)));
        let outcomes: Vec<_> = stream::iter(page)
            .map(|sandbox| self.replay_creation(sandbox, &by, request))
            .buffer_unordered(REPLAYS_AT_ONCE_MAX)
            .collect()
            .await;
        let mut reply = ReplayProvisionsReply { cursor, ..ReplayProvisionsReply::default() };
        for outcome in outcomes {
            match outcome {
                Ok(ReplayOutcome::Replayed) => reply.replayed += 1,
                Ok(ReplayOutcome::AlreadyOnTheWay) => reply.already_on_the_way += 1,
                // The index may show one that was created meanwhile.
                Ok(ReplayOutcome::Gone | ReplayOutcome::Unreadable)
                | Err(ReplayError::NotParked(_) | ReplayError::LeaseOver) => reply.gone += 1,
                Err(error) => {
                    reply.failed += 1;
                    tracing::warn!(error = %Chain(&error), "a parked creation was not replayed");
                }
            }
        }
        Ok(reply)
    }

    /// Makes the creation of that sandbox wanted and announced, if it is parked or wanted.
    async fn replay_creation(
        &self,
        mut seen: Sandbox,
        by: &Actor,
        request: &Request,
    ) -> Result<ReplayOutcome, ReplayError> {
        let policy = self.ports.pools.current().leases_of(&seen.pool);
        for _ in 0..TRIES_MAX {
            match &seen.state {
                State::ProvisionFailed(_) => {}
                State::Provisioning(_) => {
                    self.requeue(&seen).await?;
                    return Ok(ReplayOutcome::AlreadyOnTheWay);
                }
                State::PendingDeletion(_) | State::DeletionFailed(_) | State::Deleted(_) => {
                    return Ok(ReplayOutcome::Gone);
                }
                other => return Err(ReplayError::NotParked(other.name())),
            }
            let now = self.ports.clock.now();
            let written = self.ports.store.replay_provision(&seen, by, policy.ended_by(now), now).await?;
            seen = match written {
                Write::Done(sandbox) => {
                    self.ports.recorder.note(&sandbox, Some(&request.context.request_id));
                    tracing::info!(
                        request.id = request.context.request_id,
                        sandbox.id = sandbox.id.as_str(),
                        %by,
                        "the creation of {} is tried again",
                        sandbox.id,
                    );
                    self.requeue(&sandbox).await?;
                    return Ok(ReplayOutcome::Replayed);
                }
                // Of an unchanged record, only the lease can be the reason.
                Write::Lost(Some(found)) if found.version == seen.version => {
                    return Err(ReplayError::LeaseOver);
                }
                Write::Lost(Some(found)) => *found,
                Write::Lost(None) => return Ok(ReplayOutcome::Gone),
            };
        }
        Err(ReplayError::Contended)
    }

    async fn requeue(&self, sandbox: &Sandbox) -> Result<(), ReplayError> {
        if let Some(work) = ProvisionWork::of(sandbox) {
            self.ports.provisions.announce(&work).await?;
        }
        Ok(())
    }
}

fn has_failed_with(sandbox: &Sandbox, reason: &str) -> bool {
    let error = sandbox.provision().and_then(|provision| provision.last_error.as_deref());
    error.is_some_and(|error| error.contains(reason))
}

#[cfg(test)]
mod tests;
