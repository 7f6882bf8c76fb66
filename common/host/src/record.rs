//! What the records of sandboxes have in common: each is a small file in the folder of its sandbox, replaced as a whole.

use crate::folders::write;
use domain::{SandboxId, UnixSeconds};
use ports::engine::Incarnation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Name of the file.
const RECORD: &str = "record.json";
/// Only the adapter reads it.
const MODE_RECORD: u32 = 0o600;

/// What a sandbox should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is being created.
    Creating,
    /// It was ready.
    Running,
    /// It was stopped.
    Stopped,
}

/// Reads the record in this folder.
pub fn read_record<R: DeserializeOwned>(folder: &Path) -> io::Result<R> {
    Ok(serde_json::from_slice(&std::fs::read(folder.join(RECORD))?)?)
}

/// Writes the record in this folder, or leaves the old one as it is.
pub fn write_record(folder: &Path, record: &impl Serialize) -> io::Result<()> {
    write(&folder.join(RECORD), &serde_json::to_vec(record)?, MODE_RECORD)
}

/// Whether an error of reading says that there is no record, or none that can be read. Every other one says nothing about the
/// sandbox.
pub fn is_no_record(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | InvalidData | UnexpectedEof)
}

/// Whose sandbox it is, and since when; none if the record was damaged.
pub fn labels(
    sandbox: &str,
    incarnation: &str,
    created_at: u64,
) -> Option<(SandboxId, Incarnation, UnixSeconds)> {
    let sandbox = SandboxId::parse(sandbox).ok()?;
    Some((sandbox, Incarnation::parse(incarnation).ok()?, UnixSeconds::new(created_at)))
}
