//! Calls and their outcomes.

use bytes::Bytes;
use contract::claims::ClaimView;
use contract::nodes::{ExecutionRequest, ExecutionResult};
use contract::{
    AllocateRequest, Allocation, FaultBody, FaultCode, Outcome, ReleaseReply, SandboxRequest, SandboxView,
    Verb,
};
use domain::{NamePrefix, PoolName};
use ports::bus::{Context, Reply, RequestError, Requests};
use ports::clock::Clock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kind of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// A claim of an owner without a sandbox.
    Claim,
    /// The repeat of a claim.
    Replay,
    /// A release.
    Release,
    /// A look at the caller's own sandbox.
    Get,
    /// A command in the caller's container.
    Execute,
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A new lease.
    Created,
    /// The existing lease of the owner.
    Existing,
    /// Released.
    Released,
    /// Answered, to a call that grants nothing.
    Answered,
    /// A failure reply of the broker.
    Refused(FaultCode),
    /// No answer.
    Lost(RequestError),
    /// An answer that does not follow the contract.
    Unreadable,
}

/// One call, measured. Times are microseconds since the run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What was asked.
    pub call: Call,
    /// What became of it.
    pub ending: Ending,
    /// When it should have begun.
    pub intended_start_us: u64,
    /// When it began.
    pub start_us: u64,
    /// From the intended start to the answer: how long a caller that arrived at that moment waited.
    pub latency_us: u64,
}

/// The selector of all claims of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The pool; the broker's default pool without it.
    pub pool: Option<PoolName>,
    /// Only sandboxes whose name has this prefix.
    pub name_prefix: Option<NamePrefix>,
}

/// Sends requests over one transport, and reads the answers.
#[derive(Clone)]
pub struct Requester {
    /// The transport.
    pub transport: Arc<dyn Requests>,
    /// The clock of the broker's deadlines.
    pub clock: Arc<dyn Clock>,
    /// What claims ask for.
    pub selector: Selector,
    /// Time-out of an answer.
    pub patience: Duration,
}

/// An answer, with the moment that it came.
#[derive(Clone, Debug)]
pub struct Answered<T> {
    /// What became of the call.
    pub ending: Ending,
    /// What was answered, if it was granted.
    pub body: Option<T>,
    /// The retry time in the answer.
    pub retry_after: Option<Duration>,
    /// When the answer arrived, before it was parsed.
    pub at: Instant,
}

// === impl Call ===

impl Call {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl Ending ===

impl Ending {
    /// Its name: lower case for what the caller wanted, the code of a failure, lower case for no answer.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Existing => "existing",
            Self::Released => "released",
            Self::Answered => "answered",
            Self::Refused(code) => code.as_str(),
            Self::Lost(RequestError::NoResponders) => "no_responders",
            Self::Lost(RequestError::TimedOut) => "timed_out",
            Self::Lost(RequestError::Disconnected) => "disconnected",
            Self::Unreadable => "unreadable",
        }
    }

    /// Whether the caller got what it wanted.
    #[must_use]
    pub const fn is_granted(self) -> bool {
        matches!(self, Self::Created | Self::Existing | Self::Released | Self::Answered)
    }

    /// Whether the next claim of the same kind can only have the same outcome: then a caller in a closed loop stops
    /// instead of counting refusals.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Refused(
                FaultCode::PoolExhausted
                    | FaultCode::InvalidRequest
                    | FaultCode::Unauthorized
                    | FaultCode::Forbidden
                    | FaultCode::NotFound
                    | FaultCode::MethodNotAllowed
            )
        )
    }
}

// === impl Requester ===

impl Requester {
    /// Claims a sandbox for `owner`. `call` is the request id, for the broker's logs.
    pub async fn claim(&self, owner: &str, call: Call) -> Answered<Allocation> {
        let Selector { pool, name_prefix } = &self.selector;
        let request = AllocateRequest {
            owner: owner.to_owned(),
            pool: pool.as_ref().map(ToString::to_string),
            name_prefix: name_prefix.as_ref().map(ToString::to_string),
            ..AllocateRequest::default()
        };
        let (reply, at) = self.ask(Verb::Allocate, owner, call, &request).await;
        let granted = |reply: &Reply| match reply.outcome {
            Some(Outcome::Created) => Some(Ending::Created),
            Some(Outcome::Existing) => Some(Ending::Existing),
            None => None,
        };
        read(reply, at, granted)
    }

    /// Claims a sandbox for `owner` by the native request.
    pub async fn claim_native(&self, owner: &str) -> Answered<ClaimView> {
        let pool = self.selector.pool.as_ref().map(ToString::to_string);
        let request = AllocateRequest { owner: owner.to_owned(), pool, ..AllocateRequest::default() };
        let (reply, at) = self.ask(Verb::Claim, owner, Call::Claim, &request).await;
        read(reply, at, |reply| reply.outcome.map(|_| Ending::Created))
    }

