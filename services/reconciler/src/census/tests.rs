//! Census: exact counts, stored and exported, and the check of leases against claim items.

use super::claims::CLAIMS_READ_MAX;
use super::*;
use crate::tests::{HOUR, NOW, Rig, claim_key, done, id, owner};
use contract::{Report, TickKind, Violation};
use domain::{ClaimKey, ClaimRecord};
use ports::bus::CensusStore as _;
use ports::clock::Clock as _;
use ports::store::IDENTITY_SHARDS;
use std::sync::Arc;
use strum::IntoEnumIterator as _;
use testkit::bus::{Call, Loss};
use testkit::clock::settle;
use testkit::faulty::Fault;

mod identities;

/// A run as started by a tick.
async fn run(rig: &Rig) -> CensusReport {
    match rig.run(TickKind::CENSUS).await {
        Report::Census(report) => report,
        other => panic!("{other:?}"),
    }
}

/// A run that has to complete; returns the violations of each kind.
async fn violations(rig: &Rig) -> [u64; 4] {
    let report = run(rig).await;
    assert_eq!(report.status, RunStatus::Completed);
    let shown: Vec<_> = Violation::iter().map(|kind| report.census.violations[&kind.into()]).collect();
    let gauges: Vec<_> =
        Violation::iter().map(|kind| rig.metric("broker_invariant_violations", &[kind.as_str()])).collect();
    assert_eq!(shown, gauges);
    shown.try_into().unwrap()
}

/// Claim items that the census read after call number `before`.
fn claims_read(rig: &Rig, before: usize) -> usize {
    rig.faulty.calls().iter().skip(before).filter(|call| **call == "find_claim").count()
}

/// Brings a new sandbox into the state that its number selects, and counts it.
async fn live(rig: &Rig, number: usize, expected: &mut Census) {
    let pool = if number.is_multiple_of(4) { "dns" } else { "main" };
    let seen = rig.add(number, pool).await;
    let (state, lab) = (number % 10, format!("lab-{}", number % 7));
    let stats = expected.pools.entry(pool.to_owned()).or_default();
    let count = match state {
        0 => {
            let held = rig.claim(&seen, claim_key(number), Some(&lab)).await;
            assert_eq!(held.state.name(), StateName::Allocated);
            *expected.labs.entry(pool.to_owned()).or_default().entry(lab).or_default() += 1;
            &mut stats.allocated
        }
        1 => {
            rig.claim(&seen, claim_key(number), None).await;
            &mut stats.allocated
        }
        2 | 3 => {
            let held = rig.claim(&seen, claim_key(number), Some(&lab)).await;
            done(rig.store.release(&held.id, &owner(number), None, None, NOW).await.unwrap());
            rig.store.close_claim(&held.last_claim().unwrap(), NOW.after(HOUR)).await.unwrap();
            if state == 2 {
                expected.oldest_deletions.insert(pool.to_owned(), NOW.get());
                &mut stats.pending_deletion
            } else {
                done(rig.store.park_deletion(&held.id, held.epoch, NOW).await.unwrap());
                &mut stats.deletion_failed
            }
        }
        4 => {
            let missing = done(rig.store.mark_missing(&seen, NOW).await.unwrap());
            if number % 20 == 4 {
                // A tombstone is no part of a pool.
                done(rig.store.forget(&missing, None, NOW, NOW.after(HOUR)).await.unwrap());
                return;
            }
            &mut stats.stale
        }
        _ => &mut stats.available,
    };
    *count += 1;
    stats.total += 1;
}

async fn pool_of(count: usize) -> (Rig, Census) {
    let rig = Rig::new();
    let mut expected = Census { taken_at: NOW.get(), ..Census::default() };
    for number in 0..count {
        live(&rig, number, &mut expected).await;
    }
    for stats in expected.pools.values() {
        expected.all.add(stats);
    }
    expected.violations = Violation::iter().map(|kind| (kind.into(), 0)).collect();
    (rig, expected)
}

