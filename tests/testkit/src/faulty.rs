//! A store that fails or pauses at a chosen call, before or after the write really happened: for tests of code that
//! uses a store.

use super::interposed::{Call, InterposedStore, Interposer};
use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use ports::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Time-out for the chosen call.
const PAUSE_WAIT_MAX: Duration = Duration::from_secs(30);

/// A fault of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing happened.
    FailBefore,
    /// It happens and its answer is lost.
    FailAfter,
    /// It waits for [`FaultyStore::resume`] and then happens.
    PauseBefore,
    /// It happens, and its answer waits for [`FaultyStore::resume`].
    PauseAfter,
}

/// A store with faults in front of another one.
pub type FaultyStore = InterposedStore<Faults>;

/// The fault of each call.
#[derive(Debug)]
pub struct Faults {
    planned: Mutex<BTreeMap<usize, Fault>>,
    calls: Mutex<Vec<&'static str>>,
    paused: watch::Sender<bool>,
    resumed: watch::Sender<bool>,
}

/// The error of a failed call.
#[derive(Debug, thiserror::Error)]
#[error("broken off on purpose")]
struct BrokenOff;

// === impl FaultyStore ===

impl FaultyStore {
    /// A store that passes every call on.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        let (paused, resumed) = (watch::Sender::new(false), watch::Sender::new(false));
        let faults = Faults { planned: Mutex::default(), calls: Mutex::default(), paused, resumed };
        Self::over(inner, Arc::new(faults))
    }

    /// With this fault at the call of that number, counted from zero over all methods. At most one pause.
    #[must_use]
    pub fn with(self, call: usize, fault: Fault) -> Self {
        held(&self.between().planned).insert(call, fault);
        self
    }

    /// Names of the calls so far.
    pub fn calls(&self) -> Vec<&'static str> {
        held(&self.between().calls).clone()
    }

    /// Waits until the call with a pause has arrived.
    ///
    /// # Panics
    /// If it does not arrive within half a minute.
    pub async fn paused(&self) {
        let mut paused = self.between().paused.subscribe();
        let reached = tokio::time::timeout(PAUSE_WAIT_MAX, paused.wait_for(|paused| *paused)).await;
        assert!(reached.is_ok(), "the chosen call never came; calls: {:?}", self.calls());
    }

    /// Resumes the call with a pause, now or when it arrives.
    pub fn resume(&self) {
        self.between().resumed.send_replace(true);
    }
}

// === impl Faults ===

impl Faults {
    fn of(&self, call: Call) -> Option<Fault> {
        held(&self.planned).get(&call.number).copied()
    }

    async fn pause(&self) {
        self.paused.send_replace(true);
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.resumed.subscribe().wait_for(|resumed| *resumed).await;
    }
}

#[async_trait]
impl Interposer for Faults {
    async fn before(&self, call: Call) -> Result<(), StoreError> {
        held(&self.calls).push(call.operation);
        match self.of(call) {
            Some(Fault::FailBefore) => return Err(broken_off(call.operation)),
            Some(Fault::PauseBefore) => self.pause().await,
            _ => {}
        }
        Ok(())
    }

    async fn after(&self, call: Call) -> Result<(), StoreError> {
        match self.of(call) {
            Some(Fault::FailAfter) => return Err(broken_off(call.operation)),
            Some(Fault::PauseAfter) => self.pause().await,
            _ => {}
        }
        Ok(())
    }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock()
}

fn broken_off(operation: &'static str) -> StoreError {
    StoreError::Unavailable { operation, source: Box::new(BrokenOff) }
}
