//! The provider throttle: a state that every reservation changes, and the operators' switch.

use super::{Call, MemoryBus};
use async_trait::async_trait;
use contract::{DeletionsStatus, Pause, ThrottleState};
use domain::SandboxId;
use ports::bus::{
    Admission, BusError, CachedSwitch, CallOutcome, Confirmed, DeletionControl, OutcomeEffect, Permit,
    ProviderThrottle, SwitchCache, ThrottleView,
};
use runtime::throttle::ThrottleRules;

/// The throttle and its switch.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    state: ThrottleState,
    /// When the state was written.
    written_ms: u64,
    pause: Option<Pause>,
    /// The version of that pause in the table, if its writer gave one.
    pause_version: Option<u64>,
    /// Grows with each change of the switch; zero if the bucket has no entry.
    switch_revision: u64,
}

#[async_trait]
impl ProviderThrottle for MemoryBus {
    async fn acquire(&self) -> Result<Admission, BusError> {
        let rules = self.shared.config.throttle;
        self.call(Call::AcquirePermit, |inside, now_ms| {
            let (admission, next) =
                rules.acquire(&inside.throttle.seen(&rules), inside.throttle.pause.as_ref(), now_ms);
            inside.throttle.move_on(next, now_ms);
            admission
        })
    }

    async fn confirm(&self, permit: Permit) -> Result<Confirmed, BusError> {
        let rules = self.shared.config.throttle;
        self.call(Call::ConfirmPermit, |inside, now_ms| {
            rules.confirm(&inside.throttle.seen(&rules), inside.throttle.pause.as_ref(), permit, now_ms)
        })
    }

    async fn report_outcome(
        &self,
        permit: Permit,
        sandbox: &SandboxId,
        end: CallOutcome,
    ) -> Result<OutcomeEffect, BusError> {
        let rules = self.shared.config.throttle;
        self.call(Call::ReportOutcome, |inside, now_ms| {
            let (effect, next) =
                rules.report_outcome(&inside.throttle.seen(&rules), permit, sandbox.as_str(), end, now_ms);
            inside.throttle.move_on(next, now_ms);
            effect
        })
    }

    async fn view(&self) -> Result<ThrottleView, BusError> {
        let (rules, now_ms) = (self.shared.config.throttle, self.shared.clock.now_ms());
        self.read("read the throttle", |inside| {
            rules.view(&inside.throttle.seen(&rules), inside.throttle.pause.as_ref(), now_ms)
        })
    }
}

#[async_trait]
impl DeletionControl for MemoryBus {
    async fn pause(&self, pause: &Pause) -> Result<(), BusError> {
        self.call(Call::Switch, |inside, _| inside.throttle.set_switch(Some((pause.clone(), None))))
    }

    async fn resume(&self, _by: &str) -> Result<Option<Pause>, BusError> {
        self.call(Call::Switch, |inside, now_ms| {
            let pause = inside.throttle.pause.take().filter(|pause| pause.is_on(now_ms));
            inside.throttle.set_switch(None);
            pause
        })
    }

    async fn status(&self) -> Result<DeletionsStatus, BusError> {
        let (rules, now_ms) = (self.shared.config.throttle, self.shared.clock.now_ms());
        self.read("read the throttle", |inside| {
            let mut status =
                rules.status(&inside.throttle.seen(&rules), inside.throttle.pause.as_ref(), now_ms);
            status.pools = inside.deletions.pools();
            status
        })
    }
}

#[async_trait]
impl SwitchCache for MemoryBus {
    async fn cached_switch(&self) -> Result<(u64, CachedSwitch), BusError> {
        self.read("read the switch", |inside| {
            let throttle = &inside.throttle;
            let cached = match &throttle.pause {
                Some(pause) => CachedSwitch::On { pause: pause.clone(), version: throttle.pause_version },
                None if throttle.switch_revision == 0 => CachedSwitch::Lost,
                None => CachedSwitch::Off,
            };
            (throttle.switch_revision, cached)
        })
    }

    async fn cache_switch(&self, revision: u64, pause: Option<(&Pause, u64)>) -> Result<bool, BusError> {
        let pause = pause.map(|(pause, version)| (pause.clone(), Some(version)));
        self.call(Call::Switch, |inside, _| {
            let is_there = inside.throttle.switch_revision == revision;
            if is_there {
                inside.throttle.set_switch(pause);
            }
            is_there
        })
    }
}

impl MemoryBus {
    /// Drops the throttle and its switch, like a removed bucket.
    pub fn lose_throttle_state(&self) {
        self.change(|inside, _| inside.throttle = Throttle::default());
    }

    /// Stores a state, like a worker with a wrong clock.
    pub fn put_throttle_state(&self, state: ThrottleState) {
        self.change(|inside, now_ms| inside.throttle.move_on(Some(state), now_ms));
    }
}

// === impl Throttle ===

impl Throttle {
    fn set_switch(&mut self, pause: Option<(Pause, Option<u64>)>) {
        self.switch_revision += 1;
        (self.pause, self.pause_version) =
            pause.map_or((None, None), |(pause, version)| (Some(pause), version));
    }

    fn seen(&self, rules: &ThrottleRules) -> ThrottleState {
        rules.bounded(&self.state, self.written_ms)
    }

    fn move_on(&mut self, next: Option<ThrottleState>, now_ms: u64) {
        if let Some(next) = next {
            (self.state, self.written_ms) = (next, now_ms);
        }
    }
}
