//! What the message queue knows of the table.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The highest mark of the table, as its key holds it. A table with a lower one was put back to an earlier time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KnownMark {
    /// The number of the mark; it only grows.
    pub number: u64,
    /// When the table got it, in Unix seconds.
    pub at: u64,
}
