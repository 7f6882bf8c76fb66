//! Candidates: free sandboxes to try, kept in memory.
//!
//! Each selector (pool, name prefix) has a candidate buffer. It is filled from the index, shard by shard in random
//! order and from a random position in each, and refilled in the background before it is empty. While one claim of this
//! process tries an id, no other claim of the process gets it. An id that was found taken is not offered again at that
//! version, even while the index still shows it.
//!
//! *Exhausted* requires a whole round over all shards that shows only sandboxes known to be taken, on an index that has
//! had the time to show everything that was made free before the round: the number of shards and the time of the last
//! supply are read from the table. Until then, and while other claims still try candidates, the caller waits. One round
//! answers every caller that came before it.

use crate::Metrics;
use crate::admission::Permit;
use domain::{Candidate, NamePrefix, PoolName, Sandbox, SandboxId, StateName, Version};
use parking_lot::{Mutex, MutexGuard};
use ports::clock::Clock;
use ports::random::{Random, shuffle};
use ports::store::{Page, PageCursor, SortRange, StateQuery, Store, StoreError};
use runtime::telemetry::Chain;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

mod buffer;
mod starting_point;

use buffer::{Outcome, Ready};

/// Candidates per round: what a busy process uses in some 50 ms. More would cost fewer rounds, but other processes may
/// take buffered candidates in the meantime. With more candidates than a shard of a small pool has (1,000 free, eight
/// shards), two processes read the same shards all the time and lost an eighth of their races.
const BUFFER_TARGET: usize = 128;
/// Pause between two checks while a caller waits for a supply to show or for the trials of other claims.
const POLL_PAUSE: Duration = Duration::from_millis(250);
/// Sandboxes per page of the index, about 600 bytes each. The engine reads and we decode a page as a whole, which
/// delays waiting claims: 256 block the embedded engine for 2.9 ms, 64 for 0.9 ms.
const PAGE_LIMIT: u16 = 64;
/// Taken sandboxes that are remembered until the index shows that they are taken.
const TAKEN_MAX: usize = 65_536;
/// Selectors with a buffer; clients choose prefixes, so there has to be a limit.
const BUFFERS_MAX: usize = 1_024;

/// What a claim asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Selector {
    pub(crate) pool: PoolName,
    pub(crate) prefix: Option<NamePrefix>,
}

/// Why there is no candidate.
#[derive(Debug)]
pub(crate) enum Scarcity {
    /// There is no free sandbox for this selector.
    Exhausted,
    /// The pool grants no leases any more.
    Draining,
    /// There may be some, but the deadline came first.
    Contended,
    /// The index could not be read.
    Store(StoreError),
}

/// The candidates of one process.
pub(crate) struct Candidates {
    store: Arc<dyn Store>,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    reservations: Arc<Reservations>,
    buffers: Mutex<HashMap<Selector, Arc<CandidateBuffer>>>,
}

/// A candidate that no other claim of this process tries. If it is dropped without an outcome, it is offered again: the
/// conditional write decides anyway.
pub(crate) struct Reserved {
    candidate: Candidate,
    buffer: Arc<CandidateBuffer>,
    reservations: Arc<Reservations>,
    outcome: Outcome,
}

/// What this process knows about sandboxes, whatever their buffer.
#[derive(Default)]
struct Reservations {
    entries: Mutex<Entries>,
    /// Notifies whenever a trial ends.
    settled: Notify,
}

#[derive(Default)]
struct Entries {
    in_flight: HashSet<SandboxId>,
    taken: HashMap<SandboxId, Version>,
    taken_order: VecDeque<SandboxId>,
}

/// The candidates of one selector.
#[derive(Default)]
struct CandidateBuffer {
    ready: Mutex<Ready>,
    /// Held by the caller that runs a round; the others wait and share the result.
    rounds: tokio::sync::Mutex<Rounds>,
    /// Numbers callers, so that a round without a result answers every caller that came before it.
    callers: AtomicU64,
}

#[derive(Default)]
struct Rounds {
    cursors: Cursors,
    /// The last caller that the last round answers, and its result if it found nothing.
    empty_round: Option<(u64, EmptyRound)>,
}

/// Where the next round continues in each shard.
type Cursors = HashMap<u16, PageCursor>;

/// A round without a candidate.
#[derive(Clone, Copy)]
enum EmptyRound {
    /// Everything is taken.
    Exhausted,
    /// Some are being tried and may become available again.
    InFlight,
    /// A supply is so recent that the index may not show it yet.
    Settling,
}

/// The result of a round.
#[derive(Default)]
struct Round {
    fresh: Vec<Candidate>,
    saw_in_flight: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

// === impl Candidates ===

impl Candidates {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        random: Arc<dyn Random>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        Self { store, random, clock, metrics, reservations: Arc::default(), buffers: Mutex::default() }
    }

