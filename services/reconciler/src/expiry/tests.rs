//! Expiry: each lease that is over is ended exactly once, even if other processes try as well.

use super::*;
use crate::listing::PAGE_LIMIT;
use crate::tests::{HOUR, NOW, Rig, claim_key, done, id, owner};
use contract::{Report, TickKind};
use domain::{
    Candidate, DeletionCause, Descriptor, ExternalId, Grant, NewSandbox, ProviderName, SandboxId,
    SandboxName, State,
};
use ports::clock::Clock as _;
use std::sync::Arc;
use std::time::Duration;
use testkit::bus::{Call, Loss};
use testkit::faulty::Fault;

/// The grace period.
const GRACE: Duration = Duration::from_secs(1_800);

/// A run as started by a tick.
async fn run(rig: &Rig) -> ExpiryReport {
    match rig.run(TickKind::EXPIRY).await {
        Report::Expiry(report) => report,
        other => panic!("{other:?}"),
    }
}

fn completed(due: u64, expired: u64, raced: u64, unannounced: u64) -> ExpiryReport {
    ExpiryReport { status: RunStatus::Completed, due, expired, raced, unannounced, unreadable: 0 }
}

/// The leases that are over now, as a run would read them.
async fn due(rig: &Rig) -> Vec<Sandbox> {
    let ended_by = crate::tests::LEASES.ended_by(rig.clock.now());
    let mut walk = rig.reconciler.walk(StateName::Allocated, &SortRange::DueBy(ended_by)).await.unwrap();
    let mut sandboxes = Vec::new();
    while let Some(page) = walk.next(&mut Skipped::default()).await.unwrap() {
        sandboxes.extend(page);
    }
    sandboxes
}

#[tokio::test]
async fn lease_expires_exactly_at_the_end_of_its_grace() {
    let rig = Rig::new();
    rig.fill(3).await;
    rig.allocate_until(0, NOW.after(HOUR)).await;
    rig.allocate_until(1, NOW.after(HOUR + Duration::from_secs(1))).await;
    rig.clock.advance(HOUR + GRACE - Duration::from_secs(1));
    assert_eq!(run(&rig).await, completed(0, 0, 0, 0));
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(run(&rig).await, completed(1, 1, 0, 0));
    let sandbox = rig.sandbox(0).await;
    let State::PendingDeletion(deletion) = &sandbox.state else { panic!("{sandbox:?}") };
    assert_eq!((deletion.cause, deletion.requested_at), (DeletionCause::Expired, rig.clock.now()));
    assert_eq!(rig.bus.queued(), [DeletionWork::of(&sandbox).unwrap()]);
    let item = async |number| rig.store.find_claim(&claim_key(number)).await.unwrap().unwrap();
    assert!(item(0).await.is_closed, "the key is free for a next claim");
    assert!(!item(1).await.is_closed);
    assert_eq!(rig.state(1).await, StateName::Allocated);
    let count = |what| rig.metric("broker_reconciled_total", &["expiry", what]);
    assert_eq!(["expired", "raced", "unannounced"].map(count), [1, 0, 0]);
    assert_eq!(rig.metric("broker_runs_total", &["expiry", RunStatus::Completed.as_str()]), 2);
}

#[tokio::test]
async fn concurrent_change_wins_over_the_run() {
    let rig = Rig::new();
    rig.fill(4).await;
    for number in 0..4 {
        rig.allocate_until(number, NOW).await;
    }
    rig.clock.advance(GRACE);
    let batch = due(&rig).await;
    assert_eq!(batch.len(), 4);

    // One is released, one expired by another process, one released and deleted; only the fourth is left.
    done(rig.store.release(&id(0), &owner(0), None, None, rig.clock.now()).await.unwrap());
    done(rig.store.expire(&id(1), rig.sandbox(1).await.epoch, NOW, rig.clock.now()).await.unwrap());
    done(rig.store.release(&id(2), &owner(2), None, None, NOW).await.unwrap());
    done(
        rig.store
            .finish_deletion(&id(2), rig.sandbox(2).await.epoch, NOW, NOW.after(HOUR), None)
            .await
            .unwrap(),
    );
    let before = [rig.sandbox(0).await, rig.sandbox(1).await, rig.sandbox(2).await];

    let mut report = ExpiryReport::default();
    rig.reconciler.expire_batch(batch, &mut report, &mut Skipped::default()).await.unwrap();
    assert_eq!((report.due, report.expired, report.raced), (4, 1, 3));
    assert_eq!([rig.sandbox(0).await, rig.sandbox(1).await, rig.sandbox(2).await], before);
    let queued = rig.bus.queued();
    assert_eq!(queued, [DeletionWork::of(&rig.sandbox(3).await).unwrap()], "only what this run ended");
}

#[tokio::test]
async fn lease_changed_since_the_read_is_left_alone() {
    let rig = Rig::new();
    rig.fill(1).await;
    let read = rig.allocate_until(0, NOW).await;
    rig.clock.advance(GRACE);
    // The same sandbox as the index may show it: with an older epoch, or with an outdated end.
    let older = Sandbox { epoch: domain::Epoch::new(0), ..read.clone() };
    let mut report = ExpiryReport::default();
    rig.reconciler.expire_batch(vec![older], &mut report, &mut Skipped::default()).await.unwrap();
    assert_eq!((report.due, report.raced), (1, 1));
    assert_eq!(rig.sandbox(0).await, read);

    let rig = Rig::new();
    rig.fill(1).await;
    let longer = rig.allocate_until(0, NOW.after(HOUR)).await;
    rig.clock.advance(GRACE);
    let mut report = ExpiryReport::default();
    rig.reconciler.expire_batch(vec![longer.clone()], &mut report, &mut Skipped::default()).await.unwrap();
    assert_eq!((report.due, report.raced), (1, 1));
    assert_eq!(rig.sandbox(0).await, longer);
}

