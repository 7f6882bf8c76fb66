//! Whether the table answers and takes writes.

use super::attributes::number;
use super::layout::item_key;
use super::{DynamoStore, unavailable};
use ports::store::StoreError;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Key of the item that [`DynamoStore::write_ping`] writes.
const PING_KEY: (&str, &str) = ("TABLE", "PING");
/// What it counts.
const PINGS: &str = "pings";
/// How long a ping that was written stands for the next ones, which only read: anybody may ask for readiness.
const WRITTEN_AGE_MAX: Duration = Duration::from_secs(5);

impl DynamoStore {
    /// Counts in an item of its own: the cheapest write that goes all the way. Reads that item while the last such write is
    /// young; after a failure the next one writes again.
    pub(super) async fn write_ping(&self) -> Result<(), StoreError> {
        const OPERATION: &str = "ping";
        if self.written().is_some_and(|at| at.elapsed() < WRITTEN_AGE_MAX) {
            return self.read_item(OPERATION, item_key(PING_KEY)).await.map(|_| ());
        }
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(PING_KEY)))
            // Nothing reads the number, so it needs no condition.
            .update_expression("ADD #pings :one")
            .expression_attribute_names("#pings", PINGS)
            .expression_attribute_values(":one", number(1_u64))
            .send()
            .await
            .map_err(|error| unavailable(OPERATION, error))?;
        *self.written() = Some(Instant::now());
        Ok(())
    }

    fn written(&self) -> MutexGuard<'_, Option<Instant>> {
        // Set at once, so a poisoned lock holds a sound state.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
