//! Agreeing on when ticks are due, without a shared clock.

use super::BusError;
use async_trait::async_trait;
use contract::TickKind;
use std::time::Duration;

/// A turn: one tick of a kind, however many schedulers publish it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickTurn {
    /// Changes with every turn.
    pub revision: u64,
    /// Identifies its tick; no two turns of a kind have the same.
    pub number: u64,
    /// Whether there was no turn before it.
    pub is_first: bool,
    /// How long ago it was taken; zero if the bus does not know.
    pub age: Duration,
}

/// The turns of each kind, which all schedulers share.
#[async_trait]
pub trait TickTurns: Send + Sync {
    /// The last turn; none before the first, or after the bucket was lost.
    async fn last_turn(&self, kind: TickKind) -> Result<Option<TickTurn>, BusError>;

    /// Takes the turn after `last` (the first one if none), unless another scheduler was faster. Returns the turn that
    /// is now the last.
    async fn take_turn(&self, kind: TickKind, last: Option<&TickTurn>) -> Result<TickTurn, BusError>;
}
