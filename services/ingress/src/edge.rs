//! What holds for every answer, whichever route made it: request id, error shape, headers, log line.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use contract::{Fault, FaultCode};
use futures_util::FutureExt as _;
use ports::random::Random;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::access::Entry;
use crate::cors::Cors;
use crate::error::{self, Failure};
use crate::listener::Refusal;
use crate::metrics::Metrics;
use crate::rates::Rates;
use crate::rates::peer::TrustedProxies;
use crate::request_id::{Facts, REQUEST_ID_HEADER};
use crate::routes;

/// What the edge needs.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) random: Arc<dyn Random>,
    pub(crate) metrics: Metrics,
    pub(crate) cors: Arc<Cors>,
    pub(crate) hsts_enabled: bool,
    pub(crate) rates: Rates,
    pub(crate) proxies: Arc<TrustedProxies>,
    pub(crate) stop: CancellationToken,
}

/// Every answer is data for a program: nothing may render, frame, guess or keep it.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 7] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // Browsers of today ignore it; the predecessor sent it, and scanners ask for it.
    (header::X_XSS_PROTECTION, HeaderValue::from_static("1; mode=block")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("geolocation=(), microphone=(), camera=()"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
];

/// What load balancers ask.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// A year, in seconds; what preload lists ask for.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");

/// Stands around all routes.
pub(crate) async fn stand(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let facts = Facts::of(request.headers(), &*edge.random);
    let entry = Entry::begin(&edge.metrics, &facts, &request);
    let allowed_origin = edge.cors.allowed_origin(request.headers());
    request.extensions_mut().insert(facts.clone());
    let refusal = request.extensions().get::<Refusal>().copied();
    let early = match refusal {
        Some(refusal) => Some(Failure::from(refusal.fault()).into_response()),
        None => edge.limit_peer(&request),
    };
    let mut response = match early.or_else(|| edge.cors.preflight(request.method(), request.headers())) {
        Some(answer) => answer,
        None => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(answer) => answer,
            Err(panic) => answer_panic(&facts, &*panic),
        },
    };
    error::write_body(&mut response, &facts.request_id);
    edge.cors.permit(allowed_origin, response.headers_mut());
    edge.add_headers(&facts, &mut response);
    entry.end(&response);
    response
}

/// The answer on a path without a route: a redirect if only a slash at its end is too many, as from the predecessor.
pub(crate) async fn no_such_path(uri: Uri) -> Response {
    match without_slash(&uri) {
        Some(location) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response(),
        None => Failure::from(Fault::new(FaultCode::NotFound, "there is no such path")).into_response(),
    }
}

/// The path of a route with the query of `uri`. Never another host: no path of a route begins with two slashes.
fn without_slash(uri: &Uri) -> Option<HeaderValue> {
    let path = uri.path().strip_suffix('/').filter(|path| routes::is_path(path))?;
    let location = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    HeaderValue::from_str(&location).ok()
}

/// The answer to a method that a path does not know; axum adds `Allow`.
pub(crate) async fn no_such_method() -> Failure {
    Fault::new(FaultCode::MethodNotAllowed, "this path does not know this method; see `Allow`").into()
}

// === impl Edge ===

impl Edge {
    /// The answer to an address that asks too often, before anything is done for it. Probes are never refused:
    /// an ingress in demand must not be taken for one that is down.
    fn limit_peer(&self, request: &Request) -> Option<Response> {
        if PROBES.contains(&request.uri().path()) {
            return None;
        }
        let (fault, rate_status) = self.rates.count_peer(self.proxies.origin(request)?).err()?;
        let mut response = Failure::from(fault).into_response();
        rate_status.write(response.headers_mut());
        Some(response)
    }

    fn add_headers(&self, facts: &Facts, response: &mut Response) {
        let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let answer = response.headers_mut();
        for (name, value) in SECURITY_HEADERS {
            // A page says itself what it may load; everything else may load nothing.
            answer.entry(name).or_insert(value);
        }
        if self.hsts_enabled {
            answer.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
        }
        // A request id is visible ASCII, which every header may hold.
        if let Ok(id) = HeaderValue::from_str(facts.request_id.as_str()) {
            answer.insert(HeaderName::from_static(REQUEST_ID_HEADER), id);
        }
        // A caller that kept its connection learns here that it needs another one.
        if self.stop.is_cancelled() && !is_upgrade {
            answer.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

fn answer_panic(facts: &Facts, panic: &(dyn Any + Send)) -> Response {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    tracing::error!(request.id = facts.request_id.as_str(), panic.message = words, "a handler panicked");
    let fault = Fault::new(FaultCode::InternalError, "the broker made a mistake; it has been logged");
    Failure::from(fault).into_response()
}
