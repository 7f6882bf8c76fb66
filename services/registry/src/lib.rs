//! The registry: stores how sandboxes are made.
//!
//! # Consumes
//! Requests about templates on `<prefix>.v1.*`, in a queue group.
//!
//! # Produces
//! Replies; the items of templates.
//!
//! # Calls
//! The store, by conditional writes.
//!
//! # Guarantees
//! A version of a template never changes, its number is never used again, and of two concurrent changes none is lost: each
//! is a version, or its caller learns that the template has another one.
//!
//! # Never
//! Reads or changes sandboxes, needs a stream, or stores a secret.

mod metrics;
mod templates;

use async_trait::async_trait;
use contract::{Action, Fault, FaultCode, Target, Verb, WorkerRole, authorize};
use ports::bus::{Answer, BusError, Dropped, Handler, Request, Serve};
use ports::clock::Clock;
use ports::store::Store;
use runtime::requests::plain;
use runtime::settings::Settings;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

pub use metrics::Metrics;

/// The settings of a registry.
#[derive(Clone, Debug)]
pub struct Config {
    /// Most concurrent requests in this process.
    pub in_flight_max: usize,
}

/// The ports of a registry.
#[derive(Clone)]
pub struct Ports {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Stores templates and knows the pools.
    pub store: Arc<dyn Store>,
}

/// A registry.
pub struct Registry {
    config: Config,
    ports: Ports,
    metrics: Metrics,
}

// === impl Config ===

impl Config {
    /// Reads the settings of a registry.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let in_flight_max = settings.size(
            "REGISTRY_IN_FLIGHT_MAX",
            64,
            1..=4_096,
            "maximum number of concurrent requests in one process; a further one is refused at once and can be repeated",
        );
        Self { in_flight_max }
    }
}

// === impl Registry ===

impl Registry {
    /// A registry that counts into `metrics`.
    #[must_use]
    pub fn new(config: Config, ports: Ports, metrics: Metrics) -> Self {
        Self { config, ports, metrics }
    }

    /// Serves requests until `stop`; then finishes what it has and returns.
    ///
    /// # Errors
    /// [`BusError`] when the bus cannot be served.
    pub async fn run(self, bus: &dyn Serve, stop: CancellationToken) -> Result<(), BusError> {
        let in_flight_max = self.config.in_flight_max;
        bus.serve(WorkerRole::Registry, Arc::new(self), in_flight_max, stop).await
    }

    async fn answer(&self, request: &Request) -> Answer {
        let allowed = authorize(&request.context.principal, Action::Ask(request.verb), Target::default());
        if let Err(fault) = allowed {
            return Answer { outcome: None, body: Err(fault) };
        }
        match request.verb {
            Verb::Templates => plain(self.templates(request).await),
            Verb::Template => plain(self.template(request).await),
            Verb::PutTemplate => plain(self.put_template(request).await),
            Verb::RemoveTemplate => plain(self.remove_template(request).await),
            Verb::TemplateVersions => plain(self.template_versions(request).await),
            // The bus delivers no other verb to this role.
            _ => {
                plain::<()>(Err(Fault::new(FaultCode::NoWorkers, "a registry does not answer this request")))
            }
        }
    }
}

#[async_trait]
impl Handler for Registry {
    async fn handle(&self, request: Request) -> Answer {
        let started = Instant::now();
        let _under_way = self.metrics.in_flight.begin();
        let answer = self.answer(&request).await;
        self.metrics.requests.count(request.verb, &answer, started.elapsed());
        answer
    }

    fn dropped(&self, verb: Verb, request_id: &str, why: Dropped) {
        self.metrics.requests.drop_request(verb, request_id, why);
    }
}
