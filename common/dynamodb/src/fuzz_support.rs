//! Opens the decoder of items to the fuzz targets. No other code may use it; `tests/architecture` checks that.

use super::attributes::Item;
use super::item;
use aws_sdk_dynamodb::types::AttributeValue;
use domain::Sandbox;
use ports::store::StoreError;
use serde_json::{Map, Value};

/// Deepest nesting of an item. Ours have two levels; the SDK itself stops at 32.
const DEPTH_MAX: usize = 8;
/// Shards of the table that an item is written for.
const SHARDS: u16 = 4;

/// Decodes the sandbox of an item in DynamoDB's JSON; none if the JSON is not an item.
pub fn stored_item(json: &Value) -> Option<Result<Sandbox, StoreError>> {
    Some(item::decode(&attributes(json.as_object()?, DEPTH_MAX)?))
}

/// Encodes the sandbox as an item and decodes it again.
///
/// # Errors
/// When it cannot be read.
pub fn stored_again(sandbox: &Sandbox) -> Result<Sandbox, StoreError> {
    item::decode(&item::encode(sandbox, SHARDS))
}

fn attributes(json: &Map<String, Value>, depth: usize) -> Option<Item> {
    json.iter().map(|(name, value)| Some((name.clone(), attribute(value, depth)?))).collect()
}

fn attribute(json: &Value, depth: usize) -> Option<AttributeValue> {
    let depth = depth.checked_sub(1)?;
    let (kind, value) = json.as_object()?.iter().next()?;
    Some(match (kind.as_str(), value) {
        ("S", Value::String(text)) => AttributeValue::S(text.clone()),
        ("N", Value::String(number)) => AttributeValue::N(number.clone()),
        ("BOOL", Value::Bool(value)) => AttributeValue::Bool(*value),
        ("NULL", Value::Bool(value)) => AttributeValue::Null(*value),
        ("L", Value::Array(list)) => {
            AttributeValue::L(list.iter().map(|value| attribute(value, depth)).collect::<Option<_>>()?)
        }
        ("M", Value::Object(map)) => AttributeValue::M(attributes(map, depth)?),
        _ => return None,
    })
}
