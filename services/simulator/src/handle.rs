//! The controls of a simulator, for code in the same process.

use crate::calls::LogEntry;
use crate::config::ACCOUNTS_MAX;
use crate::faults::{Fault, Faults, Latency, Operation};
use crate::state::State;
use crate::world::{AccountView, Census, Paging};
use domain::{ExternalId, NamePrefix};
use std::io;
use std::sync::Arc;
use uuid::Uuid;

/// Most services that one account can be given.
pub(crate) const SERVICES_MAX: usize = 10_000;

/// What `/simulator/…` offers, without HTTP.
#[derive(Clone, Debug)]
pub struct SimulatorHandle {
    state: Arc<State>,
}

impl SimulatorHandle {
    pub(crate) const fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    /// What is set, with what is left of counted faults.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.state.faults().clone()
    }

    /// Replaces everything that is set; the count of the rate limit begins anew.
    ///
    /// # Errors
    /// What is wrong with it, in words; nothing is changed then.
    pub fn set_faults(&self, faults: Faults) -> Result<(), String> {
        self.change(|current| *current = faults)?;
        self.state.reset_window();
        Ok(())
    }

    /// Adds one fault behind those that an operation has.
    ///
    /// # Errors
    /// What is wrong with it, in words; nothing is changed then.
    pub fn fail(&self, operation: Operation, fault: Fault) -> Result<(), String> {
        self.change(|faults| faults.operations.entry(operation).or_default().faults.push(fault))
    }

    /// Sets how long an operation takes.
    ///
    /// # Errors
    /// What is wrong with it, in words; nothing is changed then.
    pub fn slow_down(&self, operation: Operation, latency: Latency) -> Result<(), String> {
        self.change(|faults| faults.operations.entry(operation).or_default().latency_ms = Some(latency))
    }

    /// Changes what is set in one step, so that no call in between is counted twice or not at all.
    fn change(&self, change: impl FnOnce(&mut Faults)) -> Result<(), String> {
        let mut current = self.state.faults();
        let mut changed = current.clone();
        change(&mut changed);
        changed.check()?;
        *current = changed;
        Ok(())
    }

    /// Lets everything work as configured.
    pub fn clear_faults(&self) {
        *self.state.faults() = Faults::default();
        self.state.reset_window();
    }

    /// Adds accounts, named with `name_prefix` or the configured one.
    ///
    /// # Errors
    /// When there would be too many, or they cannot be written down.
    pub fn add_accounts(
        &self,
        count: usize,
        name_prefix: Option<&NamePrefix>,
    ) -> io::Result<Vec<AccountView>> {
        let prefix = name_prefix.or(self.state.config.name_prefix.as_ref());
        let prefix = prefix.map_or("", |prefix| prefix.as_str());
        let now_ms = self.state.clock.now_ms();
        let mut world = self.state.world();
        if world.census().live.saturating_add(count) > ACCOUNTS_MAX as usize {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many accounts"));
        }
        world.add(count, prefix, now_ms)
    }

    /// Replaces an account by another one of the same number, as happens upstream; none if there is no such account.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn recreate(&self, account: &ExternalId) -> io::Result<Option<AccountView>> {
        let Ok(uuid) = Uuid::parse_str(account.bare()) else { return Ok(None) };
        self.state.world().recreate(uuid, self.state.clock.now_ms())
    }

    /// Every sandbox that exists, by number.
    #[must_use]
    pub fn accounts(&self) -> Vec<AccountView> {
        self.page(Paging::default())
    }

    pub(crate) fn page(&self, paging: Paging) -> Vec<AccountView> {
        self.state.world().views(paging)
    }

    /// How much there is.
    #[must_use]
    pub fn census(&self) -> Census {
        self.state.world().census()
    }

    /// Whether the account exists.
    #[must_use]
    pub fn exists(&self, account: &ExternalId) -> bool {
        Uuid::parse_str(account.bare()).is_ok_and(|uuid| self.state.world().exists(uuid))
    }

    /// Replaces the services inside an account; false if there is no such account.
    #[must_use]
    pub fn set_services(&self, account: &ExternalId, names: &[String]) -> bool {
        Uuid::parse_str(account.bare()).is_ok_and(|uuid| self.state.world().set_services(uuid, names))
    }

    /// The names of the services inside an account; none of an account that does not exist.
    #[must_use]
    pub fn services(&self, account: &ExternalId) -> Vec<String> {
        let services = Uuid::parse_str(account.bare()).map(|uuid| self.state.world().services(uuid));
        services.unwrap_or_default().into_iter().map(|service| service.name).collect()
    }

    /// Ends every session, and says how many there were.
    pub fn expire_sessions(&self) -> usize {
        self.state.world().sessions.expire()
    }

    /// The record of calls, in the order of their ends.
    #[must_use]
    pub fn log(&self) -> Vec<LogEntry> {
        self.state.calls.read().0
    }

    pub(crate) fn log_dropped(&self) -> u64 {
        self.state.calls.read().1
    }

    /// Calls under way now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.calls.in_flight()
    }

    /// Forgets the record.
    pub fn clear_log(&self) {
        self.state.calls.clear();
    }
}
