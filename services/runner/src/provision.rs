//! Works on one sandbox that is to be created: asks whether it is wanted, creates its container, waits until that is ready,
//! and reports it.

use crate::containers::Creating;
use crate::control::ReportError;
use crate::metrics::Removal;
use crate::spec::container_spec;
use crate::state::Entry;
use crate::{Node, within};
use async_trait::async_trait;
use contract::nodes::{
    AfterFailure, Fate, Holding, NodeLease, ProvisionFailedReply, ProvisionFailedRequest,
    ProvisionWantedReply, ProvisionWantedRequest, ProvisionedRequest, WantedSandbox,
};
use contract::{ProvisionLane, ProvisionWork, Verb};
use domain::template::Network;
use domain::{PoolName, SandboxId, TemplateSpec};
use ports::backoff::longest_pause;
use ports::bus::{Delivery, Verdict, Worker};
use ports::engine::{Container, ContainerState, EngineError, Incarnation};
use ports::random::full_jitter;
use std::time::Duration;

/// Time-out of a creation: an image of several GiB is unpacked within it.
const CREATE_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest delay before the second attempt; it doubles with each further one.
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
/// Longest delay between two attempts.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);
/// Delay of work that this node could not begin with: short, because another node may have room.
const PUT_OFF_DELAY: Duration = Duration::from_secs(1);
/// Delay of work whose report was refused, or whose record is unknown: only an operator can change that.
const REFUSED_DELAY: Duration = Duration::from_secs(30);
/// Deliveries that no attempt and no retry of this process explains, after which the work seems to crash runners.
const DELIVERIES_MAX: u64 = 5;

/// The result of a failed attempt, which the record of the sandbox counts.
const FAILED: &str = "failed";

/// What becomes of a delivery, by its name in the metrics.
type Outcome = (&'static str, Verdict);

/// A sandbox that is wanted.
struct Wanted<'a> {
    id: SandboxId,
    pool: PoolName,
    work: &'a ProvisionWork,
    attempts: u32,
    template: TemplateSpec,
    /// The lease of the claim that waits for it. It is known here before the record names the container: the reply that says
    /// so may be lost, and its end must not be.
    lease: Option<NodeLease>,
}

/// Why there is no container that is ready.
enum Failure {
    /// It is not the sandbox's: the work is put off and nothing is counted.
    NotCounted { result: &'static str, delay: Duration },
    /// The attempt is counted.
    Counted {
        reason: String,
        /// Whether no further attempt makes sense.
        is_final: bool,
    },
}

// === impl Failure ===

impl Failure {
    const fn put_off(result: &'static str) -> Self {
        Self::NotCounted { result, delay: PUT_OFF_DELAY }
    }

    fn counted(reason: impl Into<String>) -> Self {
        Self::Counted { reason: reason.into(), is_final: false }
    }
}

#[async_trait]
impl Worker<ProvisionWork> for Node {
    async fn work(&self, delivery: Delivery<ProvisionWork>) -> Verdict {
        let _under_way = self.metrics.begin_provision();
        let (result, verdict) = self.provision(&delivery.work, delivery.deliveries).await;
        self.metrics.provisioned(result);
        verdict
    }

    async fn admit(&self, lane: &ProvisionLane, places: usize) -> (usize, Duration) {
        self.admission.admit(self.clock.now_ms(), lane, places, &self.pools, &self.containers)
    }

    fn release(&self, lane: &ProvisionLane) {
        self.containers.release(lane);
        self.metrics.show_capacity(&self.containers);
    }
}

// === impl Node ===

impl Node {
    async fn provision(&self, work: &ProvisionWork, deliveries: u64) -> Outcome {
        // The queue has checked the ids.
        let Ok((id, pool, _, _)) = work.parts() else {
            let reason = "its sandbox, pool or template is no id".to_owned();
            return ("unreadable", Verdict::GiveUp { reason });
        };
        let _turn = self.turns.turn(&id).await;
        let wanted = match self.ask_wanted(work).await {
            Ok(Some(wanted)) => wanted,
            Ok(None) => return ("unwanted", Verdict::Done),
            Err(_) => return ("report_refused", Verdict::Retry { delay: REFUSED_DELAY }),
        };
        let WantedSandbox { attempts, settings, lease } = wanted;
        if deliveries > DELIVERIES_MAX {
            let reason = format!("delivered {deliveries} times without an outcome");
            return self.report_failure(work, attempts, reason, true).await;
        }
        let template = match settings.spec() {
            Ok(template) => template,
            Err(mistake) => {
                let reason = format!("its template is not valid on this node: {mistake}");
                return self.report_failure(work, attempts, reason, false).await;
            }
        };
        let wanted = Wanted { id, pool, work, attempts, template, lease };
        match self.ready_container(&wanted).await {
            Ok((container, creating)) => self.report_ready(&wanted, container, &creating).await,
            Err(Failure::NotCounted { result, delay }) => {
                let delay = delay + full_jitter(self.random.as_ref(), delay);
                (result, Verdict::Retry { delay })
            }
            Err(Failure::Counted { reason, is_final }) => {
                self.report_failure(work, attempts, reason, is_final).await
            }
        }
    }

