//! Consumes streams: the only code that turns verdicts into acknowledgements.
//!
//! A delivery is kept alive while a worker has it. A retry becomes a scheduled message before the original is
//! acknowledged, so that a crash in between leaves two messages and never none. No more is fetched than can run at
//! once, because the acknowledgement timer of a message starts at its delivery.

use super::kinds::{Kind, Places};
use super::{NatsBus, failed};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Batch;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{AckKind, Message};
use async_trait::async_trait;
use contract::events::rfc3339;
use contract::{RunReport, TickKind, TickOrder, headers};
use domain::UnixSeconds;
use futures_util::StreamExt as _;
use ports::bus::intake::{self, one_line};
use ports::bus::{
    BusError, Delivery, RUN_STOP_TIMEOUT, Runner, TICK_ACK_WAIT, TickQueue, Upkeep as _, Verdict, Worker,
};
use runtime::telemetry::Chain;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long one fetch waits for messages; also the longest time until an idle consumer stops.
const FETCH_WAIT: Duration = Duration::from_secs(1);
/// Time after which a fetch counts as lost, for example because the server vanished. The library would wait for 5 s
/// more, and all work would stop for that long.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed fetch (stream missing, no connection).
pub(super) const FETCH_RETRY_DELAY: Duration = Duration::from_millis(500);
/// A delivery is kept alive at this fraction of its acknowledgement wait.
const KEEP_ALIVE_FRACTION: u32 = 3;

#[async_trait]
impl TickQueue for NatsBus {
    async fn run_on_ticks(
        &self,
        kind: TickKind,
        runner: Arc<dyn Runner>,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let stream = self.config.subjects.ticks_stream();
        let consumer = self.config.subjects.tick_consumer(kind);
        let mut source = Source::new(self, stream, consumer);
        while !stop.is_cancelled() {
            if self.waits_idle(&stop).await {
                continue;
            }
            let Some(mut batch) = source.fetch(1, &stop).await else { continue };
            while let Some(message) = source.next(&mut batch, &stop).await {
                let patience = async {
                    stop.cancelled().await;
                    tokio::time::sleep(self.config.finish_timeout.min(RUN_STOP_TIMEOUT)).await;
                };
                tokio::select! {
                    () = self.run_once(kind, runner.as_ref(), &message) => {}
                    // The tick is not acknowledged, so another reconciler runs on it.
                    () = patience => give_back(&message).await,
                    () = self.until_idle() => give_back(&message).await,
                }
            }
        }
        Ok(())
    }
}

/// A durable consumer, reopened after a failure.
pub(super) struct Source<'a> {
    bus: &'a NatsBus,
    stream: String,
    name: String,
    consumer: Option<PullConsumer>,
}

// === impl Source ===

impl<'a> Source<'a> {
    pub(super) fn new(bus: &'a NatsBus, stream: String, name: String) -> Self {
        Self { bus, stream, name, consumer: None }
    }

    /// Fetches at most `count` messages. After a failure, waits and returns none.
    pub(super) async fn fetch(&mut self, count: usize, stop: &CancellationToken) -> Option<Batch> {
        // Without this check the fetch would wait in the client's queue and be sent, stale, after a reconnect: messages
        // that the server then delivers would reach no worker until their timers expire.
        if !self.bus.connected() {
            let error = failed("fetch messages")("not connected");
            self.wait_out(&error, stop).await;
            return None;
        }
        match self.try_fetch(count, true).await {
            Ok(batch) => Some(batch),
            Err(error) => {
                self.wait_out(&error, stop).await;
                None
            }
        }
    }

    /// The next message of a fetch. `stop` does not end a fetch, because messages that the server has sent would be
    /// lost until their timers expire; after `stop` they are returned.
    pub(super) async fn next(&mut self, batch: &mut Batch, stop: &CancellationToken) -> Option<Message> {
        loop {
            match tokio::time::timeout(FETCH_TIMEOUT, batch.next()).await.ok()?? {
                Ok(message) if stop.is_cancelled() => give_back(&message).await,
                Ok(message) => return Some(message),
                Err(error) => {
                    self.wait_out(&BusError { operation: "fetch messages", source: error }, stop).await;
                    return None;
                }
            }
        }
    }

