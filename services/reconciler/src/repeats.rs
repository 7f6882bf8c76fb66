//! Repeats of failed runs: with back-off, and sooner than the next scheduled tick.

use crate::Ports;
use contract::{RunStatus, TickKind};
use parking_lot::Mutex;
use ports::backoff::longest_pause;
use runtime::telemetry::Chain;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Pause after the first failure; it doubles with each further one.
const REPEAT_DELAY_MIN: Duration = Duration::from_secs(5);
/// Longest pause. A kind with a shorter period is repeated by its schedule.
const REPEAT_DELAY_MAX: Duration = Duration::from_secs(300);

/// The failures of one kind in a row, and the repeat that waits.
#[derive(Default)]
pub(crate) struct Repeats(Mutex<(u32, JoinSet<()>)>);

// === impl Repeats ===

impl Repeats {
    /// Notes the end of a run. After a failure a tick follows, unless another run ends before.
    pub(crate) fn note(&self, ports: &Ports, kind: TickKind, status: RunStatus) {
        let (failures, waiting) = &mut *self.0.lock();
        // Dropping the set ends the repeat that waits.
        *waiting = JoinSet::new();
        if status != RunStatus::Failed {
            *failures = 0;
            return;
        }
        *failures = failures.saturating_add(1);
        let pause = longest_pause(REPEAT_DELAY_MIN, REPEAT_DELAY_MAX, *failures);
        let (clock, ticks) = (Arc::clone(&ports.clock), Arc::clone(&ports.ticks));
        waiting.spawn(async move {
            clock.sleep(pause).await;
            if let Err(error) = ticks.tick(kind, None).await {
                tracing::debug!(tick.kind = kind.as_str(), error = %Chain(&error), "a failed run is not repeated");
            }
        });
    }
}

#[cfg(test)]
mod tests;
