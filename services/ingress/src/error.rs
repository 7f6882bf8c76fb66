//! Faults as HTTP answers. The status comes from [`FaultCode::status`].

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use contract::fault::RETRY_AFTER_BUSY_SECONDS;
use contract::{Fault, FaultBody, FaultCode};
use ports::bus::Reply;
use std::time::Duration;

use crate::request_id::RequestId;

/// A failure without its body, which is written at the edge, where the request id is known.
#[derive(Debug)]
pub(crate) struct Failure(Fault);

/// Most characters of foreign text that is shown to a caller.
const FOREIGN_TEXT_CHARS_MAX: usize = 200;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The worker's reply, unchanged.
pub(crate) fn pass_on(reply: Reply, success: StatusCode) -> Response {
    let Reply { outcome: _, is_fault, body } = reply;
    if !is_fault {
        return json(success, body);
    }
    let Some((code, retry_after_seconds)) = fault_of(&body) else {
        return Failure::from(Fault::new(FaultCode::InternalError, "a worker's answer could not be read"))
            .into_response();
    };
    let mut response = json(status(code), body);
    set_retry_after(&mut response, retry_after_seconds);
    response.extensions_mut().insert(code);
    response
}

/// Whether the worker does not serve the pool, so that another worker may.
pub(crate) fn is_not_here(reply: &Reply) -> bool {
    reply.is_fault && fault_of(&reply.body).is_some_and(|(code, _)| code == FaultCode::NotHere)
}

/// The time after which a busy worker will have capacity; none if the reply says something else.
pub(crate) fn busy_for(reply: &Reply) -> Option<Duration> {
    let (code, retry_after_seconds) = fault_of(&reply.body).filter(|_| reply.is_fault)?;
    let seconds = retry_after_seconds.unwrap_or(RETRY_AFTER_BUSY_SECONDS);
    (code == FaultCode::NoWorkers).then(|| Duration::from_secs(u64::from(seconds)))
}

/// Whether the worker gave up because the deadline of the attempt passed.
pub(crate) fn is_late(reply: &Reply) -> bool {
    reply.is_fault && fault_of(&reply.body).is_some_and(|(code, _)| code == FaultCode::Timeout)
}

/// Whether the failure leaves open whether the work was done.
pub(crate) fn is_open_end(reply: &Reply) -> bool {
    let open = [FaultCode::Timeout, FaultCode::StoreUnavailable, FaultCode::InternalError];
    reply.is_fault && fault_of(&reply.body).is_none_or(|(code, _)| open.contains(&code))
}

/// Writes the body of a failure, if the answer is one.
pub(crate) fn write_body(response: &mut Response, request_id: &RequestId) {
    if let Some(Fault { code, message, retry_after_seconds }) = response.extensions_mut().remove::<Fault>() {
        let body = Fault { code, message, retry_after_seconds }.body(request_id.as_str());
        // A fault contains texts and numbers only, which JSON can always represent.
        *response.body_mut() = Body::from(serde_json::to_vec(&body).unwrap_or_default());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        set_retry_after(response, retry_after_seconds);
        response.extensions_mut().insert(code);
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}

/// A JSON body.
pub(crate) fn json(status: StatusCode, body: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// A foreign text that is safe to show: one line, cut, without addresses.
pub(crate) fn public_words(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        let may_be_address = word.contains("://") || word.contains('@');
        if may_be_address { "(address withheld)" } else { word }
    });
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars().filter(|one| !one.is_control()).take(FOREIGN_TEXT_CHARS_MAX).collect()
}

// === impl Failure ===

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = status(self.0.code).into_response();
        response.extensions_mut().insert(self.0);
        response
    }
}

fn status(code: FaultCode) -> StatusCode {
    // All statuses of the contract are valid HTTP statuses; a test checks that.
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn fault_of(body: &[u8]) -> Option<(FaultCode, Option<u32>)> {
    let FaultBody { detail } = serde_json::from_slice(body).ok()?;
    Some((detail.code, detail.retry_after))
}

fn set_retry_after(response: &mut Response, seconds: Option<u32>) {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator as _;

    #[test]
    fn every_code_has_an_http_status_of_an_error() {
        for code in FaultCode::iter() {
            let status = status(code);
            assert_eq!(status.as_u16(), code.status());
            assert!(status.is_client_error() || status.is_server_error(), "{code:?}");
        }
    }

    #[test]
    fn every_code_is_documented() {
        let page = include_str!("../../../docs/errors.md");
        for code in FaultCode::iter() {
            let row = format!("| `{}` | {} |", code.as_str(), code.status());
            assert!(page.contains(&row), "docs/errors.md has no row {row}");
        }
    }

    #[test]
    fn foreign_text_is_one_line_without_addresses() {
        let text = "listing\nfailed:\thttps://csp.example/v2?key=k for a@b.example";
        assert_eq!(public_words(text), "listing failed: (address withheld) for (address withheld)");
        assert_eq!(public_words(&"x".repeat(500)).len(), FOREIGN_TEXT_CHARS_MAX);
        assert_eq!(public_words("a\u{7}b"), "ab");
    }
}
