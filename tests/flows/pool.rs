//! The pool follows the provider's listing, and survives wrong listings.

use domain::{NamePrefix, StateName};
use harness::rig::{Plan, Rig};
use simulator::{BrokenEntry, Fault, FaultKind, Latency, Operation};

#[tokio::test]
async fn a_second_sync_changes_nothing() {
    let rig = Plan::new(230).start().await;
    let report = rig.sync().await;
    assert_eq!((report.status.as_str(), report.listed, report.unchanged), ("completed", 230, 230));
    assert_eq!(
        (report.inserted, report.restored, report.refreshed, report.marked_stale, report.raced),
        (0, 0, 0, 0, 0)
    );
    rig.stop().await;
}

#[tokio::test]
async fn new_accounts_join_the_pool() {
    let rig = Plan::new(3).start().await;
    rig.csp.add_accounts(4, NamePrefix::parse("late-").ok().as_ref()).unwrap();
    assert_eq!(rig.sync().await.inserted, 4);
    let claim = rig.api.allocate_with("student-1", &[("X-Sandbox-Name-Prefix", "late-")]).await;
    assert_eq!(claim.status, 201, "{claim:?}");
    rig.stop().await;
}

#[tokio::test]
async fn claims_during_a_sync_survive() {
    let rig = Plan::new(20).start().await;
    // The sync reads the index before these claims and writes after them.
    rig.csp.slow_down(Operation::List, Latency::Fixed(300)).unwrap();
    let (report, claims) = tokio::join!(rig.sync(), async {
        let mut claims = Vec::new();
        for number in 0..20 {
            claims.push(rig.api.allocate(&format!("student-{number}")).await);
        }
        claims
    });
    assert_eq!(report.status.as_str(), "completed");
    for (number, claim) in claims.iter().enumerate() {
        assert_eq!(claim.status, 201);
        let now = rig.sandbox(claim.sandbox()).await.unwrap();
        assert_eq!(now.lease().unwrap().claim.owner.as_str(), format!("student-{number}"));
        assert_eq!(now.epoch.get(), 1);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_missing_account_goes_stale_and_comes_back() {
    let rig = Plan::new(12).set("CSP_PAGE_SIZE", 10).set("SYNC_STALE_PERCENT_MAX", 100).start().await;
    rig.csp.fail(Operation::List, Fault::always(FaultKind::ShortList { pages: 1 })).unwrap();
    let report = rig.sync().await;
    let hidden = 12 - report.listed;
    assert!(hidden > 0, "{report:?}");
    assert_eq!((report.status.as_str(), report.marked_stale), ("completed", hidden), "{report:?}");
    assert_eq!(rig.count(StateName::Stale).await as u64, hidden);
    assert_eq!(rig.count(StateName::Available).await as u64, report.listed);
    rig.csp.clear_faults();
    let report = rig.sync().await;
    assert_eq!((report.restored, report.marked_stale), (hidden, 0));
    assert_eq!(rig.count(StateName::Available).await, 12);
    rig.stop().await;
}

#[tokio::test]
async fn single_short_listing_marks_nothing_stale() {
    let rig = Plan::new(12).set("CSP_PAGE_SIZE", 10).set("SYNC_STALE_PERCENT_MAX", 100).start().await;
    rig.csp.fail(Operation::List, Fault::next(1, FaultKind::ShortList { pages: 1 })).unwrap();
    let report = rig.sync().await;
    assert_eq!((report.status.as_str(), report.marked_stale), ("completed", 0), "{report:?}");
    rig.stop().await;
}

#[tokio::test]
async fn vanished_allocated_account_is_reported_and_unchanged() {
    let rig = Plan::new(12).start().await;
    let claim = rig.api.allocate("student-1").await;
    rig.delete_at_csp(claim.sandbox()).await;
    let report = rig.sync().await;
    assert_eq!((report.allocated_missing, report.marked_stale), (1, 0));
    assert_eq!(rig.count(StateName::Allocated).await, 1);
    rig.stop().await;
}

/// Makes the provider fail in this way, and checks the sync's status and that the pool is unchanged.
async fn nothing_is_lost(rig: &Rig, what: &str, kind: FaultKind, expected: &str) {
    rig.csp.fail(Operation::List, Fault::always(kind)).unwrap();
    let report = rig.sync().await;
    assert_eq!(report.status.as_str(), expected, "{what}: {report:?}");
    assert!(report.reason.is_some(), "{what}: {report:?}");
    assert_eq!((report.marked_stale, report.inserted, report.refreshed), (0, 0, 0), "{what}");
    assert_eq!(rig.count(StateName::Available).await, 25, "{what}");
    rig.csp.clear_faults();
}

#[tokio::test]
async fn faulty_provider_marks_nothing_stale() {
    let rig = Plan::new(25).set("CSP_PAGE_SIZE", 10).set("CSP_READ_TIMEOUT_SECONDS", 1).start().await;
    nothing_is_lost(&rig, "an empty list", FaultKind::EmptyList, "refused").await;
    nothing_is_lost(&rig, "a list cut after a page", FaultKind::ShortList { pages: 1 }, "refused").await;
    nothing_is_lost(&rig, "garbage", FaultKind::Garbage, "failed").await;
    nothing_is_lost(&rig, "401", FaultKind::status(401), "failed").await;
    nothing_is_lost(&rig, "429", FaultKind::status(429), "failed").await;
    nothing_is_lost(&rig, "500", FaultKind::status(500), "failed").await;
    nothing_is_lost(&rig, "a hang", FaultKind::Hang, "failed").await;
    nothing_is_lost(&rig, "a cut connection", FaultKind::Reset, "failed").await;
    // An operator reads the same report over HTTP.
    rig.csp.fail(Operation::List, Fault::always(FaultKind::EmptyList)).unwrap();
    let answer = rig.api.admin(reqwest::Method::POST, "/v1/admin/sync").await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &serde_json::json!("refused")), "{answer:?}");
    rig.csp.clear_faults();
    let answer = rig.api.admin(reqwest::Method::POST, "/v1/admin/sync").await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &serde_json::json!("completed")), "{answer:?}");
    assert_eq!(answer.body["synced"], 25);
    assert!(answer.body["duration_ms"].is_u64());
    rig.stop().await;
}

#[tokio::test]
async fn bad_entries_are_counted_and_mark_nothing_stale() {
    let rig = Plan::new(25).start().await;
    for broken in [BrokenEntry::NoId, BrokenEntry::DuplicateCspId, BrokenEntry::NameWithLineBreak] {
        rig.csp.fail(Operation::List, Fault::always(FaultKind::MalformedEntry(broken))).unwrap();
        let report = rig.sync().await;
        assert_eq!(report.status.as_str(), "completed", "{broken:?}: {report:?}");
        assert!(report.skipped > 0, "{broken:?}: {report:?}");
        assert_eq!(report.marked_stale, 0, "{broken:?}: {report:?}");
        rig.csp.clear_faults();
    }
    assert_eq!(rig.sync().await.unchanged, 25);
    rig.stop().await;
}
