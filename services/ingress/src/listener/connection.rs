//! The life of one connection: the handshake, its requests one after the other, its end.

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::Future as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::ServiceExt as _;

use super::connections::{Slot, Taken, UnderWay};
use super::framer::Framer;
use super::head::HEADER_LINES_MAX;
use super::{Stream, Times};
use crate::caller::Known;
use crate::metrics::{Closed, Metrics};
use crate::rates::peer::Peer;
use crate::tls::TlsReloader;

/// Most bytes that the HTTP library buffers each way: a head is far smaller, and a body goes piece by piece.
const LIBRARY_BUFFER_BYTES: usize = 64 * 1_024;

/// What all connections of a listener have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) router: Router,
    pub(super) tls: Option<TlsReloader>,
    pub(super) times: Times,
    pub(super) metrics: Metrics,
    /// Cancelled when no further request is taken.
    pub(super) closing: CancellationToken,
}

/// An answer's body. The answer is whole once it is gone.
struct Answer {
    body: Body,
    _under_way: UnderWay,
    /// Ends a stream, which would not end by itself.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

// === impl Common ===

impl Common {
    /// Serves a connection to its end.
    pub(super) async fn serve(self, stream: TcpStream, peer: SocketAddr, taken: Taken) {
        let slot = Arc::clone(&taken.slot);
        self.serve_requests(stream, peer, &taken).await;
        let reason = slot.why().unwrap_or(Closed::Ended).as_str();
        tracing::debug!(peer = %peer, reason, "a connection ended");
    }

    async fn serve_requests(self, stream: TcpStream, peer: SocketAddr, taken: &Taken) {
        let (slot, connections) = (&taken.slot, &taken.connections);
        let Some(stream) = self.handshake(stream, slot).await else { return };
        let closing = self.closing.clone();
        let mut framer =
            Framer::new(stream, connections.clone(), Arc::clone(slot), closing.clone(), self.times);
        let first = async {
            tokio::select! {
                biased;
                is_there = framer.first() => is_there,
                // The framer looks once more: bytes that are there already have an answer.
                () = closing.cancelled() => framer.first().await,
            }
        };
        if slot.drive(first).await != Some(true) {
            return;
        }
        let service = service_fn(|request: Request<Incoming>| {
            // It begins here, whatever becomes of the answer.
            let under_way = connections.under_way(slot);
            answer(self.router.clone(), self.closing.clone(), Arc::clone(slot), under_way, peer, request)
        });
        let connection = http1::Builder::new()
            // The framer has its own limits, whose answers say what they refuse.
            .header_read_timeout(None)
            .max_headers(HEADER_LINES_MAX + 1)
            .max_buf_size(LIBRARY_BUFFER_BYTES)
            .serve_connection(TokioIo::new(framer), service)
            .with_upgrades();
        let ended = slot.drive(async {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                biased;
                ended = connection.as_mut() => ended,
                // The framer looks once more here as well.
                () = closing.cancelled() => connection.await,
            }
        });
        match (ended.await, slot.upgrade()) {
            (Some(Ok(())), Some(upgrade)) => {
                let _cut = upgrade.cut_on_drop();
                if slot.drive(upgrade.ended(&closing, self.times.leave)).await == Some(true) {
                    slot.end(Closed::Stopping);
                }
            }
            (Some(Err(error)), _) => {
                slot.end(Closed::Failed);
                tracing::debug!(peer = %peer, %error, "a connection failed");
            }
            _ => {}
        }
    }

    /// The socket, behind TLS if that is spoken here; none if the caller does not manage it.
    async fn handshake(&self, stream: TcpStream, slot: &Slot) -> Option<Stream> {
        let Some(tls) = &self.tls else { return Some(Either::Left(stream)) };
        let why = tokio::select! {
            shaken = slot.drive(tls.acceptor().accept(stream)) => match shaken? {
                Ok(stream) => return Some(Either::Right(Box::new(stream))),
                Err(error) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    Closed::Handshake
                }
            },
            () = tokio::time::sleep(self.times.handshake) => Closed::Handshake,
            () = self.closing.cancelled() => Closed::Stopping,
        };
        if why == Closed::Handshake {
            self.metrics.handshake_failed();
        }
        slot.end(why);
        None
    }
}

async fn answer(
    router: Router,
    closing: CancellationToken,
    slot: Arc<Slot>,
    mut under_way: UnderWay,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(Peer(peer)));
    if let Some(refusal) = slot.take_refusal() {
        request.extensions_mut().insert(refusal);
    }
    let may_upgrade = slot.asks_upgrade.swap(false, Ordering::AcqRel);
    if !may_upgrade {
        // The library offers an upgrade to some requests for which the framer would not pass it.
        request.extensions_mut().remove::<OnUpgrade>();
    }
    let mut response = router.oneshot(request).await?;
    under_way.is_known = response.extensions().get::<Known>().is_some();
    if may_upgrade && response.status() == StatusCode::SWITCHING_PROTOCOLS {
        slot.begin_upgrade();
        return Ok(response.map(|body| Answer { body, _under_way: under_way, closing: None }));
    }
    // The rest of an unread body cannot be distinguished from the next request, so there will be none.
    if slot.is_evicted() || slot.is_mid_body.load(Ordering::Acquire) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| {
        let is_stream = body.size_hint().exact().is_none();
        let closing = is_stream.then(|| Box::pin(closing.cancelled_owned()));
        Answer { body, _under_way: under_way, closing }
    }))
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(closing) = &mut self.closing
            && closing.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
