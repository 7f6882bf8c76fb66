//! Resource usage of a process, from Linux's `/proc`.

use anyhow::Context as _;
use serde::Serialize;
use std::path::Path;

/// Ticks in a second of the times in `/proc/<id>/stat` (`USER_HZ`): 100 on every architecture that we run on,
/// whatever the kernel's own clock does.
pub(super) const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes in what `/proc/<id>/status` calls a kB.
const KIB_BYTES: u64 = 1_024;
/// Where `utime` is in `/proc/<id>/stat`, counted from the field after the name; `stime` follows it.
const USER_TIME_FIELD: usize = 11;

/// The memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// In use now (`VmRSS`).
    pub resident_bytes: u64,
    /// The most that ever was (`VmHWM`).
    pub peak_bytes: u64,
}

/// Whether this system has `/proc`.
pub(super) fn is_shown() -> bool {
    cfg!(target_os = "linux") && Path::new("/proc/self/stat").exists()
}

/// The memory of a process.
pub(super) fn memory(id: i32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{id}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    memory_in(&text).with_context(|| format!("{path} names no memory"))
}

/// The processor time that a process has taken so far, in ticks.
pub(super) fn ticks(id: i32) -> anyhow::Result<u64> {
    let path = format!("/proc/{id}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks_in(&text).with_context(|| format!("{path} names no times"))
}

fn memory_in(status: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * KIB_BYTES)
    };
    Some(Memory { resident_bytes: bytes("VmRSS")?, peak_bytes: bytes("VmHWM")? })
}

fn ticks_in(stat: &str) -> Option<u64> {
    // The name is in parentheses and may hold blanks and parentheses itself.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_whitespace().skip(USER_TIME_FIELD).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_parsed_from_proc_status() {
        let status =
            "Name:\tbroker\nVmPeak:\t 999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1000 kB\nThreads:\t3\n";
        let wanted = Memory { resident_bytes: 1_024_000, peak_bytes: 2_097_152 };
        assert_eq!(memory_in(status), Some(wanted));
        assert_eq!(memory_in("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn cpu_ticks_are_parsed_from_proc_stat() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 17 25 3 4 20 0 5 0 1000 1 1 1";
        assert_eq!(ticks_in(stat), Some(42));
        assert_eq!(ticks_in("42 (a) S 1 42"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn usage_of_this_process_is_nonzero() {
        let id = i32::try_from(std::process::id()).unwrap();
        let memory = memory(id).unwrap();
        assert!(memory.resident_bytes > 0 && memory.peak_bytes >= memory.resident_bytes);
        assert!(ticks(id).is_ok());
        assert!(is_shown());
    }
}
