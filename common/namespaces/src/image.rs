//! What is visible in the root folder of a sandbox.

use crate::etc::RESOLVER_FILE;
use host::folders::{MODE_VISIBLE, fresh_name};
use parking_lot::Mutex;
use ports::engine::EngineError;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folders that every sandbox has of its own. Those of an image are not visible.
const OWN: [&str; 6] = ["dev", "proc", "run", "sys", "tmp", "workspace"];
/// What is visible of the machine's own root folder.
const OF_HOST: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Something in the root folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A file or folder of the machine, visible at this path.
    Bind {
        /// Where it is outside.
        source: PathBuf,
        /// Where it is inside.
        target: PathBuf,
    },
    /// A symbolic link.
    Link {
        /// What it names.
        names: PathBuf,
        /// Where it is inside.
        target: PathBuf,
    },
}

/// The entries of the machine's own root folder, with this folder as `/etc`.
pub(crate) fn host(etc: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = entries_of(Path::new("/"), |name| OF_HOST.iter().any(|visible| name == *visible))?;
    entries.push(Entry::Bind { source: etc.to_owned(), target: "/etc".into() });
    Ok(entries)
}

/// The entries of an image's root folder.
pub(crate) fn folder(path: &Path) -> Result<Vec<Entry>, EngineError> {
    entries_of(path, |name| !OWN.iter().any(|own| name == *own)).map_err(|error| {
        EngineError::refused(format!("the image {} cannot be read: {error}", path.display()))
    })
}

/// The entry that shows `file` as the resolvers of an image; none for an image that has no plain file there to be covered.
pub(crate) fn resolver(image: &Path, file: PathBuf) -> Option<Entry> {
    let etc = image.join("etc");
    let is =
        |path: &Path, of: fn(&fs::Metadata) -> bool| fs::symlink_metadata(path).is_ok_and(|found| of(&found));
    let is_there = is(&etc, fs::Metadata::is_dir) && is(&etc.join(RESOLVER_FILE), fs::Metadata::is_file);
    is_there.then(|| Entry::Bind { source: file, target: Path::new("/etc").join(RESOLVER_FILE) })
}

fn entries_of(root: &Path, is_visible: impl Fn(&OsString) -> bool) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for found in fs::read_dir(root)? {
        let found = found?;
        let (name, source) = (found.file_name(), found.path());
        if !is_visible(&name) {
            continue;
        }
        let target = Path::new("/").join(name);
        entries.push(if found.file_type()?.is_symlink() {
            Entry::Link { names: fs::read_link(source)?, target }
        } else {
            Entry::Bind { source, target }
        });
    }
    entries.sort_by(|one, other| one.target().cmp(other.target()));
    Ok(entries)
}

/// Archives, each unpacked once under the hash of its contents.
#[derive(Debug)]
pub(crate) struct Archives {
    images: PathBuf,
    /// The folders of archives that have not changed since.
    known: Mutex<HashMap<PathBuf, (Stamp, PathBuf)>>,
}

/// What changes with the contents of a file: device, inode, size, and time in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// `tar` knows every format and compression, and never leaves the folder.
fn unpack(archive: &Path, folder: &Path) -> Result<(), EngineError> {
    let output = Command::new("tar")
        .args(["--extract", "--numeric-owner", "--preserve-permissions", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| EngineError::unavailable(format!("`tar` cannot be started: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(EngineError::refused(format!(
        "the image cannot be unpacked: {}",
        reason.lines().next().unwrap_or_default()
    )))
}

/// A hash as a writer.
struct Writer<'a>(&'a mut Sha256);

// === impl Archives ===

impl Archives {
    /// Archives that are unpacked into this folder.
    pub(crate) fn new(images: PathBuf) -> Self {
        Self { images, known: Mutex::default() }
    }

    /// The folder of an archive. Blocks while it reads and unpacks a new one.
    pub(crate) fn folder(&self, archive: &Path) -> Result<PathBuf, EngineError> {
        let refused =
            |error| EngineError::refused(format!("the image {} cannot be read: {error}", archive.display()));
        let found = fs::metadata(archive).map_err(refused)?;
        let stamp = (found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec());
        if let Some((known, folder)) = self.known.lock().get(archive)
            && *known == stamp
            && folder.exists()
        {
            return Ok(folder.clone());
        }
        let mut hasher = Sha256::new();
        let mut file = fs::File::open(archive).map_err(refused)?;
        io::copy(&mut file, &mut Writer(&mut hasher)).map_err(refused)?;
        let hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = self.images.join(&hash);
        if !folder.exists() {
            self.unpack(archive, &hash, &folder)?;
        }
        self.known.lock().insert(archive.to_owned(), (stamp, folder.clone()));
        Ok(folder)
    }

