//! The operators' switch of all deletions. The table has the truth; the bucket has a copy that every reaper reads
//! before each call.
//!
//! Every change of the copy is conditional on its revision, and its writer read the table after that revision. So the
//! copy never returns to a state before a change that was answered.

use async_trait::async_trait;
use contract::Pause;
use domain::{DeletionSwitch, SandboxId, UnixSeconds};
use ports::bus::{
    Admission, BusError, CachedSwitch, CallOutcome, Confirmed, OutcomeEffect, Permit, ProviderThrottle,
    SwitchCache, ThrottleView,
};
use ports::clock::Clock;
use ports::store::{Store, StoreError};
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// Attempts of one change; each failed one means that another process changed the switch.
const ROUNDS_MAX: usize = 16;

/// Why the switch could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The table failed.
    #[error("the table failed")]
    Store(#[from] StoreError),
    /// The bucket failed.
    #[error("the queue failed")]
    Bus(#[from] BusError),
    /// Other processes change it all the time.
    #[error("other processes are changing the switch")]
    Contended,
}

/// The switch in the table and its copy in the bucket.
#[derive(Clone)]
pub struct Switchboard {
    store: Arc<dyn Store>,
    cache: Arc<dyn SwitchCache>,
    clock: Arc<dyn Clock>,
}

/// The provider throttle, for a process that can restore a lost copy of the switch from the table.
pub struct SwitchRestoringThrottle {
    throttle: Arc<dyn ProviderThrottle>,
    switch: Switchboard,
}

// === impl SwitchError ===

impl From<SwitchError> for BusError {
    fn from(error: SwitchError) -> Self {
        match error {
            SwitchError::Bus(error) => error,
            other => Self { operation: "ask for the operators' switch", source: other.into() },
        }
    }
}

// === impl Switchboard ===

impl Switchboard {
    /// The switch of this table and its copy in this bucket.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cache: Arc<dyn SwitchCache>, clock: Arc<dyn Clock>) -> Self {
        Self { store, cache, clock }
    }

    /// Pauses all deletions, or replaces the current pause.
    ///
    /// # Errors
    /// [`SwitchError`]. The pause may be in the table all the same; the next [`Switchboard::settle`] copies it.
    pub async fn pause(&self, pause: &Pause) -> Result<(), SwitchError> {
        self.turn(|version| switch_of(pause, version)).await.map(|_| ())
    }

    /// Ends the pause; returns the one that was stored, even if it had ended by then.
    ///
    /// # Errors
    /// [`SwitchError`]. The pause may have ended in the table all the same.
    pub async fn resume(&self, by: &str) -> Result<Option<Pause>, SwitchError> {
        let since = self.clock.now();
        let before = self.turn(|version| {
            let by = by.to_owned();
            DeletionSwitch { version, is_paused: false, by, since, until: None, reason: None }
        });
        Ok(before.await?.as_ref().and_then(pause_of))
    }

    /// Makes the copy equal to the table. A pause that the table does not have, because an operator or an older build
    /// wrote it directly or the table lost it, is added to the table. Returns whether something changed.
    ///
    /// # Errors
    /// [`SwitchError`].
    pub async fn settle(&self) -> Result<bool, SwitchError> {
        let mut is_changed = false;
        for _ in 0..ROUNDS_MAX {
            let (revision, cached) = self.cache.cached_switch().await?;
            // Read after the copy, so that it includes every earlier change of the switch.
            let kept = self.store.deletion_switch().await?;
            let kept = match self.unknown_to(kept.as_ref(), &cached) {
                Some(found) => {
                    if !self.store.set_deletion_switch(&found).await? {
                        continue;
                    }
                    tracing::warn!(by = found.by, "a pause that was only in NATS was added to the table");
                    Some(found)
                }
                None => kept,
            };
            let pause = kept.as_ref().and_then(pause_of);
            if self.is_right(&cached, pause.as_ref(), kept.as_ref()) {
                return Ok(is_changed);
            }
            let versioned = pause.as_ref().zip(kept.as_ref().map(|kept| kept.version));
            is_changed |= self.cache.cache_switch(revision, versioned).await?;
        }
        Err(SwitchError::Contended)
    }

    /// Reads the table if the bucket has no entry at all; returns whether it did.
    async fn restore_if_lost(&self) -> Result<bool, SwitchError> {
        let (_, cached) = self.cache.cached_switch().await?;
        if cached != CachedSwitch::Lost {
            return Ok(false);
        }
        self.settle().await?;
        // A new fleet has none.
        if self.store.deletion_switch().await?.is_some() {
            tracing::info!("the bucket had lost the operators' switch; it was restored from the table");
        }
        Ok(true)
    }

    /// Changes the switch, the table first; returns the previous state.
    async fn turn(
        &self,
        next: impl Fn(u64) -> DeletionSwitch + Send,
    ) -> Result<Option<DeletionSwitch>, SwitchError> {
        // An entry that an operator wrote directly precedes this change and must not be added after it.
        self.settle().await?;
        for _ in 0..ROUNDS_MAX {
            let before = self.store.deletion_switch().await?;
            let version = before.as_ref().map_or(0, |before| before.version) + 1;
            if self.store.set_deletion_switch(&next(version)).await? {
                self.settle().await?;
                return Ok(before);
            }
        }
        Err(SwitchError::Contended)
    }

    /// The pause of the copy as a change of the switch, if the table does not have it.
    fn unknown_to(&self, kept: Option<&DeletionSwitch>, cached: &CachedSwitch) -> Option<DeletionSwitch> {
        let CachedSwitch::On { pause, version } = cached else { return None };
        let known = kept.map_or(0, |kept| kept.version);
        let is_known = version.is_some_and(|version| version <= known);
        let next = version.unwrap_or_default().max(known) + 1;
        (!is_known && pause.is_on(self.clock.now_ms())).then(|| switch_of(pause, next))
    }

    fn is_right(&self, cached: &CachedSwitch, pause: Option<&Pause>, kept: Option<&DeletionSwitch>) -> bool {
        match (cached, pause) {
            (CachedSwitch::Lost, _) | (CachedSwitch::Off, Some(_)) => false,
            (CachedSwitch::Off, None) => true,
            (CachedSwitch::On { version, .. }, Some(_)) => *version == kept.map(|kept| kept.version),
            // A pause that has ended does no harm.
            (CachedSwitch::On { pause, .. }, None) => !pause.is_on(self.clock.now_ms()),
        }
    }
}

