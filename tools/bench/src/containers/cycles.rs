//! Containers that are created, claimed and removed, and what of them is left on the machine and in the table.

use super::claims::{claim, release_one, until_ready};
use super::docker;
use super::fleet::{COLD_POOL, ContainerFleet, WARM_POOL};
use crate::usage;
use crate::workers::work;
use domain::StateName;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use strum::IntoEnumIterator as _;

/// Cycles before the machine is first looked at: connection pools and caches have their size after them.
const WARM_UP: u64 = 50;
/// Open descriptors that may be more after than before: connections of pools that grow with load, never with cycles.
pub(super) const DESCRIPTORS_SPARE: u64 = 32;
/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// How deep below a group of the machine those of sandboxes may be.
const CGROUPS_DEPTH_MAX: usize = 6;

/// What cycles took, and what they left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cycles {
    /// Cycles.
    pub count: u64,
    /// Concurrent callers.
    pub callers: usize,
    /// Cycles in a second, until the last container was removed.
    pub rate_per_second: f64,
    /// What there was before.
    pub before: Traces,
    /// What there was after.
    pub after: Traces,
}

/// What containers may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traces {
    /// Containers at the engine.
    pub containers: u64,
    /// Control groups of this fleet.
    pub cgroups: u64,
    /// Mounts of the machine.
    pub mounts: u64,
    /// Open descriptors of the fleet's process.
    pub descriptors: u64,
    /// Sandboxes in the table, without tombstones.
    pub records: u64,
    /// Memory of the fleet's process, for the reader: its table in memory keeps a tombstone for each cycle.
    pub memory_bytes: u64,
}

// === impl Cycles ===

impl Cycles {
    /// What no cycle may leave, for people.
    pub(super) fn left(&self) -> Option<String> {
        let Self { count, after: Traces { containers, records, .. }, .. } = self;
        let is_clean = (*containers, *records) == (self.before.containers, self.before.records);
        (!is_clean)
            .then(|| format!("{containers} containers and {records} records are left of {count} cycles"))
    }
}

// === impl Traces ===

impl Traces {
    /// What there is now.
    async fn of(fleet: &ContainerFleet) -> anyhow::Result<Self> {
        let mut traces = Self::default();
        for node in &fleet.nodes {
            traces.containers += node.containers().await?.len() as u64;
        }
        if let Some(engine) = &fleet.docker {
            traces.containers += docker::ids(engine, &fleet.run).await?.len() as u64;
        }
        for node in entries(&fleet.state) {
            traces.containers += entries(&node.join("run")).len() as u64;
        }
        traces.cgroups = cgroups(Path::new(CGROUPS), &fleet.run, CGROUPS_DEPTH_MAX);
        traces.mounts = std::fs::read_to_string("/proc/self/mountinfo")?.lines().count() as u64;
        traces.descriptors = entries(Path::new(&format!("/proc/{}/fd", fleet.id()))).len() as u64;
        for pool in [COLD_POOL, WARM_POOL] {
            for state in StateName::iter().filter(|state| *state != StateName::Deleted) {
                traces.records += fleet.count(pool, state).await?;
            }
        }
        traces.memory_bytes = usage::memory(fleet.id())?.resident_bytes;
        Ok(traces)
    }

    /// What is more than `before`, without descriptors and memory.
    pub(super) const fn left_since(&self, before: &Self) -> u64 {
        self.containers.abs_diff(before.containers)
            + self.cgroups.abs_diff(before.cgroups)
            + self.mounts.abs_diff(before.mounts)
            + self.records.abs_diff(before.records)
    }
}

/// Claims containers that are created for it, waits until each can be used, and releases it.
pub(super) async fn run(fleet: &ContainerFleet, callers: usize, count: u64) -> anyhow::Result<Cycles> {
    // Free containers of the other pool would come and go meanwhile.
    fleet.fill(0).await?;
    cycle(fleet, callers, WARM_UP.min(count), "warm-up").await?;
    let before = Traces::of(fleet).await?;
    let began = Instant::now();
    cycle(fleet, callers, count, "cycle").await?;
    let seconds = began.elapsed().as_secs_f64();
    let after = Traces::of(fleet).await?;
    Ok(Cycles { count, callers, rate_per_second: count as f64 / seconds, before, after })
}

async fn cycle(fleet: &ContainerFleet, callers: usize, count: u64, name: &str) -> anyhow::Result<()> {
    let caller = fleet.caller(Some(COLD_POOL))?;
    let owners = format!("{}-{name}", fleet.run);
    work(callers, count, &Arc::default(), move |number| {
        let (caller, owner) = (caller.clone(), format!("{owners}-{number}"));
        async move {
            let sandbox_id = claim(&caller, &owner).await?;
            until_ready(&caller, &owner, &sandbox_id).await?;
            release_one(&caller, &owner, &sandbox_id).await
        }
    })
    .await?;
    fleet.quiet().await
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The groups below `folder` whose names begin with that of the fleet.
fn cgroups(folder: &Path, run: &str, depth: usize) -> u64 {
    let Some(deeper) = depth.checked_sub(1) else { return 0 };
    let own = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(run));
    let folders = entries(folder).into_iter().filter(|path| path.is_dir() && !path.is_symlink());
    folders.map(|path| if own(&path) { 1 } else { cgroups(&path, run, deeper) }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_differs_counts_as_left() {
        let before = Traces { containers: 1, mounts: 30, records: 2, ..Traces::default() };
        let after =
            Traces { containers: 2, mounts: 29, records: 2, cgroups: 5, descriptors: 9, memory_bytes: 9 };
        assert_eq!((after.left_since(&before), before.left_since(&before)), (7, 0));
    }
}
