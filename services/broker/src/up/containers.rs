//! The nodes of `broker up`, with a template and a pool for the first container.

use crate::fleet::{Configs, EngineKind, Fleet, NodeConfig, NodeError, Shared};
use anyhow::Context as _;
use domain::template::Image;
use domain::{
    Actor, NodeId, PoolKind, PoolName, PoolSpec, ProviderName, Template, TemplateId, TemplateSpec, WarmSizes,
};
use ports::clock::Clock;
use ports::engine::Engine;
use ports::store::{Store, StoreError};
use runtime::shutdown::Lifecycle;
use runtime::telemetry::Chain;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The pool, and its template.
pub(super) const POOL: &str = "shell";
/// The node on Docker.
const DOCKER_NODE: &str = "docker";
/// Time-out of the first calls to Docker: a fleet does not wait for an engine that hangs.
const DOCKER_TIMEOUT: Duration = Duration::from_secs(10);
/// Free containers of the pool.
const WARM: u32 = 3;
/// Where the system keeps what ends with it.
const RUN: &str = "/run";
/// Pause between two attempts to write the template: the table is created meanwhile.
const TEMPLATE_PAUSE: Duration = Duration::from_millis(100);

/// Whether a fleet has containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Containers {
    /// None were asked for.
    Off,
    /// This machine cannot run them.
    Unavailable(String),
    /// So many nodes run them, and perhaps one more on Docker.
    On {
        /// Those of namespaces.
        nodes: usize,
        /// Whether there is one on Docker.
        has_docker: bool,
    },
}

/// The nodes of a fleet that starts.
pub(super) enum Nodes {
    /// None were asked for.
    Off,
    /// This machine cannot run containers.
    Unavailable(String),
    /// These.
    On(Vec<(NodeConfig, Arc<dyn Engine>)>),
}

// === impl Nodes ===

impl Nodes {
    /// How many nodes run containers of the pool.
    pub(super) fn of_pool(&self) -> usize {
        let Self::On(nodes) = self else { return 0 };
        nodes.iter().filter(|(config, _)| config.engine == EngineKind::Namespaces).count()
    }
}

/// The pool of the first container.
pub(super) fn pool() -> PoolSpec {
    #[expect(clippy::expect_used, reason = "the constant is a valid name")]
    let name = PoolName::parse(POOL).expect("a valid name");
    PoolSpec {
        kind: PoolKind::Container,
        template: Some(POOL.to_owned()),
        warm: Some(WarmSizes { min: WARM, max: WARM }),
        ..PoolSpec::of_accounts(name, ProviderName::nodes(), None)
    }
}

/// The folder for the state of the engines of a fleet with that data folder: short, because sockets are in it, and the same at
/// the next start.
pub(super) fn state_folder(data: &Path) -> PathBuf {
    let whole = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let name = format!("broker-{:016x}", ports::store::index::fnv1a(whole.as_os_str().as_encoded_bytes()));
    let is_writable = rustix::fs::access(RUN, rustix::fs::Access::WRITE_OK).is_ok();
    if is_writable { Path::new(RUN).join(name) } else { std::env::temp_dir().join(name) }
}

/// The nodes that this machine can run, each with its engine: so many of namespaces, and one more if Docker answers.
///
/// # Errors
/// When the machine could not be tried.
pub(super) async fn probe(configs: &Configs, count: u16, shared: &Shared) -> anyhow::Result<Nodes> {
    if count == 0 {
        return Ok(Nodes::Off);
    }
    let (mut nodes, mut problem) = (Vec::new(), None);
    if configs.node.socket.exists() {
        let tried = try_node(configs, EngineKind::Docker, DOCKER_NODE, count.saturating_add(1), shared);
        let tried = tokio::time::timeout(DOCKER_TIMEOUT, tried).await;
        note(
            EngineKind::Docker,
            tried.unwrap_or_else(|_| Ok(Err("it does not answer".to_owned())))?,
            &mut nodes,
            &mut problem,
        );
    }
    // An engine that cannot be used takes no share.
    let total = count.saturating_add(u16::try_from(nodes.len()).unwrap_or_default());
    for number in 1..=count {
        let tried =
            try_node(configs, EngineKind::Namespaces, &format!("node-{number}"), total, shared).await?;
        note(EngineKind::Namespaces, tried, &mut nodes, &mut problem);
    }
    Ok(problem.filter(|_| nodes.is_empty()).map_or(Nodes::On(nodes), Nodes::Unavailable))
}

