//! Accounts on disk: one line of JSON per creation and deletion, passed to the operating system before the call is
//! answered. So a killed process loses nothing that it answered; a power failure may lose the end.
//!
//! A start replays the lines. A truncated last line was never answered and is dropped. If the journal has more lines
//! than necessary, it is rewritten to a new file, which replaces the old one.

use crate::accounts::{Account, Accounts};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use uuid::Uuid;

const JOURNAL_FILE: &str = "accounts.jsonl";
const REWRITTEN_FILE: &str = "accounts.jsonl.new";
const LOCK_FILE: &str = "lock";
/// Version of the format; another version is rejected.
const VERSION: u32 = 1;

/// Why accounts cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory or a file in it cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another simulator uses it.
    #[error("{} is in use by another simulator", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A line other than the last is invalid.
    #[error("line {line} of {} cannot be read: {problem}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// The problem.
        problem: String,
    },
}

/// Where creations and deletions are recorded.
#[derive(Debug)]
pub(crate) enum Journal {
    /// In memory only.
    Memory,
    /// In a directory.
    Open(OpenJournal),
    /// The journal is closed; nothing may change any more.
    Closed,
}

#[derive(Debug)]
pub(crate) struct OpenJournal {
    file: File,
    /// Length up to the last complete line, in bytes.
    length_bytes: u64,
    /// Held while the journal is open; the system releases it at the end of the process.
    _lock: File,
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Line {
    /// The first line: the values that the others do not contain.
    Journal { version: u32, next_csp_id: u64 },
    /// An account was created.
    Created(Account),
    /// An account was deleted.
    Deleted { uuid: Uuid, at_ms: u64 },
}

struct Replayed {
    accounts: Accounts,
    is_worth_rewriting: bool,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { path, source }
}

/// Opens or creates the journal in `directory` and returns its contents. A new journal starts with the accounts that
/// `begin` creates.
pub(crate) fn open(
    directory: &Path,
    seed: u64,
    begin: impl FnOnce(&mut Accounts),
) -> Result<(Journal, Accounts), JournalError> {
    fs::create_dir_all(directory).map_err(at(directory))?;
    let lock_path = directory.join(LOCK_FILE);
    let lock = File::create(&lock_path).map_err(at(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            return Err(JournalError::InUse { path: directory.to_owned() });
        }
        Err(fs::TryLockError::Error(source)) => return Err(at(&lock_path)(source)),
    }
    let path = directory.join(JOURNAL_FILE);
    let replayed = match File::open(&path) {
        Ok(file) => replay(file, &path, seed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut accounts = Accounts::new(seed, 0);
            begin(&mut accounts);
            Replayed { accounts, is_worth_rewriting: true }
        }
        Err(error) => return Err(at(&path)(error)),
    };
    if replayed.is_worth_rewriting {
        let beside = directory.join(REWRITTEN_FILE);
        rewrite(&beside, &replayed.accounts).map_err(at(&beside))?;
        fs::rename(&beside, &path).map_err(at(&path))?;
    }
    let file = OpenOptions::new().append(true).open(&path).map_err(at(&path))?;
    let length_bytes = file.metadata().map_err(at(&path))?.len();
    Ok((Journal::Open(OpenJournal { file, length_bytes, _lock: lock }), replayed.accounts))
}

fn replay(file: File, path: &Path, seed: u64) -> Result<Replayed, JournalError> {
    let mut reader = BufReader::new(file);
    let mut accounts = Accounts::new(seed, 0);
    let mut is_worth_rewriting = false;
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        if reader.read_until(b'\n', &mut text).map_err(at(path))? == 0 {
            break;
        }
        if text.last() != Some(&b'\n') {
            tracing::warn!(journal.line = number, "the last line breaks off and is dropped");
            is_worth_rewriting = true;
            break;
        }
        let corrupt =
            |problem: String| JournalError::Corrupt { path: path.to_owned(), line: number, problem };
        match serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))? {
            Line::Journal { version: VERSION, next_csp_id } => {
                accounts = Accounts::new(seed, next_csp_id);
            }
            Line::Journal { version, .. } => {
                return Err(corrupt(format!("version {version} is not {VERSION}")));
            }
            Line::Created(account) => accounts.insert(account),
            Line::Deleted { uuid, at_ms } => {
                accounts.remove(uuid, at_ms);
                is_worth_rewriting = true;
            }
        }
    }
    Ok(Replayed { accounts, is_worth_rewriting })
}

fn rewrite(path: &Path, accounts: &Accounts) -> io::Result<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    write_line(&mut writer, &Line::Journal { version: VERSION, next_csp_id: accounts.next_csp_id() })?;
    for account in accounts.live() {
        write_line(&mut writer, &Line::Created(account.clone()))?;
    }
    writer.flush()?;
    // Before the rename, or a power failure could leave an empty file under the real name.
    writer.get_ref().sync_all()
}

