//! The highest mark of the table that the message queue knows, to notice a table that was put back to an earlier time.

use super::BusError;
use async_trait::async_trait;
use contract::KnownMark;

/// Keeping the highest mark of the table.
#[async_trait]
pub trait TableMarks: Send + Sync {
    /// The highest mark; none if none was ever kept, or the queue has lost it.
    async fn known_mark(&self) -> Result<Option<KnownMark>, BusError>;

    /// Keeps this mark, unless a higher one is kept.
    async fn raise_mark(&self, mark: KnownMark) -> Result<(), BusError>;

    /// Whether there is a connection. Without one no request reaches this process either.
    fn is_reachable(&self) -> bool;
}
