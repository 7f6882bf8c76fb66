//! What the fleet's common line means for one deletion: when it waits, and when its failures count.

use super::*;
use contract::Pause;

fn others() -> SandboxId {
    SandboxId::parse("another").unwrap()
}

/// Another reaper's call ends so.
async fn elsewhere(rig: &Rig, end: CallEnd) {
    rig.bus.tell(rig.slot().await, &others(), end).await.unwrap();
    rig.clock.advance(2 * SECOND);
}

fn pause() -> Pause {
    Pause { by: "test".to_owned(), ..Pause::default() }
}

#[tokio::test]
async fn while_the_line_is_held_a_deletion_is_put_off_without_a_call() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.hold(30 * SECOND).await;
    let verdict = rig.reaper.work(delivery(&work)).await;
    assert!(matches!(verdict, Verdict::Retry { delay } if delay <= 7 * SECOND), "{verdict:?}");
    assert_eq!((rig.provider.calls(), rig.attempts().await), (vec![], 0));
    assert_eq!(rig.reaper.admit(4).await.0, 0, "and nothing is fetched");
    rig.assert_outcomes(&[("put_off", 1)]);
}

#[tokio::test]
async fn a_failure_that_makes_an_outage_of_a_run_uses_up_no_attempt() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    for _ in 0..4 {
        elsewhere(&rig, CallEnd::Failed).await;
    }
    rig.provider.script_delete(Err(failed("down")));
    let verdict = rig.reaper.work(delivery(&work)).await;
    assert!(matches!(verdict, Verdict::Retry { delay } if delay >= 30 * SECOND), "{verdict:?}");
    assert_eq!((rig.attempts().await, rig.line_state().await.as_str()), (0, "breaker_open"));
    rig.assert_outcomes(&[("held", 1)]);
}

#[tokio::test]
async fn an_outage_parks_nothing_however_long_it_lasts() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    for _ in 0..4 {
        elsewhere(&rig, CallEnd::Failed).await;
    }
    for _ in 0..20 {
        rig.provider.script_delete(Err(failed("down")));
    }
    rig.work_through(&work).await;
    assert_eq!((rig.state().await, rig.attempts().await), (StateName::Deleted, 0));
    assert_eq!(rig.deletes(), 21);
    assert_eq!(rig.line_state().await, "running");
}

#[tokio::test]
async fn nothing_is_given_up_while_deletions_of_others_fail_as_well() {
    let rig = Rig::with(Config { attempts_max: 1, ..CONFIG }, |store| store).await;
    let work = rig.released().await;
    elsewhere(&rig, CallEnd::Failed).await;
    rig.provider.script_delete(Err(failed("down")));
    assert!(matches!(rig.reaper.work(delivery(&work)).await, Verdict::Retry { .. }));
    assert_eq!((rig.state().await, rig.attempts().await), (StateName::PendingDeletion, 0));
    // The others go well: now it is this one's own fault.
    rig.clock.advance(2 * SECOND);
    elsewhere(&rig, CallEnd::Deleted).await;
    rig.provider.script_delete(Err(failed("no licence")));
    assert!(matches!(rig.reaper.work(delivery(&work)).await, Verdict::GiveUp { .. }));
    assert_eq!(rig.state().await, StateName::DeletionFailed);
}

#[tokio::test]
async fn what_the_provider_understands_and_refuses_counts_also_while_others_fail() {
    let rig = Rig::with(Config { attempts_max: 1, ..CONFIG }, |store| store).await;
    let work = rig.released().await;
    elsewhere(&rig, CallEnd::Failed).await;
    rig.provider.script_delete(Err(ProviderError::Refused { status: 409, message: "no".to_owned() }));
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
async fn a_pause_or_a_hold_that_comes_while_a_deletion_waits_for_its_slot_stops_it() {
    for is_pause in [true, false] {
        let rig = Rig::new().await;
        let work = rig.released().await;
        let first = rig.slot().await;
        let working = tokio::spawn({
            let (reaper, delivery) = (Arc::clone(&rig.reaper), delivery(&work));
            async move { reaper.work(delivery).await }
        });
        settle().await;
        if is_pause {
            rig.bus.pause(&pause()).await.unwrap();
        } else {
            rig.bus.tell(first, &others(), CallEnd::SlowDown { span: 30 * SECOND }).await.unwrap();
        }
        rig.clock.advance(SECOND);
        let verdict = working.await.unwrap();
        assert!(matches!(verdict, Verdict::Retry { .. }), "{verdict:?}");
        assert_eq!(rig.provider.calls(), []);
    }
}

#[tokio::test]
async fn a_deletion_that_slept_through_its_slot_takes_another_one() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    rig.slot().await;
    let working = tokio::spawn({
        let (reaper, delivery) = (Arc::clone(&rig.reaper), delivery(&work));
        async move { reaper.work(delivery).await }
    });
    settle().await;
    rig.clock.advance(60 * SECOND);
    assert_eq!(working.await.unwrap(), Verdict::Done);
    let Turn::Go { ticket, .. } = rig.bus.take().await.unwrap() else { panic!("no slot") };
    assert_eq!(ticket.slot_us / 1_000, rig.clock.now_ms() + 102, "the slot of now was taken");
}

#[tokio::test]
async fn the_line_is_shown_in_the_metrics() {
    let rig = Rig::new().await;
    let gauges = || {
        let families = rig.registry.gather();
        ["broker_deletions_paused", "broker_breaker_open", "broker_deletions_rate_per_minute"].map(|name| {
            let family = families.iter().find(|family| family.name() == name).expect("a gauge");
            family.get_metric()[0].get_gauge().get_value() as i64
        })
    };
    rig.reaper.admit(1).await;
    assert_eq!(gauges(), [0, 0, 600]);
    elsewhere(&rig, CallEnd::Unauthorized).await;
    elsewhere_held(&rig).await;
    rig.bus.pause(&pause()).await.unwrap();
    rig.reaper.admit(1).await;
    assert_eq!(gauges(), [1, 1, 300]);
}

/// A call that was out when the line closed fails as well.
async fn elsewhere_held(rig: &Rig) {
    let ticket = Ticket { slot_us: rig.clock.now_ms() * 1_000, is_probe: false };
    rig.bus.tell(ticket, &others(), CallEnd::Failed).await.unwrap();
}

#[tokio::test]
async fn a_line_that_is_full_is_waited_for_in_hand() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    while let Turn::Go { .. } = rig.bus.take().await.unwrap() {}
    let working = tokio::spawn({
        let (reaper, delivery) = (Arc::clone(&rig.reaper), delivery(&work));
        async move { reaper.work(delivery).await }
    });
    settle().await;
    assert!(!working.is_finished(), "it is not put off");
    for _ in 0..10 {
        rig.clock.advance(SECOND / 2);
        settle().await;
    }
    assert_eq!(working.await.unwrap(), Verdict::Done);
    rig.assert_outcomes(&[("deleted", 1)]);
}
