//! Nodes (protocol rule P8): finds out which are there, declares lost what does not answer for long, gives up the free
//! sandboxes of a node that is lost or drained, and tells the holders of the others what has become of their containers.
//!
//! Every node is asked, so silence is measured by this process: it means nothing while this process has no connection.

use crate::Reconciler;
use crate::fill::GivenUp;
use crate::listing::Skipped;
use contract::nodes::{HeldContainer, INVENTORY_MAX, IdleContainer, InventoryReply, InventoryRequest};
use contract::{NodeVerb, NodesReport, RunStatus};
use domain::{
    Actor, Descriptor, Node, NodeId, Order, Reason, RuntimeChange, RuntimeFailure, RuntimeState, Sandbox,
    StateName,
};
use futures_util::future::join_all;
use ports::bus::{Context, RequestError};
use ports::store::{StoreError, Write};
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::time::Duration;

mod silence;

pub(crate) use silence::Silence;
use silence::{Doubts, Verdict};

/// How long a node may take to answer; it needs some milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Nodes on a page.
const NODES_PAGE: u16 = 100;
/// Who ends leases when the time of a drain is over, for the history.
const ACTOR: &str = "nodes";
/// How often a node is asked about its containers: this takes a walk over all of them.
const INVENTORY_PERIOD: Duration = Duration::from_secs(30);

/// What becomes of a container with its node.
const NODE_LOST: RuntimeChange = RuntimeChange::Failed(RuntimeFailure::NodeLost);

/// The containers that records name, by node.
type Named = BTreeMap<NodeId, Vec<Sandbox>>;

// === impl Reconciler ===

impl Reconciler {
    pub(crate) async fn look_at_nodes(&self) -> NodesReport {
        let mut report = NodesReport::default();
        let mut skipped = Skipped::default();
        let ended = self.try_look(&mut report, &mut skipped).await;
        report.unreadable = skipped.count();
        if let Err(error) = &ended {
            tracing::error!(error = %Chain(error), "the look at the nodes did not complete");
        }
        report.status = if ended.is_ok() { RunStatus::Completed } else { RunStatus::Failed };
        report
    }

    async fn try_look(&self, report: &mut NodesReport, skipped: &mut Skipped) -> Result<(), StoreError> {
        let nodes = self.every_node().await?;
        let live: Vec<_> = nodes.iter().filter(|node| node.lost_at.is_none()).collect();
        let asked = live.iter().map(|node| self.ask_inventory(&node.id, Vec::new()));
        let answers = join_all(asked).await;
        let is_connected =
            !answers.iter().any(|answer| matches!(answer, Err(Some(RequestError::Disconnected))));
        // A node that refuses or says what this build cannot read is there.
        let has_answered = |answer: &Result<_, _>| !matches!(answer, Err(Some(_)));
        let present = live.iter().zip(&answers).map(|(node, answer)| (node.id.clone(), has_answered(answer)));
        let now = self.ports.clock.monotonic();
        let verdicts = self.silence.note(present.collect(), is_connected, now);
        let mut is_new = false;
        for node in live {
            match verdicts.get(&node.id) {
                Some(Verdict::Present) => report.present += 1,
                Some(Verdict::Unknown) => {}
                Some(Verdict::Silent(span)) => _ = report.silent.insert(node.id.to_string(), span.as_secs()),
                Some(Verdict::Lost) if self.declare_lost(node).await? => {
                    report.lost.push(node.id.to_string());
                    is_new = true;
                }
                _ => report.raced += 1,
            }
        }
        let drained = nodes.iter().filter(|node| node.drain.is_some()).map(|node| node.id.clone());
        is_new |= self.silence.note_drained(drained.collect());
        if is_new || self.silence.is_inventory_due(now, INVENTORY_PERIOD) {
            self.take_inventory(report, skipped).await?;
        }
        Ok(())
    }

    async fn every_node(&self) -> Result<Vec<Node>, StoreError> {
        let (mut nodes, mut after) = (Vec::new(), None);
        loop {
            let page = self.ports.store.nodes(after.as_ref(), NODES_PAGE).await?;
            nodes.extend(page.entries);
            after = page.next;
            if after.is_none() {
                return Ok(nodes);
            }
        }
    }

