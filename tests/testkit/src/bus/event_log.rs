//! The event log.

use super::{Call, MemoryBus, failed};
use async_trait::async_trait;
use contract::Event;
use domain::SandboxId;
use ports::bus::{Appended, BusError, EventLog, EventLogState, EventMark, Rebuilt};
use std::time::Duration;

/// How long events are kept: the default of the bus on NATS.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Events in the order in which they were stored. The sequence of an event is its number, from one on.
#[derive(Debug, Default)]
pub(super) struct EventStream {
    pub(super) events: Vec<Event>,
    /// Number of dropped oldest events.
    pub(super) dropped: u64,
    /// Number of event logs that were lost before this one.
    lost: u64,
    rebuilt: Rebuilt,
}

#[async_trait]
impl EventLog for MemoryBus {
    fn kept(&self) -> Duration {
        KEPT
    }

    async fn last_event(&self, id: &SandboxId) -> Result<Option<EventMark>, BusError> {
        self.read("look for the last event", |inside| inside.events.last(id))
    }

    async fn append(
        &self,
        id: &SandboxId,
        event: &Event,
        after: Option<EventMark>,
    ) -> Result<Appended, BusError> {
        if event.kind.known().is_none() || Event::version_in(&event.id).is_none() {
            return Err(failed("append an event")("an event of no known type or version"));
        }
        self.call(Call::Append, |inside, _| inside.events.append(id, event, after))
    }
}

impl MemoryBus {
    /// Every event, in the order of the event log.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.look(|inside, _| inside.events.events.clone())
    }

    /// Replaces the event log by a new one, as if it had been removed.
    pub fn lose_events(&self) {
        self.look(|inside, _| {
            let lost = inside.events.lost + 1;
            inside.events = EventStream { lost, ..EventStream::default() };
        });
    }
}

// === impl EventStream ===

impl EventStream {
    pub(super) fn state(&self) -> EventLogState {
        EventLogState { made: self.lost.to_string(), rebuilt: self.rebuilt.clone() }
    }

    pub(super) fn note_rebuilt(&mut self, state: &EventLogState) -> bool {
        let is_this = self.lost.to_string() == state.made;
        if is_this {
            self.rebuilt = state.rebuilt.clone();
        }
        is_this
    }

    fn last(&self, id: &SandboxId) -> Option<EventMark> {
        let (place, event) =
            self.events.iter().enumerate().rev().find(|(_, event)| event.subject == id.as_str())?;
        Some(EventMark { version: Event::version_in(&event.id)?, sequence: sequence_of(place) })
    }

    fn append(&mut self, id: &SandboxId, event: &Event, after: Option<EventMark>) -> Appended {
        let Some(version) = Event::version_in(&event.id) else { return Appended::Moved };
        if self.last(id).map(|mark| mark.sequence) != after.map(|mark| mark.sequence) {
            return Appended::Moved;
        }
        self.events.push(event.clone());
        Appended::Kept(EventMark { version, sequence: sequence_of(self.events.len() - 1) })
    }
}

pub(super) fn sequence_of(place: usize) -> u64 {
    u64::try_from(place).unwrap_or(u64::MAX).saturating_add(1)
}
