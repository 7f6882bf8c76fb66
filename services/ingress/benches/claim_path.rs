//! A claim inside the ingress, between the HTTP connection and the bus: routing, token, limits, headers, the request to
//! a worker that answers at once, the reply. The number of allocations is the most useful result.

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use bytes::Bytes;
use contract::{Outcome, RunReport, TickKind, Verb};
use divan::{AllocProfiler, Bencher};
use ingress::{Config, Ingress, Ports};
use ports::bus::{
    BusError, Context, DeletionControl, EventFeed, Reply, RequestError, Requests, TickReceipt, Ticks,
};
use ports::clock::SystemClock;
use ports::random::Rng;
use prometheus::Registry;
use runtime::settings::Settings;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use testkit::bus::{MemoryBus, MemoryConfig};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Counts what every benchmark allocates.
#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const TOKEN: &str = "lab-token-1";
/// The reply of an allocator.
const REPLY: &[u8] = br#"{"sandbox_id":"2a7e4c1b-93d5-4f60-8a2b-1c3d5e7f9a0b","name":"lab-adventure-0000042","external_id":"2a7e4c1b-93d5-4f60-8a2b-1c3d5e7f9a0b","allocated_at":1800000000,"expires_at":1800014400,"sfdc_account_id":null,"lease_epoch":1}"#;
/// Longest reply that is read.
const REPLY_BYTES_MAX: usize = 1 << 16;

fn main() {
    divan::main();
}

/// A worker that answers at once, and a queue for ticks that is never used.
#[derive(Debug)]
struct AtOnce;

#[async_trait]
impl Requests for AtOnce {
    async fn request(&self, _: Verb, _: &Context, _: Bytes, _: Duration) -> Result<Reply, RequestError> {
        Ok(Reply { outcome: Some(Outcome::Created), is_fault: false, body: Bytes::from_static(REPLY) })
    }

    fn is_connected(&self) -> bool {
        true
    }
}

#[async_trait]
impl Ticks for AtOnce {
    async fn tick(&self, _: TickKind, _: Option<(u64, Duration)>) -> Result<TickReceipt, BusError> {
        Ok(TickReceipt { sequence: 1, duplicate: false })
    }

    async fn tick_and_wait(
        &self,
        _: TickKind,
        _: Duration,
    ) -> Result<(TickReceipt, Option<RunReport>), BusError> {
        Ok((TickReceipt { sequence: 1, duplicate: false }, None))
    }

    async fn last_report(&self, _: TickKind) -> Result<Option<RunReport>, BusError> {
        Ok(None)
    }
}

fn router() -> Result<axum::Router, Box<dyn Error>> {
    let env: BTreeMap<String, String> =
        [("BROKER_API_TOKEN", TOKEN), ("BROKER_ADMIN_TOKEN", "admin-token-1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let mut settings = Settings::new(&env);
    let config = Config::read(&mut settings);
    let config = settings.finish(config)?;
    let bus = MemoryBus::new(MemoryConfig::default(), Arc::new(SystemClock), Arc::new(Rng::unseeded()));
    let bus = Arc::new(bus);
    let ports = Ports {
        requests: Arc::new(AtOnce),
        ticks: Arc::new(AtOnce),
        deletion_control: Arc::clone(&bus) as Arc<dyn DeletionControl>,
        events: Arc::clone(&bus) as Arc<dyn EventFeed>,
        discovery: bus,
        secrets: None,
        checks: Vec::new(),
        clock: Arc::new(SystemClock),
        random: Arc::new(Rng::unseeded()),
    };
    Ok(Ingress::new(config, ports, Registry::new())?.router(CancellationToken::new()))
}

/// A claim as the lab scripts send it.
fn request() -> Result<Request<Body>, axum::http::Error> {
    Request::builder()
        .method("POST")
        .uri("/v1/allocate")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("x-instruqt-sandbox-id", "instruqt-8f2c1d3e4b5a")
        .header("x-instruqt-track-id", "dns-security-101")
        .body(Body::empty())
}

async fn claimed(router: axum::Router, request: Request<Body>) -> Result<usize, Box<dyn Error>> {
    let response = router.oneshot(request).await?;
    let status = response.status();
    let body = to_bytes(response.into_body(), REPLY_BYTES_MAX).await?;
    if status.is_success() { Ok(body.len()) } else { Err(format!("refused with {status}").into()) }
}

fn or_exit<T>(result: Result<T, impl std::fmt::Display>) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("cannot be measured: {error}");
        std::process::exit(1);
    })
}

#[divan::bench]
fn claim_through_the_router(bencher: Bencher<'_, '_>) {
    let runtime = or_exit(tokio::runtime::Builder::new_current_thread().enable_all().build());
    let router = or_exit(router());
    bencher
        .with_inputs(|| (router.clone(), or_exit(request())))
        .bench_local_values(|(router, request)| or_exit(runtime.block_on(claimed(router, request))));
}
