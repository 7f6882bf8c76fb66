//! The files of the adapter, which only its own user can see.
//!
//! ```text
//! <state>/supervisor               the program of process 1
//! <state>/etc/<user>/              `/etc` of sandboxes that see the machine's own programs
//! <state>/images/<hash>/           unpacked archives
//! <state>/run/<incarnation>/       one sandbox: record.json, socket, report, log, workspace/, scratch/, root/
//! ```

use ports::engine::Incarnation;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// Mode of every folder of the adapter.
const MODE_PRIVATE: u32 = 0o700;
/// Mode of files and folders that are visible inside.
pub(crate) const MODE_VISIBLE: u32 = 0o755;
/// Longest path of a socket, in bytes: the kernel's limit with its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The state folder.
#[derive(Clone, Debug)]
pub(crate) struct Folders(PathBuf);

/// The folder of one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Own(PathBuf);

// === impl Folders ===

impl Folders {
    /// The state folder, made if it is absent.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let this = Self(path.to_owned());
        let longest = this.of(&Incarnation::new(Default::default())).socket();
        if longest.as_os_str().len() > SOCKET_PATH_BYTES_MAX
            || longest.to_str().is_none()
            || !path.is_absolute()
        {
            let max = SOCKET_PATH_BYTES_MAX + path.as_os_str().len() - longest.as_os_str().len();
            let reason = format!("its path has to be absolute, in UTF-8 and at most {max} bytes long");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        for folder in [this.0.clone(), this.run(), this.images(), this.etc()] {
            fs::DirBuilder::new().recursive(true).mode(MODE_PRIVATE).create(folder)?;
        }
        Ok(this)
    }

    /// The folder of a sandbox.
    pub(crate) fn of(&self, incarnation: &Incarnation) -> Own {
        Own(self.run().join(incarnation.to_string()))
    }

    /// The incarnations that have a folder.
    pub(crate) fn incarnations(&self) -> io::Result<Vec<Incarnation>> {
        let names = fs::read_dir(self.run())?.map(|entry| entry.map(|entry| entry.file_name()));
        let names: Vec<_> = names.collect::<io::Result<_>>()?;
        Ok(names.iter().filter_map(|name| Incarnation::parse(name.to_str()?).ok()).collect())
    }

    /// The program of process 1.
    pub(crate) fn supervisor(&self) -> PathBuf {
        self.0.join("supervisor")
    }

    /// Replaces the program of process 1 for sandboxes that start from now on.
    pub(crate) fn write_supervisor(&self, program: &[u8]) -> io::Result<()> {
        write(&self.supervisor(), program, MODE_VISIBLE)
    }

    /// Unpacked archives.
    pub(crate) fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// Folders for `/etc`.
    pub(crate) fn etc(&self) -> PathBuf {
        self.0.join("etc")
    }

    fn run(&self) -> PathBuf {
        self.0.join("run")
    }
}

// === impl Own ===

impl Own {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The socket of the supervisor.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    /// What the wrapper says about process 1.
    pub(crate) fn report(&self) -> PathBuf {
        self.0.join("report")
    }

    /// What wrapper and supervisor complain about.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.0.join("workspace")
    }

    /// The writable root folder.
    pub(crate) fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }

    pub(crate) fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(MODE_PRIVATE).create(&self.0)
    }

    /// Makes the workspace, in memory if `bytes` is given. As root it belongs to `owner`.
    pub(crate) fn make_workspace(&self, bytes: Option<u64>, owner: Option<u32>) -> io::Result<()> {
        let folder = self.workspace();
        fs::DirBuilder::new().mode(MODE_PRIVATE).create(&folder)?;
        if let Some(bytes) = bytes {
            mount_memory(&folder, bytes)?;
        }
        owner.map_or(Ok(()), |owner| chown(&folder, Some(owner), Some(owner)))
    }

    /// Lays a writable root folder over an image; `bytes` limits what is written.
    pub(crate) fn make_root(&self, image: &Path, bytes: u64) -> io::Result<()> {
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
    pub(crate) fn delete(&self) -> io::Result<()> {
        for folder in [self.root(), self.scratch(), self.workspace()] {
            match unmount(&folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // Nothing is mounted there, or only root could have mounted it.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The record may go first: what is left without one is removed at the next start.
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A name that nothing else on this machine uses.
pub(crate) fn fresh_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Replaces a file as a whole.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
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
        let folders = Folders::open(&path).unwrap();
        let own = folders.of(&Incarnation::new(uuid::Uuid::nil()));
        own.create().unwrap();
        for folder in [path.as_path(), own.path(), &folders.images()] {
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
        let error = Folders::open(&path).unwrap_err().to_string();
        assert!(error.contains("at most 59 bytes"), "{error}");
        assert!(!path.exists());
        assert!(Folders::open(Path::new("relative")).is_err());
    }
}
