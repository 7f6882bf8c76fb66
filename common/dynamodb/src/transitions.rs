//! Transitions: a guard becomes a condition expression, a change an update expression.
//!
//! A lost update returns the item that it found. So does an update that succeeded, lost its reply and was sent again by
//! the SDK: a grant then finds the sandbox allocated to its own owner and key, a release finds the deletion that it
//! requested. Callers have to check what was found anyway, because a concurrent request of theirs has the same effect.

use super::attributes::{
    CLAIM_KEY, CLAIMED_VERSION, DELETED_AT, DELETION_ATTEMPTS, DELETION_CAUSE, DELETION_SHARD, DESCRIPTOR,
    EPOCH, EXPIRES_AT, GRANTED_AT, GROUP, GROUP_SORT, HELD_LAB, HISTORY, Item, LAB, LAST_ERROR,
    LEASE_ANSWERED, LEASE_ENV, LEASE_EPOCH, LEASE_REQUEST, NAME, OWNER, PARKED_SHARD, PRE_CLEAN,
    PROVISION_ATTEMPTS, PROVISION_ERROR, QUARANTINE_REASON, RELISTS, REQUESTED_AT, SFDC_ACCOUNT_ID, SINCE,
    STATE, STATE_SHARD, STATE_SORT, TTL, VERSION, number, requests, seconds, text,
};
use super::expression::Update;
use super::item::descriptor_attributes;
use super::{DynamoStore, item, unavailable};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use domain::{
    Change, Description, Descriptor, Grant, Guard, LeaseGuard, PoolName, Preparation, ProvisionStep,
    STILL_LISTED, SandboxId, StateName, Transition, UnixSeconds,
};
use ports::store::index::{due_sort, lab_group, shard_of, state_shard};
use ports::store::{StoreError, Write};

impl DynamoStore {
    pub(super) async fn write_transition(
        &self,
        id: &SandboxId,
        transition: &Transition,
    ) -> Result<Write, StoreError> {
        let shards = match transition.change.pool() {
            Some(_) => self.write_shards().await?,
            None => 0,
        };
        match self.send(transition.name, id, translate(id, transition, shards)).await? {
            Sent::Done(item) => Ok(Write::Done(Box::new(self.decode(&item)?))),
            Sent::Refused(None) => Ok(Write::Lost(None)),
            Sent::Refused(Some(found)) => match (self.decode(&found), &transition.change) {
                // The sandbox is not free at that version. Only a lease of this very claim has to be reported.
                (Err(_), Change::Allocate(grant)) if !item::may_be_held_by(&found, grant) => {
                    Ok(Write::Lost(None))
                }
                (found, _) => Ok(Write::Lost(Some(Box::new(found?)))),
            },
        }
    }

    async fn send(
        &self,
        operation: &'static str,
        id: &SandboxId,
        update: Update,
    ) -> Result<Sent, StoreError> {
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item::key(id)))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match update.apply(request).send().await {
            Ok(updated) => Ok(Sent::Done(updated.attributes.unwrap_or_default())),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    Ok(Sent::Refused(refused.item().filter(|found| !found.is_empty()).cloned()))
                }
                _ => Err(unavailable(operation, error)),
            },
        }
    }
}

/// The result of an update, with the new or the found item.
enum Sent {
    Done(Item),
    Refused(Option<Item>),
}

