//! Claims a sandbox by two conditional writes; an attempt continues wherever an earlier or concurrent attempt stopped.
//!
//! The claim item names a sandbox; the write on the sandbox decides. A claim item moves away from a sandbox only after
//! that sandbox was found not available at the version that the item names. Versions only grow, so a late writer with
//! an old version fails. That is why one key can never get two sandboxes.
//!
//! In a pool whose sandboxes are created (`cold`), the claim item may name a sandbox that does not exist yet.
//!
//! A request is answered once. A lease stores the requests that it answered; when it ends, its claim item is closed and
//! keeps them. A later attempt at one of them is refused, wherever it stopped: it finds the request either on the claim
//! item or on the sandbox that the item names.

use crate::admission::Permit;
use crate::candidates::{Reserved, Scarcity, Selector};
use crate::deadline::{Deadline, Late};
use crate::{Allocator, decode, store_fault};
use contract::{
    Action, Allocation, Fault, FaultCode, LabDuration, Outcome, Principal, Target, Verb, WarmPolicy,
    authorize, headers,
};
use domain::{
    Actor, Candidate, ClaimKey, ClaimOptions, ClaimRecord, Creation, Descriptor, Grant, LabId, Lease,
    PoolName, RequestKey, RuntimeState, Sandbox,
};
use ports::bus::{Attempt, Request};
use ports::store::{MoveClaim, OpenClaim, StoreError, Write};
use std::time::Duration;

mod cold;
mod parse;

/// How long a claim item is kept if no process removes it: longer than any lease, because purging the claim item of a
/// live lease would let its key get a second one.
const CLAIM_KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);

/// A validated claim.
struct Claim<'a> {
    permit: &'a Permit,
    key: ClaimKey,
    lab: Option<LabId>,
    /// Which sandboxes it accepts, best first.
    selectors: Vec<Selector>,
    wanted: Option<LabDuration>,
    by: Option<Actor>,
    principal: &'a Principal,
    /// The request, if the caller identified it.
    request: Option<RequestKey>,
    /// Whether no other attempt at the request can be running or arrive after this one is answered.
    is_only_attempt: bool,
    /// What is created if nothing is free; none for kinds that are not created.
    creation: Option<Creation>,
    /// What it says about its sandbox.
    options: Option<Box<ClaimOptions>>,
    /// What it does about free ones of such a kind.
    warm: WarmPolicy,
}

/// Why a claim was not granted.
enum ClaimError {
    Scarce(Scarcity),
    Store(StoreError),
    Refused(Fault),
    /// The request was answered, by a lease that has ended.
    Answered,
    Late,
}

/// The meaning of a sandbox that is not available, for a claim.
enum Found {
    /// This claim holds it.
    Mine(Outcome, Box<Sandbox>),
    /// This claim held it, as the answer to these requests, and does not hold it any more.
    Ended(Vec<RequestKey>),
    /// It has nothing to do with this claim.
    Other,
}

/// The claim item after opening or moving it, and what is known of its candidate.
struct Held {
    record: ClaimRecord,
    choice: Choice,
}

