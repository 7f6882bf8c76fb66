//! The rig: an ingress whose workers, runs, time and random numbers are controlled by the test.

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use contract::{Fault, FaultCode, Outcome, RunReport, TickKind, TickOrder, Verb, WorkerRole};
use ingress::{Config, Ingress, Ports};
use parking_lot::Mutex;
use ports::bus::{
    BusError, Context, DeletionControl, Discovery, EventFeed, LateReply, Reply, RequestError, Requests,
    ServiceInfo, TickReceipt, Ticks, Unanswered,
};
use ports::clock::Clock;
use ports::random::Random;
use prometheus::Registry;
use runtime::settings::Settings;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use testkit::bus::{MemoryBus, MemoryConfig};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub(crate) const LAB_TOKEN: &str = "lab-token-1";
pub(crate) const ADMIN_TOKEN: &str = "admin-token-1";
pub(crate) const FRESH_ID: &str = "fresh-1";
/// The start of the rig's clock, in milliseconds since the Unix epoch.
pub(crate) const EPOCH_MS: u64 = 1_800_000_000_000;

pub(crate) type Headers<'a> = &'a [(&'a str, &'a str)];

/// A lab's request, as existing lab scripts send it.
pub(crate) const LAB: Headers<'static> =
    &[("Authorization", "Bearer lab-token-1"), ("X-Instruqt-Sandbox-ID", "p-1")];
pub(crate) const ADMIN: Headers<'static> = &[("Authorization", "Bearer admin-token-1")];

