//! Operators' requests about nodes, on ports in memory.

use crate::deletions::tests::{NOW, Rig};
use crate::nodes::tests::{ONE, provisioned, register, rig, wanted};
use async_trait::async_trait;
use contract::nodes::{InventoryReply, NodeLoad};
use contract::{FaultCode, NodeVerb, Verb};
use domain::NodeId;
use ports::bus::{Answer, Handler, Request, ServeNode as _};
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A node of the first generation that offers ten places.
struct Node;

#[async_trait]
impl Handler<NodeVerb> for Node {
    async fn handle(&self, request: Request<NodeVerb>) -> Answer {
        assert_eq!(request.verb, NodeVerb::Inventory);
        let load = NodeLoad { sandboxes: 3, sandboxes_max: 10, ..NodeLoad::default() };
        let reply = InventoryReply { generation: 1, load: Some(load), ..InventoryReply::default() };
        Answer { outcome: None, body: Ok(serde_json::to_vec(&reply).unwrap().into()) }
    }
}

/// Serves the requests to node `a` until the token is cancelled.
async fn serve(rig: &Rig) -> CancellationToken {
    let (bus, stop) = (rig.bus.clone(), CancellationToken::new());
    let stopped = stop.clone();
    tokio::spawn(
        async move { bus.serve_node(&NodeId::parse("a").unwrap(), Arc::new(Node), 4, stopped).await },
    );
    tokio::task::yield_now().await;
    stop
}

#[tokio::test]
async fn nodes_are_listed_with_what_they_say_about_themselves() {
    let rig = rig().await;
    for node in ["a", "b", "c"] {
        register(&rig, node).await;
    }
    let stop = serve(&rig).await;
    let first = rig.ask(Verb::Nodes, json!({"limit": 2})).await.unwrap();
    let names = |reply: &serde_json::Value| -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let nodes = reply["nodes"].as_array().unwrap().iter();
        nodes.map(|node| (text(&node["node"]), text(&node["status"]))).collect()
    };
    let pair = |name: &str, status: &str| (name.to_owned(), status.to_owned());
    assert_eq!(names(&first), [pair("a", "active"), pair("b", "silent")]);
    assert_eq!(first["nodes"][0]["load"]["sandboxes_max"], 10);
    let second = rig.ask(Verb::Nodes, json!({"limit": 2, "cursor": first["cursor"]})).await.unwrap();
    assert_eq!((names(&second), &second["cursor"]), (vec![pair("c", "silent")], &serde_json::Value::Null));
    // Another runner has registered; the one that answers is not it.
    register(&rig, "a").await;
    assert_eq!(rig.ask(Verb::Node, json!({"node": "a"})).await.unwrap()["status"], "silent");
    stop.cancel();
    for (body, code) in
        [(json!({"node": "d"}), FaultCode::NotFound), (json!({"node": "a/b"}), FaultCode::InvalidRequest)]
    {
        assert_eq!(rig.ask(Verb::Node, body).await.unwrap_err().code, code);
    }
    let bad = rig.ask(Verb::Nodes, json!({"cursor": "x"})).await.unwrap_err();
    assert_eq!(bad.code, FaultCode::InvalidRequest);
}

#[tokio::test]
async fn drained_node_serves_no_pool_until_it_is_activated() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let pools = async |generation| {
        let body = json!({"node": "a", "generation": generation});
        rig.ask(Verb::NodePools, body).await.unwrap()["pools"].as_array().unwrap().len()
    };
    assert_eq!(pools(generation).await, 1);
    let drained = rig.ask(Verb::DrainNode, json!({"node": "a", "by": "ops"})).await.unwrap();
    assert_eq!((&drained["status"], &drained["drained_at"]), (&json!("draining"), &json!(NOW.get())));
    assert_eq!(pools(generation).await, 0);
    let again = json!({"node": "a", "leases_end_in_seconds": 60});
    let again = rig.ask(Verb::DrainNode, again).await.unwrap();
    assert_eq!(again["leases_end_at"], NOW.get() + 60, "a further order sets the deadline");
    let generation = register(&rig, "a").await;
    assert_eq!(pools(generation).await, 0, "a restart of its runner changes nothing");
    let active = rig.ask(Verb::ActivateNode, json!({"node": "a"})).await.unwrap();
    assert_eq!((&active["drained_at"], &active["leases_end_at"]), (&json!(null), &json!(null)));
    assert_eq!(pools(generation).await, 1);
    for (verb, body, code) in [
        (Verb::DrainNode, json!({"node": "b"}), FaultCode::NotFound),
        (
            Verb::DrainNode,
            json!({"node": "a", "leases_end_in_seconds": 2_592_001}),
            FaultCode::InvalidRequest,
        ),
        (Verb::ActivateNode, json!({"node": "a", "leases_end_in_seconds": 1}), FaultCode::InvalidRequest),
        (Verb::DrainNode, json!({"node": "a", "reason": "x"}), FaultCode::InvalidRequest),
    ] {
        assert_eq!(rig.ask(verb, body.clone()).await.unwrap_err().code, code, "{body}");
    }
}

#[tokio::test]
async fn free_sandbox_that_was_under_way_is_given_up_on_a_drained_node() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let (free, held) = (wanted(&rig, "ctr_1", None).await, wanted(&rig, "ctr_2", Some("p-1")).await);
    rig.ask(Verb::DrainNode, json!({"node": "a"})).await.unwrap();
    assert_eq!(provisioned(&rig, generation, &free, ONE).await["fate"], "remove");
    assert_eq!(provisioned(&rig, generation, &held, ONE).await["fate"], "keep", "a claim waits for it");
    let state = async |sandbox: &domain::Sandbox| {
        rig.store.sandbox(&sandbox.id).await.unwrap().unwrap().state.name().as_str()
    };
    assert_eq!((state(&free).await, state(&held).await), ("pending_deletion", "allocated"));
}

#[tokio::test]
async fn answer_about_containers_is_cut_before_it_is_too_long() {
    let rig = rig().await;
    let generation = register(&rig, "a").await;
    let env: serde_json::Map<_, _> = (0..4).map(|n| (format!("V{n}"), json!("x".repeat(4_000)))).collect();
    let mut containers = Vec::new();
    for number in 0..12 {
        let claim = json!({"owner": format!("p-{number}"), "pool": "shells", "warm": "never", "env": env});
        let claimed = rig.ask(Verb::Allocate, claim).await.unwrap();
        containers.push(json!({"sandbox_id": claimed["sandbox_id"], "incarnation": ONE}));
        let id = domain::SandboxId::parse(claimed["sandbox_id"].as_str().unwrap()).unwrap();
        let sandbox = rig.store.sandbox(&id).await.unwrap().unwrap();
        provisioned(&rig, generation, &sandbox, ONE).await;
    }
    let held = json!({"node": "a", "generation": generation, "containers": containers});
    let answered = rig.ask(Verb::Held, held).await.unwrap()["holdings"].as_array().unwrap().len();
    assert_eq!(answered, 9, "the first that are more than 128 KiB together");
}