    async fn ask_wanted(&self, work: &ProvisionWork) -> Result<Option<WantedSandbox>, ReportError> {
        let node = self.control.node().to_string();
        let request = |generation| ProvisionWantedRequest {
            node: node.clone(),
            generation,
            sandbox_id: work.sandbox_id.clone(),
            epoch: work.epoch,
        };
        let reply: ProvisionWantedReply = self.control.insist(Verb::ProvisionWanted, &request).await?;
        Ok(reply.wanted)
    }

    /// A container that is ready: that of an earlier delivery, or a new one.
    async fn ready_container(&self, wanted: &Wanted<'_>) -> Result<(Container, Creating<'_>), Failure> {
        let (container, creating) = match self.adopt(wanted).await? {
            Some(adopted) => adopted,
            None => self.create(wanted).await?,
        };
        // The main command begins with the environment and the network of the claim that waits for it.
        let env = self.containers.entry(&creating.incarnation()).map(|entry| entry.env_of_commands());
        let attached = match wanted.lease {
            Some(_) => self.attach_network(&creating.incarnation()).await,
            None => Ok(()),
        };
        let ready = match attached {
            Ok(()) => self.make_ready(&container, &wanted.template, &env.unwrap_or_default()).await,
            Err(error @ EngineError::Unavailable { .. }) => {
                self.discard(&creating.incarnation(), Removal::Failed).await;
                return Err(self.unavailable(&wanted.id, &error));
            }
            Err(error) => Err(format!("it cannot be attached to its network: {error}")),
        };
        match ready {
            Ok(()) => Ok((container, creating)),
            Err(reason) => {
                self.discard(&creating.incarnation(), Removal::Failed).await;
                Err(Failure::Counted { reason, is_final: false })
            }
        }
    }

    /// The container that an earlier delivery of this work has left. One that cannot become ready is removed.
    async fn adopt(&self, wanted: &Wanted<'_>) -> Result<Option<(Container, Creating<'_>)>, Failure> {
        let left = self.containers.of_sandbox(&wanted.id);
        if left.is_empty() {
            return Ok(None);
        }
        let listed = self.engine.list().await.map_err(|error| self.unavailable(&wanted.id, &error))?;
        let mut adopted = None;
        for (incarnation, entry) in left {
            let found = listed.iter().find(|container| container.incarnation == incarnation);
            match found.filter(|container| container.state == ContainerState::Running) {
                // One of another lease was handed out before. No record names it, so it is removed.
                Some(container) if adopted.is_none() && is_of(&entry, wanted.lease.as_ref()) => {
                    self.containers.note_answer(&incarnation, entry.lease.as_ref(), wanted.lease.clone());
                    adopted = self.containers.resume(incarnation).map(|own| (container.clone(), own));
                }
                _ => self.discard(&incarnation, Removal::Failed).await,
            }
        }
        if let Some((container, _)) = &adopted {
            tracing::info!(
                sandbox.id = wanted.id.as_str(),
                container.incarnation = %container.incarnation,
                "{} has a container from an earlier delivery",
                wanted.id
            );
        }
        Ok(adopted)
    }

    async fn create(&self, wanted: &Wanted<'_>) -> Result<(Container, Creating<'_>), Failure> {
        let Wanted { id, pool, work, attempts: _, template, lease } = wanted;
        let image = self.image_for(template).map_err(|reason| {
            // Another node may serve it.
            tracing::warn!(sandbox.id = id.as_str(), reason, "{id} cannot be created on this node");
            Failure::put_off("not_here")
        })?;
        // An id that is no UUID would be a mistake of this process.
        let incarnation = Incarnation::parse(&self.random.fresh_id())
            .map_err(|problem| Failure::counted(format!("a fresh id {problem}")))?;
        let lane = ProvisionLane { priority: work.priority(), pool: pool.clone() };
        let entry = Entry::of(id.clone(), template).leased(lease.clone());
        let spec = container_spec(template, image, id.clone(), incarnation, entry.env_of_commands());
        let Some(creating) = self.containers.begin(&lane, incarnation, entry) else {
            return Err(Failure::put_off("full"));
        };
        let created = within(self.clock.as_ref(), CREATE_TIMEOUT, self.engine.create(&spec));
        // Written at the same time: after a crash in between, the container is still found by its labels.
        let (created, ()) = tokio::join!(created, self.containers.persist_or_log());
        let error = match created {
            Some(Ok(container)) => return Ok((container, creating)),
            Some(Err(error)) => error,
            None => {
                let seconds = CREATE_TIMEOUT.as_secs();
                EngineError::failed(format!("it was not created within {seconds} s"))
            }
        };
        // The engine may have something of it even if it says that it failed.
        self.discard(&incarnation, Removal::Failed).await;
        Err(match error {
            EngineError::Full { reason } => {
                tracing::warn!(
                    sandbox.id = id.as_str(),
                    reason,
                    "the machine is full, although it offers more"
                );
                self.admission.close(self.clock.now_ms());
                Failure::put_off("full")
            }
            EngineError::Unavailable { .. } => self.unavailable(id, &error),
            // It was removed meanwhile; the next delivery learns why.
            EngineError::Gone => Failure::put_off("gone"),
            EngineError::Refused { reason } => Failure::Counted { reason, is_final: true },
            EngineError::Failed { reason } => Failure::counted(reason),
        })
    }

