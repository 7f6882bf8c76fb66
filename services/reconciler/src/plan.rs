//! What a sync has to do: decided here without any I/O, done elsewhere without any judgement.

use common::domain::{
    ExternalId, NewSandbox, PoolRules, Sandbox, SandboxId, SandboxName, SfdcAccountId, State,
};
use common::provider::Account;
use common::store::Description;
use std::collections::HashMap;

/// What a sync may take out of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Share of the free sandboxes that one sync may mark stale, in percent.
    pub stale_percent_max: u64,
    /// Number that it may mark stale whatever share that is.
    pub stale_count_always: u64,
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

/// What a sync has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be added.
    pub insert: Vec<NewSandbox>,
    /// Stale, listed again.
    pub restore: Vec<Sandbox>,
    /// Description changed.
    pub describe: Vec<(Sandbox, Description)>,
    /// Free, not listed any more.
    pub missing: Vec<Sandbox>,
    /// Held, not listed any more.
    pub allocated_missing: Vec<SandboxId>,
    /// As listed.
    pub unchanged: u64,
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

    /// Takes an entry; `first` unless its id came before in this listing.
    pub fn take(&mut self, account: Account, first: bool, pools: &PoolRules) {
        let Account { id, external_id, name, sfdc_account_id } = account;
        let id = match SandboxId::parse(&id) {
            Ok(id) => id,
            Err(problem) => return self.skip_unknown(&format!("its id {problem}")),
        };
        if !first {
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

// === impl Plan ===

impl Plan {
    /// Drops from `missing` and `allocated_missing` what a second listing shows after all.
    pub fn confirm_missing(&mut self, second: &Listed) {
        self.missing.retain(|sandbox| !second.contains(&sandbox.id));
        self.allocated_missing.retain(|id| !second.contains(id));
    }
}

/// What has to be done so that the pool is as listed.
///
/// # Errors
/// [`Refusal`] when the listing cannot be believed; then nothing at all is to be done.
pub fn plan(listed: &Listed, stored: &[Sandbox], limits: Limits) -> Result<Plan, Refusal> {
    if listed.is_empty() {
        return Err(Refusal::Empty);
    }
    let mut plan = Plan::default();
    let mut free = 0_u64;
    let mut known = std::collections::HashSet::with_capacity(stored.len());
    for sandbox in stored {
        known.insert(&sandbox.id);
        free += u64::from(sandbox.state == State::Available);
        match listed.usable.get(&sandbox.id) {
            Some(entry) => plan.compare(sandbox, entry),
            None if listed.present.contains_key(&sandbox.id) => {}
            None => plan.note_missing(sandbox),
        }
    }
    plan.insert = listed.usable.values().filter(|entry| !known.contains(&entry.id)).cloned().collect();
    if listed.unclear {
        // Any of the missing may be behind an entry that could not be understood.
        plan.missing.clear();
    }
    let missing = u64::try_from(plan.missing.len()).unwrap_or(u64::MAX);
    let allowed = (free.saturating_mul(limits.stale_percent_max) / 100).max(limits.stale_count_always);
    if missing > allowed {
        return Err(Refusal::TooManyMissing { missing, free, allowed });
    }
    Ok(plan)
}

impl Plan {
    fn compare(&mut self, sandbox: &Sandbox, entry: &NewSandbox) {
        let described =
            Description { name: entry.name.clone(), sfdc_account_id: entry.sfdc_account_id.clone() };
        let is_described =
            sandbox.name == described.name && sandbox.sfdc_account_id == described.sfdc_account_id;
        match sandbox.state {
            // Its description follows with the next sync.
            State::Stale { .. } => self.restore.push(sandbox.clone()),
            State::Available if !is_described => self.describe.push((sandbox.clone(), described)),
            _ => self.unchanged += 1,
        }
    }

    fn note_missing(&mut self, sandbox: &Sandbox) {
        match sandbox.state {
            State::Available => self.missing.push(sandbox.clone()),
            State::Allocated(_) => self.allocated_missing.push(sandbox.id.clone()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
