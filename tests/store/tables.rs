//! Creation of the table, and the refusal of a table that is not the broker's.

use crate::engines::{SHARDS, Table};
use ::dynamodb::table::{Ensured, TTL_ATTRIBUTE, TableError};
use ::dynamodb::{DynamoConfig, DynamoStore};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, TimeToLiveSpecification, TimeToLiveStatus,
};
use harness::dynamodb;
use ports::store::Store;

pub(crate) async fn table_is_created_once(table: Table) {
    assert_eq!(table.store.ensure_table().await.unwrap(), Ensured::Created);
    assert_eq!(table.store.ensure_table().await.unwrap(), Ensured::Found);
    table.store.ping().await.unwrap();
    let client = dynamodb::client(table.endpoint);
    let found = client.describe_table().table_name(&table.name).send().await.unwrap().table.unwrap();
    let billing = found.billing_mode_summary().and_then(|summary| summary.billing_mode());
    assert_eq!(billing, Some(&BillingMode::PayPerRequest));
    assert_eq!(ttl_attribute(&table).await.as_deref(), Some(TTL_ATTRIBUTE));
}

pub(crate) async fn time_to_live_is_switched_on_unless_the_setting_leaves_it_alone(table: Table) {
    table.store.ensure_table().await.unwrap();
    set_ttl(&table, TTL_ATTRIBUTE, false).await;
    let config = dynamodb::config(table.endpoint, &table.name, SHARDS);
    let leaves_it = DynamoStore::connect(&DynamoConfig { enables_ttl: false, ..config }).await;
    assert_eq!(leaves_it.ensure_table().await.unwrap(), Ensured::Found);
    assert_eq!(ttl_attribute(&table).await, None);
    assert_eq!(table.store.ensure_table().await.unwrap(), Ensured::Found);
    assert_eq!(ttl_attribute(&table).await.as_deref(), Some(TTL_ATTRIBUTE));
}

pub(crate) async fn table_whose_time_to_live_cannot_be_switched_on_is_usable(table: Table) {
    table.store.ensure_table().await.unwrap();
    set_ttl(&table, TTL_ATTRIBUTE, false).await;
    set_ttl(&table, "other", true).await;
    assert_eq!(table.store.ensure_table().await.unwrap(), Ensured::Found);
    assert_eq!(ttl_attribute(&table).await.as_deref(), Some("other"));
}

async fn set_ttl(table: &Table, attribute: &str, enabled: bool) {
    let specification = TimeToLiveSpecification::builder().enabled(enabled).attribute_name(attribute).build();
    let request = dynamodb::client(table.endpoint).update_time_to_live().table_name(&table.name);
    request.time_to_live_specification(specification.unwrap()).send().await.unwrap();
}

/// The attribute of the table's time to live; none while it is off.
async fn ttl_attribute(table: &Table) -> Option<String> {
    let request = dynamodb::client(table.endpoint).describe_time_to_live().table_name(&table.name);
    let ttl = request.send().await.unwrap().time_to_live_description?;
    let is_on = ttl.time_to_live_status() == Some(&TimeToLiveStatus::Enabled);
    ttl.attribute_name.filter(|_| is_on)
}

pub(crate) async fn concurrent_table_creation_succeeds_for_all(table: Table) {
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let config = dynamodb::config(table.endpoint, &table.name, SHARDS);
            tokio::spawn(async move { DynamoStore::connect(&config).await.ensure_table().await })
        })
        .collect();
    let mut created = 0;
    for racer in racers {
        created += u32::from(racer.await.unwrap().unwrap() == Ensured::Created);
    }
    assert!(created > 0);
    assert_eq!(table.store.ensure_table().await.unwrap(), Ensured::Found);
}

pub(crate) async fn incompatible_table_is_refused_with_every_difference(table: Table) {
    let attribute = |name: &str, kind| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap()
    };
    let key =
        |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    let index = GlobalSecondaryIndex::builder()
        .index_name("StateIndex")
        .key_schema(key("state_shard", KeyType::Hash))
        .key_schema(key("PK", KeyType::Range))
        .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build());
    dynamodb::client(table.endpoint)
        .create_table()
        .table_name(&table.name)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute("PK", ScalarAttributeType::N))
        .attribute_definitions(attribute("state_shard", ScalarAttributeType::S))
        .key_schema(key("PK", KeyType::Hash))
        .global_secondary_indexes(index.build().unwrap())
        .send()
        .await
        .unwrap();
    let error = table.store.ensure_table().await.unwrap_err();
    let text = error.to_string();
    let TableError::Differs { table: name, differences } = error else { panic!("{error:?}") };
    assert_eq!(name, table.name);
    assert_eq!(
        differences,
        [
            "table: hash key PK is of type N, not S",
            "table: range key is missing, not SK",
            "StateIndex: range key is PK, not state_sort",
            "StateIndex does not hold whole items (projection ALL)",
            "index LabIndex is missing",
        ]
    );
    assert!(text.contains("index LabIndex is missing"), "{text}");
}
