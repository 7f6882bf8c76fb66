//! A work queue: a message stays until it is finished, and one worker has it at a time.

use bytes::Bytes;
use domain::UnixSeconds;
use std::collections::BTreeMap;

/// Messages in order.
#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    last_sequence: u64,
    /// The lane that was served last.
    last_lane: String,
    messages: BTreeMap<u64, Message>,
}

#[derive(Debug)]
struct Message {
    key: String,
    payload: Bytes,
    since: UnixSeconds,
    deliveries: u64,
    place: Place,
}

/// The state of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No worker has it.
    Waiting,
    /// With a worker that is alive.
    UnderWay,
    /// Its worker ended without a verdict; that is certain after this moment.
    Left { until_ms: u64 },
}

/// The messages of one lane.
#[derive(Debug, Default)]
struct Lane {
    oldest: Option<u64>,
    under_way: usize,
}

/// A message that a worker has.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) sequence: u64,
    pub(super) key: String,
    pub(super) payload: Bytes,
    /// Number of deliveries, this one included.
    pub(super) deliveries: u64,
}

// === impl WorkQueue ===

impl WorkQueue {
    /// Adds a message and returns its sequence.
    pub(super) fn push(&mut self, key: String, payload: Bytes, now_ms: u64) -> u64 {
        let sequence = self.next_sequence();
        let since = UnixSeconds::new(now_ms / 1_000);
        let message = Message { key, payload, since, deliveries: 0, place: Place::Waiting };
        self.messages.insert(sequence, message);
        sequence
    }

    /// The last sequence that was given; 0 before the first.
    pub(super) const fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Reserves a sequence for something that is not work yet.
    pub(super) fn next_sequence(&mut self) -> u64 {
        self.last_sequence += 1;
        self.last_sequence
    }

    /// Sequence, key, payload and age of all messages, oldest first.
    pub(super) fn messages(&self) -> impl Iterator<Item = (u64, &str, &Bytes, UnixSeconds)> {
        let messages = self.messages.iter();
        messages.map(|(sequence, message)| (*sequence, message.key.as_str(), &message.payload, message.since))
    }

    /// Sequences of the messages with that key, oldest first.
    pub(super) fn of_key(&self, key: &str) -> impl DoubleEndedIterator<Item = u64> {
        self.messages.iter().filter(move |(_, message)| message.key == key).map(|(sequence, _)| *sequence)
    }

    /// Payloads of all messages, oldest first.
    pub(super) fn payloads(&self) -> impl Iterator<Item = &Bytes> {
        self.messages.values().map(|message| &message.payload)
    }

    /// Keys of all messages, and whether each one waits.
    pub(super) fn places(&self) -> impl Iterator<Item = (&str, bool)> {
        self.messages.values().map(|message| (message.key.as_str(), message.place == Place::Waiting))
    }

    /// The last delivered sequence of a lane; zero if none is with a worker.
    pub(super) fn handed_out(&self, lane: &str) -> u64 {
        let messages = self.messages.iter().rev();
        let mut with_workers = messages
            .filter(|(_, message)| lane_of(&message.key) == lane && message.place != Place::Waiting)
            .map(|(sequence, _)| *sequence);
        with_workers.next().unwrap_or_default()
    }

    /// Number of messages in any state.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Gives a waiting message with a matching key to a worker: the oldest of a lane (the key up to a dot), lane after
    /// lane, while workers have fewer than `in_flight_max` messages of a lane.
    pub(super) fn take(
        &mut self,
        now_ms: u64,
        in_flight_max: usize,
        is_wanted: impl Fn(&str, &Bytes) -> bool,
    ) -> Option<Taken> {
        for message in self.messages.values_mut() {
            if matches!(message.place, Place::Left { until_ms } if until_ms <= now_ms) {
                message.place = Place::Waiting;
            }
        }
        let mut lanes: BTreeMap<&str, Lane> = BTreeMap::new();
        for (sequence, message) in self.messages.iter() {
            if !is_wanted(&message.key, &message.payload) {
                continue;
            }
            let lane = lanes.entry(lane_of(&message.key)).or_default();
            match message.place {
                Place::Waiting => lane.oldest = lane.oldest.or(Some(*sequence)),
                Place::UnderWay | Place::Left { .. } => lane.under_way += 1,
            }
        }
        let ready = |lane: &Lane| lane.oldest.filter(|_| lane.under_way < in_flight_max);
        let after_last = lanes.iter().filter(|(name, _)| **name > self.last_lane.as_str());
        let sequence = after_last.chain(lanes.iter()).find_map(|(_, lane)| ready(lane))?;
        let message = self.messages.get_mut(&sequence)?;
        lane_of(&message.key).clone_into(&mut self.last_lane);
        message.place = Place::UnderWay;
        message.deliveries += 1;
        Some(Taken {
            sequence,
            key: message.key.clone(),
            payload: message.payload.clone(),
            deliveries: message.deliveries,
        })
    }

    /// When the next message of an ended worker returns after `now_ms`; none if there is none.
    pub(super) fn next_return_ms(&self, now_ms: u64) -> Option<u64> {
        let returns = self.messages.values().filter_map(|message| match message.place {
            Place::Left { until_ms } => Some(until_ms).filter(|until_ms| *until_ms > now_ms),
            Place::Waiting | Place::UnderWay => None,
        });
        returns.min()
    }

    /// Removes a finished message; false if it was not there.
    pub(super) fn finish(&mut self, sequence: u64) -> bool {
        self.messages.remove(&sequence).is_some()
    }

    /// Returns a message from its worker: another one may have it at once.
    pub(super) fn give_back(&mut self, sequence: u64) {
        self.put(sequence, Place::Waiting);
    }

    /// Notes that the worker of a message ended without a verdict.
    pub(super) fn leave(&mut self, sequence: u64, until_ms: u64) {
        self.put(sequence, Place::Left { until_ms });
    }

    /// Removes every message.
    pub(super) fn clear(&mut self) {
        self.messages.clear();
    }

    fn put(&mut self, sequence: u64, place: Place) {
        // It may have been purged in the meantime.
        if let Some(message) = self.messages.get_mut(&sequence) {
            message.place = place;
        }
    }
}

fn lane_of(key: &str) -> &str {
    key.split_once('.').map_or(key, |(lane, _)| lane)
}
