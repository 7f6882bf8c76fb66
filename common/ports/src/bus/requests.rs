//! The caller's side of requests.

use super::{Context, Reply, RequestError};
use async_trait::async_trait;
use bytes::Bytes;
use contract::Verb;
use std::pin::Pin;
use std::time::Duration;

/// The reply to a request that has timed out, if one still comes.
pub type LateReply = Pin<Box<dyn Future<Output = Option<Reply>> + Send>>;

/// A request without a reply in time.
pub struct Unanswered {
    /// Why there is none.
    pub reason: RequestError,
    /// A reply that may still come; none if that is impossible.
    pub late: Option<LateReply>,
}

/// The caller's side of requests.
#[async_trait]
pub trait Requests: Send + Sync {
    /// Sends a request like [`Self::request`]; a reply after `timeout` can still be awaited.
    async fn request_or_late(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, Unanswered> {
        let asked = self.request(verb, context, body, timeout).await;
        asked.map_err(|reason| Unanswered { reason, late: None })
    }

    /// Sends a request and waits at most `timeout`.
    async fn request(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RequestError>;

    /// Whether there is a connection right now.
    fn is_connected(&self) -> bool;

    /// Checks within a second whether the bus answers; the error is for operators.
    async fn probe(&self) -> Result<(), String> {
        if self.is_connected() { Ok(()) } else { Err("not connected".to_owned()) }
    }
}

// === impl Unanswered ===

impl From<RequestError> for Unanswered {
    fn from(reason: RequestError) -> Self {
        Self { reason, late: None }
    }
}