/// The reaction of a fake worker to a request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Say(Option<Outcome>, &'static str),
    Refuse(FaultCode, &'static str),
    /// With a `Retry-After` of that many seconds.
    RefuseFor(FaultCode, &'static str, u32),
    SayRaw(Reply),
    Fail(RequestError),
    /// No answer in time, and then this one.
    Late(&'static str),
    /// This answer, once the gate permits it.
    SayWhenLet(&'static str),
    Hang,
    Panic,
}

/// A request as the fake worker received it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) verb: Verb,
    pub(crate) context: Context,
    pub(crate) body: Bytes,
    pub(crate) patience: Duration,
    pub(crate) at_ms: u64,
}

/// Scripted workers: each request takes the next step; the last step repeats.
#[derive(Debug)]
pub(crate) struct FakeWorkers {
    script: Mutex<VecDeque<Step>>,
    seen: Mutex<Vec<Seen>>,
    is_connected: AtomicBool,
    clock: PausedClock,
    /// Gets one permit for every request that hangs.
    pub(crate) hanging: tokio::sync::Semaphore,
    /// Lets one [`Step::SayWhenLet`] continue for every permit.
    pub(crate) gate: tokio::sync::Semaphore,
}

/// Scripted runs.
#[derive(Debug, Default)]
pub(crate) struct FakeTicks {
    pub(crate) ordered: Mutex<Vec<TickOrder>>,
    pub(crate) is_full: AtomicBool,
    pub(crate) report: Mutex<Option<RunReport>>,
    pub(crate) is_broken: AtomicBool,
    pub(crate) hangs: AtomicBool,
    /// Whether it has forgotten its last tick.
    pub(crate) forgets: AtomicBool,
    pub(crate) asked: Mutex<Vec<(TickKind, Duration)>>,
    pub(crate) waiting: AtomicUsize,
}

/// The sequence of every tick that the fake accepts.
pub(crate) const TICK: u64 = 42;

/// Tokio's clock, which a paused test runtime advances by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PausedClock {
    began: Instant,
}

/// A generator that always returns the highest number.
#[derive(Debug)]
pub(crate) struct HighRng;

pub(crate) struct Rig {
    pub(crate) workers: Arc<FakeWorkers>,
    pub(crate) ticks: Arc<FakeTicks>,
    /// Used for its pause of deletions and its event log only.
    pub(crate) bus: Arc<MemoryBus>,
    pub(crate) clock: PausedClock,
    pub(crate) registry: Registry,
    pub(crate) stop: CancellationToken,
    pub(crate) router: Router,
    own: Ingress,
    env: BTreeMap<String, String>,
}

/// The discovery information of an ingress.
struct Shown;

/// An answer, read completely.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

// === impl Rig ===

impl Rig {
    /// An ingress with the defaults, whose workers follow `script`.
    pub(crate) fn new(script: impl IntoIterator<Item = Step>) -> Self {
        Self::with(&[], script)
    }

    /// As [`Rig::new`], with settings.
    pub(crate) fn with(settings: Headers<'_>, script: impl IntoIterator<Item = Step>) -> Self {
        let mut env: BTreeMap<String, String> = [
            ("BROKER_API_TOKEN".to_owned(), format!("{LAB_TOKEN},lab-token-2")),
            ("BROKER_ADMIN_TOKEN".to_owned(), ADMIN_TOKEN.to_owned()),
        ]
        .into();
        env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let clock = PausedClock { began: Instant::now() };
        let workers = Arc::new(FakeWorkers {
            script: Mutex::new(script.into_iter().collect()),
            seen: Mutex::default(),
            is_connected: AtomicBool::new(true),
            clock,
            hanging: tokio::sync::Semaphore::new(0),
            gate: tokio::sync::Semaphore::new(0),
        });
        let (ticks, registry, stop) =
            (Arc::new(FakeTicks::default()), Registry::new(), CancellationToken::new());
        let bus = Arc::new(MemoryBus::new(MemoryConfig::default(), Arc::new(clock), Arc::new(HighRng)));
        let ports = ports(&workers, &ticks, &bus, clock);
        let ingress = try_build(&env, ports, registry.clone()).unwrap();
        let router = ingress.router(stop.clone());
        Self { workers, ticks, bus, clock, registry, stop, router, own: ingress, env }
    }

    /// The value of a metric without labels.
    pub(crate) fn value(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let metric = &families.iter().find(|family| family.name() == name).unwrap().get_metric()[0];
        metric.get_gauge().get_value() + metric.get_counter().get_value()
    }

    /// The ingress of the router.
    pub(crate) fn own(&self) -> Ingress {
        self.own.clone()
    }

    /// The result of making a second ingress on the same registry.
    pub(crate) fn try_again(&self) -> Result<Ingress, prometheus::Error> {
        try_build(&self.env, self.ports(), self.registry.clone())
    }

    /// Gives the router another event log to read.
    pub(crate) fn read_events_from(&mut self, events: Arc<dyn EventFeed>) {
        let ports = Ports { events, ..self.ports() };
        self.router = try_build(&self.env, ports, Registry::new()).unwrap().router(self.stop.clone());
    }

    fn ports(&self) -> Ports {
        ports(&self.workers, &self.ticks, &self.bus, self.clock)
    }

    /// Lets an ingress answer service discovery, as on every working bus.
    pub(crate) async fn show_itself(&self) {
        let (bus, stop) = (Arc::clone(&self.bus), self.stop.clone());
        tokio::spawn(async move { bus.answer_discovery(Arc::new(Shown), stop).await });
        tokio::task::yield_now().await;
    }

    /// Sends a request without a body.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: Headers<'_>) -> Answer {
        self.send(request(method, path, headers)).await
    }

    /// Sends a request.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 4 << 20).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

fn ports(
    workers: &Arc<FakeWorkers>,
    ticks: &Arc<FakeTicks>,
    bus: &Arc<MemoryBus>,
    clock: PausedClock,
) -> Ports {
    Ports {
        requests: Arc::clone(workers) as Arc<dyn Requests>,
        ticks: Arc::clone(ticks) as Arc<dyn Ticks>,
        deletion_control: Arc::clone(bus) as Arc<dyn DeletionControl>,
        events: Arc::clone(bus) as Arc<dyn EventFeed>,
        discovery: Arc::clone(bus) as Arc<dyn Discovery>,
        secrets: None,
        checks: Vec::new(),
        clock: Arc::new(clock),
        random: Arc::new(HighRng),
    }
}

fn try_build(
    env: &BTreeMap<String, String>,
    ports: Ports,
    registry: Registry,
) -> Result<Ingress, prometheus::Error> {
    let mut settings = Settings::new(env);
    let config = Config::read(&mut settings);
    let config = settings.finish(config).unwrap();
    Ingress::new(config, ports, registry)
}

/// A request without a body.
pub(crate) fn request(method: &str, path: &str, headers: Headers<'_>) -> Request<Body> {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
    for (name, value) in headers {
        request = request.header(*name, value.as_bytes());
    }
    request.body(Body::empty()).unwrap()
}

/// `base` and `more` together.
pub(crate) fn and<'a>(base: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    base.iter().chain(more).copied().collect()
}

// === impl Shown ===

impl ServiceInfo for Shown {
    fn role(&self) -> WorkerRole {
        WorkerRole::Ingress
    }

    fn in_flight(&self) -> Option<u64> {
        None
    }

    fn further(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts that the answer is exactly this failure.
    #[track_caller]
    pub(crate) fn assert_fault(&self, code: FaultCode, message: &str) {
        let fault = Fault::new(code, message);
        let request_id = self.header("x-request-id").unwrap();
        assert_eq!(self.json(), serde_json::to_value(fault.body(request_id)).unwrap());
        assert_eq!(self.status.as_u16(), code.status());
        assert_eq!(self.header("content-type"), Some("application/json"));
        let retry_after = fault.retry_after_seconds.map(|seconds| seconds.to_string());
        assert_eq!(self.header("retry-after"), retry_after.as_deref());
    }
}

// === impl FakeWorkers ===

impl FakeWorkers {
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub(crate) fn only_seen(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }

    pub(crate) fn follow(&self, script: impl IntoIterator<Item = Step>) {
        *self.script.lock() = script.into_iter().collect();
    }

    pub(crate) fn disconnect(&self) {
        self.is_connected.store(false, Ordering::SeqCst);
    }

