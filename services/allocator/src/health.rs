//! The health check of a sandbox before it is handed out. It is off by default, and happens between choosing a
//! candidate and the first write of its claim, so that the claim stays the same two writes.
//!
//! An unsound sandbox is quarantined with the reason, and the next one is tried. If the provider does not answer, the
//! sandbox is handed out unchecked. A provider that calls everything unsound must not empty the pool, so each process
//! quarantines a limited number per hour and only skips further ones.

use crate::Allocator;
use crate::admission::Permit;
use crate::candidates::{Reserved, Scarcity, Selector};
use domain::{Actor, Candidate, Order, PoolName, PoolSpec, Reason, Sandbox};
use parking_lot::Mutex;
use ports::provider::{Health, Target};
use ports::store::{StoreError, Write, unless_unreadable};
use runtime::policy::HOUR_SECONDS;
use runtime::settings::Settings;
use runtime::telemetry::Chain;
use std::time::{Duration, Instant};

/// Unsound candidates of one claim before the caller is asked to repeat.
const UNSOUND_MAX: usize = 5;
/// The actor of these quarantines, for the history.
const CHECKER: &str = "health-check";

/// Settings of the health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Time-out of the provider's answer.
    pub timeout: Duration,
    /// Sandboxes that one process may quarantine in an hour.
    pub quarantines_per_hour_max: u64,
}

/// How many sandboxes this process has quarantined in the current hour.
#[derive(Debug, Default)]
pub(crate) struct Quarantines(Mutex<(u64, u64)>);

/// The result for a checked candidate.
enum Sight {
    Fit,
    /// It was known to be taken, or is taken now.
    Taken,
    /// Unsound, but this process has reached its limit of quarantines.
    PassedOver,
}

// === impl HealthConfig ===

impl HealthConfig {
    /// Reads the settings; none unless the check is enabled.
    pub fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let enabled = settings.switch(
            "HEALTH_CHECK_ENABLED",
            false,
            "whether the provider checks a sandbox before it is handed out; the provider has to support it",
        );
        let timeout = settings.millis(
            "HEALTH_CHECK_MS",
            1_000,
            10..=30_000,
            "time-out of that check, in milliseconds; after it the sandbox is handed out unchecked",
        );
        let quarantines_per_hour_max = settings.number(
            "HEALTH_CHECK_QUARANTINES_PER_HOUR",
            10,
            0..=1_000_000,
            "maximum number of unsound sandboxes that one allocator quarantines in an hour; further ones are only skipped",
        );
        enabled.then_some(Self { timeout, quarantines_per_hour_max })
    }
}

// === impl Quarantines ===

impl Quarantines {
    /// Counts one more quarantine in that hour, unless there are `max` already.
    fn take(&self, hour: u64, max: u64) -> bool {
        let mut inside = self.0.lock();
        let (at, count) = *inside;
        let count = if at == hour { count } else { 0 };
        if count >= max {
            return false;
        }
        *inside = (hour, count + 1);
        true
    }
}

// === impl Allocator ===

impl Allocator {
    /// A candidate that is fit for use, as far as it was checked.
    pub(crate) async fn take_fit(
        &self,
        selector: &Selector,
        deadline: Instant,
        permit: &Permit,
    ) -> Result<Reserved, Scarcity> {
        if !self.grants_in(&selector.pool) {
            return Err(Scarcity::Draining);
        }
        let Some(config) = self.config.health else {
            return self.candidates.take(selector, deadline, permit).await;
        };
        for _ in 0..UNSOUND_MAX {
            let reserved = self.candidates.take(selector, deadline, permit).await?;
            match self.look_at(reserved.candidate(), config, permit).await.map_err(Scarcity::Store)? {
                Sight::Fit => return Ok(reserved),
                Sight::Taken => reserved.lost(),
                Sight::PassedOver => drop(reserved),
            }
        }
        Err(Scarcity::Contended)
    }

    /// Whether the pool grants leases: it is there, and not drained.
    pub(crate) fn grants_in(&self, pool: &PoolName) -> bool {
        self.ports.pools.current().get(pool).is_some_and(PoolSpec::is_active)
    }

    async fn look_at(
        &self,
        candidate: &Candidate,
        config: HealthConfig,
        permit: &Permit,
    ) -> Result<Sight, StoreError> {
        if !self.ports.providers.iter().any(|(_, provider)| provider.abilities().check) {
            return Ok(Sight::Fit);
        }
        let found = unless_unreadable(self.ports.store.sandbox(&candidate.id).await)?;
        let Some(sandbox) = found.filter(|found| found.version == candidate.version) else {
            return Ok(Sight::Taken);
        };
        let Sandbox { external_id, name, descriptor, .. } = &sandbox;
        let provider = self.ports.providers.get(&external_id.provider());
        let Some(provider) = provider.filter(|provider| provider.abilities().check) else {
            return Ok(Sight::Fit);
        };
        let target =
            Target { external_id: external_id.clone(), name: name.clone(), descriptor: descriptor.clone() };
        let idle = permit.idle();
        let checked = tokio::select! {
            biased;
            checked = provider.check(&target) => checked,
            () = self.ports.clock.sleep(config.timeout) => {
                self.metrics.checked("unknown");
                tracing::warn!(sandbox.id = candidate.id.as_str(), "the provider did not answer about {} in time", candidate.id);
                return Ok(Sight::Fit);
            }
        };
        drop(idle);
        match checked {
            Ok(Health::Sound) => {
                self.metrics.checked("sound");
                Ok(Sight::Fit)
            }
            Ok(Health::Unsound { reason }) => {
                self.metrics.checked("unsound");
                self.put_aside(candidate, &reason, config).await
            }
            Err(error) => {
                self.metrics.checked("unknown");
                tracing::warn!(sandbox.id = candidate.id.as_str(), error = %Chain(&error), "the check of a candidate failed");
                Ok(Sight::Fit)
            }
        }
    }

    async fn put_aside(
        &self,
        candidate: &Candidate,
        reason: &str,
        config: HealthConfig,
    ) -> Result<Sight, StoreError> {
        let now = self.ports.clock.now();
        if !self.quarantines.take(now.get() / HOUR_SECONDS, config.quarantines_per_hour_max) {
            tracing::error!(
                sandbox.id = candidate.id.as_str(),
                reason,
                "{} is unsound as well, but the hourly limit of quarantines is reached",
                candidate.id
            );
            return Ok(Sight::PassedOver);
        }
        let reason = Reason::cut(reason);
        let Ok(by) = Actor::parse(CHECKER) else { return Ok(Sight::PassedOver) };
        if let Write::Done(kept) =
            self.ports.store.quarantine(candidate, &Order { by, reason: reason.clone() }, now).await?
        {
            self.ports.recorder.note(&kept, None);
            tracing::error!(
                sandbox.id = candidate.id.as_str(),
                reason = reason.as_str(),
                "{} is quarantined: {reason}",
                candidate.id,
            );
        }
        Ok(Sight::Taken)
    }
}

#[cfg(test)]
mod tests;
