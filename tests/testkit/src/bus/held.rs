//! A message while a worker has it. However the worker ends, the message is finished or returns.

use super::queue::{Taken, WorkQueue};
use super::{Call, Inside, MemoryBus};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::watch;

/// Which of the work queues.
#[derive(Clone, Copy, Debug)]
pub(super) enum Queue {
    Deletions,
    Provisions,
    Ticks,
}

/// A message of a worker. If it is dropped without a verdict, it returns after the acknowledgement wait.
pub(super) struct Held {
    bus: MemoryBus,
    queue: Queue,
    ack_wait: Duration,
    pub(super) taken: Taken,
    is_settled: bool,
}

// === impl Queue ===

impl Queue {
    fn of(self, inside: &mut Inside) -> &mut WorkQueue {
        match self {
            Self::Deletions => &mut inside.deletions.work,
            Self::Provisions => &mut inside.provisions.work,
            Self::Ticks => &mut inside.ticks.queue,
        }
    }

    /// When a further message may become available by itself: a retry that is due, or one whose worker ended.
    fn next_moment_ms(self, inside: &mut Inside, now_ms: u64) -> Option<u64> {
        let due_ms = match self {
            Self::Deletions => inside.deletions.next_due_ms(),
            Self::Provisions => inside.provisions.next_due_ms(),
            Self::Ticks => None,
        };
        due_ms.into_iter().chain(self.of(inside).next_return_ms(now_ms)).min()
    }
}

// === impl MemoryBus ===

impl MemoryBus {
    /// Waits for a message with a matching key, while workers have fewer than `in_flight_max` of those. It is taken
    /// only at the moment of return, so a dropped wait loses nothing.
    pub(super) async fn next(
        &self,
        queue: Queue,
        in_flight_max: usize,
        ack_wait: Duration,
        is_wanted: impl Fn(&str, &Bytes) -> bool,
    ) -> Held {
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(held) = self.try_next(queue, in_flight_max, ack_wait, &is_wanted) {
                return held;
            }
            self.until_change(queue, &mut changes).await;
        }
    }

    /// As [`MemoryBus::next`], without waiting.
    pub(super) fn try_next(
        &self,
        queue: Queue,
        in_flight_max: usize,
        ack_wait: Duration,
        is_wanted: impl Fn(&str, &Bytes) -> bool,
    ) -> Option<Held> {
        let taken = self.look(|inside, now_ms| {
            if !inside.is_connected {
                return None;
            }
            queue.of(inside).take(now_ms, in_flight_max, is_wanted)
        })?;
        Some(Held { bus: self.clone(), queue, ack_wait, taken, is_settled: false })
    }

    /// Waits until a message may have become available.
    pub(super) async fn until_change(&self, queue: Queue, changes: &mut watch::Receiver<u64>) {
        let wake_ms =
            self.look(
                |inside, now_ms| {
                    if inside.is_connected { queue.next_moment_ms(inside, now_ms) } else { None }
                },
            );
        tokio::select! {
            _ = changes.changed() => {}
            () = self.sleep_until(wake_ms) => {}
        }
    }

    async fn sleep_until(&self, moment_ms: Option<u64>) {
        match moment_ms {
            Some(moment_ms) => self.shared.clock.sleep_until(moment_ms).await,
            None => std::future::pending().await,
        }
    }
}

// === impl Held ===

impl Held {
    /// Done: it leaves the queue.
    pub(super) fn finish(mut self) {
        let (queue, sequence) = (self.queue, self.taken.sequence);
        match self.bus.try_call(Call::Finish, |inside, _| queue.of(inside).finish(sequence)) {
            Ok(_) => self.is_settled = true,
            Err(error) => tracing::warn!(%error, "not finished; it will be delivered again"),
        }
    }

    /// Not done: another worker may have it at once.
    pub(super) fn give_back(mut self) {
        let (queue, sequence) = (self.queue, self.taken.sequence);
        match self.bus.try_call(Call::Finish, |inside, _| queue.of(inside).give_back(sequence)) {
            Ok(()) => self.is_settled = true,
            Err(error) => tracing::debug!(%error, "not returned; it will be delivered again"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let (queue, sequence) = (self.queue, self.taken.sequence);
        let ack_wait_ms = u64::try_from(self.ack_wait.as_millis()).unwrap_or(u64::MAX);
        self.bus.change(|inside, now_ms| {
            queue.of(inside).leave(sequence, now_ms.saturating_add(ack_wait_ms));
        });
    }
}
