//! What a container is created from, and the rules that every engine checks.

use super::{EngineError, Incarnation};
use domain::SandboxId;
use domain::template::{Network, Runtime, USER_DEFAULT};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Least processor time, in thousandths of a processor.
pub const CPU_MILLI_MIN: u32 = 10;
/// Most processor time, in thousandths of a processor.
pub const CPU_MILLI_MAX: u32 = 1_000_000;
/// Least memory, in bytes: below it the supervisor itself may be killed.
pub const MEMORY_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Fewest processes: the supervisor and a shell with one command.
pub const PIDS_MIN: u32 = 4;
/// Fewest open files of a process: the supervisor needs as many.
pub const FILES_MIN: u64 = 1_024;
/// Longest environment, in bytes over all names and values.
pub const ENV_BYTES_MAX: usize = 64 * 1024;

/// What is visible as the root folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// A read-only view of the machine's own programs and libraries.
    Host,
    /// A folder of the machine.
    Folder(PathBuf),
    /// An archive (tar) on the machine.
    Archive(PathBuf),
    /// A name in a registry.
    Reference(String),
}

/// Where the workspace is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workspace {
    /// In memory, which counts as memory of the container. Its size is limited on every machine.
    #[default]
    Memory,
    /// On the disk of the machine, limited in size only where [`super::Feature::DiskLimit`] is supported.
    Disk,
}

/// A port that is reachable from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// The port inside.
    pub inside: u16,
    /// The port on the node; none lets the engine choose.
    pub outside: Option<u16>,
}

/// The limits of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processor time, in thousandths of a processor.
    pub cpu_milli: u32,
    /// Memory and swap together, in bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Size of the workspace, in bytes.
    pub disk_bytes: u64,
    /// Size of each other folder in memory (`/tmp`, `/run`, `/dev/shm`), in bytes.
    pub tmp_bytes: u64,
    /// Size of one file, in bytes.
    pub file_bytes: u64,
    /// Open files of a process.
    pub files: u64,
}

/// What a container is created from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// This attempt.
    pub incarnation: Incarnation,
    /// What is visible as the root folder.
    pub image: Image,
    /// The limits.
    pub limits: Limits,
    /// The user of commands, and its group.
    pub user: u32,
    /// What it may reach once it is attached ([`super::Engine::attach_network`]).
    pub network: Network,
    /// The ports that are reachable from outside.
    pub ports: Vec<PublishedPort>,
    /// The environment of every command. Secrets are passed to executions and never here.
    pub env: BTreeMap<String, String>,
    /// Where the workspace is.
    pub workspace: Workspace,
    /// Whether nothing outside of the workspace and the folders in memory can be written to.
    pub read_only_root: bool,
    /// What runs it; the engine's choice if none.
    pub runtime: Option<Runtime>,
    /// The command that is process 1 in place of the supervisor; that of the image if it is empty. Commands are then run by the
    /// engine itself.
    pub first: Option<Vec<String>>,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            cpu_milli: 1_000,
            memory_bytes: 512 * MIB,
            pids: 128,
            disk_bytes: 256 * MIB,
            tmp_bytes: 64 * MIB,
            file_bytes: 1_024 * MIB,
            files: 1_024,
        }
    }
}

// === impl ContainerSpec ===

impl ContainerSpec {
    /// The user of commands unless a template names another.
    pub const USER_DEFAULT: u32 = USER_DEFAULT;

    /// A container with the default limits, without network.
    #[must_use]
    pub fn new(sandbox: SandboxId, incarnation: Incarnation, image: Image) -> Self {
        Self {
            sandbox,
            incarnation,
            image,
            limits: Limits::default(),
            user: Self::USER_DEFAULT,
            network: Network::default(),
            ports: Vec::new(),
            env: BTreeMap::new(),
            workspace: Workspace::default(),
            read_only_root: true,
            runtime: None,
            first: None,
        }
    }

    /// Checks what is the same for every engine.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the first mistake.
    pub fn check(&self) -> Result<(), EngineError> {
        self.mistake().map_or(Ok(()), |mistake| Err(EngineError::refused(mistake)))
    }

