//! Steps that follow from what the provider lists under an id: another account than before, or one that it had
//! deleted.

use super::{InvalidTransition, NewSandbox, Sandbox, State};
use crate::domain::deletion::{DELETION_RELISTS_MAX, Deletion};
use crate::domain::history::Cause;
use crate::domain::ids::Version;
use crate::domain::time::UnixSeconds;

/// What a deletion says of itself when the provider still lists its account.
pub const STILL_LISTED: &str = "still listed by the provider";

// === impl Sandbox ===

impl Sandbox {
    /// available | stale | deleted → available: the provider lists another account under this id. The version grows,
    /// so a candidate of the former account fails; so does the epoch, so late work for it does nothing.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is in use or on its way out, moved on since `version`, or is that account already.
    pub fn reidentify(
        self,
        version: Version,
        listed: NewSandbox,
        now: UnixSeconds,
    ) -> Result<Self, InvalidTransition> {
        let may_change = matches!(self.state, State::Available | State::Stale { .. } | State::Deleted(_));
        let is_other = self.id == listed.id && self.external_id != listed.external_id;
        if !may_change || !is_other || self.version != version {
            return Err(self.refuse("made another account"));
        }
        let NewSandbox { id: _, name, external_id, pool, sfdc_account_id } = listed;
        let epoch = self.epoch.next();
        let renewed = Self { name, external_id, pool, sfdc_account_id, epoch, ..self };
        Ok(renewed.step(State::Available, Cause::Listed, now))
    }

    /// deleted → `pending_deletion`: the provider has accepted the deletion and still lists the account. When that
    /// happened [`DELETION_RELISTS_MAX`] times before, it is parked instead.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is no tombstone of a deletion, or moved on since `version`.
    pub fn relist(self, version: Version, now: UnixSeconds) -> Result<Self, InvalidTransition> {
        let State::Deleted(tombstone) = &self.state else { return Err(self.refuse("deleted again")) };
        let Some(deletion) = tombstone.deletion.clone().filter(|_| self.version == version) else {
            return Err(self.refuse("deleted again"));
        };
        let relists = deletion.relists.saturating_add(1);
        let deletion =
            Deletion { attempts: 0, last_error: Some(STILL_LISTED.to_owned()), relists, ..deletion };
        Ok(if relists > DELETION_RELISTS_MAX {
            self.step(State::DeletionFailed(deletion), Cause::Parked, now)
        } else {
            self.step(State::PendingDeletion(deletion), Cause::Found, now)
        })
    }
}

#[cfg(test)]
mod tests;
