//! Templates: how sandboxes of created kinds are made. A version never changes; a change is a new version.

use super::ids::{Actor, TemplateId};
use super::options::check_variables;
use super::pool::PoolKind;
use super::time::UnixSeconds;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Most versions of a template; they are kept, because sandboxes name the version that they were made from.
pub const TEMPLATE_VERSIONS_MAX: u64 = 10_000;
/// Processor time, in thousandths of a processor.
pub const CPU_MILLI: RangeInclusive<u32> = 100..=8_000;
/// Memory, in MiB.
pub const MEMORY_MB: RangeInclusive<u32> = 64..=16_384;
/// Folders in memory, in MiB; they count as memory.
pub const TMPFS_MB: RangeInclusive<u32> = 1..=16_384;
/// The workspace, in MiB.
pub const WORKSPACE_MB: RangeInclusive<u32> = 1..=102_400;
/// Processes and threads. Fewer than the minimum leave no room for a supervisor and a shell.
pub const PIDS: RangeInclusive<u32> = 8..=32_768;
/// Time to become ready, in seconds.
pub const READY_SECONDS: RangeInclusive<u64> = 1..=600;
/// Largest user id; the one after it stands for no user.
pub const USER_MAX: u32 = u32::MAX - 1;
/// The user unless a template names another.
pub const USER_DEFAULT: u32 = 1_000;
/// Most published ports.
pub const PORTS_MAX: usize = 16;
/// Most parts of a command.
pub const COMMAND_PARTS_MAX: usize = 64;
/// Longest command, in bytes over all parts.
pub const COMMAND_BYTES_MAX: usize = 8_192;
/// Longest image or path, in bytes.
pub const PATH_BYTES_MAX: usize = 255;
/// The image that stands for the programs of the node.
const HOST: &str = "host";

/// What is visible as the root folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// The programs and libraries of the node, read-only.
    Host,
    /// A folder or an archive among the images of the node; for isolation `container` also a name in a registry.
    Named(String),
}

/// What a sandbox may reach.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum Network {
    /// Nothing but itself.
    #[default]
    None,
    /// Other sandboxes.
    Internal,
    /// The outside, except for the metadata addresses of clouds.
    Open,
}

/// How strongly sandboxes are separated.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum Isolation {
    /// Namespaces and limits of the shared kernel.
    #[default]
    Process,
    /// A container engine, with images and published ports.
    Container,
}

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum Runtime {
    /// The kernel of the node.
    Runc,
    /// A kernel in user space.
    Runsc,
    /// A virtual machine.
    Kata,
}

/// When a sandbox can be handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Readiness {
    /// As soon as it runs.
    #[default]
    Running,
    /// When this command succeeds inside.
    Exec(Vec<String>),
    /// When this path of this port answers with 2xx.
    Http {
        /// The port inside.
        port: u16,
        /// The path.
        path: String,
    },
    /// When this port accepts connections.
    Tcp {
        /// The port inside.
        port: u16,
    },
}

/// How sandboxes of a template are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSpec {
    /// The kind of the sandboxes.
    pub kind: PoolKind,
    /// What is visible as the root folder.
    pub image: Image,
    /// The main command; that of the image, or none, if empty.
    pub command: Vec<String>,
    /// Processor time, in thousandths of a processor.
    pub cpu_milli: u32,
    /// Memory and swap together, in MiB.
    pub memory_mb: u32,
    /// Folders in memory, in MiB.
    pub tmpfs_mb: u32,
    /// The workspace, in MiB.
    pub workspace_mb: u32,
    /// Where the workspace is.
    pub workspace: String,
    /// Processes and threads.
    pub pids: u32,
    /// Ports that are reachable from outside.
    pub ports: BTreeSet<u16>,
    /// The environment of every command. It holds no secrets.
    pub env: BTreeMap<String, String>,
    /// The user of commands.
    pub user: u32,
    /// What a sandbox may reach after its claim.
    pub network: Network,
    /// When it is ready.
    pub readiness: Readiness,
    /// How long that may take.
    pub ready_within: Duration,
    /// How strongly it is separated.
    pub isolation: Isolation,
    /// What runs it; the choice of the node if none.
    pub runtime: Option<Runtime>,
    /// Whether it runs code that may attack the kernel.
    pub is_untrusted: bool,
    /// Whether the supervisor of the fleet is process 1.
    pub has_supervisor: bool,
}

