//! Turns of periodic work: a key for each, changed by compare-and-set; and the periods that pools ask for.

use super::publish::encode;
use super::throttle::{put_entry, write};
use super::{NatsBus, failed};
use async_nats::jetstream::kv::Entry;
use async_trait::async_trait;
use contract::{RequestedPeriod, TickKind, TurnTaken};
use ports::bus::{BusError, Periodic, TickTurn, TickTurns};
use std::time::Duration;

const OPERATION: &str = "take the turn of a tick";
const REQUEST: &str = "request a period of ticks";
/// Attempts on a key that is being written by another process; a replicated bucket takes a fraction of a second.
const ROUNDS_MAX: usize = 10;
/// Pause between two attempts.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// The largest number that JSON readers represent exactly.
const NUMBER_MAX: usize = (1 << 53) - 1;

#[async_trait]
impl TickTurns for NatsBus {
    async fn last_turn(&self, of: Periodic<'_>) -> Result<Option<TickTurn>, BusError> {
        let entry = put_entry(&self.bucket().await?, &of.key()).await?;
        // Only a new process needs the age of an old turn.
        self.measure_time_once().await;
        Ok(entry.map(|entry| self.turn_in(&entry)))
    }

    async fn take_turn(&self, of: Periodic<'_>, last: Option<&TickTurn>) -> Result<TickTurn, BusError> {
        let (store, key) = (self.bucket().await?, of.key());
        let mut revision = last.map(|last| last.revision);
        for _ in 0..ROUNDS_MAX {
            let number = u64::try_from(self.random.below(NUMBER_MAX)).unwrap_or_default();
            let taken = TurnTaken { number, is_first: revision.is_none() };
            if let Some(revision) = write(&store, &key, revision, encode(&taken, OPERATION)?).await? {
                let TurnTaken { number, is_first } = taken;
                return Ok(TickTurn { revision, number, is_first, age: Duration::ZERO });
            }
            match put_entry(&store, &key).await? {
                // Another write is being replicated.
                Some(entry) if Some(entry.revision) == revision => self.clock.sleep(ROUND_PAUSE).await,
                Some(entry) => return Ok(self.turn_in(&entry)),
                // The bucket was recreated.
                None => revision = None,
            }
        }
        Err(failed(OPERATION)("the key is neither changed nor as it was"))
    }

    async fn requested_period(&self, kind: TickKind) -> Result<Option<Duration>, BusError> {
        let value = self.bucket().await?.get(period_key(kind)).await.map_err(failed(REQUEST))?;
        // What cannot be read requests nothing; a reconciler replaces it.
        let requested = value.and_then(|value| serde_json::from_slice::<RequestedPeriod>(&value).ok());
        Ok(requested.and_then(|requested| requested.seconds).map(Duration::from_secs))
    }

    async fn request_period(&self, kind: TickKind, period: Option<Duration>) -> Result<(), BusError> {
        let requested = RequestedPeriod { seconds: period.map(|period| period.as_secs()) };
        let value = encode(&requested, REQUEST)?;
        self.bucket().await?.put(period_key(kind), value).await.map(|_| ()).map_err(failed(REQUEST))
    }
}

impl NatsBus {
    fn turn_in(&self, entry: &Entry) -> TickTurn {
        // An unreadable value is a turn all the same: its revision serves as the number.
        let taken = serde_json::from_slice(&entry.value)
            .unwrap_or(TurnTaken { number: entry.revision, is_first: false });
        let taken_ms = u64::try_from(entry.created.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let age_ms = self.time.range_ms().map_or(0, |(earliest_ms, _)| earliest_ms.saturating_sub(taken_ms));
        let TurnTaken { number, is_first } = taken;
        TickTurn { revision: entry.revision, number, is_first, age: Duration::from_millis(age_ms) }
    }
}

fn period_key(kind: TickKind) -> String {
    format!("period.{}", kind.as_str())
}
