//! Agreeing on when ticks are due, without a shared clock.

use super::BusError;
use async_trait::async_trait;
use contract::TickKind;
use std::time::Duration;

/// A turn of a kind: one tick, however many schedulers publish it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickTurn {
    /// Changes with every turn.
    pub revision: u64,
    /// What its tick is published under; no two turns have the same.
    pub number: u64,
    /// Whether no turn was known before it.
    pub is_first: bool,
    /// How long ago it was taken, as far as the bus can tell; zero if it cannot.
    pub age: Duration,
}

/// The turns of each kind, which all schedulers watch.
#[async_trait]
pub trait TickTurns: Send + Sync {
    /// The last turn; none before the first, or after what held it was lost.
    async fn last_turn(&self, kind: TickKind) -> Result<Option<TickTurn>, BusError>;

    /// Takes the turn after `last` (the first one after none), unless another scheduler has; gives the one that is the
    /// last then.
    async fn take_turn(&self, kind: TickKind, last: Option<&TickTurn>) -> Result<TickTurn, BusError>;
}
