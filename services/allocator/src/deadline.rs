//! When work on a request has to end, and the one way to the store for what writes.

use crate::Allocator;
use contract::{Fault, FaultCode};
use ports::bus::Request;
use ports::store::Store;
use std::time::{Duration, Instant};

/// Time between giving up on finding a candidate and the deadline: a crowd is to hear that it is one, and not that time
/// is up.
const CONTENTION_MARGIN: Duration = Duration::from_millis(50);

/// The end of a request's time, on this process's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
}

/// The time is over.
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

    /// When to give up on finding a candidate.
    pub(crate) fn give_up_at(&self) -> Instant {
        self.at.checked_sub(CONTENTION_MARGIN).unwrap_or(self.at)
    }
}

// === impl Late ===

impl Late {
    /// The answer to the caller.
    pub(crate) fn fault(self, request: &Request) -> Fault {
        request.verb.unseen_end(FaultCode::Timeout, "the deadline passed; repeat the same request")
    }
}

// === impl Allocator ===

impl Allocator {
    /// The store, for one write. To be asked for before each: the time-out around a request acts only where the work
    /// waits, so a process that stood still would go on with its next write after the caller has given up and another
    /// attempt was answered.
    pub(crate) fn writer(&self, deadline: &Deadline) -> Result<&dyn Store, Late> {
        if Instant::now() >= deadline.at {
            self.metrics.late_write_refused();
            return Err(Late);
        }
        Ok(&*self.ports.store)
    }
}