    /// Releases a sandbox.
    pub async fn release(&self, owner: &str, sandbox_id: &str) -> Answered<ReleaseReply> {
        let request = SandboxRequest { sandbox_id: sandbox_id.to_owned(), owner: owner.to_owned(), by: None };
        let (reply, at) = self.ask(Verb::Release, owner, Call::Release, &request).await;
        read(reply, at, |_| Some(Ending::Released))
    }

    /// Looks at a sandbox of `owner`.
    pub async fn view(&self, owner: &str, sandbox_id: &str) -> Answered<SandboxView> {
        let request = SandboxRequest { sandbox_id: sandbox_id.to_owned(), owner: owner.to_owned(), by: None };
        let (reply, at) = self.ask(Verb::Get, owner, Call::Get, &request).await;
        read(reply, at, |_| Some(Ending::Answered))
    }

    /// Runs a command in a container of `owner` and waits for its end.
    pub async fn execute(
        &self,
        owner: &str,
        sandbox_id: &str,
        command: &[&str],
    ) -> Answered<ExecutionResult> {
        let request = ExecutionRequest {
            sandbox_id: sandbox_id.to_owned(),
            owner: owner.to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            ..ExecutionRequest::default()
        };
        let (reply, at) = self.ask(Verb::Execute, owner, Call::Execute, &request).await;
        read(reply, at, |_| Some(Ending::Answered))
    }

    async fn ask<T: Serialize>(
        &self,
        verb: Verb,
        owner: &str,
        call: Call,
        request: &T,
    ) -> (Result<Reply, RequestError>, Instant) {
        let patience_ms = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        let context = Context {
            request_id: format!("{owner}-{}", call.as_str()),
            deadline_ms: Some(self.clock.now_ms().saturating_add(patience_ms)),
            traceparent: None,
            idempotency_key: None,
            attempt: None,
            principal: contract::Principal::default(),
        };
        // A struct of texts and numbers always has a JSON form.
        let body = serde_json::to_vec(request).map(Bytes::from).unwrap_or_default();
        let reply = self.transport.request(verb, &context, body, self.patience).await;
        (reply, Instant::now())
    }
}

fn read<T: DeserializeOwned>(
    reply: Result<Reply, RequestError>,
    at: Instant,
    granted: impl FnOnce(&Reply) -> Option<Ending>,
) -> Answered<T> {
    let without_body = |ending| Answered { ending, body: None, retry_after: None, at };
    let unreadable = without_body(Ending::Unreadable);
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return without_body(Ending::Lost(error)),
    };
    if reply.is_fault {
        return match serde_json::from_slice::<FaultBody>(&reply.body) {
            Ok(FaultBody { detail }) => Answered {
                retry_after: detail.retry_after.map(|seconds| Duration::from_secs(seconds.into())),
                ..without_body(Ending::Refused(detail.code))
            },
            Err(_) => unreadable,
        };
    }
    match (granted(&reply), serde_json::from_slice(&reply.body)) {
        (Some(ending), Ok(body)) => Answered { ending, body: Some(body), retry_after: None, at },
        _ => unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(outcome: Option<Outcome>, is_fault: bool, body: &'static str) -> Result<Reply, RequestError> {
        Ok(Reply { outcome, is_fault, body: Bytes::from_static(body.as_bytes()) })
    }

    fn ending(reply: Result<Reply, RequestError>) -> Ending {
        let granted = |reply: &Reply| reply.outcome.map(|_| Ending::Created);
        read::<ReleaseReply>(reply, Instant::now(), granted).ending
    }

    #[test]
    fn reply_counts_only_if_it_follows_the_contract() {
        let body = r#"{"sandbox_id":"7","status":"pending_deletion","deletion_requested_at":1}"#;
        assert_eq!(ending(reply(Some(Outcome::Created), false, body)), Ending::Created);
        assert_eq!(ending(reply(None, false, body)), Ending::Unreadable);
        assert_eq!(ending(reply(Some(Outcome::Created), false, "{}")), Ending::Unreadable);
        assert_eq!(ending(reply(None, true, "<html>")), Ending::Unreadable);
        assert_eq!(ending(Err(RequestError::TimedOut)), Ending::Lost(RequestError::TimedOut));
    }

    #[test]
    fn a_failure_is_known_by_its_code() {
        let body = r#"{"detail":{"code":"POOL_EXHAUSTED","message":"m","request_id":"r","retry_after":30}}"#;
        let ended = ending(reply(None, true, body));
        assert_eq!(ended, Ending::Refused(FaultCode::PoolExhausted));
        assert_eq!(ended.as_str(), "POOL_EXHAUSTED");
        assert!(ended.is_final() && !ended.is_granted());
        assert!(!Ending::Refused(FaultCode::Contended).is_final());
    }
}
