//! One kind's schedule: the slot of this moment, at once and then at every boundary.

use crate::Scheduler;
use common::contract::TickKind;
use common::runtime::telemetry::Chain;
use std::time::Duration;

/// Pause after a tick that could not be published; shorter than any period that matters.
const RETRY_DELAY: Duration = Duration::from_secs(1);

// === impl Scheduler ===

impl Scheduler {
    pub(crate) async fn publish_for_ever(&self, kind: TickKind) {
        let period_ms = u64::try_from(self.config.period(kind).as_millis()).unwrap_or(u64::MAX);
        let mut published = None;
        loop {
            // Looked up anew each time: after a clock step or a suspended process, the slot of now is what counts.
            let slot = slot_at(self.clock.now_ms(), period_ms);
            if published != Some(slot) && !self.publish(kind, slot).await {
                self.clock.sleep(RETRY_DELAY).await;
                continue;
            }
            published = Some(slot);
            self.clock.sleep(until_next(self.clock.now_ms(), period_ms)).await;
        }
    }

    async fn publish(&self, kind: TickKind, slot: u64) -> bool {
        match self.ticks.tick(kind, Some(slot)).await {
            Ok(receipt) => {
                self.metrics.count(kind, if receipt.duplicate { "duplicate" } else { "first" });
                true
            }
            Err(error) => {
                self.metrics.count(kind, "failed");
                tracing::warn!(tick.kind = kind.as_str(), tick.slot = slot, error = %Chain(&error), "no tick yet");
                false
            }
        }
    }
}

/// The number of the slot that a moment is in.
fn slot_at(now_ms: u64, period_ms: u64) -> u64 {
    now_ms / period_ms.max(1)
}

/// Time from a moment to the beginning of the next slot.
fn until_next(now_ms: u64, period_ms: u64) -> Duration {
    let period_ms = period_ms.max(1);
    Duration::from_millis(period_ms - now_ms % period_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use common::bus::{BusError, TickReceipt, Ticks};
    use common::clock::ManualClock;
    use common::contract::RunReport;
    use common::domain::UnixSeconds;
    use std::collections::HashSet;
    use std::sync::{Arc, Mutex};
    use tokio_util::sync::CancellationToken;

    /// A stream that keeps the first tick of each slot.
    #[derive(Default)]
    struct Stream(Mutex<(HashSet<(TickKind, u64)>, u64)>);

    #[async_trait]
    impl Ticks for Stream {
        async fn tick(&self, kind: TickKind, slot: Option<u64>) -> Result<TickReceipt, BusError> {
            let mut kept = self.0.lock().unwrap();
            let duplicate = !kept.0.insert((kind, slot.unwrap()));
            kept.1 += 1;
            Ok(TickReceipt { sequence: kept.1, duplicate })
        }

        async fn tick_and_wait(
            &self,
            kind: TickKind,
            _patience: Duration,
        ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
            Ok((self.tick(kind, Some(0)).await?, None))
        }

        async fn last_report(&self, _kind: TickKind) -> Result<Option<RunReport>, BusError> {
            Ok(None)
        }
    }

    async fn settle() {
        // Every task runs until it waits for the clock again.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn slots_follow_the_clock_and_do_not_drift() {
        assert_eq!(slot_at(59_999, 10_000), 5);
        assert_eq!(until_next(59_999, 10_000), Duration::from_millis(1));
        assert_eq!(until_next(60_000, 10_000), Duration::from_secs(10));
    }

    #[tokio::test]
    async fn three_schedulers_leave_one_tick_in_each_slot() {
        let clock = ManualClock::at(UnixSeconds::new(1_000_000));
        let stream = Arc::new(Stream::default());
        let stop = CancellationToken::new();
        let config = crate::Config {
            sync: Duration::from_secs(600),
            expiry: Duration::from_secs(10),
            sweep: Duration::from_secs(60),
        };
        let registry = prometheus::Registry::new();
        let metrics = crate::Metrics::register(&registry).unwrap();
        let running: Vec<_> = (0..3)
            .map(|_| {
                let ticks = Arc::clone(&stream) as Arc<dyn Ticks>;
                let scheduler = Scheduler::new(config, Arc::new(clock.clone()), ticks, metrics.clone());
                tokio::spawn(scheduler.run(stop.clone()))
            })
            .collect();
        settle().await;
        for _ in 0..60 {
            clock.advance(Duration::from_secs(10));
            settle().await;
        }
        stop.cancel();
        for scheduler in running {
            scheduler.await.unwrap().unwrap();
        }
        let kept = stream.0.lock().unwrap();
        let slots_of = |kind| kept.0.iter().filter(|(of, _)| *of == kind).count();
        assert_eq!(
            (slots_of(TickKind::Expiry), slots_of(TickKind::Sweep), slots_of(TickKind::Sync)),
            (61, 11, 2)
        );
        assert_eq!(kept.1, 3 * (61 + 11 + 2));
    }
}
