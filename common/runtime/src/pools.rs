//! The pools of the fleet, as a process knows them: the table has the truth, the settings add those that it lacks.

use super::settings::{Settings, read_file};
use super::telemetry::Chain;
use contract::pools::PoolSettings;
use domain::{LeasePolicy, PoolName, PoolSpec, Pools, TemplateId, TemplateVersion};
use parking_lot::RwLock;
use ports::store::{Store, StoreError, unless_unreadable};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a process reads the pools; a change takes effect everywhere within about this time.
pub const POOLS_REFRESH_PERIOD: Duration = Duration::from_secs(2);
/// The only pool of a fleet whose settings name none.
const POOL_DEFAULT: &str = "main";

/// The pools that this process knows, shared by its roles.
#[derive(Clone, Debug)]
pub struct PoolWatch {
    current: Arc<RwLock<Arc<Pools>>>,
    /// Held from the read of the table to the change of `current`, so that no older read replaces a newer one.
    reading: Arc<tokio::sync::Mutex<()>>,
    seeds: Arc<PoolSeeds>,
}

/// Pools of the settings, which are added to a table that lacks them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSeeds {
    /// The pools.
    pub specs: Vec<PoolSpec>,
    /// Whether the settings name them. The default pool is added only to a table that knows no other pool, because roles
    /// without the setting share a table with roles that have it.
    pub are_stated: bool,
}

// === impl PoolSeeds ===

impl From<Vec<PoolSpec>> for PoolSeeds {
    /// Pools that the settings name.
    fn from(specs: Vec<PoolSpec>) -> Self {
        Self { specs, are_stated: true }
    }
}

// === impl PoolWatch ===

impl PoolWatch {
    /// Knows `seeds` until the table was read; `leases` applies to pools that set nothing.
    #[must_use]
    pub fn new(seeds: impl Into<PoolSeeds>, leases: LeasePolicy) -> Self {
        let seeds = seeds.into();
        let pools = Pools::new(seeds.specs.clone(), leases);
        let current = Arc::new(RwLock::new(Arc::new(pools)));
        Self { current, reading: Arc::default(), seeds: Arc::new(seeds) }
    }

    /// The same with one more pool, which is added to a table that lacks it.
    #[must_use]
    pub fn with_seed(self, spec: PoolSpec) -> Self {
        let mut seeds = self.seeds.as_ref().clone();
        if seeds.specs.iter().any(|seed| seed.name == spec.name) {
            return self;
        }
        seeds.specs.push(spec);
        let next = self.current().with(seeds.specs.clone());
        Self { current: Arc::new(RwLock::new(Arc::new(next))), seeds: Arc::new(seeds), ..self }
    }