/// Who chose the candidate of a claim item.
enum Choice {
    /// This attempt, among the free ones.
    Reserved(Reserved),
    /// This attempt, to be created.
    Fresh,
    /// Another attempt.
    Other,
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
        principal: &Principal,
        request: &Request,
        permit: &Permit,
    ) -> Result<(Outcome, Allocation), Fault> {
        let (outcome, sandbox) = self.claim_sandbox(principal, request, permit).await?;
        Ok((outcome, crate::extend::allocation_of(&sandbox)?))
    }

    /// Claims a sandbox, and has its container activated.
    pub(crate) async fn claim_sandbox(
        &self,
        principal: &Principal,
        request: &Request,
        permit: &Permit,
    ) -> Result<(Outcome, Sandbox), Fault> {
        let mut claim = self.parse_claim(request, &decode(&request.body)?, principal, permit).await?;
        claim.attempt_at(request.context.attempt.as_ref())?;
        let deadline = self.deadline_of(request);
        let claimed = tokio::time::timeout_at(deadline.at().into(), self.claim(&claim, &deadline)).await;
        let (outcome, sandbox) = match claimed.unwrap_or(Err(ClaimError::Late)) {
            Ok(claimed) => claimed,
            Err(error) => return Err(self.fault_of(request, &claim, &deadline, &error).await),
        };
        if outcome == Outcome::Created {
            self.ports.recorder.note(&sandbox, Some(&request.context.request_id));
        }
        // The lease of this key is outside the caller's pools, so it is not shown.
        claim.authorize(&sandbox.pool)?;
        tracing::info!(
            request.id = request.context.request_id,
            owner.id = claim.key.owner.as_str(),
            sandbox.id = sandbox.id.as_str(),
            outcome = outcome.as_str(),
            "allocated {} to {}",
            sandbox.id,
            claim.key.owner,
        );
        if needs_activation(&sandbox) {
            // A repeat finds the lease, and the node what it did already.
            self.ensure_node_knows(request, permit, &sandbox).await?;
        } else if outcome == Outcome::Created {
            self.send_lease(request, &sandbox);
        }
        Ok((outcome, sandbox))
    }

    async fn claim(&self, claim: &Claim<'_>, deadline: &Deadline) -> Result<(Outcome, Sandbox), ClaimError> {
        let mut held = self.open(claim, deadline).await?;
        loop {
            claim.refuse_if_answered(&held.record.answered)?;
            let mut ended = None;
            if !held.record.is_closed {
                // Our own candidates belong to pools that were authorized with the claim.
                if matches!(held.choice, Choice::Other)
                    && let Some(pool) = self.pool_of(&claim.principal.scope, &held.record.candidate).await?
                {
                    claim.authorize(&pool).map_err(ClaimError::Refused)?;
                }
                let found = if claim.asks_as(&held.record) {
                    self.try_grant(claim, &mut held, deadline).await?
                } else {
                    self.other_request(claim, &held.record, deadline).await?
                };
                match found {
                    Found::Mine(outcome, sandbox) => return Ok((outcome, *sandbox)),
                    Found::Ended(requests) => ended = Some(requests),
                    Found::Other => {}
                }
                claim.refuse_if_answered(ended.as_deref().unwrap_or_default())?;
                self.metrics.lost_race();
            }
            held = self.move_on(claim, held.record, ended.as_deref(), deadline).await?;
        }
    }

    /// Claims the candidate that the claim item names, or finds out why that is impossible.
    async fn try_grant(
        &self,
        claim: &Claim<'_>,
        held: &mut Held,
        deadline: &Deadline,
    ) -> Result<Found, ClaimError> {
        let candidate = &held.record.candidate;
        if candidate.is_absent() {
            return self.try_create(claim, held, deadline).await;
        }
        if matches!(held.choice, Choice::Other) && !self.grants_in(&candidate.pool) {
            // An earlier attempt chose it. Its lease is still an answer, but no new one is granted.
            let found = self.ports.store.sandbox(&candidate.id).await?;
            let is_free = found.as_ref().is_none_or(|found| found.version == candidate.version);
            let found = found.filter(|_| !is_free).map(Box::new);
            return self.look_at_holder(claim, found, deadline).await;
        }
        let grant = self.grant_of(claim, candidate);
        match self.writer(deadline)?.grant(&grant).await? {
            Write::Done(sandbox) => {
                if let Choice::Reserved(reserved) = std::mem::replace(&mut held.choice, Choice::Other) {
                    reserved.won();
                }
                Ok(Found::Mine(Outcome::Created, sandbox))
            }
            Write::Lost(found) => {
                if let Choice::Reserved(reserved) = std::mem::replace(&mut held.choice, Choice::Other) {
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

    /// Interprets a sandbox that is not available. A lease that is over is ended at once, as expiry would do a moment
    /// later, because its owner asks for a new one.
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
            let written = if let Some(written) = self.end_if_over(&sandbox, lease, deadline).await? {
                written
            } else if let Some(request) = claim.to_be_noted(lease) {
                self.writer(deadline)?.note_answer(&sandbox.id, lease, request).await?
            } else {
                return Ok(Found::Mine(claim.outcome_of(lease), sandbox));
            };
            // After a lost write the sandbox is checked again: an allocator whose clock is behind may have extended a
            // lease that is over by our clock, or a concurrent attempt may have noted another request.
            found = match written {
                Write::Done(changed) => Some(changed),
                Write::Lost(found) => found,
            };
        }
    }

    /// Ends a lease that is over, as expiry would do a moment later; none if it is not over.
    async fn end_if_over(
        &self,
        sandbox: &Sandbox,
        lease: &Lease,
        deadline: &Deadline,
    ) -> Result<Option<Write>, ClaimError> {
        let now = self.ports.clock.now();
        let leases = self.ports.pools.current().leases_of(&sandbox.pool);
        if !lease.is_over(now, leases.grace) {
            return Ok(None);
        }
        let ended_by = leases.ended_by(now);
        let written = self.writer(deadline)?.expire(&sandbox.id, lease.epoch, ended_by, now).await?;
        if let Write::Done(ended) = &written {
            self.announce(ended, None);
        }
        Ok(Some(written))
    }

    /// Opens the claim with a free sandbox, or continues with the existing claim item.
    async fn open(&self, claim: &Claim<'_>, deadline: &Deadline) -> Result<Held, ClaimError> {
        let (candidate, choice) = match self.choose(claim, deadline).await {
            Ok(chosen) => chosen,
            Err(scarcity) => return self.follow(claim, None, scarcity).await,
        };
        let record = ClaimRecord::new(claim.key.clone(), candidate).creating(claim.creation.clone());
        let keep_until = self.ports.clock.now().after(CLAIM_KEPT);
        match self.writer(deadline)?.open_claim(&record, keep_until).await? {
            OpenClaim::Opened => Ok(Held { record, choice }),
            OpenClaim::Held(record) => Ok(Held { record, choice: Choice::Other }),
        }
    }

    /// A free candidate, or one that is to be created.
    async fn choose(&self, claim: &Claim<'_>, deadline: &Deadline) -> Result<(Candidate, Choice), Scarcity> {
        match self.take_any(claim, deadline).await {
            Ok(reserved) => Ok((reserved.candidate().clone(), Choice::Reserved(reserved))),
            Err(scarcity) => match self.fresh_candidate(claim, &scarcity) {
                Some(fresh) => Ok((fresh, Choice::Fresh)),
                None => Err(scarcity),
            },
        }
    }

    /// A candidate of the first pool that has one.
    async fn take_any(&self, claim: &Claim<'_>, deadline: &Deadline) -> Result<Reserved, Scarcity> {
        let mut scarcity = Scarcity::Draining;
        if claim.warm == WarmPolicy::Never {
            return Err(if claim.selectors.iter().any(|one| self.grants_in(&one.pool)) {
                Scarcity::Exhausted
            } else {
                scarcity
            });
        }
        for selector in &claim.selectors {
            match self.take_fit(selector, deadline.give_up_at(), claim.permit).await {
                Err(Scarcity::Draining) => {}
                Err(Scarcity::Exhausted) => scarcity = Scarcity::Exhausted,
                taken => return taken,
            }
        }
        Err(scarcity)
    }

    /// Moves the claim to another candidate, or continues with the candidate of a concurrent attempt. `ended` are the
    /// requests that a lease of this claim on the lost sandbox answered, if there was one.
    async fn move_on(
        &self,
        claim: &Claim<'_>,
        from: ClaimRecord,
        ended: Option<&[RequestKey]>,
        deadline: &Deadline,
    ) -> Result<Held, ClaimError> {
        let (candidate, choice) = match self.choose(claim, deadline).await {
            Ok(chosen) => chosen,
            Err(scarcity) => return self.follow(claim, Some(&from), scarcity).await,
        };
        let keep_until = self.ports.clock.now().after(CLAIM_KEPT);
        let mut record = from.moved_to(candidate, ended.unwrap_or_default());
        // A request after the end of a lease is a new one.
        if from.is_closed || ended.is_some() || !claim.asks_as(&from) {
            record.creation.clone_from(&claim.creation);
        }
        match self.writer(deadline)?.move_claim(&from, &record, keep_until).await? {
            MoveClaim::Moved => Ok(Held { record, choice }),
            MoveClaim::Held(record) => Ok(Held { record, choice: Choice::Other }),
            MoveClaim::Absent => {
                drop(choice);
                self.open(claim, deadline).await
            }
        }
    }

    /// Without a free sandbox there may still be an answer: this may be the repeat of an answered claim, or a
    /// concurrent attempt may have moved the claim away from `lost` and got the last sandbox. The only read of a claim.
    async fn follow(
        &self,
        claim: &Claim<'_>,
        lost: Option<&ClaimRecord>,
        scarcity: Scarcity,
    ) -> Result<Held, ClaimError> {
        match self.ports.store.find_claim(&claim.key).await? {
            Some(record) if Some(&record) != lost => Ok(Held { record, choice: Choice::Other }),
            _ => Err(ClaimError::Scarce(scarcity)),
        }
    }

    fn grant_of(&self, claim: &Claim<'_>, candidate: &Candidate) -> Grant {
        let granted_at = self.ports.clock.now();
        // An earlier attempt, which named another pool, may have chosen the candidate.
        let leases = self.ports.pools.current().leases_of(&candidate.pool);
        let length = leases.length(claim.wanted.map(LabDuration::length)).unwrap_or(leases.duration_max);
        Grant {
            claim: claim.key.clone(),
            candidate: candidate.clone(),
            lab: claim.lab.clone(),
            by: claim.by.clone(),
            request: claim.request.clone(),
            granted_at,
            expires_at: granted_at.after(length),
            options: claim.options.clone(),
        }
    }

    /// The fault for a claim that no pool can fulfil: what was asked for, and what the caller could get elsewhere.
    async fn exhausted(&self, claim: &Claim<'_>, deadline: &Deadline) -> Fault {
        let asked: Vec<_> = claim.selectors.iter().map(|selector| selector.pool.as_str()).collect();
        let of_pools = if asked.len() == 1 { "pool" } else { "the pools" };
        let mut message = format!("there is no free sandbox in {of_pools} {}", asked.join(", "));
        if let Some(prefix) = claim.selectors.iter().find_map(|selector| selector.prefix.as_ref()) {
            message += &format!(" whose name begins with `{prefix}`");
        }
        let refused = claim.selectors.iter().zip(&claim.creation);
        if refused.into_iter().any(|(selector, creation)| self.is_refused(&selector.pool, creation)) {
            message +=
                ", and none is created, because the pool does not allow the current version of its template";
        }
        let census = {
            // The store may serve another request meanwhile.
            let _idle = claim.permit.idle();
            tokio::time::timeout_at(deadline.at().into(), self.last_census()).await
        };
        let census = census.ok().flatten().unwrap_or_default();
        let free = census.pools.iter().filter(|(name, counts)| {
            let is_usable = PoolName::parse(name)
                .is_ok_and(|pool| self.grants_in(&pool) && claim.authorize(&pool).is_ok());
            counts.available > 0 && is_usable
        });
        let free: Vec<_> = free.map(|(name, counts)| format!("{} in {name}", counts.available)).collect();
        if !free.is_empty() {
            message += &format!("; the last census counted {} free", free.join(", "));
        }
        Fault::new(FaultCode::PoolExhausted, message)
    }

    /// The fault for a claim without a lease.
    async fn fault_of(
        &self,
        request: &Request,
        claim: &Claim<'_>,
        deadline: &Deadline,
        error: &ClaimError,
    ) -> Fault {
        match error {
            ClaimError::Store(error) | ClaimError::Scarce(Scarcity::Store(error)) => {
                store_fault(request, error)
            }
            ClaimError::Scarce(Scarcity::Exhausted) => self.exhausted(claim, deadline).await,
            ClaimError::Scarce(Scarcity::Draining) => {
                Fault::new(FaultCode::PoolExhausted, "this pool is being drained and grants no leases")
            }
            ClaimError::Scarce(Scarcity::Contended) => Fault::new(
                FaultCode::Contended,
                "others were faster for every free sandbox; repeat with the same key",
            ),
            ClaimError::Refused(fault) => fault.clone(),
            ClaimError::Answered => Fault::new(
                FaultCode::AllocationExpired,
                "this request was answered already, by a lease that has ended; claim again by a new request",
            ),
            ClaimError::Late => {
                Fault::new(FaultCode::Timeout, "the deadline passed; repeat with the same key")
            }
        }
    }
}

/// Whether a container can be used only after its node did something for the claim: it has an environment, or a network that
/// free containers do not have.
fn needs_activation(sandbox: &Sandbox) -> bool {
    // One that is lost cannot; its claim says so.
    if RuntimeState::of(&sandbox.descriptor) == Some(RuntimeState::Failed) {
        return false;
    }
    let has_env = |lease: &Lease| lease.options.as_ref().is_some_and(|options| !options.env.is_empty());
    sandbox.lease().is_some_and(has_env) || sandbox.descriptor.get(Descriptor::NETWORK).is_some()
}

// === impl Claim ===

impl Claim<'_> {
    /// Whether the principal may have a lease in `pool`.
    fn authorize(&self, pool: &PoolName) -> Result<(), Fault> {
        let target = Target { pool: Some(pool), owner: Some(&self.key.owner) };
        authorize(self.principal, Action::Ask(Verb::Allocate), target)
    }

    /// Stores which attempt at which request this is.
    fn attempt_at(&mut self, attempt: Option<&Attempt>) -> Result<(), Fault> {
        let Some(Attempt { request_key, number }) = attempt else { return Ok(()) };
        let request = RequestKey::parse(request_key)
            .map_err(|problem| Fault::invalid(headers::REQUEST_KEY, problem))?;
        self.request = Some(request);
        // Before its second attempt, the caller stops waiting for the first.
        self.is_only_attempt = *number == Some(1);
        Ok(())
    }

    /// Refuses an attempt at a request that was answered: no caller waits for its result.
    fn refuse_if_answered(&self, answered: &[RequestKey]) -> Result<(), ClaimError> {
        let is_answered = self.request.as_ref().is_some_and(|request| answered.contains(request));
        if is_answered { Err(ClaimError::Answered) } else { Ok(()) }
    }

    /// The request, if the lease does not contain it yet and another attempt may arrive late.
    fn to_be_noted(&self, lease: &Lease) -> Option<&RequestKey> {
        let request = self.request.as_ref().filter(|_| !self.is_only_attempt)?;
        (!lease.requests().any(|known| known == request)).then_some(request)
    }

    /// Whether this request created the lease, perhaps by an attempt whose answer was lost.
    fn outcome_of(&self, lease: &Lease) -> Outcome {
        let is_creator = self.request.is_some() && self.request == lease.request;
        if is_creator { Outcome::Created } else { Outcome::Existing }
    }
}
