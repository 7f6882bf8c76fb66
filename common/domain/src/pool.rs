//! Pools: which sandboxes belong together, where they come from, and the rules of their leases.

use super::ids::{NamePrefix, PoolName, ProviderName, SandboxName, TemplateVersion};
use super::image_policy::ImagePolicy;
use super::policy::LeasePolicy;
use super::template::{Image, InvalidTemplate, Isolation, Runtime, TemplateSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest duration of a lease policy.
pub const LEASE_DURATION_MAX: Duration = Duration::from_secs(60 * 24 * 3_600);
/// Most pools of a fleet: each process has a consumer for each, and every run looks at all of them.
pub const POOLS_MAX: usize = 256;
/// Most warm sandboxes of a pool.
pub const WARM_MAX: u32 = 100_000;
/// Shortest period in which a pool may have its provider's listing read; a listing takes several requests.
pub const SYNC_PERIOD_MIN: Duration = Duration::from_secs(10);
/// Longest period in which a pool may have its provider's listing read.
pub const SYNC_PERIOD_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Most concurrent deletions that a pool may ask for.
pub const DELETIONS_IN_FLIGHT_MAX: u32 = 10_000;

/// How the sandboxes of a pool come into being.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum PoolKind {
    /// The provider lists them.
    #[default]
    Account,
    /// They are created on a node.
    Container,
    /// They are created through a cloud API.
    Stack,
}

/// Whether a pool is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum PoolState {
    /// It grants leases.
    Active,
    /// It grants no leases and gets no new sandboxes; leases and deletions run to their ends.
    Draining,
}

/// What a pool sets of its lease policy; the rest comes from the settings of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseOverrides {
    /// Length of a lease whose caller asks for none.
    pub duration: Option<Duration>,
    /// Longest lease that a caller may ask for.
    pub duration_max: Option<Duration>,
    /// Longest total time of a lease, extensions included.
    pub total_max: Option<Duration>,
    /// Time after the end of a lease before its sandbox is taken away.
    pub grace: Option<Duration>,
    /// Time without activity after which a lease ends; for kinds whose activity the fleet sees.
    pub idle: Option<Duration>,
}

/// How many free sandboxes a pool of a created kind keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmSizes {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name.
    pub name: PoolName,
    /// How its sandboxes come into being.
    pub kind: PoolKind,
    /// The provider of its sandboxes.
    pub provider: ProviderName,
    /// The template of a created kind.
    pub template: Option<String>,
    /// Selects, among what the provider lists, the names with this prefix; without one, all that no other pool selects.
    pub name_prefix: Option<NamePrefix>,
    /// The rules of its leases.
    pub leases: LeaseOverrides,
    /// Free sandboxes of a created kind.
    pub warm: Option<WarmSizes>,
    /// Most concurrent deletions of this pool in the fleet; the setting of the fleet if absent.
    pub deletions_in_flight_max: Option<u32>,
    /// How often the listing of its provider is read; of the pools of one provider, the shortest period counts.
    pub sync_period: Option<Duration>,
    /// Which images its template may name.
    pub images: ImagePolicy,
    /// What runs its containers; the choice of the template if none.
    pub runtime: Option<Runtime>,
    /// Whether its sandboxes run code that may attack the kernel, whatever its template says.
    pub is_untrusted: bool,
    /// Whether it is in use.
    pub state: PoolState,
    /// Number of changes.
    pub version: u64,
}

/// Every pool of the fleet, with the lease policy of those that set none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pools {
    specs: Vec<PoolSpec>,
    leases: LeasePolicy,
    /// The current version of the template of each pool that has one.
    templates: BTreeMap<PoolName, TemplateVersion>,
    /// Why a pool allows no sandboxes of the current version of its template.
    refusals: BTreeMap<PoolName, String>,
}

/// Why a pool is not valid, as the end of a sentence that begins with the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidPool {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

// === impl PoolKind ===

