//! The kinds of ticks, and what a tick may say beyond "look now": nearly always nothing.

use super::reports::Report;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// The actor of an order that names none.
const DEFAULT_ACTOR: &str = "operator";

/// What a tick says to look at, by the name on the wire. The set is open: the service that runs a kind registers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TickKind(&'static str);

/// The body of a tick. One without a body is the default: look, and be careful.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TickOrder {
    /// Whether a sync follows a listing that is empty or would cost too much of the pool. Nothing else is forced by it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
    /// Who asks, for log and report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Until when it is wanted, in milliseconds since the Unix epoch: the operator who sent it has given up by then. One that
    /// is run on later overrides nothing, and is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_until_ms: Option<u64>,
    /// Period of the kind in the settings, in seconds, if the scheduler sent it: what has a period of its own, or is not
    /// due after this one, is left out. Without it, everything is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_seconds: Option<u64>,
    /// For how many hours a sandbox must be stale for a removal to take its record; as set, if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period_hours: Option<u64>,
}

/// The period in which pools ask for a kind of tick, as its key holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestedPeriod {
    /// The shortest one of all pools, in seconds; none if no pool asks for one.
    #[serde(default)]
    pub seconds: Option<u64>,
}

/// The turn of a kind's ticks, as its key holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TurnTaken {
    /// What its tick is published under, after the kind.
    pub number: u64,
    /// Whether there was none before it: the period after it is longer by the offset of its kind.
    #[serde(default)]
    pub is_first: bool,
}

// === impl TickKind ===

impl TickKind {
    /// Compare the provider's listing with the table.
    pub const SYNC: Self = Self::new("sync");
    /// End leases that are over.
    pub const EXPIRY: Self = Self::new("expiry");
    /// Bring queue, parked copies and event log in line with the table.
    pub const SWEEP: Self = Self::new("sweep");
    /// Count the pools, and compare leases with claim items.
    pub const CENSUS: Self = Self::new("census");
    /// Turn records that the provider has not listed for long into tombstones.
    pub const STALE: Self = Self::new("stale");
    /// Keep the wanted number of free sandboxes in pools whose sandboxes are created.
    pub const FILL: Self = Self::new("fill");
    /// Find out which nodes are there, and what they have.
    pub const NODES: Self = Self::new("nodes");

    /// The kind of this name, which is one token of a subject.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// Last token of the kind's subjects.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// The kind of that name, if it has a report.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Report::kinds().find(|kind| kind.as_str() == name)
    }

    /// The names of all kinds with a report, for a text that says what is allowed: `a, b, c`.
    #[must_use]
    pub fn names() -> String {
        Report::kinds().map(Self::as_str).collect::<Vec<_>>().join(", ")
    }
}

// === impl TickOrder ===

impl TickOrder {
    /// The order of `by` to follow the listing.
    #[must_use]
    pub fn forced(by: &str) -> Self {
        Self { force: true, by: Some(by.to_owned()), ..Self::default() }
    }

    /// The order of a scheduler whose settings give the kind this period.
    #[must_use]
    pub fn scheduled(period: Duration) -> Self {
        Self { period_seconds: Some(period.as_secs()), ..Self::default() }
    }

    /// The order of `by` to remove what has been stale for so many hours.
    #[must_use]
    pub fn with_grace(hours: u64, by: &str) -> Self {
        Self { grace_period_hours: Some(hours), by: Some(by.to_owned()), ..Self::default() }
    }

    /// This order, wanted until that moment and not after it.
    #[must_use]
    pub fn until(self, moment_ms: u64) -> Self {
        Self { wanted_until_ms: Some(moment_ms), ..self }
    }

    /// By how many milliseconds it comes too late; none if it does not. Only one that overrides a limit or a setting can:
    /// that is not done unattended.
    #[must_use]
    pub fn late_by_ms(&self, now_ms: u64) -> Option<u64> {
        let overrides = self.force || self.grace_period_hours.is_some();
        let until_ms = self.wanted_until_ms.filter(|_| overrides)?;
        now_ms.checked_sub(until_ms).filter(|late_ms| *late_ms > 0)
    }

    /// Who forces it; none if it is not forced.
    #[must_use]
    pub fn forced_by(&self) -> Option<&str> {
        self.force.then(|| self.by.as_deref().unwrap_or(DEFAULT_ACTOR))
    }

    /// The order in the body of a tick. What cannot be read orders nothing.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        if body.is_empty() {
            return Self::default();
        }
        serde_json::from_slice(body).unwrap_or_else(|error| {
            tracing::warn!(%error, "the body of a tick cannot be read; it counts as an ordinary one");
            Self::default()
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_explicit_force_flag_forces_a_run() {
        assert_eq!(TickOrder::read(br#"{"force":true,"by":"alice"}"#).forced_by(), Some("alice"));
        assert_eq!(TickOrder::read(br#"{"force":true}"#).forced_by(), Some("operator"));
        for body in ["", "{}", r#"{"by":"alice"}"#, r#"{"force":"yes"}"#, "now", "[]", r#"{"force":false}"#] {
            assert_eq!(TickOrder::read(body.as_bytes()).forced_by(), None, "{body}");
        }
    }

    #[test]
    fn only_a_tick_that_overrides_something_can_expire() {
        let order = TickOrder::read(br#"{"force":true,"wanted_until_ms":7,"of_a_later_version":1}"#);
        assert_eq!(order.forced_by(), Some("operator"));
        assert_eq!((order.late_by_ms(0), order.late_by_ms(7), order.late_by_ms(8)), (None, None, Some(1)));
        assert_eq!(TickOrder::forced("alice").late_by_ms(u64::MAX), None, "an old sender does not say");
        let ordinary = TickOrder { wanted_until_ms: Some(7), ..TickOrder::default() };
        assert_eq!(ordinary.late_by_ms(8), None, "a look is always in time");
        assert_eq!(TickOrder::with_grace(48, "alice").until(7).late_by_ms(8), Some(1));
    }
}
