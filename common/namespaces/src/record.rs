//! The durable record of a sandbox: a small file in its folder, replaced as a whole, so that a new process finds every sandbox.

use crate::network::Attachment;
use crate::process::Process;
use domain::{SandboxId, UnixSeconds};
use host::cgroups::Group;
use host::record::{Phase, labels, read_record, write_record};
use ports::engine::Incarnation;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// How the sandbox is started, each time it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The arguments of the wrapper.
    pub(crate) arguments: Vec<String>,
    /// Processor time, memory and processes.
    pub(crate) cpu_milli: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) pids: u32,
    /// Size of one file.
    pub(crate) file_bytes: u64,
    /// Open files of a process.
    pub(crate) files: u64,
    /// Whether the workspace ends with the processes.
    pub(crate) is_workspace_lost: bool,
    /// Whether files of it are mounted, which ends with the machine.
    pub(crate) has_mounts: bool,
}

/// Everything that is known about a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) fleet: String,
    pub(crate) sandbox: String,
    pub(crate) incarnation: String,
    pub(crate) created_at: u64,
    /// Since which start of the machine.
    pub(crate) boot: String,
    pub(crate) phase: Phase,
    pub(crate) plan: Plan,
    pub(crate) group: Group,
    /// The wrapper outside, and process 1 inside.
    pub(crate) processes: Vec<Process>,
    #[serde(default)]
    pub(crate) network: Attachment,
}

/// The present start of the machine.
pub(crate) fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

// === impl Record ===

impl Record {
    /// The record in this folder.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        read_record(folder)
    }

    /// Writes it, or leaves the old one as it is.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        write_record(folder, self)
    }

    /// Whose sandbox it is; none if the record was damaged.
    pub(crate) fn labels(&self) -> Option<(SandboxId, Incarnation, UnixSeconds)> {
        labels(&self.sandbox, &self.incarnation, self.created_at)
    }

    /// Its processes; those of an earlier start of the machine are gone.
    pub(crate) fn processes(&self) -> &[Process] {
        if self.boot == boot() { &self.processes } else { &[] }
    }

    /// What carries its connections, with its control groups.
    pub(crate) fn network_parts(&self) -> (&[Process], &Group) {
        let (processes, group) = self.network.parts();
        (if self.boot == boot() { processes } else { &[] }, group)
    }

    /// Whether a process of it may run that is not noted, nor in a control group: the adapter may have been killed just before.
    pub(crate) fn may_be_incomplete(&self) -> bool {
        let is_creating = self.phase == Phase::Creating;
        self.group == Group::None && (is_creating || self.network.may_be_incomplete())
    }

    /// Whether process 1 runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.processes().last().is_some_and(|process| process.is_alive())
    }

    /// Whether it needs something that ended with the machine.
    pub(crate) fn is_outdated(&self) -> bool {
        self.plan.has_mounts && self.boot != boot()
    }
}
