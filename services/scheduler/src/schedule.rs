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
        let rhythm = self.config.rhythm(kind);
        let mut published = None;
        loop {
            // Looked up anew each time: after a clock step or a suspended process, the slot of now is what counts.
            let slot = rhythm.slot_at(self.clock.now_ms());
            if published != Some(slot) && !self.publish(kind, slot).await {
                self.clock.sleep(RETRY_DELAY).await;
                continue;
            }
            published = Some(slot);
            // By the moment and not by a span, so that nothing that takes time makes the next one late.
            self.clock.sleep_until(rhythm.start_ms(slot.saturating_add(1))).await;
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

    #[tokio::test]
    async fn three_schedulers_leave_one_tick_in_each_slot() {
        let clock = ManualClock::at(UnixSeconds::new(1_000_000));
        let stream = Arc::new(Stream::default());
        let stop = CancellationToken::new();
        let every = |seconds| crate::Rhythm { period: Duration::from_secs(seconds), offset: Duration::ZERO };
        let config = crate::Config {
            sync: every(600),
            expiry: every(10),
            sweep: every(60),
            census: every(15),
            stale: every(3_600),
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
        // Ten minutes, in steps that miss no slot.
        assert_eq!(TickKind::ALL.map(slots_of), [2, 61, 11, 41, 1]);
        assert_eq!(kept.1, 3 * (2 + 61 + 11 + 41 + 1));
    }
}
