//! Lists on a store in memory: limits, filters, cursors that are not ours, and what one request may read.

use super::*;
use crate::deletions::tests::{NOW, Rig, id, watch};
use contract::{FaultCode, Verb};
use domain::{ExternalId, NewSandbox, SandboxId, SandboxName, UnixSeconds};
use ports::store::Write;
use serde_json::{Value, json};

const START_AGAIN: &str =
    "cursor is not one of this listing with these filters; start again without a cursor";

async fn page(rig: &Rig, body: Value) -> Value {
    rig.ask(Verb::Sandboxes, body).await.unwrap()
}

#[track_caller]
fn assert_not_ours(answer: Result<Value, Fault>, what: &str) {
    let fault = answer.expect_err(what);
    assert_eq!((fault.code, fault.message.as_str()), (FaultCode::InvalidRequest, START_AGAIN), "{what}");
}

async fn rig_of(sandboxes: usize) -> Rig {
    let rig = Rig::new();
    for number in 1..=sandboxes {
        rig.add(number, "main").await;
    }
    rig
}

async fn go_stale(rig: &Rig, name: &str, number: usize) {
    let sandbox = NewSandbox {
        id: SandboxId::parse(&format!("s{number}")).unwrap(),
        name: SandboxName::parse(name).unwrap(),
        external_id: ExternalId::parse(&format!("identity/accounts/s{number}")).unwrap(),
        pool: PoolName::parse("main").unwrap(),
        descriptor: domain::Descriptor::default(),
    };
    let entered = sandbox.clone().enter(NOW);
    rig.store.insert(&sandbox, NOW).await.unwrap();
    assert!(matches!(rig.store.mark_missing(&entered, NOW).await.unwrap(), Write::Done(_)));
}

#[tokio::test]
async fn page_limit_is_one_to_a_hundred() {
    let rig = rig_of(120).await;
    for limit in [1, 2, 99, 100] {
        let reply = page(&rig, json!({"limit": limit})).await;
        assert_eq!((&reply["count"], reply["sandboxes"].as_array().unwrap().len()), (&json!(limit), limit));
    }
    assert_eq!(page(&rig, json!({})).await["count"], 50);
    for limit in [0, 101, u32::MAX] {
        let fault = rig.ask(Verb::Sandboxes, json!({"limit": limit})).await.unwrap_err();
        assert_eq!(fault.message, "limit must be from 1 to 100");
    }
}

#[tokio::test]
async fn entry_has_the_owner_view_plus_pool_version_and_epoch() {
    let rig = rig_of(1).await;
    let claim = json!({"owner": "student-1", "lab": "dns-basics", "idempotency_key": "a-key-of-its-own"});
    rig.ask(Verb::Allocate, claim).await.unwrap();
    let reply = page(&rig, json!({"owner": "student-1"})).await;
    let expected = json!({
        "sandbox_id": "1", "name": "lab-1", "external_id": "1", "status": "allocated",
        "allocated_to_track": "student-1", "allocated_at": NOW.get(), "expires_at": NOW.get() + 14_400,
        "track_name": "dns-basics", "sfdc_account_id": null, "pool": "main", "version": 2, "epoch": 1,
        "changed_at": NOW.get(),
    });
    assert_eq!(reply, json!({"sandboxes": [expected], "count": 1, "cursor": null}));
    assert!(!reply.to_string().contains("a-key-of-its-own"));
}

#[tokio::test]
async fn invalid_filters_are_rejected_with_a_reason() {
    let rig = rig_of(1).await;
    for (body, message) in [
        (
            json!({"status": "gone"}),
            "status must be one of available, allocated, pending_deletion, deletion_failed, stale, quarantined, deleted, provisioning, provision_failed",
        ),
        (json!({"pool": ""}), "pool must not be empty"),
        (json!({"owner": " "}), "owner must not be empty"),
        (
            json!({"lab": "a\u{200b}b"}),
            "lab may hold only visible characters and blanks (no control, bidirectional or zero-width characters)",
        ),
        (json!({"name_prefix": ""}), "name_prefix must not be empty"),
    ] {
        let fault = rig.ask(Verb::Sandboxes, body.clone()).await.unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (FaultCode::InvalidRequest, message), "{body}");
    }
}

fn which_of(request: SandboxesRequest, pools: &[&str], is_narrowed: bool) -> Which {
    let pools = pools.iter().map(|pool| PoolName::parse(pool).unwrap()).collect();
    Which::parse(request, (pools, is_narrowed), &watch().current()).unwrap()
}

