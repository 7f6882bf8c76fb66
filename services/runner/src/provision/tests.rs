//! Work to create sandboxes.

use super::*;
use crate::capacity::Demand;
use crate::tests::{Loss, NOW, OFFERED, Record, Rig, lease, pool, run, sandbox};
use contract::FaultCode;
use contract::templates::{ReadinessSettings, TemplateSettings};
use testkit::engine::{EngineFault, Operation, Play};

mod failures;
mod storm;

fn template() -> TemplateSettings {
    TemplateSettings { image: "host".to_owned(), ..TemplateSettings::default() }
}

#[test]
fn wanted_sandbox_is_created_reported_and_kept() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", Some(lease(1, 600)));
        assert_eq!(rig.work(&work).await, Verdict::Done);
        let listed = rig.containers().await;
        let incarnation = rig.control.incarnation("ctr_1").unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].incarnation, &listed[0].state), (incarnation, &ContainerState::Running));
        let entry = rig.entry(&incarnation).unwrap();
        assert_eq!((entry.sandbox, entry.lease), (sandbox("ctr_1"), Some(lease(1, 600))));
        let stored = std::fs::read_to_string(rig.data().join("state.json")).unwrap();
        assert!(stored.contains(&incarnation.to_string()) && stored.contains(&(NOW.get() + 600).to_string()));
        assert!(rig.node.containers.has_no_reservation());
        let used = Demand { cpu_milli: 1_000, memory_mb: 512, sandboxes: 1 };
        assert_eq!(rig.node.containers.used(), (used, Demand::default()));
    });
}

#[test]
fn unwanted_work_is_done_without_a_container() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        rig.control.put("ctr_1", Record::Provisioning { epoch: 2, attempts: 0, lease: None });
        assert_eq!(rig.work(&work).await, Verdict::Done, "of an older epoch");
        rig.control.put("ctr_1", Record::Ended);
        assert_eq!(rig.work(&work).await, Verdict::Done);
        assert_eq!(rig.calls(Operation::Create), 0);
    });
}

#[test]
fn container_is_kept_until_its_report_is_answered() {
    run(async {
        let rig = Rig::new().await;
        for loss in [Loss::Answer, Loss::Message, Loss::Answer] {
            rig.control.lose(Verb::Provisioned, loss);
        }
        let work = rig.wanted("ctr_1", Some(lease(1, 600)));
        assert_eq!(rig.work(&work).await, Verdict::Done);
        let reports = rig.control.reports(Verb::Provisioned);
        assert_eq!(reports.len(), 3, "of four, one did not arrive");
        assert!(reports.iter().all(|report| *report == reports[0]), "always the same container");
        assert_eq!((rig.calls(Operation::Create), rig.calls(Operation::Remove)), (1, 0));
        let incarnation = rig.control.incarnation("ctr_1").unwrap();
        assert_eq!(rig.entry(&incarnation).unwrap().lease, Some(lease(1, 600)));
        rig.control.refuse(Verb::Provisioned, FaultCode::StoreUnavailable);
        rig.created("ctr_2", None).await;
        assert_eq!(rig.control.reports(Verb::Provisioned).len(), 5, "a refusal that may pass is repeated");
    });
}

#[test]
fn container_whose_record_has_ended_meanwhile_is_removed() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        rig.engine.script(Operation::Create, EngineFault::Slow(Duration::from_secs(2)));
        let task = rig.begin(&work, 1);
        rig.pass(Duration::from_secs(1)).await;
        rig.control.put("ctr_1", Record::Ended);
        assert!(rig.pass_until(Duration::from_secs(5), || task.is_finished()).await);
        assert_eq!(task.await.unwrap(), Verdict::Done);
        assert_eq!(rig.containers().await, []);
        assert_eq!(rig.node.containers.used().0, Demand::default());
    });
}

#[test]
fn unknown_record_keeps_the_container_and_the_work() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        rig.engine.script(Operation::Create, EngineFault::Slow(Duration::from_secs(2)));
        let task = rig.begin(&work, 1);
        rig.pass(Duration::from_secs(1)).await;
        rig.control.lose_record("ctr_1");
        rig.pass_until(Duration::from_secs(5), || task.is_finished()).await;
        assert_eq!(task.await.unwrap(), Verdict::Retry { delay: REFUSED_DELAY });
        assert_eq!(rig.containers().await.len(), 1);
    });
}

#[test]
fn two_deliveries_of_a_message_make_one_container() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        rig.engine.script(Operation::Create, EngineFault::Slow(Duration::from_secs(2)));
        let (first, second) = (rig.begin(&work, 1), rig.begin(&work, 2));
        rig.pass_until(Duration::from_secs(10), || first.is_finished() && second.is_finished()).await;
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Verdict::Done, Verdict::Done));
        assert_eq!((rig.calls(Operation::Create), rig.containers().await.len()), (1, 1));
        assert!(rig.node.containers.has_no_reservation());
    });
}

