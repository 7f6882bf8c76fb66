//! Containers and their records.

use super::*;
use crate::tests::{NOW, Record, Rig, lease, run, sandbox};
use contract::Verb;
use ports::engine::{ContainerSpec, ContainerState, Engine as _, Image as EngineImage};
use testkit::engine::{EngineFault, Operation};

fn incarnation(number: u32) -> Incarnation {
    Incarnation::parse(&format!("0198c0de-0000-7000-8000-{number:012}")).unwrap()
}

/// A container that only the engine knows.
async fn stray(rig: &Rig, id: &str, number: u32) -> Incarnation {
    let spec = ContainerSpec::new(sandbox(id), incarnation(number), EngineImage::Host);
    rig.engine.create(&spec).await.unwrap();
    spec.incarnation
}

fn asked(number: u32, fate: Fate, seen: Option<NodeLease>) -> Asked {
    Asked { incarnation: incarnation(number), seen, holding: Holding { fate, lease: None } }
}

#[test]
fn plan_removes_what_no_record_names() {
    let now_ms = (NOW.get() + 660) * 1_000;
    let all = [
        asked(1, Fate::Keep, None),
        asked(2, Fate::Remove, Some(lease(1, 900))),
        asked(3, Fate::Unknown, Some(lease(1, 600))),
    ];
    let remove = vec![(incarnation(2), Removal::Unwanted), (incarnation(3), Removal::Unknown)];
    assert_eq!(plan(&all, now_ms), Plan { remove, unknown: 1, is_withheld: false });
    let unknown = |seen| plan(&[asked(3, Fate::Unknown, seen)], now_ms).remove;
    assert_eq!(unknown(Some(lease(1, 601))), [], "before its end and grace");
    assert_eq!(unknown(None), [], "without an end");
}

#[test]
fn many_unknown_containers_stop_every_removal() {
    let now_ms = (NOW.get() + 9_000) * 1_000;
    let with = |unknown: u32| {
        let rest = (unknown..20).map(|number| asked(number, Fate::Remove, None));
        let all: Vec<_> =
            (0..unknown).map(|number| asked(number, Fate::Unknown, Some(lease(1, 1)))).chain(rest).collect();
        let plan = plan(&all, now_ms);
        (plan.remove.len(), plan.is_withheld)
    };
    assert_eq!(with(0), (20, false));
    assert_eq!(with(2), (20, false), "a tenth");
    assert_eq!(with(3), (0, true));
    let single = plan(&[asked(1, Fate::Unknown, Some(lease(1, 1)))], now_ms);
    assert_eq!(single.remove.len(), 1, "a single one proves nothing");
}

#[test]
fn restored_table_removes_nothing() {
    run(async {
        let rig = Rig::new().await;
        for number in 1..=3 {
            rig.created(&format!("ctr_{number}"), None).await;
        }
        stray(&rig, "ctr_9", 9).await;
        rig.control.put("ctr_9", Record::Ended);
        rig.control.lose_record("ctr_1");
        rig.control.lose_record("ctr_2");
        let report = rig.node.reconcile().await.unwrap();
        assert_eq!(report, ReconcileReport { asked: 4, unknown: 2, is_withheld: true, ..Default::default() });
        assert_eq!(rig.containers().await.len(), 4);
        let kept = rig.control.incarnation("ctr_3").unwrap().to_string();
        rig.control.put("ctr_2", Record::Ready { incarnation: kept, lease: None });
        let report = rig.node.reconcile().await.unwrap();
        assert_eq!((report.removed, report.unknown, report.is_withheld), (2, 1, false));
        let left: Vec<_> =
            rig.containers().await.iter().map(|container| container.sandbox.to_string()).collect();
        assert_eq!(left, ["ctr_1", "ctr_3"], "the unknown one has no end");
    });
}

#[test]
fn node_learns_leases_and_what_the_engine_lost() {
    run(async {
        let rig = Rig::new().await;
        let (one, two) = (rig.created("ctr_1", None).await, rig.created("ctr_2", Some(lease(1, 600))).await);
        rig.control.set_lease("ctr_1", Some(lease(2, 900)));
        rig.control.set_lease("ctr_2", None);
        rig.engine.remove(&one).await.unwrap();
        let three = stray(&rig, "ctr_3", 3).await;
        let named = Record::Ready { incarnation: three.to_string(), lease: Some(lease(1, 300)) };
        rig.control.put("ctr_3", named);
        let report = rig.node.reconcile().await.unwrap();
        assert_eq!(report, ReconcileReport { asked: 2, forgotten: 1, ..Default::default() });
        assert_eq!(rig.entry(&one), None);
        assert_eq!(rig.entry(&two).unwrap().lease, None);
        assert_eq!(rig.entry(&three).unwrap().lease, Some(lease(1, 300)));
        assert_eq!(rig.node.containers.used().0.sandboxes, 2);
    });
}