#[tokio::test]
async fn edited_cursor_is_rejected_or_is_a_position_in_the_same_listing() {
    let rig = rig_of(9).await;
    rig.add(10, "dns").await;
    let filters = |cursor: &str| json!({"limit": 3, "pool": "main", "cursor": cursor});
    let first = page(&rig, json!({"limit": 3, "pool": "main"})).await;
    let cursor = first["cursor"].as_str().unwrap().to_owned();
    assert_eq!(page(&rig, filters(&cursor)).await["count"], 3, "as it is it is good");
    let (mut refused, mut positions) = (0, 0);
    for at in 0..cursor.len() {
        for other in [b'0', b'a', b'.', b'A', b' ', cursor.as_bytes()[at] ^ 0x20, cursor.as_bytes()[at] ^ 1] {
            let mut bytes = cursor.clone().into_bytes();
            bytes[at] = other;
            let Ok(edited) = String::from_utf8(bytes) else { continue };
            match rig.ask(Verb::Sandboxes, filters(&edited)).await {
                Ok(page) => {
                    let entries = page["sandboxes"].as_array().unwrap();
                    assert!(entries.iter().all(|entry| entry["pool"] == "main"), "{page}");
                    positions += 1;
                }
                refusal => {
                    assert_not_ours(refusal, &edited);
                    refused += 1;
                }
            }
        }
        for cut in [&cursor[..at], &cursor[at + 1..]] {
            assert_not_ours(rig.ask(Verb::Sandboxes, filters(cut)).await, cut);
        }
    }
    assert!(refused > cursor.len() * 3 && positions > 0, "{refused} refused, {positions} positions");
    let long = "QQ".repeat(10_000);
    for forged in ["", ".", "x", &format!("{cursor}0"), &format!("{cursor}.{cursor}"), "\u{fc}.\u{fc}", &long]
    {
        assert_not_ours(rig.ask(Verb::Sandboxes, filters(forged)).await, forged);
    }
}

#[tokio::test]
async fn cursor_has_to_be_within_the_query() {
    let rig = Rig::new();
    for (number, pool) in [(1, "main"), (2, "dns"), (3, "main"), (4, "dns")] {
        rig.add(number, pool).await;
    }
    let cursor = |which: &Which, kind: &str, shard: &str, pool: &str, sort: &str, key: &str| {
        places::cursor_of(which, [kind, pool, shard, sort, key])
    };
    // A caller that is bound to one pool, with the right filters and the position of another pool.
    let bound = which_of(SandboxesRequest::default(), &["dns"], true);
    let good = cursor(&bound, "available", "0", "dns", "lab-1", "1");
    let reply = page(&rig, json!({"pools": ["dns"], "cursor": good})).await;
    let entries = reply["sandboxes"].as_array().unwrap();
    assert!(!entries.is_empty() && entries.iter().all(|entry| entry["pool"] == "dns"), "{reply}");
    let long = "a".repeat(1_025);
    for (kind, shard, pool, sort, key) in [
        ("available", "0", "main", "lab-1", "1"),
        ("available", "0", "no-such", "lab-1", "1"),
        ("available", "0", "a b", "lab-1", "1"),
        ("available", "256", "dns", "lab-1", "1"),
        ("available", "-1", "dns", "lab-1", "1"),
        ("available", "", "dns", "lab-1", "1"),
        ("deleted", "0", "dns", "lab-1", "1"),
        ("gone", "0", "dns", "lab-1", "1"),
        ("claims", "", "", "", "key-1"),
        ("lab", "", "", "7", "1"),
        ("available", "0", "dns", "lab-1", ""),
        ("available", "0", "dns", "", "1"),
        ("available", "0", "dns", "lab-1", "a/b"),
        ("available", "0", "dns", &long, "1"),
        ("available", "0", "dns", "lab-1", &long),
    ] {
        let forged = cursor(&bound, kind, shard, pool, sort, key);
        let answer = rig.ask(Verb::Sandboxes, json!({"pools": ["dns"], "cursor": forged})).await;
        assert_not_ours(answer, &format!("{kind} {shard} {pool} {sort} {key}"));
    }
    // DynamoDB refuses a start key outside of the condition on the sort key.
    let prefix = SandboxesRequest { name_prefix: Some("lab-2".to_owned()), ..SandboxesRequest::default() };
    let which = which_of(prefix, &["main"], false);
    let outside = cursor(&which, "available", "0", "main", "lab-3", "3");
    assert_not_ours(
        rig.ask(Verb::Sandboxes, json!({"name_prefix": "lab-2", "cursor": outside})).await,
        "prefix",
    );
    for (body, kind, sort, key) in [
        (json!({"owner": "student-1"}), "claims", "x", "key-1"),
        (json!({"owner": "student-1"}), "claims", "", "a b\n"),
        (json!({"lab": "dns-basics"}), "lab", "x", "1"),
        (json!({"lab": "dns-basics"}), "lab", "123456789012345678901", "1"),
        (json!({"lab": "dns-basics"}), "lab", "7", "a/b"),
    ] {
        let request: SandboxesRequest = serde_json::from_value(body.clone()).unwrap();
        let which = which_of(request, &["dns", "main"], false);
        let mut asked = body;
        asked["cursor"] = json!(cursor(&which, kind, "", "", sort, key));
        assert_not_ours(rig.ask(Verb::Sandboxes, asked).await, &format!("{kind} {sort} {key}"));
    }
}