impl PoolKind {
    /// The public name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The kind with that public name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// What the ids of its sandboxes begin with; none of a kind that is not created.
    #[must_use]
    pub const fn id_prefix(self) -> Option<&'static str> {
        match self {
            Self::Account => None,
            Self::Container => Some("ctr_"),
            Self::Stack => Some("stk_"),
        }
    }
}

// === impl PoolState ===

impl PoolState {
    /// The public name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The state with that public name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }
}

// === impl LeaseOverrides ===

impl LeaseOverrides {
    /// The whole policy.
    #[must_use]
    pub fn over(&self, rest: &LeasePolicy) -> LeasePolicy {
        let duration = self.duration.unwrap_or(rest.duration);
        // A pool with longer leases need not raise the maxima as well, and one with a lower maximum not the rest.
        let inherited = rest.duration_max.max(duration);
        let inherited = self.total_max.map_or(inherited, |total_max| inherited.min(total_max));
        let duration_max = self.duration_max.unwrap_or(inherited);
        let total_max = self.total_max.unwrap_or(rest.total_max).max(duration_max);
        let grace = self.grace.unwrap_or(rest.grace);
        LeasePolicy { duration: duration.min(duration_max), duration_max, total_max, grace }
    }
}

// === impl PoolSpec ===

impl PoolSpec {
    /// An active pool of listed accounts, with the settings of the process.
    #[must_use]
    pub fn of_accounts(name: PoolName, provider: ProviderName, name_prefix: Option<NamePrefix>) -> Self {
        Self {
            name,
            kind: PoolKind::Account,
            provider,
            template: None,
            name_prefix,
            leases: LeaseOverrides::default(),
            warm: None,
            deletions_in_flight_max: None,
            sync_period: None,
            images: ImagePolicy::default(),
            runtime: None,
            is_untrusted: false,
            state: PoolState::Active,
            version: 1,
        }
    }

