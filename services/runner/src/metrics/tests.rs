//! What is counted.

use super::*;
use crate::tests::{Record, Rig, lease, request, run};
use ports::bus::Handler as _;
use ports::engine::EngineError;
use runtime::metrics::counted;
use serde_json::json;
use std::collections::BTreeMap;
use testkit::engine::{EngineFault, Operation};

fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn what_happens_to_containers_is_counted() {
    run(async {
        let rig = Rig::new().await;
        let metrics = &rig.node.metrics;
        let one = rig.created("ctr_1", Some(lease(1, 600))).await;
        rig.engine.script(Operation::Create, EngineFault::Fail(EngineError::failed("broken")));
        let work = rig.wanted("ctr_2", None);
        rig.work(&work).await;
        rig.control.put("ctr_2", Record::Ended);
        rig.work(&work).await;
        let expected = counts(&[("created", 1), ("failed", 1), ("unwanted", 1)]);
        assert_eq!(counted(&metrics.provisions), expected);
        assert_eq!(counted(&metrics.removals), counts(&[("failed", 1)]));

        let capacity = |resource, kind| metrics.capacity.with_label_values(&[resource, kind]).get();
        assert_eq!((capacity("memory_mb", "offered"), capacity("memory_mb", "used")), (2_048, 512));
        assert_eq!((capacity("sandboxes", "used"), capacity("sandboxes", "promised")), (1, 0));

        let body = json!({
            "sandbox_id": "ctr_1", "incarnation": one.to_string(), "command": ["true"], "timeout_seconds": 1,
        });
        for verb in [NodeVerb::Execute, NodeVerb::Lease] {
            rig.node.handle(request(verb, &body)).await;
        }
        assert_eq!(counted(&metrics.executions), counts(&[("exited", 1)]));
        let expected = counts(&[("ok.execute", 1), ("INVALID_REQUEST.lease", 1)]);
        assert_eq!(counted(&metrics.requests), expected);

        rig.engine.kill(&one);
        rig.node.reconcile().await.unwrap();
        let states = STATES.map(|state| metrics.containers.with_label_values(&[state]).get());
        assert_eq!(states, [0, 0, 0, 0, 1, 0]);
        assert_eq!(metrics.in_flight.now(), 0);
    });
}

#[test]
fn every_state_has_a_series() {
    for state in [
        ContainerState::Creating,
        ContainerState::Running,
        ContainerState::Paused,
        ContainerState::Stopped,
        ContainerState::Exited,
        ContainerState::Failed { reason: String::new() },
    ] {
        assert!(STATES.contains(&name_of(&state)), "{state:?}");
    }
}

#[test]
fn metrics_are_registered_once() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    assert!(Metrics::register(&registry).is_err());
    let described = runtime::metrics::describe(&metrics.collectors());
    assert!(
        described.iter().all(|metric| metric.name.starts_with("broker_runner_") && !metric.help.is_empty())
    );
    assert_eq!(described.len(), 10);
}
