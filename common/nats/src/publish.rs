//! Publishes work, parked deletions and ticks, and waits for reports.

use super::judge::{Refusal, server_answer};
use super::kinds::Kind;
use super::upkeep::parked_headers;
use super::{JETSTREAM_TIMEOUT, NatsBus, failed};
use async_nats::Subscriber;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use contract::{DeletionWork, ParkedDeletion, ProvisionWork, RunReport, TickKind, TickOrder};
use futures_util::StreamExt as _;
use ports::bus::{Announced, BusError, Deletions, Provisions, TickReceipt, Ticks};
use runtime::telemetry::Chain;
use std::time::Duration;

/// Attempts of a publish that needs an acknowledgement. A replicated stream takes about 5 s to elect a new leader.
const PUBLISH_TRIES_MAX: usize = 6;
/// First pause between two attempts; it doubles.
const PUBLISH_RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
const PUBLISH_RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
/// Checks the last sequence of another subject than the message's, here a wildcard; the client library has no constant
/// for it.
pub(super) const EXPECTED_SEQUENCE_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
/// Key that is written to check whether the server stores messages.
const PROBE_KEY: &str = "probe";
/// How often a tick may be refused because of a waiting one that is gone a moment later.
const FOLD_ROUNDS_MAX: usize = 10;

/// The result of publishing a tick.
enum Published {
    /// The stream stored it.
    Taken(PublishAck),
    /// The stream refused it, because a tick of its kind waits, with that sequence.
    Waiting(u64),
}

/// The report of a run that began after the tick was accepted.
async fn answer_to(receipt: TickReceipt, reports: &mut Subscriber) -> Option<RunReport> {
    while let Some(message) = reports.next().await {
        match serde_json::from_slice::<RunReport>(&message.payload) {
            Ok(report) if report.tick >= receipt.sequence => return Some(report),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a report cannot be read"),
        }
    }
    None
}

/// Key under which the last report of a kind is kept.
pub(super) fn report_key(kind: TickKind) -> String {
    format!("report.{}", kind.as_str())
}

#[async_trait]
impl Deletions for NatsBus {
    async fn announce(&self, work: &DeletionWork) -> Result<Announced, BusError> {
        self.announce_work(work, "announce a deletion").await
    }

    async fn park(&self, parked: &ParkedDeletion) -> Result<(), BusError> {
        let (id, pool, epoch) = parked.work.parts().map_err(failed("park a deletion"))?;
        let message = PublishMessage::build()
            .headers(parked_headers(parked))
            .payload(encode(parked, "park a deletion")?)
            .message_id(format!("{id}:{epoch}:{}", parked.parked_at));
        let subject = self.config.subjects.parked(&pool, &id);
        self.publish_until_acked(subject, message).await.map(|_| ()).map_err(failed("park a deletion"))
    }
}

#[async_trait]
impl Provisions for NatsBus {
    async fn announce(&self, work: &ProvisionWork) -> Result<Announced, BusError> {
        self.announce_work(work, "announce a provision").await
    }
}

#[async_trait]
impl Ticks for NatsBus {
    async fn tick(&self, kind: TickKind, turn: Option<(u64, Duration)>) -> Result<TickReceipt, BusError> {
        let mut message = PublishMessage::build();
        if let Some((turn, period)) = turn {
            let order = encode(&TickOrder::scheduled(period), "publish a tick")?;
            message = message.message_id(format!("{}:{turn}", kind.as_str())).payload(order);
        }
        let PublishAck { sequence, duplicate, .. } = match self.publish_tick(kind, message).await? {
            Published::Taken(ack) => ack,
            Published::Waiting(sequence) => return Ok(TickReceipt { sequence, duplicate: true }),
        };
        Ok(TickReceipt { sequence, duplicate })
    }

    async fn tick_and_wait(
        &self,
        kind: TickKind,
        patience: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        self.publish_and_wait(kind, Bytes::new(), patience, |_| true).await
    }

    async fn order_and_wait(
        &self,
        kind: TickKind,
        order: &TickOrder,
        patience: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        let body = encode(order, "order a run")?;
        // The run of a tick that waited before does not know the order.
        self.publish_and_wait(kind, body, patience, |receipt| !receipt.duplicate).await
    }

