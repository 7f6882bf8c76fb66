//! Runners that get SIGKILL at each step of the life of a sandbox.

use crate::fleet::{Fleet, quick_template, slow_template};
use crate::node::{Inside, Node};
use domain::StateName;
use futures_util::future::join_all;
use harness::wait::{TIMEOUT, eventually};

/// Sandboxes that are removed at the same time.
const REMOVED_AT_ONCE: usize = 4;

/// Kills the runner in a phase of the creation; another one finishes it.
async fn killed_during_a_creation(phases: &[&str]) {
    let fleet = Fleet::start(&slow_template(), 0).await;
    let mut node = Node::start(&fleet.up, "a").await;
    let id = fleet.claim("student-1").await;
    node.until_phase(&id, phases).await;
    node.kill().await;
    assert_eq!(fleet.sandbox(&id).await.state.name(), StateName::Provisioning, "it is not ready yet");
    node.start_again(&fleet.up).await;
    fleet.until_state(&id, StateName::Allocated).await;
    fleet.until_consistent(&[&node]).await;
    fleet.until_sh(&id, "student-1", "test -f ready").await;
    let inside = node.inside(&id);
    assert!(!inside.processes().is_empty());
    fleet.released(&id, "student-1", &inside).await;
    fleet.end(vec![node]).await;
}

#[tokio::test]
async fn runner_is_killed_while_it_creates_a_sandbox() {
    killed_during_a_creation(&["creating", "running"]).await;
}

#[tokio::test]
async fn runner_is_killed_before_it_reports_a_sandbox() {
    killed_during_a_creation(&["running"]).await;
}

#[tokio::test]
async fn runner_is_killed_after_a_claim_and_during_a_command() {
    let fleet = Fleet::start(&quick_template(), 1).await;
    let mut node = Node::start(&fleet.up, "a").await;
    fleet.until_free_on("a", 1).await;
    let id = fleet.claimed("student-1").await.id.to_string();
    node.kill().await;
    let away = fleet.sh(&id, "student-1", "true").await;
    assert_eq!((away.status, away.code()), (503, "UPSTREAM_UNAVAILABLE"), "{away:?}");
    node.start_again(&fleet.up).await;
    fleet.until_sh(&id, "student-1", "echo kept > file").await;

    let inside = node.inside(&id);
    let command = fleet.sh(&id, "student-1", "touch begun; sleep 1234");
    let kill = async {
        eventually("the command to run", TIMEOUT, || async {
            let processes = inside.processes();
            let is_running = processes.iter().any(|line| line.contains("1234"));
            if is_running { Ok(()) } else { Err(processes) }
        })
        .await;
        node.kill().await;
        // Before the caller gives up: by then the node would be lost, and the lease with it.
        node.start_again(&fleet.up).await;
    };
    let (cut, ()) = tokio::join!(command, kill);
    assert!(cut.status >= 500, "a command without a result has none: {cut:?}");
    fleet.until_sh(&id, "student-1", "test -f begun && grep kept file").await;
    fleet.until_consistent(&[&node]).await;
    fleet.released(&id, "student-1", &inside).await;
    fleet.end(vec![node]).await;
}

#[tokio::test]
async fn runner_is_killed_during_removals() {
    let fleet = Fleet::start(&quick_template(), 0).await;
    let mut node = Node::start(&fleet.up, "a").await;
    let owners: Vec<_> = (0..REMOVED_AT_ONCE).map(|number| format!("student-{number}")).collect();
    let held = join_all(owners.iter().map(|owner| fleet.claimed(owner))).await;
    let ids: Vec<_> = held.iter().map(|sandbox| sandbox.id.to_string()).collect();
    for (id, owner) in ids.iter().zip(&owners) {
        // Removing so many files takes a while.
        fleet.until_sh(id, owner, "seq 20000 | xargs touch").await;
    }
    let insides: Vec<_> = ids.iter().map(|id| node.inside(id)).collect();
    join_all(ids.iter().zip(&owners).map(|(id, owner)| fleet.release(id, owner))).await;
    eventually("a removal to begin", TIMEOUT, || async {
        let running: Vec<_> = insides.iter().map(Inside::is_running).collect();
        if running.contains(&false) { Ok(()) } else { Err(running) }
    })
    .await;
    node.kill().await;
    assert!(!node.sandboxes().is_empty(), "a removal is not finished");
    node.start_again(&fleet.up).await;
    for (id, inside) in ids.iter().zip(&insides) {
        fleet.until_gone(id, inside).await;
    }
    fleet.until_consistent(&[&node]).await;
    fleet.end(vec![node]).await;
}
