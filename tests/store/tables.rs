//! Creation of the table, and the refusal of a table that is not the broker's.

use crate::engines::{SHARDS, Table};
use ::dynamodb::DynamoStore;
use ::dynamodb::table::{Ensured, TTL_ATTRIBUTE, TableError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, TimeToLiveStatus,
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
    let ttl = client.describe_time_to_live().table_name(&table.name).send().await.unwrap();
    let ttl = ttl.time_to_live_description().unwrap();
    assert_eq!(ttl.time_to_live_status(), Some(&TimeToLiveStatus::Enabled));
    assert_eq!(ttl.attribute_name(), Some(TTL_ATTRIBUTE));
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
