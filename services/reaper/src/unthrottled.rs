//! The throttle of providers that need none: nodes, each of which works by itself. Only the operators' pause counts.

use async_trait::async_trait;
use domain::SandboxId;
use ports::bus::{
    Admission, BusError, CallOutcome, Confirmed, FailureCause, OutcomeEffect, Permit, ProviderThrottle,
    ThrottleView,
};
use std::sync::Arc;
use std::time::Duration;

/// What is shown as the rate: the most that a throttle may be set to.
const SHOWN_PER_MINUTE: u64 = 60_000;

/// Lets every call start unless operators have paused all deletions. A failure is the sandbox's own only if its node refused
/// the call: a node that does not answer never uses up the attempts of a deletion.
#[derive(Clone)]
pub struct Unthrottled {
    paused: Arc<dyn ProviderThrottle>,
}

// === impl Unthrottled ===

impl Unthrottled {
    /// Learns of a pause from the throttle of another provider, because a pause is for all of them.
    #[must_use]
    pub fn paused_with(paused: Arc<dyn ProviderThrottle>) -> Self {
        Self { paused }
    }
}

#[async_trait]
impl ProviderThrottle for Unthrottled {
    async fn acquire(&self) -> Result<Admission, BusError> {
        let ThrottleView { is_paused, wait, .. } = self.paused.view().await?;
        if is_paused {
            return Ok(Admission::Later { wait, is_closed: true });
        }
        let permit = Permit { slot_us: 0, is_probe: false };
        Ok(Admission::Go { permit, wait: Duration::ZERO })
    }

    async fn confirm(&self, _permit: Permit) -> Result<Confirmed, BusError> {
        Ok(Confirmed::Go)
    }

    async fn report_outcome(
        &self,
        _permit: Permit,
        _sandbox: &SandboxId,
        end: CallOutcome,
    ) -> Result<OutcomeEffect, BusError> {
        let (cause, wait) = match end {
            CallOutcome::Refused => (FailureCause::Sandbox, Duration::ZERO),
            CallOutcome::Failed => (FailureCause::Unclear, Duration::ZERO),
            CallOutcome::SlowDown { span } => (FailureCause::NotSandbox, span),
            _ => (FailureCause::NotSandbox, Duration::ZERO),
        };
        Ok(OutcomeEffect { is_closed: false, cause, wait })
    }

    async fn view(&self) -> Result<ThrottleView, BusError> {
        let ThrottleView { is_paused, wait, .. } = self.paused.view().await?;
        let (calls, wait) = if is_paused { (0, wait) } else { (usize::MAX, Duration::ZERO) };
        Ok(ThrottleView { calls, wait, is_paused, is_broken: false, rate_per_minute: SHOWN_PER_MINUTE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Pause;
    use domain::UnixSeconds;
    use ports::bus::DeletionControl as _;
    use ports::random::Rng;
    use testkit::bus::{MemoryBus, MemoryConfig};
    use testkit::clock::ManualClock;

    #[tokio::test]
    async fn only_a_pause_closes_it() {
        let clock = ManualClock::at(UnixSeconds::new(1_763_683_200));
        let bus = MemoryBus::new(MemoryConfig::default(), Arc::new(clock), Arc::new(Rng::seeded(7)));
        let throttle = Unthrottled::paused_with(Arc::new(bus.clone()));
        let id = SandboxId::parse("ctr_1").unwrap();
        for _ in 0..500 {
            let Admission::Go { permit, wait } = throttle.acquire().await.unwrap() else { panic!("open") };
            assert_eq!((wait, throttle.confirm(permit).await.unwrap()), (Duration::ZERO, Confirmed::Go));
            let effect = throttle.report_outcome(permit, &id, CallOutcome::Failed).await.unwrap();
            assert_eq!((effect.is_closed, effect.cause), (false, FailureCause::Unclear));
        }
        assert!(throttle.view().await.unwrap().calls > 500);
        bus.pause(&Pause { by: "alice".to_owned(), ..Pause::default() }).await.unwrap();
        let Admission::Later { wait, is_closed: true } = throttle.acquire().await.unwrap() else {
            panic!("closed")
        };
        let view = throttle.view().await.unwrap();
        assert_eq!((view.calls, view.is_paused, view.wait), (0, true, wait));
        assert!(!wait.is_zero());
        bus.resume("alice").await.unwrap();
        assert!(matches!(throttle.acquire().await.unwrap(), Admission::Go { .. }));
    }
}
