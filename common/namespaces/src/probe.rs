//! Finds out at start what this machine allows.

use crate::arguments::{Starter, probe_arguments};
use crate::engine::end::{END_TIMEOUT, end_step};
use crate::image::Archives;
use crate::network::{self, Networks};
use crate::process::Process;
use crate::record::Record;
use crate::{Namespaces, etc};
use host::LOOK_PAUSE;
use host::cgroups::{Cgroups, Group};
use host::folders::{Folders, make_private};
use host::{NO_DISK_LIMIT, Publish};
use ports::clock::Clock;
use ports::engine::{ContainerSpec, EngineInfo, Feature, Isolation, Unsupported};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

/// The folder of unpacked archives.
const IMAGES: &str = "images";
/// The shell's status if there is no such program.
const NOT_FOUND: i32 = 127;
/// The shell's status if the program cannot be executed.
const NOT_EXECUTABLE: i32 = 126;

/// What the adapter needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The fleet that its sandboxes belong to: letters, digits and `-`.
    pub fleet: String,
    /// The folder for its state, of this adapter alone. It should be in memory (below `/run`): sandboxes end with the machine.
    pub state: PathBuf,
    /// The folder for unpacked images and workspaces on disk, of this adapter alone.
    pub data: PathBuf,
    /// The program of `bubblewrap`, as a path or as `bwrap`, which is searched in the usual folders.
    pub wrapper: PathBuf,
    /// The static program that becomes process 1 (`supervisor_image::SUPERVISOR`).
    pub supervisor: &'static [u8],
    /// Where ports are published.
    pub publish: Publish,
}

/// Why this machine cannot run sandboxes, with what an operator can do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(&'static str),
    /// A folder cannot be used.
    #[error("the folder {state} or {data} cannot be used")]
    Folder {
        /// The folder for the state.
        state: PathBuf,
        /// The folder for data.
        data: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// There is no bubblewrap.
    #[error("{reason}: install the Debian package `bubblewrap`, or name its program")]
    NoWrapper {
        /// What the shell said.
        reason: String,
    },
    /// The machine forbids namespaces.
    #[error(
        "this machine forbids namespaces: {reason}; run as root with CAP_SYS_ADMIN, or allow unprivileged user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
    )]
    Forbidden {
        /// What bubblewrap said.
        reason: String,
    },
}

impl Namespaces {
    /// Finds out what this machine allows, and opens the state folder. Removes what has no readable record there: nothing
    /// else could. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`ProbeError`] if no sandbox can run here.
    pub fn probe(config: Config, clock: Arc<dyn Clock>) -> Result<Self, ProbeError> {
        let Config { fleet, state, data, wrapper, supervisor, publish } = config;
        host::check_config(&fleet, supervisor).map_err(ProbeError::Config)?;
        let starter = if rustix::process::geteuid().is_root() { Starter::Root } else { Starter::User };
        try_wrapper(&wrapper, starter)?;
        let in_folders = |error| ProbeError::Folder { state: state.clone(), data: data.clone(), error };
        let folders = Folders::open(&state, &data).map_err(in_folders)?;
        for folder in [folders.of_data(IMAGES), etc::all(&folders)] {
            make_private(&folder).map_err(in_folders)?;
        }
        let cgroups = Cgroups::of_this_process();
        let unsupported = lacking(starter)
            .into_iter()
            .chain(network::unsupported(starter, publish.address, &state))
            .chain(cgroups.unsupported())
            .collect();
        let info = EngineInfo {
            name: "namespaces",
            isolation: Isolation::Process,
            runtimes: Vec::new(),
            unsupported,
        };
        let archives = Arc::new(Archives::new(folders.of_data(IMAGES)));
        let networks = Networks::new(publish, network::internal_name(&fleet, &state));
        let this = Self {
            fleet,
            folders,
            wrapper,
            starter,
            cgroups,
            archives,
            networks,
            info,
            clock,
            turns: Default::default(),
        };
        this.clear().and_then(|()| this.prepare_folders(supervisor)).map_err(in_folders)?;
        Ok(this)
    }

    /// Makes the files that all sandboxes use.
    fn prepare_folders(&self, supervisor: &[u8]) -> io::Result<()> {
        self.folders.write_supervisor(supervisor)?;
        if self.folders.incarnations()?.is_empty() {
            // They may be old, and nothing uses them.
            etc::delete(&self.folders)?;
        }
        // The first creation should not take longer than the others.
        etc::folder(&etc::all(&self.folders), ContainerSpec::USER_DEFAULT).map(drop)
    }

