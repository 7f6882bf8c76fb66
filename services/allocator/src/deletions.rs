//! Operators' requests about deletions: list the queue and the parked ones, replay them, remove unreadable messages.
//!
//! A replay has three steps: write `pending_deletion` to the table, announce the work, remove the parked copy. The
//! first one decides. A repeat or the sweep completes whatever is interrupted after it.

use crate::{Allocator, decode, page_limit, parse_operator, store_fault};
use contract::deletions::unreadable_sequence;
use contract::subjects::UNREADABLE;
use contract::{
    DeletionRequest, DeletionView, DeletionWork, Fault, FaultCode, HistoryView, KeyRequest, ParkedReply,
    ParkedRequest, ParkedView, PreCleanView, QueuedView, RemoveReply, ReplayAllReply, ReplayAllRequest,
    ReplayOutcome, ReplayReply,
};
use domain::{Actor, Epoch, PoolName, Sandbox, SandboxId, State, StateName};
use futures_util::{StreamExt as _, stream};
use ports::bus::{BusError, ParkedKey, ParkedMessage, QueuedMessage, Request};
use ports::store::{StoreError, Write};
use runtime::telemetry::Chain;

mod queue;

/// Concurrent replays of one request.
pub(crate) const REPLAYS_AT_ONCE_MAX: usize = 8;

/// Which page of the parked deletions.
struct Which {
    pool: Option<PoolName>,
    reason: Option<String>,
    after: u64,
    limit: usize,
}

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the queue failed")]
    Bus(#[from] BusError),
    #[error("no deletion of it is wanted: it is {0}")]
    NotWanted(StateName),
    #[error("no creation of it is parked: it is {0}")]
    NotParked(StateName),
    #[error("its lease is over, so nothing waits for it; expiry ends it")]
    LeaseOver,
    #[error("the sandbox is being changed by others; repeat the same request")]
    Contended,
}

/// The result of starting a deletion.
enum Going {
    /// It is wanted and announced.
    Set(ReplayOutcome),
    /// The sandbox is deleted already.
    Over,
    /// The sandbox is in this state, and its deletion is not wanted.
    NotWanted(StateName),
}

// === impl Which ===

impl Which {
    fn parse(request: &ParkedRequest) -> Result<Self, Fault> {
        let ParkedRequest { pool, reason, cursor, limit } = request;
        let pool = pool
            .as_deref()
            .map(PoolName::parse)
            .transpose()
            .map_err(|problem| Fault::invalid("pool", problem))?;
        let limit = page_limit(*limit)?.into();
        Ok(Self { pool, reason: reason.clone(), after: cursor.unwrap_or_default(), limit })
    }

