//! The length of leases.

use super::time::UnixSeconds;
use std::time::Duration;

/// The length of leases. What callers see, what a repeat gets and what expiry ends all follow from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeasePolicy {
    /// Length of a lease whose caller asks for none.
    pub duration: Duration,
    /// Longest lease that a caller may ask for.
    pub duration_max: Duration,
    /// Longest total time of a lease, extensions included; at least `duration_max`.
    pub total_max: Duration,
    /// Time after the end of a lease before its sandbox is taken away.
    pub grace: Duration,
}

// === impl LeasePolicy ===

impl LeasePolicy {
    /// Leases that ended at or before this moment are over, as their grace period has passed as well.
    #[must_use]
    pub fn ended_by(&self, now: UnixSeconds) -> UnixSeconds {
        now.before(self.grace)
    }

    /// Length of a lease for a caller that asks for `wanted`; none if that is longer than allowed.
    #[must_use]
    pub fn length(&self, wanted: Option<Duration>) -> Option<Duration> {
        match wanted {
            None => Some(self.duration),
            Some(wanted) if wanted.is_zero() || wanted > self.duration_max => None,
            Some(wanted) => Some(wanted),
        }
    }

    /// Whether a lease may be extended to that length, counted from its start.
    #[must_use]
    pub fn may_last(&self, wanted: Duration) -> bool {
        !wanted.is_zero() && wanted <= self.total_max.max(self.duration_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_length_is_limited() {
        let hour = Duration::from_secs(3_600);
        let policy = LeasePolicy {
            duration: 4 * hour,
            duration_max: 48 * hour,
            total_max: 72 * hour,
            grace: hour / 2,
        };
        assert_eq!(policy.length(None), Some(4 * hour));
        assert_eq!(policy.length(Some(48 * hour)), Some(48 * hour));
        assert_eq!(policy.length(Some(49 * hour)), None);
        assert_eq!(policy.length(Some(Duration::ZERO)), None);
        assert!(
            policy.may_last(72 * hour) && !policy.may_last(73 * hour) && !policy.may_last(Duration::ZERO)
        );
        let policy = LeasePolicy { total_max: hour, ..policy };
        assert!(policy.may_last(48 * hour), "what may be asked for at once may be asked for later");
        assert_eq!(policy.ended_by(UnixSeconds::new(10_000)), UnixSeconds::new(8_200));
    }
}
