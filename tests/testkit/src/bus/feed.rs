//! Reads the event log, and answers discovery.

use super::MemoryBus;
use super::event_log::sequence_of;
use async_trait::async_trait;
use contract::events::parse_rfc3339;
use contract::{Event, Verb, WorkView, WorkerRole, WorkerView};
use domain::UnixSeconds;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use ports::bus::{
    BusError, Discovery, EventFeed, EventLogRange, EventsFrom, EventsWanted, KeptEvent, ServiceInfo,
    WorkCounts,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Version that a worker of this bus shows.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The kind of work of roles other than the allocator.
const WORK: &str = "work";

/// The services that answer discovery, by id.
#[derive(Default)]
pub(super) struct Services(BTreeMap<String, (UnixSeconds, Arc<dyn ServiceInfo>)>);

/// Removes a service when it stops answering, for whatever reason.
struct Signed<'a> {
    bus: &'a MemoryBus,
    id: String,
}

#[async_trait]
impl EventFeed for MemoryBus {
    async fn event_log_range(&self) -> Result<EventLogRange, BusError> {
        self.read("look at the event log", |inside| {
            let last = u64::try_from(inside.events.events.len()).unwrap_or(u64::MAX);
            // The oldest were dropped, like from a full stream.
            EventLogRange { first: inside.events.dropped.saturating_add(1), last }
        })
    }

    async fn events_from(
        &self,
        from: EventsFrom,
        wanted: &EventsWanted,
        limit: usize,
    ) -> Result<Vec<KeptEvent>, BusError> {
        self.read("read the event log", |inside| {
            let kept =
                inside.events.events.iter().enumerate().map(|(place, event)| KeptEvent {
                    sequence: sequence_of(place),
                    event: Some(event.clone()),
                });
            let behind = kept.filter(|kept| kept.sequence > inside.events.dropped && is_behind(kept, from));
            behind.filter(|kept| is_wanted(kept.event.as_ref(), wanted)).take(limit).collect()
        })
    }

    async fn event_notifications(&self, _wanted: &EventsWanted) -> Result<BoxStream<'static, ()>, BusError> {
        self.read("listen to events", |_| ())?;
        let changes = self.shared.changes.subscribe();
        let notifications = stream::unfold(changes, |mut changes| async move {
            changes.changed().await.ok()?;
            Some(((), changes))
        });
        Ok(notifications.boxed())
    }
}

#[async_trait]
impl Discovery for MemoryBus {
    async fn workers(&self, _patience: Duration) -> Result<Vec<WorkerView>, BusError> {
        self.read("ask who works", |inside| {
            let shown = inside.services.0.iter().map(|(id, (started, service))| {
                let role = service.role();
                let work: BTreeMap<String, WorkView> = match role {
                    WorkerRole::Allocator | WorkerRole::Registry => Verb::of(role)
                        .map(|verb| (verb.as_str().to_owned(), service.counts(verb).view()))
                        .collect(),
                    _ => [(WORK.to_owned(), WorkCounts::view(&service.total()))].into(),
                };
                WorkerView {
                    role,
                    id: id.clone(),
                    version: VERSION.to_owned(),
                    started_at: started.get(),
                    in_flight: service.in_flight(),
                    work,
                    numbers: service.further().into_iter().collect(),
                    settings: BTreeMap::new(),
                }
            });
            shown.collect()
        })
    }

    async fn answer_discovery(
        &self,
        service: Arc<dyn ServiceInfo>,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let (id, started) = (self.shared.random.fresh_id(), self.shared.clock.now());
        self.change(|inside, _| inside.services.0.insert(id.clone(), (started, service)));
        let _signed = Signed { bus: self, id };
        stop.cancelled().await;
        Ok(())
    }
}

impl MemoryBus {
    /// Drops the oldest events, like a full stream.
    pub fn drop_events_before(&self, sequence: u64) {
        self.change(|inside, _| inside.events.dropped = sequence.saturating_sub(1));
    }

    /// Drops every event, like a recreated stream.
    pub fn forget_events(&self) {
        self.change(|inside, _| {
            inside.events.events.clear();
            inside.events.dropped = 0;
        });
    }
}

impl Drop for Signed<'_> {
    fn drop(&mut self) {
        self.bus.change(|inside, _| inside.services.0.remove(&self.id));
    }
}

fn is_behind(kept: &KeptEvent, from: EventsFrom) -> bool {
    match from {
        EventsFrom::After(sequence) => kept.sequence > sequence,
        // Here an event is stored at the moment of its change.
        EventsFrom::Since(moment) => {
            kept.event.as_ref().and_then(|event| parse_rfc3339(&event.time)).is_some_and(|at| at >= moment)
        }
    }
}

fn is_wanted(event: Option<&Event>, wanted: &EventsWanted) -> bool {
    let EventsWanted { cause, sandbox } = wanted;
    event.is_some_and(|event| {
        (cause.is_none() || event.kind.known() == *cause)
            && sandbox.as_ref().is_none_or(|id| event.subject == id.as_str())
    })
}
