//! One piece of work per sandbox at a time.

use domain::SandboxId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

/// The sandboxes that are worked on. A message that is delivered twice is worked on twice, one after the other: the second
/// delivery finds what the first one did.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    sandboxes: Mutex<HashMap<SandboxId, Arc<tokio::sync::Mutex<()>>>>,
}

// === impl Turns ===

impl Turns {
    /// Waits for the turn of a sandbox. It ends when the returned value is dropped.
    pub(crate) async fn turn(&self, id: &SandboxId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut sandboxes = self.sandboxes.lock();
            sandboxes.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(sandboxes.entry(id.clone()).or_default())
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn turns_of_a_sandbox_follow_each_other() {
        let (turns, one, two) =
            (Turns::default(), SandboxId::parse("1").unwrap(), SandboxId::parse("2").unwrap());
        let first = turns.turn(&one).await;
        assert!(turns.turn(&one).now_or_never().is_none());
        assert!(turns.turn(&two).now_or_never().is_some(), "another sandbox");
        drop(first);
        assert!(turns.turn(&one).now_or_never().is_some());
        assert_eq!(turns.sandboxes.lock().len(), 1, "ended turns are forgotten");
    }
}
