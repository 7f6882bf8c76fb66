//! Every process below another one. Nothing can leave: whatever loses its parent comes to the subreaper above it.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::collections::HashMap;

/// Passes over all processes in which those that still run are stopped. A process that cannot stop now (in a system
/// call that nothing interrupts) must not hold up the others.
const STOP_PASSES_MAX: usize = 32;
/// Looks at the children of the root in each of those passes.
const CHASES_MAX: usize = 64;
/// The field with the start time in `/proc/*/stat`, counted from the state.
const STARTED_FIELD: usize = 19;

struct Process {
    pid: Pid,
    parent: Option<Pid>,
    /// With the number, this names a process for ever.
    started: u64,
    /// Neither stopped nor dead.
    runs: bool,
}

/// Kills every process below `root`, except for `spared` and those below them. Stops all of them first, so that they
/// cannot start new ones faster than they are killed. Returns how many it saw; a process that was on its way to another
/// parent can be missing, so the caller repeats this until it has no child.
pub(crate) fn kill(root: Pid, spared: &[Pid]) -> usize {
    for _ in 0..STOP_PASSES_MAX {
        stop_children(root, spared);
        let running: Vec<_> = below(root, spared).into_iter().filter(|process| process.runs).collect();
        if running.is_empty() {
            break;
        }
        running.iter().for_each(|process| process.signal(Signal::STOP));
    }
    let all = below(root, spared);
    all.iter().for_each(|process| process.signal(Signal::KILL));
    all.len()
}

/// A process that only starts the next one and ends is never where a pass over all processes saw it. But each of them
/// becomes a child of the root, and stays its child, dead or not, because only the root reaps it.
fn stop_children(root: Pid, spared: &[Pid]) {
    let list = format!("/proc/{root}/task/{root}/children");
    let mut stopped = spared.to_vec();
    for _ in 0..CHASES_MAX {
        // Not every kernel has the list; the passes find the others.
        let children = std::fs::read_to_string(&list).unwrap_or_default();
        let children = children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        let new: Vec<Pid> = children.filter(|pid| !stopped.contains(pid)).collect();
        if new.is_empty() {
            return;
        }
        for pid in &new {
            let _ = kill_process(*pid, Signal::STOP);
        }
        stopped.extend(new);
    }
}

fn below(root: Pid, spared: &[Pid]) -> Vec<Process> {
    let mut children: HashMap<Option<Pid>, Vec<Process>> = HashMap::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in entries.filter_map(|entry| Process::read(entry.file_name().to_str()?)) {
        children.entry(process.parent).or_default().push(process);
    }
    let mut parents = vec![root];
    let mut found = Vec::new();
    while let Some(parent) = parents.pop() {
        for child in children.remove(&Some(parent)).into_iter().flatten() {
            if !spared.contains(&child.pid) {
                parents.push(child.pid);
                found.push(child);
            }
        }
    }
    found
}

impl Process {
    fn read(number: &str) -> Option<Self> {
        let pid = Pid::from_raw(number.parse().ok()?)?;
        let stat = std::fs::read(format!("/proc/{number}/stat")).ok()?;
        // The name stands in brackets and may contain anything.
        let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let runs = !matches!(fields.next()?, "T" | "t" | "Z" | "X");
        let parent = Pid::from_raw(fields.next()?.parse().ok()?);
        let started = fields.nth(STARTED_FIELD - 2)?.parse().ok()?;
        Some(Self { pid, parent, started, runs })
    }

    /// Signals this process, but never another one that has got its number since.
    fn signal(&self, signal: Signal) {
        match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(descriptor) => {
                let number = self.pid.as_raw_nonzero().to_string();
                if Self::read(&number).is_some_and(|now| now.started == self.started) {
                    let _ = pidfd_send_signal(descriptor, signal);
                }
            }
            Err(Errno::NOSYS) => drop(kill_process(self.pid, signal)),
            // It has ended.
            Err(_) => {}
        }
    }
}
