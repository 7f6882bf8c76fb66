//! One simulator and one client for each test.

use csp::{CspConfig, CspProvider};
use domain::{ExternalId, SandboxName};
use ports::clock::{Clock, SystemClock};
use ports::provider::{Account, Listing, Provider, ProviderError, Target};
use ports::random::Rng;
use runtime::settings::{Secret, Settings};
use simulator::{AccountView, Config, FaultKind, Operation, Running, Simulator, SimulatorHandle};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const TOKEN: &str = "token-of-the-tests";
/// The timeout of a client whose call gets no answer.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// The timeout of a client whose call is answered.
const LONG: Duration = Duration::from_secs(30);
/// Pause between two checks of a condition.
/// How long a condition may take to become true.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Rig {
    pub(crate) simulator: Running,
    pub(crate) handle: SimulatorHandle,
    pub(crate) provider: Arc<CspProvider>,
}

/// A client's settings as an operator would write them, with a long timeout.
pub(crate) fn csp_config(base_url: &str, more: &[(&str, &str)]) -> CspConfig {
    let mut env: BTreeMap<String, String> =
        [("CSP_BASE_URL", base_url), ("CSP_API_TOKEN", TOKEN)].map(|(k, v)| (k.into(), v.into())).into();
    env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let mut settings = Settings::new(&env);
    let config = CspConfig::read(&mut settings);
    CspConfig { read_timeout: LONG, ..settings.finish(config).unwrap() }
}

pub(crate) fn client(config: CspConfig) -> CspProvider {
    CspProvider::new(config, Arc::new(SystemClock)).unwrap()
}

pub(crate) fn simulator_config(accounts: usize) -> Config {
    Config { accounts, ..Config::local(Secret::new(TOKEN)) }
}

pub(crate) async fn start(config: Config) -> Running {
    start_at(config, Arc::new(SystemClock)).await
}

pub(crate) async fn start_at(config: Config, clock: Arc<dyn Clock>) -> Running {
    Simulator::start(config, clock, Arc::new(Rng::seeded(1))).await.unwrap()
}

impl Rig {
    /// A simulator with `accounts` accounts, and a client with the required settings and these.
    pub(crate) async fn new(accounts: usize, settings: &[(&str, &str)]) -> Self {
        let simulator = start(simulator_config(accounts)).await;
        let provider = Arc::new(client(csp_config(&simulator.base_url(), settings)));
        Self { handle: simulator.handle(), simulator, provider }
    }

    /// A client with a short timeout, for calls without an answer.
    pub(crate) fn impatient(&self) -> CspProvider {
        let config = csp_config(&self.simulator.base_url(), &[]);
        client(CspConfig { read_timeout: SHORT, ..config })
    }

    /// The first sandbox.
    pub(crate) fn target(&self) -> Target {
        target(&self.handle.accounts()[0])
    }

    /// Makes the next call of an operation fail with that fault.
    pub(crate) fn fail_next(&self, operation: Operation, kind: FaultKind) {
        self.handle.fail(operation, simulator::Fault::next(1, kind)).unwrap();
    }

    /// Makes the next call of an operation end with a status.
    pub(crate) fn answer_next(&self, operation: Operation, status: u16) {
        self.fail_next(operation, status_fault(status, None));
    }

    /// How many calls of an operation there were.
    pub(crate) fn count(&self, operation: Operation) -> usize {
        self.handle.log().iter().filter(|entry| entry.operation == operation).count()
    }

    /// The whole listing, page by page.
    pub(crate) async fn list_all(&self) -> Result<Listing, ProviderError> {
        list_all(&self.provider).await
    }
}

pub(crate) async fn list_all(provider: &CspProvider) -> Result<Listing, ProviderError> {
    let mut whole = Listing::default();
    let mut next = Some(0);
    while let Some(offset) = next {
        let page = provider.list(offset).await?;
        whole.accounts.extend(page.accounts);
        whole.ignored += page.ignored;
        whole.malformed.extend(page.malformed);
        next = page.next;
    }
    Ok(whole)
}

pub(crate) fn status_fault(status: u16, retry_after_seconds: Option<u64>) -> FaultKind {
    FaultKind::Status { status, message: None, retry_after_seconds, retry_after_as_date: false }
}

pub(crate) fn external_id(account: &AccountView) -> ExternalId {
    ExternalId::parse(&account.id).unwrap()
}

pub(crate) fn target(account: &AccountView) -> Target {
    target_of(&account.id)
}

pub(crate) fn target_of(external_id: &str) -> Target {
    Target {
        external_id: ExternalId::parse(external_id).unwrap(),
        name: SandboxName::parse("lab").unwrap(),
        descriptor: domain::Descriptor::default(),
    }
}

pub(crate) fn ids(accounts: &[Account]) -> Vec<&str> {
    accounts.iter().map(|account| account.id.as_str()).collect()
}

/// Waits until `is_true`; panics with `what` if that takes too long.
pub(crate) async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    harness::wait::eventually(what, DEADLINE, || {
        let found = if is_true() { Ok(()) } else { Err("not yet") };
        std::future::ready(found)
    })
    .await;
}
