//! Every subject, stream, consumer and bucket name of the fleet. `nats/README.md` lists the same ones, by test.

use super::fleet::WorkerRole;
use super::ticks::TickKind;
use domain::{Cause, PoolName, SandboxId};
use strum::IntoEnumIterator as _;

mod nodes;
mod provisions;

/// What a fleet's subjects begin with unless another prefix is configured.
pub const DEFAULT_PREFIX: &str = "sandbox";
/// Version of the request contract, second token of its subjects.
pub const REQUEST_VERSION: &str = "v1";
/// Name of the NATS service (micro) of the allocators, and of their queue group.
pub const ALLOCATOR_SERVICE: &str = "sandbox-allocator";
/// The same of the registries.
pub const REGISTRY_SERVICE: &str = "sandbox-registry";
/// Stands for the pool where unreadable messages are parked.
pub const UNREADABLE: &str = "_unreadable";
/// What stands for any one token of a subject.
const ANY_TOKEN: &str = "*";
/// What the durable consumer of a pool's deletion work begins with.
const REAPER_CONSUMER_PREFIX: &str = "reaper-";
/// Durable consumer of the deletion work of all pools, as former builds made it.
pub const OLD_REAPER_CONSUMER: &str = "reaper";

/// A request that a worker answers.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumIter, strum::EnumCount,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Verb {
    /// Claim a sandbox.
    Allocate,
    /// Give one back.
    Release,
    /// Look at one's own.
    Get,
    /// Count the pools.
    Stats,
    /// Whether the worker can work.
    Health,
    /// Show the deletion queue.
    Deletions,
    /// Show what was parked.
    Parked,
    /// Show the end of one sandbox.
    Deletion,
    /// Try a parked deletion again.
    Replay,
    /// Try all of them again, a page at a time.
    ReplayAll,
    /// Remove an unreadable message.
    Remove,
    /// Try a parked creation again.
    ReplayProvision,
    /// Try all of them again, a page at a time.
    ReplayProvisions,
    /// Give a lease more time.
    Extend,
    /// Take a sandbox out of use.
    Quarantine,
    /// Put it back into use.
    Unquarantine,
    /// End the lease or the quarantine of a sandbox and have it deleted.
    ForceRelease,
    /// List sandboxes, page by page.
    Sandboxes,
    /// Show everything about one.
    Sandbox,
    /// Remove records that leave nothing behind, a page at a time.
    BulkDelete,
    /// Show all pools.
    Pools,
    /// Show one of them.
    Pool,
    /// Create a pool, or replace its settings.
    PutPool,
    /// Let a pool grant no more leases.
    DrainPool,
    /// Remove a pool that is drained.
    RemovePool,
    /// List templates, page by page.
    Templates,
    /// Show one of them.
    Template,
    /// Create a template, or a further version of it.
    PutTemplate,
    /// Remove a template that no pool names.
    RemoveTemplate,
    /// List the versions of a template, page by page.
    TemplateVersions,
    /// Run a command in one's own container.
    Execute,
    /// Claim a sandbox, and show the claim.
    Claim,
    /// List one's own claims, page by page.
    Claims,
    /// Show one of them.
    ShowClaim,
    /// Start, stop, restart, pause or resume one's own container.
    Runtime,
    /// List nodes, page by page.
    Nodes,
    /// Show one of them.
    Node,
    /// Let a node take no more work, and empty it.
    DrainNode,
    /// Put a node back into use.
    ActivateNode,
    /// Register the runner of a node.
    RegisterNode,
    /// Tell a node which pools get their sandboxes from nodes.
    NodePools,
    /// Tell a node whether a sandbox is still to be created.
    ProvisionWanted,
    /// Record that a container is ready.
    Provisioned,
    /// Record a failed attempt to create a sandbox.
    ProvisionFailed,
    /// Tell a node what should become of its containers.
    Held,
    /// Pause all deletions.
    Pause,
    /// Have them go on.
    Resume,
}

/// The names of one fleet. Several fleets can share a NATS server by different prefixes; tests do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    prefix: String,
}

/// Why a text cannot be a subject prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 32 lower-case letters, digits or '-', beginning with a letter")]
pub struct InvalidPrefix;

