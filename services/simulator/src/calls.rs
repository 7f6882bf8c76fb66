//! The log of calls, for tests and operators.

use crate::faults::Operation;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most entries kept; older ones are dropped and counted.
pub(crate) const ENTRIES_MAX: usize = 100_000;

/// One call that was answered, or deliberately not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogEntry {
    /// When it arrived, in ms since the Unix epoch.
    pub at_ms: u64,
    /// How long it took, in ms.
    pub took_ms: u64,
    /// The operation.
    pub operation: Operation,
    /// The account of the call: the UUID as it was sent.
    pub account: Option<String>,
    /// The status of the answer; none without an answer.
    pub status: Option<u16>,
    /// The injected fault, by name.
    pub fault: Option<&'static str>,
    /// Calls in progress when it arrived, itself included.
    pub in_flight: usize,
}

/// The bounded log.
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

/// A call in progress, until it is dropped.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) at_ms: u64,
    pub(crate) operation: Operation,
    in_flight: usize,
    counter: Arc<AtomicUsize>,
}

impl Calls {
    /// Counts an arriving call.
    pub(crate) fn arrive(&self, operation: Operation, at_ms: u64) -> Arrival {
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        Arrival { at_ms, operation, in_flight, counter: Arc::clone(&self.in_flight) }
    }

    /// Records the end of a call.
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

    /// Every entry in the order in which calls ended, and the number of dropped entries.
    pub(crate) fn read(&self) -> (Vec<LogEntry>, u64) {
        let entries = self.entries();
        (entries.kept.iter().cloned().collect(), entries.dropped)
    }

    /// The number of calls in progress.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Clears the log.
    pub(crate) fn clear(&self) {
        *self.entries() = Entries::default();
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock()
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
