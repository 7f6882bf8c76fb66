//! Ticks, runs, and reports.

use super::held::{Held, Queue};
use super::queue::WorkQueue;
use super::{Call, Inside, MemoryBus};
use async_trait::async_trait;
use bytes::Bytes;
use contract::{RunReport, TickKind, TickOrder};
use ports::bus::{
    BusError, Periodic, RUN_STOP_TIMEOUT, Runner, TICK_ACK_WAIT, TICK_DEDUP_WINDOW, TICKS_OF_A_KIND_MAX,
    TickQueue, TickReceipt, TickTurn, TickTurns, Ticks,
};
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The stream of ticks. Its keys are the kinds.
#[derive(Debug, Default)]
pub(super) struct TickStream {
    pub(super) queue: WorkQueue,
    slots: BTreeMap<(TickKind, u64), Published>,
    turns: BTreeMap<String, Turn>,
    requested_periods: BTreeMap<TickKind, Duration>,
    reports: BTreeMap<TickKind, RunReport>,
    last_turn: u64,
    waiting: Vec<Waiting>,
}

/// The tick of a slot.
#[derive(Debug)]
struct Published {
    sequence: u64,
    at_ms: u64,
}

/// The last turn of a kind.
#[derive(Debug)]
struct Turn {
    turn: TickTurn,
    at_ms: u64,
}

/// A caller that waits for the report of a run that began after a tick.
#[derive(Debug)]
struct Waiting {
    kind: TickKind,
    sequence: u64,
    sender: oneshot::Sender<RunReport>,
}

#[async_trait]
impl Ticks for MemoryBus {
    async fn tick(&self, kind: TickKind, turn: Option<(u64, Duration)>) -> Result<TickReceipt, BusError> {
        let body = match turn {
            Some((_, period)) => encode(&TickOrder::scheduled(period))?,
            None => Bytes::new(),
        };
        let slot = turn.map(|(number, _)| number);
        self.call(Call::Tick, |inside, now_ms| inside.ticks.publish(kind, slot, body, now_ms))
    }

    async fn tick_and_wait(
        &self,
        kind: TickKind,
        timeout: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        self.publish_and_wait(kind, Bytes::new(), timeout).await
    }

    async fn order_and_wait(
        &self,
        kind: TickKind,
        order: &TickOrder,
        timeout: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        self.publish_and_wait(kind, encode(order)?, timeout).await
    }

    async fn last_report(&self, kind: TickKind) -> Result<Option<RunReport>, BusError> {
        self.read("read a report", |inside| inside.ticks.reports.get(&kind).cloned())
    }

    async fn last_tick(&self) -> Result<Option<u64>, BusError> {
        self.read("look for a tick", |inside| Some(inside.ticks.queue.last_sequence()))
    }
}

#[async_trait]
impl TickTurns for MemoryBus {
    async fn last_turn(&self, of: Periodic<'_>) -> Result<Option<TickTurn>, BusError> {
        let now_ms = self.shared.clock.now_ms();
        self.read("look for a turn", |inside| inside.ticks.turns.get(&of.key()).map(|turn| turn.at(now_ms)))
    }

    async fn take_turn(&self, of: Periodic<'_>, last: Option<&TickTurn>) -> Result<TickTurn, BusError> {
        let revision = last.map(|last| last.revision);
        self.call(Call::Tick, |inside, now_ms| {
            let there = inside.ticks.turns.get(&of.key());
            if let Some(there) = there.filter(|there| Some(there.turn.revision) != revision) {
                return there.at(now_ms);
            }
            inside.ticks.last_turn += 1;
            let number = inside.ticks.last_turn;
            let turn = TickTurn { revision: number, number, is_first: there.is_none(), age: Duration::ZERO };
            inside.ticks.turns.insert(of.key(), Turn { turn: turn.clone(), at_ms: now_ms });
            turn
        })
    }

    async fn requested_period(&self, kind: TickKind) -> Result<Option<Duration>, BusError> {
        self.read("look for a period", |inside| inside.ticks.requested_periods.get(&kind).copied())
    }

    async fn request_period(&self, kind: TickKind, period: Option<Duration>) -> Result<(), BusError> {
        self.call(Call::Tick, |inside, _| match period {
            Some(period) => inside.ticks.requested_periods.insert(kind, period),
            None => inside.ticks.requested_periods.remove(&kind),
        })
        .map(|_| ())
    }
}

