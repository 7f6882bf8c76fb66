//! Processes by id and start time: an id alone may belong to another process by now.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// The field of `/proc/<pid>/stat` with the start time, counted from the one after the name.
const START_TIME_FIELD: usize = 19;

/// The state of a stopped process.
const STOPPED: char = 'T';

/// A process of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pid: i32,
    /// When it started, in ticks since the machine did.
    started: u64,
}

// === impl Process ===

impl Process {
    /// The process that has this id now.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        Self::look(pid).map(|(process, _)| process)
    }

    /// The processes that were started with a path below this folder as an argument, whether they were noted or not. Looks at
    /// every process of the machine.
    pub(crate) fn started_with(folder: &Path) -> Vec<Self> {
        let folder = folder.as_os_str().as_encoded_bytes();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        // The process comes first: if its id is given to another one meanwhile, that has started later.
        let found = pids.filter_map(|pid| Some((Self::of(pid).ok()?, pid)));
        let named = found.filter(|(_, pid)| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut arguments = line.split(|byte| *byte == 0);
            arguments.any(|argument| argument.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/")))
        });
        named.map(|(process, _)| process).collect()
    }

    /// The process that has this id now, and its state.
    fn look(pid: i32) -> io::Result<(Self, char)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        match start_time(&stat) {
            Some((state, started)) if !is_dead(state) => Ok((Self { pid, started }, state)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Its id, which may belong to another process when it has ended.
    pub(crate) fn pid(self) -> i32 {
        self.pid
    }

    /// Whether it runs (or is frozen).
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid).is_ok_and(|found| found == self)
    }

    /// Kills it if it runs.
    pub(crate) fn kill(self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// One step towards the end of it and its children: stops it, so that it makes no more of them, or kills them and it.
    pub(crate) fn kill_family(self) -> io::Result<()> {
        match Self::look(self.pid) {
            Ok((found, STOPPED)) if found == self => {
                let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid))?;
                // It waits for none of them, so their ids are not given to others.
                for child in children.split_whitespace().filter_map(|pid| Self::of(pid.parse().ok()?).ok()) {
                    child.kill()?;
                }
                self.kill()
            }
            _ => self.signal(Signal::STOP),
        }
    }

    fn signal(self, signal: Signal) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // With the descriptor open the id cannot be given to another process between the check and the signal.
            Ok(descriptor) if self.is_alive() => match pidfd_send_signal(descriptor, signal) {
                Err(error) if error != rustix::io::Errno::SRCH => Err(error.into()),
                _ => Ok(()),
            },
            Err(error) if error != rustix::io::Errno::SRCH => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// State and start time. The name is in parentheses and may contain anything.
fn start_time(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let state = fields.chars().next()?;
    Some((state, fields.split(' ').nth(START_TIME_FIELD)?.trim().parse().ok()?))
}

fn is_dead(state: char) -> bool {
    matches!(state, 'Z' | 'X')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_any_name() {
        let tail = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(start_time(&format!("7 (a) R 5) S {tail}\n")), Some(('S', 4_242)));
        assert_eq!(start_time("7 (a"), None);
    }

    #[test]
    fn an_id_of_another_process_is_not_taken_for_it() {
        let own = i32::try_from(std::process::id()).unwrap();
        let this = Process::of(own).unwrap();
        assert!(this.is_alive());
        let former = Process { started: this.started - 1, ..this };
        assert!(!former.is_alive());
        former.kill().unwrap();
        assert!(this.is_alive(), "the signal was for a process that is gone");
    }

    #[test]
    fn a_family_ends_together() {
        let mut parent = std::process::Command::new("sh");
        let mut parent =
            parent.args(["-c", "sleep 60 & wait"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = parent.id();
        let process = Process::of(i32::try_from(pid).unwrap()).unwrap();
        let children =
            || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        while children().is_empty() {
            std::thread::yield_now();
        }
        let child = Process::of(children().trim().parse().unwrap()).unwrap();
        while process.is_alive() {
            process.kill_family().unwrap();
        }
        parent.wait().unwrap();
        let began = std::time::Instant::now();
        while child.is_alive() {
            assert!(began.elapsed().as_secs() < 30, "the child lives");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_killed_process_is_dead_before_its_parent_looks() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        process.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
        process.kill().unwrap();
    }

    #[test]
    fn processes_are_found_by_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Process::started_with(folder.path()), []);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo; read line", "sh"])
            .arg(folder.path().join("file"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Its arguments can be read a moment after it was started.
        let mut said = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(Process::started_with(folder.path()), [process]);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(Process::started_with(folder.path()), []);
    }
}