/// One of `total` nodes, or why the machine cannot run it.
async fn try_node(
    configs: &Configs,
    engine: EngineKind,
    name: &str,
    total: u16,
    shared: &Shared,
) -> anyhow::Result<Result<(NodeConfig, Arc<dyn Engine>), String>> {
    let name = NodeId::parse(name).context("no name for a node")?;
    let config = NodeConfig { engine, ..configs.node.part(name, total) };
    match config.probe(configs.backends.nats.subjects.prefix(), Arc::clone(&shared.clock)).await {
        Ok(engine) => Ok(Ok((config, engine))),
        Err(NodeError::Engine(reason)) => Ok(Err(Chain(&reason).to_string())),
        Err(NodeError::Other(error)) => Err(error),
    }
}

/// Adds a node, or logs why there is none; the first reason is kept.
fn note(
    engine: EngineKind,
    tried: Result<(NodeConfig, Arc<dyn Engine>), String>,
    nodes: &mut Vec<(NodeConfig, Arc<dyn Engine>)>,
    problem: &mut Option<String>,
) {
    match tried {
        Ok(node) => nodes.push(node),
        Err(reason) => {
            let name = <&str>::from(engine);
            tracing::warn!(engine = name, "no containers of the engine {name} on this machine: {reason}");
            problem.get_or_insert(reason);
        }
    }
}

/// Starts the nodes, and writes the template of their pool.
///
/// # Errors
/// When a runner cannot start.
pub(super) async fn start(
    fleet: &mut Fleet,
    lifecycle: &mut Lifecycle,
    nodes: Nodes,
) -> anyhow::Result<Containers> {
    let nodes = match nodes {
        Nodes::Off => return Ok(Containers::Off),
        Nodes::Unavailable(reason) => return Ok(Containers::Unavailable(reason)),
        Nodes::On(nodes) => nodes,
    };
    let of_docker = |(config, _): &&(NodeConfig, _)| config.engine == EngineKind::Docker;
    let docker = nodes.iter().filter(of_docker).count();
    let on = Containers::On { nodes: nodes.len() - docker, has_docker: docker > 0 };
    for (config, engine) in nodes {
        fleet.start_runner(lifecycle, config, engine).await?;
    }
    let (store, clock, stop) = (fleet.store()?, fleet.clock(), lifecycle.stop());
    lifecycle.start("template", async move {
        write_template(store.as_ref(), clock.as_ref(), &stop).await;
        stop.cancelled().await;
        Ok::<(), std::convert::Infallible>(())
    });
    Ok(on)
}

/// Writes the template unless there is or was one of that name, as soon as the table answers.
async fn write_template(store: &dyn Store, clock: &dyn Clock, stop: &CancellationToken) {
    loop {
        match try_write(store, clock).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(error = %Chain(&error), "no template yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(TEMPLATE_PAUSE) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn try_write(store: &dyn Store, clock: &dyn Clock) -> Result<(), StoreError> {
    let Ok(id) = TemplateId::parse(POOL) else { return Ok(()) };
    if store.template_head(&id).await?.is_some() {
        return Ok(());
    }
    let template = Template {
        id,
        version: 1,
        created_at: clock.now(),
        by: Actor::nats(),
        spec: TemplateSpec::of_image(Image::Host),
    };
    // Another process may have been faster.
    store.write_template(None, &template).await.map(drop)
}
