//! Calls that change the same sandbox take turns, and a removal ends the others.

use parking_lot::Mutex;
use ports::engine::Incarnation;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::MutexGuard;
use tokio_util::sync::CancellationToken;

/// The calls in progress, by the sandbox that they change.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<Incarnation, Arc<Sandbox>>>);

/// What the calls of one sandbox have in common.
#[derive(Debug, Default)]
struct Sandbox {
    turn: tokio::sync::Mutex<()>,
    removal: CancellationToken,
}

/// A call in progress.
pub struct Call<'a> {
    turns: &'a Turns,
    incarnation: Incarnation,
    sandbox: Arc<Sandbox>,
}

// === impl Turns ===

impl Turns {
    /// A call that changes a sandbox.
    pub fn call(&self, incarnation: &Incarnation) -> Call<'_> {
        let sandbox = Arc::clone(self.0.lock().entry(*incarnation).or_default());
        Call { turns: self, incarnation: *incarnation, sandbox }
    }

    /// Whether a call is changing the sandbox now.
    pub fn is_busy(&self, incarnation: &Incarnation) -> bool {
        self.0.lock().get(incarnation).is_some_and(|sandbox| sandbox.turn.try_lock().is_err())
    }
}

// === impl Call ===

impl Call<'_> {
    /// Waits until no other call changes the sandbox.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.sandbox.turn.lock().await
    }

    /// Makes this call the last one.
    pub fn remove(&self) {
        self.sandbox.removal.cancel();
    }

    /// Whether another call removes the sandbox.
    pub fn is_removed(&self) -> bool {
        self.sandbox.removal.is_cancelled()
    }

    /// Waits until another call removes the sandbox.
    pub async fn removed(&self) {
        self.sandbox.removal.cancelled().await;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        // The map itself and this call; further ones are added only under the lock.
        const LAST: usize = 2;
        let mut all = self.turns.0.lock();
        if Arc::strong_count(&self.sandbox) == LAST {
            all.remove(&self.incarnation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn last_call_leaves_nothing() {
        let (turns, id) = (Turns::default(), Incarnation::new(uuid::Uuid::nil()));
        let (first, second) = (turns.call(&id), turns.call(&id));
        let turn = first.turn().await;
        assert!(turns.is_busy(&id));
        second.remove();
        first.removed().await;
        drop(turn);
        assert!(!turns.is_busy(&id));
        drop(first);
        assert_eq!(turns.0.lock().len(), 1);
        drop(second);
        assert!(turns.0.lock().is_empty());
    }
}
