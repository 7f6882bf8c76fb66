//! Checks the answers of a run against the broker's guarantees.
//!
//! A sandbox is used once and then deleted, so within a run no two owners may get the same one, released or not. A
//! repeat returns the lease of the first answer. A claim with a name prefix gets a matching name.

use super::calls::{Ending, Selector};
use contract::{Allocation, FaultCode};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// Violations that are kept as text; further ones are only counted.
const SHOWN_MAX: usize = 20;

/// A violated guarantee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// One sandbox was given to two owners.
    TwoWinners {
        /// The sandbox.
        sandbox_id: String,
        /// The first that it was given to.
        first: String,
        /// The second.
        second: String,
    },
    /// A repeat had another answer than the first claim.
    ChangedRepeat {
        /// Who asked.
        owner: String,
        /// The first answer.
        first: Box<Allocation>,
        /// The repeat's.
        repeat: Box<Allocation>,
    },
    /// A repeat reported a new lease, although there was one.
    SecondLease {
        /// Who asked.
        owner: String,
    },
    /// A repeat was refused for good, although there is a lease.
    RefusedRepeat {
        /// Who asked.
        owner: String,
        /// How.
        code: FaultCode,
    },
    /// A sandbox that does not match the selector.
    WrongName {
        /// Who asked.
        owner: String,
        /// The name that was given.
        name: String,
    },
    /// A grant that cannot be read.
    Unreadable {
        /// Who asked.
        owner: String,
    },
}

/// The result of the check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Owners that were given a sandbox.
    pub winners: u64,
    /// Repeats with the same answer as the first claim.
    pub same_repeats: u64,
    /// Broken promises.
    pub violations: u64,
    /// The first of them, as text.
    pub shown: Vec<String>,
}

/// Checks answers as they arrive.
#[derive(Debug, Default)]
pub struct AnswerLog {
    selector: Selector,
    holders: HashMap<String, String>,
    check: Check,
}

// === impl AnswerLog ===

impl AnswerLog {
    /// A log of claims that ask for `selector`.
    #[must_use]
    pub fn new(selector: Selector) -> Self {
        Self { selector, ..Self::default() }
    }

    /// Records the answer to an owner's first claim.
    pub fn note_claim(&mut self, owner: &str, ending: Ending, granted: Option<&Allocation>) {
        let Some(allocation) = granted else {
            if ending == Ending::Unreadable {
                self.note(&Violation::Unreadable { owner: owner.to_owned() });
            }
            return;
        };
        self.check.winners += 1;
        let is_named_well = self
            .selector
            .name_prefix
            .as_ref()
            .is_none_or(|prefix| allocation.name.starts_with(prefix.as_str()));
        if !is_named_well {
            self.note(&Violation::WrongName { owner: owner.to_owned(), name: allocation.name.clone() });
        }
        if let Some(first) = self.holders.insert(allocation.sandbox_id.clone(), owner.to_owned()) {
            let (sandbox_id, second) = (allocation.sandbox_id.clone(), owner.to_owned());
            self.note(&Violation::TwoWinners { sandbox_id, first, second });
        }
    }

    /// Records the answer to the repeat of a claim whose answer was `first`.
    pub fn note_repeat(
        &mut self,
        owner: &str,
        first: &Allocation,
        ending: Ending,
        repeat: Option<&Allocation>,
    ) {
        let owner = owner.to_owned();
        let violation = match (ending, repeat) {
            (_, Some(repeat)) if repeat != first => {
                let (first, repeat) = (Box::new(first.clone()), Box::new(repeat.clone()));
                Violation::ChangedRepeat { owner, first, repeat }
            }
            (Ending::Created, _) => Violation::SecondLease { owner },
            (Ending::Unreadable, _) => Violation::Unreadable { owner },
            (Ending::Refused(code), _) if is_for_good(code) => Violation::RefusedRepeat { owner, code },
            (_, repeat) => {
                self.check.same_repeats += u64::from(repeat.is_some());
                return;
            }
        };
        self.note(&violation);
    }

    /// What was found so far.
    #[must_use]
    pub fn check(&self) -> Check {
        self.check.clone()
    }

    fn note(&mut self, violation: &Violation) {
        self.check.violations += 1;
        if self.check.shown.len() < SHOWN_MAX {
            self.check.shown.push(violation.to_string());
        }
    }
}

