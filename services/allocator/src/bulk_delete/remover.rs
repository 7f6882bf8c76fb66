//! One removal: the conditional write and its event, in separate tasks.
//!
//! A tombstone is in no index, so no sweep would publish a missing event. A request that reaches its deadline drops its
//! futures; these tasks continue, and the process waits for them at its end.

use crate::Allocator;
use domain::{Actor, Sandbox, StateName};
use ports::clock::Clock;
use ports::store::{Store, StoreError, Write};
use runtime::recorder::Recorder;
use runtime::telemetry::Chain;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Attempts to publish one removal before it is left to the queue of the process.
const PUBLISH_ATTEMPTS_MAX: usize = 3;

/// The result of the write: the task that publishes the event and returns whether it could; none if the sandbox was no
/// longer as the index showed it.
pub(super) type Written = Result<Option<JoinHandle<bool>>, StoreError>;

/// Removes records.
pub(super) struct Remover {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    tombstone_kept: Duration,
    tasks: TaskTracker,
}

// === impl Remover ===

impl Remover {
    pub(super) fn of(allocator: &Allocator) -> Self {
        Self {
            store: Arc::clone(&allocator.ports.store),
            clock: Arc::clone(&allocator.ports.clock),
            recorder: allocator.ports.recorder.clone(),
            tombstone_kept: allocator.config.tombstone_kept,
            tasks: allocator.announcing.clone(),
        }
    }

    /// Starts the removal. It continues even if no caller waits for it any more.
    pub(super) fn begin(self, seen: Sandbox, by: Actor, request_id: String) -> JoinHandle<Written> {
        let tasks = self.tasks.clone();
        tasks.clone().spawn(async move {
            let Some(gone) = self.forget(&seen, &by).await? else { return Ok(None) };
            Ok(Some(tasks.spawn(async move { self.publish_removal(&gone, &request_id).await })))
        })
    }

    /// Writes the tombstone, if the sandbox is still as the index showed it.
    async fn forget(&self, seen: &Sandbox, by: &Actor) -> Result<Option<Sandbox>, StoreError> {
        let now = self.clock.now();
        let purge_at = now.after(self.tombstone_kept);
        let found = match self.store.forget(seen, Some(by), now, purge_at).await {
            Ok(Write::Done(gone)) => return Ok(Some(*gone)),
            Ok(Write::Lost(found)) => found.map(|found| *found),
            // The write may have happened, and then its event has to be published.
            Err(error) => match self.store.sandbox(&seen.id).await {
                Ok(Some(found)) if is_ours(&found, seen, by) => Some(found),
                _ => return Err(error),
            },
        };
        // The same order: an earlier attempt succeeded and its answer was lost.
        Ok(found.filter(|found| is_ours(found, seen, by)))
    }

    async fn publish_removal(&self, gone: &Sandbox, request_id: &str) -> bool {
        for _ in 0..PUBLISH_ATTEMPTS_MAX {
            match self.recorder.publish_now(gone).await {
                Ok(()) => return true,
                Err(error) => tracing::warn!(
                    request.id = request_id,
                    sandbox.id = gone.id.as_str(),
                    error = %Chain(&error),
                    "the removal of {} is not in the event log yet",
                    gone.id,
                ),
            }
        }
        self.recorder.note(gone, Some(request_id));
        false
    }
}

/// Whether the tombstone is the result of this order on `seen`.
fn is_ours(found: &Sandbox, seen: &Sandbox, by: &Actor) -> bool {
    found.state.name() == StateName::Deleted
        && found.version == seen.version.next()
        && found.history.last().is_some_and(|entry| entry.by.as_ref() == Some(by))
}
