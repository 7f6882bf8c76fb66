//! A typed client of the broker over NATS or HTTP. It repeats requests as `nats/clients.md` says.
//!
//! # Guarantees
//! All attempts of a call are the same request: same body, same idempotency key, same request id. A failure with a
//! retry time is repeated after that time, a failure that a repeat cannot help is returned at once, and no call exceeds
//! its deadline. A verb whose repeat would do further work ([`Verb::leads_to_the_same`]) gets one attempt with all of
//! that time; it is repeated only if no worker began with it.
//!
//! # Never
//! Makes a second claim for one call: a repeated claim has the key of the first.

use bytes::Bytes;
use contract::nodes::{ExecutionRequest, ExecutionResult};
use contract::{
    AllocateRequest, Allocation, ExtendRequest, FaultBody, FaultCode, HealthReply, Outcome, ReleaseReply,
    ReleaseRequest, Repeat, SandboxRequest, SandboxView, StatsReply, Verb, WarmPolicy,
};
use domain::{IdempotencyKey, LabId, NamePrefix, OwnerId, PoolName, SandboxId};
use ports::backoff::longest_pause;
use ports::bus::{Attempt, Context, Reply, RequestError, Requests};
use ports::clock::Clock;
use ports::random::{Random, full_jitter};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

mod claims;
mod control;
mod templates;
#[cfg(test)]
mod tests;

pub use control::DeletionControlClient;

/// Shortest pause before another attempt, because a restarting worker needs a moment and a loop must not spin.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause without a retry time, so that a free worker does not have to wait for the client.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Time-outs of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The whole call, pauses included.
    pub call: Duration,
    /// One attempt. After that, the request or its reply counts as lost.
    pub attempt: Duration,
}

/// A client over one transport.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Requests>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    timeouts: Timeouts,
    request_id: Option<String>,
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The owner that claims.
    pub owner: OwnerId,
    /// The idempotency key; the owner's id if none.
    pub key: Option<IdempotencyKey>,
    /// The lab, if any.
    pub lab: Option<LabId>,
    /// The pool; the default pool if none.
    pub pool: Option<PoolName>,
    /// Only sandboxes whose name has this prefix.
    pub name_prefix: Option<NamePrefix>,
    /// Length of the lease in hours; the fleet's default if none.
    pub hours: Option<u32>,
    /// What it does about free containers; prefers them if none.
    pub warm: Option<WarmPolicy>,
}

/// A granted claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Whether the claim created the lease or found it. Over HTTP, a claim whose first reply was lost reports a found
    /// lease.
    pub outcome: Outcome,
    /// The lease.
    pub lease: Allocation,
}

/// A failure reply of the broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({}, request {request_id})", code.as_str())]
pub struct Refusal {
    /// The code.
    pub code: FaultCode,
    /// The message for people.
    pub message: String,
    /// The request id, as in the broker's logs.
    pub request_id: String,
    /// Seconds after which to repeat; none if a repeat does not help.
    pub retry_after_seconds: Option<u32>,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The broker replied with a failure, which a repeat cannot help or which was the last one before the deadline.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No reply before the deadline. The work may have been done. The same call is safe to repeat if its verb [leads to
    /// the same](Verb::leads_to_the_same).
    #[error("the broker has not answered: {reason} (request {request_id})")]
    Unanswered {
        /// Why the last attempt failed.
        reason: RequestError,
        /// What the request is called.
        request_id: String,
    },
    /// A reply that does not follow the contract.
    #[error("an answer cannot be read: {problem} (request {request_id})")]
    Unreadable {
        /// What is wrong with it.
        problem: String,
        /// What the request is called.
        request_id: String,
    },
}

/// The result of a failed attempt.
struct FailedAttempt {
    error: ClientError,
    /// The pause before the next attempt; none if there is none.
    again_after: Option<Duration>,
}

// === impl Timeouts ===

impl Default for Timeouts {
    /// Half a minute for a call, two seconds for an attempt.
    fn default() -> Self {
        Self { call: Duration::from_secs(30), attempt: Duration::from_secs(2) }
    }
}

// === impl Claim ===

impl Claim {
    /// A claim of `owner` with defaults.
    #[must_use]
    pub const fn of(owner: OwnerId) -> Self {
        Self { owner, key: None, lab: None, pool: None, name_prefix: None, hours: None, warm: None }
    }

