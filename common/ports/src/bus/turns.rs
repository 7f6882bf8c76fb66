//! Agreeing on when periodic work is due, without a shared clock.

use super::BusError;
use async_trait::async_trait;
use contract::TickKind;
use domain::ProviderName;
use std::time::Duration;

/// Periodic work, of which the whole fleet takes one turn after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Periodic<'a> {
    /// The ticks of a kind.
    Tick(TickKind),
    /// The listing of a provider, in a sync that a scheduler started.
    Listing(&'a ProviderName),
}

/// A turn: one tick of a kind, or one read of a listing, however many processes want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickTurn {
    /// Changes with every turn.
    pub revision: u64,
    /// Identifies it; no two turns of one [`Periodic`] have the same.
    pub number: u64,
    /// Whether there was no turn before it.
    pub is_first: bool,
    /// How long ago it was taken; zero if the bus does not know.
    pub age: Duration,
}

/// The turns of periodic work, which all processes share.
#[async_trait]
pub trait TickTurns: Send + Sync {
    /// The last turn; none before the first, or after the bucket was lost.
    async fn last_turn(&self, of: Periodic<'_>) -> Result<Option<TickTurn>, BusError>;

    /// Takes the turn after `last` (the first one if none), unless another process was faster. Returns the turn that is
    /// now the last.
    async fn take_turn(&self, of: Periodic<'_>, last: Option<&TickTurn>) -> Result<TickTurn, BusError>;

    /// The shortest period in which pools ask for ticks of `kind`; none if no pool does.
    async fn requested_period(&self, kind: TickKind) -> Result<Option<Duration>, BusError>;

    /// Replaces that period.
    async fn request_period(&self, kind: TickKind, period: Option<Duration>) -> Result<(), BusError>;
}

// === impl Periodic ===

impl Periodic<'_> {
    /// The name of the turns, as tokens of a subject.
    #[must_use]
    pub fn key(self) -> String {
        match self {
            Self::Tick(kind) => format!("tick.{}", kind.as_str()),
            Self::Listing(provider) => format!("listing.{provider}"),
        }
    }
}