#[tokio::test]
async fn unannounced_deletion_is_counted_and_left_to_the_sweep() {
    let rig = Rig::new();
    rig.fill(3).await;
    for number in 0..3 {
        rig.allocate_until(number, NOW).await;
    }
    rig.clock.advance(GRACE);
    rig.bus.lose(Call::Announce, Loss::Message);
    assert_eq!(run(&rig).await, completed(3, 3, 0, 1));
    assert_eq!(rig.in_state(StateName::PendingDeletion).await.len(), 3);
    assert_eq!(rig.bus.queued_count(), 2);
    rig.clock.advance(HOUR);
    let swept = rig.reconciler.sweep().await;
    assert_eq!((swept.pending, swept.reannounced, swept.waiting), (3, 1, 2));
    assert_eq!(rig.bus.queued_count(), 3);
}

#[tokio::test]
async fn run_expires_more_than_one_page_of_leases() {
    let count = 2 * usize::from(PAGE_LIMIT) + 300;
    let rig = Rig::new();
    rig.fill(count).await;
    for number in 0..count {
        rig.allocate_until(number, NOW).await;
    }
    rig.clock.advance(GRACE);
    assert_eq!(run(&rig).await, completed(count as u64, count as u64, 0, 0));
    assert_eq!(rig.bus.queued_count(), count);
    assert_eq!(run(&rig).await, completed(0, 0, 0, 0));
}

#[tokio::test]
async fn concurrent_runs_expire_every_lease_once() {
    // The first run has read a page and is about to end the first lease on it.
    let rig = Rig::with(|store| store.with(1, Fault::PauseBefore));
    rig.fill(40).await;
    for number in 0..40 {
        rig.allocate_until(number, NOW).await;
    }
    rig.clock.advance(GRACE);
    let first = tokio::spawn({
        let reconciler = Arc::clone(&rig.reconciler);
        async move { reconciler.expire_leases().await }
    });
    rig.faulty.paused().await;
    assert_eq!(rig.faulty.calls(), ["page", "expire"]);
    assert_eq!(run(&rig).await, completed(40, 40, 0, 0));
    rig.faulty.resume();
    let first = first.await.unwrap();
    assert!(first.expired == 0 && first.raced > 0, "{first:?}");
    assert_eq!(rig.bus.queued_count(), 40);
}

#[tokio::test]
async fn store_failure_is_reported_and_the_next_run_resumes() {
    let mut broken = 0;
    for fault in [Fault::FailBefore, Fault::FailAfter] {
        for call in 0.. {
            let rig = Rig::with(|store| store.with(call, fault));
            rig.fill(3).await;
            for number in 0..3 {
                rig.allocate_until(number, NOW).await;
            }
            rig.clock.advance(GRACE);
            let report = run(&rig).await;
            let calls = rig.faulty.calls();
            let Some(name) = calls.get(call) else { break };
            assert_eq!(report.status, RunStatus::Failed, "{fault:?} at {name}");
            assert_eq!(rig.metric("broker_runs_total", &["expiry", RunStatus::Failed.as_str()]), 1);
            assert_eq!(run(&rig).await.status, RunStatus::Completed, "{fault:?} at {name}");
            assert_eq!(rig.in_state(StateName::PendingDeletion).await.len(), 3, "{fault:?} at {name}");
            // The sweep finds what was ended without being announced.
            rig.clock.advance(HOUR);
            rig.reconciler.sweep().await;
            assert_eq!(rig.bus.queued_count(), 3, "{fault:?} at {name}");
            broken += 1;
        }
    }
    assert!(broken >= 2 * 10, "only {broken} calls were broken");
}

/// Their pool was removed, so this process does not know of which kind it is.
#[tokio::test]
async fn lease_of_a_creation_expires_like_any_other() {
    let rig = Rig::new();
    let pool = PoolName::parse("gone").unwrap();
    rig.store.note_pools(&[pool.clone()].into()).await.unwrap();
    let mut created = Vec::new();
    for (name, hours) in [("over", Some(1)), ("live", Some(9)), ("parked", Some(1)), ("unleased", None)] {
        let new = NewSandbox {
            id: SandboxId::parse(name).unwrap(),
            name: SandboxName::parse(name).unwrap(),
            external_id: ExternalId::of(&ProviderName::parse("nodes").unwrap(), name).unwrap(),
            pool: pool.clone(),
            descriptor: Descriptor::default(),
        };
        let grant = hours.map(|hours| Grant {
            claim: claim_key(created.len()),
            candidate: Candidate::absent(new.id.clone(), pool.clone()),
            lab: None,
            by: None,
            request: None,
            granted_at: NOW,
            expires_at: NOW.after(HOUR * hours),
            options: None,
        });
        let wanted = new.provision(grant.as_ref(), NOW);
        rig.store.create(&wanted).await.unwrap();
        created.push(wanted);
    }
    done(rig.store.park_provision(&created[2], NOW).await.unwrap());
    rig.clock.advance(HOUR + GRACE);
    assert_eq!(run(&rig).await, completed(2, 2, 0, 0));
    let mut states = Vec::new();
    for wanted in &created {
        states.push(rig.store.sandbox(&wanted.id).await.unwrap().unwrap().state.name());
    }
    use StateName::{PendingDeletion, Provisioning};
    assert_eq!(states, [PendingDeletion, Provisioning, PendingDeletion, Provisioning]);
    assert_eq!(run(&rig).await, completed(0, 0, 0, 0));
}