// === impl Verb ===

impl Verb {
    /// Last token of the verb's subject.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The role that answers it. Its service is the queue group.
    #[must_use]
    pub const fn role(self) -> WorkerRole {
        match self {
            Self::Templates
            | Self::Template
            | Self::PutTemplate
            | Self::RemoveTemplate
            | Self::TemplateVersions => WorkerRole::Registry,
            Self::Allocate
            | Self::Release
            | Self::Get
            | Self::Stats
            | Self::Health
            | Self::Deletions
            | Self::Parked
            | Self::Deletion
            | Self::Replay
            | Self::ReplayAll
            | Self::Remove
            | Self::ReplayProvision
            | Self::ReplayProvisions
            | Self::Extend
            | Self::Quarantine
            | Self::Unquarantine
            | Self::ForceRelease
            | Self::Sandboxes
            | Self::Sandbox
            | Self::BulkDelete
            | Self::Pools
            | Self::Pool
            | Self::PutPool
            | Self::DrainPool
            | Self::RemovePool
            | Self::Execute
            | Self::Claim
            | Self::Claims
            | Self::ShowClaim
            | Self::Runtime
            | Self::Nodes
            | Self::Node
            | Self::DrainNode
            | Self::ActivateNode
            | Self::RegisterNode
            | Self::NodePools
            | Self::ProvisionWanted
            | Self::Provisioned
            | Self::ProvisionFailed
            | Self::Held
            | Self::Pause
            | Self::Resume => WorkerRole::Allocator,
        }
    }

    /// The verbs that a role answers.
    pub fn of(role: WorkerRole) -> impl Iterator<Item = Self> {
        Self::iter().filter(move |verb| verb.role() == role)
    }

    /// Whether the request is answered on a table that was put back to an earlier time: it changes nothing, or takes
    /// something out of use, or turns the operators' switch. Everything else may be wrong there.
    #[must_use]
    pub const fn is_for_restored_tables(self) -> bool {
        match self {
            Self::Get
            | Self::Stats
            | Self::Health
            | Self::Deletions
            | Self::Parked
            | Self::Deletion
            | Self::Sandboxes
            | Self::Sandbox
            | Self::Quarantine
            | Self::Pools
            | Self::Pool
            | Self::DrainPool
            | Self::Templates
            | Self::Template
            | Self::TemplateVersions
            | Self::NodePools
            | Self::Claims
            | Self::ShowClaim
            | Self::Nodes
            | Self::Node
            | Self::DrainNode
            | Self::Pause
            | Self::Resume => true,
            Self::Allocate
            | Self::Release
            | Self::Extend
            | Self::Unquarantine
            | Self::ForceRelease
            | Self::Replay
            | Self::ReplayAll
            | Self::Remove
            | Self::ReplayProvision
            | Self::ReplayProvisions
            | Self::BulkDelete
            | Self::PutPool
            | Self::RemovePool
            | Self::PutTemplate
            | Self::RemoveTemplate
            | Self::Execute
            | Self::Claim
            | Self::Runtime
            | Self::ActivateNode
            | Self::RegisterNode
            | Self::ProvisionWanted
            | Self::Provisioned
            | Self::ProvisionFailed
            | Self::Held => false,
        }
    }
}

// === impl Subjects ===

impl Default for Subjects {
    fn default() -> Self {
        Self { prefix: DEFAULT_PREFIX.to_owned() }
    }
}

