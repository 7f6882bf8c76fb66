//! Requests to a node.

use super::*;
use crate::tests::{Record, Rig, lease, request, run};
use contract::nodes::NodeLease;
use ports::engine::{ContainerSpec, Engine as _, EngineError, Image};
use serde_json::{Value, json};
use testkit::engine::{EngineFault, Operation};

async fn ask(rig: &Rig, verb: NodeVerb, body: Value) -> Result<Value, FaultCode> {
    let answer = rig.node.handle(request(verb, &body)).await;
    answer.body.map(|body| serde_json::from_slice(&body).unwrap()).map_err(|fault| fault.code)
}

fn lease_body(incarnation: &Incarnation, lease: &NodeLease) -> Value {
    json!({"sandbox_id": "ctr_1", "incarnation": incarnation.to_string(), "lease": lease})
}

#[test]
fn every_container_of_a_sandbox_is_removed() {
    run(async {
        let rig = Rig::new().await;
        rig.created("ctr_1", None).await;
        rig.created("ctr_2", None).await;
        // One that this process does not know.
        let twin = Incarnation::parse("0198c0de-0000-7000-8000-000000000001").unwrap();
        rig.engine
            .create(&ContainerSpec::new(parse_sandbox("ctr_1").unwrap(), twin, Image::Host))
            .await
            .unwrap();
        let removed = ask(&rig, NodeVerb::Remove, json!({"sandbox_id": "ctr_1"})).await;
        assert_eq!(removed, Ok(json!({"removed": 2})));
        let left: Vec<_> = rig.containers().await.iter().map(|one| one.sandbox.to_string()).collect();
        assert_eq!(left, ["ctr_2"]);
        assert_eq!(rig.node.containers.used().0.sandboxes, 1);
        let again = ask(&rig, NodeVerb::Remove, json!({"sandbox_id": "ctr_1"})).await;
        assert_eq!(again, Ok(json!({"removed": 0})));
        for operation in [Operation::Remove, Operation::List] {
            rig.engine.script(operation, EngineFault::Fail(EngineError::unavailable("busy")));
            let failed = ask(&rig, NodeVerb::Remove, json!({"sandbox_id": "ctr_2"})).await;
            assert_eq!(failed, Err(FaultCode::UpstreamUnavailable), "{operation:?}");
        }
        assert_eq!(rig.containers().await.len(), 1);
    });
}

#[test]
fn removal_ends_a_creation_in_progress() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        rig.engine.script(Operation::Create, EngineFault::Slow(std::time::Duration::from_secs(2)));
        let task = rig.begin(&work, 1);
        rig.pass(std::time::Duration::from_secs(1)).await;
        rig.control.put("ctr_1", Record::Ended);
        let removed = ask(&rig, NodeVerb::Remove, json!({"sandbox_id": "ctr_1"})).await;
        assert_eq!(removed, Ok(json!({"removed": 1})));
        rig.pass_until(std::time::Duration::from_secs(5), || task.is_finished()).await;
        assert!(task.is_finished());
        assert_eq!(rig.containers().await, []);
        assert_eq!(rig.node.containers.used().0.sandboxes, 0);
        assert_eq!(rig.work(&work).await, ports::bus::Verdict::Done);
    });
}

#[test]
fn lease_is_on_the_disk_before_the_answer() {
    run(async {
        let rig = Rig::new().await;
        let one = rig.created("ctr_1", Some(lease(1, 600))).await;
        let later = lease(1, 900);
        let stored = ask(&rig, NodeVerb::Lease, lease_body(&one, &later)).await;
        assert_eq!(stored, Ok(json!({"lease": later})));
        for older in [lease(1, 600), lease(0, 9_000), lease(1, 900)] {
            let kept = ask(&rig, NodeVerb::Lease, lease_body(&one, &older)).await;
            assert_eq!(kept, Ok(json!({"lease": later})), "{older:?}");
        }
        let rig = rig.restarted().await;
        assert_eq!(rig.entry(&one).unwrap().lease, Some(later));
        let next = ask(&rig, NodeVerb::Lease, lease_body(&one, &lease(2, 300))).await;
        assert_eq!(next, Ok(json!({"lease": lease(2, 300)})), "a later lease may end earlier");
    });
}

