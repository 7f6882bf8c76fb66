//! Decides which requests run, wait or are refused. It has no clock and no tasks, so that tests control both.

use super::limit::Limit;
use super::promises::{Promise, Promises};
use super::rate::Rate;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Requests that wait in one process; about 1 KiB each, with their bodies.
pub(super) const WAITING_MAX: usize = 16_384;
/// Part of its remaining time that a request may have to wait, because estimates have errors.
const WAIT_PART: f64 = 0.75;
/// Beyond this part, even a waiting request is refused, because its answer would be too late.
const SHED_PART: f64 = 0.9;
/// Part of the remaining time below which the queue counts as short: every request is admitted, so that no capacity is
/// idle where refused callers do not return.
const SHORT_PART: f64 = 0.1;
/// Remaining time that a request needs to start, in multiples of the average latency.
const LATENCIES_NEEDED: u32 = 3;
/// Least remaining time that a request needs to start.
const NEEDED_MIN: Duration = Duration::from_millis(50);
/// How long a request that was let in is remembered: longer than an ingress waits before it repeats an attempt.
const ADMITTED_KEPT: Duration = Duration::from_secs(10);
/// What a request is assumed to take while nothing was measured.
const SPACING_UNKNOWN: Duration = Duration::from_millis(10);

/// Requests of one process. `W` is the channel to a waiting one.
#[derive(Debug)]
pub(super) struct Queue<W> {
    limit: Limit,
    rate: Rate,
    promises: Promises,
    at_work: usize,
    /// Requests that were let in, and when. A repeat of one of them is let in at once: its first attempt may have been
    /// granted a sandbox, and a refusal would hide that from the caller.
    admitted: HashMap<u64, Instant>,
    admitted_purged: Option<Instant>,
    /// By deadline: the one that has least time left is next.
    waiting: BTreeMap<(Instant, u64), Waiting<W>>,
    sequence: u64,
}

#[derive(Debug)]
struct Waiting<W> {
    key: u64,
    waiter: W,
}

/// The decision about a new request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Work begins.
    Go,
    /// It waits, with this key.
    Waits((Instant, u64)),
    /// It is refused; repeat after that time.
    Refused(Duration),
}

/// The decision about a waiting request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Work begins.
    Go,
    /// Its answer would be too late; repeat after that time.
    Refused(Duration),
}

/// The decisions about waiting requests that have to be delivered.
pub(super) type Verdicts<W> = Vec<(W, Verdict)>;

/// How a request ended, as far as that says something about the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The store answered.
    Answered,
    /// The store did not answer, or refused because of overload.
    StoreFailed,
    /// It waited for something else, so it says nothing.
    Unrelated,
}

// === impl Queue ===