    /// After a failure: reopens the consumer next time, after a pause.
    async fn wait_out(&mut self, error: &BusError, stop: &CancellationToken) {
        self.consumer = None;
        tracing::warn!(nats.consumer = self.name, error = %Chain(error), "cannot fetch; trying again");
        // The stream may have been removed; the process that notices it creates it again.
        if self.bus.connected() {
            tokio::select! {
                mended = self.bus.mend() => if let Err(error) = mended {
                    tracing::warn!(nats.consumer = self.name, error = %Chain(&error), "streams, consumers or bucket are missing");
                },
                () = stop.cancelled() => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(FETCH_RETRY_DELAY) => {}
            () = stop.cancelled() => {}
        }
    }

    /// At most `count` messages that wait now; after a failure, those that came before it.
    pub(super) async fn fetch_waiting(&mut self, count: usize) -> Result<Vec<Message>, BusError> {
        self.bus.refuse_unconnected("fetch messages")?;
        let mut batch = self.try_fetch(count, false).await?;
        let mut messages = Vec::new();
        loop {
            let problem = match tokio::time::timeout(FETCH_TIMEOUT, batch.next()).await {
                Ok(Some(Ok(message))) => {
                    messages.push(message);
                    continue;
                }
                Ok(None) => return Ok(messages),
                Ok(Some(Err(error))) => failed("fetch messages")(error),
                Err(late) => failed("fetch messages")(late),
            };
            self.consumer = None;
            return if messages.is_empty() { Err(problem) } else { Ok(messages) };
        }
    }

    /// Begins to fetch; with `waits`, for [`FETCH_WAIT`] until there are as many.
    async fn try_fetch(&mut self, count: usize, waits: bool) -> Result<Batch, BusError> {
        let consumer = match &self.consumer {
            Some(consumer) => consumer.clone(),
            None => {
                let jetstream = &self.bus.jetstream;
                let opened: PullConsumer = jetstream
                    .get_consumer_from_stream(&self.name, &self.stream)
                    .await
                    .map_err(failed("open a consumer"))?;
                self.consumer.insert(opened).clone()
            }
        };
        let begun = if waits {
            consumer.batch().max_messages(count).expires(FETCH_WAIT).messages().await
        } else {
            consumer.fetch().max_messages(count).messages().await
        };
        begun.map_err(failed("fetch messages"))
    }
}

impl NatsBus {
    pub(super) async fn work_on<K: Kind>(
        &self,
        worker: &dyn Worker<K>,
        message: &Message,
        cut: &CancellationToken,
    ) {
        let (work, places) = match self.read::<K>(message) {
            Ok(read) => read,
            Err(reason) => {
                let sequence = message.info().map_or(0, |info| info.stream_sequence);
                let subject = K::unreadable(&self.config.subjects, sequence);
                return self.set_aside::<K>(message, subject, None, &reason).await;
            }
        };
        if self.is_idle() {
            return give_back(message).await;
        }
        let delivery = Delivery { work, deliveries: deliveries(message) };
        let verdict = tokio::select! {
            verdict = worker.work(delivery) => verdict,
            () = keep_alive(message, K::ack_wait(&self.config)) => return,
            () = cut.cancelled() => return give_back(message).await,
            () = self.until_idle() => return give_back(message).await,
        };
        match verdict {
            Verdict::Done => finish(message).await,
            Verdict::Retry { delay } => match self.schedule_retry::<K>(message, places, delay).await {
                Ok(()) => finish(message).await,
                // The unacknowledged message is delivered again after the acknowledgement wait.
                Err(error) => {
                    tracing::warn!(nats.subject = %message.subject, error = %Chain(&error), "retry not scheduled");
                }
            },
            Verdict::GiveUp { reason } if K::QUEUE_PARKS => {
                let attempts = Some(deliveries(message));
                self.set_aside::<K>(message, places.parked, attempts, &reason).await;
            }
            Verdict::GiveUp { reason } => self.terminate(message, &reason).await,
        }
    }

    fn read<K: Kind>(&self, message: &Message) -> Result<(K, Places), String> {
        let work = intake::work::<K>(&message.payload)?;
        let places = work.places(&self.config.subjects).map_err(|problem| problem.to_string())?;
        Ok((work, places))
    }

