//! The durable state of a runner: what it has to know about its containers when it starts without the control plane.
//!
//! It is one file that is replaced as a whole, in a folder that belongs to one process. A file that cannot be read is set
//! aside: the control plane and the engine know the rest.

use crate::capacity::Demand;
use contract::nodes::NodeLease;
use domain::{SandboxId, TemplateSpec};
use ports::engine::Incarnation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Version of the file that this build reads and writes.
const VERSION: u32 = 1;
/// The file.
const STATE_FILE: &str = "state.json";
/// A file that could not be read, kept for people to look at.
const ASIDE_FILE: &str = "state.unreadable.json";
/// Locked by the runner that uses the folder.
const LOCK_FILE: &str = "lock";

/// What a runner knows about one of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The sandbox that it was created for.
    pub(crate) sandbox: SandboxId,
    /// What it uses.
    pub(crate) demand: Demand,
    /// The user of its commands.
    pub(crate) user: u32,
    /// The environment of its commands, without that of a claim. Secrets are not part of it.
    pub(crate) env: BTreeMap<String, String>,
    /// Its main command, unless the engine runs it; empty for that of the image.
    pub(crate) command: Vec<String>,
    /// The lease of its sandbox, as far as it is known here.
    pub(crate) lease: Option<NodeLease>,
    /// The epoch of the last lease: what was handed out is never handed out again, whatever a table says that was restored.
    pub(crate) leased_epoch: Option<u64>,
}

/// The containers, by their attempts.
pub(crate) type Entries = BTreeMap<Incarnation, Entry>;

/// The folder of a runner, locked.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    /// Unlocked when it is closed.
    _lock: File,
}

/// Why a runner cannot use its folder.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it.
    #[error("another runner uses the folder {path}; set RUNNER_DATA to another one, or stop that runner")]
    InUse {
        /// The folder.
        path: String,
    },
    /// It cannot be read or written.
    #[error("the folder {path} of the runner cannot be used")]
    Unusable {
        /// The folder.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct StoredState {
    version: u32,
    containers: BTreeMap<String, StoredEntry>,
}

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    sandbox: String,
    cpu_milli: u64,
    memory_mb: u64,
    user: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    lease: Option<NodeLease>,
    #[serde(default)]
    leased_epoch: Option<u64>,
}

/// The main command that a supervisor runs; empty for that of the image, and if there is no supervisor.
pub(crate) fn main_command(template: &TemplateSpec) -> &[String] {
    if template.has_supervisor { &template.command } else { &[] }
}

// === impl Entry ===

impl Entry {
    /// What is known of a container of that sandbox.
    pub(crate) fn of(sandbox: SandboxId, template: &TemplateSpec) -> Self {
        let TemplateSpec { user, env, .. } = template.clone();
        let (demand, command) = (Demand::of(template), main_command(template).to_vec());
        Self { sandbox, demand, user, env, command, lease: None, leased_epoch: None }
    }

    /// The environment of its commands, with that of the claim that holds it.
    pub(crate) fn env_of_commands(&self) -> BTreeMap<String, String> {
        let of_claim = self.lease.iter().flat_map(|lease| lease.env.clone());
        self.env.clone().into_iter().chain(of_claim).collect()
    }

    /// The same with that lease.
    pub(crate) fn leased(self, lease: Option<NodeLease>) -> Self {
        let leased_epoch = lease.as_ref().map(|lease| lease.epoch).or(self.leased_epoch);
        Self { lease, leased_epoch, ..self }
    }

    fn stored(&self) -> StoredEntry {
        let Self { sandbox, demand, user, env, command, lease, leased_epoch } = self;
        let Demand { cpu_milli, memory_mb, sandboxes: _ } = *demand;
        let (sandbox, user, leased_epoch) = (sandbox.to_string(), *user, *leased_epoch);
        let (env, command, lease) = (env.clone(), command.clone(), lease.clone());
        StoredEntry { sandbox, cpu_milli, memory_mb, user, env, command, lease, leased_epoch }
    }
}

// === impl StateFolder ===