    fn is_wanted(&self, message: &ParkedMessage) -> bool {
        self.reason.as_ref().is_none_or(|reason| message.reason.contains(reason.as_str()))
    }
}

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn parked(&self, request: &Request) -> Result<ParkedReply, Fault> {
        let which = Which::parse(&decode::<ParkedRequest>(&request.body)?)?;
        let (page, cursor) = self.parked_page(request, &which).await?;
        let parked: Vec<_> = page.iter().map(parked_view).collect();
        Ok(ParkedReply { count: u64::try_from(parked.len()).unwrap_or(u64::MAX), parked, cursor })
    }

    pub(crate) async fn deletion(&self, request: &Request) -> Result<DeletionView, Fault> {
        let DeletionRequest { sandbox_id } = decode(&request.body)?;
        let sandbox = self.sandbox_of(request, &sandbox_id).await?;
        let upkeep = self.ports.upkeep.as_ref();
        let key = ParkedKey::Sandbox { pool: sandbox.pool.clone(), id: sandbox.id.clone() };
        let parked = upkeep.parked_of(&key).await.map_err(|error| bus_fault(request, &error))?;
        let queued =
            upkeep.queued_of(&sandbox.pool, &sandbox.id).await.map_err(|error| bus_fault(request, &error))?;
        Ok(view(&sandbox, &queued, parked.as_ref()))
    }

    pub(crate) async fn replay(&self, request: &Request) -> Result<ReplayReply, Fault> {
        let KeyRequest { key, by } = decode(&request.body)?;
        let by = parse_operator(request, by.as_deref())?;
        let outcome = match unreadable_sequence(&key) {
            Some(sequence) => {
                let key = ParkedKey::Unreadable(sequence);
                let found = self.ports.upkeep.parked_of(&key).await;
                let message = found.map_err(|error| bus_fault(request, &error))?.ok_or_else(not_parked)?;
                self.replay_message(&message, &by, request).await
            }
            None => {
                let sandbox = self.sandbox_of(request, &key).await?;
                self.replay_sandbox(&sandbox, &by, request).await
            }
        };
        let outcome = outcome.map_err(|error| replay_fault(request, &error))?;
        Ok(ReplayReply { key, outcome })
    }

    pub(crate) async fn replay_all(&self, request: &Request) -> Result<ReplayAllReply, Fault> {
        let (which, by) = decode::<ReplayAllRequest>(&request.body)?.into_parts();
        let (which, by) = (Which::parse(&which)?, parse_operator(request, by.as_deref())?);
        let (page, cursor) = self.parked_page(request, &which).await?;
        let outcomes: Vec<_> = stream::iter(page)
            .map(|message| self.replay_one_of_many(message, &by, request))
            .buffer_unordered(REPLAYS_AT_ONCE_MAX)
            .collect()
            .await;
        let mut reply = ReplayAllReply { cursor, ..ReplayAllReply::default() };
        for outcome in outcomes {
            match outcome {
                Ok(ReplayOutcome::Replayed) => reply.replayed += 1,
                Ok(ReplayOutcome::AlreadyOnTheWay) => reply.already_on_the_way += 1,
                Ok(ReplayOutcome::Gone) => reply.gone += 1,
                Ok(ReplayOutcome::Unreadable) => reply.unreadable += 1,
                Err(error) => {
                    reply.failed += 1;
                    tracing::warn!(error = %Chain(&error), "a parked deletion was not replayed");
                }
            }
        }
        Ok(reply)
    }

    /// Removes a parked message that cannot be read. The copy of a parked sandbox cannot be removed, because the sweep
    /// would restore it.
    pub(crate) async fn remove(&self, request: &Request) -> Result<RemoveReply, Fault> {
        let KeyRequest { key, by } = decode(&request.body)?;
        let by = parse_operator(request, by.as_deref())?;
        let Some(sequence) = unreadable_sequence(&key) else {
            self.sandbox_of(request, &key).await?;
            let message =
                "only messages that no worker can read may be removed; replay a parked sandbox instead";
            return Err(Fault::new(FaultCode::InvalidState, message));
        };
        let upkeep = self.ports.upkeep.as_ref();
        let found = upkeep.parked_of(&ParkedKey::Unreadable(sequence)).await;
        let removed = match found.map_err(|error| bus_fault(request, &error))? {
            Some(message) => {
                upkeep.unpark(message.sequence).await.map_err(|error| bus_fault(request, &error))?
            }
            None => false,
        };
        tracing::warn!(request.id = request.context.request_id, %by, key, removed, "removed by an operator");
        Ok(RemoveReply { key, removed })
    }

    async fn parked_page(
        &self,
        request: &Request,
        which: &Which,
    ) -> Result<(Vec<ParkedMessage>, Option<u64>), Fault> {
        let page = self.ports.upkeep.parked(which.pool.as_ref(), which.after, which.limit).await;
        let mut page = page.map_err(|error| bus_fault(request, &error))?;
        let is_full = page.len() >= which.limit;
        let cursor = page.last().map(|message| message.sequence).filter(|_| is_full);
        page.retain(|message| which.is_wanted(message));
        Ok((page, cursor))
    }

    pub(crate) async fn sandbox_of(&self, request: &Request, id: &str) -> Result<Sandbox, Fault> {
        let no_such = || Fault::new(FaultCode::NotFound, "there is no such sandbox");
        let id = SandboxId::parse(id).map_err(|_| no_such())?;
        let found = self.ports.store.sandbox(&id).await.map_err(|error| store_fault(request, &error))?;
        found.ok_or_else(no_such)
    }

    async fn replay_sandbox(
        &self,
        sandbox: &Sandbox,
        by: &Actor,
        request: &Request,
    ) -> Result<ReplayOutcome, ReplayError> {
        let outcome = match self.set_going(&sandbox.id, sandbox.epoch, by, request).await? {
            Going::Set(outcome) => outcome,
            Going::Over => ReplayOutcome::Gone,
            // An operator who names a sandbox in use made a mistake. The sweep removes leftover copies.
            Going::NotWanted(state) => return Err(ReplayError::NotWanted(state)),
        };
        let key = ParkedKey::Sandbox { pool: sandbox.pool.clone(), id: sandbox.id.clone() };
        if let Some(message) = self.ports.upkeep.parked_of(&key).await? {
            self.ports.upkeep.unpark(message.sequence).await?;
        }
        Ok(outcome)
    }

    async fn replay_one_of_many(
        &self,
        message: ParkedMessage,
        by: &Actor,
        request: &Request,
    ) -> Result<ReplayOutcome, ReplayError> {
        self.replay_message(&message, by, request).await
    }

    async fn replay_message(
        &self,
        message: &ParkedMessage,
        by: &Actor,
        request: &Request,
    ) -> Result<ReplayOutcome, ReplayError> {
        let Some((id, _, epoch)) = message.work.as_ref().and_then(|work| work.parts().ok()) else {
            return Ok(ReplayOutcome::Unreadable);
        };
        let outcome = match self.set_going(&id, epoch, by, request).await? {
            Going::Set(outcome) => outcome,
            Going::Over | Going::NotWanted(_) => ReplayOutcome::Gone,
        };
        self.ports.upkeep.unpark(message.sequence).await?;
        Ok(outcome)
    }

    /// Makes the deletion of that sandbox wanted and announced, if it is parked or wanted.
    async fn set_going(
        &self,
        id: &SandboxId,
        epoch: Epoch,
        by: &Actor,
        request: &Request,
    ) -> Result<Going, ReplayError> {
        let now = self.ports.clock.now();
        let mut written = self.ports.store.replay_deletion(id, epoch, by, now).await?;
        // Parked at another epoch than in the copy: the table is right.
        if let Write::Lost(Some(found)) = &written
            && matches!(found.state, State::DeletionFailed(_))
        {
            let epoch = found.epoch;
            written = self.ports.store.replay_deletion(id, epoch, by, now).await?;
        }
        let (sandbox, outcome) = match written {
            Write::Done(sandbox) => {
                self.ports.recorder.note(&sandbox, Some(&request.context.request_id));
                tracing::info!(
                    request.id = request.context.request_id,
                    sandbox.id = id.as_str(),
                    %by,
                    "the deletion of {id} is tried again",
                );
                (sandbox, ReplayOutcome::Replayed)
            }
            Write::Lost(Some(found)) if matches!(found.state, State::PendingDeletion(_)) => {
                (found, ReplayOutcome::AlreadyOnTheWay)
            }
            Write::Lost(Some(found)) if !matches!(found.state, State::Deleted(_)) => {
                return Ok(Going::NotWanted(found.state.name()));
            }
            Write::Lost(_) => return Ok(Going::Over),
        };
        if let Some(work) = DeletionWork::of(&sandbox) {
            self.ports.deletions.announce(&work).await?;
        }
        Ok(Going::Set(outcome))
    }
}