/// The update of a transition. `shards` is the number of shards for index writes; it is used only if the change names a
/// pool.
pub(super) fn translate(id: &SandboxId, transition: &Transition, shards: u16) -> Update {
    let Transition { name: _, guard, change, entry, full_history } = transition;
    let mut update = condition(Update::default(), guard);
    if let Some(state) = change.leads_to() {
        update = update.set(STATE, text(state.as_str()));
    }
    if let (Some(entry), Some(state)) = (entry, change.leads_to()) {
        let added = item::history_entry(state, entry);
        update = update.set_next(VERSION, VERSION);
        update = match full_history {
            // The oldest entry is dropped.
            Some(seen) => {
                let kept = seen.iter().skip(1).map(item::stored_entry);
                update.set(HISTORY, AttributeValue::L(kept.chain([added]).collect()))
            }
            None => update.append(HISTORY, added),
        };
    }
    let shard = shard_of(id, shards);
    let of_state = |pool: &PoolName, state| text(state_shard(pool, state, shard));
    if let (Some(pool), Some(state)) = (change.pool(), change.leads_to()) {
        update = update.set(STATE_SHARD, of_state(pool, state));
    }
    match change {
        Change::Allocate(grant) => allocate(update, grant),
        Change::Answer(answered) => update.set(LEASE_ANSWERED, requests(answered)),
        Change::Extend { expires_at } => {
            update.set(STATE_SORT, text(due_sort(*expires_at))).set(EXPIRES_AT, seconds(*expires_at))
        }
        Change::NoteRuntime(descriptor) => set_descriptor(update, descriptor),
        // Copies the current name, because a description may have been refreshed since at the same version.
        Change::Free { pool: _ } => leave(update.copy(STATE_SORT, NAME), guard),
        Change::GoStale { pool: _, since } => {
            update.set(STATE_SORT, text(due_sort(*since))).set(SINCE, seconds(*since))
        }
        Change::Quarantine { pool: _, since, reason } => end_lease(update)
            .set(STATE_SORT, text(due_sort(*since)))
            .set(SINCE, seconds(*since))
            .set(QUARANTINE_REASON, text(reason.as_str())),
        // The lease stays on the item: it records the last owner.
        Change::RequestDeletion { cause, requested_at } => end_lease(leave(update, guard))
            .copy(STATE_SHARD, DELETION_SHARD)
            .set(STATE_SORT, text(due_sort(*requested_at)))
            .set(DELETION_CAUSE, text(item::deletion_cause(*cause)))
            .set(REQUESTED_AT, seconds(*requested_at))
            .set(DELETION_ATTEMPTS, number(0_u32)),
        Change::CountAttempt { attempts, error, preparation } => {
            note_preparation(update, preparation.as_ref())
                .set(DELETION_ATTEMPTS, number(*attempts))
                .set(LAST_ERROR, text(error))
        }
        Change::NotePreparation(preparation) => note_preparation(update, Some(preparation)),
        Change::FinishDeletion { deleted_at, purge_at, preparation } => {
            note_preparation(write_tombstone(update, *deleted_at, *purge_at), preparation.as_ref())
        }
        Change::Forget { deleted_at, purge_at } => {
            leave(write_tombstone(update, *deleted_at, *purge_at), guard)
        }
        // The sort key stays, because both states sort by the time of the request.
        Change::ParkDeletion => update.copy(STATE_SHARD, PARKED_SHARD),
        Change::ReplayDeletion => {
            update.copy(STATE_SHARD, DELETION_SHARD).set(DELETION_ATTEMPTS, number(0_u32)).remove(RELISTS)
        }
        Change::Relist { pool, requested_at, relists } => update
            .set(STATE_SORT, text(due_sort(*requested_at)))
            .set(DELETION_SHARD, of_state(pool, StateName::PendingDeletion))
            .set(PARKED_SHARD, of_state(pool, StateName::DeletionFailed))
            .set(DELETION_ATTEMPTS, number(0_u32))
            .set(RELISTS, number(*relists))
            .set(LAST_ERROR, text(STILL_LISTED))
            .remove(DELETED_AT)
            .remove(TTL),
        Change::Describe(description) => describe(update, description, guard),
        Change::Provision(step) => provision(update, step),
    }
}

fn provision(update: Update, step: &ProvisionStep) -> Update {
    match step {
        ProvisionStep::Finish { pool: _, descriptor, expires_at } => {
            let update = set_descriptor(update, descriptor);
            match expires_at {
                Some(expires_at) => update.set(STATE_SORT, text(due_sort(*expires_at))),
                None => update.copy(STATE_SORT, NAME),
            }
        }
        ProvisionStep::NoteFailure { attempts, error } => {
            update.set(PROVISION_ATTEMPTS, number(*attempts)).set(PROVISION_ERROR, text(error))
        }
        // The sort key stays, because both states sort by the time of the request.
        ProvisionStep::Park { pool: _ } => update,
        ProvisionStep::Replay { pool: _, requested_at } => update
            .set(STATE_SORT, text(due_sort(*requested_at)))
            .set(REQUESTED_AT, seconds(*requested_at))
            .set(PROVISION_ATTEMPTS, number(0_u32)),
    }
}

