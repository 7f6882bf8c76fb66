//! Stands between the socket and the HTTP library: what passes is one well-formed message after the other.
//!
//! A head passes once it is complete and beyond doubt, and only when the answer before it is done. Where one may not
//! pass, a stand-in request is passed instead, whose answer says why: it goes the way of every answer, with its shape,
//! headers and request id, and the connection is closed behind it.
//!
//! Once a handler has answered 101 to a request that asks for an upgrade, the bytes pass as they are, and only the time
//! for a caller to read still counts.

use bytes::{Buf as _, BytesMut};
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::chunks::Chunks;
use super::connections::{Connections, Slot};
use super::head::{self, Flaw, Framing, Scan};
use super::response_writer::ResponseWriter;
use super::{Refusal, Stream, Times};
use crate::metrics::Closed;

/// Bytes that are asked of the socket at once.
const READ_BYTES: usize = 8 * 1_024;
/// What is passed instead of a head that may not pass.
const STAND_IN: &[u8] = b"REFUSED /refused HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// The reading side of a connection, and its [`ResponseWriter`].
pub(super) struct Framer {
    writer: ResponseWriter,
    connections: Connections,
    slot: Arc<Slot>,
    closing: CancellationToken,
    times: Times,
    /// Read, and not yet passed on.
    inbox: BytesMut,
    /// How much of it may pass.
    passing: usize,
    state: State,
    /// When the connection began to wait for a request, and when the first byte of its head came.
    waits_since: Instant,
    is_after_request: bool,
    head_began: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    fires_at: Instant,
    /// Ready when an upgraded connection should end; there once it is upgraded.
    ending: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum State {
    /// A head, of which this was seen.
    Head(Scan),
    /// So many bytes of a body.
    Length(u64),
    /// A body in chunks.
    Chunks(Chunks),
    /// Nothing: the last answer is a refusal.
    Refused,
    /// Nothing: the caller is done, or its body is no body.
    Over,
}

// === impl Framer ===

impl Framer {
    pub(super) fn new(
        stream: Stream,
        connections: Connections,
        slot: Arc<Slot>,
        closing: CancellationToken,
        times: Times,
    ) -> Self {
        let now = Instant::now();
        let fires_at = now + times.idle;
        Self {
            writer: ResponseWriter::new(stream, times, Arc::clone(&slot)),
            connections,
            slot,
            closing,
            times,
            inbox: BytesMut::new(),
            passing: 0,
            state: State::Head(Scan::default()),
            waits_since: now,
            is_after_request: false,
            head_began: None,
            timer: Box::pin(tokio::time::sleep_until(fires_at)),
            fires_at,
            ending: None,
        }
    }

    /// Waits for the first request; false if there will be none. Until then the HTTP library, with its buffers, need not
    /// be there.
    pub(super) async fn first(&mut self) -> bool {
        std::future::poll_fn(|context| self.poll_passable(context)).await.unwrap_or(false)
    }

