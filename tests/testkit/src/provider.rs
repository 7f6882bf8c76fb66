//! A provider in memory, with scripted results: for tests of the services that call one.

use async_trait::async_trait;
use domain::ExternalId;
use parking_lot::{Mutex, MutexGuard};
use ports::provider::{
    Abilities, Account, Deleted, Health, Listing, Prepared, Provider, ProviderError, Target,
};
use std::collections::{HashMap, VecDeque};
use tokio::sync::watch;

/// Default page size of a listing.
const PAGE_SIZE: usize = 100;

/// A provider whose answers a test can script. Without a script it behaves like a real one.
#[derive(Debug)]
pub struct FakeProvider {
    inside: Mutex<Inside>,
    is_held: watch::Sender<bool>,
}

/// A call, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A page was requested.
    List {
        /// From where on.
        offset: u64,
    },
    /// A pre-clean was requested.
    PrepareDelete(ExternalId),
    /// A deletion was requested.
    Delete(ExternalId),
    /// A check was requested.
    Check(ExternalId),
}

#[derive(Debug)]
struct Inside {
    abilities: Abilities,
    page_size: usize,
    accounts: Vec<Account>,
    lists: VecDeque<Result<Listing, ProviderError>>,
    preparations: Script<Prepared>,
    deletes: Script<Deleted>,
    checks: Script<Health>,
    calls: Vec<Call>,
    in_flight: usize,
    in_flight_max: usize,
}

/// Scripted results: those for one sandbox first, then those for any sandbox.
#[derive(Debug)]
struct Script<T> {
    of_one: HashMap<String, VecDeque<Result<T, ProviderError>>>,
    of_any: VecDeque<Result<T, ProviderError>>,
}

/// Counts a call as in progress until it is dropped, even if its caller gives up.
struct InFlight<'a>(&'a FakeProvider);

// === impl FakeProvider ===

impl Default for FakeProvider {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeProvider {
    /// A provider with all abilities and no accounts.
    #[must_use]
    pub fn new() -> Self {
        let inside = Inside {
            abilities: Abilities { list: true, delete: true, prepare_delete: true, check: true },
            page_size: PAGE_SIZE,
            accounts: Vec::new(),
            lists: VecDeque::new(),
            preparations: Script::default(),
            deletes: Script::default(),
            checks: Script::default(),
            calls: Vec::new(),
            in_flight: 0,
            in_flight_max: 0,
        };
        Self { inside: Mutex::new(inside), is_held: watch::Sender::new(false) }
    }

    /// Sets its abilities.
    pub fn set_abilities(&self, abilities: Abilities) {
        self.inside().abilities = abilities;
    }

    /// Sets how many entries a page has.
    pub fn set_page_size(&self, page_size: usize) {
        self.inside().page_size = page_size.max(1);
    }

    /// Adds an account to the listing.
    pub fn add(&self, account: Account) {
        self.inside().accounts.push(account);
    }

    /// Replaces the whole listing.
    pub fn set_accounts(&self, accounts: Vec<Account>) {
        self.inside().accounts = accounts;
    }

    /// Its current accounts.
    #[must_use]
    pub fn accounts(&self) -> Vec<Account> {
        self.inside().accounts.clone()
    }

    /// Scripts the next listing call.
    pub fn script_list(&self, result: Result<Listing, ProviderError>) {
        self.inside().lists.push_back(result);
    }

    /// Scripts the next pre-clean of any sandbox.
    pub fn script_preparation(&self, result: Result<Prepared, ProviderError>) {
        self.inside().preparations.of_any.push_back(result);
    }

    /// Scripts the next pre-clean of this sandbox.
    pub fn script_preparation_of(&self, id: &ExternalId, result: Result<Prepared, ProviderError>) {
        self.inside().preparations.of_one.entry(id.as_str().to_owned()).or_default().push_back(result);
    }

    /// Scripts the next deletion of any sandbox. The account is removed only for an `Ok`.
    pub fn script_delete(&self, result: Result<Deleted, ProviderError>) {
        self.inside().deletes.of_any.push_back(result);
    }

    /// Scripts the next deletion of this sandbox. The account is removed only for an `Ok`.
    pub fn script_delete_of(&self, id: &ExternalId, result: Result<Deleted, ProviderError>) {
        self.inside().deletes.of_one.entry(id.as_str().to_owned()).or_default().push_back(result);
    }

    /// Scripts the next check of any sandbox.
    pub fn script_check(&self, result: Result<Health, ProviderError>) {
        self.inside().checks.of_any.push_back(result);
    }

    /// Scripts the next check of this sandbox.
    pub fn script_check_of(&self, id: &ExternalId, result: Result<Health, ProviderError>) {
        self.inside().checks.of_one.entry(id.as_str().to_owned()).or_default().push_back(result);
    }

    /// Makes every call wait, from its arrival until [`FakeProvider::let_go`].
    pub fn hold(&self) {
        self.is_held.send_replace(true);
    }

    /// Resumes the waiting calls.
    pub fn let_go(&self) {
        self.is_held.send_replace(false);
    }

    /// Every call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.inside().calls.clone()
    }

    /// Calls in progress.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inside().in_flight
    }

    /// Highest number of concurrent calls so far.
    #[must_use]
    pub fn in_flight_max(&self) -> usize {
        self.inside().in_flight_max
    }

    async fn arrive(&self, call: Call) -> InFlight<'_> {
        {
            let mut inside = self.inside();
            inside.calls.push(call);
            inside.in_flight += 1;
            inside.in_flight_max = inside.in_flight_max.max(inside.in_flight);
        }
        let in_flight = InFlight(self);
        let mut is_held = self.is_held.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = is_held.wait_for(|is_held| !is_held).await;
        in_flight
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock()
    }
}

