//! `GroupIndex` replaces `LabIndex` on a live table: every step beside claims and releases, and beside what the build
//! before it wrote.

use crate::engines::{SHARDS, Table};
use crate::fixtures::{NOW, added, claim_key, done, grant_of, id, owner};
use crate::lab_traffic::{LABS, Traffic, assert_lists_the_truth, lab, listed};
use ::dynamodb::back_fill::{BackFill, PageEnd};
use ::dynamodb::indexes::OptionalIndex;
use ::dynamodb::table::{Keys, LAB_INDEX, STATE_INDEX, TABLE_KEYS, TableError};
use ::dynamodb::{DynamoConfig, DynamoStore};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType,
    Projection, ProjectionType, ScalarAttributeType, Select,
};
use domain::UnixSeconds;
use harness::{dynamodb, dynamodb_local};
use ports::store::Store;
use std::ops::Range;
use std::time::Duration;

/// Page size of a back-fill: small, so that it takes several pages.
const PAGE: u16 = 7;
/// Sandboxes of the previous build that are held, and whose lease has ended.
const FORMERLY_HELD: Range<u32> = 1..21;
const FORMERLY_ENDED: Range<u32> = 21..31;
const FORMER: Range<u32> = FORMERLY_HELD.start..FORMERLY_ENDED.end;

/// A case of index changes under load takes seconds, on a busy machine half a minute.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);
/// On how many tables it is tried.
const TABLES_MAX: u32 = 3;

/// Runs a case that changes an index beside writes. DynamoDB Local may never finish such a change if a write fails in the
/// meantime, and the change then keeps one of the engine's few threads, so the case is run again on another engine.
async fn on_tables(table: Table, case: impl AsyncFn(Table)) {
    let mut next = table;
    for _ in 1..TABLES_MAX {
        let endpoint = next.endpoint;
        if tokio::time::timeout(CASE_TIMEOUT, Box::pin(case(next))).await.is_ok() {
            return;
        }
        let fresh = if endpoint == dynamodb::dynoxide_endpoint() {
            endpoint
        } else {
            dynamodb_local::fresh_endpoint().expect("the first engine started")
        };
        next = crate::engines::table(fresh).await;
    }
    let last = tokio::time::timeout(CASE_TIMEOUT, Box::pin(case(next))).await;
    last.unwrap_or_else(|_| panic!("the engine finished the change on none of {TABLES_MAX} tables"));
}

/// A table as the previous build creates it: without `GroupIndex`.
async fn former_table(table: &Table) {
    let schema = |keys: Keys| {
        [(keys.hash, KeyType::Hash), (keys.range, KeyType::Range)]
            .map(|(key, kind)| {
                KeySchemaElement::builder().attribute_name(key.name).key_type(kind).build().unwrap()
            })
            .to_vec()
    };
    let mut request = dynamodb::client(table.endpoint)
        .create_table()
        .table_name(&table.name)
        .billing_mode(BillingMode::PayPerRequest)
        .set_key_schema(Some(schema(TABLE_KEYS)));
    for keys in [TABLE_KEYS, STATE_INDEX, LAB_INDEX] {
        for key in [keys.hash, keys.range] {
            let kind = if key.name == "granted_at" { ScalarAttributeType::N } else { ScalarAttributeType::S };
            let attribute = AttributeDefinition::builder().attribute_name(key.name).attribute_type(kind);
            request = request.attribute_definitions(attribute.build().unwrap());
        }
    }
    for keys in [STATE_INDEX, LAB_INDEX] {
        let index = GlobalSecondaryIndex::builder()
            .index_name(keys.name)
            .set_key_schema(Some(schema(keys)))
            .projection(Projection::builder().projection_type(ProjectionType::All).build());
        request = request.global_secondary_indexes(index.build().unwrap());
    }
    request.send().await.unwrap();
    table.store.ensure_table().await.unwrap();
}

/// One more process, with or without `STORE_READ_GROUP_INDEX`.
async fn process(table: &Table, reads_group_index: bool) -> DynamoStore {
    let config = dynamodb::config(table.endpoint, &table.name, SHARDS);
    DynamoStore::connect(&DynamoConfig { reads_group_index, ..config }).await
}

async fn update(table: &Table, number: u32, expression: &str, values: &[(&str, &str)]) {
    let mut request = dynamodb::client(table.endpoint)
        .update_item()
        .table_name(&table.name)
        .key("PK", AttributeValue::S(format!("SBX#{number}")))
        .key("SK", AttributeValue::S("META".to_owned()))
        .update_expression(expression)
        .expression_attribute_names("#group", "group")
        .expression_attribute_names("#sort", "group_sort");
    for (name, value) in values {
        request = request.expression_attribute_values(*name, AttributeValue::S((*value).to_owned()));
    }
    request.send().await.unwrap();
}

