//! Transitions of a sandbox: each is one conditional update that says what it starts from and asks for the
//! whole item, old or new, so that its outcome is known without a read.
//!
//! A reply that got lost on the way makes the SDK repeat a write that has already happened. The repeat then
//! fails its own condition and is answered [`Write::Lost`] with the sandbox as the first write left it:
//! a grant finds the sandbox allocated to its own owner and key, a release finds the deletion that it asked
//! for. Callers have to look at what was found anyway, because a twin of theirs leaves the same traces.

use super::attributes::{
    CLAIM_KEY, CLAIMED_VERSION, DELETED_AT, DELETION_ATTEMPTS, DELETION_CAUSE, DELETION_SHARD, EPOCH,
    EXPIRES_AT, GRANTED_AT, HELD_LAB, HISTORY, Item, LAB, LAST_ERROR, LEASE_EPOCH, LEASE_REQUEST, NAME,
    OWNER, PARKED_SHARD, PRE_CLEAN, RELISTS, REQUESTED_AT, SFDC_ACCOUNT_ID, SINCE, STATE, STATE_SHARD,
    STATE_SORT, TTL, VERSION, number, seconds, text,
};
use super::expression::Change;
use super::{DynamoStore, item, unavailable};
use crate::domain::{
    Actor, Cause, ClaimKey, Deletion, DeletionCause, Epoch, Grant, HISTORY_ENTRIES_MAX, OwnerId, PoolName,
    PreClean, Sandbox, SandboxId, StateName, UnixSeconds, Version,
};
use crate::store::index::{due_sort, shard_of, state_shard};
use crate::store::{Description, StoreError, Write};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};

impl DynamoStore {
    pub(super) async fn write_grant(&self, grant: &Grant) -> Result<Write, StoreError> {
        let change = Self::grant_change(grant, self.write_shards().await?);
        match self.send("grant", &grant.candidate.id, change).await? {
            Sent::Refused(Some(found)) => match self.decode(&found) {
                // It is not free at that version, whatever else it is; only a lease of this claim must not be left.
                Err(_) if !item::may_be_held_by(&found, grant) => Ok(Write::Lost(None)),
                found => Ok(Write::Lost(Some(Box::new(found?)))),
            },
            sent => self.outcome(sent),
        }
    }

    /// The change that a grant makes, apart from the call: the floor of the bench makes the same one.
    pub(super) fn grant_change(grant: &Grant, shards: u16) -> Change {
        let Grant { claim: ClaimKey { owner, key }, candidate, lab, by, request, granted_at, expires_at } =
            grant;
        let (state, cause) = (StateName::Allocated, Cause::Claimed);
        let entry = item::history_entry_by(state, cause, *granted_at, by.as_ref(), None);
        let change = enter(&candidate.id, &candidate.pool, StateName::Allocated, shards)
            .set(STATE_SORT, text(due_sort(*expires_at)))
            .set(OWNER, text(owner.as_str()))
            .set(CLAIM_KEY, text(key.as_str()))
            .set_next(LEASE_EPOCH, EPOCH)
            .set_next(EPOCH, EPOCH)
            .set(CLAIMED_VERSION, number(candidate.version.get()))
            .set(GRANTED_AT, seconds(*granted_at))
            .set(EXPIRES_AT, seconds(*expires_at))
            .append(HISTORY, entry)
            .only_if(STATE, text(StateName::Available.as_str()))
            .only_if(VERSION, number(candidate.version.get()));
        let change = match request {
            Some(request) => change.set(LEASE_REQUEST, text(request.as_str())),
            None => change,
        };
        match lab {
            Some(lab) => change.set(LAB, text(lab.as_str())).set(HELD_LAB, text(lab.as_str())),
            None => change,
        }
    }

    pub(super) async fn write_release(
        &self,
        id: &SandboxId,
        owner: &OwnerId,
        epoch: Option<Epoch>,
        by: Option<&Actor>,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        let change = end_lease(DeletionCause::Released, by, now).only_if(OWNER, text(owner.as_str()));
        let change = match epoch {
            Some(epoch) => change.only_if(LEASE_EPOCH, number(epoch.get())),
            None => change,
        };
        self.update("release", id, change).await
    }

    pub(super) async fn write_expire(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        ended_by: UnixSeconds,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        let change = end_lease(DeletionCause::Expired, None, now)
            .only_if(EPOCH, number(epoch.get()))
            .only_if_at_most(EXPIRES_AT, seconds(ended_by));
        self.update("expire", id, change).await
    }

    pub(super) async fn write_attempt(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        attempts: u32,
        error: &str,
        pre_clean: Option<&PreClean>,
    ) -> Result<Write, StoreError> {
        // Neither version nor history: the state stays.
        let change = note_clearing(Change::default(), pre_clean)
            .set(DELETION_ATTEMPTS, number(attempts.saturating_add(1)))
            .set(LAST_ERROR, text(Deletion::bounded_error(error)));
        self.update("note_attempt", id, within_attempt(change, epoch, attempts)).await
    }