    fn request(&self) -> AllocateRequest {
        let Self { owner, key, lab, pool, name_prefix, hours, warm } = self;
        AllocateRequest {
            owner: owner.to_string(),
            lab: lab.as_ref().map(ToString::to_string),
            idempotency_key: key.as_ref().map(ToString::to_string),
            pool: pool.as_ref().map(ToString::to_string),
            name_prefix: name_prefix.as_ref().map(ToString::to_string),
            lab_duration_hours: *hours,
            warm: warm.map(|warm| <&'static str>::from(warm).to_owned()),
            ..AllocateRequest::default()
        }
    }
}

// === impl ClientError ===

impl ClientError {
    /// Whether the same call may succeed later. Repeating is safe for every verb that [leads to the
    /// same](Verb::leads_to_the_same).
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Refused(refusal) => !matches!(refusal.code.repeat(), Repeat::Never),
            Self::Unanswered { .. } => true,
            Self::Unreadable { .. } => false,
        }
    }

    /// Whether no worker began with that attempt.
    const fn has_not_begun(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code.has_not_begun(),
            Self::Unanswered { reason, .. } => matches!(reason, RequestError::NoResponders),
            Self::Unreadable { .. } => false,
        }
    }
}

// === impl Client ===

impl Client {
    /// A client over `transport`, which is a connection to NATS or an HTTP client.
    #[must_use]
    pub fn new(
        transport: Arc<dyn Requests>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        timeouts: Timeouts,
    ) -> Self {
        Self { transport, clock, random, timeouts, request_id: None }
    }

    /// The same client with a fixed request id. Without it, each call gets a new one.
    #[must_use]
    pub fn named(&self, request_id: &str) -> Self {
        Self { request_id: Some(request_id.to_owned()), ..self.clone() }
    }

