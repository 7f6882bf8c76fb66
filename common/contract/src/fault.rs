//! The one shape of a failure, on NATS and over HTTP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, as a stable code. Programs act on it; its text never changes.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    strum::IntoStaticStr,
    strum::EnumIter,
)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FaultCode {
    /// No owner was named.
    MissingSandboxId,
    /// A field, header or body that cannot be used.
    InvalidRequest,
    /// No token, or an unknown one.
    Unauthorized,
    /// A known token without the right.
    Forbidden,
    /// The sandbox is another owner's.
    NotSandboxOwner,
    /// There is no such thing.
    NotFound,
    /// There is such a path, but not for this method.
    MethodNotAllowed,
    /// A request that did not arrive in time.
    RequestTimeout,
    /// More bytes than a body may have.
    BodyTooLarge,
    /// More bytes or lines than the head of a request may have.
    HeadTooLarge,
    /// The selector has no free sandbox.
    PoolExhausted,
    /// The key belongs to a request that asked for something else.
    KeyInUse,
    /// The sandbox is in a state that does not allow this.
    InvalidState,
    /// The lease is over.
    AllocationExpired,
    /// Too many requests.
    RateLimitExceeded,
    /// Free sandboxes exist, but others were faster until the deadline.
    Contended,
    /// No worker took the request.
    NoWorkers,
    /// This worker does not serve the pool; another one may.
    NotHere,
    /// The table does not answer.
    StoreUnavailable,
    /// The table refuses because it has more to do than it is provisioned for.
    StoreThrottled,
    /// The provider, or the queue, does not answer.
    UpstreamUnavailable,
    /// No answer before the deadline.
    Timeout,
    /// A bug of ours.
    InternalError,
}

/// Whether a request that failed may be sent again as it stands. This says whether it helps; it is safe for every verb
/// that [leads to the same](super::Verb::leads_to_the_same).
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Repeat {
    /// The answer would be the same: the caller has to change something first.
    Never,
    /// Once; then it is to be reported with its request id.
    Once,
    /// After the failure's own `retry_after`, for as long as the caller has time.
    After,
}

/// A failure: a stable code, a message for the caller, and when a retry makes sense. Causes stay inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The code.
    pub code: FaultCode,
    /// What to do about it, in words. Names no other owner and no internal cause.
    pub message: String,
    /// Seconds after which a retry makes sense; none where it does not help.
    pub retry_after_seconds: Option<u32>,
}

/// The body of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FaultBody {
    /// All of it; the level is there because lab scripts in the field read `.detail.code`.
    pub detail: FaultDetail,
}

/// What a failure's body says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FaultDetail {
    /// The code.
    pub code: FaultCode,
    /// The message.
    pub message: String,
    /// The request that failed.
    pub request_id: String,
    /// Seconds after which a retry makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
}

/// Seconds that a caller is asked to wait when the pool is empty: about a fifth of what making a sandbox takes.
pub const RETRY_AFTER_EXHAUSTED_SECONDS: u32 = 30;
/// Seconds that a caller is asked to wait when something is briefly busy or away.
pub const RETRY_AFTER_BUSY_SECONDS: u32 = 1;
/// Seconds that a caller is asked to wait when something that we need is down.
pub const RETRY_AFTER_DOWN_SECONDS: u32 = 5;

// === impl FaultCode ===

impl FaultCode {
    /// The HTTP status, and the number in the NATS service error header: the one table of both.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::MissingSandboxId | Self::InvalidRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden | Self::NotSandboxOwner => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::PoolExhausted | Self::KeyInUse | Self::InvalidState => 409,
            Self::AllocationExpired => 410,
            Self::BodyTooLarge => 413,
            Self::RateLimitExceeded => 429,
            Self::HeadTooLarge => 431,
            Self::InternalError => 500,
            Self::Contended
            | Self::NoWorkers
            | Self::NotHere
            | Self::StoreUnavailable
            | Self::StoreThrottled
            | Self::UpstreamUnavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// The code as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether a request that failed so may be sent again.
    #[must_use]
    pub const fn repeat(self) -> Repeat {
        match self {
            Self::PoolExhausted
            | Self::RateLimitExceeded
            | Self::Contended
            | Self::NoWorkers
            | Self::NotHere
            | Self::StoreUnavailable
            | Self::StoreThrottled
            | Self::UpstreamUnavailable
            | Self::Timeout => Repeat::After,
            Self::InternalError | Self::RequestTimeout => Repeat::Once,
            Self::MissingSandboxId
            | Self::InvalidRequest
            | Self::Unauthorized
            | Self::Forbidden
            | Self::NotSandboxOwner
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::BodyTooLarge
            | Self::HeadTooLarge
            | Self::KeyInUse
            | Self::InvalidState
            | Self::AllocationExpired => Repeat::Never,
        }
    }

