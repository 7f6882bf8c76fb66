//! The line towards the provider: a state that every taker moves on, and the operators' switch.

use super::{Call, MemoryBus};
use async_trait::async_trait;
use contract::{DeletionsStatus, LineState, Pause};
use domain::SandboxId;
use ports::bus::{
    BusError, CachedSwitch, CallEnd, Confirmed, DeletionLine, LineView, Pace, SwitchCache, Ticket, Told, Turn,
};
use runtime::line::LineRules;

/// The line and its switch.
#[derive(Debug, Default)]
pub(super) struct Line {
    state: LineState,
    /// When the state was written.
    written_ms: u64,
    pause: Option<Pause>,
    /// The version of that pause in the table, if its writer gave one.
    pause_version: Option<u64>,
    /// Goes up with each turn of the switch; zero if the bucket says nothing of it.
    switch_revision: u64,
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
        self.call(Call::Switch, |inside, _| inside.line.turn(Some((pause.clone(), None))))
    }

    async fn resume(&self, _by: &str) -> Result<Option<Pause>, BusError> {
        self.call(Call::Switch, |inside, now_ms| {
            let pause = inside.line.pause.take().filter(|pause| pause.is_on(now_ms));
            inside.line.turn(None);
            pause
        })
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

#[async_trait]
impl SwitchCache for MemoryBus {
    async fn cached_switch(&self) -> Result<(u64, CachedSwitch), BusError> {
        self.read("read the switch", |inside| {
            let line = &inside.line;
            let cached = match &line.pause {
                Some(pause) => CachedSwitch::On { pause: pause.clone(), version: line.pause_version },
                None if line.switch_revision == 0 => CachedSwitch::Lost,
                None => CachedSwitch::Off,
            };
            (line.switch_revision, cached)
        })
    }

    async fn cache_switch(&self, revision: u64, pause: Option<(&Pause, u64)>) -> Result<bool, BusError> {
        let pause = pause.map(|(pause, version)| (pause.clone(), Some(version)));
        self.call(Call::Switch, |inside, _| {
            let is_there = inside.line.switch_revision == revision;
            if is_there {
                inside.line.turn(pause);
            }
            is_there
        })
    }
}

impl MemoryBus {
    /// Loses the line and its switch, as a bucket that is removed does.
    pub fn lose_line(&self) {
        self.change(|inside, _| inside.line = Line::default());
    }

    /// Puts a state there as a worker could whose clock is off.
    pub fn put_line(&self, state: LineState) {
        self.change(|inside, now_ms| inside.line.move_on(Some(state), now_ms));
    }
}

// === impl Line ===

impl Line {
    fn turn(&mut self, pause: Option<(Pause, Option<u64>)>) {
        self.switch_revision += 1;
        (self.pause, self.pause_version) =
            pause.map_or((None, None), |(pause, version)| (Some(pause), version));
    }

    fn seen(&self, rules: &LineRules) -> LineState {
        rules.bounded(&self.state, self.written_ms)
    }

    fn move_on(&mut self, next: Option<LineState>, now_ms: u64) {
        if let Some(next) = next {
            (self.state, self.written_ms) = (next, now_ms);
        }
    }
}
