//! The highest mark of the table that the bus knows, which reveals a table that was restored to an earlier time.

use super::BusError;
use async_trait::async_trait;
use contract::KnownMark;

/// Stores the highest mark of the table.
#[async_trait]
pub trait TableMarks: Send + Sync {
    /// The highest mark; none if none was stored yet, or the bus has lost it.
    async fn known_mark(&self) -> Result<Option<KnownMark>, BusError>;

    /// Stores this mark unless a higher one is stored.
    async fn raise_mark(&self, mark: KnownMark) -> Result<(), BusError>;

    /// Whether there is a connection. Without one no request reaches this process either.
    fn is_reachable(&self) -> bool;
}
