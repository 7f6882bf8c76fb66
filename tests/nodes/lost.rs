//! Nodes that are lost and come back, and a folder that two runners want.

use crate::fleet::{AGAIN_WITHIN, Fleet, quick_template};
use crate::node::Node;
use domain::{RuntimeState, StateName};
use harness::wait::{TIMEOUT, eventually};

/// Free sandboxes of the pool.
const WARM: u32 = 2;

#[tokio::test]
async fn lost_node_is_replaced_and_cleans_up_when_it_is_back() {
    let fleet = Fleet::start(&quick_template(), WARM).await;
    let mut lost = Node::start(&fleet.up, "a").await;
    fleet.until_free_on("a", WARM as usize).await;
    let held = fleet.claimed("student-1").await.id.to_string();
    fleet.until_free_on("a", WARM as usize).await;
    let inside = lost.inside(&held);
    let old = lost.sandboxes();
    lost.kill().await;
    let other = Node::start(&fleet.up, "b").await;
    // The node is lost after half a minute of silence.
    fleet.until_free_on("b", WARM as usize).await;
    let marked = fleet.sandbox(&held).await;
    assert_eq!(marked.state.name(), StateName::Allocated, "a lease runs to its end");
    assert_eq!(RuntimeState::of(&marked.descriptor), Some(RuntimeState::Failed), "and its holder knows");
    assert_eq!(lost.sandboxes(), old, "nothing could remove them");
    lost.start_again(&fleet.up).await;
    fleet.until_consistent(&[&lost, &other]).await;
    let left: Vec<_> = lost.sandboxes().into_iter().map(|stored| stored.sandbox).collect();
    assert_eq!(left, [""; 0], "what is marked as lost does not come back");
    fleet.released(&held, "student-1", &inside).await;
    fleet.end(vec![lost, other]).await;
}

#[tokio::test]
async fn second_runner_on_a_folder_ends_with_an_error() {
    let fleet = Fleet::start(&quick_template(), WARM).await;
    let node = Node::start(&fleet.up, "a").await;
    fleet.until_free_on("a", WARM as usize).await;
    let before = node.sandboxes();
    let second = node.another_runner(&fleet.up).await;
    let ended = tokio::time::timeout(TIMEOUT, second.child.ended()).await.expect("it ends by itself");
    assert_ne!(ended.and_then(|status| status.code()), Some(0));
    let output = second.output();
    assert!(output.contains("another runner uses the folder") && output.contains("RUNNER_DATA"), "{output}");
    assert_eq!(node.sandboxes(), before, "it touched nothing");
    let held = fleet.claimed("student-1").await.id.to_string();
    fleet.until_sh(&held, "student-1", "true").await;
    let inside = node.inside(&held);
    fleet.released(&held, "student-1", &inside).await;
    eventually("the pool to be full", AGAIN_WITHIN, || async {
        let stored = node.sandboxes().len();
        if stored == WARM as usize { Ok(()) } else { Err(stored) }
    })
    .await;
    fleet.end(vec![node]).await;
}
