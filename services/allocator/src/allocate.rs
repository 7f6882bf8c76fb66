//! Claiming a sandbox: two conditional writes, resumed wherever an earlier try or a twin left off.
//!
//! The claim item says where to look, the sandbox decides. A claim item leaves a sandbox only after that sandbox was
//! seen gone at the version that the item names. Versions only grow, so a late writer with an old version fails. That
//! is why one key can never win two sandboxes.
//!
//! A request is answered once. A lease knows the requests that it was the answer to; when it ends, its claim item is
//! closed and keeps them. An attempt at one of them that comes later is refused, whatever stage it stopped at: it either
//! finds them on the claim item, or on the sandbox that the item led it to.

use crate::admission::Permit;
use crate::bounds::{Bounds, lies_outside, outside};
use crate::candidates::{Reserved, Scarcity, Selector};
use crate::deadline::{Deadline, Late};
use crate::{Allocator, decode, store_fault};
use contract::{AllocateRequest, Allocation, Fault, FaultCode, LabDuration, Outcome, headers};
use domain::{
    Actor, Candidate, ClaimKey, ClaimRecord, Grant, IdempotencyKey, LabId, Lease, NamePrefix, PoolName,
    RequestKey, Sandbox,
};
use ports::bus::{Attempt, Request};
use ports::store::{MoveClaim, OpenClaim, StoreError, Write};
use std::time::Duration;

/// How long a claim item is kept if no process removes it: far beyond any lease, because a claim item that is purged
/// under a live lease would let its key win a second one.
const CLAIM_KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);

/// A claim, checked.
struct Claim<'a> {
    permit: &'a Permit,
    key: ClaimKey,
    lab: Option<LabId>,
    selector: Selector,
    length: Duration,
    by: Option<Actor>,
    bounds: Bounds,
    /// The request, if the caller said which.
    request: Option<RequestKey>,
    /// Whether no other attempt at the request can be under way or come later, if this one is answered.
    is_only_attempt: bool,
}

/// Why a claim was not granted.
enum ClaimError {
    Scarce(Scarcity),
    Store(StoreError),
    Outside,
    /// The request was answered, by a lease that has ended.
    Answered,
    Late,
}

/// What a sandbox that is not free means for a claim.
enum Found {
    /// It is held by this claim.
    Mine(Outcome, Box<Sandbox>),
    /// It was held by this claim, as the answer to these requests, and is not any more.
    Ended(Vec<RequestKey>),
    /// It is none of this claim's.
    Other,
}

/// The claim item as it stands after opening or moving it, with the reservation of the candidate that it
/// names if it is one of ours.
struct Held {
    record: ClaimRecord,
    reserved: Option<Reserved>,
}

