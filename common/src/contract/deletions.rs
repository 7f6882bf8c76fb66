//! Deletion work and what is kept of it when it is given up.

use crate::domain::{Epoch, InvalidId, PoolName, Sandbox, SandboxId};
use serde::{Deserialize, Serialize};

/// Version of [`DeletionWork`] that this build writes and reads.
pub const DELETION_WORK_VERSION: u32 = 1;

/// One sandbox that should be deleted. The table decides whether it still should: the epoch fences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionWork {
    /// Version of this shape; a reader parks what it does not know.
    pub version: u32,
    /// The sandbox.
    pub sandbox_id: String,
    /// Its pool.
    pub pool: String,
    /// The epoch that the deletion is for.
    pub epoch: u64,
    /// When it was asked for, Unix seconds.
    pub requested_at: u64,
}

/// A deletion that used up its attempts, as kept in PARKED.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedDeletion {
    /// The work, fit to be replayed as it stands.
    #[serde(flatten)]
    pub work: DeletionWork,
    /// Attempts made.
    pub attempts: u32,
    /// What the last one said.
    pub reason: String,
    /// When it was parked, Unix seconds.
    pub parked_at: u64,
}

// === impl DeletionWork ===

impl DeletionWork {
    /// The work that ends `sandbox`; none unless its deletion is wanted.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Option<Self> {
        let deletion = sandbox.deletion()?;
        Some(Self {
            version: DELETION_WORK_VERSION,
            sandbox_id: sandbox.id.to_string(),
            pool: sandbox.pool.to_string(),
            epoch: sandbox.epoch.get(),
            requested_at: deletion.requested_at.get(),
        })
    }

    /// The sandbox, its pool and the epoch, as checked ids.
    ///
    /// # Errors
    /// [`InvalidId`] when the sandbox or pool is no such id.
    pub fn parts(&self) -> Result<(SandboxId, PoolName, Epoch), InvalidId> {
        Ok((SandboxId::parse(&self.sandbox_id)?, PoolName::parse(&self.pool)?, Epoch::new(self.epoch)))
    }
}