#[test]
fn container_of_a_former_process_is_adopted() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", Some(lease(1, 600)));
        for _ in 0..3 {
            rig.control.lose(Verb::Provisioned, Loss::Message);
        }
        let task = rig.begin(&work, 1);
        let node = std::sync::Arc::clone(&rig.node);
        let has_entry = || node.containers.of_sandbox(&sandbox("ctr_1")).len() == 1;
        assert!(rig.pass_until(Duration::from_secs(1), has_entry).await);
        rig.pass(Duration::from_millis(100)).await;
        assert!(!task.is_finished());
        // The process ends before the report has arrived.
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        drop(node);
        let rig = rig.restarted().await;
        let made = rig.containers().await[0].incarnation;
        let demand = rig.entry(&made).unwrap().demand;
        assert_eq!(demand, Demand { cpu_milli: 1_000, memory_mb: 512, sandboxes: 1 });
        rig.start().await;
        assert_eq!(rig.deliver(&work, 2).await, Verdict::Done);
        assert_eq!(rig.control.incarnation("ctr_1"), Some(made));
        assert_eq!((rig.calls(Operation::Create), rig.containers().await.len()), (1, 1));
        assert_eq!(rig.entry(&made).unwrap().lease, Some(lease(1, 600)));
    });
}

#[test]
fn lease_ends_even_if_the_reply_that_granted_it_was_lost() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", Some(lease(1, 600)));
        rig.control.lose(Verb::Provisioned, Loss::Answer);
        let task = rig.begin(&work, 1);
        let control = std::sync::Arc::clone(&rig.control);
        let is_recorded = || control.incarnation("ctr_1").is_some();
        assert!(rig.pass_until(Duration::from_secs(1), is_recorded).await);
        // The holder has it, and both the control plane and the runner go.
        rig.control.set_down(true);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        let rig = rig.restarted().await;
        rig.clock.advance(Duration::from_secs(640));
        rig.pass(Duration::from_secs(1)).await;
        assert_eq!(rig.containers().await[0].state, ContainerState::Running);
        rig.pass(Duration::from_secs(40)).await;
        assert_eq!(rig.containers().await[0].state, ContainerState::Stopped);
    });
}

#[test]
fn container_of_another_lease_is_not_adopted() {
    run(async {
        let rig = Rig::new().await;
        let used = rig.created("ctr_1", Some(lease(1, 600))).await;
        let work = rig.wanted("ctr_1", Some(lease(2, 600)));
        assert_eq!(rig.work(&work).await, Verdict::Done);
        assert_ne!(rig.control.incarnation("ctr_1"), Some(used));
        assert_eq!(rig.containers().await.len(), 1);
        let work = rig.wanted("ctr_1", None);
        let leased = rig.containers().await[0].incarnation;
        assert_eq!(rig.work(&work).await, Verdict::Done);
        assert_ne!(rig.control.incarnation("ctr_1"), Some(leased), "to be free it has to be fresh");
    });
}

#[test]
fn container_that_cannot_be_adopted_is_replaced() {
    run(async {
        let rig = Rig::new().await;
        let first = rig.created("ctr_1", None).await;
        rig.engine.kill(&first);
        // Its record was restored to an earlier time.
        let work = rig.wanted("ctr_1", None);
        assert_eq!(rig.work(&work).await, Verdict::Done);
        let second = rig.control.incarnation("ctr_1").unwrap();
        assert_ne!(first, second);
        let left: Vec<_> = rig.containers().await.iter().map(|container| container.incarnation).collect();
        assert_eq!(left, [second]);
    });
}

#[test]
fn main_command_runs_before_a_sandbox_is_ready() {
    run(async {
        let rig = Rig::new().await;
        let jobs = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
        let seen = std::sync::Arc::clone(&jobs);
        // The check fails twice.
        rig.engine.set_jobs(move |job| {
            let mut jobs = seen.lock();
            jobs.push(job.clone());
            match job.id.as_str() {
                "main" => Play::held(),
                _ if jobs.len() < 4 => Play { end: Some(supervisor::End::Exited(1)), ..Play::default() },
                _ => Play::default(),
            }
        });
        let command = vec!["check".to_owned()];
        let readiness = ReadinessSettings { kind: Some("exec".to_owned()), command, ..Default::default() };
        rig.control.set_template(TemplateSettings {
            command: vec!["serve".to_owned(), "-v".to_owned()],
            env: [("LANG".to_owned(), "C".to_owned())].into(),
            user: Some(77),
            readiness: Some(readiness),
            ..template()
        });
        rig.created("ctr_1", None).await;
        let jobs = jobs.lock();
        let commands: Vec<_> = jobs.iter().map(|job| job.command.join(" ")).collect();
        assert_eq!(commands, ["serve -v", "check", "check", "check"]);
        for job in jobs.iter() {
            assert_eq!(
                (job.uid, job.env["LANG"].as_str(), job.cwd.as_deref()),
                (Some(77), "C", Some("/workspace"))
            );
        }
    });
}

#[tokio::test]
async fn work_with_ids_that_are_none_is_given_up() {
    let rig = Rig::new().await;
    let work = ProvisionWork { sandbox_id: "a b".to_owned(), ..rig.wanted("ctr_1", None) };
    let verdict = rig.node.work(Delivery { work, deliveries: 1 }).await;
    assert!(matches!(verdict, Verdict::GiveUp { .. }));
    assert_eq!(rig.node.admit(&lane(), 9).await.0, 4, "it fits four times into {OFFERED:?}");
}

fn lane() -> ProvisionLane {
    ProvisionLane { priority: contract::ProvisionPriority::Fill, pool: pool() }
}
