//! Data about the table itself: one item with the number of shards, and one item for each pool with the moment of its
//! last supply.

use super::attributes::{AT, Fields, Item, PK, SK, key_text, number, seconds, text};
use super::expression::Update;
use super::{DynamoStore, unavailable};
use async_trait::async_trait;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use domain::{DeletionSwitch, PoolName, UnixSeconds};
use parking_lot::{Mutex, MutexGuard};
use ports::store::StoreError;
use ports::store::layout::{
    Agreed, Layout, SHARDS_AGE_MAX, SHARDS_MAX, Shards, Supply, TableMark, settles_at, wanted_shards,
};
use std::collections::BTreeSet;
use std::time::Instant;

/// Key of the item with the number of shards.
const LAYOUT_KEY: (&str, &str) = ("TABLE", "LAYOUT");
/// Key of the item with the names of all pools.
const POOLS_KEY: (&str, &str) = ("TABLE", "POOLS");
/// The names, as a set.
const NAMES: &str = "names";
/// Beginning of the partition key of a pool's items.
pub(super) const POOL_PREFIX: &str = "POOL#";
/// Sort key of the item with a pool's last supply.
const SUPPLY_SORT: &str = "SUPPLY";
const SHARDS_WRITE: &str = "shards_write";
const SHARDS_READ: &str = "shards_read";
const SHARDS_READ_SINCE: &str = "shards_read_since";

/// The number of shards, cached by this process.
#[derive(Debug, Default)]
pub(super) struct Known {
    last: Mutex<Option<(Shards, Instant)>>,
    /// Held by the caller that reads the table; the others wait and share the result.
    looking: tokio::sync::Mutex<()>,
}

// === impl Known ===

impl Known {
    fn last(&self) -> MutexGuard<'_, Option<(Shards, Instant)>> {
        self.last.lock()
    }

    fn young(&self) -> Option<Shards> {
        self.last().filter(|(_, asked)| asked.elapsed() <= SHARDS_AGE_MAX).map(|(shards, _)| shards)
    }
}

#[async_trait]
impl Layout for DynamoStore {
    async fn shards(&self) -> Result<u16, StoreError> {
        if let Some(shards) = self.known.young() {
            return Ok(shards.read);
        }
        let _looking = self.known.looking.lock().await;
        match self.known.young() {
            Some(shards) => Ok(shards.read),
            None => Ok(self.look_at_shards().await?.read),
        }
    }

    async fn follow_size(&self, sandboxes: u64, now: UnixSeconds) -> Result<Shards, StoreError> {
        let seen = self.look_at_shards().await?;
        let Some(next) = seen.towards(wanted_shards(self.shards_set, sandboxes), now) else {
            return Ok(seen);
        };
        let change = Update::default()
            .set(SHARDS_WRITE, number(next.write))
            .set(SHARDS_READ, number(next.read))
            .set(SHARDS_READ_SINCE, seconds(next.read_since))
            .only_if(SHARDS_WRITE, number(seen.write))
            .only_if(SHARDS_READ, number(seen.read));
        let request = self.client.update_item().table_name(&self.table).set_key(Some(layout_key()));
        match change.apply(request).send().await {
            Ok(_) => tracing::info!(
                shards.write = next.write,
                shards.read = next.read,
                "the index is written in {} shards and read in {}",
                next.write,
                next.read,
            ),
            Err(error) => match error.as_service_error() {
                // Another process was faster; the next sync continues from what it wrote.
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => {}
                _ => return Err(unavailable("follow_size", error)),
            },
        }
        self.look_at_shards().await
    }

    async fn note_supply(&self, pool: &PoolName, now: UnixSeconds) -> Result<(), StoreError> {
        let sent = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(supply_key(pool)))
            .update_expression("SET #at = :now")
            // The moment only moves forward; a writer with an older one finds its moment covered already.
            .condition_expression("attribute_not_exists(#at) OR #at < :now")
            .expression_attribute_names("#at", AT)
            .expression_attribute_values(":now", seconds(now))
            .send()
            .await;
        let Err(error) = sent else { return Ok(()) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(()),
            _ => Err(unavailable("note_supply", error)),
        }
    }

    async fn supply(&self, pool: &PoolName) -> Result<Supply, StoreError> {
        let (shards, found) =
            tokio::try_join!(self.look_at_shards(), self.read_item("supply", supply_key(pool)))?;
        let supplied_at = match &found {
            Some(item) => Some(Fields::new(item, &key_text(item)).seconds(AT)?),
            None => None,
        };
        Ok(Supply { shards: shards.read, settles_at: settles_at(supplied_at, self.index_lag) })
    }

    async fn pools(&self) -> Result<BTreeSet<PoolName>, StoreError> {
        let found = self.read_item("pools", item_key(POOLS_KEY)).await?;
        let Some(AttributeValue::Ss(names)) = found.as_ref().and_then(|item| item.get(NAMES)) else {
            return Ok(BTreeSet::new());
        };
        // A name that is not valid here belongs to another build.
        Ok(names.iter().filter_map(|name| PoolName::parse(name).ok()).collect())
    }

    async fn note_pools(&self, pools: &BTreeSet<PoolName>) -> Result<(), StoreError> {
        let names = pools.iter().map(ToString::to_string).collect();
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(POOLS_KEY)))
            // A set only grows by this, even with concurrent writers, so the update needs no condition.
            .update_expression("ADD #names :names")
            .expression_attribute_names("#names", NAMES)
            .expression_attribute_values(":names", AttributeValue::Ss(names))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| unavailable("note_pools", error))
    }

    async fn deletion_switch(&self) -> Result<Option<DeletionSwitch>, StoreError> {
        self.read_switch().await
    }

    async fn set_deletion_switch(&self, next: &DeletionSwitch) -> Result<bool, StoreError> {
        self.write_switch(next).await
    }

    async fn agreed(&self) -> Result<Agreed, StoreError> {
        self.read_agreed().await
    }

    async fn agree(&self, own: &Agreed, replaces: bool) -> Result<Agreed, StoreError> {
        self.write_agreed(own, replaces).await
    }

    async fn mark(&self) -> Result<TableMark, StoreError> {
        self.read_mark().await
    }

    async fn advance_mark(&self, seen: &TableMark, next: &TableMark) -> Result<bool, StoreError> {
        self.write_mark(seen, next).await
    }
}