    /// Marks a node as lost, which also raises its generation, so that its reports are refused until it registers again;
    /// false if it has registered meanwhile.
    async fn declare_lost(&self, node: &Node) -> Result<bool, StoreError> {
        let lost = Node {
            generation: node.generation.saturating_add(1),
            lost_at: Some(self.ports.clock.now()),
            ..node.clone()
        };
        let is_lost = self.ports.store.write_node(Some(node), &lost).await?;
        if is_lost {
            tracing::error!(node.id = node.id.as_str(), "node {} does not answer and is lost", node.id);
        }
        Ok(is_lost)
    }

    /// Compares the containers that records name with those that their nodes have, and empties nodes that are drained.
    async fn take_inventory(
        &self,
        report: &mut NodesReport,
        skipped: &mut Skipped,
    ) -> Result<(), StoreError> {
        let (before, mut doubts) = (self.silence.doubts(), Doubts::new());
        for (id, sandboxes) in self.named_containers(skipped).await? {
            // Read after its containers: it may have registered again, or been activated, since this run began.
            let Some(node) = self.ports.store.node(&id).await? else { continue };
            for part in sandboxes.chunks(INVENTORY_MAX) {
                let Some(found) = self.find_containers(&node, part).await else { break };
                for sandbox in part {
                    let finding = container_of(sandbox).and_then(|container| found.get(&container).copied());
                    if sandbox.lease().is_none() {
                        if finding.is_some_and(|finding| !is_alive(finding)) || node.drain.is_some() {
                            self.give_up(&id, sandbox, report, skipped).await?;
                        }
                        continue;
                    }
                    let lost = matches!(finding, Some(RuntimeChange::Failed(_)));
                    report.leased_missing += u64::from(lost);
                    let now = self.ports.clock.now();
                    if node.drain.and_then(|drain| drain.deadline).is_some_and(|deadline| deadline <= now) {
                        self.end_for_drain(&id, sandbox, report, skipped).await?;
                        continue;
                    }
                    let Some(finding) = finding.filter(|finding| is_news(*finding, sandbox)) else {
                        continue;
                    };
                    // A single look may meet a container that is being started, or an engine that skips one.
                    let doubt = container_of(sandbox).map(|container| (container, finding.leads_to()));
                    let is_certain =
                        finding == NODE_LOST || doubt.as_ref().is_some_and(|one| before.contains(one));
                    doubts.extend(doubt);
                    if is_certain {
                        self.note_runtime(&id, sandbox, finding, report, skipped).await?;
                    }
                }
            }
        }
        self.silence.set_doubts(doubts);
        Ok(())
    }

    /// What a node says about containers that records name: all of them are lost with it. None if that is not known.
    async fn find_containers(
        &self,
        node: &Node,
        sandboxes: &[Sandbox],
    ) -> Option<BTreeMap<HeldContainer, RuntimeChange>> {
        let named: Vec<_> = sandboxes.iter().filter_map(container_of).collect();
        if node.lost_at.is_some() {
            return Some(named.into_iter().map(|container| (container, NODE_LOST)).collect());
        }
        let asked = self.ask_inventory(&node.id, named.clone()).await.ok();
        // Another runner may use the name, or an older one may still answer.
        let Some(reply) = asked.filter(|reply| reply.generation == node.generation) else {
            // A node that cannot say what it has is drained all the same.
            return node.drain.map(|_| BTreeMap::new());
        };
        let running =
            named.into_iter().map(|container| (container, RuntimeChange::Found(RuntimeState::Running)));
        let idle = reply.idle.into_iter().filter_map(|IdleContainer { sandbox_id, incarnation, runtime }| {
            Some((HeldContainer { sandbox_id, incarnation }, RuntimeChange::Found(runtime.known()?)))
        });
        let lost = RuntimeChange::Failed(RuntimeFailure::ContainerLost);
        let missing = reply.missing.into_iter().map(|container| (container, lost));
        Some(running.chain(idle).chain(missing).collect())
    }

    /// Every sandbox whose record names a container.
    async fn named_containers(&self, skipped: &mut Skipped) -> Result<Named, StoreError> {
        let pools = self.ports.pools.current();
        let mut named = Named::new();
        for spec in pools.specs().iter().filter(|spec| pools.is_created(&spec.name)) {
            let states = [StateName::Available, StateName::Allocated];
            let mut walk = self.walk_pool(&spec.name, &states).await?;
            while let Some(batch) = walk.next(skipped).await? {
                for sandbox in batch {
                    let node = sandbox.descriptor.get(Descriptor::NODE).map(NodeId::parse);
                    if let Some(Ok(node)) = node {
                        named.entry(node).or_default().push(sandbox);
                    }
                }
            }
        }
        Ok(named)
    }

