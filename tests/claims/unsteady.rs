//! Stores with delays: the calls of several callers interleave, pages are slow, and the index lags.

use async_trait::async_trait;
use domain::{Candidate, Sandbox, StateName};
use parking_lot::{Mutex, MutexGuard};
use ports::clock::{Clock as _, SystemClock};
use ports::random::{Random as _, Rng};
use ports::store::{Page, PageCursor, SortRange, StateQuery, Store, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use testkit::interposed::{Call, InterposedStore, Interposer};

/// Enough turns to interleave the calls of a crowd.
const TURNS_MAX: usize = 4;

/// The delays of a store.
#[derive(Debug)]
pub(crate) struct Unsteady {
    rng: Rng,
    /// The maximum of turns of the runtime that a call takes before and after its effect.
    turns_max: usize,
    page_time: Duration,
    /// The maximum of writes by which the index lags; zero means no lag.
    lag_max: usize,
    log: Mutex<Log>,
    grants: AtomicUsize,
}

#[derive(Debug, Default)]
struct Log {
    /// Every write of a sandbox, in order, as the record was after the write.
    written: Vec<Sandbox>,
    /// The number of writes that the index will ever show, once it has stopped.
    stands_still_at: Option<usize>,
    /// The content of the last page.
    shown: Vec<Candidate>,
}

// === impl Unsteady ===

impl Unsteady {
    /// Calls interleave, without other delays.
    pub(crate) fn mixing(seed: u64) -> Self {
        Self::new(seed, TURNS_MAX, Duration::ZERO, 0)
    }

    /// Pages take that long, and all other calls no time.
    pub(crate) fn slow(page_time: Duration) -> Self {
        Self::new(1, 1, page_time, 0)
    }

    /// Every page shows the state of up to `lag_max` writes ago, by a random number. All of it is one page, so this is
    /// for stores with one shard and few sandboxes.
    pub(crate) fn lagging(seed: u64, lag_max: usize) -> Self {
        Self::new(seed, TURNS_MAX, Duration::ZERO, lag_max)
    }

    fn new(seed: u64, turns_max: usize, page_time: Duration, lag_max: usize) -> Self {
        let rng = Rng::seeded(seed);
        Self { rng, turns_max, page_time, lag_max, log: Mutex::default(), grants: AtomicUsize::new(0) }
    }

    /// The store with these delays.
    pub(crate) fn over(self: &Arc<Self>, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(InterposedStore::over(inner, Arc::clone(self)))
    }

    /// Grants so far, successful or not.
    pub(crate) fn grants(&self) -> usize {
        self.grants.load(Ordering::SeqCst)
    }

    /// The free sandboxes of the last page.
    pub(crate) fn shown(&self) -> Vec<Candidate> {
        self.log().shown.clone()
    }

    /// From now on the index takes no further writes.
    pub(crate) fn stand_still(&self) {
        let mut log = self.log();
        log.stands_still_at = Some(log.written.len());
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }

    async fn mix(&self) {
        for _ in 0..self.rng.below(self.turns_max) {
            tokio::task::yield_now().await;
        }
    }

    fn lagging_page(&self, query: &StateQuery) -> Page {
        assert_eq!(query.state, StateName::Available, "only what is free is looked for");
        let mut log = self.log();
        let late = self.rng.below(self.lag_max + 1);
        let known = log.stands_still_at.unwrap_or(log.written.len().saturating_sub(late));
        let latest: BTreeMap<_, _> =
            log.written[..known].iter().map(|sandbox| (&sandbox.id, sandbox)).collect();
        let is_wanted = |sandbox: &Sandbox| {
            sandbox.state.name() == query.state
                && match &query.range {
                    SortRange::NamePrefix(prefix) => sandbox.name.as_str().starts_with(prefix.as_str()),
                    SortRange::NamesFrom { .. } => unreachable!("every page is the last one"),
                    SortRange::All | SortRange::DueBy(_) => true,
                }
        };
        let sandboxes: Vec<Sandbox> =
            latest.into_values().filter(|sandbox| is_wanted(sandbox)).cloned().collect();
        log.shown = sandboxes.iter().map(Sandbox::candidate).collect();
        Page { sandboxes, unreadable: Vec::new(), next: None }
    }
}

#[async_trait]
impl Interposer for Unsteady {
    async fn before(&self, call: Call) -> Result<(), StoreError> {
        if call.operation == "grant" {
            self.grants.fetch_add(1, Ordering::SeqCst);
        }
        if call.operation == "page" && !self.page_time.is_zero() {
            SystemClock.sleep(self.page_time).await;
        }
        self.mix().await;
        Ok(())
    }

    async fn after(&self, _call: Call) -> Result<(), StoreError> {
        self.mix().await;
        Ok(())
    }

    fn written(&self, sandbox: &Sandbox) {
        self.log().written.push(sandbox.clone());
    }

    async fn page(
        &self,
        inner: &dyn Store,
        query: &StateQuery,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        if self.lag_max == 0 {
            return inner.page(query, after, limit).await;
        }
        Ok(self.lagging_page(query))
    }
}
