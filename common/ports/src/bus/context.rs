//! The context of a request: its headers and its deadline.

use crate::clock::Clock;
use crate::random::Random;
use contract::Principal;
use std::time::Duration;

/// The headers of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The caller's request id, or a fresh one.
    pub request_id: String,
    /// When the caller stops waiting, in milliseconds since the Unix epoch by the clock of this process; none if the
    /// caller did not say. Between processes only the remaining time is sent.
    pub deadline_ms: Option<u64>,
    /// W3C trace context, if the caller sent one.
    pub traceparent: Option<String>,
    /// The idempotency key, if it was sent as a header.
    pub idempotency_key: Option<String>,
    /// The attempt, if the caller identified it.
    pub attempt: Option<Attempt>,
    /// Who asks, and about which pools.
    pub principal: Principal,
}

/// One attempt at a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The request: all attempts at it have the same key, and no other request has it.
    pub request_key: String,
    /// The number of the attempt, from 1; none if the caller does not say. A caller that makes a further attempt no
    /// longer takes an answer to an earlier one.
    pub number: Option<u32>,
}

/// Why a request was dropped without an answer: its caller does not wait any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Dropped {
    /// It was in transit for longer than its caller waits.
    Late,
    /// Its deadline passed before work on it began.
    Expired,
}

// === impl Context ===

impl Context {
    /// The context of a worker's own request, whose answer it waits for as long as `timeout`.
    #[must_use]
    pub fn own(clock: &dyn Clock, random: &dyn Random, timeout: Duration) -> Self {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Self {
            request_id: random.fresh_id(),
            deadline_ms: Some(clock.now_ms().saturating_add(timeout_ms)),
            traceparent: None,
            idempotency_key: None,
            attempt: None,
            principal: Principal::default(),
        }
    }

    /// The remaining time; none without a deadline.
    #[must_use]
    pub fn remaining(&self, clock: &dyn Clock) -> Option<Duration> {
        self.deadline_ms.map(|deadline_ms| Duration::from_millis(deadline_ms.saturating_sub(clock.now_ms())))
    }

    /// Whether the caller has stopped waiting.
    #[must_use]
    pub fn is_over(&self, clock: &dyn Clock) -> bool {
        self.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= clock.now_ms())
    }
}

// === impl Dropped ===

impl Dropped {
    /// Its name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