fn condition(mut update: Update, guard: &Guard) -> Update {
    let Guard { states, version, epoch, lease, attempts, is_unused, has_deletion } = guard;
    update = update.only_if_one_of(STATE, states.iter().map(|state| text(state.as_str())));
    let equal = [
        (VERSION, version.map(|version| number(version.get()))),
        (EPOCH, epoch.map(|epoch| number(epoch.get()))),
        (DELETION_ATTEMPTS, attempts.map(number)),
        (OWNER, lease.owner.as_ref().map(|owner| text(owner.as_str()))),
        (LEASE_EPOCH, lease.epoch.map(|epoch| number(epoch.get()))),
    ];
    for (attribute, value) in equal {
        if let Some(value) = value {
            update = update.only_if(attribute, value);
        }
    }
    let LeaseGuard { owner: _, epoch: _, ended_by, ends_after, ends_before, answered } = lease;
    for (comparison, moment) in [("<=", ended_by), (">", ends_after), ("<", ends_before)] {
        if let Some(moment) = moment {
            update = update.only_if_compared(EXPIRES_AT, comparison, seconds(*moment));
        }
    }
    if let Some(answered) = answered {
        update = update.only_if_requests(LEASE_ANSWERED, answered);
    }
    if *is_unused {
        update = update.only_if_absent(OWNER);
    }
    if *has_deletion {
        update = update.only_if_present(DELETION_CAUSE);
    }
    update
}

fn allocate(update: Update, grant: &Grant) -> Update {
    let Grant { claim, candidate, lab, by: _, request, granted_at, expires_at, options } = grant;
    let mut update = update
        .set(STATE_SORT, text(due_sort(*expires_at)))
        .set(OWNER, text(claim.owner.as_str()))
        .set(CLAIM_KEY, text(claim.key.as_str()))
        .set_next(LEASE_EPOCH, EPOCH)
        .set_next(EPOCH, EPOCH)
        .set(CLAIMED_VERSION, number(candidate.version.get()))
        .set(GRANTED_AT, seconds(*granted_at))
        .set(EXPIRES_AT, seconds(*expires_at));
    if let Some(request) = request {
        update = update.set(LEASE_REQUEST, text(request.as_str()));
    }
    for (attribute, value) in options.iter().flat_map(|options| item::option_attributes(options)) {
        update = update.set(attribute, value);
    }
    match lab {
        Some(lab) => update
            .set(LAB, text(lab.as_str()))
            .set(HELD_LAB, text(lab.as_str()))
            .set(GROUP, text(lab_group(lab)))
            .set(GROUP_SORT, text(due_sort(*granted_at))),
        None => leave_group(update),
    }
}

/// Nothing holds the sandbox any more.
fn end_lease(update: Update) -> Update {
    leave_group(update.remove(HELD_LAB).remove(LEASE_ENV))
}

/// A build before `GroupIndex` may have left the group of an earlier lease.
fn leave_group(update: Update) -> Update {
    update.remove(GROUP).remove(GROUP_SORT)
}

/// Removes the attributes of the states that the sandbox may come from.
fn leave(mut update: Update, guard: &Guard) -> Update {
    let leaves = |state| guard.states.contains(&state);
    if leaves(StateName::Stale) || leaves(StateName::Quarantined) {
        update = update.remove(SINCE);
    }
    if leaves(StateName::Quarantined) {
        update = update.remove(QUARANTINE_REASON);
    }
    update
}

fn note_preparation(update: Update, preparation: Option<&Preparation>) -> Update {
    match preparation {
        Some(preparation) => update.set(PRE_CLEAN, item::preparation::encode(preparation)),
        None => update,
    }
}

/// A tombstone is in no index.
fn write_tombstone(update: Update, deleted_at: UnixSeconds, purge_at: UnixSeconds) -> Update {
    leave_group(update)
        .set(DELETED_AT, seconds(deleted_at))
        .set(TTL, seconds(purge_at))
        .remove(STATE_SHARD)
        .remove(STATE_SORT)
        .remove(DELETION_SHARD)
        .remove(PARKED_SHARD)
}

fn describe(update: Update, description: &Description, guard: &Guard) -> Update {
    let Description { name, descriptor } = description;
    let mut update = update.set(NAME, text(name.as_str()));
    // The name of a free sandbox is also its sort key.
    if guard.states == [StateName::Available] {
        update = update.set(STATE_SORT, text(name.as_str()));
    }
    set_descriptor(update, descriptor)
}

fn set_descriptor(update: Update, descriptor: &Descriptor) -> Update {
    let (account, others) = descriptor_attributes(descriptor);
    [(SFDC_ACCOUNT_ID, account), (DESCRIPTOR, others)].into_iter().fold(
        update,
        |update, (attribute, value)| match value {
            Some(value) => update.set(attribute, value),
            None => update.remove(attribute),
        },
    )
}