    /// Claims a sandbox, or finds the one that this owner and key already hold.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn allocate(&self, claim: &Claim) -> Result<Claimed, ClientError> {
        let (reply, lease) = self.ask_whole(Verb::Allocate, &claim.request()).await?;
        // An older worker does not state the outcome.
        Ok(Claimed { outcome: reply.outcome.unwrap_or(Outcome::Existing), lease })
    }

    /// Releases a sandbox. With an `epoch`, only if the live or last lease has that epoch.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn release(
        &self,
        id: &SandboxId,
        owner: &OwnerId,
        epoch: Option<u64>,
    ) -> Result<ReleaseReply, ClientError> {
        let SandboxRequest { sandbox_id, owner, by } = own(id, owner);
        self.ask(Verb::Release, &ReleaseRequest { sandbox_id, owner, lease_epoch: epoch, by }).await
    }

    /// Shows a sandbox to its owner.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn get(&self, id: &SandboxId, owner: &OwnerId) -> Result<SandboxView, ClientError> {
        self.ask(Verb::Get, &own(id, owner)).await
    }

    /// Extends a lease to `hours` in total. With an `epoch`, only if the live lease has that epoch.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn extend(
        &self,
        id: &SandboxId,
        owner: &OwnerId,
        hours: u32,
        epoch: Option<u64>,
    ) -> Result<Allocation, ClientError> {
        let SandboxRequest { sandbox_id, owner, by } = own(id, owner);
        let request = ExtendRequest {
            sandbox_id,
            owner,
            lab_duration_hours: Some(hours),
            lease_epoch: epoch,
            by,
            ..ExtendRequest::default()
        };
        self.ask(Verb::Extend, &request).await
    }

    /// Runs a command in a leased container and waits for its end. It is not repeated: the command may have run.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn execute(&self, request: &ExecutionRequest) -> Result<ExecutionResult, ClientError> {
        self.ask(Verb::Execute, request).await
    }

    /// Counts the pools. Over HTTP it needs an `admin` or `read-only` token.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn stats(&self) -> Result<StatsReply, ClientError> {
        self.ask(Verb::Stats, &serde_json::json!({})).await
    }

    /// Whether a worker and its store answer. Over HTTP, whether the ingress is ready, which includes both.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn health(&self) -> Result<HealthReply, ClientError> {
        self.ask(Verb::Health, &serde_json::json!({})).await
    }

    /// Sends any request of the contract. Operators' verbs work over NATS only, except those about templates.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        verb: Verb,
        request: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.ask_whole(verb, request).await.map(|(_, body)| body)
    }

    async fn ask_whole<T: DeserializeOwned>(
        &self,
        verb: Verb,
        request: &impl Serialize,
    ) -> Result<(Reply, T), ClientError> {
        let request_id = self.request_id.clone().unwrap_or_else(|| self.random.fresh_id());
        let unreadable = |error: serde_json::Error| ClientError::Unreadable {
            problem: error.to_string(),
            request_id: request_id.clone(),
        };
        let body = serde_json::to_vec(request).map(Bytes::from).map_err(unreadable)?;
        let reply = self.repeat(verb, &request_id, body).await?;
        let read = serde_json::from_slice(&reply.body).map_err(unreadable)?;
        Ok((reply, read))
    }

    /// When a call that begins now ends.
    fn ends_ms(&self) -> u64 {
        self.clock.now_ms().saturating_add(millis(self.timeouts.call))
    }

    /// Repeats until there is a reply, a permanent failure, or no time left.
    async fn repeat(&self, verb: Verb, request_id: &str, body: Bytes) -> Result<Reply, ClientError> {
        let ends_ms = self.ends_ms();
        let leads_to_the_same = verb.leads_to_the_same();
        let attempt_max = verb.attempt_max(self.timeouts.attempt, self.timeouts.call);
        let request_key = self.random.fresh_id();
        let mut attempt = 1_u32;
        loop {
            let left = self.left_until(ends_ms).min(attempt_max);
            let context = Context {
                request_id: request_id.to_owned(),
                deadline_ms: Some(self.clock.now_ms().saturating_add(millis(left))),
                traceparent: None,
                idempotency_key: None,
                attempt: Some(Attempt { request_key: request_key.clone(), number: Some(attempt) }),
                principal: contract::Principal::default(),
            };
            let answered = self.transport.request(verb, &context, body.clone(), left).await;
            let FailedAttempt { error, again_after } = match answered {
                Ok(reply) if !reply.is_fault => return Ok(reply),
                Ok(reply) => refused(&reply, request_id, attempt),
                Err(reason) => {
                    let error = ClientError::Unanswered { reason, request_id: request_id.to_owned() };
                    FailedAttempt { error, again_after: Some(Duration::ZERO) }
                }
            };
            let again_after = again_after.filter(|_| leads_to_the_same || error.has_not_begun());
            let Some(wanted) = again_after else { return Err(error) };
            let longest = longest_pause(PAUSE_MIN, PAUSE_MAX, attempt);
            let pause = wanted + PAUSE_MIN + full_jitter(&*self.random, longest);
            // An attempt that starts at the deadline cannot succeed.
            if pause >= self.left_until(ends_ms) {
                return Err(error);
            }
            tracing::debug!(request.id = request_id, request.verb = verb.as_str(), %error, "asking again");
            self.clock.sleep(pause).await;
            attempt = attempt.saturating_add(1);
        }
    }

    fn left_until(&self, moment_ms: u64) -> Duration {
        Duration::from_millis(moment_ms.saturating_sub(self.clock.now_ms()))
    }
}

/// Decides about the next attempt after a failure reply.
fn refused(reply: &Reply, request_id: &str, attempt: u32) -> FailedAttempt {
    let detail = match serde_json::from_slice::<FaultBody>(&reply.body) {
        Ok(FaultBody { detail }) => detail,
        // A code that is newer than this build, or a reply of a proxy.
        Err(error) => {
            let error =
                ClientError::Unreadable { problem: error.to_string(), request_id: request_id.to_owned() };
            return FailedAttempt { error, again_after: Some(Duration::ZERO) };
        }
    };
    let advised = Duration::from_secs(detail.retry_after.unwrap_or_default().into());
    let again_after = match detail.code.repeat() {
        Repeat::Never => None,
        Repeat::Once => (attempt == 1).then_some(advised),
        Repeat::After => Some(advised),
    };
    let refusal = Refusal {
        code: detail.code,
        message: detail.message,
        request_id: detail.request_id,
        retry_after_seconds: detail.retry_after,
    };
    FailedAttempt { error: refusal.into(), again_after }
}

fn own(id: &SandboxId, owner: &OwnerId) -> SandboxRequest {
    SandboxRequest { sandbox_id: id.to_string(), owner: owner.to_string(), by: None }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
