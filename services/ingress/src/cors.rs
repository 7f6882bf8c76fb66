//! Which web pages may call the API (CORS): none, unless the operator configures their origins.
//!
//! Credentials are never allowed: the API only has bearer tokens, which the page has to store itself.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

/// The permitted pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// None.
    #[default]
    Disabled,
    /// Pages of these origins.
    These(Vec<HeaderValue>),
    /// All pages.
    Any,
}

const ALLOW_METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
const ALLOW_HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Idempotency-Key, X-Instruqt-Sandbox-ID, X-Instruqt-Track-ID, \
     Last-Event-ID, X-Lab-Duration, X-Lease-Epoch, X-Operator, X-Request-ID, X-Sandbox-Name-Prefix, X-Sandbox-Pool, X-Sandbox-Warm, X-Track-ID",
);
const EXPOSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "Location, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-ID",
);
/// How long a browser may cache the answer to a preflight: an hour, in seconds.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("3600");

// === impl Cors ===

impl Cors {
    /// The value of `Access-Control-Allow-Origin` for this request; none if its page may not call.
    pub(crate) fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        match self {
            Self::Disabled => None,
            Self::These(origins) => origins.iter().find(|allowed| *allowed == origin).cloned(),
            Self::Any => Some(HeaderValue::from_static("*")),
        }
    }

    /// The answer to a preflight request; none if this is not one, or its page may not call. The latter is answered
    /// like any other `OPTIONS`: 405.
    pub(crate) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        let is_preflight =
            method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight || self.allowed_origin(headers).is_none() {
            return None;
        }
        let mut response = (StatusCode::NO_CONTENT, Body::empty()).into_response();
        let answer = response.headers_mut();
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, ALLOW_METHODS);
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS);
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
        Some(response)
    }

    /// Adds the permission to an answer, if there is one.
    pub(crate) fn permit(&self, allowed_origin: Option<HeaderValue>, answer: &mut HeaderMap) {
        // The answer depends on the origin, and caches have to know that.
        if matches!(self, Self::These(_)) {
            answer.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = allowed_origin {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSE_HEADERS);
        }
    }
}
