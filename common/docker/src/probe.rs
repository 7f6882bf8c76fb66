//! Finds out at start what the engine is and what it allows.

use crate::client::Client;
use crate::network::Networks;
use crate::record::Record;
use crate::spec::name;
use crate::{Docker, Owner, Shared};
use bollard::models::SystemInfo;
use host::folders::Folders;
use host::published::{PublishedPorts, why_no_ports};
use host::{NO_DISK_LIMIT, Publish};
use ports::clock::Clock;
use ports::engine::{EngineError, EngineInfo, Feature, Isolation, Runtime, Unsupported};
use rustix::process::{Resource, getrlimit};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// How engines call what runs containers; the first one that is there is used.
const RUNTIMES: [(Runtime, &[&str]); 3] = [
    (Runtime::Runc, &["runc", "io.containerd.runc.v2", "crun"]),
    (Runtime::Runsc, &["runsc", "io.containerd.runsc.v1"]),
    (Runtime::Kata, &["kata", "kata-runtime", "io.containerd.kata.v2"]),
];

/// What the version of Podman names as a part.
const PODMAN: &str = "Podman";
/// What Podman's service keeps for itself as limit of the processes of a user (4.3, as root without CAP_SYS_RESOURCE).
const PODMAN_PROCESSES_MAX: u64 = 32_768;

/// What the adapter needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The fleet that its sandboxes belong to: letters, digits and `-`.
    pub fleet: String,
    /// The engine's socket.
    pub socket: PathBuf,
    /// The folder for its state, of this adapter alone. It has the same path for the engine, and should be in memory.
    pub state: PathBuf,
    /// The folder for workspaces on disk, of this adapter alone. It has the same path for the engine.
    pub data: PathBuf,
    /// The static program that becomes process 1 (`supervisor_image::SUPERVISOR`).
    pub supervisor: &'static [u8],
    /// Where ports are published.
    pub publish: Publish,
}

/// Why the engine cannot be used, with what an operator can do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(&'static str),
    /// There is no engine.
    #[error("no Docker engine answers on {socket}: start one, or name its socket")]
    NoEngine {
        /// The socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        error: EngineError,
    },
    /// The engine has another view of folders or processes, so that the runner could neither make workspaces nor end commands.
    #[error(
        "the engine is in another {kind} namespace: start the runner on the machine of the engine, outside of containers"
    )]
    Elsewhere {
        /// The kind of namespace.
        kind: &'static str,
    },
    /// A folder cannot be used.
    #[error("the folder {state} or {data} cannot be used")]
    Folder {
        /// The folder for the state.
        state: PathBuf,
        /// The folder for data.
        data: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
}

/// The engine's names of what runs containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runtimes(Vec<(Runtime, String)>);

// === impl Runtimes ===

impl Runtimes {
    /// Those of an engine. Podman takes its default, whatever a container asks for, and names more than there are.
    fn of(info: &SystemInfo, is_podman: bool) -> Self {
        let known = |names: &[&str]| {
            let is_there = |name: &str| match is_podman {
                true => info.default_runtime.as_deref() == Some(name),
                false => info.runtimes.as_ref().is_some_and(|runtimes| runtimes.contains_key(name)),
            };
            names.iter().find(|name| is_there(name)).map(|name| (*name).to_owned())
        };
        Self(RUNTIMES.iter().filter_map(|(runtime, names)| Some((*runtime, known(names)?))).collect())
    }

    pub(crate) fn name(&self, runtime: Runtime) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == runtime).map(|(_, name)| name.as_str())
    }
}

// === impl Docker ===

impl Docker {
    /// Connects to the engine, finds out what it allows, and opens the state folder. Removes what has no readable record there:
    /// nothing else could.
    ///
    /// # Errors
    /// [`ProbeError`] if no sandbox can run here.
    pub async fn probe(config: Config, clock: Arc<dyn Clock>) -> Result<Self, ProbeError> {
        let Config { fleet, socket, state, data, supervisor, publish } = config;
        host::check_config(&fleet, supervisor).map_err(ProbeError::Config)?;
        if !rustix::process::geteuid().is_root() {
            return Err(ProbeError::Config(
                "a runner of the Docker engine has to be root: it makes workspaces for other users",
            ));
        }
        let client = Client::new(socket.clone());
        let no_engine = |error| ProbeError::NoEngine { socket: socket.clone(), error };
        let engine = client.get().await.map_err(no_engine)?;
        let found = engine.info().await.map_err(|error| no_engine(client.failed(error)))?;
        let version = engine.version().await.map_err(|error| no_engine(client.failed(error)))?;
        let is_podman = version.components.iter().flatten().any(|part| part.name.contains(PODMAN));
        for kind in ["mnt", "pid"] {
            if !client.shares(kind).await {
                return Err(ProbeError::Elsewhere { kind });
            }
        }
        let in_folders = |error| ProbeError::Folder { state: state.clone(), data: data.clone(), error };
        let folders = Folders::open(&state, &data).map_err(in_folders)?;
        folders.write_supervisor(supervisor).map_err(in_folders)?;
        let networks = Networks::new(&host::hash_of(&state));
        let no_network = networks.why_not(&client).await;
        let runtimes = Runtimes::of(&found, is_podman);
        let info = EngineInfo {
            name: if is_podman { "podman" } else { "docker" },
            isolation: Isolation::Container,
            runtimes: runtimes.0.iter().map(|(runtime, _)| *runtime).collect(),
            unsupported: unsupported(&found, no_network, &publish),
        };
        let shared = Shared {
            owner: Owner { fleet, runner: state.to_string_lossy().into_owned() },
            client,
            folders,
            ports: PublishedPorts::new(publish),
            networks,
            pulls: Default::default(),
            info,
            runtimes,
            // Podman asks for more than a machine without CAP_SYS_RESOURCE allows.
            user_processes: is_podman.then(|| {
                let own = getrlimit(Resource::Nproc).maximum;
                own.map_or(PODMAN_PROCESSES_MAX, |own| own.min(PODMAN_PROCESSES_MAX))
            }),
            clock,
            turns: Default::default(),
        };
        let cleared = async {
            shared.clear().await?;
            match shared.delete_unused_networks().await {
                // What could not be made need not be deleted.
                Err(_) if shared.info.why_not(Feature::OpenNetwork).is_some() => Ok(()),
                deleted => deleted,
            }
        };
        cleared.await.map_err(no_engine)?;
        Ok(Self(Arc::new(shared)))
    }
}

