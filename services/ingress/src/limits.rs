//! Limits on request bodies.

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use contract::{Fault, FaultCode};
use futures_util::StreamExt as _;
use ports::clock::Clock;
use std::time::Duration;

/// Longest request body, in bytes. Lab scripts send `{}` at most, and operators some hundred bytes.
pub const BODY_BYTES_MAX: u64 = 64 * 1_024;

/// Reads a body to its end, so that the connection can be kept, and a caller whose request is refused for its size gets
/// that answer. The body is discarded unless `keeps_body`.
pub(crate) async fn take_in(
    headers: &HeaderMap,
    body: Body,
    keeps_body: bool,
    timeout: Duration,
    clock: &dyn Clock,
) -> Result<Bytes, Fault> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    // A body that is announced too long is not read at all.
    refuse_too_large(headers)?;
    tokio::select! {
        read = read_to_end(body, keeps_body) => read,
        () = clock.sleep(timeout) => {
            let message = format!("the body did not arrive within {} ms", timeout.as_millis());
            Err(Fault::new(FaultCode::RequestTimeout, message))
        }
    }
}

/// Refuses a body whose announced length is too large.
pub(crate) fn refuse_too_large(headers: &HeaderMap) -> Result<(), Fault> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    match announced.is_some_and(|bytes: u64| bytes > BODY_BYTES_MAX) {
        true => Err(too_large()),
        false => Ok(()),
    }
}

async fn read_to_end(body: Body, keeps_body: bool) -> Result<Bytes, Fault> {
    let mut chunks = body.into_data_stream();
    let mut kept = BytesMut::new();
    let mut bytes: u64 = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Fault::invalid("the body", "could not be read"))?;
        bytes = bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if bytes > BODY_BYTES_MAX {
            return Err(too_large());
        }
        if keeps_body {
            kept.extend_from_slice(&chunk);
        }
    }
    Ok(kept.freeze())
}

fn too_large() -> Fault {
    Fault::new(FaultCode::BodyTooLarge, format!("the body may have at most {BODY_BYTES_MAX} bytes"))
}
