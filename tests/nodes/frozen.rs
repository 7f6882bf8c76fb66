//! Runners that stand still for longer than work waits for them.

use crate::fleet::{Fleet, node_of, slow_template};
use crate::node::Node;
use domain::StateName;

#[tokio::test]
async fn stopped_runner_loses_its_creation_to_another_one() {
    let fleet = Fleet::start(&slow_template(), 0).await;
    let frozen = Node::start(&fleet.up, "a").await;
    let id = fleet.claim("student-1").await;
    frozen.until_phase(&id, &["running"]).await;
    frozen.freeze();
    let own = frozen.inside(&id);
    let other = Node::start(&fleet.up, "b").await;
    let sandbox = fleet.until_state(&id, StateName::Allocated).await;
    assert_eq!(node_of(&sandbox), "b");
    assert_eq!(frozen.sandboxes().len(), 1, "it has the first one still");
    frozen.thaw();
    fleet.until_consistent(&[&frozen, &other]).await;
    assert_eq!((frozen.sandboxes(), own.processes()), (vec![], vec![]), "the first one was removed");
    let kept = fleet.sandbox(&id).await;
    assert_eq!((kept.version, &kept.descriptor), (sandbox.version, &sandbox.descriptor));
    let inside = other.inside(&id);
    fleet.until_sh(&id, "student-1", "test -f ready").await;
    fleet.released(&id, "student-1", &inside).await;
    fleet.end(vec![frozen, other]).await;
}
