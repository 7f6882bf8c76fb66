//! Work that a queue delivers until it is done, of any kind.

use async_trait::async_trait;
use contract::deletions::DELETION_WORK_VERSION;
use contract::provisions::PROVISION_WORK_VERSION;
use contract::{DeletionWork, ProvisionLane, ProvisionWork};
use domain::PoolName;
use std::fmt::Debug;
use std::time::Duration;

/// A kind of work.
pub trait Work: Clone + Debug + Send + Sync + 'static {
    /// The part of the work that is fetched on its own.
    type Lane: Clone + Debug + Ord + Send + Sync;
    /// What it is called in reasons and logs.
    const NAME: &'static str;
    /// The version of its messages that this build reads.
    const VERSION: u32;
    /// Whether the queue parks work that is given up. Else its worker parks it.
    const QUEUE_PARKS: bool;

    /// Reads a message.
    ///
    /// # Errors
    /// When it has another shape.
    fn parse(payload: &[u8]) -> Result<Self, serde_json::Error>;

    /// The version of this message.
    fn version(&self) -> u32;

    /// Checks the ids in it.
    ///
    /// # Errors
    /// What is wrong with them.
    fn check(&self) -> Result<(), String>;
}

/// One delivery of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<W = DeletionWork> {
    /// The work.
    pub work: W,
    /// How often this message was delivered, this time included. A retry is a new message, because its worker came to a verdict:
    /// many deliveries mean that workers die of the work.
    pub deliveries: u64,
}

/// What happens to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, or no longer wanted: the message leaves the queue.
    Done,
    /// Not yet: the message returns after the delay and uses no slot until then.
    Retry {
        /// How long to wait.
        delay: Duration,
    },
    /// Given up: the message leaves the queue, marked as terminated, after it was parked: by the worker, or with
    /// [`Work::QUEUE_PARKS`] by the queue.
    GiveUp {
        /// Why.
        reason: String,
    },
}

/// Works on deliveries.
#[async_trait]
pub trait Worker<W: Work = DeletionWork>: Send + Sync {
    /// Works on one delivery. The adapter keeps the delivery alive in the meantime.
    async fn work(&self, delivery: Delivery<W>) -> Verdict;

    /// How many deliveries of a lane the worker can use now, at most `places`; the adapter asks before it fetches. After a zero
    /// it asks again when that time has passed, or somewhat earlier.
    async fn admit(&self, _lane: &W::Lane, places: usize) -> (usize, Duration) {
        (places, Duration::ZERO)
    }

    /// An admitted place is free again: its delivery has ended, or none came. Only for provisions, where each admitted place is
    /// reserved until then.
    fn release(&self, _lane: &W::Lane) {}
}

impl Work for DeletionWork {
    type Lane = PoolName;
    const NAME: &'static str = "deletion";
    const VERSION: u32 = DELETION_WORK_VERSION;
    const QUEUE_PARKS: bool = false;

    fn parse(payload: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(payload)
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn check(&self) -> Result<(), String> {
        self.parts().map(|_| ()).map_err(|problem| format!("its sandbox or pool {problem}"))
    }
}

impl Work for ProvisionWork {
    type Lane = ProvisionLane;
    const NAME: &'static str = "provision";
    const VERSION: u32 = PROVISION_WORK_VERSION;
    const QUEUE_PARKS: bool = true;

    fn parse(payload: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(payload)
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn check(&self) -> Result<(), String> {
        self.parts().map(|_| ()).map_err(|problem| format!("its sandbox, pool or template {problem}"))
    }
}
