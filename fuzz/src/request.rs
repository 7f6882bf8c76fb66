//! An HTTP request, as the whole ingress processes it: method, path, query, headers and body.
//!
//! An input is nearly the text of a request: `POST /v1/allocate`, headers, an empty line, the body.

use crate::is_refusal;
use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use bytes::Bytes;
use contract::{FaultBody, FaultCode, ReplayAllReply, RunReport, TickKind, TickOrder, Verb};
use domain::{Actor, IdempotencyKey, InvalidId, LabId, NamePrefix, OwnerId, PoolName, Reason, SandboxId};
use ingress::request_id::{REQUEST_ID_BYTES_MAX, REQUEST_ID_HEADER};
use ingress::{Config, Ingress, Ports};
use ports::bus::{BusError, Context, Reply, RequestError, Requests, TickReceipt, Ticks};
use ports::random::Rng;
use prometheus::Registry;
use runtime::settings::Settings;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr as _;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use testkit::bus::{MemoryBus, MemoryConfig};
use testkit::clock::ManualClock;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const LAB_TOKEN: &str = "lab-token-1";
const ADMIN_TOKEN: &str = "admin-token-1";
/// Longest answer: the script of Swagger UI.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The only answer without an end.
const EVENT_STREAM: &str = "text/event-stream";

/// The ingress, its thread, and the requests that its workers got.
struct World {
    router: Router,
    runtime: Runtime,
    workers: Arc<Workers>,
}

/// Workers that record their requests and give short replies.
#[derive(Default)]
struct Workers {
    seen: Mutex<Vec<(Verb, Context, Bytes)>>,
}

