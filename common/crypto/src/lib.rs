//! The TLS back end.

/// Installs the TLS back end of the process. async-nats builds its TLS settings from the process-wide default and
/// panics without one, so every entry point calls this; only the first call has an effect.
pub fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
