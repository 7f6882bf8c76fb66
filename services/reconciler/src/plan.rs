//! Plans a sync: all decisions without I/O. Other modules only execute the plan.

use domain::{
    Candidate, Description, Descriptor, ExternalId, InvalidId, NewSandbox, PoolName, Pools, ProviderName,
    Sandbox, SandboxId, SandboxName, State, Version,
};
use ports::provider::{Account, Malformed};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// How much a sync may mark stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Share of the free sandboxes that one sync may mark stale, in percent.
    pub stale_percent_max: u64,
    /// Number that may be marked stale whatever share that is.
    pub stale_count_always: u64,
}

/// Whether an implausible listing is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// It is refused.
    Careful,
    /// It is followed because an operator forced the sync.
    Forced,
}

/// The provider's listing, validated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The provider.
    pub provider: ProviderName,
    /// Pools that get no new sandboxes.
    pub closed: HashSet<PoolName>,
    /// Entries whose names no pool takes, which may be most of a listing.
    pub unselected: u64,
    /// Sandboxes that can be used, by id.
    pub usable: HashMap<SandboxId, NewSandbox>,
    /// Sandboxes that exist but cannot be used (invalid name, id listed twice): neither added nor marked stale.
    pub present: HashMap<SandboxId, String>,
    /// The id under which each account is listed, for usable and unusable entries.
    pub accounts: HashMap<ExternalId, SandboxId>,
    /// Accounts of entries without a readable id.
    pub unreadable: HashSet<ExternalId>,
    /// Whether an entry has an id but no account: it may belong to a record that got its id from its account.
    pub nameless: bool,
    /// Entries without id and account: any sandbox might be one of them.
    pub unknown: u64,
    /// Whether an entry might be any sandbox: it has no id, or an id that another account has as well.
    pub unclear: bool,
}

/// Why a sync changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The listing is empty.
    Empty,
    /// Too many free sandboxes would be marked stale.
    TooManyMissing {
        /// Free sandboxes that are not listed.
        missing: u64,
        /// Free sandboxes in the pool.
        free: u64,
        /// How many may be marked.
        allowed: u64,
    },
}

/// The changes of a sync. It identifies sandboxes by small keys, because a pool of 50,000 has to fit into memory
/// several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be inserted.
    pub insert: Vec<NewSandbox>,
    /// Stale and listed again.
    pub restore: Vec<Candidate>,
    /// Free or stale, and another account is listed under their ids.
    pub renew: Vec<(Candidate, NewSandbox)>,
    /// With a changed description.
    pub describe: Vec<(SandboxId, Version, Description)>,
    /// Free and not listed any more.
    pub missing: Vec<Candidate>,
    /// Held and not listed any more.
    pub allocated_missing: Vec<SandboxId>,
    /// Held or quarantined, and another account is listed under their ids.
    pub changed: Vec<SandboxId>,
    /// Records whose account is listed under the id of another record.
    pub duplicates: Vec<SandboxId>,
    /// Free and not listed, but not marked stale, because an entry may be any sandbox.
    pub withheld: u64,
    /// As listed.
    pub unchanged: u64,
    /// Why the sync would have been refused if it had not been forced.
    pub overridden: Option<Refusal>,
}

/// Builds a plan while the pool is read page by page. It keeps only the changes.
#[derive(Debug)]
pub struct Planner {
    listed: Listed,
    known: HashSet<SandboxId>,
    /// Records whose account is listed under another id, with that id, without their histories.
    moved: Vec<(SandboxId, Sandbox)>,
    free: u64,
    plan: Plan,
}

