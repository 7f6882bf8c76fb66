//! Requests to the nodes of leased containers, on ports in memory.

use crate::deletions::tests::{HOUR, NOW, Rig};
use crate::nodes::tests::{ONE, provisioned, register, rig, wanted};
use async_trait::async_trait;
use contract::nodes::{LeaseReply, LeaseRequest};
use contract::{Fault, FaultCode, NodeVerb, Verb};
use domain::{NodeId, RuntimeChange, RuntimeFailure, SandboxId};
use parking_lot::Mutex;
use ports::bus::{Answer, Handler, Request, ServeNode as _};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A node that keeps what it was asked, and answers as set.
#[derive(Default)]
struct Node {
    asked: Mutex<Vec<(NodeVerb, Value)>>,
    refuses: Mutex<Option<Fault>>,
    /// What a container does after the request `runtime`.
    runtime: Mutex<String>,
    /// The end of the lease that it claims to have stored, if not the one that it was sent.
    stored_end: Mutex<Option<u64>>,
}

#[async_trait]
impl Handler<NodeVerb> for Node {
    async fn handle(&self, request: Request<NodeVerb>) -> Answer {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        self.asked.lock().push((request.verb, body.clone()));
        let refused = self.refuses.lock().clone();
        let reply = match request.verb {
            _ if refused.is_some() => Err(refused.unwrap()),
            NodeVerb::Lease => {
                let LeaseRequest { mut lease, .. } = serde_json::from_value(body).unwrap();
                lease.ends_at = self.stored_end.lock().unwrap_or(lease.ends_at);
                Ok(serde_json::to_vec(&LeaseReply { lease }).unwrap())
            }
            NodeVerb::Runtime => Ok(json!({"runtime": self.runtime.lock().clone()}).to_string().into_bytes()),
            _ => {
                let result = json!({
                    "reason": "exited", "exit_code": 0, "signal": null, "stdout": "hello\n", "stderr": "",
                    "truncated": false, "started_ms": 1, "ended_ms": 3,
                });
                Ok(result.to_string().into_bytes())
            }
        };
        Answer { outcome: None, body: reply.map(Into::into) }
    }
}

/// A fleet in which `p-1` holds a container on the node `a`, which is served until the token is cancelled.
async fn leased() -> (Rig, Arc<Node>, CancellationToken) {
    let rig = rig().await;
    let (node, stop) = (Arc::new(Node::default()), CancellationToken::new());
    let (bus, handler, stopped) = (rig.bus.clone(), Arc::clone(&node), stop.clone());
    tokio::spawn(async move {
        let id = NodeId::parse("a").unwrap();
        bus.serve_node(&id, handler, 4, stopped).await.unwrap();
    });
    tokio::task::yield_now().await;
    let generation = register(&rig, "a").await;
    let sandbox = wanted(&rig, "ctr_1", None).await;
    provisioned(&rig, generation, &sandbox, ONE).await;
    let lent = rig.ask(Verb::Allocate, json!({"owner": "p-1", "pool": "shells"})).await.unwrap();
    assert_eq!(lent["sandbox_id"], "ctr_1");
    (rig, node, stop)
}

/// What the announcements of the allocator have sent so far.
async fn received(rig: &Rig, node: &Node) -> Vec<(NodeVerb, Value)> {
    rig.allocator.announcing.close();
    rig.allocator.announcing.wait().await;
    rig.allocator.announcing.reopen();
    std::mem::take(&mut node.asked.lock())
}

fn echo(owner: &str) -> Value {
    json!({"sandbox_id": "ctr_1", "owner": owner, "command": ["echo", "hello"]})
}

#[tokio::test]
async fn node_learns_the_lease_of_a_container_that_was_free() {
    let (rig, node, _stop) = leased().await;
    let ends_at = NOW.after(4 * HOUR).get();
    let lease = json!({"epoch": 1, "ends_at": ends_at, "grace_seconds": 1_800});
    let body = json!({"sandbox_id": "ctr_1", "incarnation": ONE, "lease": lease});
    assert_eq!(received(&rig, &node).await, [(NodeVerb::Lease, body)]);
    rig.ask(Verb::Allocate, json!({"owner": "p-1", "pool": "shells"})).await.unwrap();
    assert_eq!(received(&rig, &node).await, [], "a repeat changes nothing");
}