/// What the previous build leaves: held sandboxes without a group, and ended leases whose group this build wrote.
async fn former_records(table: &Table) {
    let store: &dyn Store = &table.store;
    for number in FORMER {
        let mut grant = grant_of(&added(store, number).await.candidate(), &claim_key("owner-1", "key-1"));
        grant.lab = Some(lab(number));
        done(store.grant(&grant).await.unwrap());
        if FORMERLY_HELD.contains(&number) {
            update(table, number, "REMOVE #group, #sort", &[]).await;
        } else {
            done(store.release(&id(number), &owner("owner-1"), None, None, NOW).await.unwrap());
            leave_group(table, number, number).await;
        }
    }
}

/// Puts the group of a lab on a sandbox, as the previous build leaves it when the lease ends.
async fn leave_group(table: &Table, number: u32, of: u32) {
    let values = [(":group", format!("LAB#{}", lab(of))), (":sort", "000000000300".to_owned())];
    let values = values.each_ref().map(|(name, value)| (*name, value.as_str()));
    update(table, number, "SET #group = :group, #sort = :sort", &values).await;
}

/// A whole pass, from `progress` on.
async fn back_fill(store: &DynamoStore, mut progress: BackFill) -> BackFill {
    loop {
        match store.back_fill_page(&progress, PAGE).await.unwrap().expect("no other pass runs") {
            PageEnd::More(next) => progress = next,
            PageEnd::Last(last) => {
                assert!(store.finish_back_fill(&last, NOW).await.unwrap());
                let finished = store.back_fill().await.unwrap();
                assert_eq!(finished.completed_at, Some(NOW));
                return finished;
            }
        }
    }
}

fn problem(error: TableError) -> String {
    assert!(matches!(error, TableError::GroupIndexUnusable { .. }), "{error:?}");
    error.to_string()
}

pub(crate) async fn new_table_has_both_indexes_and_counts_as_back_filled(table: Table) {
    table.store.ensure_table().await.unwrap();
    let indexes = table.store.indexes().await.unwrap();
    assert!(indexes.iter().all(|index| index.is_readable()), "{indexes:?}");
    assert!(table.store.back_fill().await.unwrap().completed_at.is_some());
    process(&table, true).await.ensure_table().await.unwrap();
}

pub(crate) async fn group_index_is_refused_until_it_can_be_read(table: Table) {
    former_table(&table).await;
    former_records(&table).await;
    let reader = process(&table, true).await;
    assert!(problem(reader.ensure_table().await.unwrap_err()).contains("it is missing"));
    table.store.add_index(OptionalIndex::Group).await.unwrap();
    let refused = problem(reader.ensure_table().await.unwrap_err());
    for part in ["it is not back-filled", "STORE_READ_GROUP_INDEX", "broker table index show"] {
        assert!(refused.contains(part), "{refused}");
    }
    // The default needs nothing but LabIndex.
    process(&table, false).await.ensure_table().await.unwrap();
    // A pass that is not finished does not count.
    let page = reader.back_fill_page(&BackFill::default(), PAGE).await.unwrap();
    assert!(matches!(page, Some(PageEnd::More(_))), "{page:?}");
    assert!(problem(reader.ensure_table().await.unwrap_err()).contains("it is not back-filled"));
    back_fill(&reader, reader.back_fill().await.unwrap()).await;
    reader.ensure_table().await.unwrap();
    assert_lists_the_truth(&reader, &[FORMER]).await;
}

pub(crate) async fn index_is_added_under_load(table: Table) {
    on_tables(table, add_under_load).await;
}

async fn add_under_load(table: Table) {
    former_table(&table).await;
    former_records(&table).await;
    let mut traffic = Traffic::start(&table.store, FORMER.end);
    traffic.goes_on().await;
    // The second command, and one beside the first, find what the first one did.
    let (one, other) = tokio::join!(
        table.store.add_index(OptionalIndex::Group),
        table.store.add_index(OptionalIndex::Group)
    );
    one.unwrap();
    other.unwrap();
    table.store.add_index(OptionalIndex::Group).await.unwrap();
    traffic.goes_on().await;
    let fresh = traffic.end().await;
    assert_lists_the_truth(&table.store, &[FORMER, fresh]).await;
}

pub(crate) async fn back_fill_runs_under_load_and_may_be_repeated(table: Table) {
    former_table(&table).await;
    former_records(&table).await;
    table.store.add_index(OptionalIndex::Group).await.unwrap();
    let mut traffic = Traffic::start(&table.store, FORMER.end);
    traffic.goes_on().await;
    let first = back_fill(&table.store, BackFill::default()).await;
    traffic.goes_on().await;
    // This build writes groups itself, so only what the previous build left needs a correction.
    assert_eq!((first.set, first.removed, first.unreadable), (20, 10, 0), "{first:?}");
    let second = back_fill(&table.store, first.restarted()).await;
    assert_eq!((second.set, second.removed), (0, 0), "{second:?}");
    let numbers = [FORMER, traffic.end().await];
    let reader = process(&table, true).await;
    reader.ensure_table().await.unwrap();
    assert_lists_the_truth(&reader, &numbers).await;
    assert_lists_the_truth(&table.store, &numbers).await;
}