#[tokio::test]
async fn a_hundred_thousand_sandboxes_are_counted_exactly() {
    const SANDBOXES: usize = 100_000;
    let (rig, expected) = pool_of(SANDBOXES).await;
    let report = run(&rig).await;
    assert_eq!(report.census, expected);
    assert_eq!(report.census.all.total as usize, SANDBOXES - SANDBOXES / 20);
    let (held, cap) = (SANDBOXES as u64 / 5, CLAIMS_READ_MAX as u64);
    assert_eq!((report.checked, report.unchecked), (cap, held - cap));
    // Free sandboxes are counted and not read, except by the check of all identities in the first census.
    let calls = rig.faulty.calls().len();
    assert_eq!(run(&rig).await.census, expected);
    let pages = rig.faulty.calls().iter().skip(calls).filter(|call| **call == "page").count();
    assert!(pages < SANDBOXES * 2 / 5 / usize::from(PAGE_LIMIT) + 3 * 4 * 2, "{pages} pages");
}

#[tokio::test]
async fn leases_are_checked_against_claims_in_bounded_batches() {
    let (rig, expected) = pool_of(25_000).await;
    let held = expected.all.allocated;
    let mut checked = 0;
    for _ in 0..3 {
        let report = run(&rig).await;
        assert_eq!(report.census, expected);
        checked += report.checked;
        assert_eq!(report.unchecked, held - checked);
    }
    assert_eq!(checked, held);
    let calls = rig.faulty.calls().len();
    assert_eq!((run(&rig).await.checked, claims_read(&rig, calls)), (0, 0), "a lease costs one read");
    // After an hour each is checked again, the oldest check first, together with the claims of ended leases.
    rig.clock.advance(HOUR);
    let report = run(&rig).await;
    assert_eq!(report.checked, CLAIMS_READ_MAX as u64);
    assert_eq!(report.census.violations, expected.violations);
}

#[tokio::test]
async fn census_is_stored_exported_and_reported_consistently() {
    let (rig, expected) = pool_of(200).await;
    let report = run(&rig).await;
    assert_eq!((report.status, &report.census), (RunStatus::Completed, &expected));
    assert_eq!(rig.bus.last_census().await.unwrap().as_ref(), Some(&expected));
    let shown = |pool, state| rig.metric("broker_sandboxes", &[pool, state]);
    for pool in ["dns", "main"] {
        let stats = expected.pools[pool];
        assert_eq!(shown(pool, "available"), stats.available);
        assert_eq!(shown(pool, "allocated"), stats.allocated);
        assert_eq!(shown(pool, "deletion_failed"), stats.deletion_failed);
        assert_eq!(shown(pool, "quarantined"), 0);
    }
    assert_eq!(rig.metric("broker_census_taken_at", &[]), NOW.get());
    assert_eq!(rig.metric("broker_runs_total", &["census", RunStatus::Completed.as_str()]), 1);
}

#[tokio::test]
async fn census_of_another_reconciler_is_exported() {
    let rig = Rig::new();
    let stop = CancellationToken::new();
    let showing = tokio::spawn({
        let (reconciler, stop) = (Arc::clone(&rig.reconciler), stop.clone());
        async move { reconciler.show_census_until(stop).await }
    });
    let census = |taken_at, pool: &str, available| {
        let stats = PoolStats { total: available, available, ..PoolStats::default() };
        let violations = [(Violation::HeldTwice.into(), available)].into();
        Census {
            taken_at,
            all: stats,
            pools: [(pool.to_owned(), stats)].into(),
            violations,
            ..Census::default()
        }
    };
    // A census older than the exported one changes nothing; a removed pool is not exported any more.
    let cases = [(8, "main", 3, 3), (7, "main", 9, 3), (9, "main", 4, 4), (10, "other", 5, 0)];
    for (taken_at, pool, available, shown) in cases {
        rig.bus.keep_census(&census(taken_at, pool, available)).await.unwrap();
        // Twice, so that the first read has certainly ended.
        for _ in 0..2 {
            settle().await;
            rig.clock.advance(SHOW_PERIOD);
        }
        settle().await;
        assert_eq!(rig.metric("broker_sandboxes", &["main", "available"]), shown, "{taken_at}");
    }
    assert_eq!(rig.metric("broker_sandboxes", &["other", "available"]), 5);
    assert_eq!(rig.metric("broker_invariant_violations", &["held_twice"]), 5);
    stop.cancel();
    showing.await.unwrap();
}

