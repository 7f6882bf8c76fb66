//! Ends of leases at the node.

use crate::tests::{Record, Rig, lease, run, sandbox};
use contract::Verb;
use ports::engine::{ContainerState, EngineError, Incarnation};
use std::time::Duration;
use testkit::engine::{EngineFault, Operation};

/// A lease of the tests ends after ten minutes; a minute of grace follows.
const OVER: Duration = Duration::from_secs(660);
const SECOND: Duration = Duration::from_secs(1);

async fn state(rig: &Rig, incarnation: &Incarnation) -> Option<ContainerState> {
    rig.container(incarnation).await.map(|container| container.state)
}

/// A node with a leased container, a second before its lease and grace are over.
async fn almost_over() -> (Rig, Incarnation) {
    let rig = Rig::new().await;
    let one = rig.created("ctr_1", Some(lease(1, 600))).await;
    let spent = ports::clock::Clock::now(&rig.clock).get() - crate::tests::NOW.get();
    rig.clock.advance(OVER - SECOND * u32::try_from(spent + 2).unwrap());
    rig.pass(Duration::from_millis(100)).await;
    assert_eq!(state(&rig, &one).await, Some(ContainerState::Running));
    assert_eq!(rig.control.reports(Verb::Held).len(), 0, "nothing is asked before");
    (rig, one)
}

#[test]
fn ended_lease_removes_the_container_if_the_record_has_ended() {
    run(async {
        let (rig, one) = almost_over().await;
        rig.control.put("ctr_1", Record::Ended);
        rig.pass(2 * SECOND).await;
        assert_eq!(state(&rig, &one).await, None);
        assert_eq!(rig.control.reports(Verb::Held).len(), 1);
        assert_eq!(rig.entry(&one), None);
    });
}

#[test]
fn moved_end_moves_the_timer() {
    run(async {
        let (rig, one) = almost_over().await;
        rig.control.set_lease("ctr_1", Some(lease(1, 620)));
        rig.pass(3 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Running));
        assert_eq!(rig.entry(&one).unwrap().lease, Some(lease(1, 620)));
        assert_eq!(rig.control.reports(Verb::Held).len(), 1, "the next question comes at the next end");
        rig.control.put("ctr_1", Record::Ended);
        rig.pass(20 * SECOND).await;
        assert_eq!(state(&rig, &one).await, None);
    });
}

#[test]
fn end_that_a_request_moved_needs_no_question() {
    run(async {
        let (rig, one) = almost_over().await;
        rig.node.containers.note_lease(&sandbox("ctr_1"), &one, lease(1, 6_000)).unwrap();
        rig.pass(30 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Running));
        assert_eq!(rig.control.reports(Verb::Held).len(), 0);
    });
}

#[test]
fn control_plane_that_keeps_an_ended_lease_is_asked_again() {
    run(async {
        let (rig, one) = almost_over().await;
        rig.pass(12 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Running), "it knows better");
        let asked = rig.control.reports(Verb::Held).len();
        assert!((2..=4).contains(&asked), "every five seconds, not {asked} times");
        rig.control.set_lease("ctr_1", None);
        rig.pass(10 * SECOND).await;
        assert_eq!(rig.entry(&one).unwrap().lease, None);
        let asked = rig.control.reports(Verb::Held).len();
        rig.pass(60 * SECOND).await;
        assert_eq!(rig.control.reports(Verb::Held).len(), asked, "there is no lease any more");
    });
}

#[test]
fn lease_ends_without_the_control_plane() {
    run(async {
        let (rig, one) = almost_over().await;
        rig.control.set_down(true);
        rig.pass(2 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Running), "it may answer yet");
        rig.pass(15 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Stopped));
        assert_eq!(rig.node.containers.used().0.sandboxes, 1, "its workspace is still there");
        rig.pass(60 * SECOND).await;
        assert_eq!(rig.calls(Operation::Stop), 1);
        rig.control.set_down(false);
        rig.control.put("ctr_1", Record::Ended);
        rig.node.reconcile().await.unwrap();
        assert_eq!(state(&rig, &one).await, None);
    });
}

#[test]
fn node_whose_clock_is_off_stops_nothing() {
    run(async {
        let (rig, one) = almost_over().await;
        rig.control.set_down(true);
        rig.is_clock_off.store(true, std::sync::atomic::Ordering::SeqCst);
        rig.pass(60 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Running));
        rig.is_clock_off.store(false, std::sync::atomic::Ordering::SeqCst);
        rig.pass(60 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Stopped));
    });
}

#[test]
fn unknown_record_stops_the_container_and_removes_nothing() {
    run(async {
        let (rig, one) = almost_over().await;
        rig.control.lose_record("ctr_1");
        rig.pass(2 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Stopped));
    });
}

#[test]
fn first_lease_of_a_warm_container_ends_as_well() {
    run(async {
        let rig = Rig::new().await;
        let one = rig.created("ctr_1", None).await;
        rig.control.set_down(true);
        rig.node.containers.note_lease(&sandbox("ctr_1"), &one, lease(1, 30)).unwrap();
        rig.pass(80 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Running));
        rig.pass(30 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Stopped));
    });
}

#[test]
fn request_during_the_question_wins() {
    run(async {
        let (rig, one) = almost_over().await;
        rig.control.set_down(true);
        rig.pass(4 * SECOND).await;
        rig.node.containers.note_lease(&sandbox("ctr_1"), &one, lease(1, 6_000)).unwrap();
        rig.pass(30 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Running));
    });
}

#[test]
fn stop_and_removal_are_repeated_until_they_succeed() {
    run(async {
        let (rig, one) = almost_over().await;
        rig.control.set_down(true);
        rig.engine.script(Operation::Stop, EngineFault::Fail(EngineError::unavailable("busy")));
        rig.pass(40 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Stopped));
        assert_eq!(rig.calls(Operation::Stop), 2);
        let (rig, one) = almost_over().await;
        rig.control.put("ctr_1", Record::Ended);
        rig.engine.script(Operation::Remove, EngineFault::Fail(EngineError::unavailable("busy")));
        rig.pass(10 * SECOND).await;
        assert_eq!(state(&rig, &one).await, None);
    });
}

#[test]
fn lease_ends_after_a_restart_without_the_control_plane() {
    run(async {
        let (rig, one) = almost_over().await;
        rig.control.set_down(true);
        let rig = rig.restarted().await;
        assert_eq!(rig.entry(&one).unwrap().lease, Some(lease(1, 600)), "from the disk");
        rig.pass(20 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Stopped));
        let rig = rig.restarted().await;
        rig.pass(20 * SECOND).await;
        assert_eq!(state(&rig, &one).await, Some(ContainerState::Stopped), "a repeat changes nothing");
    });
}

#[test]
fn unreadable_state_is_learnt_anew() {
    run(async {
        let (rig, one) = almost_over().await;
        std::fs::write(rig.data().join("state.json"), "{").unwrap();
        let rig = rig.restarted().await;
        assert_eq!(rig.entry(&one), None);
        rig.start().await;
        assert_eq!(rig.entry(&one).unwrap().lease, Some(lease(1, 600)));
        assert!(rig.data().join("state.unreadable.json").exists());
    });
}
