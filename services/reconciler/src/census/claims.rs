//! Checks that every lease has its claim item, and that no key has two leases.
//!
//! The index is only a hint, so a violation counts only if strongly consistent reads prove it. The proof uses versions,
//! which only grow: a sandbox with the same version at two reads was unchanged in between. So a wrong claim item that
//! was read in between was really wrong at that moment; and sandboxes that stayed unchanged over two rounds of reads
//! were all held at the same time. A claim that is opened and not granted yet is no violation and is never checked: the
//! check starts with sandboxes, not with claims.

use super::CensusError;
use crate::Reconciler;
use crate::listing::Skipped;
use contract::{CensusReport, Violation, ViolationName};
use domain::{
    CLOSED_CLAIM_KEPT, ClaimKey, ClaimRecord, Sandbox, SandboxId, State, StateName, UnixSeconds, Version,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::{Mutex, MutexGuard};
use ports::store::{StoreError, unless_unreadable};
use std::collections::BTreeMap;
use std::time::Duration;
use strum::IntoEnumIterator as _;

/// Claim items that one census reads, one read unit each. A new fleet needs a few runs to check all.
pub(super) const CLAIMS_READ_MAX: usize = 2_000;
/// Claim items that are read at once.
const READS_AT_ONCE_MAX: usize = 16;
/// Keys with several leases that one census checks.
const KEYS_READ_MAX: usize = 200;
/// Time after which a lease with a correct claim item is checked again.
const RECHECK_AFTER: Duration = Duration::from_secs(3_600);

/// A sandbox and its claim item.
#[derive(Clone, Debug)]
pub(super) struct Case {
    id: SandboxId,
    version: Version,
    record: ClaimRecord,
    /// When the deletion was requested; none while the lease lives.
    ended_at: Option<UnixSeconds>,
}

/// The result of the last check of a sandbox, and its version.
#[derive(Clone, Copy, Debug)]
struct Mark {
    version: Version,
    at: UnixSeconds,
    violation: Option<Violation>,
}

/// The last checks of all sandboxes that are held or being deleted, so that a lease costs one read in total and not one
/// per census.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    marks: Mutex<BTreeMap<SandboxId, Mark>>,
}

/// The result of checking a claim item.
enum Found {
    InOrder,
    Broken(Violation),
    /// The item of an ended lease has been closed by this check.
    Closed,
    /// The sandbox changed in the meantime.
    Raced,
}

// === impl Case ===

impl Case {
    /// Whether sandboxes in that state have a claim item to check.
    pub(super) fn is_in(state: StateName) -> bool {
        matches!(
            state,
            StateName::Allocated
                | StateName::PendingDeletion
                | StateName::DeletionFailed
                | StateName::Provisioning
                | StateName::ProvisionFailed
        )
    }

    /// The case of a sandbox; none if it never had a holder.
    pub(super) fn of(sandbox: &Sandbox) -> Option<Self> {
        let ended_at = match &sandbox.state {
            State::Allocated(_) | State::Provisioning(_) | State::ProvisionFailed(_) => None,
            State::PendingDeletion(deletion) | State::DeletionFailed(deletion) => Some(deletion.requested_at),
            _ => return None,
        };
        let record = sandbox.last_claim()?;
        Some(Self { id: sandbox.id.clone(), version: sandbox.version, record, ended_at })
    }

    /// Whether the lease of this case still holds the sandbox.
    fn still_holds(&self, sandbox: Option<&Sandbox>) -> bool {
        sandbox.is_some_and(|sandbox| {
            sandbox.version == self.version
                && sandbox.lease().is_some_and(|lease| lease.claim == self.record.claim)
        })
    }
}

// === impl Checked ===

impl Checked {
    fn marks(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Mark>> {
        self.marks.lock()
    }

    /// Drops sandboxes that disappeared, and returns the cases to check: first those never checked, then those whose
    /// last check is oldest.
    fn due<'a>(&self, cases: &'a [Case], now: UnixSeconds, settled_by: UnixSeconds) -> Vec<&'a Case> {
        let mut marks = self.marks();
        let mut known = std::mem::take(&mut *marks);
        let recheck_before = now.before(RECHECK_AFTER);
        let mut due: Vec<(Option<UnixSeconds>, &Case)> = Vec::new();
        for case in cases {
            let mark = known.remove(&case.id).filter(|mark| mark.version == case.version);
            if let Some(mark) = mark {
                marks.insert(case.id.clone(), mark);
            }
            let is_due = match (mark, case.ended_at) {
                (None, None) => true,
                // The worker that ended the lease may be about to close the claim item.
                (None, Some(ended_at)) => ended_at <= settled_by,
                (Some(mark), _) => mark.violation.is_some() || mark.at <= recheck_before,
            };
            if is_due {
                due.push((mark.map(|mark| mark.at), case));
            }
        }
        due.sort_by_key(|(at, _)| *at);
        due.into_iter().map(|(_, case)| case).collect()
    }

    fn note(&self, case: &Case, at: UnixSeconds, violation: Option<Violation>) {
        self.marks().insert(case.id.clone(), Mark { version: case.version, at, violation });
    }

    fn forget(&self, case: &Case) {
        self.marks().remove(&case.id);
    }

    fn count(&self, violation: Violation) -> u64 {
        let broken = self.marks().values().filter(|mark| mark.violation == Some(violation)).count();
        u64::try_from(broken).unwrap_or(u64::MAX)
    }
}

