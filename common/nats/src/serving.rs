//! The worker's side of requests. It does not use the library's service type, which loses requests when it stops and
//! does not limit the work in progress.
//!
//! Each verb has a subscription, for workers in the queue group of their role. The loop never waits for work: it gets a
//! permit, or answers *busy* at once. Stopping follows a sequence without loss (measured): the worker asks the server to end the subscription
//! after a number of further messages, handles what still arrives, and only then closes the subscription.

use super::{NatsBus, failed};
use async_nats::client::PublishErrorKind;
use async_nats::{HeaderMap, Message, Subject, Subscriber};
use async_trait::async_trait;
use contract::{Fault, FaultCode, NotUnderstood, Principal, Verb, WorkerRole, headers};
use futures_util::StreamExt as _;
use ports::bus::intake::{self, Places, one_line};
use ports::bus::{Answer, Attempt, BusError, Context, Dropped, Handler, Request, RequestVerb, Serve};
use ports::clock::Clock;
use runtime::server_time::ServerTime;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Messages after which the server ends a subscription that is being drained, counted from those received.
const DRAIN_MESSAGES_MAX: u64 = 256;
/// If a draining subscription is quiet for this long, no message is in transit.
const DRAIN_IDLE: Duration = Duration::from_millis(250);
/// Longest time that draining may take under load.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Required prefix of reply subjects, so that no caller can direct replies into our streams.
const INBOX_PREFIX: &str = "_INBOX";

/// What a server subscribes to.
pub(super) struct Served<V> {
    /// The verbs and their subjects.
    pub(super) subjects: Vec<(V, String)>,
    /// The group whose members share the requests; without one every subscriber gets each of them.
    pub(super) queue_group: Option<String>,
}

/// The state that the loops of all verbs share.
struct Server<V: RequestVerb> {
    bus: NatsBus,
    handler: Arc<dyn Handler<V>>,
    places: Places,
    running: TaskTracker,
}

#[async_trait]
impl Serve for NatsBus {
    async fn serve(
        &self,
        role: WorkerRole,
        handler: Arc<dyn Handler>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let subjects = Verb::of(role).map(|verb| (verb, self.config.subjects.request(verb)));
        let served = Served { subjects: subjects.collect(), queue_group: Some(role.service().to_owned()) };
        self.serve_requests(served, handler, in_flight_max, stop).await
    }
}

// === impl Server ===

impl<V: RequestVerb> Server<V> {
    async fn answer_all(self: Arc<Self>, verb: V, mut subscriber: Subscriber, stop: CancellationToken) {
        let mut seen: u64 = 0;
        loop {
            tokio::select! {
                message = subscriber.next() => {
                    // The stream ends only with the connection, which is closed after all loops.
                    let Some(message) = message else { return };
                    seen = seen.saturating_add(1);
                    self.take(verb, message);
                }
                () = stop.cancelled() => break,
            }
        }
        self.drain(verb, subscriber, seen).await;
    }