    fn mistake(&self) -> Option<String> {
        let Limits { cpu_milli, memory_bytes, pids, disk_bytes, tmp_bytes, file_bytes, files } = self.limits;
        let too_small = |name: &str, value: u64, min: u64| {
            (value < min).then(|| format!("{name} must be at least {min}, not {value}"))
        };
        let path = match &self.image {
            Image::Folder(path) | Image::Archive(path) => Some(path),
            Image::Host | Image::Reference(_) => None,
        };
        let env_bytes: usize = self.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        let is_bad_variable = |(name, value): (&String, &String)| {
            name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
        };
        let inside: BTreeSet<u16> = self.ports.iter().map(|port| port.inside).collect();
        (self.user == u32::MAX)
            .then(|| "the user is no user".to_owned())
            .or_else(|| too_small("cpu_milli", cpu_milli.into(), CPU_MILLI_MIN.into()))
            .or_else(|| {
                (cpu_milli > CPU_MILLI_MAX).then(|| format!("cpu_milli must be at most {CPU_MILLI_MAX}"))
            })
            .or_else(|| too_small("memory_bytes", memory_bytes, MEMORY_BYTES_MIN))
            .or_else(|| too_small("pids", pids.into(), PIDS_MIN.into()))
            .or_else(|| too_small("disk_bytes", disk_bytes, 1))
            .or_else(|| too_small("tmp_bytes", tmp_bytes, 1))
            .or_else(|| too_small("file_bytes", file_bytes, 1))
            .or_else(|| too_small("files", files, FILES_MIN))
            .or_else(|| {
                path.filter(|path| !path.is_absolute()).map(|_| "the image needs an absolute path".to_owned())
            })
            .or_else(|| {
                (env_bytes > ENV_BYTES_MAX)
                    .then(|| format!("the environment must be at most {ENV_BYTES_MAX} bytes"))
            })
            .or_else(|| {
                self.env
                    .iter()
                    .any(is_bad_variable)
                    .then(|| "a variable has an invalid name or value".to_owned())
            })
            .or_else(|| {
                (inside.len() < self.ports.len() || inside.contains(&0))
                    .then(|| "a port is zero or named twice".to_owned())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec::new(SandboxId::parse("s-1").unwrap(), Incarnation::new(uuid::Uuid::nil()), Image::Host)
    }

    /// The reason for which a changed spec is refused.
    fn refused(change: impl FnOnce(&mut ContainerSpec)) -> String {
        let mut spec = spec();
        change(&mut spec);
        match spec.check() {
            Err(EngineError::Refused { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn default_spec_is_accepted() {
        assert_eq!(spec().check(), Ok(()));
    }

    #[test]
    fn limits_that_cannot_work_are_refused() {
        assert!(
            refused(|spec| spec.limits.cpu_milli = CPU_MILLI_MIN - 1)
                .contains("cpu_milli must be at least 10")
        );
        assert!(refused(|spec| spec.limits.cpu_milli = CPU_MILLI_MAX + 1).contains("at most"));
        assert!(refused(|spec| spec.limits.memory_bytes = MEMORY_BYTES_MIN - 1).contains("memory_bytes"));
        assert!(refused(|spec| spec.limits.pids = PIDS_MIN - 1).contains("pids"));
        assert!(refused(|spec| spec.limits.disk_bytes = 0).contains("disk_bytes"));
        assert!(refused(|spec| spec.limits.tmp_bytes = 0).contains("tmp_bytes"));
        assert!(refused(|spec| spec.limits.file_bytes = 0).contains("file_bytes"));
        assert!(refused(|spec| spec.limits.files = FILES_MIN - 1).contains("files"));
    }

    #[test]
    fn ambiguous_input_is_refused() {
        assert!(refused(|spec| spec.image = Image::Folder("images/a".into())).contains("absolute"));
        assert!(
            refused(|spec| spec.user = u32::MAX).contains("no user"),
            "it means: leave the owner as it is"
        );
        let port = PublishedPort { inside: 80, outside: None };
        assert!(refused(|spec| spec.ports = vec![port, port]).contains("twice"));
        assert!(refused(|spec| spec.ports = vec![PublishedPort { inside: 0, ..port }]).contains("zero"));
        for (name, value) in [("", "x"), ("A=B", "x"), ("A", "x\0y")] {
            let env = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert!(refused(|spec| spec.env = env).contains("variable"), "{name:?}");
        }
        let long = BTreeMap::from([("A".to_owned(), "x".repeat(ENV_BYTES_MAX))]);
        assert!(refused(|spec| spec.env = long).contains("at most"));
    }
}