// === impl Reconciler ===

impl Reconciler {
    /// The number of violations of each kind.
    pub(super) async fn check_claims(
        &self,
        cases: Vec<Case>,
        report: &mut CensusReport,
        skipped: &mut Skipped,
    ) -> Result<BTreeMap<ViolationName, u64>, CensusError> {
        let now = self.ports.clock.now();
        let due = self.checked.due(&cases, now, now.before(self.config.sweep_after));
        let read = due.len().min(CLAIMS_READ_MAX);
        report.unchecked = u64::try_from(due.len() - read).unwrap_or(u64::MAX);
        let due: Vec<Case> = due.into_iter().take(read).cloned().collect();
        let looks = stream::iter(due).map(|case| self.look_at_claim(case));
        let mut looks = looks.buffer_unordered(READS_AT_ONCE_MAX);
        while let Some(looked) = looks.next().await {
            let Some((case, found)) = skipped.unless_unreadable(looked)? else { continue };
            report.checked += 1;
            match found {
                Found::InOrder => self.checked.note(&case, now, None),
                Found::Closed => {
                    report.claims_removed += 1;
                    self.checked.note(&case, now, None);
                }
                Found::Broken(violation) => {
                    log_violation(&case, violation);
                    self.checked.note(&case, now, Some(violation));
                }
                Found::Raced => {
                    report.raced += 1;
                    self.checked.forget(&case);
                }
            }
        }
        let mut violations: BTreeMap<_, _> =
            Violation::iter().map(|kind| (kind.into(), self.checked.count(kind))).collect();
        violations.insert(Violation::HeldTwice.into(), self.keys_with_two(&cases).await?);
        Ok(violations)
    }

    async fn look_at_claim(&self, case: Case) -> Result<(Case, Found), StoreError> {
        let found = self.ports.store.find_claim(&case.record.claim).await?;
        let names_it = found.as_ref().is_some_and(|found| found.candidate.is(&case.record.candidate));
        // A closed item holds nothing: it is purged soon, and the next request of its key replaces it.
        let open = found.as_ref().filter(|found| !found.is_closed);
        let outcome = match (case.ended_at, names_it && open.is_some()) {
            (None, true) | (Some(_), false) => Found::InOrder,
            (Some(_), true) => {
                // Safe in any case: the lease in the item has ended, the sandbox never gets that version again, and
                // only an item with this very version is closed.
                let keep_until = self.ports.clock.now().after(CLOSED_CLAIM_KEPT);
                self.ports.store.close_claim(&case.record, keep_until).await?;
                Found::Closed
            }
            (None, false) => {
                let sandbox = self.ports.store.sandbox(&case.id).await?;
                if !case.still_holds(sandbox.as_ref()) {
                    Found::Raced
                } else if open.is_none() {
                    Found::Broken(Violation::ClaimMissing)
                } else {
                    Found::Broken(Violation::ClaimElsewhere)
                }
            }
        };
        Ok((case, outcome))
    }

    /// Keys that hold several sandboxes at one moment, namely between two rounds of reads.
    async fn keys_with_two(&self, cases: &[Case]) -> Result<u64, StoreError> {
        let mut held: BTreeMap<&ClaimKey, Vec<&Case>> = BTreeMap::new();
        for case in cases.iter().filter(|case| case.ended_at.is_none()) {
            held.entry(&case.record.claim).or_default().push(case);
        }
        let several = held.into_values().filter(|cases| cases.len() > 1).take(KEYS_READ_MAX);
        let several: Vec<Vec<Case>> = several.map(|cases| cases.into_iter().cloned().collect()).collect();
        let mut keys = 0;
        for cases in several {
            let first = self.still_held(cases).await?;
            let both = self.still_held(first).await?;
            if let [one, _, ..] = both.as_slice() {
                log_violation(one, Violation::HeldTwice);
                keys += 1;
            }
        }
        Ok(keys)
    }

    async fn still_held(&self, cases: Vec<Case>) -> Result<Vec<Case>, StoreError> {
        let looks = stream::iter(cases).map(|case| async move {
            // An unreadable item proves nothing; the walk has counted it.
            let sandbox = unless_unreadable(self.ports.store.sandbox(&case.id).await)?;
            Ok(case.still_holds(sandbox.as_ref()).then_some(case))
        });
        looks.buffered(READS_AT_ONCE_MAX).try_filter_map(|case| async move { Ok(case) }).try_collect().await
    }
}

fn log_violation(case: &Case, violation: Violation) {
    tracing::error!(
        violation = violation.as_str(),
        sandbox.id = case.id.as_str(),
        owner.id = case.record.claim.owner.as_str(),
        "{} is held, but its claim item is wrong ({})",
        case.id,
        violation.as_str(),
    );
}