    async fn drain(&self, verb: V, mut subscriber: Subscriber, seen: u64) {
        if subscriber.unsubscribe_after(seen.saturating_add(DRAIN_MESSAGES_MAX)).await.is_err() {
            return;
        }
        let patience = tokio::time::sleep(DRAIN_TIMEOUT);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                message = tokio::time::timeout(DRAIN_IDLE, subscriber.next()) => match message {
                    Ok(Some(message)) => self.take(verb, message),
                    // The server ended it at the limit, or nothing is in transit.
                    Ok(None) => return,
                    Err(_) => break,
                },
                () = &mut patience => break,
            }
        }
        // Without a connection no message comes, and neither does the end of the subscription.
        if !self.bus.connected() || subscriber.drain().await.is_err() {
            return;
        }
        let rest = async {
            while let Some(message) = subscriber.next().await {
                self.take(verb, message);
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, rest).await;
    }

    /// Starts work on one request, or refuses it, without waiting.
    fn take(&self, verb: V, message: Message) {
        let Some(reply_to) = message.reply.clone().filter(|reply| reply.starts_with(INBOX_PREFIX)) else {
            tracing::debug!(nats.subject = %message.subject, "a request without an inbox to reply to was dropped");
            return;
        };
        let (mut context, dropped) = context_of(
            message.headers.as_ref(),
            || self.bus.random.fresh_id(),
            self.bus.clock.as_ref(),
            &self.bus.time,
        );
        if let Some(why) = dropped {
            return self.handler.dropped(verb, &context.request_id, why);
        }
        let principal = principal_of(message.headers.as_ref());
        let not_understood = principal.map(|principal| context.principal = principal).err();
        let body = message.payload;
        let permit = self.places.take(verb);
        let bus = self.bus.clone();
        let handler = Arc::clone(&self.handler);
        self.running.spawn(async move {
            let request_id = context.request_id.clone();
            let request = Request { verb, context, body };
            let answer = match (bus.refusal(verb), not_understood) {
                (Some(why), _) => Some(intake::refuse(FaultCode::NoWorkers, why)),
                (None, Some(unknown)) => Some(intake::refuse(FaultCode::Forbidden, &unknown.to_string())),
                (None, None) => intake::answer(bus.clock.as_ref(), handler.as_ref(), request, permit).await,
            };
            if let Some(answer) = answer {
                bus.reply(reply_to, &request_id, answer).await;
            }
        });
    }
}

// === impl NatsBus ===

impl NatsBus {
    /// Answers the requests on these subjects until `stop`; see [`Serve::serve`].
    pub(super) async fn serve_requests<V: RequestVerb>(
        &self,
        served: Served<V>,
        handler: Arc<dyn Handler<V>>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let Served { subjects, queue_group } = served;
        let server = Arc::new(Server {
            bus: self.clone(),
            handler,
            places: Places::new(in_flight_max),
            running: TaskTracker::new(),
        });
        let mut loops = JoinSet::new();
        for (verb, subject) in subjects {
            let subscribed = match &queue_group {
                Some(group) => self.client.queue_subscribe(subject, group.clone()).await,
                None => self.client.subscribe(subject).await,
            };
            let subscriber = subscribed.map_err(failed("subscribe to requests"))?;
            loops.spawn(Arc::clone(&server).answer_all(verb, subscriber, stop.clone()));
        }
        while loops.join_next().await.is_some() {}
        server.running.close();
        server.running.wait().await;
        self.send_rest().await;
        Ok(())
    }

    /// Why this worker refuses such a request now; none if it takes it. Health checks change nothing; all other verbs
    /// record times or end what is due, which a wrong clock would falsify.
    fn refusal<V: RequestVerb>(&self, verb: V) -> Option<&'static str> {
        if !verb.is_timeless() && self.time.problem().is_some() {
            return Some("this worker's clock is off; try again");
        }
        let is_refused = !verb.is_for_restored_tables() && self.guard.problem().is_some();
        is_refused.then_some("the table was restored to an earlier time; an operator has to check it first")
    }

    /// Replies that the answer is too large. A repeat would not make it smaller.
    async fn refuse_large(&self, reply_to: Subject, request_id: &str) {
        let fault = Fault::new(FaultCode::InternalError, "the answer is larger than the message queue takes");
        let mut map = HeaderMap::new();
        map.insert(headers::REQUEST_ID, request_id);
        map.insert(headers::SERVICE_ERROR, fault.message.as_str());
        map.insert(headers::SERVICE_ERROR_CODE, fault.code.status().to_string());
        let body = serde_json::to_vec(&fault.body(request_id)).unwrap_or_default();
        let _ = self.client.publish_with_headers(reply_to, map, body.into()).await;
    }

    async fn reply(&self, reply_to: Subject, request_id: &str, answer: Answer) {
        let mut map = HeaderMap::new();
        map.insert(headers::REQUEST_ID, request_id);
        if let Some(outcome) = answer.outcome {
            map.insert(headers::OUTCOME, outcome.as_str());
        }
        let body = match answer.body {
            Ok(body) => body,
            Err(fault) => {
                map.insert(headers::SERVICE_ERROR, one_line(&fault.message));
                map.insert(headers::SERVICE_ERROR_CODE, fault.code.status().to_string());
                serde_json::to_vec(&fault.body(request_id)).unwrap_or_default().into()
            }
        };
        // A reply that cannot be sent is lost: the caller repeats.
        if let Err(error) = self.client.publish_with_headers(reply_to.clone(), map, body).await {
            if error.kind() == PublishErrorKind::MaxPayloadExceeded {
                tracing::error!(request.id = request_id, %error, "a reply is larger than NATS takes");
                self.refuse_large(reply_to, request_id).await;
                return;
            }
            tracing::debug!(request.id = request_id, %error, "a reply could not be sent");
        }
    }
}

