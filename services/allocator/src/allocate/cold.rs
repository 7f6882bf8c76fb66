//! Claims of sandboxes that are created if none is free.
//!
//! The claim item then names a fresh id at version 0, and the second write creates that sandbox, already leased. A claim
//! item leaves version 0 only after its id was seen to exist, if need be as a tombstone: an attempt that has stopped
//! before its second write may go on at any time.

use super::{Choice, Claim, ClaimError, Found, Held};
use crate::Allocator;
use crate::candidates::Scarcity;
use crate::deadline::Deadline;
use contract::{Fault, FaultCode, Outcome, ProvisionWork, WarmPolicy};
use domain::{
    Candidate, ClaimOptions, ClaimRecord, Creation, Fingerprint, NamePrefix, NewSandbox, PoolName, Sandbox,
    SandboxId,
};
use ports::store::index::fnv1a;
use ports::store::{Insert, Write, cursor};
use runtime::telemetry::Chain;
use std::sync::Arc;

impl Allocator {
    /// What a claim in `pool` creates if nothing is free there; none for kinds that are not created.
    pub(super) fn creation_in(
        &self,
        pool: &PoolName,
        prefix: Option<&NamePrefix>,
        options: Option<&ClaimOptions>,
    ) -> Result<Option<Creation>, Fault> {
        let pools = self.ports.pools.current();
        if !pools.is_created(pool) {
            return Ok(None);
        }
        if prefix.is_some() {
            return Err(Fault::invalid(
                "name_prefix",
                "does not apply to a pool whose sandboxes are created",
            ));
        }
        let Some(template) = pools.template_of(pool).cloned() else {
            let message = format!("the template of pool {pool} is not known to this worker yet");
            return Err(Fault::new(FaultCode::NotHere, message));
        };
        let mut asked = vec![pool.as_str()];
        for entries in options.iter().flat_map(|options| [&options.env, &options.labels]) {
            asked.push("");
            asked.extend(entries.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
        }
        let asked = cursor::encode(&asked);
        let fingerprint = Fingerprint::parse(&format!("{:016x}", fnv1a(asked.as_bytes())));
        let fingerprint =
            fingerprint.map_err(|problem| Fault::new(FaultCode::InternalError, problem.to_string()))?;
        Ok(Some(Creation { template, fingerprint }))
    }

    /// A sandbox that does not exist yet, for a claim that found none free.
    pub(super) fn fresh_candidate(&self, claim: &Claim<'_>, scarcity: &Scarcity) -> Option<Candidate> {
        let creation = claim.creation.as_ref()?;
        let selector = claim.selectors.first()?;
        let is_scarce = matches!(scarcity, Scarcity::Exhausted | Scarcity::Contended);
        if claim.warm == WarmPolicy::Require || !is_scarce || self.is_refused(&selector.pool, creation) {
            return None;
        }
        let prefix = self.ports.pools.current().kind_of(&selector.pool)?.id_prefix()?;
        let id = SandboxId::parse(&format!("{prefix}{}", self.ports.random.fresh_id())).ok()?;
        Some(Candidate::absent(id, selector.pool.clone()))
    }

    /// Whether the pool does not allow the template; a claim that asks for a version of its own learns it from the node.
    pub(super) fn is_refused(&self, pool: &PoolName, creation: &Creation) -> bool {
        let pools = self.ports.pools.current();
        pools.refusal_of(pool).is_some() && pools.template_of(pool) == Some(&creation.template)
    }

    /// Creates the sandbox that the claim item names, or finds out what became of it. In a pool that grants no leases, an
    /// id that another attempt chose is given up.
    pub(super) async fn try_create(
        &self,
        claim: &Claim<'_>,
        held: &mut Held,
        deadline: &Deadline,
    ) -> Result<Found, ClaimError> {
        let candidate = &held.record.candidate;
        let new = self.new_sandbox(&held.record)?;
        let now = self.ports.clock.now();
        let is_given_up = matches!(held.choice, Choice::Other) && !self.grants_in(&candidate.pool);
        let record = if is_given_up {
            new.abandon(now, now.after(self.config.tombstone_kept))
        } else {
            new.provision(Some(&self.grant_of(claim, candidate)), now)
        };
        match self.writer(deadline)?.create(&record).await? {
            Insert::Inserted(sandbox) if is_given_up => {
                self.ports.recorder.note(&sandbox, None);
                Ok(Found::Other)
            }
            Insert::Inserted(sandbox) => {
                self.announce_creation(&sandbox);
                Ok(Found::Mine(Outcome::Created, sandbox))
            }
            Insert::Exists(found) => {
                let found = self.look_at_holder(claim, Some(found), deadline).await?;
                if let Found::Mine(_, sandbox) = &found {
                    // The attempt that created it may have stopped before it announced that.
                    self.announce_creation(sandbox);
                }
                Ok(found)
            }
            Insert::Taken(id) => {
                let fault = format!("{id} has the identity of a sandbox that is created");
                Err(ClaimError::Refused(Fault::new(FaultCode::InternalError, fault)))
            }
        }
    }

    /// The claim item belongs to a request that asked for something else. It may be replaced once its sandbox is not that
    /// request's any more.
    pub(super) async fn other_request(
        &self,
        claim: &Claim<'_>,
        record: &ClaimRecord,
        deadline: &Deadline,
    ) -> Result<Found, ClaimError> {
        let in_use = || {
            let message = "the key belongs to a request that asked for something else; use another key";
            ClaimError::Refused(Fault::new(FaultCode::KeyInUse, message))
        };
        let Some(sandbox) = self.ports.store.sandbox(&record.candidate.id).await? else {
            // Created and purged since, or still to be created.
            return if record.candidate.is_absent() { Err(in_use()) } else { Ok(Found::Other) };
        };
        if sandbox.version == record.candidate.version {
            return Err(in_use());
        }
        let Some(lease) = sandbox.last_lease().filter(|lease| lease.claim == claim.key) else {
            return Ok(Found::Other);
        };
        let requests = lease.requests().cloned().collect();
        if sandbox.lease().is_none() {
            return Ok(Found::Ended(requests));
        }
        match self.end_if_over(&sandbox, lease, deadline).await? {
            Some(Write::Done(_)) => Ok(Found::Ended(requests)),
            Some(Write::Lost(_)) | None => Err(in_use()),
        }
    }

    fn new_sandbox(&self, record: &ClaimRecord) -> Result<NewSandbox, ClaimError> {
        let Candidate { id, pool, version: _ } = record.candidate.clone();
        let provider = self.ports.pools.current().provider_of(&pool);
        let template = record.creation.as_ref().map(|creation| &creation.template);
        NewSandbox::to_create(id, pool, &provider, template).ok_or_else(|| {
            let problem = "the claim item names a sandbox that cannot be created";
            ClaimError::Refused(Fault::new(FaultCode::InternalError, problem))
        })
    }

    /// Asks a node to create the sandbox, if it is being created. It does not delay the reply; a repeat of the claim
    /// announces what is lost here.
    fn announce_creation(&self, sandbox: &Sandbox) {
        let Some(work) = ProvisionWork::of(sandbox) else { return };
        let provisions = Arc::clone(&self.ports.provisions);
        self.announcing.spawn(async move {
            if let Err(error) = provisions.announce(&work).await {
                tracing::warn!(
                    sandbox.id = work.sandbox_id,
                    error = %Chain(&error),
                    "creation of {} not announced; a repeat of the claim will",
                    work.sandbox_id,
                );
            }
        });
    }
}

// === impl Claim ===

impl Claim<'_> {
    /// Whether it asks for the same as the request of that claim item.
    pub(super) fn asks_as(&self, record: &ClaimRecord) -> bool {
        let own = self.creation.as_ref().map(|creation| &creation.fingerprint);
        own == record.creation.as_ref().map(|creation| &creation.fingerprint)
    }
}
