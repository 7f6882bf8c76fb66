//! Injected faults and latencies.

mod wire;

use ports::random::Random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest latency that can be set, in ms.
pub(crate) const LATENCY_MAX_MS: u64 = 600_000;
/// Most faults that can be set at once for one operation.
pub(crate) const FAULTS_MAX: usize = 1_000;
/// Default lifetime of a session, in ms.
const SESSION_LIFETIME_MS: u64 = 3_600_000;
/// Resolution of probabilities.
const ROLL_STEPS: usize = 1_000_000;

/// An operation of the CSP's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `GET /v2/current_user/accounts`.
    List,
    /// `DELETE /v2/sandbox/accounts/{uuid}`.
    Delete,
    /// `POST /v2/session/users/sign_in`.
    SignIn,
    /// `POST /v2/session/account_switch`.
    AccountSwitch,
    /// `GET /api/universalinfra/v1/universalservices`.
    ListServices,
    /// `DELETE /api/universalinfra/v1/universalservices/{id}`.
    DeleteService,
}

/// The latency of an operation, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Latency {
    /// Constant.
    Fixed(u64),
    /// Random, evenly distributed.
    Between {
        /// The shortest, in ms.
        min: u64,
        /// The longest, in ms.
        max: u64,
    },
}

/// Everything that can be changed at run time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// How long listings still show a deleted account, in ms.
    pub list_shows_deleted_for_ms: u64,
    /// Calls a minute, over all operations, before the answer is 429; none means unlimited.
    pub rate_limit_per_minute: Option<u32>,
    /// Lifetime of a session, in ms.
    pub session_lifetime_ms: u64,
    /// The behaviour of each operation; a missing one follows the configuration.
    pub operations: BTreeMap<Operation, Behaviour>,
}

/// The behaviour of one operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Its latency; none means as configured.
    pub latency_ms: Option<Latency>,
    /// Its faults: the first one that applies to a call is used.
    pub faults: Vec<Fault>,
}

/// One injected fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "wire::WireFault", into = "wire::WireFault")]
pub struct Fault {
    /// The fault.
    pub kind: FaultKind,
    /// Probability from 0 to 1; none means always.
    pub probability: Option<f64>,
    /// Number of calls that it still affects; none means unlimited.
    pub next: Option<u32>,
    /// The account that it affects (`csp_id`, UUID or whole id); none means all.
    pub account: Option<String>,
}

/// A kind of fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An answer with this status; nothing is done.
    Status {
        /// HTTP status.
        status: u16,
        /// The message in the body; none means that of the real CSP.
        message: Option<String>,
        /// `Retry-After` of the answer, in seconds.
        retry_after_seconds: Option<u64>,
        /// Whether `Retry-After` is an HTTP date instead of seconds.
        retry_after_as_date: bool,
    },
    /// No answer; nothing is done.
    Hang,
    /// The connection is cut; nothing is done.
    Reset,
    /// 200 with a web page; nothing is done.
    Garbage,
    /// 200 with a body of that many bytes; nothing is done.
    Flood {
        /// Number of bytes.
        bytes: u64,
    },
    /// A listing without entries.
    EmptyList,
    /// A listing that ends, explicitly, after that number of pages.
    ShortList {
        /// Number of pages.
        pages: u64,
    },
    /// A page whose first entry is replaced by the first one of the whole listing: pages overlap, and each misses one.
    OverlappingPages,
    /// A page with a malformed entry.
    MalformedEntry(BrokenEntry),
    /// The account is deleted, but there is no answer.
    DeleteThenHang,
}

/// The defect of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokenEntry {
    /// `id` is missing.
    NoId,
    /// `csp_id` is null.
    NullCspId,
    /// Two entries have the same `csp_id`.
    DuplicateCspId,
    /// The name contains a line break.
    NameWithLineBreak,
}

// === impl Operation ===

impl Operation {
    /// The name in settings and in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Delete => "delete",
            Self::SignIn => "sign_in",
            Self::AccountSwitch => "account_switch",
            Self::ListServices => "list_services",
            Self::DeleteService => "delete_service",
        }
    }
}

// === impl Latency ===

impl Latency {
    /// No latency.
    pub const NONE: Self = Self::Fixed(0);