#[tokio::test]
async fn cursor_is_bound_to_its_filters_but_not_to_its_limit() {
    let rig = rig_of(30).await;
    let filters = [
        json!({}),
        json!({"status": "available"}),
        json!({"pool": "main"}),
        json!({"name_prefix": "lab"}),
        json!({"name_prefix": "lab-"}),
        json!({"status": "available", "pool": "main"}),
    ];
    let mut cursors = Vec::new();
    for filter in &filters {
        let mut body = filter.clone();
        body["limit"] = json!(2);
        cursors.push(page(&rig, body).await["cursor"].clone());
    }
    for (made, cursor) in cursors.iter().enumerate() {
        for (asked, filter) in filters.iter().enumerate() {
            let mut body = filter.clone();
            (body["cursor"], body["limit"]) = (cursor.clone(), json!(7));
            let answer = rig.ask(Verb::Sandboxes, body).await;
            if made == asked {
                assert_eq!(answer.unwrap()["count"], 7);
            } else {
                assert_not_ours(answer, &format!("{made} for {asked}"));
            }
        }
    }
    let body = json!({"status": "stale", "cursor": cursors[1]});
    assert_not_ours(rig.ask(Verb::BulkDelete, body).await, "a cursor of a list");
}

#[tokio::test]
async fn every_worker_accepts_the_same_cursors() {
    let (rig, other) = (rig_of(9).await, rig_of(9).await);
    let cursor = page(&other, json!({"limit": 3})).await["cursor"].clone();
    let (here, there) = (json!({"limit": 3, "cursor": cursor}), json!({"limit": 3, "cursor": cursor}));
    assert_eq!(page(&rig, here).await, page(&other, there).await);
}

#[tokio::test]
async fn reads_per_request_are_bounded_and_the_cursor_continues() {
    let rig = Rig::new();
    let others = SANDBOXES_OF_REQUEST_MAX + 600;
    for number in 0..others {
        go_stale(&rig, &format!("lab-{number}"), number).await;
    }
    for number in others..others + 3 {
        go_stale(&rig, "rare-1", number).await;
    }
    let (mut found, mut pages, mut empty, mut cursor) = (0, 0, 0, Value::Null);
    loop {
        let reply = page(&rig, json!({"status": "stale", "name_prefix": "rare", "cursor": cursor})).await;
        let count = reply["count"].as_u64().unwrap();
        (found, pages, empty) = (found + count, pages + 1, empty + u64::from(count == 0));
        cursor = reply["cursor"].clone();
        if cursor.is_null() {
            break;
        }
        assert!(pages < 10, "it moves on");
    }
    assert_eq!(found, 3);
    assert!(pages >= 2, "all of it is too much for one request: {pages} pages, {empty} empty");
}

#[tokio::test]
async fn bounded_caller_sees_only_its_pools() {
    let rig = Rig::new();
    for (number, pool) in [(1, "main"), (2, "dns"), (3, "main")] {
        rig.add(number, pool).await;
    }
    let reply = page(&rig, json!({"pools": ["dns"]})).await;
    assert_eq!((&reply["count"], &reply["sandboxes"][0]["sandbox_id"]), (&json!(1), &json!("2")));
    let refused = rig.ask(Verb::Sandboxes, json!({"pools": ["dns"], "pool": "main"})).await.unwrap_err();
    assert_eq!(refused.code, FaultCode::Forbidden);
    let refused = rig.ask(Verb::Sandbox, json!({"pools": ["dns"], "sandbox_id": "1"})).await.unwrap_err();
    assert_eq!(refused.code, FaultCode::Forbidden);
}

