//! The runners of this process, each with an engine of its own.

use super::Fleet;
use anyhow::Context as _;
use docker::Docker;
use domain::NodeId;
use host::Publish;
use namespaces::Namespaces;
use ports::clock::Clock;
use ports::engine::{Engine, Unsupported};
use runtime::settings::Settings;
use runtime::shutdown::Lifecycle;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use strum::VariantNames as _;

/// Where Docker listens by default.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// What makes the sandboxes of a node.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr, strum::VariantNames,
)]
#[strum(serialize_all = "snake_case")]
pub enum EngineKind {
    /// Linux namespaces, without a daemon.
    #[default]
    Namespaces,
    /// Docker or Podman.
    Docker,
}

/// The settings of a node: its runner and its engine.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The runner.
    pub runner: runner::Config,
    /// The engine.
    pub engine: EngineKind,
    /// The folder for the state of the engine.
    pub state: PathBuf,
    /// The program of `bubblewrap`.
    pub wrapper: PathBuf,
    /// The socket of Docker.
    pub socket: PathBuf,
    /// Where ports are published.
    pub publish: Publish,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The machine cannot run containers. The rest of a fleet works without them.
    #[error("no containers on this machine")]
    Engine(#[source] EngineProblem),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Why an engine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EngineProblem {
    /// That of namespaces.
    #[error(transparent)]
    Namespaces(#[from] namespaces::ProbeError),
    /// Docker.
    #[error(transparent)]
    Docker(#[from] docker::ProbeError),
}

// === impl NodeConfig ===

impl NodeConfig {
    /// Reads the settings of a node.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let runner = runner::Config::read(settings);
        let engine = settings.parsed(
            "RUNNER_ENGINE",
            EngineKind::default().into(),
            "what makes the sandboxes of a node: `namespaces`, which needs no daemon, or `docker` (Docker or Podman)",
            |text| text.parse().map_err(|_| format!("must be one of {}", EngineKind::VARIANTS.join(", "))),
        );
        let socket = settings.text(
            "RUNNER_DOCKER_SOCKET",
            DOCKER_SOCKET,
            "socket of Docker, or of Podman's service; `broker up` adds a node for it if it is usable",
        );
        let state = settings.text(
            "RUNNER_STATE",
            "/run/sandbox-runner",
            "folder for the state of the engine, in memory, at most 59 bytes; it belongs to one runner",
        );
        let wrapper = settings.text(
            "RUNNER_BUBBLEWRAP",
            "bwrap",
            "program of bubblewrap, which starts containers (Debian package `bubblewrap`)",
        );
        let publish = read_publish(settings);
        Self {
            runner,
            engine: engine.unwrap_or_default(),
            state: state.into(),
            wrapper: wrapper.into(),
            socket: socket.into(),
            publish,
        }
    }

    /// Finds out what this machine allows, and makes the engine of the node.
    ///
    /// # Errors
    /// [`ProbeError`] in [`NodeError::Engine`] if no container can run here.
    pub async fn probe(&self, fleet: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Engine>, NodeError> {
        let (fleet, state, publish) = (fleet.to_owned(), self.state.clone(), self.publish.clone());
        let (data, supervisor) = (self.runner.data.join("engine"), supervisor_image::SUPERVISOR);
        let engine: Arc<dyn Engine> = match self.engine {
            EngineKind::Docker => {
                let socket = self.socket.clone();
                let config = docker::Config { fleet, socket, state, data, supervisor, publish };
                Arc::new(Docker::probe(config, clock).await.map_err(|error| NodeError::Engine(error.into()))?)
            }
            EngineKind::Namespaces => {
                let wrapper = self.wrapper.clone();
                let config = namespaces::Config { fleet, state, data, wrapper, supervisor, publish };
                let probed = tokio::task::spawn_blocking(move || Namespaces::probe(config, clock)).await;
                let probed = probed.context("the engine could not be tried")?;
                Arc::new(probed.map_err(|error| NodeError::Engine(error.into()))?)
            }
        };
        for Unsupported { feature, reason } in engine.info().unsupported {
            tracing::warn!(%feature, reason, "containers of this machine do without {feature}: {reason}");
        }
        Ok(engine)
    }

    /// One of `count` nodes on this machine, which share what it offers.
    #[must_use]
    pub fn part(&self, node: NodeId, count: u16) -> Self {
        let state = self.state.join(node.as_str());
        Self { runner: self.runner.part(node, count), state, ..self.clone() }
    }
}

/// Reads where the ports of containers are published.
fn read_publish(settings: &mut Settings<'_>) -> Publish {
    let address = settings.parsed(
        "RUNNER_PUBLISH_ADDRESS",
        "127.0.0.1",
        "IPv4 address of the node on which ports of containers are published; with the default they are reached from the node only",
        parse_publish_address,
    );
    let ports = settings.parsed(
        "RUNNER_PUBLISH_PORTS",
        "30000-32767",
        "ports of the node that may be published, as FIRST-LAST; they should not be among those of outgoing connections (sysctl net.ipv4.ip_local_port_range)",
        parse_publish_ports,
    );
    Publish { address: address.unwrap_or(Ipv4Addr::LOCALHOST), ports: ports.unwrap_or(1..=1) }
}

fn parse_publish_address(text: &str) -> Result<Ipv4Addr, String> {
    let address = text.parse::<Ipv4Addr>().ok().filter(|address| !address.is_unspecified());
    address.ok_or_else(|| "must be one IPv4 address of this node, for example 127.0.0.1".to_owned())
}

fn parse_publish_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    let is_good = |range: &RangeInclusive<u16>| !range.is_empty() && *range.start() > 0;
    range.filter(is_good).ok_or_else(|| "must be FIRST-LAST, for example 30000-32767".to_owned())
}

// === impl Fleet ===

impl Fleet {
    /// Starts the runner of a node.
    ///
    /// # Errors
    /// When its folder is in use or cannot be used.
    pub async fn start_runner(
        &mut self,
        lifecycle: &mut Lifecycle,
        config: NodeConfig,
        engine: Arc<dyn Engine>,
    ) -> anyhow::Result<()> {
        let config = config.runner;
        let bus = Arc::new(self.bus("runner").await?);
        let ports = runner::Ports {
            clock: Arc::clone(&self.shared.clock),
            random: Arc::clone(&self.shared.random),
            engine: Arc::clone(&engine),
            requests: Arc::clone(&bus) as _,
            provisions: Arc::clone(&bus) as _,
            serve: Arc::clone(&bus) as _,
            is_clock_off: {
                let time = Arc::clone(bus.server_time());
                Arc::new(move || time.problem().is_some())
            },
        };
        let metrics = self.metrics.runner().context("no metrics of the runner")?;
        self.show(lifecycle, &bus, Arc::new(metrics.clone()));
        self.keep_spread(lifecycle, &bus);
        let runner = runner::Runner::new(config, ports, metrics).context("no runner")?;
        self.engines.push(engine);
        let stop = self.workers_stop.clone();
        lifecycle.start("runner", runner.run(stop));
        Ok(())
    }

    /// Removes every container of this process's nodes. Their records stay; the fleet finds out when it starts again.
    pub async fn remove_containers(&self) {
        for engine in &self.engines {
            let Ok(containers) = engine.list().await else { continue };
            let removals = containers.iter().map(|container| engine.remove(&container.incarnation));
            for removed in futures_util::future::join_all(removals).await {
                if let Err(error) = removed {
                    tracing::warn!(%error, "a container was not removed");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_and_a_range_of_ports_are_read() {
        assert_eq!(parse_publish_address("192.0.2.1"), Ok(Ipv4Addr::new(192, 0, 2, 1)));
        for wrong in ["", "0.0.0.0", "::1", "localhost", "192.0.2.1:80"] {
            assert!(parse_publish_address(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(parse_publish_ports("1-65535"), Ok(1..=65_535));
        for wrong in ["", "80", "0-9", "9-8", "1-65536", "a-b"] {
            assert!(parse_publish_ports(wrong).is_err(), "{wrong:?}");
        }
    }
}