pub(crate) async fn readers_are_switched_under_load(table: Table) {
    table.store.ensure_table().await.unwrap();
    let switched = process(&table, true).await;
    switched.ensure_table().await.unwrap();
    // Two allocators during the rolling restart.
    let mut before = Traffic::start(&table.store, 1);
    before.goes_on().await;
    let mut after = Traffic::start(&switched, 1_000_000);
    after.goes_on().await;
    before.goes_on().await;
    let numbers = [before.end().await, after.end().await];
    for store in [&table.store, &switched] {
        assert_lists_the_truth(store, &numbers).await;
    }
    for number in 0..LABS {
        let whole = listed(&[&table.store], &lab(number)).await;
        assert!(whole.len() > 1, "{whole:?}");
        // A listing continues at whichever allocator answers.
        assert_eq!(listed(&[&table.store, &switched], &lab(number)).await, whole);
        assert_eq!(listed(&[&switched], &lab(number)).await, whole);
    }
}

pub(crate) async fn lab_index_is_dropped_under_load_and_comes_back(table: Table) {
    on_tables(table, drop_and_add_under_load).await;
}

async fn drop_and_add_under_load(table: Table) {
    table.store.ensure_table().await.unwrap();
    let reader = process(&table, true).await;
    reader.ensure_table().await.unwrap();
    let mut traffic = Traffic::start(&reader, 1);
    traffic.goes_on().await;
    let (one, other) =
        tokio::join!(reader.drop_index(OptionalIndex::Lab), reader.drop_index(OptionalIndex::Lab));
    one.unwrap();
    other.unwrap();
    let [_, lab_index, _] = reader.indexes().await.unwrap();
    assert!(!lab_index.is_there(), "{lab_index:?}");
    // Without LabIndex, the setting makes no difference.
    let default = process(&table, false).await;
    default.ensure_table().await.unwrap();
    traffic.goes_on().await;
    assert!(!listed(&[&default], &lab(0)).await.is_empty());
    reader.add_index(OptionalIndex::Lab).await.unwrap();
    traffic.goes_on().await;
    let numbers = [traffic.end().await];
    let returned = process(&table, false).await;
    returned.ensure_table().await.unwrap();
    for store in [&reader, &default, &returned] {
        assert_lists_the_truth(store, &numbers).await;
    }
}

pub(crate) async fn back_fill_continues_after_a_stop(table: Table) {
    former_table(&table).await;
    former_records(&table).await;
    table.store.add_index(OptionalIndex::Group).await.unwrap();
    let start = table.store.back_fill().await.unwrap();
    let Some(PageEnd::More(first)) = table.store.back_fill_page(&start, PAGE).await.unwrap() else {
        panic!("there are more pages")
    };
    let Some(PageEnd::More(second)) = table.store.back_fill_page(&first, PAGE).await.unwrap() else {
        panic!("there are more pages")
    };
    assert_eq!(second.scanned, u64::from(2 * PAGE));
    // A pass that was overtaken stops, and leaves the progress as it is.
    assert_eq!(table.store.back_fill_page(&start, PAGE).await.unwrap(), None);
    let other = process(&table, false).await;
    let kept = other.back_fill().await.unwrap();
    assert_eq!(kept, second);
    let finished = back_fill(&other, kept).await;
    assert_eq!((finished.set, finished.removed), (20, 10), "every sandbox was corrected once: {finished:?}");
    let items = dynamodb::client(table.endpoint).scan().table_name(&table.name).select(Select::Count);
    let items = u64::try_from(items.send().await.unwrap().count()).unwrap();
    // The item of the progress appears during the pass.
    assert!((items - 1..=items).contains(&finished.scanned), "{finished:?} of {items} items");
    assert!(!other.finish_back_fill(&second, UnixSeconds::new(1)).await.unwrap(), "it ended already");
}

pub(crate) async fn stale_groups_are_not_listed_and_are_removed(table: Table) {
    table.store.ensure_table().await.unwrap();
    let store: &dyn Store = &table.store;
    former_records(&table).await;
    let reader = process(&table, true).await;
    reader.ensure_table().await.unwrap();
    // Held for one lab, with the group of another.
    leave_group(&table, FORMERLY_HELD.start, FORMERLY_HELD.start + 1).await;
    for number in 0..LABS {
        assert_eq!(listed(&[&reader], &lab(number)).await, [], "only stale groups are there");
    }
    // A lease for no lab does not keep the group of an earlier one.
    let free = added(store, FORMER.end).await;
    leave_group(&table, FORMER.end, 0).await;
    let mut grant = grant_of(&free.candidate(), &claim_key("owner-2", "key-2"));
    grant.lab = None;
    done(store.grant(&grant).await.unwrap());
    // Neither does a tombstone.
    let ended = store.sandbox(&id(FORMERLY_ENDED.start)).await.unwrap().unwrap();
    done(store.finish_deletion(&ended.id, ended.epoch, NOW, NOW, None).await.unwrap());
    let pass = back_fill(&table.store, table.store.back_fill().await.unwrap().restarted()).await;
    assert_eq!((pass.set, pass.removed), (20, 9), "{pass:?}");
    assert_lists_the_truth(&reader, &[FORMER]).await;
}
