//! Version 1: a folder for each controller.

use super::{CPU_PERIOD_US, Controller, number, number_of, pids, pids_max, quota_us, write};
use ports::engine::{Limits, Usage};
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Folders = BTreeMap<Controller, PathBuf>;

/// The file with the limit of memory and swap together. It is absent if the kernel does not count swap.
const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";

pub(super) fn limit(folders: &Folders, limits: &Limits) -> io::Result<()> {
    if let Some(folder) = folders.get(&Controller::Memory) {
        write(folder, "memory.limit_in_bytes", limits.memory_bytes)?;
        if folder.join(MEMORY_AND_SWAP).exists() {
            write(folder, MEMORY_AND_SWAP, limits.memory_bytes)?;
        }
    }
    if let Some(folder) = folders.get(&Controller::Pids) {
        write(folder, "pids.max", pids_max(limits))?;
    }
    if let Some(folder) = folders.get(&Controller::Cpu) {
        write(folder, "cpu.cfs_period_us", CPU_PERIOD_US)?;
        write(folder, "cpu.cfs_quota_us", quota_us(limits))?;
    }
    Ok(())
}

pub(super) fn freeze(folders: &Folders, is_frozen: bool) -> io::Result<()> {
    let folder = folders.get(&Controller::Freezer).ok_or(io::ErrorKind::Unsupported)?;
    write(folder, "freezer.state", if is_frozen { "FROZEN" } else { "THAWED" })
}

pub(super) fn is_frozen(folders: &Folders) -> bool {
    let state = folders.get(&Controller::Freezer).map(|folder| folder.join("freezer.state"));
    state.and_then(|path| std::fs::read_to_string(path).ok()).is_some_and(|state| state.trim() == "FROZEN")
}

/// Signals frozen processes, which can neither multiply nor leave their ids to others, and lets them end.
pub(super) fn kill(folders: &Folders) -> io::Result<()> {
    let Some(folder) = folders.get(&Controller::Freezer).filter(|folder| folder.exists()) else {
        return Ok(());
    };
    freeze(folders, true)?;
    for pid in pids(folder).into_iter().filter_map(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    freeze(folders, false)
}

pub(super) fn usage(folders: &Folders) -> Usage {
    let of = |controller: &Controller, file: &str| number(folders.get(controller)?, file);
    let memory = folders.get(&Controller::Memory).map(PathBuf::as_path);
    let oom = |folder: &Path| number_of(folder, "memory.oom_control", "oom_kill");
    Usage {
        cpu: of(&Controller::Cpuacct, "cpuacct.usage").map(Duration::from_nanos),
        memory_bytes: of(&Controller::Memory, "memory.usage_in_bytes"),
        memory_peak_bytes: of(&Controller::Memory, "memory.max_usage_in_bytes"),
        pids: of(&Controller::Pids, "pids.current"),
        oom_kills: memory.and_then(oom),
    }
}
