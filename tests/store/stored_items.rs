//! The items in the table, read without the store.

use crate::engines::Table;
use crate::fixtures::{KEEP_UNTIL, NOW, added, claim_key, done, grant_of, held, id, owner, record};
use aws_sdk_dynamodb::types::AttributeValue;
use domain::{LabId, UnixSeconds};
use harness::dynamodb;
use ports::store::Store;
use std::collections::HashMap;

type Item = HashMap<String, AttributeValue>;

async fn item(table: &Table, partition: &str, sort: &str) -> Item {
    let found = dynamodb::client(table.endpoint)
        .get_item()
        .table_name(&table.name)
        .key("PK", AttributeValue::S(partition.to_owned()))
        .key("SK", AttributeValue::S(sort.to_owned()))
        .consistent_read(true)
        .send()
        .await
        .unwrap();
    found.item.unwrap_or_else(|| panic!("no item {partition}/{sort}"))
}

/// The same from both indexes.
async fn held_for(table: &Table, lab: &str) -> Vec<String> {
    let by_lab = in_index(table, "LabIndex", "held_lab", lab).await;
    assert_eq!(in_index(table, "GroupIndex", "group", &format!("LAB#{lab}")).await, by_lab);
    by_lab
}

async fn in_index(table: &Table, index: &str, hash: &str, value: &str) -> Vec<String> {
    let found = dynamodb::client(table.endpoint)
        .query()
        .table_name(&table.name)
        .index_name(index)
        .key_condition_expression("#hash = :value")
        .expression_attribute_names("#hash", hash)
        .expression_attribute_values(":value", AttributeValue::S(value.to_owned()))
        .send()
        .await
        .unwrap();
    found.items().iter().map(|item| item["PK"].as_s().unwrap().clone()).collect()
}

pub(crate) async fn indexes_of_labs_contain_current_leases(table: Table) {
    let store: &dyn Store = &table.store;
    table.store.ensure_table().await.unwrap();
    for (number, lab, granted_at) in
        [(1, Some("lab-a"), 30), (2, Some("lab-a"), 10), (3, None, 20), (4, Some("lab-b"), 5)]
    {
        let mut grant = grant_of(&added(store, number).await.candidate(), &claim_key("owner-1", "key-1"));
        grant.lab = lab.map(|lab| LabId::parse(lab).unwrap());
        grant.granted_at = UnixSeconds::new(granted_at);
        done(store.grant(&grant).await.unwrap());
    }
    added(store, 5).await;
    // Oldest first.
    assert_eq!(held_for(&table, "lab-a").await, ["SBX#2", "SBX#1"]);
    assert_eq!(held_for(&table, "lab-b").await, ["SBX#4"]);
    let released = done(store.release(&id(2), &owner("owner-1"), None, None, NOW).await.unwrap());
    assert_eq!(released.last_lease().unwrap().lab, Some(LabId::parse("lab-a").unwrap()));
    assert_eq!(held_for(&table, "lab-a").await, ["SBX#1"]);
    let expired = store.expire(&id(4), released.epoch, KEEP_UNTIL, NOW).await.unwrap();
    done(expired);
    assert_eq!(held_for(&table, "lab-b").await, Vec::<String>::new());
}

pub(crate) async fn finished_items_get_a_ttl(table: Table) {
    let store: &dyn Store = &table.store;
    table.store.ensure_table().await.unwrap();
    let ttl = |at: u64| Some(AttributeValue::N(at.to_string()));
    let sandbox = held(store, 1).await;
    assert_eq!(item(&table, "SBX#1", "META").await.get("ttl"), None);
    done(store.release(&sandbox.id, &owner("owner-1"), None, None, NOW).await.unwrap());
    assert_eq!(item(&table, "SBX#1", "META").await.get("ttl"), None);
    done(store.finish_deletion(&sandbox.id, sandbox.epoch, NOW, UnixSeconds::new(77), None).await.unwrap());
    let tombstone = item(&table, "SBX#1", "META").await;
    assert_eq!(tombstone.get("ttl").cloned(), ttl(77));
    for gone in
        ["state_shard", "state_sort", "deletion_shard", "parked_shard", "held_lab", "group", "group_sort"]
    {
        assert_eq!(tombstone.get(gone), None, "{gone}");
    }
    let key = claim_key("owner-1", "key-1");
    let claimed = record(&key, &sandbox.candidate());
    store.open_claim(&claimed, UnixSeconds::new(88)).await.unwrap();
    assert_eq!(item(&table, "OWNER#owner-1", "CLAIM#key-1").await.get("ttl").cloned(), ttl(88));
    let other = added(store, 2).await.candidate();
    let moved = claimed.moved_to(other, []);
    store.move_claim(&claimed, &moved, UnixSeconds::new(99)).await.unwrap();
    assert_eq!(item(&table, "OWNER#owner-1", "CLAIM#key-1").await.get("ttl").cloned(), ttl(99));
    store.close_claim(&moved, UnixSeconds::new(77)).await.unwrap();
    assert_eq!(item(&table, "OWNER#owner-1", "CLAIM#key-1").await.get("ttl").cloned(), ttl(77));
}
