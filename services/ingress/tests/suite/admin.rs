//! The routes for operators.

use crate::support::{ADMIN, Answer, EPOCH_MS, Rig, Step, TICK, request};
use axum::body::Body;
use axum::http::StatusCode;
use contract::{
    CensusReport, DeletionsState, ExpiryReport, FaultCode, Report, RunReport, RunStatus, StaleReport,
    SweepReport, SyncReport, TickOrder, Verb,
};
use ports::bus::DeletionControl as _;
use ports::clock::Clock as _;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const QUEUE_DOWN: &str = "the message queue is unavailable; try again shortly";

fn rig() -> Rig {
    Rig::new([Step::Say(None, "{}")])
}

fn sync_report(status: RunStatus, reason: Option<&str>) -> RunReport {
    let report = SyncReport {
        status,
        reason: reason.map(str::to_owned),
        forced_by: None,
        listed: 9,
        synced: 8,
        inserted: 1,
        restored: 2,
        refreshed: 3,
        unchanged: 2,
        marked_stale: 4,
        allocated_missing: 5,
        tombstoned: 6,
        skipped: 1,
        raced: 7,
        unreadable: 0,
        renewed: 10,
        identity_changed: 11,
        identity_taken: 12,
        relisted: 13,
        identities_dropped: 14,
        unclear: 15,
        withheld: 16,
        not_due: Vec::new(),
        providers: std::collections::BTreeMap::new(),
    };
    RunReport { tick: TICK, duration_ms: 1_234, report: Report::Sync(report) }
}

async fn run_with(path: &str, report: RunReport) -> Answer {
    let rig = rig();
    *rig.ticks.report.lock() = Some(report);
    rig.ask("POST", path, ADMIN).await
}

#[tokio::test(start_paused = true)]
async fn stats_are_passed_through_unchanged() {
    let stats = r#"{"total":2, "available":1,"allocated":1,"pools":{"main":{}}}"#;
    let rig = Rig::new([Step::Say(None, stats)]);
    let answer = rig.ask("GET", "/v1/admin/stats", ADMIN).await;
    assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::OK, stats.as_bytes()));
    let seen = rig.workers.only_seen();
    assert_eq!((seen.verb, seen.body.as_ref()), (Verb::Stats, b"{}".as_slice()));
    let rig = Rig::new([Step::Refuse(FaultCode::StoreUnavailable, "no table")]);
    rig.ask("GET", "/v1/admin/stats", ADMIN).await.assert_fault(FaultCode::StoreUnavailable, "no table");
}

#[tokio::test(start_paused = true)]
async fn finished_sync_returns_its_full_report() {
    let answer = run_with("/v1/admin/sync", sync_report(RunStatus::Completed, None)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({
            "kind": "sync", "tick": TICK, "duration_ms": 1_234, "status": "completed", "listed": 9, "synced": 8,
            "inserted": 1, "restored": 2, "refreshed": 3, "unchanged": 2, "marked_stale": 4,
            "allocated_missing": 5, "tombstoned": 6, "skipped": 1, "raced": 7, "unreadable": 0,
            "renewed": 10, "identity_changed": 11, "identity_taken": 12, "relisted": 13,
            "identities_dropped": 14, "unclear": 15, "withheld": 16,
        })
    );
}

#[tokio::test(start_paused = true)]
async fn refused_sync_is_a_200_with_its_reason() {
    let answer = run_with("/v1/admin/sync", sync_report(RunStatus::Refused, Some("would stale 80 %"))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["status"], "refused");
    assert_eq!(answer.json()["reason"], "would stale 80 %");
}

