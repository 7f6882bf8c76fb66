//! The state of the simulated CSP: accounts, their services, sessions. No I/O except the journal.

use crate::accounts::{self, Account, Accounts};
use crate::config::Config;
use crate::faults::{BrokenEntry, FaultKind};
use crate::journal::{self, Journal, JournalError, Line};
use crate::reply;
use crate::sessions::Sessions;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use uuid::Uuid;

/// The name of services that labs create, with their spelling.
const LAB_SERVICE: &str = "Instrqt-SaaS";
/// The name of a service that labs did not create.
const OTHER_SERVICE: &str = "Shared-SaaS";
/// One account in this many has a service of a lab.
const LAB_SERVICE_EVERY: u64 = 3;
/// One account in this many has another service.
const OTHER_SERVICE_EVERY: u64 = 6;
/// Default page size of a listing.
const DEFAULT_PAGE_SIZE: u64 = 100;
/// Base of the ids of listed accounts that are not sandboxes; far below any `csp_id` of a sandbox.
const PARENT: u64 = 1_000_001;
/// Other entries of the listing, as in the real one: type, state, name.
const BYSTANDERS: [(u64, &str, &str, &str); 4] = [
    (PARENT, "standard", "active", "Education Labs"),
    (PARENT + 1, "sandbox", "disabled", "lab-disabled"),
    (PARENT + 2, "sandbox", "pending", "lab-in-the-making"),
    (PARENT + 3, "partner", "active", "Reseller"),
];

/// An account, as the controls show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccountView {
    /// The number.
    pub csp_id: u64,
    /// `identity/accounts/<uuid>`.
    pub id: String,
    /// The name.
    pub name: String,
    /// The Salesforce account, if it has one.
    pub sfdc_account_id: Option<String>,
    /// Names of the services inside.
    pub services: Vec<String>,
}

/// Counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Census {
    /// Sandboxes that exist.
    pub live: usize,
    /// Sandboxes deleted since the start or before, as far as the journal has them.
    pub deleted: u64,
    /// Services that existed inside accounts when these were deleted, since the start.
    pub orphaned_services: u64,
}

/// The whole state.
#[derive(Debug)]
pub(crate) struct World {
    seed: u64,
    without_sfdc_every: u64,
    accounts: Accounts,
    journal: Journal,
    pub(crate) sessions: Sessions,
    /// Services of accounts that were accessed; those of others are derived from their numbers.
    services: HashMap<Uuid, Vec<Service>>,
    services_made: u64,
    orphaned_services: u64,
}

/// A service inside an account. Kept in memory only.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) id: Uuid,
    pub(crate) name: String,
}

/// The page of a listing that is requested.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Paging {
    pub(crate) limit: Option<u64>,
    pub(crate) offset: u64,
}

/// The result of a deletion.
#[derive(Debug)]
pub(crate) enum Deletion {
    Done,
    NoSuchAccount,
    NoSandbox,
    Broken(io::Error),
}

impl World {
    pub(crate) fn open(config: &Config, now_ms: u64) -> Result<Self, JournalError> {
        let prefix = config.name_prefix.as_ref().map_or("", |prefix| prefix.as_str());
        let begin = |accounts: &mut Accounts| {
            for account in accounts.make(config.accounts, prefix, config.without_sfdc_every, now_ms) {
                accounts.insert(account);
            }
        };
        let (journal, accounts) = match &config.data {
            Some(directory) => journal::open(directory, config.seed, begin)?,
            None => {
                let mut accounts = Accounts::new(config.seed, 0);
                begin(&mut accounts);
                (Journal::Memory, accounts)
            }
        };
        Ok(Self {
            seed: config.seed,
            without_sfdc_every: config.without_sfdc_every,
            accounts,
            journal,
            sessions: Sessions::default(),
            services: HashMap::new(),
            services_made: 0,
            orphaned_services: 0,
        })
    }

    /// Releases the directory; nothing can change any more.
    pub(crate) fn close(&mut self) {
        self.journal = Journal::Closed;
    }

    /// Adds accounts.
    pub(crate) fn add(
        &mut self,
        count: usize,
        name_prefix: &str,
        now_ms: u64,
    ) -> io::Result<Vec<AccountView>> {
        let made = self.accounts.make(count, name_prefix, self.without_sfdc_every, now_ms);
        let lines: Vec<Line> = made.iter().cloned().map(Line::Created).collect();
        self.journal.append(&lines)?;
        for account in &made {
            self.accounts.insert(account.clone());
        }
        Ok(made.iter().map(|account| self.view(account)).collect())
    }

