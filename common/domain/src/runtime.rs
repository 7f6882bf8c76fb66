//! What the container of a leased sandbox does, separate from who may use it.

use super::descriptor::Descriptor;
use super::history::Cause;

/// What a container does. It is part of the descriptor of its sandbox ([`Descriptor::RUNTIME`]).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::EnumIter,
    strum::Display,
)]
#[strum(serialize_all = "snake_case")]
pub enum RuntimeState {
    /// It runs. The descriptor has no entry.
    #[default]
    Running,
    /// Its processes are frozen.
    Paused,
    /// It was stopped; its workspace is kept.
    Stopped,
    /// Its processes have ended by themselves; its workspace is kept.
    Exited,
    /// It is lost and does not come back.
    Failed,
}

/// What a holder can do to a container.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumString, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum RuntimeAction {
    /// Start one that is stopped or has exited.
    Start,
    /// End its processes.
    Stop,
    /// End its processes and start it again.
    Restart,
    /// Freeze its processes.
    Pause,
    /// Let them continue.
    Resume,
}

/// Why a container is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum RuntimeFailure {
    /// Its node does not answer any more.
    NodeLost,
    /// Its node does not have it any more.
    ContainerLost,
}

/// A change of what a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeChange {
    /// A holder asked for it.
    Done(RuntimeAction),
    /// Its node says so, and the record did not.
    Found(RuntimeState),
    /// It is lost.
    Failed(RuntimeFailure),
}

// === impl RuntimeState ===

impl RuntimeState {
    /// What the container that a descriptor names does; none if it names none.
    #[must_use]
    pub fn of(descriptor: &Descriptor) -> Option<Self> {
        descriptor.get(Descriptor::INCARNATION)?;
        Some(descriptor.get(Descriptor::RUNTIME).and_then(|name| name.parse().ok()).unwrap_or_default())
    }
}

// === impl RuntimeAction ===

impl RuntimeAction {
    /// What the container does afterwards.
    #[must_use]
    pub const fn leads_to(self) -> RuntimeState {
        match self {
            Self::Start | Self::Restart | Self::Resume => RuntimeState::Running,
            Self::Stop => RuntimeState::Stopped,
            Self::Pause => RuntimeState::Paused,
        }
    }

    /// The action of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl RuntimeChange ===

impl RuntimeChange {
    /// What the container does afterwards.
    #[must_use]
    pub const fn leads_to(self) -> RuntimeState {
        match self {
            Self::Done(action) => action.leads_to(),
            Self::Found(state) => state,
            Self::Failed(_) => RuntimeState::Failed,
        }
    }

    pub(crate) const fn cause(self) -> Cause {
        match self {
            Self::Done(RuntimeAction::Start) => Cause::Started,
            Self::Done(RuntimeAction::Stop) => Cause::Stopped,
            Self::Done(RuntimeAction::Restart) => Cause::Restarted,
            Self::Done(RuntimeAction::Pause) => Cause::Paused,
            Self::Done(RuntimeAction::Resume) => Cause::Resumed,
            Self::Found(RuntimeState::Running) => Cause::Started,
            Self::Found(RuntimeState::Paused) => Cause::Paused,
            Self::Found(RuntimeState::Stopped) => Cause::Stopped,
            Self::Found(RuntimeState::Exited) => Cause::Exited,
            Self::Found(RuntimeState::Failed) | Self::Failed(_) => Cause::Failed,
        }
    }

    /// The descriptor after it.
    pub(crate) fn describe(self, before: &Descriptor) -> Descriptor {
        let before = before.without(&[Descriptor::RUNTIME, Descriptor::RUNTIME_REASON]);
        let state = Some(self.leads_to()).filter(|state| *state != RuntimeState::Running);
        let state = state.map(|state| (Descriptor::RUNTIME, state.into()));
        let reason = match self {
            Self::Failed(failure) => Some((Descriptor::RUNTIME_REASON, failure.into())),
            Self::Done(_) | Self::Found(_) => None,
        };
        before.with_known(state.into_iter().chain(reason))
    }
}
