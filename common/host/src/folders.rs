//! The files of an adapter, which only its own user can see.
//!
//! ```text
//! <state>/supervisor               the program of process 1
//! <state>/run/<incarnation>/       one sandbox: its socket, its files, workspace/, scratch/, root/
//! <data>/workspaces/<incarnation>/ workspaces on disk
//! ```
//!
//! State in memory makes a creation and a removal twice as fast as on a busy disk, and ends with the machine, as sandboxes do.

use ports::engine::Incarnation;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// What lets others write to a folder.
const MODE_OF_OTHERS_WRITE: u32 = 0o022;
/// Mode of every folder of the adapter.
const MODE_PRIVATE: u32 = 0o700;
/// Mode of files and folders that are visible inside.
pub const MODE_VISIBLE: u32 = 0o755;
/// Longest path of a socket, in bytes: the kernel's limit with its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The two folders of the adapter.
#[derive(Clone, Debug)]
pub struct Folders {
    state: PathBuf,
    data: PathBuf,
}

/// The folders of one sandbox.
#[derive(Clone, Debug)]
pub struct Own {
    state: PathBuf,
    disk: PathBuf,
}

// === impl Folders ===

impl Folders {
    /// The folders, made if they are absent.
    pub fn open(state: &Path, data: &Path) -> io::Result<Self> {
        let this = Self { state: state.to_owned(), data: data.to_owned() };
        let longest = this.of(&Incarnation::new(Default::default())).socket();
        let is_usable = |path: &Path| path.is_absolute() && path.to_str().is_some();
        if longest.as_os_str().len() > SOCKET_PATH_BYTES_MAX || !is_usable(state) || !is_usable(data) {
            let max = SOCKET_PATH_BYTES_MAX + state.as_os_str().len() - longest.as_os_str().len();
            let reason =
                format!("paths have to be absolute and in UTF-8, that of the state at most {max} bytes long");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        for folder in [this.state.clone(), this.run(), this.data.clone(), this.workspaces()] {
            make_private(&folder)?;
        }
        this.check_owner()?;
        Ok(this)
    }

    /// Refuses a state folder that another user has made: its program would run as process 1, and its sockets are there.
    fn check_owner(&self) -> io::Result<()> {
        let found = fs::symlink_metadata(&self.state)?;
        let is_own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
        if is_own && found.mode() & MODE_OF_OTHERS_WRITE == 0 {
            return Ok(());
        }
        let reason = "the state folder has to belong to this user, and nobody else may write to it";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
    }

    /// The folder of a sandbox.
    pub fn of(&self, incarnation: &Incarnation) -> Own {
        let name = incarnation.to_string();
        Own { state: self.run().join(&name), disk: self.workspaces().join(name) }
    }

    /// The incarnations that have a state.
    pub fn incarnations(&self) -> io::Result<Vec<Incarnation>> {
        incarnations(&self.run())
    }

    /// The incarnations that have a state or a workspace on disk.
    pub fn all_incarnations(&self) -> io::Result<BTreeSet<Incarnation>> {
        Ok(incarnations(&self.run())?.into_iter().chain(incarnations(&self.workspaces())?).collect())
    }

    /// The program of process 1.
    pub fn supervisor(&self) -> PathBuf {
        self.state.join("supervisor")
    }

    /// Replaces the program of process 1 for sandboxes that start from now on.
    pub fn write_supervisor(&self, program: &[u8]) -> io::Result<()> {
        write(&self.supervisor(), program, MODE_VISIBLE)
    }

    /// A further folder for data.
    pub fn of_data(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    /// A further folder for the state.
    pub fn of_state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    fn workspaces(&self) -> PathBuf {
        self.data.join("workspaces")
    }

    fn run(&self) -> PathBuf {
        self.state.join("run")
    }
}

// === impl Own ===

impl Own {
    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.state
    }

    /// The socket of the supervisor.
    pub fn socket(&self) -> PathBuf {
        self.state.join("socket")
    }

    /// The workspace in memory.
    fn memory(&self) -> PathBuf {
        self.state.join("workspace")
    }

    /// The writable root folder.
    pub fn root(&self) -> PathBuf {
        self.state.join("root")
    }

    fn scratch(&self) -> PathBuf {
        self.state.join("scratch")
    }

    /// Makes its folder.
    pub fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(MODE_PRIVATE).create(&self.state)
    }