impl StateFolder {
    /// Takes the folder for this process, and reads what the last runner left there.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn open(path: &Path) -> Result<(Self, Entries), StateError> {
        let unusable = |source| StateError::Unusable { path: path.display().to_string(), source };
        std::fs::create_dir_all(path).map_err(unusable)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK_FILE));
        let lock = lock.map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::InUse { path: path.display().to_string() });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let folder = Self { path: path.to_owned(), _lock: lock };
        let entries = folder.read().map_err(unusable)?;
        Ok((folder, entries))
    }

    /// Replaces the file. It returns when the new one is on the disk.
    pub(crate) fn write(&self, entries: &Entries) -> io::Result<()> {
        let containers =
            entries.iter().map(|(incarnation, entry)| (incarnation.to_string(), entry.stored())).collect();
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        serde_json::to_writer(&mut file, &StoredState { version: VERSION, containers })?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(self.path.join(STATE_FILE)).map_err(|error| error.error)?;
        // The name is on the disk when its folder is.
        File::open(&self.path)?.sync_all()
    }

    fn read(&self) -> io::Result<Entries> {
        let path = self.path.join(STATE_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entries::new()),
            Err(error) => return Err(error),
        };
        parse(&bytes).or_else(|problem| {
            let aside = self.path.join(ASIDE_FILE);
            std::fs::rename(&path, &aside)?;
            tracing::error!(
                problem,
                "the state of the runner cannot be read and was moved to {}; ends of leases are unknown until the control plane answers",
                aside.display()
            );
            Ok(Entries::new())
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Entries, String> {
    let StoredState { version, containers } =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it has version {version}, and this build reads {VERSION}"));
    }
    let parsed = containers.into_iter().map(|(incarnation, stored)| {
        let StoredEntry { sandbox, cpu_milli, memory_mb, user, env, command, lease, leased_epoch } = stored;
        let incarnation = Incarnation::parse(&incarnation).map_err(|problem| problem.to_string())?;
        let sandbox = SandboxId::parse(&sandbox).map_err(|problem| problem.to_string())?;
        let demand = Demand { cpu_milli, memory_mb, sandboxes: 1 };
        Ok((incarnation, Entry { sandbox, demand, user, env, command, lease, leased_epoch }))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0198c0de-0000-7000-8000-000000000001";
    const TWO: &str = "0198c0de-0000-7000-8000-000000000002";

    fn entries() -> Entries {
        let entry = |sandbox, lease, env: &[(&str, &str)]| Entry {
            sandbox: SandboxId::parse(sandbox).unwrap(),
            demand: Demand { cpu_milli: 250, memory_mb: 64, sandboxes: 1 },
            user: 1_000,
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            command: vec!["serve".to_owned()],
            lease,
            leased_epoch: None,
        };
        let lease = NodeLease {
            epoch: 3,
            ends_at: 1_700_000_000,
            grace_seconds: 60,
            env: [("A".to_owned(), "1".to_owned())].into(),
        };
        [
            (Incarnation::parse(ONE).unwrap(), entry("ctr_1", Some(lease), &[("LANG", "C")])),
            (Incarnation::parse(TWO).unwrap(), entry("ctr_2", None, &[])),
        ]
        .into()
    }

    #[test]
    fn state_is_found_again() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("new/folder");
        let (folder, found) = StateFolder::open(&path).unwrap();
        assert_eq!(found, Entries::new());
        folder.write(&entries()).unwrap();
        folder.write(&entries()).unwrap();
        drop(folder);
        assert_eq!(StateFolder::open(&path).unwrap().1, entries());
        let mut files: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, [LOCK_FILE, STATE_FILE], "no temporary file is left");
    }

    #[test]
    fn second_runner_is_refused_until_the_first_has_ended() {
        let at = tempfile::tempdir().unwrap();
        let first = StateFolder::open(at.path()).unwrap();
        let refused = StateFolder::open(at.path()).unwrap_err();
        assert!(
            matches!(refused, StateError::InUse { .. }) && refused.to_string().contains("another runner")
        );
        drop(first);
        assert!(StateFolder::open(at.path()).is_ok());
    }

    #[test]
    fn unreadable_state_is_set_aside() {
        let whole = serde_json::json!({"version": VERSION, "containers": {}});
        let mut newer = whole.clone();
        newer["version"] = 2.into();
        let mut foreign = whole;
        foreign["containers"]["x"] =
            serde_json::json!({"sandbox": "a", "cpu_milli": 1, "memory_mb": 1, "user": 1, "lease": null});
        for text in ["", "{\"version\":1", "[]", &newer.to_string(), &foreign.to_string()] {
            let at = tempfile::tempdir().unwrap();
            std::fs::write(at.path().join(STATE_FILE), text).unwrap();
            let (folder, found) = StateFolder::open(at.path()).unwrap();
            assert_eq!(found, Entries::new(), "{text}");
            assert_eq!(std::fs::read_to_string(at.path().join(ASIDE_FILE)).unwrap(), text);
            folder.write(&entries()).unwrap();
        }
    }

    #[test]
    fn folder_that_cannot_be_written_is_reported() {
        let at = tempfile::tempdir().unwrap();
        let file = at.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(StateFolder::open(&file.join("x")), Err(StateError::Unusable { .. })));
    }
}
