//! Lost nodes and lost containers, on ports in memory.

use super::*;
use crate::fill::tests::{all, pool, rig as filled_rig};
use crate::tests::{HOUR, NOW, Rig, done};
use async_trait::async_trait;
use contract::{Fault, FaultCode, Report, TickKind};
use domain::template::Isolation;
use domain::{ClaimKey, Drain, Grant, IdempotencyKey, OwnerId};
use parking_lot::Mutex;
use ports::bus::{Answer, Handler, Request, ServeNode as _};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A node that has everything that it is asked about, except for these.
#[derive(Default)]
struct FakeNode {
    lacks: Mutex<BTreeSet<String>>,
    exited: Mutex<BTreeSet<String>>,
    /// Whether it cannot say what it has.
    is_blind: Mutex<bool>,
    asked: Mutex<usize>,
    refuses: Mutex<bool>,
}

#[async_trait]
impl Handler<NodeVerb> for FakeNode {
    async fn handle(&self, request: Request<NodeVerb>) -> Answer {
        assert_eq!(request.verb, NodeVerb::Inventory);
        if *self.refuses.lock() {
            let fault = Fault::new(FaultCode::NoWorkers, "every worker is busy; try again");
            return Answer { outcome: None, body: Err(fault) };
        }
        let InventoryRequest { containers } = serde_json::from_slice(&request.body).unwrap();
        let is_asked = !containers.is_empty();
        *self.asked.lock() += usize::from(is_asked);
        let lacks = self.lacks.lock();
        let (missing, rest): (Vec<_>, Vec<_>) =
            containers.into_iter().partition(|container| lacks.contains(&container.sandbox_id));
        if is_asked && *self.is_blind.lock() {
            let fault = Fault::new(FaultCode::UpstreamUnavailable, "the engine does not answer");
            return Answer { outcome: None, body: Err(fault) };
        }
        let exited = self.exited.lock();
        let idle = rest.into_iter().filter(|container| exited.contains(&container.sandbox_id));
        let idle = idle.map(|HeldContainer { sandbox_id, incarnation }| {
            let runtime = RuntimeState::Exited.into();
            IdleContainer { sandbox_id, incarnation, runtime }
        });
        let reply = InventoryReply { generation: 1, missing, idle: idle.collect(), load: None };
        Answer { outcome: None, body: Ok(serde_json::to_vec(&reply).unwrap().into()) }
    }
}

