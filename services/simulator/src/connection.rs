//! Connections that can be cut in the middle of a call, like those of a crashing server or a broken network.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A listener whose connections can be cut one by one or all at once.
pub(crate) struct Cuttable {
    listener: TcpListener,
    kill: CancellationToken,
}

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    cut: Cut,
    is_cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Cuts one connection; each handler gets that of its own connection.
#[derive(Clone, Debug)]
pub(crate) struct Cut(CancellationToken);

// === impl Cuttable ===

impl Cuttable {
    /// Accepts connections from `listener`; `kill` cuts all of them.
    pub(crate) const fn new(listener: TcpListener, kill: CancellationToken) -> Self {
        Self { listener, kill }
    }
}

impl Listener for Cuttable {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let cut = self.kill.child_token();
        let is_cut = Box::pin(cut.clone().cancelled_owned());
        (Connection { stream, cut: Cut(cut), is_cut }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

// === impl Connection ===

impl Connection {
    /// An error once the connection is cut. Its socket then sends a reset.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.is_cut.as_mut().poll(context).is_pending() {
            return Ok(());
        }
        self.stream.set_zero_linger()?;
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

// === impl Cut ===

impl Cut {
    /// Cuts the connection: nothing more is sent.
    pub(crate) fn cut(&self) {
        self.0.cancel();
    }
}

impl Connected<IncomingStream<'_, Cuttable>> for Cut {
    fn connect_info(stream: IncomingStream<'_, Cuttable>) -> Self {
        stream.io().cut.clone()
    }
}
