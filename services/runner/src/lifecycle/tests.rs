//! Starting, stopping and pausing containers.

use super::*;
use crate::tests::{Rig, lease, request, run};
use contract::nodes::NodeLease;
use contract::templates::TemplateSettings;
use parking_lot::Mutex;
use ports::bus::{Handler as _, Verdict};
use ports::engine::ContainerState;
use serde_json::json;
use std::sync::Arc;
use testkit::engine::{EngineFault, Operation, Play};

async fn ask(rig: &Rig, incarnation: &Incarnation, action: &str) -> Result<String, FaultCode> {
    let body = json!({"sandbox_id": "ctr_1", "incarnation": incarnation.to_string(), "action": action});
    let answer = rig.node.handle(request(NodeVerb::Runtime, &body)).await;
    let body = answer.body.map_err(|fault| fault.code)?;
    let reply: ContainerRuntimeReply = serde_json::from_slice(&body).unwrap();
    Ok(reply.runtime.as_str().to_owned())
}

async fn state(rig: &Rig) -> ContainerState {
    rig.containers().await[0].state.clone()
}

#[test]
fn container_does_what_its_holder_wants() {
    run(async {
        let rig = Rig::new().await;
        let one = rig.created("ctr_1", Some(lease(1, 600))).await;
        for (action, reply, leads_to) in [
            ("start", "running", ContainerState::Running),
            ("pause", "paused", ContainerState::Paused),
            ("resume", "running", ContainerState::Running),
            ("stop", "stopped", ContainerState::Stopped),
            ("stop", "stopped", ContainerState::Stopped),
            ("start", "running", ContainerState::Running),
            ("restart", "running", ContainerState::Running),
        ] {
            assert_eq!(ask(&rig, &one, action).await.as_deref(), Ok(reply), "{action}");
            assert_eq!(state(&rig).await, leads_to, "{action}");
        }
        ask(&rig, &one, "stop").await.unwrap();
        assert_eq!(ask(&rig, &one, "pause").await, Err(FaultCode::InvalidState));
        assert_eq!(ask(&rig, &one, "freeze").await, Err(FaultCode::InvalidRequest));
        let other = Incarnation::parse("0198c0de-0000-7000-8000-00000000000f").unwrap();
        assert_eq!(ask(&rig, &other, "start").await, Err(FaultCode::NotFound));
        rig.engine.script(Operation::Start, EngineFault::Fail(EngineError::unavailable("busy")));
        assert_eq!(ask(&rig, &one, "start").await, Err(FaultCode::UpstreamUnavailable));
        assert_eq!(ask(&rig, &one, "start").await.as_deref(), Ok("running"), "it may be repeated");
    });
}

#[test]
fn main_command_starts_again_with_its_whole_environment() {
    run(async {
        let rig = Rig::new().await;
        let jobs = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&jobs);
        rig.engine.set_jobs(move |job| {
            seen.lock().push((job.command.clone(), job.env.clone()));
            Play::default()
        });
        let env = |name: &str| [(name.to_owned(), "1".to_owned())].into();
        rig.control.set_template(TemplateSettings {
            image: "host".to_owned(),
            command: vec!["serve".to_owned()],
            env: env("OF_TEMPLATE"),
            ..TemplateSettings::default()
        });
        let work = rig.wanted("ctr_1", Some(NodeLease { env: env("OF_CLAIM"), ..lease(1, 600) }));
        let task = rig.begin(&work, 1);
        rig.pass_until(std::time::Duration::from_secs(5), || task.is_finished()).await;
        assert_eq!(task.await.unwrap(), Verdict::Done);
        let one = rig.control.incarnation("ctr_1").unwrap();
        assert_eq!(ask(&rig, &one, "start").await.as_deref(), Ok("running"), "it runs already");
        rig.engine.kill(&one);
        assert_eq!(ask(&rig, &one, "start").await.as_deref(), Ok("running"));
        let started = jobs.lock().clone();
        assert_eq!(started.len(), 2, "{started:?}");
        assert_eq!(started[0], started[1]);
        assert_eq!(started[0].0, ["serve"]);
        assert_eq!(started[0].1.keys().collect::<Vec<_>>(), ["OF_CLAIM", "OF_TEMPLATE"]);
    });
}
