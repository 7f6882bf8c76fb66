//! Limits, pause and complete ends by control groups: version 1, where each controller has its own hierarchy, and version 2.
//!
//! The adapter only makes folders below the groups that this process is in. It never mounts anything there.

mod detect;
mod v1;
mod v2;

use crate::folders::fresh_name;
use ports::engine::{Feature, Limits, Unsupported, Usage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Processes of a sandbox that are not the caller's: the wrapper outside, the supervisor, and its keeper of the first job.
pub const OWN_PIDS: u32 = 3;
/// Period over which processor time is counted, in microseconds: the default of the kernel.
const CPU_PERIOD_US: u64 = 100_000;

/// A controller of version 1.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::EnumString,
    strum::Display,
)]
#[strum(serialize_all = "lowercase")]
pub enum Controller {
    /// Limit of memory.
    Memory,
    /// Limit of processes.
    Pids,
    /// Limit of processor time.
    Cpu,
    /// Count of processor time.
    Cpuacct,
    /// Pause.
    Freezer,
}

/// The groups below which sandboxes get theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// One parent for each controller.
    V1(BTreeMap<Controller, PathBuf>),
    /// One parent.
    V2(PathBuf),
    /// None, for this reason.
    None(String),
}

/// The groups of one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Group {
    /// One for each controller.
    V1(BTreeMap<Controller, PathBuf>),
    /// One.
    V2(PathBuf),
    /// None.
    #[default]
    None,
}

// === impl Cgroups ===

impl Cgroups {
    /// Finds the groups of this process and tries whether they can be used.
    pub fn of_this_process() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let found = detect::find(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        found.prepared().unwrap_or_else(|error| {
            Self::None(format!("control groups cannot be made ({error}); delegate them to the runner"))
        })
    }

    /// Those that a process is in, for what they say.
    pub fn of_process(pid: i32) -> Group {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        match detect::find(&read(&format!("/proc/{pid}/cgroup")), &read("/proc/self/mountinfo")) {
            Self::V1(folders) => Group::V1(folders),
            Self::V2(folder) => Group::V2(folder),
            Self::None(_) => Group::None,
        }
    }

    /// The groups of a sandbox; `name` has to be a single part of a path.
    pub fn group(&self, name: &str) -> Group {
        match self {
            Self::V1(parents) => Group::V1(
                parents.iter().map(|(controller, parent)| (*controller, parent.join(name))).collect(),
            ),
            Self::V2(parent) => Group::V2(parent.join(name)),
            Self::None(_) => Group::None,
        }
    }

    /// What they cannot do.
    pub fn unsupported(&self) -> Vec<Unsupported> {
        let missing: Vec<(Feature, String)> = match self {
            Self::V1(parents) => [
                (Feature::MemoryLimit, Controller::Memory),
                (Feature::PidsLimit, Controller::Pids),
                (Feature::CpuLimit, Controller::Cpu),
                (Feature::Usage, Controller::Cpuacct),
                (Feature::Pause, Controller::Freezer),
            ]
            .into_iter()
            .filter(|(_, controller)| !parents.contains_key(controller))
            .map(|(feature, controller)| {
                (feature, format!("the machine has no `{controller}` control group"))
            })
            .collect(),
            Self::V2(_) => Vec::new(),
            Self::None(reason) => {
                [Feature::MemoryLimit, Feature::PidsLimit, Feature::CpuLimit, Feature::Usage, Feature::Pause]
                    .map(|feature| (feature, reason.clone()))
                    .into()
            }
        };
        missing.into_iter().map(|(feature, reason)| Unsupported { feature, reason }).collect()
    }

    /// Makes them usable, and tries with a group that is removed again.
    fn prepared(self) -> io::Result<Self> {
        if let Self::V2(parent) = &self {
            v2::delegate(parent)?;
        }
        let probe = self.group(&format!("probe-{}", fresh_name()));
        probe.create(&Limits::default())?;
        probe.remove()?;
        Ok(self)
    }
}

// === impl Group ===

impl Group {
    /// Its folders.
    pub fn folders(&self) -> Vec<&Path> {
        match self {
            Self::V1(folders) => folders.values().map(PathBuf::as_path).collect(),
            Self::V2(folder) => vec![folder.as_path()],
            Self::None => Vec::new(),
        }
    }

    /// The files to which a process with one thread writes 0 to join. Version 1 has one for single threads, for which the kernel
    /// need not stop all others: with the usual one, a creation waits for up to 20 ms.
    pub fn joining_files(&self) -> Vec<PathBuf> {
        let name = if matches!(self, Self::V1(_)) { "tasks" } else { "cgroup.procs" };
        self.folders().into_iter().map(|folder| folder.join(name)).collect()
    }

    /// Makes the folders and applies the limits.
    pub fn create(&self, limits: &Limits) -> io::Result<()> {
        for folder in self.folders() {
            match std::fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        match self {
            Self::V1(folders) => v1::limit(folders, limits),
            Self::V2(folder) => v2::limit(folder, limits),
            Self::None => Ok(()),
        }
    }

    /// Freezes its processes or lets them continue. The kernel may need a moment to finish.
    pub fn freeze(&self, is_frozen: bool) -> io::Result<()> {
        match self {
            Self::V1(folders) => v1::freeze(folders, is_frozen),
            Self::V2(folder) => v2::freeze(folder, is_frozen),
            Self::None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether all its processes are frozen.
    pub fn is_frozen(&self) -> bool {
        match self {
            Self::V1(folders) => v1::is_frozen(folders),
            Self::V2(folder) => v2::is_frozen(folder),
            Self::None => false,
        }
    }

    /// Kills its processes, frozen ones too.
    pub fn kill(&self) -> io::Result<()> {
        match self {
            Self::V1(folders) => v1::kill(folders),
            Self::V2(folder) => v2::kill(folder),
            Self::None => Ok(()),
        }
    }

    /// Whether it has no process.
    pub fn is_empty(&self) -> bool {
        self.folders().first().is_none_or(|folder| pids(folder).is_empty())
    }

    /// Removes the folders of an empty group.
    pub fn remove(&self) -> io::Result<()> {
        for folder in self.folders() {
            match std::fs::remove_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// What its processes use.
    pub fn usage(&self) -> Usage {
        match self {
            Self::V1(folders) => v1::usage(folders),
            Self::V2(folder) => v2::usage(folder),
            Self::None => Usage::default(),
        }
    }
}

/// The processes of a group.
fn pids(folder: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// Writes a value into a file of a group. The file has to exist.
fn write(folder: &Path, file: &str, value: impl ToString) -> io::Result<()> {
    let path = folder.join(file);
    let written = std::fs::File::options().write(true).open(&path).and_then(|mut open| {
        use std::io::Write as _;
        open.write_all(value.to_string().as_bytes())
    });
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// The number in a file of a group.
fn number(folder: &Path, file: &str) -> Option<u64> {
    std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of a group with one key in each line.
fn number_of(folder: &Path, file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(folder.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The processor time in a period, in microseconds.
fn quota_us(limits: &Limits) -> u64 {
    u64::from(limits.cpu_milli) * CPU_PERIOD_US / 1_000
}

/// The limit of processes, the adapter's own included.
fn pids_max(limits: &Limits) -> u32 {
    limits.pids.saturating_add(OWN_PIDS)
}

fn micros(value: u64) -> Duration {
    Duration::from_micros(value)
}
