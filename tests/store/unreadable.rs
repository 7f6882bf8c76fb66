//! Items of a newer build: an unreadable one affects no other item and stays unchanged.

use crate::engines::Table;
use crate::fixtures::{
    KEEP_UNTIL, LATER, NOW, added, claim_key, done, ending, extension, grant_of, held, id, listed, order,
    owner, query, record, several_added,
};
use aws_sdk_dynamodb::types::AttributeValue;
use domain::{LabId, StateName};
use harness::dynamodb;
use ports::store::{Insert, SortRange, Store, StoreError, Unreadable, Write};
use std::collections::HashMap;

type Item = HashMap<String, AttributeValue>;

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

async fn read(table: &Table, partition: &str, sort: &str) -> Item {
    let request = dynamodb::client(table.endpoint).get_item().table_name(&table.name);
    let found = request.key("PK", text(partition)).key("SK", text(sort)).consistent_read(true).send().await;
    found.unwrap().item.unwrap_or_else(|| panic!("no item {partition}/{sort}"))
}

/// Changes an item without the store.
async fn rewrite(table: &Table, partition: &str, sort: &str, change: impl FnOnce(&mut Item)) {
    let mut item = read(table, partition, sort).await;
    change(&mut item);
    let client = dynamodb::client(table.endpoint);
    client.put_item().table_name(&table.name).set_item(Some(item)).send().await.unwrap();
}

/// Puts a history entry of a newer build before the others.
fn insert_foreign_entry(item: &mut Item) {
    let entry =
        [("state", text("available")), ("cause", text("rebuilt")), ("at", AttributeValue::N("9".to_owned()))];
    let entry = entry.map(|(name, value)| (name.to_owned(), value));
    let Some(AttributeValue::L(history)) = item.get_mut("history") else { panic!("no history") };
    history.insert(0, AttributeValue::M(HashMap::from(entry)));
    let Some(AttributeValue::N(version)) = item.get_mut("version") else { panic!("no version") };
    *version = (version.parse::<u64>().unwrap() + 1).to_string();
    item.insert("colour".to_owned(), text("green"));
}

pub(crate) async fn page_skips_and_reports_a_corrupt_item(table: Table) {
    let store: &dyn Store = &table.store;
    table.store.ensure_table().await.unwrap();
    several_added(store, 1..9).await;
    rewrite(&table, "SBX#3", "META", |item| drop(item.insert("state".to_owned(), text("resetting")))).await;
    let mut unreadable = Vec::new();
    for shard in 0..store.shards().await.unwrap() {
        let all = query(StateName::Available, shard, SortRange::All);
        unreadable.extend(store.page(&all, None, 10).await.unwrap().unreadable);
        store.last(&all).await.unwrap();
    }
    let problem = "is no state of a sandbox".to_owned();
    let item = "SBX#3/META".to_owned();
    assert_eq!(unreadable, [Unreadable { item, sandbox: Some(id(3)), attribute: "state", problem }]);
    assert_eq!(listed(store, StateName::Available, SortRange::All).await.len(), 7);
    // A lease of a lab, and a lease of an owner's claim.
    for number in [1, 2] {
        let candidate = store.sandbox(&id(number)).await.unwrap().unwrap().candidate();
        let key = claim_key("owner-1", &format!("key-{number}"));
        store.open_claim(&record(&key, &candidate), KEEP_UNTIL).await.unwrap();
        done(store.grant(&grant_of(&candidate, &key)).await.unwrap());
    }
    rewrite(&table, "SBX#1", "META", |item| drop(item.insert("state".to_owned(), text("resetting")))).await;
    rewrite(&table, "OWNER#owner-1", "CLAIM#key-1", |item| drop(item.remove("seen_version"))).await;
    let of_lab = store.held_by_lab(&LabId::parse("lab-a").unwrap(), None, 10).await.unwrap();
    assert_eq!((of_lab.sandboxes.len(), of_lab.unreadable.len()), (1, 1));
    let claims = store.claims_of(&owner("owner-1"), None, 10).await.unwrap();
    assert_eq!((claims.claims.len(), claims.unreadable.len()), (1, 1));
    assert_eq!(claims.unreadable[0].sandbox, None);
}

