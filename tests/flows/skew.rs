//! A fleet with a wrong clock: it reports that, and ends and grants no lease until the clock is right.

use contract::{Report, TickKind, Verb, headers};
use domain::StateName;
use harness::rig::{Plan, Rig};
use harness::servers;
use harness::wait::{TIMEOUT, eventually};
use ports::bus::Ticks as _;
use ports::clock::{Clock as _, SystemClock};
use reqwest::Method;
use std::time::Duration;

/// More than any lease plus its grace period.
const AHEAD: Duration = Duration::from_secs(48 * 3_600);

/// Waits for that readiness status, and returns its text about the clock.
async fn until_ready_is(rig: &Rig, status: u16) -> String {
    eventually("the readiness", TIMEOUT, || async {
        let ready = rig.api.open(Method::GET, "/readyz").await;
        let clock = ready.body["checks"]["clock"].as_str().unwrap_or_default().to_owned();
        if ready.status == status { Ok(clock) } else { Err(ready) }
    })
    .await
}

#[tokio::test]
async fn skewed_fleet_is_not_ready_and_neither_grants_nor_expires() {
    let rig = Plan::new(3).set("CLOCK_SKEW_MAX_SECONDS", 10).set("REQUEST_DEADLINE_MS", 4_000).start().await;
    assert_eq!(until_ready_is(&rig, 200).await, "ok");
    let held = rig.api.allocate("student-1").await;
    assert_eq!(held.status, 201);
    rig.clock.advance(AHEAD);
    let problem = until_ready_is(&rig, 503).await;
    assert!(problem.contains("172800 s ahead of the clock of NATS"), "{problem}");
    eventually("the metric", TIMEOUT, || async {
        let seconds = rig.metric("broker_clock_skew_seconds");
        if (seconds - AHEAD.as_secs_f64()).abs() < 1.0 { Ok(()) } else { Err(seconds) }
    })
    .await;
    let refused = rig.api.allocate("student-2").await;
    assert_eq!((refused.status, refused.code()), (503, "NO_WORKERS"));
    let tick = rig.bus.tick(TickKind::EXPIRY, None).await.unwrap();
    rig.clock.set_right();
    assert_eq!(until_ready_is(&rig, 200).await, "ok");
    let report = eventually("the run", TIMEOUT, || async {
        match rig.bus.last_report(TickKind::EXPIRY).await {
            Ok(Some(report)) if report.tick >= tick.sequence => Ok(report),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let Report::Expiry(report) = report.report else { panic!("{report:?}") };
    assert_eq!(report.expired, 0, "the run waited until the clock was right");
    let sandbox = rig.sandbox(held.sandbox()).await.unwrap();
    assert_eq!(sandbox.state.name(), StateName::Allocated);
    assert_eq!(rig.api.allocate("student-2").await.status, 201);
    rig.stop().await;
}

#[tokio::test]
async fn dropped_requests_are_counted_by_reason() {
    let rig = Plan::new(1).set("CLOCK_SKEW_MAX_SECONDS", 10).start().await;
    until_ready_is(&rig, 200).await;
    let client = servers::nats_client(&rig.env["NATS_URL"]).await;
    let subject = rig.bus.subjects().request(Verb::Get);
    let now_ms = SystemClock.now_ms();
    for (remaining_ms, sent_at_ms) in [(4_000, now_ms - 60_000), (0, now_ms + 60_000)] {
        let mut map = async_nats::HeaderMap::new();
        map.insert(headers::REMAINING_MS, remaining_ms.to_string());
        map.insert(headers::SENT_AT_MS, sent_at_ms.to_string());
        let inbox = client.new_inbox();
        client.publish_with_reply_and_headers(subject.clone(), inbox, map, "{}".into()).await.unwrap();
    }
    for why in ["late", "expired"] {
        eventually(why, TIMEOUT, || async {
            let families = rig.registry.gather();
            let family =
                families.iter().find(|family| family.name() == "broker_allocator_requests_dropped_total");
            let series = family.into_iter().flat_map(|family| family.get_metric()).find(|series| {
                series.get_label().iter().any(|label| label.name() == "reason" && label.value() == why)
            });
            match series.map(|series| series.get_counter().get_value()) {
                Some(1.0) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }
    rig.stop().await;
}