/// One version of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its id.
    pub id: TemplateId,
    /// Its number, from 1 on. A number is never used again, not even after a removal.
    pub version: u64,
    /// When it was written.
    pub created_at: UnixSeconds,
    /// Who wrote it.
    pub by: Actor,
    /// What it says.
    pub spec: TemplateSpec,
}

/// What is current of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateHead {
    /// Its id.
    pub id: TemplateId,
    /// The current version, which is also the number of versions.
    pub version: u64,
    /// When the first version was written.
    pub created_at: UnixSeconds,
    /// When the current version was written.
    pub updated_at: UnixSeconds,
    /// When it was removed; none while it can be used. Its versions are kept.
    pub removed_at: Option<UnixSeconds>,
}

/// Why a template is not valid, as the end of a sentence that begins with the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidTemplate {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn invalid(field: &'static str, problem: impl Into<String>) -> Result<(), InvalidTemplate> {
    Err(InvalidTemplate { field, problem: problem.into() })
}

fn within<T: PartialOrd + std::fmt::Display>(
    field: &'static str,
    value: T,
    range: &RangeInclusive<T>,
) -> Result<(), InvalidTemplate> {
    if range.contains(&value) {
        return Ok(());
    }
    invalid(field, format!("must be from {} to {}, not {value}", range.start(), range.end()))
}

fn check_command(field: &'static str, command: &[String]) -> Result<(), InvalidTemplate> {
    if command.len() > COMMAND_PARTS_MAX || command.iter().map(String::len).sum::<usize>() > COMMAND_BYTES_MAX
    {
        return invalid(
            field,
            format!("must have at most {COMMAND_PARTS_MAX} parts and {COMMAND_BYTES_MAX} bytes"),
        );
    }
    if command.first().is_some_and(String::is_empty) || command.iter().any(|part| part.contains('\0')) {
        return invalid(field, "must begin with a program and hold no NUL");
    }
    Ok(())
}

fn is_plain_path(path: &str) -> bool {
    path.len() <= PATH_BYTES_MAX
        && path.bytes().all(|byte| byte.is_ascii_graphic())
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

// === impl Image ===

impl Image {
    /// The image of that name. [`TemplateSpec::check`] checks it.
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name == HOST { Self::Host } else { Self::Named(name.to_owned()) }
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Host => HOST,
            Self::Named(name) => name,
        }
    }
}

// === impl Runtime ===

impl Runtime {
    /// Whether sandboxes do not share the kernel of the node.
    #[must_use]
    pub const fn has_own_kernel(self) -> bool {
        matches!(self, Self::Runsc | Self::Kata)
    }
}

// === impl Readiness ===

impl Readiness {
    /// The public name of its kind.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.into()
    }
}

// === impl TemplateSpec ===

impl TemplateSpec {
    /// A sandbox with the default limits, without network.
    #[must_use]
    pub fn of_image(image: Image) -> Self {
        Self {
            kind: PoolKind::Container,
            image,
            command: Vec::new(),
            cpu_milli: 1_000,
            memory_mb: 512,
            tmpfs_mb: 64,
            workspace_mb: 1_024,
            workspace: "/workspace".to_owned(),
            pids: 128,
            ports: BTreeSet::new(),
            env: BTreeMap::new(),
            user: USER_DEFAULT,
            network: Network::default(),
            readiness: Readiness::default(),
            ready_within: Duration::from_secs(30),
            isolation: Isolation::default(),
            runtime: None,
            is_untrusted: false,
            has_supervisor: true,
        }
    }