    /// Knows these versions of templates until the table was read.
    #[must_use]
    pub fn with_templates(self, templates: BTreeMap<PoolName, TemplateVersion>) -> Self {
        let pools = self.current().as_ref().clone().with_templates(templates);
        *self.current.write() = Arc::new(pools);
        self
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
        let names = store.pools().await?;
        let known = Pools::new(store.pool_specs().await?, LeasePolicy::default());
        let PoolSeeds { specs, are_stated } = self.seeds.as_ref();
        let knows_others = names.iter().any(|name| specs.iter().all(|seed| seed.name != *name));
        let seeds = if *are_stated || !knows_others { specs.as_slice() } else { &[] };
        for seed in seeds.iter().filter(|seed| !known.contains(&seed.name)) {
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
        for seed in seeds.iter().filter(|_| *are_stated) {
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
        let _reading = self.reading.lock().await;
        let specs = store.pool_specs().await?;
        if specs.is_empty() {
            // The table was not opened yet, or has lost its pools: what the settings say is better than nothing.
            return Ok(());
        }
        let (templates, refusals) = current_versions(store, &specs).await?;
        let next = self.current().with(specs).with_templates(templates).with_refusals(refusals);
        let mut current = self.current.write();
        if **current != next {
            tracing::info!(pools = next.specs().len(), "the pools have changed");
            for pool in next.names() {
                match next.refusal_of(pool) {
                    Some(reason) if current.refusal_of(pool) != Some(reason) => {
                        tracing::warn!(
                            pool.name = pool.as_str(),
                            reason,
                            "pool {pool} is not served: {reason}"
                        );
                    }
                    _ => {}
                }
            }
            *current = Arc::new(next);
        }
        Ok(())
    }

    /// Follows the table until `stop`.
    pub async fn keep(&self, store: &dyn Store, stop: &CancellationToken) {
        let mut is_failing = false;
        loop {
            // Every role has read them at its start.
            tokio::select! {
                () = tokio::time::sleep(POOLS_REFRESH_PERIOD) => {}
                () = stop.cancelled() => return,
            }
            let read = self.refresh(store).await;
            // One line for an outage, and one for its end.
            match &read {
                Err(error) if !is_failing => {
                    tracing::warn!(error = %Chain(error), "the pools cannot be read; the last ones are used");
                }
                Ok(()) if is_failing => tracing::info!("the pools are read again"),
                _ => {}
            }
            is_failing = read.is_err();
        }
    }
}

/// The current version of the template of each pool that names one which can be used, and why pools do not allow theirs.
async fn current_versions(
    store: &dyn Store,
    specs: &[PoolSpec],
) -> Result<(BTreeMap<PoolName, TemplateVersion>, BTreeMap<PoolName, String>), StoreError> {
    let (mut versions, mut refusals) = (BTreeMap::new(), BTreeMap::new());
    for spec in specs {
        let Some(Ok(template)) = spec.template.as_deref().map(TemplateId::parse) else { continue };
        let head = unless_unreadable(store.template_head(&template).await)?;
        let Some(head) = head.filter(domain::TemplateHead::is_live) else { continue };
        let version = TemplateVersion::of(&template, head.version);
        if spec.restricts_templates() {
            let found = unless_unreadable(store.template(&template, head.version).await)?;
            // What cannot be read is not allowed either.
            let Some(found) = found else { continue };
            if let Err(mistake) = spec.restrict(&found.spec) {
                let reason = format!("it does not allow its template {version}: {mistake}");
                refusals.insert(spec.name.clone(), reason);
            }
        }
        versions.insert(spec.name.clone(), version);
    }
    Ok((versions, refusals))
}

/// Reads `POOLS` or `POOLS_FILE`; no pools after a mistake.
pub fn read_pools(settings: &mut Settings<'_>) -> PoolSeeds {
    let file = settings.optional(
        "POOLS_FILE",
        "file with pools and their settings, as TOML: a table for each pool (docs/pools.md); pools that the table lacks are added at the start",
    );
    let listed = settings.optional(
        "POOLS",
        "pools as `pool=name-prefix` or `pool`, separated by commas; the last one has no prefix and takes all other names; the pool `main` if there is no `POOLS_FILE` either; pools that the table lacks are added at the start",
    );
    let are_stated = file.is_some() || listed.is_some();
    if file.is_some() && listed.is_some() {
        settings.mistake("POOLS_FILE", "and POOLS exclude each other; leave one of them out");
    }
    let read = match file {
        Some(file) => {
            let specs = read_file(&file).and_then(|text| parse_file(&text));
            specs.map_err(|problem| ("POOLS_FILE", format!("cannot be used: {problem}")))
        }
        None => Pools::parse(listed.as_deref().unwrap_or(POOL_DEFAULT)).map_err(|problem| ("POOLS", problem)),
    };
    let specs = read.unwrap_or_else(|(variable, problem)| {
        settings.mistake(variable, &problem);
        Vec::new()
    });
    PoolSeeds { specs, are_stated }
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
    use domain::template::{Image, Template, TemplateSpec};
    use domain::{Actor, PoolKind, PoolState, ProviderName, UnixSeconds};
    use ports::store::{Layout as _, PoolItems as _, TemplateItems as _};
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
    async fn pool_creates_the_current_version_of_its_template() {
        let store = MemoryStore::new(1);
        let of_accounts = PoolSpec::of_accounts(name("shells"), ProviderName::parse("nodes").unwrap(), None);
        let kind = PoolKind::Container;
        let spec = PoolSpec { kind, template: Some("shell".to_owned()), ..of_accounts };
        assert!(store.write_pool(None, &spec).await.unwrap());
        let watch = PoolWatch::new(Vec::new(), LEASES);
        let current = async || {
            watch.refresh(&store).await.unwrap();
            watch.current().template_of(&spec.name).map(ToString::to_string)
        };
        assert_eq!(current().await, None, "there is no such template");
        let id = TemplateId::parse("shell").unwrap();
        for version in 1..=2 {
            let template = Template {
                id: id.clone(),
                version,
                created_at: UnixSeconds::new(version),
                by: Actor::parse("alice").unwrap(),
                spec: TemplateSpec::of_image(Image::Host),
            };
            let seen = store.template_head(&id).await.unwrap();
            assert!(store.write_template(seen.as_ref(), &template).await.unwrap());
            assert_eq!(current().await, Some(format!("shell@{version}")));
        }
        let seen = store.template_head(&id).await.unwrap().unwrap();
        assert!(store.mark_template(&seen, Some(UnixSeconds::new(9))).await.unwrap());
        assert_eq!(current().await, None, "it was removed");
    }

    #[tokio::test]
    async fn pool_creates_no_version_that_its_rules_refuse() {
        let store = MemoryStore::new(1);
        let text = "[apps]\nkind = \"container\"\ntemplate = \"app\"\nruntime = \"runsc\"\nuntrusted = true\n\
                    images = { allowed = [\"registry.example.com\"] }\n";
        let spec = parse_file(text).unwrap().remove(0);
        assert!(store.write_pool(None, &spec).await.unwrap());
        let watch = PoolWatch::new(Vec::new(), LEASES);
        let id = TemplateId::parse("app").unwrap();
        for (version, image, refusal) in
            [(1, "registry.example.com/app", None), (2, "nginx", Some("template app@2: image"))]
        {
            let spec = TemplateSpec {
                isolation: domain::template::Isolation::Container,
                ..TemplateSpec::of_image(Image::named(image))
            };
            let (created_at, by) = (UnixSeconds::new(version), Actor::parse("alice").unwrap());
            let template = Template { id: id.clone(), version, created_at, by, spec };
            let seen = store.template_head(&id).await.unwrap();
            assert!(store.write_template(seen.as_ref(), &template).await.unwrap());
            watch.refresh(&store).await.unwrap();
            let pools = watch.current();
            assert_eq!(pools.template_of(&name("apps")), Some(&TemplateVersion::of(&id, version)));
            let reason = pools.refusal_of(&name("apps"));
            assert!(reason.zip(refusal).is_none_or(|(reason, part)| reason.contains(part)), "{reason:?}");
            assert_eq!(reason.is_some(), refusal.is_some());
        }
    }

    #[tokio::test]
    async fn default_pool_is_added_only_to_a_table_that_knows_no_other() {
        let by_default = || {
            let env = std::collections::BTreeMap::new();
            PoolWatch::new(read_pools(&mut Settings::new(&env)), LEASES)
        };
        let fresh = MemoryStore::new(1);
        by_default().open(&fresh).await.unwrap();
        assert!(fresh.pool_spec(&name("main")).await.unwrap().is_some());
        // Another role, whose settings name the pools, or an older build has used the table before.
        let used = MemoryStore::new(1);
        used.note_pools(&[name("labs"), name("rest")].into()).await.unwrap();
        by_default().open(&used).await.unwrap();
        assert_eq!(used.pool_specs().await.unwrap(), []);
        // Of a fleet with the default pool only.
        let old = MemoryStore::new(1);
        old.note_pools(&[name("main")].into()).await.unwrap();
        by_default().open(&old).await.unwrap();
        assert!(old.pool_spec(&name("main")).await.unwrap().is_some());
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
