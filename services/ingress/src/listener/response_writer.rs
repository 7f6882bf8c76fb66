//! The writing side of a connection, and its end.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::connections::Slot;
use super::{Stream, Times};
use crate::metrics::Closed;

/// Most bytes that are read and thrown away behind a refusal.
const LINGER_BYTES_MAX: usize = 256 * 1_024;
/// Bytes of one such read.
const LINGER_READ_BYTES: usize = 4 * 1_024;

/// Writes, and gives up on a caller that does not read.
pub(super) struct ResponseWriter {
    stream: Stream,
    times: Times,
    slot: Arc<Slot>,
    /// Fires when what was written has not gone out in time; none while nothing is stuck.
    stuck: Option<Pin<Box<Sleep>>>,
    end: End,
}

/// How far the end of a connection has come.
enum End {
    /// Not begun. True: the caller may be sending bytes that will not be read.
    Ahead(bool),
    /// Our side is being closed.
    Closing { lingers: bool, until: Pin<Box<Sleep>> },
    /// What still comes is thrown away. To close before that would reset the connection, and with it take from the caller
    /// the answer that says what was wrong.
    Lingering { read_bytes: usize, until: Pin<Box<Sleep>> },
    /// Done.
    Over,
}

// === impl ResponseWriter ===

impl ResponseWriter {
    pub(super) fn new(stream: Stream, times: Times, slot: Arc<Slot>) -> Self {
        Self { stream, times, slot, stuck: None, end: End::Ahead(false) }
    }

    pub(super) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The caller may be sending more than is read.
    pub(super) fn lingers(&mut self) {
        if let End::Ahead(lingers) = &mut self.end {
            *lingers = true;
        }
    }

    /// What was written before is no concern any more. An upgraded connection has no answer that must have gone out in
    /// time; there the time runs only while nothing goes out.
    pub(super) fn restart_patience(&mut self) {
        self.stuck = None;
    }

    pub(super) fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    pub(super) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, written)
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(context, written)
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            // The library flushes when it has nothing left: all of it has gone out.
            self.stuck = None;
        }
        self.watched(context, flushed)
    }

    /// What the socket says, unless it has kept an answer for too long. The time runs from the first moment that
    /// something did not go out until everything has: a caller that reads a byte now and then gains nothing, and a stream
    /// that is read may go on for ever.
    fn watched<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            return progress;
        }
        let patience = self.times.write;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stuck.as_mut().poll(context));
        self.slot.end(Closed::Unread);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Closes our side, and takes leave of a caller that may still be sending.
    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.end {
                End::Ahead(lingers) => {
                    let lingers = *lingers || self.slot.is_mid_body.load(Ordering::Acquire);
                    let until = Box::pin(tokio::time::sleep_until(Instant::now() + self.times.leave));
                    self.end = End::Closing { lingers, until };
                }
                End::Closing { lingers, until } => {
                    let closed = Pin::new(&mut self.stream).poll_shutdown(context);
                    if closed.is_pending() {
                        ready!(until.as_mut().poll(context));
                    }
                    let until = Box::pin(tokio::time::sleep_until(Instant::now() + self.times.leave));
                    self.end = match closed {
                        Poll::Ready(Ok(())) if *lingers => End::Lingering { read_bytes: 0, until },
                        _ => End::Over,
                    };
                }
                End::Lingering { read_bytes, until } => {
                    let mut bytes = [0; LINGER_READ_BYTES];
                    let mut buffer = ReadBuf::new(&mut bytes);
                    let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
                    let filled = buffer.filled().len();
                    *read_bytes += filled;
                    let is_over = match read {
                        Poll::Pending => {
                            ready!(until.as_mut().poll(context));
                            true
                        }
                        Poll::Ready(Ok(())) => filled == 0 || *read_bytes > LINGER_BYTES_MAX,
                        Poll::Ready(Err(_)) => true,
                    };
                    if is_over {
                        self.end = End::Over;
                    }
                }
                End::Over => return Poll::Ready(Ok(())),
            }
        }
    }
}
