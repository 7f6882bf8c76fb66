//! Callers that follow the retry times, and the outcome of each.

use crate::calls::{Answered, Call, Ending, Requester};
use crate::load::OPEN_IN_FLIGHT_MAX;
use contract::{Allocation, FaultCode};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Retry time of a caller that got none.
const ADVICE_MISSING: Duration = Duration::from_secs(1);

/// The outcomes of all callers.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Answers by their name.
    pub(super) answers: BTreeMap<&'static str, u64>,
    /// Callers that were granted a sandbox.
    pub(super) served: u64,
    /// Sandboxes that were granted, with how often.
    pub(super) sandboxes: HashMap<String, u32>,
    /// Callers whose last answer was an error.
    pub(super) refused_owners: Vec<String>,
    /// Callers that were never served although they followed the retry times.
    pub(super) given_up: u64,
    /// Waiting times of callers that were served after a refusal, in multiples of their first retry time.
    pub(super) advice: Vec<f64>,
    /// When the last one was served, after the first one came.
    pub(super) last_served: Duration,
    /// Callers that were served while new ones arrived.
    pub(super) served_in_time: u64,
}

/// How callers behave.
#[derive(Clone, Copy)]
pub(super) struct Behavior {
    /// Whether refused callers return.
    pub(super) repeats: bool,
    /// When a caller gives up.
    pub(super) patience: Duration,
    /// The time in which new ones arrive, for [`Tally::served_in_time`].
    pub(super) span: Duration,
}

/// Callers that come one after the other.
#[derive(Clone)]
pub(super) struct CallerGroup {
    requester: Requester,
    run: String,
    behavior: Behavior,
    began: Instant,
    /// The number of connections is limited.
    connections: Arc<Semaphore>,
    tally: Arc<Mutex<Tally>>,
    callers: TaskTracker,
}

// === impl CallerGroup ===

impl CallerGroup {
    pub(super) fn new(requester: Requester, run: String, behavior: Behavior) -> Self {
        Self {
            requester,
            run,
            behavior,
            began: Instant::now(),
            connections: Arc::new(Semaphore::new(OPEN_IN_FLIGHT_MAX)),
            tally: Arc::default(),
            callers: TaskTracker::new(),
        }
    }

    /// One more caller comes now.
    pub(super) fn come(&self, number: usize, runtime: &tokio::runtime::Handle) {
        let group = self.clone();
        self.callers.spawn_on(async move { group.one(number).await }, runtime);
    }

    /// Waits for all of them.
    pub(super) async fn end(self) -> Tally {
        self.callers.close();
        self.callers.wait().await;
        std::mem::take(&mut *self.tally.lock())
    }

    async fn one(&self, number: usize) {
        let owner = format!("{}-{number}", self.run);
        let came = Instant::now();
        let mut first: Option<(Instant, Duration)> = None;
        loop {
            let answered = {
                // Never closed.
                let _connection = self.connections.acquire().await;
                self.requester.claim(&owner, Call::Claim).await
            };
            let Some(advised) = self.note(&owner, came, first, answered) else { return };
            first.get_or_insert((Instant::now(), advised));
            tokio::time::sleep(advised).await;
        }
    }

    /// Counts an answer; returns when the caller should return.
    fn note(
        &self,
        owner: &str,
        came: Instant,
        first: Option<(Instant, Duration)>,
        answered: Answered<Allocation>,
    ) -> Option<Duration> {
        let mut tally = self.tally.lock();
        *tally.answers.entry(answered.ending.as_str()).or_default() += 1;
        if let Some(allocation) = answered.body {
            tally.served += 1;
            *tally.sandboxes.entry(allocation.sandbox_id).or_default() += 1;
            if let Some((at, advised)) = first {
                tally.advice.push(at.elapsed().as_secs_f64() / advised.as_secs_f64());
            }
            let after = self.began.elapsed();
            tally.last_served = tally.last_served.max(after);
            tally.served_in_time += u64::from(after <= self.behavior.span);
            return None;
        }
        let advised = answered.retry_after.unwrap_or(ADVICE_MISSING);
        let is_final = answered.ending == Ending::Refused(FaultCode::PoolExhausted);
        if self.behavior.repeats && !is_final && came.elapsed() + advised <= self.behavior.patience {
            return Some(advised);
        }
        tally.given_up += u64::from(self.behavior.repeats);
        tally.refused_owners.push(owner.to_owned());
        None
    }
}
