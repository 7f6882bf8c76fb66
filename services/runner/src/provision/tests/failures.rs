//! Attempts that fail, and what is counted.

use super::*;
use crate::tests::FakeControl;
use ports::engine::EngineError;

fn error(error: EngineError) -> EngineFault {
    EngineFault::Fail(error)
}

fn full() -> EngineError {
    EngineError::Full { reason: "no room".to_owned() }
}

fn is_retry(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Retry { delay } if *delay <= RETRY_DELAY_MAX)
}

/// The failures that were reported: the attempts before each, its reason, and whether it was final.
fn failures(control: &FakeControl) -> Vec<(u64, String, bool)> {
    let reports = control.reports(Verb::ProvisionFailed).into_iter();
    let parts = reports.map(|report| {
        let reason = report["reason"].as_str().unwrap().to_owned();
        (report["attempts"].as_u64().unwrap(), reason, report["is_final"].as_bool().unwrap())
    });
    parts.collect()
}

#[test]
fn failures_that_are_not_the_sandboxs_are_not_counted() {
    run(async {
        for fault in [
            error(full()),
            error(EngineError::unavailable("busy")),
            EngineFault::LoseReply(EngineError::unavailable("no answer")),
            error(EngineError::Gone),
        ] {
            let rig = Rig::new().await;
            rig.engine.script(Operation::Create, fault.clone());
            let work = rig.wanted("ctr_1", None);
            assert!(is_retry(&rig.work(&work).await), "{fault:?}");
            assert_eq!(failures(&rig.control), [], "{fault:?}");
            assert_eq!(rig.containers().await, [], "{fault:?}");
            assert_eq!(rig.node.containers.used(), (Demand::default(), Demand::default()), "{fault:?}");
            let wait = rig.node.admit(&lane(), 1).await;
            let is_closed = fault != error(EngineError::Gone);
            assert_eq!(wait.0 == 0, is_closed, "{fault:?}");
            assert!(wait.0 > 0 || !wait.1.is_zero());
            rig.node.release(&lane());
            rig.pass(Duration::from_secs(5)).await;
            assert_eq!(rig.node.admit(&lane(), 1).await.0, 1, "{fault:?}: it fetches again");
        }
    });
}

#[test]
fn failed_attempts_are_counted_and_the_last_parks() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        for fault in [
            error(EngineError::failed("broken")),
            EngineFault::LoseReply(EngineError::failed("broken")),
            EngineFault::Die,
        ] {
            rig.engine.script(Operation::Create, fault);
        }
        // Its supervisor is dead, so its main command cannot be started.
        rig.control.set_template(TemplateSettings { command: vec!["serve".to_owned()], ..template() });
        assert!(is_retry(&rig.deliver(&work, 1).await));
        rig.control.lose(Verb::ProvisionFailed, Loss::Answer);
        assert!(is_retry(&rig.deliver(&work, 2).await));
        let Verdict::GiveUp { reason } = rig.deliver(&work, 3).await else { panic!("parked") };
        assert!(reason.contains("ended at once"), "{reason}");
        let counted: Vec<_> = failures(&rig.control).into_iter().map(|(before, ..)| before).collect();
        assert_eq!(counted, [0, 1, 1, 2], "a repeat counts nothing");
        assert_eq!(rig.control.record("ctr_1"), Some(Record::Parked));
        assert_eq!(rig.containers().await, []);
        assert_eq!(rig.node.containers.used(), (Demand::default(), Demand::default()));
    });
}

#[test]
fn refused_spec_is_final() {
    run(async {
        let rig = Rig::new().await;
        rig.engine.script(Operation::Create, error(EngineError::refused("no such thing")));
        let work = rig.wanted("ctr_1", None);
        let parked = Verdict::GiveUp { reason: "no such thing".to_owned() };
        assert_eq!(rig.work(&work).await, parked);
        assert_eq!(failures(&rig.control), [(0, "no such thing".to_owned(), true)]);
    });
}

#[test]
fn failure_of_unwanted_work_is_done() {
    run(async {
        let rig = Rig::new().await;
        rig.engine.script(Operation::Create, EngineFault::Slow(Duration::from_secs(2)));
        rig.control.set_template(TemplateSettings { command: vec!["serve".to_owned()], ..template() });
        rig.engine.script(Operation::Connect, error(EngineError::Gone));
        let work = rig.wanted("ctr_1", None);
        let task = rig.begin(&work, 1);
        rig.pass(Duration::from_secs(1)).await;
        rig.control.put("ctr_1", Record::Ended);
        rig.pass_until(Duration::from_secs(5), || task.is_finished()).await;
        assert_eq!(task.await.unwrap(), Verdict::Done);
        assert_eq!(rig.containers().await, []);
    });
}

