//! The settings of a fleet, or of a part of one.

use super::nodes::NodeConfig;
use super::providers::{Further, read_further};
use csp::CspConfig;
use domain::ProviderName;
use dynamodb::DynamoConfig;
use nats::NatsConfig;
use ports::store::Agreed;
use runtime::agreement::read_agreed;
use runtime::policy::read_lease_policy;
use runtime::pools::{PoolWatch, read_pools};
use runtime::settings::{Env, Mistakes, Settings};
use secretsmanager::SecretsConfig;
use std::collections::{BTreeMap, BTreeSet};

/// How to reach NATS, the table, the provider and secrets.
#[derive(Clone, Debug)]
pub struct Backends {
    /// The message queue.
    pub nats: NatsConfig,
    /// The table; not needed by ingress and scheduler.
    pub table: Option<DynamoConfig>,
    /// Numbers and booleans of this process, for discovery.
    pub shown: BTreeMap<String, String>,
    /// Settings of this process that must equal those of the table.
    pub agreed: Agreed,
    /// The pools; needed wherever the table is.
    pub pools: Option<PoolWatch>,
    /// The names of all providers.
    pub provider_names: BTreeSet<ProviderName>,
    /// The providers, by name; needed by reaper and reconciler.
    pub providers: BTreeMap<ProviderName, CspConfig>,
    /// Where secrets are read; needed by the ingress.
    pub secrets: Option<SecretsConfig>,
}

/// The configuration of every service and of all connections.
#[derive(Clone, Debug)]
pub struct Configs {
    /// The connections.
    pub backends: Backends,
    /// The ingress.
    pub ingress: ingress::Config,
    /// Allocators.
    pub allocator: allocator::Config,
    /// The registry.
    pub registry: registry::Config,
    /// Reapers.
    pub reaper: reaper::Config,
    /// The node of this machine, if the fleet has one.
    pub node: NodeConfig,
    /// The reconciler.
    pub reconciler: reconciler::Config,
    /// Schedulers.
    pub scheduler: scheduler::Config,
}

// === impl Backends ===

impl Backends {
    /// Reads the settings for a whole fleet.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self::read_parts(settings, true, true, true)
    }

    /// Reads the settings for a part of a fleet, which always needs NATS.
    #[must_use]
    pub fn read_parts(settings: &mut Settings<'_>, table: bool, provider: bool, secrets: bool) -> Self {
        let mut nats = NatsConfig::read(settings);
        let agreed = if table { read_agreed(settings, &nats.subjects) } else { Agreed::new() };
        let pools = table.then(|| (read_pools(settings), read_lease_policy(settings)));
        let mut providers = BTreeMap::new();
        if provider {
            providers.insert(ProviderName::csp(), CspConfig::read(settings));
        }
        let mut provider_names = BTreeSet::from([ProviderName::csp(), ProviderName::nodes()]);
        let further = if table { read_further(settings, provider) } else { BTreeMap::new() };
        for (name, Further { csp, throttle }) in further {
            nats.further_throttles.insert(name.clone(), throttle);
            providers.extend(csp.map(|csp| (name.clone(), csp)));
            provider_names.insert(name);
        }
        let seeds = pools.iter().flat_map(|(seeds, _)| &seeds.specs);
        let mistakes: Vec<_> = seeds
            .filter_map(|seed| {
                Some(format!("pool {}: {}", seed.name, seed.check_provider(&provider_names).err()?))
            })
            .collect();
        mistakes
            .iter()
            .for_each(|mistake| settings.mistake("POOLS_FILE", &format!("cannot be used: {mistake}")));
        let pools = pools.map(|(seeds, leases)| PoolWatch::new(seeds, leases));
        Self {
            table: table.then(|| DynamoConfig::read(settings)),
            pools,
            provider_names,
            providers,
            secrets: secrets.then(|| SecretsConfig::read(settings)),
            shown: BTreeMap::new(),
            agreed,
            nats,
        }
    }
}

// === impl Configs ===

impl Configs {
    /// Reads the settings of a whole fleet.
    ///
    /// # Errors
    /// All mistakes together.
    pub fn read(env: &dyn Env) -> Result<Self, Mistakes> {
        let mut settings = Settings::new(env);
        let mut backends = Backends::read(&mut settings);
        let ingress = ingress::Config::read(&mut settings);
        let allocator = allocator::Config::read(&mut settings);
        let registry = registry::Config::read(&mut settings);
        let reaper = reaper::Config::read(&mut settings);
        let node = NodeConfig::read(&mut settings);
        let reconciler = reconciler::Config::read(&mut settings);
        let scheduler = scheduler::Config::read(&mut settings, &crate::ticks::registered());
        backends.shown.clone_from(settings.plain());
        let read = Self { backends, ingress, allocator, registry, reaper, node, reconciler, scheduler };
        settings.finish(read)
    }
}
