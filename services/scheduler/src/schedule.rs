//! The schedule of one kind: the first turn at once, and from then on one after each period in which no scheduler has
//! taken one. The period is that of the settings, or a shorter one that a pool asks for.

use crate::Scheduler;
use contract::TickKind;
use ports::bus::{BusError, Periodic, TickTurn};
use runtime::telemetry::Chain;
use runtime::ticks::Rhythm;
use std::time::Duration;

/// Pause after a tick that could not be published; shorter than any useful period.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often a scheduler reads the period that pools ask for.
const REQUEST_REFRESH_PERIOD: Duration = Duration::from_secs(5);
/// A turn that is at most this late counts as punctual, so that the turns of a kind do not drift.
const LATE_LEFT_ALONE: Duration = Duration::from_secs(1);

/// The last known turn.
#[derive(Debug)]
struct Known {
    turn: TickTurn,
    /// Since when, on the monotonic clock.
    since: Duration,
    /// Whether its tick was published.
    is_published: bool,
}

// === impl Scheduler ===

impl Scheduler {
    pub(crate) async fn publish_for_ever(&self, kind: TickKind, rhythm: Rhythm) {
        let mut known = None;
        loop {
            if let Err(error) = self.step(kind, rhythm, &mut known).await {
                self.metrics.count(kind, "failed");
                tracing::warn!(tick.kind = kind.as_str(), error = %Chain(&error), "no tick yet");
                self.clock.sleep(RETRY_DELAY).await;
            }
        }
    }

    /// Publishes the tick of the known turn, or waits for the next one and takes it.
    async fn step(&self, kind: TickKind, rhythm: Rhythm, known: &mut Option<Known>) -> Result<(), BusError> {
        match known {
            None => {
                let of = Periodic::Tick(kind);
                let turn = match self.turns.last_turn(of).await? {
                    Some(turn) => turn,
                    None => self.turns.take_turn(of, None).await?,
                };
                *known = Some(self.seen(turn));
            }
            // Also for a turn of another scheduler, which may have crashed before publishing.
            Some(known) if !known.is_published => {
                let receipt = self.ticks.tick(kind, Some((known.turn.number, rhythm.period))).await?;
                self.metrics.count(kind, if receipt.duplicate { "duplicate" } else { "first" });
                // The turn of another scheduler may be old.
                self.metrics.ticked(kind, self.clock.now().before(known.turn.age).get());
                known.is_published = true;
            }
            Some(Known { turn, since, .. }) => {
                // Without an answer the settings decide; a tick is missed at most until the next look.
                let requested = self.turns.requested_period(kind).await.unwrap_or_else(|error| {
                    tracing::debug!(tick.kind = kind.as_str(), error = %Chain(&error), "no period of the pools");
                    None
                });
                let due = since.saturating_add(rhythm.at_most(requested).wait_after(turn.is_first));
                let wait = due.saturating_sub(self.clock.monotonic());
                self.clock.sleep(wait.min(REQUEST_REFRESH_PERIOD)).await;
                if wait > REQUEST_REFRESH_PERIOD {
                    return Ok(());
                }
                let next = self.turns.take_turn(Periodic::Tick(kind), Some(turn)).await?;
                let late = self.clock.monotonic().saturating_sub(due);
                let is_in_time = next.age.is_zero() && late <= LATE_LEFT_ALONE;
                let seen = self.seen(next);
                *known = Some(if is_in_time { Known { since: due, ..seen } } else { seen });
            }
        }
        Ok(())
    }

    fn seen(&self, turn: TickTurn) -> Known {
        let since = self.clock.monotonic().saturating_sub(turn.age);
        Known { turn, since, is_published: false }
    }
}

#[cfg(test)]
mod tests;
