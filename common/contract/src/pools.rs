//! Pools as operators see and change them. The same settings are in `POOLS_FILE`, the HTTP API and on NATS.

use super::{PoolStats, PoolStatusName};
use domain::template::Runtime;
use domain::{
    AllowedImages, ImagePolicy, InvalidPool, LeaseOverrides, NamePrefix, PoolKind, PoolName, PoolSpec,
    PoolState, ProviderName, TemplateId, WarmSizes,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

const MINUTE_SECONDS: u64 = 60;

/// What a pool is. A field that is left out has the value of the fleet's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolSettings {
    /// `account` (the provider lists its sandboxes; the default), `container` or `stack`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The provider of its sandboxes; `csp` if it is left out. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The template of a created kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Selects the listed names with this prefix; the longest one decides. Without it, all that no other pool selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_prefix: Option<String>,
    /// The rules of its leases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseSettings>,
    /// Free sandboxes that a pool of a created kind keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<WarmSettings>,
    /// Most concurrent deletions of this pool in the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletions_in_flight_max: Option<u32>,
    /// How often the listing of its provider is read, in seconds; of the pools of one provider, the shortest period
    /// counts. `SYNC_INTERVAL_SECONDS` if none of them says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_seconds: Option<u32>,
    /// Which images its template may name; for containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImageSettings>,
    /// `runc`, `runsc` or `kata`: what runs its containers. A template that names another one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Whether its containers run code that may attack the kernel: needs isolation `container` and runtime `runsc` or
    /// `kata`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrusted: Option<bool>,
}

/// Which images the template of a pool may name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSettings {
    /// Registries, paths in them, or whole names with a digest; one of them must allow the image. At most 32 entries and
    /// 2,048 bytes in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Vec<String>>,
    /// Whether the image must have a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_required: Option<bool>,
}

/// The rules of a pool's leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseSettings {
    /// Length of a lease whose caller asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_minutes: Option<u32>,
    /// Longest lease that a caller may ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_minutes_max: Option<u32>,
    /// Longest total time of a lease, extensions included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_minutes_max: Option<u32>,
    /// Time after the end of a lease before its sandbox is taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_minutes: Option<u32>,
    /// Time without activity after which a lease ends; for created kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_minutes: Option<u32>,
}

/// Free sandboxes of a created kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmSettings {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
}

/// Which pool: `pool`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolRequest {
    /// Its name.
    pub pool: String,
}

/// A change of a pool that takes no settings: `drain-pool`, `remove-pool`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolOrder {
    /// Its name.
    pub pool: String,
    /// The version that it must have; any if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Who asks, for the log; `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Makes a pool, or replaces its settings and puts it into use: `put-pool`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutPoolRequest {
    /// Its name.
    pub pool: String,
    /// All its settings.
    pub settings: PoolSettings,
    /// The version that it must have, 0 for a new pool; any if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Who asks, for the log; `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Whether a pool is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum PoolStatus {
    /// It grants leases.
    Active,
    /// No new leases and no new sandboxes.
    Draining,
    /// It has sandboxes of an older build or of a removed pool, and is maintained like one that is draining.
    Unknown,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    /// Its name.
    pub pool: String,
    /// Whether it is in use.
    pub state: PoolStatusName,
    /// Number of changes; 0 if it is unknown.
    pub version: u64,
    /// Its settings.
    pub settings: PoolSettings,
    /// The policy that results from its settings and those of the fleet.
    pub lease: LeaseSettings,
    /// Whether claims that name no pool get its sandboxes.
    pub is_default: bool,
    /// Its sandboxes by state, as the last census counted them; null before the first.
    pub counts: Option<PoolStats>,
}

/// Every pool: the reply to `pools`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolsReply {
    /// The pools, by name.
    pub pools: Vec<PoolView>,
    /// When the counts were taken, Unix seconds; null before the first census.
    pub counted_at: Option<u64>,
}

// === impl PoolSettings ===

