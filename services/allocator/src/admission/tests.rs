//! A process with a store of a fixed rate, on a clock that the test moves.

use super::queue::{Arrival, End, Queue, Verdict};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const TARGET: Duration = Duration::from_millis(300);
/// The time of one attempt of the ingress.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Serves requests in the order in which they start, one every `1 / rate` seconds.
struct World {
    began: Instant,
    now: Instant,
    rate: f64,
    queue: Queue<u64>,
    /// Requests at the store: number and start.
    at_store: VecDeque<(u64, Instant)>,
    deadlines: BTreeMap<u64, Instant>,
    /// Arrivals by time, first or repeated, with the first refusal.
    coming: BTreeMap<(Instant, u64), Option<Refused>>,
    refused: BTreeMap<u64, Refused>,
    served: BTreeMap<u64, Instant>,
    /// For each request that was served after a refusal: advised and actual waiting time.
    advice: Vec<(Duration, Duration)>,
    repeats: bool,
    refusals: usize,
}

#[derive(Clone, Copy)]
struct Refused {
    at: Instant,
    advised: Duration,
}

impl World {
    fn new(rate: f64) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            now,
            rate,
            queue: Queue::new(512, TARGET),
            at_store: VecDeque::new(),
            deadlines: BTreeMap::new(),
            coming: BTreeMap::new(),
            refused: BTreeMap::new(),
            served: BTreeMap::new(),
            advice: Vec::new(),
            repeats: true,
            refusals: 0,
        }
    }

    fn comes(&mut self, who: u64, at: Duration) {
        self.coming.insert((self.began + at, who), None);
    }

    fn refuse(&mut self, who: u64, after: Duration) {
        self.refusals += 1;
        // Retry times are whole seconds.
        let advised = Duration::from_secs(after.as_millis().div_ceil(1_000) as u64).max(SECOND);
        let first = *self.refused.entry(who).or_insert(Refused { at: self.now, advised });
        if self.repeats {
            self.coming.insert((self.now + advised, who), Some(first));
        }
    }

    fn apply(&mut self, verdicts: Vec<(u64, Verdict)>) {
        for (who, verdict) in verdicts {
            match verdict {
                Verdict::Go => self.at_store.push_back((who, self.now)),
                Verdict::Refused(after) => self.refuse(who, after),
            }
        }
    }

    /// Until no caller arrives or waits any more, or `span` has passed.
    fn run(&mut self, span: Duration) {
        let step = Duration::from_secs_f64(1.0 / self.rate);
        let mut next_done = self.now + step;
        while self.now < self.began + span && !(self.coming.is_empty() && self.at_store.is_empty()) {
            let next_coming = self.coming.keys().next().map(|(at, _)| *at);
            match next_coming {
                Some(at) if at <= next_done => {
                    let ((_, who), _) = self.coming.pop_first().unwrap();
                    self.now = self.now.max(at);
                    let deadline = self.now + TIMEOUT;
                    self.deadlines.insert(who, deadline);
                    match self.queue.arrive(self.now, deadline, who, who) {
                        Arrival::Go => self.at_store.push_back((who, self.now)),
                        Arrival::Waits(_) => {}
                        Arrival::Refused(after) => self.refuse(who, after),
                    }
                }
                _ => {
                    self.now = next_done;
                    next_done += step;
                    let Some((who, since)) = self.at_store.pop_front() else { continue };
                    assert!(self.now <= self.deadlines[&who], "{who} was answered after its deadline");
                    assert!(self.served.insert(who, self.now).is_none(), "{who} was served twice");
                    if let Some(first) = self.refused.get(&who) {
                        self.advice.push((first.advised, self.now - first.at));
                    }
                    let verdicts = self.queue.finish(self.now, self.now - since, End::Answered);
                    self.apply(verdicts);
                }
            }
        }
    }

    fn served_by(&self, span: Duration) -> usize {
        self.served.values().filter(|at| **at <= self.began + span).count()
    }

    /// The share of refused callers whose waiting time was within a factor of two of the advice.
    fn good_advice(&self) -> f64 {
        let good = self.advice.iter().filter(|(advised, waited)| *waited <= 2 * *advised).count();
        good as f64 / self.advice.len().max(1) as f64
    }
}

#[test]
fn callers_that_follow_retry_advice_get_the_store_rate() {
    let rate = 140.0;
    let mut world = World::new(rate);
    let callers = 25 * 140;
    for who in 0..callers {
        world.comes(who, MS * (who as u32 / 10));
    }
    world.run(120 * SECOND);
    assert_eq!(world.served.len() as u64, callers);
    let last = *world.served.values().max().unwrap() - world.began;
    let goodput = callers as f64 / last.as_secs_f64() / rate;
    assert!(goodput >= 0.9, "{goodput}");
    assert!(world.good_advice() >= 0.99, "{}", world.good_advice());
    assert!(world.refusals < 3 * callers as usize, "{}", world.refusals);
}