    /// Whether it grants leases.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == PoolState::Active
    }

    /// Whether two specs say the same, whatever their versions.
    #[must_use]
    pub fn says(&self, other: &Self) -> bool {
        *self == Self { version: self.version, ..other.clone() }
    }

    /// Checks that one of these providers can have its sandboxes.
    ///
    /// # Errors
    /// [`InvalidPool`].
    pub fn check_provider(&self, providers: &BTreeSet<ProviderName>) -> Result<(), InvalidPool> {
        if !providers.contains(&self.provider) {
            let known: Vec<_> = providers.iter().map(ProviderName::as_str).collect();
            let problem = format!("is none of {}; see PROVIDERS_FILE", known.join(", "));
            return Err(InvalidPool { field: "provider", problem });
        }
        let is_of_nodes = self.provider == ProviderName::nodes();
        let problem = match self.kind {
            PoolKind::Account if is_of_nodes => "must be `container` for the provider nodes",
            PoolKind::Container if !is_of_nodes => "must be `account`: only nodes create containers",
            PoolKind::Stack => "must be `account` or `container`: no provider of this fleet creates stacks",
            PoolKind::Account | PoolKind::Container => return Ok(()),
        };
        Err(InvalidPool { field: "kind", problem: problem.to_owned() })
    }

    /// Checks the fields against each other.
    ///
    /// # Errors
    /// [`InvalidPool`] with the first mistake.
    pub fn check(&self) -> Result<(), InvalidPool> {
        let invalid = |field, problem: &str| Err(InvalidPool { field, problem: problem.to_owned() });
        let LeaseOverrides { duration, duration_max, total_max, grace, idle } = self.leases;
        for (field, length) in [
            ("lease.duration_minutes", duration),
            ("lease.duration_minutes_max", duration_max),
            ("lease.total_minutes_max", total_max),
            ("lease.idle_minutes", idle),
        ] {
            if length.is_some_and(|length| length.is_zero() || length > LEASE_DURATION_MAX) {
                return invalid(field, "must be from 1 minute to 60 days");
            }
        }
        if grace.is_some_and(|grace| grace > LEASE_DURATION_MAX) {
            return invalid("lease.grace_minutes", "must be at most 60 days");
        }
        let is_over =
            |one: Option<Duration>, max: Option<Duration>| one.zip(max).is_some_and(|(one, max)| one > max);
        if is_over(duration, duration_max) {
            return invalid("lease.duration_minutes", "must not be more than lease.duration_minutes_max");
        }
        if is_over(duration_max, total_max) || is_over(duration, total_max) {
            return invalid("lease.total_minutes_max", "must be at least the longest lease");
        }
        if self.warm.is_some_and(|WarmSizes { min, max }| min > max || max > WARM_MAX) {
            return invalid("warm", "must have min <= max, and max at most 100,000");
        }
        if self.deletions_in_flight_max.is_some_and(|max| max == 0 || max > DELETIONS_IN_FLIGHT_MAX) {
            return invalid("deletions_in_flight_max", "must be from 1 to 10,000");
        }
        if self.sync_period.is_some_and(|period| !(SYNC_PERIOD_MIN..=SYNC_PERIOD_MAX).contains(&period)) {
            return invalid("sync_seconds", "must be from 10 seconds to one day");
        }
        self.images.check().or_else(|problem| invalid("images.allowed", &problem))?;
        if self.is_untrusted && self.runtime == Some(Runtime::Runc) {
            return invalid("runtime", "must be `runsc` or `kata` in an untrusted pool");
        }
        let is_account = self.kind == PoolKind::Account;
        let is_container = self.kind == PoolKind::Container;
        for (field, is_set, belongs) in [
            ("template", self.template.is_some(), !is_account),
            ("warm", self.warm.is_some(), !is_account),
            ("lease.idle_minutes", idle.is_some(), !is_account),
            ("name_prefix", self.name_prefix.is_some(), is_account),
            ("sync_seconds", self.sync_period.is_some(), is_account),
            ("images", !self.images.is_open(), is_container),
            ("runtime", self.runtime.is_some(), is_container),
            ("untrusted", self.is_untrusted, is_container),
        ] {
            if is_set && !belongs {
                return invalid(field, &format!("does not apply to pools of kind {}", self.kind.as_str()));
            }
        }
        if !is_account && self.template.is_none() {
            return invalid("template", "is missing: it says how the sandboxes of this pool are made");
        }
        Ok(())
    }

    /// Whether it has rules for its template.
    #[must_use]
    pub fn restricts_templates(&self) -> bool {
        !self.images.is_open() || self.runtime.is_some() || self.is_untrusted
    }

    /// How the sandboxes of this pool are made from a template: with the runtime of the pool, as untrusted if either says
    /// so, and with the whole name of the image if the pool restricts images.
    ///
    /// # Errors
    /// [`InvalidTemplate`] if the pool does not allow the template. Nothing may be created from it then.
    pub fn restrict(&self, template: &TemplateSpec) -> Result<TemplateSpec, InvalidTemplate> {
        let mut spec = template.clone();
        if !self.restricts_templates() {
            return Ok(spec);
        }
        let invalid = |field, problem: String| Err(InvalidTemplate { field, problem });
        if !self.images.is_open() {
            // The host and the folders of nodes are no names in a registry.
            spec.image = match &spec.image {
                Image::Named(name) if spec.isolation == Isolation::Container => match self.images.admit(name)
                {
                    Ok(image) => Image::named(&image.to_string()),
                    Err(problem) => return invalid("image", problem),
                },
                image => {
                    let problem = format!(
                        "`{}` comes from no registry: the pool restricts images, which needs isolation `container`",
                        image.as_str()
                    );
                    return invalid("image", problem);
                }
            };
        }
        spec.runtime = match (self.runtime, spec.runtime) {
            (Some(own), Some(other)) if own != other => {
                let (own, other): (&str, &str) = (own.into(), other.into());
                return invalid("runtime", format!("`{other}` is not that of the pool, `{own}`"));
            }
            (own, other) => own.or(other),
        };
        spec.is_untrusted |= self.is_untrusted;
        spec.check_isolation()?;
        Ok(spec)
    }
}

