//! Answers in the CSP's formats.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

/// The default message of a 500: the predecessor's incident of 2025-11-18 in our words.
const LICENCE_MESSAGE: &str = "the licenses of the account cannot be read: the license service answered text/html \
                               instead of application/json";
/// The web page that replaces the API.
const MAINTENANCE_PAGE: &str =
    "<!DOCTYPE html>\n<html><head><title>Maintenance</title></head><body>Back soon.</body></html>\n";

/// A body of JSON.
pub(crate) fn json(status: u16, body: Value) -> Response {
    (status_code(status), Json(body)).into_response()
}

/// A failure in the CSP's format.
pub(crate) fn error(status: u16, message: &str) -> Response {
    json(status, json!({"error": [{"message": message}]}))
}

/// An injected failure.
pub(crate) fn failure(status: u16, message: Option<&str>, retry_after: Option<HeaderValue>) -> Response {
    let message = message.unwrap_or(match status {
        401 => "the token is not valid",
        403 => "the token has not this right",
        429 => "too many requests",
        500 => LICENCE_MESSAGE,
        503 => "the service is not available",
        _ => "the request failed",
    });
    let mut response = error(status, message);
    if let Some(retry_after) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after);
    }
    response
}

/// A web page in place of an answer.
pub(crate) fn garbage() -> Response {
    Html(MAINTENANCE_PAGE).into_response()
}

/// A body of that many bytes.
pub(crate) fn flood(bytes: u64) -> Response {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    ([(header::CONTENT_TYPE, "application/json")], vec![b' '; bytes]).into_response()
}

/// `Retry-After` in seconds, or as a date.
pub(crate) fn retry_after(seconds: u64, as_date: bool, now_ms: u64) -> HeaderValue {
    let date = || {
        let moment = moment((now_ms / 1_000).saturating_add(seconds))?.format(&Rfc2822).ok()?;
        // HTTP writes the zone as GMT.
        HeaderValue::from_str(&moment.replace("+0000", "GMT")).ok()
    };
    as_date.then(date).flatten().unwrap_or_else(|| HeaderValue::from(seconds))
}

/// Milliseconds since the Unix epoch in the CSP's time format.
pub(crate) fn timestamp(ms: u64) -> String {
    moment(ms / 1_000).and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_default()
}

fn moment(seconds: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_follow_csp_and_http_formats() {
        assert_eq!(timestamp(1_445_412_480_999), "2015-10-21T07:28:00Z");
        assert_eq!(retry_after(30, false, 0), "30");
        assert_eq!(retry_after(30, true, 1_445_412_480_000), "Wed, 21 Oct 2015 07:28:30 GMT");
    }
}
