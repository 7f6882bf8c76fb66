//! What a sync has to do: decided here without any I/O, done elsewhere without any judgement.

use common::domain::{
    Candidate, ExternalId, NewSandbox, PoolRules, Sandbox, SandboxId, SandboxName, SfdcAccountId, State,
    Version,
};
use common::provider::Account;
use common::store::Description;
use std::collections::{HashMap, HashSet};

/// What a sync may take out of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Share of the free sandboxes that one sync may mark stale, in percent.
    pub stale_percent_max: u64,
    /// Number that it may mark stale whatever share that is.
    pub stale_count_always: u64,
}

/// Whether a listing that cannot be believed is followed all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// It is refused.
    Careful,
    /// An operator answers for it.
    Forced,
}

/// The provider's listing, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Sandboxes that can be used, by id.
    pub usable: HashMap<SandboxId, NewSandbox>,
    /// Sandboxes that are there but cannot be used (bad name, id listed twice): neither added nor marked stale.
    pub present: HashMap<SandboxId, String>,
    /// Entries that name no sandbox at all: any sandbox might be one of them.
    pub unknown: u64,
    /// Whether some entry might be any sandbox: it names none, or an id that another account has as well.
    pub unclear: bool,
}

/// Why a sync does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The listing is empty.
    Empty,
    /// Too much of the pool would be marked stale.
    TooManyMissing {
        /// Free sandboxes that are not listed.
        missing: u64,
        /// Free sandboxes in the pool.
        free: u64,
        /// How many could be marked.
        allowed: u64,
    },
}

/// What a sync has to do. It names sandboxes by small keys: a pool of 50,000 has to fit into memory several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be added.
    pub insert: Vec<NewSandbox>,
    /// Stale, listed again.
    pub restore: Vec<Candidate>,
    /// Description changed.
    pub describe: Vec<(SandboxId, Version, Description)>,
    /// Free, not listed any more.
    pub missing: Vec<Candidate>,
    /// Held, not listed any more.
    pub allocated_missing: Vec<SandboxId>,
    /// As listed.
    pub unchanged: u64,
    /// Why nothing at all would be done, had nobody forced it.
    pub overridden: Option<Refusal>,
}

/// Makes a plan while the pool is read, page by page. Nothing of what was read is kept but what there is to do.
#[derive(Debug)]
pub struct Planner {
    listed: Listed,
    known: HashSet<SandboxId>,
    free: u64,
    plan: Plan,
}

/// The ids of a listing: all that a second one is needed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighted {
    ids: HashSet<SandboxId>,
    unclear: bool,
}

// === impl Refusal ===

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => formatter.write_str("the provider's listing is empty"),
            Self::TooManyMissing { missing, free, allowed } => write!(
                formatter,
                "{missing} of {free} free sandboxes are not listed, more than the {allowed} that one sync may mark stale"
            ),
        }
    }
}

// === impl Listed ===

impl Listed {
    /// Sandboxes that the provider lists, usable or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.usable.len() + self.present.len()
    }

    /// Whether it lists nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that could not be used.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.unknown + u64::try_from(self.present.len()).unwrap_or(u64::MAX)
    }

    /// Notes an entry that names no sandbox.
    pub fn skip_unknown(&mut self, problem: &str) {
        self.unknown += 1;
        self.unclear = true;
        tracing::warn!(problem, "an entry of the listing was skipped: {problem}");
    }

    /// Takes an entry.
    pub fn take(&mut self, account: Account, pools: &PoolRules) {
        let Account { id, external_id, name, sfdc_account_id } = account;
        let id = match SandboxId::parse(&id) {
            Ok(id) => id,
            Err(problem) => return self.skip_unknown(&format!("its id {problem}")),
        };
        if self.contains(&id) {
            let again = self.usable.get(&id).is_some_and(|known| known.external_id.as_str() == external_id);
            if !again {
                self.unclear = true;
                self.set_aside(id, "its id is listed twice, for different accounts".to_owned());
            }
            return;
        }
        match check(&id, &external_id, &name, sfdc_account_id.as_deref(), pools) {
            Ok(sandbox) => {
                self.usable.insert(id, sandbox);
            }
            Err(problem) => self.set_aside(id, problem),
        }
    }

    fn set_aside(&mut self, id: SandboxId, problem: String) {
        tracing::warn!(sandbox.id = id.as_str(), problem, "an entry of the listing was skipped: {problem}");
        self.usable.remove(&id);
        self.present.insert(id, problem);
    }

    fn contains(&self, id: &SandboxId) -> bool {
        self.usable.contains_key(id) || self.present.contains_key(id)
    }
}