    /// Reserves a candidate for `selector` in this process.
    pub(crate) async fn take(
        self: &Arc<Self>,
        selector: &Selector,
        deadline: Instant,
        permit: &Permit,
    ) -> Result<Reserved, Scarcity> {
        let buffer = self.buffer(selector);
        loop {
            if let Some(reserved) = self.reserve(&buffer) {
                self.fill_up(selector, &buffer);
                return Ok(reserved);
            }
            // Created before any round that answers this caller, so that a trial that ends during it is not missed.
            let settled = self.reservations.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let number = buffer.callers.fetch_add(1, Ordering::SeqCst) + 1;
            let rounds = match buffer.rounds.try_lock() {
                Ok(rounds) => Some(rounds),
                Err(_) => {
                    let _idle = permit.idle();
                    tokio::time::timeout_at(deadline.into(), buffer.rounds.lock()).await.ok()
                }
            };
            let Some(mut rounds) = rounds else { return Err(Scarcity::Contended) };
            if !lock(&buffer.ready).is_empty() {
                continue;
            }
            let empty_round = match rounds.empty_round {
                Some((answered, empty_round)) if answered >= number => empty_round,
                _ => match self.round(selector, &buffer, &mut rounds).await.map_err(Scarcity::Store)? {
                    Some(empty_round) => empty_round,
                    None => continue,
                },
            };
            drop(rounds);
            let _idle = permit.idle();
            match empty_round {
                EmptyRound::Exhausted => return Err(Scarcity::Exhausted),
                // Also polls, because new sandboxes in the index cause no notification.
                EmptyRound::InFlight => tokio::select! {
                    () = settled => {}
                    () = self.clock.sleep(POLL_PAUSE) => {}
                    () = tokio::time::sleep_until(deadline.into()) => return Err(Scarcity::Contended),
                },
                EmptyRound::Settling => tokio::select! {
                    () = self.clock.sleep(POLL_PAUSE) => {}
                    () = tokio::time::sleep_until(deadline.into()) => return Err(Scarcity::Contended),
                },
            }
        }
    }

    /// Refills a low buffer in the background, so that the claim that noticed it does not wait.
    fn fill_up(self: &Arc<Self>, selector: &Selector, buffer: &Arc<CandidateBuffer>) {
        if !lock(&buffer.ready).begins_to_fill_up() {
            return;
        }
        let (candidates, selector, buffer) = (Arc::clone(self), selector.clone(), Arc::clone(buffer));
        tokio::spawn(async move {
            // The task that holds the lock is already filling this buffer.
            if let Ok(mut rounds) = buffer.rounds.try_lock()
                && let Err(error) = candidates.round(&selector, &buffer, &mut rounds).await
            {
                tracing::warn!(error = %Chain(&error), "refilling the candidate buffer found no candidates");
            }
            lock(&buffer.ready).ends_to_fill_up();
        });
    }

    /// Fills the candidate buffer, or returns why that failed; the result answers every caller with a number so far.
    async fn round(
        &self,
        selector: &Selector,
        buffer: &CandidateBuffer,
        rounds: &mut Rounds,
    ) -> Result<Option<EmptyRound>, StoreError> {
        let answered = buffer.callers.load(Ordering::SeqCst);
        let started = self.clock.now();
        let mut shards = self.store.shards().await?;
        let empty_round = loop {
            let round = self.search(selector, shards, buffer, &mut rounds.cursors).await?;
            let saw_in_flight = round.saw_in_flight;
            if lock(&buffer.ready).add(round.fresh) {
                break None;
            }
            if saw_in_flight {
                break Some(EmptyRound::InFlight);
            }
            // Nothing was visible. The table knows whether everything could be visible.
            let supply = self.store.supply(&selector.pool).await?;
            if supply.shards > shards {
                shards = supply.shards;
                continue;
            }
            let settled = supply.settles_at.is_none_or(|at| at <= started);
            break Some(if settled { EmptyRound::Exhausted } else { EmptyRound::Settling });
        };
        rounds.empty_round = empty_round.map(|empty_round| (answered, empty_round));
        Ok(empty_round)
    }

    fn buffer(&self, selector: &Selector) -> Arc<CandidateBuffer> {
        let mut buffers = lock(&self.buffers);
        if let Some(buffer) = buffers.get(selector) {
            return Arc::clone(buffer);
        }
        if buffers.len() >= BUFFERS_MAX {
            // A buffer is only a cache: the next claim with this selector fills it again.
            buffers.clear();
        }
        Arc::clone(buffers.entry(selector.clone()).or_default())
    }

    fn reserve(&self, buffer: &Arc<CandidateBuffer>) -> Option<Reserved> {
        let mut ready = lock(&buffer.ready);
        let mut entries = lock(&self.reservations.entries);
        while let Some(candidate) = ready.pop() {
            if entries.is_free(&candidate) {
                entries.in_flight.insert(candidate.id.clone());
                let reservations = Arc::clone(&self.reservations);
                return Some(Reserved {
                    candidate,
                    buffer: Arc::clone(buffer),
                    reservations,
                    outcome: Outcome::Unused,
                });
            }
        }
        None
    }

