//! The operators' switch of all deletions: one item of the table.

use super::attributes::{AT, BY, Fields, Item, REASON, VERSION, key_text, number, seconds, text};
use super::layout::item_key;
use super::{DynamoStore, unavailable};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use domain::DeletionSwitch;
use ports::store::StoreError;

/// Key of the item.
const SWITCH_KEY: (&str, &str) = ("TABLE", "DELETIONS");
const PAUSED: &str = "paused";
const UNTIL: &str = "until";

impl DynamoStore {
    pub(super) async fn read_switch(&self) -> Result<Option<DeletionSwitch>, StoreError> {
        let found = self.read_item("deletion_switch", item_key(SWITCH_KEY)).await?;
        found.as_ref().map(decode).transpose()
    }

    pub(super) async fn write_switch(&self, next: &DeletionSwitch) -> Result<bool, StoreError> {
        let sent = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(encode(next)))
            // A write whose answer was lost is repeated and finds its own value.
            .condition_expression("attribute_not_exists(#version) OR #version < :version")
            .expression_attribute_names("#version", VERSION)
            .expression_attribute_values(":version", number(next.version))
            .send()
            .await;
        let Err(error) = sent else { return Ok(true) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(_)) => {
                Ok(self.read_switch().await?.as_ref() == Some(next))
            }
            _ => Err(unavailable("set_deletion_switch", error)),
        }
    }
}

fn encode(switch: &DeletionSwitch) -> Item {
    let DeletionSwitch { version, is_paused, by, since, until, reason } = switch;
    let mut item = item_key(SWITCH_KEY);
    item.insert(VERSION.to_owned(), number(*version));
    item.insert(PAUSED.to_owned(), AttributeValue::Bool(*is_paused));
    item.insert(BY.to_owned(), text(by));
    item.insert(AT.to_owned(), seconds(*since));
    if let Some(until) = until {
        item.insert(UNTIL.to_owned(), seconds(*until));
    }
    if let Some(reason) = reason {
        item.insert(REASON.to_owned(), text(reason));
    }
    item
}

fn decode(item: &Item) -> Result<DeletionSwitch, StoreError> {
    let key = key_text(item);
    let fields = Fields::new(item, &key);
    let until = if fields.has(UNTIL) { Some(fields.seconds(UNTIL)?) } else { None };
    Ok(DeletionSwitch {
        version: fields.number(VERSION)?,
        is_paused: fields.switch(PAUSED)?,
        by: fields.text(BY)?.to_owned(),
        since: fields.seconds(AT)?,
        until,
        reason: fields.optional_text(REASON)?.map(str::to_owned),
    })
}
