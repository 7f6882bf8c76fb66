//! Rate limits: by peer address before authentication, then by token and by owner.
//!
//! The limits apply to this process. They prevent one looping caller from taking the capacity of others; they do not
//! distribute the fleet's capacity, which admission in the workers does.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use contract::{Fault, FaultCode};
use domain::{Actor, OwnerId};
use governor::clock::Clock;
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::nanos::Nanos;
use governor::{Quota, RateLimiter};
use runtime::settings::Settings;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use crate::metrics::Metrics;

pub(crate) mod peer;
mod states;

use states::States;

/// Keys that a limit remembers, 16 bytes each.
pub const KEYS_MAX: usize = 65_536;
/// Maximum of rates and bursts.
const RATE_MAX: u64 = 1_000_000;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Limit {
    Peer,
    Token,
    Owner,
}

/// A rate and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second; 0 means unlimited.
    pub per_second: u32,
    /// Requests at once, after a pause.
    pub burst: u32,
}

/// The rate limits of an ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// `PEER_RATE_PER_SECOND`, `PEER_RATE_BURST`: per address, before authentication; 2,000, 4,000.
    pub peer: Rate,
    /// `TOKEN_RATE_PER_SECOND`, `TOKEN_RATE_BURST`: per token; 2,000, 4,000.
    pub token: Rate,
    /// `OWNER_RATE_PER_SECOND`, `OWNER_RATE_BURST`: per owner and token; 50, 200.
    pub owner: Rate,
}

/// The active limits.
#[derive(Clone, Debug)]
pub(crate) struct Rates {
    peer: Limiter,
    token: Limiter,
    owner: Limiter,
}

/// The state of a caller after it was counted, for the headers of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateStatus {
    burst: u32,
    remaining: u32,
    full_in_seconds: u64,
}

type Counting = RateLimiter<u64, States, Steady, StateInformationMiddleware>;

/// One limit with many keys; an unlimited one counts nothing.
#[derive(Clone, Debug)]
struct Limiter {
    limit: Limit,
    counting: Option<(Arc<Counting>, States)>,
    // Keys are stored as hashes. The seed is secret, so no caller can choose a key that collides with another one's.
    hasher: RandomState,
    metrics: Metrics,
}

/// Monotonic time: a jump of the wall clock must neither refuse nor admit all callers.
#[derive(Clone, Copy, Debug)]
struct Steady {
    began: Instant,
}

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

// === impl Limit ===

impl Limit {
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Peer => "too many requests from this address; wait and repeat",
            Self::Token => "too many requests with this token; wait and repeat",
            Self::Owner => "too many requests of this owner; wait and repeat",
        }
    }
}

// === impl RateConfig ===

impl RateConfig {
    pub(crate) fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            peer: Rate {
                per_second: rate(
                    settings,
                    "PEER_RATE_PER_SECOND",
                    2_000,
                    "requests per second of one address, whatever their token; 0: no limit",
                ),
                burst: burst(settings, "PEER_RATE_BURST", 4_000, "burst of one address"),
            },
            token: Rate {
                per_second: rate(
                    settings,
                    "TOKEN_RATE_PER_SECOND",
                    2_000,
                    "requests per second with one token; 0: no limit",
                ),
                burst: burst(settings, "TOKEN_RATE_BURST", 4_000, "burst with one token"),
            },
            owner: Rate {
                per_second: rate(
                    settings,
                    "OWNER_RATE_PER_SECOND",
                    50,
                    "requests per second of one owner; 0: no limit",
                ),
                burst: burst(settings, "OWNER_RATE_BURST", 200, "burst of one owner"),
            },
        }
    }
}

fn rate(settings: &mut Settings<'_>, name: &'static str, default: u64, meaning: &'static str) -> u32 {
    u32::try_from(settings.number(name, default, 0..=RATE_MAX, meaning)).unwrap_or(u32::MAX)
}

fn burst(settings: &mut Settings<'_>, name: &'static str, default: u64, meaning: &'static str) -> u32 {
    u32::try_from(settings.number(name, default, 1..=RATE_MAX, meaning)).unwrap_or(u32::MAX)
}