    /// One round over the shards: as many new candidates as wanted, or all there are.
    async fn search(
        &self,
        selector: &Selector,
        shards: u16,
        buffer: &CandidateBuffer,
        cursors: &mut Cursors,
    ) -> Result<Round, StoreError> {
        self.metrics.candidate_round();
        let mut shards: Vec<u16> = (0..shards).collect();
        shuffle(self.random.as_ref(), &mut shards);
        let mut round = Round::default();
        for shard in shards {
            self.search_shard(selector, shard, buffer, cursors, &mut round).await?;
            if round.fresh.len() >= BUFFER_TARGET {
                break;
            }
        }
        // In index order, every allocator would try neighbours in the same order.
        shuffle(self.random.as_ref(), &mut round.fresh);
        Ok(round)
    }

    /// One shard, from the end of the last round or from a random position to its end, and then from its beginning.
    async fn search_shard(
        &self,
        selector: &Selector,
        shard: u16,
        buffer: &CandidateBuffer,
        cursors: &mut Cursors,
        round: &mut Round,
    ) -> Result<(), StoreError> {
        let range = selector.prefix.clone().map_or(SortRange::All, SortRange::NamePrefix);
        let query = StateQuery { pool: selector.pool.clone(), state: StateName::Available, shard, range };
        let mut after = cursors.remove(&shard);
        let mut from_the_beginning = false;
        let mut page = match &after {
            Some(cursor) => self.store.page(&query, Some(cursor), PAGE_LIMIT).await?,
            None => {
                let first = self.store.page(&query, None, PAGE_LIMIT).await?;
                from_the_beginning = first.next.is_none();
                if from_the_beginning { first } else { self.page_somewhere(&query, first).await? }
            }
        };
        let mut offered: HashSet<SandboxId> = HashSet::new();
        loop {
            after = page.next;
            self.add_usable(page.sandboxes, buffer, &mut offered, round);
            let enough = round.fresh.len() >= BUFFER_TARGET;
            match after {
                Some(cursor) if enough => {
                    cursors.insert(shard, cursor);
                    return Ok(());
                }
                None if enough || from_the_beginning => return Ok(()),
                None => from_the_beginning = true,
                Some(_) => {}
            }
            page = self.store.page(&query, after.as_ref(), PAGE_LIMIT).await?;
        }
    }

    /// A page from a random position of a shard that has more than its `first` page.
    async fn page_somewhere(&self, query: &StateQuery, first: Page) -> Result<Page, StoreError> {
        let last = self.store.last(query).await?;
        let (Some(first), Some(last)) = (first.sandboxes.first(), last) else {
            return self.store.page(query, None, PAGE_LIMIT).await;
        };
        let from = starting_point::between(self.random.as_ref(), &first.name, &last.name);
        let prefix = match &query.range {
            SortRange::NamePrefix(prefix) => Some(prefix.clone()),
            _ => None,
        };
        let query = StateQuery { range: SortRange::NamesFrom { from, prefix }, ..query.clone() };
        self.store.page(&query, None, PAGE_LIMIT).await
    }

    /// Keeps usable candidates of a page that are not in the buffer.
    fn add_usable(
        &self,
        sandboxes: Vec<Sandbox>,
        buffer: &CandidateBuffer,
        offered: &mut HashSet<SandboxId>,
        round: &mut Round,
    ) {
        let ready = lock(&buffer.ready);
        let entries = lock(&self.reservations.entries);
        for sandbox in sandboxes {
            let candidate = sandbox.candidate();
            // Buffered candidates may be in flight when this round ends.
            let is_buffered = ready.holds(&candidate.id);
            round.saw_in_flight |= is_buffered || entries.in_flight.contains(&candidate.id);
            if !is_buffered && entries.is_free(&candidate) && offered.insert(candidate.id.clone()) {
                round.fresh.push(candidate);
            }
        }
    }
}

// === impl Entries ===

impl Entries {
    fn is_free(&self, candidate: &Candidate) -> bool {
        !self.in_flight.contains(&candidate.id)
            && self.taken.get(&candidate.id).is_none_or(|taken_at| *taken_at < candidate.version)
    }

    fn note_taken(&mut self, candidate: &Candidate) {
        if self.taken.insert(candidate.id.clone(), candidate.version).is_none() {
            self.taken_order.push_back(candidate.id.clone());
        }
        while self.taken_order.len() > TAKEN_MAX {
            if let Some(oldest) = self.taken_order.pop_front() {
                self.taken.remove(&oldest);
            }
        }
    }
}

// === impl Reserved ===

impl Reserved {
    pub(crate) fn candidate(&self) -> &Candidate {
        &self.candidate
    }

    /// The claim got the sandbox.
    pub(crate) fn won(mut self) {
        self.outcome = Outcome::Won;
    }

    /// Another owner has the sandbox, or had it since it was seen.
    pub(crate) fn lost(mut self) {
        self.outcome = Outcome::Lost;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        {
            let mut entries = lock(&self.reservations.entries);
            entries.in_flight.remove(&self.candidate.id);
            if self.outcome != Outcome::Unused {
                entries.note_taken(&self.candidate);
            }
        }
        lock(&self.buffer.ready).note(self.outcome, &self.candidate);
        self.reservations.settled.notify_waiters();
    }
}
