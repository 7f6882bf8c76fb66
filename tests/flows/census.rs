//! The census on a whole fleet: its counts, how the stats use them, and that it raises no false alarms.

use contract::Violation;
use domain::StateName;
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::CensusStore as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strum::IntoEnumIterator as _;

const HOUR: Duration = Duration::from_secs(3_600);

fn all_well() -> Value {
    Violation::iter().map(|kind| (kind.as_str(), json!(0))).collect()
}

/// Claims for the owner with that number, in a lab.
async fn claim(rig: &Rig, number: usize, lab: &str) -> String {
    let claim = rig.api.allocate_with(&format!("student-{number}"), &[("X-Instruqt-Track-ID", lab)]).await;
    assert_eq!(claim.status, 201, "{claim:?}");
    claim.sandbox().to_owned()
}

#[tokio::test]
async fn stats_come_from_a_recent_census() {
    let rig = Plan::new(20).set("STATS_CENSUS_AGE_SECONDS_MAX", 600).start_unsynced().await;
    rig.sync().await;
    for number in 0..5 {
        claim(&rig, number, if number < 3 { "dns-basics" } else { "routing" }).await;
    }
    let report = rig.census().await;
    let census = report.census.clone();
    assert_eq!((census.all.total, census.all.available, census.all.allocated), (20, 15, 5));
    let labs = json!({"main": {"dns-basics": 3, "routing": 2}});
    assert_eq!(json!(census.labs), labs);
    assert_eq!(json!(census.violations), all_well());
    assert_eq!((report.checked, report.unchecked, report.raced), (5, 0, 0));
    // Later changes are not in it, and the answer states its age.
    claim(&rig, 6, "routing").await;
    let stats = rig.api.stats().await;
    assert_eq!((&stats["available"], &stats["allocated"], &stats["labs"]), (&json!(15), &json!(5), &labs));
    assert_eq!(stats["counted"]["by"], "census");
    assert_eq!(stats["counted"]["at"], census.taken_at);
    assert!(stats["counted"]["age_seconds"].as_u64().unwrap() < 600);
    // The census is too old, so the index is counted.
    rig.clock.advance(Duration::from_secs(601));
    let stats = rig.api.stats().await;
    assert_eq!(
        (&stats["available"], &stats["allocated"], &stats["labs"]),
        (&json!(14), &json!(6), &json!(null))
    );
    assert_eq!((&stats["counted"]["by"], &stats["counted"]["age_seconds"]), (&json!("index"), &json!(0)));
    // Requested by an operator over HTTP.
    let taken = rig.api.admin(Method::POST, "/v1/admin/census").await;
    assert_eq!(
        (taken.status, &taken.body["status"], &taken.body["allocated"]),
        (200, &json!("completed"), &json!(6))
    );
    assert_eq!(rig.api.stats().await["counted"]["by"], "census");
    rig.stop().await;
}

#[tokio::test]
async fn concurrent_claims_and_releases_are_no_violation() {
    const OWNERS: usize = 24;
    const ROUNDS: usize = 8;
    // With `SWEEP_AFTER_SECONDS` zero, the census removes the claim item of a lease as soon as the lease ends.
    let rig = Arc::new(Plan::new(400).set("SWEEP_AFTER_SECONDS", 0).start().await);
    rig.pause_deletions().await;
    let is_over = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn({
        let (rig, is_over) = (Arc::clone(&rig), Arc::clone(&is_over));
        async move {
            let mut censuses = 0;
            while !is_over.load(Ordering::SeqCst) {
                let report = rig.census().await;
                assert_eq!(report.status.as_str(), "completed");
                assert_eq!(json!(report.census.violations), all_well(), "{report:?}");
                censuses += 1;
            }
            censuses
        }
    });
    let crowd: Vec<_> = (0..OWNERS)
        .map(|number| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move {
                let owner = format!("student-{number}");
                for round in 0..ROUNDS {
                    let sandbox = claim(&rig, number, "crowd").await;
                    let again = rig.api.allocate(&owner).await;
                    assert_eq!((again.status, again.sandbox()), (200, sandbox.as_str()));
                    if round + 1 < ROUNDS {
                        assert_eq!(rig.api.release(&sandbox, &owner).await.status, 200);
                    }
                }
            })
        })
        .collect();
    for owner in crowd {
        owner.await.unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    assert!(watching.await.unwrap() > 1, "more than one census saw the crowd");
    // No more changes: the counts are exact, and every remaining claim item belongs to a lease.
    let report = eventually("the releases to be tidied up", TIMEOUT, || async {
        let report = rig.census().await;
        if report.claims_removed == 0 && report.checked == 0 { Ok(report) } else { Err(report) }
    })
    .await;
    let released = (OWNERS * (ROUNDS - 1)) as u64;
    let all = report.census.all;
    assert_eq!((all.allocated, all.pending_deletion), (OWNERS as u64, released));
    assert_eq!((all.total, all.available), (400, 400 - released - OWNERS as u64));
    assert_eq!(json!(report.census.labs), json!({"main": {"crowd": OWNERS}}));
    assert_eq!(json!(report.census.violations), all_well());
    assert_eq!(rig.bus.last_census().await.unwrap().unwrap(), report.census);
    Arc::into_inner(rig).expect("it has no other owner").stop().await;
}

#[tokio::test]
async fn sandbox_unlisted_for_long_becomes_a_tombstone() {
    let rig = Plan::new(10).set("SYNC_STALE_PERCENT_MAX", 100).start().await;
    let claimed = claim(&rig, 1, "routing").await;
    let gone = eventually("a free sandbox", TIMEOUT, || async {
        for number in 2_000_000..2_000_010 {
            let id = number.to_string();
            if id != claimed && rig.sandbox(&id).await.is_some() {
                return Ok(id);
            }
        }
        Err("none")
    })
    .await;
    rig.delete_at_csp(&gone).await;
    assert_eq!(rig.sync().await.marked_stale, 1);
    rig.clock.advance(23 * HOUR);
    assert_eq!(rig.remove_stale().await.due, 0);
    let path = |hours: u64| format!("/v1/admin/auto-delete-stale?grace_period_hours={hours}");
    let kept = rig.api.admin(Method::POST, &path(48)).await;
    assert_eq!((kept.status, &kept.body["deleted"]), (200, &json!(0)), "{kept:?}");
    assert_eq!(kept.body["grace_period_hours"], 48);
    // Less than a day, because the caller says so.
    let answer = rig.api.admin(Method::POST, &path(12)).await;
    assert_eq!((answer.status, &answer.body["removed"]), (200, &json!(1)), "{answer:?}");
    assert_eq!((&answer.body["deleted"], &answer.body["grace_period_hours"]), (&json!(1), &json!(12)));
    assert_eq!(rig.sandbox(&gone).await.unwrap().state.name(), StateName::Deleted);
    // The next listing does not change that, and the sandbox does not count as part of the pool.
    assert_eq!(rig.sync().await.status.as_str(), "completed");
    let stats = rig.census().await.census.all;
    assert_eq!((stats.stale, stats.total), (0, 9));
    rig.stop().await;
}
