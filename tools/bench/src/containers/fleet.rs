//! A fleet of `broker up` in a process of its own, with containers of this machine or of runners on a fake engine in this
//! process.

use super::docker;
use super::node::FakeNode;
use crate::calls::{Requester, Selector};
use crate::fleet::process::{self, LOG_SHOWN_BYTES};
use crate::fleet::{RATE_MAX, RATE_SETTINGS};
use crate::{Ports, fresh_run, table};
use anyhow::{Context as _, bail, ensure};
use broker::child::{Child, Program};
use broker::data::DataDir;
use broker::transport::connect;
use broker::up::{API_TOKEN_FILE, Overlay};
use bytes::Bytes;
use contract::fault::FaultBody;
use contract::pools::{PoolSettings, PutPoolRequest, WarmSettings};
use contract::templates::{PutTemplateRequest, TemplateSettings};
use contract::{Principal, TickKind, Verb};
use domain::{Descriptor, NodeId, PoolName, ProviderName, Sandbox, StateName};
use dynamodb::DynamoStore;
use http_client::HttpRequests;
use nats::{NatsBus, NatsConfig};
use ports::bus::{Context, Requests as _, Ticks as _};
use ports::store::{Layout as _, SortRange, StateQuery, Store as _};
use runtime::settings::{Env, Secret, Settings};
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The pool that keeps free containers; `broker up` makes one of that name.
pub(super) const WARM_POOL: &str = "shell";
/// The pool that keeps none.
pub(super) const COLD_POOL: &str = "cold";
/// The template of both, which `broker up` makes.
const TEMPLATE: &str = "shell";
/// The image of containers on Docker, which has it.
const DOCKER_IMAGE: &str = "busybox:latest";
/// A program of bubblewrap that is not there: this machine has no other nodes than that of Docker.
const NO_WRAPPER: (&str, &str) = ("RUNNER_BUBBLEWRAP", "/nonexistent/bwrap");
/// Time-out until the fleet is ready: a debug build on a busy machine takes some seconds.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time-out of whatever is waited for: hundreds of containers on a busy machine.
const LONG_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause between two looks at the table or at a log.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Looks between two ticks of fill, which then come once a second.
const LOOKS_PER_TICK: u32 = 20;
/// Time-out of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the fleet to remove its containers and to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Sandboxes on a page.
const PAGE: u16 = 100;
/// Log filter of the fleet: none per claim.
const FILTER: &str = "warn,aws_config=error,dynoxide=error,ingress=error";
/// What the fleet offers and does, so that no limit is reached here.
const LIMITS: [(&str, &str); 4] = [
    ("RUNNER_CPU_MILLI_MAX", "10000000"),
    ("RUNNER_MEMORY_MB_MAX", "100000000"),
    ("RUNNER_SANDBOXES_MAX", "10000"),
    ("FILL_BURST_MAX", "1000"),
];
/// Where the system keeps what ends with it.
const RUN: &str = "/run";

/// What runs the containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// This machine, as `broker up` finds it.
    #[default]
    Machine,
    /// Docker, by the socket of `RUNNER_DOCKER_SOCKET`.
    Docker,
    /// Runners in this process, whose containers are entries in memory.
    Fake,
}

/// The fleet of one measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec<'a> {
    pub(super) engine: Engine,
    /// Nodes; more than one only with the fake engine.
    pub(super) nodes: u16,
    /// Accounts, which claims are compared with.
    pub(super) accounts: u64,
    /// The `broker` binary.
    pub(super) program: Option<&'a Path>,
    /// Further variables.
    pub(super) variables: &'a [(&'static str, &'static str)],
}

/// A running fleet.
pub(super) struct ContainerFleet {
    child: Child,
    pub(super) run: String,
    ports: Ports,
    bus: NatsBus,
    http: Arc<HttpRequests>,
    pub(super) store: Arc<DynamoStore>,
    pub(super) nodes: Vec<FakeNode>,
    /// Docker, beside the broker; none with another engine.
    pub(super) docker: Option<bollard::Docker>,
    /// The state of the engine of this machine.
    pub(super) state: PathBuf,
    folder: DataDir,
}

/// The addresses that the fleet prints.
#[derive(Debug, PartialEq, Eq)]
struct Addresses {
    http: String,
    nats: String,
    table: String,
    data: PathBuf,
    /// Why there are no containers.
    no_containers: Option<String>,
}

// === impl ContainerFleet ===

