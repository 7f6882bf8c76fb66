//! The deadline of a request, and the only way to get the store for a write.

use crate::Allocator;
use contract::{Fault, FaultCode};
use ports::bus::Request;
use ports::store::Store;
use std::time::{Duration, Instant};

/// Time between giving up the search for a candidate and the deadline, so that callers get *contended* and not a
/// time-out.
const CONTENTION_MARGIN: Duration = Duration::from_millis(50);

/// The deadline of a request, on this process's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
}

/// The deadline has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Late;

// === impl Deadline ===

impl Deadline {
    pub(crate) const fn new(at: Instant) -> Self {
        Self { at }
    }

    /// The moment.
    pub(crate) const fn at(&self) -> Instant {
        self.at
    }

    /// When to give up the search for a candidate.
    pub(crate) fn give_up_at(&self) -> Instant {
        self.at.checked_sub(CONTENTION_MARGIN).unwrap_or(self.at)
    }
}

// === impl Late ===

impl Late {
    /// The fault for the caller.
    pub(crate) fn fault(self, request: &Request) -> Fault {
        request.verb.unseen_end(FaultCode::Timeout, "the deadline passed; repeat the same request")
    }
}

// === impl Allocator ===

impl Allocator {
    /// The store, for one write. Call this before each write: the time-out around a request only acts while the task
    /// waits, so a process that was suspended would continue with its next write after the caller has given up and
    /// another attempt was answered.
    pub(crate) fn writer(&self, deadline: &Deadline) -> Result<&dyn Store, Late> {
        if Instant::now() >= deadline.at {
            self.metrics.late_write_refused();
            return Err(Late);
        }
        Ok(&*self.ports.store)
    }
}
