//! The baseline of `bench`: the writes of one claim by the bare SDK, and their cost. No service uses this.
//!
//! It writes the same items and changes as the store, so it follows changes of the store. It leaves out candidates,
//! decoding, NATS and HTTP. For comparison it also makes the same change as one transaction over the two items.

use super::attributes::{Item, PK};
use super::expression;
use super::transitions::translate;
use super::{DynamoStore, claim, item, unavailable};
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{
    Capacity, ConsumedCapacity, Put, ReturnConsumedCapacity, ReturnValue,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use domain::{ClaimRecord, Grant, Sandbox, SandboxId, Transition, UnixSeconds};
use ports::store::StoreError;
use ports::store::index::shard_of;

/// Write units that calls consumed, as reported by the engine; zero if it reports none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WriteUnits {
    /// On the table itself.
    pub table: f64,
    /// On its indexes.
    pub indexes: f64,
}

/// A stored sandbox: what the update of a claim returns. Only the micro-benchmarks use it directly.
/// by itself.
#[derive(Clone, Debug)]
pub struct StoredSandbox(Item);

/// The index shard of a sandbox, below `shards`.
#[must_use]
pub fn shard(id: &SandboxId, shards: u16) -> u16 {
    shard_of(id, shards)
}

// === impl StoredSandbox ===

impl StoredSandbox {
    /// The item of a sandbox in an index of `shards` shards.
    #[must_use]
    pub fn of(sandbox: &Sandbox, shards: u16) -> Self {
        Self(item::encode(sandbox, shards))
    }

    /// Decodes the sandbox of the item.
    ///
    /// # Errors
    /// [`StoreError`] when an attribute is missing or invalid.
    pub fn decode(&self) -> Result<Sandbox, StoreError> {
        item::decode(&self.0)
    }
}

// === impl WriteUnits ===

impl WriteUnits {
    /// The total.
    #[must_use]
    pub fn total(self) -> f64 {
        self.table + self.indexes
    }

    fn of(consumed: &ConsumedCapacity) -> Self {
        let total = consumed.capacity_units().unwrap_or_default();
        // An engine that does not report parts either touched no index or does not tell.
        let table = consumed.table().and_then(Capacity::capacity_units).unwrap_or(total);
        Self { table, indexes: total - table }
    }
}

impl std::ops::Add for WriteUnits {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self { table: self.table + more.table, indexes: self.indexes + more.indexes }
    }
}

impl std::iter::Sum for WriteUnits {
    fn sum<I: Iterator<Item = Self>>(units: I) -> Self {
        units.fold(Self::default(), std::ops::Add::add)
    }
}

// === impl DynamoStore ===

impl DynamoStore {
    /// The two writes of a claim whose candidate is free: the claim item if absent, the sandbox if free at that
    /// version. Counting units costs the engine time, so timed calls do not ask for them.
    ///
    /// # Errors
    /// [`StoreError`] when a write fails or its condition does not hold: no other process may use the sandboxes of the
    /// baseline.
    pub async fn baseline_two_writes(
        &self,
        record: &ClaimRecord,
        grant: &Grant,
        keep_until: UnixSeconds,
        asks_units: bool,
    ) -> Result<WriteUnits, StoreError> {
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(claim::encode(record, keep_until)))
            .condition_expression("attribute_not_exists(#pk)")
            .expression_attribute_names("#pk", PK)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(asked(asks_units))
            .send()
            .await
            .map_err(|error| unavailable("baseline: put the claim item", error))?;
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item::key(&grant.candidate.id)))
            // The answer to a claim is made of what the update returns, so it belongs to the baseline.
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(asked(asks_units));
        let updated = self
            .grant_update(grant)
            .await?
            .apply(update)
            .send()
            .await
            .map_err(|error| unavailable("baseline: update the sandbox", error))?;
        let consumed = [put.consumed_capacity(), updated.consumed_capacity()];
        Ok(consumed.into_iter().flatten().map(WriteUnits::of).sum())
    }

    /// The update that a claim makes.
    async fn grant_update(&self, grant: &Grant) -> Result<expression::Update, StoreError> {
        let shards = self.write_shards().await?;
        Ok(translate(&grant.candidate.id, &Transition::grant(grant), shards))
    }

    /// The same two writes as one transaction.
    ///
    /// # Errors
    /// As [`DynamoStore::baseline_two_writes`].
    pub async fn baseline_transaction(
        &self,
        record: &ClaimRecord,
        grant: &Grant,
        keep_until: UnixSeconds,
        asks_units: bool,
    ) -> Result<WriteUnits, StoreError> {
        let incomplete = |error: BuildError| StoreError::Unavailable {
            operation: "baseline: make the transaction",
            source: Box::new(error),
        };
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(claim::encode(record, keep_until)))
            .condition_expression("attribute_not_exists(#pk)")
            .expression_attribute_names("#pk", PK)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .map_err(incomplete)?;
        let update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(item::key(&grant.candidate.id)))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let change = self.grant_update(grant).await?;
        let update = change.apply_in_transaction(update).build().map_err(incomplete)?;
        let written = self
            .client
            .transact_write_items()
            .transact_items(TransactWriteItem::builder().put(put).build())
            .transact_items(TransactWriteItem::builder().update(update).build())
            .return_consumed_capacity(asked(asks_units))
            .send()
            .await
            .map_err(|error| unavailable("baseline: write the transaction", error))?;
        Ok(written.consumed_capacity().iter().map(WriteUnits::of).sum())
    }
}

fn asked(asks_units: bool) -> ReturnConsumedCapacity {
    if asks_units { ReturnConsumedCapacity::Indexes } else { ReturnConsumedCapacity::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_units_are_split_into_table_and_indexes() {
        let table = Capacity::builder().capacity_units(2.0).build();
        let consumed = ConsumedCapacity::builder().capacity_units(5.0).table(table).build();
        let units = WriteUnits::of(&consumed);
        assert_eq!(units, WriteUnits { table: 2.0, indexes: 3.0 });
        let undivided = WriteUnits::of(&ConsumedCapacity::builder().capacity_units(1.0).build());
        assert_eq!(
            [units, undivided].into_iter().sum::<WriteUnits>(),
            WriteUnits { table: 3.0, indexes: 3.0 }
        );
        assert_eq!((units + undivided).total(), 6.0);
    }
}
