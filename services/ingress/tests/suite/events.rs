//! The event log over HTTP: the start of a read, filters, how a reader resumes, and when an answer ends.

use crate::support::{ADMIN, Answer, Headers, Rig, and, request};
use async_trait::async_trait;
use axum::body::BodyDataStream;
use axum::http::StatusCode;
use contract::{Event, EventData, FaultCode};
use domain::{SandboxId, StateName};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use ingress::events::{ANSWER_TIME_MAX, EVENT_READERS_MAX, HEARTBEAT};
use ports::bus::{BusError, EventFeed, EventLog as _, EventLogRange, EventsFrom, EventsWanted, KeptEvent};
use ports::clock::Clock;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use testkit::bus::MemoryBus;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

/// Reads an answer that may never end.
struct Reader {
    body: BodyDataStream,
    read: String,
}

/// One event of Server-Sent Events, without comments.
#[derive(Debug, PartialEq)]
struct Frame {
    name: String,
    id: String,
    data: Value,
}

/// An event log as on servers: reads may lag behind its end, and each event has a notification.
struct SlowFeed {
    bus: Arc<MemoryBus>,
    /// The last sequence that can be read yet.
    readable: AtomicU64,
    reads: AtomicUsize,
    bell: parking_lot::Mutex<Option<mpsc::UnboundedReceiver<()>>>,
}

impl SlowFeed {
    /// Replaces the rig's event log by one of which everything can be read so far; also returns the sender of its
    /// notifications.
    fn of(rig: &mut Rig) -> (Arc<Self>, mpsc::UnboundedSender<()>) {
        let (rings, bell) = mpsc::unbounded_channel();
        let feed = Arc::new(Self {
            bus: Arc::clone(&rig.bus),
            readable: AtomicU64::new(4),
            reads: AtomicUsize::new(0),
            bell: parking_lot::Mutex::new(Some(bell)),
        });
        rig.read_events_from(Arc::clone(&feed) as Arc<dyn EventFeed>);
        (feed, rings)
    }

    async fn can_be_read_after(&self, clock: &dyn Clock, span: Duration, place: u64) {
        clock.sleep(span).await;
        self.readable.store(place, Ordering::Relaxed);
    }
}

#[async_trait]
impl EventFeed for SlowFeed {
    async fn event_log_range(&self) -> Result<EventLogRange, BusError> {
        self.bus.event_log_range().await
    }

    async fn events_from(
        &self,
        from: EventsFrom,
        wanted: &EventsWanted,
        limit: usize,
    ) -> Result<Vec<KeptEvent>, BusError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut page = self.bus.events_from(from, wanted, limit).await?;
        page.retain(|kept| kept.sequence <= self.readable.load(Ordering::Relaxed));
        Ok(page)
    }

    async fn event_notifications(&self, _: &EventsWanted) -> Result<BoxStream<'static, ()>, BusError> {
        let bell = self.bell.lock().take().unwrap();
        Ok(stream::unfold(bell, async |mut bell| Some((bell.recv().await?, bell))).boxed())
    }
}

impl Reader {
    /// Reads until there are `count` frames.
    async fn frames(&mut self, count: usize) -> Vec<Frame> {
        while frames(&self.read).len() < count {
            assert!(self.read_on().await, "the answer ended: {}", self.read);
        }
        frames(&self.read)
    }

    /// Reads more; returns false at the end.
    async fn read_on(&mut self) -> bool {
        let Some(bytes) = self.body.next().await else { return false };
        self.read.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
        true
    }

    /// Reads until there are `count` heartbeats.
    async fn heartbeats(&mut self, count: usize) {
        while self.read.matches(": still here").count() < count {
            assert!(self.read_on().await, "the answer ended: {}", self.read);
        }
    }

    /// The sequence from which a browser resumes: the last `id` of a complete block, with or without `data`.
    fn place(&self) -> Option<&str> {
        let (whole, _) = self.read.rsplit_once("\n\n")?;
        whole.lines().filter_map(|line| line.strip_prefix("id: ")).next_back()
    }
}

