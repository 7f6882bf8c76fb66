//! The deletion queue, page by page.

use super::*;
use domain::{Preparation, Skip};
use ports::bus::{DeletionControl as _, DeletionQueue, Delivery, Verdict, Worker};
use std::collections::BTreeSet;
use tokio_util::sync::CancellationToken;

/// Postpones every deletion except that of its sandbox.
struct Keeper {
    kept: SandboxId,
}

#[async_trait::async_trait]
impl Worker for Keeper {
    async fn work(&self, delivery: Delivery) -> Verdict {
        if delivery.work.sandbox_id == self.kept.as_str() {
            std::future::pending::<()>().await;
        }
        Verdict::Retry { delay: 4 * HOUR }
    }
}

impl Rig {
    /// A sandbox to be deleted; announced if requested.
    async fn wanted(&self, number: usize, pool: &str, at: UnixSeconds, is_announced: bool) -> Sandbox {
        self.add(number, pool).await;
        let owner = format!("student-{number}");
        let claim = json!({"owner": owner, "pool": pool, "name_prefix": format!("lab-{number}")});
        self.ask(Verb::Allocate, claim).await.unwrap();
        let owner = OwnerId::parse(&owner).unwrap();
        self.store.release(&id(number), &owner, None, None, at).await.unwrap();
        let sandbox = self.sandbox(number).await;
        if is_announced {
            self.bus.announce(&DeletionWork::of(&sandbox).unwrap()).await.unwrap();
        }
        sandbox
    }

    async fn list(&self, body: Value) -> Value {
        self.ask(Verb::Deletions, body).await.unwrap()
    }
}

async fn under_way(rig: &Rig) -> u64 {
    let status = rig.bus.status().await.unwrap();
    status.pools.values().map(|pool| pool.under_way).sum()
}

fn entry(listed: &Value, number: usize) -> &Value {
    let entries = listed["deletions"].as_array().unwrap();
    let id = number.to_string();
    entries.iter().find(|entry| entry["sandbox_id"].as_str() == Some(&id)).expect("an entry")
}

#[tokio::test]
async fn each_deletion_is_listed_with_its_queue_state() {
    let rig = Rig::new();
    rig.wanted(1, "main", NOW, true).await;
    rig.wanted(2, "main", NOW.after(HOUR), true).await;
    let stop = CancellationToken::new();
    let consuming = tokio::spawn({
        let (bus, stop) = (rig.bus.clone(), stop.clone());
        async move { DeletionQueue::consume(&bus, Arc::new(Keeper { kept: id(2) }), 8, stop).await }
    });
    while rig.bus.retries_scheduled() == 0 || under_way(&rig).await != 1 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    let tried = Preparation::Done { count: 2 };
    rig.store.note_attempt(&id(1), Epoch::new(1), 0, "status 500", Some(&tried)).await.unwrap();
    rig.wanted(3, "main", NOW.after(HOUR), true).await;
    rig.wanted(4, "dns", NOW.after(HOUR), false).await;
    rig.parked(5, "main", "no licence").await;
    rig.clock.advance(2 * HOUR);
    let listed = rig.list(json!({})).await;
    let place = |number| entry(&listed, number)["place"].clone();
    let places = [1, 2, 3, 4, 5].map(place);
    assert_eq!(places, ["retrying", "running", "waiting", "unannounced", "parked"]);
    let retrying = json!({
        "sandbox_id": "1", "name": "lab-1", "pool": "main", "status": "pending_deletion", "place": "retrying",
        "requested_at": NOW.get(), "age_seconds": 7_200, "attempts": 1, "last_error": "status 500",
        "retry_at": NOW.after(4 * HOUR).get(),
        "pre_clean": {
            "result": "cleaned", "services": 2, "reason": null, "went_on": false, "summary": "cleaned 2",
        },
    });
    assert_eq!(entry(&listed, 1), &retrying);
    let parked = entry(&listed, 5);
    assert_eq!((&parked["status"], &parked["last_error"]), (&json!("deletion_failed"), &json!("no licence")));
    assert_eq!((&parked["retry_at"], &parked["pre_clean"]), (&Value::Null, &Value::Null));
    let totals = json!({
        "pending": 4, "parked": 1, "waiting": 1, "running": 1, "retrying": 2,
        "oldest_requested_at": NOW.get(), "oldest_age_seconds": 7_200,
    });
    assert_eq!((&listed["totals"], &listed["count"], &listed["cursor"]), (&totals, &json!(5), &Value::Null));
    consuming.abort();
}