/// The context of a request, and whether the request came too late.
fn context_of(
    map: Option<&HeaderMap>,
    fresh_id: impl FnOnce() -> String,
    clock: &dyn Clock,
    time: &ServerTime,
) -> (Context, Option<Dropped>) {
    let header = |name: &str| map.and_then(|map| map.get(name)).map(|value| value.as_str().to_owned());
    let number = |name: &str| header(name).and_then(|value| value.parse::<u64>().ok());
    let (left_ms, dropped) = match number(headers::REMAINING_MS) {
        Some(remaining_ms) => {
            // The shortest possible time in transit, if both clocks are known.
            let earliest_ms = time.range_ms().map(|(earliest_ms, _)| earliest_ms);
            let way_ms = earliest_ms.zip(number(headers::SENT_AT_MS));
            let way_ms = way_ms.map_or(0, |(now_ms, sent_ms)| now_ms.saturating_sub(sent_ms));
            let left_ms = remaining_ms.saturating_sub(way_ms);
            (Some(left_ms), (way_ms > 0 && left_ms == 0).then_some(Dropped::Late))
        }
        None => (number(headers::DEADLINE_MS).map(|until_ms| until_ms.saturating_sub(time.now_ms())), None),
    };
    let context = Context {
        request_id: intake::request_id(header(headers::REQUEST_ID).as_deref(), fresh_id),
        deadline_ms: left_ms.map(|left_ms| clock.now_ms().saturating_add(left_ms)),
        traceparent: header(headers::TRACEPARENT),
        idempotency_key: header(headers::IDEMPOTENCY_KEY),
        attempt: header(headers::REQUEST_KEY).map(|request_key| Attempt {
            request_key,
            number: header(headers::ATTEMPT).and_then(|value| value.parse().ok()),
        }),
        principal: Principal::default(),
    };
    (context, dropped)
}