#[tokio::test]
async fn sandbox_is_shown_without_its_idempotency_key() {
    let rig = rig_of(1).await;
    let claim = json!({"owner": "student-1", "lab": "dns-basics", "idempotency_key": "a-key-of-its-own"});
    rig.ask(Verb::Allocate, claim).await.unwrap();
    let shown = rig.ask(Verb::Sandbox, json!({"sandbox_id": "1"})).await.unwrap();
    let lease = json!({
        "owner": "student-1", "lab": "dns-basics", "epoch": 1, "claimed_version": 1, "granted_at": NOW.get(),
        "expires_at": NOW.get() + 14_400, "is_live": true,
    });
    assert_eq!((&shown["lease"], &shown["provider_id"]), (&lease, &json!("identity/accounts/1")));
    assert!(!shown.to_string().contains("a-key-of-its-own"));
    let held = rig.sandbox(1).await;
    rig.ask(Verb::Release, json!({"sandbox_id": "1", "owner": "student-1"})).await.unwrap();
    rig.store.note_attempt(&id(1), held.epoch, 0, "status 500", None).await.unwrap();
    rig.store.park_deletion(&id(1), held.epoch, NOW).await.unwrap();
    let shown = rig.ask(Verb::Sandbox, json!({"sandbox_id": "1"})).await.unwrap();
    let deletion = json!({
        "cause": "released", "requested_at": NOW.get(), "attempts": 1, "last_error": "status 500", "pre_clean": null,
    });
    assert_eq!((&shown["deletion"], &shown["lease"]["is_live"]), (&deletion, &json!(false)));
    let causes: Vec<_> = shown["history"].as_array().unwrap().iter().map(|entry| &entry["cause"]).collect();
    assert_eq!(causes, ["listed", "claimed", "released", "parked"]);
    for unknown in ["4711", "a.b", ""] {
        let fault = rig.ask(Verb::Sandbox, json!({"sandbox_id": unknown})).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::NotFound, "{unknown:?}");
    }
}

#[tokio::test]
async fn tombstone_and_quarantine_details_are_shown() {
    let rig = rig_of(2).await;
    let quarantine = json!({"sandbox_id": "1", "reason": "smoke in it", "by": "alice"});
    rig.ask(Verb::Quarantine, quarantine).await.unwrap();
    let shown = rig.ask(Verb::Sandbox, json!({"sandbox_id": "1"})).await.unwrap();
    assert_eq!((&shown["quarantine_reason"], &shown["since"]), (&json!("smoke in it"), &json!(NOW.get())));
    assert_eq!((&shown["lease"], &shown["history"][1]["by"]), (&Value::Null, &json!("alice")));
    let seen = rig.sandbox(2).await;
    let Write::Done(stale) = rig.store.mark_missing(&seen, NOW).await.unwrap() else { panic!("not free") };
    rig.store.forget(&stale, None, NOW, UnixSeconds::new(NOW.get() + 9)).await.unwrap();
    let shown = rig.ask(Verb::Sandbox, json!({"sandbox_id": "2"})).await.unwrap();
    assert_eq!(shown["tombstone"], json!({"deleted_at": NOW.get(), "purge_at": NOW.get() + 9}));
    assert_eq!(page(&rig, json!({})).await["count"], 1, "which is in no list of all");
}

#[tokio::test]
async fn tombstones_are_listed_page_by_page() {
    let rig = rig_of(9).await;
    for number in [2, 3, 5, 8] {
        let seen = rig.sandbox(number).await;
        let Write::Done(stale) = rig.store.mark_missing(&seen, NOW).await.unwrap() else {
            panic!("not free")
        };
        rig.store.forget(&stale, None, NOW, UnixSeconds::new(NOW.get() + 9)).await.unwrap();
    }
    let (mut found, mut cursor) = (Vec::new(), Value::Null);
    for _ in 0..9 {
        let reply =
            page(&rig, json!({"status": "deleted", "pool": "main", "limit": 2, "cursor": cursor})).await;
        let entries = reply["sandboxes"].as_array().unwrap();
        assert!(entries.len() <= 2, "{reply}");
        found.extend(entries.iter().map(|entry| entry["sandbox_id"].as_str().unwrap().to_owned()));
        cursor = reply["cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!((found, cursor), (["2", "3", "5", "8"].map(str::to_owned).to_vec(), Value::Null));
    for filter in [json!({"pool": "dns"}), json!({"owner": "p-1"}), json!({"name_prefix": "no"})] {
        let mut asked = filter;
        asked["status"] = json!("deleted");
        assert_eq!(page(&rig, asked.clone()).await["count"], 0, "{asked}");
    }
}
