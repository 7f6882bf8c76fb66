//! Nodes that are lost and come back, and containers that vanish.

use super::world::{World, node_of};
use domain::{Descriptor, StateName};
use harness::nodes::Node;
use harness::wait::{TIMEOUT, eventually};
use ports::engine::{ContainerState, Engine as _, Incarnation};
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
        (lost.lost.as_slice(), lost.retired, lost.leased_missing),
        (&["a".to_owned()][..], 1, 1),
        "{lost:?}"
    );
    world.rig.until_state(free.id.as_str(), StateName::Deleted).await;
    let replaced = world.until_free(1).await.remove(0);
    assert_eq!(node_of(&replaced), "b");
    let kept = world.rig.sandbox(held.id.as_str()).await.unwrap();
    assert_eq!(kept.state, held.state, "a lease runs to its end");
    let unreached = world.execute(&held, "student-1", &["true"]).await;
    assert_eq!((unreached.status, unreached.code()), (503, "UPSTREAM_UNAVAILABLE"), "{unreached:?}");
    assert_eq!(world.node("a").containers().await.len(), 2, "nothing could remove them");

    let World { rig, nodes } = &mut world;
    nodes[0].start_again(rig);
    world.until_container(&free, None).await;
    world.until_container(&held, Some(ContainerState::Running)).await;
    eventually("the holder to reach the container", TIMEOUT, || async {
        let done = world.execute(&held, "student-1", &["true"]).await;
        if done.status == 200 { Ok(()) } else { Err(done) }
    })
    .await;
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