#[async_trait]
impl TickQueue for MemoryBus {
    async fn run_on_ticks(
        &self,
        kind: TickKind,
        runner: Arc<dyn Runner>,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        loop {
            let held = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                held = self.next(Queue::Ticks, 1, TICK_ACK_WAIT, |key, _| key == kind.as_str()) => held,
            };
            let timeout = async {
                stop.cancelled().await;
                self.shared.clock.sleep(self.shared.config.finish_timeout.min(RUN_STOP_TIMEOUT)).await;
            };
            tokio::select! {
                biased;
                () = self.run_once(kind, runner.as_ref(), &held) => held.finish(),
                // Another reconciler runs again.
                () = timeout => held.give_back(),
            }
        }
    }
}

fn encode(order: &TickOrder) -> Result<Bytes, BusError> {
    let encoded = serde_json::to_vec(order);
    encoded.map(Bytes::from).map_err(|source| BusError { operation: "order a run", source: Box::new(source) })
}

impl MemoryBus {
    async fn publish_and_wait(
        &self,
        kind: TickKind,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        let (sender, receiver) = oneshot::channel();
        let is_order = !body.is_empty();
        // Under one lock, or a quick run would be missed.
        let receipt = self.call(Call::Tick, |inside, now_ms| {
            let receipt = inside.ticks.publish(kind, None, body, now_ms);
            inside.ticks.waiting.push(Waiting { kind, sequence: receipt.sequence, sender });
            receipt
        })?;
        if is_order && receipt.duplicate {
            return Ok((receipt, None));
        }
        let report = tokio::select! {
            biased;
            report = receiver => report.ok(),
            () = self.shared.clock.sleep(timeout) => None,
        };
        Ok((receipt, report))
    }

    async fn run_once(&self, kind: TickKind, runner: &dyn Runner, held: &Held) {
        let started_ms = self.shared.clock.now_ms();
        let order = TickOrder::read(&held.taken.payload);
        let report = runner.run(&order).await;
        let duration_ms = self.shared.clock.now_ms().saturating_sub(started_ms);
        let report = RunReport { tick: held.taken.sequence, duration_ms, report };
        if let Err(error) = self.call(Call::Report, |inside: &mut Inside, _| inside.ticks.deliver(report)) {
            tracing::warn!(tick.kind = kind.as_str(), error = %Chain(&error), "a report was not published");
        }
    }

    /// Ticks of a kind that wait or whose run is in progress.
    #[must_use]
    pub fn ticks_queued(&self, kind: TickKind) -> usize {
        self.look(|inside, _| inside.ticks.queue.of_key(kind.as_str()).count())
    }
}

// === impl Turn ===

impl Turn {
    fn at(&self, now_ms: u64) -> TickTurn {
        let age = Duration::from_millis(now_ms.saturating_sub(self.at_ms));
        TickTurn { age, ..self.turn.clone() }
    }
}

// === impl TickStream ===

impl TickStream {
    fn publish(&mut self, kind: TickKind, slot: Option<u64>, body: Bytes, now_ms: u64) -> TickReceipt {
        let window_ms = u64::try_from(TICK_DEDUP_WINDOW.as_millis()).unwrap_or(u64::MAX);
        self.slots.retain(|_, published| published.at_ms.saturating_add(window_ms) > now_ms);
        let published = slot.and_then(|slot| self.slots.get(&(kind, slot)));
        if let Some(Published { sequence, .. }) = published {
            return TickReceipt { sequence: *sequence, duplicate: true };
        }
        if self.queue.of_key(kind.as_str()).count() >= TICKS_OF_A_KIND_MAX
            && let Some(sequence) = self.queue.of_key(kind.as_str()).next_back()
        {
            // The waiting one has the same effect.
            return TickReceipt { sequence, duplicate: true };
        }
        let sequence = self.queue.push(kind.as_str().to_owned(), body, now_ms);
        if let Some(slot) = slot {
            self.slots.insert((kind, slot), Published { sequence, at_ms: now_ms });
        }
        TickReceipt { sequence, duplicate: false }
    }

    fn deliver(&mut self, report: RunReport) {
        let is_answered =
            |waiting: &mut Waiting| waiting.kind == report.kind() && waiting.sequence <= report.tick;
        for waiting in self.waiting.extract_if(.., is_answered) {
            // The caller may have timed out.
            let _ = waiting.sender.send(report.clone());
        }
        self.waiting.retain(|waiting| !waiting.sender.is_closed());
        self.reports.insert(report.kind(), report);
    }
}
