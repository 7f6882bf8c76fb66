//! The transitions as methods of a store.

use super::{Store, StoreError, Write};
use domain::{
    Actor, Candidate, Description, Descriptor, Epoch, Extension, Grant, Lease, Order, OwnerId, Preparation,
    RequestKey, RuntimeChange, Sandbox, SandboxId, StateName, Transition, UnixSeconds, Version,
};

/// Every state in which the name of a sandbox is not its sort key.
const NOT_AVAILABLE: &[StateName] = &[
    StateName::Allocated,
    StateName::PendingDeletion,
    StateName::DeletionFailed,
    StateName::Stale,
    StateName::Quarantined,
    StateName::Deleted,
    StateName::Provisioning,
    StateName::ProvisionFailed,
];

/// Transitions whose first argument is the id alone.
macro_rules! by_id {
    ($($name:ident($($argument:ident: $type:ty),*);)+) => {
        $(
            #[doc = concat!("Applies [`Transition::", stringify!($name), "`].")]
            ///
            /// # Errors
            /// The store could not say what happened.
            pub async fn $name(&self, id: &SandboxId, $($argument: $type),*) -> Result<Write, StoreError> {
                self.apply(id, &Transition::$name($($argument),*)).await
            }
        )+
    };
}

/// Transitions of a sandbox that was read before.
macro_rules! by_seen {
    ($($name:ident($seen:ty $(, $argument:ident: $type:ty)*);)+) => {
        $(
            #[doc = concat!("Applies [`Transition::", stringify!($name), "`].")]
            ///
            /// # Errors
            /// The store could not say what happened.
            pub async fn $name(&self, seen: &$seen $(, $argument: $type)*) -> Result<Write, StoreError> {
                self.apply(&seen.id, &Transition::$name(seen $(, $argument)*)).await
            }
        )+
    };
}

impl dyn Store + '_ {
    by_id! {
        note_answer(seen: &Lease, request: &RequestKey);
        release(owner: &OwnerId, epoch: Option<Epoch>, by: Option<&Actor>, now: UnixSeconds);
        expire(epoch: Epoch, ended_by: UnixSeconds, now: UnixSeconds);
        note_attempt(epoch: Epoch, attempts: u32, error: &str, preparation: Option<&Preparation>);
        note_preparation(epoch: Epoch, attempts: u32, preparation: &Preparation);
        finish_deletion(epoch: Epoch, now: UnixSeconds, purge_at: UnixSeconds, preparation: Option<&Preparation>);
        park_deletion(epoch: Epoch, now: UnixSeconds);
        replay_deletion(epoch: Epoch, by: &Actor, now: UnixSeconds);
    }

    by_seen! {
        extend(Sandbox, extension: &Extension, now: UnixSeconds);
        note_runtime(Sandbox, change: RuntimeChange, by: Option<&Actor>, now: UnixSeconds);
        quarantine(Candidate, order: &Order, now: UnixSeconds);
        unquarantine(Sandbox, order: &Order, now: UnixSeconds);
        order_deletion(Sandbox, order: &Order, now: UnixSeconds);
        mark_missing(Sandbox, now: UnixSeconds);
        mark_found(Sandbox, now: UnixSeconds);
        forget(Sandbox, by: Option<&Actor>, now: UnixSeconds, purge_at: UnixSeconds);
        relist(Sandbox, now: UnixSeconds);
        note_provision_failure(Sandbox, attempts: u32, error: &str);
        finish_provision(Sandbox, descriptor: &Descriptor, now: UnixSeconds);
        park_provision(Sandbox, now: UnixSeconds);
        replay_provision(Sandbox, by: &Actor, ended_by: UnixSeconds, now: UnixSeconds);
        retire(Sandbox, now: UnixSeconds);
    }

    /// Applies [`Transition::grant`].
    ///
    /// # Errors
    /// The store could not say what happened.
    pub async fn grant(&self, grant: &Grant) -> Result<Write, StoreError> {
        self.apply(&grant.candidate.id, &Transition::grant(grant)).await
    }

    /// Applies [`Transition::describe`]. A free sandbox needs one write; its name is also its sort key. For any other,
    /// that write fails and a second one follows. The version implies the state, so the two cannot both apply.
    ///
    /// # Errors
    /// The store could not say what happened.
    pub async fn describe(
        &self,
        id: &SandboxId,
        version: Version,
        description: &Description,
    ) -> Result<Write, StoreError> {
        let free = Transition::describe(&[StateName::Available], version, description);
        match self.apply(id, &free).await? {
            Write::Lost(Some(found)) if found.version == version => {
                self.apply(id, &Transition::describe(NOT_AVAILABLE, version, description)).await
            }
            outcome => Ok(outcome),
        }
    }
}
