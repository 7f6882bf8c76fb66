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

    /// The current faults, with the remaining counts.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.state.faults().clone()
    }

    /// Replaces all faults and resets the window of the rate limit.
    ///
    /// # Errors
    /// The problem, in words; then nothing is changed.
    pub fn set_faults(&self, faults: Faults) -> Result<(), String> {
        self.change(|current| *current = faults)?;
        self.state.reset_window();
        Ok(())
    }

    /// Appends one fault to those of an operation.
    ///
    /// # Errors
    /// The problem, in words; then nothing is changed.
    pub fn fail(&self, operation: Operation, fault: Fault) -> Result<(), String> {
        self.change(|faults| faults.operations.entry(operation).or_default().faults.push(fault))
    }

    /// Sets the latency of an operation.
    ///
    /// # Errors
    /// The problem, in words; then nothing is changed.
    pub fn slow_down(&self, operation: Operation, latency: Latency) -> Result<(), String> {
        self.change(|faults| faults.operations.entry(operation).or_default().latency_ms = Some(latency))
    }

    /// Changes faults in one step, so that no concurrent call is counted twice or missed.
    fn change(&self, change: impl FnOnce(&mut Faults)) -> Result<(), String> {
        let mut current = self.state.faults();
        let mut changed = current.clone();
        change(&mut changed);
        changed.check()?;
        *current = changed;
        Ok(())
    }

    /// Resets faults and latencies to the configuration.
    pub fn clear_faults(&self) {
        *self.state.faults() = Faults::default();
        self.state.reset_window();
    }

    /// Adds accounts with this or the configured name prefix.
    ///
    /// # Errors
    /// When there would be too many, or the journal cannot be written.
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

    /// Replaces an account by another one with the same number, as the provider may do; none if there is no such
    /// account.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn recreate(&self, account: &ExternalId) -> io::Result<Option<AccountView>> {
        let Ok(uuid) = Uuid::parse_str(account.bare()) else { return Ok(None) };
        self.state.world().recreate(uuid, self.state.clock.now_ms())
    }

    /// Every existing sandbox, by number.
    #[must_use]
    pub fn accounts(&self) -> Vec<AccountView> {
        self.page(Paging::default())
    }

    pub(crate) fn page(&self, paging: Paging) -> Vec<AccountView> {
        self.state.world().views(paging)
    }

    /// The counts.
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

    /// The names of the services inside an account; empty if the account does not exist.
    #[must_use]
    pub fn services(&self, account: &ExternalId) -> Vec<String> {
        let services = Uuid::parse_str(account.bare()).map(|uuid| self.state.world().services(uuid));
        services.unwrap_or_default().into_iter().map(|service| service.name).collect()
    }

    /// Ends every session and returns their number.
    pub fn expire_sessions(&self) -> usize {
        self.state.world().sessions.expire()
    }

    /// The log of calls, in the order in which they ended.
    #[must_use]
    pub fn log(&self) -> Vec<LogEntry> {
        self.state.calls.read().0
    }

    pub(crate) fn log_dropped(&self) -> u64 {
        self.state.calls.read().1
    }

    /// The number of calls in progress.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.calls.in_flight()
    }

    /// Clears the log.
    pub fn clear_log(&self) {
        self.state.calls.clear();
    }
}
