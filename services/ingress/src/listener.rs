//! Connections with limits: how many may be open, and how long one may say nothing.
//!
//! `axum::serve` has neither limit. Without them, a caller that opens connections and stays silent would use
//! up the process's file descriptors.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

/// Longest time that a connection may stand still. Longer than any request may take (60 s), and longer than
/// the 60 s that load balancers keep an idle connection: they should close first, or a request gets lost.
pub(crate) const STANDSTILL_MAX: Duration = Duration::from_secs(75);

/// Accepts connections within the limits.
pub(crate) struct Bounded {
    inner: TcpListener,
    connections_max: usize,
    standstill_max: Duration,
    open: watch::Sender<usize>,
}

/// One connection; it counts as open until it is dropped.
pub(crate) struct Connection {
    stream: TcpStream,
    standstill_max: Duration,
    moved_at: Instant,
    alarm: Pin<Box<Sleep>>,
    open: watch::Sender<usize>,
}

// === impl Bounded ===

impl Bounded {
    pub(crate) fn new(inner: TcpListener, connections_max: usize, standstill_max: Duration) -> Self {
        Self { inner, connections_max, standstill_max, open: watch::Sender::new(0) }
    }

    /// How many connections are open, now and whenever that changes.
    pub(crate) fn open(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Nobody else accepts, so there is still room when the wait is over. Its sender is our own field, so
        // it cannot fail. Whoever comes meanwhile waits in the backlog of the kernel.
        let _ = self.open.subscribe().wait_for(|open| *open < self.connections_max).await;
        let (stream, peer) = axum::serve::Listener::accept(&mut self.inner).await;
        // Answers are small and written at once; waiting for more to send would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        self.open.send_modify(|open| *open += 1);
        let now = Instant::now();
        let connection = Connection {
            stream,
            standstill_max: self.standstill_max,
            moved_at: now,
            alarm: Box::pin(tokio::time::sleep_until(now + self.standstill_max)),
            open: self.open.clone(),
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

// === impl Connection ===

impl Connection {
    // What the socket says, unless it has said "not yet" for too long. The alarm is moved only when it rings:
    // that is cheaper than at every byte.
    fn watched<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.moved_at = Instant::now();
            return progress;
        }
        loop {
            ready!(self.alarm.as_mut().poll(context));
            let due = self.moved_at + self.standstill_max;
            if due <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.alarm.as_mut().reset(due);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.send_modify(|open| *open = open.saturating_sub(1));
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watched(context, progress)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener as _;
    use std::future::Future as _;
    use tokio::io::AsyncReadExt as _;

    async fn bounded(connections_max: usize, standstill_max: Duration) -> (Bounded, SocketAddr) {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inner.local_addr().unwrap();
        (Bounded::new(inner, connections_max, standstill_max), address)
    }

    #[tokio::test]
    async fn a_connection_that_stands_still_is_given_up() {
        let (mut listener, address) = bounded(1, Duration::from_millis(30)).await;
        let _silent = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = listener.accept().await;
        let read = tokio::time::timeout(Duration::from_secs(10), connection.read_u8()).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_further_connection_waits_until_one_is_closed() {
        let (mut listener, address) = bounded(1, STANDSTILL_MAX).await;
        let _one = TcpStream::connect(address).await.unwrap();
        let _two = TcpStream::connect(address).await.unwrap();
        let (first, _) = listener.accept().await;
        assert_eq!(*listener.open().borrow(), 1);
        let mut further = Box::pin(listener.accept());
        // The second connection is in the backlog already: only the limit keeps it waiting.
        let early = std::future::poll_fn(|context| Poll::Ready(further.as_mut().poll(context).is_ready()));
        assert!(!early.await);
        drop(first);
        let (_second, _) = tokio::time::timeout(Duration::from_secs(10), further).await.unwrap();
        assert_eq!(*listener.open().borrow(), 1);
    }
}
