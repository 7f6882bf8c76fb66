//! Version 2: one folder with every controller.

use super::{CPU_PERIOD_US, micros, number, number_of, pids, pids_max, quota_us, write};
use ports::engine::{Limits, Usage};
use std::io;
use std::path::Path;

/// The controllers that sandboxes need.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// The group for the processes of the parent, which may not have any itself once its children have controllers.
const OWN_GROUP: &str = "runner";

/// Gives the children of `parent` the controllers.
pub(super) fn delegate(parent: &Path) -> io::Result<()> {
    let enabled = std::fs::read_to_string(parent.join("cgroup.subtree_control"))?;
    if CONTROLLERS.iter().all(|name| enabled.split_whitespace().any(|word| word == *name)) {
        return Ok(());
    }
    // Only the root group has no `cgroup.type`; it may keep its processes.
    if parent.join("cgroup.type").exists() {
        let own = parent.join(OWN_GROUP);
        std::fs::create_dir_all(&own)?;
        for pid in pids(parent) {
            write(&own, "cgroup.procs", pid)?;
        }
    }
    write(parent, "cgroup.subtree_control", CONTROLLERS.map(|name| format!("+{name}")).join(" "))
}

pub(super) fn limit(folder: &Path, limits: &Limits) -> io::Result<()> {
    write(folder, "memory.max", limits.memory_bytes)?;
    // Absent if the kernel has no swap.
    if folder.join("memory.swap.max").exists() {
        write(folder, "memory.swap.max", 0)?;
    }
    write(folder, "pids.max", pids_max(limits))?;
    write(folder, "cpu.max", format!("{} {CPU_PERIOD_US}", quota_us(limits)))
}

pub(super) fn freeze(folder: &Path, is_frozen: bool) -> io::Result<()> {
    write(folder, "cgroup.freeze", u8::from(is_frozen))
}

pub(super) fn is_frozen(folder: &Path) -> bool {
    number_of(folder, "cgroup.events", "frozen") == Some(1)
}

pub(super) fn kill(folder: &Path) -> io::Result<()> {
    if folder.exists() { write(folder, "cgroup.kill", 1) } else { Ok(()) }
}

pub(super) fn usage(folder: &Path) -> Usage {
    Usage {
        cpu: number_of(folder, "cpu.stat", "usage_usec").map(micros),
        memory_bytes: number(folder, "memory.current"),
        memory_peak_bytes: number(folder, "memory.peak"),
        pids: number(folder, "pids.current"),
        oom_kills: number_of(folder, "memory.events", "oom_kill"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cgroups, Group};
    use super::*;
    use std::fs;
    use std::time::Duration;

    /// A folder with files as the kernel shows them. A kernel makes the files of a new group by itself.
    fn kernel(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn text(folder: &Path, file: &str) -> String {
        fs::read_to_string(folder.join(file)).unwrap()
    }

    #[test]
    fn limits_are_written_in_the_units_of_the_kernel() {
        let files = ["memory.max", "memory.swap.max", "pids.max", "cpu.max"];
        let folder = kernel(&files.map(|file| (file, "")));
        let limits = Limits { cpu_milli: 1_500, memory_bytes: 64 << 20, pids: 10, ..Limits::default() };
        limit(folder.path(), &limits).unwrap();
        assert_eq!(files.map(|file| text(folder.path(), file)), ["67108864", "0", "13", "150000 100000"]);
    }

    #[test]
    fn a_limit_that_the_kernel_does_not_know_is_an_error() {
        let folder = kernel(&[("memory.max", ""), ("pids.max", "")]);
        let error = limit(folder.path(), &Limits::default()).unwrap_err();
        assert!(error.to_string().contains("cpu.max"), "{error}");
        assert!(
            !folder.path().join("cpu.max").exists(),
            "a file that the kernel did not make limits nothing"
        );
    }

    #[test]
    fn processes_are_frozen_and_killed_as_a_group() {
        let folder = kernel(&[
            ("cgroup.freeze", ""),
            ("cgroup.kill", ""),
            ("cgroup.events", "populated 1\nfrozen 1\n"),
        ]);
        let group = Group::V2(folder.path().to_owned());
        group.freeze(true).unwrap();
        assert_eq!(text(folder.path(), "cgroup.freeze"), "1");
        assert!(group.is_frozen());
        group.kill().unwrap();
        assert_eq!(text(folder.path(), "cgroup.kill"), "1");
        assert_eq!(Group::V2("/nonexistent".into()).kill().map_err(|error| error.kind()), Ok(()));
    }

    #[test]
    fn usage_is_read_in_the_units_of_the_kernel() {
        let folder = kernel(&[
            ("cpu.stat", "usage_usec 2500\nuser_usec 1000\n"),
            ("memory.current", "4096\n"),
            ("memory.events", "oom 3\noom_kill 2\noom_group_kill 0\n"),
            ("pids.current", "3\n"),
        ]);
        let expected = Usage {
            cpu: Some(Duration::from_micros(2_500)),
            memory_bytes: Some(4_096),
            memory_peak_bytes: None,
            pids: Some(3),
            oom_kills: Some(2),
        };
        assert_eq!(usage(folder.path()), expected);
    }

    #[test]
    fn processes_of_the_parent_move_before_its_children_get_controllers() {
        let folder = kernel(&[
            ("cgroup.subtree_control", "cpu\n"),
            ("cgroup.type", "domain\n"),
            ("cgroup.procs", "7\n"),
        ]);
        let own = folder.path().join(OWN_GROUP);
        fs::create_dir(&own).unwrap();
        fs::write(own.join("cgroup.procs"), "").unwrap();
        delegate(folder.path()).unwrap();
        assert_eq!(text(&own, "cgroup.procs"), "7");
        assert_eq!(text(folder.path(), "cgroup.subtree_control"), "+memory +pids +cpu");
        // A second process finds everything as it should be.
        fs::write(folder.path().join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        delegate(folder.path()).unwrap();
        assert_eq!(text(folder.path(), "cgroup.subtree_control"), "cpu memory pids\n");
    }

    #[test]
    fn each_sandbox_has_its_own_group() {
        let parent = Cgroups::V2("/sys/fs/cgroup/runner".into());
        assert_eq!(parent.group("a-1"), Group::V2("/sys/fs/cgroup/runner/a-1".into()));
    }

    /// On a machine with version 1 the hierarchy of version 2 has no controllers, but everything else.
    #[cfg(feature = "machine")]
    #[test]
    fn a_kernel_freezes_and_kills_a_group() {
        use crate::folders::fresh_name;
        use std::time::Instant;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount =
            mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a hierarchy of version 2");
        let group =
            Group::V2(Path::new(mount.split(' ').nth(4).unwrap()).join(format!("test-{}", fresh_name())));
        let [folder] = group.folders()[..] else { panic!("one folder") };
        fs::create_dir(folder).unwrap();
        let script = "echo 0 >$1; while :; do :; done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script, "sh"])
            .args(group.joining_files())
            .spawn()
            .unwrap();
        let wait = |is_done: &dyn Fn() -> bool| {
            let began = Instant::now();
            while !is_done() {
                assert!(began.elapsed() < Duration::from_secs(30));
                std::thread::yield_now();
            }
        };
        wait(&|| !group.is_empty());
        group.freeze(true).unwrap();
        wait(&|| group.is_frozen());
        group.kill().unwrap();
        child.wait().unwrap();
        wait(&|| group.is_empty());
        group.remove().unwrap();
        assert!(!folder.exists());
    }
}