// === impl DynamoStore ===

impl DynamoStore {
    /// The shards to write to. Even an old value is safe: readers read at least as many.
    pub(super) async fn write_shards(&self) -> Result<u16, StoreError> {
        let known = self.known.last().map(|(shards, _)| shards.write);
        match known {
            Some(write) => Ok(write),
            None => Ok(self.look_at_shards().await?.write),
        }
    }

    /// The number of shards in the table; the first process to read it writes it.
    async fn look_at_shards(&self) -> Result<Shards, StoreError> {
        let asked = Instant::now();
        let shards = match self.read_item("shards", layout_key()).await? {
            Some(item) => decode(&item)?,
            None => self.put_shards().await?,
        };
        *self.known.last() = Some((shards, asked));
        Ok(shards)
    }

    async fn put_shards(&self) -> Result<Shards, StoreError> {
        // Valid from the beginning: the table has nothing that a reader could miss.
        let fresh = Shards::fresh(self.shards_set, UnixSeconds::new(0));
        match self.put_if_absent("shards", encode(fresh)).await? {
            None => Ok(fresh),
            Some(found) => decode(&found),
        }
    }

    /// Writes an item unless one with its key exists; returns the existing one.
    pub(super) async fn put_if_absent(
        &self,
        operation: &'static str,
        item: Item,
    ) -> Result<Option<Item>, StoreError> {
        let sent = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(#pk)")
            .expression_attribute_names("#pk", PK)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = sent else { return Ok(None) };
        let found = match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(refused)) => refused.item().cloned(),
            _ => None,
        };
        found.map(Some).ok_or_else(|| unavailable(operation, error))
    }

    pub(super) async fn read_item(
        &self,
        operation: &'static str,
        key: Item,
    ) -> Result<Option<Item>, StoreError> {
        let found = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| unavailable(operation, error))?;
        Ok(found.item)
    }
}

pub(super) fn item_key((hash, range): (&str, &str)) -> Item {
    Item::from([(PK.to_owned(), text(hash)), (SK.to_owned(), text(range))])
}

fn layout_key() -> Item {
    item_key(LAYOUT_KEY)
}

fn supply_key(pool: &PoolName) -> Item {
    Item::from([(PK.to_owned(), text(format!("{POOL_PREFIX}{pool}"))), (SK.to_owned(), text(SUPPLY_SORT))])
}

fn encode(shards: Shards) -> Item {
    let mut item = layout_key();
    item.insert(SHARDS_WRITE.to_owned(), number(shards.write));
    item.insert(SHARDS_READ.to_owned(), number(shards.read));
    item.insert(SHARDS_READ_SINCE.to_owned(), seconds(shards.read_since));
    item
}

fn decode(item: &Item) -> Result<Shards, StoreError> {
    let key = key_text(item);
    let fields = Fields::new(item, &key);
    let count = |attribute| {
        let count = fields.number(attribute)?;
        match u16::try_from(count) {
            Ok(count @ 1..=SHARDS_MAX) => Ok(count),
            _ => Err(fields.corrupt(attribute, format!("is not from 1 to {SHARDS_MAX}"))),
        }
    };
    let shards = Shards {
        write: count(SHARDS_WRITE)?,
        read: count(SHARDS_READ)?,
        read_since: fields.seconds(SHARDS_READ_SINCE)?,
    };
    if shards.write > shards.read {
        return Err(fields.corrupt(SHARDS_WRITE, "is more than shards_read"));
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_item_round_trips() {
        let shards = Shards { write: 8, read: 32, read_since: UnixSeconds::new(7) };
        assert_eq!(decode(&encode(shards)).unwrap(), shards);
    }

    #[test]
    fn a_layout_that_hides_sandboxes_is_refused() {
        let since = UnixSeconds::new(0);
        for (write, read) in [(9, 8), (0, 8), (8, SHARDS_MAX + 1)] {
            assert!(decode(&encode(Shards { write, read, read_since: since })).is_err(), "{write} of {read}");
        }
    }
}