#[tokio::test]
async fn oldest_pending_deletion_of_a_pool_is_exported_while_there_is_one() {
    let rig = Rig::new();
    rig.fill(3).await;
    let (first, second) = (NOW.after(HOUR), NOW.after(2 * HOUR));
    for (number, released_at) in [(0, second), (1, first), (2, second)] {
        rig.release(number, released_at).await;
    }
    let oldest = |rig: &Rig| rig.metric("broker_oldest_deletion_timestamp_seconds", &["main"]);
    assert_eq!(run(&rig).await.census.oldest_deletions, [("main".to_owned(), first.get())].into());
    assert_eq!(oldest(&rig), first.get());
    let parked = rig.sandbox(1).await;
    done(rig.store.park_deletion(&parked.id, parked.epoch, second).await.unwrap());
    run(&rig).await;
    assert_eq!(oldest(&rig), second.get(), "a parked one does not wait");
    for number in [0, 2] {
        let pending = rig.sandbox(number).await;
        done(rig.store.park_deletion(&pending.id, pending.epoch, second).await.unwrap());
    }
    assert!(run(&rig).await.census.oldest_deletions.is_empty());
    assert_eq!(oldest(&rig), 0, "no series");
}

#[tokio::test]
async fn failed_census_keeps_the_previous_one() {
    let (rig, expected) = pool_of(50).await;
    run(&rig).await;
    rig.clock.advance(HOUR);
    rig.bus.lose(Call::KeepCensus, Loss::Message);
    let report = run(&rig).await;
    assert_eq!(report.status, RunStatus::Failed);
    assert_eq!(rig.bus.last_census().await.unwrap().unwrap(), expected);
    assert_eq!(rig.metric("broker_census_taken_at", &[]), NOW.get());
    let mut broken = 0;
    for call in 0.. {
        let rig = Rig::with(|store| store.with(call, Fault::FailBefore));
        let seen = rig.add(1, "main").await;
        rig.claim(&seen, claim_key(1), None).await;
        let report = run(&rig).await;
        if rig.faulty.calls().len() <= call {
            assert_eq!(report.status, RunStatus::Completed);
            break;
        }
        assert_eq!(report.status, RunStatus::Failed);
        assert_eq!(rig.bus.last_census().await.unwrap(), None, "half a census is none");
        assert_eq!(violations(&rig).await, [0, 0, 0, 0]);
        broken += 1;
    }
    // Six states of two pools with two shards, and the claim; the shards of identities, and the whole index once more.
    assert_eq!(broken, 6 * 2 * 2 + 1 + usize::from(IDENTITY_SHARDS) + 6 * 2 * 2);
}

#[test]
fn only_the_largest_labs_are_listed() {
    let labs = |of_pool: &[(&str, u64)]| -> BTreeMap<String, u64> {
        of_pool.iter().map(|(lab, held)| ((*lab).to_owned(), *held)).collect()
    };
    let all = || -> BTreeMap<String, BTreeMap<String, u64>> {
        [
            ("dns".to_owned(), labs(&[("a", 5), ("b", 1), ("c", 3)])),
            ("main".to_owned(), labs(&[("a", 3), ("d", 3), ("e", 2)])),
            ("other".to_owned(), labs(&[("f", 1)])),
        ]
        .into()
    };
    let mut kept = all();
    assert_eq!((leave_out_small_labs(&mut kept, 7), &kept), (0, &all()));
    assert_eq!(leave_out_small_labs(&mut kept, 3), 1 + 3 + 2 + 1);
    assert_eq!(kept["dns"], labs(&[("a", 5), ("c", 3)]));
    assert_eq!(kept["main"], labs(&[("a", 3)]));
    assert_eq!(kept.len(), 2);
}

#[tokio::test]
async fn lease_without_a_claim_is_reported_until_it_ends() {
    let rig = Rig::new();
    let seen = rig.add(1, "main").await;
    // The first of the two writes is left out.
    let held = rig.grant(ClaimRecord::new(claim_key(1), seen.candidate()), None).await;
    for _ in 0..3 {
        assert_eq!(violations(&rig).await, [1, 0, 0, 0]);
    }
    assert_eq!(rig.sandbox(1).await, held, "a human has to look at it");
    assert_eq!(rig.store.find_claim(&claim_key(1)).await.unwrap(), None);
    done(rig.store.release(&held.id, &owner(1), None, None, NOW).await.unwrap());
    assert_eq!(violations(&rig).await, [0, 0, 0, 0]);
}