#[test]
fn creation_that_hangs_is_ended_and_counted() {
    run(async {
        let rig = Rig::new().await;
        rig.engine.script(Operation::Create, EngineFault::Hang);
        let work = rig.wanted("ctr_1", None);
        assert!(is_retry(&rig.work(&work).await));
        assert!(failures(&rig.control)[0].1.contains("within 300 s"));
        assert_eq!(rig.containers().await, []);
    });
}

#[test]
fn sandbox_that_does_not_become_ready_is_removed() {
    run(async {
        let rig = Rig::new().await;
        rig.engine.set_jobs(|_| Play { end: Some(supervisor::End::Exited(1)), ..Play::default() });
        let command = vec!["check".to_owned()];
        let readiness = ReadinessSettings {
            kind: Some("exec".to_owned()),
            command,
            timeout_seconds: Some(3),
            ..ReadinessSettings::default()
        };
        rig.control.set_template(TemplateSettings { readiness: Some(readiness), ..template() });
        let work = rig.wanted("ctr_1", None);
        assert!(is_retry(&rig.work(&work).await));
        assert!(failures(&rig.control)[0].1.contains("within 3 s"), "{:?}", failures(&rig.control));
        assert_eq!(rig.containers().await, []);
    });
}

#[test]
fn main_command_that_cannot_be_executed_fails_at_once() {
    run(async {
        let rig = Rig::new().await;
        rig.engine.set_jobs(|job| match job.id.as_str() {
            "main" => {
                let end = supervisor::End::FailedToStart("no such file".to_owned());
                Play { stdout: b"x".to_vec(), end: Some(end), ..Play::default() }
            }
            _ => Play { end: Some(supervisor::End::Exited(1)), ..Play::default() },
        });
        let command = vec!["check".to_owned()];
        let readiness = ReadinessSettings { kind: Some("exec".to_owned()), command, ..Default::default() };
        let command = vec!["serve".to_owned()];
        rig.control.set_template(TemplateSettings { command, readiness: Some(readiness), ..template() });
        let work = rig.wanted("ctr_1", None);
        let task = rig.begin(&work, 1);
        assert!(rig.pass_until(Duration::from_secs(1), || task.is_finished()).await, "long before 30 s");
        assert!(failures(&rig.control)[0].1.ends_with("cannot be started: no such file"));
        assert_eq!(rig.containers().await, []);
    });
}

#[test]
fn work_that_seems_to_crash_runners_is_parked() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        let Verdict::GiveUp { reason } = rig.deliver(&work, DELIVERIES_MAX + 1).await else {
            panic!("parked")
        };
        assert_eq!(reason, "delivered 6 times without an outcome");
        assert!(failures(&rig.control)[0].2, "final");
        assert_eq!(rig.calls(Operation::Create), 0);
        let work = rig.wanted("ctr_2", None);
        assert_eq!(rig.deliver(&work, DELIVERIES_MAX).await, Verdict::Done);
    });
}

#[test]
fn work_that_was_put_off_often_is_no_crash() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        for time in 1..=DELIVERIES_MAX + 3 {
            rig.engine.script(Operation::Create, error(full()));
            assert!(is_retry(&rig.deliver(&work, 1).await), "{time}");
        }
        assert_eq!(rig.deliver(&work, 1).await, Verdict::Done);
    });
}

#[test]
fn refused_report_keeps_the_work_and_the_container() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        rig.control.refuse(Verb::Provisioned, FaultCode::Forbidden);
        assert_eq!(rig.work(&work).await, Verdict::Retry { delay: REFUSED_DELAY });
        assert_eq!(rig.containers().await.len(), 1);
        assert_eq!(rig.deliver(&work, 2).await, Verdict::Done);
        assert_eq!(rig.calls(Operation::Create), 1);
    });
}

#[test]
fn removal_that_fails_keeps_the_capacity_in_use() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        rig.engine.script(Operation::Create, EngineFault::LoseReply(EngineError::failed("broken")));
        rig.engine.script(Operation::Remove, error(EngineError::unavailable("busy")));
        assert!(is_retry(&rig.work(&work).await));
        assert_eq!(rig.node.containers.used().0.sandboxes, 1);
        rig.control.put("ctr_1", Record::Ended);
        rig.node.reconcile().await.unwrap();
        assert_eq!(rig.containers().await, []);
        assert_eq!(rig.node.containers.used().0, Demand::default());
    });
}