impl Subjects {
    /// The names under `prefix`.
    ///
    /// # Errors
    /// [`InvalidPrefix`] when it is not one plain token.
    pub fn with_prefix(prefix: &str) -> Result<Self, InvalidPrefix> {
        let plain =
            prefix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let begins_well = prefix.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if !plain || !begins_well || prefix.len() > 32 {
            return Err(InvalidPrefix);
        }
        Ok(Self { prefix: prefix.to_owned() })
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Request subject of a verb.
    #[must_use]
    pub fn request(&self, verb: Verb) -> String {
        format!("{}.{REQUEST_VERSION}.{}", self.prefix, verb.as_str())
    }

    /// Where the deletion of a sandbox waits for a reaper.
    #[must_use]
    pub fn deletion_work(&self, pool: &PoolName, id: &SandboxId) -> String {
        format!("{}.deletions.work.{pool}.{id}", self.prefix)
    }

    /// Where the deletion of a sandbox waits for its next attempt.
    #[must_use]
    pub fn deletion_retry(&self, pool: &PoolName, id: &SandboxId) -> String {
        format!("{}.deletions.retry.{pool}.{id}", self.prefix)
    }

    /// Both of the above: at most one message of a sandbox may be in either.
    #[must_use]
    pub fn deletion_any(&self, pool: &PoolName, id: &SandboxId) -> String {
        format!("{}.deletions.*.{pool}.{id}", self.prefix)
    }

    /// The waiting deletion work of one pool.
    #[must_use]
    pub fn deletion_work_of_pool(&self, pool: &PoolName) -> String {
        format!("{}.deletions.work.{pool}.*", self.prefix)
    }

    /// The pool of a subject of deletion work; none if it is no such subject.
    #[must_use]
    pub fn pool_of_work(&self, subject: &str) -> Option<PoolName> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix(".deletions.work.")?;
        pool(rest.split_once('.')?.0)
    }

    /// Durable consumer of the deletion work of one pool.
    #[must_use]
    pub fn reaper_consumer(&self, pool: &PoolName) -> String {
        format!("{REAPER_CONSUMER_PREFIX}{pool}")
    }

    /// The pool of such a consumer; none if it is another one.
    #[must_use]
    pub fn pool_of_consumer(&self, name: &str) -> Option<PoolName> {
        pool(name.strip_prefix(REAPER_CONSUMER_PREFIX)?)
    }

    /// All waiting deletion work.
    #[must_use]
    pub fn deletion_work_all(&self) -> String {
        format!("{}.deletions.work.*.*", self.prefix)
    }

    /// Both of the above, of all sandboxes.
    #[must_use]
    pub fn deletion_every(&self) -> String {
        format!("{}.deletions.*.*.*", self.prefix)
    }

    /// What the subject of every scheduled retry begins with.
    #[must_use]
    pub fn deletion_retry_prefix(&self) -> String {
        format!("{}.deletions.retry.", self.prefix)
    }

    /// All scheduled retries.
    #[must_use]
    pub fn deletion_retry_all(&self) -> String {
        format!("{}.deletions.retry.*.*", self.prefix)
    }

    /// Where a deletion that used up its attempts is parked.
    #[must_use]
    pub fn parked(&self, pool: &PoolName, id: &SandboxId) -> String {
        format!("{}.parked.{pool}.{id}", self.prefix)
    }

    /// Where an unreadable deletion message is parked.
    #[must_use]
    pub fn parked_unreadable(&self, sequence: u64) -> String {
        format!("{}.parked.{UNREADABLE}.{sequence}", self.prefix)
    }

    /// What is parked of one pool.
    #[must_use]
    pub fn parked_of_pool(&self, pool: &PoolName) -> String {
        format!("{}.parked.{pool}.*", self.prefix)
    }

    /// Where an event of a sandbox is published; `kind` is the last part of its type.
    #[must_use]
    pub fn event(&self, kind: Cause, id: &SandboxId) -> String {
        format!("{}.events.{}.{id}", self.prefix, kind.as_str())
    }

    /// All events of a sandbox.
    #[must_use]
    pub fn events_of(&self, id: &SandboxId) -> String {
        format!("{}.events.*.{id}", self.prefix)
    }

    /// Events of one kind, of one sandbox, of both, or all.
    #[must_use]
    pub fn event_wanted(&self, kind: Option<Cause>, id: Option<&SandboxId>) -> String {
        let kind = kind.map_or(ANY_TOKEN, Cause::as_str);
        let id = id.map_or(ANY_TOKEN, SandboxId::as_str);
        format!("{}.events.{kind}.{id}", self.prefix)
    }

    /// All events.
    #[must_use]
    pub fn event_all(&self) -> String {
        format!("{}.events.*.*", self.prefix)
    }

    /// All parked deletions.
    #[must_use]
    pub fn parked_all(&self) -> String {
        format!("{}.parked.*.*", self.prefix)
    }

