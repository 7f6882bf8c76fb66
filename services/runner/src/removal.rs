//! Removes and stops containers.

use crate::metrics::Removal;
use crate::{Node, within};
use ports::engine::{EngineError, Incarnation};
use std::time::Duration;

/// Time-out of a removal: deleting a large workspace takes seconds.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time-out of a stop, which ends processes at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

// === impl Node ===

impl Node {
    /// Removes a container and forgets it. What it uses is free only if that succeeds; else reconciliation tries again.
    pub(crate) async fn discard(&self, incarnation: &Incarnation, reason: Removal) {
        if self.remove(incarnation, reason).await.is_ok() {
            self.containers.persist_or_log().await;
        }
    }

    /// As [`Self::discard`]; the caller writes the state.
    pub(crate) async fn remove(&self, incarnation: &Incarnation, reason: Removal) -> Result<(), EngineError> {
        let removed = within(self.clock.as_ref(), REMOVE_TIMEOUT, self.engine.remove(incarnation)).await;
        match removed.unwrap_or_else(|| Err(EngineError::unavailable("the removal takes too long"))) {
            Ok(()) | Err(EngineError::Gone) => {
                self.containers.forget(incarnation);
                self.metrics.removed(reason);
                self.metrics.show_capacity(&self.containers);
                tracing::info!(container.incarnation = %incarnation, reason = ?reason, "removed container {incarnation}");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(container.incarnation = %incarnation, error = %error, "container {incarnation} cannot be removed now");
                Err(error)
            }
        }
    }

    /// Ends every process of a container whose lease is over; false if that has to be tried again.
    pub(crate) async fn stop(&self, incarnation: &Incarnation) -> bool {
        let stopped = within(self.clock.as_ref(), STOP_TIMEOUT, self.engine.stop(incarnation)).await;
        let is_done = match stopped.unwrap_or_else(|| Err(EngineError::unavailable("it takes too long"))) {
            Ok(()) => {
                self.containers.note_stopped(incarnation);
                tracing::warn!(
                    container.incarnation = %incarnation,
                    "stopped container {incarnation}: its lease is over, and the control plane does not say otherwise"
                );
                true
            }
            Err(EngineError::Gone) => {
                self.containers.forget(incarnation);
                true
            }
            Err(error) => {
                tracing::error!(container.incarnation = %incarnation, error = %error, "container {incarnation} cannot be stopped now");
                false
            }
        };
        self.metrics.stopped(is_done);
        is_done
    }
}