#[test]
fn refused_callers_are_admitted_under_tenfold_load() {
    let rate = 140.0;
    let mut world = World::new(rate);
    let callers: u64 = 10 * 140 * 20;
    for who in 0..callers {
        world.comes(who, Duration::from_secs_f64(who as f64 / (10.0 * rate)));
    }
    world.run(400 * SECOND);
    assert_eq!(world.served.len() as u64, callers);
    assert!(world.good_advice() >= 0.99, "{}", world.good_advice());
    let during = world.served_by(20 * SECOND) as f64 / 20.0 / rate;
    assert!(during >= 0.9, "{during}");
    let last = *world.served.values().max().unwrap() - world.began;
    let goodput = callers as f64 / last.as_secs_f64() / rate;
    assert!(goodput >= 0.9, "{goodput}");
}

#[test]
fn callers_that_never_retry_leave_no_idle_capacity() {
    let rate = 140.0;
    let mut world = World::new(rate);
    world.repeats = false;
    let callers: u64 = 3 * 140 * 30;
    for who in 0..callers {
        world.comes(who, Duration::from_secs_f64(who as f64 / (3.0 * rate)));
    }
    world.run(60 * SECOND);
    let during = world.served_by(30 * SECOND) as f64 / 30.0 / rate;
    assert!(during >= 0.9, "{during}");
}

#[test]
fn request_that_meets_its_deadline_is_admitted() {
    let mut world = World::new(1_000.0);
    for who in 0..1_000 {
        world.comes(who, Duration::ZERO);
    }
    world.run(10 * SECOND);
    assert_eq!((world.served.len(), world.refusals), (1_000, 0));
}

#[test]
fn earliest_deadline_is_served_first() {
    let now = Instant::now();
    let mut queue = Queue::new(1, TARGET);
    assert_eq!(queue.arrive(now, now + SECOND, 0, 0), Arrival::Go);
    for (who, left) in [(1, 3 * SECOND), (2, SECOND), (3, 2 * SECOND)] {
        assert!(matches!(queue.arrive(now, now + left, who, who), Arrival::Waits(_)));
    }
    for who in [2, 3, 1] {
        assert_eq!(queue.finish(now, MS, End::Answered), [(who, Verdict::Go)]);
    }
}

#[test]
fn request_that_would_miss_its_deadline_is_refused() {
    let now = Instant::now();
    let mut queue = Queue::new(1, TARGET);
    assert_eq!(queue.arrive(now, now + SECOND, 0, 0), Arrival::Go);
    assert!(matches!(queue.arrive(now, now + SECOND, 1, 1), Arrival::Waits(_)));
    assert!(matches!(queue.arrive(now, now + 3 * SECOND, 2, 2), Arrival::Waits(_)));
    let verdicts = queue.finish(now + SECOND - 20 * MS, 300 * MS, End::Answered);
    assert!(matches!(verdicts[..], [(1, Verdict::Refused(_)), (2, Verdict::Go)]), "{verdicts:?}");
}

#[test]
fn cancelled_request_is_skipped_in_the_queue() {
    let now = Instant::now();
    let mut queue = Queue::new(1, TARGET);
    assert_eq!(queue.arrive(now, now + SECOND, 0, 0), Arrival::Go);
    let Arrival::Waits(name) = queue.arrive(now, now + SECOND, 1, 1) else { panic!("it has to wait") };
    assert!(matches!(queue.arrive(now, now + SECOND, 2, 2), Arrival::Waits(_)));
    assert!(queue.leave(now, name).is_some() && queue.leave(now, name).is_none());
    assert_eq!(queue.finish(now, MS, End::Answered), [(2, Verdict::Go)]);
    assert_eq!(queue.give_back(now), []);
}

#[test]
fn repeat_of_an_admitted_request_is_admitted_once() {
    let now = Instant::now();
    let mut queue = Queue::new(1, TARGET);
    assert_eq!(queue.arrive(now, now + TIMEOUT, 1, 0), Arrival::Go);
    assert!(matches!(queue.arrive(now, now + TIMEOUT, 2, 0), Arrival::Waits(_)));
    for _ in 0..200 {
        let _ = queue.arrive(now, now + 10 * MS, 3, 0);
    }
    assert_eq!(queue.arrive(now + SECOND, now + TIMEOUT, 1, 0), Arrival::Go);
    assert_ne!(queue.arrive(now + SECOND, now + TIMEOUT, 1, 0), Arrival::Go);
    let mut queue = Queue::new(1, TARGET);
    assert_eq!(queue.arrive(now, now + TIMEOUT, 1, 0), Arrival::Go);
    assert_ne!(queue.arrive(now + 11 * SECOND, now + 15 * SECOND, 1, 0), Arrival::Go);
}