    /// Ready once something may pass: true; or when nothing will any more: false.
    fn poll_passable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if self.passing > 0 {
                return Poll::Ready(Ok(true));
            }
            match self.state {
                State::Over => return Poll::Ready(Ok(false)),
                // Its answer ends the connection; until then the library only listens for the caller's leaving.
                State::Refused => return Poll::Pending,
                State::Head(scan) => {
                    if !ready!(self.poll_head(context, scan))? {
                        self.state = State::Over;
                    }
                }
                State::Length(_) | State::Chunks(_) => {
                    if self.inbox.is_empty() && ready!(self.poll_fill(context))? == 0 {
                        self.state = State::Over;
                    } else {
                        self.admit_body()?;
                    }
                }
            }
        }
    }

    /// Ready with true when there was progress, and with false at the end.
    fn poll_head(&mut self, context: &mut Context<'_>, mut scan: Scan) -> Poll<io::Result<bool>> {
        if self.slot.is_busy() {
            return self.poll_while_busy(context);
        }
        if std::mem::take(&mut self.is_after_request) {
            self.waits_since = Instant::now();
        }
        loop {
            if !self.inbox.is_empty() {
                self.head_began.get_or_insert_with(Instant::now);
                match scan.advance(&self.inbox) {
                    Ok(None) => {}
                    Ok(Some(length)) => return Poll::Ready(Ok(self.admit_head(length))),
                    Err(flaw) => return Poll::Ready(Ok(self.refuse(flaw.into()))),
                }
                self.state = State::Head(scan);
            }
            match self.poll_fill(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(false)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_patience(context),
            }
        }
    }

    /// While an answer is under way, the next request stays outside; a caller that leaves is noticed.
    fn poll_while_busy(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.inbox.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_fill(context))? {
            0 => Poll::Ready(Ok(false)),
            _ => Poll::Pending,
        }
    }

    /// Nothing more has come yet: is there anything to wait for?
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let refusal = if self.closing.is_cancelled() {
            Some((Refusal::Stopping, Closed::Stopping))
        } else if self.slot.is_evicted() {
            Some((Refusal::Full, Closed::MadeRoom))
        } else {
            None
        };
        if let Some((refusal, why)) = refusal {
            return Poll::Ready(Ok(self.give_up(refusal, why)));
        }
        let due = match self.head_began {
            Some(began) => began + self.times.head,
            None => self.waits_since + self.times.idle,
        };
        // The timer is moved only when it fires, or would fire too late: that is cheaper than for every request.
        loop {
            if due < self.fires_at {
                self.fire_at(due);
            }
            ready!(self.timer.as_mut().poll(context));
            if due <= Instant::now() {
                return Poll::Ready(Ok(self.give_up(Refusal::HeadTooSlow, Closed::Idle)));
            }
            self.fire_at(due);
        }
    }

    fn fire_at(&mut self, due: Instant) {
        self.fires_at = due;
        self.timer.as_mut().reset(due);
    }

    /// A caller that has begun a head gets an answer; a connection that has sent nothing is closed.
    fn give_up(&mut self, refusal: Refusal, why: Closed) -> bool {
        if self.head_began.is_some() {
            return self.refuse(refusal);
        }
        self.slot.end(why);
        false
    }

    fn admit_head(&mut self, length: usize) -> bool {
        if self.closing.is_cancelled() {
            return self.refuse(Refusal::Stopping);
        }
        let framing = match head::check(self.inbox.get(..length).unwrap_or_default()) {
            Ok(framing) => framing,
            Err(flaw) => return self.refuse(flaw.into()),
        };
        self.state = match framing {
            Framing::Empty | Framing::Upgrade => State::Head(Scan::default()),
            Framing::Length(bytes) => State::Length(bytes),
            Framing::Chunked => State::Chunks(Chunks::default()),
        };
        let has_body = matches!(framing, Framing::Length(_) | Framing::Chunked);
        self.slot.is_mid_body.store(has_body, Ordering::Release);
        self.slot.asks_upgrade.store(framing == Framing::Upgrade, Ordering::Release);
        (self.head_began, self.is_after_request) = (None, true);
        self.passing = length;
        self.connections.begin(&self.slot);
        true
    }

    /// Passes a stand-in request, which is answered with the refusal.
    fn refuse(&mut self, refusal: Refusal) -> bool {
        self.slot.end(refusal.closed());
        self.slot.refuse(refusal);
        self.connections.begin(&self.slot);
        self.writer.lingers();
        self.inbox = BytesMut::from(STAND_IN);
        self.passing = STAND_IN.len();
        self.state = State::Refused;
        true
    }

    fn admit_body(&mut self) -> io::Result<()> {
        let is_over = match &mut self.state {
            State::Length(left) => {
                let here = u64::try_from(self.inbox.len()).unwrap_or(u64::MAX).min(*left);
                self.passing = usize::try_from(here).unwrap_or(usize::MAX);
                *left -= here;
                *left == 0
            }
            State::Chunks(chunks) => {
                let Ok(here) = chunks.advance(&self.inbox) else {
                    // The handler that reads the body learns it, and answers that the body is none.
                    self.state = State::Over;
                    return Err(io::ErrorKind::InvalidData.into());
                };
                self.passing = here;
                chunks.is_over()
            }
            _ => return Ok(()),
        };
        if is_over {
            self.state = State::Head(Scan::default());
            self.slot.is_mid_body.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Passes what comes as it is: first what stood behind the head that asked for the upgrade.
    fn poll_read_raw(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.inbox.is_empty() {
            let here = self.inbox.len().min(buffer.remaining());
            buffer.put_slice(self.inbox.get(..here).unwrap_or_default());
            self.inbox.advance(here);
            return Poll::Ready(Ok(()));
        }
        self.inbox = BytesMut::new();
        let slot = &self.slot;
        let ending = self.ending.get_or_insert_with(|| {
            let ending = slot.upgrade().map(|upgrade| upgrade.ending.clone()).unwrap_or_default();
            Box::pin(ending.cancelled_owned())
        });
        if ending.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(self.writer.stream()).poll_read(context, buffer)
    }

    /// What may be written of an upgraded connection: nothing once it is cut.
    fn check_cut(&self) -> io::Result<()> {
        let is_cut = self.slot.upgrade().is_some_and(|upgrade| upgrade.cut.is_cancelled());
        if is_cut { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    fn written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) && self.slot.upgrade().is_some() {
            self.writer.restart_patience();
        }
        written
    }

    /// Reads what the socket has. A connection that waits has no buffer.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        let mut bytes = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = Pin::new(self.writer.stream()).poll_read(context, &mut buffer);
        self.inbox.extend_from_slice(buffer.filled());
        read.map_ok(|()| buffer.filled().len())
    }
}

impl From<Flaw> for Refusal {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::TooLarge => Self::HeadTooLarge,
            Flaw::Malformed(what) => Self::Malformed(what),
        }
    }
}

impl AsyncRead for Framer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.slot.upgrade().is_some() {
            return self.poll_read_raw(context, buffer);
        }
        if ready!(self.poll_passable(context))? {
            let here = self.passing.min(buffer.remaining());
            buffer.put_slice(self.inbox.get(..here).unwrap_or_default());
            self.inbox.advance(here);
            self.passing -= here;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Framer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        let written = self.writer.poll_write(context, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        let written = self.writer.poll_write_vectored(context, slices);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.writer.poll_flush(context);
        // The library flushes when it has nothing left to write, and an answer's body is gone before that.
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.connections.sent(&self.slot);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.inbox.is_empty() && self.slot.upgrade().is_none() {
            self.writer.lingers();
        }
        self.writer.poll_shutdown(context)
    }
}

impl Drop for Framer {
    fn drop(&mut self) {
        if let Some(upgrade) = self.slot.upgrade() {
            upgrade.released.cancel();
        }
    }
}
