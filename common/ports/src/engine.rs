//! The engine port: what creates and ends the sandboxes of one machine.
//!
//! An engine finds its sandboxes by three labels and nothing else: fleet, sandbox id and incarnation. They survive the
//! process that created them.

mod connection;
mod spec;

pub use connection::{ByteStream, Connection};
pub use spec::{
    CPU_MILLI_MAX, CPU_MILLI_MIN, ContainerSpec, ENV_BYTES_MAX, FILES_MIN, Image, Limits, MEMORY_BYTES_MIN,
    PIDS_MIN, PublishedPort, Workspace,
};
// As templates ask for them.
pub use domain::template::{Isolation, Network, Runtime};

use async_trait::async_trait;
use domain::{SandboxId, UnixSeconds};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use uuid::Uuid;

/// One attempt at creating a sandbox. Each attempt has a fresh one, so two containers of a sandbox are never mixed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(Uuid);

/// A text that is not an incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a UUID")]
pub struct InvalidIncarnation;

/// What a template can ask for and an engine or a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub enum Feature {
    /// The limit of processor time.
    CpuLimit,
    /// The limit of memory.
    MemoryLimit,
    /// The limit of processes.
    PidsLimit,
    /// The limit of the workspace on disk.
    DiskLimit,
    /// Pause and resume.
    Pause,
    /// Figures of usage.
    Usage,
    /// The network between sandboxes.
    InternalNetwork,
    /// The network to the outside.
    OpenNetwork,
    /// Ports that are reachable from outside.
    PublishedPorts,
    /// A root folder that can be written to.
    WritableRoot,
    /// Users other than the one that the engine runs as.
    OtherUsers,
}

/// Something that this machine does not support. A spec that depends on it is refused, except for limits, which are then not
/// applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// What.
    pub feature: Feature,
    /// Why, and what an operator can change.
    pub reason: String,
}

/// What an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its name, as pools call it.
    pub name: &'static str,
    /// How strongly it separates sandboxes.
    pub isolation: Isolation,
    /// What can run them; the choice of a template is one of these.
    pub runtimes: Vec<Runtime>,
    /// What it lacks on this machine.
    pub unsupported: Vec<Unsupported>,
}

/// What a container does, separate from who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// It is being created.
    Creating,
    /// Its supervisor runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It was stopped; its workspace is kept, and it can start again.
    Stopped,
    /// Its supervisor ended without being stopped. It can start again.
    Exited,
    /// It is of no use any more and has to be removed.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Where a published port is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The port inside.
    pub port: u16,
    /// The address on the node.
    pub address: SocketAddr,
}

/// What an image runs unless a template says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageCommand {
    /// Program and arguments; nothing if the image names no command.
    pub parts: Vec<String>,
    /// The working directory.
    pub folder: String,
}

/// An image that a machine has or is fetching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalImage {
    /// Its name.
    pub name: String,
    /// Its size, in bytes.
    pub bytes: u64,
    /// How far it has been fetched; none for an image that is there.
    pub pull: Option<PullProgress>,
}

/// How far an image has been fetched. The total grows while layers become known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// What has arrived, in bytes.
    pub fetched_bytes: u64,
    /// What is known to be needed, in bytes.
    pub total_bytes: u64,
}

/// A sandbox on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The sandbox that it was created for.
    pub sandbox: SandboxId,
    /// The attempt that created it.
    pub incarnation: Incarnation,
    /// What it does.
    pub state: ContainerState,
    /// Its published ports.
    pub endpoints: Vec<Endpoint>,
    /// When it was created.
    pub created_at: UnixSeconds,
    /// What its image runs.
    pub command: ImageCommand,
}

/// What a container uses. A figure that the machine cannot measure is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since its start.
    pub cpu: Option<Duration>,
    /// Memory now, in bytes.
    pub memory_bytes: Option<u64>,
    /// Most memory so far, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Processes now.
    pub pids: Option<u64>,
    /// Processes that were killed because the memory limit was reached.
    pub oom_kills: Option<u64>,
}

/// Why a call failed. Each variant asks for another reaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The spec or the call cannot be served here. A repeat fails as well.
    #[error("refused: {reason}")]
    Refused {
        /// What is wrong with it.
        reason: String,
    },
    /// The engine did not answer or is busy with this container. A repeat may succeed.
    #[error("the engine is unavailable: {reason}")]
    Unavailable {
        /// The cause.
        reason: String,
    },
    /// The machine has no room. Another one may have.
    #[error("the machine is full: {reason}")]
    Full {
        /// What there is not enough of.
        reason: String,
    },
    /// There is no such container, or it was removed meanwhile.
    #[error("there is no such container")]
    Gone,
    /// It went wrong for this container. It has to be removed; a new attempt may succeed.
    #[error("failed: {reason}")]
    Failed {
        /// The cause.
        reason: String,
    },
}

