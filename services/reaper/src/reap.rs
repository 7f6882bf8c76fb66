//! Works on one deletion: checks that it is wanted, waits for a permit, calls the provider, records the result.

use crate::prepare::Clearing;
use crate::throttle::{end_of, report_outcome};
use crate::{ProviderPorts, Reaper};
use async_trait::async_trait;
use contract::{DeletionWork, ParkedDeletion};
use domain::{Deletion, Epoch, PoolName, Preparation, Sandbox, SandboxId, State};
use ports::backoff::longest_pause;
use ports::bus::{CallOutcome, Delivery, FailureCause, OutcomeEffect, Verdict, Worker};
use ports::provider::{Deleted, Provider, Target};
use ports::random::full_jitter;
use ports::store::Write;
use runtime::telemetry::Chain;
use std::time::Duration;

/// Delay after a failure of store or queue: short, and not counted against the sandbox.
pub(crate) const OWN_FAILURE_DELAY: Duration = Duration::from_secs(5);
/// Delay of work whose provider this process does not reach.
const NOT_REACHABLE_DELAY: Duration = Duration::from_secs(5);
/// Deliveries of one message without a verdict after which it is parked, because it seems to crash workers.
const DELIVERIES_MAX: u64 = 100;

/// A wanted deletion, as read from the table.
pub(crate) struct Wanted {
    pub(crate) id: SandboxId,
    epoch: Epoch,
    pub(crate) target: Target,
    pub(crate) deletion: Deletion,
}

/// The result of pre-clean and deletion.
struct Tried {
    preparation: Preparation,
    ended: Result<Deleted, Failure>,
}

/// Why an attempt failed.
struct Failure {
    reason: String,
    end: CallOutcome,
}

#[async_trait]
impl Worker for Reaper {
    async fn work(&self, delivery: Delivery) -> Verdict {
        let _under_way = self.metrics.begin();
        let Delivery { work, deliveries } = delivery;
        let wanted = match self.look_up(&work).await {
            Ok(wanted) => wanted,
            Err(verdict) => return verdict,
        };
        if wanted.deletion.attempts >= self.config.attempts_max {
            let reason = wanted.deletion.last_error.clone().unwrap_or_default();
            return self.give_up(&work, &wanted, wanted.deletion.attempts, reason).await;
        }
        if deliveries > DELIVERIES_MAX {
            let reason = format!("delivered {deliveries} times without an outcome");
            return self.give_up(&work, &wanted, wanted.deletion.attempts, reason).await;
        }
        let Some(ProviderPorts { provider, throttle }) =
            self.ports.providers.get(&wanted.target.external_id.provider())
        else {
            return self.not_reachable_here(&wanted);
        };
        if let Err(verdict) = self.stands_alone(&wanted).await {
            return verdict;
        }
        let throttle = throttle.as_ref();
        let permit = match self.wait_for_permit(throttle, &wanted.id).await {
            Ok(permit) => permit,
            Err(verdict) => return verdict,
        };
        let Tried { preparation, ended } = self.delete(provider.as_ref(), &wanted).await;
        match ended {
            Ok(deleted) => {
                report_outcome(throttle, permit, &wanted.id, CallOutcome::Deleted).await;
                self.write_tombstone(&wanted, deleted, &preparation).await
            }
            Err(failure) => {
                let effect = report_outcome(throttle, permit, &wanted.id, failure.end).await;
                self.after_failure(&work, &wanted, &preparation, failure, effect).await
            }
        }
    }

    async fn admit(&self, pool: &PoolName, places: usize) -> (usize, Duration) {
        let provider = self.ports.pools.current().provider_of(pool);
        match self.ports.providers.get(&provider) {
            Some(ports) => self.admitted(&provider, ports.throttle.as_ref(), places).await,
            // Another process may reach it. The work of a pool that has moved is looked at one by one.
            None => (0, NOT_REACHABLE_DELAY),
        }
    }
}

// === impl Reaper ===