fn check(
    id: &SandboxId,
    external_id: &str,
    name: &str,
    sfdc_account_id: Option<&str>,
    pools: &PoolRules,
) -> Result<NewSandbox, String> {
    let external_id =
        ExternalId::parse(external_id).map_err(|problem| format!("its external id {problem}"))?;
    let name = SandboxName::parse(name).map_err(|problem| format!("its name {problem}"))?;
    let sfdc_account_id = sfdc_account_id
        .map(SfdcAccountId::parse)
        .transpose()
        .map_err(|problem| format!("its Salesforce account {problem}"))?;
    let pool = pools.pool_of(&name).cloned().ok_or_else(|| "no pool takes its name".to_owned())?;
    Ok(NewSandbox { id: id.clone(), name, external_id, pool, sfdc_account_id })
}

// === impl Sighted ===

impl Sighted {
    /// Notes an entry.
    pub fn take(&mut self, account: &Account) {
        match SandboxId::parse(&account.id) {
            Ok(id) => {
                self.ids.insert(id);
            }
            Err(_) => self.unclear = true,
        }
    }

    /// Notes an entry that names no sandbox.
    pub fn skip_unknown(&mut self) {
        self.unclear = true;
    }
}

// === impl Planner ===

impl Planner {
    /// A plan that begins with what is listed.
    #[must_use]
    pub fn new(listed: Listed) -> Self {
        Self { listed, known: HashSet::new(), free: 0, plan: Plan::default() }
    }

    /// Compares a sandbox, as the index shows it, with the listing. One that changes its state while the index is
    /// read may be shown twice; the first sight counts, and the write that follows from it says so.
    pub fn see(&mut self, sandbox: &Sandbox) {
        if !self.known.insert(sandbox.id.clone()) {
            return;
        }
        self.free += u64::from(sandbox.state == State::Available);
        match self.listed.usable.get(&sandbox.id) {
            Some(entry) => self.plan.compare(sandbox, entry),
            None if self.listed.present.contains_key(&sandbox.id) => {}
            None => self.plan.note_missing(sandbox),
        }
    }

    /// A sandbox that is in the pool and cannot be read: it is neither new nor missing.
    pub fn leave_alone(&mut self, id: &SandboxId) {
        self.known.insert(id.clone());
    }

    /// The plan, once all of the pool was seen.
    ///
    /// # Errors
    /// [`Refusal`] when the listing cannot be believed and nobody forces it; then nothing at all is to be done.
    pub fn finish(self, limits: Limits, belief: Belief) -> Result<Plan, Refusal> {
        let Self { listed, known, free, mut plan } = self;
        let refusal = listed.is_empty().then_some(Refusal::Empty);
        let Listed { usable, present: _, unknown: _, unclear } = listed;
        plan.insert = usable.into_values().filter(|entry| !known.contains(&entry.id)).collect();
        if unclear {
            // Any of the missing may be behind an entry that could not be understood.
            plan.missing.clear();
        }
        let missing = u64::try_from(plan.missing.len()).unwrap_or(u64::MAX);
        let allowed = (free.saturating_mul(limits.stale_percent_max) / 100).max(limits.stale_count_always);
        let too_many = (missing > allowed).then_some(Refusal::TooManyMissing { missing, free, allowed });
        match (refusal.or(too_many), belief) {
            (None, _) => Ok(plan),
            (Some(refusal), Belief::Careful) => Err(refusal),
            (Some(refusal), Belief::Forced) => Ok(Plan { overridden: Some(refusal), ..plan }),
        }
    }
}

/// What has to be done so that the pool is as listed.
///
/// # Errors
/// [`Refusal`] when the listing cannot be believed and nobody forces it; then nothing at all is to be done.
pub fn plan(listed: Listed, stored: &[Sandbox], limits: Limits, belief: Belief) -> Result<Plan, Refusal> {
    let mut planner = Planner::new(listed);
    for sandbox in stored {
        planner.see(sandbox);
    }
    planner.finish(limits, belief)
}

// === impl Plan ===

impl Plan {
    /// Drops from `missing` and `allocated_missing` what a second listing shows after all. If one of its entries may
    /// be any sandbox, nothing is missing for sure.
    pub fn confirm_missing(&mut self, second: &Sighted) {
        self.missing.retain(|sandbox| !second.unclear && !second.ids.contains(&sandbox.id));
        self.allocated_missing.retain(|id| !second.ids.contains(id));
    }

    fn compare(&mut self, sandbox: &Sandbox, entry: &NewSandbox) {
        let is_described = sandbox.name == entry.name && sandbox.sfdc_account_id == entry.sfdc_account_id;
        match sandbox.state {
            // Its description follows with the next sync.
            State::Stale { .. } => self.restore.push(sandbox.candidate()),
            State::Available if !is_described => {
                let description =
                    Description { name: entry.name.clone(), sfdc_account_id: entry.sfdc_account_id.clone() };
                self.describe.push((sandbox.id.clone(), sandbox.version, description));
            }
            _ => self.unchanged += 1,
        }
    }

    fn note_missing(&mut self, sandbox: &Sandbox) {
        match sandbox.state {
            State::Available => self.missing.push(sandbox.candidate()),
            State::Allocated(_) => self.allocated_missing.push(sandbox.id.clone()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