#[tokio::test]
async fn pages_are_bounded_and_show_each_deletion_once() {
    let rig = Rig::new();
    for number in 0..23 {
        if number % 4 == 0 {
            rig.parked(number, "dns", "status 500").await;
        } else {
            rig.wanted(number, "main", NOW, false).await;
        }
    }
    for (filter, expected) in [
        (json!({}), 23),
        (json!({"status": "deletion_failed"}), 6),
        (json!({"status": "pending_deletion"}), 17),
        (json!({"pool": "main"}), 17),
        (json!({"pool": "dns", "status": "pending_deletion"}), 0),
    ] {
        let (mut cursor, mut seen, mut pages) = (Value::Null, BTreeSet::new(), 0);
        loop {
            let mut body = filter.clone();
            body["limit"] = json!(3);
            body["cursor"] = cursor;
            let page = rig.list(body).await;
            let entries = page["deletions"].as_array().unwrap();
            assert!(entries.len() <= 3 && page["count"] == entries.len());
            assert_eq!(page["totals"].is_null(), pages > 0, "counted once");
            for entry in entries {
                assert!(seen.insert(entry["sandbox_id"].as_str().unwrap().to_owned()), "{entry}");
            }
            pages += 1;
            cursor = page["cursor"].clone();
            if cursor.is_null() {
                break;
            }
        }
        assert_eq!(seen.len(), expected, "{filter}");
    }
}

#[tokio::test]
async fn an_empty_queue_is_an_empty_page() {
    let rig = Rig::new();
    let listed = rig.list(json!({})).await;
    let totals = json!({
        "pending": 0, "parked": 0, "waiting": 0, "running": 0, "retrying": 0,
        "oldest_requested_at": null, "oldest_age_seconds": null,
    });
    assert_eq!(listed, json!({"deletions": [], "count": 0, "cursor": null, "totals": totals}));
}

#[tokio::test]
async fn invalid_listing_request_is_rejected() {
    let rig = Rig::new();
    let foreign = "main.available.0.";
    let cursors = [
        "",
        "x",
        "main.pending_deletion.0",
        "main.pending_deletion.9.",
        "main.pending_deletion.0.zz",
        foreign,
    ];
    let bad =
        [json!({"limit": 0}), json!({"limit": 101}), json!({"status": "available"}), json!({"pool": "*"})];
    for body in bad.into_iter().chain(cursors.map(|cursor| json!({"cursor": cursor}))) {
        let fault = rig.ask(Verb::Deletions, body.clone()).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::InvalidRequest, "{body}");
    }
    let other_filter = json!({"pool": "dns", "cursor": "main.pending_deletion.0."});
    assert_eq!(rig.ask(Verb::Deletions, other_filter).await.unwrap_err().code, FaultCode::InvalidRequest);
}

#[tokio::test]
async fn skipped_pre_clean_shows_its_reason() {
    let rig = Rig::new();
    let wanted = rig.wanted(1, "main", NOW, true).await;
    let skipped = Preparation::Skipped(Skip::NothingInside);
    rig.store.finish_deletion(&wanted.id, wanted.epoch, NOW, NOW.after(HOUR), Some(&skipped)).await.unwrap();
    let shown = rig.ask(Verb::Deletion, json!({"sandbox_id": "1"})).await.unwrap();
    let expected = json!({
        "result": "skipped", "services": null, "reason": "nothing_inside", "went_on": false,
        "summary": "skipped: nothing inside",
    });
    assert_eq!(shown["pre_clean"], expected);
}
