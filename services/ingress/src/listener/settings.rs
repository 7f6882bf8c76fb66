//! What an operator sets about connections.

use runtime::settings::Settings;
use std::time::Duration;

/// Limits of connections. Each field names its variable, its unit and its default.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// `HTTP_CONNECTIONS_MAX`: connections that may be open at once; 8,192.
    pub connections_max: usize,
    /// `HTTP_CONNECTIONS_PER_PEER_MAX`: connections that one address may have open at once; no limit (0).
    pub of_peer_max: usize,
    /// `HTTP_IDLE_MS`: longest time between two requests of a connection; 75,000.
    pub idle: Duration,
    /// `HTTP_HEAD_PATIENCE_MS`: longest time that a caller may take to send the head of a request; 10,000.
    pub head_patience: Duration,
    /// `HTTP_BODY_PATIENCE_MS`: longest time that a caller may take to send a body; 15,000.
    pub body_patience: Duration,
    /// `HTTP_WRITE_PATIENCE_MS`: longest time that a caller may take to read what was written; 30,000.
    pub write_patience: Duration,
    /// `HTTP_DRAIN_MS`: how long new connections are still accepted after the stop, while the ingress is not ready; 0.
    pub drain: Duration,
    /// `HTTP_LINGER_MS`: how long kept-alive connections are still served after that; 500.
    pub linger: Duration,
}

// === impl ConnectionConfig ===

impl ConnectionConfig {
    /// Reads every variable; mistakes are noted in `settings`.
    pub(crate) fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            connections_max: settings.size(
                "HTTP_CONNECTIONS_MAX",
                8_192,
                1..=1_000_000,
                "HTTP connections that may be open at once; beyond it, the one that waits longest for a request makes room",
            ),
            of_peer_max: settings.size(
                "HTTP_CONNECTIONS_PER_PEER_MAX",
                0,
                0..=1_000_000,
                "HTTP connections that one address may have open at once, those in `TRUSTED_PROXIES` excepted; 0: no limit",
            ),
            idle: settings.millis(
                "HTTP_IDLE_MS",
                // Longer than the 60 s that load balancers keep an idle connection: they should close first, or a
                // request gets lost.
                75_000,
                10..=3_600_000,
                "longest time between two requests of a connection, in milliseconds",
            ),
            head_patience: settings.millis(
                "HTTP_HEAD_PATIENCE_MS",
                10_000,
                10..=60_000,
                "longest time that a caller may take to send the head of a request, in milliseconds",
            ),
            body_patience: settings.millis(
                "HTTP_BODY_PATIENCE_MS",
                15_000,
                10..=60_000,
                "longest time that a caller may take to send the body of a request, in milliseconds",
            ),
            write_patience: settings.millis(
                "HTTP_WRITE_PATIENCE_MS",
                30_000,
                10..=600_000,
                "longest time until a caller has read what was written to it, in milliseconds",
            ),
            drain: settings.millis(
                "HTTP_DRAIN_MS",
                0,
                0..=300_000,
                "how long new connections are still accepted after the stop, while the ingress is not ready, in milliseconds; behind a load balancer, longer than it needs to notice",
            ),
            linger: settings.millis(
                "HTTP_LINGER_MS",
                500,
                0..=60_000,
                "how long kept-alive connections are still served after the stop and `HTTP_DRAIN_MS`, in milliseconds",
            ),
        }
    }
}
