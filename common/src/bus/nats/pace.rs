//! The fleet's common pace: one key with the next free moment, moved on by compare-and-set.
//!
//! Every call takes a place in a line whose places lie evenly apart (a generic cell rate with no burst), so
//! the fleet never goes over its limit in any minute, however many workers there are.

use super::{NatsBus, failed};
use crate::bus::{BusError, Pace};
use async_nats::jetstream::kv::{CreateErrorKind, Store, UpdateErrorKind};
use async_trait::async_trait;
use bytes::Bytes;
use std::time::Duration;

/// Key of the next free moment towards the provider, in milliseconds since the Unix epoch.
const PACE_KEY: &str = "pace.provider";
/// Rounds that a writer may lose before it gives up. Each lost round is another worker's progress, so only
/// a bucket that is out of order gets there.
const ROUNDS_MAX: u32 = 1_000;
/// Milliseconds in a minute.
const MINUTE_MS: u64 = 60_000;

#[async_trait]
impl Pace for NatsBus {
    async fn take(&self) -> Result<Duration, BusError> {
        let spacing_ms = MINUTE_MS.div_ceil(self.config.deletions_per_minute.max(1));
        let (slot_ms, now_ms) = self
            .move_on(|next_ms, now_ms| {
                let slot_ms = next_ms.max(now_ms);
                (slot_ms, slot_ms.saturating_add(spacing_ms))
            })
            .await?;
        Ok(Duration::from_millis(slot_ms.saturating_sub(now_ms)))
    }

    async fn hold(&self, span: Duration) -> Result<(), BusError> {
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.move_on(|next_ms, now_ms| (next_ms, next_ms.max(now_ms.saturating_add(span_ms)))).await?;
        Ok(())
    }
}

impl NatsBus {
    /// Replaces the next free moment by what `step` makes of it and of the time; gives back the first part of
    /// what `step` said, and that time.
    async fn move_on(&self, step: impl Fn(u64, u64) -> (u64, u64) + Send) -> Result<(u64, u64), BusError> {
        let store = self.bucket().await?;
        for _ in 0..ROUNDS_MAX {
            let entry = store.entry(PACE_KEY).await.map_err(failed("read the pace"))?;
            let (next_ms, revision) = match &entry {
                Some(entry) if entry.operation == async_nats::jetstream::kv::Operation::Put => {
                    (parse(&entry.value), Some(entry.revision))
                }
                _ => (0, None),
            };
            let now_ms = self.clock.now_ms();
            let (answer, new_next_ms) = step(next_ms, now_ms);
            if write(&store, revision, new_next_ms).await? {
                return Ok((answer, now_ms));
            }
        }
        Err(failed("move the pace on")("too many lost rounds"))
    }
}

async fn write(store: &Store, revision: Option<u64>, next_ms: u64) -> Result<bool, BusError> {
    let value = Bytes::from(next_ms.to_string());
    match revision {
        Some(revision) => match store.update(PACE_KEY, value, revision).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(failed("move the pace on")(error)),
        },
        None => match store.create(PACE_KEY, value).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed("move the pace on")(error)),
        },
    }
}

/// An unreadable value counts as "free now": the next writer puts it right.
fn parse(value: &Bytes) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}
