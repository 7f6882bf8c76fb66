//! What somebody asks for during a sandbox's life: more time for its lease, and an operator's hand.

use super::attributes::{
    DELETION_ATTEMPTS, DELETION_CAUSE, DELETION_SHARD, EPOCH, EXPIRES_AT, HELD_LAB, HISTORY, LEASE_ANSWERED,
    LEASE_EPOCH, NAME, QUARANTINE_REASON, REQUESTED_AT, SINCE, STATE, STATE_SHARD, STATE_SORT, VERSION,
    number, requests, seconds, text,
};
use super::expression::Change;
use super::transitions::{enter, remember, step};
use super::{DynamoStore, item};
use crate::domain::{
    Candidate, Cause, DeletionCause, Extension, Lease, Order, RequestKey, Sandbox, SandboxId, StateName,
    UnixSeconds,
};
use crate::store::index::due_sort;
use crate::store::{StoreError, Write};

impl DynamoStore {
    pub(super) async fn write_answer(
        &self,
        id: &SandboxId,
        seen: &Lease,
        request: &RequestKey,
    ) -> Result<Write, StoreError> {
        // Neither version nor history: the state stays.
        let noted = seen.clone().with_answered(request);
        let change = Change::default()
            .set(LEASE_ANSWERED, requests(&noted.answered))
            .only_if(STATE, text(StateName::Allocated.as_str()))
            .only_if(LEASE_EPOCH, number(seen.epoch.get()))
            .only_if_requests(LEASE_ANSWERED, &seen.answered);
        self.update("note_answer", id, change).await
    }

    pub(super) async fn write_extension(
        &self,
        seen: &Sandbox,
        extension: &Extension,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        let Ok(extended) = seen.clone().extend(seen.version, extension, now) else {
            return self.lost(&seen.id).await;
        };
        // The version settles owner and times as well; the epoch stands here for whoever reads the request.
        let change = step(StateName::Allocated)
            .set(STATE_SORT, text(due_sort(extension.expires_at)))
            .set(EXPIRES_AT, seconds(extension.expires_at))
            .only_if(STATE, text(StateName::Allocated.as_str()))
            .only_if(EPOCH, number(extension.epoch.get()))
            .only_if(VERSION, number(seen.version.get()));
        self.update("extend", &seen.id, remember(change, seen, &extended)).await
    }

    pub(super) async fn write_quarantine(
        &self,
        seen: &Candidate,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        let Order { by, reason } = order;
        let entry =
            item::history_entry_by(StateName::Quarantined, Cause::Quarantined, now, Some(by), Some(reason));
        let change = enter(&seen.id, &seen.pool, StateName::Quarantined, self.write_shards().await?)
            .set(STATE_SORT, text(due_sort(now)))
            .set(SINCE, seconds(now))
            .set(QUARANTINE_REASON, text(reason.as_str()))
            .append(HISTORY, entry)
            .remove(HELD_LAB)
            .only_if_one_of(
                STATE,
                [StateName::Available, StateName::Allocated].map(|state| text(state.as_str())),
            )
            .only_if(VERSION, number(seen.version.get()));
        self.update("quarantine", &seen.id, change).await
    }

    pub(super) async fn write_unquarantine(
        &self,
        seen: &Sandbox,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        let Ok(back) = seen.clone().unquarantine(seen.version, order, now) else {
            return self.lost(&seen.id).await;
        };
        let change = enter(&seen.id, &seen.pool, StateName::Available, self.write_shards().await?)
            // Not the name in `seen`: a description may have been refreshed since, at the same version.
            .copy(STATE_SORT, NAME)
            .remove(SINCE)
            .remove(QUARANTINE_REASON)
            .only_if(STATE, text(StateName::Quarantined.as_str()))
            .only_if(VERSION, number(seen.version.get()));
        self.update("unquarantine", &seen.id, remember(change, seen, &back)).await
    }

    pub(super) async fn write_ordered_deletion(
        &self,
        seen: &Sandbox,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Write, StoreError> {
        let Ok(ending) = seen.clone().order_deletion(seen.version, order, now) else {
            return self.lost(&seen.id).await;
        };
        let change = step(StateName::PendingDeletion)
            .copy(STATE_SHARD, DELETION_SHARD)
            .set(STATE_SORT, text(due_sort(now)))
            .set(DELETION_CAUSE, text(item::deletion_cause(DeletionCause::Operator)))
            .set(REQUESTED_AT, seconds(now))
            .set(DELETION_ATTEMPTS, number(0_u32))
            .remove(HELD_LAB)
            .remove(SINCE)
            .remove(QUARANTINE_REASON)
            .only_if(STATE, text(seen.state.name().as_str()))
            .only_if(VERSION, number(seen.version.get()));
        self.update("order_deletion", &seen.id, remember(change, seen, &ending)).await
    }
}
