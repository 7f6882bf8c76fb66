//! The folder `/etc` of sandboxes that see the machine's own programs: a copy of what these need, and made-up users. One folder
//! costs a sandbox one mount; a mount for each file would cost a quarter of its creation.

use crate::network::RESOLVER;
use host::folders::{Folders, MODE_VISIBLE, fresh_name, make_private};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What programs need to find libraries, certificates and each other.
const OF_HOST: [&str; 13] = [
    "alternatives",
    "ca-certificates",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "protocols",
    "services",
    "ssl/certs",
];
/// Where programs look for who resolves names. Without a network nothing answers there.
pub(crate) const RESOLVER_FILE: &str = "resolv.conf";
/// Mode of files that every user inside reads.
const MODE_READABLE: u32 = 0o644;

/// The folder of all such folders.
pub(crate) fn all(folders: &Folders) -> PathBuf {
    folders.of_state("etc")
}

/// Empties that folder.
pub(crate) fn delete(folders: &Folders) -> io::Result<()> {
    fs::remove_dir_all(all(folders))?;
    make_private(&all(folders))
}

/// The folder for sandboxes whose commands run as `user`, below `parent`. It is made once.
pub(crate) fn folder(parent: &Path, user: u32) -> io::Result<PathBuf> {
    let folder = parent.join(user.to_string());
    if folder.exists() {
        return Ok(folder);
    }
    let work = parent.join(format!("{user}.{}", fresh_name()));
    let result = fill(&work, user).and_then(|()| match fs::rename(&work, &folder) {
        // Another creation was quicker; its folder is the same.
        Err(_) if folder.exists() => Ok(()),
        renamed => renamed,
    });
    let _ = fs::remove_dir_all(work);
    result.map(|()| folder)
}

fn fill(work: &Path, user: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(MODE_VISIBLE).create(work)?;
    fs::set_permissions(work, fs::Permissions::from_mode(MODE_VISIBLE))?;
    let existing = OF_HOST.into_iter().filter(|name| Path::new("/etc").join(name).exists());
    let copied = Command::new("cp")
        .args(["--archive", "--parents", "--target-directory"])
        .arg(work)
        .args(existing)
        .current_dir("/etc")
        .stdin(Stdio::null())
        .output()?;
    if !copied.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&copied.stderr).trim().to_owned()));
    }
    let (passwd, group) = if user == 0 {
        (String::new(), String::new())
    } else {
        (format!("sandbox:x:{user}:{user}::/workspace:/bin/sh\n"), format!("sandbox:x:{user}:\n"))
    };
    let texts = [
        ("passwd", format!("root:x:0:0::/workspace:/bin/sh\n{passwd}nobody:x:65534:65534::/:/bin/false\n")),
        ("group", format!("root:x:0:\n{group}nogroup:x:65534:\n")),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned()),
        (RESOLVER_FILE, format!("nameserver {RESOLVER}\n")),
    ];
    for (name, text) in texts {
        let file = work.join(name);
        fs::write(&file, text)?;
        fs::set_permissions(file, fs::Permissions::from_mode(MODE_READABLE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_has_libraries_and_users_and_nothing_secret() {
        let parent = tempfile::tempdir().unwrap();
        for user in [1_000, 0] {
            let etc = folder(parent.path(), user).unwrap();
            let passwd = fs::read_to_string(etc.join("passwd")).unwrap();
            assert_eq!(passwd.contains("sandbox:x:1000:1000:"), user != 0, "{passwd}");
            assert!(
                etc.join("ld.so.conf.d").is_dir()
                    && !etc.join("shadow").exists()
                    && !etc.join("hostname").exists()
            );
            assert_eq!(folder(parent.path(), user).unwrap(), etc);
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 2, "something was left behind");
    }
}
