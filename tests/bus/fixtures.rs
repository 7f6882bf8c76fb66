//! Shared helpers of the cases.

use crate::engines::{Bus, World};
use crate::manual_worker::{RequestInbox, RunInbox, WorkInbox, manual_worker};
use bytes::Bytes;
use contract::RunStatus;
use contract::{DeletionWork, Report, SweepReport, TickKind, Verb, WorkerRole};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{Answer, BusError, Context, Reply, RequestError};
use ports::clock::{Clock as _, SystemClock};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The timeout of a wait that is expected to end without an answer.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// A task on a bus, until the test stops it.
pub(crate) struct Running {
    pub(crate) stop: CancellationToken,
    pub(crate) ended: JoinHandle<Result<(), BusError>>,
}

/// The deletion of a sandbox.
pub(crate) fn work(number: usize) -> DeletionWork {
    DeletionWork {
        version: 1,
        sandbox_id: number.to_string(),
        pool: "main".to_owned(),
        epoch: 1,
        requested_at: 1_763_683_200,
        external_id: Some(format!("identity/accounts/u-{number}")),
    }
}

/// The context of a request with that id.
pub(crate) fn context(request_id: &str) -> Context {
    Context {
        request_id: request_id.to_owned(),
        deadline_ms: None,
        traceparent: None,
        idempotency_key: None,
        attempt: None,
        principal: contract::Principal::default(),
    }
}

/// The time `span` from now, in milliseconds since the Unix epoch.
pub(crate) fn in_ms(span: Duration) -> u64 {
    SystemClock.now_ms() + u64::try_from(span.as_millis()).unwrap()
}

/// An answer without an outcome.
pub(crate) fn answer(body: &'static str) -> Answer {
    Answer { outcome: None, body: Ok(Bytes::from_static(body.as_bytes())) }
}

/// The report of a sweep with `pending` deletions.
pub(crate) fn report(pending: u64) -> Report {
    Report::Sweep(SweepReport { status: RunStatus::Completed, pending, ..SweepReport::default() })
}

/// Sends a request once a worker serves the verb.
pub(crate) async fn ask(
    bus: &dyn Bus,
    verb: Verb,
    context: &Context,
    body: impl Into<Bytes>,
) -> Result<Reply, RequestError> {
    let body = body.into();
    eventually("a worker that serves", TIMEOUT, || async {
        match bus.request(verb, context, body.clone(), TIMEOUT).await {
            Err(RequestError::NoResponders) => Err(RequestError::NoResponders),
            other => Ok(other),
        }
    })
    .await
}

/// Waits until a condition in this process is true.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let look = || {
        let is_so = is_so();
        async move { if is_so { Ok(()) } else { Err("not yet") } }
    };
    eventually(what, TIMEOUT, look).await;
}

/// Sends a request in the background.
pub(crate) fn ask_later(
    bus: &Arc<dyn Bus>,
    context: Context,
    body: &'static str,
) -> JoinHandle<Result<Reply, RequestError>> {
    let bus = Arc::clone(bus);
    tokio::spawn(async move { ask(bus.as_ref(), Verb::Get, &context, body).await })
}

/// Serves requests with a manual worker.
pub(crate) fn serve(bus: &Arc<dyn Bus>, in_flight_max: usize) -> (RequestInbox, Running) {
    let (handler, inbox) = manual_worker();
    let running = run(|stop| {
        let bus = Arc::clone(bus);
        async move { bus.serve(WorkerRole::Allocator, handler, in_flight_max, stop).await }
    });
    (inbox, running)
}

/// Consumes deletions with a manual worker.
pub(crate) fn consume(bus: &Arc<dyn Bus>, in_flight_max: usize) -> (WorkInbox, Running) {
    let (worker, inbox) = manual_worker();
    let running = run(|stop| {
        let bus = Arc::clone(bus);
        async move { bus.consume(worker, in_flight_max, stop).await }
    });
    (inbox, running)
}

/// As [`consume`], with a worker that admits no deliveries yet.
pub(crate) fn consume_closed(bus: &Arc<dyn Bus>, in_flight_max: usize) -> (WorkInbox, Running) {
    let (worker, inbox) = manual_worker();
    worker.admit_nothing();
    let running = run(|stop| {
        let bus = Arc::clone(bus);
        async move { bus.consume(worker, in_flight_max, stop).await }
    });
    (inbox, running)
}

/// Runs on ticks with a manual worker.
pub(crate) fn run_on_ticks(bus: &Arc<dyn Bus>, kind: TickKind) -> (RunInbox, Running) {
    let (runner, inbox) = manual_worker();
    let running = run(|stop| {
        let bus = Arc::clone(bus);
        async move { bus.run_on_ticks(kind, runner, stop).await }
    });
    (inbox, running)
}

pub(crate) fn run<F>(begin: impl FnOnce(CancellationToken) -> F) -> Running
where
    F: Future<Output = Result<(), BusError>> + Send + 'static,
{
    let stop = CancellationToken::new();
    let ended = tokio::spawn(begin(stop.clone()));
    Running { stop, ended }
}

/// Announces deletions, each of which must be new.
pub(crate) async fn announce(world: &World, numbers: impl IntoIterator<Item = usize>) {
    for number in numbers {
        let announced = world.bus.announce(&work(number)).await.unwrap();
        assert_eq!(announced, ports::bus::Announced::Queued, "{number}");
    }
}

// === impl Running ===

impl Running {
    /// Asks the task to stop and waits for its end.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.ended().await;
    }

    /// Waits for the task's end.
    pub(crate) async fn ended(self) {
        let ended = tokio::time::timeout(TIMEOUT, self.ended).await.expect("it ends in time");
        ended.expect("it does not panic").expect("it ends well");
    }
}
