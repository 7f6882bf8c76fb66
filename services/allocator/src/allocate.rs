//! Claiming a sandbox: two conditional writes, resumed wherever an earlier try or a twin left off.
//!
//! The claim item says where to look, the sandbox decides. A claim item leaves a sandbox only after that
//! sandbox was seen gone at the version that the item names; versions only grow, so whoever comes late with
//! an old version fails. That is why one key can never win two sandboxes.

use crate::bounds::{Bounds, lies_outside, outside};
use crate::candidates::{Reserved, Scarcity, Selector};
use crate::{Allocator, decode, store_fault};
use common::bus::Request;
use common::contract::{AllocateRequest, Allocation, Fault, FaultCode, Outcome};
use common::domain::{
    Actor, Candidate, ClaimKey, ClaimRecord, Grant, IdempotencyKey, LabId, NamePrefix, PoolName, Sandbox,
};
use common::store::{MoveClaim, OpenClaim, StoreError, Write};
use std::time::{Duration, Instant};

/// How long a claim item is kept if nobody removes it: far beyond any lease, because a claim item that is
/// purged under a live lease would let its key win a second one.
const CLAIM_KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);
/// Time between giving up on finding a candidate and the deadline.
const CONTENTION_MARGIN: Duration = Duration::from_millis(50);
const HOUR_SECONDS: u64 = 3_600;

/// A claim, checked.
struct Claim {
    key: ClaimKey,
    lab: Option<LabId>,
    selector: Selector,
    length: Duration,
    by: Option<Actor>,
    bounds: Bounds,
}

/// Why a claim was not granted.
enum ClaimError {
    Scarce(Scarcity),
    Store(StoreError),
    Outside,
}

/// The claim item as it stands after opening or moving it, with the reservation of the candidate that it
/// names if it is one of ours.
struct Held {
    record: ClaimRecord,
    reserved: Option<Reserved>,
}