    async fn last_report(&self, kind: TickKind) -> Result<Option<RunReport>, BusError> {
        let store = self.bucket().await?;
        let Some(value) = store.get(report_key(kind)).await.map_err(failed("read a report"))? else {
            return Ok(None);
        };
        serde_json::from_slice(&value).map(Some).map_err(failed("read a report"))
    }

    async fn last_tick(&self) -> Result<Option<u64>, BusError> {
        let stream = self.jetstream.get_stream(self.config.subjects.ticks_stream()).await;
        Ok(Some(stream.map_err(failed("look for a tick"))?.cached_info().state.last_sequence))
    }
}

impl NatsBus {
    async fn announce_work<K: Kind>(&self, work: &K, operation: &'static str) -> Result<Announced, BusError> {
        let places = work.places(&self.config.subjects).map_err(failed(operation))?;
        let lane = work.lane().map_err(failed(operation))?;
        // Without a message id: within the duplicate window it would suppress the message that replaces a lost one. The
        // expected sequence alone prevents a second message of this sandbox.
        let message = PublishMessage::build()
            .payload(encode(work, operation)?)
            .expected_last_subject_sequence(0)
            .header(EXPECTED_SEQUENCE_SUBJECT, places.any.as_str());
        let published = self.publish_until_acked(places.work, message).await;
        self.open_lane_once::<K>(&lane).await;
        match published {
            Ok(_) => Ok(Announced::Queued),
            Err(error) if is_conflict(&error) => Ok(Announced::AlreadyQueued),
            Err(error) => Err(failed(operation)(error)),
        }
    }

    /// Publishes a tick unless one of its kind waits.
    async fn publish_tick(&self, kind: TickKind, message: PublishMessage) -> Result<Published, BusError> {
        let subject = self.config.subjects.tick(kind);
        for _ in 0..FOLD_ROUNDS_MAX {
            match self.publish_until_acked(subject.clone(), message.clone()).await {
                Ok(ack) => return Ok(Published::Taken(ack)),
                Err(error) if Refusal::of(&error) == Refusal::SubjectFull => {
                    if let Some(sequence) = self.waiting_tick(&subject).await? {
                        return Ok(Published::Waiting(sequence));
                    }
                }
                // The same message id is being replicated and will be stored soon.
                Err(error) if is_conflict(&error) => self.clock.sleep(PUBLISH_RETRY_DELAY_MIN).await,
                Err(error) => return Err(failed("publish a tick")(error)),
            }
        }
        Err(failed("publish a tick")("the stream is full and empty at once"))
    }

    /// Publishes an operator's tick and, if that is useful, waits for the report of a run that began after it. All of
    /// that takes at most `patience`.
    async fn publish_and_wait(
        &self,
        kind: TickKind,
        body: Bytes,
        patience: Duration,
        is_worth_it: fn(&TickReceipt) -> bool,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        const OPERATION: &str = "order a run";
        self.refuse_unconnected(OPERATION)?;
        // One order is one message, however often it has to be sent: every attempt has the same id.
        let id = format!("{}:order:{}", kind.as_str(), self.random.fresh_id());
        let message = PublishMessage::build().payload(body).message_id(id);
        let mut taken = None;
        let answered = tokio::time::timeout(patience, async {
            let mut reports = self.reports(kind).await?;
            let receipt = match self.publish_tick(kind, message).await? {
                // A copy of this order is no other tick: an earlier attempt, whose acknowledgement was lost, stored it.
                Published::Taken(ack) => TickReceipt { sequence: ack.sequence, duplicate: false },
                Published::Waiting(sequence) => TickReceipt { sequence, duplicate: true },
            };
            taken = Some(receipt);
            let report = if is_worth_it(&receipt) { answer_to(receipt, &mut reports).await } else { None };
            Ok((receipt, report))
        });
        match (answered.await, taken) {
            (Ok(answered), _) => answered,
            (Err(_), Some(receipt)) => Ok((receipt, None)),
            (Err(late), None) => Err(failed(OPERATION)(late)),
        }
    }

    /// Subscribes to the reports of a kind. This happens before the tick is published, or a quick run would be missed.
    async fn reports(&self, kind: TickKind) -> Result<Subscriber, BusError> {
        let subject = self.config.subjects.report(kind);
        self.client.subscribe(subject).await.map_err(failed("wait for a report"))
    }

