//! How large what crosses NATS may be. Limits of single fields are those of the ids in `domain`.

/// Largest body of a request, in bytes. A claim is some hundred bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Longest request id that is taken over from a caller, in bytes of visible ASCII.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