impl Reaper {
    /// The deletion, if the table wants it; otherwise a verdict.
    async fn look_up(&self, work: &DeletionWork) -> Result<Wanted, Verdict> {
        let Ok((id, _, epoch)) = work.parts() else {
            return Err(Verdict::GiveUp { reason: "the work names no sandbox".to_owned() });
        };
        let found = self.ports.store.sandbox(&id).await.map_err(|error| {
            tracing::warn!(sandbox.id = id.as_str(), error = %Chain(&error), "cannot look up {id}; retrying later");
            Verdict::Retry { delay: OWN_FAILURE_DELAY }
        })?;
        let Some(sandbox) = found else {
            self.metrics.skipped();
            tracing::warn!(sandbox.id = id.as_str(), "there is no record of {id}; nothing to delete");
            return Err(Verdict::Done);
        };
        if matches!(sandbox.state, State::Deleted(_)) {
            self.complete_event_log(&sandbox).await?;
        }
        let Sandbox { name, external_id, descriptor, epoch: current, state, .. } = sandbox;
        match state {
            State::PendingDeletion(deletion) if current == epoch && work.is_about(&external_id) => {
                let target = Target { external_id, name, descriptor };
                Ok(Wanted { id, epoch, target, deletion })
            }
            other => {
                self.metrics.skipped();
                tracing::info!(
                    sandbox.id = id.as_str(),
                    sandbox.state = other.name().as_str(),
                    sandbox.epoch = current.get(),
                    "deletion of {id} at epoch {epoch} is not wanted any more",
                );
                Err(Verdict::Done)
            }
        }
    }

    /// The settings of this process lack the provider of that sandbox, which another process may have.
    fn not_reachable_here(&self, wanted: &Wanted) -> Verdict {
        let (id, provider) = (&wanted.id, wanted.target.external_id.provider());
        tracing::error!(
            sandbox.id = id.as_str(),
            provider = provider.as_str(),
            "{id} cannot be deleted here: {provider} is not in PROVIDERS_FILE of this process"
        );
        self.put_off(NOT_REACHABLE_DELAY)
    }

    async fn delete(&self, provider: &dyn Provider, wanted: &Wanted) -> Tried {
        let timer = self.metrics.time_call();
        let preparation = match self.clear(provider, wanted).await {
            Clearing::Over(preparation) => preparation,
            Clearing::Failed { error, preparation, end } => {
                let reason = format!("clearing failed: {error}");
                return Tried { preparation, ended: Err(Failure { reason, end }) };
            }
        };
        let deleted = provider.delete(&wanted.target).await;
        timer.observe_duration();
        let ended = deleted.map_err(|error| Failure { reason: error.to_string(), end: end_of(&error) });
        Tried { preparation, ended }
    }

    async fn write_tombstone(&self, wanted: &Wanted, deleted: Deleted, preparation: &Preparation) -> Verdict {
        let now = self.ports.clock.now();
        let purge_at = now.after(self.config.tombstone_kept);
        let (id, epoch) = (&wanted.id, wanted.epoch);
        match self.ports.store.finish_deletion(id, epoch, now, purge_at, Some(preparation)).await {
            Ok(Write::Done(sandbox)) => {
                self.metrics.deleted();
                tracing::info!(
                    sandbox.id = wanted.id.as_str(),
                    delivery.attempt = wanted.deletion.attempts.saturating_add(1),
                    already_gone = deleted == Deleted::AlreadyGone,
                    pre_clean = %preparation,
                    "deleted {}",
                    wanted.id,
                );
                self.complete_event_log(&sandbox).await.err().unwrap_or(Verdict::Done)
            }
            // Another worker wrote the tombstone in the meantime.
            Ok(Write::Lost(Some(sandbox))) => {
                self.complete_event_log(&sandbox).await.err().unwrap_or(Verdict::Done)
            }
            Ok(Write::Lost(None)) => Verdict::Done,
            Err(error) => {
                // The next attempt finds the account gone and writes the tombstone.
                tracing::warn!(sandbox.id = wanted.id.as_str(), error = %Chain(&error), "no tombstone yet");
                Verdict::Retry { delay: OWN_FAILURE_DELAY }
            }
        }
    }

    /// Completes the event log before the message may leave the queue. After a failure the message is retried; the next
    /// delivery finds the tombstone and gets here again.
    async fn complete_event_log(&self, sandbox: &Sandbox) -> Result<(), Verdict> {
        self.ports.recorder.publish_now(sandbox).await.map_err(|error| {
            let id = &sandbox.id;
            tracing::warn!(sandbox.id = id.as_str(), error = %Chain(&error), "events of {id} are missing; retrying later");
            Verdict::Retry { delay: OWN_FAILURE_DELAY }
        })
    }

