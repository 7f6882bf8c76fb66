//! Detects a table that was restored to an earlier time, which would hand out sandboxes that owners hold.
//!
//! The table has a mark, a number that only grows, and the bus stores the highest known one. The table is written first
//! and the bus is read first, so a table with a lower mark is older than the bus. Marks are some seconds apart. Where
//! the table was not watched, at the start and after an outage, the last events are compared as well: an event is
//! published after the write that it describes, so a record with a lower version is older than the event.

use super::check::Check;
use super::metrics::{Collectors, register_all};
use super::telemetry::Chain;
use async_trait::async_trait;
use contract::events::{parse_rfc3339, rfc3339};
use contract::{Event, KnownMark};
use domain::{SandboxId, StateName, UnixSeconds, Version};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ports::bus::{BusError, EventFeed, EventsFrom, EventsWanted, KeptEvent, TableMarks};
use ports::clock::Clock;
use ports::store::{Store, StoreError, TableMark};
use prometheus::{IntGauge, Registry};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
mod tests;

/// Time between two checks of a process, and between two marks of the fleet.
const WATCH_PERIOD: Duration = Duration::from_secs(5);
/// Pause after a failed check.
const CHECK_PAUSE: Duration = Duration::from_millis(500);
/// Failed checks, with a connection, before a role that needs no stream continues without a result: five seconds.
const FAILED_CHECKS_MAX: u32 = 10;
/// Number of last events that are compared. If the end of a table is lost, the last events reveal it.
const EVENTS_COMPARED_MAX: usize = 100;
/// Records that are read concurrently.
const RECORDS_AT_ONCE_MAX: usize = 16;
/// Only events that are at most this much older than the last mark are compared. It is shorter than the life of any
/// tombstone: a record that was purged and created again with the same id would count as older than the events of its
/// former life.
const EVENT_PROVES: Duration = Duration::from_secs(12 * 3_600);
/// How far the mark of an accepted table goes beyond the highest known one, to exceed marks in transit.
const ACCEPTED_STEP: u64 = 1_000;
/// Attempts to accept a table; each failed one means that another process moved the mark.
const ROUNDS_MAX: usize = 8;

/// What is known about the age of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    /// Nothing yet.
    Unknown,
    /// Nothing, because the bus does not answer.
    Silent,
    /// It is not older than the bus.
    Sound,
    /// It is older; contains the reason.
    Restored(String),
}

/// Whether this process may work on its table. Clones share the state.
#[derive(Clone, Debug)]
pub struct TableGuard(watch::Sender<Finding>);

/// Shows whether the table was restored.
#[derive(Clone, Debug)]
pub struct TableMetrics {
    restored: IntGauge,
}

/// Ready unless the table was restored.
#[derive(Debug)]
pub struct TableCheck(pub TableGuard);

/// Compares the table with what the bus knows.
#[derive(Clone)]
pub struct TableWatch {
    store: Arc<dyn Store>,
    marks: Arc<dyn TableMarks>,
    events: Arc<dyn EventFeed>,
    clock: Arc<dyn Clock>,
}

/// The result of comparing table and bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFacts {
    /// The mark of the table.
    pub kept: TableMark,
    /// The highest mark that the bus knows.
    pub known: Option<KnownMark>,
    /// The sequence of the last event; none if events were not compared or there are none.
    pub last_event: Option<u64>,
    /// Why the table is older than the bus; none if it is not.
    pub problem: Option<String>,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The table failed.
    #[error("the table failed")]
    Store(#[from] StoreError),
    /// The bus failed.
    #[error("the queue failed")]
    Bus(#[from] BusError),
    /// Other processes move the mark all the time.
    #[error("other processes move the mark of the table")]
    Contended,
}

// === impl TableGuard ===

impl Default for TableGuard {
    fn default() -> Self {
        Self(watch::Sender::new(Finding::Unknown))
    }
}

impl TableGuard {
    /// Why nothing may be granted or ended on this table; none if it may, or if nothing is known yet.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match &*self.0.borrow() {
            Finding::Restored(problem) => Some(problem.clone()),
            Finding::Unknown | Finding::Silent | Finding::Sound => None,
        }
    }

    /// Waits until the table has been compared. With `may_go_on`, it waits only some seconds for a bus that does not
    /// answer.
    pub async fn compared(&self, may_go_on: bool) {
        let is_enough = |finding: &Finding| match finding {
            Finding::Unknown => false,
            Finding::Silent => may_go_on,
            Finding::Sound | Finding::Restored(_) => true,
        };
        // The sender is this guard itself, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(is_enough).await;
    }

    fn find(&self, finding: Finding) {
        let before = self.0.send_replace(finding.clone());
        match (before, finding) {
            (Finding::Restored(before), Finding::Restored(now)) if before == now => {}
            (_, Finding::Restored(problem)) => tracing::error!(
                "{problem}; this process grants and ends nothing: see docs/recovery.md, `broker table show` and `broker table \
                 acknowledge`"
            ),
            (Finding::Restored(_), _) => tracing::info!("the table is no longer older than NATS"),
            _ => {}
        }
    }
}

