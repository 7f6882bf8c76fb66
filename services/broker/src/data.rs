//! The data directory of `broker up`: used by one broker at a time, with persistent tokens, and safe to delete.

use crate::disk;
use anyhow::{Context as _, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Random bytes of a token.
const TOKEN_BYTES: usize = 24;
/// File mode of tokens: readable by the owner only.
const TOKEN_MODE: u32 = 0o600;

/// A data directory that this process has locked.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    ephemeral: bool,
    _lock: File,
}

// === impl DataDir ===

impl DataDir {
    /// Locks the directory, and creates it if necessary. An ephemeral one is removed at the end.
    ///
    /// # Errors
    /// When it is not writable, its disk is full, or another broker uses it.
    pub fn open(path: &Path, ephemeral: bool) -> anyhow::Result<Self> {
        let shown = path.display();
        std::fs::create_dir_all(path).with_context(|| {
            format!("the data directory {shown} cannot be made; choose another one with --data")
        })?;
        if let Some(full) = disk::full(path) {
            bail!("{full}: make room there, or choose another data directory with --data");
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .with_context(|| {
                format!("the data directory {shown} cannot be written; choose another one with --data")
            })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), ephemeral, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another broker runs on the data directory {shown}; stop it, or choose another with --data"
                )
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("the data directory {shown} cannot be locked"))
            }
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of the embedded table.
    #[must_use]
    pub fn table(&self) -> PathBuf {
        self.path.join("table.sqlite")
    }

    /// The token in the file `name`, which is created if necessary.
    ///
    /// # Errors
    /// When it can be neither read nor written.
    pub fn token(&self, name: &str) -> anyhow::Result<String> {
        let path = self.path.join(name);
        let shown = path.display();
        if let Ok(text) = std::fs::read_to_string(&path)
            && !text.trim().is_empty()
        {
            return Ok(text.trim().to_owned());
        }
        let token = fresh_token()?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(TOKEN_MODE)
            .open(&path)
            .with_context(|| format!("cannot write {shown}"))?;
        writeln!(file, "{token}").with_context(|| format!("cannot write {shown}"))?;
        Ok(token)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.ephemeral {
            // The system cleans up temporary files that cannot be removed here.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A new token with enough random bytes that it cannot be guessed.
pub(crate) fn fresh_token() -> anyhow::Result<String> {
    let mut bytes = [0_u8; TOKEN_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).ok().context("no random bytes to be had")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
