//! Attaches containers to the networks of their templates when they are leased: until then they reach nothing.

use crate::{Node, within};
use ports::engine::{EngineError, Incarnation};
use std::time::Duration;

/// Time-out of an attachment, which takes milliseconds. The caller of a claim waits for it.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);

// === impl Node ===

impl Node {
    /// Attaches a leased container to its network. The engine does nothing if that is done, or if its template has no network.
    pub(crate) async fn attach_network(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let attached = self.engine.attach_network(incarnation);
        let attached = within(self.clock.as_ref(), ATTACH_TIMEOUT, attached).await;
        let attached = attached.unwrap_or_else(|| Err(EngineError::unavailable("it takes too long")));
        if let Err(error) = &attached {
            tracing::warn!(
                container.incarnation = %incarnation,
                error = %error,
                "container {incarnation} cannot be attached to its network now"
            );
        }
        attached
    }
}

#[cfg(test)]
mod tests;
