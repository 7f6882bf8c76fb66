//! Metrics of connections.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};
use runtime::metrics::{Collectors, gauge_value};
use strum::IntoEnumIterator as _;

/// Why a connection ended or was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Closed {
    /// Ended normally, by either side.
    Ended,
    /// Failed, usually because the caller vanished.
    Failed,
    /// Idle for too long.
    Idle,
    /// The head of a request was too slow.
    HeadTooSlow,
    /// The bytes were not a valid request.
    Refused,
    /// Closed to make room, because it waited longest when all connections were in use.
    MadeRoom,
    /// The answer was not read.
    Unread,
    /// This ingress stopped.
    Stopping,
    /// The TLS handshake failed.
    Handshake,
    /// Its address had the maximum number of connections.
    Peer,
}

/// Handles of these metrics.
#[derive(Clone, Debug)]
pub(super) struct ConnectionMetrics {
    open: IntGauge,
    limit: IntGauge,
    closed: IntCounterVec,
    handshakes_failed: IntCounter,
    tls_files_bad: IntGauge,
}

// === impl Closed ===

impl Closed {
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl ConnectionMetrics ===

impl ConnectionMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            open: IntGauge::new("broker_http_connections", "HTTP connections that are open")?,
            limit: IntGauge::new(
                "broker_http_connections_limit",
                "Limit of open HTTP connections; at the limit, the one that waits longest makes room",
            )?,
            closed: IntCounterVec::new(
                Opts::new(
                    "broker_http_connections_closed_total",
                    "HTTP connections that ended or were rejected, by reason",
                ),
                &["reason"],
            )?,
            handshakes_failed: IntCounter::new(
                "broker_http_tls_handshakes_failed_total",
                "TLS handshakes that failed or took too long",
            )?,
            tls_files_bad: IntGauge::new(
                "broker_http_tls_files_bad",
                "1 while the TLS files cannot be used and older ones stay good",
            )?,
        };
        // Rates need an initial zero.
        for reason in Closed::iter() {
            metrics.closed.with_label_values(&[reason.as_str()]);
        }
        Ok(metrics)
    }

    pub(super) fn collectors(&self) -> Collectors {
        let Self { open, limit, closed, handshakes_failed, tls_files_bad } = self.clone();
        vec![
            Box::new(open),
            Box::new(limit),
            Box::new(closed),
            Box::new(handshakes_failed),
            Box::new(tls_files_bad),
        ]
    }
}

impl super::Metrics {
    pub(crate) fn connections_are(&self, open: usize) {
        self.connections.open.set(gauge_value(open));
    }

    pub(crate) fn connections_are_at_most(&self, limit: usize) {
        self.connections.limit.set(gauge_value(limit));
    }

    pub(crate) fn closed(&self, reason: Closed) {
        self.connections.closed.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn handshake_failed(&self) {
        self.connections.handshakes_failed.inc();
    }

    pub(crate) fn tls_files_are(&self, bad: bool) {
        self.connections.tls_files_bad.set(i64::from(bad));
    }
}