    /// Makes the workspace, in memory if `bytes` is given. As root it belongs to `owner`.
    pub fn make_workspace(&self, bytes: Option<u64>, owner: Option<u32>) -> io::Result<PathBuf> {
        let folder = if bytes.is_some() { self.memory() } else { self.disk.clone() };
        fs::DirBuilder::new().mode(MODE_PRIVATE).create(&folder)?;
        if let Some(bytes) = bytes {
            mount_memory(&folder, bytes)?;
        }
        if let Some(owner) = owner {
            chown(&folder, Some(owner), Some(owner))?;
        }
        Ok(folder)
    }

    /// Lays a writable root folder over an image; `bytes` limits what is written.
    pub fn make_root(&self, image: &Path, bytes: u64) -> io::Result<()> {
        let (root, scratch) = (self.root(), self.scratch());
        let (upper, work) = (scratch.join("upper"), scratch.join("work"));
        let make = |folder: &Path| fs::DirBuilder::new().mode(MODE_VISIBLE).create(folder);
        make(&root)?;
        make(&scratch)?;
        mount_memory(&scratch, bytes)?;
        make(&upper)?;
        make(&work)?;
        // The options are one text, in which these characters separate.
        let plain = |path: &Path| match path.to_str() {
            Some(text) if !text.contains([',', ':', '\\']) => Ok(text.to_owned()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a path has a comma or a colon")),
        };
        let options =
            format!("lowerdir={},upperdir={},workdir={}", plain(image)?, plain(&upper)?, plain(&work)?);
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        Ok(mount("overlay", &root, "overlay", flags, CString::new(options)?.as_c_str())?)
    }

    /// Deletes everything. Blocks while it works.
    pub fn delete(&self) -> io::Result<()> {
        for folder in [self.root(), self.scratch(), self.memory()] {
            match unmount(&folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // Nothing is mounted there, or only root could have mounted it.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The record may go first: what is left without one is removed at the next start.
        for folder in [&self.state, &self.disk] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Makes a folder, and those above it, for this user alone.
pub fn make_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(MODE_PRIVATE).create(folder)
}

/// The incarnations that are names in a folder.
fn incarnations(folder: &Path) -> io::Result<Vec<Incarnation>> {
    let names = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name()));
    let names: Vec<_> = names.collect::<io::Result<_>>()?;
    Ok(names.iter().filter_map(|name| Incarnation::parse(name.to_str()?).ok()).collect())
}

/// A name that nothing else on this machine uses.
pub fn fresh_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Replaces a file as a whole.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let written = path.with_extension("new");
    fs::write(&written, bytes)?;
    fs::set_permissions(&written, fs::Permissions::from_mode(mode))?;
    fs::rename(written, path)
}

fn mount_memory(folder: &Path, bytes: u64) -> io::Result<()> {
    let options = CString::new(format!("size={bytes},mode={MODE_PRIVATE:o}"))?;
    Ok(mount("tmpfs", folder, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_private() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/state");
        let folders = Folders::open(&path, &temporary.path().join("data")).unwrap();
        let own = folders.of(&Incarnation::new(uuid::Uuid::nil()));
        own.create().unwrap();
        for folder in [path.as_path(), own.path()] {
            assert_eq!(
                fs::metadata(folder).unwrap().permissions().mode() & 0o777,
                0o700,
                "{}",
                folder.display()
            );
        }
        assert_eq!(folders.incarnations().unwrap(), [Incarnation::new(uuid::Uuid::nil())]);
        own.delete().unwrap();
        own.delete().unwrap();
        assert_eq!(folders.incarnations().unwrap(), []);
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_an_error() {
        let path = std::env::temp_dir().join("x".repeat(80));
        let error = Folders::open(&path, Path::new("/tmp")).unwrap_err().to_string();
        assert!(error.contains("at most 59 bytes"), "{error}");
        assert!(!path.exists());
        assert!(Folders::open(Path::new("relative"), Path::new("/tmp")).is_err());
    }
}
