//! Items that this build cannot read, as a newer build leaves them before a rollback: they affect nothing else.

use aws_sdk_dynamodb::types::AttributeValue;
use domain::{SandboxId, StateName};
use harness::dynamodb;
use harness::rig::{Plan, Rig};
use ports::store::{SortRange, StateQuery};
use reqwest::Method;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

type Item = HashMap<String, AttributeValue>;

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

/// Changes the item of a sandbox without the fleet.
async fn rewrite(rig: &Rig, id: &SandboxId, change: impl FnOnce(&mut Item)) {
    let client = dynamodb::client(&rig.env["DYNAMODB_ENDPOINT"]);
    let table = &rig.env["DYNAMODB_TABLE"];
    let request = client.get_item().table_name(table).key("PK", text(&format!("SBX#{id}")));
    let found = request.key("SK", text("META")).consistent_read(true).send().await.unwrap();
    let mut item = found.item.expect("the sandbox is there");
    change(&mut item);
    client.put_item().table_name(table).set_item(Some(item)).send().await.unwrap();
}

async fn free_ids(rig: &Rig) -> Vec<SandboxId> {
    let mut ids = Vec::new();
    for shard in 0..rig.store.shards().await.unwrap() {
        let pool = domain::PoolName::parse("main").unwrap();
        let query = StateQuery { pool, state: StateName::Available, shard, range: SortRange::All };
        let page = rig.store.page(&query, None, 500).await.unwrap();
        ids.extend(page.sandboxes.into_iter().map(|sandbox| sandbox.id));
    }
    ids
}

#[tokio::test]
async fn corrupt_items_break_no_claim_run_or_listing() {
    const OWNERS: usize = 40;
    let rig = Plan::new(OWNERS + 4).set("SYNC_STALE_PERCENT_MAX", 100).start().await;
    let free = free_ids(&rig).await;
    let [unknown_state, moved, unknown_cause, odd, ..] = free.as_slice() else { panic!("{free:?}") };
    rewrite(&rig, unknown_state, |item| drop(item.insert("state".to_owned(), text("resetting")))).await;
    // Where a newer build might have put it: in a part of the index that this build does not read.
    rewrite(&rig, moved, |item| {
        item.insert("state".to_owned(), text("resetting"));
        item.insert("state_shard".to_owned(), text("main#resetting#0"));
    })
    .await;
    rewrite(&rig, unknown_cause, |item| {
        let entry = [("state", text("resetting")), ("cause", text("rebuilt"))];
        let entry = entry.map(|(name, value)| (name.to_owned(), value));
        let Some(AttributeValue::L(history)) = item.get_mut("history") else { panic!("no history") };
        history.push(AttributeValue::M(HashMap::from(entry)));
        item.insert("version".to_owned(), AttributeValue::N("2".to_owned()));
        item.insert("colour".to_owned(), text("green"));
    })
    .await;
    rewrite(&rig, odd, |item| drop(item.insert("pool".to_owned(), AttributeValue::Bool(true)))).await;

    let mut given = BTreeSet::new();
    for number in 0..OWNERS {
        let claim = rig.api.allocate(&format!("student-{number}")).await;
        assert_eq!(claim.status, 201, "{claim:?}");
        given.insert(claim.sandbox().to_owned());
    }
    assert_eq!(given.len(), OWNERS);
    for skipped in [unknown_state, moved, odd] {
        assert!(!given.contains(skipped.as_str()), "{skipped} cannot be read");
    }
    let released = given.first().expect("one has a holder").clone();
    let owner = rig.sandbox(&released).await.unwrap().lease().unwrap().claim.owner.to_string();
    assert_eq!(rig.api.release(&released, &owner).await.status, 200);
    rig.until_state(&released, StateName::Deleted).await;

    let sync = rig.sync().await;
    assert_eq!((sync.status.as_str(), sync.unreadable), ("completed", 3), "{sync:?}");
    assert_eq!((sync.inserted, sync.marked_stale), (0, 0), "{sync:?}");
    let sweep = rig.sweep().await;
    assert_eq!((sweep.status.as_str(), sweep.unreadable), ("completed", 0), "{sweep:?}");
    let census = rig.census().await;
    assert_eq!((census.status.as_str(), census.census.all.allocated), ("completed", OWNERS as u64 - 1));
    let lists = rig.api.admin(Method::GET, "/v1/admin/sandboxes?status=available&limit=50").await;
    assert_eq!((lists.status, &lists.body["count"]), (200, &json!(1)), "{lists:?}");

    // The same for held sandboxes and those in deletion.
    let held = given.last().expect("one has a holder");
    let held = SandboxId::parse(held).unwrap();
    rewrite(&rig, &held, |item| drop(item.insert("expires_at".to_owned(), text("never")))).await;
    assert_eq!((rig.sweep().await.unreadable, rig.census().await.unreadable), (1, 1));
    let lists = rig.api.admin(Method::GET, "/v1/admin/sandboxes?status=allocated&limit=50").await;
    assert_eq!(lists.body["count"], json!(OWNERS - 2), "{lists:?}");
    rig.stop().await;
}
