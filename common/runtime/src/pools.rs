//! The pools of the fleet, as a process knows them: the table has the truth, the settings add those that it lacks.

use super::settings::Settings;
use super::telemetry::Chain;
use contract::pools::PoolSettings;
use domain::{LeasePolicy, PoolName, PoolSpec, Pools};
use parking_lot::RwLock;
use ports::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a process reads the pools; a change takes effect everywhere within about this time.
pub const POOLS_REFRESH_PERIOD: Duration = Duration::from_secs(2);
/// Most bytes of a file of pools.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The only pool of a fleet whose settings name none.
const POOL_DEFAULT: &str = "main";

/// The pools that this process knows, shared by its roles.
#[derive(Clone, Debug)]
pub struct PoolWatch {
    current: Arc<RwLock<Arc<Pools>>>,
    /// Pools of the settings, which are added to a table that lacks them.
    seeds: Arc<[PoolSpec]>,
}

// === impl PoolWatch ===

impl PoolWatch {
    /// Knows `seeds` until the table was read; `leases` applies to pools that set nothing.
    #[must_use]
    pub fn new(seeds: Vec<PoolSpec>, leases: LeasePolicy) -> Self {
        let pools = Pools::new(seeds.clone(), leases);
        Self { current: Arc::new(RwLock::new(Arc::new(pools))), seeds: seeds.into() }
    }

    /// The pools now.
    #[must_use]
    pub fn current(&self) -> Arc<Pools> {
        Arc::clone(&self.current.read())
    }