    /// Whether no worker began with a request that failed so, and that therefore may be sent again whatever it does.
    #[must_use]
    pub const fn has_not_begun(self) -> bool {
        matches!(self, Self::NoWorkers | Self::NotHere | Self::RateLimitExceeded)
    }

    const fn retry_after_seconds(self) -> Option<u32> {
        match self {
            Self::PoolExhausted => Some(RETRY_AFTER_EXHAUSTED_SECONDS),
            Self::Contended
            | Self::NoWorkers
            | Self::NotHere
            | Self::StoreThrottled
            | Self::Timeout
            | Self::RateLimitExceeded => Some(RETRY_AFTER_BUSY_SECONDS),
            Self::StoreUnavailable | Self::UpstreamUnavailable => Some(RETRY_AFTER_DOWN_SECONDS),
            _ => None,
        }
    }
}

/// Longest message about a field that cannot be used, in characters.
pub const INVALID_MESSAGE_CHARS_MAX: usize = 500;

// === impl Repeat ===

impl Repeat {
    /// As the documents write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl Fault ===

impl Fault {
    /// A failure with the usual retry advice of its code.
    #[must_use]
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_seconds: code.retry_after_seconds() }
    }

    /// A field that cannot be used, and why, in one line of at most [`INVALID_MESSAGE_CHARS_MAX`] characters: a parser's
    /// words may hold a piece of what it refused.
    #[must_use]
    pub fn invalid(field: &str, problem: impl std::fmt::Display) -> Self {
        let message = format!("{field} {problem}");
        let chars = message.chars().take(INVALID_MESSAGE_CHARS_MAX);
        let line: String = chars.map(|char| if char.is_control() { ' ' } else { char }).collect();
        Self::new(FaultCode::InvalidRequest, line)
    }

    /// The body that says so.
    #[must_use]
    pub fn body(&self, request_id: &str) -> FaultBody {
        FaultBody {
            detail: FaultDetail {
                code: self.code,
                message: self.message.clone(),
                request_id: request_id.to_owned(),
                retry_after: self.retry_after_seconds,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator as _;

    #[test]
    fn invalid_input_message_is_sanitised_and_truncated() {
        let hostile = format!("holds `a\nb\u{7f}{}`", "x".repeat(2 * INVALID_MESSAGE_CHARS_MAX));
        let message = Fault::invalid("the body", hostile).message;
        assert!(message.starts_with("the body holds `a b x"), "{message}");
        assert_eq!(message.chars().count(), INVALID_MESSAGE_CHARS_MAX);
    }

    #[test]
    fn only_retryable_codes_advise_a_retry_after() {
        for code in FaultCode::iter() {
            let says_when = Fault::new(code, "").retry_after_seconds.is_some();
            assert_eq!(says_when, code.repeat() == Repeat::After, "{}", code.as_str());
        }
    }

    #[test]
    fn code_string_matches_its_json() {
        for code in FaultCode::iter() {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn body_contains_retry_after_only_if_retryable() {
        let body = Fault::new(FaultCode::PoolExhausted, "no free sandbox").body("r-1");
        assert_eq!(
            serde_json::to_value(body).unwrap(),
            serde_json::json!({"detail": {
                "code": "POOL_EXHAUSTED", "message": "no free sandbox", "request_id": "r-1", "retry_after": 30,
            }})
        );
        let body = Fault::new(FaultCode::NotFound, "no such sandbox").body("r-2");
        assert!(serde_json::to_value(body).unwrap()["detail"].get("retry_after").is_none());
    }
}
