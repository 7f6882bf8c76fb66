//! When containers get their networks.

use crate::tests::{Rig, lease, request, run};
use contract::templates::TemplateSettings;
use contract::{FaultCode, NodeVerb};
use ports::bus::{Handler as _, Verdict};
use ports::engine::{EngineError, Incarnation};
use serde_json::json;
use testkit::engine::{EngineFault, Operation};

/// A rig whose template has an open network.
async fn rig() -> Rig {
    let rig = Rig::new().await;
    let mut template = TemplateSettings { image: "host".to_owned(), ..TemplateSettings::default() };
    template.network = Some("open".to_owned());
    rig.control.set_template(template);
    rig
}

async fn grant(rig: &Rig, one: &Incarnation, epoch: u64) -> Result<(), FaultCode> {
    let body = json!({"sandbox_id": "ctr_1", "incarnation": one.to_string(), "lease": lease(epoch, 600)});
    let answer = rig.node.handle(request(NodeVerb::Lease, &body)).await;
    answer.body.map(drop).map_err(|fault| fault.code)
}

fn fail(rig: &Rig, error: EngineError) {
    rig.engine.script(Operation::AttachNetwork, EngineFault::Fail(error));
}

#[test]
fn warm_container_is_attached_by_its_grant() {
    run(async {
        let rig = rig().await;
        let one = rig.created("ctr_1", None).await;
        assert!(!rig.engine.is_attached(&one));
        fail(&rig, EngineError::unavailable("busy"));
        assert_eq!(grant(&rig, &one, 1).await, Err(FaultCode::UpstreamUnavailable));
        assert!(!rig.engine.is_attached(&one));
        assert_eq!(grant(&rig, &one, 1).await, Ok(()));
        assert!(rig.engine.is_attached(&one));
        fail(&rig, EngineError::Gone);
        assert_eq!(grant(&rig, &one, 2).await, Err(FaultCode::NotFound));
    });
}

#[test]
fn cold_container_is_attached_before_it_is_reported() {
    run(async {
        let rig = rig().await;
        let work = rig.wanted("ctr_1", Some(lease(1, 600)));
        fail(&rig, EngineError::failed("on purpose"));
        assert!(matches!(rig.work(&work).await, Verdict::Retry { .. }));
        assert_eq!(rig.control.incarnation("ctr_1"), None, "it was not reported");
        assert_eq!(rig.containers().await, []);
        assert_eq!(rig.work(&work).await, Verdict::Done);
        assert!(rig.engine.is_attached(&rig.control.incarnation("ctr_1").unwrap()));
    });
}

#[test]
fn reconciliation_attaches_what_was_granted_before_a_crash() {
    run(async {
        let rig = rig().await;
        let one = rig.created("ctr_1", None).await;
        rig.control.set_lease("ctr_1", Some(lease(1, 600)));
        let rig = rig.restarted().await;
        fail(&rig, EngineError::unavailable("busy"));
        rig.start().await;
        assert!(!rig.engine.is_attached(&one));
        rig.node.reconcile().await.unwrap();
        assert!(rig.engine.is_attached(&one));
    });
}
