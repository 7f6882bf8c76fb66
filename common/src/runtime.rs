//! What every role needs around its work: settings, log lines, an orderly stop, and its own small HTTP port.

pub mod metrics;
pub mod ops;
pub mod policy;
pub mod recorder;
pub mod settings;
pub mod shutdown;
pub mod skew;
pub mod switch;
pub mod telemetry;

/// Chooses the one TLS back end of the process. async-nats builds its TLS settings from the process-wide
/// choice and panics without one, so every way into the fleet calls this; only the first call counts.
pub fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
