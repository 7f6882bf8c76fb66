//! Creations during which replies are lost, runners stand still, holders change their minds or NATS is away.

use super::world::{World, plan};
use contract::Verb;
use domain::{Sandbox, StateName};
use futures_util::future::join_all;
use harness::nodes::Node;
use harness::servers::{start_nats, start_nats_on};
use harness::wait::{TIMEOUT, eventually};
use ports::engine::ContainerState;
use std::time::Duration;
use testkit::engine::{EngineFault, Operation};

/// How long a slow creation takes.
const SLOW: Duration = Duration::from_secs(60);
/// Ack wait of a fleet whose runner stands still for longer.
const ACK_WAIT: Duration = Duration::from_secs(2);
/// Claims whose holders release at once.
const RELEASED_AT_ONCE: usize = 12;

fn creations(node: &Node) -> usize {
    node.engine.calls().iter().filter(|(call, _)| *call == Operation::Create).count()
}

/// A claim whose creation has begun and takes long.
async fn creating(world: &World, owner: &str) -> Sandbox {
    let node = &world.nodes[0];
    let before = creations(node);
    node.engine.script(Operation::Create, EngineFault::Slow(SLOW));
    let claim = world.granted(owner).await;
    eventually("the creation to begin", TIMEOUT, || async {
        if creations(node) > before { Ok(()) } else { Err("not called") }
    })
    .await;
    world.rig.sandbox(claim.sandbox()).await.unwrap()
}

#[tokio::test]
async fn lost_reply_of_a_report_makes_no_second_container() {
    let world = World::new(&[("a", 6)], 0).await;
    let before = creations(world.node("a"));
    world.node("a").lose_reply(Verb::Provisioned);
    let sandbox = world.claimed("student-1").await;
    eventually("the reply to be lost", TIMEOUT, || async {
        if world.node("a").has_replies_to_lose() { Err("not yet") } else { Ok(()) }
    })
    .await;
    world.settle().await;
    assert_eq!(creations(world.node("a")), before + 1);
    world.until_container(&sandbox, Some(ContainerState::Running)).await;
    world.end().await;
}

#[tokio::test]
async fn runner_that_stands_still_loses_its_creation_to_another_one() {
    let mut world = World::of(plan().provision_ack_wait(ACK_WAIT), &[("a", 6)], 0).await;
    let seen = creating(&world, "student-1").await;
    let frozen = world.node("a").freeze();
    world.nodes.push(Node::start(&world.rig, "b", 6));
    let sandbox = world.rig.until_state(seen.id.as_str(), StateName::Allocated).await;
    assert_eq!(super::world::node_of(&sandbox), "b");
    assert_eq!(world.node("a").containers().await.len(), 1, "it has begun one as well");
    world.rig.clock.pass(SLOW);
    drop(frozen);
    world.settle().await;
    assert_eq!(world.node("a").containers().await, [], "its own was removed");
    let kept = world.rig.sandbox(sandbox.id.as_str()).await.unwrap();
    assert_eq!((kept.version, &kept.descriptor), (sandbox.version, &sandbox.descriptor));
    world.end().await;
}

#[tokio::test]
async fn killed_runner_finds_what_it_had_begun() {
    let mut world = World::of(plan().provision_ack_wait(ACK_WAIT), &[("a", 6)], 0).await;
    let seen = creating(&world, "student-1").await;
    world.node_mut("a").kill().await;
    let World { rig, nodes } = &mut world;
    nodes[0].start_again(rig);
    let sandbox = world.rig.until_state(seen.id.as_str(), StateName::Allocated).await;
    world.until_container(&sandbox, Some(ContainerState::Running)).await;
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn release_during_a_creation_leaves_nothing() {
    let world = World::new(&[("a", 20)], 0).await;
    let seen = creating(&world, "student-1").await;
    world.released(&seen, "student-1").await;
    world.rig.clock.pass(SLOW);
    world.settle().await;
    assert_eq!(world.node("a").containers().await, []);

    // Released at every moment of a creation.
    let owners: Vec<_> = (0..RELEASED_AT_ONCE).map(|number| format!("hasty-{number}")).collect();
    let ended = join_all(owners.iter().map(|owner| async {
        let claim = world.granted(owner).await;
        let sandbox = world.rig.sandbox(claim.sandbox()).await.unwrap();
        world.released(&sandbox, owner).await;
        sandbox
    }))
    .await;
    assert_eq!(ended.len(), RELEASED_AT_ONCE);
    world.settle().await;
    assert_eq!(world.node("a").containers().await, []);
    world.end().await;
}

#[tokio::test]
async fn restart_of_nats_loses_no_container() {
    let (server, folder) = start_nats().await;
    let address = server.address;
    let world =
        World::of(plan().set("NATS_URL", format!("nats://{address}")), &[("a", 6), ("b", 6)], 2).await;
    let held = world.claimed("student-1").await;
    server.child.kill().await;
    let (server, _) = start_nats_on(address, Some(folder)).await;
    eventually("the holder to reach the container", TIMEOUT, || async {
        let done = world.execute(&held, "student-1", &["true"]).await;
        if done.status == 200 { Ok(()) } else { Err(done) }
    })
    .await;
    let next = world.claimed("student-2").await;
    world.settle().await;
    world.until_free(2).await;
    for (sandbox, owner) in [(&held, "student-1"), (&next, "student-2")] {
        world.until_container(sandbox, Some(ContainerState::Running)).await;
        world.released(sandbox, owner).await;
    }
    world.settle().await;
    world.end().await;
    server.child.kill().await;
}