impl PoolSettings {
    /// The active pool with these settings, at version 1.
    ///
    /// # Errors
    /// [`InvalidPool`] with the first mistake.
    pub fn spec(&self, pool: &PoolName) -> Result<PoolSpec, InvalidPool> {
        let Self {
            kind,
            provider,
            template,
            name_prefix,
            lease,
            warm,
            deletions_in_flight_max,
            sync_seconds,
            images,
            runtime,
            untrusted,
        } = self;
        let invalid = |field, problem: String| InvalidPool { field, problem };
        let kind = match kind {
            Some(kind) => PoolKind::parse(kind)
                .ok_or_else(|| invalid("kind", "must be `account`, `container` or `stack`".to_owned()))?,
            None => PoolKind::default(),
        };
        let provider = match provider {
            Some(provider) => {
                ProviderName::parse(provider).map_err(|problem| invalid("provider", problem.to_string()))?
            }
            None if kind == PoolKind::Container => ProviderName::nodes(),
            None => ProviderName::csp(),
        };
        let template = template.as_deref().map(TemplateId::parse).transpose();
        let template = template.map_err(|problem| invalid("template", problem.to_string()))?;
        let name_prefix = name_prefix.as_deref().map(NamePrefix::parse).transpose();
        let spec = PoolSpec {
            kind,
            template: template.map(|template| template.to_string()),
            leases: lease.map(LeaseSettings::overrides).unwrap_or_default(),
            warm: warm.map(|WarmSettings { min, max }| WarmSizes { min, max }),
            deletions_in_flight_max: *deletions_in_flight_max,
            sync_period: sync_seconds.map(|seconds| Duration::from_secs(seconds.into())),
            images: images.as_ref().map(ImageSettings::policy).transpose()?.unwrap_or_default(),
            runtime: match runtime {
                Some(name) => Some(name.parse::<Runtime>().map_err(|_| {
                    invalid("runtime", format!("must be one of {}", crate::names::<Runtime>()))
                })?),
                None => None,
            },
            is_untrusted: untrusted.unwrap_or_default(),
            ..PoolSpec::of_accounts(
                pool.clone(),
                provider,
                name_prefix.map_err(|problem| invalid("name_prefix", problem.to_string()))?,
            )
        };
        spec.check()?;
        Ok(spec)
    }

    /// The settings of a pool.
    #[must_use]
    pub fn of(spec: &PoolSpec) -> Self {
        let lease = LeaseSettings::of(&spec.leases);
        Self {
            kind: Some(spec.kind.as_str().to_owned()),
            provider: Some(spec.provider.to_string()),
            template: spec.template.clone(),
            name_prefix: spec.name_prefix.as_ref().map(ToString::to_string),
            lease: (lease != LeaseSettings::default()).then_some(lease),
            warm: spec.warm.map(|WarmSizes { min, max }| WarmSettings { min, max }),
            deletions_in_flight_max: spec.deletions_in_flight_max,
            sync_seconds: spec.sync_period.map(|period| u32::try_from(period.as_secs()).unwrap_or(u32::MAX)),
            images: (!spec.images.is_open()).then(|| ImageSettings::of(&spec.images)),
            runtime: spec.runtime.map(|runtime| <&str>::from(runtime).to_owned()),
            untrusted: spec.is_untrusted.then_some(true),
        }
    }
}

// === impl ImageSettings ===

impl ImageSettings {
    fn policy(&self) -> Result<ImagePolicy, InvalidPool> {
        let Self { allowed, digest_required } = self;
        let invalid = |problem| InvalidPool { field: "images.allowed", problem };
        // Read as a policy, no entries would allow everything.
        if allowed.as_ref().is_some_and(Vec::is_empty) {
            return Err(invalid("must have an entry, or be left out to allow every image".to_owned()));
        }
        let entries = allowed.iter().flatten().map(|entry| {
            AllowedImages::parse(entry).map_err(|problem| invalid(format!("entry `{entry}` {problem}")))
        });
        let allowed = entries.collect::<Result<_, _>>()?;
        Ok(ImagePolicy { allowed, is_digest_required: digest_required.unwrap_or_default() })
    }

    fn of(policy: &ImagePolicy) -> Self {
        let ImagePolicy { allowed, is_digest_required } = policy;
        let entries = allowed.iter().map(ToString::to_string).collect();
        Self {
            allowed: Some(entries).filter(|entries: &Vec<_>| !entries.is_empty()),
            digest_required: is_digest_required.then_some(true),
        }
    }
}

// === impl LeaseSettings ===

impl LeaseSettings {
    fn overrides(self) -> LeaseOverrides {
        let span = |minutes: Option<u32>| {
            minutes.map(|minutes| Duration::from_secs(u64::from(minutes) * MINUTE_SECONDS))
        };
        LeaseOverrides {
            duration: span(self.duration_minutes),
            duration_max: span(self.duration_minutes_max),
            total_max: span(self.total_minutes_max),
            grace: span(self.grace_minutes),
            idle: span(self.idle_minutes),
        }
    }