/// Creates, ends and reaches the sandboxes of one machine. Every call may be repeated, and may be given up at any point.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// What it is, and what this machine does not support.
    fn info(&self) -> EngineInfo;

    /// Creates a container and returns when its supervisor accepts connections. If this incarnation exists already, this
    /// is its present state.
    async fn create(&self, spec: &ContainerSpec) -> Result<Container, EngineError>;

    /// Every container of this fleet, half-created ones too.
    async fn list(&self) -> Result<Vec<Container>, EngineError>;

    /// Ends every process of a container and deletes all that it has. One that does not exist counts as removed. A creation in
    /// progress ends as [`EngineError::Gone`].
    async fn remove(&self, incarnation: &Incarnation) -> Result<(), EngineError>;

    /// Attaches a container to the network of its template; until then it reaches nothing but itself, whatever its template
    /// says. It stays attached when it stops and starts; one that does not run is attached by its next start. Published ports
    /// do not wait for it.
    async fn attach_network(&self, incarnation: &Incarnation) -> Result<(), EngineError>;

    /// Starts a stopped or exited container with its old workspace and returns when its supervisor accepts connections. A
    /// running one stays as it is.
    async fn start(&self, incarnation: &Incarnation) -> Result<(), EngineError>;

    /// Ends every process of a container at once and keeps its workspace. (Ask its supervisor first for an orderly end.)
    async fn stop(&self, incarnation: &Incarnation) -> Result<(), EngineError>;

    /// Freezes every process of a running container.
    async fn pause(&self, incarnation: &Incarnation) -> Result<(), EngineError>;

    /// Lets a paused container continue. A running one stays as it is.
    async fn resume(&self, incarnation: &Incarnation) -> Result<(), EngineError>;

    /// A new connection to the supervisor of a running container.
    async fn connect(&self, incarnation: &Incarnation) -> Result<Connection, EngineError>;

    /// What a container uses now.
    async fn usage(&self, incarnation: &Incarnation) -> Result<Usage, EngineError>;

    /// The images that this machine has by name, and those that it is fetching.
    async fn images(&self) -> Result<Vec<LocalImage>, EngineError> {
        Ok(Vec::new())
    }

    /// Makes an image with this name of the root folder of a container, which is paused meanwhile. Its workspace and folders in
    /// memory are not part of it.
    async fn commit(&self, incarnation: &Incarnation, name: &str) -> Result<(), EngineError> {
        let _ = (incarnation, name);
        Err(EngineError::refused("this engine has no images of its own"))
    }
}

// === impl Incarnation ===

impl Incarnation {
    /// The incarnation with this id.
    #[must_use]
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// Parses the text of an incarnation, for example [`crate::random::Random::fresh_id`].
    ///
    /// # Errors
    /// [`InvalidIncarnation`] if it is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidIncarnation> {
        Uuid::parse_str(text).map(Self).map_err(|_| InvalidIncarnation)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

// === impl EngineInfo ===

impl EngineInfo {
    /// Why this machine lacks a feature; none if it has it.
    #[must_use]
    pub fn why_not(&self, feature: Feature) -> Option<&str> {
        let found = self.unsupported.iter().find(|unsupported| unsupported.feature == feature);
        found.map(|unsupported| unsupported.reason.as_str())
    }

    /// Checks whether this machine has what a container depends on.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the first feature that it lacks.
    pub fn check(&self, spec: &ContainerSpec) -> Result<(), EngineError> {
        let needed = [
            (spec.network == Network::Internal, Feature::InternalNetwork),
            (spec.network == Network::Open, Feature::OpenNetwork),
            (!spec.ports.is_empty(), Feature::PublishedPorts),
            (!spec.read_only_root, Feature::WritableRoot),
        ];
        if let Some(runtime) = spec.runtime.filter(|runtime| !self.runtimes.contains(runtime)) {
            let runtime: &str = runtime.into();
            return Err(EngineError::refused(format!("the engine {} has no runtime `{runtime}`", self.name)));
        }
        let mut needed = needed.into_iter().filter(|(is_needed, _)| *is_needed);
        let lacking = needed.find_map(|(_, feature)| Some((feature, self.why_not(feature)?)));
        lacking.map_or(Ok(()), |(feature, reason)| Err(EngineError::refused(format!("{feature}: {reason}"))))
    }
}

// === impl EngineError ===

impl EngineError {
    /// A spec or call that cannot be served here.
    #[must_use]
    pub fn refused(reason: impl fmt::Display) -> Self {
        Self::Refused { reason: reason.to_string() }
    }

    /// A failure that may pass.
    #[must_use]
    pub fn unavailable(reason: impl fmt::Display) -> Self {
        Self::Unavailable { reason: reason.to_string() }
    }

    /// A failure of one container.
    #[must_use]
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self::Failed { reason: reason.to_string() }
    }
}