#[test]
fn lease_that_cannot_be_stored_is_not_confirmed() {
    run(async {
        let rig = Rig::new().await;
        let one = rig.created("ctr_1", Some(lease(1, 600))).await;
        let away = rig.data().with_extension("away");
        std::fs::rename(rig.data(), &away).unwrap();
        let refused = ask(&rig, NodeVerb::Lease, lease_body(&one, &lease(1, 900))).await;
        assert_eq!(refused, Err(FaultCode::UpstreamUnavailable));
        std::fs::rename(&away, rig.data()).unwrap();
        let repeated = ask(&rig, NodeVerb::Lease, lease_body(&one, &lease(1, 900))).await;
        assert_eq!(repeated, Ok(json!({"lease": lease(1, 900)})));
        let rig = rig.restarted().await;
        assert_eq!(rig.entry(&one).unwrap().lease, Some(lease(1, 900)), "the repeat has written it");
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    run(async {
        let rig = Rig::new().await;
        let one = rig.created("ctr_2", None).await;
        let other = lease_body(&one, &lease(1, 600));
        assert_eq!(ask(&rig, NodeVerb::Lease, other).await, Err(FaultCode::NotFound), "another sandbox's");
        let unknown = Incarnation::parse("0198c0de-0000-7000-8000-000000000001").unwrap();
        let unknown = lease_body(&unknown, &lease(1, 600));
        assert_eq!(ask(&rig, NodeVerb::Lease, unknown).await, Err(FaultCode::NotFound));
        for (verb, body) in [
            (NodeVerb::Remove, json!({"sandbox_id": "a b"})),
            (NodeVerb::Remove, json!({})),
            (NodeVerb::Lease, json!({"sandbox_id": "ctr_1", "incarnation": "x", "lease": lease(1, 1)})),
            (NodeVerb::Execute, json!([])),
        ] {
            assert_eq!(ask(&rig, verb, body).await, Err(FaultCode::InvalidRequest), "{verb:?}");
        }
    });
}

#[test]
fn inventory_names_what_this_node_cannot_run() {
    run(async {
        let rig = Rig::new().await;
        let there = rig.created("ctr_1", None).await;
        let gone = rig.created("ctr_2", None).await;
        rig.engine.remove(&gone).await.unwrap();
        let stopped = rig.created("ctr_3", None).await;
        rig.engine.stop(&stopped).await.unwrap();
        let container = |id: &str, at: &Incarnation| json!({"sandbox_id": id, "incarnation": at.to_string()});
        let exited = rig.created("ctr_4", Some(lease(1, 60))).await;
        rig.engine.kill(&exited);
        let named = [
            container("ctr_1", &there),
            container("ctr_2", &gone),
            container("ctr_3", &stopped),
            container("ctr_4", &exited),
        ];
        let reply = ask(&rig, NodeVerb::Inventory, json!({"containers": named})).await.unwrap();
        let idle = |id: &str, at: &Incarnation, runtime: &str| json!({"sandbox_id": id, "incarnation": at.to_string(), "runtime": runtime});
        let idle = [idle("ctr_3", &stopped, "stopped"), idle("ctr_4", &exited, "exited")];
        assert_eq!(reply, json!({"generation": 1, "missing": [container("ctr_2", &gone)], "idle": idle}));
        let none = ask(&rig, NodeVerb::Inventory, json!({"containers": []})).await;
        let load = json!({
            "sandboxes": 4, "leased": 1, "sandboxes_max": 100, "cpu_milli": 4_000, "cpu_milli_max": 8_000,
            "memory_mb": 2_048, "memory_mb_max": 2_048,
        });
        assert_eq!(none, Ok(json!({"generation": 1, "missing": [], "load": load})));
        let many = vec![container("ctr_1", &there); 501];
        let refused = ask(&rig, NodeVerb::Inventory, json!({"containers": many})).await;
        assert_eq!(refused, Err(FaultCode::InvalidRequest));
        rig.engine.script(Operation::List, EngineFault::Fail(EngineError::unavailable("busy")));
        let failed = ask(&rig, NodeVerb::Inventory, json!({"containers": named})).await;
        assert_eq!(failed, Err(FaultCode::UpstreamUnavailable));
    });
}
