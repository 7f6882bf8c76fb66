//! The provider throttle and one deletion: when the deletion waits, and when its failures count.

use super::*;
use contract::Pause;

fn others() -> SandboxId {
    SandboxId::parse("another").unwrap()
}

/// The outcome of another reaper's call.
async fn elsewhere(rig: &Rig, end: CallOutcome) {
    rig.bus.report_outcome(rig.slot().await, &others(), end).await.unwrap();
    rig.clock.advance(2 * SECOND);
}

fn pause() -> Pause {
    Pause { by: "test".to_owned(), ..Pause::default() }
}

#[tokio::test]
async fn hold_postpones_a_deletion_without_a_call() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.hold(30 * SECOND).await;
    let verdict = rig.reaper.work(delivery(&work)).await;
    assert!(matches!(verdict, Verdict::Retry { delay } if delay <= 7 * SECOND), "{verdict:?}");
    assert_eq!((rig.provider.calls(), rig.attempts().await), (vec![], 0));
    assert_eq!(rig.reaper.admit(&pool(), 4).await.0, 0, "and nothing is fetched");
    rig.assert_outcomes(&[("put_off", 1)]);
}

#[tokio::test]
async fn failure_that_opens_the_breaker_costs_no_attempt() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    for _ in 0..4 {
        elsewhere(&rig, CallOutcome::Failed).await;
    }
    rig.provider.script_delete(Err(failed("down")));
    let verdict = rig.reaper.work(delivery(&work)).await;
    assert!(matches!(verdict, Verdict::Retry { delay } if delay >= 30 * SECOND), "{verdict:?}");
    assert_eq!((rig.attempts().await, rig.throttle_state().await.as_str()), (0, "breaker_open"));
    rig.assert_outcomes(&[("held", 1)]);
}

#[tokio::test]
async fn long_outage_parks_nothing() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    for _ in 0..4 {
        elsewhere(&rig, CallOutcome::Failed).await;
    }
    for _ in 0..20 {
        rig.provider.script_delete(Err(failed("down")));
    }
    rig.work_through(&work).await;
    assert_eq!((rig.state().await, rig.attempts().await), (StateName::Deleted, 0));
    assert_eq!(rig.deletes(), 21);
    assert_eq!(rig.throttle_state().await, "running");
}

#[tokio::test]
async fn nothing_is_parked_while_other_deletions_fail_too() {
    let rig = Rig::with(Config { attempts_max: 1, ..CONFIG }, |store| store).await;
    let work = rig.released().await;
    elsewhere(&rig, CallOutcome::Failed).await;
    rig.provider.script_delete(Err(failed("down")));
    assert!(matches!(rig.reaper.work(delivery(&work)).await, Verdict::Retry { .. }));
    assert_eq!((rig.state().await, rig.attempts().await), (StateName::PendingDeletion, 0));
    // The others succeed, so this sandbox is at fault.
    rig.clock.advance(2 * SECOND);
    elsewhere(&rig, CallOutcome::Deleted).await;
    rig.provider.script_delete(Err(failed("no licence")));
    assert!(matches!(rig.reaper.work(delivery(&work)).await, Verdict::GiveUp { .. }));
    assert_eq!(rig.state().await, StateName::DeletionFailed);
}

#[tokio::test]
async fn explicit_refusal_counts_even_while_others_fail() {
    let rig = Rig::with(Config { attempts_max: 1, ..CONFIG }, |store| store).await;
    let work = rig.released().await;
    elsewhere(&rig, CallOutcome::Failed).await;
    rig.provider.script_delete(Err(ProviderError::Refused { message: "no".to_owned() }));
    assert!(matches!(rig.reaper.work(delivery(&work)).await, Verdict::GiveUp { .. }));
}

#[tokio::test]
async fn a_pause_keeps_work_in_the_queue_until_it_ends() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.bus.pause(&pause()).await.unwrap();
    let resume = tokio::spawn({
        let (bus, clock) = (rig.bus.clone(), rig.clock.clone());
        async move {
            clock.sleep(600 * SECOND).await;
            assert_eq!(bus.queued_count(), 1);
            assert_eq!(bus.retries_scheduled(), 0, "it lies where it was");
            bus.resume("test").await.unwrap()
        }
    });
    let before = rig.clock.now();
    rig.work_through(&work).await;
    assert!(rig.clock.now().get() - before.get() >= 600);
    assert_eq!(resume.await.unwrap(), Some(pause()));
    rig.assert_outcomes(&[("deleted", 1)]);
}

#[tokio::test]
async fn pause_or_hold_stops_a_deletion_waiting_for_its_slot() {
    for is_pause in [true, false] {
        let rig = Rig::new().await;
        let work = rig.released().await;
        let first = rig.slot().await;
        let working = rig.begin(&work);
        settle().await;
        if is_pause {
            rig.bus.pause(&pause()).await.unwrap();
        } else {
            rig.bus
                .report_outcome(first, &others(), CallOutcome::SlowDown { span: 30 * SECOND })
                .await
                .unwrap();
        }
        rig.clock.advance(SECOND);
        let verdict = working.await.unwrap();
        assert!(matches!(verdict, Verdict::Retry { .. }), "{verdict:?}");
        assert_eq!(rig.provider.calls(), []);
    }
}

#[tokio::test]
async fn deletion_that_missed_its_slot_takes_another() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.slot().await;
    let working = rig.begin(&work);
    settle().await;
    rig.clock.advance(60 * SECOND);
    assert_eq!(working.await.unwrap(), Verdict::Done);
    let Admission::Go { permit, .. } = rig.bus.acquire().await.unwrap() else { panic!("no slot") };
    assert_eq!(permit.slot_us / 1_000, rig.clock.now_ms() + 102, "the slot of now was taken");
}

#[tokio::test]
async fn throttle_state_is_exported_as_metrics() {
    let rig = Rig::new().await;
    let gauges = || {
        let families = rig.registry.gather();
        ["broker_deletions_paused", "broker_breaker_open", "broker_deletions_rate_per_minute"].map(|name| {
            let family = families.iter().find(|family| family.name() == name).expect("a gauge");
            family.get_metric()[0].get_gauge().get_value() as i64
        })
    };
    rig.reaper.admit(&pool(), 1).await;
    assert_eq!(gauges(), [0, 0, 600]);
    elsewhere(&rig, CallOutcome::Unauthorized).await;
    elsewhere_held(&rig).await;
    rig.bus.pause(&pause()).await.unwrap();
    rig.reaper.admit(&pool(), 1).await;
    assert_eq!(gauges(), [1, 1, 300]);
}

/// A call that was in progress when the throttle closed fails as well.
async fn elsewhere_held(rig: &Rig) {
    let permit = Permit { slot_us: rig.clock.now_ms() * 1_000, is_probe: false };
    rig.bus.report_outcome(permit, &others(), CallOutcome::Failed).await.unwrap();
}

#[tokio::test]
async fn full_throttle_is_awaited_without_returning_the_message() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    while let Admission::Go { .. } = rig.bus.acquire().await.unwrap() {}
    let working = rig.begin(&work);
    settle().await;
    assert!(!working.is_finished(), "it is not put off");
    for _ in 0..10 {
        rig.clock.advance(SECOND / 2);
        settle().await;
    }
    assert_eq!(working.await.unwrap(), Verdict::Done);
    rig.assert_outcomes(&[("deleted", 1)]);
}