    /// Replaces an account by another one with the same number and a new UUID. None if there is no such account.
    pub(crate) fn recreate(&mut self, uuid: Uuid, now_ms: u64) -> io::Result<Option<AccountView>> {
        let Some(account) = self.accounts.find(uuid).cloned() else { return Ok(None) };
        let again = Account { uuid: accounts::seeded_uuid(!self.seed, account.csp_id), ..account };
        self.journal.append(&[Line::Deleted { uuid, at_ms: now_ms }, Line::Created(again.clone())])?;
        self.accounts.remove(uuid, now_ms);
        self.services.remove(&uuid);
        self.accounts.insert(again.clone());
        Ok(Some(self.view(&again)))
    }

    /// Deletes an account with everything inside.
    pub(crate) fn delete(&mut self, uuid: Uuid, now_ms: u64) -> Deletion {
        let Some(account) = self.accounts.find(uuid) else {
            let is_bystander =
                BYSTANDERS.iter().any(|(id, ..)| accounts::seeded_uuid(self.seed, *id) == uuid);
            return if is_bystander { Deletion::NoSandbox } else { Deletion::NoSuchAccount };
        };
        let left_inside = self.services_of(account).len() as u64;
        if let Err(error) = self.journal.append(&[Line::Deleted { uuid, at_ms: now_ms }]) {
            return Deletion::Broken(error);
        }
        self.accounts.remove(uuid, now_ms);
        self.services.remove(&uuid);
        self.orphaned_services += left_inside;
        Deletion::Done
    }

    /// The body of a listing.
    pub(crate) fn list(&self, paging: Paging, fault: Option<&FaultKind>, now_ms: u64, lag_ms: u64) -> Value {
        let listed = self.accounts.listed(now_ms, lag_ms);
        let page_size = paging.limit.unwrap_or(DEFAULT_PAGE_SIZE);
        let everything = (BYSTANDERS.len() + listed.len()) as u64;
        let total = match fault {
            Some(FaultKind::EmptyList) => 0,
            Some(FaultKind::ShortList { pages }) => everything.min(pages.saturating_mul(page_size)),
            _ => everything,
        };
        let from = paging.offset.min(total);
        let size = paging.limit.unwrap_or(u64::MAX).min(total - from);
        let (from, size) = (as_count(from), as_count(size));
        let bystanders = BYSTANDERS.iter().skip(from).take(size).map(|bystander| self.bystander(bystander));
        let skipped = from.saturating_sub(BYSTANDERS.len());
        let mut results: Vec<Value> = bystanders.collect();
        let rest = size - results.len();
        results.extend(listed.iter().skip(skipped).take(rest).map(|account| self.entry(account)));
        match fault {
            Some(FaultKind::MalformedEntry(broken)) => break_entry(&mut results, *broken),
            Some(FaultKind::OverlappingPages) => {
                let first_of_all = BYSTANDERS.first().map(|bystander| self.bystander(bystander));
                if let (Some(first), Some(first_of_all)) = (results.first_mut(), first_of_all) {
                    *first = first_of_all;
                }
            }
            _ => {}
        }
        let size = results.len();
        json!({"results": results, "page": {"offset": paging.offset, "size": size, "total": total}})
    }

    fn entry(&self, account: &Account) -> Value {
        let mut entry = json!({
            "account_type": "sandbox",
            "state": "active",
            "id": account.external_id(),
            "name": account.name,
            "csp_id": account.csp_id,
            "created_at": reply::timestamp(account.created_ms),
            "parent_account_id": accounts::external_id(accounts::seeded_uuid(self.seed, PARENT)),
        });
        // The real listing leaves an empty field out or has it empty.
        match (&account.sfdc_account_id, entry.as_object_mut()) {
            (Some(id), Some(entry)) => {
                entry.insert("sfdc_account_id".to_owned(), id.as_str().into());
            }
            (None, Some(entry)) if account.csp_id.is_multiple_of(2) => {
                entry.insert("sfdc_account_id".to_owned(), "".into());
            }
            _ => {}
        }
        entry
    }

