//! Ends leases at this node: at the end of a lease and its grace the container goes, with the control plane or without it.

use crate::Node;
use crate::containers::{Due, over_at_ms};
use crate::metrics::Removal;
use contract::Verb;
use contract::nodes::{Fate, HELD_MAX, HeldContainer, HeldReply, HeldRequest, Holding};
use domain::SandboxId;
use futures_util::StreamExt as _;
use ports::engine::Incarnation;
use std::convert::Infallible;
use std::time::Duration;

/// How long the control plane may take to say what should become of a container: time for two reports.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Time until a container is looked at again whose lease is over but that is still kept, or that could not be stopped. The
/// control plane ends leases every few seconds.
const AGAIN_MS: u64 = 5_000;
/// Longest sleep of the timers, in milliseconds: the clock may be set, and the machine may have been suspended.
const LOOK_MS: u64 = 30_000;
/// Containers that are ended at once. The engine serves them side by side, but each takes the machine's time.
pub(crate) const ENDED_AT_ONCE_MAX: usize = 8;

// === impl Node ===

impl Node {
    /// Ends leases at their times.
    pub(crate) async fn watch_leases(&self) -> Infallible {
        loop {
            let (due, next_ms) = self.containers.due(self.clock.now_ms());
            if !due.is_empty() {
                self.end_leases(&due).await;
                continue;
            }
            let next = async {
                match next_ms {
                    Some(next_ms) => self.clock.sleep_until(next_ms.min(self.clock.now_ms() + LOOK_MS)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next => {}
                () = self.containers.deadline_changed() => {}
            }
        }
    }

    /// Asks what should become of containers whose lease is over, and does it. Without an answer the lease ends here.
    async fn end_leases(&self, due: &[Due]) {
        let pages: Vec<Vec<Due>> = due.chunks(HELD_MAX).map(<[Due]>::to_vec).collect();
        let pages = futures_util::stream::iter(pages).map(|page| async move {
            let named = page.iter().map(|due| (due.incarnation, due.sandbox.clone()));
            let holdings = self.ask_held(named).await;
            let asked: Vec<(Due, Option<Holding>)> = match holdings {
                Some(holdings) => page.into_iter().zip(holdings.into_iter().map(Some)).collect(),
                None => page.into_iter().map(|due| (due, None)).collect(),
            };
            asked
        });
        let asked: Vec<_> = pages.buffer_unordered(ENDED_AT_ONCE_MAX).concat().await;
        let ends = futures_util::stream::iter(asked).map(|(due, holding)| self.end_lease(due, holding));
        ends.buffer_unordered(ENDED_AT_ONCE_MAX).collect::<()>().await;
        self.containers.persist_or_log().await;
    }

    async fn end_lease(&self, due: Due, holding: Option<Holding>) {
        let Due { incarnation, sandbox: _, lease } = due;
        let again_ms = self.clock.now_ms().saturating_add(AGAIN_MS);
        match holding {
            Some(Holding { fate: Fate::Keep, lease: current }) => {
                let is_over = current.as_ref().is_some_and(|lease| over_at_ms(lease) <= self.clock.now_ms());
                self.containers.note_answer(&incarnation, Some(&lease), current);
                if is_over {
                    // The control plane is about to end it.
                    self.containers.ask_again_at(&incarnation, again_ms);
                }
            }
            Some(Holding { fate: Fate::Remove, lease: _ }) => {
                if self.remove(&incarnation, Removal::Unwanted).await.is_err() {
                    self.containers.ask_again_at(&incarnation, again_ms);
                }
            }
            // Whether an unknown one is removed is decided by the reconciliation, which sees all of them.
            Some(Holding { fate: Fate::Unknown, lease: _ }) | None => {
                let known = self.containers.entry(&incarnation).and_then(|entry| entry.lease);
                // A request may have moved the end in the meantime.
                if known.as_ref() != Some(&lease) {
                    return;
                }
                if (self.is_clock_off)() {
                    tracing::error!(
                        container.incarnation = %incarnation,
                        "a lease seems to be over, but the clock of this node is off: nothing is stopped"
                    );
                    self.containers.ask_again_at(&incarnation, again_ms);
                } else if !self.stop(&incarnation).await {
                    self.containers.ask_again_at(&incarnation, again_ms);
                }
            }
        }
    }

    /// What should become of at most [`HELD_MAX`] containers, in their order; none without an answer in time.
    pub(crate) async fn ask_held(
        &self,
        asked: impl Iterator<Item = (Incarnation, SandboxId)>,
    ) -> Option<Vec<Holding>> {
        let named = asked.map(|(incarnation, sandbox)| HeldContainer {
            sandbox_id: sandbox.to_string(),
            incarnation: incarnation.to_string(),
        });
        let containers: Vec<_> = named.collect();
        let node = self.control.node().to_string();
        let mut holdings = Vec::with_capacity(containers.len());
        while holdings.len() < containers.len() {
            let rest = containers.get(holdings.len()..).unwrap_or_default();
            let request =
                |generation| HeldRequest { node: node.clone(), generation, containers: rest.to_vec() };
            let reply =
                self.control.insist_within::<_, HeldReply>(ANSWER_WITHIN, Verb::Held, &request).await?;
            if !(1..=rest.len()).contains(&reply.holdings.len()) {
                tracing::error!(
                    "the control plane did not answer for the containers that it was asked about"
                );
                return None;
            }
            holdings.extend(reply.holdings);
        }
        Some(holdings)
    }
}

#[cfg(test)]
mod tests;