    fn next(&self) -> Step {
        let mut script = self.script.lock();
        if script.len() > 1 { script.pop_front().unwrap() } else { script[0].clone() }
    }
}

#[async_trait]
impl Requests for FakeWorkers {
    async fn request(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        patience: Duration,
    ) -> Result<Reply, RequestError> {
        let at_ms = self.clock.now_ms() - EPOCH_MS;
        self.seen.lock().push(Seen { verb, context: context.clone(), body, patience, at_ms });
        match self.next() {
            Step::Say(outcome, body) => {
                Ok(Reply { outcome, is_fault: false, body: Bytes::from_static(body.as_bytes()) })
            }
            Step::Refuse(code, message) => {
                let body = serde_json::to_vec(&Fault::new(code, message).body(&context.request_id)).unwrap();
                Ok(Reply { outcome: None, is_fault: true, body: body.into() })
            }
            Step::RefuseFor(code, message, seconds) => {
                let fault = Fault { retry_after_seconds: Some(seconds), ..Fault::new(code, message) };
                let body = serde_json::to_vec(&fault.body(&context.request_id)).unwrap();
                Ok(Reply { outcome: None, is_fault: true, body: body.into() })
            }
            Step::SayRaw(reply) => Ok(reply),
            Step::Fail(RequestError::TimedOut) => {
                // On the paused clock of the runtime, so no real time passes.
                let _ = tokio::time::timeout(patience, std::future::pending::<()>()).await;
                Err(RequestError::TimedOut)
            }
            Step::Fail(error) => Err(error),
            Step::Late(_) => {
                let _ = tokio::time::timeout(patience, std::future::pending::<()>()).await;
                Err(RequestError::TimedOut)
            }
            Step::SayWhenLet(body) => {
                self.hanging.add_permits(1);
                self.gate.acquire().await.unwrap().forget();
                Ok(Reply { outcome: None, is_fault: false, body: Bytes::from_static(body.as_bytes()) })
            }
            Step::Hang => {
                self.hanging.add_permits(1);
                std::future::pending().await
            }
            Step::Panic => panic!("secret cause"),
        }
    }

    async fn request_or_late(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        patience: Duration,
    ) -> Result<Reply, Unanswered> {
        let late = match self.script.lock().front() {
            Some(Step::Late(body)) => Some(*body),
            _ => None,
        };
        let asked = self.request(verb, context, body, patience).await;
        asked.map_err(|reason| {
            let late = late.map(|body| -> LateReply {
                let body = Bytes::from_static(body.as_bytes());
                Box::pin(
                    async move { Some(Reply { outcome: Some(Outcome::Created), is_fault: false, body }) },
                )
            });
            Unanswered { reason, late }
        })
    }

    fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::SeqCst)
    }
}

// === impl FakeTicks ===

impl FakeTicks {
    fn fail_if_broken(&self) -> Result<(), BusError> {
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(BusError { operation: "tick", source: "nats://secret-host:4222 refused".into() });
        }
        Ok(())
    }

    async fn hang_if_set(&self) {
        if self.hangs.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Ticks for FakeTicks {
    async fn tick(&self, _: TickKind, _: Option<(u64, Duration)>) -> Result<TickReceipt, BusError> {
        self.fail_if_broken()?;
        Ok(TickReceipt { sequence: TICK, duplicate: false })
    }

    async fn tick_and_wait(
        &self,
        kind: TickKind,
        patience: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        self.asked.lock().push((kind, patience));
        let receipt = self.tick(kind, None).await?;
        self.hang_if_set().await;
        Ok((receipt, self.report.lock().clone()))
    }

    async fn order_and_wait(
        &self,
        kind: TickKind,
        order: &TickOrder,
        patience: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        self.asked.lock().push((kind, patience));
        self.ordered.lock().push(order.clone());
        self.fail_if_broken()?;
        self.hang_if_set().await;
        let duplicate = self.is_full.load(Ordering::SeqCst);
        let report = self.report.lock().clone().filter(|_| !duplicate);
        Ok((TickReceipt { sequence: TICK, duplicate }, report))
    }

    async fn last_report(&self, kind: TickKind) -> Result<Option<RunReport>, BusError> {
        self.fail_if_broken()?;
        Ok(self.report.lock().clone().filter(|report| report.kind() == kind))
    }

    async fn last_tick(&self) -> Result<Option<u64>, BusError> {
        if self.forgets.load(Ordering::SeqCst) {
            return Ok(None);
        }
        self.hang_if_set().await;
        Ok(Some(TICK))
    }
}

// === impl PausedClock ===

impl PausedClock {
    /// When the test started, on the runtime's clock.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }
}

#[async_trait]
impl Clock for PausedClock {
    fn now_ms(&self) -> u64 {
        EPOCH_MS + u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    async fn sleep(&self, span: Duration) {
        let _ = tokio::time::timeout(span, std::future::pending::<()>()).await;
    }
}

// === impl HighRng ===

impl Random for HighRng {
    fn below(&self, bound: usize) -> usize {
        bound.saturating_sub(1)
    }

    fn fresh_id(&self) -> String {
        FRESH_ID.to_owned()
    }
}
