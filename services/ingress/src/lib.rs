//! The ingress: the HTTP API; relays requests to NATS.
//!
//! # Consumes
//! HTTP requests of lab scripts and operators, as [`routes`] lists them; reports of runs.
//!
//! # Produces
//! NATS requests of every verb; ticks on demand; changes of the operators' switch; one log line and the metrics of
//! every request.
//!
//! # Calls
//! The bus, through the ports [`Requests`], [`Ticks`], [`DeletionControl`], [`EventFeed`] and [`Discovery`]. Nothing
//! else: neither store nor provider.
//!
//! # Guarantees
//! * A caller without a valid token learns only that, because the token is checked first.
//! * Every answer carries a request id, and every failure has one shape and a stable code.
//! * A worker's reply is passed on byte for byte.
//! * A request has its answer by its deadline, however the workers fare, and is repeated only because every
//!   request that is relayed may be.
//! * A request can be parsed in one way only, and no connection exceeds its limits.
//! * Requests in progress at the stop are finished, and the answers ask callers to open another connection.
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
use runtime::predecessor::metrics::Exporter;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub mod routes;

mod openapi;

pub mod admin;
mod claims;
pub mod console;
pub mod deletions;
pub mod events;
mod executions;
pub mod fleet;
mod nodes;
mod orders;
mod pools;
mod provisions;
mod query;
mod records;
pub mod sandboxes;
mod templates;

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

pub use config::Config;
pub use cors::Cors;
pub use metrics::Metrics;
pub use rates::peer::Peer;
pub use readiness::checks;

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

/// The ports of the ingress.
#[derive(Clone)]
pub struct Ports {
    /// Sends requests to the workers.
    pub requests: Arc<dyn Requests>,
    /// Publishes ticks and reads reports.
    pub ticks: Arc<dyn Ticks>,
    /// Shows and controls the deletions of the fleet.
    pub deletion_control: Arc<dyn DeletionControl>,
    /// Reads the event log.
    pub events: Arc<dyn EventFeed>,
    /// Discovers workers.
    pub discovery: Arc<dyn Discovery>,
    /// Reads the secret with tokens; needed only if one is configured.
    pub secrets: Option<Arc<dyn Secrets>>,
    /// Further readiness checks.
    pub checks: Vec<Arc<dyn Check>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers and ids.
    pub random: Arc<dyn Random>,
}

/// The ingress, ready to run. Clones share tokens and metrics.
#[derive(Clone)]
pub struct Ingress {
    config: Arc<Config>,
    ports: Ports,
    exporter: Exporter,
    metrics: Metrics,
    refresher: TokenRefresher,
    tls: Option<TlsReloader>,
    rates: Rates,
}

// === impl Ingress ===

impl Ingress {
    /// An ingress with its metrics in `registry`, which `/metrics` exports.
    ///
    /// # Errors
    /// When the registry already has metrics with these names.
    pub fn new(config: Config, ports: Ports, registry: Registry) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(&registry)?;
        metrics.relays_at_most(config.in_flight_max);
        let refresher = TokenRefresher::new(&config.tokens, ports.secrets.clone(), metrics.clone());
        let tls = config.tls.as_ref().map(|config| TlsReloader::new(config, metrics.clone()));
        let rates = Rates::new(&config.rates, &metrics);
        let exporter = Exporter::new(registry, config.former_metric_names);
        let config = Arc::new(config);
        Ok(Self { config, ports, exporter, metrics, refresher, tls, rates })
    }

    /// Notes about settings for operators, which never make the ingress unready.
    #[must_use]
    pub fn notes(&self) -> Vec<Arc<dyn Check>> {
        self.refresher.check().into_iter().chain(self.tls.as_ref().map(TlsReloader::check)).collect()
    }

    /// The answers of this ingress to discovery.
    #[must_use]
    pub fn service_info(&self) -> Arc<dyn ServiceInfo> {
        Arc::new(self.metrics.clone())
    }

    /// The router behind the listener; not ready any more once `stop` is cancelled.
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
            action: None,
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
                waits: Arc::new(Semaphore::new(events::EVENT_WAITS_MAX)),
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
                clock: Arc::clone(&clock),
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
            ops: Ops { metrics: self.exporter.clone(), checks: checks.into(), stop, clock },
        };
        routes::router(parts, &gate, edge)
    }

    /// Serves until `stop`. From then on the ingress is not ready, and every answer asks for its connection to be
    /// closed. For `HTTP_DRAIN_MS` it still accepts connections, because load balancers notice late. Then, for
    /// `HTTP_LINGER_MS` or until no connection is left, it still answers new requests. After that it closes the
    /// listener and idle connections, refuses requests on kept connections with 503, and ends streams. Returns when the
    /// last answer is written.
    ///
    /// # Errors
    /// None; the type is required of every part of a process.
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
                // Fails only when the listener is gone, and then there is nothing to wait for.
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
            never = self.refresher.watch(&*clock) => match never {},
            never = watch_tls => match never {},
        }
    }

    fn listener(&self, inner: TcpListener, router: Router) -> Listener {
        let config = &self.config;
        let proxies = Arc::new(config.trusted_proxies.clone());
        Listener::new(inner, router, &config.connections, proxies, self.tls.clone(), self.metrics.clone())
    }
}
