//! The operations port of a role: `/healthz`, `/readyz`, `/metrics`.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ports::clock::Clock;
use prometheus::TextEncoder;
use runtime::check::Check;
use runtime::predecessor::metrics::Exporter;
use socket2::{SockRef, TcpKeepalive};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Time-out of a readiness check; a load balancer asks every few seconds.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time that a peer may leave bytes or keepalive probes unacknowledged before its connection is closed. Event
/// streams send a heartbeat every 15 s, so a reader that has vanished is noticed within 30 s.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(12);
/// Idle time of a connection before the first keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Time between two keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(4);

/// What the operations port serves.
#[derive(Clone)]
pub struct Ops {
    /// The process's metrics.
    pub metrics: Exporter,
    /// What readiness depends on.
    pub checks: Arc<[Arc<dyn Check>]>,
    /// Cancelled when the role stops: it is alive but not ready.
    pub stop: CancellationToken,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

// === impl Ops ===

impl Ops {
    /// The three routes, to be served alone or merged into another router.
    pub fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(health))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    /// Serves the routes until `stop`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let stop = self.stop.clone();
        axum::serve(listener, self.router()).with_graceful_shutdown(stop.cancelled_owned()).await
    }

    /// The result of every check by name: `ok`, or the problem.
    pub async fn look(&self) -> (bool, BTreeMap<&'static str, String>) {
        let mut findings = BTreeMap::new();
        if self.stop.is_cancelled() {
            findings.insert("process", "stopping".to_owned());
        }
        for check in self.checks.iter() {
            let finding = match tokio::time::timeout(CHECK_TIMEOUT, check.check()).await {
                Ok(Ok(())) => "ok".to_owned(),
                Ok(Err(problem)) => problem,
                Err(_) => format!("no answer within {} s", CHECK_TIMEOUT.as_secs()),
            };
            findings.insert(check.name(), finding);
        }
        (findings.values().all(|finding| finding == "ok"), findings)
    }

    /// Notes for operators about problems that do not affect readiness, by check.
    pub async fn notes(&self) -> BTreeMap<&'static str, String> {
        let mut notes = BTreeMap::new();
        for check in self.checks.iter() {
            if let Ok(Some(note)) = tokio::time::timeout(CHECK_TIMEOUT, check.note()).await {
                notes.insert(check.name(), note);
            }
        }
        notes
    }
}

/// Binds `address`; an error names it. Connections to vanished peers are closed ([`PEER_SILENCE_MAX`]).
///
/// # Errors
/// When the address is in use, not local, or not permitted.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        notice_vanished_peers(&listener)?;
        Ok(listener)
    };
    bound.await.map_err(|error: std::io::Error| {
        std::io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Accepted connections inherit the options of the listener.
fn notice_vanished_peers(listener: &TcpListener) -> std::io::Result<()> {
    let socket = SockRef::from(listener);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    // On other systems only keepalive notices, after the system's number of probes.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(PEER_SILENCE_MAX))?;
    Ok(())
}

/// `GET /healthz`: the process is alive. The timestamp shows load balancers and people that no cache answered.
pub async fn health(State(ops): State<Ops>) -> Response {
    let timestamp = ops.clock.now().get();
    axum::Json(serde_json::json!({"status": "healthy", "timestamp": timestamp})).into_response()
}

/// `GET /readyz`: the result of every check.
pub async fn ready(State(ops): State<Ops>) -> Response {
    let (is_ready, checks) = ops.look().await;
    let (status, word) =
        if is_ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not_ready") };
    let notes = ops.notes().await;
    let body = if notes.is_empty() {
        serde_json::json!({"status": word, "checks": checks})
    } else {
        serde_json::json!({"status": word, "checks": checks, "notes": notes})
    };
    (status, axum::Json(body)).into_response()
}

/// `GET /metrics`: the metrics in the text format of Prometheus.
pub async fn metrics(State(ops): State<Ops>) -> Response {
    match TextEncoder::new().encode_to_string(&ops.metrics.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
