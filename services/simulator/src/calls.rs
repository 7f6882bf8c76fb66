//! The record of calls: what a test or an operator asks afterwards.

use crate::faults::Operation;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most entries kept; older ones are dropped and counted.
pub(crate) const ENTRIES_MAX: usize = 100_000;

/// One call that was answered, or given up on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogEntry {
    /// When it arrived, in ms since the Unix epoch.
    pub at_ms: u64,
    /// How long it took, in ms.
    pub took_ms: u64,
    /// What was asked.
    pub operation: Operation,
    /// The account that it was about: the UUID as it was sent.
    pub account: Option<String>,
    /// The status of the answer; none if there was no answer.
    pub status: Option<u16>,
    /// What went wrong on request, in a word.
    pub fault: Option<&'static str>,
    /// Calls under way when it arrived, itself included.
    pub in_flight: usize,
}

/// The bounded record.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    entries: Mutex<Entries>,
    in_flight: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Entries {
    kept: VecDeque<LogEntry>,
    dropped: u64,
}

/// A call under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) at_ms: u64,
    pub(crate) operation: Operation,
    in_flight: usize,
    counter: Arc<AtomicUsize>,
}

impl Calls {
    /// Counts a call in.
    pub(crate) fn arrive(&self, operation: Operation, at_ms: u64) -> Arrival {
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        Arrival { at_ms, operation, in_flight, counter: Arc::clone(&self.in_flight) }
    }

    /// Writes down how a call ended.
    pub(crate) fn record(
        &self,
        arrival: &Arrival,
        account: Option<String>,
        status: Option<u16>,
        fault: Option<&'static str>,
        now_ms: u64,
    ) {
        let entry = LogEntry {
            at_ms: arrival.at_ms,
            took_ms: now_ms.saturating_sub(arrival.at_ms),
            operation: arrival.operation,
            account,
            status,
            fault,
            in_flight: arrival.in_flight,
        };
        let mut entries = self.entries();
        if entries.kept.len() >= ENTRIES_MAX {
            entries.kept.pop_front();
            entries.dropped += 1;
        }
        entries.kept.push_back(entry);
    }

    /// Every entry kept, in the order of their ends, and how many were dropped.
    pub(crate) fn read(&self) -> (Vec<LogEntry>, u64) {
        let entries = self.entries();
        (entries.kept.iter().cloned().collect(), entries.dropped)
    }

    /// Calls under way now.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Forgets all of it.
    pub(crate) fn clear(&self) {
        *self.entries() = Entries::default();
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_log_is_bounded_and_counts_dropped_entries() {
        let calls = Calls::default();
        for at_ms in 0..ENTRIES_MAX as u64 + 2 {
            let arrival = calls.arrive(Operation::List, at_ms);
            calls.record(&arrival, None, Some(200), None, at_ms + 1);
        }
        let (entries, dropped) = calls.read();
        assert_eq!((entries.len(), dropped), (ENTRIES_MAX, 2));
        assert_eq!((entries[0].at_ms, entries[0].took_ms, entries[0].in_flight), (2, 1, 1));
        calls.clear();
        assert_eq!(calls.read(), (Vec::new(), 0));
    }
}