impl From<StoreError> for ClaimError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn allocate(
        &self,
        bounds: Bounds,
        request: &Request,
    ) -> Result<(Outcome, Allocation), Fault> {
        let claim = self.parse_claim(&decode(&request.body)?, &request.context.idempotency_key, bounds)?;
        let deadline = self.deadline_of(request);
        // Candidates give up a little earlier, so that a crowd is told that it is one and not that time is up.
        let give_up = deadline.checked_sub(CONTENTION_MARGIN).unwrap_or(deadline);
        let claimed = tokio::time::timeout_at(deadline.into(), self.claim(&claim, give_up)).await;
        let (outcome, sandbox) = match claimed {
            Ok(Ok(claimed)) => claimed,
            Ok(Err(error)) => return Err(claim_fault(request, &error)),
            Err(_) => {
                return Err(Fault::new(FaultCode::Timeout, "the deadline passed; repeat with the same key"));
            }
        };
        if outcome == Outcome::Created {
            self.ports.recorder.note(&sandbox, Some(&request.context.request_id));
        }
        // A lease of this key that lies outside is there, and not shown.
        if lies_outside(&claim.bounds, &sandbox.pool) {
            return Err(outside());
        }
        let Some(allocation) = Allocation::of(&sandbox) else {
            return Err(Fault::new(FaultCode::InternalError, "the sandbox has no lease"));
        };
        tracing::info!(
            request.id = request.context.request_id,
            owner.id = claim.key.owner.as_str(),
            sandbox.id = allocation.sandbox_id,
            outcome = outcome.as_str(),
            "allocated {} to {}",
            allocation.sandbox_id,
            claim.key.owner,
        );
        Ok((outcome, allocation))
    }

    fn parse_claim(
        &self,
        request: &AllocateRequest,
        beside: &Option<String>,
        bounds: Bounds,
    ) -> Result<Claim, Fault> {
        let AllocateRequest { owner, lab, idempotency_key, pool, name_prefix, lab_duration_hours, by } =
            request;
        let owner = crate::lookup::parse_owner(owner)?;
        let key = match (present(idempotency_key), present(beside)) {
            (Some(inside), Some(beside)) if inside != beside => {
                return Err(Fault::invalid("idempotency_key", "differs from the header Idempotency-Key"));
            }
            (inside, beside) => inside.or(beside),
        };
        let key = match key {
            None => IdempotencyKey::from(&owner),
            Some(key) => {
                IdempotencyKey::parse(key).map_err(|problem| Fault::invalid("idempotency_key", problem))?
            }
        };
        let lab =
            present(lab).map(LabId::parse).transpose().map_err(|problem| Fault::invalid("lab", problem))?;
        let prefix = present(name_prefix)
            .map(NamePrefix::parse)
            .transpose()
            .map_err(|problem| Fault::invalid("name_prefix", problem))?;
        let wanted = lab_duration_hours.map(|hours| Duration::from_secs(u64::from(hours) * HOUR_SECONDS));
        let Some(length) = self.config.leases.length(wanted) else {
            let hours_max = self.config.leases.duration_max.as_secs() / HOUR_SECONDS;
            return Err(Fault::invalid("lab_duration_hours", format!("must be from 1 to {hours_max}")));
        };
        let selector = Selector { pool: self.parse_pool(present(pool))?, prefix };
        // The pool that a claim means without naming one is no more allowed than if it had.
        if lies_outside(&bounds, &selector.pool) {
            return Err(outside());
        }
        let by = crate::lookup::parse_helper(by.as_deref())?;
        Ok(Claim { key: ClaimKey { owner, key }, lab, selector, length, by, bounds })
    }

    fn parse_pool(&self, pool: Option<&str>) -> Result<PoolName, Fault> {
        let pools = &self.config.pools;
        let pool = match pool {
            Some(pool) => PoolName::parse(pool).map_err(|problem| Fault::invalid("pool", problem))?,
            None => pools
                .default_pool()
                .cloned()
                .ok_or_else(|| Fault::new(FaultCode::InternalError, "there is no pool"))?,
        };
        if !pools.contains(&pool) {
            return Err(Fault::invalid("pool", "is none of the pools of this broker"));
        }
        Ok(pool)
    }

    async fn claim(&self, claim: &Claim, deadline: Instant) -> Result<(Outcome, Sandbox), ClaimError> {
        let mut held = self.open(claim, deadline).await?;
        loop {
            // Our own candidates are of the pool that was asked for.
            if held.reserved.is_none() && self.leads_outside(&claim.bounds, &held.record.candidate).await? {
                return Err(ClaimError::Outside);
            }
            let grant = self.grant_of(claim, &held.record.candidate);
            match self.ports.store.grant(&grant).await? {
                Write::Done(sandbox) => {
                    if let Some(reserved) = held.reserved {
                        reserved.won();
                    }
                    return Ok((Outcome::Created, *sandbox));
                }
                Write::Lost(found) => {
                    if let Some(reserved) = held.reserved.take() {
                        reserved.lost();
                    }
                    tracing::debug!(
                        sandbox.id = held.record.candidate.id.as_str(),
                        sandbox.version = held.record.candidate.version.get(),
                        found.version = found.as_ref().map(|found| found.version.get()),
                        "not free any more"
                    );
                    if let Some(sandbox) = found
                        && let Some(mine) = self.still_mine(claim, *sandbox).await?
                    {
                        return Ok((Outcome::Existing, mine));
                    }
                }
            }
            self.metrics.lost_race();
            held = self.move_on(claim, held.record, deadline).await?;
        }
    }

    /// The lease that this claim has already, unless it is over. One that is over is ended here and now, as the
    /// expiry run would do a moment later: its owner asks for a new one.
    async fn still_mine(&self, claim: &Claim, sandbox: Sandbox) -> Result<Option<Sandbox>, StoreError> {
        let Some(lease) = sandbox.lease().filter(|lease| lease.claim == claim.key) else { return Ok(None) };
        let now = self.ports.clock.now();
        if !lease.is_over(now, self.config.leases.grace) {
            return Ok(Some(sandbox));
        }
        let ended_by = self.config.leases.ended_by(now);
        match self.ports.store.expire(&sandbox.id, lease.epoch, ended_by, now).await? {
            Write::Done(expired) => {
                self.announce(&expired, None);
                Ok(None)
            }
            // Another allocator, whose clock is behind, may have extended the lease meanwhile: then it is still the one
            // lease of this key. Whatever else happened to it, it is over.
            Write::Lost(found) => Ok(found.map(|found| *found).filter(|found| {
                let lease = found.lease().filter(|lease| lease.claim == claim.key);
                lease.is_some_and(|lease| !lease.is_over(now, self.config.leases.grace))
            })),
        }
    }

    /// Opens the claim on a free sandbox, or goes on with the claim item that is there.
    async fn open(&self, claim: &Claim, deadline: Instant) -> Result<Held, ClaimError> {
        let reserved = match self.take_fit(&claim.selector, deadline).await {
            Ok(reserved) => reserved,
            Err(scarcity) => return self.follow(claim, None, scarcity).await,
        };
        let record = ClaimRecord { claim: claim.key.clone(), candidate: reserved.candidate().clone() };
        let keep_until = self.ports.clock.now().after(CLAIM_KEPT);
        match self.ports.store.open_claim(&record, keep_until).await? {
            OpenClaim::Opened => Ok(Held { record, reserved: Some(reserved) }),
            OpenClaim::Held(record) => Ok(Held { record, reserved: None }),
        }
    }

    /// Points the claim away from a sandbox that is gone, or goes on with where a twin has pointed it.
    async fn move_on(&self, claim: &Claim, from: ClaimRecord, deadline: Instant) -> Result<Held, ClaimError> {
        let reserved = match self.take_fit(&claim.selector, deadline).await {
            Ok(reserved) => reserved,
            Err(scarcity) => return self.follow(claim, Some(&from), scarcity).await,
        };
        let keep_until = self.ports.clock.now().after(CLAIM_KEPT);
        match self.ports.store.move_claim(&from, reserved.candidate(), keep_until).await? {
            MoveClaim::Moved => {
                let record = ClaimRecord { claim: from.claim, candidate: reserved.candidate().clone() };
                Ok(Held { record, reserved: Some(reserved) })
            }
            MoveClaim::Held(record) => Ok(Held { record, reserved: None }),
            MoveClaim::Absent => {
                drop(reserved);
                self.open(claim, deadline).await
            }
        }
    }

    /// No free sandbox does not mean no answer: this may be the repeat of a claim that has one, or a twin may
    /// have pointed the claim away from `lost` and got the last one. The only read of a claim.
    async fn follow(
        &self,
        claim: &Claim,
        lost: Option<&ClaimRecord>,
        scarcity: Scarcity,
    ) -> Result<Held, ClaimError> {
        match self.ports.store.find_claim(&claim.key).await? {
            Some(record) if Some(&record) != lost => Ok(Held { record, reserved: None }),
            _ => Err(ClaimError::Scarce(scarcity)),
        }
    }

    fn grant_of(&self, claim: &Claim, candidate: &Candidate) -> Grant {
        let granted_at = self.ports.clock.now();
        Grant {
            claim: claim.key.clone(),
            candidate: candidate.clone(),
            lab: claim.lab.clone(),
            by: claim.by.clone(),
            granted_at,
            expires_at: granted_at.after(claim.length),
        }
    }
}

/// What a caller is told that got nothing.
fn claim_fault(request: &Request, error: &ClaimError) -> Fault {
    match error {
        ClaimError::Store(error) | ClaimError::Scarce(Scarcity::Store(error)) => store_fault(request, error),
        ClaimError::Scarce(Scarcity::Exhausted) => {
            Fault::new(FaultCode::PoolExhausted, "there is no free sandbox for this pool and prefix")
        }
        ClaimError::Scarce(Scarcity::Contended) => Fault::new(
            FaultCode::Contended,
            "others were faster for every free sandbox; repeat with the same key",
        ),
        ClaimError::Outside => outside(),
    }
}

/// A field that is there and not blank.
fn present(field: &Option<String>) -> Option<&str> {
    field.as_deref().map(str::trim).filter(|text| !text.is_empty())
}