// === impl TableMetrics ===

impl TableMetrics {
    /// Registers the numbers.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let restored = IntGauge::new(
            "broker_table_restored",
            "1 while the table is older than NATS, so that nothing is granted or ended",
        )?;
        let metrics = Self { restored };
        register_all(registry, metrics.collectors())?;
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self { restored } = self.clone();
        vec![Box::new(restored)]
    }
}

// === impl TableCheck ===

#[async_trait]
impl Check for TableCheck {
    fn name(&self) -> &'static str {
        "table"
    }

    async fn check(&self) -> Result<(), String> {
        let problem = self.0.problem().map(|problem| {
            format!(
                "{problem}; nothing is granted or ended until `broker table acknowledge` (docs/recovery.md)"
            )
        });
        problem.map_or(Ok(()), Err)
    }
}

// === impl TableWatch ===

impl TableWatch {
    /// A watch of this table, compared with this bus.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        marks: Arc<dyn TableMarks>,
        events: Arc<dyn EventFeed>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { store, marks, events, clock }
    }

    /// Checks repeatedly until `stop`, moves the mark forward, and updates the guard.
    pub async fn keep(&self, guard: &TableGuard, metrics: &TableMetrics, stop: &CancellationToken) {
        let (mut compares_events, mut failed, mut seen) = (true, 0, None);
        while !stop.is_cancelled() {
            let pause = match self.round(compares_events, seen, guard).await {
                Ok(number) => {
                    (compares_events, failed, seen) = (guard.problem().is_some(), 0, Some(number));
                    WATCH_PERIOD
                }
                Err(error) => {
                    tracing::debug!(error = %Chain(&error), "the table cannot be compared with NATS");
                    // After an outage, another table may answer.
                    compares_events |= matches!(error, WatchError::Store(_));
                    failed += u32::from(matches!(error, WatchError::Bus(_)) && self.marks.is_reachable());
                    if failed >= FAILED_CHECKS_MAX {
                        guard.0.send_if_modified(Finding::give_up);
                    }
                    CHECK_PAUSE
                }
            };
            metrics.restored.set(i64::from(guard.problem().is_some()));
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Compares once without changes.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn look(&self, compares_events: bool) -> Result<TableFacts, WatchError> {
        // Read before the table, because the table is written first.
        let known = self.marks.known_mark().await?;
        let (last_event, events) =
            if compares_events { self.last_events().await? } else { (None, Vec::new()) };
        let kept = self.store.mark().await?;
        let problem = match older_mark(&kept, known) {
            Some(problem) => Some(problem),
            None => self.older_record(&kept, known, last_event.unwrap_or_default(), &events).await?,
        };
        Ok(TableFacts { kept, known, last_event, problem })
    }

    /// Accepts the table as it is: its current events no longer count against it.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn accept(&self) -> Result<TableMark, WatchError> {
        for _ in 0..ROUNDS_MAX {
            let TableFacts { kept, known, last_event, .. } = self.look(true).await?;
            let highest = known.map_or(0, |known| known.number).max(kept.number);
            let next = TableMark {
                number: highest.saturating_add(ACCEPTED_STEP),
                at: self.clock.now(),
                accepted_event: last_event.unwrap_or_default(),
            };
            if self.store.advance_mark(&kept, &next).await? {
                self.marks.raise_mark(known_of(&next)).await?;
                return Ok(next);
            }
        }
        Err(WatchError::Contended)
    }

    /// One check; returns the number of the mark. `seen` is that of the last check.
    async fn round(
        &self,
        compares_events: bool,
        seen: Option<u64>,
        guard: &TableGuard,
    ) -> Result<u64, WatchError> {
        let TableFacts { kept, known, problem, .. } = self.look(compares_events).await?;
        if let Some(problem) = problem {
            guard.find(Finding::Restored(problem));
            return Ok(kept.number);
        }
        guard.find(Finding::Sound);
        let mut newest = kept;
        // If another process has moved the mark since, this process does not move it.
        if seen.is_none_or(|seen| seen == kept.number) {
            let next = TableMark { number: kept.number.saturating_add(1), at: self.clock.now(), ..kept };
            if self.store.advance_mark(&kept, &next).await? {
                newest = next;
            }
        }
        if known.is_none_or(|known| known.number < newest.number) {
            self.marks.raise_mark(known_of(&newest)).await?;
        }
        Ok(newest.number)
    }

    /// The last events, and the sequence of the very last one.
    async fn last_events(&self) -> Result<(Option<u64>, Vec<KeptEvent>), BusError> {
        let ends = self.events.event_log_range().await?;
        if ends.last < ends.first {
            return Ok((None, Vec::new()));
        }
        let many = u64::try_from(EVENTS_COMPARED_MAX).unwrap_or(u64::MAX);
        let from = EventsFrom::After(ends.last.saturating_sub(many));
        let events = self.events.events_from(from, &EventsWanted::default(), EVENTS_COMPARED_MAX).await?;
        Ok((Some(ends.last), events))
    }

    /// A record that is older than one of these events.
    async fn older_record(
        &self,
        kept: &TableMark,
        known: Option<KnownMark>,
        last_event: u64,
        events: &[KeptEvent],
    ) -> Result<Option<String>, StoreError> {
        // A recreated stream counts from the beginning.
        let accepted = if kept.accepted_event > last_event { 0 } else { kept.accepted_event };
        let watched_at = known.map_or_else(|| self.clock.now(), |known| UnixSeconds::new(known.at));
        let mut newest: BTreeMap<SandboxId, (Version, bool)> = BTreeMap::new();
        for event in
            events.iter().filter(|kept| kept.sequence > accepted).filter_map(|kept| kept.event.as_ref())
        {
            let Some((id, version)) = SandboxId::parse(&event.subject).ok().zip(Event::version_in(&event.id))
            else {
                continue;
            };
            let is_young = parse_rfc3339(&event.time).is_some_and(|at| at.after(EVENT_PROVES) >= watched_at);
            if is_young && newest.get(&id).is_none_or(|(known, _)| *known < version) {
                newest.insert(id, (version, event.data.to == StateName::Deleted.into()));
            }
        }
        let older = stream::iter(newest)
            .map(|(id, (version, is_end))| self.is_older(id, version, is_end))
            .buffer_unordered(RECORDS_AT_ONCE_MAX)
            .try_filter_map(|older| std::future::ready(Ok(older)));
        std::pin::pin!(older).try_next().await
    }

    /// How the record of this sandbox is older than its event of that version, if it is. The last events may have
    /// outlived their tombstones while no process ran.
    async fn is_older(
        &self,
        id: SandboxId,
        version: Version,
        is_end: bool,
    ) -> Result<Option<String>, StoreError> {
        let there = match self.store.sandbox(&id).await.map_err(StoreError::into_unreadable) {
            Ok(Some(record)) if record.version < version => {
                format!("at version {} in the table", record.version)
            }
            Ok(None) if !is_end => "not in the table".to_owned(),
            // An unreadable record proves nothing.
            Ok(_) | Err(Ok(_)) => return Ok(None),
            Err(Err(failure)) => return Err(failure),
        };
        Ok(Some(format!(
            "the table was restored to an earlier time: sandbox {id} is {there}, and NATS has its event of version {version}"
        )))
    }
}

// === impl Finding ===

impl Finding {
    fn give_up(&mut self) -> bool {
        let is_unknown = *self == Self::Unknown;
        if is_unknown {
            *self = Self::Silent;
        }
        is_unknown
    }
}

fn known_of(mark: &TableMark) -> KnownMark {
    KnownMark { number: mark.number, at: mark.at.get() }
}

fn older_mark(kept: &TableMark, known: Option<KnownMark>) -> Option<String> {
    let known = known.filter(|known| known.number > kept.number)?;
    Some(format!(
        "the table was restored to an earlier time: its mark is {} of {}, and NATS knows {} of {}",
        kept.number,
        rfc3339(kept.at),
        known.number,
        rfc3339(UnixSeconds::new(known.at)),
    ))
}