/// The principal of a request; a header that cannot be read is refused rather than ignored.
fn principal_of(map: Option<&HeaderMap>) -> Result<Principal, NotUnderstood> {
    let values = |name| map.into_iter().flat_map(move |map| map.get_all(name)).map(|value| value.as_str());
    Principal::read(values(headers::PRINCIPAL), values(headers::SCOPE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::UnixSeconds;
    use testkit::clock::ManualClock;

    const NOW_MS: u64 = 1_700_000_000_000;

    /// The remaining time that is read at [`NOW_MS`] by a clock that is ahead of the server's by that much.
    fn read(headers: &[(&str, u64)], ahead_ms: Option<u64>) -> (Option<u64>, Option<Dropped>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.to_string());
        }
        let clock = ManualClock::at(UnixSeconds::new(NOW_MS / 1_000));
        let time = ServerTime::new(Arc::new(clock.clone()), Some(Duration::from_secs(10)));
        if let Some(ahead_ms) = ahead_ms {
            time.note(clock.monotonic(), NOW_MS - ahead_ms);
        }
        let (context, dropped) = context_of(Some(&map), fresh, &clock, &time);
        (context.remaining(&clock).map(|left| left.as_millis() as u64), dropped)
    }

    fn fresh() -> String {
        "fresh".to_owned()
    }

    #[test]
    fn remaining_time_counts_from_sending_on_the_server_clock() {
        const AHEAD_MS: u64 = 600_000;
        let sent =
            |way_ms: u64| [(headers::REMAINING_MS, 4_000), (headers::SENT_AT_MS, NOW_MS - AHEAD_MS - way_ms)];
        for (way_ms, left_ms, dropped) in [
            (0, 4_000, None),
            (1_000, 3_001, None),
            // The error bound counts in favour of the request; otherwise clocks would decide.
            (4_000, 1, None),
            (4_001, 0, Some(Dropped::Late)),
            (60_000, 0, Some(Dropped::Late)),
        ] {
            assert_eq!(read(&sent(way_ms), Some(AHEAD_MS)), (Some(left_ms), dropped), "{way_ms}");
            assert_eq!(read(&sent(way_ms), None), (Some(4_000), None), "a clock of which nothing is known");
        }
        assert_eq!(read(&[(headers::REMAINING_MS, 4_000)], Some(AHEAD_MS)), (Some(4_000), None));
    }

    #[test]
    fn principal_is_read_from_its_headers_or_refused() {
        let principal = |values: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in values {
                map.append(*name, *value);
            }
            principal_of(Some(&map))
        };
        assert_eq!(principal_of(None), Ok(Principal::default()));
        assert_eq!(principal(&[]), Ok(Principal::default()));
        let (name, scope) =
            ((headers::PRINCIPAL, "v1 name=a tenant=b roles=lab"), (headers::SCOPE, "v1 pools=dns"));
        let both = principal(&[name, scope]).unwrap();
        assert_eq!(both.headers().map(|(_, value)| value.unwrap()), [name.1, scope.1]);
        // An ingress of a former build sends the scope alone.
        let scoped = principal(&[scope]).unwrap();
        assert_eq!((scoped.is_named(), scoped.scope), (false, both.scope));
        for unknown in [
            &[(headers::SCOPE, "v2 pools=dns")][..],
            &[(headers::SCOPE, "")],
            &[scope, (headers::SCOPE, "v1 pools=main")],
            &[(headers::PRINCIPAL, "v2 name=a")],
            &[name, name],
            &[name, (headers::SCOPE, "v1 labs=a")],
        ] {
            assert!(principal(unknown).is_err(), "{unknown:?}");
        }
    }

    #[test]
    fn deadline_header_of_an_older_caller_is_honoured() {
        let deadline = [(headers::DEADLINE_MS, NOW_MS + 4_000)];
        assert_eq!(read(&deadline, None), (Some(4_000), None));
        assert_eq!(read(&deadline, Some(600_000)), (Some(604_000), None), "by the clock of NATS");
        let both = [(headers::DEADLINE_MS, NOW_MS - 1), (headers::REMAINING_MS, 4_000)];
        assert_eq!(read(&both, None), (Some(4_000), None));
        assert_eq!(read(&[(headers::DEADLINE_MS, NOW_MS - 1)], None), (Some(0), None), "left to the intake");
    }

    #[test]
    fn valid_request_id_is_kept_and_others_are_replaced() {
        let clock = ManualClock::at(UnixSeconds::new(1));
        let time = ServerTime::new(Arc::new(clock.clone()), None);
        let request_id = |map: Option<&HeaderMap>| context_of(map, fresh, &clock, &time).0.request_id;
        let mut map = HeaderMap::new();
        map.insert(headers::REQUEST_ID, "r-1");
        assert_eq!(request_id(Some(&map)), "r-1");
        map.insert(headers::REQUEST_ID, "a b");
        assert_eq!(request_id(Some(&map)), "fresh");
        assert_eq!(request_id(None), "fresh");
    }

    #[test]
    fn unparsable_deadline_is_ignored() {
        let clock = ManualClock::at(UnixSeconds::new(1));
        let time = ServerTime::new(Arc::new(clock.clone()), None);
        for name in [headers::DEADLINE_MS, headers::REMAINING_MS] {
            let mut map = HeaderMap::new();
            map.insert(name, "soon");
            assert_eq!(context_of(Some(&map), fresh, &clock, &time).0.deadline_ms, None);
        }
    }
}