    /// Gives up a free sandbox.
    async fn give_up(
        &self,
        node: &NodeId,
        sandbox: &Sandbox,
        report: &mut NodesReport,
        skipped: &mut Skipped,
    ) -> Result<(), StoreError> {
        match self.give_up_free(sandbox, skipped).await? {
            GivenUp::Done { is_announced } => {
                report.retired += 1;
                report.unannounced += u64::from(!is_announced);
                tracing::warn!(
                    sandbox.id = sandbox.id.as_str(),
                    node.id = node.as_str(),
                    "{} is given up: node {node} is lost or drained, or does not have it",
                    sandbox.id,
                );
            }
            GivenUp::Raced => report.raced += 1,
            GivenUp::Unreadable => {}
        }
        Ok(())
    }

    /// Writes into the record of a leased sandbox what has become of its container, so that its holder learns of it.
    async fn note_runtime(
        &self,
        node: &NodeId,
        sandbox: &Sandbox,
        change: RuntimeChange,
        report: &mut NodesReport,
        skipped: &mut Skipped,
    ) -> Result<(), StoreError> {
        let written = self.ports.store.note_runtime(sandbox, change, None, self.ports.clock.now()).await;
        match skipped.unless_unreadable(written)? {
            Some(Write::Done(changed)) => {
                report.failed += u64::from(matches!(change, RuntimeChange::Failed(_)));
                self.ports.recorder.note(&changed, None);
                tracing::warn!(
                    sandbox.id = sandbox.id.as_str(),
                    node.id = node.as_str(),
                    "the container of {}, which is leased, is {} on node {node}",
                    sandbox.id,
                    change.leads_to(),
                );
            }
            Some(Write::Lost(_)) => report.raced += 1,
            None => {}
        }
        Ok(())
    }

    /// Ends a lease that is left on a node when the time of its drain is over.
    async fn end_for_drain(
        &self,
        node: &NodeId,
        sandbox: &Sandbox,
        report: &mut NodesReport,
        skipped: &mut Skipped,
    ) -> Result<(), StoreError> {
        let reason = format!("node {node} is drained");
        let order = Actor::parse(ACTOR).and_then(|by| Ok(Order { by, reason: Reason::parse(&reason)? }));
        let Ok(order) = order else { return Ok(()) };
        let written = self.ports.store.order_deletion(sandbox, &order, self.ports.clock.now()).await;
        match skipped.unless_unreadable(written)? {
            Some(Write::Done(ended)) => {
                report.ended += 1;
                report.unannounced += u64::from(!self.after_lease(&ended).await?);
                tracing::warn!(
                    sandbox.id = sandbox.id.as_str(),
                    "the lease of {} is ended: {reason}",
                    sandbox.id
                );
            }
            Some(Write::Lost(_)) => report.raced += 1,
            None => {}
        }
        Ok(())
    }

    /// What a node says; the error is none if its answer cannot be used.
    async fn ask_inventory(
        &self,
        node: &NodeId,
        containers: Vec<HeldContainer>,
    ) -> Result<InventoryReply, Option<RequestError>> {
        let clock = self.ports.clock.as_ref();
        let context = Context::own(clock, self.ports.random.as_ref(), ANSWER_TIMEOUT);
        let body = serde_json::to_vec(&InventoryRequest { containers }).map_err(|_| None)?;
        let asked =
            self.ports.nodes.request_node(node, NodeVerb::Inventory, &context, body.into(), ANSWER_TIMEOUT);
        asked.await.map_err(Some)?.read().ok().and_then(Result::ok).ok_or(None)
    }
}

/// Whether a container can be handed out.
fn is_alive(finding: RuntimeChange) -> bool {
    matches!(finding.leads_to(), RuntimeState::Running | RuntimeState::Paused | RuntimeState::Stopped)
}

/// Whether the record says something else. What is lost stays so.
fn is_news(finding: RuntimeChange, sandbox: &Sandbox) -> bool {
    let known = RuntimeState::of(&sandbox.descriptor);
    known != Some(RuntimeState::Failed) && known != Some(finding.leads_to())
}

/// The container that a record names.
fn container_of(sandbox: &Sandbox) -> Option<HeldContainer> {
    let incarnation = sandbox.descriptor.get(Descriptor::INCARNATION)?.to_owned();
    Some(HeldContainer { sandbox_id: sandbox.id.to_string(), incarnation })
}

#[cfg(test)]
mod tests;
