//! Interprets refusals of JetStream, for streams and buckets.
//!
//! The client library distinguishes only some refusals, and reports the same one differently on a single server and in
//! a cluster. So this code looks for the server's error code among the causes of an error.

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use std::error::Error;

/// The server's text for too many messages on a subject. Its code covers every failure to store a message, a full disk
/// included.
const SUBJECT_FULL_TEXT: &str = "maximum messages per subject";

/// The meaning of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another message was first: read again and decide again.
    Conflict,
    /// Another message is being replicated: a conflict, but reads do not show that message yet.
    InFlight,
    /// The subject has its maximum number of messages.
    SubjectFull,
    /// The server says that JetStream, or the stream, accepts nothing at the moment.
    Unable,
    /// Any other error: the message may be stored.
    Other,
}

// === impl Refusal ===

impl Refusal {
    /// The meaning of `error`.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let Some(answer) = server_answer(error) else { return Self::Other };
        match answer.error_code() {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE => Self::Conflict,
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT | ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT => {
                Self::InFlight
            }
            ErrorCode::STREAM_STORE_FAILED if answer.to_string().contains(SUBJECT_FULL_TEXT) => {
                Self::SubjectFull
            }
            ErrorCode::STREAM_STORE_FAILED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::JETSTREAM_NOT_ENABLED
            | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
            | ErrorCode::TEMP_STORAGE_FAILED
            | ErrorCode::CLUSTER_NOT_ACTIVE
            | ErrorCode::CLUSTER_NOT_ASSIGNED
            | ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::CLUSTER_NO_PEERS => Self::Unable,
            _ => Self::Other,
        }
    }

    /// Whether another write was faster.
    pub(super) const fn is_conflict(self) -> bool {
        matches!(self, Self::Conflict | Self::InFlight)
    }
}

/// The server's answer among the causes of an error.
pub(super) fn server_answer<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a jetstream::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(answer) = error.downcast_ref::<jetstream::Error>() {
            return Some(answer);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::context::{PublishError, PublishErrorKind};
    use async_nats::jetstream::kv::{UpdateError, UpdateErrorKind};

    fn answer(code: u64, words: &str) -> jetstream::Error {
        let text = serde_json::json!({ "code": 400, "err_code": code, "description": words });
        serde_json::from_value(text).unwrap()
    }

    fn publish(code: u64, words: &str) -> PublishError {
        PublishError::with_source(PublishErrorKind::Other, answer(code, words))
    }

    #[test]
    fn refusals_are_classified_by_server_error_code() {
        let full = "maximum messages per subject exceeded";
        for (code, words, expected) in [
            (10_071, "wrong last sequence: 7", Refusal::Conflict),
            (10_164, "wrong last sequence", Refusal::InFlight),
            (10_158, "duplicate message id is in process", Refusal::InFlight),
            (10_077, full, Refusal::SubjectFull),
            (10_077, "no space left on device", Refusal::Unable),
            (10_008, "JetStream system temporarily unavailable", Refusal::Unable),
            (10_060, "expected stream does not match", Refusal::Other),
        ] {
            assert_eq!(Refusal::of(&publish(code, words)), expected, "{code} {words}");
            let update = UpdateError::with_source(UpdateErrorKind::Other, publish(code, words));
            assert_eq!(Refusal::of(&update), expected, "a bucket: {code} {words}");
        }
        assert_eq!(Refusal::of(&PublishError::new(PublishErrorKind::TimedOut)), Refusal::Other);
    }
}