    /// Removes what was left without a record, and reserves what the others have.
    fn clear(&self) -> io::Result<()> {
        for incarnation in self.folders.all_incarnations()? {
            let own = self.folders.of(&incarnation);
            if let Some(record) = Record::read(own.path()).ok().filter(|record| record.labels().is_some()) {
                self.networks.adopt(&incarnation, &record.network);
                continue;
            }
            let groups = [self.group_name(&incarnation), self.network_group_name(&incarnation)]
                .map(|name| (Vec::new(), self.cgroups.group(&name)));
            let started = Process::started_with(own.path()).into_iter().map(|one| (vec![one], Group::None));
            for (processes, group) in groups.into_iter().chain(started) {
                let deadline = Instant::now() + END_TIMEOUT;
                while !end_step(&processes, &group)? && Instant::now() < deadline {
                    std::thread::sleep(LOOK_PAUSE);
                }
            }
            own.delete()?;
        }
        self.networks.delete_unused()
    }
}

/// Starts a sandbox that ends at once. A shell searches the program, as it does for every sandbox.
fn try_wrapper(wrapper: &Path, starter: Starter) -> Result<(), ProbeError> {
    let output = Command::new("/bin/sh")
        .args(["-c", "exec \"$@\"", "sh"])
        .arg(wrapper)
        .args(probe_arguments(starter))
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| ProbeError::NoWrapper { reason: format!("/bin/sh: {error}") })?;
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(NOT_FOUND | NOT_EXECUTABLE) => Err(ProbeError::NoWrapper { reason }),
        _ => Err(ProbeError::Forbidden { reason }),
    }
}

/// What no machine supports, or none without root.
fn lacking(starter: Starter) -> Vec<Unsupported> {
    let mut lacking = vec![(Feature::DiskLimit, NO_DISK_LIMIT)];
    if starter == Starter::User {
        let reason = "only root can do it; the adapter runs as another user";
        lacking.push((Feature::WritableRoot, reason));
        lacking.push((
            Feature::OtherUsers,
            "supervisor and commands are one user, because the adapter is not root",
        ));
    }
    lacking.into_iter().map(|(feature, reason)| Unsupported { feature, reason: reason.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::clock::SystemClock;
    use std::net::Ipv4Addr;

    fn config(state: &Path) -> Config {
        Config {
            fleet: "test".to_owned(),
            state: state.join("state"),
            data: state.join("data"),
            wrapper: "/bin/true".into(),
            supervisor: b"#!/bin/true",
            publish: Publish { address: Ipv4Addr::LOCALHOST, ports: 30_000..=30_009 },
        }
    }

    fn error(change: impl FnOnce(&mut Config)) -> String {
        let temporary = tempfile::tempdir().unwrap();
        let mut config = config(temporary.path());
        change(&mut config);
        Namespaces::probe(config, Arc::new(SystemClock)).unwrap_err().to_string()
    }

    #[test]
    fn a_missing_wrapper_is_named_with_its_package() {
        let error = error(|config| config.wrapper = "/nonexistent/bwrap".into());
        assert!(error.contains("install the Debian package `bubblewrap`"), "{error}");
    }

    #[test]
    fn a_machine_that_forbids_namespaces_says_so() {
        let error = error(|config| config.wrapper = "/bin/false".into());
        assert!(
            error.contains("forbids namespaces") && error.contains("kernel.unprivileged_userns_clone"),
            "{error}"
        );
    }

    #[test]
    fn wrong_settings_are_errors() {
        assert!(error(|config| config.fleet = "a/b".to_owned()).contains("fleet"));
        assert!(error(|config| config.supervisor = b"").contains("no supervisor"));
        assert!(error(|config| config.state = "state".into()).contains("cannot be used"));
    }

    #[test]
    fn what_the_machine_lacks_is_reported() {
        let lacking =
            |starter| lacking(starter).into_iter().map(|lacking| lacking.feature).collect::<Vec<_>>();
        assert_eq!(lacking(Starter::Root), [Feature::DiskLimit]);
        assert!(!lacking(Starter::Root).contains(&Feature::OtherUsers));
        assert!(lacking(Starter::User).contains(&Feature::OtherUsers));
    }

    #[test]
    fn what_has_no_record_is_removed_at_start() {
        let temporary = tempfile::tempdir().unwrap();
        let config = config(temporary.path());
        let folder = config.state.join("run").join(uuid::Uuid::nil().to_string());
        let workspace = config.data.join("workspaces").join(uuid::Uuid::max().to_string());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(&workspace).unwrap();
        std::fs::write(folder.join("record.json"), "{\"fleet\":").unwrap();
        Namespaces::probe(config, Arc::new(SystemClock)).unwrap();
        assert!(!folder.exists() && !workspace.exists());
    }
}
