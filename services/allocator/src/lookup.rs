//! Looking: one's own sandbox, the counts of the pools, and whether this worker can work.

use crate::{Allocator, decode, store_fault};
use common::bus::Request;
use common::contract::{
    DeletionsStatus, Fault, FaultCode, HealthReply, PoolStats, SandboxRequest, SandboxView, StatsReply,
};
use common::domain::{OwnerId, PoolName, SandboxId, StateName};
use common::runtime::telemetry::Chain;
use common::store::{SortRange, StateQuery, StoreError};
use std::time::Duration;

/// Longest wait for what the queue says about the deletions.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn get(&self, request: &Request) -> Result<SandboxView, Fault> {
        let (id, owner) = parse_target(&decode::<SandboxRequest>(&request.body)?)?;
        let found = self.ports.store.sandbox(&id).await.map_err(|error| store_fault(request, &error))?;
        let Some(sandbox) = found else {
            return Err(Fault::new(FaultCode::NotFound, "there is no such sandbox"));
        };
        if !sandbox.belongs_to(&owner) {
            return Err(Fault::new(FaultCode::NotSandboxOwner, "this sandbox is not allocated to you"));
        }
        Ok(SandboxView::of(&sandbox))
    }

    /// Counts every index shard. Costs a read of the whole index, so it is for operators, not for a loop.
    pub(crate) async fn stats(&self, request: &Request) -> Result<StatsReply, Fault> {
        let mut reply = StatsReply::default();
        for pool in self.config.pools.pools() {
            let stats = self.pool_stats(pool).await.map_err(|error| store_fault(request, &error))?;
            reply.all.add(&stats);
            reply.pools.insert(pool.to_string(), stats);
        }
        reply.deletions = self.deletions_status().await;
        Ok(reply)
    }

    /// The deletions as a whole; none if the queue does not say in time, because the counts are worth having alone.
    pub(crate) async fn deletions_status(&self) -> Option<DeletionsStatus> {
        let status = tokio::select! {
            status = self.ports.line.status() => status,
            () = self.ports.clock.sleep(STATUS_PATIENCE) => return None,
        };
        status
            .inspect_err(|error| tracing::warn!(error = %Chain(error), "deletions cannot be looked at"))
            .ok()
    }

    pub(crate) async fn health(&self, request: &Request) -> Result<HealthReply, Fault> {
        self.ports.store.ping().await.map_err(|error| store_fault(request, &error))?;
        Ok(HealthReply { store: "ok".to_owned() })
    }

    async fn pool_stats(&self, pool: &PoolName) -> Result<PoolStats, StoreError> {
        let mut stats = PoolStats::default();
        let shards = self.ports.store.shards().await?;
        for state in StateName::ALL {
            let count = match state {
                StateName::Available => &mut stats.available,
                StateName::Allocated => &mut stats.allocated,
                StateName::PendingDeletion => &mut stats.pending_deletion,
                StateName::DeletionFailed => &mut stats.deletion_failed,
                StateName::Stale => &mut stats.stale,
                StateName::Quarantined => &mut stats.quarantined,
                // Tombstones are no part of the pool and in no index.
                StateName::Deleted => continue,
            };
            for shard in 0..shards {
                let query = StateQuery { pool: pool.clone(), state, shard, range: SortRange::All };
                *count += self.ports.store.count(&query).await?;
            }
            stats.total += *count;
        }
        Ok(stats)
    }
}

/// The owner of a request, checked.
pub(crate) fn parse_owner(owner: &str) -> Result<OwnerId, Fault> {
    if owner.trim().is_empty() {
        return Err(Fault::new(FaultCode::MissingSandboxId, "no owner was named"));
    }
    OwnerId::parse(owner).map_err(|problem| Fault::invalid("owner", problem))
}

/// The sandbox and the owner of a request, checked.
pub(crate) fn parse_target(request: &SandboxRequest) -> Result<(SandboxId, OwnerId), Fault> {
    let SandboxRequest { sandbox_id, owner } = request;
    let owner = parse_owner(owner)?;
    // A text that can be no sandbox's id is the id of no sandbox.
    let id = SandboxId::parse(sandbox_id)
        .map_err(|_| Fault::new(FaultCode::NotFound, "there is no such sandbox"))?;
    Ok((id, owner))
}