// === impl Rates ===

impl Rates {
    pub(crate) fn new(config: &RateConfig, metrics: &Metrics) -> Self {
        let limiter = |limit, rate| Limiter::new(limit, rate, metrics.clone());
        Self {
            peer: limiter(Limit::Peer, config.peer),
            token: limiter(Limit::Token, config.token),
            owner: limiter(Limit::Owner, config.owner),
        }
    }

    /// Counts a request of this address, grouped by [`peer::group`].
    pub(crate) fn count_peer(&self, address: IpAddr) -> Result<Option<RateStatus>, (Fault, RateStatus)> {
        self.peer.count(&peer::group(address))
    }

    /// Counts a request with this token.
    pub(crate) fn count_token(&self, name: &Actor) -> Result<Option<RateStatus>, (Fault, RateStatus)> {
        self.token.count(name)
    }

    /// Counts a request of this owner. Owners are separate for each token, so that callers of one token cannot use up
    /// the limit of another one's owners.
    pub(crate) fn count_owner(
        &self,
        name: &Actor,
        owner: &OwnerId,
    ) -> Result<Option<RateStatus>, (Fault, RateStatus)> {
        self.owner.count(&(name, owner))
    }
}

// === impl Limiter ===

impl Limiter {
    fn new(limit: Limit, rate: Rate, metrics: Metrics) -> Self {
        let per_second = NonZeroU32::new(rate.per_second);
        let counting = per_second.zip(NonZeroU32::new(rate.burst)).map(|(per_second, burst)| {
            let quota = Quota::per_second(per_second).allow_burst(burst);
            let states = States::new(KEYS_MAX, quota.replenish_interval());
            let clock = Steady { began: Instant::now() };
            (Arc::new(Counting::new(quota, states.clone(), clock)), states)
        });
        Self { limit, counting, hasher: RandomState::new(), metrics }
    }

    fn count(&self, key: &impl Hash) -> Result<Option<RateStatus>, (Fault, RateStatus)> {
        let Some((counting, states)) = &self.counting else { return Ok(None) };
        let counted = counting.check_key(&self.hasher.hash_one(key));
        self.metrics.remembers(self.limit, states.len());
        match counted {
            Ok(snapshot) => Ok(Some(RateStatus::of(&snapshot))),
            Err(refusal) => {
                self.metrics.limited(self.limit);
                let seconds = whole_seconds(refusal.wait_time_from(counting.clock().now())).max(1);
                let mut fault = Fault::new(FaultCode::RateLimitExceeded, self.limit.message());
                fault.retry_after_seconds = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
                Err((fault, RateStatus::spent(refusal.quota())))
            }
        }
    }
}

// === impl RateStatus ===

impl RateStatus {
    fn of(snapshot: &StateSnapshot) -> Self {
        let quota = snapshot.quota();
        let (burst, remaining) = (quota.burst_size().get(), snapshot.remaining_burst_capacity());
        let used = burst.saturating_sub(remaining);
        Self {
            burst,
            remaining,
            full_in_seconds: whole_seconds(quota.replenish_interval().saturating_mul(used)),
        }
    }

    fn spent(quota: Quota) -> Self {
        let burst = quota.burst_size().get();
        let full_in = quota.replenish_interval().saturating_mul(burst);
        Self { burst, remaining: 0, full_in_seconds: whole_seconds(full_in) }
    }

    /// Writes the burst, what is left of it, and in how many seconds it is complete again.
    pub(crate) fn write(self, answer: &mut HeaderMap) {
        let Self { burst, remaining, full_in_seconds } = self;
        answer.insert(LIMIT, HeaderValue::from(burst));
        answer.insert(REMAINING, HeaderValue::from(remaining));
        answer.insert(RESET, HeaderValue::from(full_in_seconds));
    }
}

// === impl Steady ===

impl Clock for Steady {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.began.elapsed().into()
    }
}

fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}
