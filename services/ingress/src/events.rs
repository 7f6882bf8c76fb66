//! `GET /v1/admin/events`: the event log as Server-Sent Events, from a sequence or a moment on, and then live.
//!
//! The ingress keeps nothing for a reader between two connections. A reader that returns with `Last-Event-ID` misses
//! nothing that the event log still has; if events are gone, the reader gets `event: gap`. Every event has its sequence
//! as `id`. At the beginning and with each heartbeat, an `id` comes without data, which a browser stores without a
//! message.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{Event as Frame, Sse};
use axum::response::{IntoResponse as _, Response};
use contract::{Action, Event, Fault, FaultCode};
use domain::{Cause, PoolName, SandboxId, UnixSeconds};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use ports::bus::{
    BusError, EventFeed, EventLogRange, EventsFrom, EventsWanted, KeptEvent, SINCE_SECONDS_MAX,
};
use ports::clock::Clock;
use runtime::telemetry::Chain;
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;
use tokio_util::sync::CancellationToken;

use crate::admin::unavailable;
use crate::error::Failure;
use crate::openapi::faults::OfEvents;
use crate::query::Asked;
use crate::relay::millis;
use crate::request_id::Facts;

/// Concurrent readers of one ingress; each has a connection and a subscription.
pub const EVENT_READERS_MAX: usize = 64;
/// Claims of one ingress that wait for an event; each has a subscription. Further ones look now and then.
pub(crate) const EVENT_WAITS_MAX: usize = 512;
/// Events per read: some 100 KiB.
const PAGE_EVENTS: usize = 256;
/// Longest silence on the connection, because proxies close silent connections after about a minute.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// Age at which an answer ends. The reader reconnects, and its token is checked again.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(15 * 60);
/// First pause before another read after a notification whose event was not visible yet; it doubles.
const READ_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Reads after a notification; together they take about a second.
const READS_MAX: u32 = 6;
/// Notifications that one read covers: more than can be pending.
const NOTIFICATIONS_AT_ONCE_MAX: usize = 32_768;
/// Time after which a disconnected reader should reconnect (`retry`).
const COME_BACK: Duration = Duration::from_secs(2);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Prevents nginx from buffering the answer.
const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// As in every other answer; the framework's default is weaker.
const NO_STORE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// Serves the readers of the event log.
#[derive(Clone)]
pub(crate) struct EventService {
    pub(crate) feed: Arc<dyn EventFeed>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) readers: Arc<Semaphore>,
    /// Places of claims that wait for an event.
    pub(crate) waits: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
}

/// The query.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    after: Option<u64>,
    since: Option<u64>,
    sandbox: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    pool: Option<String>,
    follow: Option<bool>,
}

/// A reader and its position.
struct Reading {
    service: EventService,
    request_id: String,
    from: EventsFrom,
    wanted: EventsWanted,
    pool: Option<PoolName>,
    /// Notifies about new events; none for a reader that stops at the end of the log.
    notifications: Option<BoxStream<'static, ()>>,
    /// When the answer ends, in milliseconds since the Unix epoch.
    until_ms: u64,
    /// Frames to send before the next read.
    waiting: VecDeque<Frame>,
    /// Notifications received whose events may not have been read yet.
    pending: usize,
    /// Remaining reads after the last notification.
    reads_left: u32,
    /// When to send a heartbeat if nothing else is sent, in milliseconds since the Unix epoch. Neither a notification
    /// nor a page without matching events postpones it.
    heartbeat_ms: u64,
    /// The end of the event log at the last heartbeat.
    end_then: u64,
    _permit: OwnedSemaphorePermit,
}