#[test]
fn failed_container_that_its_record_names_stays() {
    run(async {
        let rig = Rig::new().await;
        let one = rig.created("ctr_1", None).await;
        rig.engine.kill(&one);
        rig.node.reconcile().await.unwrap();
        assert_eq!(rig.containers().await[0].state, ContainerState::Exited);
    });
}

#[test]
fn container_that_is_being_created_is_left_to_its_work() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        rig.engine.script(Operation::Create, EngineFault::Slow(Duration::from_secs(5)));
        let task = rig.begin(&work, 1);
        rig.pass(Duration::from_secs(1)).await;
        // Its record would even say that it has to go.
        rig.control.put("ctr_1", Record::Ended);
        assert_eq!(rig.node.reconcile().await.unwrap(), ReconcileReport::default());
        assert_eq!(rig.node.containers.used().0.sandboxes, 1);
        rig.pass_until(Duration::from_secs(10), || task.is_finished()).await;
        assert_eq!(rig.containers().await, [], "the work has removed it");
    });
}

#[test]
fn container_that_was_created_during_a_reconciliation_is_not_forgotten() {
    run(async {
        let rig = Rig::new().await;
        let work = rig.wanted("ctr_1", None);
        rig.engine.script(Operation::Create, EngineFault::Slow(Duration::from_secs(5)));
        let task = rig.begin(&work, 1);
        rig.pass(Duration::from_secs(1)).await;
        let (before, listed) = (rig.node.containers.all(), Vec::new());
        rig.pass_until(Duration::from_secs(10), || task.is_finished()).await;
        assert_eq!(rig.node.follow_engine(&before, &listed), 0);
        assert_eq!(rig.node.containers.used().0.sandboxes, 1);
        let before = rig.node.containers.all();
        assert_eq!(rig.node.follow_engine(&before, &listed), 1, "that it is not there now is a fact");
    });
}

#[test]
fn without_answers_nothing_changes() {
    run(async {
        let rig = Rig::new().await;
        let one = rig.created("ctr_1", Some(lease(1, 6_000))).await;
        rig.control.put("ctr_1", Record::Ended);
        rig.control.set_down(true);
        let node = std::sync::Arc::clone(&rig.node);
        let failed = tokio::spawn(async move { node.reconcile().await.unwrap_err().to_string() });
        rig.pass_until(Duration::from_secs(60), || failed.is_finished()).await;
        assert!(failed.await.unwrap().contains("does not answer"));
        rig.control.set_down(false);
        rig.engine.script(Operation::List, EngineFault::Fail(EngineError::unavailable("busy")));
        assert!(matches!(rig.node.reconcile().await, Err(ReconcileError::Engine(_))));
        assert_eq!(rig.entry(&one).unwrap().lease, Some(lease(1, 6_000)));
        rig.engine.script(Operation::Remove, EngineFault::Fail(EngineError::unavailable("busy")));
        assert_eq!(rig.node.reconcile().await.unwrap().removed, 0);
        assert_eq!(rig.node.containers.used().0.sandboxes, 1, "it is still there");
        assert_eq!(rig.node.reconcile().await.unwrap().removed, 1);
    });
}

#[test]
fn many_containers_are_asked_about_in_pages() {
    run(async {
        let rig = Rig::new().await;
        for number in 1..=205 {
            stray(&rig, &format!("ctr_{number}"), number).await;
            rig.control.put(&format!("ctr_{number}"), Record::Ended);
        }
        let report = rig.node.reconcile().await.unwrap();
        assert_eq!((report.asked, report.removed), (205, 205));
        let pages: Vec<_> = rig
            .control
            .reports(Verb::Held)
            .iter()
            .map(|report| report["containers"].as_array().unwrap().len())
            .collect();
        assert_eq!(pages, [100, 100, 5]);
    });
}

#[test]
fn answer_that_is_older_than_a_request_changes_no_lease() {
    run(async {
        let rig = Rig::new().await;
        let one = rig.created("ctr_1", Some(lease(1, 600))).await;
        let containers = &rig.node.containers;
        containers.note_lease(&sandbox("ctr_1"), &one, lease(1, 900)).unwrap();
        containers.note_answer(&one, Some(&lease(1, 600)), None);
        assert_eq!(rig.entry(&one).unwrap().lease, Some(lease(1, 900)));
        containers.note_answer(&one, Some(&lease(1, 900)), Some(lease(1, 300)));
        assert_eq!(rig.entry(&one).unwrap().lease, Some(lease(1, 300)));
    });
}