// === impl Shared ===

impl Shared {
    /// Removes what was left without a record, and reserves the ports of the others.
    async fn clear(&self) -> Result<(), EngineError> {
        for incarnation in self.folders.all_incarnations().map_err(EngineError::unavailable)? {
            let own = self.folders.of(&incarnation);
            match Record::read(own.path()).ok().filter(|record| record.labels().is_some()) {
                Some(record) => self.ports.adopt(&incarnation, &record.ports),
                None => {
                    self.remove_of_engine(&name(&incarnation)).await?;
                    own.delete().map_err(EngineError::unavailable)?;
                }
            }
        }
        Ok(())
    }
}

/// What this engine lacks.
fn unsupported(info: &SystemInfo, no_network: Option<String>, publish: &Publish) -> Vec<Unsupported> {
    let no_group = |has: Option<bool>, name: &str| {
        (has == Some(false)).then(|| format!("the engine has no `{name}` control group"))
    };
    let all = [
        (Feature::DiskLimit, Some(NO_DISK_LIMIT.to_owned())),
        (Feature::MemoryLimit, no_group(info.memory_limit, "memory")),
        (Feature::CpuLimit, no_group(info.cpu_cfs_quota, "cpu")),
        (Feature::PidsLimit, no_group(info.pids_limit, "pids")),
        (Feature::InternalNetwork, no_network.clone()),
        (Feature::OpenNetwork, no_network.clone()),
        (Feature::PublishedPorts, no_network.or_else(|| why_no_ports(publish.address))),
    ];
    all.into_iter().filter_map(|(feature, reason)| Some(Unsupported { feature, reason: reason? })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::clock::SystemClock;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn a_missing_engine_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            fleet: "test".to_owned(),
            socket: folder.path().join("docker.sock"),
            state: folder.path().join("state"),
            data: folder.path().join("data"),
            supervisor: b"#!/bin/true",
            publish: Publish { address: Ipv4Addr::LOCALHOST, ports: 30_000..=30_009 },
        };
        let probed = |config| Docker::probe(config, Arc::new(SystemClock));
        let error = probed(Config { fleet: "a/b".to_owned(), ..config.clone() }).await.unwrap_err();
        assert!(error.to_string().contains("fleet"), "{error}");
        if rustix::process::geteuid().is_root() {
            let error = probed(config).await.unwrap_err().to_string();
            assert!(
                error.contains("no Docker engine answers on") && error.contains("docker.sock"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_the_engine_lacks_is_reported() {
        let info = SystemInfo {
            pids_limit: Some(false),
            runtimes: Some(["runc", "kata-runtime"].map(|name| (name.to_owned(), Default::default())).into()),
            ..SystemInfo::default()
        };
        let publish = Publish { address: Ipv4Addr::new(203, 0, 113, 1), ports: 1..=1 };
        let features = |no_network| {
            let lacking = unsupported(&info, no_network, &publish).into_iter();
            lacking.map(|lack| lack.feature).collect::<Vec<_>>()
        };
        assert_eq!(features(None), [Feature::DiskLimit, Feature::PidsLimit, Feature::PublishedPorts]);
        assert!(features(Some("not root".to_owned())).contains(&Feature::OpenNetwork));
        let runtimes = Runtimes::of(&info, false);
        assert_eq!(runtimes.name(Runtime::Kata), Some("kata-runtime"));
        assert_eq!((runtimes.name(Runtime::Runc), runtimes.name(Runtime::Runsc)), (Some("runc"), None));
        let podman = SystemInfo { default_runtime: Some("crun".to_owned()), ..info };
        assert_eq!(Runtimes::of(&podman, true), Runtimes(vec![(Runtime::Runc, "crun".to_owned())]));
    }
}
