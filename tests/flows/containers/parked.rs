//! Creations that were parked, and are tried again when their cause is mended.

use super::world::World;
use domain::{Cause, Sandbox, StateName};
use harness::http::Answer;
use harness::process::run;
use harness::wait::{TIMEOUT, eventually};
use ports::engine::{ContainerState, EngineError};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::engine::{EngineFault, Operation};

/// How long a slow creation takes.
const SLOW: Duration = Duration::from_secs(60);
const REASON: &str = "no such image";

/// A claim whose sandbox cannot be created.
async fn parked(world: &World, owner: &str) -> Sandbox {
    // A refusal is final: no further attempt makes sense.
    let refused = EngineError::Refused { reason: REASON.to_owned() };
    world.nodes[0].engine.script(Operation::Create, EngineFault::Fail(refused));
    let claim = world.granted(owner).await;
    world.rig.until_state(claim.sandbox(), StateName::ProvisionFailed).await
}

async fn replay(world: &World, sandbox: &Sandbox) -> Answer {
    world.rig.api.admin(Method::POST, &format!("/v1/admin/provisions/{}/replay", sandbox.id)).await
}

async fn until_begun(world: &World, sandbox: &Sandbox) {
    eventually("the creation to begin", TIMEOUT, || async {
        let containers = world.nodes[0].containers().await;
        if containers.iter().any(|one| one.sandbox == sandbox.id) { Ok(()) } else { Err(containers) }
    })
    .await;
}

#[tokio::test]
async fn holder_gets_the_sandbox_after_a_replay() {
    let world = World::new(&[("a", 6)], 0).await;
    let seen = parked(&world, "student-1").await;
    let again = world.claim("student-1").await;
    let shown = (again.sandbox(), &again.body["status"]);
    assert_eq!(shown, (seen.id.as_str(), &json!("provision_failed")), "its holder sees it: {again:?}");
    let listed = world.rig.api.admin(Method::GET, "/v1/admin/sandboxes?status=provision_failed").await;
    let one = &listed.body["sandboxes"][0];
    assert_eq!((&listed.body["count"], &one["sandbox_id"]), (&json!(1), &json!(seen.id.as_str())));
    assert_eq!((&one["allocated_to_track"], &one["pool"]), (&json!("student-1"), &json!("shells")));
    assert_eq!((&one["provision"]["attempts"], &one["provision"]["last_error"]), (&json!(1), &json!(REASON)));

    let replayed = replay(&world, &seen).await;
    assert_eq!((replayed.status, &replayed.body["outcome"]), (200, &json!("replayed")), "{replayed:?}");
    let sandbox = world.rig.until_state(seen.id.as_str(), StateName::Allocated).await;
    assert_eq!(sandbox.lease(), seen.lease(), "the lease of the claim");
    let causes: Vec<_> = sandbox.history.iter().map(|entry| entry.cause).collect();
    assert_eq!(causes, [Cause::Claimed, Cause::ProvisionFailed, Cause::Replayed, Cause::Provisioned]);
    assert_eq!(sandbox.history[2].by.as_ref().map(|by| by.as_str()), Some("admin"));
    world.until_container(&sandbox, Some(ContainerState::Running)).await;
    let done = world.execute(&sandbox, "student-1", &["true"]).await;
    assert_eq!(done.status, 200, "{done:?}");
    let late = replay(&world, &seen).await;
    assert_eq!((late.status, late.code()), (409, "INVALID_STATE"), "{late:?}");
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn release_during_a_replay_leaves_nothing() {
    let world = World::new(&[("a", 6)], 0).await;
    let seen = parked(&world, "student-1").await;
    world.nodes[0].engine.script(Operation::Create, EngineFault::Slow(SLOW));
    assert_eq!(replay(&world, &seen).await.body["outcome"], "replayed");
    until_begun(&world, &seen).await;
    world.released(&seen, "student-1").await;
    let late = replay(&world, &seen).await;
    assert_eq!((late.status, &late.body["outcome"]), (200, &json!("gone")));
    world.rig.clock.pass(SLOW);
    world.settle().await;
    assert_eq!(world.nodes[0].containers().await, []);
    world.end().await;
}

#[tokio::test]
async fn replay_of_a_creation_under_way_changes_nothing() {
    let world = World::new(&[("a", 6)], 0).await;
    world.nodes[0].engine.script(Operation::Create, EngineFault::Slow(SLOW));
    let claim = world.granted("student-1").await;
    let seen = world.rig.sandbox(claim.sandbox()).await.unwrap();
    until_begun(&world, &seen).await;
    let answer = replay(&world, &seen).await;
    assert_eq!((answer.status, &answer.body["outcome"]), (200, &json!("already_on_the_way")));
    assert_eq!(world.rig.sandbox(seen.id.as_str()).await.unwrap(), seen);
    world.rig.clock.pass(SLOW);
    world.rig.until_state(seen.id.as_str(), StateName::Allocated).await;
    world.settle().await;
    assert_eq!(world.nodes[0].containers().await.len(), 1);
    world.end().await;
}

#[tokio::test]
async fn cli_lists_and_replays_all_parked_creations() {
    let world = World::new(&[("a", 6)], 0).await;
    let mut seen = Vec::new();
    for owner in ["student-1", "student-2", "student-3"] {
        seen.push(parked(&world, owner).await);
    }
    let mut env: Vec<(&str, &str)> =
        world.rig.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    env.push(("USER", "alice"));
    let shell = async |arguments: &[&str]| {
        let output = run(&[&["provisions"], arguments].concat(), &env).await;
        let noted = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {noted}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = shell(&["list"]).await;
    assert!(said.contains(REASON) && said.ends_with("0 being created, 3 parked\n"), "{said}");
    let listed: Value = serde_json::from_str(&shell(&["list", "--pool", "main", "--json"]).await).unwrap();
    assert_eq!(listed["count"], 0);
    let id = seen[0].id.as_str();
    assert_eq!(shell(&["replay", id]).await, format!("the creation of {id} is tried again\n"));
    let sandbox = world.rig.until_state(id, StateName::Allocated).await;
    assert!(sandbox.history.iter().any(|entry| entry.by.as_ref().is_some_and(|by| by.as_str() == "alice")));
    let said = shell(&["replay", "--all", "--pool", "shells", "--reason", "other"]).await;
    assert_eq!(said, "replayed 0, already on the way 0, gone 0\n");
    let said = shell(&["replay", "--all", "--pool", "shells", "--reason", "image"]).await;
    assert_eq!(said, "replayed 2, already on the way 0, gone 0\n");
    for sandbox in &seen {
        world.rig.until_state(sandbox.id.as_str(), StateName::Allocated).await;
    }
    world.settle().await;
    world.end().await;
}
