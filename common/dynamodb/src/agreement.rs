//! Items that detect a process on the wrong table: the settings that all processes have to share, and the mark.

use super::attributes::{AT, Fields, Item, PK, SK, key_text, number, seconds, text};
use super::layout::item_key;
use super::{DynamoStore, unavailable};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use ports::store::StoreError;
use ports::store::layout::{Agreed, TableMark};

/// Key of the item with the settings; each setting is an attribute.
const SETTINGS_KEY: (&str, &str) = ("TABLE", "SETTINGS");
/// Key of the item with the mark.
const MARK_KEY: (&str, &str) = ("TABLE", "MARK");
const NUMBER: &str = "number";
const ACCEPTED_EVENT: &str = "accepted_event";

impl DynamoStore {
    pub(super) async fn write_agreed(&self, own: &Agreed, replaces: bool) -> Result<Agreed, StoreError> {
        let mut request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(SETTINGS_KEY)))
            .return_values(ReturnValue::AllNew);
        let mut sets = Vec::new();
        for (at, (name, value)) in own.iter().enumerate() {
            let (field, put) = (format!("#s{at}"), format!(":s{at}"));
            // Existing values stay, whichever process writes at the same time.
            let value_of = if replaces { put.clone() } else { format!("if_not_exists({field}, {put})") };
            sets.push(format!("{field} = {value_of}"));
            request =
                request.expression_attribute_names(field, name).expression_attribute_values(put, text(value));
        }
        let sent = request.update_expression(format!("SET {}", sets.join(", "))).send().await;
        let sent = sent.map_err(|error| unavailable("agree", error))?;
        Ok(agreed_in(sent.attributes.unwrap_or_default()))
    }

    pub(super) async fn read_agreed(&self) -> Result<Agreed, StoreError> {
        let found = self.read_item("agreed", item_key(SETTINGS_KEY)).await?;
        Ok(agreed_in(found.unwrap_or_default()))
    }

    pub(super) async fn read_mark(&self) -> Result<TableMark, StoreError> {
        let found = self.read_item("mark", item_key(MARK_KEY)).await?;
        Ok(found.as_ref().map(decode).transpose()?.unwrap_or_default())
    }

    pub(super) async fn write_mark(&self, seen: &TableMark, next: &TableMark) -> Result<bool, StoreError> {
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(encode(next)))
            .expression_attribute_names("#number", NUMBER);
        let put = match seen.number {
            0 => put.condition_expression("attribute_not_exists(#number)"),
            seen => {
                put.condition_expression("#number = :seen").expression_attribute_values(":seen", number(seen))
            }
        };
        let Err(error) = put.send().await else { return Ok(true) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(_)) => Ok(false),
            _ => Err(unavailable("advance_mark", error)),
        }
    }
}

fn agreed_in(item: Item) -> Agreed {
    let settings = item.into_iter().filter(|(name, _)| name != PK && name != SK);
    // Values that are no text belong to another build; ignore them.
    let texts = settings.filter_map(|(name, value)| match value {
        AttributeValue::S(value) => Some((name, value)),
        _ => None,
    });
    texts.collect()
}

fn encode(mark: &TableMark) -> Item {
    let TableMark { number: count, at, accepted_event } = *mark;
    let mut item = item_key(MARK_KEY);
    item.insert(NUMBER.to_owned(), number(count));
    item.insert(AT.to_owned(), seconds(at));
    item.insert(ACCEPTED_EVENT.to_owned(), number(accepted_event));
    item
}

fn decode(item: &Item) -> Result<TableMark, StoreError> {
    let key = key_text(item);
    let fields = Fields::new(item, &key);
    Ok(TableMark {
        number: fields.number(NUMBER)?,
        at: fields.seconds(AT)?,
        accepted_event: fields.number(ACCEPTED_EVENT)?,
    })
}
