//! Whether the table answers and takes writes.

use super::attributes::number;
use super::layout::item_key;
use super::{DynamoStore, unavailable};
use parking_lot::MutexGuard;
use ports::store::StoreError;
use std::time::{Duration, Instant};

/// Key of the item that [`DynamoStore::write_ping`] writes.
const PING_KEY: (&str, &str) = ("TABLE", "PING");
/// The counter attribute.
const PINGS: &str = "pings";
/// How long the next pings only read after one was written. Readiness can be queried without a token, so it must stay
/// cheap.
const WRITTEN_AGE_MAX: Duration = Duration::from_secs(5);

impl DynamoStore {
    /// Increments a counter in a dedicated item: the cheapest write that exercises the whole path. While the last such
    /// write is recent, it only reads the item; after a failure it writes again.
    pub(super) async fn write_ping(&self) -> Result<(), StoreError> {
        const OPERATION: &str = "ping";
        if self.written().is_some_and(|at| at.elapsed() < WRITTEN_AGE_MAX) {
            return self.read_item(OPERATION, item_key(PING_KEY)).await.map(|_| ());
        }
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(PING_KEY)))
            // The number is never used, so the update needs no condition.
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
        self.written.lock()
    }
}
