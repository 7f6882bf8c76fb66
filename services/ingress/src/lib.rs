//! HTTP in, NATS request out.
//!
//! # Consumes
//! HTTP requests of lab scripts and operators, as [`routes`] lists them; reports of runs.
//!
//! # Produces
//! NATS requests of every verb; ticks of an operator's "now"; the operators' switch of the deletions; one log line
//! and the metrics of every request.
//!
//! # Calls
//! The bus, by its ports [`Requests`], [`Ticks`], [`DeletionControl`], [`EventFeed`] and [`Discovery`]. Nothing else: no
//! store, no provider.
//!
//! # Guarantees
//! * A caller without a valid token learns only that: the token is checked before everything else.
//! * Every answer carries a request id, and every failure has one shape and a stable code.
//! * A worker's answer is passed on byte for byte.
//! * A request has its answer by its deadline, however the workers fare, and is repeated only because every
//!   request that is relayed may be.
//! * What passes for a request can be read in one way only, and no connection costs more than its limits.
//! * Requests that run at the stop are finished, and the answers ask callers to open another connection.
//!
//! # Never
//! Keeps state between requests, decides about sandboxes, shows an internal cause, or logs a token.

use axum::Router;
use ops::Ops;
use ports::bus::{DeletionControl, Discovery, EventFeed, Requests, ServiceInfo, Ticks};
use ports::clock::Clock;
use ports::random::Random;
use ports::secrets::Secrets;
use prometheus::Registry;
use runtime::check::Check;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub mod routes;

mod openapi;

pub mod admin;
pub mod console;
pub mod deletions;
pub mod events;
pub mod fleet;
mod orders;
mod query;
mod records;
pub mod sandboxes;

mod caller;
mod cors;
pub mod limits;
pub mod rates;
pub mod readiness;
mod relay;
pub mod tokens;
mod undelivered;

mod access;
mod edge;
mod error;
pub mod listener;
mod metrics;
pub mod request_id;
pub mod tls;

pub mod config;

pub use caller::Role;
pub use config::Config;
pub use cors::Cors;
pub use metrics::Metrics;
pub use rates::peer::Peer;
pub use readiness::checks;
pub use tokens::Scope;

use admin::TickService;
use caller::Gate;
use deletions::DeletionControlService;
use edge::Edge;
use events::EventService;
use fleet::FleetService;
use listener::{ConnectionConfig, Listener};
use rates::Rates;
use relay::{Relay, RelayLimits};
use routes::Parts;
use tls::TlsReloader;
use tokens::TokenRefresher;

/// What the ingress talks to.
#[derive(Clone)]
pub struct Ports {
    /// The workers.
    pub requests: Arc<dyn Requests>,
    /// The runs.
    pub ticks: Arc<dyn Ticks>,
    /// The deletions as a whole.
    pub deletion_control: Arc<dyn DeletionControl>,
    /// What happened.
    pub events: Arc<dyn EventFeed>,
    /// Who works.
    pub discovery: Arc<dyn Discovery>,
    /// Where the secret of tokens is read again; needed only if one is named.
    pub secrets: Option<Arc<dyn Secrets>>,
    /// What else the readiness depends on.
    pub checks: Vec<Arc<dyn Check>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter and fresh ids.
    pub random: Arc<dyn Random>,
}

/// The ingress, ready to be run. A clone is the same one: it has the same tokens and counts into the same metrics.
#[derive(Clone)]
pub struct Ingress {
    config: Arc<Config>,
    ports: Ports,
    registry: Registry,
    metrics: Metrics,
    refresher: TokenRefresher,
    tls: Option<TlsReloader>,
    rates: Rates,
}

// === impl Ingress ===