    fn unpack(&self, archive: &Path, hash: &str, folder: &Path) -> Result<(), EngineError> {
        let failed = |error| EngineError::unavailable(format!("the image cannot be unpacked: {error}"));
        let work = self.images.join(format!("{hash}.{}", fresh_name()));
        fs::DirBuilder::new().mode(MODE_VISIBLE).create(&work).map_err(failed)?;
        let result = unpack(archive, &work).and_then(|()| match fs::rename(&work, folder) {
            // Another creation was quicker; its folder is as good as this one.
            Err(_) if folder.exists() => Ok(()),
            renamed => renamed.map_err(failed),
        });
        let _ = fs::remove_dir_all(&work);
        result
    }
}

// === impl Entry ===

impl Entry {
    /// Where it is inside.
    pub(crate) fn target(&self) -> &Path {
        match self {
            Self::Bind { target, .. } | Self::Link { target, .. } => target,
        }
    }
}

// === impl Writer ===

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(entries: &[Entry]) -> Vec<&str> {
        entries.iter().filter_map(|entry| entry.target().to_str()).collect()
    }

    #[test]
    fn resolvers_cover_a_plain_file_only() {
        let image = tempfile::tempdir().unwrap();
        let entry = || resolver(image.path(), "/state/resolv.conf".into());
        assert_eq!(entry(), None);
        let etc = image.path().join("etc");
        fs::create_dir(&etc).unwrap();
        std::os::unix::fs::symlink("/run/resolv.conf", etc.join(RESOLVER_FILE)).unwrap();
        assert_eq!(entry(), None, "what it names is not there");
        fs::remove_file(etc.join(RESOLVER_FILE)).unwrap();
        fs::write(etc.join(RESOLVER_FILE), "").unwrap();
        let expected = Entry::Bind { source: "/state/resolv.conf".into(), target: "/etc/resolv.conf".into() };
        assert_eq!(entry(), Some(expected));
    }

    #[test]
    fn the_machine_shows_programs_and_nothing_personal() {
        let entries = host(Path::new("/state/etc")).unwrap();
        let targets = targets(&entries);
        assert!(targets.contains(&"/usr") && targets.contains(&"/bin"), "{targets:?}");
        let is_known = |path: &&&str| {
            **path == "/etc" || OF_HOST.iter().any(|name| path.strip_prefix('/') == Some(name))
        };
        assert_eq!(targets.iter().filter(is_known).count(), targets.len(), "{targets:?}");
        assert!(entries.contains(&Entry::Bind { source: "/state/etc".into(), target: "/etc".into() }));
    }

    #[test]
    fn an_image_cannot_replace_the_folders_of_the_sandbox() {
        let image = tempfile::tempdir().unwrap();
        for name in ["bin", "proc", "run", "workspace", "opt"] {
            fs::create_dir(image.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("bin", image.path().join("sbin")).unwrap();
        let entries = folder(image.path()).unwrap();
        assert_eq!(targets(&entries), ["/bin", "/opt", "/sbin"]);
        assert!(matches!(entries.last(), Some(Entry::Link { names, .. }) if names == Path::new("bin")));
        assert!(matches!(folder(Path::new("/nonexistent")), Err(EngineError::Refused { .. })));
    }

    /// Makes an archive of a folder with one file.
    fn archive(path: &Path, text: &str) {
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("hello"), text).unwrap();
        let made = Command::new("tar").arg("-cf").arg(path).arg("-C").arg(source.path()).arg(".").status();
        assert!(made.unwrap().success());
    }

    #[test]
    fn an_archive_is_unpacked_once_until_it_changes() {
        let images = tempfile::tempdir().unwrap();
        let path = images.path().join("image.tar");
        archive(&path, "world");
        let archives = Archives::new(images.path().to_owned());
        let folder = archives.folder(&path).unwrap();
        assert_eq!(fs::read_to_string(folder.join("hello")).unwrap(), "world");
        fs::write(folder.join("mark"), "").unwrap();
        for archives in [&archives, &Archives::new(images.path().to_owned())] {
            assert_eq!(archives.folder(&path).unwrap(), folder);
            assert!(folder.join("mark").exists(), "it was unpacked again");
        }
        archive(&path, "another world");
        let changed = archives.folder(&path).unwrap();
        assert_eq!(fs::read_to_string(changed.join("hello")).unwrap(), "another world");
        assert_eq!(fs::read_dir(images.path()).unwrap().count(), 3, "something was left behind");
    }

    #[test]
    fn a_damaged_archive_leaves_nothing() {
        let images = tempfile::tempdir().unwrap();
        let path = images.path().join("image.tar");
        fs::write(&path, "this is no archive").unwrap();
        let archives = Archives::new(images.path().to_owned());
        assert!(matches!(archives.folder(&path), Err(EngineError::Refused { .. })));
        assert!(matches!(archives.folder(Path::new("/nonexistent")), Err(EngineError::Refused { .. })));
        assert_eq!(fs::read_dir(images.path()).unwrap().count(), 1);
    }
}
