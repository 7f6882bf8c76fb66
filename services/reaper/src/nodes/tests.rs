//! A removal at a node: what is asked, and what each answer means.

use super::*;
use contract::{Fault, FaultCode};
use domain::template::Isolation;
use domain::{ExternalId, Node, ProviderName, SandboxName, UnixSeconds};
use ports::bus::Reply;
use ports::random::Rng;
use ports::store::NodeItems as _;
use strum::IntoEnumIterator as _;
use testkit::clock::ManualClock;
use testkit::nodes::{FakeNodes, NodeCall};
use testkit::store::MemoryStore;

const NOW: UnixSeconds = UnixSeconds::new(1_763_683_200);

fn nodes() -> (Arc<FakeNodes>, Nodes) {
    let store = Arc::new(MemoryStore::new(1));
    over(&store)
}

fn over(store: &Arc<MemoryStore>) -> (Arc<FakeNodes>, Nodes) {
    let fake = Arc::new(FakeNodes::new());
    let clock = Arc::new(ManualClock::at(NOW));
    let nodes = Nodes::new(fake.clone(), store.clone(), clock, Arc::new(Rng::seeded(7)));
    (fake, nodes)
}

/// A store that knows the node.
async fn knowing(lost_at: Option<UnixSeconds>) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new(1));
    let node = Node {
        id: NodeId::parse("node-a").unwrap(),
        generation: 1,
        engine: "fake".to_owned(),
        isolation: Isolation::Process,
        version: "0.1.0".to_owned(),
        registered_at: NOW,
        lost_at,
        drain: None,
    };
    assert!(store.write_node(None, &node).await.unwrap());
    store
}

#[tokio::test]
async fn container_of_a_lost_node_counts_as_gone() {
    // Without a script no node has a runner.
    let (_fake, there) = over(&knowing(None).await);
    let found = there.delete(&on_node()).await;
    assert_eq!(found, Err(ProviderError::Unreachable { message: "node node-a has no runner".to_owned() }));
    let (_fake, lost) = over(&knowing(Some(NOW)).await);
    assert_eq!(lost.delete(&on_node()).await, Ok(Deleted::AlreadyGone));
}

/// A sandbox with these entries in its descriptor.
fn target(entries: &[(&str, &str)]) -> Target {
    Target {
        external_id: ExternalId::of(&ProviderName::nodes(), "ctr_1").unwrap(),
        name: SandboxName::parse("ctr-1").unwrap(),
        descriptor: Descriptor::stored(entries.iter().copied()).unwrap(),
    }
}

fn on_node() -> Target {
    target(&[(Descriptor::NODE, "node-a"), (Descriptor::INCARNATION, "i")])
}

/// The result of a deletion with a scripted answer.
async fn deleted(script: impl FnOnce(&FakeNodes)) -> Result<Deleted, ProviderError> {
    let (fake, nodes) = nodes();
    script(&fake);
    nodes.delete(&on_node()).await
}

