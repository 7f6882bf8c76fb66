//! The operators' switch of all deletions: changed in the table first, then in the bucket that reapers read.

use crate::deletions::bus_fault;
use crate::{Allocator, decode, store_fault};
use contract::{Fault, FaultCode, Pause, PauseRequest, ResumeReply, ResumeRequest};
use ports::bus::Request;
use runtime::switch::{SwitchError, Switchboard};
use std::sync::Arc;

/// The actor if the request names none.
const DEFAULT_ACTOR: &str = "operator";

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn pause(&self, request: &Request) -> Result<Pause, Fault> {
        let asked: PauseRequest = decode(&request.body)?;
        let pause = asked
            .at(self.ports.clock.now(), DEFAULT_ACTOR)
            .map_err(|(field, problem)| Fault::invalid(field, problem))?;
        self.in_time(request, self.switchboard().pause(&pause)).await?;
        tracing::warn!(
            request.id = request.context.request_id,
            reason = pause.reason,
            "deletions are paused by {}",
            pause.by
        );
        Ok(pause)
    }

    pub(crate) async fn resume(&self, request: &Request) -> Result<ResumeReply, Fault> {
        let asked: ResumeRequest = decode(&request.body)?;
        let by = asked.who(DEFAULT_ACTOR).map_err(|(field, problem)| Fault::invalid(field, problem))?;
        let was_paused = self.in_time(request, self.switchboard().resume(&by)).await?;
        tracing::warn!(request.id = request.context.request_id, "deletions are resumed by {by}");
        Ok(ResumeReply { was_paused })
    }

    fn switchboard(&self) -> Switchboard {
        let ports = &self.ports;
        Switchboard::new(Arc::clone(&ports.store), Arc::clone(&ports.switch), Arc::clone(&ports.clock))
    }

    /// Changes the switch before the caller's deadline, or not at all.
    async fn in_time<T>(
        &self,
        request: &Request,
        turn: impl Future<Output = Result<T, SwitchError>>,
    ) -> Result<T, Fault> {
        let deadline = self.deadline_of(request);
        self.writer(&deadline).map_err(|late| late.fault(request))?;
        match tokio::time::timeout_at(deadline.at().into(), turn).await {
            Ok(turned) => turned.map_err(|error| switch_fault(request, &error)),
            Err(_) => Err(crate::deadline::Late.fault(request)),
        }
    }
}

fn switch_fault(request: &Request, error: &SwitchError) -> Fault {
    match error {
        SwitchError::Store(error) => store_fault(request, error),
        SwitchError::Bus(error) => bus_fault(request, error),
        SwitchError::Contended => Fault::new(
            FaultCode::Contended,
            "other processes are changing the switch; repeat the same request",
        ),
    }
}

#[cfg(test)]
mod tests;
