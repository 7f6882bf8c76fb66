//! Sends claims and measures them.
//!
//! Three kinds of load. In a closed loop, a number of callers each claim again as soon as they have an answer. It shows
//! the capacity of the broker; its latencies say nothing about independent callers, because a slow broker gets fewer
//! requests. In an open loop, callers arrive by a schedule that is independent of the broker. A latency starts at the
//! intended start, so a stall counts for every caller that arrived during it (coordinated omission). In a burst, all
//! callers arrive at once, with one claim each.

use super::answers::{AnswerLog, Check};
use super::arrivals::{poisson, send_by};
use super::calls::{Answered, Call, Ending, Requester, Sample};
use super::progress::{Progress, Total};
use parking_lot::{Mutex, MutexGuard};
use ports::random::Random;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

/// Maximum number of samples of a closed loop: 40 bytes each, so that an endless run cannot fill the memory.
const SAMPLES_MAX: u64 = 10_000_000;
/// Pause of a caller in a closed loop without an answer, so that a dead broker gets no flood.
const LOST_PAUSE: Duration = Duration::from_millis(100);
/// Callers of an open loop that may wait for an answer; further ones wait to be sent, and their latency includes that.
/// Well below the connections and ports of one machine.
pub(super) const OPEN_IN_FLIGHT_MAX: usize = 8_192;

/// How the claims come.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// This many callers, each with its next claim when it has its answer.
    Closed {
        /// Callers.
        callers: usize,
        /// When it ends.
        limit: Limit,
    },
    /// By a Poisson schedule.
    Open {
        /// Claims in a second, on average.
        rate_per_second: f64,
        /// How long.
        span: Duration,
    },
    /// All at once.
    Burst {
        /// Callers, each with one claim.
        callers: usize,
    },
}

/// When a closed loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After so many claims.
    Claims(u64),
    /// After that time.
    Time(Duration),
}

/// The options of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How the claims come.
    pub shape: Shape,
    /// The same load before it, checked but not measured; none for a burst.
    pub warm_up: Option<Limit>,
    /// Whether every owner that got a sandbox repeats its claim.
    pub replay: bool,
    /// Whether every sandbox is released.
    pub release: bool,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every call that was measured, in the order of the answers.
    pub samples: Vec<Sample>,
    /// The check of the answers, including those of the warm-up.
    pub check: Check,
    /// Why a closed loop ended before its limit.
    pub ended_early: Option<String>,
}

/// One run.
struct Session {
    requester: Requester,
    plan: Plan,
    run: String,
    began: Instant,
    owners: AtomicU64,
    done: Arc<AtomicU64>,
    records: Mutex<Records>,
}

struct Records {
    samples: Vec<Sample>,
    answer_log: AnswerLog,
    ended_early: Option<String>,
}

/// Decides which callers of a closed loop continue.
struct Gate {
    limit: Limit,
    began: Instant,
    passed: AtomicU64,
    is_shut: AtomicBool,
}

/// The intended start of a caller, and whether it counts.
#[derive(Clone, Copy)]
struct Arrival {
    intended: Instant,
    is_warm_up: bool,
}

/// Runs `plan` with owners that begin with `run`.
pub async fn run(requester: Requester, random: &dyn Random, run: &str, plan: Plan) -> Outcome {
    let answer_log = AnswerLog::new(requester.selector.clone());
    let session = Arc::new(Session {
        requester,
        plan: plan.clone(),
        run: run.to_owned(),
        began: Instant::now(),
        owners: AtomicU64::new(0),
        done: Arc::default(),
        records: Mutex::new(Records { samples: Vec::new(), answer_log, ended_early: None }),
    });
    match plan.shape {
        Shape::Closed { callers, limit } => {
            if let Some(warm_up) = plan.warm_up {
                closed(&session, callers, warm_up, true).await;
            }
            closed(&session, callers, limit, false).await;
        }
        Shape::Open { rate_per_second, span } => {
            let warm_up = match plan.warm_up {
                Some(Limit::Time(warm_up)) => warm_up,
                Some(Limit::Claims(claims)) => Duration::from_secs_f64(claims as f64 / rate_per_second),
                None => Duration::ZERO,
            };
            open(&session, poisson(random, rate_per_second, warm_up + span), warm_up).await;
        }
        Shape::Burst { callers } => burst(&session, callers).await,
    }
    let mut records = session.records();
    Outcome {
        samples: std::mem::take(&mut records.samples),
        check: records.answer_log.check(),
        ended_early: records.ended_early.take(),
    }
}

async fn closed(session: &Arc<Session>, callers: usize, limit: Limit, is_warm_up: bool) {
    let progress = match limit {
        Limit::Claims(claims) => Progress::show("claims", Total::Count(claims), &session.done),
        Limit::Time(span) => Progress::show("claims", Total::Time(span), &session.done),
    };
    let gate = Arc::new(Gate::new(limit));
    let mut loops = JoinSet::new();
    for _ in 0..callers {
        let (session, gate) = (Arc::clone(session), Arc::clone(&gate));
        loops.spawn(async move {
            while gate.lets_pass() {
                let ending = session.serve_one(Arrival { intended: Instant::now(), is_warm_up }).await;
                if ending.is_final() && gate.shut() {
                    session.records().ended_early = Some(ending.as_str().to_owned());
                }
                if matches!(ending, Ending::Lost(_)) {
                    tokio::time::sleep(LOST_PAUSE).await;
                }
            }
        });
    }
    while loops.join_next().await.is_some() {}
    if gate.is_used_up() {
        session.records().ended_early = Some(format!("{SAMPLES_MAX} claims, the most of one run"));
    }
    progress.end();
}