/// Whether the code says that a repeat does not help. Overloaded or unreachable workers may not answer a repeat.
fn is_for_good(code: FaultCode) -> bool {
    code.status() < 500 && code != FaultCode::RateLimitExceeded
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoWinners { sandbox_id, first, second } => {
                write!(formatter, "sandbox {sandbox_id} was given to {first} and to {second}")
            }
            Self::ChangedRepeat { owner, first, repeat } => {
                write!(formatter, "{owner} was answered {first:?} and, asking again, {repeat:?}")
            }
            Self::SecondLease { owner } => write!(formatter, "the repeat of {owner} made a second lease"),
            Self::RefusedRepeat { owner, code } => {
                write!(
                    formatter,
                    "the repeat of {owner}, who holds a sandbox, was refused: {}",
                    code.as_str()
                )
            }
            Self::WrongName { owner, name } => {
                write!(formatter, "{owner} was given {name}, which is not what was asked for")
            }
            Self::Unreadable { owner } => write!(formatter, "the answer to {owner} cannot be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::NamePrefix;

    fn allocation(sandbox_id: &str) -> Allocation {
        Allocation {
            sandbox_id: sandbox_id.to_owned(),
            name: format!("lab-{sandbox_id}"),
            external_id: "u".to_owned(),
            allocated_at: 1,
            expires_at: 2,
            sfdc_account_id: None,
            lease_epoch: 1,
            status: None,
        }
    }

    fn only(answer_log: &AnswerLog) -> String {
        let check = answer_log.check();
        assert_eq!((check.violations, check.shown.len()), (1, 1), "{check:?}");
        check.shown[0].clone()
    }

    #[test]
    fn valid_replies_pass() {
        let mut answer_log = AnswerLog::default();
        for owner in ["a", "b"] {
            answer_log.note_claim(owner, Ending::Created, Some(&allocation(owner)));
            answer_log.note_repeat(owner, &allocation(owner), Ending::Existing, Some(&allocation(owner)));
        }
        answer_log.note_claim("c", Ending::Refused(FaultCode::PoolExhausted), None);
        answer_log.note_repeat("a", &allocation("a"), Ending::Refused(FaultCode::Contended), None);
        let check = answer_log.check();
        assert_eq!((check.winners, check.same_repeats, check.violations), (2, 2, 0), "{check:?}");
    }

    #[test]
    fn sandbox_granted_to_two_owners_is_detected() {
        let mut answer_log = AnswerLog::default();
        answer_log.note_claim("a", Ending::Created, Some(&allocation("7")));
        answer_log.note_claim("b", Ending::Existing, Some(&allocation("7")));
        assert_eq!(only(&answer_log), "sandbox 7 was given to a and to b");
    }

    #[test]
    fn changed_repeat_is_detected_down_to_the_times() {
        let mut answer_log = AnswerLog::default();
        let later = Allocation { expires_at: 3, ..allocation("7") };
        answer_log.note_repeat("a", &allocation("7"), Ending::Existing, Some(&later));
        assert!(only(&answer_log).starts_with("a was answered"));
    }

    #[test]
    fn repeat_that_creates_a_lease_or_is_refused_is_detected() {
        let first = allocation("7");
        let mut answer_log = AnswerLog::default();
        answer_log.note_repeat("a", &first, Ending::Created, Some(&first));
        assert!(only(&answer_log).contains("second lease"));
        let mut answer_log = AnswerLog::default();
        answer_log.note_repeat("a", &first, Ending::Refused(FaultCode::PoolExhausted), None);
        assert!(only(&answer_log).contains("POOL_EXHAUSTED"));
    }

    #[test]
    fn wrong_name_and_undecodable_grant_are_detected() {
        let name_prefix = NamePrefix::parse("exam-").ok();
        let mut answer_log = AnswerLog::new(Selector { pool: None, name_prefix });
        answer_log.note_claim("a", Ending::Created, Some(&allocation("7")));
        assert!(only(&answer_log).contains("lab-7"));
        let mut answer_log = AnswerLog::default();
        answer_log.note_claim("a", Ending::Unreadable, None);
        assert!(only(&answer_log).contains("cannot be read"));
    }

    #[test]
    fn only_the_first_violations_are_described() {
        let mut answer_log = AnswerLog::default();
        for _ in 0..100 {
            answer_log.note_claim("a", Ending::Unreadable, None);
        }
        assert_eq!((answer_log.check().violations, answer_log.check().shown.len()), (100, SHOWN_MAX));
    }
}
