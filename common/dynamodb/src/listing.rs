//! Reading: one sandbox, pages and counts of `StateIndex`, and pages of `LabIndex`.

use super::attributes::{GRANTED_AT, HELD_LAB, PK, SK, STATE, STATE_SHARD, STATE_SORT, text};
use super::{DynamoStore, item, table, unavailable};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Select};
use domain::{LabId, Sandbox, SandboxId, StateName};
use ports::store::index::{due_sort, state_shard};
use ports::store::{Page, PageCursor, SortRange, StateQuery, StoreError};
use std::collections::HashMap;

impl DynamoStore {
    pub(super) async fn read_sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        let found = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(item::key(id)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| unavailable("sandbox", error))?;
        found.item().map(|item| self.decode(item)).transpose()
    }

    /// DynamoDB returns a continuation key whenever a page is full, so the last page may be empty.
    pub(super) async fn read_page(
        &self,
        query: &StateQuery,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        let found = self
            .state_query(query)
            .set_exclusive_start_key(after.map(start_key))
            .limit(i32::from(limit.max(1)))
            .send()
            .await
            .map_err(|error| unavailable("page", error))?;
        let (sandboxes, unreadable) = self.sort_out(found.items(), item::decode)?;
        let next = found.last_evaluated_key().map(cursor).transpose()?;
        Ok(Page { sandboxes, unreadable, next })
    }

    pub(super) async fn read_lab(
        &self,
        lab: &LabId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        let found = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(table::LAB_INDEX.name)
            .key_condition_expression("#lab = :lab")
            .expression_attribute_names("#lab", HELD_LAB)
            .expression_attribute_values(":lab", text(lab.as_str()))
            .set_exclusive_start_key(after.map(start_key))
            .limit(i32::from(limit.max(1)))
            .send()
            .await
            .map_err(|error| unavailable("held_by_lab", error))?;
        let (sandboxes, unreadable) = self.sort_out(found.items(), item::decode)?;
        let parts = [PK, SK, HELD_LAB, GRANTED_AT];
        let next = found.last_evaluated_key().map(|key| cursor_of(key, parts)).transpose()?;
        Ok(Page { sandboxes, unreadable, next })
    }

    pub(super) async fn scan_tombstones(
        &self,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        let found = self
            .client
            .scan()
            .table_name(&self.table)
            .filter_expression("#state = :deleted")
            .expression_attribute_names("#state", STATE)
            .expression_attribute_values(":deleted", text(StateName::Deleted.as_str()))
            .set_exclusive_start_key(after.map(start_key))
            .limit(i32::from(limit.max(1)))
            .send()
            .await
            .map_err(|error| unavailable("tombstones", error))?;
        let (sandboxes, unreadable) = self.sort_out(found.items(), item::decode)?;
        let next = found.last_evaluated_key().map(|key| cursor_of(key, [PK, SK])).transpose()?;
        Ok(Page { sandboxes, unreadable, next })
    }

    pub(super) async fn read_last(&self, query: &StateQuery) -> Result<Option<Sandbox>, StoreError> {
        let found = self
            .state_query(query)
            .scan_index_forward(false)
            .limit(1)
            .send()
            .await
            .map_err(|error| unavailable("last", error))?;
        // Only the starting point depends on it.
        Ok(found.items().first().and_then(|item| self.decode(item).ok()))
    }

    pub(super) async fn read_count(&self, query: &StateQuery) -> Result<u64, StoreError> {
        let mut count = 0_u64;
        let mut start = None;
        // Terminates: every round moves on within one shard.
        loop {
            let found = self
                .state_query(query)
                .select(Select::Count)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| unavailable("count", error))?;
            count = count.saturating_add(u64::try_from(found.count()).unwrap_or_default());
            match found.last_evaluated_key {
                Some(key) => start = Some(key),
                None => return Ok(count),
            }
        }
    }

    fn state_query(&self, query: &StateQuery) -> QueryFluentBuilder {
        let StateQuery { pool, state, shard, range } = query;
        let request = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(table::STATE_INDEX.name)
            .expression_attribute_names("#shard", STATE_SHARD)
            .expression_attribute_values(":shard", text(state_shard(pool, *state, *shard)));
        let (condition, bound) = match range {
            SortRange::All => return request.key_condition_expression("#shard = :shard"),
            SortRange::NamePrefix(prefix) => {
                ("#shard = :shard AND begins_with(#sort, :bound)", text(prefix.as_str()))
            }
            SortRange::NamesFrom { from, prefix: None } => {
                ("#shard = :shard AND #sort >= :bound", text(from.as_str()))
            }
            SortRange::NamesFrom { from, prefix: Some(prefix) } => {
                // A key can have only one comparison, so the end of the prefix range replaces the prefix itself.
                let last = format!("{prefix}{}", char::MAX);
                let request = request.expression_attribute_values(":last", text(last));
                return request
                    .key_condition_expression("#shard = :shard AND #sort BETWEEN :bound AND :last")
                    .expression_attribute_names("#sort", STATE_SORT)
                    .expression_attribute_values(":bound", text(from.as_str()));
            }
            SortRange::DueBy(at) => ("#shard = :shard AND #sort <= :bound", text(due_sort(*at))),
        };
        request
            .key_condition_expression(condition)
            .expression_attribute_names("#sort", STATE_SORT)
            .expression_attribute_values(":bound", bound)
    }
}

pub(super) fn start_key(cursor: &PageCursor) -> HashMap<String, AttributeValue> {
    let attribute = |name: &str, value: &str| {
        // The one key attribute that is a number.
        if name == GRANTED_AT { AttributeValue::N(value.to_owned()) } else { text(value) }
    };
    cursor.0.iter().map(|(name, value)| (name.clone(), attribute(name, value))).collect()
}

pub(super) fn cursor(key: &HashMap<String, AttributeValue>) -> Result<PageCursor, StoreError> {
    cursor_of(key, [PK, SK, STATE_SHARD, STATE_SORT])
}

/// The cursor for a key with these attributes.
pub(super) fn cursor_of<const N: usize>(
    key: &HashMap<String, AttributeValue>,
    parts: [&'static str; N],
) -> Result<PageCursor, StoreError> {
    let part = |name: &'static str| match key.get(name) {
        Some(AttributeValue::S(value) | AttributeValue::N(value)) => Ok((name.to_owned(), value.clone())),
        _ => Err(StoreError::Corrupt {
            item: "page cursor".to_owned(),
            attribute: name,
            problem: "is neither text nor number".to_owned(),
        }),
    };
    Ok(PageCursor(parts.into_iter().map(part).collect::<Result<_, _>>()?))
}