async fn open(session: &Arc<Session>, schedule: Vec<Duration>, warm_up: Duration) {
    let total = Total::Count(schedule.len() as u64);
    let progress = Progress::show("claims", total, &session.done);
    let callers = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(OPEN_IN_FLIGHT_MAX));
    let runtime = tokio::runtime::Handle::current();
    let sending = {
        let (session, callers) = (Arc::clone(session), callers.clone());
        move |intended, at| {
            let arrival = Arrival { intended, is_warm_up: at < warm_up };
            let (session, permits) = (Arc::clone(&session), Arc::clone(&permits));
            let caller = async move {
                // Never closed, so there is always a permit in the end.
                let _permit = permits.acquire_owned().await;
                session.serve_one(arrival).await;
            };
            callers.spawn_on(caller, &runtime);
        }
    };
    send_by(schedule, sending).await;
    callers.close();
    callers.wait().await;
    progress.end();
}

async fn burst(session: &Arc<Session>, callers: usize) {
    let progress = Progress::show("claims", Total::Count(callers as u64), &session.done);
    let (go, ready) = watch::channel(None);
    let mut waiting = JoinSet::new();
    for _ in 0..callers {
        let (session, mut ready) = (Arc::clone(session), ready.clone());
        waiting.spawn(async move {
            // The sender lives until all have gone.
            let Ok(intended) = ready.wait_for(Option::is_some).await.map(|intended| *intended) else {
                return;
            };
            let intended = intended.unwrap_or_else(Instant::now);
            session.serve_one(Arrival { intended, is_warm_up: false }).await;
        });
    }
    // All callers wait for the start signal.
    tokio::task::yield_now().await;
    go.send_replace(Some(Instant::now()));
    while waiting.join_next().await.is_some() {}
    progress.end();
}

// === impl Plan ===

impl Plan {
    /// The plan in words, for a report.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = match self.shape {
            Shape::Closed { callers, limit: Limit::Claims(claims) } => {
                format!("closed loop, {callers} callers, {claims} claims")
            }
            Shape::Closed { callers, limit: Limit::Time(span) } => {
                format!("closed loop, {callers} callers, {} s", span.as_secs_f64())
            }
            Shape::Open { rate_per_second, span } => {
                format!("open loop, {rate_per_second:.1} claims in a second, {:.0} s", span.as_secs_f64())
            }
            Shape::Burst { callers } => format!("burst of {callers} callers"),
        };
        if self.replay {
            words.push_str(", each repeated");
        }
        if self.release {
            words.push_str(", each released");
        }
        words
    }
}

// === impl Session ===

impl Session {
    /// One owner: its claim, then what the plan has for owners with a sandbox. Returns the outcome of the claim.
    async fn serve_one(&self, arrival: Arrival) -> Ending {
        let Arrival { intended, is_warm_up } = arrival;
        let owner = format!("{}-{}", self.run, self.owners.fetch_add(1, Ordering::Relaxed));
        let start = Instant::now();
        let claim = self.requester.claim(&owner, Call::Claim).await;
        {
            let mut records = self.records();
            records.answer_log.note_claim(&owner, claim.ending, claim.body.as_ref());
            self.note(&mut records, Call::Claim, &claim, intended, start, is_warm_up);
        }
        if let Some(first) = &claim.body {
            if self.plan.replay {
                let start = Instant::now();
                let repeat = self.requester.claim(&owner, Call::Replay).await;
                let mut records = self.records();
                records.answer_log.note_repeat(&owner, first, repeat.ending, repeat.body.as_ref());
                self.note(&mut records, Call::Replay, &repeat, start, start, is_warm_up);
            }
            if self.plan.release {
                let start = Instant::now();
                let released = self.requester.release(&owner, &first.sandbox_id).await;
                self.note(&mut self.records(), Call::Release, &released, start, start, is_warm_up);
            }
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        claim.ending
    }

    fn note<T>(
        &self,
        records: &mut Records,
        call: Call,
        answered: &Answered<T>,
        intended: Instant,
        start: Instant,
        is_warm_up: bool,
    ) {
        if is_warm_up {
            return;
        }
        records.samples.push(Sample {
            call,
            ending: answered.ending,
            intended_start_us: microseconds(intended.saturating_duration_since(self.began)),
            start_us: microseconds(start.saturating_duration_since(self.began)),
            latency_us: microseconds(answered.at.saturating_duration_since(intended)),
        });
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock()
    }
}

// === impl Gate ===

impl Gate {
    fn new(limit: Limit) -> Self {
        let (passed, is_shut) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { limit, began: Instant::now(), passed, is_shut }
    }

    fn lets_pass(&self) -> bool {
        let number = self.passed.fetch_add(1, Ordering::Relaxed);
        let within = match self.limit {
            Limit::Claims(claims) => number < claims,
            Limit::Time(span) => self.began.elapsed() < span,
        };
        within && number < SAMPLES_MAX && !self.is_shut.load(Ordering::Relaxed)
    }

    fn is_used_up(&self) -> bool {
        self.passed.load(Ordering::Relaxed) >= SAMPLES_MAX
    }

    /// Stops all callers. True for the caller that did it.
    fn shut(&self) -> bool {
        !self.is_shut.swap(true, Ordering::Relaxed)
    }
}

fn microseconds(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_admits_calls_up_to_its_limit() {
        let gate = Gate::new(Limit::Claims(3));
        assert_eq!((0..10).filter(|_| gate.lets_pass()).count(), 3);
        let gate = Gate::new(Limit::Time(Duration::ZERO));
        assert!(!gate.lets_pass());
    }

    #[test]
    fn gate_is_closed_once_for_all_callers() {
        let gate = Gate::new(Limit::Claims(3));
        assert!(gate.lets_pass());
        assert!(gate.shut());
        assert!(!gate.shut());
        assert!(!gate.lets_pass());
    }
}