fn node_id(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

/// Serves the requests to a node until the token is cancelled.
async fn serve(rig: &Rig, name: &'static str) -> (Arc<FakeNode>, CancellationToken) {
    let (node, stop) = (Arc::new(FakeNode::default()), CancellationToken::new());
    let (bus, handler, stopped) = (rig.bus.clone(), Arc::clone(&node), stop.clone());
    tokio::spawn(async move { bus.serve_node(&node_id(name), handler, 4, stopped).await });
    tokio::task::yield_now().await;
    (node, stop)
}

async fn register(rig: &Rig, name: &str) {
    let seen = rig.store.node(&node_id(name)).await.unwrap();
    let node = Node {
        id: node_id(name),
        generation: seen.as_ref().map_or(0, |node| node.generation) + 1,
        engine: "fake".to_owned(),
        isolation: Isolation::Process,
        version: "0.1.0".to_owned(),
        registered_at: NOW,
        lost_at: None,
        drain: None,
    };
    assert!(rig.store.write_node(seen.as_ref(), &node).await.unwrap());
}

/// Creates what is wanted, one after the other on these nodes.
async fn create_on(rig: &Rig, nodes: &[&str]) {
    for (number, sandbox) in all(rig, StateName::Provisioning).await.into_iter().enumerate() {
        let incarnation = format!("0198c0de-0000-7000-8000-{number:012}");
        let entries =
            [(Descriptor::NODE, nodes[number % nodes.len()]), (Descriptor::INCARNATION, &*incarnation)];
        let descriptor = Descriptor::parse(entries).unwrap();
        done(rig.store.finish_provision(&sandbox, &descriptor, NOW).await.unwrap());
    }
}

async fn look(rig: &Rig) -> NodesReport {
    match rig.run(TickKind::NODES).await {
        Report::Nodes(report) => {
            assert_eq!((report.status, report.unannounced), (RunStatus::Completed, 0));
            report
        }
        other => panic!("{other:?}"),
    }
}

/// Looks every two seconds for so long; the reports that say something was lost or given up.
async fn look_for(rig: &Rig, span: Duration) -> Vec<NodesReport> {
    let mut found = Vec::new();
    for _ in 0..span.as_secs() / 2 {
        rig.clock.advance(Duration::from_secs(2));
        let report = look(rig).await;
        if !report.lost.is_empty() || report.retired > 0 {
            found.push(report);
        }
    }
    found
}

/// Six free sandboxes on three nodes, of which `a` and `b` are served.
async fn three_nodes() -> (Rig, [(Arc<FakeNode>, CancellationToken); 2]) {
    let rig = filled_rig(6, 6).await;
    for name in ["a", "b", "c"] {
        register(&rig, name).await;
    }
    let served = [serve(&rig, "a").await, serve(&rig, "b").await];
    rig.run(TickKind::FILL).await;
    create_on(&rig, &["a", "b", "c"]).await;
    (rig, served)
}

async fn free_on(rig: &Rig, node: &str) -> Vec<Sandbox> {
    let mut free = all(rig, StateName::Available).await;
    free.retain(|sandbox| sandbox.descriptor.get(Descriptor::NODE) == Some(node));
    free
}

/// Leases a free sandbox of that node.
async fn lease_one_on(rig: &Rig, node: &str) -> Sandbox {
    let candidate = free_on(rig, node).await[0].candidate();
    let owner = OwnerId::parse(&format!("p-{node}")).unwrap();
    let claim = ClaimKey { key: IdempotencyKey::from(&owner), owner };
    let (granted_at, expires_at) = (NOW, NOW.after(HOUR));
    let grant =
        Grant { claim, candidate, lab: None, by: None, request: None, granted_at, expires_at, options: None };
    done(rig.store.grant(&grant).await.unwrap())
}

async fn stored(rig: &Rig, sandbox: &Sandbox) -> Sandbox {
    rig.store.sandbox(&sandbox.id).await.unwrap().unwrap()
}

fn runtime_of(sandbox: &Sandbox) -> (RuntimeState, Option<&str>) {
    let state = RuntimeState::of(&sandbox.descriptor).unwrap();
    (state, sandbox.descriptor.get(Descriptor::RUNTIME_REASON))
}

async fn set_drain(rig: &Rig, name: &str, drain: Option<Drain>) {
    let seen = rig.store.node(&node_id(name)).await.unwrap().unwrap();
    assert!(rig.store.write_node(Some(&seen), &Node { drain, ..seen.clone() }).await.unwrap());
}

#[tokio::test]
async fn free_sandboxes_of_a_lost_node_are_given_up_and_leases_stay() {
    let (rig, _served) = three_nodes().await;
    let held = lease_one_on(&rig, "c").await;
    let first = look(&rig).await;
    assert_eq!((first.present, first.silent["c"], first.retired), (2, 0, 0));
    assert_eq!(look_for(&rig, Duration::from_secs(28)).await, []);
    let [report] = &look_for(&rig, Duration::from_secs(4)).await[..] else { panic!("one report") };
    assert_eq!((&report.lost[..], report.retired, report.leased_missing), (&["c".to_owned()][..], 1, 1));
    let marked = stored(&rig, &held).await;
    assert_eq!((report.failed, runtime_of(&marked)), (1, (RuntimeState::Failed, Some("node_lost"))));
    assert_eq!((marked.lease(), marked.epoch), (held.lease(), held.epoch), "its holder keeps it");
    assert_eq!(marked.history.last().unwrap().cause, domain::Cause::Failed);
    assert_eq!((free_on(&rig, "a").await.len(), free_on(&rig, "b").await.len()), (2, 2));
    let lost = rig.store.node(&node_id("c")).await.unwrap().unwrap();
    assert_eq!((lost.generation, lost.lost_at.is_some()), (2, true), "its reports are refused from now on");
    let gone = all(&rig, StateName::PendingDeletion).await;
    let queued = ports::bus::Upkeep::queued_of(&rig.bus, &pool(), &gone[0].id).await.unwrap();
    assert_eq!((gone.len(), queued.len()), (1, 1));
    assert_eq!(look_for(&rig, Duration::from_secs(60)).await, [], "once");
    register(&rig, "c").await;
    let _back = serve(&rig, "c").await;
    assert_eq!(look(&rig).await.present, 3);
    assert_eq!(stored(&rig, &held).await, marked, "once, and for good");
}

#[tokio::test]
async fn holders_learn_that_their_containers_have_ended_or_are_lost() {
    let (rig, served) = three_nodes().await;
    let _c = serve(&rig, "c").await;
    let (ended, gone) = (lease_one_on(&rig, "a").await, lease_one_on(&rig, "b").await);
    served[0].0.exited.lock().insert(ended.id.to_string());
    served[1].0.lacks.lock().insert(gone.id.to_string());
    let report = look(&rig).await;
    assert_eq!(
        (report.retired, report.leased_missing, report.failed),
        (0, 1, 0),
        "a single look is not enough"
    );
    look_for(&rig, Duration::from_secs(32)).await;
    let (ended, gone) = (stored(&rig, &ended).await, stored(&rig, &gone).await);
    assert_eq!(runtime_of(&ended), (RuntimeState::Exited, None));
    assert_eq!(runtime_of(&gone), (RuntimeState::Failed, Some("container_lost")));
    // The holder starts it again, and it ends again.
    let started = RuntimeChange::Done(domain::RuntimeAction::Start);
    let started = done(rig.store.note_runtime(&ended, started, None, NOW).await.unwrap());
    assert_eq!(runtime_of(&started), (RuntimeState::Running, None));
    look_for(&rig, Duration::from_secs(64)).await;
    assert_eq!(runtime_of(&stored(&rig, &ended).await), (RuntimeState::Exited, None));
    assert_eq!(stored(&rig, &gone).await, gone, "marked once");
    // The write that said so was lost.
    served[0].0.exited.lock().clear();
    look_for(&rig, Duration::from_secs(64)).await;
    assert_eq!(runtime_of(&stored(&rig, &ended).await), (RuntimeState::Running, None));
}

#[tokio::test]
async fn drained_node_is_emptied_and_its_leases_end_at_the_deadline() {
    let (rig, served) = three_nodes().await;
    let _c = serve(&rig, "c").await;
    look(&rig).await;
    let held = lease_one_on(&rig, "a").await;
    let drain = |deadline| Some(Drain { since: NOW, deadline });
    set_drain(&rig, "a", drain(None)).await;
    let report = look(&rig).await;
    assert_eq!((report.retired, report.ended, report.present), (1, 0, 3), "at once");
    assert_eq!((free_on(&rig, "a").await.len(), free_on(&rig, "b").await.len()), (0, 2));
    assert_eq!(stored(&rig, &held).await, held, "a lease runs to its end");
    set_drain(&rig, "a", drain(Some(NOW.after(Duration::from_secs(100))))).await;
    look_for(&rig, Duration::from_secs(90)).await;
    // An engine that does not answer may be why it is drained.
    *served[0].0.is_blind.lock() = true;
    assert_eq!(stored(&rig, &held).await, held);
    for _ in 0..20 {
        rig.clock.advance(Duration::from_secs(2));
        look(&rig).await;
    }
    let ended = stored(&rig, &held).await;
    assert_eq!(ended.state.name(), StateName::PendingDeletion);
    let entry = ended.history.last().unwrap();
    assert_eq!(entry.by.as_ref().map(Actor::as_str), Some("nodes"));
    assert_eq!(entry.reason.as_ref().map(Reason::as_str), Some("node a is drained"));
    let queued = ports::bus::Upkeep::queued_of(&rig.bus, &pool(), &held.id).await.unwrap();
    assert_eq!(queued.len(), 1);
}

#[tokio::test]
async fn node_that_is_back_during_the_run_keeps_its_leases() {
    let (rig, _served) = three_nodes().await;
    look_for(&rig, Duration::from_secs(34)).await;
    register(&rig, "c").await;
    let held = {
        rig.run(TickKind::FILL).await;
        create_on(&rig, &["c"]).await;
        lease_one_on(&rig, "c").await
    };
    // The run has read it as lost.
    let mut report = NodesReport::default();
    rig.reconciler.take_inventory(&mut report, &mut Skipped::default()).await.unwrap();
    assert_eq!((report.failed, report.leased_missing), (0, 0), "it does not answer, and is not lost");
    assert_eq!(stored(&rig, &held).await, held);
}

#[tokio::test]
async fn node_that_registers_during_the_run_is_not_lost() {
    let (rig, _served) = three_nodes().await;
    let seen = rig.store.node(&node_id("c")).await.unwrap().unwrap();
    register(&rig, "c").await;
    assert!(!rig.reconciler.declare_lost(&seen).await.unwrap());
    assert_eq!(rig.store.node(&node_id("c")).await.unwrap().unwrap().lost_at, None);
}

#[tokio::test]
async fn free_sandbox_whose_container_is_gone_is_given_up() {
    let (rig, served) = three_nodes().await;
    let _c = serve(&rig, "c").await;
    assert_eq!(look(&rig).await.retired, 0);
    let [gone, stays] = &free_on(&rig, "a").await[..] else { panic!("two") };
    served[0].0.lacks.lock().insert(gone.id.to_string());
    assert_eq!(look_for(&rig, Duration::from_secs(28)).await, [], "not asked again yet");
    let [report] = &look_for(&rig, Duration::from_secs(4)).await[..] else { panic!("one report") };
    assert_eq!((report.retired, report.lost.len()), (1, 0));
    assert_eq!(&free_on(&rig, "a").await, std::slice::from_ref(stays));
    assert_eq!(*served[1].0.asked.lock(), 2, "each node was asked in both inventories");
}

#[tokio::test]
async fn without_a_connection_no_node_is_lost() {
    let (rig, _served) = three_nodes().await;
    look(&rig).await;
    rig.clock.advance(Duration::from_secs(28));
    rig.bus.set_connected(false);
    let Report::Nodes(report) = rig.run(TickKind::NODES).await else { panic!("a look") };
    assert_eq!((report.lost.len(), report.retired), (0, 0));
    rig.clock.advance(Duration::from_secs(10 * 60));
    let Report::Nodes(report) = rig.run(TickKind::NODES).await else { panic!("a look") };
    assert_eq!((report.lost.len(), report.retired), (0, 0));
    rig.bus.set_connected(true);
    assert_eq!(look_for(&rig, Duration::from_secs(28)).await, []);
    assert_eq!(look_for(&rig, Duration::from_secs(6)).await.len(), 1);
}

#[tokio::test]
async fn node_that_refuses_is_there_and_one_of_another_generation_is_not_believed() {
    let (rig, served) = three_nodes().await;
    let _c = serve(&rig, "c").await;
    *served[0].0.refuses.lock() = true;
    assert_eq!(look_for(&rig, Duration::from_secs(60)).await, []);
    assert_eq!(look(&rig).await.present, 3);
    *served[0].0.refuses.lock() = false;
    // A second runner of that name has registered, and the first one answers.
    register(&rig, "a").await;
    let lacked: BTreeSet<_> = free_on(&rig, "a").await.iter().map(|one| one.id.to_string()).collect();
    *served[0].0.lacks.lock() = lacked;
    assert_eq!(look_for(&rig, Duration::from_secs(60)).await, []);
    assert_eq!(free_on(&rig, "a").await.len(), 2);
}
