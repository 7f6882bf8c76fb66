//! The arguments of the wrapper (bubblewrap): which namespaces a sandbox has and what it sees. Pure, so that a test can read them.

use crate::image::Entry;
use host::{
    SUPERVISOR_CAPABILITIES, SUPERVISOR_INSIDE as SUPERVISOR, WORKSPACE_INSIDE as WORKSPACE, hostname,
};
use ports::engine::{ContainerSpec, Workspace};
use std::path::Path;

/// The descriptor on which the wrapper writes the id of process 1.
pub(crate) const REPORT_FD: &str = "3";
/// Mode of folders that every user may write to.
const MODE_OPEN: &str = "1777";
/// Mode of `/run`, where only the supervisor's user writes.
const MODE_CLOSED: &str = "0755";

/// Who starts the wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Starter {
    /// Root: jobs are other users than the supervisor, and no user namespace is needed.
    Root,
    /// Another user: supervisor and jobs are one user in a user namespace.
    User,
}

/// What a sandbox shows of the machine.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// The root folder.
    pub(crate) root: &'a [Entry],
    /// Whether it can be written to.
    pub(crate) is_root_writable: bool,
    /// The folder of the workspace; none for one that the wrapper makes in memory.
    pub(crate) workspace: Option<&'a Path>,
    /// The supervisor's program.
    pub(crate) supervisor: &'a Path,
}

/// A list of arguments that grows.
#[derive(Default)]
struct Arguments(Vec<String>);

/// The arguments of the wrapper for a sandbox.
pub(crate) fn arguments(spec: &ContainerSpec, view: &View<'_>, starter: Starter) -> Vec<String> {
    let mut list = Arguments::default();
    list.namespaces(starter, spec.user);
    list.add(["--hostname", hostname(&spec.sandbox)]);
    list.add(["--clearenv", "--info-fd", REPORT_FD]);
    let bind = if view.is_root_writable { "--bind" } else { "--ro-bind" };
    for entry in view.root {
        match entry {
            Entry::Bind { source, target } => list.paths(bind, source, target),
            Entry::Link { names, target } => list.paths("--symlink", names, target),
        }
    }
    let tmp_bytes = spec.limits.tmp_bytes.to_string();
    list.add(["--proc", "/proc", "--dev", "/dev"]);
    for (folder, mode) in [("/dev/shm", MODE_OPEN), ("/tmp", MODE_OPEN), ("/run", MODE_CLOSED)] {
        list.add(["--perms", mode, "--size", &tmp_bytes, "--tmpfs", folder]);
    }
    match view.workspace {
        Some(folder) => list.paths("--bind", folder, Path::new(WORKSPACE)),
        None => {
            let bytes = spec.limits.disk_bytes.to_string();
            list.add(["--perms", MODE_OPEN, "--size", &bytes, "--tmpfs", WORKSPACE]);
        }
    }
    list.paths("--ro-bind", view.supervisor, Path::new(SUPERVISOR));
    if !view.is_root_writable {
        list.add(["--remount-ro", "/"]);
    }
    list.add(["--remount-ro", "/dev", "--chdir", "/", "--", SUPERVISOR]);
    list.0
}

/// The arguments with which [`crate::Namespaces::probe`] finds out whether this machine allows all of it.
pub(crate) fn probe_arguments(starter: Starter) -> Vec<String> {
    let mut list = Arguments::default();
    list.namespaces(starter, ContainerSpec::USER_DEFAULT);
    // Not the whole root folder: mounts of other sandboxes below it may vanish meanwhile.
    for folder in ["/usr", "/bin", "/lib", "/lib64"] {
        list.add(["--ro-bind-try", folder, folder]);
    }
    list.add(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--", "/bin/true"]);
    list.0
}

/// Where the workspace is outside; none for one that only root can make there.
pub(crate) fn has_folder(workspace: Workspace, starter: Starter) -> bool {
    workspace == Workspace::Disk || starter == Starter::Root
}

// === impl Arguments ===

impl Arguments {
    fn add<'a>(&mut self, arguments: impl IntoIterator<Item = &'a str>) {
        self.0.extend(arguments.into_iter().map(str::to_owned));
    }

    /// Paths that are not UTF-8 were refused before.
    fn paths(&mut self, option: &str, source: &Path, target: &Path) {
        self.add([option, &source.to_string_lossy(), &target.to_string_lossy()]);
    }

    fn namespaces(&mut self, starter: Starter, user: u32) {
        self.add([
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ]);
        self.add(["--as-pid-1", "--new-session", "--cap-drop", "ALL"]);
        match starter {
            Starter::Root => SUPERVISOR_CAPABILITIES
                .iter()
                .for_each(|capability| self.add(["--cap-add", &format!("CAP_{capability}")])),
            Starter::User => {
                let id = user.to_string();
                self.add(["--unshare-user", "--uid", &id, "--gid", &id]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::SandboxId;
    use ports::engine::{Image, Incarnation};

    fn line(change: impl FnOnce(&mut View<'_>), starter: Starter) -> String {
        let id = SandboxId::parse("s-1").unwrap();
        let mut spec = ContainerSpec::new(id, Incarnation::new(uuid::Uuid::nil()), Image::Host);
        spec.limits.tmp_bytes = 1_000;
        let bind = Entry::Bind { source: "/usr".into(), target: "/usr".into() };
        let root = [bind, Entry::Link { names: "usr/bin".into(), target: "/bin".into() }];
        let (workspace, supervisor) = (Path::new("/state/workspace"), Path::new("/state/program"));
        let mut view = View { root: &root, is_root_writable: false, workspace: Some(workspace), supervisor };
        change(&mut view);
        arguments(&spec, &view, starter).join(" ")
    }

    #[test]
    fn every_sandbox_has_its_own_namespaces_and_few_rights() {
        for starter in [Starter::Root, Starter::User] {
            let line = line(|_| {}, starter);
            for namespace in ["pid", "net", "ipc", "uts", "cgroup-try"] {
                assert!(line.contains(&format!("--unshare-{namespace} ")), "{line}");
            }
            assert!(line.contains("--cap-drop ALL"), "{line}");
            assert!(!line.contains("die-with-parent") && !line.contains("SYS_ADMIN"), "{line}");
        }
        assert!(line(|_| {}, Starter::User).contains("--unshare-user --uid 1000 --gid 1000"));
        assert!(!line(|_| {}, Starter::User).contains("--cap-add"));
    }

    #[test]
    fn only_named_folders_are_visible_and_the_root_is_read_only() {
        let line = line(|_| {}, Starter::Root);
        assert!(
            line.contains("--ro-bind /usr /usr --symlink usr/bin /bin --proc /proc --dev /dev "),
            "{line}"
        );
        assert!(line.contains("--bind /state/workspace /workspace"), "{line}");
        assert!(line.contains("--perms 1777 --size 1000 --tmpfs /tmp"), "{line}");
        assert!(line.ends_with("--remount-ro / --remount-ro /dev --chdir / -- /run/supervisor"), "{line}");
        assert_eq!(line.matches(" --bind ").count(), 1, "{line}");
    }

    #[test]
    fn a_writable_root_is_bound_writable() {
        let line = line(|view| view.is_root_writable = true, Starter::Root);
        assert!(line.contains(" --bind /usr /usr") && !line.contains("--remount-ro / "), "{line}");
    }

    #[test]
    fn a_workspace_that_the_wrapper_makes_is_limited() {
        let line = line(|view| view.workspace = None, Starter::User);
        assert!(line.contains("--perms 1777 --size 268435456 --tmpfs /workspace"), "{line}");
    }
}
