//! Cursors are sealed: a text that we did not write, or wrote for other filters, is none.
//!
//! The key lies in the table, so every allocator of a fleet takes the cursors of every other, also after a restart
//! (`docs/decisions/0029-cursors-are-sealed-by-a-key-in-the-table.md`).

use super::Which;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use contract::Fault;
use domain::{LabId, NamePrefix, OwnerId, StateName};
use ports::store::{CURSOR_KEY_BYTES, CursorKey, Store, StoreError};
use tokio::sync::Mutex;

/// Between what a cursor says and its seal.
const SEAL_BEGINS: char = '.';
/// Version of what is sealed; another one makes all cursors of before unusable.
const VERSION: &str = "1";

/// Seals cursors with the key of the table, which is read once.
#[derive(Debug, Default)]
pub(crate) struct Seals(Mutex<Option<CursorKey>>);

/// Why a cursor could not be made or used.
pub(super) enum SealError {
    Store(StoreError),
    NoRandomness,
    NotOurs,
}

// === impl SealError ===

impl SealError {
    pub(super) fn into_fault(
        self,
        of_store: impl FnOnce(StoreError) -> Fault,
        not_ours: impl FnOnce() -> Fault,
    ) -> Fault {
        match self {
            Self::Store(error) => of_store(error),
            Self::NoRandomness => super::no_key(),
            Self::NotOurs => not_ours(),
        }
    }
}

impl From<StoreError> for SealError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

// === impl Seals ===

impl Seals {
    /// A cursor that says `text` and is good for this listing only.
    pub(super) async fn seal(
        &self,
        store: &dyn Store,
        which: &Which,
        text: &str,
    ) -> Result<String, SealError> {
        let key = self.key(store).await?;
        Ok(format!("{text}{SEAL_BEGINS}{}", seal_of(&key, which, text)))
    }

    /// What a cursor of this listing says.
    pub(super) async fn open(
        &self,
        store: &dyn Store,
        which: &Which,
        cursor: &str,
    ) -> Result<String, SealError> {
        let (text, seal) = cursor.rsplit_once(SEAL_BEGINS).ok_or(SealError::NotOurs)?;
        let key = self.key(store).await?;
        if is_seal(&key, which, text, seal) {
            return Ok(text.to_owned());
        }
        // The key may have been replaced in the table since it was read.
        let key = self.look(store).await?;
        if is_seal(&key, which, text, seal) { Ok(text.to_owned()) } else { Err(SealError::NotOurs) }
    }

    async fn key(&self, store: &dyn Store) -> Result<CursorKey, SealError> {
        let known = self.0.lock().await.clone();
        match known {
            Some(key) => Ok(key),
            None => self.look(store).await,
        }
    }

    async fn look(&self, store: &dyn Store) -> Result<CursorKey, SealError> {
        let mut bytes = [0; CURSOR_KEY_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError::NoRandomness)?;
        let key = store.cursor_key(&CursorKey::new(bytes)).await?;
        *self.0.lock().await = Some(key.clone());
        Ok(key)
    }
}

fn is_seal(key: &CursorKey, which: &Which, text: &str, seal: &str) -> bool {
    verify_slices_are_equal(seal_of(key, which, text).as_bytes(), seal.as_bytes()).is_ok()
}

/// HMAC-SHA256 over what the listing is and what the cursor says, as hexadecimal digits. Every part is written with its
/// length, so that no two listings are written alike.
fn seal_of(key: &CursorKey, which: &Which, text: &str) -> String {
    let Which { purpose, status, pools, is_narrowed, lab, owner, prefix, cursor: _, limit: _ } = which;
    // A listing of all pools stays the same one when a pool is added.
    let pools: Vec<_> = pools.iter().filter(|_| *is_narrowed).map(domain::PoolName::as_str).collect();
    let pools = is_narrowed.then(|| pools.join(","));
    let parts = [
        Some(VERSION),
        Some(*purpose),
        status.map(StateName::as_str),
        pools.as_deref(),
        lab.as_ref().map(LabId::as_str),
        owner.as_ref().map(OwnerId::as_str),
        prefix.as_ref().map(NamePrefix::as_str),
        Some(text),
    ];
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.bytes());
    let mut sealing = hmac::Context::with_key(&key);
    for part in parts {
        let Some(part) = part else {
            sealing.update(&[0]);
            continue;
        };
        sealing.update(&[1]);
        sealing.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        sealing.update(part.as_bytes());
    }
    sealing.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