// === impl Pools ===

impl Pools {
    /// These pools; `leases` applies where a pool sets nothing.
    #[must_use]
    pub fn new(mut specs: Vec<PoolSpec>, leases: LeasePolicy) -> Self {
        specs.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Self { specs, leases, templates: BTreeMap::new(), refusals: BTreeMap::new() }
    }

    /// The same pools, with the current versions of their templates.
    #[must_use]
    pub fn with_templates(self, templates: BTreeMap<PoolName, TemplateVersion>) -> Self {
        Self { templates, ..self }
    }

    /// The same pools, with the reasons of those whose templates they do not allow.
    #[must_use]
    pub fn with_refusals(self, refusals: BTreeMap<PoolName, String>) -> Self {
        Self { refusals, ..self }
    }

    /// Why a pool creates nothing from the current version of its template; none if it may.
    #[must_use]
    pub fn refusal_of(&self, pool: &PoolName) -> Option<&str> {
        self.refusals.get(pool).map(String::as_str)
    }

    /// What a pool creates now, unless [`Self::refusal_of`] says why not; none if it creates nothing, or its template is not
    /// known yet.
    #[must_use]
    pub fn template_of(&self, pool: &PoolName) -> Option<&TemplateVersion> {
        self.templates.get(pool).filter(|_| self.is_created(pool))
    }

