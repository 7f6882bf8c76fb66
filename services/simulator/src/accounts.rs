//! The existing and deleted accounts of the simulated CSP.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use uuid::Uuid;

/// The `csp_id` of the first sandbox; the real ones are decimal numbers of this length.
pub(crate) const FIRST_CSP_ID: u64 = 2_000_001;
/// Deleted accounts that are remembered for lagging listings.
const GONE_MAX: usize = 10_000;

/// A sandbox account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) csp_id: u64,
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) sfdc_account_id: Option<String>,
    pub(crate) created_ms: u64,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Accounts {
    seed: u64,
    next_csp_id: u64,
    live: BTreeMap<u64, Account>,
    csp_ids: HashMap<Uuid, u64>,
    gone: VecDeque<Gone>,
    gone_count: u64,
}

#[derive(Debug)]
struct Gone {
    at_ms: u64,
    account: Account,
}

// === impl Account ===

impl Account {
    /// The id that listings show.
    pub(crate) fn external_id(&self) -> String {
        external_id(self.uuid)
    }

    /// All identifiers by which faults and controls may refer to it.
    pub(crate) fn names(&self) -> Vec<String> {
        vec![self.csp_id.to_string(), self.uuid.to_string(), self.external_id()]
    }
}

// === impl Accounts ===

impl Accounts {
    /// No accounts yet; ids start at `next_csp_id`.
    pub(crate) fn new(seed: u64, next_csp_id: u64) -> Self {
        Self {
            seed,
            next_csp_id: next_csp_id.max(FIRST_CSP_ID),
            live: BTreeMap::new(),
            csp_ids: HashMap::new(),
            gone: VecDeque::new(),
            gone_count: 0,
        }
    }

    /// Generates the next `count` accounts without inserting them; one in `without_sfdc_every` has no Salesforce
    /// account (0: each has one).
    pub(crate) fn make(
        &self,
        count: usize,
        name_prefix: &str,
        without_sfdc_every: u64,
        now_ms: u64,
    ) -> Vec<Account> {
        (self.next_csp_id..)
            .take(count)
            .map(|csp_id| {
                let ordinal = csp_id - FIRST_CSP_ID + 1;
                let has_sfdc = !ordinal.is_multiple_of(without_sfdc_every);
                Account {
                    csp_id,
                    uuid: seeded_uuid(self.seed, csp_id),
                    name: format!("{name_prefix}{ordinal:05}"),
                    sfdc_account_id: has_sfdc.then(|| format!("001SIM{csp_id:012}")),
                    created_ms: now_ms,
                }
            })
            .collect()
    }

    /// Inserts an account; its id is never used again.
    pub(crate) fn insert(&mut self, account: Account) {
        self.next_csp_id = self.next_csp_id.max(account.csp_id + 1);
        self.csp_ids.insert(account.uuid, account.csp_id);
        self.live.insert(account.csp_id, account);
    }

    /// The account that exists under this UUID.
    pub(crate) fn find(&self, uuid: Uuid) -> Option<&Account> {
        self.live.get(self.csp_ids.get(&uuid)?)
    }

    /// Removes an account and remembers it for lagging listings.
    pub(crate) fn remove(&mut self, uuid: Uuid, now_ms: u64) -> Option<Account> {
        let account = self.live.remove(&self.csp_ids.remove(&uuid)?)?;
        if self.gone.len() >= GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back(Gone { at_ms: now_ms, account: account.clone() });
        self.gone_count += 1;
        Some(account)
    }

    /// The contents of a listing, by `csp_id`: existing accounts, and those deleted less than `lag_ms` ago.
    pub(crate) fn listed(&self, now_ms: u64, lag_ms: u64) -> Vec<&Account> {
        let mut listed: Vec<&Account> = self.live.values().collect();
        if lag_ms > 0 {
            let recent = self.gone.iter().filter(|gone| now_ms < gone.at_ms.saturating_add(lag_ms));
            listed.extend(recent.map(|gone| &gone.account));
            listed.sort_unstable_by_key(|account| account.csp_id);
        }
        listed
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Account> {
        self.live.values()
    }

    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    pub(crate) const fn gone_count(&self) -> u64 {
        self.gone_count
    }

    pub(crate) const fn next_csp_id(&self) -> u64 {
        self.next_csp_id
    }
}

/// The id that listings show for `uuid`.
pub(crate) fn external_id(uuid: Uuid) -> String {
    format!("identity/accounts/{uuid}")
}

/// A UUID derived from the seed and a number.
pub(crate) fn seeded_uuid(seed: u64, number: u64) -> Uuid {
    let high = mix(seed ^ mix(number));
    let low = mix(high ^ number);
    uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes()).into_uuid()
}

/// The finaliser of SplitMix64: a bijection in which every input bit affects every output bit.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(seed: u64, count: usize) -> Accounts {
        let mut accounts = Accounts::new(seed, 0);
        for account in accounts.make(count, "lab-", 5, 1_000) {
            accounts.insert(account);
        }
        accounts
    }

    #[test]
    fn the_same_seed_makes_the_same_accounts() {
        let (one, same, other) = (filled(1, 50), filled(1, 50), filled(2, 50));
        assert!(one.live().eq(same.live()));
        assert!(one.live().zip(other.live()).all(|(a, b)| a.csp_id == b.csp_id && a.uuid != b.uuid));
        assert_eq!(one.csp_ids.len(), 50);
        assert_eq!(one.live().filter(|account| account.sfdc_account_id.is_none()).count(), 10);
        assert_eq!(one.live().next().unwrap().name, "lab-00001");
    }

    #[test]
    fn id_is_never_reused() {
        let mut accounts = filled(1, 3);
        let last = accounts.live().last().unwrap().clone();
        accounts.remove(last.uuid, 2_000).unwrap();
        assert_eq!(accounts.remove(last.uuid, 2_000), None);
        assert_eq!(accounts.make(1, "", 0, 0)[0].csp_id, last.csp_id + 1);
    }

    #[test]
    fn deleted_account_stays_in_a_lagging_listing_for_a_while() {
        let mut accounts = filled(1, 3);
        let second = accounts.live().nth(1).unwrap().clone();
        accounts.remove(second.uuid, 2_000);
        assert_eq!(accounts.listed(2_000, 0).len(), 2);
        let ids: Vec<u64> = accounts.listed(2_099, 100).iter().map(|account| account.csp_id).collect();
        assert_eq!(ids, [FIRST_CSP_ID, FIRST_CSP_ID + 1, FIRST_CSP_ID + 2]);
        assert_eq!(accounts.listed(2_100, 100).len(), 2);
    }
}