fn frames(text: &str) -> Vec<Frame> {
    let whole = text.split_inclusive("\n\n").filter(|frame| frame.ends_with("\n\n"));
    let parsed = whole.filter_map(|frame| {
        let field = |name: &str| {
            frame
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name}: ")))
                .unwrap_or_default()
                .to_owned()
        };
        let data = field("data");
        let data = (!data.is_empty()).then(|| serde_json::from_str(&data).unwrap())?;
        Some(Frame { name: field("event"), id: field("id"), data })
    });
    parsed.collect()
}

fn event(sandbox: &str, version: u64, kind: &str, pool: &str) -> Event {
    Event {
        specversion: "1.0".to_owned(),
        id: format!("{sandbox}:{version}"),
        source: "/sandbox-broker".to_owned(),
        kind: kind.to_owned().into(),
        subject: sandbox.to_owned(),
        time: "2027-01-15T08:00:00Z".to_owned(),
        datacontenttype: "application/json".to_owned(),
        data: EventData {
            pool: pool.to_owned(),
            from: None,
            to: StateName::Available.into(),
            version,
            epoch: 0,
            owner: None,
            lab: None,
            by: "sync".to_owned(),
            reason: Some("two\r\nlines".to_owned()),
            request_id: None,
        },
    }
}

async fn publish(bus: &MemoryBus, event: &Event) {
    let id = SandboxId::parse(&event.subject).unwrap();
    let last = bus.last_event(&id).await.unwrap();
    bus.append(&id, event, last).await.unwrap();
}

/// Sandboxes 1, 2 and 3, the last one in another pool; the first one was also claimed.
async fn rig_with_events() -> Rig {
    let rig = Rig::new([]);
    for published in [
        event("1", 1, "listed", "main"),
        event("2", 1, "listed", "main"),
        event("3", 1, "listed", "other"),
        event("1", 2, "claimed", "main"),
    ] {
        publish(&rig.bus, &published).await;
    }
    rig
}

