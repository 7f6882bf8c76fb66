//! Finds the control groups of this process.

use super::{Cgroups, Controller};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A mounted hierarchy.
struct Mount<'a> {
    /// The group that is its root folder.
    root: &'a str,
    folder: &'a str,
    kind: &'a str,
    options: &'a str,
}

/// Reads `/proc/self/cgroup` and `/proc/self/mountinfo`. Version 1 is used where it has controllers, because a controller is
/// never in both.
pub(super) fn find(memberships: &str, mounts: &str) -> Cgroups {
    let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(mount).collect();
    let mut parents = BTreeMap::new();
    let mut unified = None;
    // Lines are `number:controllers:path`.
    for line in memberships.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if controllers.is_empty() {
            unified = mounts.iter().find(|mount| mount.kind == "cgroup2").and_then(|mount| mount.of(path));
        }
        for name in controllers.split(',') {
            let Ok(controller) = name.parse::<Controller>() else { continue };
            let is_its = |mount: &&Mount<'_>| {
                mount.kind == "cgroup" && mount.options.split(',').any(|option| option == name)
            };
            if let Some(parent) = mounts.iter().find(is_its).and_then(|mount| mount.of(path)) {
                parents.insert(controller, parent);
            }
        }
    }
    match unified {
        _ if !parents.is_empty() => Cgroups::V1(parents),
        Some(parent) => Cgroups::V2(parent),
        None => Cgroups::None("no control groups are mounted".to_owned()),
    }
}

/// Lines are `id parent device root folder options [tags…] - kind source superoptions`.
fn mount(line: &str) -> Option<Mount<'_>> {
    let (first, last) = line.split_once(" - ")?;
    let mut first = first.split(' ').skip(3);
    let (root, folder) = (first.next()?, first.next()?);
    let mut last = last.split(' ');
    let (kind, _source, options) = (last.next()?, last.next()?, last.next()?);
    Some(Mount { root, folder, kind, options })
}

impl Mount<'_> {
    /// The folder of a group; none if it is outside of what is mounted.
    fn of(&self, group: &str) -> Option<PathBuf> {
        let inside = Path::new(group).strip_prefix(self.root).ok()?;
        Some(Path::new(self.folder).join(inside))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn each_controller_of_version_1_has_its_folder() {
        let found = find("9:name=systemd:/\n4:memory:/runner/1\n2:cpu,cpuacct:/\n0::/\n", HYBRID);
        let folder = |path: &str| PathBuf::from("/sys/fs/cgroup").join(path);
        assert_eq!(
            found,
            Cgroups::V1(BTreeMap::from([
                (Controller::Memory, folder("memory/runner/1")),
                (Controller::Cpu, folder("cpu,cpuacct")),
                (Controller::Cpuacct, folder("cpu,cpuacct")),
            ]))
        );
        let missing: Vec<_> =
            found.unsupported().into_iter().map(|missing| missing.feature.to_string()).collect();
        assert_eq!(missing, ["pids_limit", "pause"]);
    }

    #[test]
    fn version_2_is_used_where_version_1_has_no_controller() {
        let mounts = "33 30 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = find("0::/system.slice/broker.service\n", mounts);
        assert_eq!(found, Cgroups::V2("/sys/fs/cgroup/system.slice/broker.service".into()));
        assert_eq!(found.unsupported(), []);
    }

    #[test]
    fn a_mount_may_show_a_part_of_the_hierarchy() {
        let mounts = "33 30 0:29 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find("0::/docker/abc/job\n", mounts), Cgroups::V2("/sys/fs/cgroup/job".into()));
        assert!(matches!(find("0::/elsewhere\n", mounts), Cgroups::None(_)));
    }

    #[test]
    fn a_machine_without_groups_lacks_every_limit() {
        let found = find("", "");
        assert!(matches!(found, Cgroups::None(_)));
        assert_eq!(found.unsupported().len(), 5);
    }
}