    pub(super) async fn write_pre_clean(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        attempts: u32,
        pre_clean: &PreClean,
    ) -> Result<Write, StoreError> {
        let change = note_clearing(Change::default(), Some(pre_clean));
        self.update("note_pre_clean", id, within_attempt(change, epoch, attempts)).await
    }

    pub(super) async fn write_finish(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        now: UnixSeconds,
        purge_at: UnixSeconds,
        pre_clean: Option<&PreClean>,
    ) -> Result<Write, StoreError> {
        let change = note_clearing(bury(now, purge_at), pre_clean)
            .append(HISTORY, item::history_entry(StateName::Deleted, Cause::Deleted, now))
            .only_if(STATE, text(StateName::PendingDeletion.as_str()))
            .only_if(EPOCH, number(epoch.get()));
        self.update("finish_deletion", id, change).await
    }

    pub(super) async fn write_park(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        // The sort key stays: both states sort by the time of the request.
        let entry = item::history_entry(StateName::DeletionFailed, Cause::Parked, now);
        let change = step(StateName::DeletionFailed)
            .copy(STATE_SHARD, PARKED_SHARD)
            .append(HISTORY, entry)
            .only_if(STATE, text(StateName::PendingDeletion.as_str()))
            .only_if(EPOCH, number(epoch.get()));
        self.update("park_deletion", id, change).await
    }

    pub(super) async fn write_replay(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        by: &Actor,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        // The sort key stays here as well.
        let entry = item::history_entry_by(StateName::PendingDeletion, Cause::Replayed, now, Some(by), None);
        let change = step(StateName::PendingDeletion)
            .copy(STATE_SHARD, DELETION_SHARD)
            .set(DELETION_ATTEMPTS, number(0_u32))
            .remove(RELISTS)
            .append(HISTORY, entry)
            .only_if(STATE, text(StateName::DeletionFailed.as_str()))
            .only_if(EPOCH, number(epoch.get()));
        self.update("replay_deletion", id, change).await
    }

    pub(super) async fn write_missing(&self, seen: &Sandbox, now: UnixSeconds) -> Result<Write, StoreError> {
        let Ok(missing) = seen.clone().go_missing(seen.version, now) else {
            return self.lost(&seen.id).await;
        };
        let change = enter(&seen.id, &seen.pool, StateName::Stale, self.write_shards().await?)
            .set(STATE_SORT, text(due_sort(now)))
            .set(SINCE, seconds(now))
            .only_if(STATE, text(StateName::Available.as_str()))
            .only_if(VERSION, number(seen.version.get()));
        self.update("mark_missing", &seen.id, remember(change, seen, &missing)).await
    }

    pub(super) async fn write_found(&self, seen: &Sandbox, now: UnixSeconds) -> Result<Write, StoreError> {
        let Ok(found) = seen.clone().come_back(seen.version, now) else {
            return self.lost(&seen.id).await;
        };
        let change = enter(&seen.id, &seen.pool, StateName::Available, self.write_shards().await?)
            // Not the name in `seen`: a description may have been refreshed since, at the same version.
            .copy(STATE_SORT, NAME)
            .remove(SINCE)
            .only_if(STATE, text(StateName::Stale.as_str()))
            .only_if(VERSION, number(seen.version.get()));
        self.update("mark_found", &seen.id, remember(change, seen, &found)).await
    }

    pub(super) async fn write_forget(
        &self,
        seen: &Sandbox,
        by: Option<&Actor>,
        now: UnixSeconds,
        purge_at: UnixSeconds,
    ) -> Result<Write, StoreError> {
        let entry = item::history_entry_by(StateName::Deleted, Cause::Forgotten, now, by, None);
        let change = bury(now, purge_at)
            .append(HISTORY, entry)
            .remove(SINCE)
            .only_if(STATE, text(StateName::Stale.as_str()))
            .only_if(VERSION, number(seen.version.get()))
            .only_if(EPOCH, number(seen.epoch.get()));
        self.update("forget", &seen.id, change).await
    }

    /// One write for a free sandbox, whose name is also its sort key. Any other is found out by that write
    /// failing and takes a second one; the version fixes the state, so the two cannot both apply.
    pub(super) async fn write_description(
        &self,
        id: &SandboxId,
        version: Version,
        description: &Description,
    ) -> Result<Write, StoreError> {
        let Description { name, sfdc_account_id } = description;
        let described = || {
            let change =
                Change::default().set(NAME, text(name.as_str())).only_if(VERSION, number(version.get()));
            match sfdc_account_id {
                Some(sfdc_account_id) => change.set(SFDC_ACCOUNT_ID, text(sfdc_account_id.as_str())),
                None => change.remove(SFDC_ACCOUNT_ID),
            }
        };
        let available = text(StateName::Available.as_str());
        let free = described().set(STATE_SORT, text(name.as_str())).only_if(STATE, available.clone());
        match self.update("describe", id, free).await? {
            Write::Lost(Some(found)) if found.version == version => {
                let other = described().only_if_not(STATE, available);
                self.update("describe", id, other).await
            }
            outcome => Ok(outcome),
        }
    }

