//! Connections with limits: how many may be open, how long each step may take, and what may pass for a request.
//!
//! A separate loop over the HTTP library's connections, because `axum::serve` shows none of them
//! (`docs/decisions/0031-a-listener-of-our-own.md`). Every limit is in `docs/limits.md`.

use axum::Router;
use contract::{Fault, FaultCode};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::{Closed, Metrics};
use crate::rates::peer::TrustedProxies;
use crate::tls::TlsReloader;

mod chunks;
mod connection;
mod connections;
mod framer;
mod head;
mod response_writer;
mod settings;
mod upgrade;

use connection::Common;
use connections::Connections;
pub use head::{HEAD_BYTES_MAX, HEADER_LINES_MAX};
pub use settings::ConnectionConfig;

/// Longest time for a TLS handshake.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Longest time that a connection takes to end: until our side is closed, and then until the caller has stopped sending.
pub const LEAVE_PATIENCE: Duration = Duration::from_secs(2);
/// Pause before the next try when the system gives us no connection, for want of file descriptors as a rule.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long each step of a connection may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Between two requests.
    pub(crate) idle: Duration,
    /// From the first byte of a head to its last.
    pub(crate) head: Duration,
    /// Until what was written has gone out.
    pub(crate) write: Duration,
    /// A TLS handshake.
    pub(crate) handshake: Duration,
    /// Either half of the end.
    pub(crate) leave: Duration,
}

/// Why a request is refused before it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is no HTTP, or could be read in two ways.
    Malformed(&'static str),
    /// Its head is too long.
    HeadTooLarge,
    /// Its head did not arrive in time.
    HeadTooSlow,
    /// There are too many connections, and this one has waited longest.
    Full,
    /// This ingress is stopping.
    Stopping,
}

/// Accepts connections and serves them.
pub(crate) struct Listener {
    inner: TcpListener,
    connections: Connections,
    proxies: Arc<TrustedProxies>,
    common: Common,
}

/// What is read from and written to: in plain text, or over TLS.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

// === impl Refusal ===

impl Refusal {
    /// The answer to the caller.
    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::Malformed(what) => Fault::invalid("the request", format!("cannot be read: {what}")),
            Self::HeadTooLarge => Fault::new(
                FaultCode::HeadTooLarge,
                format!(
                    "the head of a request may have at most {HEAD_BYTES_MAX} bytes and {HEADER_LINES_MAX} headers"
                ),
            ),
            Self::HeadTooSlow => {
                Fault::new(FaultCode::RequestTimeout, "the head of the request did not arrive in time")
            }
            Self::Full => Fault::new(FaultCode::NoWorkers, "too many connections are open"),
            Self::Stopping => Fault::new(FaultCode::NoWorkers, "this ingress is stopping"),
        }
    }

    fn closed(self) -> Closed {
        match self {
            Self::Malformed(_) | Self::HeadTooLarge => Closed::Refused,
            Self::HeadTooSlow => Closed::HeadTooSlow,
            Self::Full => Closed::MadeRoom,
            Self::Stopping => Closed::Stopping,
        }
    }
}

// === impl Listener ===

impl Listener {
    pub(crate) fn new(
        inner: TcpListener,
        router: Router,
        config: &ConnectionConfig,
        proxies: Arc<TrustedProxies>,
        tls: Option<TlsReloader>,
        metrics: Metrics,
    ) -> Self {
        let connections = Connections::new(config.connections_max, config.of_peer_max, metrics.clone());
        let times = Times {
            idle: config.idle,
            head: config.head_patience,
            write: config.write_patience,
            handshake: HANDSHAKE_PATIENCE,
            leave: LEAVE_PATIENCE,
        };
        let common = Common { router, tls, times, metrics, closing: CancellationToken::new() };
        Self { inner, connections, proxies, common }
    }

    /// How many connections are open, now and whenever that changes.
    pub(crate) fn open(&self) -> watch::Receiver<usize> {
        self.connections.open()
    }

    /// Serves until `close` is ready; then idle connections are closed, and running requests are finished.
    pub(crate) async fn serve(self, close: impl Future<Output = ()>) {
        let tasks = TaskTracker::new();
        // Should this future be dropped, so are the connections.
        let cut = CancellationToken::new();
        let _cut_with_us = cut.clone().drop_guard();
        let closing = self.common.closing.clone();
        tokio::select! {
            biased;
            () = close => {}
            never = self.accept_all(&tasks, &cut) => match never {},
        }
        closing.cancel();
        // The socket is closed: a new connection is refused at once, and its caller asks another ingress.
        drop(self);
        tasks.close();
        tasks.wait().await;
    }

    async fn accept_all(&self, tasks: &TaskTracker, cut: &CancellationToken) -> std::convert::Infallible {
        loop {
            let (stream, peer) = self.accept().await;
            // Answers are small and written at once; waiting for more to send would only delay them.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY could not be set");
            }
            let counted = (!self.proxies.hold(peer.ip())).then(|| peer.ip());
            self.connections.room().await;
            let Some(taken) = self.connections.take(counted) else {
                self.common.metrics.closed(Closed::Peer);
                tracing::debug!(peer = %peer, "this address has all the connections that one may have");
                continue;
            };
            let (common, cut) = (self.common.clone(), cut.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = common.serve(stream, peer, taken) => {}
                    () = cut.cancelled() => {}
                }
            });
        }
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        let mut is_logged = false;
        loop {
            match self.inner.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_one_caller(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut is_logged, true) {
                        tracing::error!(%error, "no connection can be accepted; trying again");
                    }
                    // One that waits has what is missing here.
                    self.connections.evict_longest_idle();
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }
}

/// Whether it is the fault of one connection that went away again.
fn is_of_one_caller(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests;