    /// The settings with these values, in whole minutes.
    #[must_use]
    pub fn of(leases: &LeaseOverrides) -> Self {
        let minutes = |span: Option<Duration>| {
            span.map(|span| u32::try_from(span.as_secs() / MINUTE_SECONDS).unwrap_or(u32::MAX))
        };
        Self {
            duration_minutes: minutes(leases.duration),
            duration_minutes_max: minutes(leases.duration_max),
            total_minutes_max: minutes(leases.total_max),
            grace_minutes: minutes(leases.grace),
            idle_minutes: minutes(leases.idle),
        }
    }
}

// === impl PoolStatus ===

impl From<Option<PoolState>> for PoolStatus {
    /// The state of a pool that may have a spec.
    fn from(state: Option<PoolState>) -> Self {
        match state {
            Some(PoolState::Active) => Self::Active,
            Some(PoolState::Draining) => Self::Draining,
            None => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_round_trip_through_the_spec() {
        let text = r#"{"kind":"account","provider":"csp-eu","name_prefix":"lab-","lease":{"duration_minutes":90,
            "grace_minutes":0},"deletions_in_flight_max":3,"sync_seconds":60}"#;
        let settings: PoolSettings = serde_json::from_str(text).unwrap();
        let spec = settings.spec(&PoolName::parse("labs").unwrap()).unwrap();
        assert_eq!(spec.leases.duration, Some(Duration::from_secs(5_400)));
        assert_eq!(spec.leases.grace, Some(Duration::ZERO));
        assert_eq!(PoolSettings::of(&spec), settings);
    }

    #[test]
    fn rules_for_templates_round_trip_through_the_spec() {
        let text = r#"{"kind":"container","provider":"nodes","template":"app","images":{"allowed":["docker.io/library",
            "localhost:5000"],"digest_required":true},"runtime":"runsc","untrusted":true}"#;
        let settings: PoolSettings = serde_json::from_str(text).unwrap();
        let spec = settings.spec(&PoolName::parse("apps").unwrap()).unwrap();
        assert_eq!((spec.images.allowed.len(), spec.images.is_digest_required), (2, true));
        assert_eq!((spec.runtime, spec.is_untrusted), (Some(Runtime::Runsc), true));
        assert_eq!(PoolSettings::of(&spec), settings);
        let text = r#"{"kind":"container","provider":"nodes","template":"app","images":{"digest_required":false},
            "untrusted":false}"#;
        let settings: PoolSettings = serde_json::from_str(text).unwrap();
        let spec = settings.spec(&PoolName::parse("apps").unwrap()).unwrap();
        assert!(!spec.restricts_templates());
        assert_eq!(serde_json::to_string(&PoolSettings::of(&spec)).unwrap().find("images"), None);
    }

    #[test]
    fn mistakes_name_their_field() {
        let field = |text: &str| {
            let settings: PoolSettings = serde_json::from_str(text).unwrap();
            settings.spec(&PoolName::parse("labs").unwrap()).map_err(|mistake| mistake.field)
        };
        assert_eq!(field(r#"{"kind":"vm"}"#), Err("kind"));
        assert_eq!(field(r#"{"provider":"a b"}"#), Err("provider"));
        assert_eq!(field(r#"{"name_prefix":"a\u200b"}"#), Err("name_prefix"));
        assert_eq!(field(r#"{"template":""}"#), Err("template"));
        assert_eq!(field(r#"{"sync_seconds":1}"#), Err("sync_seconds"));
        assert_eq!(field(r#"{"runtime":"crun"}"#), Err("runtime"));
        assert_eq!(field(r#"{"runtime":"runsc"}"#), Err("runtime"), "not of accounts");
        assert_eq!(field(r#"{"images":{"allowed":[]}}"#), Err("images.allowed"));
        assert_eq!(field(r#"{"images":{"allowed":["nginx"]}}"#), Err("images.allowed"));
        assert!(serde_json::from_str::<PoolSettings>(r#"{"images":{"deny":[]}}"#).is_err());
        assert_eq!(field(r#"{"lease":{"duration_minutes":0}}"#), Err("lease.duration_minutes"));
        assert!(serde_json::from_str::<PoolSettings>(r#"{"prefix":"lab-"}"#).is_err(), "a misspelled field");
    }
}
