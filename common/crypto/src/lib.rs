//! The TLS back end.

/// Chooses the one TLS back end of the process. async-nats builds its TLS settings from the process-wide
/// choice and panics without one, so every way into the fleet calls this; only the first call counts.
pub fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
