//! The settings of a simulator.

use crate::faults::Latency;
use domain::NamePrefix;
use runtime::settings::{Secret, Settings};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The default listen address of the simulator.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8_090);
/// The default prefix of account names.
const DEFAULT_NAME_PREFIX: &str = "lab-";
/// Most accounts of one simulator, which lists all of them from memory.
pub(crate) const ACCOUNTS_MAX: u32 = 1_000_000;

/// The settings of a simulator.
#[derive(Clone, Debug)]
pub struct Config {
    /// `SIMULATOR_LISTEN`: where it listens (127.0.0.1:8090).
    pub listen: SocketAddr,
    /// `CSP_API_TOKEN`: the token that callers must present. Required.
    pub api_token: Secret,
    /// `SIMULATOR_DATA`: directory for the accounts; none means memory only.
    pub data: Option<PathBuf>,
    /// `SIMULATOR_ACCOUNTS`: number of sandboxes of a new simulator (200). An existing directory gets no more.
    pub accounts: usize,
    /// `SIMULATOR_NAME_PREFIX`: prefix of account names (`lab-`); none means no prefix.
    pub name_prefix: Option<NamePrefix>,
    /// `SIMULATOR_WITHOUT_SFDC_EVERY`: one account in this many has no Salesforce id; 0: every account has one (0).
    pub without_sfdc_every: u64,
    /// `SIMULATOR_LIST_LATENCY_MS`: latency of a listing, in ms (20).
    pub list_latency: Latency,
    /// `SIMULATOR_DELETE_LATENCY_MS`: latency of a deletion, in ms (200; the real CSP takes 3,000 to 10,000).
    pub delete_latency: Latency,
    /// `SIMULATOR_SEED`: seed of account ids (1).
    pub seed: u64,
}

impl Config {
    /// A simulator for tests: any free port, in memory, 200 accounts, a fifth without a Salesforce id, no latency.
    #[must_use]
    pub fn local(api_token: Secret) -> Self {
        Self {
            listen: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            api_token,
            data: None,
            accounts: 200,
            name_prefix: NamePrefix::parse(DEFAULT_NAME_PREFIX).ok(),
            without_sfdc_every: 5,
            list_latency: Latency::NONE,
            delete_latency: Latency::NONE,
            seed: 1,
        }
    }

    /// Reads the `SIMULATOR_…` variables and `CSP_API_TOKEN`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let listen = settings
            .parsed(
                "SIMULATOR_LISTEN",
                &DEFAULT_LISTEN.to_string(),
                "listen address of the CSP simulator (`address:port`)",
                |text| text.parse().map_err(|_| "must be address:port".to_owned()),
            )
            .unwrap_or(DEFAULT_LISTEN);
        let api_token = settings.secret("CSP_API_TOKEN", "the broker's token for the CSP");
        let data = settings
            .optional("SIMULATOR_DATA", "directory of the simulator's accounts; none: in memory")
            .map(PathBuf::from);
        let accounts = settings.size(
            "SIMULATOR_ACCOUNTS",
            200,
            0..=ACCOUNTS_MAX,
            "number of sandboxes of a new simulator",
        );
        let name_prefix = settings.parsed(
            "SIMULATOR_NAME_PREFIX",
            DEFAULT_NAME_PREFIX,
            "prefix of the names of the simulator's accounts",
            |text| NamePrefix::parse(text).map_err(|error| error.to_string()),
        );
        let without_sfdc_every = settings.number(
            "SIMULATOR_WITHOUT_SFDC_EVERY",
            0,
            0..=u64::from(ACCOUNTS_MAX),
            "one account in this many has no Salesforce id; 0: every account has one",
        );
        let list_latency = latency(
            settings,
            "SIMULATOR_LIST_LATENCY_MS",
            "20",
            "latency of a listing, in ms (`20` or `10-50`)",
        );
        let delete_latency = latency(
            settings,
            "SIMULATOR_DELETE_LATENCY_MS",
            "200",
            "latency of a deletion, in ms (`200` or, as the real one, `3000-10000`)",
        );
        let seed = settings.number("SIMULATOR_SEED", 1, 0..=u64::MAX, "seed of the simulator's ids");
        Self {
            listen,
            api_token,
            data,
            accounts,
            name_prefix,
            without_sfdc_every,
            list_latency,
            delete_latency,
            seed,
        }
    }
}

fn latency(settings: &mut Settings<'_>, name: &'static str, default: &str, meaning: &'static str) -> Latency {
    settings.parsed(name, default, meaning, Latency::parse).unwrap_or(Latency::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn only_the_token_is_required() {
        let env = BTreeMap::new();
        let mut settings = Settings::new(&env);
        let config = Config::read(&mut settings);
        assert_eq!(config.listen.to_string(), "127.0.0.1:8090");
        assert_eq!(config.accounts, 200);
        assert_eq!(config.delete_latency, Latency::Fixed(200));
        let mistakes = settings.finish(()).unwrap_err();
        assert_eq!(mistakes.0, ["CSP_API_TOKEN is required and not set"]);
    }

    #[test]
    fn every_mistake_is_reported() {
        let env: BTreeMap<String, String> = [
            ("SIMULATOR_LISTEN", "here"),
            ("SIMULATOR_ACCOUNTS", "-1"),
            ("SIMULATOR_LIST_LATENCY_MS", "50-10"),
            ("SIMULATOR_DELETE_LATENCY_MS", "slow"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let mut settings = Settings::new(&env);
        Config::read(&mut settings);
        assert_eq!(settings.finish(()).unwrap_err().0.len(), 5);
    }
}