    /// Checks each field, and the fields against each other.
    ///
    /// # Errors
    /// [`InvalidTemplate`] with the first mistake.
    pub fn check(&self) -> Result<(), InvalidTemplate> {
        match self.kind {
            PoolKind::Container => {}
            PoolKind::Stack => {
                return invalid("kind", "must be `container`: this fleet does not create stacks yet");
            }
            PoolKind::Account => {
                return invalid("kind", "must be `container`: accounts are listed, not created");
            }
        }
        within("cpu_milli", self.cpu_milli, &CPU_MILLI)?;
        within("memory_mb", self.memory_mb, &MEMORY_MB)?;
        within("tmpfs_mb", self.tmpfs_mb, &TMPFS_MB)?;
        within("workspace_mb", self.workspace_mb, &WORKSPACE_MB)?;
        within("pids", self.pids, &PIDS)?;
        within("readiness.timeout_seconds", self.ready_within.as_secs(), &READY_SECONDS)?;
        if self.tmpfs_mb > self.memory_mb {
            return invalid("tmpfs_mb", "must not be more than memory_mb, of which it is a part");
        }
        if self.user > USER_MAX {
            return invalid("user", format!("must be at most {USER_MAX}"));
        }
        if !self.workspace.strip_prefix('/').is_some_and(is_plain_path) {
            return invalid(
                "workspace",
                format!("must be an absolute path of at most {PATH_BYTES_MAX} bytes, without `..`"),
            );
        }
        check_command("command", &self.command)?;
        self.check_env()?;
        self.check_ports()?;
        self.check_readiness()?;
        self.check_isolation()
    }

    fn check_env(&self) -> Result<(), InvalidTemplate> {
        check_variables(&self.env).or_else(|problem| invalid("env", problem))
    }

    fn check_ports(&self) -> Result<(), InvalidTemplate> {
        if self.ports.len() > PORTS_MAX || self.ports.contains(&0) {
            return invalid("ports", format!("must be at most {PORTS_MAX} numbers from 1 to 65535"));
        }
        Ok(())
    }

    fn check_readiness(&self) -> Result<(), InvalidTemplate> {
        match &self.readiness {
            Readiness::Running => Ok(()),
            Readiness::Exec(command) if command.is_empty() => {
                invalid("readiness.command", "must not be empty")
            }
            Readiness::Exec(command) => check_command("readiness.command", command),
            Readiness::Http { port: 0, .. } | Readiness::Tcp { port: 0 } => {
                invalid("readiness.port", "must be from 1 to 65535")
            }
            Readiness::Http { port: _, path } => {
                let is_path =
                    path.len() <= PATH_BYTES_MAX && path.bytes().all(|byte| byte.is_ascii_graphic());
                if path.starts_with('/') && is_path {
                    return Ok(());
                }
                invalid(
                    "readiness.path",
                    format!("must begin with `/` and have at most {PATH_BYTES_MAX} visible ASCII characters"),
                )
            }
            Readiness::Tcp { .. } => Ok(()),
        }
    }

    /// Checks image, runtime and trust against the isolation.
    pub(crate) fn check_isolation(&self) -> Result<(), InvalidTemplate> {
        let is_container = self.isolation == Isolation::Container;
        match &self.image {
            Image::Host if is_container => return invalid("image", "`host` needs isolation `process`"),
            Image::Named(name) if !is_plain_path(name) => {
                let problem = format!(
                    "must be `host` or the name of an image: at most {PATH_BYTES_MAX} visible ASCII characters, not absolute, without `..`"
                );
                return invalid("image", problem);
            }
            Image::Host | Image::Named(_) => {}
        }
        if self.runtime.is_some() && !is_container {
            return invalid("runtime", "needs isolation `container`");
        }
        if self.is_untrusted && !self.runtime.is_some_and(Runtime::has_own_kernel) {
            return invalid("untrusted", "needs isolation `container` and runtime `runsc` or `kata`");
        }
        if !self.has_supervisor && !is_container && self.command.is_empty() {
            return invalid(
                "command",
                "must be set without a supervisor: with isolation `process`, an image brings none",
            );
        }
        Ok(())
    }
}

// === impl TemplateHead ===

impl TemplateHead {
    /// The template with a further version: the first one if there is no head yet.
    #[must_use]
    pub fn with(seen: Option<&Self>, next: &Template) -> Self {
        Self {
            id: next.id.clone(),
            version: next.version,
            created_at: seen.map_or(next.created_at, |seen| seen.created_at),
            updated_at: next.created_at,
            removed_at: None,
        }
    }

    /// Whether it can be used.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.removed_at.is_none()
    }
}

#[cfg(test)]
mod tests;
