//! Inspects and repairs the queue and the parked messages.

use super::work::{Kind as _, WorkStreams};
use super::{Call, MemoryBus, failed};
use async_trait::async_trait;
use contract::ParkedDeletion;
use contract::subjects::UNREADABLE;
use domain::{PoolName, SandboxId, UnixSeconds};
use ports::bus::intake;
use ports::bus::{Announced, BusError, EventLogState, ParkedKey, ParkedMessage, QueuedMessage, Upkeep};

#[async_trait]
impl Upkeep for MemoryBus {
    /// Nothing can be missing in memory.
    async fn mend(&self) -> Result<bool, BusError> {
        self.read("look for a stream", |_| false)
    }

    async fn queued(&self, after: u64, limit: usize) -> Result<Vec<QueuedMessage>, BusError> {
        let mut found = self.read("read a stream", |inside| inside.deletions.all())?;
        found.retain(|message| message.sequence > after);
        found.sort_by_key(|message| message.sequence);
        found.truncate(limit);
        Ok(found)
    }

    async fn queued_of(&self, pool: &PoolName, id: &SandboxId) -> Result<Vec<QueuedMessage>, BusError> {
        self.read("read a stream", |inside| inside.deletions.of_key(&format!("{pool}.{id}")))
    }

    async fn handed_out(&self, pool: &PoolName) -> Result<u64, BusError> {
        let pool = pool.as_str();
        self.read("look for a consumer", |inside| inside.deletions.work.handed_out(pool))
    }

    async fn unqueue(&self, sequence: u64) -> Result<bool, BusError> {
        self.call(Call::Unqueue, |inside, _| inside.deletions.remove(sequence))
    }

    async fn parked(
        &self,
        pool: Option<&PoolName>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<ParkedMessage>, BusError> {
        let mut found = self.read("read a stream", |inside| inside.deletions.all_parked())?;
        found.retain(|message| {
            let is_of_pool = match (&message.key, pool) {
                (_, None) => true,
                (ParkedKey::Sandbox { pool, .. }, Some(wanted)) => pool == wanted,
                (ParkedKey::Unreadable(_), Some(_)) => false,
            };
            is_of_pool && message.sequence > after
        });
        found.sort_by_key(|message| message.sequence);
        found.truncate(limit);
        Ok(found)
    }

    async fn parked_of(&self, key: &ParkedKey) -> Result<Option<ParkedMessage>, BusError> {
        let found = self.read("read a stream", |inside| inside.deletions.all_parked())?;
        Ok(found.into_iter().find(|message| message.key == *key))
    }

    async fn unpark(&self, sequence: u64) -> Result<bool, BusError> {
        self.call(Call::Unpark, |inside, _| inside.deletions.remove_parked(sequence))
    }

    async fn drop_parked_provisions(&self, before: UnixSeconds, limit: usize) -> Result<usize, BusError> {
        self.call(Call::Unpark, |inside, _| inside.provisions.drop_parked(before, limit))
    }

    async fn park_again(&self, parked: &ParkedDeletion) -> Result<Announced, BusError> {
        let key = parked.work.key().map_err(failed("park a deletion again"))?;
        let copy = super::deletions::copy_of(parked)?;
        self.call(Call::Park, |inside, _| inside.deletions.park_again(key, copy))
    }

    async fn event_log_state(&self) -> Result<EventLogState, BusError> {
        self.read("look at the event log", |inside| inside.events.state())
    }

    async fn note_rebuilt(&self, state: &EventLogState) -> Result<bool, BusError> {
        self.look(|inside, _| Ok(inside.events.note_rebuilt(state)))
    }
}

// === impl WorkStreams ===

impl WorkStreams {
    fn all(&self) -> Vec<QueuedMessage> {
        self.messages(|_| true)
    }

    fn of_key(&self, wanted: &str) -> Vec<QueuedMessage> {
        self.messages(|key| key == wanted)
    }

    fn messages(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<QueuedMessage> {
        let waiting = self.work.messages().map(|(sequence, key, payload, since)| {
            (
                key,
                QueuedMessage {
                    sequence,
                    work: intake::deletion_work(payload).ok(),
                    is_put_off: false,
                    due_at: None,
                    since,
                },
            )
        });
        let put_off = self.retries.iter().map(|(key, retry)| {
            let work = intake::deletion_work(&retry.payload).ok();
            let (sequence, since) = (retry.sequence, retry.since);
            let due_at = Some(UnixSeconds::new(retry.due_ms.div_ceil(1_000)));
            (key.as_str(), QueuedMessage { sequence, work, is_put_off: true, due_at, since })
        });
        let all = waiting.chain(put_off);
        all.filter(|(key, _)| is_wanted(key)).map(|(_, message)| message).collect()
    }

    fn drop_parked(&mut self, before: UnixSeconds, limit: usize) -> usize {
        let copies = self.parked.iter().filter(|(_, (_, copy))| copy.parked_at < before);
        let mut old: Vec<_> = copies.map(|(key, (sequence, _))| (*sequence, key.clone())).collect();
        old.sort();
        old.truncate(limit);
        old.iter().filter(|(_, key)| self.parked.remove(key).is_some()).count()
    }

    fn remove(&mut self, sequence: u64) -> bool {
        let retries = self.retries.len();
        self.retries.retain(|_, retry| retry.sequence != sequence);
        self.work.finish(sequence) || self.retries.len() < retries
    }

    fn all_parked(&self) -> Vec<ParkedMessage> {
        let messages = self.parked.iter().filter_map(|(key, (sequence, copy))| {
            let (pool, last) = key.split_once('.')?;
            let key = if pool == UNREADABLE {
                ParkedKey::Unreadable(last.parse().ok()?)
            } else {
                ParkedKey::Sandbox { pool: PoolName::parse(pool).ok()?, id: SandboxId::parse(last).ok()? }
            };
            Some(ParkedMessage {
                sequence: *sequence,
                key,
                reason: copy.reason.clone(),
                parked_at: copy.parked_at,
                attempts: copy.attempts,
                work: intake::deletion_work(&copy.payload).ok(),
            })
        });
        messages.collect()
    }

    fn remove_parked(&mut self, sequence: u64) -> bool {
        let before = self.parked.len();
        self.parked.retain(|_, (place, _)| *place != sequence);
        self.parked.len() < before
    }
}