fn write_line(writer: &mut impl io::Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, line)?;
    writer.write_all(b"\n")
}

// === impl Journal ===

impl Journal {
    /// Appends all lines or none, except for a truncated last one, which the next start drops.
    pub(crate) fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        let open = match self {
            Self::Memory => return Ok(()),
            Self::Closed => return Err(io::Error::other("the journal is closed")),
            Self::Open(open) => open,
        };
        let mut text = Vec::new();
        for line in lines {
            write_line(&mut text, line)?;
        }
        // A write to the page cache takes microseconds, so no separate thread is needed.
        if let Err(error) = open.file.write_all(&text) {
            // A partial line must not become the beginning of the next one.
            open.file.set_len(open.length_bytes)?;
            return Err(error);
        }
        open.length_bytes += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopen(directory: &Path) -> Result<(Journal, Accounts), JournalError> {
        open(directory, 1, |accounts| {
            for account in accounts.make(3, "lab-", 0, 1_000) {
                accounts.insert(account);
            }
        })
    }

    fn csp_ids(accounts: &Accounts) -> Vec<u64> {
        accounts.live().map(|account| account.csp_id - crate::accounts::FIRST_CSP_ID).collect()
    }

    fn uuid(accounts: &Accounts, index: usize) -> Uuid {
        accounts.live().nth(index).unwrap().uuid
    }

    #[test]
    fn journal_is_restored_on_reopen_without_new_accounts() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, accounts) = reopen(directory.path()).unwrap();
        journal.append(&[Line::Deleted { uuid: uuid(&accounts, 2), at_ms: 7 }]).unwrap();
        let more = accounts.make(1, "demo-", 0, 2_000).remove(0);
        journal.append(&[Line::Created(more.clone())]).unwrap();
        drop(journal);
        for _ in 0..2 {
            let (journal, again) = reopen(directory.path()).unwrap();
            assert_eq!(csp_ids(&again), [0, 1, 3]);
            assert_eq!(again.find(more.uuid), Some(&more));
            drop(journal);
        }
    }

    #[test]
    fn id_is_not_reused_after_compaction() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, accounts) = reopen(directory.path()).unwrap();
        journal.append(&[Line::Deleted { uuid: uuid(&accounts, 2), at_ms: 7 }]).unwrap();
        drop(journal);
        drop(reopen(directory.path()).unwrap());
        let text = fs::read_to_string(directory.path().join(JOURNAL_FILE)).unwrap();
        assert!(!text.contains("deleted"), "{text}");
        let (_journal, again) = reopen(directory.path()).unwrap();
        assert_eq!(again.make(1, "", 0, 0)[0].csp_id, accounts.next_csp_id());
    }

    #[test]
    fn torn_last_entry_is_dropped_and_the_next_is_intact() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, accounts) = reopen(directory.path()).unwrap();
        journal.append(&[Line::Deleted { uuid: uuid(&accounts, 0), at_ms: 7 }]).unwrap();
        let path = directory.path().join(JOURNAL_FILE);
        let length = fs::metadata(&path).unwrap().len();
        drop(journal);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
        let (mut journal, again) = reopen(directory.path()).unwrap();
        assert_eq!(csp_ids(&again), [0, 1, 2]);
        journal.append(&[Line::Deleted { uuid: uuid(&again, 1), at_ms: 8 }]).unwrap();
        drop(journal);
        assert_eq!(csp_ids(&reopen(directory.path()).unwrap().1), [0, 2]);
    }

    #[test]
    fn corrupt_entry_is_rejected_with_its_number() {
        let directory = tempfile::tempdir().unwrap();
        drop(reopen(directory.path()).unwrap());
        let path = directory.path().join(JOURNAL_FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("lab-00001", "lab-\"", 1)).unwrap();
        let error = reopen(directory.path()).unwrap_err();
        assert!(matches!(error, JournalError::Corrupt { line: 2, .. }), "{error}");
    }

    #[test]
    fn directory_is_locked_by_one_simulator() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _accounts) = reopen(directory.path()).unwrap();
        assert!(matches!(reopen(directory.path()), Err(JournalError::InUse { .. })));
        drop(journal);
        assert!(reopen(directory.path()).is_ok());
    }

    #[test]
    fn closed_journal_rejects_writes() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, accounts) = reopen(directory.path()).unwrap();
        let line = Line::Deleted { uuid: uuid(&accounts, 0), at_ms: 7 };
        journal = {
            drop(journal);
            Journal::Closed
        };
        assert!(journal.append(&[line]).is_err());
        assert_eq!(csp_ids(&reopen(directory.path()).unwrap().1).len(), 3);
    }
}