#[tokio::test(start_paused = true)]
async fn each_route_starts_its_kind_and_waits_for_the_report() {
    let expiry = ExpiryReport {
        status: RunStatus::Completed,
        due: 3,
        expired: 2,
        raced: 1,
        unannounced: 0,
        unreadable: 0,
    };
    let sweep = SweepReport {
        status: RunStatus::Completed,
        pending: 3,
        reannounced: 1,
        waiting: 2,
        ..SweepReport::default()
    };
    let status = RunStatus::Completed;
    let run = |report| RunReport { tick: TICK, duration_ms: 7, report };
    let census = Report::Census(CensusReport { status, checked: 4, ..CensusReport::default() });
    let stale =
        Report::Stale(StaleReport { status, due: 2, removed: 1, deleted: 1, ..StaleReport::default() });
    let cases = [
        ("/v1/admin/census", run(census)),
        ("/v1/admin/auto-delete-stale", run(stale.clone())),
        ("/v1/admin/auto-delete-stale?grace_period_hours=24", run(stale)),
        ("/v1/admin/sync", sync_report(RunStatus::Completed, None)),
        ("/v1/admin/expire", RunReport { tick: TICK, duration_ms: 5, report: Report::Expiry(expiry) }),
        ("/v1/admin/cleanup", RunReport { tick: TICK, duration_ms: 6, report: Report::Sweep(sweep) }),
    ];
    for (path, report) in cases {
        let rig = Rig::with(&[("ADMIN_WAIT_MS", "7000")], [Step::Hang]);
        *rig.ticks.report.lock() = Some(report.clone());
        let answer = rig.ask("POST", path, ADMIN).await;
        assert_eq!(answer.json(), serde_json::to_value(&report).unwrap());
        assert_eq!(*rig.ticks.asked.lock(), [(report.kind(), Duration::from_millis(6_950))]);
        assert!(rig.workers.seen().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn forced_sync_names_its_actor_and_never_joins_a_waiting_tick() {
    let by_alice = [("Authorization", "Bearer admin-token-1"), ("X-Operator", "alice")];
    let rig = rig();
    *rig.ticks.report.lock() = Some(sync_report(RunStatus::Completed, Some("forced although it is empty")));
    let answer = rig.ask("POST", "/v1/admin/sync?force=true", &by_alice).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (200, &json!("completed")));
    let until_ms = EPOCH_MS + 25_000;
    assert_eq!(*rig.ticks.ordered.lock(), [TickOrder::forced("admin/alice").until(until_ms)]);
    rig.ticks.is_full.store(true, Ordering::SeqCst);
    rig.ask("POST", "/v1/admin/sync?force=true", ADMIN)
        .await
        .assert_fault(FaultCode::Contended, "an ordinary run waits to begin; repeat the request after that");
    assert_eq!(rig.ticks.ordered.lock().last(), Some(&TickOrder::forced("admin").until(until_ms)));
    // An unforced request is an ordinary tick.
    rig.ask("POST", "/v1/admin/sync?force=false", ADMIN).await;
    assert_eq!(rig.ticks.ordered.lock().len(), 2);
    assert_eq!(rig.ask("POST", "/v1/admin/sync?force=yes", ADMIN).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn slow_run_is_accepted_and_can_be_polled() {
    let rig = rig();
    let answer = rig.ask("POST", "/v1/admin/sync", ADMIN).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body, r#"{"status":"accepted","report_id":"sync/42"}"#);
    let location = answer.header("location").unwrap().to_owned();
    assert_eq!(location, "/v1/admin/reports/sync/42");
    let answer = rig.ask("GET", &location, ADMIN).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (202, Some(location.as_str())));
    // A report of an earlier tick does not answer for this one.
    let report = |tick| RunReport { tick, ..sync_report(RunStatus::Completed, None) };
    *rig.ticks.report.lock() = Some(report(TICK - 1));
    assert_eq!(rig.ask("GET", &location, ADMIN).await.status, 202);
    for tick in [TICK, TICK + 1] {
        *rig.ticks.report.lock() = Some(report(tick));
        let answer = rig.ask("GET", &location, ADMIN).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["tick"]), (200, &json!(tick)));
    }
    // A report of another kind does not either.
    assert_eq!(rig.ask("GET", "/v1/admin/reports/sweep/42", ADMIN).await.status, 202);
}

#[tokio::test(start_paused = true)]
async fn report_of_a_nonexistent_tick_is_not_found() {
    let rig = rig();
    let of = |tick: u64| format!("/v1/admin/reports/sync/{tick}");
    let answer = rig.ask("GET", &of(TICK + 1), ADMIN).await;
    answer.assert_fault(FaultCode::NotFound, "there was no tick 43 yet");
    for tick in [0, TICK] {
        assert_eq!(rig.ask("GET", &of(tick), ADMIN).await.status, 202, "{tick}");
    }
    // If the last tick is unknown, the report may still come.
    rig.ticks.hangs.store(true, Ordering::SeqCst);
    assert_eq!(rig.ask("GET", &of(TICK + 1), ADMIN).await.status, 202);
    rig.ticks.forgets.store(true, Ordering::SeqCst);
    assert_eq!(rig.ask("GET", &of(TICK + 1), ADMIN).await.status, 202);
}

#[tokio::test(start_paused = true)]
async fn failed_run_returns_a_redacted_reason() {
    let reason = "the listing failed\n\tat https://csp.example/v2?token=s3cret";
    let message = "the sync run for tick 42 failed: the listing failed at (address withheld)";
    let answer = run_with("/v1/admin/sync", sync_report(RunStatus::Failed, Some(reason))).await;
    answer.assert_fault(FaultCode::UpstreamUnavailable, message);
    let rig = rig();
    *rig.ticks.report.lock() = Some(sync_report(RunStatus::Failed, Some(reason)));
    let answer = rig.ask("GET", "/v1/admin/reports/sync/1", ADMIN).await;
    answer.assert_fault(FaultCode::UpstreamUnavailable, message);
    let report = Report::Expiry(ExpiryReport { status: RunStatus::Failed, ..ExpiryReport::default() });
    let run = RunReport { tick: 3, duration_ms: 1, report };
    let answer = run_with("/v1/admin/expire", run).await;
    answer.assert_fault(FaultCode::UpstreamUnavailable, "the expiry run for tick 3 failed");
}

#[tokio::test(start_paused = true)]
async fn other_grace_period_is_an_order_for_one_run() {
    let rig = Rig::with(&[("STALE_KEPT_HOURS", "48")], [Step::Hang]);
    let path = |hours: &str| format!("/v1/admin/auto-delete-stale?grace_period_hours={hours}");
    for (hours, message) in [
        ("x", "grace_period_hours must be a whole number"),
        ("-48", "grace_period_hours must be a whole number"),
        ("", "grace_period_hours must be a whole number"),
        ("99999999999999999999", "grace_period_hours is too large"),
    ] {
        let refused = rig.ask("POST", &path(hours), ADMIN).await;
        refused.assert_fault(FaultCode::InvalidRequest, message);
    }
    assert!(rig.ticks.asked.lock().is_empty(), "no run was started");
    assert_eq!(rig.ask("POST", &path("48"), ADMIN).await.status, 202);
    assert!(rig.ticks.ordered.lock().is_empty(), "the set one is no order");
    for hours in [0, 24, 72] {
        assert_eq!(rig.ask("POST", &path(&hours.to_string()), ADMIN).await.status, 202, "{hours}");
        let order = TickOrder::with_grace(hours, "admin").until(EPOCH_MS + 25_000);
        assert_eq!(rig.ticks.ordered.lock().last(), Some(&order));
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_report_id_is_rejected() {
    let rig = rig();
    let kinds = "there are reports of sync, expiry, sweep, census, stale, fill, nodes, and of nothing else";
    for kind in ["console", "Sync", "expire"] {
        let answer = rig.ask("GET", &format!("/v1/admin/reports/{kind}/1"), ADMIN).await;
        answer.assert_fault(FaultCode::NotFound, kinds);
    }
    for tick in ["x", "-1", "1.5", "99999999999999999999"] {
        let answer = rig.ask("GET", &format!("/v1/admin/reports/sync/{tick}"), ADMIN).await;
        answer.assert_fault(FaultCode::InvalidRequest, "the tick in the path must be a whole number");
    }
    let answer = rig.ask("GET", "/v1/admin/reports/%FF/1", ADMIN).await;
    answer.assert_fault(FaultCode::InvalidRequest, "the report id in the path is not text");
}

#[tokio::test(start_paused = true)]
async fn nats_outage_is_reported_without_its_address() {
    let rig = rig();
    rig.ticks.is_broken.store(true, Ordering::SeqCst);
    for (method, path) in [("POST", "/v1/admin/sync"), ("GET", "/v1/admin/reports/sync/1")] {
        rig.ask(method, path, ADMIN).await.assert_fault(FaultCode::UpstreamUnavailable, QUEUE_DOWN);
    }
}

#[tokio::test(start_paused = true)]
async fn admin_wait_is_bounded_when_nats_hangs() {
    for path in ["sync", "sync?force=true", "expire", "cleanup", "census", "auto-delete-stale"] {
        let rig = Rig::with(&[("ADMIN_WAIT_MS", "3000")], [Step::Hang]);
        rig.ticks.hangs.store(true, Ordering::SeqCst);
        let answer = rig.ask("POST", &format!("/v1/admin/{path}"), ADMIN).await;
        answer.assert_fault(FaultCode::UpstreamUnavailable, QUEUE_DOWN);
        assert_eq!(rig.clock.now_ms(), EPOCH_MS + 3_000, "{path}");
    }
}

#[tokio::test]
async fn callers_waiting_for_reports_are_bounded() {
    let rig = Arc::new(rig());
    rig.ticks.hangs.store(true, Ordering::SeqCst);
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..ingress::admin::ADMIN_WAITERS_MAX {
        let rig = Arc::clone(&rig);
        waiters.spawn(async move { rig.ask("POST", "/v1/admin/sync", ADMIN).await });
    }
    let all_wait = async {
        while rig.ticks.waiting.load(Ordering::SeqCst) < ingress::admin::ADMIN_WAITERS_MAX {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_wait).await.unwrap();
    let answer = rig.ask("POST", "/v1/admin/sync", ADMIN).await;
    answer.assert_fault(FaultCode::NoWorkers, "too many requests wait for reports");
    waiters.shutdown().await;
    rig.ticks.hangs.store(false, Ordering::SeqCst);
    assert_eq!(rig.ask("POST", "/v1/admin/sync", ADMIN).await.status, 202);
}

async fn pause_with(rig: &Rig, body: &str) -> Answer {
    let mut request = request("POST", "/v1/admin/deletions/pause", ADMIN);
    *request.body_mut() = Body::from(body.to_owned());
    rig.send(request).await
}

#[tokio::test(start_paused = true)]
async fn deletions_are_paused_and_resumed() {
    let rig = rig();
    let now = EPOCH_MS / 1_000;
    let answer = pause_with(&rig, r#"{"until_seconds":60,"reason":"maintenance","by":"me"}"#).await;
    let pause = json!({"by": "admin/me", "since": now, "until": now + 60, "reason": "maintenance"});
    assert_eq!(
        (answer.status, answer.json()),
        (StatusCode::OK, json!({"status": "paused", "paused": pause}))
    );
    let answer = pause_with(&rig, &format!(r#"{{"until":{}}}"#, now + 5)).await;
    assert_eq!(answer.json()["paused"]["until"], now + 5, "a pause replaces the one before");
    let answer = rig.ask("POST", "/v1/admin/deletions/pause", ADMIN).await;
    let pause = json!({"by": "admin", "since": now, "until": null, "reason": null});
    assert_eq!(answer.json(), json!({"status": "paused", "paused": pause}));
    assert_eq!(rig.bus.status().await.unwrap().state, DeletionsState::Paused.into());
    let answer = rig.ask("POST", "/v1/admin/deletions/resume", ADMIN).await;
    assert_eq!(
        (answer.status, answer.json()),
        (StatusCode::OK, json!({"status": "running", "was_paused": pause}))
    );
    let answer = rig.ask("POST", "/v1/admin/deletions/resume", ADMIN).await;
    assert_eq!(answer.json(), json!({"status": "running", "was_paused": null}), "a repeat is no mistake");
    assert_eq!(rig.bus.status().await.unwrap().state, DeletionsState::Running.into());
}

#[tokio::test(start_paused = true)]
async fn invalid_pause_is_rejected() {
    let rig = rig();
    let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(201));
    for body in [
        "nonsense",
        r#"{"until_second":60}"#,
        "[]",
        r#"{"until_seconds":0}"#,
        r#"{"until_seconds":2592001}"#,
        r#"{"until_seconds":-1}"#,
        r#"{"until":5}"#,
        r#"{"until":9999999999,"until_seconds":5}"#,
        r#"{"reason":"two\nlines"}"#,
        &long,
    ] {
        let answer = pause_with(&rig, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {answer:?}");
    }
    assert_eq!(rig.bus.status().await.unwrap().paused, None);
}

#[tokio::test(start_paused = true)]
async fn nats_outage_is_reported_for_pause_and_resume() {
    let rig = rig();
    rig.bus.set_connected(false);
    for path in ["/v1/admin/deletions/pause", "/v1/admin/deletions/resume"] {
        rig.ask("POST", path, ADMIN).await.assert_fault(FaultCode::UpstreamUnavailable, QUEUE_DOWN);
    }
}