fn parked_view(message: &ParkedMessage) -> ParkedView {
    let (key, pool) = match &message.key {
        ParkedKey::Sandbox { pool, id } => (id.to_string(), Some(pool.to_string())),
        ParkedKey::Unreadable(sequence) => (format!("{UNREADABLE}.{sequence}"), None),
    };
    ParkedView {
        key,
        pool,
        reason: message.reason.clone(),
        attempts: message.attempts,
        parked_at: message.parked_at.get(),
    }
}

fn view(sandbox: &Sandbox, queued: &[QueuedMessage], parked: Option<&ParkedMessage>) -> DeletionView {
    let deletion = sandbox.deletion();
    let queued = queued.iter().map(|message| QueuedView {
        put_off: message.is_put_off,
        since: message.since.get(),
        due_at: message.due_at.map(domain::UnixSeconds::get),
    });
    DeletionView {
        sandbox_id: sandbox.id.to_string(),
        name: sandbox.name.to_string(),
        pool: sandbox.pool.to_string(),
        status: sandbox.state.name().into(),
        requested_at: deletion.map(|deletion| deletion.requested_at.get()),
        attempts: deletion.map_or(0, |deletion| deletion.attempts),
        last_error: deletion.and_then(|deletion| deletion.last_error.clone()),
        pre_clean: deletion.and_then(|deletion| deletion.preparation.as_ref()).map(PreCleanView::from),
        queued: queued.collect(),
        parked: parked.map(parked_view),
        history: HistoryView::all_of(sandbox),
    }
}

fn not_parked() -> Fault {
    Fault::new(FaultCode::NotFound, "nothing is parked under that key")
}

pub(crate) fn replay_fault(request: &Request, error: &ReplayError) -> Fault {
    match error {
        ReplayError::Store(error) => store_fault(request, error),
        ReplayError::Bus(error) => bus_fault(request, error),
        ReplayError::NotWanted(_) | ReplayError::NotParked(_) | ReplayError::LeaseOver => {
            Fault::new(FaultCode::InvalidState, error.to_string())
        }
        ReplayError::Contended => Fault::new(FaultCode::Contended, error.to_string()),
    }
}

pub(crate) fn bus_fault(request: &Request, error: &BusError) -> Fault {
    tracing::warn!(
        request.id = request.context.request_id,
        request.verb = request.verb.as_str(),
        error = %Chain(error),
        "the queue failed"
    );
    Fault::new(FaultCode::UpstreamUnavailable, "the message queue does not answer; repeat the same request")
}

#[cfg(test)]
pub(crate) mod tests;