impl<W> Queue<W> {
    pub(super) fn new(in_flight_max: usize, latency_target: Duration) -> Self {
        Self {
            limit: Limit::new(in_flight_max, latency_target),
            rate: Rate::default(),
            promises: Promises::default(),
            at_work: 0,
            admitted: HashMap::new(),
            admitted_purged: None,
            waiting: BTreeMap::new(),
            sequence: 0,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.current()
    }

    /// A request arrives that has to be answered by `deadline`; its repeats have the same `key`.
    pub(super) fn arrive(&mut self, now: Instant, deadline: Instant, key: u64, waiter: W) -> Arrival {
        // Once for each time that it was let in: a caller that repeats without end does not pass by the others.
        let is_repeat = self.admitted.remove(&key).is_some_and(|at| now <= at + ADMITTED_KEPT);
        if is_repeat || (self.waiting.is_empty() && self.at_work < self.limit.current()) {
            self.promises.kept(key);
            self.at_work += 1;
            if !is_repeat {
                self.remember(now, key);
            }
            return Arrival::Go;
        }
        let left = deadline.saturating_duration_since(now);
        let wait = self.rate.time_for(self.waiting.len() + 1).unwrap_or_default();
        let fits = wait <= left.mul_f64(WAIT_PART);
        let is_short = wait <= left.mul_f64(SHORT_PART);
        let enters = match self.promises.of(now, key) {
            Promise::Due => fits,
            Promise::Early(_) => is_short,
            Promise::None => is_short || (fits && self.promises.wait(now).is_zero()),
        };
        if !enters || self.waiting.len() >= WAITING_MAX {
            return Arrival::Refused(self.refuse(now, key, self.waiting.len()));
        }
        self.promises.kept(key);
        self.sequence += 1;
        let name = (deadline, self.sequence);
        self.waiting.insert(name, Waiting { key, waiter });
        Arrival::Waits(name)
    }

    /// Work on a request has ended.
    pub(super) fn finish(&mut self, now: Instant, took: Duration, end: End) -> Verdicts<W> {
        let is_used = self.at_work >= self.limit.current();
        self.at_work = self.at_work.saturating_sub(1);
        if end != End::Unrelated {
            self.limit.observe(now, took, end == End::StoreFailed, is_used);
        }
        let mut verdicts = Vec::new();
        if self.waiting.is_empty() {
            self.rate.is_idle();
        } else if self.rate.finished(now) {
            self.shed(now, &mut verdicts);
        }
        self.begin(now, &mut verdicts);
        verdicts
    }

    /// A request that could have started is gone, or waits for something else.
    pub(super) fn give_back(&mut self, now: Instant) -> Verdicts<W> {
        self.at_work = self.at_work.saturating_sub(1);
        let mut verdicts = Vec::new();
        self.begin(now, &mut verdicts);
        verdicts
    }

    /// A request that waited for something else continues.
    pub(super) fn take_back(&mut self) {
        self.at_work += 1;
    }

    /// A waiting request leaves because its caller is gone or its time is over. Returns the retry time.
    pub(super) fn leave(&mut self, now: Instant, name: (Instant, u64)) -> Option<Duration> {
        let Waiting { key, .. } = self.waiting.remove(&name)?;
        Some(self.refuse(now, key, self.waiting.len()))
    }

    /// Starts waiting requests while there is room. A request that cannot be answered in time is refused before any
    /// write.
    fn begin(&mut self, now: Instant, verdicts: &mut Verdicts<W>) {
        let needed = self.needed();
        while self.at_work < self.limit.current() {
            let Some(((deadline, _), Waiting { key, waiter })) = self.waiting.pop_first() else { break };
            if deadline.saturating_duration_since(now) < needed {
                let after = self.refuse(now, key, self.waiting.len());
                verdicts.push((waiter, Verdict::Refused(after)));
            } else {
                self.at_work += 1;
                self.remember(now, key);
                verdicts.push((waiter, Verdict::Go));
            }
        }
    }

    /// Refuses waiting requests that will not start in time.
    fn shed(&mut self, now: Instant, verdicts: &mut Verdicts<W>) {
        let mut late = Vec::new();
        let mut kept = 0;
        for name in self.waiting.keys() {
            let left = name.0.saturating_duration_since(now);
            let wait = self.rate.time_for(kept + 1).unwrap_or_default();
            if wait > left.mul_f64(SHED_PART) { late.push(*name) } else { kept += 1 }
        }
        for name in late {
            if let Some(Waiting { key, waiter }) = self.waiting.remove(&name) {
                let after = self.refuse(now, key, kept);
                verdicts.push((waiter, Verdict::Refused(after)));
            }
        }
    }

    /// Work on that request begins.
    fn remember(&mut self, now: Instant, key: u64) {
        if self.admitted_purged.is_none_or(|at| now >= at + ADMITTED_KEPT) {
            self.admitted_purged = Some(now);
            self.admitted.retain(|_, at| now <= *at + ADMITTED_KEPT);
        }
        self.admitted.insert(key, now);
    }

    /// The time that has to be left to a request with which work begins.
    fn needed(&self) -> Duration {
        self.limit.latency().map_or(NEEDED_MIN, |latency| (latency * LATENCIES_NEEDED).max(NEEDED_MIN))
    }

    fn refuse(&mut self, now: Instant, key: u64, in_front: usize) -> Duration {
        let queue = self.rate.time_for(in_front).unwrap_or_default();
        let spacing = self.rate.spacing().unwrap_or(SPACING_UNKNOWN);
        self.promises.make(now, key, queue, spacing)
    }
}
