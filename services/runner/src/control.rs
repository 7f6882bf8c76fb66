//! Reports to the control plane, and the generation of the node that each of them names.
//!
//! One task registers the node. When a report is refused because its generation is over, all others wait for the next one.

use crate::within;
use bytes::Bytes;
use contract::fault::FaultDetail;
use contract::nodes::{NodeRegistration, RegisterNodeRequest};
use contract::{FaultCode, Repeat, Verb};
use domain::NodeId;
use ports::backoff::longest_pause;
use ports::bus::{Context, RequestError, Requests};
use ports::clock::Clock;
use ports::random::{Random, full_jitter};
use runtime::telemetry::Chain;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Time-out of one report. The control plane answers within milliseconds; a report that was lost has to be repeated soon
/// enough for the callers that wait for a sandbox.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the first report without an answer; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest pause: after an outage the fleet is back within this time.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Longest random pause before a node registers again. Two runners that use one name would otherwise replace each other as
/// fast as they can.
const AGAIN_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The way to the control plane.
pub(crate) struct Control {
    node: NodeId,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    requests: Arc<dyn Requests>,
    generation: watch::Sender<Option<u64>>,
}

/// Why a report was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    /// There was no reply.
    #[error("the control plane does not answer")]
    Unanswered(#[source] RequestError),
    /// The reply has another shape than this build knows.
    #[error("the reply of the control plane cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// It was refused.
    #[error("the control plane refused a report: {message}")]
    Refused {
        /// The code.
        code: FaultCode,
        /// Why.
        message: String,
    },
}

// === impl Control ===

impl Control {
    pub(crate) fn new(
        node: NodeId,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        requests: Arc<dyn Requests>,
    ) -> Self {
        Self { node, clock, random, requests, generation: watch::Sender::new(None) }
    }

    /// The node.
    pub(crate) const fn node(&self) -> &NodeId {
        &self.node
    }

    /// Registers the node and repeats that until it succeeds.
    pub(crate) async fn register(&self, request: &RegisterNodeRequest) {
        let mut failures = 0;
        loop {
            match self.ask::<_, NodeRegistration>(Verb::RegisterNode, request).await {
                Ok(NodeRegistration { node: _, generation }) => {
                    tracing::info!(
                        node.id = self.node.as_str(),
                        node.generation = generation,
                        "registered node {} as generation {generation}",
                        self.node
                    );
                    self.generation.send_replace(Some(generation));
                    return;
                }
                Err(error) => self.pause(&mut failures, Verb::RegisterNode, &error).await,
            }
        }
    }

    /// Waits until the generation of the node is over, and somewhat longer.
    pub(crate) async fn generation_over(&self) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.generation.subscribe().wait_for(Option::is_none).await;
        self.clock.sleep(full_jitter(self.random.as_ref(), AGAIN_PAUSE_MAX)).await;
    }

    /// Sends a report once. If the generation is over, waits for the next one and sends it again.
    ///
    /// # Errors
    /// [`ReportError`].
    pub(crate) async fn report<Q, R>(
        &self,
        verb: Verb,
        request: &(dyn Fn(u64) -> Q + Sync),
    ) -> Result<R, ReportError>
    where
        Q: Serialize + Send + Sync,
        R: DeserializeOwned,
    {
        loop {
            let generation = self.current().await;
            match self.ask(verb, &request(generation)).await {
                Err(ReportError::Refused { code: FaultCode::InvalidState, message }) => {
                    self.generation.send_if_modified(|current| {
                        let is_over = *current == Some(generation);
                        if is_over {
                            tracing::warn!(
                                node.id = self.node.as_str(),
                                node.generation = generation,
                                reason = message,
                                "generation {generation} of node {} is over: it was taken for lost, or another runner uses its name",
                                self.node
                            );
                            *current = None;
                        }
                        is_over
                    });
                }
                answered => return answered,
            }
        }
    }

    /// Sends a report until it is answered.
    ///
    /// # Errors
    /// [`ReportError::Refused`] if repeating it would not help.
    pub(crate) async fn insist<Q, R>(
        &self,
        verb: Verb,
        request: &(dyn Fn(u64) -> Q + Sync),
    ) -> Result<R, ReportError>
    where
        Q: Serialize + Send + Sync,
        R: DeserializeOwned,
    {
        let mut failures = 0;
        loop {
            match self.report(verb, request).await {
                Ok(reply) => return Ok(reply),
                Err(error @ ReportError::Refused { code, .. }) if code.repeat() == Repeat::Never => {
                    tracing::error!(report = verb.as_str(), error = %error, "a report was refused");
                    return Err(error);
                }
                Err(error) => self.pause(&mut failures, verb, &error).await,
            }
        }
    }

    /// As [`Self::insist`], but only for that long; none if there is no answer by then.
    pub(crate) async fn insist_within<Q, R>(
        &self,
        span: Duration,
        verb: Verb,
        request: &(dyn Fn(u64) -> Q + Sync),
    ) -> Option<R>
    where
        Q: Serialize + Send + Sync,
        R: DeserializeOwned,
    {
        within(self.clock.as_ref(), span, self.insist(verb, request)).await?.ok()
    }

    /// The generation of the node now; zero while it is not registered.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.borrow().unwrap_or_default()
    }

    async fn current(&self) -> u64 {
        let mut generation = self.generation.subscribe();
        let found = generation.wait_for(Option::is_some).await;
        // The sender lives as long as `self`, so there is always one.
        found.ok().and_then(|current| *current).unwrap_or_default()
    }

    async fn ask<Q: Serialize + Sync, R: DeserializeOwned>(
        &self,
        verb: Verb,
        request: &Q,
    ) -> Result<R, ReportError> {
        let body = serde_json::to_vec(request).map(Bytes::from).map_err(ReportError::Unreadable)?;
        let context = Context::own(self.clock.as_ref(), self.random.as_ref(), REPORT_TIMEOUT);
        let asked = self.requests.request(verb, &context, body, REPORT_TIMEOUT).await;
        let reply = asked.map_err(ReportError::Unanswered)?.read().map_err(ReportError::Unreadable)?;
        reply.map_err(|FaultDetail { code, message, .. }| ReportError::Refused { code, message })
    }

    async fn pause(&self, failures: &mut u32, verb: Verb, error: &ReportError) {
        *failures = failures.saturating_add(1);
        // An outage is reported at its beginning; its end shows in the next success.
        if *failures == 1 {
            tracing::warn!(report = verb.as_str(), error = %Chain(error), "a report has to be repeated");
        } else {
            tracing::debug!(report = verb.as_str(), error = %Chain(error), failures, "a report has to be repeated");
        }
        let longest = longest_pause(PAUSE_MIN, PAUSE_MAX, *failures);
        // Half of it is fixed, so that an outage of the bus is not met by a loop.
        self.clock.sleep(longest / 2 + full_jitter(self.random.as_ref(), longest / 2)).await;
    }
}

#[cfg(test)]
mod tests;
