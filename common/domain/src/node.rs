//! Nodes: the machines on which sandboxes are created.

use super::ids::NodeId;
use super::template::Isolation;
use super::time::UnixSeconds;

/// Longest name of an engine, and longest version of a broker, in bytes.
pub const NODE_TEXT_BYTES_MAX: usize = 64;

/// A node as its runner registered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// Grows with every registration. Reports of an older generation are refused: their runner was taken for lost, or
    /// another one has started since.
    pub generation: u64,
    /// Its engine.
    pub engine: String,
    /// How strongly that separates sandboxes.
    pub isolation: Isolation,
    /// The version of the broker that its runner is.
    pub version: String,
    /// When it was registered last.
    pub registered_at: UnixSeconds,
    /// When it was declared lost, which also raised the generation; none since it was registered again.
    pub lost_at: Option<UnixSeconds>,
    /// Since when it is drained, and until when; none while it is in use. A registration keeps it.
    pub drain: Option<Drain>,
}

/// An operator's order to empty a node: it gets no work, its free sandboxes are given up, and its leases run to their ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When it was ordered.
    pub since: UnixSeconds,
    /// When the leases that are left are ended; never if none.
    pub deadline: Option<UnixSeconds>,
}