    /// Adds the pools of the settings that the table lacks, and reads all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(&self, store: &dyn Store) -> Result<(), StoreError> {
        let known = store.pool_specs().await?;
        let known = Pools::new(known, LeasePolicy::default());
        for seed in self.seeds.iter().filter(|seed| !known.contains(&seed.name)) {
            if let Err(problem) = known.check_beside(seed) {
                tracing::error!(
                    pool.name = seed.name.as_str(),
                    "pool {} of the settings is not added: its {problem}",
                    seed.name,
                );
            } else if store.write_pool(None, seed).await? {
                tracing::info!(pool.name = seed.name.as_str(), "pool {} was added to the table", seed.name);
            }
        }
        for seed in self.seeds.iter() {
            if let Some(kept) = known.get(&seed.name).filter(|kept| !kept.says(seed)) {
                tracing::warn!(
                    pool.name = seed.name.as_str(),
                    pool.version = kept.version,
                    "the settings describe pool {} otherwise than the table, which decides; change it with `broker pools`",
                    seed.name,
                );
            }
        }
        self.refresh(store).await
    }

    /// Reads the pools.
    ///
    /// # Errors
    /// [`StoreError`]; then the pools stay as they were.
    pub async fn refresh(&self, store: &dyn Store) -> Result<(), StoreError> {
        let specs = store.pool_specs().await?;
        if specs.is_empty() {
            // The table was not opened yet, or has lost its pools: what the settings say is better than nothing.
            return Ok(());
        }
        let next = self.current().with(specs);
        let mut current = self.current.write();
        if **current != next {
            tracing::info!(pools = next.specs().len(), "the pools have changed");
            *current = Arc::new(next);
        }
        Ok(())
    }

    /// Follows the table until `stop`.
    pub async fn keep(&self, store: &dyn Store, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.refresh(store).await {
                tracing::debug!(error = %Chain(&error), "the pools cannot be read");
            }
            tokio::select! {
                () = tokio::time::sleep(POOLS_REFRESH_PERIOD) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

/// Reads `POOLS` or `POOLS_FILE`; none after a mistake.
pub fn read_pools(settings: &mut Settings<'_>) -> Option<Vec<PoolSpec>> {
    let file = settings.optional(
        "POOLS_FILE",
        "file with pools and their settings, as TOML: a table for each pool (docs/pools.md); pools that the table lacks are added at the start",
    );
    let listed = settings.optional(
        "POOLS",
        "pools as `pool=name-prefix` or `pool`, separated by commas; the last one has no prefix and takes all other names; the pool `main` if there is no `POOLS_FILE` either; pools that the table lacks are added at the start",
    );
    let Some(file) = file else {
        return match Pools::parse(listed.as_deref().unwrap_or(POOL_DEFAULT)) {
            Ok(specs) => Some(specs),
            Err(problem) => {
                settings.mistake("POOLS", &problem);
                None
            }
        };
    };
    if listed.is_some() {
        settings.mistake("POOLS_FILE", "and POOLS exclude each other; leave one of them out");
    }
    match read_file(&file) {
        Ok(specs) => Some(specs),
        Err(problem) => {
            settings.mistake("POOLS_FILE", &format!("cannot be used: {problem}"));
            None
        }
    }
}

fn read_file(file: &str) -> Result<Vec<PoolSpec>, String> {
    let size = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    parse_file(&text)
}

/// The pools of a file.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse_file(text: &str) -> Result<Vec<PoolSpec>, String> {
    let tables: BTreeMap<String, PoolSettings> = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut specs: Vec<PoolSpec> = Vec::new();
    for (name, settings) in &tables {
        let pool = PoolName::parse(name).map_err(|problem| format!("a pool name {problem}"))?;
        let spec = settings.spec(&pool).map_err(|mistake| format!("pool {pool}: {mistake}"))?;
        let before = Pools::new(std::mem::take(&mut specs), LeasePolicy::default());
        before.check_beside(&spec).map_err(|mistake| format!("pool {pool}: {mistake}"))?;
        specs = before.specs().to_vec();
        specs.push(spec);
    }
    if specs.is_empty() {
        return Err("it describes no pool".to_owned());
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{PoolState, ProviderName};
    use ports::store::PoolItems as _;
    use testkit::store::MemoryStore;

    const LEASES: LeasePolicy = LeasePolicy {
        duration: Duration::from_secs(14_400),
        duration_max: Duration::from_secs(14_400),
        total_max: Duration::from_secs(14_400),
        grace: Duration::ZERO,
    };

    fn name(text: &str) -> PoolName {
        PoolName::parse(text).unwrap()
    }

    #[test]
    fn file_describes_pools() {
        let specs = parse_file(
            "[main]\n\n[eu]\nprovider = \"csp-eu\"\nname_prefix = \"lab-\"\nlease = { duration_minutes = 90 }\n",
        )
        .unwrap();
        let pools = Pools::new(specs, LEASES);
        assert_eq!(pools.leases_of(&name("eu")).duration, Duration::from_secs(5_400));
        assert_eq!(pools.leases_of(&name("main")), LEASES);
        assert_eq!(pools.provider_of(&name("eu")), ProviderName::parse("csp-eu").unwrap());
        for (bad, expected) in [
            ("", "no pool"),
            ("[a b]", "expected"),
            ("[a]\nprefix = 1", "unknown field"),
            ("[a]\n[b]", "is that of pool a"),
            ("[a]\nlease = { duration_minutes = 0 }", "pool a: lease.duration_minutes"),
        ] {
            let problem = parse_file(bad).unwrap_err();
            assert!(problem.contains(expected), "{bad:?}: {problem}");
        }
    }

    #[tokio::test]
    async fn table_decides_and_settings_add_what_it_lacks() {
        let store = MemoryStore::new(1);
        let watch = |text: &str| PoolWatch::new(Pools::parse(text).unwrap(), LEASES);
        let first = watch("main");
        first.open(&store).await.unwrap();
        let mut spec = store.pool_spec(&name("main")).await.unwrap().unwrap();
        spec.state = PoolState::Draining;
        spec.version += 1;
        assert!(store.write_pool(Some(1), &spec).await.unwrap());
        let second = watch("labs=lab-,main");
        second.open(&store).await.unwrap();
        assert!(!second.current().get(&name("main")).unwrap().is_active(), "the table decides");
        assert!(second.current().contains(&name("labs")), "and the new one was added");
        first.refresh(&store).await.unwrap();
        assert_eq!(first.current().specs(), second.current().specs());
        let third = watch("other");
        third.open(&store).await.unwrap();
        assert!(!third.current().contains(&name("other")), "two pools would take every name");
    }
}
