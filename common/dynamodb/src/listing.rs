//! Reading: one sandbox, pages and counts of `StateIndex`, and pages of `GroupIndex` or `LabIndex`.

use super::attributes::{Item, PK, SK, STATE, STATE_SHARD, STATE_SORT, seconds, text};
use super::table::{KeyKind, Keys};
use super::{DynamoStore, item, table, unavailable};
use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Select};
use domain::{LabId, Sandbox, SandboxId, StateName, UnixSeconds};
use ports::store::index::{SANDBOX_PREFIX, SANDBOX_SORT, due_sort, lab_group, state_shard};
use ports::store::{Page, PageCursor, SortRange, StateQuery, StoreError};
use std::sync::atomic::Ordering;

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
            .set_exclusive_start_key(after.map(|after| start_in_shard(query, after)))
            .limit(i32::from(limit.max(1)))
            .send()
            .await
            .map_err(|error| unavailable("page", error))?;
        let (sandboxes, unreadable) = self.sort_out(found.items(), item::decode)?;
        let next =
            found.last_evaluated_key().map(|key| cursor_of(key, Some(STATE_SORT), (PK, SANDBOX_PREFIX)));
        let next = next.transpose()?;
        Ok(Page { sandboxes, unreadable, next })
    }

    pub(super) async fn read_lab(
        &self,
        lab: &LabId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        let (index, hash) = match self.reads_group_index.load(Ordering::Relaxed) {
            true => (table::GROUP_INDEX, lab_group(lab)),
            false => (table::LAB_INDEX, lab.to_string()),
        };
        let start = after.map(|after| start_in_lab(index, &hash, after)).transpose()?;
        let found = self.query_hash("held_by_lab", index, &hash, start, limit).await?;
        let (mut sandboxes, unreadable) = self.sort_out(found.items(), item::decode)?;
        // Builds before GroupIndex leave the group of a lease that ended.
        sandboxes.retain(|sandbox| sandbox.lease().and_then(|lease| lease.lab.as_ref()) == Some(lab));
        let next = found
            .last_evaluated_key()
            .map(|key| cursor_of(key, Some(index.range.name), (PK, SANDBOX_PREFIX)));
        let next = next.transpose()?.map(|next| PageCursor { sort: granted_at_of(&next.sort), ..next });
        Ok(Page { sandboxes, unreadable, next })
    }

    /// One page of all items with that hash key in an index.
    pub(super) async fn query_hash(
        &self,
        operation: &'static str,
        index: Keys,
        hash: &str,
        start: Option<Item>,
        limit: u16,
    ) -> Result<QueryOutput, StoreError> {
        self.client
            .query()
            .table_name(&self.table)
            .index_name(index.name)
            .key_condition_expression("#hash = :hash")
            .expression_attribute_names("#hash", index.hash.name)
            .expression_attribute_values(":hash", text(hash))
            .set_exclusive_start_key(start)
            .limit(i32::from(limit.max(1)))
            .send()
            .await
            .map_err(|error| unavailable(operation, error))
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
            .set_exclusive_start_key(after.map(|after| item_at(&after.key, &after.sort)))
            .limit(i32::from(limit.max(1)))
            .send()
            .await
            .map_err(|error| unavailable("tombstones", error))?;
        let (sandboxes, unreadable) = self.sort_out(found.items(), item::decode)?;
        let next = found.last_evaluated_key().map(|key| cursor_of(key, Some(SK), (PK, ""))).transpose()?;
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

/// The key of the sandbox of a cursor.
fn sandbox_at(after: &PageCursor) -> Item {
    item_at(&format!("{SANDBOX_PREFIX}{}", after.key), SANDBOX_SORT)
}

fn item_at(hash: &str, range: &str) -> Item {
    Item::from([(PK.to_owned(), text(hash)), (SK.to_owned(), text(range))])
}

fn start_in_shard(query: &StateQuery, after: &PageCursor) -> Item {
    let shard = state_shard(&query.pool, query.state, query.shard);
    let mut start = sandbox_at(after);
    start.insert(STATE_SHARD.to_owned(), text(shard));
    start.insert(STATE_SORT.to_owned(), text(&after.sort));
    start
}

/// Cursors of both indexes contain the number of seconds, so that a listing can continue in the other one.
fn granted_at_of(sort: &str) -> String {
    match sort.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    }
}

fn start_in_lab(index: Keys, hash: &str, after: &PageCursor) -> Result<Item, StoreError> {
    let at = after.sort.parse().map_err(|_| foreign_cursor(index.range.name))?;
    let at = UnixSeconds::new(at);
    let range = match index.range.kind {
        KeyKind::Text => text(due_sort(at)),
        KeyKind::Number => seconds(at),
    };
    let mut start = sandbox_at(after);
    start.insert(index.hash.name.to_owned(), text(hash));
    start.insert(index.range.name.to_owned(), range);
    Ok(start)
}

fn foreign_cursor(attribute: &'static str) -> StoreError {
    StoreError::Corrupt {
        item: "page cursor".to_owned(),
        attribute,
        problem: "is not the key of this listing".to_owned(),
    }
}

/// The cursor of the last key of a page: the sort key of the listing, and the attribute that identifies an item, without
/// its prefix.
pub(super) fn cursor_of(
    key: &Item,
    sort: Option<&'static str>,
    (name, prefix): (&'static str, &str),
) -> Result<PageCursor, StoreError> {
    let part = |attribute: &'static str, prefix: &str| {
        let value = match key.get(attribute) {
            Some(AttributeValue::S(value) | AttributeValue::N(value)) => value.strip_prefix(prefix),
            _ => None,
        };
        value.map(str::to_owned).ok_or_else(|| foreign_cursor(attribute))
    };
    let sort = sort.map(|sort| part(sort, "")).transpose()?.unwrap_or_default();
    Ok(PageCursor { sort, key: part(name, prefix)? })
}