/// Runs that never start.
struct NoRuns;

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// Every request has an answer of the common shape, and workers get requests within the limits of the contract.
pub fn hold(input: &[u8]) {
    let Some(request) = request(input) else { return };
    let is_named = request.headers().contains_key(header::AUTHORIZATION);
    let is_guarded = ingress::routes::ROUTES
        .iter()
        .any(|route| route.path == request.uri().path() && route.action.is_some());
    // The answer to a load balancer has another shape.
    let is_probe = request.uri().path() == "/readyz";
    let world = &*WORLD;
    world.workers.take();
    let (parts, body) = world.runtime.block_on(async {
        let answer = world.router.clone().oneshot(request).await.expect("a router cannot fail");
        let (parts, body) = answer.into_parts();
        // Events have no end; their reader disconnects at once.
        if parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == EVENT_STREAM) {
            return (parts, Bytes::new());
        }
        (parts, to_bytes(body, ANSWER_BYTES_MAX).await.expect("an answer has an end"))
    });
    let id = parts.headers.get(REQUEST_ID_HEADER).expect("every answer has an id");
    let id = id.to_str().expect("an id is text");
    assert!((1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
    let seen = world.workers.take();
    if !is_named {
        // Probes are relayed without any data of the request.
        assert!(
            seen.iter().all(|(verb, _, _)| *verb == Verb::Health),
            "a worker was asked without a valid request"
        );
        assert!(!is_guarded || !parts.status.is_success(), "let in without a token");
    }
    if !is_probe && (parts.status.is_client_error() || parts.status.is_server_error()) {
        let fault: FaultBody = serde_json::from_slice(&body).expect("a fault has one shape");
        assert_eq!(fault.detail.request_id, id, "a fault carries the answer's id");
        assert_eq!(fault.detail.code.status(), parts.status.as_u16());
        assert_ne!(fault.detail.code, FaultCode::InternalError, "{}", fault.detail.message);
        assert!(is_refusal(&fault.detail.message), "{:?}", fault.detail.message);
        let is_shown = |token: &&str| fault.detail.message.contains(*token) && !is_elsewhere(input, token);
        assert_eq!(
            [LAB_TOKEN, ADMIN_TOKEN].iter().find(|token| is_shown(token)),
            None,
            "a token is in the message"
        );
    }
    for (verb, context, body) in seen.into_iter().filter(|(verb, _, _)| *verb != Verb::Health) {
        relayed(verb, &context, &body, id);
    }
}

/// Whether a caller wrote the token elsewhere than it belongs: the refusal names an unknown field, whatever its name
/// is.
fn is_elsewhere(input: &[u8], token: &str) -> bool {
    let belongs = |line: &str| line.to_ascii_lowercase().starts_with("authorization:");
    String::from_utf8_lossy(input).lines().any(|line| line.contains(token) && !belongs(line))
}

fn relayed(verb: Verb, context: &Context, body: &[u8], id: &str) {
    assert_eq!(context.request_id, id, "the worker's id is the answer's");
    if let Some(trace) = &context.traceparent {
        assert!(trace.len() == 55 && trace.is_ascii() && !trace.contains(char::is_uppercase), "{trace:?}");
    }
    if let Some(key) = &context.idempotency_key {
        same("the key beside the body", key, IdempotencyKey::parse);
    }
    let body: Value = serde_json::from_slice(body).expect("a request is JSON");
    let field = |name: &str| body.get(name).and_then(Value::as_str);
    // The filters of a listing are relayed unchanged: the worker validates them.
    if let Some(owner) = field("owner").filter(|_| verb != Verb::Sandboxes) {
        same("owner", owner, OwnerId::parse);
    }
    if let Some(by) = field("by") {
        same("by", by, Actor::parse);
    }
    match verb {
        Verb::Allocate => {
            assert!(field("owner").is_some(), "a claim has an owner");
            if let Some(lab) = field("lab") {
                same("lab", lab, LabId::parse);
            }
            if let Some(key) = field("idempotency_key") {
                same("idempotency_key", key, IdempotencyKey::parse);
            }
            if let Some(prefix) = field("name_prefix") {
                same("name_prefix", prefix, NamePrefix::parse);
            }
            if let Some(pool) = field("pool") {
                same("pool", pool, PoolName::parse);
            }
            let hours = body.get("lab_duration_hours").and_then(Value::as_u64);
            assert_ne!(hours, Some(0), "a lease of no length");
        }
        Verb::Release | Verb::Get | Verb::Extend => {
            assert!(field("owner").is_some(), "a sandbox without an owner");
            same("sandbox_id", field("sandbox_id").unwrap_or_default(), SandboxId::parse);
        }
        Verb::Quarantine | Verb::Unquarantine | Verb::ForceRelease => {
            same("sandbox_id", field("sandbox_id").unwrap_or_default(), SandboxId::parse);
            same("reason", field("reason").unwrap_or_default(), Reason::parse);
        }
        _ => {}
    }
}

fn same<T: Display>(name: &str, text: &str, parse: fn(&str) -> Result<T, InvalidId>) {
    assert_eq!(parse(text).map(|id| id.to_string()).as_deref(), Ok(text), "{name} is as it has to be");
}

fn request(input: &[u8]) -> Option<Request<Body>> {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut read = 0;
    let mut next = || {
        let line = lines.next()?;
        read += line.len() + 1;
        Some(line)
    };
    let first = std::str::from_utf8(next()?).ok()?;
    let (method, uri) = first.split_once(' ')?;
    let uri = Uri::from_str(uri).ok()?;
    let mut request = Request::builder().method(Method::from_str(method).ok()?).uri(uri);
    while let Some(line) = next().filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..)?.trim_ascii();
        request = request.header(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    request.body(Body::from(input.get(read..).unwrap_or_default().to_vec())).ok()
}

// === impl World ===

impl World {
    fn new() -> Self {
        let env: BTreeMap<String, String> = [
            ("BROKER_API_TOKEN", LAB_TOKEN),
            ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN),
            ("TRUSTED_PROXIES", "127.0.0.0/8"),
            ("TOKEN_RATE_PER_SECOND", "0"),
            ("OWNER_RATE_PER_SECOND", "0"),
            ("PEER_RATE_PER_SECOND", "0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let mut settings = Settings::new(&env);
        let config = Config::read(&mut settings);
        let config = settings.finish(config).expect("good settings");
        let clock = Arc::new(ManualClock::at(crate::NOW));
        let random = Arc::new(Rng::seeded(1));
        let workers = Arc::new(Workers::default());
        let bus = MemoryBus::new(MemoryConfig::default(), clock.clone(), random.clone());
        let ports = Ports {
            requests: workers.clone(),
            ticks: Arc::new(NoRuns),
            deletion_control: Arc::new(bus.clone()),
            events: Arc::new(bus.clone()),
            discovery: Arc::new(bus),
            secrets: None,
            checks: Vec::new(),
            clock,
            random,
        };
        let ingress = Ingress::new(config, ports, Registry::new()).expect("an empty registry");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { router: ingress.router(CancellationToken::new()), runtime, workers }
    }
}

// === impl Workers ===

impl Workers {
    fn take(&self) -> Vec<(Verb, Context, Bytes)> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Requests for Workers {
    async fn request(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        _: Duration,
    ) -> Result<Reply, RequestError> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((verb, context.clone(), body));
        let body = serde_json::to_vec(&ReplayAllReply::default()).unwrap_or_default();
        Ok(Reply { outcome: None, is_fault: false, body: body.into() })
    }

    fn is_connected(&self) -> bool {
        true
    }
}

// === impl NoRuns ===

#[async_trait]
impl Ticks for NoRuns {
    async fn tick(&self, _: TickKind, _: Option<(u64, Duration)>) -> Result<TickReceipt, BusError> {
        Ok(TickReceipt { sequence: 1, duplicate: false })
    }

    async fn tick_and_wait(
        &self,
        kind: TickKind,
        _: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        Ok((self.tick(kind, None).await?, None))
    }

    async fn order_and_wait(
        &self,
        kind: TickKind,
        _: &TickOrder,
        timeout: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        self.tick_and_wait(kind, timeout).await
    }

    async fn last_report(&self, _: TickKind) -> Result<Option<RunReport>, BusError> {
        Ok(None)
    }
}