#[tokio::test]
async fn removal_is_asked_of_the_node_that_the_record_names() {
    let (fake, nodes) = nodes();
    fake.script_reply(&RemoveContainersReply { removed: 1 });
    assert_eq!(nodes.delete(&on_node()).await, Ok(Deleted::Now));
    let calls = fake.calls();
    let [NodeCall { node, verb, context, body, timeout }] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(
        (node.as_str(), *verb, &**body),
        ("node-a", NodeVerb::Remove, &br#"{"sandbox_id":"ctr_1"}"#[..])
    );
    assert_eq!(*timeout, Duration::from_secs(10));
    assert_eq!(context.deadline_ms, Some(NOW.get() * 1_000 + 10_000));
    fake.script_reply(&RemoveContainersReply { removed: 1 });
    nodes.delete(&on_node()).await.unwrap();
    assert_ne!(fake.calls()[1].context.request_id, context.request_id);
}

#[tokio::test]
async fn reply_says_whether_there_was_a_container() {
    for (removed, expected) in [(0, Deleted::AlreadyGone), (1, Deleted::Now), (2, Deleted::Now)] {
        assert_eq!(deleted(|fake| fake.script_reply(&RemoveContainersReply { removed })).await, Ok(expected));
    }
}

#[tokio::test]
async fn sandbox_that_never_had_a_container_is_gone() {
    let (fake, nodes) = nodes();
    assert_eq!(nodes.delete(&target(&[(Descriptor::TEMPLATE, "shell@3")])).await, Ok(Deleted::AlreadyGone));
    assert_eq!(fake.calls(), []);
}

#[tokio::test]
async fn unusable_name_of_a_node_is_refused() {
    let (fake, nodes) = nodes();
    let found = nodes.delete(&target(&[(Descriptor::NODE, "a.b")])).await;
    assert!(matches!(found, Err(ProviderError::Refused { .. })), "{found:?}");
    assert_eq!(fake.calls(), []);
}

#[tokio::test]
async fn missing_reply_is_an_unreachable_node_or_an_unknown_outcome() {
    let unreachable = |message: &str| ProviderError::Unreachable { message: message.to_owned() };
    for (why, expected) in [
        (RequestError::NoResponders, unreachable("node node-a has no runner")),
        (RequestError::Disconnected, unreachable("not connected to the queue")),
        (RequestError::TimedOut, ProviderError::UnknownOutcome { waited_seconds: 10 }),
    ] {
        assert_eq!(deleted(|fake| fake.script(Err(why))).await, Err(expected));
    }
}

#[tokio::test]
async fn silent_node_costs_no_further_time_outs_and_is_gone_once_it_is_lost() {
    let store = knowing(None).await;
    let (fake, there) = over(&store);
    fake.script(Err(RequestError::TimedOut));
    assert_eq!(there.delete(&on_node()).await, Err(ProviderError::UnknownOutcome { waited_seconds: 10 }));
    let Err(ProviderError::Throttled { retry_after, .. }) = there.delete(&on_node()).await else {
        panic!("asked")
    };
    assert_eq!((retry_after, fake.calls().len()), (Some(Duration::from_secs(5)), 1), "it was not asked");
    let seen = store.node(&NodeId::parse("node-a").unwrap()).await.unwrap().unwrap();
    let lost = Node { lost_at: Some(NOW), generation: 2, ..seen.clone() };
    assert!(store.write_node(Some(&seen), &lost).await.unwrap());
    assert_eq!(there.delete(&on_node()).await, Ok(Deleted::AlreadyGone));
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test]
async fn fault_is_a_refusal_or_a_failure_of_the_node() {
    for code in FaultCode::iter() {
        let message = format!("{}: said so", code.as_str());
        let expected = match code.status() {
            400..=499 => ProviderError::Refused { message },
            _ => ProviderError::Failed { message },
        };
        let fault = Fault::new(code, "said so");
        assert_eq!(deleted(|fake| fake.script_fault(&fault)).await, Err(expected));
    }
}

#[tokio::test]
async fn unreadable_answer_is_malformed() {
    for is_fault in [false, true] {
        for body in ["", "{}", "[]", r#"{"removed":-1}"#, r#"{"detail":{}}"#] {
            let reply = Reply { outcome: None, is_fault, body: body.into() };
            let found = deleted(|fake| fake.script(Ok(reply))).await;
            assert!(matches!(found, Err(ProviderError::Malformed { .. })), "{body} {found:?}");
        }
    }
}

#[tokio::test]
async fn nodes_only_delete() {
    let (fake, nodes) = nodes();
    let abilities = Abilities { list: false, delete: true, prepare_delete: false, check: false };
    assert_eq!(nodes.abilities(), abilities);
    assert_eq!(nodes.prepare_delete(&on_node()).await, Ok(Prepared::Skipped));
    assert!(nodes.list(0).await.is_err(), "an empty listing would make every sandbox stale");
    assert_eq!(fake.calls(), []);
}