impl Ingress {
    /// An ingress that keeps its metrics in `registry`, and shows that registry at `/metrics`.
    ///
    /// # Errors
    /// When the registry has metrics of the same names already.
    pub fn new(config: Config, ports: Ports, registry: Registry) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(&registry)?;
        let refresher = TokenRefresher::new(&config.tokens, ports.secrets.clone(), metrics.clone());
        let tls = config.tls.as_ref().map(|config| TlsReloader::new(config, metrics.clone()));
        let rates = Rates::new(&config.rates, &metrics);
        let config = Arc::new(config);
        Ok(Self { config, ports, registry, metrics, refresher, tls, rates })
    }

    /// What an operator should know of its settings as they are now; never a reason not to be ready.
    #[must_use]
    pub fn notes(&self) -> Vec<Arc<dyn Check>> {
        self.refresher.checks().into_iter().chain(self.tls.as_ref().map(TlsReloader::check)).collect()
    }

    /// What this ingress answers to service discovery.
    #[must_use]
    pub fn service_info(&self) -> Arc<dyn ServiceInfo> {
        Arc::new(self.metrics.clone())
    }

    /// Everything behind the listener; not ready any more once `stop` is cancelled.
    pub fn router(&self, stop: CancellationToken) -> Router {
        let Ports {
            requests,
            ticks,
            deletion_control,
            events,
            discovery,
            secrets: _,
            checks: further,
            clock,
            random,
        } = self.ports.clone();
        let config = &self.config;
        let mut checks = checks(&requests, &clock, &random);
        checks.extend(further);
        checks.extend(self.notes());
        let gate = Gate {
            role: Role::None,
            is_read_only: false,
            is_limited_to_pools: false,
            tokens: self.refresher.tokens(),
            rates: self.rates.clone(),
            body_patience: config.connections.body_patience,
            clock: Arc::clone(&clock),
        };
        let edge = Edge {
            random: Arc::clone(&random),
            metrics: self.metrics.clone(),
            cors: Arc::new(config.cors.clone()),
            hsts_enabled: config.hsts_enabled || config.tls.is_some(),
            rates: self.rates.clone(),
            proxies: Arc::new(config.trusted_proxies.clone()),
            stop: stop.clone(),
        };
        let parts = Parts {
            deletion_control: DeletionControlService {
                control: deletion_control,
                clock: Arc::clone(&clock),
                wait: config.admin_wait,
            },
            events: EventService {
                feed: events,
                clock: Arc::clone(&clock),
                readers: Arc::new(Semaphore::new(events::EVENT_READERS_MAX)),
                stop: stop.clone(),
            },
            fleet: FleetService { discovery },
            ticks: TickService {
                ticks,
                wait: config.admin_wait,
                clock: Arc::clone(&clock),
                stale_kept: config.stale_kept,
                waiters: Arc::new(Semaphore::new(admin::ADMIN_WAITERS_MAX)),
            },
            relay: Relay {
                requests,
                clock,
                random,
                metrics: self.metrics.clone(),
                limits: RelayLimits {
                    deadline: config.request_deadline,
                    attempt: config.request_attempt,
                    no_workers: config.no_responders_patience,
                },
                in_flight: Arc::new(Semaphore::new(config.in_flight_max)),
                watch: undelivered::Watch::new(self.metrics.clone()),
                advised_ms: Arc::default(),
            },
            ops: Ops { registry: self.registry.clone(), checks: checks.into(), stop },
        };
        routes::router(parts, &gate, edge)
    }

    /// Serves until `stop`. From then on the ingress is not ready, and every answer asks for its connection to be closed.
    /// For the time of `HTTP_DRAIN_MS` new connections are accepted all the same, because load balancers notice late.
    /// Then, for the time of `HTTP_LINGER_MS` or until no connection is left, new requests are answered as well. After that
    /// the listener and connections without a request are closed, a request over a kept connection is refused with
    /// 503, and streams end. Returns when the last answer is written.
    ///
    /// # Errors
    /// None; the type is that of a part of a process.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        let clock = Arc::clone(&self.ports.clock);
        let listener = self.listener(listener, self.router(stop.clone()));
        let mut open = listener.open();
        let ConnectionConfig { drain, linger, .. } = self.config.connections;
        let close = async {
            stop.cancelled().await;
            clock.sleep(drain).await;
            tokio::select! {
                () = clock.sleep(linger) => {}
                // Fails only when the listener is gone, and then there is nothing to linger for.
                _ = open.wait_for(|open| *open == 0) => {}
            }
        };
        let watch_tls = async {
            match &self.tls {
                Some(tls) => tls.watch(&*clock).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = listener.serve(close) => Ok(()),
            () = self.refresher.watch(&*clock) => Ok(()),
            never = watch_tls => match never {},
        }
    }

    fn listener(&self, inner: TcpListener, router: Router) -> Listener {
        let config = &self.config;
        let proxies = Arc::new(config.trusted_proxies.clone());
        Listener::new(inner, router, &config.connections, proxies, self.tls.clone(), self.metrics.clone())
    }
}