    /// The sequence of the last tick on `subject`; none if its run has finished since.
    async fn waiting_tick(&self, subject: &str) -> Result<Option<u64>, BusError> {
        let stream = self
            .jetstream
            .get_stream_no_info(self.config.subjects.ticks_stream())
            .await
            .map_err(failed("look for a tick"))?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message.sequence)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed("look for a tick")(error)),
        }
    }

    /// Publishes and waits for the acknowledgement, with retries where they are safe and useful.
    pub(super) async fn publish_until_acked(
        &self,
        subject: String,
        message: PublishMessage,
    ) -> Result<PublishAck, PublishError> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(PUBLISH_RETRY_DELAY_MIN)
            .with_max_delay(PUBLISH_RETRY_DELAY_MAX)
            .with_max_times(PUBLISH_TRIES_MAX - 1)
            .with_jitter();
        let publish = || async { self.jetstream.send_publish(subject.clone(), message.clone()).await?.await };
        let published = publish
            .retry(backoff)
            .when(is_worth_a_retry)
            .notify(|error, _| {
                tracing::warn!(nats.subject = subject, error = %Chain(error), "publishing again");
            })
            .await;
        self.note_storing(&published);
        published
    }

    /// Records for readiness whether the server can store messages. A refusal for another reason shows that it can.
    fn note_storing(&self, published: &Result<PublishAck, PublishError>) {
        let able = match published {
            Err(error) if Refusal::of(error) == Refusal::Unable => {
                let words = server_answer(error).map(ToString::to_string).unwrap_or_default();
                Err(format!("NATS does not store messages: {words}"))
            }
            // It did not say why, so the result of the last check remains.
            Err(error) if !is_conflict(error) => return,
            Ok(_) | Err(_) => Ok(()),
        };
        let _ = self.storing.send_replace(able);
    }

    /// Writes a message and records for readiness whether the server stored it. Returns whether it did, as far as is
    /// known.
    pub(super) async fn probe_storing(&self) -> bool {
        let mut denials = self.seen.denials();
        let subject = format!("$KV.{}.{PROBE_KEY}", self.config.subjects.bucket());
        let published = tokio::select! {
            published = async { self.jetstream.publish(subject, Bytes::new()).await?.await } => published,
            // The server has the accounts of an older build: only the messages of our work show whether it stores.
            _ = denials.changed() => return true,
        };
        match &published {
            Err(error) if error.kind() == PublishErrorKind::TimedOut && self.connected() => {
                let _ = self.storing.send_replace(Err(format!(
                    "NATS does not say within {} s that it stored a message: if its disk was full, it stores again only \
                     after a restart",
                    JETSTREAM_TIMEOUT.as_secs()
                )));
            }
            other => self.note_storing(other),
        }
        published.is_ok()
    }

    /// Sends the report of a run to waiting callers and stores it for later readers.
    pub(super) async fn send_report(&self, report: &RunReport) -> Result<(), BusError> {
        let payload = encode(report, "publish a report")?;
        let store = self.bucket().await?;
        store.put(report_key(report.kind()), payload.clone()).await.map_err(failed("keep a report"))?;
        let subject = self.config.subjects.report(report.kind());
        self.client.publish(subject, payload).await.map_err(failed("publish a report"))
    }

    /// The bucket. The handle contains only names, so it stays valid.
    pub(super) async fn bucket(&self) -> Result<async_nats::jetstream::kv::Store, BusError> {
        let open = || async { self.jetstream.get_key_value(self.config.subjects.bucket()).await };
        self.bucket.get_or_try_init(open).await.cloned().map_err(failed("open the bucket"))
    }
}

pub(super) fn encode<T: serde::Serialize>(value: &T, operation: &'static str) -> Result<Bytes, BusError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(failed(operation))
}

/// Whether the stream refused because it has a message of this sandbox.
pub(super) fn is_conflict(error: &PublishError) -> bool {
    Refusal::of(error).is_conflict()
}

fn is_worth_a_retry(error: &PublishError) -> bool {
    let is_final =
        matches!(error.kind(), PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::WrongLastMessageId);
    !is_final && !is_conflict(error) && Refusal::of(error) != Refusal::SubjectFull
}