    /// Schedules the original message, so that fields of a newer writer are preserved.
    async fn schedule_retry<K: Kind>(
        &self,
        message: &Message,
        places: Places,
        delay: Duration,
    ) -> Result<(), PublishError> {
        let due = UnixSeconds::new(self.time.now_ms().div_ceil(1_000)).after(delay);
        let mut map = HeaderMap::new();
        map.insert(async_nats::header::NATS_SCHEDULE, format!("@at {}", rfc3339(due)));
        map.insert(async_nats::header::NATS_SCHEDULE_TARGET, places.work);
        let retry = PublishMessage::build().headers(map).payload(message.payload.clone());
        self.publish_until_acked(places.retry, retry).await.map(|_| ())
    }

    /// Parks a message with the reason, and only then removes it from the queue.
    async fn set_aside<K: Kind>(
        &self,
        message: &Message,
        subject: String,
        attempts: Option<u64>,
        reason: &str,
    ) {
        let mut map = HeaderMap::new();
        map.insert(headers::PARKED_REASON, one_line(reason));
        map.insert(headers::PARKED_AT, rfc3339(self.clock.now()));
        if let Some(attempts) = attempts {
            map.insert(headers::ATTEMPTS, attempts.to_string());
        }
        let copy = PublishMessage::build().headers(map).payload(message.payload.clone());
        match self.publish_until_acked(subject, copy).await {
            Ok(_) => {
                let what = if attempts.is_none() { "an unreadable" } else { "a given up" };
                tracing::error!(nats.subject = %message.subject, reason, "{what} {} was parked", K::NAME);
                self.terminate(message, reason).await;
            }
            Err(error) => {
                tracing::warn!(nats.subject = %message.subject, error = %Chain(&error), "not parked yet");
            }
        }
    }

    /// Terminates a message, with the reason in the server's advisory. The library's own call has no reason.
    async fn terminate(&self, message: &Message, reason: &str) {
        let Some(reply) = message.reply.clone() else { return };
        let line = format!("+TERM {}", one_line(reason));
        if let Err(error) = self.client.publish(reply, line.into()).await {
            tracing::warn!(nats.subject = %message.subject, %error, "a message was not terminated");
        }
    }

    async fn run_once(&self, kind: TickKind, runner: &dyn Runner, message: &Message) {
        let tick = message.info().map_or(0, |info| info.stream_sequence);
        let order = TickOrder::read(&message.payload);
        let started_ms = self.clock.now_ms();
        let report = tokio::select! {
            report = runner.run(&order) => report,
            () = keep_alive(message, TICK_ACK_WAIT) => return,
        };
        let duration_ms = self.clock.now_ms().saturating_sub(started_ms);
        let report = RunReport { tick, duration_ms, report };
        if let Err(error) = self.send_report(&report).await {
            tracing::warn!(tick.kind = kind.as_str(), error = %Chain(&error), "a report was not published");
        }
        finish(message).await;
    }
}

/// How often the message was delivered.
fn deliveries(message: &Message) -> u64 {
    message.info().map_or(1, |info| u64::try_from(info.delivered).unwrap_or(1))
}

/// Reports progress on the message repeatedly. Ends only if that fails.
pub(super) async fn keep_alive(message: &Message, ack_wait: Duration) {
    let period = ack_wait / KEEP_ALIVE_FRACTION;
    loop {
        tokio::time::sleep(period).await;
        if let Err(error) = message.ack_with(AckKind::Progress).await {
            // Another worker may get the message now; the epoch fences this one.
            tracing::warn!(nats.subject = %message.subject, %error, "a delivery could not be kept alive");
        }
    }
}

/// Done: waits for the server's confirmation, because a lost acknowledgement means that the work is done twice.
async fn finish(message: &Message) {
    if let Err(error) = message.double_ack().await {
        tracing::warn!(nats.subject = %message.subject, %error, "not acknowledged; it will be delivered again");
    }
}

/// Not done: another worker may get it at once.
pub(super) async fn give_back(message: &Message) {
    if let Err(error) = message.ack_with(AckKind::Nak(None)).await {
        tracing::debug!(nats.subject = %message.subject, %error, "not returned; it will be delivered again");
    }
}