pub(crate) async fn corrupt_record_is_not_overwritten(table: Table) {
    let store: &dyn Store = &table.store;
    table.store.ensure_table().await.unwrap();
    let sandbox = added(store, 1).await;
    rewrite(&table, "SBX#1", "META", |item| drop(item.insert("state".to_owned(), text("resetting")))).await;
    let before = read(&table, "SBX#1", "META").await;
    let inserted: Result<Insert, StoreError> = store.insert(&crate::fixtures::new_sandbox(1), NOW).await;
    let errors = [
        inserted.map(|_| ()).unwrap_err(),
        store.mark_missing(&sandbox, NOW).await.map(|_| ()).unwrap_err(),
        store.quarantine(&sandbox.candidate(), &order(), NOW).await.map(|_| ()).unwrap_err(),
        store.sandbox(&sandbox.id).await.map(|_| ()).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.into_unreadable().unwrap().sandbox, Some(id(1)));
    }
    assert_eq!(read(&table, "SBX#1", "META").await, before);
}

pub(crate) async fn corrupt_candidate_is_lost_unless_the_claim_may_hold_it(table: Table) {
    let store: &dyn Store = &table.store;
    table.store.ensure_table().await.unwrap();
    let (free, key) = (added(store, 1).await.candidate(), claim_key("owner-1", "key-1"));
    rewrite(&table, "SBX#1", "META", |item| drop(item.insert("state".to_owned(), text("resetting")))).await;
    assert_eq!(store.grant(&grant_of(&free, &key)).await.unwrap(), Write::Lost(None));
    // Held for this very claim, written by a build that stores one more field.
    let free = added(store, 2).await.candidate();
    done(store.grant(&grant_of(&free, &key)).await.unwrap());
    rewrite(&table, "SBX#2", "META", |item| drop(item.insert("expires_at".to_owned(), text("never")))).await;
    let mine = store.grant(&grant_of(&free, &key)).await.unwrap_err();
    assert!(matches!(mine, StoreError::Corrupt { attribute: "expires_at", .. }), "{mine}");
    let other = claim_key("owner-2", "key-1");
    assert_eq!(store.grant(&grant_of(&free, &other)).await.unwrap(), Write::Lost(None));
    // After its release it has no holder.
    rewrite(&table, "SBX#2", "META", |item| drop(item.insert("state".to_owned(), text("deletion_failed"))))
        .await;
    assert_eq!(store.grant(&grant_of(&free, &key)).await.unwrap(), Write::Lost(None));
}

pub(crate) async fn unknown_attributes_survive_writes(table: Table) {
    let store: &dyn Store = &table.store;
    table.store.ensure_table().await.unwrap();
    added(store, 1).await;
    rewrite(&table, "SBX#1", "META", insert_foreign_entry).await;
    let seen = store.sandbox(&id(1)).await.unwrap().unwrap();
    assert_eq!(seen.history.len(), 1, "the entry of a newer build is not shown");
    let missing = done(store.mark_missing(&seen, NOW).await.unwrap());
    let found = done(store.mark_found(&missing, NOW).await.unwrap());
    let aside = done(store.quarantine(&found.candidate(), &order(), NOW).await.unwrap());
    let back = done(store.unquarantine(&aside, &order(), NOW).await.unwrap());
    let held = done(store.grant(&grant_of(&back.candidate(), &claim_key("owner-1", "key-1"))).await.unwrap());
    let longer = done(store.extend(&held, &extension(held.epoch), NOW).await.unwrap());
    let ending = done(store.order_deletion(&longer, &order(), LATER).await.unwrap());
    done(store.finish_deletion(&ending.id, ending.epoch, LATER, KEEP_UNTIL, None).await.unwrap());
    let item = read(&table, "SBX#1", "META").await;
    assert_eq!(item["colour"], text("green"));
    let causes: Vec<&str> = item["history"]
        .as_l()
        .unwrap()
        .iter()
        .map(|entry| entry.as_m().unwrap()["cause"].as_s().unwrap().as_str())
        .collect();
    let known = [
        "listed",
        "missing",
        "found",
        "quarantined",
        "unquarantined",
        "claimed",
        "extended",
        "ordered",
        "deleted",
    ];
    assert_eq!(causes, [&["rebuilt"], known.as_slice()].concat());
}

pub(crate) async fn corrupt_item_is_named_in_the_error(table: Table) {
    let store: &dyn Store = &table.store;
    table.store.ensure_table().await.unwrap();
    let sandbox = ending(store, 1).await;
    held(store, 2).await;
    rewrite(&table, "SBX#1", "META", |item| drop(item.insert("requested_at".to_owned(), text("yesterday"))))
        .await;
    let errors = [
        store.sandbox(&sandbox.id).await.map(|_| ()).unwrap_err(),
        // The write fails, because the store cannot read the item to explain the lost condition.
        store.release(&sandbox.id, &owner("owner-1"), None, None, NOW).await.map(|_| ()).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.to_string(), "item SBX#1/META: attribute requested_at: is not a number");
    }
}
