//! Rules that several services share: the length of leases, and the pool of a sandbox.

use super::ids::{PoolName, SandboxName};
use super::time::UnixSeconds;
use std::time::Duration;

/// The length of leases. What callers see, what a repeat gets and what expiry ends all follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Assigns a sandbox to a pool by the prefix of its name. The first rule that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRules {
    rules: Vec<(PoolName, String)>,
}

/// Why a text is not a valid list of pools.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be `pool` or `pool=name-prefix`, separated by commas, each pool once, the last one without a prefix: {problem}"
)]
pub struct InvalidPools {
    problem: String,
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

// === impl PoolRules ===

impl PoolRules {
    /// Reads `pool=prefix,…,pool`. The last pool takes every name that no earlier rule matches.
    ///
    /// # Errors
    /// [`InvalidPools`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidPools> {
        let invalid = |problem: String| InvalidPools { problem };
        let mut rules: Vec<(PoolName, String)> = Vec::new();
        for rule in text.split(',') {
            let (pool, prefix) = rule.split_once('=').unwrap_or((rule, ""));
            let pool = PoolName::parse(pool).map_err(|error| invalid(format!("a pool name {error}")))?;
            if rules.iter().any(|(known, _)| *known == pool) {
                return Err(invalid(format!("{pool} is listed twice")));
            }
            if rules.iter().any(|(_, prefix)| prefix.is_empty()) {
                return Err(invalid(format!(
                    "nothing can reach {pool}, because a pool before it takes every name"
                )));
            }
            let prefix = prefix.trim();
            if let Some((before, shorter)) =
                rules.iter().find(|(_, known)| prefix.starts_with(known.as_str()))
            {
                return Err(invalid(format!(
                    "nothing can reach {pool}, because its prefix `{prefix}` begins with `{shorter}` of {before}, \
                     which comes before it; put {pool} before {before}"
                )));
            }
            rules.push((pool, prefix.to_owned()));
        }
        if rules.last().is_none_or(|(_, prefix)| !prefix.is_empty()) {
            return Err(invalid("the last one has a prefix".to_owned()));
        }
        Ok(Self { rules })
    }

    /// The pool of a sandbox with that name.
    #[must_use]
    pub fn pool_of(&self, name: &SandboxName) -> Option<&PoolName> {
        self.rules.iter().find(|(_, prefix)| name.as_str().starts_with(prefix)).map(|(pool, _)| pool)
    }

    /// The pool of a claim that names none: the one that takes every name.
    #[must_use]
    pub fn default_pool(&self) -> Option<&PoolName> {
        self.rules.last().map(|(pool, _)| pool)
    }

    /// Whether there is such a pool.
    #[must_use]
    pub fn contains(&self, pool: &PoolName) -> bool {
        self.rules.iter().any(|(known, _)| known == pool)
    }

    /// Every pool.
    pub fn pools(&self) -> impl Iterator<Item = &PoolName> {
        self.rules.iter().map(|(pool, _)| pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_matching_rule_wins_and_the_last_is_the_default() {
        let rules = PoolRules::parse("dns=lab-dns-,labs=lab-,main").unwrap();
        let pool_of = |name: &str| rules.pool_of(&SandboxName::parse(name).unwrap()).unwrap().to_string();
        assert_eq!(pool_of("lab-dns-1"), "dns");
        assert_eq!(pool_of("lab-1"), "labs");
        assert_eq!(pool_of("other"), "main");
        assert_eq!(rules.default_pool().unwrap().as_str(), "main");
    }

    #[test]
    fn unreachable_repeated_and_missing_pools_are_refused() {
        for bad in ["", "a=x", "a,b", "a=x,a", "a=x,b=y", "a b", "a=x,b=x,c"] {
            assert!(PoolRules::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shadowed_prefix_is_rejected_with_both_pools_named() {
        let refused = PoolRules::parse("aws=lab-aws,gov=lab-aws-gov,main").unwrap_err().to_string();
        assert!(
            refused.contains("nothing can reach gov") && refused.contains("put gov before aws"),
            "{refused}"
        );
        let rules = PoolRules::parse("gov=lab-aws-gov,aws=lab-aws,main").unwrap();
        let pool_of = |name: &str| rules.pool_of(&SandboxName::parse(name).unwrap()).unwrap().to_string();
        assert_eq!((pool_of("lab-aws-gov-1"), pool_of("lab-aws-1")), ("gov".to_owned(), "aws".to_owned()));
    }

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