#[tokio::test]
async fn extension_is_answered_only_when_the_node_has_stored_it() {
    let (rig, node, stop) = leased().await;
    received(&rig, &node).await;
    let extend = json!({"sandbox_id": "ctr_1", "owner": "p-1", "lab_duration_hours": 6});
    *node.stored_end.lock() = Some(7);
    let fault = rig.ask(Verb::Extend, extend.clone()).await.unwrap_err();
    assert_eq!((fault.code, fault.retry_after_seconds.is_some()), (FaultCode::UpstreamUnavailable, true));
    *node.stored_end.lock() = None;
    let extended = rig.ask(Verb::Extend, extend.clone()).await.unwrap();
    let ends_at = NOW.after(6 * HOUR).get();
    assert_eq!(extended["expires_at"], ends_at);
    let leases: Vec<_> =
        received(&rig, &node).await.into_iter().map(|(_, body)| body["lease"]["ends_at"].clone()).collect();
    assert_eq!(leases, [ends_at, ends_at], "the repeat sent it again");
    stop.cancel();
    tokio::task::yield_now().await;
    let fault = rig.ask(Verb::Extend, extend).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::UpstreamUnavailable);
    assert!(fault.message.contains("not there right now"), "{}", fault.message);
}

#[tokio::test]
async fn command_runs_in_the_containers_of_its_owner_only() {
    let (rig, node, stop) = leased().await;
    received(&rig, &node).await;
    let result = rig.ask(Verb::Execute, echo("p-1")).await.unwrap();
    assert_eq!((&result["stdout"], &result["exit_code"]), (&json!("hello\n"), &json!(0)));
    let [(NodeVerb::Execute, asked)] = &received(&rig, &node).await[..] else { panic!("one request") };
    let wanted = json!({
        "sandbox_id": "ctr_1", "incarnation": ONE, "command": ["echo", "hello"], "env": {}, "timeout_seconds": 30,
    });
    assert_eq!(*asked, wanted);
    for (body, code) in [
        (echo("p-2"), FaultCode::NotSandboxOwner),
        (echo(""), FaultCode::MissingSandboxId),
        (json!({"sandbox_id": "ctr_9", "owner": "p-1", "command": ["true"]}), FaultCode::NotFound),
        (
            json!({"sandbox_id": "ctr_1", "owner": "p-1", "command": ["true"], "lease_epoch": 2}),
            FaultCode::InvalidState,
        ),
        (
            json!({"sandbox_id": "ctr_1", "owner": "p-1", "command": ["true"], "timeout_seconds": 61}),
            FaultCode::InvalidRequest,
        ),
        (json!({"sandbox_id": "ctr_1", "owner": "p-1"}), FaultCode::InvalidRequest),
    ] {
        let fault = rig.ask(Verb::Execute, body.clone()).await.unwrap_err();
        assert_eq!(fault.code, code, "{body}: {}", fault.message);
    }
    assert_eq!(received(&rig, &node).await, [], "none of these reached the node");
    *node.refuses.lock() = Some(Fault::invalid("command", "must not be empty"));
    let fault = rig.ask(Verb::Execute, echo("p-1")).await.unwrap_err();
    assert_eq!(
        (fault.code, fault.message.as_str()),
        (FaultCode::InvalidRequest, "command must not be empty")
    );
    stop.cancel();
    tokio::task::yield_now().await;
    let fault = rig.ask(Verb::Execute, echo("p-1")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::UpstreamUnavailable);
}

#[tokio::test]
async fn command_needs_a_live_lease_and_a_container() {
    let (rig, _node, _stop) = leased().await;
    wanted(&rig, "ctr_2", Some("p-1")).await;
    rig.add(7, "main").await;
    rig.ask(Verb::Allocate, json!({"owner": "p-7", "pool": "main"})).await.unwrap();
    let refused = async |id: &str, owner: &str| {
        let body = json!({"sandbox_id": id, "owner": owner, "command": ["true"]});
        rig.ask(Verb::Execute, body).await.unwrap_err()
    };
    assert!(refused("ctr_2", "p-1").await.message.contains("still being created"));
    assert!(refused("7", "p-7").await.message.contains("containers only"));
    rig.clock.advance(4 * HOUR + HOUR / 2 + Duration::from_secs(1));
    assert_eq!(refused("ctr_1", "p-1").await.code, FaultCode::AllocationExpired);
    rig.ask(Verb::Release, json!({"sandbox_id": "ctr_1", "owner": "p-1"})).await.unwrap();
    assert!(refused("ctr_1", "p-1").await.message.contains("has been released"));
}

