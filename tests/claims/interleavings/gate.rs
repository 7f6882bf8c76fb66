//! The gate at which calls wait for the scheduler: every read once, after it took effect, and every write before and
//! after.

use async_trait::async_trait;
use domain::{Sandbox, SandboxId};
use parking_lot::{Mutex, MutexGuard};
use ports::store::StoreError;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use testkit::interposed::{Call, Interposer};
use tokio::sync::{Notify, oneshot};

/// Turns of the runtime without a new event, after which everything counts as waiting. A call that ends may wake
/// another task, which may wake a third; each takes a turn.
const QUIET_TURNS: u32 = 6;
/// How long the store may work on a call.
const CALL_WAIT_MAX: Duration = Duration::from_secs(30);
/// Reads change nothing; there is no use in pausing before them.
const READS: [&str; 3] = ["page", "find_claim", "sandbox"];

/// Writes that change claim items only.
const CLAIM_WRITES: [&str; 3] = ["open_claim", "move_claim", "close_claim"];

/// Whether a caller waits before or after its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Before,
    After,
}

/// A waiting caller.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) process: usize,
    pub(crate) operation: &'static str,
    pub(crate) side: Side,
    go: oneshot::Sender<bool>,
}

/// All waiting callers.
#[derive(Debug, Default)]
pub(crate) struct Board {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Point>,
    dead: BTreeSet<usize>,
    /// Calls that the store is carrying out.
    busy: usize,
    arrivals: u64,
    /// Sandboxes that were written since the last `take_written`.
    written: BTreeSet<SandboxId>,
}

/// One process's connection to the store.
#[derive(Debug)]
pub(crate) struct Gate {
    board: Arc<Board>,
    process: usize,
}

/// The answer to a failed call, or to a call of a dead process.
#[derive(Debug, thiserror::Error)]
#[error("failed by the scheduler")]
struct Failed;

// === impl Point ===

impl Point {
    /// Lets the caller continue.
    pub(crate) fn pass(self) {
        let _ = self.go.send(true);
    }

    /// Fails the call: before the call, it has no effect; after it, only the answer is lost.
    pub(crate) fn fail(self) {
        let _ = self.go.send(false);
    }

    /// Whether it may change a sandbox when it continues.
    pub(crate) fn changes_a_sandbox(&self) -> bool {
        self.side == Side::Before && !CLAIM_WRITES.contains(&self.operation)
    }
}

// === impl Board ===

impl Board {
    pub(crate) fn gate(self: &Arc<Self>, process: usize) -> Arc<Gate> {
        Arc::new(Gate { board: Arc::clone(self), process })
    }

    /// The number of waiting callers. Callers whose task has ended do not count.
    pub(crate) fn waiting(&self) -> usize {
        let mut state = self.state();
        state.waiting.retain(|point| !point.go.is_closed());
        state.waiting.len()
    }

    /// Removes one of the waiting callers.
    pub(crate) fn take(&self, index: usize) -> Point {
        self.state().waiting.remove(index)
    }

    /// From now on, no call of that process takes effect.
    pub(crate) fn kill(&self, process: usize) {
        let mut state = self.state();
        state.dead.insert(process);
        state.waiting.retain(|point| point.process != process);
    }

    /// The sandboxes that were written since the last call of this function.
    pub(crate) fn take_written(&self) -> Vec<SandboxId> {
        std::mem::take(&mut self.state().written).into_iter().collect()
    }

    /// Waits until every task waits, at the gate or for another task.
    pub(crate) async fn settle(&self) {
        let mut quiet = 0;
        let mut arrivals = self.state().arrivals;
        while quiet < QUIET_TURNS {
            if self.state().busy > 0 {
                let news = tokio::time::timeout(CALL_WAIT_MAX, self.news.notified()).await;
                news.expect("the store does not answer");
            }
            tokio::task::yield_now().await;
            let state = self.state();
            quiet = if state.busy == 0 && state.arrivals == arrivals { quiet + 1 } else { 0 };
            arrivals = state.arrivals;
        }
    }

    async fn stand(&self, process: usize, operation: &'static str, side: Side) -> Result<(), StoreError> {
        let failed = || StoreError::Unavailable { operation, source: Box::new(Failed) };
        let (go, gone) = oneshot::channel();
        {
            let mut state = self.state();
            if state.dead.contains(&process) {
                return Err(failed());
            }
            state.arrivals += 1;
            state.waiting.push(Point { process, operation, side, go });
        }
        match gone.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(failed()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[async_trait]
impl Interposer for Gate {
    fn written(&self, sandbox: &Sandbox) {
        self.board.state().written.insert(sandbox.id.clone());
    }

    async fn before(&self, call: Call) -> Result<(), StoreError> {
        if !READS.contains(&call.operation) {
            self.board.stand(self.process, call.operation, Side::Before).await?;
        }
        self.board.state().busy += 1;
        Ok(())
    }

    async fn after(&self, call: Call) -> Result<(), StoreError> {
        self.board.state().busy -= 1;
        self.board.news.notify_one();
        self.board.stand(self.process, call.operation, Side::After).await
    }
}