impl From<Late> for ClaimError {
    fn from(_: Late) -> Self {
        Self::Late
    }
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
        permit: &Permit,
    ) -> Result<(Outcome, Allocation), Fault> {
        let mut claim = self.parse_claim(request, &decode(&request.body)?, bounds, permit).await?;
        claim.attempt_at(request.context.attempt.as_ref())?;
        let deadline = self.deadline_of(request);
        let claimed = tokio::time::timeout_at(deadline.at().into(), self.claim(&claim, &deadline)).await;
        let (outcome, sandbox) = match claimed.unwrap_or(Err(ClaimError::Late)) {
            Ok(claimed) => claimed,
            Err(error) => return Err(claim_fault(request, &error)),
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

    async fn parse_claim<'a>(
        &self,
        asked: &Request,
        request: &AllocateRequest,
        bounds: Bounds,
        permit: &'a Permit,
    ) -> Result<Claim<'a>, Fault> {
        let AllocateRequest {
            owner,
            lab,
            idempotency_key,
            pool,
            name_prefix,
            lab_duration_hours,
            lab_duration_minutes,
            by,
        } = request;
        let owner = crate::lookup::parse_owner(owner)?;
        let key = match (present(idempotency_key), present(&asked.context.idempotency_key)) {
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
        let wanted = LabDuration::of_fields(*lab_duration_hours, *lab_duration_minutes);
        let Some(length) = self.config.leases.length(wanted.map(LabDuration::length)) else {
            return Err(crate::lookup::bad_duration(wanted, self.config.leases.duration_max));
        };
        let selector = Selector { pool: self.parse_pool(asked, present(pool)).await?, prefix };
        // The pool that a claim means without naming one is no more allowed than if it had.
        if lies_outside(&bounds, &selector.pool) {
            return Err(outside());
        }
        let by = crate::lookup::parse_helper(by.as_deref())?;
        let key = ClaimKey { owner, key };
        Ok(Claim { permit, key, lab, selector, length, by, bounds, request: None, is_only_attempt: false })
    }

    /// The pool of a claim. A pool that is not configured here, but that the table knows, may be served by another
    /// worker: it is being added or was removed. Any other name is wrong everywhere, because a worker notes its pools
    /// in the table before it serves.
    async fn parse_pool(&self, asked: &Request, pool: Option<&str>) -> Result<PoolName, Fault> {
        let pools = &self.config.pools;
        let pool = match pool {
            Some(pool) => PoolName::parse(pool).map_err(|problem| Fault::invalid("pool", problem))?,
            None => pools
                .default_pool()
                .cloned()
                .ok_or_else(|| Fault::new(FaultCode::InternalError, "there is no pool"))?,
        };
        if pools.contains(&pool) {
            return Ok(pool);
        }
        let known = self.ports.store.pools().await.map_err(|error| store_fault(asked, &error))?;
        if known.contains(&pool) {
            let message =
                format!("no worker that was asked serves pool {pool}; it is being added, or was removed");
            return Err(Fault::new(FaultCode::NotHere, message));
        }
        Err(Fault::invalid("pool", "is none of the pools of this broker"))
    }

    async fn claim(&self, claim: &Claim<'_>, deadline: &Deadline) -> Result<(Outcome, Sandbox), ClaimError> {
        let mut held = self.open(claim, deadline).await?;
        loop {
            claim.refuse_if_answered(&held.record.answered)?;
            let mut ended = Vec::new();
            if !held.record.is_closed {
                // Our own candidates are of the pool that was asked for.
                if held.reserved.is_none()
                    && self.leads_outside(&claim.bounds, &held.record.candidate).await?
                {
                    return Err(ClaimError::Outside);
                }
                match self.try_grant(claim, &mut held, deadline).await? {
                    Found::Mine(outcome, sandbox) => return Ok((outcome, *sandbox)),
                    Found::Ended(requests) => ended = requests,
                    Found::Other => {}
                }
                claim.refuse_if_answered(&ended)?;
                self.metrics.lost_race();
            }
            held = self.move_on(claim, held.record, &ended, deadline).await?;
        }
    }

    /// Takes the candidate that the claim item names, or finds out what became of it.
    async fn try_grant(
        &self,
        claim: &Claim<'_>,
        held: &mut Held,
        deadline: &Deadline,
    ) -> Result<Found, ClaimError> {
        let grant = self.grant_of(claim, &held.record.candidate);
        match self.writer(deadline)?.grant(&grant).await? {
            Write::Done(sandbox) => {
                if let Some(reserved) = held.reserved.take() {
                    reserved.won();
                }
                Ok(Found::Mine(Outcome::Created, sandbox))
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
                self.look_at_holder(claim, found, deadline).await
            }
        }
    }

    /// What a sandbox that is not free means for the claim. A lease that is over is ended here and now, as the expiry run
    /// would do a moment later: its owner asks for a new one.
    async fn look_at_holder(
        &self,
        claim: &Claim<'_>,
        mut found: Option<Box<Sandbox>>,
        deadline: &Deadline,
    ) -> Result<Found, ClaimError> {
        loop {
            let Some(sandbox) = found else { return Ok(Found::Other) };
            let Some(lease) = sandbox.last_lease().filter(|lease| lease.claim == claim.key) else {
                return Ok(Found::Other);
            };
            if sandbox.lease().is_none() {
                return Ok(Found::Ended(lease.requests().cloned().collect()));
            }
            let now = self.ports.clock.now();
            let written = if lease.is_over(now, self.config.leases.grace) {
                let ended_by = self.config.leases.ended_by(now);
                self.writer(deadline)?.expire(&sandbox.id, lease.epoch, ended_by, now).await?
            } else if let Some(request) = claim.to_be_noted(lease) {
                self.writer(deadline)?.note_answer(&sandbox.id, lease, request).await?
            } else {
                return Ok(Found::Mine(claim.outcome_of(lease), sandbox));
            };
            // What was lost is looked at again: another allocator, whose clock is behind, may have extended a lease that
            // is over by ours, or a twin may have noted another request.
            found = match written {
                Write::Done(changed) => {
                    if changed.lease().is_none() {
                        self.announce(&changed, None);
                    }
                    Some(changed)
                }
                Write::Lost(found) => found,
            };
        }
    }

    /// Opens the claim on a free sandbox, or goes on with the claim item that is there.
    async fn open(&self, claim: &Claim<'_>, deadline: &Deadline) -> Result<Held, ClaimError> {
        let reserved = match self.take_fit(&claim.selector, deadline.give_up_at(), claim.permit).await {
            Ok(reserved) => reserved,
            Err(scarcity) => return self.follow(claim, None, scarcity).await,
        };
        let record = ClaimRecord::new(claim.key.clone(), reserved.candidate().clone());
        let keep_until = self.ports.clock.now().after(CLAIM_KEPT);
        match self.writer(deadline)?.open_claim(&record, keep_until).await? {
            OpenClaim::Opened => Ok(Held { record, reserved: Some(reserved) }),
            OpenClaim::Held(record) => Ok(Held { record, reserved: None }),
        }
    }

    /// Points the claim away from a sandbox that is gone, or goes on with where a twin has pointed it. `ended` are the
    /// requests that a lease of this claim on that sandbox was the answer to.
    async fn move_on(
        &self,
        claim: &Claim<'_>,
        from: ClaimRecord,
        ended: &[RequestKey],
        deadline: &Deadline,
    ) -> Result<Held, ClaimError> {
        let reserved = match self.take_fit(&claim.selector, deadline.give_up_at(), claim.permit).await {
            Ok(reserved) => reserved,
            Err(scarcity) => return self.follow(claim, Some(&from), scarcity).await,
        };
        let keep_until = self.ports.clock.now().after(CLAIM_KEPT);
        let record = from.moved_to(reserved.candidate().clone(), ended);
        match self.writer(deadline)?.move_claim(&from, &record, keep_until).await? {
            MoveClaim::Moved => Ok(Held { record, reserved: Some(reserved) }),
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
        claim: &Claim<'_>,
        lost: Option<&ClaimRecord>,
        scarcity: Scarcity,
    ) -> Result<Held, ClaimError> {
        match self.ports.store.find_claim(&claim.key).await? {
            Some(record) if Some(&record) != lost => Ok(Held { record, reserved: None }),
            _ => Err(ClaimError::Scarce(scarcity)),
        }
    }

    fn grant_of(&self, claim: &Claim<'_>, candidate: &Candidate) -> Grant {
        let granted_at = self.ports.clock.now();
        Grant {
            claim: claim.key.clone(),
            candidate: candidate.clone(),
            lab: claim.lab.clone(),
            by: claim.by.clone(),
            request: claim.request.clone(),
            granted_at,
            expires_at: granted_at.after(claim.length),
        }
    }
}

// === impl Claim ===

impl Claim<'_> {
    /// Takes over which request this is an attempt at.
    fn attempt_at(&mut self, attempt: Option<&Attempt>) -> Result<(), Fault> {
        let Some(Attempt { request_key, number }) = attempt else { return Ok(()) };
        let request = RequestKey::parse(request_key)
            .map_err(|problem| Fault::invalid(headers::REQUEST_KEY, problem))?;
        self.request = Some(request);
        // Before the second attempt, the caller stops waiting for the first.
        self.is_only_attempt = *number == Some(1);
        Ok(())
    }

    /// Refuses an attempt at a request that was already answered: no caller waits for its result.
    fn refuse_if_answered(&self, answered: &[RequestKey]) -> Result<(), ClaimError> {
        let is_answered = self.request.as_ref().is_some_and(|request| answered.contains(request));
        if is_answered { Err(ClaimError::Answered) } else { Ok(()) }
    }

    /// The request, if the lease does not know yet that it is the answer to it and another attempt may come late.
    fn to_be_noted(&self, lease: &Lease) -> Option<&RequestKey> {
        let request = self.request.as_ref().filter(|_| !self.is_only_attempt)?;
        (!lease.requests().any(|known| known == request)).then_some(request)
    }

    /// Whether this very request made the lease: an attempt whose answer was lost may have.
    fn outcome_of(&self, lease: &Lease) -> Outcome {
        let is_creator = self.request.is_some() && self.request == lease.request;
        if is_creator { Outcome::Created } else { Outcome::Existing }
    }
}

/// The answer to a caller that got nothing.
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
        ClaimError::Answered => Fault::new(
            FaultCode::AllocationExpired,
            "this request was answered already, by a lease that has ended; claim again by a new request",
        ),
        ClaimError::Late => Fault::new(FaultCode::Timeout, "the deadline passed; repeat with the same key"),
    }
}

/// A field that is there and not blank.
fn present(field: &Option<String>) -> Option<&str> {
    field.as_deref().map(str::trim).filter(|text| !text.is_empty())
}