// === impl SwitchRestoringThrottle ===

impl SwitchRestoringThrottle {
    /// This throttle, whose switch is restored from the table.
    #[must_use]
    pub fn new(throttle: Arc<dyn ProviderThrottle>, switch: Switchboard) -> Self {
        Self { throttle, switch }
    }
}

#[async_trait]
impl ProviderThrottle for SwitchRestoringThrottle {
    async fn acquire(&self) -> Result<Admission, BusError> {
        self.switch.restore_if_lost().await?;
        self.throttle.acquire().await
    }

    async fn confirm(&self, permit: Permit) -> Result<Confirmed, BusError> {
        let confirmed = self.throttle.confirm(permit).await?;
        // Checked afterwards, because a bucket that was just lost reads as "not paused".
        if confirmed == Confirmed::Go && self.switch.restore_if_lost().await? {
            return self.throttle.confirm(permit).await;
        }
        Ok(confirmed)
    }

    async fn report_outcome(
        &self,
        permit: Permit,
        sandbox: &SandboxId,
        end: CallOutcome,
    ) -> Result<OutcomeEffect, BusError> {
        self.throttle.report_outcome(permit, sandbox, end).await
    }

    async fn view(&self) -> Result<ThrottleView, BusError> {
        self.switch.restore_if_lost().await?;
        self.throttle.view().await
    }
}

fn switch_of(pause: &Pause, version: u64) -> DeletionSwitch {
    DeletionSwitch {
        version,
        is_paused: true,
        by: pause.by.clone(),
        since: UnixSeconds::new(pause.since),
        until: pause.until.map(UnixSeconds::new),
        reason: pause.reason.clone(),
    }
}

fn pause_of(switch: &DeletionSwitch) -> Option<Pause> {
    switch.is_paused.then(|| Pause {
        by: switch.by.clone(),
        since: switch.since.get(),
        until: switch.until.map(UnixSeconds::get),
        reason: switch.reason.clone(),
    })
}
