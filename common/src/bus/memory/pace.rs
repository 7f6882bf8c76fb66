//! The fleet's common pace: one moment that every taker moves on.

use super::{Call, MemoryBus};
use crate::bus::{BusError, Pace};
use async_trait::async_trait;
use std::time::Duration;

/// Milliseconds in a minute.
const MINUTE_MS: u64 = 60_000;

/// The line towards the provider.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Next free moment, in milliseconds since the Unix epoch.
    next_ms: u64,
}

#[async_trait]
impl Pace for MemoryBus {
    async fn take(&self) -> Result<Duration, BusError> {
        let spacing_ms = MINUTE_MS.div_ceil(self.shared.config.deletions_per_minute.max(1));
        self.call(Call::TakePace, |inside, now_ms| {
            let slot_ms = inside.pace.next_ms.max(now_ms);
            inside.pace.next_ms = slot_ms.saturating_add(spacing_ms);
            Duration::from_millis(slot_ms.saturating_sub(now_ms))
        })
    }

    async fn hold(&self, span: Duration) -> Result<(), BusError> {
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.call(Call::HoldPace, |inside, now_ms| {
            inside.pace.next_ms = inside.pace.next_ms.max(now_ms.saturating_add(span_ms));
        })
    }
}
