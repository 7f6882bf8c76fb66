//! The failures that a worker answers with: one message for each code.

use super::message::{Header, Message};
use super::schemas::Schemas;
use contract::{Fault, FaultBody, FaultCode};
use serde_json::json;

/// The request id of examples.
const REQUEST_ID: &str = "r-1";

/// Whether a worker ever says it; the others are said by the HTTP face alone.
pub(super) const fn is_on_nats(code: FaultCode) -> bool {
    meaning(code).is_some()
}

/// What it means to who sent a request on NATS; none for what only the HTTP face says.
const fn meaning(code: FaultCode) -> Option<&'static str> {
    Some(match code {
        FaultCode::Unauthorized
        | FaultCode::MethodNotAllowed
        | FaultCode::RequestTimeout
        | FaultCode::HeadTooLarge
        | FaultCode::RateLimitExceeded => return None,
        FaultCode::MissingSandboxId => "no owner was named",
        FaultCode::InvalidRequest => "the body or a field of it cannot be used",
        FaultCode::Forbidden => "the sandbox or the pool lies outside of the request's `pools`",
        FaultCode::NotSandboxOwner => "the sandbox is held by another owner",
        FaultCode::NotFound => "there is no such thing",
        FaultCode::BodyTooLarge => "the body is larger than 64 KiB",
        FaultCode::PoolExhausted => "no sandbox is free for this pool and name prefix",
        FaultCode::KeyInUse => "the key belongs to a request that asked for something else",
        FaultCode::InvalidState => "the state of the sandbox does not allow this",
        FaultCode::AllocationExpired => "the lease is over, or the one that this request was answered by",
        FaultCode::Contended => "others were faster until the deadline",
        FaultCode::NoWorkers => "every worker is busy",
        FaultCode::NotHere => "this worker does not serve the pool; another one may",
        FaultCode::StoreUnavailable => "the table does not answer; it may have been done",
        FaultCode::StoreThrottled => {
            "the table has more to do than it is provisioned for; it may have been done in part"
        }
        FaultCode::UpstreamUnavailable => "the queue or the provider does not answer; it may have been done",
        FaultCode::Timeout => "the deadline passed; it may have been done",
        FaultCode::InternalError => "a bug of ours",
    })
}

/// The name of its message: `FaultPoolExhausted` for `POOL_EXHAUSTED`.
pub(super) fn name(code: FaultCode) -> String {
    let words = code.as_str().split('_').map(|word| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        format!("{first}{}", rest.to_ascii_lowercase())
    });
    format!("Fault{}", words.collect::<String>())
}

/// Its message.
///
/// # Errors
/// When its schema is no JSON.
pub(super) fn message(code: FaultCode, schemas: &mut Schemas) -> anyhow::Result<Message> {
    let said = meaning(code).unwrap_or_default();
    let mut message =
        Message::of::<FaultBody>(name(code), format!("{}: {said}", code.as_str()), &[], schemas)?
            .with_headers(&[Header::RequestId], &[Header::ServiceError, Header::ServiceErrorCode]);
    let is_this =
        json!({ "properties": { "detail": { "properties": { "code": { "const": code.as_str() } } } } });
    message.payload = json!({ "allOf": [message.payload, is_this] });
    message.examples = vec![serde_json::to_value(Fault::new(code, said).body(REQUEST_ID))?];
    message.more.insert("x-code".to_owned(), code.as_str().into());
    message.more.insert("x-status".to_owned(), code.status().into());
    message.more.insert("x-repeat".to_owned(), code.repeat().as_str().into());
    Ok(message)
}