async fn open(rig: &Rig, path: &str, headers: Headers<'_>) -> Reader {
    let response = rig.router.clone().oneshot(request("GET", path, headers)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    Reader { body: response.into_body().into_data_stream(), read: String::new() }
}

/// The sequences in an answer that ends with the event log.
async fn places(rig: &Rig, query: &str, headers: Headers<'_>) -> Vec<String> {
    let mut reader = open(rig, &format!("/v1/admin/events?follow=false{query}"), headers).await;
    while reader.read_on().await {}
    frames(&reader.read).into_iter().map(|frame| frame.id).collect()
}

#[tokio::test(start_paused = true)]
async fn event_is_sent_with_its_sequence_as_id() {
    let rig = rig_with_events().await;
    let mut reader = open(&rig, "/v1/admin/events?after=3", ADMIN).await;
    let frames = reader.frames(1).await;
    let expected = serde_json::to_value(event("1", 2, "claimed", "main")).unwrap();
    assert_eq!(frames, [Frame { name: String::new(), id: "4".to_owned(), data: expected }]);
    assert!(reader.read.contains("retry: 2000"), "{}", reader.read);
}

#[tokio::test(start_paused = true)]
async fn stream_starts_where_asked_and_can_stop_at_the_last_event() {
    let rig = rig_with_events().await;
    for (query, expected) in [
        ("", vec!["1", "2", "3", "4"]),
        ("&after=0", vec!["1", "2", "3", "4"]),
        ("&after=2", vec!["3", "4"]),
        ("&after=4", vec![]),
        ("&since=1700000000", vec!["1", "2", "3", "4"]),
        ("&since=1900000000", vec![]),
        ("&sandbox=1", vec!["1", "4"]),
        ("&type=claimed", vec!["4"]),
        ("&type=sandbox.listed", vec!["1", "2", "3"]),
        ("&sandbox=1&type=listed", vec!["1"]),
        ("&pool=other", vec!["3"]),
        ("&pool=main&after=1", vec!["2", "4"]),
        ("&pool=unknown", vec![]),
    ] {
        assert_eq!(places(&rig, query, ADMIN).await, expected, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn reconnect_resumes_after_last_event_id() {
    let rig = rig_with_events().await;
    let back = and(ADMIN, &[("Last-Event-ID", "2")]);
    // A browser repeats the original address, with its old `after`.
    assert_eq!(places(&rig, "&after=0", &back).await, ["3", "4"]);
    assert_eq!(places(&rig, "&since=1700000000", &back).await, ["3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn reader_without_a_position_gets_only_new_events() {
    let rig = rig_with_events().await;
    let mut reader = open(&rig, "/v1/admin/events?type=claimed", ADMIN).await;
    publish(&rig.bus, &event("4", 1, "listed", "main")).await;
    publish(&rig.bus, &event("2", 2, "claimed", "main")).await;
    assert_eq!(reader.frames(1).await[0].id, "6");
    publish(&rig.bus, &event("3", 2, "claimed", "other")).await;
    assert_eq!(reader.frames(2).await[1].id, "7");
}

#[tokio::test(start_paused = true)]
async fn reader_without_events_resumes_where_it_started() {
    for (rig, now) in [(rig_with_events().await, "4"), (Rig::new([]), "0")] {
        let mut reader = open(&rig, "/v1/admin/events", ADMIN).await;
        assert!(reader.read_on().await);
        assert_eq!((reader.place(), frames(&reader.read)), (Some(now), vec![]));
        let back = [("Last-Event-ID", now)];
        drop(reader);
        publish(&rig.bus, &event("9", 1, "listed", "main")).await;
        let mut reader = open(&rig, "/v1/admin/events", &and(ADMIN, &back)).await;
        assert_eq!(reader.frames(1).await[0].data["id"], "9:1");
    }
}

#[tokio::test(start_paused = true)]
async fn last_event_id_advances_over_filtered_events() {
    for query in ["pool=quiet", "sandbox=9", "type=parked", "pool=quiet&after=0", "sandbox=9&after=0"] {
        let rig = rig_with_events().await;
        let mut reader = open(&rig, &format!("/v1/admin/events?{query}"), ADMIN).await;
        for version in 3..8 {
            publish(&rig.bus, &event("1", version, "claimed", "main")).await;
        }
        reader.heartbeats(2).await;
        assert_eq!(reader.place(), Some("9"), "{query}: {}", reader.read);
        // Events that the reader has skipped may be deleted without a gap, whether it stays connected or resumes.
        rig.bus.drop_events_before(10);
        reader.heartbeats(3).await;
        let query = format!("&{query}");
        assert_eq!(places(&rig, &query, &and(ADMIN, &[("Last-Event-ID", "9")])).await, [""; 0]);
        assert_eq!(frames(&reader.read), [], "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn last_event_id_does_not_pass_events_not_yet_readable() {
    let mut rig = rig_with_events().await;
    let (feed, _rings) = SlowFeed::of(&mut rig);
    let mut reader = open(&rig, "/v1/admin/events?sandbox=9", ADMIN).await;
    publish(&rig.bus, &event("9", 1, "listed", "main")).await;
    reader.heartbeats(1).await;
    assert_eq!(reader.place(), Some("4"));
    let soon = feed.can_be_read_after(&rig.clock, Duration::from_secs(1), 5);
    let (frames, ()) = tokio::join!(reader.frames(1), soon);
    assert_eq!((frames[0].id.as_str(), &frames[0].data["id"]), ("5", &json!("9:1")));
}

#[tokio::test(start_paused = true)]
async fn pending_notifications_are_coalesced_into_one_read() {
    let mut rig = rig_with_events().await;
    let (feed, rings) = SlowFeed::of(&mut rig);
    feed.can_be_read_after(&rig.clock, Duration::ZERO, 5).await;
    let mut reader = open(&rig, "/v1/admin/events", ADMIN).await;
    publish(&rig.bus, &event("9", 1, "listed", "main")).await;
    for _ in 0..10_000 {
        rings.send(()).unwrap();
    }
    assert_eq!(reader.frames(1).await[0].id, "5");
    reader.heartbeats(1).await;
    let reads = feed.reads.load(Ordering::Relaxed);
    assert!(reads <= 10, "{reads} reads for one event");
}

#[tokio::test(start_paused = true)]
async fn event_that_lags_its_notification_is_still_delivered() {
    let mut rig = rig_with_events().await;
    let (feed, rings) = SlowFeed::of(&mut rig);
    feed.can_be_read_after(&rig.clock, Duration::ZERO, 5).await;
    let began = rig.clock.began();
    let mut reader = open(&rig, "/v1/admin/events", ADMIN).await;
    for sandbox in ["8", "9"] {
        publish(&rig.bus, &event(sandbox, 1, "listed", "main")).await;
        rings.send(()).unwrap();
    }
    let soon = feed.can_be_read_after(&rig.clock, Duration::from_millis(300), 6);
    let (frames, ()) = tokio::join!(reader.frames(2), soon);
    assert_eq!((frames[0].id.as_str(), frames[1].id.as_str()), ("5", "6"));
    assert!(began.elapsed() < HEARTBEAT, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn end_of_notifications_ends_the_response() {
    let mut rig = rig_with_events().await;
    let (_feed, rings) = SlowFeed::of(&mut rig);
    let mut reader = open(&rig, "/v1/admin/events", ADMIN).await;
    assert!(reader.read_on().await);
    drop(rings);
    assert!(!reader.read_on().await, "{}", reader.read);
}

#[tokio::test(start_paused = true)]
async fn reader_since_a_time_has_no_id_before_the_first_event() {
    let rig = rig_with_events().await;
    let mut reader = open(&rig, "/v1/admin/events?since=1900000000", ADMIN).await;
    reader.heartbeats(2).await;
    assert_eq!(reader.place(), None);
    let mut reader = open(&rig, "/v1/admin/events?since=1700000000&pool=quiet", ADMIN).await;
    reader.heartbeats(1).await;
    assert_eq!(reader.place(), Some("4"), "what was read and is not wanted counts");
}

#[tokio::test(start_paused = true)]
async fn idle_stream_sends_heartbeats() {
    let rig = rig_with_events().await;
    let began = rig.clock.began();
    let mut reader = open(&rig, "/v1/admin/events", ADMIN).await;
    reader.heartbeats(1).await;
    assert_eq!(began.elapsed(), HEARTBEAT);
}

/// Adds a claim in `main` every three seconds while `work` runs.
async fn while_main_is_busy<T>(rig: &Rig, work: impl Future<Output = T>) -> T {
    let busy = async {
        for version in 3.. {
            rig.clock.sleep(Duration::from_secs(3)).await;
            publish(&rig.bus, &event("1", version, "claimed", "main")).await;
        }
        unreachable!("versions do not end");
    };
    tokio::select! {
        () = busy => unreachable!(),
        work = work => work,
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_continue_while_events_are_filtered_out() {
    let rig = rig_with_events().await;
    let began = rig.clock.began();
    let mut reader = open(&rig, "/v1/admin/events?pool=quiet", ADMIN).await;
    for heartbeats in 1..=2 {
        while_main_is_busy(&rig, reader.heartbeats(heartbeats)).await;
        let expected = HEARTBEAT * u32::try_from(heartbeats).unwrap();
        assert_eq!(began.elapsed(), expected, "{}", reader.read);
    }
    assert_eq!(frames(&reader.read), []);
}

#[tokio::test(start_paused = true)]
async fn delivered_events_replace_heartbeats() {
    let rig = rig_with_events().await;
    let mut reader = open(&rig, "/v1/admin/events?pool=main", ADMIN).await;
    while_main_is_busy(&rig, reader.frames(20)).await;
    assert!(!reader.read.contains(": still here"), "{}", reader.read);
}

#[tokio::test(start_paused = true)]
async fn gap_in_the_event_log_is_reported() {
    let rig = rig_with_events().await;
    rig.bus.drop_events_before(4);
    let mut reader = open(&rig, "/v1/admin/events?after=1", ADMIN).await;
    let frames = reader.frames(2).await;
    assert_eq!((frames[0].name.as_str(), &frames[0].data), ("gap", &json!({"after": 1, "next": 4})));
    assert_eq!((frames[0].id.as_str(), frames[1].id.as_str()), ("3", "4"));
    assert!(!reader.read.split("event: gap").next().unwrap().contains("id: "), "{}", reader.read);
    // Zero means the oldest event that still exists.
    assert_eq!(places(&rig, "&after=0", ADMIN).await, ["4"]);
}

#[tokio::test(start_paused = true)]
async fn recreated_event_log_is_read_from_its_start() {
    let rig = rig_with_events().await;
    let mut reader = open(&rig, "/v1/admin/events?after=4", ADMIN).await;
    rig.bus.forget_events();
    publish(&rig.bus, &event("9", 1, "listed", "main")).await;
    let frames = reader.frames(2).await;
    assert_eq!((frames[0].name.as_str(), &frames[0].data), ("gap", &json!({"after": 4, "next": 1})));
    assert_eq!((frames[1].id.as_str(), &frames[1].data["id"]), ("1", &json!("9:1")));
    assert_eq!(places(&rig, "&after=4711", ADMIN).await, ["0", "1"], "also if it comes only now");
}

#[tokio::test(start_paused = true)]
async fn response_ends_at_shutdown_and_at_its_time_limit() {
    let rig = rig_with_events().await;
    let began = rig.clock.began();
    let mut reader = open(&rig, "/v1/admin/events", ADMIN).await;
    while reader.read_on().await {}
    assert!(
        (ANSWER_TIME_MAX..ANSWER_TIME_MAX + HEARTBEAT).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    let mut reader = open(&rig, "/v1/admin/events", ADMIN).await;
    rig.stop.cancel();
    let began = rig.clock.began().elapsed();
    while reader.read_on().await {}
    assert_eq!(rig.clock.began().elapsed() - began, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn nats_outage_ends_the_response_and_refuses_the_next() {
    let rig = rig_with_events().await;
    let mut reader = open(&rig, "/v1/admin/events", ADMIN).await;
    rig.bus.set_connected(false);
    while reader.read_on().await {}
    let refused = rig.ask("GET", "/v1/admin/events", ADMIN).await;
    refused
        .assert_fault(FaultCode::UpstreamUnavailable, "the message queue is unavailable; try again shortly");
}

#[tokio::test(start_paused = true)]
async fn concurrent_readers_are_bounded() {
    let rig = rig_with_events().await;
    let mut readers = Vec::new();
    for _ in 0..EVENT_READERS_MAX {
        readers.push(open(&rig, "/v1/admin/events", ADMIN).await);
    }
    let refused = rig.ask("GET", "/v1/admin/events", ADMIN).await;
    let message = format!("{EVENT_READERS_MAX} readers follow the events already; try again later");
    refused.assert_fault(FaultCode::NoWorkers, &message);
    readers.pop();
    open(&rig, "/v1/admin/events", ADMIN).await;
}

#[tokio::test(start_paused = true)]
async fn invalid_event_query_is_rejected() {
    let rig = rig_with_events().await;
    for (query, field) in [
        ("after=-1", "after must be a whole number"),
        ("after=x", "after must be a whole number"),
        ("since=yesterday", "since must be a whole number"),
        ("follow=perhaps", "follow must be true or false"),
        ("after=1&since=2", "after"),
        ("sandbox=a%20b", "sandbox"),
        ("type=exploded", "type"),
        ("pool=A%20b", "pool"),
    ] {
        let answer: Answer = rig.ask("GET", &format!("/v1/admin/events?{query}"), ADMIN).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        let message = answer.json()["detail"]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(field), "{query}: {message}");
    }
    let too_late = "since must be in Unix seconds, not in milliseconds, and at most 9223372036";
    // One second more than that, the year 9999, and a time in milliseconds and in nanoseconds.
    for since in
        ["9223372037", "253402300799", "1763683200000", "1763683200000000000", "18446744073709551615"]
    {
        let answer = rig.ask("GET", &format!("/v1/admin/events?since={since}"), ADMIN).await;
        answer.assert_fault(FaultCode::InvalidRequest, too_late);
    }
    assert_eq!(places(&rig, "&since=9223372036", ADMIN).await, [""; 0]);
    let answer = rig.ask("GET", "/v1/admin/events", &and(ADMIN, &[("Last-Event-ID", "abc")])).await;
    answer
        .assert_fault(FaultCode::InvalidRequest, "Last-Event-ID must be the id of an event, a whole number");
}