    /// The answer to a change that what the caller saw already rules out.
    pub(super) async fn lost(&self, id: &SandboxId) -> Result<Write, StoreError> {
        Ok(Write::Lost(self.read_sandbox(id).await?.map(Box::new)))
    }

    pub(super) async fn update(
        &self,
        operation: &'static str,
        id: &SandboxId,
        change: Change,
    ) -> Result<Write, StoreError> {
        let sent = self.send(operation, id, change).await?;
        self.outcome(sent)
    }

    async fn send(
        &self,
        operation: &'static str,
        id: &SandboxId,
        change: Change,
    ) -> Result<Sent, StoreError> {
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item::key(id)))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match change.apply(request).send().await {
            Ok(updated) => Ok(Sent::Done(updated.attributes.unwrap_or_default())),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    Ok(Sent::Refused(refused.item().filter(|found| !found.is_empty()).cloned()))
                }
                _ => Err(unavailable(operation, error)),
            },
        }
    }

    fn outcome(&self, sent: Sent) -> Result<Write, StoreError> {
        Ok(match sent {
            Sent::Done(item) => Write::Done(Box::new(self.decode(&item)?)),
            Sent::Refused(found) => {
                Write::Lost(found.map(|found| self.decode(&found)).transpose()?.map(Box::new))
            }
        })
    }
}

/// What an update came to, with the whole item, new or old.
enum Sent {
    Done(Item),
    Refused(Option<Item>),
}

/// Adds the last entry of `changed` to the history of `seen`. A history that has its full length is written whole, to
/// cut it; one with entries that this build cannot read is shorter, and only grows, so that they stay.
pub(super) fn remember(change: Change, seen: &Sandbox, changed: &Sandbox) -> Change {
    match changed.history.last() {
        Some(last) if seen.history.len() < HISTORY_ENTRIES_MAX => {
            change.append(HISTORY, item::stored_entry(last))
        }
        _ => change.set(HISTORY, item::history(&changed.history)),
    }
}

/// The part of every change that brings a sandbox of a known pool into `state`.
pub(super) fn enter(id: &SandboxId, pool: &PoolName, state: StateName, shards: u16) -> Change {
    step(state).set(STATE_SHARD, text(state_shard(pool, state, shard_of(id, shards))))
}

/// The part of every state change: the state and the version.
pub(super) fn step(state: StateName) -> Change {
    Change::default().set(STATE, text(state.as_str())).set_next(VERSION, VERSION)
}

/// allocated → `pending_deletion`. The lease stays on the item: it says whose sandbox this was.
fn end_lease(cause: DeletionCause, by: Option<&Actor>, now: UnixSeconds) -> Change {
    let entry = item::history_entry_by(StateName::PendingDeletion, cause.into(), now, by, None);
    step(StateName::PendingDeletion)
        .copy(STATE_SHARD, DELETION_SHARD)
        .set(STATE_SORT, text(due_sort(now)))
        .set(DELETION_CAUSE, text(item::deletion_cause(cause)))
        .set(REQUESTED_AT, seconds(now))
        .set(DELETION_ATTEMPTS, number(0_u32))
        .append(HISTORY, entry)
        .remove(HELD_LAB)
        .only_if(STATE, text(StateName::Allocated.as_str()))
}

/// Takes down what clearing came to, if that is known.
fn note_clearing(change: Change, pre_clean: Option<&PreClean>) -> Change {
    match pre_clean {
        Some(pre_clean) => change.set(PRE_CLEAN, item::pre_clean::encode(pre_clean)),
        None => change,
    }
}

/// Only if the deletion of `epoch` is wanted and so many attempts were counted.
fn within_attempt(change: Change, epoch: Epoch, attempts: u32) -> Change {
    change
        .only_if(STATE, text(StateName::PendingDeletion.as_str()))
        .only_if(EPOCH, number(epoch.get()))
        .only_if(DELETION_ATTEMPTS, number(attempts))
}

/// The part of every change that leaves a tombstone, which is in no index.
fn bury(now: UnixSeconds, purge_at: UnixSeconds) -> Change {
    step(StateName::Deleted)
        .set(DELETED_AT, seconds(now))
        .set(TTL, seconds(purge_at))
        .remove(STATE_SHARD)
        .remove(STATE_SORT)
        .remove(DELETION_SHARD)
        .remove(PARKED_SHARD)
}