#[tokio::test]
async fn claim_with_another_sandbox_or_version_is_reported() {
    let rig = Rig::new();
    let (one, two) = (rig.add(1, "main").await, rig.add(2, "main").await);
    let record = ClaimRecord::new(claim_key(1), one.candidate());
    rig.claim(&one, claim_key(1), None).await;
    assert_eq!(violations(&rig).await, [0, 0, 0, 0]);
    // Moved away from a live lease, which the protocol never does.
    let elsewhere = record.moved_to(two.candidate(), []);
    rig.store.move_claim(&record, &elsewhere, NOW.after(HOUR)).await.unwrap();
    assert_eq!(violations(&rig).await, [0, 0, 0, 0], "it was in order an hour ago at most");
    rig.clock.advance(HOUR);
    assert_eq!(violations(&rig).await, [0, 1, 0, 0]);
    let mut older = one.candidate();
    older.version = older.version.next();
    let wrong = elsewhere.moved_to(older, []);
    rig.store.move_claim(&elsewhere, &wrong, NOW.after(HOUR)).await.unwrap();
    assert_eq!(violations(&rig).await, [0, 1, 0, 0], "the right sandbox at another version");
    rig.store.move_claim(&wrong, &record, NOW.after(HOUR)).await.unwrap();
    assert_eq!(violations(&rig).await, [0, 0, 0, 0], "mended by hand");
    // Closed under a live lease, which the protocol never does either.
    rig.store.close_claim(&record, NOW.after(HOUR)).await.unwrap();
    rig.clock.advance(HOUR);
    assert_eq!(violations(&rig).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn key_with_two_sandboxes_is_reported_and_unchanged() {
    let rig = Rig::new();
    let (one, two) = (rig.add(1, "main").await, rig.add(2, "dns").await);
    rig.claim(&one, claim_key(1), None).await;
    rig.grant(ClaimRecord::new(claim_key(1), two.candidate()), None).await;
    // The same owner with another key is another claim.
    let three = rig.add(3, "main").await;
    let other = ClaimKey { key: domain::IdempotencyKey::parse("other").unwrap(), ..claim_key(1) };
    rig.claim(&three, other, None).await;
    let before = [rig.sandbox(1).await, rig.sandbox(2).await, rig.sandbox(3).await];
    assert_eq!(violations(&rig).await, [0, 1, 1, 0], "two leases, one of which has no claim");
    assert_eq!([rig.sandbox(1).await, rig.sandbox(2).await, rig.sandbox(3).await], before);
    done(rig.store.release(&id(2), &owner(1), None, None, NOW).await.unwrap());
    assert_eq!(violations(&rig).await, [0, 0, 0, 0]);
}

#[tokio::test]
async fn open_claim_without_a_grant_is_no_violation() {
    let rig = Rig::new();
    let (free, held) = (rig.add(1, "main").await, rig.add(2, "main").await);
    // One names a free sandbox, the other lost the race for a sandbox that another owner now holds.
    for (number, seen) in [(7, &free), (8, &held)] {
        let record = ClaimRecord::new(claim_key(number), seen.candidate());
        rig.store.open_claim(&record, NOW.after(HOUR)).await.unwrap();
    }
    rig.claim(&held, claim_key(2), None).await;
    for _ in 0..3 {
        rig.clock.advance(HOUR);
        assert_eq!(violations(&rig).await, [0, 0, 0, 0]);
    }
    for number in [7, 8] {
        assert!(rig.store.find_claim(&claim_key(number)).await.unwrap().is_some(), "its owner goes on there");
    }
}

#[tokio::test]
async fn only_claims_of_ended_leases_are_closed() {
    let rig = Rig::new();
    for number in 1..=3 {
        let seen = rig.add(number, "main").await;
        rig.claim(&seen, claim_key(number), None).await;
        // Released by a process that crashed before it closed the claim.
        done(rig.store.release(&id(number), &owner(number), None, None, NOW).await.unwrap());
    }
    done(rig.store.park_deletion(&id(2), rig.sandbox(2).await.epoch, NOW).await.unwrap());
    // The third owner has another sandbox now.
    let next = rig.add(4, "main").await;
    let from = rig.store.find_claim(&claim_key(3)).await.unwrap().unwrap();
    let record = from.moved_to(next.candidate(), []);
    rig.store.move_claim(&from, &record, NOW.after(HOUR)).await.unwrap();
    rig.grant(record.clone(), None).await;
    assert_eq!(run(&rig).await.claims_removed, 0, "the process that released it may be about to");
    rig.clock.advance(std::time::Duration::from_secs(31));
    let report = run(&rig).await;
    assert_eq!((report.claims_removed, report.checked), (2, 3));
    assert_eq!(rig.metric("broker_reconciled_total", &["census", "claims_removed"]), 2);
    for number in [1, 2] {
        let found = rig.store.find_claim(&claim_key(number)).await.unwrap();
        assert_eq!(found, rig.sandbox(number).await.last_claim());
        assert!(found.unwrap().is_closed);
    }
    assert_eq!(run(&rig).await.claims_removed, 0, "once is enough");
    assert_eq!(rig.store.find_claim(&claim_key(3)).await.unwrap(), Some(record));
    assert_eq!(violations(&rig).await, [0, 0, 0, 0]);
}

#[tokio::test]
async fn concurrent_change_is_no_violation() {
    // The census has counted and is about to read the claim, or to read the sandbox again; at that moment the lease
    // ends, its claim is closed, and the key gets another sandbox.
    const PAGES_AND_COUNTS: usize = 6 * 2 * 2;
    for (call, name) in [(PAGES_AND_COUNTS, "find_claim"), (PAGES_AND_COUNTS + 1, "sandbox")] {
        let rig = Rig::with(|store| store.with(call, Fault::PauseBefore));
        let (one, two) = (rig.add(1, "main").await, rig.add(2, "main").await);
        let record = ClaimRecord::new(claim_key(1), one.candidate());
        let held = rig.grant(record.clone(), None).await;
        if name == "find_claim" {
            rig.store.open_claim(&record, NOW.after(HOUR)).await.unwrap();
        }
        let running = tokio::spawn({
            let reconciler = Arc::clone(&rig.reconciler);
            async move { reconciler.take_census().await }
        });
        rig.faulty.paused().await;
        assert_eq!(rig.faulty.calls().last(), Some(&name));
        done(rig.store.release(&held.id, &owner(1), None, None, rig.clock.now()).await.unwrap());
        rig.store.close_claim(&record, NOW.after(HOUR)).await.unwrap();
        let next = ClaimRecord::new(claim_key(1), two.candidate());
        if let Some(closed) = rig.store.find_claim(&claim_key(1)).await.unwrap() {
            rig.store.move_claim(&closed, &next, NOW.after(HOUR)).await.unwrap();
            rig.grant(next, None).await;
        } else {
            rig.claim(&two, claim_key(1), None).await;
        }
        rig.faulty.resume();
        let report = running.await.unwrap();
        assert_eq!((report.status, report.raced), (RunStatus::Completed, 1), "{name}");
        assert!(report.census.violations.values().all(|count| *count == 0), "{name}: {report:?}");
        assert_eq!(violations(&rig).await, [0, 0, 0, 0], "{name}");
    }
}

#[tokio::test]
async fn key_that_moves_between_reads_is_no_violation() {
    // The index shows two leases of a key: the old one and the new one. The old one ends during each of the reads.
    const PAGES_AND_COUNTS: usize = 6 * 2 * 2;
    let mut paused = 0;
    for read in 0..8 {
        let rig = Rig::with(|store| store.with(PAGES_AND_COUNTS + read, Fault::PauseBefore));
        let (one, two) = (rig.add(1, "main").await, rig.add(2, "main").await);
        rig.claim(&one, claim_key(1), None).await;
        // Two at the same time, written directly as above; a moment later one of them has ended.
        rig.grant(ClaimRecord::new(claim_key(1), two.candidate()), None).await;
        let running = tokio::spawn({
            let reconciler = Arc::clone(&rig.reconciler);
            async move { reconciler.take_census().await }
        });
        rig.faulty.paused().await;
        let calls = rig.faulty.calls();
        let proofs = calls.iter().skip(PAGES_AND_COUNTS + 3).filter(|call| **call == "sandbox").count();
        done(rig.store.release(&id(1), &owner(1), None, None, rig.clock.now()).await.unwrap());
        rig.faulty.resume();
        let report = running.await.unwrap();
        // Proved only after both rounds.
        let held_twice = report.census.violations[&Violation::HeldTwice.into()];
        assert!(held_twice == 0 || proofs == 4, "{held_twice} after {calls:?}");
        paused += 1;
        if proofs == 4 {
            break;
        }
    }
    assert!(paused >= 4, "only {paused} reads were tried");
}
