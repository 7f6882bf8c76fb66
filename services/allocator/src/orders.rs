//! Operator actions: quarantine a sandbox, end its quarantine, or have it deleted. Each is one conditional write that
//! starts from what was just read, with actor and reason in the history; a repeat finds it done.

use crate::{Allocator, decode, parse_operator, store_fault};
use contract::{Fault, FaultCode, OrderReply, OrderRequest};
use domain::{Deletion, DeletionCause, Order, Reason, Sandbox, State, StateName, UnixSeconds};
use ports::bus::Request;
use ports::store::{Identity, Store, StoreError, Write};

/// Attempts of one request; each further one means that another writer changed the sandbox in between.
const TRIES_MAX: usize = 4;

/// An operator action.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OperatorAction {
    Quarantine,
    Unquarantine,
    ForceRelease,
}

// === impl OperatorAction ===

impl OperatorAction {
    /// Whether an earlier attempt of the same order has been applied to `sandbox`.
    fn is_done(self, sandbox: &Sandbox) -> bool {
        match self {
            Self::Quarantine => sandbox.state.name() == StateName::Quarantined,
            Self::Unquarantine => {
                let is_ordered = |deletion: &Deletion| deletion.cause == DeletionCause::Operator;
                sandbox.state.name() == StateName::Available || sandbox.deletion().is_some_and(is_ordered)
            }
            Self::ForceRelease => sandbox.deletion().is_some(),
        }
    }

    /// What is written for `sandbox`. One that was held never returns to use, so the end of its quarantine is its deletion.
    fn step(self, sandbox: &Sandbox) -> Self {
        let was_held = matches!(&sandbox.state, State::Quarantined { lease: Some(_), .. });
        if self == Self::Unquarantine && was_held { Self::ForceRelease } else { self }
    }

    /// Whether the order is possible for `sandbox`.
    ///
    /// # Errors
    /// [`Fault`] with the required state.
    fn check(self, sandbox: &Sandbox) -> Result<(), Fault> {
        let needed = match (self, &sandbox.state) {
            (Self::Quarantine | Self::ForceRelease, State::Allocated(_))
            | (Self::ForceRelease, State::Provisioning(_) | State::ProvisionFailed(_))
            | (Self::Quarantine, State::Available)
            | (Self::Unquarantine | Self::ForceRelease, State::Quarantined { .. }) => return Ok(()),
            (Self::Quarantine, _) => "only a sandbox that is free or held can be quarantined",
            (Self::Unquarantine, _) => "this sandbox is not quarantined",
            (Self::ForceRelease, _) => "only a sandbox that is held or quarantined can be released",
        };
        Err(Fault::new(FaultCode::InvalidState, needed))
    }
}

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn quarantine(&self, request: &Request) -> Result<OrderReply, Fault> {
        self.perform(OperatorAction::Quarantine, request).await
    }

    pub(crate) async fn unquarantine(&self, request: &Request) -> Result<OrderReply, Fault> {
        self.perform(OperatorAction::Unquarantine, request).await
    }

    pub(crate) async fn force_release(&self, request: &Request) -> Result<OrderReply, Fault> {
        self.perform(OperatorAction::ForceRelease, request).await
    }

    async fn perform(&self, action: OperatorAction, request: &Request) -> Result<OrderReply, Fault> {
        let OrderRequest { sandbox_id, reason, by } = decode(&request.body)?;
        let reason = Reason::parse(&reason).map_err(|problem| Fault::invalid("reason", problem))?;
        let order = Order { by: parse_operator(request, by.as_deref())?, reason };
        let deadline = self.deadline_of(request);
        let mut seen = self.sandbox_of(request, &sandbox_id).await?;
        for _ in 0..TRIES_MAX {
            if action.is_done(&seen) {
                return Ok(OrderReply::of(&seen));
            }
            action.check(&seen)?;
            let step = action.step(&seen);
            if step == OperatorAction::Unquarantine {
                self.check_account(request, &seen).await?;
            }
            let store = self.writer(&deadline).map_err(|late| late.fault(request))?;
            let written = write_order(store, step, &seen, &order, self.ports.clock.now()).await;
            seen = match written.map_err(|error| store_fault(request, &error))? {
                Write::Done(changed) => {
                    // A deletion is announced as well; the other orders only publish events.
                    self.announce(&changed, Some(&request.context.request_id));
                    tracing::warn!(
                        request.id = request.context.request_id,
                        sandbox.id = sandbox_id,
                        sandbox.state = changed.state.name().as_str(),
                        reason = order.reason.as_str(),
                        by = %order.by,
                        "{sandbox_id} is {} by order of {}",
                        changed.state.name(),
                        order.by,
                    );
                    return Ok(OrderReply::of(&changed));
                }
                Write::Lost(Some(found)) => *found,
                Write::Lost(None) => return Err(Fault::new(FaultCode::NotFound, "there is no such sandbox")),
            };
        }
        Err(Fault::new(
            FaultCode::Contended,
            "the sandbox is being changed by others; repeat the same request",
        ))
    }

    /// Refuses to return a record to use whose account another record represents or represented.
    async fn check_account(&self, request: &Request, seen: &Sandbox) -> Result<(), Fault> {
        let others = self.others_of_account(seen).await.map_err(|error| store_fault(request, &error))?;
        match others
            .into_iter()
            .find(|other| !matches!(other.state, State::Stale { .. } | State::Quarantined { .. }))
        {
            Some(other) => {
                let id = &other.id;
                let needed = format!("sandbox {id} is the same account of the provider; release this one");
                Err(Fault::new(FaultCode::InvalidState, needed))
            }
            None => Ok(()),
        }
    }

    async fn others_of_account(&self, seen: &Sandbox) -> Result<Vec<Sandbox>, StoreError> {
        let store = &self.ports.store;
        let mut others = Vec::new();
        let identity = store.identity(&seen.external_id).await?;
        for id in identity.iter().flat_map(Identity::named).filter(|id| **id != seen.id) {
            let found = store.sandbox(id).await?;
            others.extend(found.filter(|other| other.external_id == seen.external_id));
        }
        Ok(others)
    }
}

async fn write_order(
    store: &dyn Store,
    action: OperatorAction,
    seen: &Sandbox,
    order: &Order,
    now: UnixSeconds,
) -> Result<Write, StoreError> {
    match action {
        OperatorAction::Quarantine => store.quarantine(&seen.candidate(), order, now).await,
        OperatorAction::Unquarantine => {
            // Noted first, as by a sync, so that no worker calls the pool exhausted before the index shows the sandbox.
            store.note_supply(&seen.pool, now).await?;
            store.unquarantine(seen, order, now).await
        }
        OperatorAction::ForceRelease => store.order_deletion(seen, order, now).await,
    }
}

#[cfg(test)]
mod tests;