    /// Reads `200` or `100-300`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| "must be ms, or ms-ms".to_owned());
        let latency = match text.split_once('-') {
            Some((min, max)) => Self::Between { min: number(min)?, max: number(max)? },
            None => Self::Fixed(number(text)?),
        };
        latency.check().map(|()| latency)
    }

    fn check(self) -> Result<(), String> {
        let (min, max) = match self {
            Self::Fixed(ms) => (ms, ms),
            Self::Between { min, max } => (min, max),
        };
        if min > max {
            return Err("has a minimum above its maximum".to_owned());
        }
        if max > LATENCY_MAX_MS {
            return Err(format!("must be at most {LATENCY_MAX_MS} ms"));
        }
        Ok(())
    }

    pub(crate) fn roll(self, random: &dyn Random) -> Duration {
        let ms = match self {
            Self::Fixed(ms) => ms,
            Self::Between { min, max } => {
                let span = usize::try_from(max.saturating_sub(min)).unwrap_or(usize::MAX - 1);
                min + random.below(span + 1) as u64
            }
        };
        Duration::from_millis(ms)
    }
}

// === impl FaultKind ===

impl FaultKind {
    /// A fault with this status and the simulator's default message.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self::Status { status, message: None, retry_after_seconds: None, retry_after_as_date: false }
    }
}

// === impl Faults ===

impl Default for Faults {
    fn default() -> Self {
        Self {
            list_shows_deleted_for_ms: 0,
            rate_limit_per_minute: None,
            session_lifetime_ms: SESSION_LIFETIME_MS,
            operations: BTreeMap::new(),
        }
    }
}

impl Faults {
    /// Checks what the types do not ensure.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (operation, behaviour) in &self.operations {
            let name = operation.name();
            if let Some(latency) = behaviour.latency_ms {
                latency.check().map_err(|problem| format!("latency_ms of {name} {problem}"))?;
            }
            if behaviour.faults.len() > FAULTS_MAX {
                return Err(format!("{name} has more than {FAULTS_MAX} faults"));
            }
            for fault in &behaviour.faults {
                fault.check(*operation).map_err(|problem| format!("a fault of {name} {problem}"))?;
            }
        }
        Ok(())
    }

    /// The fault for this call, if any. `names` are the identifiers of the account of the call.
    pub(crate) fn fault_for(
        &mut self,
        operation: Operation,
        names: &[String],
        random: &dyn Random,
    ) -> Option<FaultKind> {
        let behaviour = self.operations.get_mut(&operation)?;
        let kind = behaviour.faults.iter_mut().find_map(|fault| fault.fault_for(names, random))?;
        behaviour.faults.retain(|fault| fault.next != Some(0));
        Some(kind)
    }
}

// === impl Fault ===

impl Fault {
    /// This fault for every call.
    #[must_use]
    pub fn always(kind: FaultKind) -> Self {
        Self { kind, probability: None, next: None, account: None }
    }

    /// This fault for the next `calls` calls.
    #[must_use]
    pub fn next(calls: u32, kind: FaultKind) -> Self {
        Self { next: Some(calls), ..Self::always(kind) }
    }

    fn check(&self, operation: Operation) -> Result<(), String> {
        if self.probability.is_some_and(|probability| !(0.0..=1.0).contains(&probability)) {
            return Err("has a probability that is not from 0 to 1".to_owned());
        }
        let only = match &self.kind {
            FaultKind::EmptyList
            | FaultKind::ShortList { .. }
            | FaultKind::OverlappingPages
            | FaultKind::MalformedEntry(_) => Some(Operation::List),
            FaultKind::DeleteThenHang => Some(Operation::Delete),
            FaultKind::Status { status, .. } if !(200..=599).contains(status) => {
                return Err("has a status that is not from 200 to 599".to_owned());
            }
            _ => None,
        };
        match only {
            Some(only) if only != operation => Err(format!("is one of {} only", only.name())),
            _ => Ok(()),
        }
    }

    fn fault_for(&mut self, names: &[String], random: &dyn Random) -> Option<FaultKind> {
        if self.next == Some(0) || self.account.as_ref().is_some_and(|account| !names.contains(account)) {
            return None;
        }
        if let Some(probability) = self.probability
            && random.below(ROLL_STEPS) as f64 >= probability * ROLL_STEPS as f64
        {
            return None;
        }
        self.next = self.next.map(|next| next - 1);
        Some(self.kind.clone())
    }
}

#[cfg(test)]
mod tests;
