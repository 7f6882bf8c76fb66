//! The highest mark of the table, under a key of the bucket.

use super::publish::encode;
use super::throttle::{put_entry, write};
use super::{NatsBus, failed};
use async_nats::jetstream::kv::Entry;
use async_trait::async_trait;
use contract::KnownMark;
use ports::bus::{BusError, TableMarks};
use std::time::Duration;

/// Key of the mark.
const MARK_KEY: &str = "table.mark";
const OPERATION: &str = "keep the mark of the table";
/// Attempts to raise a key that other processes raise at the same time.
const ROUNDS_MAX: usize = 10;
/// Pause between two attempts.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

#[async_trait]
impl TableMarks for NatsBus {
    async fn known_mark(&self) -> Result<Option<KnownMark>, BusError> {
        self.refuse_unconnected(OPERATION)?;
        Ok(put_entry(&self.bucket().await?, MARK_KEY).await?.as_ref().map(mark_in))
    }

    async fn raise_mark(&self, mark: KnownMark) -> Result<(), BusError> {
        self.refuse_unconnected(OPERATION)?;
        let (store, value) = (self.bucket().await?, encode(&mark, OPERATION)?);
        for _ in 0..ROUNDS_MAX {
            let entry = put_entry(&store, MARK_KEY).await?;
            if entry.as_ref().is_some_and(|entry| mark_in(entry).number >= mark.number) {
                return Ok(());
            }
            let revision = entry.map(|entry| entry.revision);
            if write(&store, MARK_KEY, revision, value.clone()).await?.is_some() {
                return Ok(());
            }
            self.clock.sleep(ROUND_PAUSE).await;
        }
        Err(failed(OPERATION)("other processes were faster every time"))
    }

    fn is_reachable(&self) -> bool {
        self.connected()
    }
}

/// An unreadable value counts as no mark, and the next one replaces it.
fn mark_in(entry: &Entry) -> KnownMark {
    serde_json::from_slice(&entry.value).unwrap_or_default()
}
