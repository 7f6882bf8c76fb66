//! Pools of containers that change, and templates that fail.

use super::world::{POOL, World, plan};
use domain::{Descriptor, StateName};
use futures_util::future::join_all;
use harness::wait::{TIMEOUT, eventually};
use ports::engine::EngineError;
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use testkit::engine::{EngineFault, Operation};

/// Failed attempts that make a pool degraded.
const FAILURES: usize = 5;
/// Longer than the pause of a degraded pool.
const PAUSE: Duration = Duration::from_secs(61);

#[tokio::test]
async fn drained_and_removed_pool_leaves_nothing() {
    let world = World::new(&[("a", 6), ("b", 6)], 4).await;
    let held = world.claimed("student-1").await;
    let path = format!("/v1/pools/{POOL}");
    let drained = world.rig.api.admin(Method::POST, &format!("{path}/drain")).await;
    assert_eq!((drained.status, &drained.body["state"]), (200, &json!("draining")), "{drained:?}");
    world.until_free(0).await;
    let busy = world.rig.api.admin(Method::DELETE, &path).await;
    assert_eq!((busy.status, busy.code()), (409, "INVALID_STATE"), "{busy:?}");
    let kept = world.rig.sandbox(held.id.as_str()).await.unwrap();
    assert_eq!(kept.state.name(), StateName::Allocated, "a lease runs to its end");
    world.released(&held, "student-1").await;
    world.settle().await;
    let removed = world.rig.api.admin(Method::DELETE, &path).await;
    assert!(matches!(removed.status, 200 | 204), "{removed:?}");
    for node in &world.nodes {
        assert_eq!(node.containers().await, []);
    }
    world.rig.stop().await;
}

#[tokio::test]
async fn pool_of_a_failing_template_is_degraded_and_recovers() {
    let plan = plan().set("PROVISION_ATTEMPTS_MAX", 1);
    let world = World::of(plan, &[("a", 20)], 0).await;
    let failure = || EngineFault::Fail(EngineError::failed("no such library"));
    (0..FAILURES).for_each(|_| world.node("a").engine.script(Operation::Create, failure()));
    world.put_pool(u32::try_from(FAILURES).unwrap()).await;
    // A pass between the first failure and the last would replace those that have failed.
    eventually("the creations", TIMEOUT, || async {
        let report = world.rig.fill().await;
        if report.created == u64::try_from(FAILURES).unwrap() { Ok(()) } else { Err(report) }
    })
    .await;
    eventually("their failures", TIMEOUT, || async {
        let failed = world.records(StateName::ProvisionFailed).await.len();
        if failed == FAILURES { Ok(()) } else { Err(failed) }
    })
    .await;
    let report = world.rig.fill().await;
    let reason = &report.degraded[POOL];
    assert!(reason.contains("no such library"), "{reason}");
    assert_eq!(world.rig.fill().await.created, 0, "it waits");
    assert_eq!(world.node("a").containers().await, []);
    world.rig.clock.pass(PAUSE);
    assert_eq!(world.rig.fill().await.created, 1, "and tries one");
    world.until_free(FAILURES).await;
    assert_eq!(world.rig.fill().await.degraded.len(), 0);
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn new_version_of_a_template_replaces_the_free_ones_under_claims() {
    let world = World::new(&[("a", 20), ("b", 20)], 6).await;
    let held = world.claimed("keeper").await;
    let claims = async {
        for round in 0..4 {
            let owners: Vec<_> = (0..3).map(|number| format!("student-{round}-{number}")).collect();
            let held = join_all(owners.iter().map(|owner| world.claimed(owner))).await;
            join_all(held.iter().zip(&owners).map(|(sandbox, owner)| world.released(sandbox, owner))).await;
        }
    };
    let change = async {
        world.put_template(&json!({"image": "host", "memory_mb": 64})).await;
        eventually("only free ones of the new version", TIMEOUT, || async {
            world.rig.fill().await;
            let free = world.records(StateName::Available).await;
            let is_new = |version: &Option<&str>| *version == Some("shell@2");
            let versions: Vec<_> = free.iter().map(|one| one.descriptor.get(Descriptor::TEMPLATE)).collect();
            let are_new = !versions.is_empty() && versions.iter().all(is_new);
            if are_new { Ok(()) } else { Err(format!("{versions:?}")) }
        })
        .await;
    };
    tokio::join!(claims, change);
    world.until_free(6).await;
    let kept = world.rig.sandbox(held.id.as_str()).await.unwrap();
    assert_eq!(kept.state, held.state, "a lease keeps its container of the old version");
    assert_eq!(kept.descriptor.get(Descriptor::TEMPLATE), Some("shell@1"));
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn target_goes_up_and_down_under_claims() {
    let world = World::new(&[("a", 20), ("b", 20)], 2).await;
    let claims = async {
        let mut held = Vec::new();
        for number in 0..8 {
            let owner = format!("student-{number}");
            held.push((world.claimed(&owner).await, owner));
        }
        held
    };
    let targets = async {
        for target in [8, 1, 6, 0, 3] {
            world.put_pool(target).await;
            world.until_free(target as usize).await;
        }
    };
    let (held, ()) = tokio::join!(claims, targets);
    world.until_free(3).await;
    for (sandbox, _) in &held {
        let kept = world.rig.sandbox(sandbox.id.as_str()).await.unwrap();
        assert_eq!(kept.state, sandbox.state, "no lease is ended by a target");
    }
    world.settle().await;
    join_all(held.iter().map(|(sandbox, owner)| world.released(sandbox, owner))).await;
    world.settle().await;
    world.end().await;
}
