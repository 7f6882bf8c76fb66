//! The provider throttle: its state in the bucket, the operators' switch, and what is shown of both.

use super::named::{BreakerStateName, DeletionsStateName};
use domain::UnixSeconds;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Longest pause that is asked for by its length, in seconds: 30 days. A longer one has no end.
pub const PAUSE_SECONDS_MAX: u64 = 30 * 24 * 3_600;
/// Longest text about a pause, in characters.
pub const PAUSE_TEXT_CHARS_MAX: usize = 200;

/// The state of the provider throttle, one value for the whole fleet. It changes only by compare-and-set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = LineState)]
pub struct ThrottleState {
    /// Next free slot, in microseconds since the Unix epoch.
    pub next_us: u64,
    /// Deletions per minute, in thousandths; zero before the first change, which means the ceiling.
    pub rate_milli: u64,
    /// When the rate was halved last, in milliseconds since the Unix epoch.
    pub slowed_ms: u64,
    /// No call begins before this moment, in milliseconds since the Unix epoch.
    pub held_until_ms: u64,
    /// Failures of the provider in a row.
    pub failures: u32,
    /// Whose deletions these failures are.
    pub failing: Failing,
    /// When the first of them happened, in milliseconds since the Unix epoch.
    pub failing_since_ms: u64,
    /// When the latest call that deleted something began, in milliseconds since the Unix epoch.
    pub good_ms: u64,
    /// Sandboxes whose deletions were forbidden, oldest first.
    pub forbidden: Vec<Forbidden>,
    /// Whether the throttle lets calls pass.
    pub breaker: Breaker,
    /// How often in a row the breaker has opened.
    pub openings: u32,
    /// Why it opened last; none while it is closed.
    pub reason: Option<BreakerReason>,
    /// What the clock showed by which all of this was written, in milliseconds since the Unix epoch. Readers count the
    /// moments above from when NATS took the value. Zero from former builds.
    pub written_ms: u64,
}

/// Whose deletions have failed in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "who", rename_all = "snake_case")]
pub enum Failing {
    /// No deletions: the last call went well.
    #[default]
    #[serde(rename = "nobody")]
    None,
    /// Those of this sandbox alone.
    One {
        /// Which.
        sandbox: String,
    },
    /// Those of several sandboxes.
    Several,
}

/// A sandbox whose deletion the provider forbade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Forbidden {
    /// Which.
    pub sandbox: String,
    /// When it did so first, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// The breaker of the whole fleet.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::EnumDiscriminants,
)]
#[serde(tag = "state", rename_all = "snake_case")]
#[strum_discriminants(
    name(BreakerState),
    derive(strum::IntoStaticStr, strum::EnumString, strum::EnumIter),
    strum(serialize_all = "snake_case"),
    doc = "The state of the breaker."
)]
pub enum Breaker {
    /// Deletions go on.
    #[default]
    Closed,
    /// No call begins before this moment; then one call tries.
    Open {
        /// In milliseconds since the Unix epoch.
        until_ms: u64,
    },
    /// One call tries; everybody else waits for it.
    HalfOpen {
        /// The slot of that call, in microseconds since the Unix epoch; no two calls have the same.
        probe_us: u64,
        /// When that call counts as lost, in milliseconds since the Unix epoch.
        until_ms: u64,
    },
}

/// Why the breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerReason {
    /// The provider failed too often in a row.
    Failures,
    /// The provider refused our credentials.
    Unauthorized,
}

/// The operators' switch: no deletion is fetched or ordered while it is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pause {
    /// Who paused.
    #[serde(default)]
    pub by: String,
    /// Since when, Unix seconds.
    #[serde(default)]
    pub since: u64,
    /// When it ends by itself, Unix seconds; none until an operator resumes.
    #[serde(default)]
    pub until: Option<u64>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What an operator says to pause deletions; all of it may be left out. A field that is misspelt is refused: without
/// its end the pause would last for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PauseRequest {
    /// For how long, in seconds.
    pub until_seconds: Option<u64>,
    /// Until when, Unix seconds.
    pub until: Option<u64>,
    /// Why.
    pub reason: Option<String>,
    /// Who pauses.
    pub by: Option<String>,
}

/// An operator has deletions go on: `resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResumeRequest {
    /// Who resumes; `operator` if none is named.
    pub by: Option<String>,
}

/// The answer to `resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ResumeReply {
    /// The pause that was there, even if it was over; none if deletions were not paused.
    pub was_paused: Option<Pause>,
}

/// What the deletions as a whole do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumString, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum DeletionsState {
    /// They go on.
    Running,
    /// The operators' switch is on.
    Paused,
    /// The provider asked us to stay away.
    Held,
    /// The breaker is open.
    BreakerOpen,
    /// One call tries whether the provider works again.
    HalfOpen,
    /// The provider refused our credentials.
    Unauthorized,
}

