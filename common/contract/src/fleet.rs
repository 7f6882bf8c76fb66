//! Who works: what discovery shows of the live workers of a fleet.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use strum::IntoEnumIterator as _;
use utoipa::ToSchema;

/// A part of the fleet that may run as a process of its own.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    strum::IntoStaticStr,
    strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum WorkerRole {
    /// The HTTP face.
    Ingress,
    /// Answers requests.
    Allocator,
    /// Stores templates.
    Registry,
    /// Works through deletions.
    Reaper,
    /// Creates and removes containers on its node.
    Runner,
    /// Runs on ticks.
    Reconciler,
    /// Sends ticks.
    Scheduler,
}

/// What a worker did of one kind since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkView {
    /// How often.
    pub requests: u64,
    /// Of these, with a failure.
    pub errors: u64,
    /// Mean time of one, in microseconds.
    pub mean_us: u64,
    /// The last failure, as `status:CODE`; none if there was none.
    pub last_error: Option<String>,
}

/// A live worker, as it shows itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    /// What it is.
    pub role: WorkerRole,
    /// Its own id; a fresh one at every start.
    pub id: String,
    /// Version of the broker.
    pub version: String,
    /// When it started, in Unix seconds.
    pub started_at: u64,
    /// What it has under way now; none if it never has anything under way.
    pub in_flight: Option<u64>,
    /// What it did, by kind: the verbs of a role that answers requests, `work` of any other.
    pub work: BTreeMap<String, WorkView>,
    /// Its other numbers. Those of a role that answers requests are its own; of any other, those of its process.
    pub numbers: BTreeMap<String, u64>,
    /// Its settings that are numbers or switches; compared, and not shown for each worker.
    #[serde(skip)]
    pub settings: BTreeMap<String, String>,
}

/// The reply to `GET /v1/admin/fleet`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetReply {
    /// How many there are of each role; 0 of a role that no process has.
    pub roles: BTreeMap<WorkerRole, u64>,
    /// Every worker that answered, by role and id.
    pub workers: Vec<WorkerView>,
    /// Settings that two of these workers have differently, with all values. That is so for a while when a setting is
    /// changed, and a mistake if it stays.
    #[serde(default)]
    pub drift: BTreeMap<String, BTreeSet<String>>,
}

// === impl FleetReply ===

impl FleetReply {
    /// The roles that each fleet needs and no process has.
    pub fn missing_roles(&self) -> impl Iterator<Item = WorkerRole> + '_ {
        self.roles.iter().filter(|(role, count)| **count == 0 && role.is_needed()).map(|(role, _)| *role)
    }
}

// === impl WorkerRole ===

impl WorkerRole {
    /// The role's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What it does, in a few words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Ingress => "Passes HTTP requests on to workers",
            Self::Allocator => "Hands out sandboxes and takes them back",
            Self::Registry => "Stores templates",
            Self::Reaper => "Has sandboxes deleted at the provider",
            Self::Runner => "Creates, runs and removes containers on its node",
            Self::Reconciler => "Runs on ticks: syncs, ends leases, sweeps, counts",
            Self::Scheduler => "Sends ticks",
        }
    }

    /// The name of its service in discovery.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            Self::Ingress => "sandbox-ingress",
            Self::Allocator => super::subjects::ALLOCATOR_SERVICE,
            Self::Registry => super::subjects::REGISTRY_SERVICE,
            Self::Reaper => "sandbox-reaper",
            Self::Runner => "sandbox-runner",
            Self::Reconciler => "sandbox-reconciler",
            Self::Scheduler => "sandbox-scheduler",
        }
    }

    /// Whether each fleet needs it. Only pools of containers need runners.
    #[must_use]
    pub fn is_needed(self) -> bool {
        self != Self::Runner
    }

    /// The role of a service.
    #[must_use]
    pub fn of_service(name: &str) -> Option<Self> {
        Self::iter().find(|role| role.service() == name)
    }
}

// === impl FleetReply ===

impl FleetReply {
    /// These workers, counted and in order.
    #[must_use]
    pub fn of(mut workers: Vec<WorkerView>) -> Self {
        workers.sort_by(|one, other| (one.role, &one.id).cmp(&(other.role, &other.id)));
        let mut roles: BTreeMap<_, _> = WorkerRole::iter().map(|role| (role, 0)).collect();
        let mut drift: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for worker in &workers {
            *roles.entry(worker.role).or_default() += 1;
            for (name, value) in &worker.settings {
                drift.entry(name.clone()).or_default().insert(value.clone());
            }
        }
        drift.retain(|_, values| values.len() > 1);
        Self { roles, workers, drift }
    }
}