impl ContainerFleet {
    /// Starts a fleet and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready, or this machine cannot run containers.
    pub(super) async fn start(spec: Spec<'_>, env: &dyn Env, ports: &Ports) -> anyhow::Result<Self> {
        let run = fresh_run(ports);
        let folder = DataDir::open(&std::env::temp_dir().join(&run), true)?;
        let is_writable = std::fs::metadata(RUN).is_ok_and(|run| !run.permissions().readonly());
        let state = if is_writable { Path::new(RUN).join(&run) } else { folder.path().join("state") };
        let binary = process::program(spec.program)?;
        let log = folder.path().join("fleet.log");
        let child = Child::start(program(&spec, &run, &binary, &state, &log)).await?;
        let ready = async {
            loop {
                let text = tokio::fs::read_to_string(&log).await.unwrap_or_default();
                if let Some(addresses) = Addresses::find(&text) {
                    return addresses;
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        let addresses = tokio::select! {
            addresses = ready => addresses,
            _ = child.ended() => bail!("the fleet ended; the end of its log:\n{}", end_of(&log).await),
            () = tokio::time::sleep(READY_TIMEOUT) => {
                child.kill().await;
                bail!("the fleet does not get ready; the end of its log:\n{}", end_of(&log).await);
            }
        };
        let connected = Box::pin(Self::connect(&addresses, &run, env, ports)).await;
        let (bus, http, store) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                child.stop(STOP_TIMEOUT).await;
                return Err(error);
            }
        };
        let (ports, nodes) = (ports.clone(), Vec::new());
        let mut fleet = Self { child, run, ports, bus, http, store, nodes, docker: None, state, folder };
        match fleet.prepare(&spec, addresses.no_containers, &addresses.nats, env).await {
            Ok(()) => Ok(fleet),
            Err(error) => {
                fleet.stop().await;
                Err(error)
            }
        }
    }

    async fn connect(
        addresses: &Addresses,
        run: &str,
        env: &dyn Env,
        ports: &Ports,
    ) -> anyhow::Result<(NatsBus, Arc<HttpRequests>, Arc<DynamoStore>)> {
        let overlay = overlay(env, addresses, run);
        let bus = connect(nats_config(&overlay)?, ports, "bench").await?;
        let store = table::Options::default().open(&overlay).await?.store;
        let token = tokio::fs::read_to_string(addresses.data.join(API_TOKEN_FILE)).await?;
        let http = Arc::new(HttpRequests::new(&addresses.http, Secret::new(token.trim()))?);
        Ok((bus, http, store))
    }

    /// Starts the nodes, and makes template and pools.
    async fn prepare(
        &mut self,
        spec: &Spec<'_>,
        no_containers: Option<String>,
        nats: &str,
        env: &dyn Env,
    ) -> anyhow::Result<()> {
        if let Some(reason) = no_containers {
            bail!("this machine cannot run containers ({reason}); use --engine fake");
        }
        match spec.engine {
            Engine::Machine => {}
            Engine::Docker => {
                self.docker = Some(docker::connect(env).await?);
                self.put_template(DOCKER_IMAGE, Some("container")).await?;
            }
            Engine::Fake => {
                self.put_template("host", None).await?;
                let mut overlay = Overlay::over(env);
                overlay.set("NATS_URL", nats);
                overlay.set("SUBJECT_PREFIX", &self.run);
                let config = nats_config(&overlay)?;
                for number in 1..=spec.nodes {
                    let id = NodeId::parse(&format!("fake-{number}"))?;
                    let node = FakeNode::start(id, self.folder.path(), config.clone(), &self.ports).await?;
                    self.nodes.push(node);
                }
            }
        }
        self.put_pool(COLD_POOL, None).await
    }

    /// The process id of the fleet.
    pub(super) fn id(&self) -> i32 {
        self.child.id()
    }

    async fn put_template(&self, image: &str, isolation: Option<&str>) -> anyhow::Result<()> {
        let (image, isolation) = (image.to_owned(), isolation.map(str::to_owned));
        let settings = TemplateSettings { image, isolation, ..TemplateSettings::default() };
        let template = TEMPLATE.to_owned();
        let request = PutTemplateRequest { template, settings, ..PutTemplateRequest::default() };
        self.order(Verb::PutTemplate, &request).await
    }

    /// A caller over HTTP, of a pool or of the accounts.
    pub(super) fn caller(&self, pool: Option<&str>) -> anyhow::Result<Requester> {
        let pool = pool.map(PoolName::parse).transpose()?;
        Ok(Requester {
            transport: Arc::clone(&self.http) as _,
            clock: Arc::clone(&self.ports.clock),
            selector: Selector { pool, name_prefix: None },
            patience: ANSWER_TIMEOUT,
        })
    }

    /// A caller over HTTP, of a pool, whose native claims wait until the container can be used.
    pub(super) fn waiting_caller(&self, pool: &str) -> anyhow::Result<Requester> {
        let transport = Arc::new(self.http.as_ref().clone().waiting());
        Ok(Requester { transport, patience: READY_TIMEOUT, ..self.caller(Some(pool))? })
    }

    /// Has a pool keep so many free containers, or none.
    pub(super) async fn put_pool(&self, pool: &str, warm: Option<u32>) -> anyhow::Result<()> {
        let settings = PoolSettings {
            kind: Some("container".to_owned()),
            provider: Some(ProviderName::nodes().to_string()),
            template: Some(TEMPLATE.to_owned()),
            warm: warm.map(|count| WarmSettings { min: count, max: count }),
            ..PoolSettings::default()
        };
        let request = PutPoolRequest { pool: pool.to_owned(), settings, ..PutPoolRequest::default() };
        self.order(Verb::PutPool, &request).await
    }

    /// Waits until the pool [`WARM_POOL`] has so many free containers, and none is being created.
    pub(super) async fn fill(&self, count: u32) -> anyhow::Result<()> {
        self.put_pool(WARM_POOL, Some(count)).await?;
        self.filled(count).await
    }

    /// Waits until that pool, which has this size, has so many free containers, and none is being created.
    pub(super) async fn filled(&self, count: u32) -> anyhow::Result<()> {
        let filled = async {
            loop {
                // A process learns of changed pools within seconds, so one tick may come too early.
                self.bus.tick(TickKind::FILL, None).await?;
                for _ in 0..LOOKS_PER_TICK {
                    let free = self.count(WARM_POOL, StateName::Available).await?;
                    let rest = self.count(WARM_POOL, StateName::Provisioning).await?;
                    if (free, rest) == (u64::from(count), 0) {
                        return anyhow::Ok(());
                    }
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
            }
        };
        tokio::time::timeout(LONG_TIMEOUT, filled).await.context("the pool is not filled")??;
        self.quiet().await
    }

    /// Waits until nothing is left to be removed.
    pub(super) async fn quiet(&self) -> anyhow::Result<()> {
        let removed = async {
            loop {
                let mut left = 0;
                for pool in [WARM_POOL, COLD_POOL] {
                    left += self.count(pool, StateName::PendingDeletion).await?;
                }
                if left == 0 {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        tokio::time::timeout(LONG_TIMEOUT, removed).await.context("sandboxes are not removed")?
    }

    /// How many sandboxes of a pool are in that state.
    pub(super) async fn count(&self, pool: &str, state: StateName) -> anyhow::Result<u64> {
        let mut count = 0;
        for query in self.queries(pool, state).await? {
            count += self.store.count(&query).await?;
        }
        Ok(count)
    }

    /// The sandboxes of a pool in that state, each with its node.
    pub(super) async fn sandboxes(
        &self,
        pool: &str,
        state: StateName,
    ) -> anyhow::Result<Vec<(Sandbox, Option<NodeId>)>> {
        let mut found = Vec::new();
        for query in self.queries(pool, state).await? {
            let mut after = None;
            loop {
                let page = self.store.page(&query, after.as_ref(), PAGE).await?;
                found.extend(page.sandboxes);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        let node = |sandbox: &Sandbox| NodeId::parse(sandbox.descriptor.get(Descriptor::NODE)?).ok();
        Ok(found
            .into_iter()
            .map(|sandbox| (node(&sandbox), sandbox))
            .map(|(node, one)| (one, node))
            .collect())
    }

    async fn queries(&self, pool: &str, state: StateName) -> anyhow::Result<Vec<StateQuery>> {
        let pool = PoolName::parse(pool)?;
        let shards = self.store.shards().await?;
        let query = |shard| StateQuery { pool: pool.clone(), state, shard, range: SortRange::All };
        Ok((0..shards).map(query).collect())
    }

    async fn order<T: Serialize + Sync>(&self, verb: Verb, request: &T) -> anyhow::Result<()> {
        let context = Context {
            request_id: fresh_run(&self.ports),
            deadline_ms: None,
            traceparent: None,
            idempotency_key: None,
            attempt: None,
            principal: Principal::default(),
        };
        let body = Bytes::from(serde_json::to_vec(request)?);
        let reply = self.bus.request(verb, &context, body, ANSWER_TIMEOUT).await?;
        if reply.is_fault {
            let FaultBody { detail } = serde_json::from_slice(&reply.body)?;
            bail!("{}: {}", verb.as_str(), detail.message);
        }
        Ok(())
    }

    pub(super) async fn stop(self) {
        let Self { child, bus, nodes, state, .. } = self;
        for node in nodes {
            node.stop().await;
        }
        // Before the server ends, which it would otherwise look for.
        bus.close().await;
        child.stop(STOP_TIMEOUT).await;
        // Empty by now; with the fake engine there is none.
        let _ = std::fs::remove_dir_all(state);
    }

    /// Stops the fleet and returns the result of the measurement.
    pub(super) async fn end<T>(self, measured: anyhow::Result<T>) -> anyhow::Result<T> {
        let is_over = tokio::time::timeout(Duration::ZERO, self.child.ended()).await.is_ok();
        self.stop().await;
        let measured = measured?;
        ensure!(!is_over, "the fleet ended during the measurement");
        Ok(measured)
    }
}

fn program(spec: &Spec<'_>, run: &str, binary: &Path, state: &Path, log: &Path) -> Program {
    let nodes = if spec.engine == Engine::Fake { 0 } else { spec.nodes };
    let no_wrapper = (spec.engine == Engine::Docker).then_some(NO_WRAPPER);
    let options = [
        ("--http", "127.0.0.1:0".to_owned()),
        ("--nats-listen", "127.0.0.1:0".to_owned()),
        ("--simulator-listen", "127.0.0.1:0".to_owned()),
        ("--pool", spec.accounts.to_string()),
        ("--nodes", nodes.to_string()),
    ];
    let arguments = options.into_iter().flat_map(|(name, value)| [name.into(), value.into()]);
    let arguments = ["up".into(), "--ephemeral".into()].into_iter().chain(arguments);
    let state = state.display().to_string();
    let own = [("SUBJECT_PREFIX", run), ("LOG_FILTER", FILTER), ("RUNNER_STATE", &state)];
    let rates = RATE_SETTINGS.map(|name| (name, RATE_MAX));
    let variables =
        own.into_iter().chain(rates).chain(LIMITS).chain(no_wrapper).chain(spec.variables.iter().copied());
    Program {
        guard: binary.to_owned(),
        path: binary.to_owned(),
        arguments: arguments.collect(),
        variables: variables.map(|(name, value)| (OsString::from(name), OsString::from(value))).collect(),
        log: log.to_owned(),
    }
}

fn overlay<'a>(env: &'a dyn Env, addresses: &Addresses, run: &str) -> Overlay<'a> {
    let mut overlay = Overlay::over(env);
    overlay.set("NATS_URL", &addresses.nats);
    overlay.set("SUBJECT_PREFIX", run);
    overlay.set("DYNAMODB_ENDPOINT", &addresses.table);
    overlay
}

fn nats_config(env: &dyn Env) -> anyhow::Result<NatsConfig> {
    let mut settings = Settings::new(env);
    let config = NatsConfig::read(&mut settings);
    Ok(settings.finish(config)?)
}

async fn end_of(log: &Path) -> String {
    let text = tokio::fs::read_to_string(log).await.unwrap_or_default();
    text.get(text.len().saturating_sub(LOG_SHOWN_BYTES)..).unwrap_or(&text).to_owned()
}

// === impl Addresses ===

impl Addresses {
    /// What the message of a fleet that is ready says; none before it is complete.
    fn find(log: &str) -> Option<Self> {
        let (_, text) = log.split_once("The fleet is ready.")?;
        text.contains("Ctrl-C stops").then_some(())?;
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.trim_start().split_once("  "));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned())
        };
        Some(Self {
            http: value("http")?,
            nats: value("nats")?,
            table: value("table")?,
            data: value("data")?.into(),
            no_containers: value("containers"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_once_the_message_is_complete() {
        let text = "WARN x\n\nThe fleet is ready.\n\n  http         http://127.0.0.1:1\n  nats         nats://127.0.0.1:2\n  \
                    table        http://127.0.0.1:3\n  data         /tmp/b\n  containers   none: no bwrap\n\n  \
                    nats req --server x\n";
        assert_eq!(Addresses::find(text), None);
        let found = Addresses::find(&format!("{text}Ctrl-C stops the fleet")).unwrap();
        let expected = Addresses {
            http: "http://127.0.0.1:1".to_owned(),
            nats: "nats://127.0.0.1:2".to_owned(),
            table: "http://127.0.0.1:3".to_owned(),
            data: "/tmp/b".into(),
            no_containers: Some("none: no bwrap".to_owned()),
        };
        assert_eq!(found, expected);
    }
}