/// Follows the events of all sandboxes.
///
/// Server-Sent Events: one message per event, with its sequence in the event log as `id` and a CloudEvent as `data`. An
/// answer ends after a quarter of an hour at the latest; reconnect with `Last-Event-ID`. A block with an `id` and
/// without `data` is no message and only states where to continue: one comes at the beginning and one with every
/// heartbeat.
#[utoipa::path(
    get, path = "/v1/admin/events", tag = "operators", extensions(("x-action" = json!(Action::Events.as_str()))),
    params(
        ("after" = Option<u64>, Query, description = "the sequence after which to begin; 0 is the beginning of the event log"),
        ("since" = Option<u64>, Query, description = "the moment at which to begin, in Unix seconds; not with `after`"),
        ("sandbox" = Option<String>, Query, description = "of this sandbox only"),
        ("type" = Option<String>, Query, description = "of this type only, as `claimed` or `sandbox.claimed`"),
        ("pool" = Option<String>, Query, description = "of this pool only"),
        ("follow" = Option<bool>, Query, description = "whether to continue at the end of the event log; true"),
        ("Last-Event-ID" = Option<u64>, Header, description = "as `after`, with precedence: browsers send it when they reconnect")
    ),
    responses(
        (status = 200, description = "the events; without `after` and `since` those from now on, or with `follow=false` all",
         body = String, content_type = "text/event-stream",
         example = "retry: 2000\nid: 16\n: events\n\nid: 17\ndata: {\"specversion\":\"1.0\",\"type\":\"sandbox.claimed\"}\n\n"), OfEvents)
)]
pub(crate) async fn events(
    State(service): State<EventService>,
    Extension(facts): Extension<Facts>,
    headers: HeaderMap,
    Asked(wanted): Asked<Wanted>,
) -> Result<Response, Failure> {
    let reading = service.open(wanted, last_event_id(&headers)?, &facts).await?;
    Ok(([NO_BUFFERING, NO_STORE], Sse::new(reading.frames())).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let place = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    place
        .map(Some)
        .ok_or_else(|| Fault::invalid("Last-Event-ID", "must be the id of an event, a whole number"))
}

fn unix_seconds(moment: u64) -> Result<UnixSeconds, Fault> {
    if moment <= SINCE_SECONDS_MAX {
        return Ok(UnixSeconds::new(moment));
    }
    let problem = format!("must be in Unix seconds, not in milliseconds, and at most {SINCE_SECONDS_MAX}");
    Err(Fault::invalid("since", problem))
}

// === impl Wanted ===

impl Wanted {
    /// The filter, and the starting point if there is one.
    fn parts(
        &self,
        last: Option<u64>,
    ) -> Result<(Option<EventsFrom>, EventsWanted, Option<PoolName>), Fault> {
        let from = match (last.or(self.after), self.since) {
            (Some(_), Some(_)) if last.is_none() => {
                return Err(Fault::invalid("after", "cannot be given together with since"));
            }
            (Some(place), _) => Some(EventsFrom::After(place)),
            (None, Some(moment)) => Some(EventsFrom::Since(unix_seconds(moment)?)),
            (None, None) => None,
        };
        let sandbox = self.sandbox.as_deref().map(SandboxId::parse).transpose();
        let pool = self.pool.as_deref().map(PoolName::parse).transpose();
        let cause = self.kind.as_deref().map(|kind| {
            let word = kind.strip_prefix("sandbox.").unwrap_or(kind);
            Cause::parse(word).ok_or_else(|| {
                let known = contract::names::<Cause>();
                Fault::invalid("type", format!("must be one of {known}"))
            })
        });
        let wanted = EventsWanted {
            cause: cause.transpose()?,
            sandbox: sandbox.map_err(|problem| Fault::invalid("sandbox", problem.to_string()))?,
        };
        let pool = pool.map_err(|problem| Fault::invalid("pool", problem.to_string()))?;
        Ok((from, wanted, pool))
    }
}

// === impl EventService ===

impl EventService {
    async fn open(&self, wanted: Wanted, last: Option<u64>, facts: &Facts) -> Result<Reading, Failure> {
        let (from, wanted_events, pool) = wanted.parts(last)?;
        let Ok(permit) = Arc::clone(&self.readers).try_acquire_owned() else {
            let message = format!("{EVENT_READERS_MAX} readers follow the events already; try again later");
            return Err(Fault::new(FaultCode::NoWorkers, message).into());
        };
        let is_followed = wanted.follow != Some(false);
        let failed = |error| Failure::from(unavailable(&error, facts));
        // Subscribes first, so that no event between the read and the subscription is delayed.
        let notifications = match is_followed {
            true => Some(self.feed.event_notifications(&wanted_events).await.map_err(failed)?),
            false => None,
        };
        let ends = self.feed.event_log_range().await.map_err(failed)?;
        let from = from.unwrap_or(EventsFrom::After(if is_followed { ends.last } else { 0 }));
        let now_ms = self.clock.now_ms();
        let mut reading = Reading {
            service: self.clone(),
            request_id: facts.request_id.as_str().to_owned(),
            from,
            wanted: wanted_events,
            pool,
            notifications,
            until_ms: now_ms.saturating_add(millis(ANSWER_TIME_MAX)),
            waiting: VecDeque::new(),
            pending: 0,
            reads_left: 0,
            heartbeat_ms: now_ms.saturating_add(millis(HEARTBEAT)),
            end_then: ends.last,
            _permit: permit,
        };
        reading.show_place(Frame::default().retry(COME_BACK), "events", ends);
        Ok(reading)
    }
}

// === impl Reading ===

impl Reading {
    fn frames(self) -> impl Stream<Item = Result<Frame, Infallible>> {
        stream::unfold(self, async |mut reading| {
            loop {
                if let Some(frame) = reading.waiting.pop_front() {
                    return Some((Ok(frame), reading));
                }
                if !reading.read_on().await {
                    return None;
                }
            }
        })
    }

    /// Reads events, or waits for more. False when this answer ends here.
    async fn read_on(&mut self) -> bool {
        if self.service.stop.is_cancelled() || self.service.clock.now_ms() >= self.until_ms {
            return false;
        }
        if !self.take_notifications() {
            return false;
        }
        let page = match self.service.feed.events_from(self.from, &self.wanted, PAGE_EVENTS).await {
            Ok(page) => page,
            Err(error) => return self.give_up(&error),
        };
        let is_end = page.is_empty();
        if let Some(last) = page.last() {
            self.from = EventsFrom::After(last.sequence);
            // A notification may be for an event that this read was too early for.
            self.pending = self.pending.saturating_sub(page.len());
            if self.pending == 0 {
                self.reads_left = 0;
            }
            for kept in page {
                self.take(kept);
            }
        }
        if is_end && self.notifications.is_none() {
            return false;
        }
        if self.service.clock.now_ms() >= self.heartbeat_ms {
            return self.show_life(is_end).await;
        }
        // After a page without matching events the reader does not wait.
        !is_end || self.wait().await
    }

    /// Waits for a notification, for the next read after one, or for the next heartbeat. False when this answer ends
    /// here.
    async fn wait(&mut self) -> bool {
        let Some(notifications) = self.notifications.as_mut() else { return false };
        let read_ms = self.reads_left.checked_sub(1).map(|left| {
            let pause = READ_PAUSE_MIN * 2_u32.pow((READS_MAX - 1).saturating_sub(left));
            self.service.clock.now_ms().saturating_add(millis(pause))
        });
        let until_ms = read_ms.map_or(self.heartbeat_ms, |read_ms| read_ms.min(self.heartbeat_ms));
        tokio::select! {
            notified = notifications.next() => return self.note_notification(notified),
            () = self.service.clock.sleep_until(until_ms) => {}
            () = self.service.stop.cancelled() => return false,
        }
        self.reads_left = self.reads_left.saturating_sub(1);
        if self.reads_left == 0 {
            self.pending = 0;
        }
        true
    }

    /// Takes all pending notifications, because one read covers them. False when this answer ends here.
    fn take_notifications(&mut self) -> bool {
        for _ in 0..NOTIFICATIONS_AT_ONCE_MAX {
            // tokio's cooperative budget would interrupt after some hundred of them, and each interruption would cost a
            // read.
            let notified = self
                .notifications
                .as_mut()
                .and_then(|notifications| unconstrained(notifications.next()).now_or_never());
            match notified {
                Some(notified) if !self.note_notification(notified) => return false,
                Some(_) => {}
                None => return true,
            }
        }
        true
    }

    /// Counts a notification. False without one: the subscription has ended, and the reader reconnects.
    fn note_notification(&mut self, notified: Option<()>) -> bool {
        self.pending = self.pending.saturating_add(1);
        self.reads_left = READS_MAX;
        notified.is_some()
    }

    /// Sends a heartbeat, and checks whether the event log still has the next event. False when this answer ends here.
    async fn show_life(&mut self, is_end: bool) -> bool {
        let ends = match self.service.feed.event_log_range().await {
            Ok(ends) => ends,
            Err(error) => return self.give_up(&error),
        };
        // Advances the position even if nothing matched, so that the log does not drop it one day. It advances to the
        // end at the last heartbeat, because reads may lag behind the current end, but not for that long.
        if let EventsFrom::After(after) = &mut self.from
            && is_end
        {
            *after = self.end_then.max(*after);
        }
        self.end_then = ends.last;
        self.show_place(Frame::default(), "still here", ends);
        true
    }

    /// Sends the position, if it is known: a reader that started at a moment and got nothing yet repeats that moment. A
    /// gap has the position behind it as its `id`, so that no reader gets there without having seen the gap.
    fn show_place(&mut self, frame: Frame, comment: &str, ends: EventLogRange) {
        let frame = frame.comment(comment);
        let gap = self.catch_up(ends);
        let placed = |frame: Frame| match self.from {
            EventsFrom::After(place) => frame.id(place.to_string()),
            EventsFrom::Since(_) => frame,
        };
        let frames = match gap {
            Some(gap) => vec![frame, placed(gap)],
            None => vec![placed(frame)],
        };
        frames.into_iter().for_each(|frame| self.show(frame));
    }

    /// Continues at the beginning of the event log if the next event is missing, because the oldest events were removed
    /// or the log was lost and recreated. Reports the gap to the reader.
    fn catch_up(&mut self, EventLogRange { first, last }: EventLogRange) -> Option<Frame> {
        let EventsFrom::After(after) = self.from else { return None };
        // Starting at the beginning means at the oldest existing event.
        if after == 0 || (after >= first.saturating_sub(1) && after <= last) {
            return None;
        }
        self.from = EventsFrom::After(first.saturating_sub(1));
        let gap = serde_json::json!({"after": after, "next": first});
        tracing::warn!(
            request.id = self.request_id,
            event.sequence = after,
            "a reader asks for a position that the event log does not have"
        );
        Some(Frame::default().event("gap").data(gap.to_string()))
    }

    fn take(&mut self, kept: KeptEvent) {
        let KeptEvent { sequence, event: Some(event) } = kept else { return };
        if self.pool.as_ref().is_some_and(|pool| event.data.pool != pool.as_str()) {
            return;
        }
        if let Some(data) = text(&event) {
            self.show(Frame::default().id(sequence.to_string()).data(data));
        }
    }

    fn show(&mut self, frame: Frame) {
        self.waiting.push_back(frame);
        self.heartbeat_ms = self.service.clock.now_ms().saturating_add(millis(HEARTBEAT));
    }

    fn give_up(&self, error: &BusError) -> bool {
        tracing::warn!(request.id = self.request_id, error = %Chain(error), "a reader of events is disconnected");
        false
    }
}

/// The event as one line of JSON, which contains no line break.
fn text(event: &Event) -> Option<String> {
    serde_json::to_string(event).ok()
}