    fn bystander(&self, &(csp_id, account_type, state, name): &(u64, &str, &str, &str)) -> Value {
        json!({
            "account_type": account_type,
            "state": state,
            "id": accounts::external_id(accounts::seeded_uuid(self.seed, csp_id)),
            "name": name,
            "csp_id": csp_id,
            "created_at": "2025-01-01T00:00:00Z",
            "parent_account_id": "",
            "sfdc_account_id": "",
        })
    }

    /// All identifiers by which a fault may refer to the account; for an unknown one its UUID.
    pub(crate) fn names(&self, uuid: Uuid) -> Vec<String> {
        self.accounts.find(uuid).map_or_else(|| vec![uuid.to_string()], Account::names)
    }

    pub(crate) fn exists(&self, uuid: Uuid) -> bool {
        self.accounts.find(uuid).is_some()
    }

    /// The services inside an account; empty if the account does not exist.
    pub(crate) fn services(&self, uuid: Uuid) -> Vec<Service> {
        self.accounts.find(uuid).map(|account| self.services_of(account)).unwrap_or_default()
    }

    fn services_of(&self, account: &Account) -> Vec<Service> {
        if let Some(services) = self.services.get(&account.uuid) {
            return services.clone();
        }
        [(LAB_SERVICE, LAB_SERVICE_EVERY), (OTHER_SERVICE, OTHER_SERVICE_EVERY)]
            .into_iter()
            .filter(|(_, every)| account.csp_id.is_multiple_of(*every))
            .map(|(name, every)| Service {
                id: accounts::seeded_uuid(self.seed ^ every, account.csp_id),
                name: name.to_owned(),
            })
            .collect()
    }

    /// Replaces the services inside an account; false if there is no such account.
    pub(crate) fn set_services(&mut self, uuid: Uuid, names: &[String]) -> bool {
        if !self.exists(uuid) {
            return false;
        }
        let mut services = Vec::with_capacity(names.len());
        for name in names {
            self.services_made += 1;
            let id = accounts::seeded_uuid(!self.seed, self.services_made);
            services.push(Service { id, name: name.clone() });
        }
        self.services.insert(uuid, services);
        true
    }

    /// Deletes a service inside an account; false if there is none.
    pub(crate) fn delete_service(&mut self, account: Uuid, service: Uuid) -> bool {
        let mut services = self.services(account);
        let before = services.len();
        services.retain(|other| other.id != service);
        let is_deleted = services.len() < before;
        if is_deleted {
            self.services.insert(account, services);
        }
        is_deleted
    }

    pub(crate) fn census(&self) -> Census {
        Census {
            live: self.accounts.live_count(),
            deleted: self.accounts.gone_count(),
            orphaned_services: self.orphaned_services,
        }
    }

    pub(crate) fn views(&self, paging: Paging) -> Vec<AccountView> {
        let limit = paging.limit.map_or(usize::MAX, as_count);
        let live = self.accounts.live().skip(as_count(paging.offset)).take(limit);
        live.map(|account| self.view(account)).collect()
    }

    fn view(&self, account: &Account) -> AccountView {
        AccountView {
            csp_id: account.csp_id,
            id: account.external_id(),
            name: account.name.clone(),
            sfdc_account_id: account.sfdc_account_id.clone(),
            services: self.services_of(account).into_iter().map(|service| service.name).collect(),
        }
    }
}

fn as_count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Breaks the first active sandbox of a page.
fn break_entry(results: &mut Vec<Value>, broken: BrokenEntry) {
    let says = |entry: &Value, key: &str, text: &str| entry.get(key).is_some_and(|value| value == text);
    let is_sandbox = |entry: &Value| says(entry, "account_type", "sandbox") && says(entry, "state", "active");
    let Some(position) = results.iter().position(is_sandbox) else { return };
    let Some(Value::Object(entry)) = results.get_mut(position) else { return };
    match broken {
        BrokenEntry::NoId => {
            entry.remove("id");
        }
        BrokenEntry::NullCspId => {
            entry.insert("csp_id".to_owned(), Value::Null);
        }
        BrokenEntry::NameWithLineBreak => {
            entry.insert("name".to_owned(), "lab\nbroken".into());
        }
        BrokenEntry::DuplicateCspId => {
            let mut twin = entry.clone();
            twin.insert("id".to_owned(), accounts::external_id(accounts::seeded_uuid(0, 0)).into());
            match results.get_mut(position + 1) {
                // The page keeps its size.
                Some(next) => *next = Value::Object(twin),
                None => results.push(Value::Object(twin)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
