//! A failure of store or bus at every possible point: the work is still finished or parked, with the right counts.

use super::*;
use crate::throttle::UNAUTHORIZED_DELAY;
use testkit::bus::{Call as BusCall, Loss};
use testkit::faulty::Fault;

const OWN_FAILURE: Verdict = Verdict::Retry { delay: OWN_FAILURE_DELAY };

/// How the provider behaves.
#[derive(Clone, Copy, Debug)]
enum Course {
    Deletes,
    FailsTwice,
    AlwaysFails,
}

impl Course {
    const ALL: [Self; 3] = [Self::Deletes, Self::FailsTwice, Self::AlwaysFails];

    fn script(self, rig: &Rig) {
        let failures = match self {
            Self::Deletes => 0,
            Self::FailsTwice => 2,
            Self::AlwaysFails => 100,
        };
        for _ in 0..failures {
            rig.provider.script_delete(Err(failed("no licence")));
        }
    }

    /// Checks the final state.
    async fn assert_ended(self, rig: &Rig, where_it_broke: &str) {
        let state = rig.state().await;
        let parked = rig.bus.all_parked();
        match self {
            Self::Deletes | Self::FailsTwice => {
                assert_eq!(state, StateName::Deleted, "{self:?}, {where_it_broke}");
                assert_eq!((rig.provider.accounts(), parked), (vec![], vec![]), "{self:?}, {where_it_broke}");
            }
            Self::AlwaysFails => {
                assert_eq!(state, StateName::DeletionFailed, "{where_it_broke}");
                assert_eq!(parked.len(), 1, "{where_it_broke}: {parked:?}");
                assert_eq!(rig.attempts().await, 3, "{where_it_broke}");
                assert_eq!(rig.provider.accounts().len(), 1);
                assert!(rig.deletes() <= 4, "{where_it_broke}: {} deletes", rig.deletes());
            }
        }
    }
}

#[tokio::test]
async fn store_failure_at_any_call_loses_no_work() {
    let mut broken = 0;
    for course in Course::ALL {
        for fault in [Fault::FailBefore, Fault::FailAfter] {
            for call in 0.. {
                let rig = Rig::with(CONFIG, |store| store.with(call, fault)).await;
                let work = rig.released().await;
                course.script(&rig);
                rig.work_through(&work).await;
                let calls = rig.faulty.calls();
                let Some(name) = calls.get(call) else { break };
                course.assert_ended(&rig, &format!("{fault:?} at call {call}, {name}")).await;
                broken += 1;
            }
        }
    }
    assert!(broken >= 30, "only {broken} calls were broken");
}

#[tokio::test]
async fn lost_bus_call_loses_no_work() {
    let calls = [
        BusCall::Park,
        BusCall::ScheduleRetry,
        BusCall::Finish,
        BusCall::AcquirePermit,
        BusCall::ReportOutcome,
    ];
    for course in Course::ALL {
        for call in calls {
            for loss in [Loss::Message, Loss::Answer] {
                for times in [1, 3] {
                    let rig = Rig::new().await;
                    let work = rig.released().await;
                    course.script(&rig);
                    for _ in 0..times {
                        rig.bus.lose(call, loss);
                    }
                    rig.work_through(&work).await;
                    course.assert_ended(&rig, &format!("{loss:?} of {times} {call:?}")).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn bus_outage_loses_no_work() {
    for course in Course::ALL {
        let rig = Rig::new().await;
        let work = rig.released().await;
        course.script(&rig);
        // The work is still in the queue when the bus disconnects.
        rig.hold(5 * SECOND).await;
        let outage = tokio::spawn({
            let (bus, clock) = (rig.bus.clone(), rig.clock.clone());
            async move {
                clock.sleep(SECOND).await;
                bus.set_connected(false);
                clock.sleep(60 * SECOND).await;
                bus.set_connected(true);
            }
        });
        rig.work_through(&work).await;
        course.assert_ended(&rig, "an outage of a minute").await;
        outage.abort();
    }
}

#[tokio::test]
async fn unavailable_store_costs_no_attempt() {
    let rig = Rig::with(CONFIG, |store| store.with(0, Fault::FailBefore)).await;
    let work = rig.released().await;
    assert_eq!(rig.reaper.work(delivery(&work)).await, OWN_FAILURE);
    assert_eq!((rig.provider.calls(), rig.attempts().await), (vec![], 0));
    rig.assert_outcomes(&[]);
}

#[tokio::test]
async fn unavailable_throttle_costs_no_attempt_and_no_call() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.bus.lose(BusCall::AcquirePermit, Loss::Message);
    assert_eq!(rig.reaper.work(delivery(&work)).await, OWN_FAILURE);
    assert_eq!((rig.provider.calls(), rig.attempts().await), (vec![], 0));
}

#[tokio::test]
async fn unreported_refusal_still_delays_the_work() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.bus.lose(BusCall::ReportOutcome, Loss::Message);
    let refused = ProviderError::Unauthorized { message: "no".to_owned() };
    rig.provider.script_delete(Err(refused));
    let verdict = rig.reaper.work(delivery(&work)).await;
    assert!(matches!(verdict, Verdict::Retry { delay } if delay >= UNAUTHORIZED_DELAY), "{verdict:?}");
    rig.assert_outcomes(&[("held", 1)]);
}

#[tokio::test]
async fn failed_tombstone_write_is_repeated_by_the_next_attempt() {
    for fault in [Fault::FailBefore, Fault::FailAfter] {
        // After the reads of the sandbox and of its account.
        let rig = Rig::with(CONFIG, |store| store.with(2, fault)).await;
        let work = rig.released().await;
        assert_eq!(rig.reaper.work(delivery(&work)).await, OWN_FAILURE);
        assert_eq!((rig.faulty.calls().len(), rig.provider.accounts().len()), (3, 0));
        assert_eq!(rig.again(&work).await, Verdict::Done);
        assert_eq!((rig.state().await, rig.attempts().await), (StateName::Deleted, 0));
    }
}