    async fn after_failure(
        &self,
        work: &DeletionWork,
        wanted: &Wanted,
        preparation: &Preparation,
        failure: Failure,
        effect: OutcomeEffect,
    ) -> Verdict {
        let Failure { reason, end } = failure;
        let id = &wanted.id;
        if !self.is_own_fault(wanted, end, effect) {
            self.metrics.held();
            self.keep_what_was_cleaned(wanted, preparation).await;
            // After a last attempt that does not park the deletion, the delay is the usual one.
            let wait = if effect.wait.is_zero() { self.config.retry_delay_min } else { effect.wait };
            let delay = self.spread(wait);
            tracing::error!(sandbox.id = id.as_str(), reason, delay_s = delay.as_secs(), "deletions wait");
            return Verdict::Retry { delay };
        }
        let before = wanted.deletion.attempts;
        let noted = self.ports.store.note_attempt(id, wanted.epoch, before, &reason, Some(preparation)).await;
        let attempts = match noted {
            Ok(Write::Done(_)) => before.saturating_add(1),
            // Another worker counted it, or the sandbox has moved on: the next delivery finds out.
            Ok(Write::Lost(_)) => return Verdict::Retry { delay: self.config.retry_delay_min },
            Err(error) => {
                tracing::warn!(sandbox.id = id.as_str(), error = %Chain(&error), "attempt not counted");
                return Verdict::Retry { delay: OWN_FAILURE_DELAY };
            }
        };
        self.metrics.attempt_failed();
        tracing::warn!(
            sandbox.id = id.as_str(),
            delivery.attempt = attempts,
            reason,
            "attempt {attempts} of {} to delete {id} failed",
            self.config.attempts_max,
        );
        if attempts >= self.config.attempts_max {
            return self.give_up(work, wanted, attempts, reason).await;
        }
        Verdict::Retry { delay: self.backoff(attempts) }
    }

    /// Parks the deletion: stores the copy, then updates the table; only then the message may leave the queue.
    async fn give_up(&self, work: &DeletionWork, wanted: &Wanted, attempts: u32, reason: String) -> Verdict {
        let now = self.ports.clock.now();
        let parked =
            ParkedDeletion { work: work.clone(), attempts, reason: reason.clone(), parked_at: now.get() };
        if let Err(error) = self.ports.deletions.park(&parked).await {
            tracing::warn!(sandbox.id = wanted.id.as_str(), error = %Chain(&error), "not parked yet");
            return Verdict::Retry { delay: OWN_FAILURE_DELAY };
        }
        match self.ports.store.park_deletion(&wanted.id, wanted.epoch, now).await {
            Ok(write) => {
                if let Write::Done(sandbox) = write {
                    // If this fails, the sweep does it, which checks parked sandboxes.
                    let _ = self.complete_event_log(&sandbox).await;
                }
                self.metrics.parked();
                tracing::error!(
                    sandbox.id = wanted.id.as_str(),
                    delivery.attempt = attempts,
                    reason,
                    "deletion of {} is parked after {attempts} attempts",
                    wanted.id,
                );
                Verdict::GiveUp { reason }
            }
            Err(error) => {
                tracing::warn!(sandbox.id = wanted.id.as_str(), error = %Chain(&error), "not parked yet");
                Verdict::Retry { delay: OWN_FAILURE_DELAY }
            }
        }
    }

    /// An attempt that does not count writes nothing, but no later attempt could find the services that this one
    /// deleted.
    async fn keep_what_was_cleaned(&self, wanted: &Wanted, preparation: &Preparation) {
        let is_new = wanted.deletion.preparation.as_ref() != Some(preparation);
        if !is_new || !matches!(preparation, Preparation::Done { .. }) {
            return;
        }
        let (id, attempts) = (&wanted.id, wanted.deletion.attempts);
        // If another worker was faster, its record counts.
        if let Err(error) = self.ports.store.note_preparation(id, wanted.epoch, attempts, preparation).await {
            tracing::warn!(sandbox.id = id.as_str(), pre_clean = %preparation, error = %Chain(&error), "not noted");
        }
    }

    /// Whether the failure is the sandbox's own.
    fn is_own_fault(&self, wanted: &Wanted, end: CallOutcome, effect: OutcomeEffect) -> bool {
        let is_last = wanted.deletion.attempts.saturating_add(1) >= self.config.attempts_max;
        match effect.cause {
            // The pre-clean failed, which says nothing about deletions.
            _ if end == CallOutcome::Unused => true,
            FailureCause::Sandbox => true,
            FailureCause::Unclear => !is_last,
            FailureCause::NotSandbox => false,
        }
    }

    /// The delay after that number of attempts: doubles up to the maximum, and half of it is random.
    fn backoff(&self, attempts: u32) -> Duration {
        let longest = longest_pause(self.config.retry_delay_min, self.config.retry_delay_max, attempts);
        longest / 2 + full_jitter(self.ports.random.as_ref(), longest / 2)
    }
}

#[cfg(test)]
mod tests;
