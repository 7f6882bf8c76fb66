//! The line towards the provider: a state that every taker moves on, and the operators' switch.

use super::{Call, MemoryBus};
use crate::bus::line::LineRules;
use crate::bus::{BusError, CallEnd, Confirmed, DeletionLine, LineView, Pace, Ticket, Told, Turn};
use crate::contract::{DeletionsStatus, LineState, Pause};
use crate::domain::SandboxId;
use async_trait::async_trait;

/// The line and its switch.
#[derive(Debug, Default)]
pub(super) struct Line {
    state: LineState,
    /// When the state was written.
    written_ms: u64,
    pause: Option<Pause>,
}

#[async_trait]
impl Pace for MemoryBus {
    async fn take(&self) -> Result<Turn, BusError> {
        let rules = self.shared.config.line;
        self.call(Call::TakePace, |inside, now_ms| {
            let (turn, next) = rules.take(&inside.line.seen(&rules), inside.line.pause.as_ref(), now_ms);
            inside.line.move_on(next, now_ms);
            turn
        })
    }

    async fn confirm(&self, ticket: Ticket) -> Result<Confirmed, BusError> {
        let rules = self.shared.config.line;
        self.call(Call::ConfirmPace, |inside, now_ms| {
            rules.confirm(&inside.line.seen(&rules), inside.line.pause.as_ref(), ticket, now_ms)
        })
    }

    async fn tell(&self, ticket: Ticket, sandbox: &SandboxId, end: CallEnd) -> Result<Told, BusError> {
        let rules = self.shared.config.line;
        self.call(Call::TellPace, |inside, now_ms| {
            let (told, next) = rules.tell(&inside.line.seen(&rules), ticket, sandbox.as_str(), end, now_ms);
            inside.line.move_on(next, now_ms);
            told
        })
    }

    async fn look(&self) -> Result<LineView, BusError> {
        let (rules, now_ms) = (self.shared.config.line, self.shared.clock.now_ms());
        self.read("read the line", |inside| {
            rules.view(&inside.line.seen(&rules), inside.line.pause.as_ref(), now_ms)
        })
    }
}

#[async_trait]
impl DeletionLine for MemoryBus {
    async fn pause(&self, pause: &Pause) -> Result<(), BusError> {
        self.call(Call::Switch, |inside, _| inside.line.pause = Some(pause.clone()))
    }

    async fn resume(&self) -> Result<Option<Pause>, BusError> {
        self.call(Call::Switch, |inside, now_ms| inside.line.pause.take().filter(|pause| pause.is_on(now_ms)))
    }

    async fn status(&self) -> Result<DeletionsStatus, BusError> {
        let (rules, now_ms) = (self.shared.config.line, self.shared.clock.now_ms());
        self.read("read the line", |inside| {
            let mut status = rules.status(&inside.line.seen(&rules), inside.line.pause.as_ref(), now_ms);
            status.pools = inside.deletions.pools();
            status
        })
    }
}

impl MemoryBus {
    /// Puts a state there as a worker could whose clock is off.
    pub fn put_line(&self, state: LineState) {
        self.change(|inside, now_ms| inside.line.move_on(Some(state), now_ms));
    }
}

// === impl Line ===

impl Line {
    fn seen(&self, rules: &LineRules) -> LineState {
        rules.bounded(&self.state, self.written_ms)
    }

    fn move_on(&mut self, next: Option<LineState>, now_ms: u64) {
        if let Some(next) = next {
            (self.state, self.written_ms) = (next, now_ms);
        }
    }
}