/// Everything that an operator sees of the deletions as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DeletionsStatus {
    /// What they do.
    pub state: DeletionsStateName,
    /// The operators' switch, while it is on.
    pub paused: Option<Pause>,
    /// The breaker.
    pub breaker: BreakerStatus,
    /// The provider asked us to stay away until then, Unix seconds.
    pub held_until: Option<u64>,
    /// Deletions that the fleet may order in a minute now.
    pub rate_per_minute: u64,
    /// The most that it may ever order in one.
    pub rate_per_minute_max: u64,
    /// The longest that a pause of the queue's own consumers (`nats consumer pause`) lasts, Unix seconds.
    pub consumer_paused_until: Option<u64>,
    /// Work of each pool.
    pub pools: BTreeMap<String, PoolDeletions>,
    /// Providers beside the first one, whose state is above.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<String, ProviderDeletions>,
}

/// The deletions at one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ProviderDeletions {
    /// As for the first provider.
    pub state: DeletionsStateName,
    /// The breaker.
    pub breaker: BreakerStatus,
    /// The provider asked us to stay away until then, Unix seconds.
    pub held_until: Option<u64>,
    /// Deletions that the fleet may order in a minute now.
    pub rate_per_minute: u64,
    /// The most that it may ever order in one.
    pub rate_per_minute_max: u64,
}

// === impl ProviderDeletions ===

impl ProviderDeletions {
    /// The part of a status that belongs to its provider.
    #[must_use]
    pub fn of(status: DeletionsStatus) -> Self {
        let DeletionsStatus { state, breaker, held_until, rate_per_minute, rate_per_minute_max, .. } = status;
        Self { state, breaker, held_until, rate_per_minute, rate_per_minute_max }
    }
}

/// The breaker as an operator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BreakerStatus {
    /// Whether calls pass.
    pub state: BreakerStateName,
    /// `failures` or `unauthorized`, while it is not closed.
    pub reason: Option<BreakerReason>,
    /// No call begins before then, Unix seconds.
    pub until: Option<u64>,
    /// Failures of the provider in a row.
    pub failures: u32,
}

/// The queue of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PoolDeletions {
    /// Deletions that wait for a reaper; retries before their time are not among them.
    pub waiting: u64,
    /// Deletions that a reaper has.
    pub under_way: u64,
    /// When a pause of this consumer (`nats consumer pause`) ends, Unix seconds.
    pub consumer_paused_until: Option<u64>,
}

// === impl PauseRequest ===

impl PauseRequest {
    /// The pause that begins at `now`; `by` is the caller, for a request that names no actor.
    ///
    /// # Errors
    /// The field that cannot be used, and what is wrong with it.
    pub fn at(self, now: UnixSeconds, by: &str) -> Result<Pause, (&'static str, String)> {
        let Self { until_seconds, until, reason, by: said } = self;
        let now = now.get();
        let until = match (until_seconds, until) {
            (Some(_), Some(_)) => {
                return Err(("until", "and until_seconds say the same: send one of them".to_owned()));
            }
            (None, None) => None,
            (Some(seconds), None) if (1..=PAUSE_SECONDS_MAX).contains(&seconds) => {
                Some(now.saturating_add(seconds))
            }
            (Some(_), None) => {
                return Err(("until_seconds", format!("must be from 1 to {PAUSE_SECONDS_MAX}")));
            }
            (None, Some(until)) if until > now => Some(until),
            (None, Some(_)) => return Err(("until", "must be later than now, in Unix seconds".to_owned())),
        };
        Ok(Pause {
            by: text("by", said.as_deref().unwrap_or(by))?,
            since: now,
            until,
            reason: reason.as_deref().map(|reason| text("reason", reason)).transpose()?,
        })
    }
}

// === impl ResumeRequest ===

impl ResumeRequest {
    /// Who resumes; `by` is the caller, for a request that names no actor.
    ///
    /// # Errors
    /// The field that cannot be used, and what is wrong with it.
    pub fn who(&self, by: &str) -> Result<String, (&'static str, String)> {
        text("by", self.by.as_deref().unwrap_or(by))
    }
}

/// Text that can stand in a log line.
fn text(field: &'static str, text: &str) -> Result<String, (&'static str, String)> {
    let text = text.trim();
    if text.chars().count() > PAUSE_TEXT_CHARS_MAX || text.chars().any(char::is_control) {
        return Err((field, format!("must be one line of at most {PAUSE_TEXT_CHARS_MAX} characters")));
    }
    Ok(text.to_owned())
}

// === impl Pause ===

impl Pause {
    /// Whether it is on at `now`, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn is_on(&self, now_ms: u64) -> bool {
        self.until.is_none_or(|until| now_ms < until.saturating_mul(1_000))
    }
}