#[tokio::test]
async fn claim_says_whether_it_takes_a_free_container() {
    let (rig, _node, _stop) = leased().await;
    let claim = |owner: &str, warm: &str| json!({"owner": owner, "pool": "shells", "warm": warm});
    let refused = async |body: Value| rig.ask(Verb::Allocate, body).await.unwrap_err().code;
    assert_eq!(refused(claim("p-2", "require")).await, FaultCode::PoolExhausted, "the only one is held");
    assert_eq!(rig.bus.provisions().len(), 0, "and none is created");
    let cold = rig.ask(Verb::Allocate, claim("p-2", "prefer")).await.unwrap();
    assert_eq!(cold["status"], "provisioning");
    let again = rig.ask(Verb::Allocate, claim("p-2", "require")).await.unwrap();
    assert_eq!(
        again["sandbox_id"], cold["sandbox_id"],
        "the lease of the key is an answer whatever it asks for"
    );
    let generation = register(&rig, "a").await;
    let free = wanted(&rig, "ctr_3", None).await;
    provisioned(&rig, generation, &free, ONE).await;
    let fresh = rig.ask(Verb::Allocate, claim("p-3", "never")).await.unwrap();
    assert_eq!((&fresh["status"], fresh["sandbox_id"] == "ctr_3"), (&json!("provisioning"), false));
    let warm = rig.ask(Verb::Allocate, claim("p-4", "require")).await.unwrap();
    assert_eq!((&warm["sandbox_id"], &warm["status"]), (&json!("ctr_3"), &Value::Null));
    assert_eq!(refused(claim("p-5", "sometimes")).await, FaultCode::InvalidRequest);
    assert_eq!(
        refused(json!({"owner": "p-5", "pool": "main", "warm": "never"})).await,
        FaultCode::InvalidRequest
    );
}

#[tokio::test]
async fn container_is_stopped_and_started_for_its_holder() {
    let (rig, node, stop) = leased().await;
    received(&rig, &node).await;
    let ask = |action: &str, owner: &str| json!({"sandbox_id": "ctr_1", "owner": owner, "action": action});
    let events =
        async || rig.store.sandbox(&SandboxId::parse("ctr_1").unwrap()).await.unwrap().unwrap().history;
    for (action, leads_to) in [
        ("stop", "stopped"),
        ("start", "running"),
        ("pause", "paused"),
        ("resume", "running"),
        ("restart", "running"),
    ] {
        leads_to.clone_into(&mut node.runtime.lock());
        let view = rig.ask(Verb::Runtime, ask(action, "p-1")).await.unwrap();
        assert_eq!((&view["runtime"], &view["status"]), (&json!(leads_to), &json!("allocated")), "{action}");
        let written = events().await.len();
        assert_eq!(rig.ask(Verb::Runtime, ask(action, "p-1")).await.unwrap(), view, "a repeat");
        let again = usize::from(action == "restart");
        assert_eq!(events().await.len(), written + again, "a repeat writes nothing, but restarts again");
    }
    let causes: Vec<_> = events().await.iter().map(|entry| entry.cause.as_str()).collect();
    let expected = ["stopped", "started", "paused", "resumed", "restarted", "restarted"];
    assert_eq!(causes[causes.len() - 6..], expected);
    let asked = received(&rig, &node).await;
    assert_eq!(asked.len(), 10, "the node is asked each time");
    assert_eq!(asked[0].1, json!({"sandbox_id": "ctr_1", "incarnation": ONE, "action": "stop"}));
    for (body, code) in [
        (ask("stop", "p-2"), FaultCode::NotSandboxOwner),
        (ask("freeze", "p-1"), FaultCode::InvalidRequest),
        (
            json!({"sandbox_id": "ctr_1", "owner": "p-1", "action": "stop", "lease_epoch": 9}),
            FaultCode::InvalidState,
        ),
    ] {
        assert_eq!(rig.ask(Verb::Runtime, body).await.unwrap_err().code, code);
    }
    stop.cancel();
    tokio::task::yield_now().await;
    assert_eq!(
        rig.ask(Verb::Runtime, ask("stop", "p-1")).await.unwrap_err().code,
        FaultCode::UpstreamUnavailable
    );
}

