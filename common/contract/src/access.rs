//! Who may do what: every action with the roles that it takes, and the one function that decides.

use super::principal::{Principal, Role};
use super::{Fault, FaultCode, Rights, Scope, Verb};
use domain::{OwnerId, PoolName};
use strum::IntoEnumIterator as _;

/// Something that a principal may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a request to the workers.
    Ask(Verb),
    /// Start a run and wait for its report.
    Run,
    /// Read the report of a run.
    Report,
    /// Follow the events.
    Events,
    /// See the live workers.
    Fleet,
}

/// What an action is about, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    /// The pool.
    pub pool: Option<&'a PoolName>,
    /// The owner.
    pub owner: Option<&'a OwnerId>,
}

const EVERY: &[Role] = &[Role::Lab, Role::User, Role::Operator, Role::Admin, Role::ReadOnly];
const HOLD: &[Role] = &[Role::Lab, Role::User];
const LOOK: &[Role] = &[Role::Operator, Role::Admin, Role::ReadOnly];
const OPERATE: &[Role] = &[Role::Operator, Role::Admin];
const ADMINISTER: &[Role] = &[Role::Admin];
/// Reports of nodes: no token gives the right, only the NATS user of runners.
const NODES: &[Role] = &[];

/// Whether `principal` may do this to the target.
///
/// # Errors
/// The fault, [`FaultCode::Forbidden`], if it may not.
pub fn authorize(principal: &Principal, action: Action, target: Target<'_>) -> Result<(), Fault> {
    let refused = |why: &str| Err(Fault::new(FaultCode::Forbidden, why));
    if let Rights::Roles(roles) = &principal.rights {
        let mut used = roles.iter().filter(|role| action.roles().contains(role)).peekable();
        if used.peek().is_none() {
            return refused("this token does not give the right to do this");
        }
        let is_other = target.owner.is_some_and(|owner| owner.as_str() != principal.name.as_str());
        if is_other && used.all(|role| *role == Role::User) {
            return refused("this token acts for its own user only");
        }
    }
    if principal.scope != Scope::Every && !action.can_be_limited() {
        return refused("this token is for some pools only, and this request is about all pools");
    }
    if target.pool.is_some_and(|pool| !principal.scope.admits(pool)) {
        return refused("this token is not for this pool");
    }
    Ok(())
}

// === impl Action ===

impl Action {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Verb::iter().map(Self::Ask).chain([Self::Run, Self::Report, Self::Events, Self::Fleet])
    }

    /// Its name, of which a request has that of its verb.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ask(verb) => verb.as_str(),
            Self::Run => "run",
            Self::Report => "report",
            Self::Events => "events",
            Self::Fleet => "fleet",
        }
    }

    /// The action of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|action| action.as_str() == name)
    }

    /// The roles, of which one suffices.
    #[must_use]
    pub const fn roles(self) -> &'static [Role] {
        match self {
            Self::Ask(Verb::Health | Verb::Templates | Verb::Template | Verb::TemplateVersions) => EVERY,
            Self::Ask(
                Verb::Allocate
                | Verb::Release
                | Verb::Get
                | Verb::Extend
                | Verb::Execute
                | Verb::Claim
                | Verb::Claims
                | Verb::ShowClaim
                | Verb::Runtime,
            ) => HOLD,
            Self::Ask(
                Verb::Stats
                | Verb::Deletions
                | Verb::Parked
                | Verb::Deletion
                | Verb::Sandboxes
                | Verb::Sandbox
                | Verb::Pools
                | Verb::Pool
                | Verb::Nodes
                | Verb::Node,
            )
            | Self::Report
            | Self::Events
            | Self::Fleet => LOOK,
            Self::Ask(
                Verb::Replay
                | Verb::ReplayAll
                | Verb::Remove
                | Verb::ReplayProvision
                | Verb::ReplayProvisions
                | Verb::Quarantine
                | Verb::Unquarantine
                | Verb::ForceRelease
                | Verb::DrainPool
                | Verb::DrainNode
                | Verb::ActivateNode
                | Verb::PutTemplate
                | Verb::RemoveTemplate
                | Verb::Pause
                | Verb::Resume,
            )
            | Self::Run => OPERATE,
            Self::Ask(Verb::BulkDelete | Verb::PutPool | Verb::RemovePool) => ADMINISTER,
            Self::Ask(
                Verb::RegisterNode
                | Verb::NodePools
                | Verb::ProvisionWanted
                | Verb::Provisioned
                | Verb::ProvisionFailed
                | Verb::Held,
            ) => NODES,
        }
    }

    /// Whether it can be limited to some pools; a principal with some pools may do nothing else.
    #[must_use]
    pub const fn can_be_limited(self) -> bool {
        match self {
            Self::Ask(
                Verb::Allocate
                | Verb::Release
                | Verb::Get
                | Verb::Extend
                | Verb::Execute
                | Verb::Claim
                | Verb::Claims
                | Verb::ShowClaim
                | Verb::Runtime
                | Verb::Health
                | Verb::Deletion
                | Verb::Quarantine
                | Verb::Unquarantine
                | Verb::ForceRelease
                | Verb::Sandboxes
                | Verb::Sandbox
                | Verb::BulkDelete,
            ) => true,
            Self::Ask(
                Verb::Stats
                | Verb::Deletions
                | Verb::Parked
                | Verb::Replay
                | Verb::ReplayAll
                | Verb::Remove
                | Verb::ReplayProvision
                | Verb::ReplayProvisions
                | Verb::Pools
                | Verb::Pool
                | Verb::PutPool
                | Verb::DrainPool
                | Verb::RemovePool
                | Verb::Templates
                | Verb::Template
                | Verb::PutTemplate
                | Verb::RemoveTemplate
                | Verb::TemplateVersions
                | Verb::Nodes
                | Verb::Node
                | Verb::DrainNode
                | Verb::ActivateNode
                | Verb::RegisterNode
                | Verb::NodePools
                | Verb::ProvisionWanted
                | Verb::Provisioned
                | Verb::ProvisionFailed
                | Verb::Held
                | Verb::Pause
                | Verb::Resume,
            )
            | Self::Run
            | Self::Report
            | Self::Events
            | Self::Fleet => false,
        }
    }

    /// Whether it is done for the owner of a sandbox.
    #[must_use]
    pub fn is_for_owner(self) -> bool {
        self.roles() == HOLD
    }
}

#[cfg(test)]
mod tests;
