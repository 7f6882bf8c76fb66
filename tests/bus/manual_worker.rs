//! A worker, a handler or a runner whose answers all come from the test.

use async_trait::async_trait;
use contract::{NodeVerb, Report, TickOrder};
use domain::PoolName;
use harness::wait::TIMEOUT;
use ports::bus::{Answer, Delivery, Handler, Request, RequestVerb, Runner, Verdict, Worker};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The bus's side. Each case waits until the test has answered it.
pub(crate) struct ManualWorker<T, A> {
    hand_over: mpsc::UnboundedSender<Case<T, A>>,
    tally: Arc<Tally>,
}

/// The test's side.
pub(crate) struct Inbox<T, A> {
    cases: mpsc::UnboundedReceiver<Case<T, A>>,
    tally: Arc<Tally>,
}

/// A case from the bus. If it is dropped without an answer, its worker panics.
#[derive(Debug)]
pub(crate) struct Case<T, A> {
    /// The request, work or tick.
    pub(crate) what: T,
    answer: oneshot::Sender<A>,
}

/// Counts the cases that run at the same time.
#[derive(Debug, Default)]
struct Tally {
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    is_closed: AtomicBool,
    admissions: AtomicUsize,
}

/// Counts a case until it is dropped, also if the bus abandons it.
struct Counted<'a>(&'a Tally);

pub(crate) type WorkInbox = Inbox<Delivery, Verdict>;
pub(crate) type RequestInbox = Inbox<Request, Answer>;
pub(crate) type NodeInbox = Inbox<Request<NodeVerb>, Answer>;
pub(crate) type RunInbox = Inbox<TickOrder, Report>;

/// A manual worker and its inbox.
pub(crate) fn manual_worker<T, A>() -> (Arc<ManualWorker<T, A>>, Inbox<T, A>) {
    let (hand_over, cases) = mpsc::unbounded_channel();
    let tally = Arc::new(Tally::default());
    (Arc::new(ManualWorker { hand_over, tally: Arc::clone(&tally) }), Inbox { cases, tally })
}

// === impl Tally ===

impl Tally {
    fn enter(&self) -> Counted<'_> {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once_max.fetch_max(now, Ordering::SeqCst);
        Counted(self)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl ManualWorker ===

impl<T, A> ManualWorker<T, A> {
    /// Admits no deliveries until the inbox says otherwise.
    pub(crate) fn admit_nothing(&self) {
        self.tally.is_closed.store(true, Ordering::SeqCst);
    }

    pub(crate) async fn ask(&self, what: T) -> A {
        let _counted = self.tally.enter();
        let (answer, answered) = oneshot::channel();
        if self.hand_over.send(Case { what, answer }).is_err() {
            // The test has ended.
            return std::future::pending().await;
        }
        answered.await.expect("the test lets this worker die")
    }
}

#[async_trait]
impl Worker for ManualWorker<Delivery, Verdict> {
    async fn work(&self, delivery: Delivery) -> Verdict {
        self.ask(delivery).await
    }

    async fn admit(&self, _pool: &PoolName, places: usize) -> (usize, Duration) {
        self.tally.admissions.fetch_add(1, Ordering::SeqCst);
        if self.tally.is_closed.load(Ordering::SeqCst) {
            (0, Duration::from_millis(10))
        } else {
            (places, Duration::ZERO)
        }
    }
}

#[async_trait]
impl<V: RequestVerb> Handler<V> for ManualWorker<Request<V>, Answer> {
    async fn handle(&self, request: Request<V>) -> Answer {
        self.ask(request).await
    }
}

#[async_trait]
impl Runner for ManualWorker<TickOrder, Report> {
    async fn run(&self, order: &TickOrder) -> Report {
        self.ask(order.clone()).await
    }
}

// === impl Inbox ===

impl<T: Debug, A: Debug> Inbox<T, A> {
    /// Waits for the next case; panics if none comes.
    pub(crate) async fn next(&mut self) -> Case<T, A> {
        let next = tokio::time::timeout(TIMEOUT, self.cases.recv()).await;
        next.expect("nothing was handed in").expect("the worker is there")
    }

    /// The next case, if there is one already.
    pub(crate) fn poll(&mut self) -> Option<Case<T, A>> {
        self.cases.try_recv().ok()
    }

    /// How often the bus asked whether it may fetch more.
    pub(crate) fn admissions(&self) -> usize {
        self.tally.admissions.load(Ordering::SeqCst)
    }

    /// Admits all deliveries.
    pub(crate) fn admit_all(&self) {
        self.tally.is_closed.store(false, Ordering::SeqCst);
    }

    /// Answers every case from now on with `answer`.
    pub(crate) fn answer_all(mut self, answer: impl Fn(&T) -> A + Send + 'static)
    where
        T: Send + 'static,
        A: Send + 'static,
    {
        tokio::spawn(async move {
            while let Some(case) = self.cases.recv().await {
                let answered = answer(&case.what);
                // The bus may have abandoned it.
                let _ = case.answer.send(answered);
            }
        });
    }

    /// Whether a case is waiting.
    pub(crate) fn has_case(&self) -> bool {
        !self.cases.is_empty()
    }

    /// Cases in progress now.
    pub(crate) fn at_once(&self) -> usize {
        self.tally.at_once.load(Ordering::SeqCst)
    }

    /// The maximum of cases in progress at the same time.
    pub(crate) fn at_once_max(&self) -> usize {
        self.tally.at_once_max.load(Ordering::SeqCst)
    }
}

// === impl Case ===

impl<T: Debug, A: Debug> Case<T, A> {
    /// Answers the case.
    pub(crate) fn answer(self, answer: A) {
        self.answer.send(answer).expect("a caller waits for the answer");
    }

    /// Whether the bus has abandoned it.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }
}