    /// All requests.
    #[must_use]
    pub fn request_all(&self) -> String {
        format!("{}.{REQUEST_VERSION}.*", self.prefix)
    }

    /// Where the ticks of a kind are published.
    #[must_use]
    pub fn tick(&self, kind: TickKind) -> String {
        format!("{}.ticks.{}", self.prefix, kind.as_str())
    }

    /// All ticks.
    #[must_use]
    pub fn tick_all(&self) -> String {
        format!("{}.ticks.*", self.prefix)
    }

    /// Where the report of a run goes to the callers that wait for it.
    #[must_use]
    pub fn report(&self, kind: TickKind) -> String {
        format!("{}.reports.{}", self.prefix, kind.as_str())
    }

    /// Stream of deletion work and retries.
    #[must_use]
    pub fn deletions_stream(&self) -> String {
        self.asset("DELETIONS")
    }

    /// Stream of parked deletions.
    #[must_use]
    pub fn parked_stream(&self) -> String {
        self.asset("PARKED")
    }

    /// Stream of events.
    #[must_use]
    pub fn events_stream(&self) -> String {
        self.asset("EVENTS")
    }

    /// Stream of ticks.
    #[must_use]
    pub fn ticks_stream(&self) -> String {
        self.asset("TICKS")
    }

    /// Durable consumer of one kind of tick.
    #[must_use]
    pub fn tick_consumer(&self, kind: TickKind) -> String {
        format!("reconciler-{}", kind.as_str())
    }

    /// Key-value bucket of the fleet's shared switches and paces.
    #[must_use]
    pub fn bucket(&self) -> String {
        if self.prefix == DEFAULT_PREFIX { "broker".to_owned() } else { format!("broker-{}", self.prefix) }
    }

    // The default fleet has the plain names of the manual; any other carries its prefix, because streams
    // of one account share one name space.
    fn asset(&self, name: &str) -> String {
        if self.prefix == DEFAULT_PREFIX { name.to_owned() } else { format!("{name}-{}", self.prefix) }
    }
}

/// A pool as it stands in a name. Blanks around it, which a request may have, would make two names of one pool.
fn pool(text: &str) -> Option<PoolName> {
    PoolName::parse(text).ok().filter(|pool| pool.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_prefix_is_a_single_token() {
        for good in ["sandbox", "t-01", "a"] {
            assert!(Subjects::with_prefix(good).is_ok(), "{good}");
        }
        for bad in ["", "a.b", "A", "*", ">", "a b", "1a", "$SYS", &"x".repeat(33)] {
            assert_eq!(Subjects::with_prefix(bad), Err(InvalidPrefix), "{bad}");
        }
    }

    #[test]
    fn retry_subject_is_outside_the_reaper_filter() {
        let subjects = Subjects::default();
        let (pool, id) = (PoolName::parse("main").unwrap(), SandboxId::parse("7").unwrap());
        assert_eq!(subjects.deletion_work(&pool, &id), "sandbox.deletions.work.main.7");
        assert_eq!(subjects.deletion_retry(&pool, &id), "sandbox.deletions.retry.main.7");
        assert_eq!(subjects.deletion_work_all(), "sandbox.deletions.work.*.*");
        assert_eq!(subjects.deletion_work_of_pool(&pool), "sandbox.deletions.work.main.*");
    }

    #[test]
    fn pool_is_parsed_from_consumer_and_work_subject() {
        let subjects = Subjects::default();
        let pool = PoolName::parse("a-b_c").unwrap();
        assert_eq!(subjects.pool_of_consumer(&subjects.reaper_consumer(&pool)), Some(pool.clone()));
        assert_eq!(subjects.pool_of_work("sandbox.deletions.work.a-b_c.7"), Some(pool));
        for other in ["reaper", "reaper-", "reconciler-sync"] {
            assert_eq!(subjects.pool_of_consumer(other), None, "{other}");
        }
        for other in
            ["sandbox.deletions.retry.main.7", "sandbox2.deletions.work.main.7", "sandbox.deletions.work.7"]
        {
            assert_eq!(subjects.pool_of_work(other), None, "{other}");
        }
    }
}
