//! Steps that somebody asks for during a sandbox's life: more time for its lease, and an operator's hand.

use super::{InvalidTransition, Sandbox, State};
use crate::domain::deletion::DeletionCause;
use crate::domain::history::{Cause, Order};
use crate::domain::ids::{RequestKey, Version};
use crate::domain::lease::{Extension, Lease};
use crate::domain::time::UnixSeconds;

// === impl Sandbox ===

impl Sandbox {
    /// allocated → allocated, with a later end.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it moved on since `version`, is not held by that owner in that lease, the lease is
    /// over, or it lasts as long already.
    pub fn extend(
        self,
        version: Version,
        extension: &Extension,
        now: UnixSeconds,
    ) -> Result<Self, InvalidTransition> {
        let Extension { owner, epoch, ended_by, expires_at, by } = extension;
        match &self.state {
            State::Allocated(lease)
                if self.version == version
                    && lease.claim.owner == *owner
                    && lease.epoch == *epoch
                    && lease.expires_at > *ended_by
                    && lease.expires_at < *expires_at =>
            {
                let lease = Lease { expires_at: *expires_at, ..lease.clone() };
                Ok(self.step_by(State::Allocated(lease), Cause::Extended, now, by.as_ref()))
            }
            _ => Err(self.refuse("extended")),
        }
    }

    /// Notes that the live lease, as it was seen, is the answer to one more request; the state stays, so neither version
    /// nor history grow.
    ///
    /// # Errors
    /// [`InvalidTransition`] when another lease holds it or none, or other requests were noted meanwhile.
    pub fn note_answer(self, seen: &Lease, request: &RequestKey) -> Result<Self, InvalidTransition> {
        match &self.state {
            State::Allocated(lease) if lease.epoch == seen.epoch && lease.answered == seen.answered => {
                let lease = lease.clone().with_answered(request);
                Ok(Self { state: State::Allocated(lease), ..self })
            }
            _ => Err(self.refuse("the answer")),
        }
    }

    /// available | allocated → quarantined. A lease ends with it.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is neither free nor held, or moved on since `version`.
    pub fn quarantine(
        self,
        version: Version,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Self, InvalidTransition> {
        match &self.state {
            State::Available | State::Allocated(_) if self.version == version => {
                let reason = order.reason.clone();
                let state = State::Quarantined { since: now, reason, lease: self.lease().cloned() };
                Ok(self.step(state, Cause::Quarantined, now).ordered(order))
            }
            _ => Err(self.refuse("quarantined")),
        }
    }

    /// quarantined → available, if nobody ever held it.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is not quarantined, was held, or moved on since `version`.
    pub fn unquarantine(
        self,
        version: Version,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Self, InvalidTransition> {
        match &self.state {
            State::Quarantined { since: _, reason: _, lease: None } if self.version == version => {
                Ok(self.step(State::Available, Cause::Unquarantined, now).ordered(order))
            }
            _ => Err(self.refuse("put back into use")),
        }
    }

    /// allocated | quarantined → `pending_deletion`, because an operator says so.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is neither held nor quarantined, or moved on since `version`.
    pub fn order_deletion(
        self,
        version: Version,
        order: &Order,
        now: UnixSeconds,
    ) -> Result<Self, InvalidTransition> {
        match &self.state {
            State::Allocated(_) | State::Quarantined { .. } if self.version == version => {
                Ok(self.end_lease(DeletionCause::Operator, None, now).ordered(order))
            }
            _ => Err(self.refuse("deleted by order")),
        }
    }

    /// Says in the latest history entry who ordered it and why.
    fn ordered(mut self, order: &Order) -> Self {
        if let Some(entry) = self.history.last_mut() {
            let Order { by, reason } = order;
            (entry.by, entry.reason) = (Some(by.clone()), Some(reason.clone()));
        }
        self
    }
}

#[cfg(test)]
mod tests;