#[tokio::test]
async fn lost_container_is_of_no_use_to_its_holder() {
    let (rig, _node, _stop) = leased().await;
    let id = SandboxId::parse("ctr_1").unwrap();
    let seen = rig.store.sandbox(&id).await.unwrap().unwrap();
    let lost = RuntimeChange::Failed(RuntimeFailure::NodeLost);
    rig.store.note_runtime(&seen, lost, None, NOW).await.unwrap();
    for (verb, body) in [
        (Verb::Execute, echo("p-1")),
        (Verb::Runtime, json!({"sandbox_id": "ctr_1", "owner": "p-1", "action": "start"})),
        (Verb::Extend, json!({"sandbox_id": "ctr_1", "owner": "p-1", "lab_duration_hours": 6})),
    ] {
        let fault = rig.ask(verb, body).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::InvalidState);
        assert!(fault.message.contains("is lost"), "{}", fault.message);
    }
    let view = rig.ask(Verb::ShowClaim, json!({"sandbox_id": "ctr_1", "owner": "p-1"})).await.unwrap();
    assert_eq!((&view["runtime"], &view["runtime_reason"]), (&json!("failed"), &json!("node_lost")));
    let held =
        json!({"node": "a", "generation": 1, "containers": [{"sandbox_id": "ctr_1", "incarnation": ONE}]});
    let held = rig.ask(Verb::Held, held).await.unwrap();
    assert_eq!(held["holdings"][0]["fate"], "remove", "a node that comes back removes it");
    rig.ask(Verb::Release, json!({"sandbox_id": "ctr_1", "owner": "p-1"})).await.unwrap();
}

#[tokio::test]
async fn claim_with_an_environment_is_answered_when_the_node_has_it() {
    let rig = rig().await;
    let (node, stop) = (Arc::new(Node::default()), CancellationToken::new());
    let generation = register(&rig, "a").await;
    let free = wanted(&rig, "ctr_1", None).await;
    provisioned(&rig, generation, &free, ONE).await;
    let claim = json!({"owner": "p-1", "pool": "shells", "env": {"A": "1"}});
    let fault = rig.ask(Verb::Allocate, claim.clone()).await.unwrap_err();
    assert_eq!((fault.code, fault.retry_after_seconds.is_some()), (FaultCode::UpstreamUnavailable, true));
    let (bus, handler, stopped) = (rig.bus.clone(), Arc::clone(&node), stop.clone());
    tokio::spawn(async move { bus.serve_node(&NodeId::parse("a").unwrap(), handler, 4, stopped).await });
    tokio::task::yield_now().await;
    let granted = rig.ask(Verb::Allocate, claim).await.unwrap();
    assert_eq!(granted["sandbox_id"], "ctr_1", "the lease of the first attempt");
    let [(NodeVerb::Lease, asked)] = &received(&rig, &node).await[..] else { panic!("one request") };
    assert_eq!(asked["lease"]["env"], json!({"A": "1"}));
    // A node that does not have it any more: the claim can be repeated, and shows once that is known.
    *node.refuses.lock() = Some(Fault::new(FaultCode::NotFound, "this node has no such container"));
    let claim = json!({"owner": "p-1", "pool": "shells", "env": {"A": "1"}});
    assert_eq!(rig.ask(Verb::Claim, claim.clone()).await.unwrap_err().code, FaultCode::UpstreamUnavailable);
    let seen = rig.store.sandbox(&SandboxId::parse("ctr_1").unwrap()).await.unwrap().unwrap();
    rig.store
        .note_runtime(&seen, RuntimeChange::Failed(RuntimeFailure::ContainerLost), None, NOW)
        .await
        .unwrap();
    assert_eq!(rig.ask(Verb::Claim, claim).await.unwrap()["runtime"], "failed");
    stop.cancel();
}
