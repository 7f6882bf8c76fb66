//! Nodes that are lost and come back, and containers that vanish.

use super::world::{World, node_of};
use domain::{Descriptor, StateName};
use harness::nodes::Node;
use harness::wait::{TIMEOUT, eventually};
use ports::engine::{ContainerState, Engine as _, Incarnation};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;

/// Together just less than the silence after which a node is lost, and what is missing. After a pause of more than 10 s
/// between two looks it would begin anew.
const NOT_YET: [Duration; 4] =
    [Duration::from_secs(8), Duration::from_secs(8), Duration::from_secs(8), Duration::from_secs(5)];
const REST: Duration = Duration::from_secs(2);

#[tokio::test]
async fn lost_node_is_replaced_and_cleans_up_when_it_is_back() {
    let mut world = World::new(&[("a", 2)], 1).await;
    let held = world.claimed("student-1").await;
    let free = world.until_free(1).await.remove(0);
    // Node a is full, so everything else is created on node b.
    world.nodes.push(Node::start(&world.rig, "b", 6));
    assert_eq!((node_of(&held), node_of(&free)), ("a", "a"));

    world.node_mut("a").kill().await;
    let silent = world.rig.look_at_nodes().await;
    assert!(silent.silent.contains_key("a") && silent.lost.is_empty(), "{silent:?}");
    for pause in NOT_YET {
        world.rig.clock.pass(pause);
        let silent = world.rig.look_at_nodes().await;
        assert!(silent.lost.is_empty() && silent.retired == 0, "{silent:?}");
    }
    world.rig.clock.pass(REST);
    let lost = world.rig.look_at_nodes().await;
    assert_eq!(
        (lost.lost.as_slice(), lost.retired, lost.leased_missing, lost.failed),
        (&["a".to_owned()][..], 1, 1, 1),
        "{lost:?}"
    );
    world.rig.until_state(free.id.as_str(), StateName::Deleted).await;
    let replaced = world.until_free(1).await.remove(0);
    assert_eq!(node_of(&replaced), "b");
    let kept = world.rig.sandbox(held.id.as_str()).await.unwrap();
    assert_eq!(kept.state, held.state, "a lease runs to its end");
    let unreached = world.execute(&held, "student-1", &["true"]).await;
    assert_eq!((unreached.status, unreached.code()), (409, "INVALID_STATE"), "{unreached:?}");
    let path = format!("/v1/claims/{}", held.id);
    let shown = world.as_holder(Method::GET, &path, "student-1", json!({})).await;
    assert_eq!(
        (&shown.body["runtime"], &shown.body["runtime_reason"]),
        (&json!("failed"), &json!("node_lost"))
    );
    assert!(world.rig.api.events_of(held.id.as_str()).await.contains("sandbox.failed"));
    assert_eq!(world.node("a").containers().await.len(), 2, "nothing could remove them");

    let World { rig, nodes } = &mut world;
    nodes[0].start_again(rig);
    world.until_container(&free, None).await;
    world.until_container(&held, None).await;
    let back = world.rig.look_at_nodes().await;
    assert_eq!((back.present, back.lost.len()), (2, 0), "{back:?}");
    world.settle().await;
    world.released(&held, "student-1").await;
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn container_that_vanishes_is_replaced() {
    let world = World::new(&[("a", 6)], 2).await;
    let free = world.records(StateName::Available).await;
    let gone = free[0].descriptor.get(Descriptor::INCARNATION).unwrap();
    world.node("a").engine.remove(&Incarnation::parse(gone).unwrap()).await.unwrap();
    let died = free[1].descriptor.get(Descriptor::INCARNATION).unwrap();
    world.node("a").engine.kill(&Incarnation::parse(died).unwrap());
    world.settle().await;
    for sandbox in &free {
        world.rig.until_state(sandbox.id.as_str(), StateName::Deleted).await;
    }
    let replaced = world.until_free(2).await;
    assert!(replaced.iter().all(|sandbox| free.iter().all(|former| former.id != sandbox.id)));
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn container_that_no_record_names_is_removed() {
    let world = World::new(&[("a", 6)], 1).await;
    let free = world.records(StateName::Available).await.remove(0);
    let named = free.descriptor.get(Descriptor::INCARNATION).unwrap();
    // As after a table that forgot the end of a sandbox: its container is there twice.
    let engine = &world.node("a").engine;
    let mut spec = engine.spec(&Incarnation::parse(named).unwrap()).unwrap();
    spec.incarnation = Incarnation::parse(&uuid::Uuid::now_v7().to_string()).unwrap();
    engine.create(&spec).await.unwrap();
    world.settle().await;
    let left = world.node("a").containers().await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].incarnation.to_string(), named, "the one that the record names stays");
    world.end().await;
}

#[tokio::test]
async fn drained_node_is_emptied_and_serves_again_when_it_is_activated() {
    let mut world = World::new(&[("a", 6)], 2).await;
    let held = world.claimed("student-1").await;
    world.until_free(2).await;
    world.nodes.push(Node::start(&world.rig, "b", 6));
    let drained = world.rig.api.admin(Method::POST, "/v1/nodes/a/drain").await;
    assert_eq!((drained.status, &drained.body["status"]), (200, &json!("draining")), "{drained:?}");
    // Its runner learns of it with its next look at the pools.
    world.rig.clock.pass(Duration::from_secs(6));
    let free_on = async |world: &World, node: &str| {
        let free = world.records(StateName::Available).await;
        free.iter().filter(|sandbox| node_of(sandbox) == node).count()
    };
    eventually("the free sandboxes to be on the other node", TIMEOUT, || async {
        world.rig.clock.pass(Duration::from_secs(31));
        world.rig.look_at_nodes().await;
        world.rig.fill().await;
        let free = (free_on(&world, "a").await, free_on(&world, "b").await);
        if free == (0, 2) { Ok(()) } else { Err(free) }
    })
    .await;
    world.until_container(&held, Some(ContainerState::Running)).await;
    let done = world.execute(&held, "student-1", &["true"]).await;
    assert_eq!(done.status, 200, "a lease runs on: {done:?}");
    let shown = world.rig.api.admin(Method::GET, "/v1/nodes/a").await;
    assert_eq!(
        (&shown.body["load"]["leased"], &shown.body["status"]),
        (&json!(1), &json!("draining")),
        "{shown:?}"
    );
    let ending = world.rig.api.admin(Method::POST, "/v1/nodes/a/drain?leases_end_in_seconds=60").await;
    assert_eq!(ending.status, 200, "{ending:?}");
    world.rig.clock.pass(Duration::from_secs(61));
    eventually("the end of the lease", TIMEOUT, || async {
        world.rig.clock.pass(Duration::from_secs(31));
        world.rig.look_at_nodes().await;
        let sandbox = world.rig.sandbox(held.id.as_str()).await.unwrap();
        if sandbox.lease().is_none() { Ok(()) } else { Err(sandbox.state) }
    })
    .await;
    world.until_container(&held, None).await;
    let active = world.rig.api.admin(Method::POST, "/v1/nodes/a/activate").await;
    assert_eq!((active.status, &active.body["status"]), (200, &json!("active")), "{active:?}");
    let listed = world.rig.api.admin(Method::GET, "/v1/nodes").await;
    assert_eq!(listed.body["nodes"].as_array().unwrap().len(), 2, "{listed:?}");
    world.rig.clock.pass(Duration::from_secs(6));
    world.settle().await;
    world.end().await;
}
