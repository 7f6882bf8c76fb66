//! What attackers send.

/// Bytes of a head that is far too long.
pub(super) const HEAD_BYTES: usize = 1_024 * 1_024;
/// Bytes of a body that is far too long.
pub(super) const BODY_BYTES: usize = 100_000_000;
/// Bytes that are written at once.
pub(super) const CHUNK_BYTES: usize = 16 * 1_024;

/// What a head begins with that never ends.
pub(super) const DRIBBLED: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: b\r\nX: ";
/// The same, with more than a head may have behind it.
pub(super) const LONG_HEAD: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: b\r\n";
/// One line of it.
pub(super) const LONG_HEAD_LINE: &[u8] =
    b"X-Long: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n";

/// Heads of large bodies: one that is announced, and one that is not.
pub(super) fn body_head(number: u64) -> Vec<u8> {
    if number.is_multiple_of(2) {
        format!("GET /healthz HTTP/1.1\r\nHost: b\r\nContent-Length: {BODY_BYTES}\r\n\r\n").into_bytes()
    } else {
        b"GET /healthz HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n5f5e100\r\n".to_vec()
    }
}

/// Bytes that are no UTF-8, where text is expected.
pub(super) const INVALID_UTF8: [&[u8]; 4] = [
    b"GET /v1/\xff\xfe\xfd HTTP/1.1\r\nHost: b\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: \xc3\x28\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: b\r\nX-\xf0\x28\x8c\x28: y\r\n\r\n",
    b"POST /v1/allocate HTTP/1.1\r\nHost: b\r\nX: \0\xff\r\n\r\n",
];

/// Requests that two readers could read in two ways, each with a second request in it.
pub(super) const SMUGGLING: [&[u8]; 6] = [
    b"POST /healthz HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /readyz HTTP/1.1\r\nHost: b\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\nContent-Length: 34\r\n\r\nGET /readyz HTTP/1.1\r\nHost: b\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET /readyz HTTP/1.1\r\nHost: b\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: b\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /readyz HTTP/1.1\r\nHost: b\r\n\r\n",
    b"POST /healthz HTTP/1.1\nHost: b\nContent-Length: 0\n\nGET /readyz HTTP/1.1\r\nHost: b\r\n\r\n",
    b"GET http://other/ HTTP/1.1\r\nHost: b\r\n\r\nGET /readyz HTTP/1.1\r\nHost: b\r\n\r\n",
];
