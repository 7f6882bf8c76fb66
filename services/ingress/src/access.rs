//! The single log line of each request, and its metrics.

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::response::Response;
use contract::FaultCode;
use domain::{OwnerId, SandboxId};
use tokio::time::Instant;

use crate::listener::Refusal;
use crate::metrics::{CALLER_GONE_STATUS, Metrics, UNMATCHED_ROUTE};
use crate::request_id::Facts;

/// A request in progress. Its line is written when it ends, even if it ends because its caller left.
pub(crate) struct Entry {
    metrics: Metrics,
    facts: Facts,
    method: Method,
    matched: Option<MatchedPath>,
    // Only measures and decides nothing, so it may be more precise than the Clock port, which counts milliseconds.
    began: Instant,
    /// It was refused before it was parsed as a request: any peer can cause as many of these lines as it opens
    /// connections.
    is_refused: bool,
    is_written: bool,
}

/// Routes that probes request every few seconds; successful answers are not logged at `info`.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

// === impl Entry ===

impl Entry {
    pub(crate) fn begin(metrics: &Metrics, facts: &Facts, request: &Request) -> Self {
        metrics.begun();
        Self {
            metrics: metrics.clone(),
            facts: facts.clone(),
            method: request.method().clone(),
            matched: request.extensions().get::<MatchedPath>().cloned(),
            began: Instant::now(),
            is_refused: request.extensions().get::<Refusal>().is_some(),
            is_written: false,
        }
    }

    pub(crate) fn end(mut self, response: &Response) {
        let code = response.extensions().get::<FaultCode>().copied();
        self.write(response.status().as_u16(), code);
    }

    fn write(&mut self, status: u16, code: Option<FaultCode>) {
        self.is_written = true;
        let took = self.began.elapsed();
        let method = self.method.as_str();
        let route = self.matched.as_ref().map_or(UNMATCHED_ROUTE, MatchedPath::as_str);
        self.metrics.ended(&self.method, route, status, took);
        if let Some(code) = code {
            self.metrics.faulted(code);
        }
        let duration_ms = took.as_secs_f64() * 1_000.0;
        let request_id = self.facts.request_id.as_str();
        let caller_name = self.facts.caller().map(|caller| caller.name.as_str());
        let owner_id = self.facts.owner().map(OwnerId::as_str);
        let sandbox_id = self.facts.sandbox().map(SandboxId::as_str);
        let fault_code = code.map(FaultCode::as_str);
        // The level belongs to the call site, so a line with a variable level needs a call site per level.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    http.method = method,
                    http.route = route,
                    http.status = status,
                    duration_ms,
                    request.id = request_id,
                    caller.name = caller_name,
                    owner.id = owner_id,
                    sandbox.id = sandbox_id,
                    fault.code = fault_code,
                    "{method} {route} {status}"
                )
            };
        }
        match status {
            _ if self.is_refused => line!(debug),
            500 => line!(error),
            501.. => line!(warn),
            ..400 if PROBES.contains(&route) => line!(debug),
            _ => line!(info),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.is_written {
            self.write(CALLER_GONE_STATUS, None);
        }
    }
}
