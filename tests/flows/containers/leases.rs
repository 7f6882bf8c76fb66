//! Ends of leases: by the fleet, by the node alone, and beside extensions.

use super::world::{GRACE, LEASE, World};
use contract::TickKind;
use domain::StateName;
use futures_util::future::join_all;
use harness::wait::{TIMEOUT, eventually};
use ports::engine::ContainerState;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Holders whose leases end at the same time.
const HOLDERS: usize = 8;
/// The length of an extended lease.
const HOURS: u32 = 2;

#[tokio::test]
async fn lease_ends_at_the_node_while_the_control_plane_is_down() {
    let mut world = World::new(&[("a", 6)], 1).await;
    let (warm, cold) = (world.claimed("student-1").await, world.claimed("student-2").await);
    // A node that did not receive a lease learns of it by its next reconciliation.
    world.settle().await;
    world.rig.stop_fleet().await.unwrap();
    world.rig.clock.pass(LEASE);
    for sandbox in [&warm, &cold] {
        world.until_container(sandbox, Some(ContainerState::Running)).await;
    }
    world.rig.clock.pass(GRACE);
    // The node asks for some seconds what to do.
    eventually("both containers to be stopped", TIMEOUT, || async {
        world.rig.clock.pass(SECOND);
        let states = join_all([&warm, &cold].map(|sandbox| world.container(sandbox))).await;
        let is_stopped = |found: &Option<ports::engine::Container>| {
            found.as_ref().is_some_and(|container| container.state == ContainerState::Stopped)
        };
        if states.iter().all(is_stopped) { Ok(()) } else { Err(states) }
    })
    .await;
    for sandbox in [&warm, &cold] {
        let kept = world.rig.sandbox(sandbox.id.as_str()).await.unwrap();
        assert_eq!(kept.state, sandbox.state, "only the control plane writes records");
    }
    world.rig.start_again().await;
    world.rig.run(TickKind::EXPIRY).await;
    for sandbox in [&warm, &cold] {
        world.rig.until_state(sandbox.id.as_str(), StateName::Deleted).await;
        world.until_container(sandbox, None).await;
    }
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn extension_beside_the_timer_of_the_node_is_kept_or_refused() {
    let world = World::new(&[("a", 20)], 4).await;
    let owners: Vec<_> = (0..HOLDERS).map(|number| format!("student-{number}")).collect();
    let held = join_all(owners.iter().map(|owner| world.claimed(owner))).await;
    world.settle().await;
    let last = held.iter().filter_map(|sandbox| sandbox.lease()).map(|lease| lease.expires_at).max().unwrap();
    // To the last second of the grace of the newest lease.
    let now = ports::clock::Clock::now(&world.rig.clock);
    let left = last.get() + GRACE.as_secs() - now.get();
    world.rig.clock.pass(Duration::from_secs(left) - SECOND);
    let extensions = join_all(held.iter().zip(&owners).enumerate().map(|(number, (sandbox, owner))| {
        let world = &world;
        async move {
            if number == HOLDERS / 2 {
                world.rig.clock.pass(2 * SECOND);
            }
            world.rig.api.extend(sandbox.id.as_str(), owner, HOURS).await
        }
    }))
    .await;
    // The timers of the node fire meanwhile, and again.
    world.rig.clock.pass(GRACE);
    world.settle().await;
    for ((sandbox, owner), extension) in held.iter().zip(&owners).zip(&extensions) {
        let id = sandbox.id.as_str();
        match extension.status {
            200 => {
                let kept = world.rig.sandbox(id).await.unwrap();
                assert_eq!(kept.lease().map(|lease| lease.epoch), Some(sandbox.epoch), "{extension:?}");
                world.until_container(sandbox, Some(ContainerState::Running)).await;
                let done = world.execute(sandbox, owner, &["true"]).await;
                assert_eq!(done.status, 200, "{done:?}");
            }
            404 | 409 | 410 => {
                world.rig.until_state(id, StateName::Deleted).await;
                world.until_container(sandbox, None).await;
            }
            _ => panic!("{extension:?}"),
        }
    }
    world.end().await;
}