#[async_trait]
impl Provider for FakeProvider {
    fn abilities(&self) -> Abilities {
        self.inside().abilities
    }

    async fn list(&self, offset: u64) -> Result<Listing, ProviderError> {
        let _in_flight = self.arrive(Call::List { offset }).await;
        let mut inside = self.inside();
        if let Some(result) = inside.lists.pop_front() {
            return result;
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let accounts: Vec<Account> =
            inside.accounts.iter().skip(from).take(inside.page_size).cloned().collect();
        let is_full = accounts.len() == inside.page_size;
        let next = is_full.then(|| offset.saturating_add(accounts.len() as u64));
        Ok(Listing { accounts, next, ..Listing::default() })
    }

    async fn prepare_delete(&self, target: &Target) -> Result<Prepared, ProviderError> {
        let _in_flight = self.arrive(Call::PrepareDelete(target.external_id.clone())).await;
        self.inside().preparations.next(&target.external_id).unwrap_or(Ok(Prepared::Skipped))
    }

    async fn check(&self, target: &Target) -> Result<Health, ProviderError> {
        let _in_flight = self.arrive(Call::Check(target.external_id.clone())).await;
        self.inside().checks.next(&target.external_id).unwrap_or(Ok(Health::Sound))
    }

    async fn delete(&self, target: &Target) -> Result<Deleted, ProviderError> {
        let _in_flight = self.arrive(Call::Delete(target.external_id.clone())).await;
        let mut inside = self.inside();
        let scripted = inside.deletes.next(&target.external_id);
        if let Some(Err(error)) = scripted {
            return Err(error);
        }
        let before = inside.accounts.len();
        inside.accounts.retain(|account| account.external_id != target.external_id.as_str());
        let was_there = inside.accounts.len() < before;
        scripted.unwrap_or(Ok(if was_there { Deleted::Now } else { Deleted::AlreadyGone }))
    }
}

// === impl Script ===

impl<T> Default for Script<T> {
    fn default() -> Self {
        Self { of_one: HashMap::new(), of_any: VecDeque::new() }
    }
}

impl<T> Script<T> {
    fn next(&mut self, id: &ExternalId) -> Option<Result<T, ProviderError>> {
        let of_one = self.of_one.get_mut(id.as_str()).and_then(VecDeque::pop_front);
        of_one.or_else(|| self.of_any.pop_front())
    }
}

// === impl InFlight ===

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.inside().in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::SandboxName;
    use std::sync::Arc;
    use std::time::Duration;

    fn account(number: usize) -> Account {
        Account {
            id: number.to_string(),
            external_id: format!("identity/accounts/u-{number}"),
            name: format!("lab-{number}"),
            descriptor: Vec::new(),
        }
    }

    fn target(number: usize) -> Target {
        Target {
            external_id: ExternalId::parse(&account(number).external_id).unwrap(),
            name: SandboxName::parse("lab").unwrap(),
            descriptor: domain::Descriptor::default(),
        }
    }

    #[tokio::test]
    async fn unscripted_provider_behaves_like_a_real_one() {
        let fake = FakeProvider::new();
        fake.set_page_size(2);
        fake.set_accounts((0..3).map(account).collect());
        let first = fake.list(0).await.unwrap();
        assert_eq!((first.accounts.len(), first.next), (2, Some(2)));
        let last = fake.list(2).await.unwrap();
        assert_eq!((last.accounts.len(), last.next), (1, None));
        assert_eq!(fake.delete(&target(1)).await, Ok(Deleted::Now));
        assert_eq!(fake.delete(&target(1)).await, Ok(Deleted::AlreadyGone));
        assert_eq!(fake.accounts().len(), 2);
    }

    #[tokio::test]
    async fn sandbox_script_takes_precedence_over_the_general_one() {
        let fake = FakeProvider::new();
        fake.add(account(1));
        let timed_out = ProviderError::UnknownOutcome { waited_seconds: 15 };
        fake.script_delete(Ok(Deleted::AlreadyGone));
        fake.script_delete_of(&target(1).external_id, Err(timed_out.clone()));
        assert_eq!(fake.delete(&target(1)).await, Err(timed_out));
        assert_eq!(fake.accounts().len(), 1);
        assert_eq!(fake.delete(&target(1)).await, Ok(Deleted::AlreadyGone));
        assert_eq!(fake.accounts().len(), 0);
        let calls = [Call::Delete(target(1).external_id), Call::Delete(target(1).external_id)];
        assert_eq!(fake.calls(), calls);
    }

    #[tokio::test]
    async fn held_calls_wait_and_are_counted() {
        let fake = Arc::new(FakeProvider::new());
        fake.hold();
        let calls: Vec<_> = (0..3)
            .map(|number| {
                let fake = Arc::clone(&fake);
                tokio::spawn(async move { fake.delete(&target(number)).await })
            })
            .collect();
        tokio::time::timeout(Duration::from_secs(5), async {
            while fake.in_flight() < 3 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert!(calls.iter().all(|call| !call.is_finished()));
        fake.let_go();
        for call in calls {
            assert_eq!(call.await.unwrap(), Ok(Deleted::AlreadyGone));
        }
        assert_eq!((fake.in_flight(), fake.in_flight_max()), (0, 3));
    }
}
