//! Claims of containers, warm and cold, and what their holders do with them.

use super::world::{LEASE, World, node_of};
use contract::Verb;
use contract::nodes::ExecutionResult;
use domain::{Descriptor, StateName};
use harness::wait::{TIMEOUT, eventually};
use ports::engine::ContainerState;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use testkit::engine::{EngineFault, Operation, Play};

#[tokio::test]
async fn template_becomes_a_warm_pool_on_two_nodes() {
    // Neither node has room for all.
    let world = World::new(&[("a", 6), ("b", 6)], 8).await;
    let free = world.records(StateName::Available).await;
    let nodes: BTreeSet<_> = free.iter().map(node_of).collect();
    assert_eq!(nodes, BTreeSet::from(["a", "b"]));
    for sandbox in &free {
        assert_eq!(sandbox.descriptor.get(Descriptor::TEMPLATE), Some("shell@1"), "{sandbox:?}");
        world.until_container(sandbox, Some(ContainerState::Running)).await;
    }
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn claim_gets_a_free_container_whose_node_knows_the_lease() {
    let world = World::new(&[("a", 6)], 2).await;
    let free: BTreeSet<_> =
        world.records(StateName::Available).await.into_iter().map(|sandbox| sandbox.id).collect();
    let claim = world.granted("student-1").await;
    let sandbox = world.rig.sandbox(claim.sandbox()).await.unwrap();
    assert!(free.contains(&sandbox.id), "{} was free", sandbox.id);
    let lease = sandbox.lease().unwrap();
    assert_eq!(lease.expires_at, lease.granted_at.after(LEASE));
    let incarnation = sandbox.descriptor.get(Descriptor::INCARNATION).unwrap();
    eventually("the node to store the lease", TIMEOUT, || async {
        let state = world.node("a").state();
        let stored = &state["containers"][incarnation]["lease"];
        let expected = (Some(lease.epoch.get()), Some(lease.expires_at.get()));
        if (stored["epoch"].as_u64(), stored["ends_at"].as_u64()) == expected { Ok(()) } else { Err(state) }
    })
    .await;
    let again = world.claim("student-1").await;
    assert_eq!((again.status, again.sandbox()), (200, claim.sandbox()), "a repeat");
    world.until_free(2).await;
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn cold_claim_is_provisioning_and_then_allocated() {
    let world = World::new(&[("a", 6)], 0).await;
    let slow = Duration::from_secs(60);
    world.node("a").engine.script(Operation::Create, EngineFault::Slow(slow));
    let claim = world.granted("student-1").await;
    let id = claim.sandbox();
    let seen = world.rig.sandbox(id).await.unwrap();
    assert_eq!(seen.state.name(), StateName::Provisioning, "{claim:?}");
    let refused = world.execute(&seen, "student-1", &["true"]).await;
    assert_eq!((refused.status, refused.code()), (409, "INVALID_STATE"), "{refused:?}");
    eventually("the creation to begin", TIMEOUT, || async {
        let containers = world.node("a").containers().await;
        let is_begun = containers.iter().any(|container| container.sandbox.as_str() == id);
        if is_begun { Ok(()) } else { Err(containers) }
    })
    .await;
    let again = world.claim("student-1").await;
    assert_eq!((again.status, again.sandbox()), (200, id), "a repeat waits for the same");
    world.rig.clock.pass(slow);
    let sandbox = world.rig.until_state(id, StateName::Allocated).await;
    assert_eq!(sandbox.epoch, seen.epoch, "it is the lease of the claim");
    world.until_container(&sandbox, Some(ContainerState::Running)).await;
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn holder_runs_commands_over_http_and_nats() {
    let world = World::new(&[("a", 6)], 0).await;
    world.node("a").engine.set_jobs(|job| Play::printing(job.command.join(" ")));
    let sandbox = world.claimed("student-1").await;
    let done = world.execute(&sandbox, "student-1", &["echo", "over", "http"]).await;
    assert_eq!((done.status, &done.body["stdout"]), (200, &json!("echo over http")), "{done:?}");
    let request = |owner: &str| json!({"sandbox_id": sandbox.id.as_str(), "owner": owner, "command": ["id"]});
    let reply = world.rig.ask(Verb::Execute, request("student-1")).await.unwrap();
    let result: ExecutionResult = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((result.stdout.as_str(), result.exit_code), ("id", Some(0)), "{result:?}");
    let refused = world.rig.ask(Verb::Execute, request("student-2")).await.unwrap();
    let refused: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(refused["detail"]["code"], "NOT_SANDBOX_OWNER", "{refused}");
    world.end().await;
}

#[tokio::test]
async fn release_deletes_the_container_and_leaves_a_tombstone() {
    let world = World::new(&[("a", 6)], 1).await;
    let sandbox = world.claimed("student-1").await;
    world.until_container(&sandbox, Some(ContainerState::Running)).await;
    world.released(&sandbox, "student-1").await;
    assert_eq!(world.container(&sandbox).await, None, "removed before the tombstone is written");
    let late = world.execute(&sandbox, "student-1", &["true"]).await;
    assert!(late.status >= 400, "{late:?}");
    let next = world.claimed("student-1").await;
    assert_ne!(next.id, sandbox.id, "a new claim of the same owner gets another one");
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn native_claim_is_answered_when_the_container_is_ready_and_its_commands_have_its_environment() {
    let world = World::new(&[("a", 6)], 1).await;
    let engine = &world.node("a").engine;
    engine.set_jobs(|job| Play::printing(job.env.get("GREETING").cloned().unwrap_or_default()));
    let settings = json!({"pool": "shells", "env": {"GREETING": "hello"}, "labels": {"team": "blue"}});
    let warm = world.claimed_with("student-1", settings.clone()).await;
    assert_eq!((&warm.body["status"], &warm.body["node"]), (&json!("allocated"), &json!("a")), "{warm:?}");
    let sandbox = world.rig.sandbox(warm.sandbox()).await.unwrap();
    let incarnation = sandbox.descriptor.get(Descriptor::INCARNATION).unwrap();
    let stored = world.node("a").state()["containers"][incarnation]["lease"].clone();
    assert_eq!(stored["env"], json!({"GREETING": "hello"}), "the node had it before the answer: {stored}");
    let mut settings = settings;
    settings["warm"] = json!("never");
    let cold = world.claimed_with("student-2", settings).await;
    assert_eq!((cold.status, &cold.body["status"]), (201, &json!("allocated")), "it waited: {cold:?}");
    let sandbox = world.rig.sandbox(cold.sandbox()).await.unwrap();
    let done = world.execute(&sandbox, "student-2", &["env"]).await;
    assert_eq!(done.body["stdout"], "hello", "{done:?}");
    for owner in ["student-1", "student-2"] {
        let other = world.as_holder(Method::POST, "/v1/claims", owner, json!({"pool": "shells"})).await;
        assert_eq!((other.status, other.code()), (409, "KEY_IN_USE"), "{other:?}");
    }
    let listed = world.as_holder(Method::GET, "/v1/claims", "student-1", json!({})).await;
    assert_eq!(listed.body["claims"][0]["labels"], json!({"team": "blue"}), "{listed:?}");
    assert!(!listed.body.to_string().contains("hello"), "an environment is not shown");
    let path = format!("/v1/claims/{}", warm.sandbox());
    let nameless = world.as_holder(Method::DELETE, &path, "student-1", json!({})).await;
    assert_eq!((nameless.status, nameless.code()), (400, "INVALID_REQUEST"), "{nameless:?}");
    world.settle().await;
    world.end().await;
}

#[tokio::test]
async fn holder_stops_starts_and_replicates_a_container() {
    let world = World::new(&[("a", 6)], 0).await;
    let sandbox = world.claimed("student-1").await;
    for (action, runtime, state) in [
        ("stop", "stopped", ContainerState::Stopped),
        ("start", "running", ContainerState::Running),
        ("pause", "paused", ContainerState::Paused),
        ("resume", "running", ContainerState::Running),
        ("restart", "running", ContainerState::Running),
    ] {
        let path = format!("/v1/sandboxes/{}/{action}", sandbox.id);
        let done = world.as_holder(Method::POST, &path, "student-1", json!({})).await;
        assert_eq!((done.status, &done.body["runtime"]), (200, &json!(runtime)), "{done:?}");
        assert_eq!(world.container(&sandbox).await.map(|container| container.state), Some(state), "{action}");
        let refused = world.as_holder(Method::POST, &path, "student-2", json!({})).await;
        assert_eq!((refused.status, refused.code()), (403, "NOT_SANDBOX_OWNER"), "{refused:?}");
    }
    let path = format!("/v1/sandboxes/{}/replicate?wait=ready", sandbox.id);
    let replica = world.as_holder(Method::POST, &path, "student-1", json!({"key": "second"})).await;
    assert_eq!((replica.status, &replica.body["status"]), (201, &json!("allocated")), "{replica:?}");
    assert_ne!(replica.sandbox(), sandbox.id.as_str());
    world.settle().await;
    world.end().await;
}