    /// Reads `pool=prefix,…,pool`: pools of the first provider. The one without a prefix takes every name that no other
    /// prefix begins.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Vec<PoolSpec>, String> {
        let invalid = |problem: String| {
            format!(
                "must be `pool` or `pool=name-prefix`, separated by commas, each pool once, the last one without a \
                 prefix: {problem}"
            )
        };
        let mut specs: Vec<PoolSpec> = Vec::new();
        for rule in text.split(',') {
            let (pool, prefix) = rule.split_once('=').unwrap_or((rule, ""));
            let pool = PoolName::parse(pool).map_err(|error| invalid(format!("a pool name {error}")))?;
            if specs.iter().any(|known| known.name == pool) {
                return Err(invalid(format!("{pool} is listed twice")));
            }
            if specs.iter().any(|known| known.name_prefix.is_none()) {
                return Err(invalid(format!(
                    "nothing can reach {pool}, because a pool before it takes every name"
                )));
            }
            let prefix = prefix.trim();
            let before = specs.iter().find_map(|known| {
                let shorter = known.name_prefix.as_ref()?.as_str();
                prefix.starts_with(shorter).then_some((&known.name, shorter))
            });
            if let Some((before, shorter)) = before {
                return Err(invalid(format!(
                    "nothing can reach {pool}, because its prefix `{prefix}` begins with `{shorter}` of {before}, \
                     which comes before it; put {pool} before {before}"
                )));
            }
            let prefix = (!prefix.is_empty()).then(|| NamePrefix::parse(prefix));
            let prefix = prefix.transpose().map_err(|error| invalid(format!("a prefix {error}")))?;
            specs.push(PoolSpec::of_accounts(pool, ProviderName::csp(), prefix));
        }
        if specs.last().is_none_or(|spec| spec.name_prefix.is_some()) {
            return Err(invalid("the last one has a prefix".to_owned()));
        }
        Ok(specs)
    }

    /// The pool of a name that `provider` lists: the one with the longest prefix of it.
    #[must_use]
    pub fn pool_of(&self, provider: &ProviderName, name: &SandboxName) -> Option<&PoolSpec> {
        let length = |spec: &PoolSpec| spec.name_prefix.as_ref().map_or(0, |prefix| prefix.as_str().len());
        let takes = |spec: &&PoolSpec| {
            let prefix = spec.name_prefix.as_ref();
            prefix.is_none_or(|prefix| name.as_str().starts_with(prefix.as_str()))
        };
        let listed = self.specs.iter().filter(|spec| spec.kind == PoolKind::Account);
        listed.filter(|spec| spec.provider == *provider).filter(takes).max_by_key(|spec| length(spec))
    }

    /// The pool of a claim that names none: the one of the first provider that takes every name, else the only one that
    /// takes every name.
    #[must_use]
    pub fn default_pool(&self) -> Option<&PoolName> {
        let mut open =
            self.specs.iter().filter(|spec| spec.kind == PoolKind::Account && spec.name_prefix.is_none());
        let of_csp = self.specs.iter().find(|spec| {
            spec.kind == PoolKind::Account && spec.name_prefix.is_none() && spec.provider.is_csp()
        });
        of_csp.or_else(|| open.next().filter(|_| open.next().is_none())).map(|spec| &spec.name)
    }

    /// The pool with that name.
    #[must_use]
    pub fn get(&self, pool: &PoolName) -> Option<&PoolSpec> {
        self.specs.binary_search_by(|spec| spec.name.cmp(pool)).ok().and_then(|at| self.specs.get(at))
    }

    /// Whether there is such a pool.
    #[must_use]
    pub fn contains(&self, pool: &PoolName) -> bool {
        self.get(pool).is_some()
    }

    /// Every pool, by name.
    #[must_use]
    pub fn specs(&self) -> &[PoolSpec] {
        &self.specs
    }

    /// The names of all pools.
    pub fn names(&self) -> impl Iterator<Item = &PoolName> {
        self.specs.iter().map(|spec| &spec.name)
    }

    /// The lease policy of a pool. A pool without a spec has that of the settings.
    #[must_use]
    pub fn leases_of(&self, pool: &PoolName) -> LeasePolicy {
        self.get(pool).map_or(self.leases, |spec| spec.leases.over(&self.leases))
    }

    /// The kind of a pool; none without a spec: an older build left it, it was removed, or it is not known here yet.
    #[must_use]
    pub fn kind_of(&self, pool: &PoolName) -> Option<PoolKind> {
        self.get(pool).map(|spec| spec.kind)
    }

    /// Whether the sandboxes of a pool are created by the fleet.
    #[must_use]
    pub fn is_created(&self, pool: &PoolName) -> bool {
        self.kind_of(pool).is_some_and(|kind| kind != PoolKind::Account)
    }

    /// The provider of a pool. A pool without a spec is one that an older build left.
    #[must_use]
    pub fn provider_of(&self, pool: &PoolName) -> ProviderName {
        self.get(pool).map_or_else(ProviderName::csp, |spec| spec.provider.clone())
    }

    /// How often the listings of providers are read whose pools say so.
    #[must_use]
    pub fn sync_periods(&self) -> BTreeMap<&ProviderName, Duration> {
        let mut periods = BTreeMap::new();
        for spec in &self.specs {
            let Some(period) = spec.sync_period else { continue };
            let shortest = periods.entry(&spec.provider).or_insert(period);
            *shortest = period.min(*shortest);
        }
        periods
    }

    /// The same settings with other pools.
    #[must_use]
    pub fn with(&self, specs: Vec<PoolSpec>) -> Self {
        Self::new(specs, self.leases)
            .with_templates(self.templates.clone())
            .with_refusals(self.refusals.clone())
    }

    /// Why `spec` cannot be beside the others: another pool selects exactly the same.
    ///
    /// # Errors
    /// [`InvalidPool`].
    pub fn check_beside(&self, spec: &PoolSpec) -> Result<(), InvalidPool> {
        let same = self.specs.iter().find(|other| {
            other.name != spec.name
                && (other.kind, spec.kind) == (PoolKind::Account, PoolKind::Account)
                && other.provider == spec.provider
                && other.name_prefix == spec.name_prefix
        });
        match same {
            Some(other) => Err(InvalidPool {
                field: "name_prefix",
                problem: format!("is that of pool {} of the same provider", other.name),
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