    fn unavailable(&self, id: &SandboxId, error: &EngineError) -> Failure {
        tracing::warn!(sandbox.id = id.as_str(), error = %error, "the engine cannot create {id} now");
        self.admission.close(self.clock.now_ms());
        Failure::put_off("engine_unavailable")
    }

    /// Reports a container that is ready until that is answered. It is kept until then.
    async fn report_ready(
        &self,
        wanted: &Wanted<'_>,
        container: Container,
        creating: &Creating<'_>,
    ) -> Outcome {
        let Wanted { id, work, .. } = wanted;
        let incarnation = creating.incarnation();
        let node = self.control.node().to_string();
        let endpoints = container.endpoints.iter();
        let endpoints: std::collections::BTreeMap<_, _> =
            endpoints.map(|endpoint| (endpoint.port, endpoint.address.to_string())).collect();
        let network = Some(wanted.template.network).filter(|network| *network != Network::None);
        let network = network.map(|network| <&str>::from(network).to_owned());
        let request = |generation| ProvisionedRequest {
            node: node.clone(),
            generation,
            sandbox_id: work.sandbox_id.clone(),
            epoch: work.epoch,
            incarnation: incarnation.to_string(),
            endpoints: endpoints.clone(),
            network: network.clone(),
        };
        let seen = self.containers.entry(&incarnation).and_then(|entry| entry.lease);
        let reply: Result<Holding, _> = self.control.insist(Verb::Provisioned, &request).await;
        let Ok(Holding { fate, lease }) = reply else {
            return ("report_refused", Verdict::Retry { delay: REFUSED_DELAY });
        };
        match fate {
            Fate::Keep => {
                let is_leased = lease.is_some();
                self.containers.note_answer(&incarnation, seen.as_ref(), lease);
                self.containers.persist_or_log().await;
                if is_leased && wanted.lease.is_none() {
                    // A failure is logged; the reconciliation repeats it.
                    let _ = self.attach_network(&incarnation).await;
                }
                tracing::info!(
                    sandbox.id = id.as_str(),
                    container.incarnation = %incarnation,
                    pool.name = wanted.pool.as_str(),
                    delivery.attempts = wanted.attempts,
                    "{id} is ready"
                );
                ("created", Verdict::Done)
            }
            Fate::Remove => {
                self.discard(&incarnation, Removal::Unwanted).await;
                ("unwanted", Verdict::Done)
            }
            Fate::Unknown => {
                tracing::error!(
                    sandbox.id = id.as_str(),
                    "there is no record of {id}; its container is kept"
                );
                ("unknown", Verdict::Retry { delay: REFUSED_DELAY })
            }
        }
    }

    /// Reports a failed attempt until that is answered.
    async fn report_failure(
        &self,
        work: &ProvisionWork,
        attempts: u32,
        reason: String,
        is_final: bool,
    ) -> Outcome {
        let id = work.sandbox_id.as_str();
        tracing::warn!(sandbox.id = id, reason, is_final, "an attempt to create {id} failed");
        let node = self.control.node().to_string();
        let request = |generation| ProvisionFailedRequest {
            node: node.clone(),
            generation,
            sandbox_id: work.sandbox_id.clone(),
            epoch: work.epoch,
            attempts,
            reason: reason.clone(),
            is_final,
        };
        let reply: Result<ProvisionFailedReply, _> =
            self.control.insist(Verb::ProvisionFailed, &request).await;
        let Ok(ProvisionFailedReply { next, attempts }) = reply else {
            return ("report_refused", Verdict::Retry { delay: REFUSED_DELAY });
        };
        match next {
            AfterFailure::Retry => {
                let longest = longest_pause(RETRY_DELAY_MIN, RETRY_DELAY_MAX, attempts);
                let delay = full_jitter(self.random.as_ref(), longest);
                (FAILED, Verdict::Retry { delay })
            }
            AfterFailure::Park => ("parked", Verdict::GiveUp { reason }),
            AfterFailure::Drop => ("unwanted", Verdict::Done),
        }
    }
}

/// Whether a container was never leased, or belongs to this lease.
fn is_of(entry: &Entry, lease: Option<&NodeLease>) -> bool {
    entry.leased_epoch.is_none() || entry.leased_epoch == lease.map(|lease| lease.epoch)
}

#[cfg(test)]
mod tests;