/// The ids of a listing, which is all that the second one is needed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighted {
    provider: ProviderName,
    ids: HashSet<SandboxId>,
    accounts: HashSet<String>,
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
    /// The listing of `provider`, still empty.
    #[must_use]
    pub fn of(provider: ProviderName) -> Self {
        Self { provider, ..Self::default() }
    }

    /// Sandboxes that the provider lists, usable or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.usable.len() + self.present.len() + self.unreadable.len()
    }

    /// Whether the listing is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that cannot be used.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.unknown + u64::try_from(self.present.len() + self.unreadable.len()).unwrap_or(u64::MAX)
    }

    /// Entries that may be any sandbox.
    #[must_use]
    pub fn unclear_entries(&self) -> u64 {
        // An id with two accounts is one of them.
        if self.unclear { self.unknown.max(1) } else { 0 }
    }

    /// Hashes of the listed accounts, for identities: eight bytes each instead of the whole id. A collision would only
    /// keep an identity longer.
    #[must_use]
    pub fn shown(&self) -> HashSet<u64> {
        self.accounts.keys().chain(&self.unreadable).map(|account| mark_of(account.as_str())).collect()
    }

    /// Adds a malformed entry. It is about the id or the account that it names, or about any sandbox if it names
    /// neither.
    pub fn take_malformed(&mut self, entry: Malformed) {
        let Malformed { reason, id, external_id } = entry;
        let account = external_id.and_then(|external_id| ExternalId::of(&self.provider, &external_id).ok());
        let id = id.and_then(|id| sandbox_id(&self.provider, &id).ok());
        match (account, id) {
            (Some(account), _) => {
                tracing::warn!(problem = reason, "an entry of the listing was skipped: {reason}");
                self.unreadable.insert(account);
            }
            (None, Some(id)) => {
                self.nameless = true;
                self.set_aside(id, reason);
            }
            (None, None) => self.skip_unknown(&reason),
        }
    }

    /// Adds an entry that names no sandbox.
    pub fn skip_unknown(&mut self, problem: &str) {
        self.unknown += 1;
        self.unclear = true;
        tracing::warn!(problem, "an entry of the listing was skipped: {problem}");
    }

    /// Adds an entry.
    pub fn take(&mut self, account: Account, pools: &Pools) {
        let Account { id, external_id, name, descriptor } = account;
        let id = match sandbox_id(&self.provider, &id) {
            Ok(id) => id,
            Err(problem) => return self.skip_unknown(&format!("its id {problem}")),
        };
        let known_as = ExternalId::of(&self.provider, &external_id).ok().map(|account| {
            let place = self.accounts.entry(account).or_insert_with(|| id.clone());
            place.clone()
        });
        if self.contains(&id) {
            let again = self.usable.get(&id).is_some_and(|known| known.external_id.as_str() == external_id);
            if !again {
                self.unclear = true;
                self.set_aside(id, "its id is listed twice, for different accounts".to_owned());
            }
            return;
        }
        if known_as.is_some_and(|known_as| known_as != id) {
            return self.set_aside(id, "its account is listed twice, under different ids".to_owned());
        }
        match self.check(&id, &external_id, &name, &descriptor, pools) {
            Ok(sandbox) => {
                if pools.get(&sandbox.pool).is_some_and(|pool| !pool.is_active()) {
                    self.closed.insert(sandbox.pool.clone());
                }
                self.usable.insert(id, sandbox);
            }
            Err(None) => {
                self.unselected += 1;
                self.present.insert(id, "no pool takes its name".to_owned());
            }
            Err(Some(problem)) => self.set_aside(id, problem),
        }
    }

    /// The sandbox of an entry; without a reason if no pool takes its name.
    fn check(
        &self,
        id: &SandboxId,
        external_id: &str,
        name: &str,
        descriptor: &[(&str, String)],
        pools: &Pools,
    ) -> Result<NewSandbox, Option<String>> {
        let external_id = ExternalId::of(&self.provider, external_id)
            .map_err(|problem| Some(format!("its external id {problem}")))?;
        let name = SandboxName::parse(name).map_err(|problem| Some(format!("its name {problem}")))?;
        let entries = descriptor.iter().map(|(key, value)| (*key, value.as_str()));
        let descriptor = Descriptor::parse(entries).map_err(|problem| Some(problem.to_string()))?;
        let pool = pools.pool_of(&self.provider, &name).ok_or(None)?;
        Ok(NewSandbox { id: id.clone(), name, external_id, pool: pool.name.clone(), descriptor })
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

/// A hash of a provider's id, used within one run.
pub(crate) fn mark_of(external_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    external_id.hash(&mut hasher);
    hasher.finish()
}

/// The broker's id of an account.
fn sandbox_id(provider: &ProviderName, id: &str) -> Result<SandboxId, InvalidId> {
    SandboxId::parse(&provider.sandbox_id_of(id.trim()))
}

// === impl Sighted ===

impl Sighted {
    /// The ids of a listing of `provider`, still empty.
    #[must_use]
    pub fn of(provider: ProviderName) -> Self {
        Self { provider, ..Self::default() }
    }

    /// Adds an entry.
    pub fn take(&mut self, account: &Account) {
        match sandbox_id(&self.provider, &account.id) {
            Ok(id) => {
                self.ids.insert(id);
                self.accounts.insert(account.external_id.clone());
            }
            Err(_) => self.unclear = true,
        }
    }

    /// Adds a malformed entry.
    pub fn take_malformed(&mut self, entry: &Malformed) {
        match (entry.external_id.as_ref(), entry.id.as_deref().map(|id| sandbox_id(&self.provider, id))) {
            (Some(external_id), _) => {
                self.accounts.insert(external_id.clone());
            }
            (None, Some(Ok(id))) => {
                self.ids.insert(id);
            }
            (None, _) => self.unclear = true,
        }
    }
}

// === impl Planner ===

impl Planner {
    /// A planner that starts with the listing.
    #[must_use]
    pub fn new(listed: Listed) -> Self {
        Self { listed, known: HashSet::new(), moved: Vec::new(), free: 0, plan: Plan::default() }
    }

    /// Compares a sandbox from the index with the listing. A sandbox that changes its state while the index is read may
    /// appear twice; the first appearance counts, and the resulting write is conditional on it.
    pub fn see(&mut self, sandbox: &Sandbox) {
        if !self.known.insert(sandbox.id.clone()) {
            return;
        }
        self.free += u64::from(sandbox.state == State::Available);
        if self.listed.unreadable.contains(&sandbox.external_id) {
            return;
        }
        let listed_as = self.listed.accounts.get(&sandbox.external_id);
        if let Some(other) = listed_as.filter(|listed_as| **listed_as != sandbox.id) {
            self.moved.push((other.clone(), Sandbox { history: Vec::new(), ..sandbox.clone() }));
            return;
        }
        match self.listed.usable.get(&sandbox.id) {
            Some(entry) if entry.external_id == sandbox.external_id => self.plan.compare(sandbox, entry),
            Some(entry) => self.plan.note_changed(sandbox, entry),
            None if listed_as.is_some() || self.listed.present.contains_key(&sandbox.id) => {}
            None if self.listed.nameless
                && sandbox.id.as_str() == self.listed.provider.sandbox_id_of(sandbox.external_id.bare()) =>
            {
                self.plan.withheld += u64::from(sandbox.state == State::Available);
            }
            None => self.plan.note_missing(sandbox),
        }
    }

    /// Excludes an unreadable sandbox of the pool: it is neither new nor missing.
    pub fn leave_alone(&mut self, id: &SandboxId) {
        self.known.insert(id.clone());
    }

    /// Decides which record represents an account that is listed under another id: its record, unless another record
    /// has the listed id.
    fn settle_moved(&mut self) {
        for (listed_as, sandbox) in std::mem::take(&mut self.moved) {
            if !self.known.insert(listed_as.clone()) {
                self.plan.duplicates.push(sandbox.id);
            } else if let Some(entry) = self.listed.usable.get(&listed_as) {
                self.plan.compare(&sandbox, entry);
            }
        }
    }

    /// The plan, after the whole pool was read.
    ///
    /// # Errors
    /// [`Refusal`] when the listing is implausible and the sync is not forced; then nothing may be changed.
    pub fn finish(mut self, limits: Limits, belief: Belief) -> Result<Plan, Refusal> {
        self.settle_moved();
        let Self { listed, known, moved: _, free, mut plan } = self;
        let refusal = listed.is_empty().then_some(Refusal::Empty);
        let Listed { usable, unclear, closed, .. } = listed;
        let is_new = |entry: &NewSandbox| !known.contains(&entry.id) && !closed.contains(&entry.pool);
        plan.insert = usable.into_values().filter(is_new).collect();
        if unclear {
            // Any missing sandbox may be behind a malformed entry.
            plan.withhold();
        }
        // The old account of a renewed sandbox is not listed either.
        let missing = u64::try_from(plan.missing.len() + plan.renew.len()).unwrap_or(u64::MAX);
        let allowed = (free.saturating_mul(limits.stale_percent_max) / 100).max(limits.stale_count_always);
        let too_many = (missing > allowed).then_some(Refusal::TooManyMissing { missing, free, allowed });
        match (refusal.or(too_many), belief) {
            (None, _) => Ok(plan),
            (Some(refusal), Belief::Careful) => Err(refusal),
            (Some(refusal), Belief::Forced) => Ok(Plan { overridden: Some(refusal), ..plan }),
        }
    }
}

/// The changes that make the pool equal to the listing.
///
/// # Errors
/// [`Refusal`] when the listing is implausible and the sync is not forced; then nothing may be changed.
pub fn plan(listed: Listed, stored: &[Sandbox], limits: Limits, belief: Belief) -> Result<Plan, Refusal> {
    let mut planner = Planner::new(listed);
    for sandbox in stored {
        planner.see(sandbox);
    }
    planner.finish(limits, belief)
}

// === impl Plan ===

impl Plan {
    /// Removes from `missing` and `allocated_missing` what a second listing shows after all. If one of its entries may
    /// be any sandbox, nothing is certainly missing.
    pub fn confirm_missing(&mut self, second: &Sighted) {
        if second.unclear {
            self.withhold();
        }
        self.missing.retain(|sandbox| !second.ids.contains(&sandbox.id));
        self.renew.retain(|(_, listed)| second.accounts.contains(listed.external_id.as_str()));
        self.allocated_missing.retain(|id| !second.ids.contains(id));
    }

    /// Whether the plan has changes that a second listing has to confirm.
    #[must_use]
    pub fn needs_second_listing(&self) -> bool {
        !(self.missing.is_empty() && self.renew.is_empty() && self.allocated_missing.is_empty())
    }

    fn withhold(&mut self) {
        let withheld = self.missing.len() + self.renew.len();
        self.withheld += u64::try_from(withheld).unwrap_or(u64::MAX);
        self.missing.clear();
        self.renew.clear();
    }

    /// Another account is listed under the id of `sandbox`.
    fn note_changed(&mut self, sandbox: &Sandbox, entry: &NewSandbox) {
        match sandbox.state {
            State::Available | State::Stale { .. } => self.renew.push((sandbox.candidate(), entry.clone())),
            State::Allocated(_)
            | State::Quarantined { .. }
            | State::Provisioning(_)
            | State::ProvisionFailed(_) => self.changed.push(sandbox.id.clone()),
            // When its deletion is finished, the tombstone is renewed.
            State::PendingDeletion(_) | State::DeletionFailed(_) | State::Deleted(_) => self.unchanged += 1,
        }
    }

    fn compare(&mut self, sandbox: &Sandbox, entry: &NewSandbox) {
        let is_described = sandbox.name == entry.name && sandbox.descriptor == entry.descriptor;
        match sandbox.state {
            // The next sync updates its description.
            State::Stale { .. } => self.restore.push(sandbox.candidate()),
            State::Available if !is_described => {
                let description =
                    Description { name: entry.name.clone(), descriptor: entry.descriptor.clone() };
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
